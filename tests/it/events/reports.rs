//! Reports: as a stream or one by one, repeated, by several writers, and read back page by page.

use keepbest_proto::v1;
use keepbest_proto::v1::metric_value::Kind;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::support::refusals::Witness;
use crate::support::refusals::refusal;
use crate::support::requests::Trainer;
use crate::support::requests::batch_end;
use crate::support::requests::epoch_end;
use crate::support::requests::every_batches;
use crate::support::requests::every_epoch;
use crate::support::requests::noise;
use crate::support::server;
use crate::support::server::TestServer;

/// Epochs of five batches, with a value in each that a seed chose; some are NaN.
fn history(seed: u64, epochs: i64) -> Vec<v1::Event> {
    let mut dice = noise(seed, 4_096).into_iter();
    let mut roll = move || match dice.next().unwrap() {
        0..16 => f64::NAN,
        side => f64::from(side) / 256.0,
    };
    let mut events = Vec::new();
    for epoch in 0..epochs {
        events.extend((0..5).map(|batch| batch_end(epoch, batch, roll())));
        events.push(epoch_end(epoch, roll()));
    }
    events
}

fn request(trainer: &Trainer, first_sequence: usize, events: &[v1::Event]) -> v1::ReportEventsRequest {
    v1::ReportEventsRequest {
        run: trainer.run.clone(),
        attempt: trainer.attempt,
        writer: String::new(),
        first_sequence: i64::try_from(first_sequence).unwrap(),
        events: events.to_vec(),
    }
}

/// What does not depend on the run and the clock.
fn comparable(mut answer: v1::ReportEventsResponse) -> Vec<u8> {
    for decision in &mut answer.decisions {
        decision.decide_time = None;
        decision.checkpoint.truncate(decision.checkpoint.len().min(1));
    }
    answer.encode_to_vec()
}

async fn decisions(server: &TestServer, run: &str) -> Vec<v1::Decision> {
    let list = v1::ListDecisionsRequest { parent: run.to_owned(), page_size: 1_000, ..Default::default() };
    server.runs().list_decisions(list).await.unwrap().into_inner().decisions
}

async fn run_of(server: &TestServer, name: &str) -> v1::Run {
    server.runs().get_run(v1::GetRunRequest { name: name.to_owned() }).await.unwrap().into_inner()
}

#[tokio::test]
async fn a_stream_answers_as_single_calls_do() {
    let server = server::start().await;
    for (seed, strategy) in
        [(1, every_epoch()), (2, every_batches(3)), (3, crate::support::requests::best_only())]
    {
        let single = Trainer::start(&server, &format!("single-{seed}"), strategy.clone()).await;
        let streamed = Trainer::start(&server, &format!("streamed-{seed}"), strategy).await;
        let events = history(seed, 10);
        let (sender, receiver) = mpsc::channel(64);
        let answers = server.runs().stream_events(ReceiverStream::new(receiver)).await.unwrap();
        let mut answers = answers.into_inner();
        for (index, part) in events.chunks(7).enumerate() {
            sender.send(request(&streamed, index * 7, part)).await.unwrap();
            let by_stream = answers.message().await.unwrap().unwrap();
            let by_call = server.runs().report_events(request(&single, index * 7, part)).await.unwrap();
            assert_eq!(comparable(by_stream), comparable(by_call.into_inner()), "part {index}");
        }
        // What is wrong ends the stream with the same refusal as a call; what came before stands.
        sender.send(request(&streamed, 1_000, &events[..1])).await.unwrap();
        sender.send(request(&streamed, events.len(), &events[..1])).await.unwrap();
        refusal("a gap", answers.message().await, Code::FailedPrecondition, "SEQUENCE_GAP");
        assert!(answers.message().await.unwrap().is_none(), "nothing follows an error");
        let (streamed, single) = (run_of(&server, &streamed.run).await, run_of(&server, &single.run).await);
        assert_eq!(streamed.event_count, single.event_count);
        let state =
            |run: v1::Run| run.monitor_state.map(|it| (it.best.map(f64::to_bits), it.batches_since_save));
        assert_eq!(state(streamed), state(single));
    }
}

