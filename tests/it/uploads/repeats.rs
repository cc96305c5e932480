//! A file that is complete, written once more: the same bytes are the repeat of a lost answer, others are refused.

use keepbest_proto::v1;
use keepbest_proto::v1::checkpoints_client::CheckpointsClient;
use tonic::Code;
use tonic::Response;

use crate::support::refusals::Witness;
use crate::support::requests::Trainer;
use crate::support::requests::every_epoch;
use crate::support::requests::noise;
use crate::support::requests::read;
use crate::support::server;
use crate::support::transfers::CHUNK;
use crate::support::transfers::write_small;

const MODEL: &str = "model.keras";
/// Two chunks and a rest.
const SIZE: usize = 2 * CHUNK + 17;

#[tokio::test]
async fn a_stream_for_a_complete_file_must_say_the_same() {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "streams", every_epoch()).await;
    let checkpoint = trainer.epoch(0, 0.5).await.checkpoint;
    let data = noise(1, SIZE);
    let file = trainer.upload(&checkpoint, MODEL, &data).await.unwrap();
    let witness = Witness::of(&server).await;
    let write = async |data: &[u8], offset: usize| {
        let messages = trainer.messages(&checkpoint, MODEL, data, offset);
        CheckpointsClient::new(trainer.channel.clone()).write_file(futures::stream::iter(messages)).await
    };
    // Chunks begin at these, and the file ends at the last.
    for offset in [0, CHUNK, 2 * CHUNK, SIZE] {
        assert_eq!(*write(&data, offset).await.unwrap().get_ref(), file, "from {offset}");
    }
    for place in [0, CHUNK - 1, CHUNK, 2 * CHUNK, SIZE - 1] {
        let mut other = data.clone();
        other[place] ^= 1;
        for offset in [0, CHUNK, 2 * CHUNK].into_iter().filter(|offset| *offset <= place) {
            let what = format!("byte {place} is another, from {offset}");
            let answer = write(&other, offset).await;
            witness.refused(what, answer, Code::AlreadyExists, "FILE_EXISTS").await;
        }
    }
    let longer = [&data[..], b"x"].concat();
    for (what, data, offset) in [
        ("fewer", &data[..SIZE - 1], 0),
        ("none", b"", 0),
        ("a chunk", &data[..CHUNK], 0),
        ("more", &longer, 0),
        ("more behind the end", &longer, SIZE),
    ] {
        let answer = write(data, offset).await;
        witness.refused(what, answer, Code::InvalidArgument, "SIZE_MISMATCH").await;
    }
    for offset in [1, CHUNK + 1, SIZE - 1] {
        let answer = write(&data, offset).await;
        witness.refused(offset, answer, Code::FailedPrecondition, "OFFSET_MISMATCH").await;
    }
    let mut unfinished = trainer.messages(&checkpoint, MODEL, &data, 0);
    unfinished.last_mut().unwrap().finish = false;
    let answer = server.checkpoints().write_file(futures::stream::iter(unfinished)).await;
    witness.refused("no end", answer, Code::InvalidArgument, "FINISH_MISSING").await;

    let version = trainer.commit(&checkpoint).await.unwrap();
    assert!(read(&server, &version.name, MODEL).await.unwrap() == data);
}

#[tokio::test]
async fn small_files_that_are_complete_must_be_the_same() {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "small", every_epoch()).await;
    let checkpoint = trainer.epoch(0, 0.5).await.checkpoint;
    let files: [(&str, &[u8]); 3] = [("a", b"bytes"), ("b", b"other"), ("empty", b"")];
    let first = write_small(&trainer, &checkpoint, &files[..2]).await.unwrap();
    let streamed = trainer.upload(&checkpoint, "empty", b"").await.unwrap();
    let large = noise(1, CHUNK + 1);
    trainer.upload(&checkpoint, MODEL, &large).await.unwrap();
    let witness = Witness::of(&server).await;
    let again = write_small(&trainer, &checkpoint, &files).await.unwrap();
    assert_eq!(again, [&first[..], std::slice::from_ref(&streamed)].concat());
    for changed in
        [("b", &b"bytes"[..]), ("b", b"othe"), ("b", b"others"), ("empty", b"x"), (MODEL, b"small")]
    {
        let what = format!("{changed:?}");
        let answer = write_small(&trainer, &checkpoint, &[("a", b"bytes"), changed]).await.map(Response::new);
        witness.refused(what, answer, Code::AlreadyExists, "FILE_EXISTS").await;
    }
    // And by a stream what came as a small file.
    let messages = trainer.messages(&checkpoint, "a", b"BYTES", 0);
    let answer = server.checkpoints().write_file(futures::stream::iter(messages)).await;
    witness.refused("a stream", answer, Code::AlreadyExists, "FILE_EXISTS").await;
    assert_eq!(trainer.upload(&checkpoint, "a", b"bytes").await.unwrap().state(), v1::FileState::Complete);
    trainer.commit(&checkpoint).await.unwrap();
}
