//! `next_due` never lies: a client that does not wait before it misses no decision.

use keepbest_proto::v1;
use keepbest_proto::v1::next_due::When;
use keepbest_proto::v1::strategy::SaveFrequency;

use crate::support::requests::Trainer;
use crate::support::requests::batch_end;
use crate::support::requests::best_only;
use crate::support::requests::epoch_end;
use crate::support::requests::every_epoch;
use crate::support::requests::noise;
use crate::support::requests::start_request;
use crate::support::server;

/// Watches what was promised and what came.
struct Promise {
    due: When,
    batches_since: i64,
}

impl Promise {
    fn of(due: Option<v1::NextDue>) -> Promise {
        let due = due.unwrap().when.unwrap();
        assert!(!matches!(due, When::Batches(..=0) | When::EpochEnd(false)), "{due:?} says nothing");
        Promise { due, batches_since: 0 }
    }

    /// Checks whether a decision at this event was allowed, and whether one had to come.
    fn at(&mut self, event: &v1::Event, decision: Option<&v1::Decision>) {
        let is_batch = event.kind() == v1::EventKind::BatchEnd;
        self.batches_since += i64::from(is_batch);
        let at_the_earliest = match self.due {
            When::EpochEnd(_) => event.kind() == v1::EventKind::EpochEnd,
            When::Batches(batches) => is_batch && self.batches_since >= batches,
        };
        assert!(decision.is_none() || at_the_earliest, "decided at {event:?} though {:?}", self.due);
        // With consecutive batches the earliest moment is the moment: a promise of `1` would be no help.
        assert!(decision.is_some() || !at_the_earliest, "nothing decided at {event:?} though {:?}", self.due);
    }
}

fn strategy(dice: &mut impl Iterator<Item = u8>) -> v1::Strategy {
    let mut roll = || dice.next().unwrap();
    let every = [0, -3, 1, 2, 3, 4, 7, 10, 23, i64::MAX][usize::from(roll() % 10)];
    let save_frequency = match roll() % 4 {
        0 => None,
        1 => Some(SaveFrequency::EveryEpoch(true)),
        _ => Some(SaveFrequency::EveryBatches(every)),
    };
    let base = if roll() % 2 == 0 { best_only() } else { every_epoch() };
    v1::Strategy { save_frequency, mode: i32::from(roll() % 3), verbose: 0, ..base }
}

/// The events of a training from a batch on: epochs of so many batches, each with its end.
fn training(batches_an_epoch: i64, count: usize) -> Vec<v1::Event> {
    let epochs = (0..).flat_map(|epoch| {
        let batches = (0..batches_an_epoch).map(move |batch| batch_end(epoch, batch, 0.5));
        batches.chain([epoch_end(epoch, 1.0 / (epoch + 1) as f64)])
    });
    epochs.take(count).collect()
}

#[tokio::test]
async fn no_decision_comes_before_it_was_said_to_be_due() {
    let mut server = server::start().await;
    let mut decided = 0;
    for seed in 0..24_u64 {
        let mut dice = noise(seed, 8_192).into_iter();
        let run = format!("run-{seed}");
        let mode_of_run = strategy(&mut dice).mode;
        let start = |dice: &mut _| start_request(&run, v1::Strategy { mode: mode_of_run, ..strategy(dice) });
        let begun = server.runs().start_run(start(&mut dice)).await.unwrap().into_inner();
        let (mut attempt, mut promise) = (begun.attempt, Promise::of(begun.next_due));
        let events = training(3 + i64::try_from(seed % 5).unwrap(), 120);
        let mut rest = &events[..];
        while !rest.is_empty() {
            let (part, later) = rest.split_at(rest.len().min(1 + usize::from(dice.next().unwrap() % 9)));
            let first_sequence = i64::try_from(events.len() - rest.len()).unwrap();
            let request = v1::ReportEventsRequest {
                run: begun.run.as_ref().unwrap().name.clone(),
                attempt,
                first_sequence,
                events: part.to_vec(),
                ..Default::default()
            };
            let answer = server.runs().report_events(request).await.unwrap().into_inner();
            decided += answer.decisions.len();
            for (sequence, event) in (first_sequence..).zip(part) {
                let decision = answer.decisions.iter().find(|it| it.sequence == sequence);
                promise.at(event, decision);
                if decision.is_some() {
                    // Within a request the promise begins anew by the strategy alone; the answer tells it at the end.
                    promise.due = renewed(&promise.due, &server, &request_run(&begun)).await;
                    promise.batches_since = 0;
                }
            }
            promise = Promise::of(answer.next_due);
            rest = later;
            match dice.next().unwrap() {
                0..5 => server.restart().await,
                5..25 => {
                    let resumed = server.runs().start_run(start(&mut dice)).await.unwrap().into_inner();
                    (attempt, promise) = (resumed.attempt, Promise::of(resumed.next_due));
                }
                _ => {}
            }
        }
    }
    assert!(decided > 200, "only {decided} decisions: the strategies say too little");
}

fn request_run(begun: &v1::StartRunResponse) -> String {
    begun.run.as_ref().unwrap().name.clone()
}

/// What is due after a decision under the strategy that the run has now.
async fn renewed(due: &When, server: &crate::support::server::TestServer, run: &str) -> When {
    if matches!(due, When::EpochEnd(_)) {
        return *due;
    }
    let run = server.runs().get_run(v1::GetRunRequest { name: run.to_owned() }).await.unwrap().into_inner();
    match run.strategy.unwrap().save_frequency.unwrap() {
        SaveFrequency::EveryBatches(every) => When::Batches(every.max(1)),
        SaveFrequency::EveryEpoch(_) => When::EpochEnd(true),
    }
}

#[tokio::test]
async fn the_count_of_batches_goes_on_over_epochs_attempts_and_servers() {
    let mut server = server::start().await;
    let strategy = crate::support::requests::every_batches(10);
    let mut trainer = Trainer::start(&server, "first", strategy.clone()).await;
    let batches =
        |epoch, from, until| (from..until).map(|batch| batch_end(epoch, batch, 0.5)).collect::<Vec<_>>();
    assert_eq!(trainer.report(batches(0, 0, 4)).await.unwrap(), []);
    assert_eq!(trainer.report(vec![epoch_end(0, 0.5)]).await.unwrap(), []);
    server.restart().await;
    let begun = server.runs().start_run(start_request("first", strategy)).await.unwrap().into_inner();
    assert_eq!(begun.next_due.unwrap().when, Some(When::Batches(6)));
    assert_eq!((begun.resumed, begun.next_sequence, begun.attempt), (true, 5, 2));
    (trainer.channel, trainer.attempt) = (server.channel(), begun.attempt);
    assert_eq!(trainer.report(batches(1, 0, 5)).await.unwrap(), []);
    let decision = trainer.report(batches(1, 5, 6)).await.unwrap().pop().unwrap();
    assert_eq!((decision.epoch, decision.batch, decision.sequence), (1, Some(5), 10));
    assert_eq!(decision.path, "model-02-006.keras");
}
