//! Uploads that are cut: by a cancel, an end without `finish`, a reset or a deadline, before, at and after chunk boundaries.

use std::time::Duration;

use keepbest_client::Run;
use keepbest_client::UploadOptions;
use keepbest_proto::v1;
use tonic::Code;

use crate::support::proxy::Fate;
use crate::support::proxy::Proxy;
use crate::support::refusals::refusal;
use crate::support::requests::PROJECT;
use crate::support::requests::Trainer;
use crate::support::requests::best_only;
use crate::support::requests::epoch_end;
use crate::support::requests::noise;
use crate::support::requests::read;
use crate::support::requests::start_request;
use crate::support::server;
use crate::support::server::TestServer;
use crate::support::transfers::CHUNK;
use crate::support::transfers::OpenUpload;
use crate::support::transfers::objects;
use crate::support::transfers::prepare;
use crate::support::transfers::until_durable;
use crate::support::transfers::versions;

const MODEL: &str = "model.keras";
/// Two chunks and a rest.
const SIZE: usize = 2 * CHUNK + 17;

/// How an upload ends before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// The client drops the call.
    Cancel,
    /// The client ends the stream without `finish`.
    End,
    /// The connection is reset.
    Reset,
}

/// Nothing of the checkpoint can be seen, nor be committed.
async fn assert_no_version(server: &TestServer, trainer: &Trainer, checkpoint: &str, what: &str) {
    let commit = trainer.commit(checkpoint).await;
    refusal(what, commit, Code::FailedPrecondition, "FILES_INCOMPLETE");
    assert_eq!(versions(server, &trainer.run).await, [], "{what}");
    let name = v1::GetCheckpointRequest { name: checkpoint.to_owned() };
    let seen = server.checkpoints().get_checkpoint(name).await.unwrap().into_inner();
    assert_eq!(seen.state(), v1::CheckpointState::Pending, "{what}");
    assert_eq!(seen.files[0].state(), v1::FileState::Open, "{what}");
}

/// Goes on at what is durable, commits, and reads the bytes back.
async fn assert_resumes(server: &TestServer, trainer: &Trainer, checkpoint: &str, data: &[u8], what: &str) {
    let file = trainer.upload(checkpoint, MODEL, data).await.unwrap();
    assert_eq!(file.state(), v1::FileState::Complete, "{what}");
    let version = trainer.commit(checkpoint).await.unwrap();
    assert_eq!(versions(server, &trainer.run).await, std::slice::from_ref(&version), "{what}");
    assert!(read(server, &version.name, MODEL).await.unwrap() == data, "{what}: other bytes came back");
}

#[tokio::test]
async fn an_upload_that_is_cut_is_no_version_and_goes_on_at_the_last_chunk() {
    let server = server::start().await;
    let data = noise(1, SIZE);
    let sent = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - 1, 2 * CHUNK, 2 * CHUNK + 1, SIZE];
    for cut in [Cut::Cancel, Cut::End, Cut::Reset] {
        for (index, sent) in sent.into_iter().enumerate() {
            let what = format!("{cut:?} after {sent} bytes");
            let mut trainer = Trainer::start(&server, &format!("{cut:?}-{index}"), best_only()).await;
            let checkpoint = trainer.epoch(0, 0.5).await.checkpoint;
            prepare(&trainer, &checkpoint, MODEL, SIZE).await.unwrap();
            let proxy = Proxy::start(&server.address(), Fate::Pass).await;
            let upload = OpenUpload::begin(proxy.channel(), &trainer, &checkpoint, MODEL, 0).await;
            upload.send(&data[..sent]).await;
            let durable = sent / CHUNK * CHUNK;
            until_durable(&trainer, &checkpoint, MODEL, SIZE, durable).await;
            match cut {
                Cut::Cancel => upload.cancel().await,
                Cut::End => {
                    let status = refusal(&what, upload.end().await, Code::InvalidArgument, "FINISH_MISSING");
                    assert!(status.message().contains(&format!("{sent} of {SIZE}")), "{}", status.message());
                }
                Cut::Reset => {
                    proxy.set(Fate::Cut);
                    assert!(upload.answer().await.is_err(), "{what}");
                }
            }
            assert_no_version(&server, &trainer, &checkpoint, &what).await;
            let file = prepare(&trainer, &checkpoint, MODEL, SIZE).await.unwrap();
            assert_eq!(file.durable_bytes, i64::try_from(durable).unwrap(), "{what}");
            assert_resumes(&server, &trainer, &checkpoint, &data, &what).await;
        }
    }
    // Wherever it was cut, the chunks are the same, so all of them share three objects.
    assert_eq!(objects(&server).iter().map(|it| it.1).sum::<u64>(), SIZE as u64);
}

