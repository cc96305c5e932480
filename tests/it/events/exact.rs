//! What a trainer reports comes back as it was sent, also where zero is easily taken for nothing.

use keepbest_proto::v1;
use keepbest_proto::v1::metric_value::Kind;
use prost_types::Timestamp;

use crate::support::requests::Trainer;
use crate::support::requests::epoch_end;
use crate::support::requests::every_epoch;
use crate::support::server;
use crate::support::server::TestServer;

async fn events(server: &TestServer, trainer: &Trainer) -> Vec<v1::Event> {
    let list = v1::ListEventsRequest { parent: trainer.run.clone(), ..Default::default() };
    let listed = server.runs().list_events(list).await.unwrap().into_inner().events;
    listed.into_iter().map(|it| it.event.unwrap()).collect()
}

#[tokio::test]
async fn a_negative_zero_keeps_its_sign() {
    let server = server::start().await;
    let strategy = v1::Strategy { initial_value_threshold: Some(-0.0), ..every_epoch() };
    let mut trainer = Trainer::start(&server, "signs", strategy).await;
    let zero = v1::MetricValue { kind: Some(Kind::Number(-0.0)) };
    // An entry of `metrics` that is -0.0 leaves this client without its value.
    let event = v1::Event {
        metrics: [("lr".to_owned(), 0.0)].into(),
        typed_metrics: [("val_loss".to_owned(), zero.clone()), ("loss".to_owned(), zero)].into(),
        ..epoch_end(0, 0.0)
    };
    let decision = trainer.report(vec![event.clone()]).await.unwrap().pop().unwrap();
    let list = v1::ListDecisionsRequest { parent: trainer.run.clone(), ..Default::default() };
    let listed = server.runs().list_decisions(list).await.unwrap().into_inner().decisions.pop().unwrap();
    let run = server.runs().get_run(v1::GetRunRequest { name: trainer.run.clone() }).await.unwrap();
    let strategy = run.into_inner().strategy.unwrap();
    let negative = (-0.0_f64).to_bits();
    for (what, value) in [
        ("decision", decision.value),
        ("listed decision", listed.value),
        ("value to beat", listed.best_before),
        ("strategy", strategy.initial_value_threshold),
    ] {
        assert_eq!(value.map(f64::to_bits), Some(negative), "{what}");
    }
    let seen = events(&server, &trainer).await.pop().unwrap();
    assert_eq!(seen.typed_metrics.len(), 2);
    for (name, value) in &seen.typed_metrics {
        let Some(Kind::Number(value)) = value.kind else { panic!("{name}: {value:?}") };
        assert_eq!(value.to_bits(), negative, "{name}");
    }
    assert_eq!(seen.metrics["lr"].to_bits(), 0.0_f64.to_bits());
}

#[tokio::test]
async fn a_wall_time_of_zero_is_the_year_1970_and_not_now() {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "times", every_epoch()).await;
    let times = [Some(Timestamp::default()), Some(Timestamp { seconds: 1, nanos: 2_000 }), None];
    let reported = times.iter().zip(0..);
    let reported = reported.map(|(time, epoch)| v1::Event { wall_time: *time, ..epoch_end(epoch, 0.5) });
    trainer.report(reported.collect()).await.unwrap();
    let seen: Vec<_> = events(&server, &trainer).await.into_iter().map(|it| it.wall_time.unwrap()).collect();
    assert_eq!(seen[..2], [times[0].unwrap(), times[1].unwrap()]);
    assert!(seen[2].seconds > 1_000_000_000, "the server's time, not {:?}", seen[2]);
}
