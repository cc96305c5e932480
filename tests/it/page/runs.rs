//! A run's page: the curve with what became of each decision on it.

use http::StatusCode;
use keepbest_proto::v1;

use crate::page::count;
use crate::page::save;
use crate::support::browser::Browser;
use crate::support::logs::Logs;
use crate::support::requests::Trainer;
use crate::support::requests::batch_end;
use crate::support::requests::best_only;
use crate::support::requests::epoch_end;
use crate::support::requests::start_request;
use crate::support::server;

const RUN: &str = "/teams/default/projects/digits/runs/first";

/// Kept at epochs 1 and 3 (the best), skipped at 2, then a restart, given up at 4 and being uploaded at 5.
async fn trained(server: &server::TestServer) -> Trainer {
    let mut trainer = Trainer::start(server, "first", best_only()).await;
    for (epoch, val_loss) in [(0, 0.5), (1, 0.6), (2, 0.4)] {
        let decision = trainer.epoch(epoch, val_loss).await;
        if decision.action() == v1::Action::Save {
            save(&trainer, &decision, &format!("weights of {epoch}")).await;
        }
    }
    trainer.epoch(3, 0.35).await;
    let mut trainer = Trainer::start(server, "first", best_only()).await;
    trainer.epoch(4, 0.3).await;
    trainer
}

#[tokio::test]
async fn each_decision_is_a_mark_on_the_curve() {
    let server = server::start().await;
    trained(&server).await;
    let shown = Browser::new(&server.address()).get(RUN).await;
    assert_eq!(shown.status, StatusCode::OK, "{}", shown.text);
    for (class, expected) in [("best", 1), ("kept", 1), ("skipped", 1), ("given-up", 1), ("open", 1)] {
        let on_curve =
            shown.text.split("<svg class=\"chart\"").nth(1).unwrap().split("</svg>").next().unwrap();
        assert_eq!(count(on_curve, &format!("class=\"mark {class}\"")), expected, "{class} in {on_curve}");
    }
    // What was kept leads to its version, and each mark says why.
    assert!(
        shown.text.contains("href=\"/teams/default/projects/digits/artifacts/run-first-model/versions/v1\"")
    );
    assert!(
        shown.text.contains("Epoch 3: 0.4\nKept as v1 (") && shown.text.contains("Skipped\n"),
        "{}",
        shown.text
    );
    assert!(shown.text.contains("attempt 2 begins") && shown.text.contains("data-live="), "{}", shown.text);
    assert!(shown.text.contains("Uploading <bdi>model-05.keras</bdi> of epoch 5"), "{}", shown.text);
    // One value stands at the same place in the line and in the mark.
    let values = shown.text.split("data-values=\"").nth(1).unwrap();
    let place = values.split(';').find(|it| it.ends_with("0.4")).unwrap().split(' ').collect::<Vec<_>>();
    let (x, y): (f64, f64) = (place[0].parse().unwrap(), place[1].parse().unwrap());
    assert!(shown.text.contains(&format!("class=\"mark best\" transform=\"translate({x:.1} {y:.1})\"")));
}

#[tokio::test]
async fn a_run_that_has_ended_does_not_live_and_says_why_it_failed() {
    let server = server::start().await;
    let mut trainer = trained(&server).await;
    let text = v1::MetricValue { kind: Some(v1::metric_value::Kind::Text("out of memory".to_owned())) };
    let last = v1::Event {
        kind: v1::EventKind::TrainEnd.into(),
        epoch: 4,
        typed_metrics: [("failure".to_owned(), text)].into(),
        ..Default::default()
    };
    trainer.report(vec![last]).await.unwrap();
    let finish = v1::FinishRunRequest {
        name: trainer.run.clone(),
        attempt: trainer.attempt,
        state: v1::RunState::Failed.into(),
    };
    server.runs().finish_run(finish).await.unwrap();
    let shown = Browser::new(&server.address()).get(RUN).await;
    assert!(shown.text.contains("out of memory") && shown.text.contains("state failed"), "{}", shown.text);
    assert!(!shown.text.contains("data-live="));
}

