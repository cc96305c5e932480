//! Directories and small files in one call, and that equal bytes are stored once for a team.

use keepbest_proto::v1;
use tonic::Code;

use crate::support::refusals::refusal;
use crate::support::requests::Trainer;
use crate::support::requests::best_only;
use crate::support::requests::every_epoch;
use crate::support::requests::noise;
use crate::support::requests::read;
use crate::support::requests::start_request;
use crate::support::server;
use crate::support::transfers::CHUNK;
use crate::support::transfers::objects;
use crate::support::transfers::write_small;

#[tokio::test]
async fn a_directory_comes_back_file_by_file() {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "first", best_only()).await;
    let checkpoint = trainer.epoch(0, 0.5).await.checkpoint;
    let large = noise(1, CHUNK + 1);
    let files: [(&str, &[u8]); 6] = [
        ("saved_model.pb", b"graph"),
        ("variables/variables.data-00000-of-00002", &large),
        ("variables/variables.data-00001-of-00002", &large[1..]),
        ("variables/variables.index", b"graph"),
        ("assets/ünïcode name.txt", b"\0\xff"),
        ("keras_metadata.pb", b""),
    ];
    let (small, streamed): (Vec<_>, Vec<_>) =
        files.iter().copied().partition(|(_, data)| data.len() < 1 << 20);
    write_small(&trainer, &checkpoint, &small).await.unwrap();
    for (path, data) in streamed {
        trainer.upload(&checkpoint, path, data).await.unwrap();
    }
    let version = trainer.commit(&checkpoint).await.unwrap();
    assert_eq!((version.file_count, version.size_bytes), (6, 2 * CHUNK as i64 + 13));
    let get = v1::GetVersionRequest { name: version.name.clone(), include_files: true };
    let listed = server.artifacts().get_version(get).await.unwrap().into_inner().files;
    let mut paths: Vec<&str> = files.iter().map(|it| it.0).collect();
    paths.sort_unstable();
    assert_eq!(listed.iter().map(|it| it.path.as_str()).collect::<Vec<_>>(), paths);
    for (path, data) in files {
        assert!(read(&server, &version.name, path).await.unwrap() == data, "{path}");
    }
}

#[tokio::test]
async fn a_file_of_no_bytes_is_a_file() {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "first", every_epoch()).await;
    // By a stream, and in a call of small files.
    let streamed = trainer.save(0, 0.5, b"").await;
    let checkpoint = trainer.epoch(1, 0.5).await.checkpoint;
    write_small(&trainer, &checkpoint, &[("model.keras", b"")]).await.unwrap();
    let small = trainer.commit(&checkpoint).await.unwrap();
    assert_eq!((streamed.size_bytes, streamed.digest.len()), (0, 32));
    assert_eq!(streamed.digest, small.digest);
    for version in [streamed, small] {
        assert_eq!(read(&server, &version.name, "model.keras").await.unwrap(), b"");
    }
    assert_eq!(objects(&server), []);
}

#[tokio::test]
async fn a_thousand_small_files_in_one_call_are_written_once_however_often_it_is_repeated() {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "first", best_only()).await;
    let checkpoint = trainer.epoch(0, 0.5).await.checkpoint;
    let named: Vec<(String, Vec<u8>)> =
        (0..1_000).map(|index| (format!("shards/{index:04}"), noise(index, 100))).collect();
    let files: Vec<(&str, &[u8])> = named.iter().map(|(path, data)| (path.as_str(), &data[..])).collect();
    let first = write_small(&trainer, &checkpoint, &files).await.unwrap();
    assert!(first.iter().all(|it| it.state() == v1::FileState::Complete && it.durable_bytes == 100));
    let stored = objects(&server);
    assert_eq!(stored.len(), 1_000);
    assert_eq!(write_small(&trainer, &checkpoint, &files).await.unwrap(), first);
    // A repeat that overlaps and goes on is fine; one with other sizes is not.
    let more: Vec<_> = files[500..].iter().copied().chain([("more", &b"x"[..])]).collect();
    assert_eq!(write_small(&trainer, &checkpoint, &more).await.unwrap()[..500], first[500..]);
    let other = write_small(&trainer, &checkpoint, &[("shards/0000", b"shorter")]).await;
    refusal("another size", other, Code::AlreadyExists, "FILE_EXISTS");
    assert_eq!(objects(&server).len(), 1_001);
    let version = trainer.commit(&checkpoint).await.unwrap();
    assert_eq!((version.file_count, version.size_bytes), (1_001, 100_001));
    for index in [0, 499, 999] {
        let (path, data) = files[index];
        assert_eq!(read(&server, &version.name, path).await.unwrap(), data);
    }
}

#[tokio::test]
async fn equal_files_of_one_call_share_an_object() {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "first", best_only()).await;
    let checkpoint = trainer.epoch(0, 0.5).await.checkpoint;
    let files: [(&str, &[u8]); 4] = [("a", b"equal"), ("b", b"equal"), ("c", b"other"), ("d", b"equal")];
    write_small(&trainer, &checkpoint, &files).await.unwrap();
    assert_eq!(objects(&server).len(), 2);
    let version = trainer.commit(&checkpoint).await.unwrap();
    for (path, data) in files {
        assert_eq!(read(&server, &version.name, path).await.unwrap(), data);
    }
}

#[tokio::test]
async fn equal_bytes_are_stored_once_for_a_team_and_never_across_teams() {
    let server = server::start().await;
    let data = noise(3, 2 * CHUNK + 5);
    let mut trainer = Trainer::start(&server, "first", every_epoch()).await;
    trainer.save(0, 0.5, &data).await;
    let once = objects(&server);
    assert_eq!(once.len(), 3);
    trainer.save(1, 0.4, &data).await;
    let mut start = start_request("second", every_epoch());
    start.parent = "teams/default/projects/letters".to_owned();
    let mut elsewhere = Trainer::start_as(&server, start.clone()).await.unwrap();
    elsewhere.save(0, 0.5, &data).await;
    assert_eq!(objects(&server), once, "the team holds these bytes");
    // A change in the last chunk stores that chunk alone.
    let mut changed = data.clone();
    *changed.last_mut().unwrap() ^= 1;
    let version = trainer.save(2, 0.3, &changed).await;
    assert_eq!(objects(&server).len(), 4);
    assert!(read(&server, &version.name, "model.keras").await.unwrap() == changed);
    // Whether another team holds bytes must not show.
    start.parent = "teams/other/projects/letters".to_owned();
    let mut others = Trainer::start_as(&server, start).await.unwrap();
    let version = others.save(0, 0.5, &data).await;
    assert_eq!(objects(&server).len(), 7);
    assert!(read(&server, &version.name, "model.keras").await.unwrap() == data);
}
