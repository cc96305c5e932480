//! Runs begin, go on, and end.

use futures::future::join_all;
use keepbest::app::RunState;
use keepbest::app::events::NewEvents;
use keepbest::app::runs::Resume;
use keepbest::app::runs::Start;
use keepbest::domain::ids::ArtifactName;
use keepbest::domain::ids::ListParent;
use keepbest::domain::metric::Direction;

use crate::support::apps::PROJECT;
use crate::support::apps::TestApp;
use crate::support::apps::Trainer;
use crate::support::apps::best_only;
use crate::support::apps::every_epoch;
use crate::support::apps::id;
use crate::support::apps::reason;
use crate::support::apps::shown;
use crate::support::apps::start;
use crate::support::apps::towards;
use crate::support::apps::val_loss;
use crate::support::databases::TestDatabase;
use crate::support::databases::on_all_databases;
use crate::support::databases::postgres;
use crate::support::patience::patiently;

on_all_databases! {
    a_second_start_resumes_the_run_where_it_stood
    a_start_repeated_with_its_request_id_is_one_attempt
    a_request_id_that_is_used_for_another_start_is_refused
    starts_at_the_same_moment_are_attempts_of_one_run
    resume_never_and_must_are_kept
    another_monitor_is_refused_and_leaves_nothing
    an_older_attempt_changes_nothing
    a_finished_run_takes_no_events_until_it_is_started_again
    runs_are_listed_newest_first_page_by_page
}

fn first() -> Start {
    start(PROJECT, "first", best_only())
}

async fn a_second_start_resumes_the_run_where_it_stood(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let begun = test.app.start_run(Start { config: Some("{\"lr\":1}".to_owned()), ..first() }).await.unwrap();
    assert_eq!((begun.attempt, begun.next_sequence, begun.resumed), (1, 0, false));
    let mut trainer = Trainer::of(&test.app, begun);
    let version = trainer.save(0, 0.5, b"one").await;
    let before = test.app.run(&trainer.run).await.unwrap();

    test.turn(1);
    let begun = test.replica().await.start_run(first()).await.unwrap();
    assert_eq!((begun.attempt, begun.next_sequence, begun.resumed), (2, 1, true));
    assert_eq!(shown(&begun.resume_from), shown(&Some(version)));
    let mut expected = before;
    expected.attempt = 2;
    expected.update_time_us += 1;
    expected.heard_time_us += 1;
    assert_eq!(shown(&begun.run), shown(&expected));
    assert_eq!(begun.run.monitor_state.best, Some(0.5));
    assert_eq!(shown(&test.app.run(&trainer.run).await.unwrap()), shown(&expected));
}

async fn a_start_repeated_with_its_request_id_is_one_attempt(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let (one, other) = (test.app.clone(), test.replica().await);
    for (request_id, attempt, resumed) in [("a", 1, false), ("b", 2, true)] {
        let again = Start { request_id: request_id.to_owned(), ..first() };
        let starts = (0..10).map(|n| {
            let (app, again) = (if n % 2 == 0 { &one } else { &other }.clone(), again.clone());
            tokio::spawn(async move { app.start_run(again).await.unwrap() })
        });
        for begun in join_all(starts).await {
            let begun = begun.unwrap();
            assert_eq!((begun.attempt, begun.resumed, begun.run.attempt), (attempt, resumed, attempt));
        }
    }
    let old = test.app.start_run(Start { request_id: "a".to_owned(), ..first() }).await.unwrap();
    assert_eq!((old.attempt, old.run.attempt), (1, 2), "an old request still is its old attempt");
}

async fn starts_at_the_same_moment_are_attempts_of_one_run(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let starts = (0..12).map(|_| {
        let app = test.app.clone();
        tokio::spawn(async move { patiently(|| app.start_run(first())).await.unwrap() })
    });
    let begun = join_all(starts).await.into_iter().map(|it| it.unwrap());
    let mut begun: Vec<_> = begun.map(|it| (it.attempt, it.resumed, it.run.uid)).collect();
    begun.sort();
    let uid = begun[0].2.clone();
    let expected: Vec<_> = (1..=12).map(|attempt| (attempt, attempt > 1, uid.clone())).collect();
    assert_eq!(begun, expected);
}

async fn resume_never_and_must_are_kept(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let never = Start { resume: Resume::Never, request_id: "n".to_owned(), ..first() };
    let must = Start { resume: Resume::Must, ..first() };
    assert_eq!(reason(test.app.start_run(must.clone()).await), "NOT_FOUND");
    assert_eq!(test.app.start_run(never.clone()).await.unwrap().attempt, 1);
    assert_eq!(test.app.start_run(never.clone()).await.unwrap().attempt, 1, "the same request, repeated");
    let another = Start { request_id: String::new(), ..never };
    assert_eq!(reason(test.app.start_run(another).await), "RUN_EXISTS");
    assert_eq!(test.app.start_run(must).await.unwrap().attempt, 2);
}

