//! Uploaders that die, and streams that take over from each other.

use std::process::Command;
use std::process::Stdio;

use keepbest_proto::v1;
use tonic::Code;

use crate::support::proxy::Fate;
use crate::support::proxy::Proxy;
use crate::support::refusals::refusal;
use crate::support::requests::PROJECT;
use crate::support::requests::Trainer;
use crate::support::requests::best_only;
use crate::support::requests::noise;
use crate::support::requests::read;
use crate::support::server;
use crate::support::transfers::CHUNK;
use crate::support::transfers::OpenUpload;
use crate::support::transfers::objects;
use crate::support::transfers::prepare;
use crate::support::transfers::until_durable;
use crate::support::transfers::versions;

const MODEL: &str = "model.keras";

#[tokio::test]
async fn a_push_that_is_killed_leaves_a_save_that_another_process_can_end() {
    let server = server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(MODEL);
    let data = noise(1, 3 * CHUNK + 3);
    std::fs::write(&path, &data).unwrap();
    let proxy = Proxy::start(&server.address(), Fate::HoldAfter(2 * CHUNK as u64 + (1 << 20))).await;
    let mut push = Command::new(env!("CARGO_BIN_EXE_keepbest"))
        .args(["push", "--server", &proxy.address(), "--metric", "val_loss=0.5"])
        .arg(&path)
        .arg("default/digits/pushed")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    proxy.limit_reached().await;
    let list = v1::ListRunsRequest { parent: PROJECT.to_owned(), ..Default::default() };
    let run = server.runs().list_runs(list).await.unwrap().into_inner().runs.pop().unwrap();
    let checkpoint = run.monitor_state.unwrap().in_flight.pop().unwrap();
    let trainer = Trainer { channel: server.channel(), run: run.name, attempt: run.attempt, sequence: 1 };
    until_durable(&trainer, &checkpoint, MODEL, data.len(), 2 * CHUNK).await;
    push.kill().unwrap();
    assert!(!push.wait().unwrap().success());

    let artifact = v1::GetArtifactRequest { name: run.artifact.clone() };
    let artifact = server.artifacts().get_artifact(artifact).await.unwrap().into_inner();
    assert_eq!((artifact.version_count, artifact.aliases), (0, Vec::new()));
    // Whoever has the bytes and the attempt goes on.
    refusal("half a file", trainer.commit(&checkpoint).await, Code::FailedPrecondition, "FILES_INCOMPLETE");
    trainer.upload(&checkpoint, MODEL, &data).await.unwrap();
    let version = trainer.commit(&checkpoint).await.unwrap();
    assert_eq!(version.name, format!("{PROJECT}/artifacts/pushed/versions/v0"));
    assert!(read(&server, &version.name, MODEL).await.unwrap() == data);
}

#[tokio::test]
async fn the_newest_of_two_streams_owns_the_file() {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "two", best_only()).await;
    let checkpoint = trainer.epoch(0, 0.5).await.checkpoint;
    let (ours, zombies) = (noise(2, 2 * CHUNK + 9), noise(3, 2 * CHUNK + 9));
    prepare(&trainer, &checkpoint, MODEL, ours.len()).await.unwrap();
    let older = OpenUpload::begin(server.channel(), &trainer, &checkpoint, MODEL, 0).await;
    older.send(&zombies[..CHUNK + 5]).await;
    until_durable(&trainer, &checkpoint, MODEL, ours.len(), CHUNK).await;

    let newer = OpenUpload::begin(server.channel(), &trainer, &checkpoint, MODEL, 0).await;
    newer.send(&ours[..CHUNK]).await;
    // Both have the first chunk by now; which one stands is the question.
    let both = async {
        while objects(&server).len() < 2 {
            tokio::task::yield_now().await
        }
    };
    both.await;
    until_durable(&trainer, &checkpoint, MODEL, ours.len(), CHUNK).await;
    older.send(&zombies[CHUNK + 5..]).await;
    refusal("the older stream", older.finish().await, Code::Aborted, "UPLOAD_SUPERSEDED");
    newer.send(&ours[CHUNK..]).await;
    assert_eq!(newer.finish().await.unwrap().state(), v1::FileState::Complete);
    let version = trainer.commit(&checkpoint).await.unwrap();
    assert!(read(&server, &version.name, MODEL).await.unwrap() == ours);
}

