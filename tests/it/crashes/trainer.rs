//! A trainer that keeps a ledger of what the server acknowledged.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
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
use crate::support::random::Random;
use crate::support::requests::epoch_end;
use crate::support::requests::noise;
use crate::support::requests::start_request;

/// What a trainer may be doing.
pub(super) const STAGES: [&str; 5] = ["train", "start", "report", "upload", "commit"];
const TRAIN: usize = 0;
const START: usize = 1;
const REPORT: usize = 2;
pub(super) const UPLOAD: usize = 3;
const COMMIT: usize = 4;

/// Epochs of which one begins a new attempt, as a trainer that was restarted does.
const RESTART_EVERY: usize = 8;
/// Of the base model, the same in all checkpoints: more than a chunk.
const BACKBONE_BYTES: usize = (8 << 20) + 12_345;

/// What the trainer is doing, for those who choose when to kill.
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

pub(super) struct Trainer {
    client: Option<(Client, v1::StartRunRequest)>,
    run: Run,
    random: Random,
    folder: TempDir,
    stage: Arc<Stage>,
    ledger: Ledger,
}

impl Trainer {
    pub(super) async fn start(client: Client, name: &str, strategy: v1::Strategy, random: Random) -> Trainer {
        let request = start_request(name, strategy);
        let run = Run::start(&client, request.clone()).await.unwrap();
        Trainer { client: Some((client, request)), ..Trainer::over(run, random) }
    }

    /// Over a run that was started, and never is again.
    pub(super) fn over(run: Run, random: Random) -> Trainer {
        let started = run.started().run.as_ref().unwrap();
        let ledger = Ledger {
            run: run.name().to_owned(),
            artifact: started.artifact.clone(),
            best_only: started.strategy.as_ref().is_some_and(|it| it.save_best_only),
            ..Ledger::default()
        };
        Trainer {
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
        fs::write(self.folder.path().join("backbone.bin"), noise(1, BACKBONE_BYTES)).unwrap();
        for epoch in 0.. {
            if over.load(Ordering::SeqCst) {
                break;
            }
            self.stage.set(TRAIN);
            if self.random.below(RESTART_EVERY) == 0 {
                self.begin_attempt().await;
            }
            self.write_files(epoch);
            let loss = (0.5 + self.random.fraction()) / (1.0 + epoch as f64);
            self.save(epoch, loss).await.unwrap();
        }
        self.ledger.attempt = self.run.attempt();
        let finished = self.run.finish(v1::RunState::Finished).await.unwrap();
        assert_eq!(finished.event_count, self.ledger.losses.len() as i64);
        self.ledger
    }

    /// A new attempt finds the last acknowledged version and goes on after the last event.
    async fn begin_attempt(&mut self) {
        let (client, request) = self.client.clone().unwrap();
        self.stage.set(START);
        self.run = Run::start(&client, request).await.unwrap();
        let newest = self.run.resume_from().map(|version| version.name.clone());
        assert_eq!(newest, self.ledger.acked.last().map(|acked| acked.version.name.clone()));
        assert_eq!(self.run.next_sequence(), self.ledger.losses.len() as i64);
    }

    /// Some checkpoints have a chunk and more of new bytes, most have less.
    fn write_files(&mut self, epoch: i64) {
        let length = if self.random.below(3) == 0 { 9 << 20 } else { 300 << 10 } + self.random.below(3 << 20);
        let seed = self.random.next();
        let write = |name: &str, data: &[u8]| fs::write(self.folder.path().join(name), data).unwrap();
        write("weights.bin", &noise(seed, length));
        write("optimizer.bin", &noise(seed + 1, 100 << 10));
        write("config.json", format!("{{\"epoch\": {epoch}}}").as_bytes());
    }

    /// Reports, uploads and commits one small file.
    pub(super) async fn small_save(&mut self, epoch: i64) -> Result<(), Error> {
        let seed = self.random.next();
        fs::write(self.folder.path().join("weights.bin"), noise(seed, 10_000)).unwrap();
        self.save(epoch, 1.0).await
    }

    /// One epoch. An entry comes into the ledger only after the commit's answer.
    async fn save(&mut self, epoch: i64, loss: f64) -> Result<(), Error> {
        self.stage.set(REPORT);
        let decisions = self.run.report(vec![epoch_end(epoch, loss)]).await?;
        self.ledger.losses.push(loss);
        for decision in &decisions {
            if decision.action() == v1::Action::Save {
                self.stage.set(UPLOAD);
                let folder = self.folder.path();
                let options = UploadOptions::default();
                let uploaded = self.run.upload(&decision.checkpoint, folder, &options).await?;
                self.stage.set(COMMIT);
                let version = self.run.commit(&decision.checkpoint, uploaded.file_count).await?;
                self.ledger.acked.push(Acked { version, files: digests(folder) });
            }
        }
        self.ledger.decisions.extend(decisions);
        Ok(())
    }
}

/// The digests of the files in a folder, made here.
fn digests(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let digest = |entry: fs::DirEntry| {
        let mut digest = FileDigest::default();
        digest.update(&fs::read(entry.path()).unwrap());
        (entry.file_name().to_str().unwrap().to_owned(), digest.finish().to_vec())
    };
    fs::read_dir(folder).unwrap().map(|entry| digest(entry.unwrap())).collect()
}
