//! What each request asks for: the table of actions and resources, by which access is settled before a method begins.
//!
//! A request without a line here does not compile as one of a service.

use keepbest_proto::v1;
use tonic::Streaming;

use crate::domain::access::Action;
use crate::domain::access::Resource;
use crate::domain::ids::ArtifactName;
use crate::domain::ids::BestParent;
use crate::domain::ids::CheckpointName;
use crate::domain::ids::FilesParent;
use crate::domain::ids::Id;
use crate::domain::ids::ListParent;
use crate::domain::ids::ProjectName;
use crate::domain::ids::RunName;
use crate::domain::ids::TeamName;
use crate::domain::ids::VersionName;
use crate::domain::refusal::Refusal;
use crate::grpc::admin::Parent;
use crate::grpc::admin::TokenName;

/// What a request asks for.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) action: Action,
    pub(super) resource: Resource,
    /// How what it names is called if it is not found.
    pub(super) what: &'static str,
    /// Its whole name.
    pub(super) name: String,
    /// Whether the audit log tells of it. Of events and bytes the log tells where they became something: at the start of their
    /// attempt, and at the commit.
    pub(super) is_audited: bool,
    /// Events in it.
    pub(super) events: usize,
}

pub(super) trait Asks {
    /// None: of a stream, whose messages are asked one by one.
    fn asks(&self) -> Result<Option<Ask>, Refusal>;
}

impl<T> Asks for Streaming<T> {
    fn asks(&self) -> Result<Option<Ask>, Refusal> {
        Ok(None)
    }
}

/// A name as a resource: what it lies in decides.
trait Named: Sized {
    const WHAT: &'static str;
    fn parsed(text: &str) -> Result<Self, Refusal>;
    fn resource(self, attempt: Option<i64>) -> Resource;
    /// What is looked for in the name, if it is not found.
    fn what(&self) -> &'static str {
        Self::WHAT
    }
}

macro_rules! named {
    ($($name:ident: $what:literal, |$it:ident, $attempt:ident| $resource:expr;)*) => {$(
        impl Named for $name {
            const WHAT: &'static str = $what;
            fn parsed(text: &str) -> Result<Self, Refusal> {
                $name::parse(text)
            }
            fn resource(self, $attempt: Option<i64>) -> Resource {
                let $it = self;
                $resource
            }
        }
    )*};
}

named! {
    TeamName: "team", |it, _attempt| Resource::Team(it.team);
    ProjectName: "project", |it, _attempt| Resource::Project(it);
    RunName: "run", |it, attempt| Resource::Run(it, attempt);
    CheckpointName: "checkpoint", |it, attempt| Resource::Run(it.run, attempt);
    ArtifactName: "artifact", |it, _attempt| Resource::Project(it.project);
    VersionName: "version", |it, _attempt| Resource::Project(it.artifact.project);
    ListParent: "project", |it, _attempt| match it.project {
        Some(project) => Resource::Project(ProjectName { team: it.team, project }),
        None => Resource::Team(it.team),
    };
    Parent: "team", |it, _attempt| it.team.map_or(Resource::Service, Resource::Team);
    TokenName: "token", |it, _attempt| it.team.map_or(Resource::Service, Resource::Team);
}

impl Named for BestParent {
    const WHAT: &'static str = "version";

    fn parsed(text: &str) -> Result<Self, Refusal> {
        BestParent::parse(text)
    }

    fn resource(self, _attempt: Option<i64>) -> Resource {
        match self {
            BestParent::Run(run) => Resource::Run(run, None),
            BestParent::Artifact(artifact) => Resource::Project(artifact.project),
            BestParent::Project(project) => Resource::Project(project),
            BestParent::Team(team) => Resource::Team(team.team),
        }
    }

    fn what(&self) -> &'static str {
        BestParent::what(self)
    }
}

impl Named for FilesParent {
    const WHAT: &'static str = "version";

    fn parsed(text: &str) -> Result<Self, Refusal> {
        FilesParent::parse(text)
    }

    fn resource(self, _attempt: Option<i64>) -> Resource {
        match self {
            FilesParent::Version(version) => Resource::Project(version.artifact.project),
            FilesParent::Checkpoint(checkpoint) => Resource::Run(checkpoint.run, None),
        }
    }

    fn what(&self) -> &'static str {
        match self {
            FilesParent::Version(_) => "version",
            FilesParent::Checkpoint(_) => "checkpoint",
        }
    }
}

fn ask<N: Named>(
    text: &str,
    attempt: Option<i64>,
    action: Action,
    is_audited: bool,
) -> Result<Option<Ask>, Refusal> {
    let parsed = N::parsed(text)?;
    let what = parsed.what();
    let (resource, name) = (parsed.resource(attempt), text.to_owned());
    Ok(Some(Ask { action, resource, what, name, is_audited, events: 0 }))
}