#[tokio::test]
async fn answers_on_a_stream_come_in_the_order_of_its_requests() {
    let server = server::start().await;
    let trainer = Trainer::start(&server, "ordered", every_epoch()).await;
    let events = history(4, 20);
    let requests: Vec<_> =
        events.chunks(1).enumerate().map(|(index, part)| request(&trainer, index, part)).collect();
    let answers = server.runs().stream_events(futures::stream::iter(requests)).await.unwrap();
    let mut answers = answers.into_inner();
    for next_sequence in 1..=i64::try_from(events.len()).unwrap() {
        assert_eq!(answers.message().await.unwrap().unwrap().next_sequence, next_sequence);
    }
    assert!(answers.message().await.unwrap().is_none());
}

#[tokio::test]
async fn a_repeated_report_is_answered_as_before_and_stored_once() {
    let server = server::start().await;
    let trainer = Trainer::start(&server, "repeated", every_batches(2)).await;
    let mut runs = server.runs();
    let events = history(5, 6);
    let mut first_answers = Vec::new();
    for (index, part) in events.chunks(4).enumerate() {
        let request = request(&trainer, index * 4, part);
        let first = runs.report_events(request.clone()).await.unwrap().into_inner();
        let witness = Witness::of(&server).await;
        let again = runs.report_events(request).await.unwrap().into_inner();
        witness.nothing_stored("a repeated report").await;
        assert_eq!((first.duplicate_count, again.duplicate_count), (0, i64::try_from(part.len()).unwrap()));
        let told = v1::ReportEventsResponse { duplicate_count: 0, ..again };
        assert_eq!(told.encode_to_vec(), first.encode_to_vec(), "part {index}");
        first_answers.extend(first.decisions);
    }
    // Yesterday's stream, whole, with one more event.
    let more: Vec<v1::Event> =
        events.iter().cloned().chain([batch_end(6, 0, 0.0), batch_end(6, 1, 0.0)]).collect();
    let again = runs.report_events(request(&trainer, 0, &more)).await.unwrap().into_inner();
    assert_eq!(usize::try_from(again.duplicate_count).unwrap(), events.len());
    assert_eq!(again.decisions.len(), first_answers.len() + 1);
    let bytes = |decisions: &[v1::Decision]| decisions.iter().map(Message::encode_to_vec).collect::<Vec<_>>();
    assert_eq!(bytes(&again.decisions[..first_answers.len()]), bytes(&first_answers));
    let mut listed = decisions(&server, &trainer.run).await;
    // Only a list says what became of a save.
    listed.iter_mut().for_each(|it| (it.outcome, it.version) = (0, String::new()));
    assert_eq!(bytes(&listed), bytes(&again.decisions));
    assert_eq!(usize::try_from(run_of(&server, &trainer.run).await.event_count).unwrap(), more.len());
}

#[tokio::test]
async fn the_same_report_at_the_same_moment_is_decided_once() {
    let server = server::start().await;
    let trainer = Trainer::start(&server, "raced", every_epoch()).await;
    let events = history(6, 3);
    let calls = (0..12).map(|_| {
        let (mut runs, request) = (server.runs(), request(&trainer, 0, &events));
        async move { runs.report_events(request).await.unwrap().into_inner() }
    });
    let answers = futures::future::join_all(calls).await;
    let told = |answer: &v1::ReportEventsResponse| {
        v1::ReportEventsResponse { duplicate_count: 0, ..answer.clone() }.encode_to_vec()
    };
    assert!(answers.iter().all(|it| told(it) == told(&answers[0])));
    assert_eq!(answers.iter().filter(|it| it.duplicate_count == 0).count(), 1);
    assert_eq!(decisions(&server, &trainer.run).await.len(), 3);
    assert_eq!(run_of(&server, &trainer.run).await.monitor_state.unwrap().in_flight.len(), 3);
}

