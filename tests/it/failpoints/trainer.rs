//! A trainer that repeats every call blindly until it is answered, and compares each answer with what alone is right.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use keepbest_client::FileDigest;
use keepbest_client::v1;
use keepbest_client::version_digest;
use keepbest_proto::v1::artifacts_client::ArtifactsClient;
use keepbest_proto::v1::checkpoints_client::CheckpointsClient;
use keepbest_proto::v1::runs_client::RunsClient;
use tonic::Response;
use tonic::Status;
use tonic::transport::Channel;
use tonic_types::StatusExt;

use super::lane::Lane;
use super::tally::Tally;
use crate::support::random::Random;
use crate::support::requests::PROJECT;
use crate::support::requests::epoch_end;
use crate::support::requests::every_epoch;
use crate::support::requests::noise;
use crate::support::requests::start_request;

/// Of so many events that were to be met one is saved.
const SELDOM: usize = 8;
/// Turns without a step: then no call reaches the armed one.
const LOST: usize = 300;
/// How long a caller waits when its connection broke: what ended the server may not be known yet.
const PAUSE: Duration = Duration::from_millis(2);

/// An acknowledged version as the trainer knows it.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) epoch: i64,
    pub(super) loss: f64,
    pub(super) files: Vec<v1::File>,
}

pub(super) struct Trainer {
    lane: Lane,
    channel: Channel,
    random: Random,
    pub(super) run: String,
    pub(super) artifact: String,
    pub(super) attempt: i64,
    pub(super) losses: Vec<f64>,
    pub(super) decisions: Vec<v1::Decision>,
    /// By number.
    pub(super) kept: BTreeMap<i64, Kept>,
    pub(super) next_number: i64,
    pub(super) tally: Tally,
    /// Whether an earlier try of the same call was cancelled.
    cut: bool,
}

impl Trainer {
    /// Starts a run.
    pub(super) async fn start(lane: Lane, name: &str, random: Random) -> Trainer {
        let channel = Channel::from_shared(lane.address.clone()).unwrap().connect_lazy();
        let mut trainer = Trainer {
            lane,
            channel,
            random,
            run: format!("{PROJECT}/runs/{name}"),
            artifact: format!("{PROJECT}/artifacts/run-{name}-model"),
            attempt: 0,
            losses: Vec::new(),
            decisions: Vec::new(),
            kept: BTreeMap::new(),
            next_number: 0,
            tally: Tally::default(),
            cut: false,
        };
        trainer.begin_attempt().await;
        trainer
    }

    /// Trains until the script is over.
    pub(super) async fn train(mut self) -> Trainer {
        let (mut step, mut since) = (0, 0);
        while let Some(armed) = self.lane.armed() {
            let fired = self.lane.progress.borrow().fired;
            (step, since) = if fired == step { (step, since + 1) } else { (fired, 0) };
            assert!(since < LOST, "no call reached `{armed}` in {LOST} turns");
            self.go_on(armed.point.split('.').next().unwrap()).await;
        }
        self
    }

    /// Does what reaches the armed step, and little else: most of the time would go into uploads.
    async fn go_on(&mut self, wanted: &str) {
        let seldom = self.random.below(SELDOM) == 0;
        match wanted {
            "start" => self.begin_attempt().await,
            "delete" if self.kept.len() > 1 => self.delete().await,
            "abandon" => self.give_up().await,
            "event" if !seldom => self.give_up().await,
            _ => self.save().await,
        }
    }

    async fn give_up(&mut self) {
        let checkpoint = self.report().await;
        self.abandon(checkpoint).await;
    }

    async fn save(&mut self) {
        let checkpoint = self.report().await;
        self.upload_and_commit(checkpoint).await;
    }

    /// A new attempt goes on after the last event and from the last acknowledged version, and is one more: not two.
    async fn begin_attempt(&mut self) {
        let name = self.run.rsplit('/').next().unwrap().to_owned();
        let request = v1::StartRunRequest {
            request_id: format!("{name}-{}", self.attempt),
            ..start_request(&name, every_epoch())
        };
        let start = |channel| {
            let request = request.clone();
            async move { RunsClient::new(channel).start_run(request).await }
        };
        let started = self.answered(start).await;
        self.attempt += 1;
        assert_eq!(started.attempt, self.attempt, "of run `{name}`");
        assert_eq!(started.next_sequence, self.losses.len() as i64);
        let newest = self.kept.last_key_value().map(|(number, _)| self.version(&format!("v{number}")));
        assert_eq!(started.resume_from.map(|version| version.name), newest);
        self.tally.attempts += 1;
    }

