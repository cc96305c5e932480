//! One method for each RPC: it takes the request message and returns the response message. The `.proto` files say what they
//! mean. Where a message holds only the first page of a list, the rest of it is asked for. Unary calls are retried as the client's
//! [`Retry`](crate::Retry) says; streams are not.

mod admin;

use std::time::Duration;

use bytes::Bytes;
use tonic::Streaming;
use tonic::transport::Channel;

use keepbest_proto::v1;
use keepbest_proto::v1::artifacts_client::ArtifactsClient;
use keepbest_proto::v1::checkpoints_client::CheckpointsClient;
use keepbest_proto::v1::projects_client::ProjectsClient;
use keepbest_proto::v1::runs_client::RunsClient;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::patience::Work;

/// The most items that the server puts into one page.
const MAX_PAGE: i32 = 1_000;

/// How long to wait for what the server has before its bytes are sent all the same.
const ASK_TIME: Duration = Duration::from_secs(10);

fn missing_of(answer: &v1::FindMissingChunksResponse, asked: usize) -> Result<Vec<usize>> {
    let place = |it: &i32| usize::try_from(*it).ok().filter(|it| *it < asked);
    let missing: Option<Vec<usize>> = answer.missing.iter().map(place).collect();
    let wrong = || Error::Protocol("FindMissingChunks named a chunk that was not asked for".to_owned());
    missing.ok_or_else(wrong)
}

fn runs(channel: Channel) -> RunsClient<Channel> {
    RunsClient::new(channel)
}

fn checkpoints(channel: Channel) -> CheckpointsClient<Channel> {
    CheckpointsClient::new(channel)
}

fn projects(channel: Channel) -> ProjectsClient<Channel> {
    ProjectsClient::new(channel)
}

pub(crate) fn artifacts(channel: Channel) -> ArtifactsClient<Channel> {
    ArtifactsClient::new(channel)
}

/// Runs. Errors: [`Error::Refused`](crate::Error::Refused) with the codes of `runs.proto`,
/// [`Error::Unreachable`](crate::Error::Unreachable) when no answer comes.
impl Client {
    /// Creates or resumes a run and begins an attempt. An empty `request_id` is filled in, so that a retry of the call does
    /// not begin a second attempt.
    pub async fn start_run(&self, mut request: v1::StartRunRequest) -> Result<v1::StartRunResponse> {
        if request.request_id.is_empty() {
            request.request_id = uuid::Uuid::new_v4().to_string();
        }
        self.unary("StartRun", Work::Rows, request, |channel, request| async move {
            runs(channel).start_run(request).await
        })
        .await
    }

    /// Reports events; each that is due is answered with a decision.
    pub async fn report_events(&self, request: v1::ReportEventsRequest) -> Result<v1::ReportEventsResponse> {
        let call = |channel, request| async move { runs(channel).report_events(request).await };
        self.unary("ReportEvents", Work::Rows, request, call).await
    }

    /// Reports events on one stream: one response for each request, in order. Not retried.
    pub async fn stream_events(
        &self,
        requests: impl futures::Stream<Item = v1::ReportEventsRequest> + Send + 'static,
    ) -> Result<Streaming<v1::ReportEventsResponse>> {
        match runs(self.channel(0)).stream_events(self.request(requests)).await {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(self.error("StreamEvents", &status)),
        }
    }

    /// Ends a run as finished or failed. Repeating it does no harm.
    pub async fn finish_run(&self, request: v1::FinishRunRequest) -> Result<v1::Run> {
        self.unary("FinishRun", Work::Rows, request, |channel, request| async move {
            runs(channel).finish_run(request).await
        })
        .await
    }

    /// A run, by its resource name.
    pub async fn get_run(&self, name: &str) -> Result<v1::Run> {
        let request = v1::GetRunRequest { name: name.to_owned() };
        self.unary("GetRun", Work::Rows, request, |channel, request| async move {
            runs(channel).get_run(request).await
        })
        .await
    }

    /// A page of runs, newest first.
    pub async fn list_runs(&self, request: v1::ListRunsRequest) -> Result<v1::ListRunsResponse> {
        self.unary("ListRuns", Work::Rows, request, |channel, request| async move {
            runs(channel).list_runs(request).await
        })
        .await
    }

    /// A page of the events of a run, oldest first.
    pub async fn list_events(&self, request: v1::ListEventsRequest) -> Result<v1::ListEventsResponse> {
        self.unary("ListEvents", Work::Rows, request, |channel, request| async move {
            runs(channel).list_events(request).await
        })
        .await
    }

