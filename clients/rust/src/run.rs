//! A run as its trainer uses it: report events, save what the decisions ask for, finish.

use std::path::Path;

use keepbest_proto::v1;
use prost::Message as _;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::heartbeat::Heartbeat;
use crate::upload::{UploadOptions, Uploaded, upload};

/// The server takes 10,000 events in one request. But each of them may be answered with a decision, and of those that are answered
/// with many texts the server takes only some at a time.
const MAX_EVENTS: usize = 1_000;
/// The server takes requests of 4 MiB.
const MAX_EVENTS_BYTES: usize = 3 << 20;

/// One of several processes (ranks) that save a checkpoint together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The rank, counted from 0.
    pub number: i32,
    /// How many processes there are; all of them must name the same count.
    pub count: i32,
}

/// One attempt of a run, in the hands of its trainer.
///
/// ```text
/// start -> (report -> save for each decision SAVE)* -> finish
/// ```
///
/// Until it is finished or dropped, a task of its own tells the server every 30 s that this process lives.
#[derive(Debug)]
pub struct Run {
    client: Client,
    started: v1::StartRunResponse,
    name: String,
    writer: String,
    next_sequence: i64,
    next_due: Option<v1::NextDue>,
    heartbeat: Heartbeat,
}

impl Run {
    /// Creates or resumes a run and begins an attempt of it.
    ///
    /// # Errors
    /// [`Error::Refused`]: `BAD_STRATEGY`, `RUN_EXISTS`, `MONITOR_CONFLICT` and the others of `StartRun`.
    pub async fn start(client: &Client, request: v1::StartRunRequest) -> Result<Run> {
        let mut started = client.start_run(request).await?;
        let run = started
            .run
            .as_ref()
            .ok_or_else(|| Error::Protocol("StartRun answered without a run".to_owned()))?;
        Ok(Run {
            client: client.clone(),
            heartbeat: Heartbeat::begin(client, &run.name, started.attempt),
            name: run.name.clone(),
            writer: String::new(),
            next_sequence: started.next_sequence,
            next_due: started.next_due.take(),
            started,
        })
    }

    /// Takes up the newest attempt of a run, which another process began and did not end, from its first event on: the events that
    /// it had reported are reported again, and answered as they were then. Nothing is asked of the server.
    pub fn take_up(client: &Client, run: v1::Run) -> Run {
        Run {
            client: client.clone(),
            heartbeat: Heartbeat::begin(client, &run.name, run.attempt),
            name: run.name.clone(),
            writer: String::new(),
            next_sequence: 0,
            next_due: None,
            started: v1::StartRunResponse {
                attempt: run.attempt,
                run: Some(run),
                resumed: true,
                ..Default::default()
            },
        }
    }

    /// The resource name, `teams/*/projects/*/runs/*`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of this attempt. From its start on, older attempts can change nothing any more.
    pub fn attempt(&self) -> i64 {
        self.started.attempt
    }

    /// The server's answer to the start: the direction it resolved, warnings, whether the run existed, and more.
    pub fn started(&self) -> &v1::StartRunResponse {
        &self.started
    }

    /// The newest version that the run had when this attempt began, to resume training from.
    pub fn resume_from(&self) -> Option<&v1::Version> {
        self.started.resume_from.as_ref()
    }

    /// The sequence number that the next event will have.
    pub fn next_sequence(&self) -> i64 {
        self.next_sequence
    }

    /// When the next decision can come. Until then there is no need to wait for the answers to reports.
    pub fn next_due(&self) -> Option<&v1::NextDue> {
        self.next_due.as_ref()
    }

    /// Reports events, in order, and returns the decisions on those at which a save was due. Many events are sent in several
    /// requests.
    ///
    /// After an error the same events may be reported again: those that were stored are not stored twice, and their decisions are
    /// returned again.
    ///
    /// # Errors
    /// [`Error::Refused`]: `STALE_ATTEMPT` when a newer attempt took over, `BAD_EVENT`, `RUN_FINISHED` and the others of
    /// `ReportEvents`.
    pub async fn report(&mut self, events: Vec<v1::Event>) -> Result<Vec<v1::Decision>> {
        let mut decisions = Vec::new();
        let mut sequence = self.next_sequence;
        let mut next_due = None;
        for mut events in batches(events) {
            // The server may take only the first events, when their decisions fill an answer.
            while !events.is_empty() {
                let request = v1::ReportEventsRequest {
                    run: self.name.clone(),
                    attempt: self.attempt(),
                    writer: self.writer.clone(),
                    first_sequence: sequence,
                    events: events.clone(),
                };
                let response = self.client.report_events(request).await?;
                let taken = usize::try_from(response.next_sequence - sequence).unwrap_or(0).min(events.len());
                if taken == 0 {
                    return Err(Error::Protocol(format!("ReportEvents took no event from {sequence} on")));
                }
                events.drain(..taken);
                decisions.extend(response.decisions);
                sequence += i64::try_from(taken).expect("a batch has at most 1,000 events");
                next_due = response.next_due;
            }
        }
        // Only now, because after an error the caller reports all events again, from the same sequence number on.
        self.next_sequence = sequence;
        self.next_due = next_due.or(self.next_due.take());
        Ok(decisions)
    }

