//! The database dies under trainers on two replicas. They wait, and go on; nothing they were told is lost or doubled.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use keepbest_client::v1;
use keepbest_client::v1::runs_client::RunsClient;
use rustix::process::Pid;
use rustix::process::Signal;
use sqlx::Connection;
use sqlx::PgConnection;
use tokio::task::JoinSet;
use tonic::Code;
use tonic::Status;
use tonic::transport::Channel;
use tonic_types::StatusExt;

use super::ledger::Counts;
use super::patient;
use super::trainer::LedgerTrainer;
use super::trainer::STAGES;
use super::trainer::Stage;
use crate::support::cluster::Cluster;
use crate::support::health::until_ready;
use crate::support::random::Random;
use crate::support::replicas::Replicas;
use crate::support::requests::PROJECT;
use crate::support::requests::best_only;
use crate::support::requests::every_epoch;
use crate::support::requests::reason;
use crate::support::requests::start_request;
use crate::support::soak::Rounds;

/// How often the database is stopped, and a session of it is killed in each of two ways.
const ROUNDS: Rounds = Rounds { usual: 2, soak: 20 };
const TRAINERS: usize = 4;
/// A call that takes longer hangs. The server means to answer within two seconds; a busy machine may take its time.
const HANGS: Duration = Duration::from_secs(10);

/// Waits until one trainer uploads, commits or reports, whichever comes up, and a moment more.
async fn amid(stages: &[Arc<Stage>], random: &mut Random) -> &'static str {
    let (stage, wanted) = (&stages[random.below(stages.len())], 2 + random.below(3));
    let begun = Instant::now();
    while stage.get() != wanted {
        assert!(begun.elapsed() < Duration::from_secs(120), "no trainer comes to {}", STAGES[wanted]);
        tokio::time::sleep(Duration::from_micros(300)).await;
    }
    tokio::time::sleep(Duration::from_micros(random.below(20_000) as u64)).await;
    STAGES[wanted]
}

/// The answer while the database is away, and how long it took.
async fn away<T>(call: impl Future<Output = Result<T, Status>>) -> Duration {
    let begun = Instant::now();
    let Err(status) = call.await else { panic!("a call succeeded without a database") };
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "UNAVAILABLE"), "{status:?}");
    assert!(status.get_details_retry_info().is_some(), "{status:?}");
    assert!(begun.elapsed() < HANGS, "the call hung for {:?}", begun.elapsed());
    begun.elapsed()
}

/// What a replica says without its database: to a read, to a write, to a load balancer and to a supervisor.
async fn ask_while_away(address: &str) -> [Duration; 3] {
    let begun = Instant::now();
    until_ready(address, false).await;
    let unready = begun.elapsed();
    let mut runs = RunsClient::new(Channel::from_shared(address.to_owned()).unwrap().connect_lazy());
    let name = format!("{PROJECT}/runs/trainer-0");
    let read = away(runs.get_run(v1::GetRunRequest { name })).await;
    let write = away(runs.start_run(start_request("late", best_only()))).await;
    [unready, read, write]
}

/// A session of a replica, seen from outside.
async fn session(url: &str) -> i32 {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let sql = "SELECT pid FROM pg_stat_activity WHERE application_name = 'keepbest' ORDER BY state_change DESC LIMIT 1";
    sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap()
}

/// The server is asked to end a session, which may be in the middle of a write.
async fn end_session(url: &str) {
    let pid = session(url).await;
    let mut connection = PgConnection::connect(url).await.unwrap();
    let end = sqlx::query("SELECT pg_terminate_backend($1)").bind(pid);
    end.execute(&mut connection).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_dies_costs_trainers_a_wait_and_nothing_else() {
    let seed = Random::seed("KEEPBEST_CRASH_SEED");
    println!("dying database with KEEPBEST_CRASH_SEED={seed}");
    let mut random = Random::new(seed);
    let made = tokio::task::spawn_blocking(|| {
        let cluster = Cluster::start(None);
        let url = cluster.create("service");
        (cluster, url)
    });
    let (mut cluster, url) = made.await.unwrap();
    let replicas = Replicas::start(2, &[("KEEPBEST_DATABASE_URL", &url)]).await;
    let over = Arc::new(AtomicBool::new(false));
    let (mut training, mut stages) = (JoinSet::new(), Vec::new());
    for number in 0..TRAINERS {
        let client = patient(&replicas.servers[number % 2]);
        let strategy = if number < 2 { every_epoch() } else { best_only() };
        let dice = Random::new(random.next());
        let trainer = LedgerTrainer::start(client, &format!("trainer-{number}"), strategy, dice).await;
        stages.push(trainer.stage());
        training.spawn(trainer.train(Arc::clone(&over)));
    }
    for _ in 0..ROUNDS.now() {
        let stage = amid(&stages, &mut random).await;
        let stopped = tokio::task::spawn_blocking(move || {
            cluster.stop();
            cluster
        });
        cluster = stopped.await.unwrap();
        for address in replicas.addresses() {
            let [unready, read, write] = ask_while_away(&address).await;
            println!("stopped amid {stage}: not ready after {unready:?}, read {read:?}, write {write:?}");
        }
        let begun = Instant::now();
        let started = tokio::task::spawn_blocking(move || {
            cluster.start_again();
            cluster
        });
        cluster = started.await.unwrap();
        let answers = begun.elapsed();
        for address in replicas.addresses() {
            until_ready(&address, true).await;
        }
        println!("started: it answers after {answers:?}, all are ready after {:?}", begun.elapsed());

        amid(&stages, &mut random).await;
        end_session(&url).await;
        amid(&stages, &mut random).await;
        // The database ends all other sessions as well and recovers.
        let pid = Pid::from_raw(session(&url).await).unwrap();
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
        amid(&stages, &mut random).await;
    }
    over.store(true, Ordering::SeqCst);

    let ledgers = training.join_all().await;
    let mut counts = Counts::default();
    for (number, ledger) in ledgers.iter().enumerate() {
        // By the replica that its trainer did not know.
        let client = patient(&replicas.servers[(number + 1) % 2]);
        counts.add(ledger.compare(&client).await);
        ledger.check_answers(&client).await;
    }
    println!("{counts:?}");
    assert!(counts.acked > 0 && counts.kept == counts.acked && counts.torn == 0 && counts.duplicated == 0);
    let (code, said) = replicas.run(&["check", "--read-data"]);
    assert_eq!(code, Some(0), "{said}");
}
