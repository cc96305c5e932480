//! All connections to the database are busy, or lead to nowhere.

use std::time::Duration;
use std::time::Instant;

use keepbest_proto::v1;
use keepbest_proto::v1::runs_client::RunsClient;
use sqlx::Connection;
use sqlx::PgConnection;
use tokio::task::JoinHandle;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::Status;
use tonic::transport::Channel;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_types::StatusExt;

use super::WAITING;
use super::until_waiting;
use crate::support::cluster::Cluster;
use crate::support::health::health;
use crate::support::health::until_ready;
use crate::support::ports::free_port;
use crate::support::proxy::Fate;
use crate::support::proxy::Proxy;
use crate::support::replicas::Replicas;
use crate::support::requests::PROJECT;
use crate::support::requests::best_only;
use crate::support::requests::reason;
use crate::support::requests::start_request;

/// Three for writes, two for short reads, one for long ones, and one for the question whether the database is there.
const CONNECTIONS: &str = "7";
/// A call that takes longer hangs. The server means to answer within two seconds; a busy machine may take its time.
const HANGS: Duration = Duration::from_secs(10);

fn runs(address: &str) -> RunsClient<Channel> {
    RunsClient::new(Channel::from_shared(address.to_owned()).unwrap().connect_lazy())
}

fn get_run(name: &str) -> v1::GetRunRequest {
    v1::GetRunRequest { name: format!("{PROJECT}/runs/{name}") }
}

/// Begins attempts until it is told to stop: each call waits for the run's row. Answers the reasons of those that were refused.
fn insist(address: &str, run: String, over: CancellationToken) -> JoinHandle<Vec<String>> {
    let (mut runs, request) = (runs(address), start_request(&run, best_only()));
    tokio::spawn(async move {
        let mut reasons = Vec::new();
        while !over.is_cancelled() {
            if let Err(status) = runs.start_run(request.clone()).await {
                assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                assert!(status.get_details_retry_info().is_some(), "{status:?}");
                reasons.push(reason(&status));
            }
        }
        reasons
    })
}