#[tokio::test]
async fn a_connection_that_breaks_at_any_byte_leaves_no_version() {
    let server = server::start().await;
    let data = noise(2, SIZE);
    let chunk = CHUNK as u64;
    for at in [1, 24, 25, 200, 1_000, chunk - 1, chunk, chunk + 1, 2 * chunk, SIZE as u64 - 1, SIZE as u64] {
        let what = format!("cut at byte {at} of the connection");
        let mut trainer = Trainer::start(&server, &format!("cut-{at}"), best_only()).await;
        let checkpoint = trainer.epoch(0, 0.5).await.checkpoint;
        prepare(&trainer, &checkpoint, MODEL, SIZE).await.unwrap();
        let proxy = Proxy::start(&server.address(), Fate::CutAfter(at)).await;
        let upload = OpenUpload::begin(proxy.channel(), &trainer, &checkpoint, MODEL, 0).await;
        upload.send(&data).await;
        assert!(upload.finish().await.is_err(), "{what}");
        assert_no_version(&server, &trainer, &checkpoint, &what).await;
        let file = prepare(&trainer, &checkpoint, MODEL, SIZE).await.unwrap();
        let durable = usize::try_from(file.durable_bytes).unwrap();
        assert!(durable.is_multiple_of(CHUNK) && durable as u64 <= at, "{what}: {durable}");
        // From the beginning, as a client that remembers nothing: what lands late must not be in its way.
        let upload = OpenUpload::begin(server.channel(), &trainer, &checkpoint, MODEL, 0).await;
        upload.send(&data).await;
        upload.finish().await.unwrap();
        assert_resumes(&server, &trainer, &checkpoint, &data, &what).await;
    }
}

#[tokio::test]
async fn an_upload_whose_deadline_passes_is_no_version() {
    let server = server::start().await;
    let data = noise(3, SIZE);
    let mut trainer = Trainer::start(&server, "late", best_only()).await;
    let checkpoint = trainer.epoch(0, 0.5).await.checkpoint;
    prepare(&trainer, &checkpoint, MODEL, SIZE).await.unwrap();
    let deadline = Some(Duration::from_millis(300));
    let upload = OpenUpload::begin_within(server.channel(), &trainer, &checkpoint, MODEL, 0, deadline).await;
    upload.send(&data).await;
    let status = upload.answer().await.unwrap_err();
    assert!(matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded), "{status:?}");
    assert_no_version(&server, &trainer, &checkpoint, "a deadline").await;
    assert_resumes(&server, &trainer, &checkpoint, &data, "a deadline").await;
}

#[tokio::test]
async fn a_checkpoint_tells_how_much_of_its_files_is_durable() {
    let server = server::start().await;
    let data = noise(4, SIZE);
    let mut trainer = Trainer::start(&server, "asked", best_only()).await;
    let checkpoint = trainer.epoch(0, 0.5).await.checkpoint;
    prepare(&trainer, &checkpoint, MODEL, SIZE).await.unwrap();
    let upload = OpenUpload::begin(server.channel(), &trainer, &checkpoint, MODEL, 0).await;
    upload.send(&data[..CHUNK + 1]).await;
    until_durable(&trainer, &checkpoint, MODEL, SIZE, CHUNK).await;
    let name = v1::GetCheckpointRequest { name: checkpoint.clone() };
    let seen = server.checkpoints().get_checkpoint(name).await.unwrap().into_inner();
    assert_eq!(seen.files, [prepare(&trainer, &checkpoint, MODEL, SIZE).await.unwrap()]);
    upload.cancel().await;
}

#[tokio::test]
async fn the_rust_client_goes_on_by_itself_and_sends_only_the_rest() {
    let server = server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(MODEL);
    let data = noise(5, 6 * CHUNK + 5);
    std::fs::write(&path, &data).unwrap();
    let proxy = Proxy::start(&server.address(), Fate::HoldAfter(5 * CHUNK as u64)).await;
    let client = keepbest_client::Client::connect_lazy(proxy.address()).unwrap();
    let mut run = Run::start(&client, start_request("client", best_only())).await.unwrap();
    let decision = run.report(vec![epoch_end(0, 0.5)]).await.unwrap().pop().unwrap();
    let options = UploadOptions::default();
    let uploading = run.upload(&decision.checkpoint, &path, &options);
    let healing = async {
        proxy.limit_reached().await;
        // How many chunks are stored at once is the server's affair: before the cut, all that came whole are durable.
        let whole = 4 * CHUNK;
        let name = v1::GetCheckpointRequest { name: decision.checkpoint.clone() };
        let durable = async || {
            let seen = server.checkpoints().get_checkpoint(name.clone()).await.unwrap().into_inner();
            seen.files.first().map_or(0, |it| it.durable_bytes)
        };
        while durable().await < i64::try_from(whole).unwrap() {}
        proxy.cut_all().await;
        let before = proxy.passed_bytes();
        proxy.set(Fate::Pass);
        (data.len() - whole, before)
    };
    let (uploaded, (rest, before)) = tokio::join!(uploading, healing);
    uploaded.unwrap();
    let version = run.commit(&decision.checkpoint, 1).await.unwrap();
    assert!(read(&server, &version.name, MODEL).await.unwrap() == data);
    let after = usize::try_from(proxy.passed_bytes() - before).unwrap();
    assert!((rest..rest + (1 << 20)).contains(&after), "{after} bytes after the cut, {rest} were missing");
    assert!(version.name.starts_with(PROJECT));
}