    /// A page of the decisions of a run, oldest first.
    pub async fn list_decisions(
        &self,
        request: v1::ListDecisionsRequest,
    ) -> Result<v1::ListDecisionsResponse> {
        let call = |channel, request| async move { runs(channel).list_decisions(request).await };
        self.unary("ListDecisions", Work::Rows, request, call).await
    }

    /// A sign of life of a process that has nothing else to say.
    pub async fn heartbeat(&self, request: v1::HeartbeatRequest) -> Result<v1::HeartbeatResponse> {
        let call = |channel, request| async move { runs(channel).heartbeat(request).await };
        self.unary("Heartbeat", Work::Rows, request, call).await
    }

    /// Deletes a run with its versions and history. A retry after a lost answer may be told `NOT_FOUND` because the first try deleted
    /// it: `allow_missing` makes that an answer.
    pub async fn delete_run(&self, request: v1::DeleteRunRequest) -> Result<v1::Deletion> {
        let call = |channel, request| async move { runs(channel).delete_run(request).await };
        self.unary("DeleteRun", Work::Deletion, request, call).await
    }

    /// The decision on an event that another process reports. One call waits for at most 25 s.
    pub async fn await_decision(
        &self,
        request: v1::AwaitDecisionRequest,
    ) -> Result<v1::AwaitDecisionResponse> {
        let call = |channel, request| async move { runs(channel).await_decision(request).await };
        self.unary("AwaitDecision", Work::WaitForReport, request, call).await
    }
}

/// Projects. Errors: [`Error::Refused`](crate::Error::Refused) with the codes of `projects.proto`,
/// [`Error::Unreachable`](crate::Error::Unreachable) when no answer comes.
impl Client {
    /// A page of the projects of a team.
    pub async fn list_projects(&self, request: v1::ListProjectsRequest) -> Result<v1::ListProjectsResponse> {
        let call = |channel, request| async move { projects(channel).list_projects(request).await };
        self.unary("ListProjects", Work::Rows, request, call).await
    }

    /// Deletes all runs and artifacts of a project. As for [`Client::delete_run`], a retry may need `allow_missing`.
    pub async fn delete_project(&self, request: v1::DeleteProjectRequest) -> Result<v1::Deletion> {
        let call = |channel, request| async move { projects(channel).delete_project(request).await };
        self.unary("DeleteProject", Work::Deletion, request, call).await
    }
}

/// Checkpoints. Errors: [`Error::Refused`](crate::Error::Refused) with the codes of `checkpoints.proto`,
/// [`Error::Unreachable`](crate::Error::Unreachable) when no answer comes.
impl Client {
    /// Declares a file, or finds it if it was declared before, and says how many of its bytes are durable.
    pub async fn prepare_file(&self, request: v1::PrepareFileRequest) -> Result<v1::File> {
        let call = |channel, request| async move { checkpoints(channel).prepare_file(request).await };
        self.unary("PrepareFile", Work::Rows, request, call).await
    }

    /// Writes a prepared file. Not retried; [`upload_file`](crate::upload_file) does that, from where the bytes are durable.
    pub async fn write_file(
        &self,
        requests: impl futures::Stream<Item = v1::WriteFileRequest> + Send + 'static,
    ) -> Result<v1::File> {
        self.write_file_on(0, requests).await
    }

    /// As [`Client::write_file`], on a connection that the caller chooses.
    pub(crate) async fn write_file_on(
        &self,
        connection: usize,
        requests: impl futures::Stream<Item = v1::WriteFileRequest> + Send + 'static,
    ) -> Result<v1::File> {
        match checkpoints(self.channel(connection)).write_file(self.request(requests)).await {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(self.error("WriteFile", &status)),
        }
    }

    /// Which of the chunks, by their places in `digests`, the checkpoint's team has not; of equal ones the first. At most 10,000
    /// are asked for at once.
    pub async fn find_missing_chunks(&self, checkpoint: &str, digests: &[[u8; 32]]) -> Result<Vec<usize>> {
        let request = v1::FindMissingChunksRequest {
            checkpoint: checkpoint.to_owned(),
            digests: digests.iter().map(|it| Bytes::copy_from_slice(it)).collect(),
        };
        let call = |channel, request| async move { checkpoints(channel).find_missing_chunks(request).await };
        let answer = self.unary("FindMissingChunks", Work::Rows, request, call).await?;
        missing_of(&answer, digests.len())
    }

