//! Every call that changes something may be repeated at another replica, and answers the same.

use std::collections::BTreeSet;
use std::fmt::Debug;

use bytes::Bytes;
use keepbest_proto::v1;
use prost::Message;
use tonic::transport::Channel;

use crate::support::calls;
use crate::support::raw;
use crate::support::replicas::Replicas;
use crate::support::requests::PROJECT;
use crate::support::requests::epoch_end;
use crate::support::requests::every_epoch;
use crate::support::requests::start_request;

/// Methods that change nothing.
fn is_read(method: &str) -> bool {
    let name = method.rsplit('/').next().unwrap();
    name.starts_with("Get")
        || name.starts_with("List")
        || ["ReadFile", "WatchVersions", "AwaitDecision", "FindMissingChunks"].contains(&name)
}

/// Two replicas, and which methods were asked of them.
struct Twins {
    channels: [Channel; 2],
    asked: BTreeSet<String>,
}

impl Twins {
    /// Asks the one, then the other, then the first again.
    async fn ask<A: Message + Default + Debug>(&mut self, method: &str, request: impl Message) -> [A; 3] {
        let path = raw::methods().into_iter().find(|it| it.ends_with(&format!("/{method}"))).unwrap();
        let request: Bytes = request.encode_to_vec().into();
        let mut answers = Vec::new();
        for channel in [0, 1, 0].map(|it: usize| &self.channels[it]) {
            let answer = raw::call(channel, &path, request.clone()).await;
            let answer = answer.unwrap_or_else(|status| panic!("{method}: {status:?}")).unwrap();
            answers.push(A::decode(answer).unwrap());
        }
        self.asked.insert(path);
        answers.try_into().unwrap()
    }

    /// The one answer of all.
    async fn same<A: Message + Default + PartialEq + Debug>(
        &mut self,
        method: &str,
        request: impl Message,
    ) -> A {
        let [first, second, third] = self.ask(method, request).await;
        assert!(first == second && second == third, "{method}: {first:?}\n{second:?}\n{third:?}");
        first
    }

    /// What was deleted, after a look that nothing is deleted by a repeat.
    async fn delete(&mut self, method: &str, request: impl Message) -> v1::Deletion {
        let [first, others @ ..]: [v1::Deletion; 3] = self.ask(method, request).await;
        for it in others {
            let counts = [it.run_count, it.artifact_count, it.version_count, it.event_count, it.size_bytes];
            assert_eq!(counts, [0; 5], "{method}: {it:?}");
        }
        first
    }

    /// The same but for how many of the events were there before.
    async fn report(&mut self, method: &str, request: v1::ReportEventsRequest) -> v1::ReportEventsResponse {
        let answers: [v1::ReportEventsResponse; 3] = self.ask(method, request).await;
        assert_eq!(answers.each_ref().map(|it| it.duplicate_count), [0, 1, 1]);
        let [first, others @ ..] = answers.map(|it| v1::ReportEventsResponse { duplicate_count: 0, ..it });
        assert_eq!(others.each_ref(), [&first, &first], "{method}");
        first
    }

    /// Decides epoch and answers its checkpoint.
    async fn decide(&mut self, run: &str, method: &str, epoch: i64) -> String {
        let request = v1::ReportEventsRequest {
            run: run.to_owned(),
            attempt: 1,
            first_sequence: epoch,
            events: vec![epoch_end(epoch, 0.5)],
            ..Default::default()
        };
        self.report(method, request).await.decisions.remove(0).checkpoint
    }