    /// Uploads a file or a directory for a decision SAVE and publishes it. It may be called again whenever it fails: the upload
    /// goes on where it broke off, and after the commit the same version is returned.
    ///
    /// # Errors
    /// As [`upload`] and [`Run::commit`].
    pub async fn save(&self, decision: &v1::Decision, source: &Path) -> Result<v1::Version> {
        let uploaded = self.upload(&decision.checkpoint, source, &UploadOptions::default()).await?;
        self.commit(&decision.checkpoint, uploaded.file_count).await
    }

    /// Uploads a file or a directory to a checkpoint, without publishing it.
    ///
    /// # Errors
    /// As [`upload`].
    pub async fn upload(&self, checkpoint: &str, source: &Path, options: &UploadOptions) -> Result<Uploaded> {
        upload(&self.client, checkpoint, self.attempt(), source, options).await
    }

    /// Publishes a checkpoint as the next version of its artifact; called again, it returns the same version. `file_count` is the
    /// number of files that the checkpoint must have; 0 is not checked.
    ///
    /// # Errors
    /// [`Error::Refused`]: `FILES_INCOMPLETE`, `STALE_ATTEMPT`, `CHECKPOINT_DELETED` and the others of `CommitCheckpoint`;
    /// [`Error::Corrupt`] if it was committed before with another number of files.
    pub async fn commit(&self, checkpoint: &str, file_count: u64) -> Result<v1::Version> {
        let request = v1::CommitCheckpointRequest {
            checkpoint: checkpoint.to_owned(),
            attempt: self.attempt(),
            file_count: i64::try_from(file_count).unwrap_or(i64::MAX),
            ..Default::default()
        };
        let version = self.client.commit_checkpoint(request).await?;
        if file_count > 0 && u64::try_from(version.file_count) != Ok(file_count) {
            return Err(Error::Corrupt(format!(
                "checkpoint `{checkpoint}` was committed with {} files before, not with {file_count}, and never changes: \
                 other files need another save",
                version.file_count
            )));
        }
        Ok(version)
    }

    /// Uploads the files of one of several processes (ranks) for a decision SAVE, and waits for the version that they make
    /// together. The paths of their files must differ.
    ///
    /// # Errors
    /// As [`upload`] and [`Run::commit_part`]. A process that cannot save its part calls [`Run::abandon`], so that the others do
    /// not wait for it.
    pub async fn save_part(&self, decision: &v1::Decision, source: &Path, part: Part) -> Result<v1::Version> {
        let uploaded = self.upload(&decision.checkpoint, source, &UploadOptions::default()).await?;
        self.commit_part(&decision.checkpoint, uploaded.file_count, part).await
    }

    /// Says that a part of a checkpoint is complete, with `file_count` files, and waits until all parts are or the server gives
    /// them up.
    ///
    /// # Errors
    /// [`Error::Refused`]: `PARTS_EXPIRED` names the parts that did not come in time, `STALE_ATTEMPT`, `CHECKPOINT_DELETED` if
    /// another process gave up, `PARTS_MISMATCH` and the others of `CommitCheckpoint`.
    pub async fn commit_part(&self, checkpoint: &str, file_count: u64, part: Part) -> Result<v1::Version> {
        let request = v1::CommitCheckpointRequest {
            checkpoint: checkpoint.to_owned(),
            attempt: self.attempt(),
            file_count: i64::try_from(file_count).unwrap_or(i64::MAX),
            part: part.number,
            part_count: part.count,
            ..Default::default()
        };
        loop {
            match self.client.commit_checkpoint(request.clone()).await {
                Err(error) if error.reason() == "PARTS_MISSING" => {}
                answer => return answer,
            }
        }
    }

