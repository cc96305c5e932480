//! A disk without room, at every write: the caller is told, reads go on, and it heals by itself.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use keepbest::config::Config;
use keepbest_proto::v1;
use keepbest_proto::v1::artifacts_client::ArtifactsClient;
use tempfile::TempDir;
use tonic::Code;
use tonic::Status;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::crashes::leftovers::leaked;
use crate::support::disk::SmallDisk;
use crate::support::disk::may_mount;

use crate::support::probed::Probed;
use crate::support::refusals::refusal;
use crate::support::requests::Trainer;
use crate::support::requests::epoch_end;
use crate::support::requests::every_epoch;
use crate::support::requests::noise;
use crate::support::requests::start_request;
use crate::support::transfers::CHUNK;
use crate::support::transfers::artifact_of;
use crate::support::transfers::write_small;

const MODEL: &str = "model.keras";
/// Of the small disk: room for what stands and the saves that follow.
const MEBIBYTES: u32 = 64;
/// Of the small disk, files and folders.
const FILES: u32 = 200;
/// A page of the file system: the least room that lets one more write through. Each refusal gives one more of them than the
/// one before, for a file that is tried again takes some for its rows.
const PAGE_BYTES: u64 = 4 << 10;
/// With so many refusals there is room for a whole save.
const MOST_REFUSALS: u64 = 100;

/// What lies on the small disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Full {
    Both,
    Objects,
    Database,
}

