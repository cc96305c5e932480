//! Chunks that the client cuts, and those that it does not send because the team has them.

use bytes::Bytes;
use keepbest_proto::v1;
use tonic::Code;
use tonic::Status;

use crate::support::refusals::refusal;
use crate::support::requests::Trainer;
use crate::support::requests::detail;
use crate::support::requests::every_epoch;
use crate::support::requests::noise;
use crate::support::requests::read;
use crate::support::requests::reason;
use crate::support::server;
use crate::support::server::TestServer;
use crate::support::transfers::CHUNK;
use crate::support::transfers::OpenUpload;
use crate::support::transfers::damage;
use crate::support::transfers::objects;
use crate::support::transfers::prepare;
use crate::support::transfers::until_durable;
use crate::support::transfers::versions;

const MODEL: &str = "model.safetensors";

fn digest(data: &[u8]) -> Bytes {
    blake3::hash(data).as_bytes().to_vec().into()
}

/// What `File.digest` must be: over pieces of 8 MiB, however the file was cut.
fn file_digest(data: &[u8]) -> Bytes {
    let pieces: Vec<u8> = data.chunks(CHUNK).flat_map(|it| *blake3::hash(it).as_bytes()).collect();
    digest(&pieces)
}

fn known(data: &[u8]) -> v1::KnownChunk {
    v1::KnownChunk { size_bytes: i32::try_from(data.len()).unwrap(), digest: digest(data) }
}

/// Which of the chunks the team has not.
async fn missing(trainer: &Trainer, checkpoint: &str, chunks: &[&[u8]]) -> Vec<i32> {
    let digests = chunks.iter().map(|it| digest(it)).collect();
    let request = v1::FindMissingChunksRequest { checkpoint: checkpoint.to_owned(), digests };
    let mut checkpoints = v1::checkpoints_client::CheckpointsClient::new(trainer.channel.clone());
    checkpoints.find_missing_chunks(request).await.unwrap().into_inner().missing
}

/// Sends a chunk and cuts behind it.
async fn send(upload: &OpenUpload, chunk: &[u8]) {
    upload.send(chunk).await;
    upload.send_message(v1::WriteFileRequest { cut: true, ..Default::default() }).await;
}

async fn refer(upload: &OpenUpload, chunks: Vec<v1::KnownChunk>) {
    upload.send_message(v1::WriteFileRequest { known: chunks, ..Default::default() }).await;
}

/// Writes a file of these chunks as a client does that asks first. Answers the file and how many bytes were sent.
async fn write(
    server: &TestServer,
    trainer: &Trainer,
    checkpoint: &str,
    chunks: &[&[u8]],
) -> (Result<v1::File, Status>, usize) {
    let size = chunks.iter().map(|it| it.len()).sum();
    prepare(trainer, checkpoint, MODEL, size).await.unwrap();
    let missing = missing(trainer, checkpoint, chunks).await;
    let upload = OpenUpload::begin(server.channel(), trainer, checkpoint, MODEL, 0).await;
    let mut sent = 0;
    for (index, chunk) in (0..).zip(chunks) {
        if missing.contains(&index) {
            send(&upload, chunk).await;
            sent += chunk.len();
        } else {
            refer(&upload, vec![known(chunk)]).await;
        }
    }
    (upload.finish().await, sent)
}

/// Saves a file of these chunks as a version, checks what is read of it, and answers how many bytes were sent.
async fn save(server: &TestServer, trainer: &mut Trainer, epoch: i64, chunks: &[&[u8]]) -> usize {
    let data = chunks.concat();
    let checkpoint = trainer.epoch(epoch, 0.5).await.checkpoint;
    let (file, sent) = write(server, trainer, &checkpoint, chunks).await;
    assert_eq!(file.unwrap().digest, file_digest(&data), "epoch {epoch}");
    let version = trainer.commit(&checkpoint).await.unwrap();
    assert!(read(server, &version.name, MODEL).await.unwrap() == data, "epoch {epoch}");
    sent
}

