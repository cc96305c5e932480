//! What was acknowledged, and whether the server still says so.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use keepbest::app::App;
use keepbest::app::Limits;
use keepbest::blobs::Blobs;
use keepbest::blobs::deleted_manifest_key;
use keepbest::blobs::manifest_key;
use keepbest::clock::Clock;
use keepbest::store::Graces;
use keepbest::store::Store;
use keepbest_client::Client;
use keepbest_client::FileDigest;
use keepbest_client::v1;
use sqlx::ConnectOptions;
use sqlx::Row;

use crate::support::requests::epoch_end;

/// A version that a commit's answer named, and its files' digests as the trainer knows them.
#[derive(Debug)]
pub(super) struct Acked {
    pub(super) version: v1::Version,
    pub(super) files: BTreeMap<String, Vec<u8>>,
}

/// All that one trainer was told.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) run: String,
    pub(super) artifact: String,
    pub(super) best_only: bool,
    pub(super) attempt: i64,
    /// Of each epoch, in order.
    pub(super) losses: Vec<f64>,
    pub(super) decisions: Vec<v1::Decision>,
    pub(super) acked: Vec<Acked>,
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) acked: usize,
    /// Acknowledged, there, and of the same bytes.
    pub(super) kept: usize,
    /// Visible and not whole.
    pub(super) torn: usize,
    /// Versions of an event that has another one.
    pub(super) duplicated: usize,
}

impl Counts {
    pub(super) fn add(&mut self, other: Counts) {
        self.acked += other.acked;
        self.kept += other.kept;
        self.torn += other.torn;
        self.duplicated += other.duplicated;
    }
}

impl Ledger {
    /// Compares the ledger with all versions of the artifact, and reads all bytes back.
    pub(super) async fn compare(&self, client: &Client) -> Counts {
        let versions = self.versions(client).await;
        let numbers: Vec<i64> = versions.iter().map(|version| version.number).collect();
        assert_eq!(numbers, (0..numbers.len() as i64).collect::<Vec<_>>(), "numbers have no gaps");
        let mut counts = Counts { acked: self.acked.len(), ..Counts::default() };
        let mut events = HashSet::new();
        for version in &versions {
            counts.duplicated += usize::from(!events.insert((version.epoch, version.batch)));
        }
        let versions: HashMap<&str, &v1::Version> =
            versions.iter().map(|version| (version.name.as_str(), version)).collect();
        for version in versions.values() {
            let digests = read_back(client, &version.name).await;
            let acked = self.acked.iter().find(|acked| acked.version.name == version.name);
            let whole = match (&digests, acked) {
                (Some(digests), Some(acked)) => *digests == acked.files,
                // Its answer was lost for good: whole is what matches its own digests.
                (Some(_), None) => true,
                (None, _) => false,
            };
            counts.torn += usize::from(!whole);
            counts.kept += usize::from(acked.is_some_and(|acked| {
                whole && acked.version.digest == version.digest && acked.version.epoch == version.epoch
            }));
        }
        counts
    }

