//! The least request of each method that names a thing, so that one table can ask all of them.

use bytes::Bytes;
use keepbest_proto::v1;
use prost::Message;

use crate::support::raw;
use crate::support::requests::best_only;
use crate::support::requests::epoch_end;

/// What a method's request names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    Team,
    Project,
    Run,
    Checkpoint,
    Artifact,
    Version,
}

/// The methods about runs and what they saved: all but those of the service `Admin`.
pub(crate) fn methods() -> Vec<String> {
    raw::methods().into_iter().filter(|it| !it.starts_with("/keepbest.v1.Admin/")).collect()
}

/// What the request of a method (`/keepbest.v1.Runs/GetRun`) names. A new method needs a line here.
pub(crate) fn names(method: &str) -> Names {
    match short(method) {
        "ListProjects" => Names::Team,
        "StartRun" | "ListRuns" | "ListArtifacts" | "DeleteProject" => Names::Project,
        "ReportEvents" | "StreamEvents" | "FinishRun" | "GetRun" | "ListEvents" | "ListDecisions"
        | "AwaitDecision" | "GetBestVersion" | "WatchVersions" | "DeleteRun" | "Heartbeat" => Names::Run,
        "PrepareFile" | "WriteFile" | "WriteSmallFiles" | "FindMissingChunks" | "CommitCheckpoint"
        | "AbandonCheckpoint" | "GetCheckpoint" => Names::Checkpoint,
        "GetArtifact" | "ListVersions" | "ListAliases" | "SetAlias" | "DeleteAlias" | "DeleteVersions"
        | "DeleteArtifact" => Names::Artifact,
        "GetVersion" | "ListFiles" | "ReadFile" | "DeleteVersion" => Names::Version,
        other => panic!("{other} is a new method: say what it names"),
    }
}

/// Whether a method changes a run or a checkpoint, or acts for an attempt, so that only the newest attempt may call it.
pub(crate) fn is_fenced(method: &str) -> bool {
    let changes =
        ["ReportEvents", "StreamEvents", "FinishRun", "AwaitDecision", "Heartbeat"].contains(&short(method));
    let reads = ["GetCheckpoint", "FindMissingChunks"].contains(&short(method));
    changes || (names(method) == Names::Checkpoint && !reads)
}

fn short(method: &str) -> &str {
    method.rsplit('/').next().unwrap()
}

/// The method's request about `name`, valid in everything else.
pub(crate) fn request(method: &str, name: &str, attempt: i64) -> Bytes {
    let name = name.to_owned();
    let bytes = match names(method) {
        Names::Team | Names::Project | Names::Run => of_runs(short(method), name, attempt),
        Names::Checkpoint => of_checkpoints(short(method), name, attempt),
        Names::Artifact | Names::Version => of_artifacts(short(method), name),
    };
    bytes.into()
}

fn of_runs(method: &str, name: String, attempt: i64) -> Vec<u8> {
    let report = |run| v1::ReportEventsRequest {
        run,
        attempt,
        events: vec![epoch_end(0, 0.5)],
        ..v1::ReportEventsRequest::default()
    };
    match method {
        "StartRun" => {
            let strategy = Some(best_only());
            v1::StartRunRequest { parent: name, strategy, ..Default::default() }.encode_to_vec()
        }
        "ListRuns" => v1::ListRunsRequest { parent: name, ..Default::default() }.encode_to_vec(),
        "ListProjects" => v1::ListProjectsRequest { parent: name, ..Default::default() }.encode_to_vec(),
        "DeleteProject" => v1::DeleteProjectRequest { name, ..Default::default() }.encode_to_vec(),
        "Heartbeat" => v1::HeartbeatRequest { run: name, attempt }.encode_to_vec(),
        "DeleteRun" => v1::DeleteRunRequest { name, ..Default::default() }.encode_to_vec(),
        "ListArtifacts" => v1::ListArtifactsRequest { parent: name, ..Default::default() }.encode_to_vec(),
        "ReportEvents" | "StreamEvents" => report(name).encode_to_vec(),
        "FinishRun" => v1::FinishRunRequest { name, attempt, ..Default::default() }.encode_to_vec(),
        "GetRun" => v1::GetRunRequest { name }.encode_to_vec(),
        "ListEvents" => v1::ListEventsRequest { parent: name, ..Default::default() }.encode_to_vec(),
        "ListDecisions" => v1::ListDecisionsRequest { parent: name, ..Default::default() }.encode_to_vec(),
        "AwaitDecision" => {
            let wait = Some(prost_types::Duration::default());
            v1::AwaitDecisionRequest { run: name, attempt, wait, ..Default::default() }.encode_to_vec()
        }
        "WatchVersions" => v1::WatchVersionsRequest { parent: name, ..Default::default() }.encode_to_vec(),
        _ => v1::GetBestVersionRequest { parent: name, ..Default::default() }.encode_to_vec(),
    }
}

