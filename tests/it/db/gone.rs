//! Runs, artifacts, projects and many versions are deleted with what they held; their names are free again, and nothing else goes.

use keepbest::app::Error;
use keepbest::app::deletions::Deletion;
use keepbest::app::deletions::How;
use keepbest::app::deletions::Selection;
use keepbest::domain::ids::BestParent;
use keepbest::domain::ids::ListParent;
use keepbest::domain::run::RunState;
use keepbest::domain::run::SILENCE_US;

use crate::support::apps::HOUR_US;
use crate::support::apps::PROJECT;
use crate::support::apps::TestApp;
use crate::support::apps::Trainer;
use crate::support::apps::every_epoch;
use crate::support::apps::id;
use crate::support::apps::reason;
use crate::support::apps::sentence;
use crate::support::apps::start;
use crate::support::databases::TestDatabase;
use crate::support::databases::on_all_databases;

on_all_databases! {
    a_deleted_run_takes_its_versions_and_history_along_and_nothing_else
    what_is_alive_is_deleted_by_force_alone
    a_run_goes_on_with_a_new_artifact_when_its_own_was_deleted
    a_project_is_deleted_with_all_that_it_holds
    many_versions_go_by_a_filter_and_named_ones_stay
    a_deletion_that_was_cut_off_is_finished_by_the_collector
    nothing_comes_into_an_artifact_that_was_deleted
    a_version_with_several_names_is_kept_once
    an_alias_that_was_set_meanwhile_keeps_its_run
    no_alias_is_set_on_a_version_whose_run_is_being_deleted
    a_project_is_deleted_by_several_calls_at_once
    the_collector_fences_a_run_once
}

const FORCE: How = How { force: true, validate_only: false };
const DRY: How = How { force: false, validate_only: true };

fn counts(deletion: &Deletion) -> (i64, i64, i64, i64) {
    (deletion.run_count, deletion.artifact_count, deletion.version_count, deletion.event_count)
}

/// A run that saves into the artifact `shared`.
async fn sharing(test: &TestApp, run: &str) -> Trainer {
    let mut begin = start(PROJECT, run, every_epoch());
    begin.artifact = Some(id("shared"));
    Trainer::start(&test.app, begin).await.unwrap()
}

async fn finish(trainer: &Trainer) {
    let name = trainer.run.clone();
    trainer.app.finish_run(name, trainer.attempt, RunState::Finished).await.unwrap();
}

async fn listed(test: &TestApp) -> Vec<String> {
    let parent = ListParent { team: id("default"), project: Some(id("digits")) };
    let runs = test.app.list_runs(&parent, None, 100).await.unwrap();
    runs.iter().map(|it| it.name.run.to_string()).collect()
}

async fn a_deleted_run_takes_its_versions_and_history_along_and_nothing_else(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let (mut first, mut second) = (sharing(&test, "first").await, sharing(&test, "second").await);
    first.save(0, 0.5, b"shared bytes").await;
    second.save(0, 0.4, b"shared bytes").await;
    // More than one slice of versions.
    for epoch in 1..103 {
        first.save(epoch, 0.001 * epoch as f64, b"bytes of the first").await;
    }
    let pending = first.saved(200, 0.1).await;
    finish(&first).await;
    let dry = test.app.delete_run(&first.run, DRY).await.unwrap();
    assert_eq!(counts(&dry), (1, 0, 103, 104));
    assert_eq!((dry.size_bytes, dry.freed_bytes), (12 + 102 * 18, Some(18)), "what others have stays");
    assert_eq!(dry.sample.len(), 100);
    assert_eq!(first.named("best").await.unwrap().0, 2, "a dry run changes nothing");

    let done = test.app.delete_run(&first.run, How::default()).await.unwrap();
    assert_eq!((counts(&done), done.freed_bytes), (counts(&dry), Some(18)));
    assert_eq!(reason(test.app.run(&first.run).await), "NOT_FOUND");
    assert_eq!(reason(test.app.delete_run(&first.run, How::default()).await), "NOT_FOUND");
    assert_eq!(reason(first.report(vec![]).await), "NOT_FOUND");
    assert_eq!(reason(first.commit(&pending).await), "NOT_FOUND");
    assert_eq!(listed(&test).await, ["second"]);
    assert_eq!(second.named("best").await.unwrap().0, 1);
    assert_eq!(second.named("latest").await.unwrap().0, 1);
    assert_eq!(second.versions("", "").await.len(), 1);
    assert_eq!(second.read("v1", "model.keras").await.0, b"shared bytes");
    // Its id belongs to whoever takes it next.
    let again = sharing(&test, "first").await;
    assert_eq!((again.attempt, again.sequence), (1, 0));

    test.turn(HOUR_US + 1);
    assert_eq!(test.app.collect().await.unwrap().removed_runs, 1);
    let rows = "SELECT run_uid FROM events UNION ALL SELECT run_uid FROM decisions";
    let left = test.database.texts(rows).await;
    assert!(left.iter().all(|it| *it == left[0]) && left.len() == 2, "those of the second: {left:?}");
    test.turn(2 * HOUR_US);
    test.app.collect().await.unwrap();
    test.turn(3 * HOUR_US + 1);
    test.app.collect().await.unwrap();
    assert_eq!(test.keys().await.len(), 1, "the chunk that both had");
    assert_eq!(test.problems().await, Vec::<String>::new());
}