    async fn versions(&self, client: &Client) -> Vec<v1::Version> {
        let mut request = v1::ListVersionsRequest {
            parent: self.artifact.clone(),
            page_size: 1_000,
            order_by: "number asc".to_owned(),
            ..Default::default()
        };
        let mut versions = Vec::new();
        loop {
            let page = client.list_versions(request.clone()).await.unwrap();
            versions.extend(page.versions);
            if page.next_page_token.is_empty() {
                return versions;
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Asked again, every decision is the one that was given; best and latest are what the losses say.
    pub(super) async fn check_answers(&self, client: &Client) {
        let events = (0..).zip(&self.losses).map(|(epoch, loss)| epoch_end(epoch, *loss)).collect();
        let request = v1::ReportEventsRequest {
            run: self.run.clone(),
            attempt: self.attempt,
            events,
            ..Default::default()
        };
        let again = client.report_events(request).await.unwrap();
        assert_eq!(again.duplicate_count, self.losses.len() as i64);
        assert_eq!(again.decisions, self.decisions);

        let mut best: Option<(usize, f64)> = None;
        for (epoch, loss) in self.losses.iter().enumerate() {
            let improves = best.is_none_or(|(_, best)| *loss < best);
            let saved = self.decisions[epoch].action() == v1::Action::Save;
            assert_eq!(saved, improves || !self.best_only, "epoch {epoch} of {}", self.run);
            if improves {
                best = Some((epoch, *loss));
            }
        }
        assert_eq!(self.acked.len(), again.decisions.iter().filter(|it| !it.checkpoint.is_empty()).count());
        let (best_epoch, _) = best.unwrap();
        let latest = client.get_version(&format!("{}/versions/latest", self.artifact), false).await.unwrap();
        assert_eq!(latest.name, self.acked.last().unwrap().version.name);
        let alias = client.get_version(&format!("{}/versions/best", self.artifact), false).await.unwrap();
        assert_eq!(alias.epoch, best_epoch as i64);
        let query = v1::GetBestVersionRequest { parent: self.run.clone(), ..Default::default() };
        assert_eq!(client.get_best_version(query).await.unwrap().name, alias.name);
    }
}

/// The digests of a version's files, from bytes that were read; `None` if they cannot be or are not those of the version.
async fn read_back(client: &Client, version: &str) -> Option<BTreeMap<String, Vec<u8>>> {
    let version = client.get_version(version, true).await.unwrap();
    let mut digests = BTreeMap::new();
    for file in &version.files {
        let request = v1::ReadFileRequest {
            version: version.name.clone(),
            path: file.path.clone(),
            ..Default::default()
        };
        let mut messages = client.read_file(request).await.ok()?;
        let mut digest = FileDigest::default();
        while let Some(message) = messages.message().await.ok()? {
            digest.update(&message.data);
        }
        let digest = digest.finish().to_vec();
        if digest[..] != file.digest[..] {
            return None;
        }
        digests.insert(file.path.clone(), digest);
    }
    (keepbest_client::version_digest(&version.files)[..] == version.digest[..]).then_some(digests)
}

/// Two days later the collector has removed what the kills left: every file in the store is a chunk that a row names, or the
/// manifest of a version.
pub(crate) async fn check_leftovers(data_dir: &Path) -> String {
    let objects = data_dir.join("objects");
    let before = files_below(&objects).len();
    let clock = Clock::ByHand(std::sync::Arc::default());
    let Clock::ByHand(time_us) = &clock else { unreachable!() };
    let later_us = Clock::System.now_us() + 2 * 86_400 * 1_000_000;
    time_us.store(later_us, std::sync::atomic::Ordering::SeqCst);
    let limits = Limits {
        upload_buffer_bytes: 64 << 20,
        download_buffer_bytes: 64 << 20,
        upload_idle: Duration::from_secs(60),
        pending_expiry: Duration::from_secs(86_400),
        parts_expiry: Duration::from_secs(3_600),
        graces: Graces { deleted_us: 0, chunk_us: 0, object_us: 0 },
    };
    let store = Store::open_sqlite(&data_dir.join("keepbest.db")).await.unwrap();
    let app = App::new(store, Blobs::open_folder(&objects).unwrap(), clock.clone(), limits);
    let report = app.collect().await.unwrap();
    app.close().await;

    let options =
        sqlx::sqlite::SqliteConnectOptions::new().filename(data_dir.join("keepbest.db")).read_only(true);
    let mut database = options.connect().await.unwrap();
    let doomed = sqlx::query("SELECT COUNT(*) FROM doomed_objects").fetch_one(&mut database).await.unwrap();
    assert_eq!(doomed.get::<i64, _>(0), 0, "no intent is left");
    let keys = sqlx::query("SELECT object_key FROM chunks").fetch_all(&mut database).await.unwrap();
    let mut keys: Vec<String> = keys.iter().map(|row| row.get(0)).collect();
    let versions = "SELECT uid, state, commit_time_us FROM checkpoints WHERE version IS NOT NULL";
    for row in sqlx::query(versions).fetch_all(&mut database).await.unwrap() {
        let (uid, commit_time_us) = (row.get(0), row.get(2));
        keys.push(match row.get(1) {
            "COMMITTED" => manifest_key(uid, commit_time_us),
            _ => deleted_manifest_key(uid, commit_time_us),
        });
    }
    let mut found = files_below(&objects);
    keys.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, keys);
    format!("{before} objects before the collection, {} after it: {report:?}", found.len())
}

/// Paths of all files, from the folder.
fn files_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found
}