#[tokio::test]
async fn each_writer_has_a_sequence_of_its_own_and_one_is_decided_upon() {
    let server = server::start().await;
    let trainer = Trainer::start(&server, "ranks", every_epoch()).await;
    let writers = ["", "rank-1", "rank-2"];
    let reporting = writers.map(|writer| {
        let (mut runs, trainer) = (server.runs(), &trainer);
        async move {
            let mut decided = 0;
            for sequence in 0..20 {
                let event = epoch_end(i64::try_from(sequence).unwrap(), 0.5);
                let request = v1::ReportEventsRequest {
                    writer: writer.to_owned(),
                    ..request(trainer, sequence, &[event])
                };
                let answer = runs.report_events(request).await.unwrap().into_inner();
                assert_eq!(usize::try_from(answer.next_sequence).unwrap(), sequence + 1);
                decided += answer.decisions.len();
            }
            decided
        }
    });
    assert_eq!(futures::future::join_all(reporting).await, [20, 0, 0]);
    let all = decisions(&server, &trainer.run).await;
    assert!(all.iter().all(|it| it.writer.is_empty()));
    assert_eq!(all.iter().map(|it| it.sequence).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
    assert_eq!(run_of(&server, &trainer.run).await.event_count, 60);
    let list = v1::ListEventsRequest { parent: trainer.run.clone(), ..Default::default() };
    let events = server.runs().list_events(list).await.unwrap().into_inner().events;
    for writer in writers {
        let own: Vec<i64> = events.iter().filter(|it| it.writer == writer).map(|it| it.sequence).collect();
        assert_eq!(own, (0..20).collect::<Vec<_>>(), "{writer}");
    }
}

#[tokio::test]
async fn events_and_decisions_come_back_page_by_page() {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "paged", every_batches(2)).await;
    let events = history(7, 8);
    for part in events.chunks(5) {
        trainer.report(part.to_vec()).await.unwrap();
    }
    let all = decisions(&server, &trainer.run).await;
    assert_eq!(all.len(), 20);
    let mut runs = server.runs();
    for page_size in [1, 3, 7, 10_000] {
        let mut seen = Vec::new();
        let mut list = v1::ListEventsRequest { parent: trainer.run.clone(), page_size, ..Default::default() };
        loop {
            let page = runs.list_events(list.clone()).await.unwrap().into_inner();
            seen.extend(page.events);
            list.page_token = page.next_page_token;
            if list.page_token.is_empty() {
                break;
            }
        }
        let sequences: Vec<i64> = seen.iter().map(|it| it.sequence).collect();
        assert_eq!(sequences, (0..48).collect::<Vec<_>>(), "pages of {page_size}");
        for (seen, sent) in seen.into_iter().zip(&events) {
            let seen = v1::Event { wall_time: None, ..seen.event.unwrap() };
            assert_eq!(seen.encode_to_vec(), sent.encode_to_vec());
        }
        decisions_in_pages_of(page_size, &server, &trainer.run, &all).await;
    }
    let of_epoch =
        v1::ListDecisionsRequest { parent: trainer.run.clone(), epoch: Some(3), ..Default::default() };
    let of_epoch = runs.list_decisions(of_epoch).await.unwrap().into_inner().decisions;
    assert_eq!(of_epoch, all.iter().filter(|it| it.epoch == 3).cloned().collect::<Vec<_>>());
    let newest = v1::ListDecisionsRequest {
        parent: trainer.run.clone(),
        page_size: 2,
        newest_first: true,
        ..Default::default()
    };
    let newest = runs.list_decisions(newest).await.unwrap().into_inner();
    assert_eq!(newest.decisions, all.iter().rev().take(2).cloned().collect::<Vec<_>>());
    let turned = v1::ListDecisionsRequest {
        parent: trainer.run.clone(),
        page_token: newest.next_page_token,
        ..Default::default()
    };
    refusal(
        "a token of the other direction",
        runs.list_decisions(turned).await,
        Code::InvalidArgument,
        "BAD_PAGE_TOKEN",
    );
    let skip = v1::Action::Skip.into();
    let skips = v1::ListDecisionsRequest { parent: trainer.run.clone(), action: skip, ..Default::default() };
    assert_eq!(runs.list_decisions(skips).await.unwrap().get_ref().decisions, []);
    let metrics = vec!["val_loss".to_owned()];
    let only = v1::ListEventsRequest { parent: trainer.run.clone(), metrics, ..Default::default() };
    let only = runs.list_events(only).await.unwrap().into_inner().events;
    let names =
        |it: &v1::RecordedEvent| it.event.as_ref().unwrap().metrics.keys().cloned().collect::<Vec<_>>();
    let lengths: Vec<usize> = only.iter().map(|it| names(it).len()).collect();
    assert_eq!((only.len(), lengths.iter().sum::<usize>()), (48, 8));
}

