//! What a server does when its disk cannot sync: it ends, and has acknowledged nothing that may be lost.

use std::fs;
use std::path::Path;
use std::process::Command;

use keepbest::clock::Clock;
use keepbest::store::new_key;
use keepbest_proto::v1;
use tonic::Status;

use super::faulty;
use super::is_away;
use crate::support::apps;
use crate::support::faults::PutFault;
use crate::support::probed::Probed;
use crate::support::requests::Trainer;
use crate::support::requests::epoch_end;
use crate::support::requests::every_epoch;
use crate::support::requests::noise;
use crate::support::requests::start_request;
use crate::support::transfers::write_small;

/// Syncs of the database's thread before the one that fails: the start takes a few, a save eight, so these are all of one.
const FAILING_SYNCS: std::ops::Range<usize> = 40..48;

/// Written past the page cache, but for what is behind the last page.
const LARGE_BYTES: usize = (5 << 20) + 7;

/// One save of fresh bytes, one call after the other.
pub(super) async fn save(trainer: &mut Trainer, epoch: i64) -> Result<v1::Version, Status> {
    let seed = u64::try_from(epoch).unwrap() * 10;
    let checkpoint = trainer.report(vec![epoch_end(epoch, 0.5)]).await?.pop().unwrap().checkpoint;
    trainer.upload(&checkpoint, "model.keras", &noise(seed, LARGE_BYTES)).await?;
    let (a, b) = (noise(seed + 1, 2_000), noise(seed + 2, 3_000));
    write_small(trainer, &checkpoint, &[("a", &a), ("b", &b)]).await?;
    trainer.commit(&checkpoint).await
}

fn is_sound(data_dir: &Path) {
    let check = Command::new(env!("CARGO_BIN_EXE_keepbest"))
        .args(["check", "--read-data", "--data"])
        .arg(data_dir)
        .output()
        .unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
}

#[tokio::test]
async fn a_failed_sync_of_the_database_ends_the_server_and_is_never_acknowledged() {
    for failing in FAILING_SYNCS {
        let folder = tempfile::tempdir().unwrap();
        let inject = format!("inject=fsync:error=EIO:when={failing}");
        let mut server = Probed::traced(folder.path(), &["-y", "-e", "trace=fsync", "-e", &inject]);
        let mut trainer = server.trainer(start_request("first", every_epoch())).await.unwrap();
        let mut acked = Vec::new();
        let error = loop {
            match save(&mut trainer, acked.len() as i64).await {
                Ok(version) => acked.push(version),
                Err(status) => break status,
            }
            assert!(acked.len() < 20, "sync {failing} fails by then");
        };
        // The server says that it is away, or is gone before it has said so.
        let is_broken = std::error::Error::source(&error).is_some();
        assert!(error.code() == tonic::Code::Unavailable || is_broken, "sync {failing}: {error}");
        assert_eq!(server.wait().await, Some(1), "sync {failing}");
        assert!(server.log().contains("A sync of the database failed"), "{}", server.log());
        // It is the last sync of the log: a second one could succeed and hide the loss.
        let trace = server.trace();
        let (_, after) = trace.split_once("(INJECTED)").unwrap();
        assert!(!after.contains("fsync("), "sync {failing}: {after}");

        // Started again it has what it acknowledged; what it did not is done or not, and can be asked for again.
        let options = ["-y", "-e", "trace=fsync,pwrite64"];
        let mut server = Probed::traced(folder.path(), &options);
        let mut trainer = server.trainer(start_request("first", every_epoch())).await.unwrap();
        let epoch = trainer.sequence;
        let version = save(&mut trainer, epoch).await.unwrap();
        assert!(version.number >= acked.len() as i64, "sync {failing}");
        drop(trainer);
        assert_eq!(server.terminate().await, Some(0));
        // What the log held was copied and synced before anything new was written to it.
        let trace = server.trace();
        let place = |call: &str, file: &str| {
            trace.lines().position(|line| line.contains(call) && line.contains(file)).unwrap()
        };
        let (copied, synced) = (place("pwrite64(", "keepbest.db>"), place("fsync(", "keepbest.db>"));
        assert!(copied < synced && synced < place("pwrite64(", "keepbest.db-wal>"), "sync {failing}");
        is_sound(folder.path());
    }
}

#[tokio::test]
async fn a_failed_sync_of_an_objects_folder_ends_the_server_and_is_never_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    // The folder of today's objects, and tomorrow's.
    let day_us = 86_400 * 1_000_000;
    let keys = [0, day_us].map(|later_us| new_key(Clock::System.now_us() + later_us));
    let days = keys.map(|key| folder.path().join("objects").join(key).parent().unwrap().to_owned());
    days.iter().for_each(|day| fs::create_dir_all(day).unwrap());
    let mut options = vec!["-e", "trace=fsync", "-e", "inject=fsync:error=EIO:when=1"];
    days.iter().for_each(|day| options.extend(["-P", day.to_str().unwrap()]));
    let mut server = Probed::traced(folder.path(), &options);
    let mut trainer = server.trainer(start_request("first", every_epoch())).await.unwrap();
    let error = save(&mut trainer, 0).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::Unavailable, "{error}");
    assert_eq!(server.wait().await, Some(1));
    assert!(server.log().contains("A sync of the object store failed"), "{}", server.log());
    let mut server = Probed::start(folder.path());
    let mut trainer = server.trainer(start_request("first", every_epoch())).await.unwrap();
    assert_eq!(save(&mut trainer, 1).await.unwrap().number, 0);
    assert_eq!(server.terminate().await, Some(0));
    is_sound(folder.path());
}

#[tokio::test]
async fn after_a_disk_failed_in_a_put_nothing_more_is_stored() {
    let (test, objects) = faulty().await;
    let mut trainer = test.start("first", apps::every_epoch()).await;
    let checkpoint = trainer.saved(0, 0.5).await;
    objects.plan(|plan| plan.put_faults = [(0, PutFault::Disk)].into());
    for _ in 0..3 {
        assert!(is_away(trainer.write(&checkpoint, &[("small", b"small")]).await));
    }
    assert_eq!(test.app.sync_failed().await, "the object store");
}
