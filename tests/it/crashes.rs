//! The server dies again and again while trainers save. What was acknowledged must be there: once, whole, and decided as
//! it was.

mod database;
pub(crate) mod ledger;
mod trainer;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use keepbest_client::Client;
use keepbest_client::Retry;
use keepbest_client::Run;
use keepbest_client::v1;
use tokio::task::JoinSet;

use crate::support::random::Random;
use crate::support::requests::best_only;
use crate::support::requests::epoch_end;
use crate::support::requests::every_epoch;
use crate::support::requests::start_request;
use crate::support::server::ServerProcess;

use ledger::Ledger;
use trainer::STAGES;
use trainer::Stage;
use trainer::Trainer;

/// How often the server is killed.
const ROUNDS: usize = 50;
/// How long a kill waits for its trainer to come to the chosen stage.
const STAGE_WAIT: Duration = Duration::from_millis(400);
/// Streams that are open when the server is told to stop.
const OPEN_STREAMS: usize = 20;
/// Trainers that commit at that moment.
const COMMITTERS: usize = 20;
/// What the stopping server may wait for calls.
const DRAIN: Duration = Duration::from_secs(2);

/// Tries often: the server is back in a moment.
fn patient(server: &ServerProcess) -> Client {
    let retry = Retry {
        budget: Duration::from_secs(60),
        first_delay: Duration::from_millis(20),
        max_delay: Duration::from_millis(200),
    };
    Client::builder(server.address()).retry(retry).connect_lazy().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_kills_lose_nothing_and_double_nothing() {
    let seed = Random::seed("KEEPBEST_CRASH_SEED");
    println!("crash loop with KEEPBEST_CRASH_SEED={seed}");
    let folder = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(folder.path());
    let over = Arc::new(AtomicBool::new(false));
    let mut random = Random::new(seed);
    let mut training = JoinSet::new();
    let mut stages = Vec::new();
    for (name, strategy) in [("all", every_epoch()), ("best", best_only())] {
        let trainer = Trainer::start(patient(&server), name, strategy, Random::new(random.next())).await;
        stages.push(trainer.stage());
        training.spawn(trainer.train(Arc::clone(&over)));
    }
    let killing = tokio::task::spawn_blocking(move || kill_often(server, random, &stages));
    let (server, kills) = killing.await.unwrap();
    println!("{kills}");
    over.store(true, Ordering::SeqCst);

    let mut ledgers = Vec::new();
    while let Some(ledger) = training.join_next().await {
        ledgers.push(ledger.unwrap());
    }
    let client = patient(&server);
    let mut counts = ledger::Counts::default();
    for ledger in &ledgers {
        counts.add(ledger.compare(&client).await);
    }
    println!(
        "ledger: acked {}, kept {}, torn {}, duplicated {}",
        counts.acked, counts.kept, counts.torn, counts.duplicated
    );
    assert!(counts.acked > 0 && counts.kept == counts.acked && counts.torn == 0 && counts.duplicated == 0);
    for ledger in &ledgers {
        ledger.check_answers(&client).await;
    }
    drop(server);
    check_data(folder.path());
    println!("{}", ledger::check_leftovers(folder.path()).await);
    check_data(folder.path());
}

/// Kills the server in the middle of what a trainer does: while it reports, uploads, commits or begins an attempt.
fn kill_often(
    mut server: ServerProcess,
    mut random: Random,
    stages: &[Arc<Stage>],
) -> (ServerProcess, String) {
    let mut hits = [0_usize; STAGES.len()];
    for _ in 0..ROUNDS {
        let stage = &stages[random.below(stages.len())];
        // Half of them in an upload, which is most of a save.
        let wanted = if random.below(2) == 0 { trainer::UPLOAD } else { random.below(STAGES.len()) };
        std::thread::sleep(Duration::from_millis(random.below(150) as u64));
        let until = Instant::now() + STAGE_WAIT;
        while stage.get() != wanted && Instant::now() < until {
            std::thread::sleep(Duration::from_micros(200));
        }
        let longest_us = if wanted == trainer::UPLOAD { 60_000 } else { 3_000 };
        std::thread::sleep(Duration::from_micros(random.below(longest_us) as u64));
        for stage in stages {
            hits[stage.get()] += 1;
        }
        server.kill_and_restart();
    }
    let hits: Vec<String> =
        STAGES.iter().zip(hits).map(|(stage, count)| format!("{stage} {count}")).collect();
    (server, format!("{ROUNDS} kills; what the {} trainers did then: {}", stages.len(), hits.join(", ")))
}

/// `keepbest check --read-data` says that all that is visible is whole.
fn check_data(data_dir: &Path) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keepbest"));
    let done = command.args(["check", "--read-data", "--data"]).arg(data_dir).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_amid_streams_and_commits_is_clean_and_keeps_what_it_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let drain = DRAIN.as_secs().to_string();
    let mut server = ServerProcess::start_with(folder.path(), &[("KEEPBEST_LIMITS_DRAIN_SECONDS", &drain)]);
    let open = open_streams(&server).await;
    let mut committing = JoinSet::new();
    let saved = Arc::new(AtomicUsize::new(0));
    for number in 0..COMMITTERS {
        let client = Client::builder(server.address()).retry(Retry::never()).connect_lazy().unwrap();
        let saved = Arc::clone(&saved);
        committing
            .spawn(async move { save_until_it_fails(client, format!("committer-{number}"), &saved).await });
    }
    while saved.load(Ordering::Relaxed) <= COMMITTERS {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    let (server, code, took) = tokio::task::spawn_blocking(move || {
        let begin = Instant::now();
        let code = server.terminate();
        (server, code, begin.elapsed())
    })
    .await
    .unwrap();
    let mut ledgers = Vec::new();
    while let Some(ledger) = committing.join_next().await {
        ledgers.push(ledger.unwrap());
    }
    drop(open);
    assert_eq!(code, Some(0));
    assert!(took < DRAIN + Duration::from_secs(3), "the stop took {took:?}");

    let mut server = server;
    server.kill_and_restart();
    let client = patient(&server);
    let mut counts = ledger::Counts::default();
    for ledger in &ledgers {
        counts.add(ledger.compare(&client).await);
    }
    println!(
        "stop with {OPEN_STREAMS} open streams took {took:?}; ledger: acked {}, kept {}, torn {}, duplicated {}",
        counts.acked, counts.kept, counts.torn, counts.duplicated
    );
    assert!(counts.acked > COMMITTERS && counts.kept == counts.acked);
    assert!(counts.torn == 0 && counts.duplicated == 0);
    drop(server);
    check_data(folder.path());
}

/// Calls that never end by themselves: half of an upload each, and event streams that wait.
async fn open_streams(server: &ServerProcess) -> Vec<tokio::task::JoinHandle<()>> {
    let client = patient(server);
    let mut run = Run::start(&client, start_request("open", every_epoch())).await.unwrap();
    let mut open = Vec::new();
    for epoch in 0..OPEN_STREAMS {
        let client = client.clone();
        let decision = run.report(vec![epoch_end(epoch as i64, 1.0)]).await.unwrap().remove(0);
        let (attempt, name, next) = (run.attempt(), run.name().to_owned(), run.next_sequence());
        // Uploads hold buffers, so not all can be.
        open.push(if epoch % 4 == 0 {
            let file = v1::PrepareFileRequest {
                checkpoint: decision.checkpoint.clone(),
                attempt,
                path: "model.bin".to_owned(),
                size_bytes: 20 << 20,
                ..Default::default()
            };
            client.prepare_file(file).await.unwrap();
            let first = v1::WriteFileRequest {
                checkpoint: decision.checkpoint,
                attempt,
                path: "model.bin".to_owned(),
                data: vec![1; 1 << 20].into(),
                ..Default::default()
            };
            tokio::spawn(async move { client.write_file(one_and_wait(first)).await.map(drop).unwrap_or(()) })
        } else {
            let again = v1::ReportEventsRequest {
                run: name,
                attempt,
                first_sequence: next - 1,
                events: vec![epoch_end(epoch as i64, 1.0)],
                ..Default::default()
            };
            let mut answers = client.stream_events(one_and_wait(again)).await.unwrap();
            assert_eq!(answers.message().await.unwrap().unwrap().duplicate_count, 1);
            tokio::spawn(async move { while let Ok(Some(_)) = answers.message().await {} })
        });
    }
    open
}

fn one_and_wait<T: Send + 'static>(message: T) -> impl futures::Stream<Item = T> + Send + 'static {
    use futures::StreamExt;
    futures::stream::iter([message]).chain(futures::stream::pending())
}

/// Saves small checkpoints without a pause until the server says no more.
async fn save_until_it_fails(client: Client, name: String, saved: &AtomicUsize) -> Ledger {
    let run = Run::start(&client, start_request(&name, every_epoch())).await.unwrap();
    let mut trainer = Trainer::over(run, Random::new(7));
    for epoch in 0.. {
        if trainer.small_save(epoch).await.is_err() {
            break;
        }
        saved.fetch_add(1, Ordering::Relaxed);
    }
    trainer.into_ledger()
}