async fn what_is_alive_is_deleted_by_force_alone(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    trainer.save(0, 0.5, b"model").await;
    test.turn(SILENCE_US);
    for how in [How::default(), DRY] {
        assert_eq!(reason(test.app.delete_run(&trainer.run, how).await), "RUN_ALIVE");
        assert_eq!(reason(test.app.delete_artifact(&trainer.artifact, how).await), "RUN_ALIVE");
        assert_eq!(reason(test.app.delete_project(&trainer.run.project, how).await), "RUN_ALIVE");
    }
    test.turn(1);
    // A process that has not been heard from for so long may be dead.
    test.app.delete_run(&trainer.run, DRY).await.unwrap();
    test.app.set_alias(&trainer.artifact, "production", "v0", "").await.unwrap();
    let named = "run `teams/default/projects/digits/runs/first` has versions that aliases point at \
        (run-first-model:production): move these, or say that they go with it (`force`)";
    assert_eq!(sentence(test.app.delete_run(&trainer.run, How::default()).await), named);
    assert_eq!(reason(test.app.delete_artifact(&trainer.artifact, DRY).await), "VERSION_HAS_ALIASES");
    trainer.save(1, 0.4, b"alive again").await;
    assert_eq!(counts(&test.app.delete_run(&trainer.run, FORCE).await.unwrap()), (1, 0, 2, 2));
    assert_eq!(reason(trainer.named("production").await), "NOT_FOUND");
    assert_eq!(test.problems().await, Vec::<String>::new());
}

async fn a_run_goes_on_with_a_new_artifact_when_its_own_was_deleted(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    trainer.save(0, 0.5, b"model").await;
    let pending = trainer.saved(1, 0.4).await;
    test.turn(SILENCE_US + 1);
    let deleted = test.app.delete_artifact(&trainer.artifact, How::default()).await.unwrap();
    assert_eq!(counts(&deleted), (0, 1, 1, 0));
    assert_eq!(reason(test.app.artifact(&trainer.artifact).await), "NOT_FOUND");
    assert_eq!(reason(trainer.commit(&pending).await), "STALE_ATTEMPT", "nothing comes into what is gone");
    let run = test.app.run(&trainer.run).await.unwrap();
    assert!(run.artifact.is_gone() && run.event_count == 2, "the run stays: {run:?}");
    let mut again = test.start("first", every_epoch()).await;
    assert_eq!((again.attempt, again.artifact.clone()), (3, trainer.artifact.clone()));
    assert_eq!(again.to_beat().await, None);
    assert_eq!(again.save(2, 0.9, b"model").await.number, 0, "another artifact of that name");
    let run = BestParent::Run(again.run.clone());
    assert_eq!(test.app.best_version(&run, None, None).await.unwrap().artifact, again.artifact);
    assert_eq!(test.problems().await, Vec::<String>::new());
}