fn stored_bytes(server: &TestServer) -> u64 {
    objects(server).iter().map(|it| it.1).sum()
}

#[tokio::test]
async fn a_file_has_the_same_digest_wherever_it_is_cut() {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "cut", every_epoch()).await;
    let data = noise(1, 2 * CHUNK + 17);
    let cuts: [&[usize]; 6] =
        [&[], &[1], &[CHUNK], &[100, CHUNK - 1, CHUNK, CHUNK + 1], &[CHUNK / 2, CHUNK], &[2 * CHUNK + 16]];
    for (epoch, cuts) in (0..).zip(cuts) {
        let checkpoint = trainer.epoch(epoch, 0.5).await.checkpoint;
        prepare(&trainer, &checkpoint, MODEL, data.len()).await.unwrap();
        let upload = OpenUpload::begin(server.channel(), &trainer, &checkpoint, MODEL, 0).await;
        let mut from = 0;
        for cut in cuts {
            send(&upload, &data[from..*cut]).await;
            from = *cut;
        }
        upload.send(&data[from..]).await;
        assert_eq!(upload.finish().await.unwrap().digest, file_digest(&data), "{cuts:?}");
        let version = trainer.commit(&checkpoint).await.unwrap();
        assert!(read(&server, &version.name, MODEL).await.unwrap() == data, "{cuts:?}");
    }
}

#[tokio::test]
async fn only_what_changed_is_sent_and_stored_wherever_the_rest_moved_to() {
    let mut server = server::start().await;
    let mut trainer = Trainer::start(&server, "tuned", every_epoch()).await;
    let (a, b, c) = (noise(1, 3 << 20), noise(2, CHUNK), noise(3, 5_000));
    let tuned: Vec<Vec<u8>> = (10..14).map(|it| noise(it, 40_000)).collect();
    let head = |of: u8| [of; 128];
    let first = save(&server, &mut trainer, 0, &[&head(0), &a, &tuned[0], &b, &b, &c]).await;
    assert_eq!(first, 128 + a.len() + 40_000 + b.len() + c.len(), "of two equal chunks one is sent");
    let stored = stored_bytes(&server);
    assert_eq!(stored, first as u64);
    // One tensor changed, and then all of them have other places and names.
    let orders: [&[&[u8]]; 3] = [
        &[&head(0), &a, &tuned[1], &b, &b, &c],
        &[&head(1), &c, &b, &tuned[2], &b, &a],
        &[&head(2), &b, &tuned[3], &c],
    ];
    for (epoch, order) in (1..).zip(orders) {
        let sent = save(&server, &mut trainer, epoch, order).await;
        assert!((40_000..=40_128).contains(&sent), "epoch {epoch}: {sent} bytes");
    }
    assert_eq!(stored_bytes(&server), stored + 3 * 40_000 + 2 * 128);
    // What a new process finds out by reading is the same.
    server.restart().await;
    trainer.channel = server.channel();
    assert_eq!(save(&server, &mut trainer, 4, &[&head(2), &b, &tuned[3], &c]).await, 0);
}

#[tokio::test]
async fn a_chunk_that_the_team_has_not_must_be_sent() {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "missing", every_epoch()).await;
    let (a, b) = (noise(1, 1_000), noise(2, 2_000));
    // Other teams' chunks are no chunks.
    let start = v1::StartRunRequest {
        parent: "teams/others/projects/p".to_owned(),
        run_id: "r".to_owned(),
        strategy: Some(every_epoch()),
        ..Default::default()
    };
    let mut other = Trainer::start_as(&server, start).await.unwrap();
    save(&server, &mut other, 0, &[&a, &b]).await;
    let checkpoint = trainer.epoch(0, 0.5).await.checkpoint;
    prepare(&trainer, &checkpoint, MODEL, 3_000).await.unwrap();
    assert_eq!(missing(&trainer, &checkpoint, &[&a, &b, &a]).await, [0, 1]);
    let upload = OpenUpload::begin(server.channel(), &trainer, &checkpoint, MODEL, 0).await;
    upload.send(&a).await;
    refer(&upload, vec![known(&b)]).await;
    let status = refusal("unknown", upload.finish().await, Code::Aborted, "CHUNK_MISSING");
    assert_eq!(detail(&status, "offset_bytes"), "1000");
    // What came on the stream that was refused needs no second way.
    assert_eq!(missing(&trainer, &checkpoint, &[&a, &b]).await, [1]);
    let (file, sent) = write(&server, &trainer, &checkpoint, &[&a, &b]).await;
    assert_eq!((file.unwrap().state(), sent), (v1::FileState::Complete, 2_000));
}