/// A server with a part of its data on a small disk, a trainer, and what was acknowledged.
struct Cramped {
    server: Probed,
    disk: SmallDisk,
    trainer: Trainer,
    epoch: i64,
    kept: BTreeMap<String, Vec<(&'static str, Vec<u8>)>>,
    data: TempDir,
    _elsewhere: TempDir,
}

impl Cramped {
    async fn new(full: Full) -> Cramped {
        let (data, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let objects = data.path().join("objects");
        let disk = match full {
            Full::Both => SmallDisk::mount(data.path(), MEBIBYTES, FILES),
            Full::Objects => {
                fs::create_dir(&objects).unwrap();
                SmallDisk::mount(&objects, MEBIBYTES, FILES)
            }
            Full::Database => {
                let disk = SmallDisk::mount(data.path(), MEBIBYTES, FILES);
                symlink(elsewhere.path(), &objects).unwrap();
                disk
            }
        };
        let server = Probed::start(data.path());
        let trainer = server.trainer(start_request("first", every_epoch())).await.unwrap();
        let kept = BTreeMap::new();
        let mut cramped = Cramped { server, disk, trainer, epoch: 0, kept, data, _elsewhere: elsewhere };
        let checkpoint = cramped.saved().await;
        let files = files(1, CHUNK + 5);
        upload(&cramped.trainer, &checkpoint, &files).await.unwrap();
        cramped.commit(&checkpoint, files).await.unwrap();
        cramped
    }

    async fn report(&mut self) -> Result<String, Status> {
        let decision = self.trainer.report(vec![epoch_end(self.epoch, 0.5)]).await?.pop().unwrap();
        self.epoch += 1;
        Ok(decision.checkpoint)
    }

    async fn saved(&mut self) -> String {
        self.report().await.unwrap()
    }

    async fn commit(&mut self, checkpoint: &str, files: Vec<(&'static str, Vec<u8>)>) -> Result<(), Status> {
        let version = self.trainer.commit(checkpoint).await?;
        self.kept.insert(version.name, files);
        Ok(())
    }

    /// Reads and the health go on, and no other version is there than those that were acknowledged.
    async fn serves_what_it_has(&mut self) {
        assert!(self.server.is_running());
        let asked = HealthClient::new(self.server.channel()).check(HealthCheckRequest::default()).await;
        assert_eq!(asked.unwrap().into_inner().status, 1);
        let mut artifacts = ArtifactsClient::new(self.server.channel());
        let parent = artifact_of(&self.trainer.run);
        let list = v1::ListVersionsRequest { parent, page_size: 1_000, ..Default::default() };
        let listed = artifacts.list_versions(list).await.unwrap().into_inner().versions;
        let mut listed: Vec<_> = listed.into_iter().map(|it| it.name).collect();
        listed.sort();
        assert_eq!(listed, self.kept.keys().cloned().collect::<Vec<_>>());
        for (version, files) in &self.kept {
            for (path, data) in files {
                let request = v1::ReadFileRequest {
                    version: version.clone(),
                    path: (*path).to_owned(),
                    ..Default::default()
                };
                let mut messages = artifacts.read_file(request).await.unwrap().into_inner();
                let mut read = Vec::new();
                while let Some(message) = messages.message().await.unwrap() {
                    read.extend_from_slice(&message.data);
                }
                assert!(read == *data, "{version} {path}");
            }
        }
    }

    /// The same process saves again; then nothing is half and nothing is left over.
    async fn goes_on(mut self) {
        let checkpoint = self.saved().await;
        let files = files(1_000, 2 * CHUNK + 1);
        upload(&self.trainer, &checkpoint, &files).await.unwrap();
        self.commit(&checkpoint, files).await.unwrap();
        self.serves_what_it_has().await;
        self.trainer.channel = self.server.channel();
        assert_eq!(self.server.terminate().await, Some(0));
        let check = Command::new(env!("CARGO_BIN_EXE_keepbest"))
            .args(["check", "--read-data", "--data"])
            .arg(self.data.path())
            .output()
            .unwrap();
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
        let config = Config { data_dir: self.data.path().to_owned(), ..Config::default() };
        assert_eq!(leaked(&config).await, 0);
    }
}

/// A file in chunks and two small ones, all new.
fn files(seed: u64, length: usize) -> Vec<(&'static str, Vec<u8>)> {
    vec![(MODEL, noise(seed, length)), ("a", noise(seed + 1, 100)), ("b", noise(seed + 2, 9_000))]
}

async fn upload(trainer: &Trainer, checkpoint: &str, files: &[(&str, Vec<u8>)]) -> Result<(), Status> {
    trainer.upload(checkpoint, MODEL, &files[0].1).await?;
    small(trainer, checkpoint, files).await
}

async fn small(trainer: &Trainer, checkpoint: &str, files: &[(&str, Vec<u8>)]) -> Result<(), Status> {
    let small: Vec<(&str, &[u8])> = files[1..].iter().map(|(path, data)| (*path, &data[..])).collect();
    write_small(trainer, checkpoint, &small).await.map(drop)
}

/// The one answer of a full disk.
fn is_full<T: std::fmt::Debug>(what: &str, result: Result<T, Status>) {
    refusal(what, result, Code::ResourceExhausted, "STORE_FULL");
}

/// Every kind of write meets the full disk, for as long as it is full.
async fn every_write_is_refused_and_heals(full: Full) {
    let mut it = Cramped::new(full).await;
    let (uploaded, empty) = (it.saved().await, it.saved().await);
    let (first, second) = (files(10, 1_000), files(20, CHUNK + 9));
    upload(&it.trainer, &uploaded, &first).await.unwrap();
    it.disk.fill();
    for _ in 0..3 {
        if full == Full::Objects {
            // The database has room: only bytes are refused.
            it.saved().await;
            it.server.trainer(start_request("second", every_epoch())).await.unwrap();
        } else {
            is_full("an event", it.report().await);
            is_full("a run", it.server.trainer(start_request("second", every_epoch())).await.map(drop));
            is_full("a commit", it.trainer.commit(&uploaded).await);
            let mut artifacts = ArtifactsClient::new(it.server.channel());
            let name = it.kept.keys().next().unwrap().clone();
            let delete = v1::DeleteVersionRequest { name, delete_aliases: true, ..Default::default() };
            is_full("a deletion", artifacts.delete_version(delete).await);
        }
        is_full("a file", it.trainer.upload(&empty, MODEL, &second[0].1).await);
        is_full("small files", small(&it.trainer, &empty, &second).await);
        it.serves_what_it_has().await;
    }
    it.disk.free();
    it.commit(&uploaded, first).await.unwrap();
    upload(&it.trainer, &empty, &second).await.unwrap();
    it.commit(&empty, second).await.unwrap();
    it.goes_on().await;
}

#[tokio::test]
async fn a_full_disk_refuses_every_write_and_heals() {
    if may_mount("faults::disk_full::a_full_disk_refuses_every_write_and_heals") {
        every_write_is_refused_and_heals(Full::Both).await;
    }
}

#[tokio::test]
async fn a_full_disk_of_objects_refuses_bytes_and_heals() {
    if may_mount("faults::disk_full::a_full_disk_of_objects_refuses_bytes_and_heals") {
        every_write_is_refused_and_heals(Full::Objects).await;
    }
}

#[tokio::test]
async fn a_full_disk_of_the_database_refuses_every_write_and_heals() {
    if may_mount("faults::disk_full::a_full_disk_of_the_database_refuses_every_write_and_heals") {
        every_write_is_refused_and_heals(Full::Database).await;
    }
}

#[tokio::test]
async fn with_some_pages_more_each_time_the_disk_is_full_at_every_write_of_a_save() {
    if !may_mount(
        "faults::disk_full::with_some_pages_more_each_time_the_disk_is_full_at_every_write_of_a_save",
    ) {
        return;
    }
    let mut it = Cramped::new(Full::Both).await;
    it.disk.fill();
    let mut refused = BTreeMap::<&str, usize>::new();
    for round in 0..2 {
        let files = files(100 + 10 * round, 60_000);
        let (mut checkpoint, mut uploaded, mut wrote) = (None, false, false);
        let mut refusals = 0;
        loop {
            let (what, result) = match &checkpoint {
                None => ("event", it.report().await.map(|uid| checkpoint = Some(uid))),
                Some(uid) if !uploaded => {
                    ("file", it.trainer.upload(uid, MODEL, &files[0].1).await.map(|_| uploaded = true))
                }
                Some(uid) if !wrote => {
                    ("small", small(&it.trainer, uid, &files).await.map(|()| wrote = true))
                }
                Some(uid) => {
                    let uid = uid.clone();
                    match it.commit(&uid, files.clone()).await {
                        Ok(()) => break,
                        error => ("commit", error),
                    }
                }
            };
            if result.is_err() {
                is_full(what, result);
                *refused.entry(what).or_default() += 1;
                refusals += 1;
                assert!(refusals < MOST_REFUSALS, "there is room by now: {refused:?}");
                it.disk.give(refusals * PAGE_BYTES);
            } else {
                it.disk.fill();
                refusals = 0;
            }
        }
        it.serves_what_it_has().await;
        it.disk.fill();
    }
    println!("refused: {refused:?}");
    assert_eq!(refused.keys().copied().collect::<Vec<_>>(), ["commit", "event", "file", "small"]);
    it.disk.free();
    it.goes_on().await;
}

#[tokio::test]
async fn a_disk_that_takes_no_more_files_refuses_bytes_and_heals() {
    if !may_mount("faults::disk_full::a_disk_that_takes_no_more_files_refuses_bytes_and_heals") {
        return;
    }
    let mut it = Cramped::new(Full::Both).await;
    let (uploaded, empty) = (it.saved().await, it.saved().await);
    let (first, second) = (files(10, 1_000), files(20, CHUNK + 9));
    upload(&it.trainer, &uploaded, &first).await.unwrap();
    it.disk.fill_with_files();
    is_full("a file", it.trainer.upload(&empty, MODEL, &second[0].1).await);
    is_full("small files", small(&it.trainer, &empty, &second).await);
    // The database grows in the files that it has.
    it.saved().await;
    it.serves_what_it_has().await;
    // A commit needs room for its manifest, which is a file of its own.
    is_full("a manifest", it.trainer.commit(&uploaded).await);
    it.disk.free();
    it.commit(&uploaded, first).await.unwrap();
    upload(&it.trainer, &empty, &second).await.unwrap();
    it.commit(&empty, second).await.unwrap();
    it.goes_on().await;
}

/// A start needs nothing that reading does not: neither the check of the store nor the copy of the database's log, and the
/// index of the log finds room that was kept back.
#[tokio::test]
async fn a_server_starts_on_a_full_disk_serves_what_it_has_and_heals() {
    if !may_mount("faults::disk_full::a_server_starts_on_a_full_disk_serves_what_it_has_and_heals") {
        return;
    }
    for full in [Full::Both, Full::Objects, Full::Database] {
        let mut it = Cramped::new(full).await;
        for killed in [true, false] {
            if killed {
                it.server.kill();
            } else {
                it.trainer.channel = it.server.channel();
                assert_eq!(it.server.terminate().await, Some(0));
            }
            it.disk.fill();
            it.server = Probed::start(it.data.path());
            it.trainer.channel = it.server.channel();
            it.serves_what_it_has().await;
            // What was kept back and is not needed now is for writes.
            it.disk.fill();
            if full != Full::Objects {
                // A log that was copied into the database is written anew from its beginning, which takes no room for a while.
                let mut answer = it.report().await;
                for _ in 0..1_000 {
                    if answer.is_err() {
                        break;
                    }
                    answer = it.report().await;
                }
                is_full("an event", answer);
            }
            it.disk.free();
            it.saved().await;
        }
        it.goes_on().await;
    }
}
