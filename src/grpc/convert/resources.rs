//! Stored rows as the wire's resources.

use bytes::Bytes;
use keepbest_proto::v1;
use keepbest_proto::v1::next_due::When;

use crate::app::AliasRow;
use crate::app::ArtifactRow;
use crate::app::DecisionRow;
use crate::app::Error;
use crate::app::LedTo;
use crate::app::PartRow;
use crate::app::VersionRow;
use crate::app::deletions::Deletion;
use crate::domain::checkpoint::Checkpoint;
use crate::domain::checkpoint::CheckpointState;
use crate::domain::decision::Action;
use crate::domain::decision::NextDue;
use crate::domain::decision::Reason;
use crate::domain::digest::Digest;
use crate::domain::file::StoredFile;
use crate::domain::ids::ArtifactName;
use crate::domain::ids::RunName;
use crate::domain::metric::Direction;
use crate::domain::refusal::Kind;
use crate::domain::run::Run;
use crate::domain::run::RunState;
use crate::grpc::convert::strategy::strategy_to;
use crate::grpc::convert::struct_of;
use crate::grpc::convert::timestamp_to;

fn bytes(digest: Option<Digest>) -> Bytes {
    digest.map(|it| Bytes::copy_from_slice(it.as_bytes())).unwrap_or_default()
}

fn checkpoint_name(run: &RunName, uid: &str) -> String {
    format!("{run}/checkpoints/{uid}")
}

/// A resolved direction.
fn direction_to(direction: Direction) -> i32 {
    match direction {
        Direction::Min => v1::Mode::Min,
        Direction::Max => v1::Mode::Max,
    }
    .into()
}

/// A run; `is_alive` is none once it has ended.
pub(crate) fn run_to(run: &Run, is_alive: Option<bool>) -> v1::Run {
    let contact = match is_alive {
        None => v1::Contact::Unspecified,
        Some(true) => v1::Contact::Alive,
        Some(false) => v1::Contact::Silent,
    };
    let state = match run.state {
        RunState::Active => v1::RunState::Active,
        RunState::Finished => v1::RunState::Finished,
        RunState::Failed => v1::RunState::Failed,
    };
    let monitor = &run.monitor_state;
    // None, once it was deleted and the run has not gone on.
    let artifact = Some(&run.artifact).filter(|it| !it.is_gone()).map(|artifact| {
        ArtifactName { project: run.name.project.clone(), artifact: artifact.clone() }.to_string()
    });
    v1::Run {
        name: run.name.to_string(),
        strategy: Some(strategy_to(&run.strategy)),
        direction: direction_to(run.direction),
        monitor_state: Some(v1::MonitorState {
            best: monitor.best,
            best_checkpoint: monitor
                .best_checkpoint
                .as_ref()
                .map(|uid| checkpoint_name(&run.name, uid))
                .unwrap_or_default(),
            batches_since_save: monitor.batches_since_save,
            in_flight: monitor
                .in_flight
                .iter()
                .map(|it| checkpoint_name(&run.name, &it.checkpoint))
                .collect(),
        }),
        attempt: run.attempt,
        state: state.into(),
        artifact: artifact.unwrap_or_default(),
        create_time: Some(timestamp_to(run.create_time_us)),
        update_time: Some(timestamp_to(run.update_time_us)),
        finish_time: run.finish_time_us.map(timestamp_to),
        event_count: run.event_count,
        last_epoch: run.last_epoch,
        config: struct_of(run.config.as_deref()),
        heard_time: Some(timestamp_to(run.heard_time_us)),
        contact: contact.into(),
        failure: run.failure.clone().unwrap_or_default(),
    }
}