    /// Writes files in each way that there is and commits them.
    async fn save(&mut self, checkpoint: &str) -> v1::Version {
        let (checkpoint, attempt) = (checkpoint.to_owned(), 1);
        let prepare = v1::PrepareFileRequest {
            checkpoint: checkpoint.clone(),
            attempt,
            path: "model.bin".to_owned(),
            size_bytes: 5,
            ..Default::default()
        };
        let file: v1::File = self.same("PrepareFile", prepare).await;
        assert_eq!(file.durable_bytes, 0);
        let write = v1::WriteFileRequest {
            checkpoint: checkpoint.clone(),
            attempt,
            path: "model.bin".to_owned(),
            data: Bytes::from_static(b"model"),
            finish: true,
            ..Default::default()
        };
        let file: v1::File = self.same("WriteFile", write).await;
        assert_eq!((file.durable_bytes, file.state()), (5, v1::FileState::Complete));
        let small = v1::SmallFile {
            path: "config.json".to_owned(),
            data: Bytes::from_static(b"{}"),
            ..Default::default()
        };
        let small =
            v1::WriteSmallFilesRequest { checkpoint: checkpoint.clone(), attempt, files: vec![small] };
        let written: v1::WriteSmallFilesResponse = self.same("WriteSmallFiles", small).await;
        assert_eq!(written.files.len(), 1);
        let commit = v1::CommitCheckpointRequest { checkpoint, attempt, file_count: 2, ..Default::default() };
        self.same("CommitCheckpoint", commit).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_repeated_at_another_replica_answers_the_same() {
    let replicas = Replicas::start(2, &[]).await;
    let addresses: [String; 2] = replicas.addresses().try_into().unwrap();
    let channels = addresses.map(|it| Channel::from_shared(it).unwrap().connect_lazy());
    let mut twins = Twins { channels, asked: BTreeSet::new() };

    let request_id = "one launch".to_owned();
    let start = v1::StartRunRequest { request_id, ..start_request("twins", every_epoch()) };
    let [first, others @ ..]: [v1::StartRunResponse; 3] = twins.ask("StartRun", start).await;
    assert_eq!(first.attempt, 1);
    assert_eq!(others.each_ref(), [&first, &first]);
    let run = format!("{PROJECT}/runs/twins");

    let checkpoint = twins.decide(&run, "ReportEvents", 0).await;
    let version = twins.save(&checkpoint).await;
    let second = twins.decide(&run, "StreamEvents", 1).await;
    twins.save(&second).await;
    let third = twins.decide(&run, "ReportEvents", 2).await;
    let abandon = v1::AbandonCheckpointRequest { checkpoint: third, attempt: 1 };
    let abandoned: v1::Checkpoint = twins.same("AbandonCheckpoint", abandon).await;
    assert_eq!(abandoned.state(), v1::CheckpointState::Deleted);

    let artifact = version.name.split("/versions/").next().unwrap().to_owned();
    // Without a comparison: a repeat of one is told where the alias points by now (`db/aliases.rs`).
    for version in ["v0", "v1", "v0"] {
        let (alias, artifact) = ("production".to_owned(), artifact.clone());
        let (version, expected_version) = (version.to_owned(), String::new());
        let set = v1::SetAliasRequest { artifact, alias, version: version.clone(), expected_version };
        let pointed: v1::Version = twins.same("SetAlias", set).await;
        assert!(pointed.name.ends_with(&version));
    }
    let (alias, allow_missing) = ("production".to_owned(), true);
    let delete =
        v1::DeleteAliasRequest { artifact: artifact.clone(), alias, allow_missing, ..Default::default() };
    let _: v1::DeleteAliasResponse = twins.same("DeleteAlias", delete).await;
    let delete = v1::DeleteVersionRequest { name: version.name, ..Default::default() };
    // A repeat does not count once more what the first call freed.
    let answers: [v1::DeleteVersionResponse; 3] = twins.ask("DeleteVersion", delete).await;
    assert_eq!(answers.each_ref().map(|it| it.freed_bytes.is_some()), [true, false, false]);
    let [deleted, others @ ..] = answers.map(|it| v1::DeleteVersionResponse { freed_bytes: None, ..it });
    assert_eq!(others.each_ref(), [&deleted, &deleted]);
    assert_eq!(deleted.size_bytes, 7);
    let filter = "number >= 0".to_owned();
    let all = v1::DeleteVersionsRequest {
        parent: artifact.clone(),
        filter,
        delete_best: true,
        ..Default::default()
    };
    assert_eq!(twins.delete("DeleteVersions", all).await.version_count, 1);
    let beat = v1::HeartbeatRequest { run: run.clone(), attempt: 1 };
    let _: v1::HeartbeatResponse = twins.same("Heartbeat", beat).await;
    let finish = v1::FinishRunRequest { name: run.clone(), attempt: 1, ..Default::default() };
    let finished: v1::Run = twins.same("FinishRun", finish).await;
    assert_eq!((finished.event_count, finished.state()), (3, v1::RunState::Finished));
    let delete = v1::DeleteRunRequest { name: run, allow_missing: true, ..Default::default() };
    assert_eq!(twins.delete("DeleteRun", delete).await.run_count, 1);
    let delete = v1::DeleteArtifactRequest { name: artifact, allow_missing: true, ..Default::default() };
    assert_eq!(twins.delete("DeleteArtifact", delete).await.artifact_count, 1);
    let delete =
        v1::DeleteProjectRequest { name: PROJECT.to_owned(), allow_missing: true, ..Default::default() };
    twins.delete("DeleteProject", delete).await;

    let changing: BTreeSet<String> = calls::methods().into_iter().filter(|it| !is_read(it)).collect();
    assert_eq!(twins.asked, changing, "a new method that changes something needs a line above");
}
