//! What holds of every refusal: its code, its reason, and that nothing is stored by it.

use std::fmt::Debug;
use std::fmt::Display;

use keepbest_proto::v1;
use tonic::Code;
use tonic::Response;
use tonic::Status;

use crate::support::requests::reason;
use crate::support::server::TestServer;
use crate::support::transfers::objects;

/// The teams that tests use.
const TEAMS: [&str; 2] = ["default", "other"];

/// Remembers what was stored before, to compare.
pub(crate) struct Witness<'a> {
    server: &'a TestServer,
    before: String,
}

impl Witness<'_> {
    /// Looks at everything that is stored now.
    pub(crate) async fn of(server: &TestServer) -> Witness<'_> {
        Witness { server, before: stored(server).await }
    }

    /// The answer is this refusal, and nothing was stored.
    pub(crate) async fn refused<T: Debug>(
        &self,
        what: impl Display,
        answer: Result<Response<T>, Status>,
        code: Code,
        reason: &str,
    ) -> Status {
        let status = refusal(&what, answer, code, reason);
        self.nothing_stored(what).await;
        status
    }

    /// Nothing was stored since.
    pub(crate) async fn nothing_stored(&self, what: impl Display) {
        assert!(stored(self.server).await == self.before, "{what}: something was stored");
    }
}

/// The answer is this refusal, with words for people.
pub(crate) fn refusal<T: Debug>(
    what: impl Display,
    answer: Result<T, Status>,
    code: Code,
    expected: &str,
) -> Status {
    let status = match answer {
        Ok(answer) => panic!("{what}: was answered with {answer:?}"),
        Err(status) => status,
    };
    assert_eq!((status.code(), reason(&status).as_str()), (code, expected), "{what}: {status:?}");
    assert!(!status.message().is_empty(), "{what}: says nothing");
    status
}

/// Everything that can be seen of the teams, and the objects on the disk.
pub(crate) async fn stored(server: &TestServer) -> String {
    let (mut runs, mut artifacts) = (server.runs(), server.artifacts());
    let mut seen = format!("{:?}\n", objects(server));
    for team in TEAMS {
        let parent = format!("teams/{team}/projects/-");
        let list = v1::ListRunsRequest { parent: parent.clone(), page_size: 1_000, ..Default::default() };
        for run in runs.list_runs(list).await.unwrap().into_inner().runs {
            seen.push_str(&format!("{run:?}\n{}", saves(server, run.name.clone()).await));
        }
        let list = v1::ListArtifactsRequest { parent, page_size: 1_000, ..Default::default() };
        for artifact in artifacts.list_artifacts(list).await.unwrap().into_inner().artifacts {
            let name = artifact.name.clone();
            let full = artifacts.get_artifact(v1::GetArtifactRequest { name }).await.unwrap();
            let list =
                v1::ListVersionsRequest { parent: artifact.name, page_size: 1_000, ..Default::default() };
            let versions = artifacts.list_versions(list).await.unwrap();
            seen.push_str(&format!("{:?}\n{:?}\n", full.get_ref(), versions.get_ref()));
        }
    }
    seen
}

/// The checkpoints of a run with their files.
async fn saves(server: &TestServer, run: String) -> String {
    let (mut runs, mut checkpoints) = (server.runs(), server.checkpoints());
    let mut seen = String::new();
    let list = v1::ListDecisionsRequest { parent: run, page_size: 1_000, ..Default::default() };
    for decision in runs.list_decisions(list).await.unwrap().into_inner().decisions {
        if !decision.checkpoint.is_empty() {
            let name = v1::GetCheckpointRequest { name: decision.checkpoint };
            let checkpoint = checkpoints.get_checkpoint(name).await.unwrap();
            seen.push_str(&format!("{:?}\n", checkpoint.get_ref()));
        }
    }
    seen
}
