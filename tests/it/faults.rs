//! The object store fails, lies or is slow: what is visible stays whole, and a retry succeeds.

mod away;
mod confirms;
mod disk_full;
mod heals;
mod load;
mod mark;
mod order;
mod rights;
mod rot;
mod syncs;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use keepbest::app::Error;
use keepbest::app::uploads::Piece;
use keepbest::db::VersionRow;
use keepbest::domain::digest::CHUNK_BYTES;
use object_store::memory::InMemory;

use crate::support::apps::HOUR_US;
use crate::support::apps::TestApp;
use crate::support::apps::Trainer;
use crate::support::apps::best_only;
use crate::support::apps::every_epoch;
use crate::support::apps::limits;
use crate::support::apps::reason;
use crate::support::databases;
use crate::support::faults::Damage;
use crate::support::faults::FaultyStore;
use crate::support::faults::Gate;
use crate::support::faults::GetFault;
use crate::support::faults::PutFault;
use crate::support::pieces::pieces;
use crate::support::requests::noise;

const CHUNK: usize = CHUNK_BYTES as usize;

/// The keys of all pinned chunks in the order of their files and offsets.
const PINNED: &str = "SELECT c.object_key FROM file_chunks f JOIN chunks c ON c.team = f.team AND c.digest = f.digest \
    ORDER BY f.file_uid, f.offset_bytes";

async fn faulty() -> (TestApp, FaultyStore) {
    let objects = FaultyStore::over(Arc::new(InMemory::new()));
    (TestApp::with(databases::sqlite().await, Arc::new(objects.clone())).await, objects)
}

fn is_away<T: std::fmt::Debug>(result: Result<T, Error>) -> bool {
    matches!(result, Err(Error::Unavailable { what: "the object store", .. }))
}

/// A save of one file in three chunks and of four small ones.
async fn whole_save(trainer: &Trainer, uid: &str, model: &[u8]) -> Result<VersionRow, Error> {
    let checkpoint = trainer.checkpoint(uid);
    trainer.stream(&checkpoint, "model", model).await?;
    trainer.write(&checkpoint, &[("a", b"aa"), ("b", b"bb"), ("c", b"cc"), ("d", b"dd")]).await?;
    trainer.commit(&checkpoint).await
}

#[tokio::test]
async fn a_put_that_fails_before_or_after_its_effect_is_repeated_without_a_trace() {
    let model = noise(1, 2 * CHUNK + 17);
    for put in 0..7 {
        for fault in [PutFault::Before, PutFault::After] {
            let (test, objects) = faulty().await;
            let mut trainer = test.start("first", best_only()).await;
            trainer.save(0, 0.5, b"earlier").await;
            let decision = trainer.epoch(1, 0.4).await;
            let uid = decision.checkpoint_uid.unwrap();
            objects.plan(|plan| (plan.puts, plan.put_faults) = (0, [(put, fault)].into()));

            assert!(is_away(whole_save(&trainer, &uid, &model).await), "{fault:?} put {put}");
            assert_eq!(reason(trainer.commit(&trainer.checkpoint(&uid)).await), "FILES_INCOMPLETE");
            let standing = (0, ["best", "epoch_0", "latest"].map(String::from).to_vec());
            assert_eq!(trainer.named("best").await.unwrap(), standing);
            assert_eq!(reason(trainer.named("v1").await), "NOT_FOUND");
            assert_eq!(test.problems().await, Vec::<String>::new());

            assert_eq!(whole_save(&trainer, &uid, &model).await.unwrap().number, 1);
            let (data, whole) = trainer.read("best", "model").await;
            assert!(whole.is_ok() && data == model);
            assert_eq!(trainer.read("best", "c").await.0, b"cc");
            test.turn(25 * HOUR_US);
            test.app.collect().await.unwrap();
            let mut pinned = test.database.texts(PINNED).await;
            pinned.sort();
            assert_eq!(test.keys().await, pinned, "no object without a row, no row without an object");
            assert_eq!(test.problems().await, Vec::<String>::new());
        }
    }
}

#[tokio::test]
async fn a_wrong_byte_is_never_served() {
    let (test, objects) = faulty().await;
    let model = noise(1, 2 * CHUNK + 17);
    let mut trainer = test.start("first", every_epoch()).await;
    let checkpoint = trainer.saved(0, 0.5).await;
    trainer.stream(&checkpoint, "model", &model).await.unwrap();
    trainer.commit(&checkpoint).await.unwrap();
    let keys = test.database.texts(PINNED).await;
    let last = CHUNK * 8 - 1;
    let damages = [Damage::Flip(0), Damage::Flip(last), Damage::Short(CHUNK - 1), Damage::Short(0)];
    let damages = damages.into_iter().chain([Damage::Long, Damage::Missing]);
    for fault in damages.map(GetFault::Lies).chain([GetFault::Fails]) {
        objects.plan(|plan| plan.get_faults = [(keys[1].clone(), fault)].into());
        let (data, end) = trainer.read("best", "model").await;
        assert!(data == model[..CHUNK], "{fault:?}: {} bytes came", data.len());
        let check = test.app.check(true).await;
        if fault == GetFault::Fails {
            assert!(is_away(end) && is_away(check), "a store that is away has lost nothing");
        } else {
            let Err(Error::DataLoss(why)) = end else { panic!("{fault:?}: {end:?}") };
            let name = "teams/default/projects/digits/artifacts/run-first-model/versions/v0";
            let expected =
                format!("file `model` of version `{name}` is damaged at byte {CHUNK}: take another version");
            assert_eq!(why, expected, "{fault:?}");
            let problems = check.unwrap().problems;
            let begin = format!(
                "default/digits/run-first-model:v0 file `model` at byte {CHUNK}: object `{}` ",
                keys[1]
            );
            assert!(problems.len() == 1 && problems[0].starts_with(&begin), "{problems:?}");
        }
        // A range in another chunk is served, and one that touches the bad chunk gives nothing of it.
        let version = trainer.version("v0");
        let offset = i64::try_from(2 * CHUNK).unwrap();
        for (offset, whole) in [(offset, true), (offset - 1, false)] {
            let (_, pieces) = test.app.read_file(&version, "model", offset, 2).await.unwrap();
            let pieces: Vec<_> = pieces.collect().await;
            assert_eq!(pieces[0].is_ok(), whole, "{fault:?} {pieces:?}");
        }
    }
    objects.plan(|plan| plan.get_faults.clear());
    let (data, whole) = trainer.read("best", "model").await;
    assert!(whole.is_ok() && data == model);
}

