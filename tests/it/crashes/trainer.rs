//! A trainer that keeps a ledger of what the server acknowledged.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use keepbest_client::Client;
use keepbest_client::Error;
use keepbest_client::FileDigest;
use keepbest_client::Run;
use keepbest_client::UploadOptions;
use keepbest_client::v1;
use tempfile::TempDir;

use super::ledger::Acked;
use super::ledger::Ledger;
use crate::support::disk::files_below;
use crate::support::random::Random;
use crate::support::requests::noise;
use crate::support::requests::start_request;

/// What a trainer may be doing.
pub(super) const STAGES: [&str; 6] = ["train", "start", "report", "upload", "commit", "stream"];
const TRAIN: usize = 0;
const START: usize = 1;
const REPORT: usize = 2;
pub(super) const UPLOAD: usize = 3;
const COMMIT: usize = 4;
/// An upload of several chunks.
pub(super) const STREAM: usize = 5;

/// Saves of which one begins a new attempt, as a trainer that was restarted does.
const RESTART_EVERY: usize = 8;
/// Of the base model, the same in all checkpoints: more than a chunk.
const BACKBONE_BYTES: usize = (8 << 20) + 12_345;

/// What a trainer is doing now; the killers choose their moment by it.
#[derive(Debug, Default)]
pub(super) struct Stage(AtomicUsize);

impl Stage {
    pub(super) fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    fn set(&self, stage: usize) {
        self.0.store(stage, Ordering::SeqCst);
    }
}

pub(super) struct LedgerTrainer {
    client: Option<(Client, v1::StartRunRequest)>,
    run: Run,
    random: Random,
    folder: TempDir,
    stage: Arc<Stage>,
    ledger: Ledger,
}

impl LedgerTrainer {
    pub(super) async fn start(
        client: Client,
        name: &str,
        strategy: v1::Strategy,
        random: Random,
    ) -> LedgerTrainer {
        let request = start_request(name, strategy);
        let run = Run::start(&client, request.clone()).await.unwrap();
        LedgerTrainer { client: Some((client, request)), ..LedgerTrainer::over(run, random) }
    }

    /// Over a run that was started, and never is again.
    pub(super) fn over(run: Run, random: Random) -> LedgerTrainer {
        let started = run.started().run.as_ref().unwrap();
        let ledger = Ledger {
            run: run.name().to_owned(),
            artifact: started.artifact.clone(),
            strategy: started.strategy.clone().unwrap(),
            ..Ledger::default()
        };
        LedgerTrainer {
            client: None,
            run,
            random,
            folder: tempfile::tempdir().unwrap(),
            stage: Arc::default(),
            ledger,
        }
    }

    pub(super) fn stage(&self) -> Arc<Stage> {
        Arc::clone(&self.stage)
    }

    pub(super) fn into_ledger(self) -> Ledger {
        self.ledger
    }

    /// Trains until it is over, whatever happens to the server, and finishes.
    pub(super) async fn train(mut self, over: Arc<AtomicBool>) -> Ledger {
        // At least until something was saved, else there is nothing to lose.
        while !over.load(Ordering::SeqCst) || self.ledger.acked.is_empty() {
            self.stage.set(TRAIN);
            if self.random.below(RESTART_EVERY) == 0 {
                self.begin_attempt().await;
            }
            let source = self.write_files();
            let loss = (0.5 + self.random.fraction()) / (1.0 + self.ledger.values.len() as f64);
            let value = if self.ledger.strategy.mode() == v1::Mode::Max { 1.0 / loss } else { loss };
            self.save(value, &source).await.unwrap();
        }
        self.ledger.attempt = self.run.attempt();
        let finished = self.run.finish(v1::RunState::Finished).await.unwrap();
        assert_eq!(finished.event_count, self.ledger.values.len() as i64);
        self.ledger
    }

    /// A new attempt finds the last acknowledged version and goes on after the last event.
    async fn begin_attempt(&mut self) {
        let (client, request) = self.client.clone().unwrap();
        self.stage.set(START);
        self.run = Run::start(&client, request).await.unwrap();
        let newest = self.run.resume_from().map(|version| version.name.clone());
        assert_eq!(newest, self.ledger.acked.last().map(|acked| acked.version.name.clone()));
        assert_eq!(self.run.next_sequence(), self.ledger.values.len() as i64);
    }

    /// Makes the files of one checkpoint, and says what is to be uploaded. Most are small; some are a folder in folders, or
    /// have a large part that is always the same, or are one file of several chunks.
    fn write_files(&mut self) -> PathBuf {
        let folder = self.folder.path().join("checkpoint");
        if folder.exists() {
            fs::remove_dir_all(&folder).unwrap();
        }
        fs::create_dir(&folder).unwrap();
        let seed = self.random.next();
        let write = |name: &str, number: usize, length: usize| {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, noise(seed.wrapping_add(number as u64), length)).unwrap();
        };
        match self.random.below(20) {
            0 | 8 => {
                write("model.bin", 0, (8 << 20) + 1 + self.random.below(9 << 20));
                return folder.join("model.bin");
            }
            1 | 2 => {
                fs::write(folder.join("backbone.bin"), noise(1, BACKBONE_BYTES)).unwrap();
                write("head.bin", 0, (300 << 10) + self.random.below(1 << 20));
                fs::write(folder.join("config.json"), format!("{{\"seed\": {seed}}}")).unwrap();
            }
            3..=7 => {
                for number in 0..4 + self.random.below(12) {
                    let name = format!("variables/layer-{}/{number}.bin", number % 7);
                    write(&name, number, self.random.below(8 << 10));
                }
                write("optimizer.bin", 100, 300 << 10);
            }
            _ => write("weights.bin", 0, 1 + self.random.below(100 << 10)),
        }
        folder
    }

    /// Reports, uploads and commits one small file.
    pub(super) async fn small_save(&mut self) -> Result<(), Error> {
        let seed = self.random.next();
        let source = self.folder.path().join("weights.bin");
        fs::write(&source, noise(seed, 10_000)).unwrap();
        self.save(1.0, &source).await
    }

    /// One event. An entry comes into the ledger only after the commit's answer.
    async fn save(&mut self, value: f64, source: &Path) -> Result<(), Error> {
        self.stage.set(REPORT);
        let event = self.ledger.event(self.ledger.values.len(), value);
        let decisions = self.run.report(vec![event]).await?;
        self.ledger.values.push(value);
        for decision in &decisions {
            if decision.action() == v1::Action::Save {
                self.stage.set(if source.is_file() { STREAM } else { UPLOAD });
                let options = UploadOptions { sha256: self.random.below(2) == 0, ..UploadOptions::default() };
                let uploaded = self.run.upload(&decision.checkpoint, source, &options).await?;
                self.stage.set(COMMIT);
                let version = self.run.commit(&decision.checkpoint, uploaded.file_count).await?;
                self.ledger.acked.push(Acked { version, files: digests(source) });
            }
        }
        self.ledger.decisions.extend(decisions);
        Ok(())
    }
}

/// The digests of a file, or of those below a folder, made here.
fn digests(source: &Path) -> BTreeMap<String, Vec<u8>> {
    let (folder, files) = match source.is_dir() {
        true => (source, files_below(source)),
        false => (source.parent().unwrap(), vec![source.file_name().unwrap().to_str().unwrap().to_owned()]),
    };
    let digest = |path: String| {
        let mut digest = FileDigest::default();
        digest.update(&fs::read(folder.join(&path)).unwrap());
        (path, digest.finish().to_vec())
    };
    files.into_iter().map(digest).collect()
}
