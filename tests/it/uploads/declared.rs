//! What a client declares of a file is checked before the file counts as complete, whichever way its bytes come.

use bytes::Bytes;
use keepbest_proto::v1;
use tonic::Code;
use tonic::Response;
use tonic::Status;

use crate::support::refusals::Witness;
use crate::support::refusals::refusal;
use crate::support::requests::Trainer;
use crate::support::requests::detail;
use crate::support::requests::every_epoch;
use crate::support::requests::noise;
use crate::support::requests::read;
use crate::support::server;
use crate::support::server::TestServer;
use crate::support::transfers::CHUNK;
use crate::support::transfers::OpenUpload;
use crate::support::transfers::damage;
use crate::support::transfers::objects;
use crate::support::transfers::until_durable;
use crate::support::transfers::versions;

const MODEL: &str = "model.keras";
/// Two chunks and a rest.
const SIZE: usize = 2 * CHUNK + 17;

fn sha256(data: &[u8]) -> Bytes {
    use sha2::Digest as _;
    sha2::Sha256::digest(data).to_vec().into()
}

/// Declares a file of these bytes, if their SHA-256 may be told.
async fn declare(trainer: &Trainer, checkpoint: &str, path: &str, data: &[u8]) -> Result<v1::File, Status> {
    let request = v1::PrepareFileRequest {
        checkpoint: checkpoint.to_owned(),
        attempt: trainer.attempt,
        path: path.to_owned(),
        size_bytes: i64::try_from(data.len()).unwrap(),
        sha256: sha256(data),
    };
    let mut checkpoints = v1::checkpoints_client::CheckpointsClient::new(trainer.channel.clone());
    Ok(checkpoints.prepare_file(request).await?.into_inner())
}

/// A stream of these bytes from an offset on.
async fn write(
    trainer: &Trainer,
    checkpoint: &str,
    path: &str,
    data: &[u8],
    offset: usize,
) -> Result<v1::File, Status> {
    let messages = trainer.messages(checkpoint, path, data, offset);
    let mut checkpoints = v1::checkpoints_client::CheckpointsClient::new(trainer.channel.clone());
    Ok(checkpoints.write_file(futures::stream::iter(messages)).await?.into_inner())
}

/// Small files, each with the SHA-256 of other bytes.
async fn write_small(
    trainer: &Trainer,
    checkpoint: &str,
    files: &[(&str, &[u8], &[u8])],
) -> Result<Vec<v1::File>, Status> {
    let file = |(path, data, declared): &(&str, &[u8], &[u8])| v1::SmallFile {
        path: (*path).to_owned(),
        data: data.to_vec().into(),
        sha256: sha256(declared),
    };
    let request = v1::WriteSmallFilesRequest {
        checkpoint: checkpoint.to_owned(),
        attempt: trainer.attempt,
        files: files.iter().map(file).collect(),
    };
    let mut checkpoints = v1::checkpoints_client::CheckpointsClient::new(trainer.channel.clone());
    Ok(checkpoints.write_small_files(request).await?.into_inner().files)
}

/// The refusal names both digests.
fn is_mismatch<T: std::fmt::Debug>(what: &str, answer: Result<T, Status>, declared: &[u8], received: &[u8]) {
    let status = refusal(what, answer, Code::InvalidArgument, "DIGEST_MISMATCH");
    let hex = |data: &[u8]| sha256(data).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(detail(&status, "declared_sha256"), hex(declared), "{what}");
    assert_eq!(detail(&status, "received_sha256"), hex(received), "{what}");
}

/// Nothing of the file counts, and the right bytes can be written and published.
async fn heals(server: &TestServer, trainer: &Trainer, checkpoint: &str, data: &[u8], what: &str) {
    let commit = trainer.commit(checkpoint).await;
    refusal(what, commit, Code::FailedPrecondition, "FILES_INCOMPLETE");
    let file = declare(trainer, checkpoint, MODEL, data).await.unwrap();
    assert_eq!((file.durable_bytes, file.state()), (0, v1::FileState::Open), "{what}");
    let file = write(trainer, checkpoint, MODEL, data, 0).await.unwrap();
    assert_eq!((file.state(), file.sha256), (v1::FileState::Complete, sha256(data)), "{what}");
    let version = trainer.commit(checkpoint).await.unwrap();
    assert!(read(server, &version.name, MODEL).await.unwrap() == data, "{what}");
}

/// Sends some bytes of a file, and is gone when so many of them are durable.
async fn cut(trainer: &Trainer, checkpoint: &str, sent: &[u8], size: usize, durable: usize) {
    let upload = OpenUpload::begin(trainer.channel.clone(), trainer, checkpoint, MODEL, 0).await;
    upload.send(sent).await;
    until_durable(trainer, checkpoint, MODEL, size, durable).await;
    upload.cancel().await;
}

#[tokio::test]
async fn a_stream_of_other_bytes_than_declared_is_refused() {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "streams", every_epoch()).await;
    let data = noise(1, SIZE);
    // What the team has already is pinned without being stored: it is hashed all the same.
    trainer.save(0, 0.5, &noise(2, SIZE)).await;
    for (epoch, other) in (1..).zip([noise(2, SIZE), noise(3, SIZE), [&data[..SIZE - 1], b"x"].concat()]) {
        let what = format!("other bytes {epoch}");
        let checkpoint = trainer.epoch(epoch, 0.5).await.checkpoint;
        declare(&trainer, &checkpoint, MODEL, &data).await.unwrap();
        let answer = write(&trainer, &checkpoint, MODEL, &other, 0).await;
        is_mismatch(&what, answer, &data, &other);
        heals(&server, &trainer, &checkpoint, &data, &what).await;
    }
    let checkpoint = trainer.epoch(9, 0.5).await.checkpoint;
    declare(&trainer, &checkpoint, "empty", b"").await.unwrap();
    write(&trainer, &checkpoint, "empty", b"", 0).await.unwrap();
}