/// What a deletion of the named thing came to; one that does not exist may be no error.
pub(crate) fn deletion_to(
    name: String,
    deleted: Result<Deletion, Error>,
    allow_missing: bool,
) -> Result<v1::Deletion, Error> {
    let deletion = match deleted {
        Err(Error::Refused(refusal)) if allow_missing && refusal.kind == Kind::NotFound => {
            return Ok(v1::Deletion { name, freed_bytes: Some(0), ..Default::default() });
        }
        deleted => deleted?,
    };
    Ok(v1::Deletion {
        name,
        run_count: deletion.run_count,
        artifact_count: deletion.artifact_count,
        version_count: deletion.version_count,
        event_count: deletion.event_count,
        size_bytes: deletion.size_bytes,
        freed_bytes: deletion.freed_bytes,
        kept_count: deletion.kept_count,
        sample: deletion
            .sample
            .iter()
            .map(|(artifact, number)| format!("{artifact}/versions/v{number}"))
            .collect(),
        purge_time: Some(timestamp_to(deletion.purge_time_us)),
    })
}

/// A decision of a run.
pub(crate) fn decision_to(run: &RunName, row: DecisionRow) -> v1::Decision {
    let decision = row.decision;
    let action = match decision.action {
        Action::Save => v1::Action::Save,
        Action::Skip => v1::Action::Skip,
        Action::Fail => v1::Action::Fail,
    };
    v1::Decision {
        writer: row.writer,
        sequence: row.sequence,
        attempt: row.attempt,
        epoch: row.epoch,
        batch: row.batch,
        action: action.into(),
        reason: reason_to(decision.reason),
        // Of a FAIL the client raises just this.
        reason_text: decision.error_text.unwrap_or(decision.reason_text),
        path: decision.path.unwrap_or_default(),
        checkpoint: row.checkpoint_uid.map(|uid| checkpoint_name(run, &uid)).unwrap_or_default(),
        weights_only: decision.weights_only,
        message: decision.message,
        finished_message: decision.finished_message,
        warnings: decision.warnings,
        error_type: decision.error_type.unwrap_or_default(),
        value: decision.value,
        best_before: decision.best_before,
        decide_time: Some(timestamp_to(row.decide_time_us)),
        improvement: decision.improvement,
        ..Default::default()
    }
}

/// A decision of a list, which tells what became of a SAVE.
pub(crate) fn listed_decision_to(run: &RunName, row: DecisionRow, led_to: Option<&LedTo>) -> v1::Decision {
    let outcome = match led_to {
        None => v1::Outcome::Unspecified,
        Some(LedTo { state: CheckpointState::Pending, .. }) => v1::Outcome::Open,
        Some(LedTo { state: CheckpointState::Committed, .. }) => v1::Outcome::Committed,
        Some(LedTo { state: CheckpointState::Deleted, version: Some(_), .. }) => v1::Outcome::Deleted,
        Some(LedTo { state: CheckpointState::Deleted, version: None, .. }) => v1::Outcome::GivenUp,
    };
    let version = led_to.filter(|it| !it.artifact.is_gone()).and_then(|it| {
        let artifact = ArtifactName { project: run.project.clone(), artifact: it.artifact.clone() };
        it.version.map(|number| format!("{artifact}/versions/v{number}"))
    });
    let decision = decision_to(run, row);
    v1::Decision { outcome: outcome.into(), version: version.unwrap_or_default(), ..decision }
}

fn reason_to(reason: Reason) -> i32 {
    match reason {
        Reason::Improved => v1::Reason::Improved,
        Reason::NotImproved => v1::Reason::NotImproved,
        Reason::EveryEpoch => v1::Reason::EveryEpoch,
        Reason::EveryBatches => v1::Reason::EveryBatches,
        Reason::MonitorMissing => v1::Reason::MonitorMissing,
        Reason::MonitorNotScalar => v1::Reason::MonitorNotScalar,
        Reason::MonitorNan => v1::Reason::MonitorNan,
        Reason::TemplateKeyMissing => v1::Reason::TemplateKeyMissing,
        Reason::TemplateError => v1::Reason::TemplateError,
    }
    .into()
}