#[tokio::test]
async fn a_chunk_without_its_row_is_a_loss_and_not_a_shorter_file() {
    let (test, _) = faulty().await;
    let mut trainer = test.start("first", every_epoch()).await;
    trainer.save(0, 0.5, b"model").await;
    assert_eq!(test.database.execute("DELETE FROM chunks").await, 1);
    let end = trainer.read("best", "model.keras").await;
    assert!(matches!(end, (ref data, Err(Error::DataLoss(_))) if data.is_empty()), "{end:?}");
    let expected = "default/digits/run-first-model:v0 file `model.keras` at byte 0: its chunk has no row";
    assert_eq!(test.problems().await, [expected]);
    assert_eq!(test.database.execute("DELETE FROM file_chunks").await, 1);
    let end = trainer.read("best", "model.keras").await;
    assert!(matches!(end, (ref data, Err(Error::DataLoss(_))) if data.is_empty()), "{end:?}");
    let found = test.problems().await;
    assert_eq!(found.len(), 2, "the size and the digest of the file: {found:?}");
}

/// Gives others a turn before each message, as a network does, and counts them.
fn arriving(
    pieces: Vec<Piece>,
    taken: &Arc<AtomicUsize>,
) -> impl futures::Stream<Item = Result<Piece, Error>> + Send + use<> {
    let taken = Arc::clone(taken);
    futures::stream::iter(pieces).then(move |piece| {
        taken.fetch_add(1, Ordering::Relaxed);
        async {
            tokio::task::yield_now().await;
            Ok(piece)
        }
    })
}

/// Turns the clock, once `call` has come so far that all it waits for is the time. A clock that stood still before would run
/// ahead whenever the database is asked, which answers from a thread of its own, to the end of that wait.
async fn turn_once<T>(
    call: Pin<&mut impl Future<Output = T>>,
    so_far: impl AsyncFn() -> bool,
    time: Duration,
) {
    tokio::select! {
        biased;
        _ = call => panic!("it ended before its time"),
        () = async {
            while !so_far().await {
                tokio::task::yield_now().await;
            }
        } => {}
    }
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_slow_store_is_not_the_trainers_fault() {
    let (test, objects) = faulty().await;
    let model = noise(1, 5 * CHUNK);
    let mut trainer = test.start("first", every_epoch()).await;
    let checkpoint = trainer.saved(0, 0.5).await;
    let target = trainer.target(&checkpoint, "model");
    test.app.prepare_file(target.clone(), i64::try_from(model.len()).unwrap(), None).await.unwrap();
    let gate = Arc::new(Gate::default());
    objects.plan(|plan| (plan.puts, plan.gate) = (0, Some(Arc::clone(&gate))));
    let taken = Arc::default();
    let mut call = std::pin::pin!(test.app.write_file(target, 0, arriving(pieces(&model), &taken)));
    // Three chunks are put while a fourth one fills; what is behind it is not asked for. Each put takes longer than a trainer may
    // be silent.
    for waits in [(3, 32), (5, 41)] {
        let so_far = async || (objects.plan(|plan| plan.puts), taken.load(Ordering::Relaxed)) == waits;
        turn_once(call.as_mut(), so_far, limits().upload_idle * 4 / 3).await;
        gate.open.notify_waiters();
    }
    call.await.unwrap();
    objects.plan(|plan| plan.gate = None);
    trainer.commit(&checkpoint).await.unwrap();
    assert!(trainer.read("best", "model").await.0 == model);
}

#[tokio::test]
async fn a_silent_trainer_is_told_to_come_back_and_what_it_sent_stays() {
    let (test, _) = faulty().await;
    let model = noise(1, CHUNK + 5);
    let mut trainer = test.start("first", every_epoch()).await;
    let checkpoint = trainer.saved(0, 0.5).await;
    let target = trainer.target(&checkpoint, "model");
    test.app.prepare_file(target.clone(), i64::try_from(model.len()).unwrap(), None).await.unwrap();
    let mut sent = pieces(&model);
    sent.truncate(8);
    let silent = arriving(sent, &Arc::default()).chain(futures::stream::pending());
    let mut call = std::pin::pin!(test.app.write_file(target.clone(), 0, silent));
    let is_durable = async || test.database.texts(PINNED).await.len() == 1;
    turn_once(call.as_mut(), is_durable, limits().upload_idle).await;
    assert_eq!(reason(call.await), "IDLE_TIMEOUT");
    let file = test.app.prepare_file(target, i64::try_from(model.len()).unwrap(), None).await.unwrap();
    assert_eq!(file.durable_bytes, i64::try_from(CHUNK).unwrap());
    trainer.stream(&checkpoint, "model", &model).await.unwrap();
    trainer.commit(&checkpoint).await.unwrap();
    assert!(trainer.read("best", "model").await.0 == model);
}