#[tokio::test]
async fn known_chunks_of_a_form_that_cannot_be_are_refused() {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "forms", every_epoch()).await;
    let a = noise(1, 1_000);
    save(&server, &mut trainer, 0, &[&a]).await;
    let checkpoint = trainer.epoch(1, 0.5).await.checkpoint;
    prepare(&trainer, &checkpoint, MODEL, 1_500).await.unwrap();
    let chunk = |size_bytes: usize, digest: Bytes| v1::KnownChunk { size_bytes: size_bytes as i32, digest };
    let table = [
        (chunk(0, digest(&a)), "BAD_CHUNK"),
        (chunk(CHUNK + 1, digest(&a)), "BAD_CHUNK"),
        (chunk(999, digest(&a)), "BAD_CHUNK"),
        (chunk(999, a[..31].to_vec().into()), "BAD_DIGEST"),
        (chunk(999, Bytes::new()), "BAD_DIGEST"),
    ];
    for (bad, expected) in table {
        let upload = OpenUpload::begin(server.channel(), &trainer, &checkpoint, MODEL, 0).await;
        refer(&upload, vec![bad.clone()]).await;
        upload.send(&a[..501]).await;
        refusal(format!("{bad:?}"), upload.finish().await, Code::InvalidArgument, expected);
    }
    let upload = OpenUpload::begin(server.channel(), &trainer, &checkpoint, MODEL, 0).await;
    refer(&upload, vec![known(&a), known(&a)]).await;
    refusal("beyond its end", upload.finish().await, Code::InvalidArgument, "SIZE_MISMATCH");
    let upload = OpenUpload::begin(server.channel(), &trainer, &checkpoint, MODEL, 0).await;
    refer(&upload, vec![known(&a); 1_001]).await;
    refusal("too many", upload.finish().await, Code::ResourceExhausted, "LIMIT_EXCEEDED");
    let digests = vec![digest(&a); 10_001];
    let request = v1::FindMissingChunksRequest { checkpoint: checkpoint.clone(), digests };
    let asked = server.checkpoints().find_missing_chunks(request).await;
    refusal("asked for too many", asked, Code::ResourceExhausted, "LIMIT_EXCEEDED");
    let request = v1::FindMissingChunksRequest { checkpoint, digests: vec![Bytes::from_static(b"short")] };
    let asked = server.checkpoints().find_missing_chunks(request).await;
    refusal("a short digest", asked, Code::InvalidArgument, "BAD_DIGEST");
}

#[tokio::test]
async fn the_sha_256_of_a_file_with_known_chunks_is_checked_too() {
    use sha2::Digest as _;
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "declared", every_epoch()).await;
    let (a, b) = (noise(1, 70_000), noise(2, 2_000));
    save(&server, &mut trainer, 0, &[&a]).await;
    let data = [&*a, &b].concat();
    let checkpoint = trainer.epoch(1, 0.5).await.checkpoint;
    for (path, of, is_right) in [("wrong", &b, false), ("right", &data, true)] {
        let request = v1::PrepareFileRequest {
            checkpoint: checkpoint.clone(),
            attempt: trainer.attempt,
            path: path.to_owned(),
            size_bytes: data.len() as i64,
            sha256: sha2::Sha256::digest(of).to_vec().into(),
        };
        server.checkpoints().prepare_file(request).await.unwrap();
        let upload = OpenUpload::begin(server.channel(), &trainer, &checkpoint, path, 0).await;
        refer(&upload, vec![known(&a)]).await;
        upload.send(&b).await;
        match (upload.finish().await, is_right) {
            (Ok(file), true) => assert_eq!(file.digest, file_digest(&data)),
            (answer, false) => drop(refusal(path, answer, Code::InvalidArgument, "DIGEST_MISMATCH")),
            (answer, true) => panic!("{answer:?}"),
        }
    }
}

