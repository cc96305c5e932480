//! The store is away, never answers, or lies for a moment.

use std::future::Future;
use std::sync::Arc;

use futures::FutureExt;
use futures::TryFutureExt;
use futures::future::BoxFuture;
use keepbest::app::Error;
use keepbest::store;
use keepbest::store::CALL_LIMIT;
use keepbest::store::Store;
use object_store::memory::InMemory;

use super::CHUNK;
use super::PINNED;
use super::faulty;
use super::is_away;
use crate::support::apps::TestApp;
use crate::support::apps::best_only;
use crate::support::apps::every_epoch;
use crate::support::apps::limits;
use crate::support::databases;
use crate::support::databases::TestDatabase;
use crate::support::databases::on_both_databases;
use crate::support::faults::Damage;
use crate::support::faults::FaultyStore;
use crate::support::faults::GetFault;
use crate::support::faults::PutFault;
use crate::support::logs::Logs;
use crate::support::requests::noise;

on_both_databases! {
    while_the_store_is_away_all_that_needs_no_bytes_goes_on
}

async fn while_the_store_is_away_all_that_needs_no_bytes_goes_on(database: TestDatabase) {
    let objects = FaultyStore::over(Arc::new(InMemory::new()));
    let test = TestApp::with(database, Arc::new(objects.clone())).await;
    let mut trainer = test.start("first", best_only()).await;
    let version = trainer.save(0, 0.5, b"earlier").await;
    let uploaded = trainer.saved(1, 0.4).await;
    trainer.write(&uploaded, &[("model.keras", b"uploaded")]).await.unwrap();
    objects.plan(|plan| plan.away = true);

    // Whatever moves bytes is told to come back.
    let next = trainer.saved(2, 0.3).await;
    assert!(is_away(trainer.write(&next, &[("model.keras", b"next")]).await));
    assert!(is_away(trainer.stream(&next, "other", &noise(1, CHUNK + 1)).await));
    let (data, end) = trainer.read("v0", "model.keras").await;
    assert!(data.is_empty() && is_away(end));
    assert!(is_away(test.app.check(false).await) && is_away(test.app.check(true).await));

    // A commit of bytes that are there is done, but is told to come back for its manifest.
    assert!(is_away(trainer.commit(&uploaded).await));
    assert_eq!(trainer.named("best").await.unwrap().0, 1);
    // The rest answers as ever.
    let mut other = test.start("second", every_epoch()).await;
    for epoch in 0..20 {
        let decision = other.epoch(epoch, 0.5).await;
        assert!(decision.checkpoint_uid.is_some());
    }
    let again = test.start("first", best_only()).await;
    assert_eq!((again.attempt, again.sequence), (trainer.attempt + 1, 3));
    assert_eq!(trainer.versions("", "number asc").await[0].digest, version.digest);
    let files = test.app.list_files(&version.checkpoint.checkpoint, "", 1_000).await.unwrap();
    assert_eq!(files.len(), 1);

    assert_eq!(test.app.delete_version(&trainer.version("v0"), false).await.unwrap().size_bytes, 7);
    objects.plan(|plan| plan.away = false);
    // It came back to a newer attempt, and is answered all the same.
    assert_eq!(trainer.commit(&uploaded).await.unwrap().number, 1);
    assert_eq!(trainer.read("v1", "model.keras").await.0, b"uploaded");
    assert_eq!(test.problems().await, Vec::<String>::new());
    let checkpoint = other.saved(20, 0.5).await;
    other.write(&checkpoint, &[("model.keras", b"next")]).await.unwrap();
    assert_eq!(other.commit(&checkpoint).await.unwrap().number, 0);
}

#[tokio::test]
async fn wrong_bytes_are_read_once_more_before_they_count_as_lost() {
    let (test, objects) = faulty().await;
    let model = noise(1, CHUNK + 17);
    let mut trainer = test.start("first", every_epoch()).await;
    let checkpoint = trainer.saved(0, 0.5).await;
    trainer.stream(&checkpoint, "model", &model).await.unwrap();
    trainer.commit(&checkpoint).await.unwrap();
    let keys = test.database.texts(PINNED).await;
    for damage in [Damage::Flip(7), Damage::Short(3), Damage::Long, Damage::Missing] {
        let fault = GetFault::Lies(damage);
        // Once: the second read heals it, for readers and for the check.
        let logs = Logs::begin();
        let pass =
            |times| objects.plan(|plan| plan.passing_faults = [(keys[1].clone(), vec![fault; times])].into());
        pass(1);
        let (data, end) = trainer.read("best", "model").await;
        assert!(end.is_ok() && data == model, "{damage:?}: {end:?}");
        let line = format!("Read object `{}` once more", keys[1]);
        assert_eq!(logs.with(&line).len(), 1, "{damage:?}");
        pass(1);
        assert_eq!(test.problems().await, Vec::<String>::new(), "{damage:?}");
        assert_eq!(logs.with(&line).len(), 2, "{damage:?}");
        // Twice: it is lost, and not asked for a third time.
        pass(2);
        let (data, end) = trainer.read("best", "model").await;
        assert!(matches!(end, Err(Error::DataLoss(_))) && data == model[..CHUNK], "{damage:?}: {end:?}");
        pass(3);
        assert_eq!(test.problems().await.len(), 1, "{damage:?}");
        assert_eq!(objects.plan(|plan| plan.passing_faults[&keys[1]].len()), 1, "{damage:?}");
        objects.plan(|plan| plan.passing_faults.clear());
    }
}

