//! Files: paths, sizes, digests, offsets and checksums.

use bytes::Bytes;
use keepbest_proto::v1;
use tonic::Code;
use tonic::Response;

use crate::support::refusals::Witness;
use crate::support::refusals::refusal;
use crate::support::requests::Trainer;
use crate::support::requests::best_only;
use crate::support::requests::detail;
use crate::support::requests::noise;
use crate::support::server;
use crate::support::server::TestServer;
use crate::support::transfers::CHUNK;
use crate::support::transfers::OpenUpload;
use crate::support::transfers::prepare;
use crate::support::transfers::until_durable;
use crate::support::transfers::versions;
use crate::support::transfers::write_small;

const MODEL: &str = "model.keras";

/// A server with a pending save.
async fn with_a_save() -> (TestServer, Trainer, String) {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "first", best_only()).await;
    let checkpoint = trainer.epoch(0, 0.5).await.checkpoint;
    (server, trainer, checkpoint)
}

#[tokio::test]
async fn a_path_that_could_leave_the_folder_is_refused_everywhere() {
    let (server, trainer, checkpoint) = with_a_save().await;
    let long = vec!["x".repeat(250); 5].join("/");
    let long_segment = "x".repeat(256);
    let paths = [
        "",
        ".",
        "..",
        "/",
        "//",
        "/etc/passwd",
        "../a",
        "a/../b",
        "a/..",
        "./a",
        "a/./b",
        "a//b",
        "a/",
        "a\0",
        "a\0/b",
        "a\\b",
        "..\\a",
        "C:\\a",
        "C:a",
        "c:/a",
        "a\nb",
        "a\u{7f}",
        "a\u{85}",
        &long,
        &long_segment,
    ];
    let mut checkpoints = server.checkpoints();
    let witness = Witness::of(&server).await;
    for path in paths {
        let what = format!("{path:?}");
        let answer = prepare(&trainer, &checkpoint, path, 3).await.map(Response::new);
        witness.refused(&what, answer, Code::InvalidArgument, "BAD_PATH").await;
        let messages = trainer.messages(&checkpoint, path, b"abc", 0);
        let answer = checkpoints.write_file(futures::stream::iter(messages)).await;
        witness.refused(&what, answer, Code::InvalidArgument, "BAD_PATH").await;
        // One bad path refuses the whole call.
        let files: [(&str, &[u8]); 2] = [("good", b"abc"), (path, b"def")];
        let answer = write_small(&trainer, &checkpoint, &files).await.map(Response::new);
        witness.refused(&what, answer, Code::InvalidArgument, "BAD_PATH").await;
        let version = "teams/default/projects/digits/artifacts/run-first-model/versions/v0".to_owned();
        let read = v1::ReadFileRequest { version, path: path.to_owned(), ..Default::default() };
        let answer = server.artifacts().read_file(read).await.map(|_| Response::new(()));
        witness.refused(&what, answer, Code::InvalidArgument, "BAD_PATH").await;
    }
}

#[tokio::test]
async fn sizes_and_digests_that_cannot_be_are_refused() {
    let (server, trainer, checkpoint) = with_a_save().await;
    let mut checkpoints = server.checkpoints();
    let witness = Witness::of(&server).await;
    let request = |size_bytes, sha256: &[u8]| v1::PrepareFileRequest {
        checkpoint: checkpoint.clone(),
        attempt: trainer.attempt,
        path: MODEL.to_owned(),
        size_bytes,
        sha256: Bytes::copy_from_slice(sha256),
    };
    for size_bytes in [-1, i64::MIN, (16 << 40) + 1, i64::MAX] {
        let answer = checkpoints.prepare_file(request(size_bytes, b"")).await;
        witness.refused(size_bytes, answer, Code::InvalidArgument, "SIZE_MISMATCH").await;
    }
    for length in [1, 31, 33, 64] {
        let sha256 = vec![7; length];
        let answer = checkpoints.prepare_file(request(3, &sha256)).await;
        witness.refused(length, answer, Code::InvalidArgument, "BAD_DIGEST").await;
        let file = v1::SmallFile { path: MODEL.to_owned(), data: Bytes::new(), sha256: sha256.into() };
        let small = v1::WriteSmallFilesRequest {
            checkpoint: checkpoint.clone(),
            attempt: trainer.attempt,
            files: vec![file],
        };
        let answer = checkpoints.write_small_files(small).await;
        witness.refused(length, answer, Code::InvalidArgument, "BAD_DIGEST").await;
    }
    // The largest is taken, and nothing is reserved for it.
    assert_eq!(
        checkpoints.prepare_file(request(16 << 40, &[7; 32])).await.unwrap().get_ref().durable_bytes,
        0
    );
    let another = checkpoints.prepare_file(request(16 << 40, &[8; 32])).await;
    let witness = Witness::of(&server).await;
    witness.refused("another digest", another, Code::AlreadyExists, "FILE_EXISTS").await;
    let another = checkpoints.prepare_file(request(3, &[7; 32])).await;
    witness.refused("another size", another, Code::AlreadyExists, "FILE_EXISTS").await;
}

