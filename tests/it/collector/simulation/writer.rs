//! A writer of the race: it saves, gives up, starts again and deletes, repeats what got no answer, and knows what must be
//! there.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use keepbest::app::Error;
use keepbest::domain::ids::CheckpointName;
use tokio::task::JoinError;

use crate::collector::simulation::replicas::Replicas;
use crate::support::apps::PROJECT;
use crate::support::apps::TestApp;
use crate::support::apps::Trainer;
use crate::support::apps::every_epoch;
use crate::support::apps::start;
use crate::support::apps::val_loss;
use crate::support::random::Random;
use crate::support::requests::noise;

/// Contents to choose from: about as many as all writers keep, so that each is shared, then needed no more, then sent again.
const CONTENTS: usize = 24;
/// Files of a checkpoint.
const FILES: usize = 3;
/// Live versions that a writer keeps are fewer than this.
const MOST_LIVE: usize = 3;

type Files = Vec<(String, Vec<u8>)>;

/// One run's writer.
pub(super) struct Writer {
    replicas: Arc<Replicas>,
    random: Random,
    /// On a replica that never dies, for reading back.
    trainer: Trainer,
    epoch: i64,
    live: BTreeMap<i64, Arc<Files>>,
    /// Versions that were acknowledged.
    pub(super) commits: usize,
}

/// What the caller of a failed call does.
enum Fate {
    Again,
    GivenUp,
}

fn fate(error: &Error) -> Fate {
    match error {
        Error::Refused(refusal) if ["RACE", "UPLOAD_SUPERSEDED"].contains(&refusal.reason) => Fate::Again,
        Error::Refused(refusal) if refusal.reason == "CHECKPOINT_DELETED" => Fate::GivenUp,
        // A fault of the store, or a replica that dies while it answers.
        Error::Unavailable { .. } | Error::Busy(_) => Fate::Again,
        Error::Internal(source) if source.is::<JoinError>() => Fate::Again,
        error => panic!("{error:?}"),
    }
}

impl Writer {
    pub(super) async fn start(test: &TestApp, replicas: &Arc<Replicas>, run: &str, random: Random) -> Writer {
        let trainer = test.start(run, every_epoch()).await;
        let replicas = Arc::clone(replicas);
        Writer { replicas, random, trainer, epoch: 0, live: BTreeMap::new(), commits: 0 }
    }

    /// Repeats a call until it is answered; none if its checkpoint was given up meanwhile.
    async fn persist<T: Send + 'static, F>(&mut self, work: impl Fn(Trainer) -> F) -> Option<T>
    where
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        loop {
            let trainer = self.trainer.clone();
            let call = self.replicas.call(&mut self.random, |app| work(Trainer { app, ..trainer }));
            match call.await {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => match fate(&error) {
                    Fate::Again => {}
                    Fate::GivenUp => return None,
                },
                Err(_) => {}
            }
        }
    }

    /// One save, with what comes before and after it.
    pub(super) async fn round(&mut self) {
        if self.random.below(20) == 0 {
            self.start_again().await;
        }
        self.epoch += 1;
        let epoch = self.epoch;
        let report = move |it: Trainer| async move {
            let events = it.events(vec![val_loss(epoch, 0.5)]);
            it.app.report_events(events).await
        };
        let mut answer = self.persist(report).await.unwrap();
        self.trainer.sequence = answer.next_sequence;
        let uid = answer.decisions.pop().and_then(|it| it.checkpoint_uid).expect("it is saved");
        let checkpoint = self.trainer.checkpoint(&uid);
        let files = Arc::new(self.files());
        if self.upload(&checkpoint, &files).await {
            match self.random.below(16) {
                0 => self.start_again().await,
                1 | 2 => {
                    let abandon = move |it: Trainer| {
                        let checkpoint = checkpoint.clone();
                        async move { it.abandon(&checkpoint).await }
                    };
                    self.persist(abandon).await;
                }
                _ => self.commit(checkpoint, files).await,
            }
        }
        while self.live.len() > self.random.below(MOST_LIVE) {
            let (number, _) = self.live.pop_first().unwrap();
            let delete = move |it: Trainer| async move {
                it.app.delete_version(&it.version(&format!("v{number}")), false).await
            };
            self.persist(delete).await.unwrap();
        }
    }

    /// The trainer's process died: its next attempt gives up what was under way.
    async fn start_again(&mut self) {
        let mut again = start(PROJECT, self.trainer.run.run.as_str(), every_epoch());
        again.request_id = format!("start-{}", self.random.next());
        let begin = move |it: Trainer| {
            let again = again.clone();
            async move { Trainer::start(&it.app, again).await }
        };
        let app = self.trainer.app.clone();
        self.trainer = Trainer { app, ..self.persist(begin).await.unwrap() };
    }

    fn files(&mut self) -> Files {
        let content = |n| noise(n as u64, 64);
        (0..FILES).map(|n| (format!("file-{n}"), content(self.random.below(CONTENTS)))).collect()
    }

    async fn upload(&mut self, checkpoint: &CheckpointName, files: &Arc<Files>) -> bool {
        let whole = self.random.below(2) == 0;
        let upload = |it: Trainer| {
            let (checkpoint, files) = (checkpoint.clone(), Arc::clone(files));
            async move {
                if whole {
                    let files: Vec<_> =
                        files.iter().map(|(path, data)| (path.as_str(), data.as_slice())).collect();
                    return it.write(&checkpoint, &files).await.map(drop);
                }
                for (path, data) in files.iter() {
                    it.stream(&checkpoint, path, data).await?;
                }
                Ok(())
            }
        };
        self.persist(upload).await.is_some()
    }

    async fn commit(&mut self, checkpoint: CheckpointName, files: Arc<Files>) {
        let commit = move |it: Trainer| {
            let checkpoint = checkpoint.clone();
            async move { it.commit(&checkpoint).await }
        };
        if let Some(version) = self.persist(commit).await {
            self.live.insert(version.number, files);
            self.commits += 1;
        }
    }

    /// Live versions.
    pub(super) fn live(&self) -> usize {
        self.live.len()
    }

    /// Reads every live version back; a sentence for each file that is not as it was acknowledged. A version that lost a file
    /// is not asked for again.
    pub(super) async fn losses(&mut self) -> Vec<String> {
        let mut losses = Vec::new();
        for (number, files) in self.live.clone() {
            let before = losses.len();
            for (path, data) in files.iter() {
                let (read, end) = self.trainer.read(&format!("v{number}"), path).await;
                if end.is_err() || read != *data {
                    losses.push(format!("{} v{number} {path}: {end:?}", self.trainer.run));
                }
            }
            if losses.len() > before {
                self.live.remove(&number);
            }
        }
        losses
    }
}