#[tokio::test]
async fn a_long_history_is_thinned_keeps_its_spike_and_says_what_it_leaves_out() {
    let server = server::start().await;
    let strategy = v1::Strategy { monitor: "loss".to_owned(), mode: v1::Mode::Min.into(), ..best_only() };
    let mut trainer = Trainer::start_as(&server, start_request("long", strategy)).await.unwrap();
    for thousand in 0..21 {
        let loss = |batch: i64| match batch {
            7_777 => 77.0,
            7_778 => -77.0,
            _ => 1.0 + (batch as f64 / 900.0).sin() / 2.0,
        };
        let batches = thousand * 1_000..(thousand + 1) * 1_000;
        let event = |batch: i64| {
            let mut event = batch_end(0, batch, loss(batch));
            event.metrics.insert("learning_rate".to_owned(), 0.1);
            event
        };
        trainer.report(batches.map(event).collect()).await.unwrap();
    }
    let browser = Browser::new(&server.address());
    let shown = browser.get("/teams/default/projects/digits/runs/long").await;
    let values = shown.text.split("data-values=\"").nth(1).unwrap().split('"').next().unwrap();
    assert!((400..=800).contains(&count(values, ";")), "{}", count(values, ";"));
    assert!(values.contains(" 77;") && values.contains(" -77;"), "{values}");
    assert!(shown.text.contains("of 21,000 events"), "{}", shown.text);
    // It may be chosen, though no version has it and few events are asked for it.
    assert!(shown.text.contains("value=\"learning_rate\""), "{}", shown.text);
    let next = shown.text.split("href=\"?events=").nth(1).unwrap().split('"').next().unwrap();
    let rest = browser.get(&format!("/teams/default/projects/digits/runs/long?events={next}")).await;
    assert!(rest.status == StatusCode::OK && rest.text.contains("From the beginning"), "{}", rest.text);
    // Smoothed, the raw line stays under it.
    let smooth = browser.get("/teams/default/projects/digits/runs/long?smooth=0.9&scale=log").await;
    assert!(smooth.text.contains("class=\"line raw\"") && smooth.text.contains("class=\"line main\""));
}

#[tokio::test]
async fn lists_lead_to_runs_and_filters_are_the_apis() {
    let server = server::start().await;
    trained(&server).await;
    Trainer::start(&server, "second", best_only()).await;
    let browser = Browser::new(&server.address());
    for path in ["/teams/default", "/teams/default/projects/digits"] {
        let shown = browser.get(path).await;
        assert!(
            shown.text.contains(&format!("href=\"{RUN}\"")) && shown.text.contains("0.4"),
            "{}",
            shown.text
        );
        let few = browser.get(&format!("{path}?filter=run+%3D+%22second%22")).await;
        assert!(few.text.contains("runs/second\"") && !few.text.contains("runs/first\""), "{}", few.text);
        let wrong = browser.get(&format!("{path}?filter=%3D%3D")).await;
        assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
        assert!(wrong.text.contains("BAD_FILTER"), "{}", wrong.text);
    }
    let start = browser.get("/").await;
    assert!(start.text.contains("href=\"/teams/default\"") && start.text.contains(RUN), "{}", start.text);
    let log = browser.get(&format!("{RUN}/decisions?action=skip")).await;
    assert_eq!(count(&log.text, "outcome skipped"), 1, "{}", log.text);
}

/// A page makes several calls; its log line is one, and says once who looked, and at what.
#[tokio::test]
async fn a_look_is_one_line_in_the_log() {
    let logs = Logs::begin();
    let server = server::start().await;
    trained(&server).await;
    Browser::new(&server.address()).get(RUN).await;
    let line = loop {
        let is_look = |it: &String| it.contains(&format!("rpc.method={} ", &RUN[1..]));
        if let Some(line) = logs.with("Answered").into_iter().find(is_look) {
            break line;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!((count(&line, "principal="), count(&line, "resource=")), (1, 1), "{line}");
    assert!(
        line.contains(&format!("resource={} ", &RUN[1..]))
            || line.contains(&format!("resource={}}}", &RUN[1..]))
    );
}

#[tokio::test]
async fn runs_are_compared_on_one_pair_of_axes() {
    let server = server::start().await;
    trained(&server).await;
    let mut second = Trainer::start(&server, "second", best_only()).await;
    second.report(vec![epoch_end(0, 0.9), epoch_end(1, 0.8)]).await.unwrap();
    let browser = Browser::new(&server.address());
    let shown = browser.get("/teams/default/projects/digits/compare?run=first&run=second").await;
    assert!(
        shown.text.contains("data-name=\"first\"") && shown.text.contains("data-name=\"second\""),
        "{}",
        shown.text
    );
    assert_eq!(count(&shown.text, "<svg class=\"chart\""), 1);
    let one = browser.get("/teams/default/projects/digits/compare?run=first").await;
    assert_eq!(one.status, StatusCode::BAD_REQUEST);
}