#[tokio::test]
async fn a_stream_that_goes_on_behind_other_bytes_is_refused() {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "resumes", every_epoch()).await;
    let (data, other) = (noise(1, 2 * CHUNK), noise(2, 2 * CHUNK));
    for (epoch, durable) in (0..).zip([CHUNK, 2 * CHUNK]) {
        let what = format!("{durable} other bytes");
        let checkpoint = trainer.epoch(epoch, 0.5).await.checkpoint;
        // A stream that declared nothing wrong, until its end: the next one is of a process that found another file.
        declare(&trainer, &checkpoint, MODEL, &data).await.unwrap();
        cut(&trainer, &checkpoint, &other[..durable], 2 * CHUNK, durable).await;
        let offset = prepared(&trainer, &checkpoint, &data).await;
        let answer = write(&trainer, &checkpoint, MODEL, &data, offset).await;
        let mixed = [&other[..offset], &data[offset..]].concat();
        is_mismatch(&what, answer, &data, &mixed);
        heals(&server, &trainer, &checkpoint, &data, &what).await;
    }
    // Of the right bytes any part may be sent by whom it will.
    let checkpoint = trainer.epoch(9, 0.5).await.checkpoint;
    declare(&trainer, &checkpoint, MODEL, &data).await.unwrap();
    cut(&trainer, &checkpoint, &data[..CHUNK + 1], 2 * CHUNK, CHUNK).await;
    let file = write(&trainer, &checkpoint, MODEL, &data, CHUNK).await.unwrap();
    assert_eq!(file.state(), v1::FileState::Complete);
}

async fn prepared(trainer: &Trainer, checkpoint: &str, data: &[u8]) -> usize {
    let file = declare(trainer, checkpoint, MODEL, data).await.unwrap();
    usize::try_from(file.durable_bytes).unwrap()
}

#[tokio::test]
async fn a_file_of_one_chunk_keeps_no_byte_of_what_was_refused() {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "one-chunk", every_epoch()).await;
    for (epoch, size) in (0..).zip([5, 3_000_000]) {
        let (data, other) = (noise(10, size), noise(11, size));
        let checkpoint = trainer.epoch(epoch, 0.5).await.checkpoint;
        declare(&trainer, &checkpoint, MODEL, &data).await.unwrap();
        let answer = write(&trainer, &checkpoint, MODEL, &other, 0).await;
        is_mismatch("one chunk", answer, &data, &other);
        heals(&server, &trainer, &checkpoint, &data, "one chunk").await;
    }
}

#[tokio::test]
async fn what_was_durable_and_is_damaged_is_written_again() {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "damaged", every_epoch()).await;
    let data = noise(1, SIZE);
    let checkpoint = trainer.epoch(0, 0.5).await.checkpoint;
    declare(&trainer, &checkpoint, MODEL, &data).await.unwrap();
    cut(&trainer, &checkpoint, &data[..CHUNK + 1], SIZE, CHUNK).await;
    let [(object, _)] = &objects(&server)[..] else { panic!("one chunk is stored") };
    damage(&server, object, Some(b"damaged".to_vec()));
    let answer = write(&trainer, &checkpoint, MODEL, &data, CHUNK).await;
    refusal("a damaged object", answer, Code::Aborted, "UPLOAD_BROKEN");
    assert_eq!(prepared(&trainer, &checkpoint, &data).await, 0);
    assert_eq!(versions(&server, &trainer.run).await, []);
    write(&trainer, &checkpoint, MODEL, &data, 0).await.unwrap();
    let version = trainer.commit(&checkpoint).await.unwrap();
    assert!(read(&server, &version.name, MODEL).await.unwrap() == data, "its bytes were stored anew");
}

#[tokio::test]
async fn small_files_of_other_bytes_than_declared_are_refused() {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "small", every_epoch()).await;
    let checkpoint = trainer.epoch(0, 0.5).await.checkpoint;
    let witness = Witness::of(&server).await;
    for wrong in [&b"other"[..], b""] {
        let files: [(&str, &[u8], &[u8]); 2] = [("good", b"good", b"good"), ("bad", wrong, b"right")];
        let answer = write_small(&trainer, &checkpoint, &files).await.map(Response::new);
        witness.nothing_stored("small files").await;
        is_mismatch("small files", answer, b"right", wrong);
    }
    // Also where the SHA-256 was declared before, and is not told again.
    declare(&trainer, &checkpoint, MODEL, b"right").await.unwrap();
    let other = crate::support::transfers::write_small(&trainer, &checkpoint, &[(MODEL, b"other")]).await;
    is_mismatch("declared before", other, b"right", b"other");
    heals(&server, &trainer, &checkpoint, b"right", "declared before").await;

    let checkpoint = trainer.epoch(1, 0.5).await.checkpoint;
    let files: [(&str, &[u8], &[u8]); 2] = [("a", b"right", b"right"), ("empty", b"", b"")];
    let written = write_small(&trainer, &checkpoint, &files).await.unwrap();
    assert_eq!(
        written.iter().map(|it| it.sha256.clone()).collect::<Vec<_>>(),
        [sha256(b"right"), sha256(b"")]
    );
    trainer.commit(&checkpoint).await.unwrap();
}
