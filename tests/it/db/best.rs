//! Which version is best: one rule in the domain, one ORDER BY in the store, and they agree.

use keepbest::app::runs::Start;
use keepbest::domain::ids::BestParent;
use keepbest::domain::metric::Direction;
use keepbest::domain::metric::improves;
use proptest::prelude::any;
use proptest::prop_oneof;
use proptest::strategy::Just;
use proptest::strategy::Strategy as _;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::support::apps::PROJECT;
use crate::support::apps::TestApp;
use crate::support::apps::Trainer;
use crate::support::apps::epoch_end;
use crate::support::apps::every_epoch;
use crate::support::apps::id;
use crate::support::apps::reason;
use crate::support::apps::sentence;
use crate::support::apps::start;
use crate::support::apps::towards;
use crate::support::databases::TestDatabase;
use crate::support::databases::on_all_databases;

on_all_databases! {
    the_best_is_found_in_a_run_an_artifact_a_project_and_a_team
    the_rule_and_the_order_agree_on_every_series
    another_team_sees_what_does_not_exist
}

/// Saves a version with two metrics.
async fn save(trainer: &mut Trainer, epoch: i64, loss: f64, score: f64) -> String {
    let event = epoch_end(epoch, &[("val_loss", loss), ("score", score)]);
    let decision = trainer.report(vec![event]).await.unwrap().decisions.pop().unwrap();
    let checkpoint = trainer.checkpoint(&decision.checkpoint_uid.unwrap());
    trainer.write(&checkpoint, &[("model.keras", b"model")]).await.unwrap();
    let version = trainer.commit(&checkpoint).await.unwrap();
    format!("{} v{}", version.checkpoint.run.run, version.number)
}

async fn the_best_is_found_in_a_run_an_artifact_a_project_and_a_team(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let letters = "teams/default/projects/letters";
    let mut trainers = Vec::new();
    // Two runs share an artifact, one has its own, one is of another project, and one of another team.
    for (project, run, artifact) in [
        (PROJECT, "a", "shared"),
        (PROJECT, "b", "shared"),
        (PROJECT, "c", "own"),
        (letters, "d", "shared"),
        ("teams/other/projects/digits", "e", "shared"),
    ] {
        let start = Start { artifact: Some(id(artifact)), ..start(project, run, every_epoch()) };
        trainers.push(Trainer::start(&test.app, start).await.unwrap());
    }
    let saves = [(0, 0.5, 1.0), (1, 0.4, 2.0), (2, 0.3, 3.0), (3, 0.2, 4.0), (4, 0.1, 5.0)];
    for (epoch, shift) in [(0, 0.0), (1, 0.0), (2, 1.0)] {
        for (n, loss, score) in saves {
            test.turn(1);
            save(&mut trainers[n], epoch, loss + shift, score - shift).await;
        }
    }
    let run = |n: usize| BestParent::Run(trainers[n].run.clone());
    let artifact = |n: usize| BestParent::Artifact(trainers[n].artifact.clone());
    let parse = |name: &str| BestParent::parse(name).unwrap();
    // With the first two saves of a run as ties: the earliest is meant.
    let expected = [
        (run(0), "a v0", "a v4"),
        (run(1), "b v1", "b v5"),
        (artifact(1), "b v1", "a v4"),
        (artifact(2), "c v0", "c v2"),
        (parse(PROJECT), "c v0", "a v4"),
        (parse(letters), "d v0", "d v2"),
        (parse("teams/default"), "d v0", "a v4"),
        (parse("teams/other"), "e v0", "e v2"),
    ];
    for (parent, lowest_loss, lowest_score) in expected {
        let score = Some("score".to_owned());
        for (metric, direction, expected) in
            [(None, None, lowest_loss), (score.clone(), Some(Direction::Min), lowest_score)]
        {
            let best = test.app.best_version(&parent, metric, direction).await.unwrap();
            assert_eq!(format!("{} v{}", best.checkpoint.run.run, best.number), expected, "{parent:?}");
        }
        let highest = test.app.best_version(&parent, score.clone(), Some(Direction::Max)).await.unwrap();
        assert_eq!(format!("{} v{}", highest.checkpoint.run.run, highest.number), lowest_loss);
        assert_eq!(reason(test.app.best_version(&parent, score, None).await), "METRIC_REQUIRED");
        let none = test.app.best_version(&parent, Some("loss".to_owned()), Some(Direction::Min)).await;
        assert_eq!(reason(none), "NOT_FOUND");
    }
}