#[tokio::test]
async fn more_or_less_data_than_declared_is_refused() {
    let (server, trainer, checkpoint) = with_a_save().await;
    let data = noise(1, CHUNK + 100);
    for (path, declared, sent) in [
        ("more", 10, 11),
        ("much more", 10, CHUNK + 100),
        ("more than nothing", 0, 1),
        ("less", 10, 9),
        ("nothing", 10, 0),
        ("a chunk less", CHUNK + 100, 100),
        ("one more than a chunk", CHUNK, CHUNK + 1),
        ("one less than a chunk", CHUNK, CHUNK - 1),
    ] {
        prepare(&trainer, &checkpoint, path, declared).await.unwrap();
        let upload = OpenUpload::begin(trainer.channel.clone(), &trainer, &checkpoint, path, 0).await;
        upload.send(&data[..sent]).await;
        let status = upload.finish().await.unwrap_err();
        let seen = (status.code(), crate::support::requests::reason(&status));
        assert_eq!(seen, (Code::InvalidArgument, "SIZE_MISMATCH".to_owned()), "{path}: {status:?}");
        let commit = trainer.commit(&checkpoint).await.unwrap_err();
        assert_eq!(crate::support::requests::reason(&commit), "FILES_INCOMPLETE", "{path}");
    }
    assert_eq!(versions(&server, &trainer.run).await, []);
}

#[tokio::test]
async fn a_message_whose_checksum_is_wrong_is_not_stored() {
    let (server, trainer, checkpoint) = with_a_save().await;
    let mut checkpoints = server.checkpoints();
    prepare(&trainer, &checkpoint, MODEL, 9).await.unwrap();
    let witness = Witness::of(&server).await;
    // The CRC-32C of `123456789` is 0xe3069283.
    for wrong in [0, 0xe306_9282, 0x8392_06e3] {
        let mut messages = trainer.messages(&checkpoint, MODEL, b"123456789", 0);
        messages[0].crc32c = Some(wrong);
        let answer = checkpoints.write_file(futures::stream::iter(messages)).await;
        witness.refused(format!("{wrong:x}"), answer, Code::InvalidArgument, "CHECKSUM_MISMATCH").await;
    }
    let mut messages = trainer.messages(&checkpoint, MODEL, b"123456789", 0);
    messages[0].crc32c = Some(0xe306_9283);
    let file = checkpoints.write_file(futures::stream::iter(messages)).await.unwrap().into_inner();
    assert_eq!(file.state(), v1::FileState::Complete);
}

#[tokio::test]
async fn a_stream_names_its_file_once_and_begins_where_it_may() {
    let (server, trainer, checkpoint) = with_a_save().await;
    let mut checkpoints = server.checkpoints();
    let data = noise(2, CHUNK + 10);
    prepare(&trainer, &checkpoint, MODEL, data.len()).await.unwrap();
    let witness = Witness::of(&server).await;
    let no_messages = futures::stream::iter(Vec::new());
    let answer = checkpoints.write_file(no_messages).await;
    witness.refused("no message", answer, Code::InvalidArgument, "FINISH_MISSING").await;
    for (offset, code, reason) in [
        (-1, Code::InvalidArgument, "BAD_RANGE"),
        (i64::MIN, Code::InvalidArgument, "BAD_RANGE"),
        (1, Code::FailedPrecondition, "OFFSET_MISMATCH"),
        (8 << 20, Code::FailedPrecondition, "OFFSET_MISMATCH"),
        (i64::MAX, Code::FailedPrecondition, "OFFSET_MISMATCH"),
    ] {
        let mut messages = trainer.messages(&checkpoint, MODEL, b"abc", 0);
        messages[0].offset_bytes = offset;
        let answer = checkpoints.write_file(futures::stream::iter(messages)).await;
        let status = witness.refused(offset, answer, code, reason).await;
        if code == Code::FailedPrecondition {
            assert_eq!(detail(&status, "durable_bytes"), "0");
        }
    }
    type Change = fn(&mut v1::WriteFileRequest);
    let again: [Change; 4] = [
        |it| it.path = "b".to_owned(),
        |it| it.checkpoint = "c".to_owned(),
        |it| it.offset_bytes = 3,
        |it| it.attempt = 1,
    ];
    for change in again {
        let mut messages = trainer.messages(&checkpoint, MODEL, &data[..2 << 20], 0);
        change(&mut messages[1]);
        let answer = checkpoints.write_file(futures::stream::iter(messages)).await;
        witness.refused("a second name", answer, Code::InvalidArgument, "BAD_MESSAGE").await;
    }
    // What comes after `finish` would not be stored.
    for late in [
        v1::WriteFileRequest { data: Bytes::from_static(b"more"), ..Default::default() },
        v1::WriteFileRequest::default(),
    ] {
        let path = format!("late-{}", late.data.len());
        prepare(&trainer, &checkpoint, &path, 3).await.unwrap();
        let mut messages = trainer.messages(&checkpoint, &path, b"abc", 0);
        messages.push(late);
        let answer = checkpoints.write_file(futures::stream::iter(messages)).await;
        refusal("after `finish`", answer, Code::InvalidArgument, "BAD_MESSAGE");
        assert_eq!(prepare(&trainer, &checkpoint, &path, 3).await.unwrap().state(), v1::FileState::Open);
    }
    let upload = OpenUpload::begin(trainer.channel.clone(), &trainer, &checkpoint, MODEL, 0).await;
    upload.send(&data[..CHUNK]).await;
    until_durable(&trainer, &checkpoint, MODEL, data.len(), CHUNK).await;
    upload.cancel().await;
    let mut messages = trainer.messages(&checkpoint, MODEL, &data, CHUNK - 1);
    messages[0].offset_bytes = (8 << 20) - 1;
    let answer = checkpoints.write_file(futures::stream::iter(messages)).await;
    let status = answer.unwrap_err();
    assert_eq!(detail(&status, "durable_bytes"), CHUNK.to_string());
}

