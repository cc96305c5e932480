//! A replica stops for a while, as a machine that swaps or moves does, and a new attempt begins at another one. When it wakes
//! up it accepts nothing of the older attempt.

use std::time::Duration;
use std::time::Instant;

use keepbest_client::Client;
use keepbest_client::Run;
use keepbest_client::v1;
use keepbest_client::v1::runs_client::RunsClient;
use prost::Message;
use sqlx::Connection;
use sqlx::PgConnection;
use tonic::Code;
use tonic::Status;
use tonic::transport::Channel;

use super::until;
use super::until_waiting;
use crate::support::calls;
use crate::support::calls::names;
use crate::support::random::Random;
use crate::support::raw;
use crate::support::refusals::refusal;
use crate::support::replicas::Replicas;
use crate::support::requests::detail;
use crate::support::requests::epoch_end;
use crate::support::requests::every_epoch;
use crate::support::requests::reason;
use crate::support::requests::start_request;
use crate::support::soak::Rounds;
use crate::support::soak::soaks;

/// Pauses at any moment of the load.
const PAUSES: Rounds = Rounds { usual: 20, soak: 500 };
/// In soak. Nothing in the service counts the length of a pause: attempts are numbers, not leases. The one limit is the
/// database's, which ends a transaction that nobody goes on with after 5 s, and the pause lasts until that was seen. So a
/// shorter one shows the same, and the long one is only made where there is time.
const LONG_PAUSE: Duration = Duration::from_secs(60);

fn channel(address: &str) -> Channel {
    Channel::from_shared(address.to_owned()).unwrap().connect_lazy()
}

fn report(run: &Run, sequence: i64) -> v1::ReportEventsRequest {
    v1::ReportEventsRequest {
        run: run.name().to_owned(),
        attempt: run.attempt(),
        first_sequence: sequence,
        events: vec![epoch_end(sequence, 0.5)],
        ..Default::default()
    }
}