    /// The same, asked once and not for long; none: nobody said it.
    pub(crate) async fn ask_missing_chunks(
        &self,
        checkpoint: &str,
        digests: &[[u8; 32]],
    ) -> Option<Vec<usize>> {
        let request = v1::FindMissingChunksRequest {
            checkpoint: checkpoint.to_owned(),
            digests: digests.iter().map(|it| Bytes::copy_from_slice(it)).collect(),
        };
        let mut checkpoints = checkpoints(self.channel(0));
        let asked = tokio::time::timeout(ASK_TIME, checkpoints.find_missing_chunks(request)).await;
        missing_of(asked.ok()?.ok()?.get_ref(), digests.len()).ok()
    }

    /// Writes many small files in one call.
    pub async fn write_small_files(
        &self,
        request: v1::WriteSmallFilesRequest,
    ) -> Result<v1::WriteSmallFilesResponse> {
        let call = |channel, request| async move { checkpoints(channel).write_small_files(request).await };
        self.unary("WriteSmallFiles", Work::Objects, request, call).await
    }

    /// Publishes a checkpoint as a version. Repeating it returns the same version.
    pub async fn commit_checkpoint(&self, request: v1::CommitCheckpointRequest) -> Result<v1::Version> {
        let work = if request.part_count > 0 { Work::WaitForParts } else { Work::Objects };
        let call = |channel, request| async move { checkpoints(channel).commit_checkpoint(request).await };
        self.unary("CommitCheckpoint", work, request, call).await
    }

    /// Gives up a save, so that the earlier best stands.
    pub async fn abandon_checkpoint(&self, request: v1::AbandonCheckpointRequest) -> Result<v1::Checkpoint> {
        let call = |channel, request| async move { checkpoints(channel).abandon_checkpoint(request).await };
        self.unary("AbandonCheckpoint", Work::Rows, request, call).await
    }

    /// A checkpoint in any state; with all of its files, or none of them.
    pub async fn get_checkpoint(&self, name: &str, include_files: bool) -> Result<v1::Checkpoint> {
        let request = v1::GetCheckpointRequest { name: name.to_owned() };
        let call = |channel, request| async move { checkpoints(channel).get_checkpoint(request).await };
        let mut checkpoint = self.unary("GetCheckpoint", Work::Rows, request, call).await?;
        let token = std::mem::take(&mut checkpoint.files_next_page_token);
        if !include_files {
            checkpoint.files.clear();
            return Ok(checkpoint);
        }
        checkpoint.files.extend(self.files_from(&checkpoint.name, token).await?);
        Ok(checkpoint)
    }
}

/// Artifacts. Errors: [`Error::Refused`](crate::Error::Refused) with the codes of `artifacts.proto`,
/// [`Error::Unreachable`](crate::Error::Unreachable) when no answer comes.
impl Client {
    /// The best version in a run, an artifact, a project or a team; with all of its files, if they are asked for.
    pub async fn get_best_version(&self, request: v1::GetBestVersionRequest) -> Result<v1::Version> {
        let call = |channel, request| async move { artifacts(channel).get_best_version(request).await };
        let version = self.unary("GetBestVersion", Work::Rows, request, call).await?;
        self.with_all_files(version).await
    }

    /// A version, by the resource name with its number or an alias; with all of its files, if they are asked for.
    pub async fn get_version(&self, name: &str, include_files: bool) -> Result<v1::Version> {
        let request = v1::GetVersionRequest { name: name.to_owned(), include_files };
        let call = |channel, request| async move { artifacts(channel).get_version(request).await };
        let version = self.unary("GetVersion", Work::Rows, request, call).await?;
        self.with_all_files(version).await
    }

    async fn with_all_files(&self, mut version: v1::Version) -> Result<v1::Version> {
        let token = std::mem::take(&mut version.files_next_page_token);
        version.files.extend(self.files_from(&version.name, token).await?);
        Ok(version)
    }

    /// The files behind a page that a token goes on from; none if it is empty.
    async fn files_from(&self, parent: &str, token: String) -> Result<Vec<v1::File>> {
        let mut files = Vec::new();
        let mut request =
            v1::ListFilesRequest { parent: parent.to_owned(), page_size: MAX_PAGE, page_token: token };
        while !request.page_token.is_empty() {
            let page = self.list_files(request.clone()).await?;
            files.extend(page.files);
            request.page_token = page.next_page_token;
        }
        Ok(files)
    }

    /// A page of the versions of an artifact that match a filter. It may be empty although more follow: the list goes on as long
    /// as there is a `next_page_token`.
    pub async fn list_versions(&self, request: v1::ListVersionsRequest) -> Result<v1::ListVersionsResponse> {
        let call = |channel, request| async move { artifacts(channel).list_versions(request).await };
        self.unary("ListVersions", Work::Rows, request, call).await
    }

