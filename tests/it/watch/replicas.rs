//! A thousand watchers of replicas that die under them.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use keepbest_client::Client;
use keepbest_client::Retry;
use keepbest_client::v1;

use crate::support::front::Front;
use crate::support::random::Random;
use crate::support::replicas::Replicas;
use crate::support::requests::PROJECT;
use crate::support::requests::epoch_end;
use crate::support::requests::every_epoch;

const WATCHERS: usize = 1_000;
const CLIENTS: usize = 20;
const RUNS: usize = 4;
const EPOCHS: i64 = 15;
/// How long a call may fail while replicas start again.
const PATIENCE: Retry = Retry {
    budget: Duration::from_secs(300),
    first_delay: Duration::from_millis(50),
    max_delay: Duration::from_secs(1),
};

fn connect(front: &Front) -> Client {
    Client::builder(front.address()).retry(PATIENCE).connect_lazy().unwrap()
}

/// Trains a run to its end.
async fn train(client: Client, number: usize) {
    let id = format!("r{number}");
    let request = v1::StartRunRequest {
        parent: PROJECT.to_owned(),
        run_id: id,
        strategy: Some(every_epoch()),
        artifact_id: "shared".to_owned(),
        request_id: format!("launch-{number}"),
        ..Default::default()
    };
    let started = client.start_run(request).await.unwrap();
    let (run, attempt) = (started.run.unwrap().name, started.attempt);
    for epoch in 0..EPOCHS {
        let report = v1::ReportEventsRequest {
            run: run.clone(),
            attempt,
            first_sequence: epoch,
            events: vec![epoch_end(epoch, 1.0 / (1.0 + epoch as f64))],
            ..Default::default()
        };
        let answer = client.report_events(report).await.unwrap();
        let checkpoint = answer.decisions[0].checkpoint.clone();
        let files = vec![v1::SmallFile {
            path: "model.bin".to_owned(),
            data: format!("{number} {epoch}").into_bytes().into(),
            ..Default::default()
        }];
        let write = v1::WriteSmallFilesRequest { checkpoint: checkpoint.clone(), attempt, files };
        client.write_small_files(write).await.unwrap();
        let commit = v1::CommitCheckpointRequest { checkpoint, attempt, ..Default::default() };
        client.commit_checkpoint(commit).await.unwrap();
    }
}

/// What a watcher sees until it has seen all.
async fn watch(client: Arc<Client>) -> Vec<i64> {
    let request =
        v1::WatchVersionsRequest { parent: PROJECT.to_owned(), from_start: true, ..Default::default() };
    let mut watch = client.watch_versions(request);
    let mut seen = Vec::new();
    let mut cursors = std::collections::HashSet::new();
    while seen.len() < RUNS * EPOCHS as usize {
        let message = watch.next().await.unwrap();
        if let Some(version) = message.version
            && cursors.insert(message.cursor)
        {
            seen.push(version.number);
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_watchers_see_each_version_once_while_replicas_die() {
    let streams = [("KEEPBEST_LIMITS_MAX_STREAMS_PER_CONNECTION", "4096")];
    let mut replicas = Replicas::start(2, &streams).await;
    let front = Front::start(replicas.addresses(), Random::new(7)).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(Arc::new(connect(&front)));
    }
    let watching = (0..WATCHERS).map(|number| tokio::spawn(watch(Arc::clone(&clients[number % CLIENTS]))));
    let watching: Vec<_> = watching.collect();
    let trainers = (0..RUNS).map(|number| {
        let front = &front;
        async move { train(connect(front), number).await }
    });
    let killing = async {
        for which in [&[0][..], &[1], &[0, 1]] {
            // Somewhere among what they do.
            tokio::time::sleep(Duration::from_millis(300)).await;
            tokio::task::block_in_place(|| replicas.kill_and_restart(which));
        }
    };
    tokio::join!(join_all(trainers), killing);
    // The versions of one artifact: their numbers are their order.
    let expected: Vec<i64> = (0..i64::try_from(RUNS).unwrap() * EPOCHS).collect();
    for watcher in watching {
        assert_eq!(watcher.await.unwrap(), expected);
    }
}
