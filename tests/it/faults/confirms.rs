//! A store that confirms what it does not keep is found before the commit is answered; what that costs; and conflicts.

use std::sync::Arc;

use keepbest::app::App;
use keepbest::clock::Clock;
use keepbest::store::Confirm;
use keepbest::store::Store;

use super::CHUNK;
use super::faulty;
use super::is_away;
use super::whole_save;
use crate::support::apps::PROJECT;
use crate::support::apps::TestApp;
use crate::support::apps::Trainer;
use crate::support::apps::best_only;
use crate::support::apps::every_epoch;
use crate::support::apps::limits;
use crate::support::apps::reason;
use crate::support::apps::start;
use crate::support::faults::Damage;
use crate::support::faults::FaultyStore;
use crate::support::faults::GetFault;
use crate::support::faults::PutFault;
use crate::support::requests::noise;

/// Objects of a [`whole_save`]: three chunks of the large file, four small ones.
const CHUNKS: usize = 7;

/// The same service with another setting.
async fn confirming(test: &TestApp, objects: &FaultyStore, confirm: Confirm) -> App {
    let store = Store::over(Arc::new(objects.clone())).confirming(confirm);
    App::new(test.database.open().await, store, Clock::ByHand(Arc::clone(&test.clock)), limits())
}

#[tokio::test]
async fn a_store_that_keeps_nothing_or_a_part_is_found_before_the_commit_is_answered() {
    let model = noise(1, 2 * CHUNK + 17);
    for put in 0..CHUNKS {
        for damage in [Damage::Missing, Damage::Short(0), Damage::Short(1), Damage::Long] {
            let (test, objects) = faulty().await;
            let mut trainer = test.start("first", best_only()).await;
            let uid = trainer.epoch(0, 0.4).await.checkpoint_uid.unwrap();
            objects.plan(|plan| plan.put_faults = [(put, PutFault::Lies(damage))].into());

            let saved = whole_save(&trainer, &uid, &model).await;
            assert!(is_away(saved), "{damage:?} put {put}");
            assert_eq!(reason(trainer.commit(&trainer.checkpoint(&uid)).await), "FILES_INCOMPLETE");
            assert_eq!(whole_save(&trainer, &uid, &model).await.unwrap().number, 0);
            assert!(trainer.read("best", "model").await.0 == model);
            assert_eq!(trainer.read("best", "c").await.0, b"cc");
            assert_eq!(test.problems().await, Vec::<String>::new(), "{damage:?} put {put}");
        }
    }
}

#[tokio::test]
async fn a_manifest_that_was_not_kept_is_written_again_before_the_commit_is_answered() {
    for damage in [Damage::Missing, Damage::Short(100), Damage::Long] {
        let (test, objects) = faulty().await;
        let mut trainer = test.start("first", best_only()).await;
        let checkpoint = trainer.saved(0, 0.5).await;
        trainer.write(&checkpoint, &[("model", b"weights")]).await.unwrap();
        objects.plan(|plan| plan.manifest_fault = Some(PutFault::Lies(damage)));
        assert!(is_away(trainer.commit(&checkpoint).await), "{damage:?}");
        objects.plan(|plan| plan.manifest_fault = None);
        assert_eq!(trainer.commit(&checkpoint).await.unwrap().number, 0);
        assert_eq!(test.problems().await, Vec::<String>::new(), "{damage:?}");
    }
}

#[tokio::test]
async fn other_bytes_of_the_same_size_are_found_where_all_bytes_are_asked_for() {
    let (test, objects) = faulty().await;
    let model = noise(1, 2 * CHUNK + 17);
    let app = confirming(&test, &objects, Confirm::Bytes).await;
    let mut trainer = Trainer::start(&app, start(PROJECT, "first", every_epoch())).await.unwrap();
    for put in 0..CHUNKS {
        // Other bytes each time: what the team has is not stored again.
        let model = [&model[..], &put.to_le_bytes()].concat();
        let uid = trainer.epoch(i64::try_from(put).unwrap(), 0.4).await.checkpoint_uid.unwrap();
        let fault = PutFault::Lies(Damage::Flip(put * 1_000_003));
        objects.plan(|plan| (plan.puts, plan.put_faults) = (0, [(put, fault)].into()));
        if is_away(whole_save(&trainer, &uid, &model).await) {
            whole_save(&trainer, &uid, &model).await.unwrap();
        } else {
            // It was none of those that are new now.
            assert!(put > 0 && objects.plan(|plan| plan.puts) <= put, "put {put} was believed");
        }
    }
    assert_eq!(test.problems().await, Vec::<String>::new());

    // Where the size is enough, a check finds them: see faults::rot.
    let fault = PutFault::Lies(Damage::Flip(5));
    objects.plan(|plan| (plan.puts, plan.put_faults) = (0, [(0, fault)].into()));
    let mut believing = test.start("second", every_epoch()).await;
    believing.save(0, 0.5, b"believed").await;
    assert_eq!(test.problems().await.len(), 1);
}

#[tokio::test]
async fn a_confirmation_is_one_call_for_each_new_object() {
    let model = noise(1, 2 * CHUNK + 17);
    // Seven chunks and a manifest; the second save has the same chunks, and a manifest of its own.
    let (first, second) = (CHUNKS + 1, CHUNKS + 2);
    for (confirm, asked, read) in
        [(Confirm::Nothing, 0, 0), (Confirm::Size, second, 0), (Confirm::Bytes, 0, second)]
    {
        let (test, objects) = faulty().await;
        let app = confirming(&test, &objects, confirm).await;
        let mut trainer = Trainer::start(&app, start(PROJECT, "first", every_epoch())).await.unwrap();
        for epoch in 0..2 {
            let uid = trainer.epoch(epoch, 0.4).await.checkpoint_uid.unwrap();
            whole_save(&trainer, &uid, &model).await.unwrap();
        }
        let (puts, gets, heads) = objects.plan(|plan| (plan.puts, plan.gets, plan.heads));
        assert_eq!(puts, first - 1, "{confirm:?}: what the team has is not stored again");
        assert_eq!((heads, gets - heads), (asked, read), "{confirm:?}");
    }
}

#[tokio::test]
async fn a_conflict_is_the_stores_own_and_tried_again_inside() {
    let (test, objects) = faulty().await;
    let mut trainer = test.start("first", every_epoch()).await;
    for (epoch, conflict) in (0..).zip([PutFault::Conflict, PutFault::Precondition]) {
        objects.plan(|plan| (plan.puts, plan.put_faults) = (0, [(0, conflict)].into()));
        trainer.save(epoch, 0.5, &noise(9, 100 + usize::try_from(epoch).unwrap())).await;
        assert_eq!(objects.plan(|plan| plan.puts), 2, "{conflict:?}");
    }
    let key = test.keys().await[0].clone();
    objects.plan(|plan| plan.get_faults = [(key.clone(), GetFault::Conflict)].into());
    assert!(is_away(test.app.check(true).await), "what does not end is not tried for ever");
    objects.plan(|plan| {
        plan.get_faults.clear();
        plan.passing_faults = [(key, vec![GetFault::Conflict])].into();
    });
    assert_eq!(test.problems().await, Vec::<String>::new());
    let checkpoint = trainer.saved(9, 0.5).await;
    let always = (0..100).map(|put| (put, PutFault::Conflict)).collect();
    objects.plan(|plan| (plan.puts, plan.put_faults) = (0, always));
    assert!(is_away(trainer.write(&checkpoint, &[("model", b"weights")]).await));
    assert_eq!(objects.plan(|plan| plan.puts), 5);
}
