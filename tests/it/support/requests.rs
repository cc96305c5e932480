//! Short ways to say what a trainer says.

use keepbest_proto::v1;
use keepbest_proto::v1::strategy::SaveFrequency;
use tonic::Status;
use tonic::transport::Channel;
use tonic_types::StatusExt;

use crate::support::server::TestServer;

/// Where the tests' runs stand.
pub(crate) const PROJECT: &str = "teams/default/projects/digits";

/// `save_best_only` on `val_loss`.
pub(crate) fn best_only() -> v1::Strategy {
    v1::Strategy {
        filepath: "model-{epoch:02d}.keras".to_owned(),
        monitor: "val_loss".to_owned(),
        save_best_only: true,
        verbose: 1,
        ..v1::Strategy::default()
    }
}

/// Save at every epoch.
pub(crate) fn every_epoch() -> v1::Strategy {
    v1::Strategy { save_best_only: false, ..best_only() }
}

/// Save after every `n` batches.
pub(crate) fn every_batches(n: i64) -> v1::Strategy {
    v1::Strategy {
        filepath: "model-{epoch:02d}-{batch:03d}.keras".to_owned(),
        save_frequency: Some(SaveFrequency::EveryBatches(n)),
        ..every_epoch()
    }
}

/// A start of `run` in [`PROJECT`].
pub(crate) fn start_request(run: &str, strategy: v1::Strategy) -> v1::StartRunRequest {
    v1::StartRunRequest {
        parent: PROJECT.to_owned(),
        run_id: run.to_owned(),
        strategy: Some(strategy),
        ..v1::StartRunRequest::default()
    }
}

/// The end of an epoch with a `val_loss`.
pub(crate) fn epoch_end(epoch: i64, val_loss: f64) -> v1::Event {
    v1::Event {
        kind: v1::EventKind::EpochEnd.into(),
        epoch,
        metrics: [("val_loss".to_owned(), val_loss)].into(),
        ..v1::Event::default()
    }
}

/// The end of a batch with a `loss`.
pub(crate) fn batch_end(epoch: i64, batch: i64, loss: f64) -> v1::Event {
    v1::Event {
        kind: v1::EventKind::BatchEnd.into(),
        epoch,
        batch: Some(batch),
        metrics: [("loss".to_owned(), loss)].into(),
        ..v1::Event::default()
    }
}

/// A run that was started, over a bare channel and without retries: what a test sends is what the server gets.
pub(crate) struct Trainer {
    pub(crate) channel: Channel,
    pub(crate) run: String,
    pub(crate) attempt: i64,
    pub(crate) sequence: i64,
}

impl Trainer {
    /// Starts `run` with the strategy.
    pub(crate) async fn start(server: &TestServer, run: &str, strategy: v1::Strategy) -> Trainer {
        Self::start_as(server, start_request(run, strategy)).await.unwrap()
    }

    /// Starts whatever the request says.
    pub(crate) async fn start_as(
        server: &TestServer,
        request: v1::StartRunRequest,
    ) -> Result<Trainer, Status> {
        let started = server.runs().start_run(request).await?.into_inner();
        Ok(Trainer {
            channel: server.channel(),
            run: started.run.unwrap().name,
            attempt: started.attempt,
            sequence: started.next_sequence,
        })
    }

    /// Reports events and answers the decisions.
    pub(crate) async fn report(&mut self, events: Vec<v1::Event>) -> Result<Vec<v1::Decision>, Status> {
        let request = v1::ReportEventsRequest {
            run: self.run.clone(),
            attempt: self.attempt,
            writer: String::new(),
            first_sequence: self.sequence,
            events,
        };
        let mut runs = v1::runs_client::RunsClient::new(self.channel.clone());
        let answer = runs.report_events(request).await?.into_inner();
        self.sequence = answer.next_sequence;
        Ok(answer.decisions)
    }