    /// An artifact, by its resource name; with all of its aliases, or none of them.
    pub async fn get_artifact(&self, name: &str, include_aliases: bool) -> Result<v1::Artifact> {
        let request = v1::GetArtifactRequest { name: name.to_owned() };
        let call = |channel, request| async move { artifacts(channel).get_artifact(request).await };
        let mut artifact = self.unary("GetArtifact", Work::Rows, request, call).await?;
        let page_token = std::mem::take(&mut artifact.aliases_next_page_token);
        if !include_aliases {
            artifact.aliases.clear();
            return Ok(artifact);
        }
        let mut request =
            v1::ListAliasesRequest { parent: artifact.name.clone(), page_size: MAX_PAGE, page_token };
        while !request.page_token.is_empty() {
            let page = self.list_aliases(request.clone()).await?;
            artifact.aliases.extend(page.aliases);
            request.page_token = page.next_page_token;
        }
        Ok(artifact)
    }

    /// A page of the artifacts of a project or a team.
    pub async fn list_artifacts(
        &self,
        request: v1::ListArtifactsRequest,
    ) -> Result<v1::ListArtifactsResponse> {
        let call = |channel, request| async move { artifacts(channel).list_artifacts(request).await };
        self.unary("ListArtifacts", Work::Rows, request, call).await
    }

    /// A page of the files of a version or a checkpoint.
    pub async fn list_files(&self, request: v1::ListFilesRequest) -> Result<v1::ListFilesResponse> {
        let call = |channel, request| async move { artifacts(channel).list_files(request).await };
        self.unary("ListFiles", Work::Rows, request, call).await
    }

    /// A page of the aliases of an artifact.
    pub async fn list_aliases(&self, request: v1::ListAliasesRequest) -> Result<v1::ListAliasesResponse> {
        let call = |channel, request| async move { artifacts(channel).list_aliases(request).await };
        self.unary("ListAliases", Work::Rows, request, call).await
    }

    /// The bytes of a file or of a range of it. Not retried; [`pull`](crate::pull()) does that, from where the stream broke.
    pub async fn read_file(&self, request: v1::ReadFileRequest) -> Result<Streaming<v1::ReadFileResponse>> {
        self.read_file_on(0, request).await
    }

    /// As [`Client::read_file`], on a connection that the caller chooses.
    pub(crate) async fn read_file_on(
        &self,
        connection: usize,
        request: v1::ReadFileRequest,
    ) -> Result<Streaming<v1::ReadFileResponse>> {
        match artifacts(self.channel(connection)).read_file(self.request(request)).await {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(self.error("ReadFile", &status)),
        }
    }

    /// Creates an alias or moves it. With `expected_version`, a retry after a lost answer may be refused with `ALIAS_MOVED`
    /// because the first try moved the alias.
    pub async fn set_alias(&self, request: v1::SetAliasRequest) -> Result<v1::Version> {
        let call = |channel, request| async move { artifacts(channel).set_alias(request).await };
        self.unary("SetAlias", Work::Rows, request, call).await
    }

    /// Removes an alias. A retry after a lost answer may be told `NOT_FOUND` because the first try removed it: `allow_missing` makes
    /// that an answer.
    pub async fn delete_alias(&self, request: v1::DeleteAliasRequest) -> Result<v1::DeleteAliasResponse> {
        let call = |channel, request| async move { artifacts(channel).delete_alias(request).await };
        self.unary("DeleteAlias", Work::Rows, request, call).await
    }

    /// Deletes the versions of an artifact that a filter matches, or only counts them.
    pub async fn delete_versions(&self, request: v1::DeleteVersionsRequest) -> Result<v1::Deletion> {
        let call = |channel, request| async move { artifacts(channel).delete_versions(request).await };
        self.unary("DeleteVersions", Work::Deletion, request, call).await
    }

    /// Deletes an artifact with its versions. A retry after a lost answer may be told `NOT_FOUND` because the first try deleted it:
    /// `allow_missing` makes that an answer.
    pub async fn delete_artifact(&self, request: v1::DeleteArtifactRequest) -> Result<v1::Deletion> {
        let call = |channel, request| async move { artifacts(channel).delete_artifact(request).await };
        self.unary("DeleteArtifact", Work::Deletion, request, call).await
    }

    /// Deletes a version. Its number is never used again.
    pub async fn delete_version(
        &self,
        request: v1::DeleteVersionRequest,
    ) -> Result<v1::DeleteVersionResponse> {
        let call = |channel, request| async move { artifacts(channel).delete_version(request).await };
        self.unary("DeleteVersion", Work::Objects, request, call).await
    }
}
