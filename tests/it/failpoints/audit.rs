//! What must be true when a script is over.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use keepbest::app::App;
use keepbest::app::Limits;
use keepbest::app::check::CheckReport;
use keepbest::clock::Clock;
use keepbest::db::Graces;
use keepbest::store::MARK;
use keepbest::store::Store;
use keepbest_client::FileDigest;
use keepbest_client::v1;
use keepbest_client::version_digest;
use keepbest_proto::v1::artifacts_client::ArtifactsClient;
use keepbest_proto::v1::runs_client::RunsClient;

use super::trainer::Trainer;
use crate::crashes::leftovers::age_unfinished;
use crate::support::databases::TestDatabase;
use crate::support::disk::files_below;
use crate::support::patience::patiently;
use crate::support::requests::epoch_end;

/// Versions whose bytes are fetched through the server; the check reads all of them.
const FETCHED: usize = 20;
/// How long the server may take to end what cancelled calls began.
const QUIET: Duration = Duration::from_secs(10);

/// As the server is told it.
pub(super) fn url(database: &TestDatabase) -> String {
    match database {
        TestDatabase::Sqlite(folder) => format!("sqlite:{}", folder.path().join("test.db").display()),
        TestDatabase::Postgres(url) => url.clone(),
    }
}

/// When no call is under way, no session of Postgres is in a transaction.
pub(super) async fn no_session_waits(database: &TestDatabase) {
    if let TestDatabase::Sqlite(_) = database {
        return;
    }
    let sql = "SELECT query FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
    let begun = Instant::now();
    loop {
        let waiting = database.texts(sql).await;
        if waiting.is_empty() {
            return;
        }
        assert!(begun.elapsed() < QUIET, "idle in transaction: {waiting:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The server says what the trainer was told: the decisions, the versions, their bytes, `latest` and `best`.
pub(super) async fn answers(trainer: &mut Trainer) {
    let events = (0..).zip(&trainer.losses).map(|(epoch, loss)| epoch_end(epoch, *loss)).collect();
    let report = v1::ReportEventsRequest {
        run: trainer.run.clone(),
        attempt: trainer.attempt,
        events,
        ..Default::default()
    };
    let again = trainer
        .answered(|channel| {
            let request = report.clone();
            async move { RunsClient::new(channel).report_events(request).await }
        })
        .await;
    assert_eq!(again.duplicate_count, trainer.losses.len() as i64);
    assert_eq!(again.decisions, trainer.decisions);

    let list = v1::ListVersionsRequest {
        parent: trainer.artifact.clone(),
        page_size: 1_000,
        order_by: "number asc".to_owned(),
        ..Default::default()
    };
    let mut versions = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListVersionsRequest { page_token, ..list.clone() };
        let page = trainer
            .answered(|channel| {
                let request = request.clone();
                async move { ArtifactsClient::new(channel).list_versions(request).await }
            })
            .await;
        versions.extend(page.versions);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let found: Vec<_> =
        versions.iter().map(|it| (it.number, it.epoch, it.file_count, it.digest.to_vec())).collect();
    let kept: Vec<_> = trainer
        .kept
        .iter()
        .map(|(number, it)| (*number, it.epoch, 3, version_digest(&it.files).to_vec()))
        .collect();
    assert_eq!(found, kept, "acknowledged is kept, and nothing else is there");

    let best = trainer.kept.iter().min_by(|a, b| a.1.loss.total_cmp(&b.1.loss)).map(|(number, _)| *number);
    assert_eq!(Some(trainer.get("best").await.number), best);
    let latest = trainer.get("latest").await.number;
    assert_eq!(Some(latest), trainer.kept.keys().next_back().copied());
    let newest: Vec<i64> = trainer.kept.keys().rev().take(FETCHED).copied().collect();
    for number in newest {
        bytes_are_back(trainer, number).await;
    }
}

/// Reads a version's files as everybody does.
async fn bytes_are_back(trainer: &mut Trainer, number: i64) {
    for file in trainer.kept[&number].files.clone() {
        let request = v1::ReadFileRequest {
            version: trainer.version(&format!("v{number}")),
            path: file.path.clone(),
            ..Default::default()
        };
        let mut messages = trainer
            .answered(|channel| {
                let request = request.clone();
                async move { ArtifactsClient::new(channel).read_file(request).await }
            })
            .await;
        let mut digest = FileDigest::default();
        while let Some(message) = messages.message().await.unwrap() {
            digest.update(&message.data);
        }
        assert_eq!(digest.finish()[..], file.digest[..], "v{number} {}", file.path);
    }
}

/// Every version is whole to its last byte; and two days later the collector has removed all that the steps left behind:
/// every object is a chunk's or the manifest of a version, and no intent waits.
pub(super) async fn nothing_is_left(database: &TestDatabase, objects: &Path) -> String {
    let clock = Clock::ByHand(Arc::default());
    let Clock::ByHand(time_us) = &clock else { unreachable!() };
    time_us.store(Clock::System.now_us() + 2 * 86_400 * 1_000_000, Ordering::SeqCst);
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
    let app = App::new(database.open().await, Store::open_folder(objects).unwrap(), clock.clone(), limits);
    let before = patiently(|| app.check(true)).await.unwrap();
    assert_eq!(before.problems, Vec::<String>::new());
    let stood = files_below(objects).len();
    age_unfinished(objects);
    let collected = patiently(|| app.collect()).await.unwrap();
    let after = patiently(|| app.check(true)).await.unwrap();
    assert_eq!(
        (after.manifests, after.due_manifests),
        (after.versions, 0),
        "what a step left due is written"
    );
    let before = CheckReport { manifests: after.manifests, due_manifests: 0, ..before };
    assert_eq!(after, before, "the collector takes nothing that is needed");
    app.close().await;

    assert_eq!(database.texts("SELECT object_key FROM doomed_objects").await, Vec::<String>::new());
    let mut keys = database.texts("SELECT object_key FROM chunks").await;
    let manifests = "SELECT 'manifests/' || uid || CASE state WHEN 'COMMITTED' THEN '.json' ELSE '.deleted.json' END \
        FROM checkpoints WHERE version IS NOT NULL";
    keys.extend(database.texts(manifests).await);
    // The day of a manifest is left out.
    let day = |key: String| match key.split('/').collect::<Vec<_>>()[..] {
        ["manifests", _, name] => format!("manifests/{name}"),
        _ => key,
    };
    // A put that took too long and was repeated may still be taking its own unfinished file away.
    for _ in 0..3_000 {
        if !files_below(objects).iter().any(|it| it.contains('#')) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let found = files_below(objects).into_iter().filter(|it| it != MARK);
    let mut found: Vec<String> = found.map(day).collect();
    keys.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, keys);
    format!("{stood} objects before the collection, {} after it: {collected:?}; {after:?}\n", found.len())
}