#[tokio::test]
async fn a_damaged_chunk_is_known_no_more_once_a_read_found_it() {
    let mut server = server::start().await;
    let mut trainer = Trainer::start(&server, "damaged", every_epoch()).await;
    let (a, b) = (noise(1, 70_000), noise(2, 2_000));
    save(&server, &mut trainer, 0, &[&a, &b]).await;
    let (path, _) = objects(&server).into_iter().find(|it| it.1 == 70_000).unwrap();
    let mut wrong = a.clone();
    wrong[9] ^= 1;
    damage(&server, &path, Some(wrong));
    // A new process remembers no cell, and must read.
    server.restart().await;
    trainer.channel = server.channel();
    let checkpoint = trainer.epoch(1, 0.5).await.checkpoint;
    let c = noise(3, 10);
    let (file, sent) = write(&server, &trainer, &checkpoint, &[&c, &a]).await;
    assert_eq!((reason(&file.unwrap_err()).as_str(), sent), ("UPLOAD_BROKEN", 10));
    let (file, sent) = write(&server, &trainer, &checkpoint, &[&c, &a]).await;
    assert_eq!((file.unwrap().state(), sent), (v1::FileState::Complete, 70_000));
    trainer.commit(&checkpoint).await.unwrap();
    // And the earlier version is whole again.
    let first = &versions(&server, &trainer.run).await.pop().unwrap().name;
    assert!(read(&server, first, MODEL).await.unwrap() == [&*a, &b].concat());
}

#[tokio::test]
async fn a_stream_goes_on_where_the_client_cut_and_a_complete_file_is_repeated_there() {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "on", every_epoch()).await;
    let chunks = [noise(1, 2 << 20), noise(2, 3 << 20), noise(3, 9 << 20)];
    let data = chunks.concat();
    let checkpoint = trainer.epoch(0, 0.5).await.checkpoint;
    prepare(&trainer, &checkpoint, MODEL, data.len()).await.unwrap();
    let upload = OpenUpload::begin(server.channel(), &trainer, &checkpoint, MODEL, 0).await;
    send(&upload, &chunks[0]).await;
    send(&upload, &chunks[1]).await;
    until_durable(&trainer, &checkpoint, MODEL, data.len(), 5 << 20).await;
    upload.cancel().await;
    // By a client that cuts nothing itself.
    let upload = OpenUpload::begin(server.channel(), &trainer, &checkpoint, MODEL, 5 << 20).await;
    upload.send(&data[5 << 20..]).await;
    assert_eq!(upload.finish().await.unwrap().digest, file_digest(&data));
    for (from, expected) in
        [(0, Ok(())), (2 << 20, Ok(())), (5 << 20, Ok(())), (1 << 20, Err("OFFSET_MISMATCH"))]
    {
        let upload = OpenUpload::begin(server.channel(), &trainer, &checkpoint, MODEL, from).await;
        upload.send(&data[from..]).await;
        let answer = upload.finish().await.map(drop);
        assert_eq!(answer.map_err(|it| reason(&it)), expected.map_err(str::to_owned), "from {from}");
    }
    let other = noise(9, chunks[0].len());
    for (first, expected) in
        [(&chunks[0], Ok(())), (&chunks[1], Err("CUT_ELSEWHERE")), (&other, Err("FILE_EXISTS"))]
    {
        let upload = OpenUpload::begin(server.channel(), &trainer, &checkpoint, MODEL, 0).await;
        refer(&upload, vec![known(first)]).await;
        upload.send(&data[first.len()..]).await;
        let answer = upload.finish().await.map(drop);
        assert_eq!(answer.map_err(|it| reason(&it)), expected.map_err(str::to_owned));
    }
}
