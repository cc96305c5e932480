//! Servers die again and again while trainers save. What was acknowledged must be there: once, whole, and decided as it
//! was.

mod database;
mod halfway;
mod kills;
pub(crate) mod ledger;
pub(crate) mod leftovers;
mod recovery;
mod trainer;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use futures::future::join_all;
use keepbest::config::Config;
use keepbest_client::Client;
use keepbest_client::Retry;
use keepbest_client::Run;
use keepbest_client::v1;
use tokio::task::JoinSet;

use crate::support::front::Front;
use crate::support::random::Random;
use crate::support::replicas::Replicas;
use crate::support::requests::best_only;
use crate::support::requests::epoch_end;
use crate::support::requests::every_batches;
use crate::support::requests::every_epoch;
use crate::support::requests::start_request;
use crate::support::server::ServerProcess;
use crate::support::soak::Rounds;

use kills::kill_often;
use ledger::Counts;
use ledger::Ledger;
use trainer::LedgerTrainer;
use trainer::Stage;

/// How often servers are killed.
const KILLS: Rounds = Rounds { usual: 60, soak: 1_500 };
/// Of this many, where there are several.
const REPLICAS: usize = 3;
/// Streams that are open when the server is told to stop.
const OPEN_STREAMS: usize = 20;
/// Trainers that commit at that moment.
const COMMITTERS: usize = 20;
/// What the stopping server may wait for calls.
const DRAIN: Duration = Duration::from_secs(2);

/// How long a trainer goes on trying. The kills go on for minutes on a slow machine, and a call may be hit by each.
const PATIENCE: Duration = Duration::from_secs(600);

/// Tries often: the server is back in a moment.
fn patient(server: &ServerProcess) -> Client {
    patient_at(server.address())
}

fn patient_at(address: String) -> Client {
    let retry = Retry {
        budget: PATIENCE,
        first_delay: Duration::from_millis(20),
        max_delay: Duration::from_millis(200),
    };
    Client::builder(address).retry(retry).connect_lazy().unwrap()
}

