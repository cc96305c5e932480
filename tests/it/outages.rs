//! Calls that are given up, databases that go away, replicas that stop: on Postgres and S3, as many replicas stand.

mod cancels;
mod crowds;
mod repeats;
mod zombies;

use std::time::Duration;

use sqlx::Connection;
use sqlx::PgConnection;

/// How long a test waits for a state of the database that must come.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many sessions of replicas wait for a lock.
const WAITING: &str = "SELECT COUNT(*) FROM pg_stat_activity WHERE application_name = 'keepbest' \
    AND datname = current_database() AND wait_event_type = 'Lock'";

/// Waits until so many do.
async fn until_waiting(url: &str, sessions: i64) {
    until(url, WAITING, |count| count >= sessions).await;
}

/// Asks until the count is as it should be.
async fn until(url: &str, sql: &'static str, is_there: impl Fn(i64) -> bool) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let asking = async {
        while !is_there(sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.expect(sql);
}
