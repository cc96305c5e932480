//! A server that asks who calls, with teams and tokens.

use std::time::Duration;

use bytes::Bytes;
use keepbest::config::Config;
use keepbest::maintenance;
use keepbest_proto::v1;
use prost::Message;
use tonic::Status;
use tonic::transport::Channel;

use crate::support::raw;
use crate::support::requests::best_only;
use crate::support::requests::epoch_end;
use crate::support::server;
use crate::support::server::TestServer;

/// A server that asks who calls.
pub(crate) struct Guarded {
    pub(crate) server: TestServer,
    channel: Channel,
    /// A token of the service.
    pub(crate) admin: String,
}

/// Starts one with the teams `a` and `b`.
pub(crate) async fn start() -> Guarded {
    start_with(|_| {}).await
}

/// The same with other settings.
pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Guarded {
    let server = server::start_with(|config| {
        config.auth.required = true;
        change(config);
    })
    .await;
    let minted = maintenance::mint_admin_token(server.config(), Duration::from_secs(3_600)).await;
    let guarded = Guarded { channel: server.channel(), server, admin: minted.unwrap().1 };
    for team in ["a", "b"] {
        guarded.admins(v1::CreateTeamRequest { team_id: team.to_owned() }, "CreateTeam").await;
    }
    guarded
}

impl Guarded {
    /// Stops the server and starts it again.
    pub(crate) async fn restart(&mut self) {
        self.server.restart().await;
        self.channel = self.server.channel();
    }

    /// Calls a method of the service `Admin` as the service's admin.
    async fn admins(&self, request: impl Message, method: &str) -> Bytes {
        self.ask(Some(&self.admin), &format!("Admin/{method}"), request).await.unwrap()
    }

    /// Calls a method, as `Runs/GetRun`, with a token.
    pub(crate) async fn ask(
        &self,
        token: Option<&str>,
        method: &str,
        request: impl Message,
    ) -> Result<Bytes, Status> {
        self.send(token, &format!("/keepbest.v1.{method}"), request.encode_to_vec().into()).await
    }

    /// The same with bytes and the whole path.
    pub(crate) async fn send(
        &self,
        token: Option<&str>,
        path: &str,
        message: Bytes,
    ) -> Result<Bytes, Status> {
        raw::call_as(&self.channel, token, path, message).await.map(Option::unwrap_or_default)
    }

    /// A new token in a scope, as `a` or `a/p`; the service's own with an empty one.
    pub(crate) async fn token(&self, scope: &str, role: &str) -> String {
        self.token_of(scope, role).await.text
    }

    pub(crate) async fn token_of(&self, scope: &str, role: &str) -> v1::CreateTokenResponse {
        let scope = match scope.split_once('/') {
            None if scope.is_empty() => String::new(),
            None => format!("teams/{scope}"),
            Some((team, project)) => format!("teams/{team}/projects/{project}"),
        };
        let role = role.to_owned();
        let request = v1::CreateTokenRequest { scope, role, ..Default::default() };
        v1::CreateTokenResponse::decode(self.admins(request, "CreateToken").await).unwrap()
    }

    pub(crate) async fn revoke(&self, name: &str) {
        self.admins(v1::RevokeTokenRequest { name: name.to_owned() }, "RevokeToken").await;
    }

    /// Starts the run `first` in a project of a team, and saves a version and the beginning of another one; answers the name of the
    /// pending checkpoint.
    pub(crate) async fn saved(&self, team: &str, project: &str) -> String {
        let token = self.token(team, "trainer").await;
        let token = Some(token.as_str());
        let parent = format!("teams/{team}/projects/{project}");
        let run = format!("{parent}/runs/first");
        let start = v1::StartRunRequest {
            parent,
            run_id: "first".to_owned(),
            strategy: Some(best_only()),
            ..Default::default()
        };
        self.ask(token, "Runs/StartRun", start).await.unwrap();
        let mut checkpoints = Vec::new();
        for (epoch, val_loss) in [(0, 0.5), (1, 0.4)] {
            let report = v1::ReportEventsRequest {
                run: run.clone(),
                attempt: 1,
                first_sequence: epoch,
                events: vec![epoch_end(epoch, val_loss)],
                ..Default::default()
            };
            let answer = self.ask(token, "Runs/ReportEvents", report).await.unwrap();
            let answer = v1::ReportEventsResponse::decode(answer).unwrap();
            checkpoints.push(answer.decisions[0].checkpoint.clone());
        }
        let checkpoint = checkpoints.remove(0);
        let file = v1::SmallFile {
            path: "model.keras".to_owned(),
            data: format!("weights of {run}").into(),
            ..Default::default()
        };
        let write =
            v1::WriteSmallFilesRequest { checkpoint: checkpoint.clone(), attempt: 1, files: vec![file] };
        self.ask(token, "Checkpoints/WriteSmallFiles", write).await.unwrap();
        let commit = v1::CommitCheckpointRequest { checkpoint, attempt: 1, ..Default::default() };
        self.ask(token, "Checkpoints/CommitCheckpoint", commit).await.unwrap();
        checkpoints.remove(0)
    }
}