/// What the eight trainers want saved.
fn strategies() -> [(&'static str, v1::Strategy); 8] {
    let max = v1::Mode::Max.into();
    let batches = v1::Strategy { monitor: "loss".to_owned(), ..every_batches(2) };
    [
        ("every-epoch", every_epoch()),
        ("best", best_only()),
        ("batches", batches.clone()),
        ("highest", v1::Strategy { mode: max, ..best_only() }),
        ("best-batches", v1::Strategy { save_best_only: true, ..batches.clone() }),
        ("every-epoch-too", v1::Strategy { mode: max, ..every_epoch() }),
        ("fewer-batches", v1::Strategy { monitor: "loss".to_owned(), ..every_batches(3) }),
        ("best-too", best_only()),
    ]
}

/// Trainers at work.
struct Training {
    over: Arc<AtomicBool>,
    stages: Vec<Arc<Stage>>,
    trainers: JoinSet<Ledger>,
}

impl Training {
    async fn start(address: &str, random: &mut Random) -> Training {
        let over = Arc::new(AtomicBool::new(false));
        let (mut stages, mut trainers) = (Vec::new(), JoinSet::new());
        for (name, strategy) in strategies() {
            let client = patient_at(address.to_owned());
            let trainer = LedgerTrainer::start(client, name, strategy, Random::new(random.next())).await;
            stages.push(trainer.stage());
            trainers.spawn(trainer.train(Arc::clone(&over)));
        }
        Training { over, stages, trainers }
    }

    /// Lets each end what it does, and compares the ledgers with what is served now.
    async fn judge(self, client: &Client) -> Counts {
        self.over.store(true, Ordering::SeqCst);
        let ledgers = self.trainers.join_all().await;
        let counts = compare(&ledgers, client).await;
        join_all(ledgers.iter().map(|ledger| ledger.check_answers(client))).await;
        counts
    }
}

async fn compare(ledgers: &[Ledger], client: &Client) -> Counts {
    let mut counts = Counts::default();
    for compared in join_all(ledgers.iter().map(|ledger| ledger.compare(client))).await {
        counts.add(compared);
    }
    counts
}

/// Says what came out, and that it is as promised.
fn conclude(place: &str, counts: &Counts, leaked: usize) {
    let Counts { acked, kept, torn, duplicated } = *counts;
    println!(
        "{place}: ledger: acked {acked}, kept {kept}, torn {torn}, duplicated {duplicated}, leaked {leaked}"
    );
    assert!(acked > 0 && kept == acked && torn == 0 && duplicated == 0 && leaked == 0, "{place}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_of_a_server_on_a_folder_lose_nothing_and_double_nothing() {
    let seed = Random::seed("KEEPBEST_CRASH_SEED");
    println!("crash loop with KEEPBEST_CRASH_SEED={seed}");
    let folder = tempfile::tempdir().unwrap();
    let mut server = ServerProcess::start(folder.path());
    let mut random = Random::new(seed);
    let training = Training::start(&server.address(), &mut random).await;
    let kill = |_: &mut Random| {
        server.kill_and_restart();
        1
    };
    let killing = || kill_often(KILLS.now(), random, &training.stages, kill);
    println!("{}", tokio::task::block_in_place(killing));
    let counts = training.judge(&patient(&server)).await;
    drop(server);
    check_data(folder.path());
    let config = Config { data_dir: folder.path().to_owned(), ..Config::default() };
    let leaked = leftovers::leaked(&config).await;
    check_data(folder.path());
    conclude("SQLite and a folder", &counts, leaked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_of_three_replicas_lose_nothing_and_send_nothing_durable_again() {
    let seed = Random::seed("KEEPBEST_CRASH_SEED");
    println!("crash loop of replicas with KEEPBEST_CRASH_SEED={seed}");
    let mut replicas = Replicas::start(REPLICAS, &[]).await;
    let mut random = Random::new(seed);
    let front = Front::start(replicas.addresses(), Random::new(random.next())).await;
    let training = Training::start(&front.address(), &mut random).await;
    // Mostly one of them, sometimes two, sometimes all.
    let kill = |random: &mut Random| {
        let first = random.below(REPLICAS);
        let count = [1, 1, 1, 1, 1, 1, 1, 2, 2, REPLICAS][random.below(10)];
        let which: Vec<usize> = (0..count).map(|it| (first + it) % REPLICAS).collect();
        replicas.kill_and_restart(&which);
        count
    };
    let killing = || kill_often(KILLS.now(), random, &training.stages, kill);
    println!("{}", tokio::task::block_in_place(killing));
    let client = patient_at(front.address());
    let halfway = halfway::until_one_goes_on_elsewhere(&client, &front, &mut replicas).await;
    let mut counts = training.judge(&client).await;
    counts.add(halfway.compare(&client).await);
    let resumes = front.resumes();
    println!(
        "uploads went on {} times behind durable bytes, {} of them at another replica: {} MiB not sent again",
        resumes.resumed,
        resumes.elsewhere,
        resumes.spared_bytes >> 20
    );
    let checked = |replicas: &Replicas| {
        let (code, said) = replicas.run(&["check", "--read-data"]);
        assert!(code == Some(0) && said.contains("no problem was found"), "{said}");
    };
    checked(&replicas);
    replicas.servers.clear();
    let leaked = leftovers::leaked(&replicas.config()).await;
    checked(&replicas);
    assert!(replicas.is_folder_empty(), "a replica keeps nothing for itself");
    conclude("Postgres and S3, three replicas", &counts, leaked);
    assert_eq!(resumes.wrong, [""; 0]);
    assert!(resumes.elsewhere > 0, "{resumes:?}");
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
    let counts = compare(&ledgers, &client).await;
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
    let mut trainer = LedgerTrainer::over(run, Random::new(7));
    while trainer.small_save().await.is_ok() {
        saved.fetch_add(1, Ordering::Relaxed);
    }
    trainer.into_ledger()
}