async fn the_rule_and_the_order_agree_on_every_series(database: TestDatabase) {
    let test = TestApp::over(database).await;
    // Few enough values for ties, the numbers that compare oddly, and any other.
    let value = prop_oneof![
        3 => proptest::sample::select(vec![0.0, -0.0, 0.5, 1.0, -1.0]),
        1 => proptest::sample::select(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MIN_POSITIVE, 5e-324]),
        2 => any::<f64>(),
    ];
    // Replicas' clocks stand still, go on, and differ.
    let turn = prop_oneof![Just(0_i64), Just(1), Just(-7)];
    let series = (proptest::collection::vec((value, turn), 1..6), any::<bool>());
    let mut runner = TestRunner::deterministic();
    for case in 0..24 {
        let (series, up) = series.new_tree(&mut runner).unwrap().current();
        let direction = if up { Direction::Max } else { Direction::Min };
        let (team, run) = (format!("teams/t{case}"), format!("r{case}"));
        let project = format!("{team}/projects/digits");
        let strategy = towards(direction, every_epoch());
        let mut trainer = Trainer::start(&test.app, start(&project, &run, strategy)).await.unwrap();
        let mut winner: Option<(i64, f64)> = None;
        for (epoch, (value, turn)) in (0..).zip(&series) {
            test.turn(*turn);
            let number = trainer.save(epoch, *value, b"").await.number;
            let beaten = winner.map(|it| it.1);
            if improves(*value, beaten, direction, 0.0) {
                winner = Some((number, *value));
            }
        }
        let expected = winner.map(|it| it.0);
        let told = format!("{series:?} {direction:?}");
        assert_eq!(trainer.named("best").await.ok().map(|it| it.0), expected, "alias after {told}");
        let parents = [trainer.run.to_string(), trainer.artifact.to_string(), project, team];
        for parent in parents {
            let best = test.app.best_version(&BestParent::parse(&parent).unwrap(), None, None).await;
            assert_eq!(best.ok().map(|it| it.number), expected, "{parent} after {told}");
        }
    }
}

async fn another_team_sees_what_does_not_exist(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut mine = test.start("first", every_epoch()).await;
    let version = mine.save(0, 0.5, b"secret").await;
    let pending = mine.saved(1, 0.4).await;
    mine.write(&pending, &[("model.keras", b"more")]).await.unwrap();
    // The same questions about my things as another team names them, and about things that nobody has.
    let mut answers = Vec::new();
    for (project, run, artifact, uid) in [
        ("teams/other/projects/digits", "first", "run-first-model", pending.checkpoint.to_string()),
        ("teams/other/projects/digits", "never", "run-never-model", "0".repeat(32)),
    ] {
        let there = Trainer::start(&test.app, start(project, "theirs", every_epoch())).await.unwrap();
        let run = keepbest::domain::ids::RunName { run: id(run), ..there.run.clone() };
        let artifact =
            keepbest::domain::ids::ArtifactName { artifact: id(artifact), ..there.artifact.clone() };
        let zombie = Trainer { run: run.clone(), artifact, attempt: 1, sequence: 2, ..there.clone() };
        let checkpoint = zombie.checkpoint(&uid);
        let inside = there.checkpoint(&uid);
        let app = &test.app;
        let mut told = vec![
            sentence(app.run(&run).await),
            sentence(app.report_events(zombie.events(vec![])).await),
            sentence(app.checkpoint(&checkpoint).await),
            sentence(app.checkpoint(&inside).await),
            sentence(zombie.write(&checkpoint, &[("x", b"x")]).await),
            sentence(there.write(&inside, &[("x", b"x")]).await),
            sentence(zombie.commit(&checkpoint).await),
            sentence(there.commit(&inside).await),
            sentence(zombie.abandon(&checkpoint).await),
            sentence(there.abandon(&inside).await),
            sentence(zombie.named("v0").await),
            sentence(zombie.named("best").await),
            sentence(app.delete_version(&zombie.version("v0"), true).await),
            sentence(app.set_alias(&zombie.artifact, "mine", "v0", "").await),
            sentence(app.list_versions(&zombie.artifact, "", "", None, 10).await),
            sentence(app.best_version(&BestParent::Run(run.clone()), None, None).await),
        ];
        for sentence in &mut told {
            *sentence = sentence.replace(run.run.as_str(), "RUN").replace(&uid, "UID");
        }
        answers.push(told);
    }
    assert_eq!(answers[0], answers[1]);
    assert!(answers[0].iter().all(|it| it.ends_with("was not found")), "{:#?}", answers[0]);
    assert_eq!(mine.commit(&pending).await.unwrap().number, 1);
    assert_eq!(mine.read("v0", "model.keras").await.0, b"secret");
    assert_eq!(version.number, 0);
}