/// Reads a run's decisions in pages, in both directions.
async fn decisions_in_pages_of(page_size: i32, server: &TestServer, run: &str, all: &[v1::Decision]) {
    let mut runs = server.runs();
    for newest_first in [false, true] {
        let mut seen = Vec::new();
        let parent = run.to_owned();
        let mut list = v1::ListDecisionsRequest { parent, page_size, newest_first, ..Default::default() };
        loop {
            let page = runs.list_decisions(list.clone()).await.unwrap().into_inner();
            assert!(page.decisions.len() <= usize::try_from(page_size).unwrap());
            seen.extend(page.decisions);
            list.page_token = page.next_page_token;
            if list.page_token.is_empty() {
                break;
            }
        }
        if newest_first {
            seen.reverse();
        }
        assert_eq!(seen, all, "pages of {page_size}, newest first: {newest_first}");
    }
}

#[tokio::test]
async fn every_kind_of_number_comes_back_as_it_was_sent() {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "numbers", every_epoch()).await;
    let numbers = [
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        0.0,
        f64::MIN_POSITIVE,
        5e-324,
        f64::MAX,
        f64::MIN,
        0.1 + 0.2,
        1e23,
        9_007_199_254_740_993.0,
        -1.0 / 3.0,
    ];
    let kinds = [
        Kind::Integer(i64::MAX),
        Kind::Integer(i64::MIN),
        Kind::Text("ünï\n".to_owned()),
        Kind::Missing(true),
        Kind::NotScalar("[1, nan]".to_owned()),
        Kind::Text(String::new()),
    ];
    for (epoch, number) in (0..).zip(numbers) {
        let mut event = epoch_end(epoch, number);
        let named = kinds
            .iter()
            .zip(0..)
            .map(|(kind, index)| (format!("kind {index}"), v1::MetricValue { kind: Some(kind.clone()) }));
        event.typed_metrics = named.collect();
        event.step = Some(1 << 53);
        let decision = trainer.report(vec![event.clone()]).await.unwrap().pop().unwrap();
        assert_eq!(decision.value, Some(number).filter(|it| !it.is_nan()));
        trainer.upload(&decision.checkpoint, "model.keras", b"weights").await.unwrap();
        let version = trainer.commit(&decision.checkpoint).await.unwrap();
        assert_eq!(version.metrics["val_loss"].to_bits(), number.to_bits(), "{number}");
        assert_eq!(version.step, Some(1 << 53));
        let list = v1::ListEventsRequest { parent: trainer.run.clone(), ..Default::default() };
        let seen = server.runs().list_events(list).await.unwrap().into_inner().events.pop().unwrap();
        let seen = v1::Event { wall_time: None, ..seen.event.unwrap() };
        assert_eq!(seen.encode_to_vec(), event.encode_to_vec(), "{number}");
    }
    // NaN is never best; an infinity is a number like others.
    let best = v1::GetBestVersionRequest { parent: trainer.run.clone(), ..Default::default() };
    let best = server.artifacts().get_best_version(best).await.unwrap().into_inner();
    assert_eq!(best.metrics["val_loss"], f64::NEG_INFINITY);
}