/// Makes the call again and again until it is refused, and says how long that one took.
async fn until_refused<T, F>(mut call: impl FnMut() -> F) -> (Status, Duration)
where
    F: Future<Output = Result<T, Status>>,
{
    loop {
        let begun = Instant::now();
        let answer = call().await;
        assert!(begun.elapsed() < HANGS, "the call hung for {:?}", begun.elapsed());
        if let Err(status) = answer {
            return (status, begun.elapsed());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_gets_no_connection_is_told_to_come_back() {
    let replicas = Replicas::start(1, &[("KEEPBEST_DATABASE_CONNECTIONS", CONNECTIONS)]).await;
    let (address, url) = (replicas.addresses().remove(0), replicas.database_url());
    runs(&address).start_run(start_request("held", best_only())).await.unwrap();

    let mut holder = PgConnection::connect(url).await.unwrap();
    let lock = "BEGIN; LOCK TABLE runs IN ACCESS EXCLUSIVE MODE";
    sqlx::raw_sql(lock).execute(&mut holder).await.unwrap();
    let over = CancellationToken::new();
    let mut reading = JoinSet::new();
    for _ in 0..8 {
        let (mut runs, over) = (runs(&address), over.clone());
        reading.spawn(async move {
            while !over.is_cancelled() {
                drop(runs.get_run(get_run("held")).await);
            }
        });
    }
    let insisting: Vec<_> =
        (0..8).map(|number| insist(&address, format!("held-{number}"), over.clone())).collect();
    until_waiting(url, 3).await;
    let (read, read_took) = until_refused(|| {
        let mut runs = runs(&address);
        async move { runs.get_run(get_run("held")).await }
    })
    .await;
    let (write, write_took) = until_refused(|| {
        let mut runs = runs(&address);
        async move { runs.start_run(start_request("other", best_only())).await }
    })
    .await;
    for status in [&read, &write] {
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(status.get_details_retry_info().is_some(), "{status:?}");
    }
    assert_eq!(health(&address, "liveness").await, ServingStatus::Serving);
    println!("no connection: read told after {read_took:?}, write after {write_took:?}");

    sqlx::raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
    over.cancel();
    for insisting in insisting {
        insisting.await.unwrap();
    }
    reading.join_all().await;
    until_ready(&address, true).await;
    runs(&address).get_run(get_run("held")).await.unwrap();
    runs(&address).start_run(start_request("other", best_only())).await.unwrap();
}

/// As of a replica that was paused in the middle of a transaction, or an operator's session that was left open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_whose_row_is_locked_is_in_nobody_elses_way() {
    let replicas = Replicas::start(1, &[]).await;
    let (address, url) = (replicas.addresses().remove(0), replicas.database_url());
    for run in ["held", "other"] {
        runs(&address).start_run(start_request(run, best_only())).await.unwrap();
    }
    let mut holder = PgConnection::connect(url).await.unwrap();
    let lock = "BEGIN; SELECT 1 FROM runs WHERE id = 'held' FOR UPDATE";
    sqlx::raw_sql(lock).execute(&mut holder).await.unwrap();
    let over = CancellationToken::new();
    // More than there are connections.
    let insisting: Vec<_> = (0..30).map(|_| insist(&address, "held".to_owned(), over.clone())).collect();
    until_waiting(url, 1).await;
    // Longer than a call waits for a connection, and than one that has one waits for the row.
    let end = Instant::now() + Duration::from_secs(4);
    let mut calls = 0;
    while Instant::now() < end {
        for run in ["held", "other"] {
            runs(&address).get_run(get_run(run)).await.unwrap();
        }
        runs(&address).start_run(start_request("other", best_only())).await.unwrap();
        assert_eq!(health(&address, "").await, ServingStatus::Serving);
        let waiting: i64 = sqlx::query_scalar(WAITING).fetch_one(&mut holder).await.unwrap();
        assert!(waiting <= 1, "{waiting} connections wait for the row");
        calls += 1;
    }
    sqlx::raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
    over.cancel();
    let mut reasons = Vec::new();
    for insisting in insisting {
        reasons.extend(insisting.await.unwrap());
    }
    assert!(!reasons.is_empty() && reasons.iter().all(|it| it == "BUSY"), "{reasons:?}");
    println!("{} calls were told that the run is busy, {calls} rounds of others went on", reasons.len());
}

/// A replica whose connections to the database all lead through a proxy, and its run `held`.
async fn behind_a_proxy() -> (Cluster, Proxy, Replicas, String) {
    let made = tokio::task::spawn_blocking(|| {
        let port = free_port();
        let cluster = Cluster::start(Some(port));
        let url = cluster.create("service");
        (cluster, url, port)
    });
    let (cluster, direct, port) = made.await.unwrap();
    let proxy = Proxy::start(&format!("http://127.0.0.1:{port}"), Fate::Pass).await;
    let url = proxy.address().replace("http://", "postgres://postgres@") + "/service";
    let settings = [("KEEPBEST_DATABASE_URL", url.as_str()), ("KEEPBEST_DATABASE_CONNECTIONS", CONNECTIONS)];
    let replicas = Replicas::start(1, &settings).await;
    runs(&replicas.addresses()[0]).start_run(start_request("held", best_only())).await.unwrap();
    (cluster, proxy, replicas, direct)
}

/// A cable that is cut says nothing: no reset comes. Those who wait give up, and nothing may be left behind that would have
/// to wait for TCP to give up as well, a quarter of an hour later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_that_the_network_swallowed_keep_no_connection() {
    let (_cluster, proxy, replicas, direct) = behind_a_proxy().await;
    let address = replicas.addresses().remove(0);
    let mut holder = PgConnection::connect(&direct).await.unwrap();
    let lock = "BEGIN; LOCK TABLE runs IN ACCESS EXCLUSIVE MODE";
    sqlx::raw_sql(lock).execute(&mut holder).await.unwrap();
    let mut reading = JoinSet::new();
    for _ in 0..8 {
        let mut runs = runs(&address);
        reading.spawn(async move { runs.get_run(get_run("held")).await.map(drop) });
    }
    until_waiting(&direct, 2).await;
    proxy.set(Fate::Silent);
    sqlx::raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
    until_ready(&address, false).await;
    reading.shutdown().await;
    proxy.set(Fate::Pass);
    until_ready(&address, true).await;
    runs(&address).get_run(get_run("held")).await.unwrap();
}

/// A write is not given up with its caller, so it has an end of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_the_network_swallowed_keep_no_connection() {
    let (_cluster, proxy, replicas, direct) = behind_a_proxy().await;
    let address = replicas.addresses().remove(0);
    // Writes of one run wait for each other, and take one connection.
    let names = ["held", "held-too"];
    runs(&address).start_run(start_request(names[1], best_only())).await.unwrap();
    let mut holder = PgConnection::connect(&direct).await.unwrap();
    sqlx::raw_sql("BEGIN; SELECT 1 FROM runs FOR UPDATE").execute(&mut holder).await.unwrap();
    let mut writing = JoinSet::new();
    for name in names {
        let mut runs = runs(&address);
        writing.spawn(async move { runs.start_run(start_request(name, best_only())).await });
    }
    until_waiting(&direct, 2).await;
    proxy.set(Fate::Silent);
    let begun = Instant::now();
    sqlx::raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
    while let Some(answer) = writing.join_next().await {
        let status = answer.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    }
    println!("writes without an answer from the database were told after {:?}", begun.elapsed());
    proxy.set(Fate::Pass);
    until_ready(&address, true).await;
    runs(&address).start_run(start_request("held", best_only())).await.unwrap();
}