async fn another_monitor_is_refused_and_leaves_nothing(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let trainer = test.start("first", best_only()).await;
    let before = shown(&test.app.run(&trainer.run).await.unwrap());
    let mut by_accuracy = best_only();
    by_accuracy.monitor = "val_accuracy".to_owned();
    let upwards = towards(Direction::Max, best_only());
    for strategy in [by_accuracy.clone(), upwards.clone()] {
        let again = start(PROJECT, "first", strategy.clone());
        assert_eq!(reason(test.app.start_run(again).await), "MONITOR_CONFLICT");
        let shared = Some(trainer.artifact.artifact.clone());
        let second = Start { artifact: shared, ..start(PROJECT, "second", strategy) };
        assert_eq!(reason(test.app.start_run(second).await), "MONITOR_CONFLICT");
    }
    let moved = Start { artifact: Some(id("other")), ..first() };
    assert_eq!(reason(test.app.start_run(moved).await), "ARTIFACT_CONFLICT");
    assert_eq!(shown(&test.app.run(&trainer.run).await.unwrap()), before);
    let parent = ListParent::parse(PROJECT).unwrap();
    assert_eq!(test.app.list_runs(&parent, None, 10).await.unwrap().len(), 1);
    let other = ArtifactName { artifact: id("other"), ..trainer.artifact };
    assert_eq!(reason(test.app.artifact(&other).await), "NOT_FOUND");
}

async fn an_older_attempt_changes_nothing(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut old = test.start("first", every_epoch()).await;
    old.report(vec![val_loss(0, 0.5)]).await.unwrap();
    let pending = old.saved(1, 0.4).await;
    old.write(&pending, &[("model.keras", b"one")]).await.unwrap();
    let mut new = test.start("first", every_epoch()).await;
    let mine = new.saved(2, 0.6).await;
    let before = shown(&test.app.run(&new.run).await.unwrap());

    for future in [false, true] {
        let attempt = if future { 3 } else { 1 };
        let mut zombie = Trainer { attempt, sequence: new.sequence, ..old.clone() };
        assert_eq!(reason(zombie.report(vec![val_loss(2, 0.1)]).await), "STALE_ATTEMPT");
        assert_eq!(reason(zombie.report(vec![]).await), "STALE_ATTEMPT");
        for checkpoint in [&pending, &mine] {
            let refused = zombie.write(checkpoint, &[("other", b"two")]).await;
            assert_eq!(reason(refused), "STALE_ATTEMPT");
            assert_eq!(reason(zombie.stream(checkpoint, "other", b"two").await), "STALE_ATTEMPT");
            assert_eq!(reason(zombie.commit(checkpoint).await), "STALE_ATTEMPT");
        }
        assert_eq!(reason(zombie.abandon(&mine).await), "STALE_ATTEMPT");
        let ended = test.app.finish_run(zombie.run.clone(), attempt, RunState::Finished).await;
        assert_eq!(reason(ended), "STALE_ATTEMPT");
    }
    assert_eq!(shown(&test.app.run(&new.run).await.unwrap()), before);
    assert_eq!(shown(&new.versions("", "").await), "[]");
    new.write(&mine, &[("model.keras", b"mine")]).await.unwrap();
    assert_eq!(new.commit(&mine).await.unwrap().number, 0);
}

async fn a_finished_run_takes_no_events_until_it_is_started_again(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    let checkpoint = trainer.saved(0, 0.5).await;
    test.turn(5);
    let (name, attempt) = (trainer.run.clone(), trainer.attempt);
    let ended = test.app.finish_run(name.clone(), attempt, RunState::Failed).await.unwrap();
    assert_eq!((ended.state, ended.finish_time_us), (RunState::Failed, Some(ended.update_time_us)));
    test.turn(5);
    let again = test.app.finish_run(name.clone(), attempt, RunState::Failed).await.unwrap();
    assert_eq!(shown(&again), shown(&ended), "ending it again changes nothing");
    let otherwise = test.app.finish_run(name, attempt, RunState::Finished).await;
    assert_eq!(reason(otherwise), "RUN_FINISHED", "its end stands");

    assert_eq!(reason(trainer.report(vec![val_loss(1, 0.4)]).await), "RUN_FINISHED");
    trainer.sequence = 0;
    assert_eq!(trainer.report(vec![val_loss(0, 0.5)]).await.unwrap().duplicate_count, 1);
    trainer.write(&checkpoint, &[("model.keras", b"last")]).await.unwrap();
    assert_eq!(trainer.commit(&checkpoint).await.unwrap().number, 0, "a save on its way may arrive");

    let mut resumed = test.start("first", every_epoch()).await;
    let run = test.app.run(&resumed.run).await.unwrap();
    assert_eq!((run.state, run.finish_time_us), (RunState::Active, None));
    resumed.report(vec![val_loss(1, 0.4)]).await.unwrap();
}