/// All events of the run, as (sequence, attempt).
async fn events(client: &Client, run: &str) -> Vec<(i64, i64)> {
    let mut request =
        v1::ListEventsRequest { parent: run.to_owned(), page_size: 10_000, ..Default::default() };
    let mut found = Vec::new();
    loop {
        let listed = client.list_events(request.clone()).await.unwrap();
        found.extend(listed.events.iter().map(|it| (it.sequence, it.attempt)));
        if listed.next_page_token.is_empty() {
            return found;
        }
        request.page_token = listed.next_page_token;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_wakes_up_amid_a_write_has_lost_it_to_the_newer_attempt() {
    let replicas = Replicas::start(2, &[]).await;
    let [asleep, awake] = replicas.addresses().try_into().unwrap();
    let (client, elsewhere) = [&asleep, &awake].map(|it| Client::connect_lazy(it).unwrap()).into();
    let mut old = Run::start(&client, start_request("run", every_epoch())).await.unwrap();
    let decided = old.report(vec![epoch_end(0, 0.5)]).await.unwrap().remove(0);

    // It waits for the run's row, gets it while it is stopped, and holds it.
    let url = replicas.database_url();
    let mut holder = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql("BEGIN; SELECT 1 FROM runs FOR UPDATE").execute(&mut holder).await.unwrap();
    let (mut runs, request) = (RunsClient::new(channel(&asleep)), report(&old, 1));
    let late = tokio::spawn(async move { runs.report_events(request).await });
    until_waiting(url, 1).await;
    replicas.servers[0].pause();
    let begun = Instant::now();
    sqlx::raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
    let held = "SELECT COUNT(*) FROM pg_stat_activity WHERE application_name = 'keepbest' \
        AND datname = current_database() AND state = 'idle in transaction'";
    until(url, held, |count| count == 1).await;

    // The database takes the row from it, and the client's repeats find it free.
    let mut new = Run::start(&elsewhere, start_request("run", every_epoch())).await.unwrap();
    println!("the new attempt began {:?} after the replica stopped in its transaction", begun.elapsed());
    assert_eq!((new.attempt(), new.next_sequence()), (2, 1));
    until(url, held, |count| count == 0).await;
    let decision = new.report(vec![epoch_end(1, 0.4)]).await.unwrap().remove(0);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("model.bin"), b"newer").unwrap();
    let uploaded = new.upload(&decision.checkpoint, folder.path(), &Default::default()).await.unwrap();
    let version = new.commit(&decision.checkpoint, uploaded.file_count).await.unwrap();
    if soaks() {
        tokio::time::sleep(LONG_PAUSE.saturating_sub(begun.elapsed())).await;
    }
    replicas.servers[0].go_on();

    let status = late.await.unwrap().unwrap_err();
    assert!(status.code() == Code::Unavailable || reason(&status) == "STALE_ATTEMPT", "{status:?}");
    for method in calls::methods().iter().filter(|it| calls::is_fenced(it)) {
        let name = match names(method) {
            calls::Names::Run => old.name(),
            _ => &decided.checkpoint,
        };
        let answer = until_there(&asleep, method, name).await;
        if method.ends_with("/AbandonCheckpoint") {
            // The new attempt gave it up already: so it says, and there is nothing to change.
            let stands = v1::Checkpoint::decode(answer.unwrap().unwrap()).unwrap();
            assert_eq!(stands.state(), v1::CheckpointState::Deleted);
            continue;
        }
        let status = refusal(method, answer, Code::FailedPrecondition, "STALE_ATTEMPT");
        assert_eq!(detail(&status, "attempt"), "2", "{method}");
    }
    assert_eq!(events(&client, new.name()).await, [(0, 1), (1, 2)]);
    let latest = client.get_version(&version.name.replace("/v0", "/latest"), false).await.unwrap();
    assert_eq!(latest.name, version.name);
}

/// What the replica answers to the method's request by attempt 1, once it has connections again.
async fn until_there(address: &str, method: &str, name: &str) -> Result<Option<bytes::Bytes>, Status> {
    loop {
        match raw::call(&channel(address), method, calls::request(method, name, 1)).await {
            Err(status) if status.code() == Code::Unavailable => {}
            answer => return answer,
        }
    }
}

/// Reports events one by one until it is refused for good; how many were acknowledged.
async fn report_on(address: String, run: Run) -> (i64, Status) {
    let mut runs = RunsClient::new(channel(&address));
    let mut next = run.next_sequence();
    loop {
        match runs.report_events(report(&run, next)).await {
            Ok(answer) => next = answer.into_inner().next_sequence,
            Err(status) if status.code() == Code::Unavailable => {}
            Err(status) => return (next, status),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_pause_at_any_moment_accept_nothing_of_an_older_attempt() {
    let seed = Random::seed("KEEPBEST_CRASH_SEED");
    println!("pausing replicas with KEEPBEST_CRASH_SEED={seed}");
    let mut random = Random::new(seed);
    let replicas = Replicas::start(2, &[]).await;
    let addresses = replicas.addresses();
    let clients = [0, 1].map(|it: usize| Client::connect_lazy(&addresses[it]).unwrap());
    let request = start_request("run", every_epoch());
    let mut run = Run::start(&clients[0], request.clone()).await.unwrap();
    let (name, mut starts) = (run.name().to_owned(), vec![0]);
    for round in 0..PAUSES.now() {
        let (asleep, awake) = (round % 2, (round + 1) % 2);
        let zombie = tokio::spawn(report_on(addresses[asleep].clone(), run));
        tokio::time::sleep(Duration::from_micros(random.below(200_000) as u64)).await;
        replicas.servers[asleep].pause();
        run = Run::start(&clients[awake], request.clone()).await.unwrap();
        starts.push(run.next_sequence());
        replicas.servers[asleep].go_on();
        let (next, status) = zombie.await.unwrap();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "STALE_ATTEMPT"));
        assert_eq!(detail(&status, "attempt"), run.attempt().to_string());
        // What it was told is what the newer attempt found; the answer to one more may have been lost.
        assert!([0, 1].contains(&(run.next_sequence() - next)), "{next} acknowledged, {starts:?}");
    }
    let events = events(&clients[0], &name).await;
    let stale = |(sequence, attempt): &&(i64, i64)| {
        starts.get(usize::try_from(*attempt).unwrap()).is_some_and(|newer| sequence >= newer)
    };
    println!(
        "{} pauses, {} events, {} by an older attempt",
        starts.len() - 1,
        events.len(),
        events.iter().filter(stale).count()
    );
    assert_eq!(events.iter().filter(stale).count(), 0);
    assert_eq!(
        events.iter().map(|it| it.0).collect::<Vec<_>>(),
        (0..events.len() as i64).collect::<Vec<_>>()
    );
}