    /// Reports the next epoch, which every answer decides to save.
    async fn report(&mut self) -> String {
        let epoch = self.losses.len() as i64;
        let loss = self.random.fraction();
        let request = v1::ReportEventsRequest {
            run: self.run.clone(),
            attempt: self.attempt,
            first_sequence: epoch,
            events: vec![epoch_end(epoch, loss)],
            ..Default::default()
        };
        let report = |channel| {
            let request = request.clone();
            async move { RunsClient::new(channel).report_events(request).await }
        };
        let answer = self.answered(report).await;
        assert_eq!(answer.next_sequence, epoch + 1);
        let [decision] = &answer.decisions[..] else { panic!("{:?}", answer.decisions) };
        assert_eq!((decision.action(), decision.epoch), (v1::Action::Save, epoch));
        self.losses.push(loss);
        self.decisions.push(decision.clone());
        decision.checkpoint.clone()
    }

    async fn abandon(&mut self, checkpoint: String) {
        let request = v1::AbandonCheckpointRequest { checkpoint, attempt: self.attempt };
        let abandon = |channel| {
            let request = request.clone();
            async move { CheckpointsClient::new(channel).abandon_checkpoint(request).await }
        };
        let given_up = self.answered(abandon).await;
        assert_eq!(given_up.state(), v1::CheckpointState::Deleted);
        self.tally.abandoned += 1;
    }

    /// Uploads a file as a stream and others in one call, in either order, and commits.
    async fn upload_and_commit(&mut self, checkpoint: String) {
        // Some models are equal to earlier ones, and the configuration always is: then there is nothing to store.
        let seed = if self.random.below(8) == 0 { 0 } else { self.random.next() };
        let length = 20_000 + (seed % 40_000) as usize;
        let weights = ("weights.bin", noise(seed, length));
        let small =
            [("config.json", b"{\"layers\": 3}".to_vec()), ("state.bin", noise(self.random.next(), 900))];
        if self.random.below(2) == 0 {
            self.write_stream(&checkpoint, &weights).await;
            self.write_small(&checkpoint, &small).await;
        } else {
            self.write_small(&checkpoint, &small).await;
            self.write_stream(&checkpoint, &weights).await;
        }
        let [config, state] = small;
        let files = [config, state, weights].map(|(path, data)| file_of(path, &data)).to_vec();
        let epoch = self.losses.len() as i64 - 1;
        self.commit(checkpoint, Kept { epoch, loss: self.losses[self.losses.len() - 1], files }).await;
    }

    async fn write_stream(&mut self, checkpoint: &str, (path, data): &(&str, Vec<u8>)) {
        let prepare = v1::PrepareFileRequest {
            checkpoint: checkpoint.to_owned(),
            attempt: self.attempt,
            path: (*path).to_owned(),
            size_bytes: data.len() as i64,
            ..Default::default()
        };
        let prepared = |channel| {
            let request = prepare.clone();
            async move { CheckpointsClient::new(channel).prepare_file(request).await }
        };
        self.answered(prepared).await;
        // As a client that knows nothing of resuming: always from the start.
        let (first, second) = data.split_at(data.len() / 2);
        let first = v1::WriteFileRequest {
            checkpoint: checkpoint.to_owned(),
            attempt: self.attempt,
            path: (*path).to_owned(),
            data: first.to_vec().into(),
            ..Default::default()
        };
        let second =
            v1::WriteFileRequest { data: second.to_vec().into(), finish: true, ..Default::default() };
        let write = |channel| {
            let messages = futures::stream::iter([first.clone(), second.clone()]);
            async move { CheckpointsClient::new(channel).write_file(messages).await }
        };
        let file = self.answered(write).await;
        assert_eq!(file, file_of(path, data));
    }

    async fn write_small(&mut self, checkpoint: &str, files: &[(&str, Vec<u8>)]) {
        let small = files.iter().map(|(path, data)| v1::SmallFile {
            path: (*path).to_owned(),
            data: data.clone().into(),
            ..Default::default()
        });
        let request = v1::WriteSmallFilesRequest {
            checkpoint: checkpoint.to_owned(),
            attempt: self.attempt,
            files: small.collect(),
        };
        let write = |channel| {
            let request = request.clone();
            async move { CheckpointsClient::new(channel).write_small_files(request).await }
        };
        let answer = self.answered(write).await;
        let expected: Vec<v1::File> = files.iter().map(|(path, data)| file_of(path, data)).collect();
        assert_eq!(answer.files, expected);
    }

