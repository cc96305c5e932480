//! What is durable before what is said, by the system calls of a server.

use super::syncs::save;
use crate::support::probed::Probed;
use crate::support::requests::every_epoch;
use crate::support::requests::start_request;
use crate::support::strace;

/// Saves whose acknowledgement is traced.
const ACKNOWLEDGEMENTS: usize = 100;
/// Of each: ReportEvents, PrepareFile, WriteFile, WriteSmallFiles, CommitCheckpoint.
const CALLS: usize = 5;
/// Objects of each: three chunks and the manifest.
const OBJECTS: usize = 4;
#[tokio::test]
async fn bytes_are_durable_before_the_database_and_that_before_the_answer() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Probed::traced(folder.path(), &strace::OPTIONS);
    let mut trainer = server.trainer(start_request("first", every_epoch())).await.unwrap();
    for epoch in 0..ACKNOWLEDGEMENTS {
        assert_eq!(save(&mut trainer, epoch as i64).await.unwrap().number, epoch as i64);
    }
    drop(trainer);
    assert_eq!(server.terminate().await, Some(0));
    let trace = server.trace();
    let order = strace::judge(&trace).unwrap();
    println!("{order:?} in {} lines", trace.lines().count());
    let replies = 1 + CALLS * ACKNOWLEDGEMENTS;
    assert_eq!((order.replies, order.synced_replies), (replies, replies));
    // The start writes one to see whether it can, and the mark.
    assert_eq!(order.objects, 2 + OBJECTS * ACKNOWLEDGEMENTS);
    assert!(order.log_syncs >= replies);

    // The same trace without a kind of sync is judged wrong: so would be a server that leaves it out.
    let without = |kind: &dyn Fn(&str) -> bool| {
        let is_sync = |line: &str| line.contains("fsync(") && !line.contains("unfinished");
        let lines = trace.lines().filter(|line| !(is_sync(line) && kind(line)));
        strace::judge(&lines.collect::<Vec<_>>().join("\n")).unwrap_err()
    };
    let wrong = without(&|line| line.contains("#1>"));
    assert!(wrong.ends_with("got its name before it was synced"), "{wrong}");
    let wrong = without(&|line| line.contains("/objects/") && !line.contains("#1>"));
    assert!(wrong.contains("the database was written before `"), "{wrong}");
    let wrong = without(&|line| line.contains("-wal>"));
    assert!(wrong.ends_with("an answer left before the database's log was synced"), "{wrong}");
}

#[test]
fn the_judge_takes_split_calls_and_no_sync_that_failed_or_began_too_early() {
    let object = "/d/objects/chunks/day/key";
    let good = format!(
        "7  write(9<{object}#1>, \"\\x01\", 1) = 1\n\
         7  fsync(9<{object}#1> <unfinished ...>\n\
         8  write(2</d/log>, \"text\", 4) = 4\n\
         7  <... fsync resumed>) = 0\n\
         7  rename(\"{object}#1\", \"{object}\") = 0\n\
         7  fsync(9</d/objects/chunks/day>) = 0\n\
         9  pwrite64(3</d/keepbest.db-wal>, \"\\x00\", 1, 0) = 1\n\
         9  fsync(3</d/keepbest.db-wal>) = 0\n\
         8  writev(5<socket:[1]>, [{{iov_base=\"\\x00\\x00\\x04\\x08\\x00\\x00\\x00\\x00\\x00\\x01\\x01\\x01\\x01\\x00\\x00\\x09\\x01\\x04\", iov_len=30}}], 1) = 30\n"
    );
    let order = strace::Order { replies: 1, synced_replies: 1, objects: 1, log_syncs: 1 };
    assert_eq!(strace::judge(&good), Ok(order));
    let swap = |a: usize, b: usize| {
        let mut lines: Vec<&str> = good.lines().collect();
        lines.swap(a, b);
        strace::judge(&lines.join("\n"))
    };
    assert!(swap(0, 3).is_err(), "written after its sync");
    assert!(swap(5, 6).is_err(), "the database before the folder");
    assert!(swap(6, 7).is_err(), "the log written after its sync");
    assert!(swap(7, 8).is_err(), "answered before the sync");
    let failed = good.replace("wal>) = 0", "wal>) = -1 EIO (Input/output error) (INJECTED)");
    assert_eq!(
        strace::judge(&failed),
        Err("line 9: an answer left before the database's log was synced".to_owned())
    );
    let early = good.replace("7  fsync(9<", "6  fsync(9<").replace("7  <... fsync", "6  <... fsync");
    assert!(strace::judge(&early).is_ok(), "another thread may sync");
}
