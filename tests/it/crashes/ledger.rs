//! What was acknowledged, and whether the server still says so.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;

use keepbest_client::Client;
use keepbest_client::FileDigest;
use keepbest_client::v1;
use keepbest_client::v1::strategy::SaveFrequency;

use crate::support::requests::batch_end;
use crate::support::requests::epoch_end;

/// Of one epoch, where batches are saved.
const BATCHES: i64 = 5;

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
    pub(super) strategy: v1::Strategy,
    pub(super) attempt: i64,
    /// The monitored value of each event, in order.
    pub(super) values: Vec<f64>,
    pub(super) decisions: Vec<v1::Decision>,
    pub(super) acked: Vec<Acked>,
}

/// All ledgers together.
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
    /// An event of the training: the end of an epoch, or of a batch where batches are saved.
    pub(super) fn event(&self, index: usize, value: f64) -> v1::Event {
        let number = i64::try_from(index).unwrap();
        match self.strategy.save_frequency {
            Some(SaveFrequency::EveryBatches(_)) => batch_end(number / BATCHES, number % BATCHES, value),
            _ => epoch_end(number, value),
        }
    }

    /// Whether an event is answered with a decision.
    fn is_due(&self, index: usize) -> bool {
        match self.strategy.save_frequency {
            Some(SaveFrequency::EveryBatches(every)) => (i64::try_from(index).unwrap() + 1) % every == 0,
            _ => true,
        }
    }

    fn improves(&self, value: f64, best: f64) -> bool {
        if self.strategy.mode() == v1::Mode::Max { value > best } else { value < best }
    }

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

    /// Asked again, every decision is the one that was given; best and latest are what the values say.
    pub(super) async fn check_answers(&self, client: &Client) {
        let events: Vec<_> =
            self.values.iter().enumerate().map(|(index, value)| self.event(index, *value)).collect();
        let request = v1::ReportEventsRequest {
            run: self.run.clone(),
            attempt: self.attempt,
            events: events.clone(),
            ..Default::default()
        };
        let again = client.report_events(request).await.unwrap();
        assert_eq!(again.duplicate_count, i64::try_from(self.values.len()).unwrap());
        assert_eq!(again.decisions, self.decisions);

        let mut best: Option<(&v1::Event, f64)> = None;
        let mut decisions = self.decisions.iter();
        let due = self.values.iter().zip(&events).enumerate().filter(|(index, _)| self.is_due(*index));
        for (index, (value, event)) in due {
            let decision = decisions.next().unwrap();
            assert_eq!(decision.sequence, i64::try_from(index).unwrap());
            let improves = best.is_none_or(|(_, best)| self.improves(*value, best));
            let saved = decision.action() == v1::Action::Save;
            assert_eq!(saved, improves || !self.strategy.save_best_only, "event {index} of {}", self.run);
            if improves {
                best = Some((event, *value));
            }
        }
        assert_eq!(decisions.next(), None);
        assert_eq!(self.acked.len(), again.decisions.iter().filter(|it| !it.checkpoint.is_empty()).count());
        let (best, _) = best.unwrap();
        let latest = client.get_version(&format!("{}/versions/latest", self.artifact), false).await.unwrap();
        assert_eq!(latest.name, self.acked.last().unwrap().version.name);
        let alias = client.get_version(&format!("{}/versions/best", self.artifact), false).await.unwrap();
        assert_eq!((alias.epoch, alias.batch), (best.epoch, best.batch));
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