fn of_checkpoints(method: &str, checkpoint: String, attempt: i64) -> Vec<u8> {
    let path = "more.keras".to_owned();
    match method {
        "PrepareFile" => {
            let size_bytes = 1;
            v1::PrepareFileRequest { checkpoint, attempt, path, size_bytes, ..Default::default() }
                .encode_to_vec()
        }
        "WriteFile" => {
            let data = Bytes::from_static(b"x");
            v1::WriteFileRequest { checkpoint, attempt, path, data, finish: true, ..Default::default() }
                .encode_to_vec()
        }
        "WriteSmallFiles" => {
            let files = vec![v1::SmallFile { path, data: Bytes::from_static(b"x"), ..Default::default() }];
            v1::WriteSmallFilesRequest { checkpoint, attempt, files }.encode_to_vec()
        }
        "FindMissingChunks" => {
            v1::FindMissingChunksRequest { checkpoint, digests: Vec::new() }.encode_to_vec()
        }
        "CommitCheckpoint" => {
            v1::CommitCheckpointRequest { checkpoint, attempt, ..Default::default() }.encode_to_vec()
        }
        "AbandonCheckpoint" => v1::AbandonCheckpointRequest { checkpoint, attempt }.encode_to_vec(),
        _ => v1::GetCheckpointRequest { name: checkpoint }.encode_to_vec(),
    }
}

fn of_artifacts(method: &str, name: String) -> Vec<u8> {
    let alias = "mine".to_owned();
    match method {
        "GetArtifact" => v1::GetArtifactRequest { name }.encode_to_vec(),
        "ListVersions" => v1::ListVersionsRequest { parent: name, ..Default::default() }.encode_to_vec(),
        "ListAliases" => v1::ListAliasesRequest { parent: name, ..Default::default() }.encode_to_vec(),
        "SetAlias" => {
            let version = "v0".to_owned();
            v1::SetAliasRequest { artifact: name, alias, version, ..Default::default() }.encode_to_vec()
        }
        "DeleteAlias" => {
            v1::DeleteAliasRequest { artifact: name, alias, ..Default::default() }.encode_to_vec()
        }
        "DeleteVersions" => {
            let filter = "number >= 0".to_owned();
            v1::DeleteVersionsRequest { parent: name, filter, ..Default::default() }.encode_to_vec()
        }
        "DeleteArtifact" => v1::DeleteArtifactRequest { name, ..Default::default() }.encode_to_vec(),
        "GetVersion" => v1::GetVersionRequest { name, ..Default::default() }.encode_to_vec(),
        "ListFiles" => v1::ListFilesRequest { parent: name, ..Default::default() }.encode_to_vec(),
        "ReadFile" => {
            let path = "model.keras".to_owned();
            v1::ReadFileRequest { version: name, path, ..Default::default() }.encode_to_vec()
        }
        _ => v1::DeleteVersionRequest { name, ..Default::default() }.encode_to_vec(),
    }
}
