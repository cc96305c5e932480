//! What kills leave in the object store, and that it goes: two days later every object is a chunk that a row names, or the
//! manifest of a version.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::UNIX_EPOCH;

use keepbest::app::App;
use keepbest::app::Limits;
use keepbest::clock::Clock;
use keepbest::config::Config;
use keepbest::db::Db;
use keepbest::db::Graces;
use keepbest::db::Postgres;
use keepbest::maintenance::open_store;
use keepbest::store::MARK;
use keepbest::store::deleted_manifest_key;
use keepbest::store::manifest_key;
use sqlx::ConnectOptions;
use sqlx::Connection;

use crate::support::disk::files_below;
use crate::support::transfers::listed;

/// Longer than any grace and any intent.
const LATER_US: i64 = 2 * 86_400 * 1_000_000;

/// A version's checkpoint, its state and the time of its commit: what the key of its manifest is made of.
const VERSIONS: &str = "SELECT uid || ' ' || state || ' ' || CAST(commit_time_us AS TEXT) FROM checkpoints \
    WHERE version IS NOT NULL";

/// How many objects no row names once all graces are over. Panics if one is missing.
pub(crate) async fn leaked(config: &Config) -> usize {
    let before = objects(config).len();
    // An object of a service is there whole or not at all.
    if config.store_url.is_none() {
        age_unfinished(&config.data_dir.join("objects"));
    }
    let report = collect_later(config).await;
    assert_eq!(texts(config, "SELECT object_key FROM doomed_objects").await, [""; 0], "no intent is left");
    let mut named: BTreeSet<String> =
        texts(config, "SELECT object_key FROM chunks").await.into_iter().collect();
    named.extend(texts(config, VERSIONS).await.iter().map(|it| manifest_of(it)));
    let found = objects(config);
    println!("{before} objects before the collection, {} after it: {report}", found.len());
    let missing: Vec<_> = named.difference(&found).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let leaked: Vec<_> = found.difference(&named).collect();
    println!("leaked: {leaked:?}");
    leaked.len()
}

fn manifest_of(version: &str) -> String {
    let [uid, state, commit_time_us] = version.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let commit_time_us = commit_time_us.parse().unwrap();
    match state {
        "COMMITTED" => manifest_key(uid, commit_time_us),
        _ => deleted_manifest_key(uid, commit_time_us),
    }
}

/// One pass of the collector of a replica whose clock is ahead.
async fn collect_later(config: &Config) -> String {
    let clock = Clock::ByHand(Arc::default());
    let Clock::ByHand(time_us) = &clock else { unreachable!() };
    time_us.store(Clock::System.now_us() + LATER_US, Ordering::SeqCst);
    let limits = Limits {
        keys_at_once: 1,
        requires_authentication: false,
        audit: keepbest::app::Audit::default(),
        rates: keepbest::app::rates::Most::default(),
        upload_buffer_bytes: 64 << 20,
        download_buffer_bytes: 64 << 20,
        upload_idle: Duration::from_secs(60),
        pending_expiry: Duration::from_secs(86_400),
        parts_expiry: Duration::from_secs(3_600),
        graces: Graces { deleted_us: 0, chunk_us: 0, object_us: 0 },
    };
    let db = match &config.database_url {
        None => Db::open_sqlite(&config.data_dir.join("keepbest.db")).await,
        Some(url) => Db::open_postgres(url.expose(), Postgres { connections: 4, migrate: false }).await,
    };
    let app = App::new(db.unwrap(), open_store(config).unwrap(), clock.clone(), limits);
    let report = app.collect().await.unwrap();
    app.close().await;
    format!("{report:?}")
}

/// What processes left that died while they wrote an object: as old as the collector's clock is ahead, since its age is told by
/// the file system's.
pub(crate) fn age_unfinished(folder: &Path) {
    let past = UNIX_EPOCH + Duration::from_micros((Clock::System.now_us() - LATER_US).unsigned_abs());
    for name in files_below(folder).iter().filter(|name| name.contains('#')) {
        File::options().write(true).open(folder.join(name)).unwrap().set_modified(past).unwrap();
    }
}

/// The keys of all objects but the mark, which must be there.
fn objects(config: &Config) -> BTreeSet<String> {
    let mut found = all_objects(config);
    assert!(found.remove(MARK));
    found
}

fn all_objects(config: &Config) -> BTreeSet<String> {
    let Some(url) = &config.store_url else {
        return files_below(&config.data_dir.join("objects")).into_iter().collect();
    };
    let prefix = format!("{}/", url.as_str().trim_start_matches("s3://").split_once('/').unwrap().1);
    let found = listed(url.as_str(), &config.store).into_iter();
    found.map(|(path, _)| path.strip_prefix(&prefix).unwrap().to_owned()).collect()
}

/// The first column of a query, which is a text.
async fn texts(config: &Config, sql: &'static str) -> Vec<String> {
    match &config.database_url {
        None => {
            let options = sqlx::sqlite::SqliteConnectOptions::new().read_only(true);
            let options = options.filename(config.data_dir.join("keepbest.db"));
            sqlx::query_scalar(sql).fetch_all(&mut options.connect().await.unwrap()).await.unwrap()
        }
        Some(url) => {
            let mut connection = sqlx::PgConnection::connect(url.expose()).await.unwrap();
            sqlx::query_scalar(sql).fetch_all(&mut connection).await.unwrap()
        }
    }
}