/// Turns the clock to the limit once a call of the store hangs, and so many puts were asked for: what other chunks ask the
/// database before their puts keeps its own time until then.
async fn given_up<T>(objects: &FaultyStore, puts: usize, call: impl Future<Output = T>) -> T {
    let mut call = std::pin::pin!(call);
    let hung = objects.plan(|plan| plan.hung);
    tokio::select! {
        biased;
        _ = &mut call => panic!("it ended before the limit"),
        () = async {
            while objects.plan(|plan| plan.hung == hung || plan.puts < puts) {
                tokio::task::yield_now().await;
            }
        } => {}
    }
    tokio::time::pause();
    tokio::time::advance(CALL_LIMIT).await;
    tokio::time::resume();
    call.await
}

#[tokio::test]
async fn a_store_that_never_answers_is_given_up_and_holds_no_buffers() {
    // Room for the three chunks of one upload, and for one chunk of a download.
    let limits =
        keepbest::app::Limits { upload_buffer_bytes: 64 << 20, download_buffer_bytes: 24 << 20, ..limits() };
    let objects = FaultyStore::over(Arc::new(InMemory::new()));
    let test = TestApp::limited(databases::sqlite().await, Arc::new(objects.clone()), limits).await;
    let model = noise(1, 3 * CHUNK);
    let mut trainer = test.start("first", every_epoch()).await;
    let checkpoint = trainer.saved(0, 0.5).await;
    let hang = || objects.plan(|plan| (plan.puts, plan.put_faults) = (0, [(0, PutFault::Hangs)].into()));
    hang();
    assert!(is_away(given_up(&objects, 2, trainer.stream(&checkpoint, "model", &model)).await));
    hang();
    assert!(is_away(given_up(&objects, 1, trainer.write(&checkpoint, &[("small", b"small")])).await));
    // Its buffers are free again.
    trainer.stream(&checkpoint, "model", &model).await.unwrap();
    trainer.write(&checkpoint, &[("small", b"small")]).await.unwrap();
    trainer.commit(&checkpoint).await.unwrap();

    let keys = test.database.texts(PINNED).await;
    objects.plan(|plan| plan.get_faults = [(keys[0].clone(), GetFault::Hangs)].into());
    let (data, end) = given_up(&objects, 0, trainer.read("best", "model")).await;
    assert!(is_away(end) && data.is_empty());
    assert!(is_away(given_up(&objects, 0, test.app.check(true)).await));
    assert!(is_away(given_up(&objects, 0, test.app.check(false)).await));
    objects.plan(|plan| plan.get_faults.clear());
    let (data, end) = trainer.read("best", "model").await;
    assert!(end.is_ok() && data == model);
}

#[tokio::test(start_paused = true)]
async fn a_call_of_a_store_that_never_answers_ends_at_its_limit() {
    let objects = FaultyStore::over(Arc::new(InMemory::new()));
    let store = Store::over(Arc::new(objects.clone()));
    store.put("key", vec![b"bytes"[..].into()]).await.unwrap();
    objects.plan(|plan| {
        plan.put_faults = [(1, PutFault::Hangs)].into();
        plan.get_faults = [("key".to_owned(), GetFault::Hangs)].into();
        plan.delete_hangs = true;
    });
    let calls: [BoxFuture<'_, Result<(), store::Error>>; 4] = [
        store.put("other", vec![b"bytes"[..].into()]).boxed(),
        store.get("key").map_ok(drop).boxed(),
        store.size_bytes("key").map_ok(drop).boxed(),
        store.delete("key").boxed(),
    ];
    for call in calls {
        let begun = tokio::time::Instant::now();
        assert!(matches!(call.await, Err(store::Error::Unavailable(_))));
        // The timer counts in milliseconds.
        assert_eq!(begun.elapsed().as_secs(), CALL_LIMIT.as_secs());
    }
}

#[tokio::test]
async fn a_bucket_that_is_gone_loses_no_bytes_that_were_to_be_put() {
    let (test, objects) = faulty().await;
    let mut trainer = test.start("first", every_epoch()).await;
    let checkpoint = trainer.saved(0, 0.5).await;
    objects.plan(|plan| plan.put_faults = [(0, PutFault::NoBucket)].into());
    assert!(is_away(trainer.write(&checkpoint, &[("small", b"small")]).await));
    trainer.write(&checkpoint, &[("small", b"small")]).await.unwrap();
}