/// `Request { field: Kind of name, attempt } => Action, audited;`
macro_rules! asks {
    ($($request:ident { $field:ident: $name:ty $(, $attempt:ident)? } => $action:ident $(, $audited:ident)?;)*) => {$(
        impl Asks for v1::$request {
            fn asks(&self) -> Result<Option<Ask>, Refusal> {
                let attempt: Option<i64> = None$(.or(Some(self.$attempt)))?;
                let is_audited = false$(|| stringify!($audited) == "audited")?;
                ask::<$name>(&self.$field, attempt, Action::$action, is_audited)
            }
        }
    )*};
}

asks! {
    StartRunRequest { parent: ProjectName } => Train, audited;
    FinishRunRequest { name: RunName, attempt } => Train, audited;
    GetRunRequest { name: RunName } => Read;
    ListRunsRequest { parent: ListParent } => Read;
    ListEventsRequest { parent: RunName } => Read;
    ListDecisionsRequest { parent: RunName } => Read;
    AwaitDecisionRequest { run: RunName, attempt } => Train;
    HeartbeatRequest { run: RunName, attempt } => Train;
    DeleteRunRequest { name: RunName } => Maintain, audited;

    PrepareFileRequest { checkpoint: CheckpointName, attempt } => Train;
    WriteFileRequest { checkpoint: CheckpointName, attempt } => Train;
    FindMissingChunksRequest { checkpoint: CheckpointName } => Train;
    WriteSmallFilesRequest { checkpoint: CheckpointName, attempt } => Train;
    CommitCheckpointRequest { checkpoint: CheckpointName, attempt } => Train, audited;
    AbandonCheckpointRequest { checkpoint: CheckpointName, attempt } => Train, audited;
    GetCheckpointRequest { name: CheckpointName } => Read;

    GetBestVersionRequest { parent: BestParent } => Read;
    GetVersionRequest { name: VersionName } => Read;
    WatchVersionsRequest { parent: BestParent } => Read;
    ListVersionsRequest { parent: ArtifactName } => Read;
    GetArtifactRequest { name: ArtifactName } => Read;
    ListArtifactsRequest { parent: ListParent } => Read;
    ListFilesRequest { parent: FilesParent } => Read;
    ListAliasesRequest { parent: ArtifactName } => Read;
    ReadFileRequest { version: VersionName } => Read;
    SetAliasRequest { artifact: ArtifactName } => Maintain, audited;
    DeleteAliasRequest { artifact: ArtifactName } => Maintain, audited;
    DeleteVersionRequest { name: VersionName } => Maintain, audited;
    DeleteVersionsRequest { parent: ArtifactName } => Maintain, audited;
    DeleteArtifactRequest { name: ArtifactName } => Maintain, audited;

    ListProjectsRequest { parent: TeamName } => Read;
    DeleteProjectRequest { name: ProjectName } => Maintain, audited;

    CreateTokenRequest { scope: Parent } => AdministerTeam, audited;
    ListTokensRequest { parent: Parent } => AdministerTeam;
    RevokeTokenRequest { name: TokenName } => AdministerTeam, audited;
    SetMemberRequest { scope: Parent } => AdministerTeam, audited;
    DeleteMemberRequest { scope: Parent } => AdministerTeam, audited;
    ListMembersRequest { parent: Parent } => AdministerTeam;
    ListAuditEntriesRequest { parent: Parent } => AdministerTeam;
}

/// What is asked of the service itself.
fn of_service(action: Action, name: String, is_audited: bool) -> Ask {
    Ask { action, resource: Resource::Service, what: "service", name, is_audited, events: 0 }
}

impl Asks for v1::ReportEventsRequest {
    fn asks(&self) -> Result<Option<Ask>, Refusal> {
        let asked = ask::<RunName>(&self.run, Some(self.attempt), Action::Train, false)?;
        Ok(asked.map(|it| Ask { events: self.events.len(), ..it }))
    }
}

impl Asks for v1::WhoAmIRequest {
    fn asks(&self) -> Result<Option<Ask>, Refusal> {
        Ok(Some(of_service(Action::Identify, String::new(), false)))
    }
}

impl Asks for v1::CreateTeamRequest {
    fn asks(&self) -> Result<Option<Ask>, Refusal> {
        let team = Id::parse("team", &self.team_id)?;
        Ok(Some(of_service(Action::AdministerService, format!("teams/{team}"), true)))
    }
}

impl Asks for v1::ListTeamsRequest {
    fn asks(&self) -> Result<Option<Ask>, Refusal> {
        Ok(Some(of_service(Action::AdministerService, String::new(), false)))
    }
}
