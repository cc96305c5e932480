//! Reports: bad events, bad sequences, too many. NaN is a fine metric.

use keepbest_proto::v1;
use keepbest_proto::v1::metric_value::Kind;
use prost_types::Timestamp;
use tonic::Code;

use crate::support::refusals::Witness;
use crate::support::requests::Trainer;
use crate::support::requests::batch_end;
use crate::support::requests::best_only;
use crate::support::requests::detail;
use crate::support::requests::epoch_end;
use crate::support::server;

type Change = fn(&mut v1::Event);

fn typed(event: &mut v1::Event, name: &str, kind: Option<Kind>) {
    event.typed_metrics.insert(name.to_owned(), v1::MetricValue { kind });
}

fn at(event: &mut v1::Event, seconds: i64, nanos: i32) {
    event.wall_time = Some(Timestamp { seconds, nanos });
}

const EVENTS: &[(&str, Change)] = &[
    ("no kind", |it| it.kind = 0),
    ("kind 9", |it| it.kind = 9),
    ("negative epoch", |it| it.epoch = -1),
    ("epoch 2^63 - 1", |it| it.epoch = i64::MAX),
    ("epoch -2^63", |it| it.epoch = i64::MIN),
    ("negative batch", |it| it.batch = Some(-1)),
    ("batch 2^63 - 1", |it| it.batch = Some(i64::MAX)),
    ("batch missing", |it| it.kind = v1::EventKind::BatchEnd.into()),
    ("negative step", |it| it.step = Some(-1)),
    ("metric in both maps", |it| typed(it, "val_loss", Some(Kind::Integer(1)))),
    ("metric without a value", |it| typed(it, "x", None)),
    ("1,001 metrics", |it| it.metrics = (0..1_001).map(|index| (format!("m{index}"), 0.0)).collect()),
    ("1,001 metrics in two maps", |it| {
        it.metrics = (0..500).map(|index| (format!("m{index}"), 0.0)).collect();
        (500..1_001).for_each(|index| typed(it, &format!("m{index}"), Some(Kind::Integer(0))));
    }),
    ("no name", |it| _ = it.metrics.insert(String::new(), 0.0)),
    ("long name", |it| _ = it.metrics.insert("m".repeat(257), 0.0)),
    ("control character in a name", |it| _ = it.metrics.insert("a\0".to_owned(), 0.0)),
    ("long text", |it| typed(it, "x", Some(Kind::Text("x".repeat(1_025))))),
    ("long printed array", |it| typed(it, "x", Some(Kind::NotScalar("x".repeat(1_025))))),
    ("negative nanos", |it| at(it, 1, -1)),
    ("10^9 nanos", |it| at(it, 1, 1_000_000_000)),
    ("year 10000", |it| at(it, 253_402_300_800, 0)),
    ("seconds 2^63 - 1", |it| at(it, i64::MAX, 0)),
    ("seconds -2^63", |it| at(it, i64::MIN, 0)),
    ("before 1970", |it| at(it, -1, 0)),
];

#[tokio::test]
async fn a_bad_event_is_refused_with_its_whole_request() {
    let server = server::start().await;
    let trainer = Trainer::start(&server, "first", best_only()).await;
    let mut runs = server.runs();
    let witness = Witness::of(&server).await;
    for (what, change) in EVENTS {
        let mut bad = epoch_end(1, 0.4);
        change(&mut bad);
        let request = v1::ReportEventsRequest {
            run: trainer.run.clone(),
            attempt: trainer.attempt,
            events: vec![epoch_end(0, 0.5), bad, epoch_end(2, 0.3)],
            ..Default::default()
        };
        let answer = runs.report_events(request).await;
        let status = witness.refused(what, answer, Code::InvalidArgument, "BAD_EVENT").await;
        assert!(status.message().contains("event 1"), "{what}: {}", status.message());
    }
}

#[tokio::test]
async fn bad_sequences_and_writers_are_refused() {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "first", best_only()).await;
    trainer.report(vec![batch_end(0, 0, 1.0), batch_end(0, 1, 1.0)]).await.unwrap();
    let mut runs = server.runs();
    let witness = Witness::of(&server).await;
    let request = |first_sequence| v1::ReportEventsRequest {
        run: trainer.run.clone(),
        attempt: trainer.attempt,
        first_sequence,
        events: vec![epoch_end(0, 0.5), epoch_end(1, 0.5)],
        ..Default::default()
    };
    let (invalid, precondition) = (Code::InvalidArgument, Code::FailedPrecondition);
    let table = [
        (3, precondition, "SEQUENCE_GAP"),
        (1 << 40, precondition, "SEQUENCE_GAP"),
        (i64::MAX - 2, precondition, "SEQUENCE_GAP"),
        (-1, invalid, "BAD_EVENT"),
        (i64::MIN, invalid, "BAD_EVENT"),
        (i64::MAX - 1, invalid, "BAD_EVENT"),
        (i64::MAX, invalid, "BAD_EVENT"),
    ];
    for (first_sequence, code, reason) in table {
        let answer = runs.report_events(request(first_sequence)).await;
        let status = witness.refused(first_sequence, answer, code, reason).await;
        if code == precondition {
            assert_eq!(detail(&status, "next_sequence"), "2");
        }
    }
    for writer in ["a/b", "..", "ü", &"x".repeat(129)] {
        let request = v1::ReportEventsRequest { writer: writer.to_owned(), ..request(0) };
        let answer = runs.report_events(request).await;
        witness.refused(format!("writer {writer}"), answer, invalid, "BAD_NAME").await;
    }
    // A writer of its own begins at 0.
    let other = v1::ReportEventsRequest { writer: "rank-1".to_owned(), ..request(2) };
    let answer = runs.report_events(other).await;
    let status = witness.refused("a writer that begins at 2", answer, precondition, "SEQUENCE_GAP").await;
    assert_eq!(detail(&status, "next_sequence"), "0");
}

#[tokio::test]
async fn ten_thousand_events_are_the_most_and_a_thousand_metrics_too() {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "first", best_only()).await;
    let witness = Witness::of(&server).await;
    let many = |count| (0..count).map(|batch| batch_end(0, batch, 1.0)).collect::<Vec<_>>();
    let answer = trainer.report(many(10_001)).await.map(tonic::Response::new);
    witness.refused("10,001 events", answer, Code::ResourceExhausted, "LIMIT_EXCEEDED").await;
    assert_eq!(trainer.report(many(10_000)).await.unwrap(), []);
    assert_eq!(trainer.sequence, 10_000);
    let mut event = epoch_end(0, 0.5);
    event.metrics.extend((1..1_000).map(|index| (format!("{index:0256}"), f64::NAN)));
    assert_eq!(trainer.report(vec![event]).await.unwrap()[0].action(), v1::Action::Save);
}
