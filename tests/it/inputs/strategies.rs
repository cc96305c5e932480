//! Strategies and templates: what cannot work is refused when the run starts, and says what to pass.

use keepbest_proto::v1;
use keepbest_proto::v1::metric_value::Kind as MetricKind;
use keepbest_proto::v1::strategy::SaveFrequency;
use prost_types::ListValue;
use prost_types::Struct;
use prost_types::Value;
use prost_types::value::Kind;
use tonic::Code;

use crate::support::refusals::Witness;
use crate::support::requests::Trainer;
use crate::support::requests::best_only;
use crate::support::requests::detail;
use crate::support::requests::epoch_end;
use crate::support::requests::every_epoch;
use crate::support::requests::start_request;
use crate::support::server;

fn text(text: impl Into<String>) -> Value {
    Value { kind: Some(Kind::StringValue(text.into())) }
}

fn fields(entries: impl IntoIterator<Item = (&'static str, Value)>) -> Option<Struct> {
    Some(Struct { fields: entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect() })
}

fn nested_lists(depth: usize) -> Value {
    let wrap = |inner, _| Value { kind: Some(Kind::ListValue(ListValue { values: vec![inner] })) };
    (0..depth).fold(text("deep"), wrap)
}

fn nested_structs(depth: usize) -> Value {
    let wrap = |inner, _| Value { kind: Some(Kind::StructValue(fields([("a", inner)]).unwrap())) };
    (0..depth).fold(text("deep"), wrap)
}

#[tokio::test]
async fn a_template_that_cannot_be_rendered_or_leaves_its_folder_is_refused() {
    let server = server::start().await;
    let mut runs = server.runs();
    let witness = Witness::of(&server).await;
    let long = "x".repeat(1_025);
    let long_name = "x".repeat(256);
    let templates = [
        "",
        "{epoch.__class__}",
        "{epoch[0]}",
        "{epoch:{width:{epoch}}}",
        "{epoch",
        "epoch}",
        "{epoch:",
        "{}",
        "{0}",
        "{epoch!x}",
        "../{epoch}",
        "a/../{epoch}",
        "{epoch}/..",
        "/tmp/{epoch}",
        "C:/{epoch}",
        "~/{epoch}",
        "a\\{epoch}",
        "a\0{epoch}",
        "a\n{epoch}",
        "a//{epoch}",
        "{epoch}/",
        "{epoch:1000000000d}",
        "{epoch:.1000000000f}",
        "{val_loss:99999999999999999999.2f}",
        "{batch}",
        "{epoch:q}",
        long.as_str(),
        long_name.as_str(),
    ];
    for template in templates {
        let strategy = v1::Strategy { filepath: template.to_owned(), ..best_only() };
        let answer = runs.start_run(start_request("run", strategy)).await;
        let what = format!("{template:?}");
        let status = witness.refused(&what, answer, Code::InvalidArgument, "BAD_STRATEGY").await;
        assert_eq!(detail(&status, "field"), "strategy.filepath", "{what}");
        assert!(status.message().len() < 1_000, "{what}: {}", status.message());
    }
}

type Change = fn(&mut v1::Strategy);

const STRATEGIES: &[(&str, Change, &str)] = &[
    ("NaN threshold", |it| it.initial_value_threshold = Some(f64::NAN), "strategy.initial_value_threshold"),
    ("negative min_delta", |it| it.min_delta = -1e-300, "strategy.min_delta"),
    ("NaN min_delta", |it| it.min_delta = f64::NAN, "strategy.min_delta"),
    ("infinite min_delta", |it| it.min_delta = f64::INFINITY, "strategy.min_delta"),
    ("mode 9", |it| it.mode = 9, "strategy.mode"),
    ("mode -1", |it| it.mode = -1, "strategy.mode"),
    ("when_monitor_missing", |it| it.when_monitor_missing = 9, "strategy.when_monitor_missing"),
    ("when_monitor_not_scalar", |it| it.when_monitor_not_scalar = 9, "strategy.when_monitor_not_scalar"),
    (
        "when_template_key_missing",
        |it| it.when_template_key_missing = 9,
        "strategy.when_template_key_missing",
    ),
    ("initial_best", |it| it.initial_best = 9, "strategy.initial_best"),
    ("direction_inference", |it| it.direction_inference = 9, "strategy.direction_inference"),
    (
        "every_epoch false",
        |it| it.save_frequency = Some(SaveFrequency::EveryEpoch(false)),
        "strategy.every_epoch",
    ),
    ("monitor too long", |it| it.monitor = "m".repeat(257), "strategy.monitor"),
    ("monitor with a control character", |it| it.monitor = "val\nloss".to_owned(), "strategy.monitor"),
    ("unknown direction", |it| it.monitor = "reward".to_owned(), "strategy.mode"),
    ("options too long", |it| it.options = fields([("a", text("x".repeat(16 << 10)))]), "strategy.options"),
    ("local_directory too long", |it| it.local_directory = "x".repeat(4_097), "strategy.local_directory"),
];

#[tokio::test]
async fn a_strategy_that_cannot_work_is_refused_with_its_field() {
    let server = server::start().await;
    let mut runs = server.runs();
    let witness = Witness::of(&server).await;
    for (what, change, field) in STRATEGIES {
        let mut strategy = best_only();
        change(&mut strategy);
        let answer = runs.start_run(start_request("run", strategy)).await;
        let status = witness.refused(what, answer, Code::InvalidArgument, "BAD_STRATEGY").await;
        assert_eq!(detail(&status, "field"), *field, "{what}");
    }
    let none = v1::StartRunRequest { strategy: None, ..start_request("run", best_only()) };
    witness.refused("no strategy", runs.start_run(none).await, Code::InvalidArgument, "BAD_STRATEGY").await;
    let directions = [("val_loss".to_owned(), 9)].into();
    let unknown = v1::StartRunRequest { metric_directions: directions, ..start_request("run", best_only()) };
    let answer = runs.start_run(unknown).await;
    witness.refused("metric direction 9", answer, Code::InvalidArgument, "BAD_STRATEGY").await;
}

#[tokio::test]
async fn an_unknown_direction_says_what_to_pass() {
    let server = server::start().await;
    let inferences = [
        v1::DirectionInference::Unspecified,
        v1::DirectionInference::MetricDirections,
        v1::DirectionInference::Name,
    ];
    for inference in inferences {
        let strategy = v1::Strategy {
            monitor: "reward".to_owned(),
            direction_inference: inference.into(),
            ..best_only()
        };
        let answer = server.runs().start_run(start_request("run", strategy)).await;
        if inference == v1::DirectionInference::Name {
            // As tf.keras: everything that is no accuracy is smaller and better.
            assert_eq!(answer.unwrap().into_inner().run.unwrap().direction(), v1::Mode::Min);
            continue;
        }
        let message = answer.unwrap_err().message().to_owned();
        assert!(message.contains("reward"), "{message}");
        assert!(message.contains("min") && message.contains("max") && message.contains("mode"), "{message}");
    }
}

#[tokio::test]
async fn json_that_is_too_long_too_deep_or_no_json_is_refused() {
    let server = server::start().await;
    let mut runs = server.runs();
    let witness = Witness::of(&server).await;
    let number = |it| Value { kind: Some(Kind::NumberValue(it)) };
    let table = [
        ("too long", text("x".repeat(64 << 10)), "BAD_METADATA"),
        ("NaN", number(f64::NAN), "BAD_METADATA"),
        ("infinity", number(f64::NEG_INFINITY), "BAD_METADATA"),
        ("lists too deep", nested_lists(40), "BAD_METADATA"),
        // Deeper than the wire's own limit: no message at all.
        ("structs too deep", nested_structs(40), "BAD_MESSAGE"),
    ];
    for (what, value, reason) in table {
        let start =
            v1::StartRunRequest { config: fields([("a", value)]), ..start_request("run", best_only()) };
        let answer = runs.start_run(start).await;
        witness.refused(what, answer, Code::InvalidArgument, reason).await;
    }
    let options = fields([("a", number(f64::NAN))]);
    let strategy = v1::Strategy { options, ..best_only() };
    let answer = runs.start_run(start_request("run", strategy)).await;
    witness.refused("NaN in options", answer, Code::InvalidArgument, "BAD_METADATA").await;
}

#[tokio::test]
async fn what_an_event_puts_into_a_template_cannot_leave_the_folder_or_fill_the_memory() {
    let server = server::start().await;
    let strategy = v1::Strategy { filepath: "{name}/{epoch:{width}d}".to_owned(), ..every_epoch() };
    let mut trainer = Trainer::start(&server, "run", strategy).await;
    let long = "x".repeat(1_024);
    let table = [
        ("..", 1),
        ("../..", 1),
        ("/etc", 1),
        ("a/../..", 1),
        ("C:", 1),
        ("~root", 1),
        ("a\\b", 1),
        ("a\0b", 1),
        ("", 1),
        (&long, 1),
        ("a", 256),
        ("a", 1_000_000_000),
        ("a", i64::MAX),
    ];
    for (epoch, (name, width)) in (0..).zip(table) {
        let mut event = epoch_end(epoch, 0.5);
        let typed = [("name", MetricKind::Text(name.to_owned())), ("width", MetricKind::Integer(width))];
        let typed = typed.map(|(name, kind)| (name.to_owned(), v1::MetricValue { kind: Some(kind) }));
        event.typed_metrics = typed.into();
        let decision = trainer.report(vec![event]).await.unwrap().pop().unwrap();
        // The bytes are worth more than their name: saved all the same, as what the server makes up.
        let path = format!("checkpoint-{}", epoch + 1);
        assert_eq!((decision.action(), &decision.path), (v1::Action::Save, &path), "{name:?} {width}");
        let warning = decision.warnings.concat();
        assert!(warning.contains(&path) && warning.len() < 1_000, "{name:?} {width}: {warning}");
    }
    let mut event = epoch_end(20, 0.5);
    let typed = [("name", MetricKind::Text("fine".to_owned())), ("width", MetricKind::Integer(9))];
    event.typed_metrics =
        typed.map(|(name, kind)| (name.to_owned(), v1::MetricValue { kind: Some(kind) })).into();
    let decision = trainer.report(vec![event]).await.unwrap().pop().unwrap();
    assert_eq!((decision.action(), decision.path.as_str()), (v1::Action::Save, "fine/       21"));
}