async fn runs_are_listed_newest_first_page_by_page(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut expected = Vec::new();
    for n in 0..7 {
        // Three pairs share their microsecond.
        test.turn(n % 2);
        let project = if n < 5 { PROJECT } else { "teams/default/projects/letters" };
        let begun = test.app.start_run(start(project, &format!("r{n}"), best_only())).await.unwrap();
        expected.push((begun.run.create_time_us, begun.run.uid.clone(), begun.run));
    }
    Trainer::start(&test.app, start("teams/other/projects/digits", "r0", best_only())).await.unwrap();
    expected.sort_by(|a, b| (b.0, &b.1).cmp(&(a.0, &a.1)));
    for (parent, among) in [("teams/default/projects/-", 0..7), (PROJECT, 2..7)] {
        let parent = ListParent::parse(parent).unwrap();
        let (mut listed, mut before) = (Vec::new(), None);
        loop {
            let page = test.app.list_runs(&parent, before, 2).await.unwrap();
            let Some(last) = page.last() else { break };
            before = Some((last.create_time_us, last.uid.clone()));
            listed.extend(page);
        }
        let expected: Vec<_> = expected[among].iter().map(|it| &it.2).collect();
        assert_eq!(shown(&listed), shown(&expected));
    }
}

async fn a_request_id_that_is_used_for_another_start_is_refused(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let start = Start { request_id: "launch".to_owned(), config: Some("{\"lr\":1}".to_owned()), ..first() };
    assert_eq!(test.app.start_run(start.clone()).await.unwrap().attempt, 1);
    for other in [
        Start { config: Some("{\"lr\":2}".to_owned()), ..start.clone() },
        Start { strategy: every_epoch(), ..start.clone() },
    ] {
        assert_eq!(reason(test.app.start_run(other).await), "REQUEST_CONFLICT");
    }
    let rank = Start { writer: Some(id("rank-1")), ..start };
    let begun = test.app.start_run(rank.clone()).await.unwrap();
    assert_eq!((begun.attempt, begun.next_sequence), (1, 0));
    let events = NewEvents {
        writer: Some(id("rank-1")),
        ..Trainer::of(&test.app, begun).events(vec![val_loss(0, 0.5)])
    };
    test.app.report_events(events).await.unwrap();
    assert_eq!(test.app.start_run(rank).await.unwrap().next_sequence, 1, "where this writer goes on");
    let begun = test.app.start_run(Start { request_id: "next".to_owned(), ..first() }).await.unwrap();
    assert_eq!((begun.attempt, begun.next_sequence), (2, 0), "where the default writer goes on");
}

/// Who commits into the artifact holds a run and waits for it: each would wait for the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_waits_for_its_run_holds_no_artifact() {
    let test = TestApp::over(postgres().await).await;
    let shared = |run: &str| Start { artifact: Some(id("shared")), ..start(PROJECT, run, best_only()) };
    Trainer::start(&test.app, shared("first")).await.unwrap();
    let mut other = test.database.postgres_connection().await;
    let make = "BEGIN; SET LOCAL lock_timeout = '30s'; INSERT INTO runs (uid, team, project, id, artifact_uid, strategy, direction, \
        monitor_state, attempt, state, revision, event_count, create_time_us, update_time_us) SELECT 'made', team, project, 'second', \
        artifact_uid, strategy, direction, monitor_state, 1, state, 1, 0, create_time_us, update_time_us FROM runs WHERE id = 'first'";
    sqlx::raw_sql(make).execute(&mut other).await.unwrap();
    let app = test.app.clone();
    let starting = tokio::spawn(async move { Trainer::start(&app, shared("second")).await });
    let waits = "SELECT COUNT(*) FROM pg_stat_activity WHERE application_name = 'keepbest' \
        AND datname = current_database() AND wait_event_type = 'Lock'";
    while sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut other).await.unwrap() == 0 {
        tokio::task::yield_now().await;
    }
    // Postgres would end one of the two.
    let take = "UPDATE artifacts SET next_version = next_version WHERE id = 'shared'; COMMIT";
    sqlx::raw_sql(take).execute(&mut other).await.unwrap();
    assert_eq!(starting.await.unwrap().unwrap().attempt, 2);
}