    /// The decision on the end of an epoch, or of a batch, that the leading process of this attempt reports. Waits until it has
    /// reported it, for as long as the attempt and the run go on. None: no save was due.
    ///
    /// # Errors
    /// [`Error::Refused`]: `STALE_ATTEMPT`, `RUN_FINISHED`.
    pub async fn await_decision(&self, epoch: i64, batch: Option<i64>) -> Result<Option<v1::Decision>> {
        let request = v1::AwaitDecisionRequest {
            run: self.name.clone(),
            attempt: self.attempt(),
            epoch,
            batch,
            ..Default::default()
        };
        loop {
            match self.client.await_decision(request.clone()).await {
                Err(error) if error.reason() == "EVENT_MISSING" => {}
                answer => return Ok(answer?.decision),
            }
        }
    }

    /// Gives up a save, so that the earlier best stands and the next good value can win.
    ///
    /// # Errors
    /// [`Error::Refused`]: `CHECKPOINT_COMMITTED`, `STALE_ATTEMPT`.
    pub async fn abandon(&self, checkpoint: &str) -> Result<v1::Checkpoint> {
        let request =
            v1::AbandonCheckpointRequest { checkpoint: checkpoint.to_owned(), attempt: self.attempt() };
        self.client.abandon_checkpoint(request).await
    }

    /// Ends the run as finished or failed. Repeating it does no harm.
    ///
    /// # Errors
    /// [`Error::Refused`]: `STALE_ATTEMPT`.
    pub async fn finish(&self, state: v1::RunState) -> Result<v1::Run> {
        let request =
            v1::FinishRunRequest { name: self.name.clone(), attempt: self.attempt(), state: state.into() };
        let ended = self.client.finish_run(request).await?;
        self.heartbeat.end();
        Ok(ended)
    }
}

/// Divides events into requests of a size that the server takes.
fn batches(events: Vec<v1::Event>) -> Vec<Vec<v1::Event>> {
    let mut batches = Vec::new();
    let mut batch = Vec::new();
    let mut batch_bytes = 0;
    for event in events.into_iter().map(with_signs) {
        // In the request, each event has a tag and a length of up to five bytes in front.
        let event_bytes = event.encoded_len() + 6;
        if !batch.is_empty() && (batch.len() == MAX_EVENTS || batch_bytes + event_bytes > MAX_EVENTS_BYTES) {
            batches.push(std::mem::take(&mut batch));
            batch_bytes = 0;
        }
        batch_bytes += event_bytes;
        batch.push(event);
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

/// Moves metrics that are -0.0 to the typed ones. An entry of a map is encoded without its value if that equals 0, which -0.0
/// does, so that its sign would be lost.
fn with_signs(mut event: v1::Event) -> v1::Event {
    let lost = |value: &f64| *value == 0.0 && value.is_sign_negative();
    let names: Vec<_> =
        event.metrics.iter().filter(|(_, value)| lost(value)).map(|(name, _)| name.clone()).collect();
    for name in names {
        if let Some(value) = event.metrics.remove(&name) {
            let kind = Some(v1::metric_value::Kind::Number(value));
            event.typed_metrics.insert(name, v1::MetricValue { kind });
        }
    }
    event
}

#[cfg(test)]
mod tests {
    use keepbest_proto::v1;
    use prost::Message as _;

    use super::batches;

    fn event(text_bytes: usize) -> v1::Event {
        v1::Event { metrics: [("m".repeat(text_bytes), 1.0)].into(), ..Default::default() }
    }

    #[test]
    fn events_are_cut_by_count_and_by_bytes() {
        let counts = |events| batches(events).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(counts(Vec::new()), [0_usize; 0]);
        assert_eq!(counts(vec![event(1); 2_001]), [1_000, 1_000, 1]);
        assert_eq!(counts(vec![event(2 << 20); 3]), [1, 1, 1]);
        assert_eq!(counts(vec![event(1 << 20); 4]), [2, 2]);
    }

    #[test]
    fn the_sign_of_a_zero_is_sent() {
        let metrics = [("a".to_owned(), -0.0), ("b".to_owned(), 0.0), ("c".to_owned(), 1.0)];
        let event = v1::Event { metrics: metrics.into(), ..Default::default() };
        let sent = batches(vec![event]).remove(0).remove(0);
        let received = v1::Event::decode(&*sent.encode_to_vec()).unwrap();
        assert_eq!(received.metrics.into_iter().collect::<Vec<_>>(), [("b".into(), 0.0), ("c".into(), 1.0)]);
        let Some(v1::metric_value::Kind::Number(value)) = received.typed_metrics["a"].kind else {
            panic!("a number")
        };
        assert!(value.is_sign_negative());
    }
}