    /// Between two tries of a commit the version is there whole, or not at all.
    async fn commit(&mut self, checkpoint: String, new: Kept) {
        let request = v1::CommitCheckpointRequest {
            checkpoint,
            attempt: self.attempt,
            file_count: new.files.len() as i64,
            ..Default::default()
        };
        let commit = |channel| {
            let request = request.clone();
            async move { CheckpointsClient::new(channel).commit_checkpoint(request).await }
        };
        let version = loop {
            match self.tried(&commit).await {
                Some(version) => break version,
                None => self.look(&new).await,
            }
        };
        let number = self.next_number;
        assert_eq!(version.name, self.version(&format!("v{number}")), "one version a save, without gaps");
        assert_eq!(version.digest[..], version_digest(&new.files)[..]);
        self.kept.insert(number, new);
        self.next_number += 1;
        self.tally.saves += 1;
    }

    /// `latest` is the last acknowledged version, or the new one with all that it has.
    async fn look(&mut self, new: &Kept) {
        let Some((number, last)) = self.kept.last_key_value().map(|(number, last)| (*number, last.clone()))
        else {
            return;
        };
        let latest = self.get("latest").await;
        let expected = if latest.number == number {
            &last
        } else {
            assert_eq!(latest.number, self.next_number);
            let best = self.kept.values().all(|it| new.loss < it.loss);
            assert_eq!(latest.aliases.iter().any(|alias| alias == "best"), best, "{:?}", latest.aliases);
            new
        };
        assert_eq!(latest.files, expected.files);
        assert_eq!(latest.epoch, expected.epoch);
    }

    pub(super) async fn get(&mut self, alias: &str) -> v1::Version {
        let request = v1::GetVersionRequest { name: self.version(alias), include_files: true };
        let get = |channel| {
            let request = request.clone();
            async move { ArtifactsClient::new(channel).get_version(request).await }
        };
        self.answered(get).await
    }

    async fn delete(&mut self) {
        let numbers: Vec<i64> = self.kept.keys().copied().collect();
        let number = numbers[self.random.below(numbers.len())];
        let request =
            v1::DeleteVersionRequest { name: self.version(&format!("v{number}")), ..Default::default() };
        let delete = |channel| {
            let request = request.clone();
            async move { ArtifactsClient::new(channel).delete_version(request).await }
        };
        let deleted = self.answered(delete).await;
        let gone = self.kept.remove(&number).unwrap();
        assert_eq!(deleted.size_bytes, gone.files.iter().map(|file| file.size_bytes).sum::<i64>());
        self.tally.deleted += 1;
    }

    pub(super) fn version(&self, alias: &str) -> String {
        format!("{}/versions/{alias}", self.artifact)
    }

    /// Makes the same call until it is answered.
    pub(super) async fn answered<T, F>(&mut self, call: impl Fn(Channel) -> F) -> T
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.cut = false;
        loop {
            if let Some(answer) = self.tried(&call).await {
                return answer;
            }
        }
    }

    /// Makes a call once; it is cancelled when a step sleeps. No answer: the same call is right.
    async fn tried<T, F>(&mut self, call: &impl Fn(Channel) -> F) -> Option<T>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let sleeps = self.lane.progress.borrow().sleeps;
        self.tally.calls += 1;
        let status = tokio::select! {
            answer = call(self.channel.clone()) => match answer {
                Ok(answer) => return Some(answer.into_inner()),
                Err(status) => status,
            },
            () = self.lane.slept(sleeps) => {
                self.tally.cancelled += 1;
                self.cut = true;
                return None;
            }
        };
        match status.get_details_error_info() {
            Some(info) => {
                // A stream that was cancelled and came to the writer after the one that repeats it.
                if self.cut && info.reason == "UPLOAD_SUPERSEDED" {
                    self.tally.superseded += 1;
                    return None;
                }
                // `BUSY` where the call that was tried before still holds the run's row.
                assert!(["UNAVAILABLE", "BUSY"].contains(&&*info.reason), "{status:?}");
                self.tally.unavailable += 1;
            }
            // The transport's own: the server is away.
            None => {
                self.tally.broken += 1;
                tokio::time::sleep(PAUSE).await;
                self.lane.back().await;
            }
        }
        None
    }
}

/// A complete file as the server shows it.
fn file_of(path: &str, data: &[u8]) -> v1::File {
    let mut digest = FileDigest::default();
    digest.update(data);
    v1::File {
        path: path.to_owned(),
        size_bytes: data.len() as i64,
        durable_bytes: data.len() as i64,
        state: v1::FileState::Complete.into(),
        digest: digest.finish().to_vec().into(),
        ..Default::default()
    }
}