#[tokio::test]
async fn too_many_small_files_and_a_path_twice_are_refused() {
    let (server, trainer, checkpoint) = with_a_save().await;
    let witness = Witness::of(&server).await;
    let paths: Vec<String> = (0..1_001).map(|index| format!("part-{index}")).collect();
    let files: Vec<(&str, &[u8])> = paths.iter().map(|path| (path.as_str(), b"x" as &[u8])).collect();
    let answer = write_small(&trainer, &checkpoint, &files).await.map(Response::new);
    witness.refused("1,001 files", answer, Code::ResourceExhausted, "LIMIT_EXCEEDED").await;
    // Which of the two would be meant? Not a lost race either: it can never succeed.
    for second in [b"one", b"two"] {
        let files: [(&str, &[u8]); 2] = [("a", b"one"), ("a", second)];
        let answer = write_small(&trainer, &checkpoint, &files).await.map(Response::new);
        witness.refused("a path twice", answer, Code::InvalidArgument, "BAD_PATH").await;
    }
}

#[tokio::test]
async fn a_commit_with_a_wrong_count_or_bad_metadata_is_refused() {
    let (server, trainer, checkpoint) = with_a_save().await;
    let mut checkpoints = server.checkpoints();
    let commit = |file_count| v1::CommitCheckpointRequest {
        checkpoint: checkpoint.clone(),
        attempt: trainer.attempt,
        file_count,
        ..Default::default()
    };
    let witness = Witness::of(&server).await;
    let answer = checkpoints.commit_checkpoint(commit(0)).await;
    witness.refused("no file", answer, Code::FailedPrecondition, "NO_FILES").await;
    trainer.upload(&checkpoint, MODEL, b"abc").await.unwrap();
    prepare(&trainer, &checkpoint, "open", 0).await.unwrap();
    let witness = Witness::of(&server).await;
    // Also a file of no bytes is open until its `finish`.
    for (file_count, code, reason) in [
        (0, Code::FailedPrecondition, "FILES_INCOMPLETE"),
        (2, Code::FailedPrecondition, "FILES_INCOMPLETE"),
        (-1, Code::InvalidArgument, "BAD_FILE_COUNT"),
        (i64::MIN, Code::InvalidArgument, "BAD_FILE_COUNT"),
    ] {
        let answer = checkpoints.commit_checkpoint(commit(file_count)).await;
        witness.refused(format!("count {file_count}"), answer, code, reason).await;
    }
    trainer.upload(&checkpoint, "open", b"").await.unwrap();
    let witness = Witness::of(&server).await;
    for file_count in [1, 3, i64::MAX] {
        let answer = checkpoints.commit_checkpoint(commit(file_count)).await;
        witness.refused(file_count, answer, Code::FailedPrecondition, "FILES_INCOMPLETE").await;
    }
    let long = prost_types::value::Kind::StringValue("x".repeat(64 << 10));
    let metadata =
        prost_types::Struct { fields: [("a".to_owned(), prost_types::Value { kind: Some(long) })].into() };
    let answer = checkpoints
        .commit_checkpoint(v1::CommitCheckpointRequest { metadata: Some(metadata), ..commit(2) })
        .await;
    witness.refused("long metadata", answer, Code::InvalidArgument, "BAD_METADATA").await;
    assert_eq!(checkpoints.commit_checkpoint(commit(2)).await.unwrap().get_ref().number, 0);
}

#[tokio::test]
async fn a_file_and_another_one_below_it_are_no_directory() {
    let (server, trainer, checkpoint) = with_a_save().await;
    let files: [(&str, &[u8]); 3] = [("a", b"file"), ("a-b", b"file"), ("a/b", b"file in a folder")];
    write_small(&trainer, &checkpoint, &files).await.unwrap();
    let witness = Witness::of(&server).await;
    let answer = trainer.commit(&checkpoint).await.map(Response::new);
    witness.refused("a and a/b", answer, Code::FailedPrecondition, "FILES_CONFLICT").await;
}
