//! What is no request at all: messages that are too long, or no messages.

use bytes::Bytes;
use keepbest_proto::v1;
use prost::Message;
use tonic::Code;

use crate::support::calls;
use crate::support::raw;
use crate::support::raw::methods;
use crate::support::refusals::Witness;
use crate::support::refusals::refusal;
use crate::support::requests::Trainer;
use crate::support::requests::best_only;
use crate::support::requests::noise;
use crate::support::requests::reason;
use crate::support::server;
use crate::support::transfers::OpenUpload;
use crate::support::transfers::prepare;

/// The largest message.
const MOST: usize = 4 << 20;

#[tokio::test]
async fn a_message_over_four_mebibytes_is_a_limit_in_every_method() {
    let server = server::start().await;
    Trainer::start(&server, "first", best_only()).await;
    let channel = server.channel();
    let witness = Witness::of(&server).await;
    for method in methods() {
        let answer = raw::call(&channel, &method, vec![0; MOST + 1].into()).await;
        refusal(&method, answer, Code::ResourceExhausted, "LIMIT_EXCEEDED");
    }
    witness.nothing_stored("messages that are too long").await;
}

#[tokio::test]
async fn a_later_message_over_the_limit_is_one_too() {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "first", best_only()).await;
    let checkpoint = trainer.epoch(0, 0.5).await.checkpoint;
    prepare(&trainer, &checkpoint, "model.keras", 2 * MOST).await.unwrap();
    let mut messages = trainer.messages(&checkpoint, "model.keras", &vec![0; 2 * MOST], 0);
    messages[1].data = vec![0; MOST].into();
    let answer = server.checkpoints().write_file(futures::stream::iter(messages)).await;
    refusal("the second message", answer, Code::ResourceExhausted, "LIMIT_EXCEEDED");
    // The largest that is allowed passes.
    let head = v1::WriteFileRequest { data: vec![0; MOST - 6].into(), ..Default::default() };
    assert!((MOST - 8..=MOST).contains(&head.encoded_len()), "{}", head.encoded_len());
    let upload = OpenUpload::begin(server.channel(), &trainer, &checkpoint, "model.keras", 0).await;
    upload.send(&vec![0; 2 * MOST]).await;
    assert_eq!(upload.finish().await.unwrap().state(), v1::FileState::Complete);
}

#[tokio::test]
async fn a_later_message_that_is_none_is_no_broken_connection() {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "first", best_only()).await;
    let checkpoint = trainer.epoch(0, 0.5).await.checkpoint;
    prepare(&trainer, &checkpoint, "model.keras", 3).await.unwrap();
    let first = trainer.messages(&checkpoint, "model.keras", b"ab", 0).remove(0);
    let first = v1::WriteFileRequest { finish: false, ..first }.encode_to_vec();
    let messages = [first.into(), Bytes::from_static(b"\xff")];
    let path = "/keepbest.v1.Checkpoints/WriteFile";
    let answer = raw::stream(&server.channel(), path, messages.into()).await;
    refusal("garbage after data", answer, Code::InvalidArgument, "BAD_MESSAGE");
}

/// Bytes that are no message, or one of another kind.
fn garbage() -> Vec<Bytes> {
    let mut garbage: Vec<Bytes> = [
        &b"\xff"[..],
        b"\x0a",
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\x0a\x03\xff\xfe\xfd",
        b"\x08\x01",
        b"\x0b\x0b\x0b",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"GET / HTTP/1.1\r\n\r\n",
    ]
    .into_iter()
    .map(Bytes::from_static)
    .collect();
    garbage.extend((1..40).map(|seed| Bytes::from(noise(seed, usize::try_from(seed * 3).unwrap()))));
    // Messages within messages within messages: as deep as the recursion limit and deeper.
    let mut deep = Vec::new();
    for _ in 0..200 {
        let length = deep.len();
        deep = [vec![0x4a], varint(length), deep].concat();
    }
    garbage.push(deep.into());
    garbage
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).unwrap());
    bytes
}

#[tokio::test]
async fn bytes_that_are_no_message_are_the_callers_fault() {
    let server = server::start().await;
    Trainer::start(&server, "first", best_only()).await;
    let channel = server.channel();
    let witness = Witness::of(&server).await;
    for method in calls::methods() {
        for bytes in garbage() {
            let status = raw::call(&channel, &method, bytes.clone()).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{method} {bytes:?}: {status:?}");
            assert!(!reason(&status).is_empty(), "{method} {bytes:?}: {status:?}");
        }
    }
    witness.nothing_stored("garbage").await;
    let status = raw::call(&channel, &methods()[0], Bytes::from_static(b"\xff")).await.unwrap_err();
    assert_eq!(reason(&status), "BAD_MESSAGE");
}