    /// Reports the end of an epoch and answers its one decision.
    pub(crate) async fn epoch(&mut self, epoch: i64, val_loss: f64) -> v1::Decision {
        self.report(vec![epoch_end(epoch, val_loss)]).await.unwrap().pop().unwrap()
    }

    /// Declares a file and writes it in one stream of 1 MiB messages.
    pub(crate) async fn upload(&self, checkpoint: &str, path: &str, data: &[u8]) -> Result<v1::File, Status> {
        let mut checkpoints = v1::checkpoints_client::CheckpointsClient::new(self.channel.clone());
        let prepare = v1::PrepareFileRequest {
            checkpoint: checkpoint.to_owned(),
            attempt: self.attempt,
            path: path.to_owned(),
            size_bytes: i64::try_from(data.len()).unwrap(),
            sha256: Vec::new().into(),
        };
        let file = checkpoints.prepare_file(prepare).await?.into_inner();
        let offset = usize::try_from(file.durable_bytes).unwrap();
        let messages = self.messages(checkpoint, path, data, offset);
        Ok(checkpoints.write_file(futures::stream::iter(messages)).await?.into_inner())
    }

    /// The messages of a whole upload from an offset on.
    pub(crate) fn messages(
        &self,
        checkpoint: &str,
        path: &str,
        data: &[u8],
        offset: usize,
    ) -> Vec<v1::WriteFileRequest> {
        let mut messages: Vec<v1::WriteFileRequest> = data[offset..]
            .chunks(1 << 20)
            .map(|part| v1::WriteFileRequest {
                data: part.to_vec().into(),
                ..v1::WriteFileRequest::default()
            })
            .collect();
        if messages.is_empty() {
            messages.push(v1::WriteFileRequest::default());
        }
        let first = messages.first_mut().unwrap();
        first.checkpoint = checkpoint.to_owned();
        first.attempt = self.attempt;
        first.path = path.to_owned();
        first.offset_bytes = i64::try_from(offset).unwrap();
        messages.last_mut().unwrap().finish = true;
        messages
    }

    /// Commits a checkpoint.
    pub(crate) async fn commit(&self, checkpoint: &str) -> Result<v1::Version, Status> {
        let request = v1::CommitCheckpointRequest {
            checkpoint: checkpoint.to_owned(),
            attempt: self.attempt,
            ..v1::CommitCheckpointRequest::default()
        };
        let mut checkpoints = v1::checkpoints_client::CheckpointsClient::new(self.channel.clone());
        Ok(checkpoints.commit_checkpoint(request).await?.into_inner())
    }

    /// Reports an epoch, uploads `data` as its model and commits it; panics if it is not saved.
    pub(crate) async fn save(&mut self, epoch: i64, val_loss: f64, data: &[u8]) -> v1::Version {
        let decision = self.epoch(epoch, val_loss).await;
        assert_eq!(decision.action(), v1::Action::Save, "{}", decision.reason_text);
        self.upload(&decision.checkpoint, "model.keras", data).await.unwrap();
        self.commit(&decision.checkpoint).await.unwrap()
    }
}

/// All bytes of a file of a version.
pub(crate) async fn read(server: &TestServer, version: &str, path: &str) -> Result<Vec<u8>, Status> {
    let request = v1::ReadFileRequest {
        version: version.to_owned(),
        path: path.to_owned(),
        ..v1::ReadFileRequest::default()
    };
    let mut messages = server.artifacts().read_file(request).await?.into_inner();
    let mut data = Vec::new();
    while let Some(message) = messages.message().await? {
        assert_eq!(usize::try_from(message.offset_bytes).unwrap(), data.len());
        data.extend_from_slice(&message.data);
    }
    Ok(data)
}

/// The reason in a status' details.
pub(crate) fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

/// A part of the metadata in a status' details.
pub(crate) fn detail(status: &Status, key: &str) -> String {
    status.get_details_error_info().and_then(|info| info.metadata.get(key).cloned()).unwrap_or_default()
}

/// Bytes that do not repeat, different for each seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    let mut data = vec![0; length];
    hasher.finalize_xof().fill(&mut data);
    data
}