async fn a_project_is_deleted_with_all_that_it_holds(database: TestDatabase) {
    let test = TestApp::over(database).await;
    for run in ["first", "second"] {
        let mut trainer = test.start(run, every_epoch()).await;
        trainer.save(0, 0.5, run.as_bytes()).await;
        finish(&trainer).await;
    }
    let mut other =
        Trainer::start(&test.app, start("teams/default/projects/other", "r", every_epoch())).await.unwrap();
    other.save(0, 0.5, b"second").await;
    let project = keepbest::domain::ids::ProjectName::parse(PROJECT).unwrap();
    let team = keepbest::domain::ids::TeamName { team: id("default") };
    let projects = async || test.app.list_projects(&team, "", 10).await.unwrap();
    assert_eq!(projects().await, [id("digits"), id("other")]);
    assert_eq!(test.app.list_projects(&team, "digits", 10).await.unwrap(), [id("other")]);
    let dry = test.app.delete_project(&project, DRY).await.unwrap();
    assert_eq!((counts(&dry), dry.freed_bytes), ((2, 2, 2, 2), Some(5)));
    assert_eq!(listed(&test).await.len(), 2);
    let done = test.app.delete_project(&project, How::default()).await.unwrap();
    assert_eq!(counts(&done), counts(&dry));
    assert_eq!(projects().await, [id("other")]);
    assert!(listed(&test).await.is_empty());
    assert_eq!(reason(test.app.delete_project(&project, How::default()).await), "NOT_FOUND");
    assert_eq!(other.read("best", "model.keras").await.0, b"second");
    let best = BestParent::Team(team.clone());
    assert_eq!(test.app.best_version(&best, None, None).await.unwrap().artifact, other.artifact);
    assert_eq!(test.problems().await, Vec::<String>::new());
}

async fn many_versions_go_by_a_filter_and_named_ones_stay(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    for (epoch, value) in (0..).zip([0.5, 0.1, 0.4, 0.3, 0.6, 0.7]) {
        trainer.save(epoch, value, format!("model {epoch}").as_bytes()).await;
    }
    test.app.set_alias(&trainer.artifact, "mine", "v2", "").await.unwrap();
    let delete = async |which: Selection| -> Result<Deletion, Error> {
        test.app.delete_versions(&trainer.artifact, &which).await
    };
    assert_eq!(reason(delete(Selection::default()).await), "BAD_FILTER");
    assert_eq!(reason(delete(Selection { keep_newest: -1, ..Selection::default() }).await), "BAD_FILTER");
    let which = Selection { filter: "epoch < 5".to_owned(), keep_newest: 1, ..Selection::default() };
    let dry = delete(Selection { validate_only: true, ..which.clone() }).await.unwrap();
    // Of v0 to v4: v4 is the newest, v1 the best, v2 has a name.
    let sample: Vec<i64> = dry.sample.iter().map(|(_, number)| *number).collect();
    assert_eq!((sample, dry.kept_count, dry.freed_bytes), (vec![3, 0], 2, Some(14)));
    assert_eq!(trainer.versions("", "").await.len(), 6);
    let done = delete(which).await.unwrap();
    assert_eq!((done.version_count, done.kept_count, done.size_bytes), (2, 2, 14));
    let left: Vec<i64> = trainer.versions("", "number").await.iter().map(|it| it.number).collect();
    assert_eq!(left, [1, 2, 4, 5]);
    let all = Selection {
        filter: "number >= 0".to_owned(),
        delete_aliases: true,
        delete_best: true,
        ..Selection::default()
    };
    assert_eq!(delete(all).await.unwrap().version_count, 4);
    assert_eq!(trainer.to_beat().await, None);
    assert_eq!(test.problems().await, Vec::<String>::new());
}

async fn a_deletion_that_was_cut_off_is_finished_by_the_collector(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let (mut first, mut second) = (sharing(&test, "first").await, test.start("second", every_epoch()).await);
    first.save(0, 0.5, b"first").await;
    second.save(0, 0.5, b"second").await;
    let db = test.database.open().await;
    // As a call that died behind its first transaction.
    db.begin_run_deletion(first.run.clone(), true, 1).await.unwrap();
    db.begin_artifact_deletion(second.artifact.clone(), true, 1).await.unwrap();
    assert_eq!(reason(first.report(vec![]).await), "STALE_ATTEMPT");
    assert_eq!(reason(Trainer::start(&test.app, start(PROJECT, "first", every_epoch())).await), "DELETING");
    assert_eq!(reason(Trainer::start(&test.app, start(PROJECT, "second", every_epoch())).await), "DELETING");
    let mut into = start(PROJECT, "third", every_epoch());
    into.artifact = Some(second.artifact.artifact.clone());
    assert_eq!(reason(Trainer::start(&test.app, into).await), "DELETING");
    assert_eq!(listed(&test).await, ["second"]);
    assert_eq!(test.app.collect().await.unwrap().removed_runs, 1);
    for version in [first.named("v0").await, second.named("v0").await] {
        assert_eq!(reason(version), "NOT_FOUND");
    }
    assert_eq!(sharing(&test, "first").await.attempt, 1);
    assert_eq!(test.start("second", every_epoch()).await.save(1, 0.5, b"model").await.number, 0);
    assert_eq!(test.problems().await, Vec::<String>::new());
}