/// When the next decision can come.
pub(crate) fn next_due_to(next: NextDue) -> v1::NextDue {
    let when = match next {
        NextDue::EpochEnd => When::EpochEnd(true),
        NextDue::Batches(batches) => When::Batches(batches),
        NextDue::EveryBatch => When::Batches(1),
    };
    v1::NextDue { when: Some(when) }
}

pub(crate) fn file_to(file: &StoredFile) -> v1::File {
    let state = if file.digest.is_some() { v1::FileState::Complete } else { v1::FileState::Open };
    v1::File {
        path: file.path.clone(),
        size_bytes: file.size_bytes,
        durable_bytes: file.durable_bytes,
        state: state.into(),
        digest: bytes(file.digest),
        sha256: bytes(file.sha256),
    }
}

/// A checkpoint with its complete parts; `version` is its version's name, once committed.
pub(crate) fn checkpoint_to(
    name: String,
    checkpoint: &Checkpoint,
    parts: &[PartRow],
    version: String,
) -> v1::Checkpoint {
    let state = match checkpoint.state {
        CheckpointState::Pending => v1::CheckpointState::Pending,
        CheckpointState::Committed => v1::CheckpointState::Committed,
        CheckpointState::Deleted => v1::CheckpointState::Deleted,
    };
    v1::Checkpoint {
        name,
        state: state.into(),
        attempt: checkpoint.attempt,
        epoch: checkpoint.epoch,
        batch: checkpoint.batch,
        path: checkpoint.path.clone(),
        create_time: Some(timestamp_to(checkpoint.create_time_us)),
        version,
        part_count: checkpoint.part_count.map_or(0, small),
        parts: parts.iter().map(part_to).collect(),
        ..v1::Checkpoint::default()
    }
}

fn part_to(part: &PartRow) -> v1::CheckpointPart {
    v1::CheckpointPart {
        part: small(part.part),
        file_count: part.file_count,
        complete_time: Some(timestamp_to(part.complete_time_us)),
    }
}

/// Numbers and counts of parts came in as `int32`.
fn small(number: i64) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// An alias of the artifact.
pub(crate) fn alias_to(artifact: &ArtifactName, alias: &AliasRow) -> v1::Alias {
    v1::Alias {
        alias: alias.alias.clone(),
        version: format!("{artifact}/versions/v{}", alias.version),
        update_time: Some(timestamp_to(alias.update_time_us)),
    }
}

pub(crate) fn artifact_to(artifact: &ArtifactRow) -> v1::Artifact {
    v1::Artifact {
        name: artifact.name.to_string(),
        r#type: artifact.kind.clone(),
        monitor: artifact.monitor.clone(),
        direction: direction_to(artifact.direction),
        version_count: artifact.version_count,
        create_time: Some(timestamp_to(artifact.create_time_us)),
        ..v1::Artifact::default()
    }
}

pub(crate) fn version_to(version: &VersionRow) -> v1::Version {
    let metrics = version.metrics.iter().filter_map(|(name, value)| Some((name.clone(), value.as_f64()?)));
    v1::Version {
        name: format!("{}/versions/v{}", version.artifact, version.number),
        number: version.number,
        run: version.checkpoint.run.to_string(),
        checkpoint: version.checkpoint.to_string(),
        attempt: version.attempt,
        epoch: version.epoch,
        batch: version.batch,
        step: version.step,
        path: version.path.clone(),
        weights_only: version.weights_only,
        size_bytes: version.size_bytes,
        file_count: version.file_count,
        digest: bytes(Some(version.digest)),
        metrics: metrics.collect(),
        aliases: version.aliases.clone(),
        alias_count: version.alias_count,
        reason: v1::Reason::from_str_name(&format!("REASON_{}", version.reason)).unwrap_or_default().into(),
        reason_text: version.reason_text.clone(),
        create_time: Some(timestamp_to(version.commit_time_us)),
        metadata: struct_of(version.metadata.as_deref()),
        ..v1::Version::default()
    }
}