#[tokio::test]
async fn chunks_that_land_after_prepare_was_answered_are_not_in_the_way() {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "late", best_only()).await;
    let checkpoint = trainer.epoch(0, 0.5).await.checkpoint;
    let data = noise(6, 2 * CHUNK + 9);
    prepare(&trainer, &checkpoint, MODEL, data.len()).await.unwrap();
    // To its client this stream is cut; the server does not know yet and stores another chunk.
    let cut = OpenUpload::begin(server.channel(), &trainer, &checkpoint, MODEL, 0).await;
    cut.send(&data[..CHUNK]).await;
    until_durable(&trainer, &checkpoint, MODEL, data.len(), CHUNK).await;
    cut.send(&data[CHUNK..2 * CHUNK]).await;
    until_durable(&trainer, &checkpoint, MODEL, data.len(), 2 * CHUNK).await;
    let resumed = OpenUpload::begin(server.channel(), &trainer, &checkpoint, MODEL, CHUNK).await;
    resumed.send(&data[CHUNK..]).await;
    assert_eq!(resumed.finish().await.unwrap().state(), v1::FileState::Complete);
    cut.cancel().await;
    let version = trainer.commit(&checkpoint).await.unwrap();
    assert!(read(&server, &version.name, MODEL).await.unwrap() == data);
    assert_eq!(objects(&server).len(), 3);
}

#[tokio::test]
async fn an_older_stream_that_only_says_finish_completes_nothing() {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "two", best_only()).await;
    let checkpoint = trainer.epoch(0, 0.5).await.checkpoint;
    let data = noise(4, CHUNK);
    prepare(&trainer, &checkpoint, MODEL, CHUNK).await.unwrap();
    let older = OpenUpload::begin(server.channel(), &trainer, &checkpoint, MODEL, 0).await;
    older.send(&data).await;
    until_durable(&trainer, &checkpoint, MODEL, CHUNK, CHUNK).await;
    let newer = OpenUpload::begin(server.channel(), &trainer, &checkpoint, MODEL, 0).await;
    // It began anew, so nothing is durable any more.
    until_durable(&trainer, &checkpoint, MODEL, CHUNK, 0).await;
    refusal("the older stream", older.finish().await, Code::Aborted, "UPLOAD_SUPERSEDED");
    refusal("no bytes", trainer.commit(&checkpoint).await, Code::FailedPrecondition, "FILES_INCOMPLETE");
    newer.send(&data).await;
    newer.finish().await.unwrap();
    trainer.commit(&checkpoint).await.unwrap();
}

#[tokio::test]
async fn a_new_attempt_stops_the_uploads_of_the_old_one() {
    let server = server::start().await;
    let mut old = Trainer::start(&server, "preempted", best_only()).await;
    let checkpoint = old.epoch(0, 0.5).await.checkpoint;
    let data = noise(5, CHUNK + 1);
    prepare(&old, &checkpoint, MODEL, data.len()).await.unwrap();
    let upload = OpenUpload::begin(server.channel(), &old, &checkpoint, MODEL, 0).await;
    upload.send(&data[..10]).await;
    let mut new = Trainer::start(&server, "preempted", best_only()).await;
    upload.send(&data[10..]).await;
    refusal("the zombie", upload.finish().await, Code::FailedPrecondition, "STALE_ATTEMPT");
    refusal("its commit", old.commit(&checkpoint).await, Code::FailedPrecondition, "STALE_ATTEMPT");
    assert_eq!(versions(&server, &old.run).await, []);
    // What the zombie would have saved is not the best that stands.
    assert_eq!(new.save(1, 0.6, b"worse, but there").await.number, 0);
}