async fn nothing_comes_into_an_artifact_that_was_deleted(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    trainer.save(0, 0.5, b"first").await;
    let pending = trainer.saved(1, 0.4).await;
    trainer.write(&pending, &[("model", b"second")]).await.unwrap();
    // A run that has ended is not fenced by the deletion of its artifact.
    finish(&trainer).await;
    test.app.delete_artifact(&trainer.artifact, How::default()).await.unwrap();
    assert_eq!(reason(trainer.commit(&pending).await), "CHECKPOINT_DELETED");
    let problems = test.problems().await;
    assert!(problems.is_empty(), "{problems:?}");
}

async fn a_version_with_several_names_is_kept_once(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    for epoch in 0..2 {
        trainer.save(epoch, 0.5 - epoch as f64, b"model").await;
    }
    for alias in ["prod", "shown"] {
        test.app.set_alias(&trainer.artifact, alias, "v1", "").await.unwrap();
    }
    let all = Selection { filter: "number >= 0".to_owned(), validate_only: true, ..Selection::default() };
    let dry = test.app.delete_versions(&trainer.artifact, &all).await.unwrap();
    assert_eq!((dry.version_count, dry.kept_count), (1, 1), "v1 is best and has two names");
}

async fn an_alias_that_was_set_meanwhile_keeps_its_run(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    trainer.save(0, 0.5, b"first").await;
    trainer.save(1, 0.4, b"second").await;
    finish(&trainer).await;
    let db = test.database.open().await;
    // Behind the look of the call that deletes, and before it marks the run.
    test.app.set_alias(&trainer.artifact, "production", "v0", "").await.unwrap();
    let refused = db.begin_run_deletion(trainer.run.clone(), false, 1).await;
    assert!(refused.unwrap_err().to_string().contains("(run-first-model:production)"));
    assert_eq!(test.app.run(&trainer.run).await.unwrap().delete_time_us, None);
    test.app.delete_run(&trainer.run, FORCE).await.unwrap();
    assert_eq!(test.problems().await, Vec::<String>::new());
}

/// It would be lost.
async fn no_alias_is_set_on_a_version_whose_run_is_being_deleted(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    trainer.save(0, 0.5, b"first").await;
    let db = test.database.open().await;
    db.begin_run_deletion(trainer.run.clone(), true, 1).await.unwrap();
    assert_eq!(reason(test.app.set_alias(&trainer.artifact, "late", "v0", "").await), "DELETING");
    assert_eq!(test.problems().await, Vec::<String>::new());
}

async fn a_project_is_deleted_by_several_calls_at_once(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut project = None;
    for round in 0..3 {
        for run in 0..12 {
            let mut trainer = test.start(&format!("run-{run}"), every_epoch()).await;
            trainer.save(0, 0.5, b"model").await;
            finish(&trainer).await;
            project = Some(trainer.run.project);
        }
        let name = project.as_ref().unwrap();
        let calls = (0..4).map(|_| test.app.delete_project(name, FORCE));
        let answers = futures::future::join_all(calls).await;
        assert!(answers.iter().any(Result::is_ok), "{round}: {answers:?}");
        for answer in answers {
            // One that comes late finds no project any more; none fails at what another one has just deleted.
            let said = if answer.is_err() { sentence(answer) } else { continue };
            assert!(said.starts_with("project `"), "{round}: {said}");
        }
        assert_eq!(listed(&test).await, Vec::<String>::new());
        assert_eq!(reason(test.app.delete_project(name, FORCE).await), "NOT_FOUND");
    }
    assert_eq!(test.problems().await, Vec::<String>::new());
}

async fn the_collector_fences_a_run_once(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    trainer.save(0, 0.5, b"model").await;
    test.app.delete_artifact(&trainer.artifact, FORCE).await.unwrap();
    let fenced = test.app.run(&trainer.run).await.unwrap().attempt;
    assert_eq!(fenced, trainer.attempt + 1);
    for _ in 0..3 {
        // Behind the time in which a call may still be deleting, and long before what is left is purged.
        test.turn(HOUR_US / 4);
        test.app.collect().await.unwrap();
        assert_eq!(test.app.run(&trainer.run).await.unwrap().attempt, fenced);
    }
}
