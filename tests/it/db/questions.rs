//! Questions in the words of whoever asks: names in quotes, OR and parentheses, times of any zone, texts in settings; and what was
//! perhaps meant where nothing is called so.

use keepbest::domain::ids::ListParent;
use keepbest::domain::run::RunState;

use crate::support::apps::PROJECT;
use crate::support::apps::SECOND_US;
use crate::support::apps::TestApp;
use crate::support::apps::Trainer;
use crate::support::apps::epoch_end;
use crate::support::apps::every_epoch;
use crate::support::apps::id;
use crate::support::apps::sentence;
use crate::support::apps::start;
use crate::support::databases::TestDatabase;
use crate::support::databases::on_all_databases;

on_all_databases! {
    versions_are_asked_for_in_the_users_words
    what_is_called_nearly_so_is_named
    runs_are_found_by_their_state_and_settings
}

const NAMES: [&str; 5] = ["val/loss", "val loss", "Top-1 (%)", "say \"x\"", "a`b'c"];

/// Saves an epoch whose metrics are `val_loss` and those of [`NAMES`].
async fn save(trainer: &mut Trainer, epoch: i64, value: f64) {
    let mut metrics = vec![("val_loss", value)];
    metrics.extend(NAMES.map(|name| (name, value)));
    let answer = trainer.report(vec![epoch_end(epoch, &metrics)]).await.unwrap();
    let checkpoint = trainer.checkpoint(answer.decisions[0].checkpoint_uid.as_ref().unwrap());
    trainer.write(&checkpoint, &[("model.keras", b"model")]).await.unwrap();
    trainer.commit(&checkpoint).await.unwrap();
}

async fn numbers(trainer: &Trainer, filter: &str, order: &str) -> Vec<i64> {
    trainer.versions(filter, order).await.iter().map(|it| it.number).collect()
}

async fn versions_are_asked_for_in_the_users_words(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut begin = start(PROJECT, "first", every_epoch());
    begin.config = Some(r#"{"note":"100% Ärger_\"x\"","optimizer":"Adam"}"#.to_owned());
    let mut trainer = Trainer::start(&test.app, begin).await.unwrap();
    for (epoch, value) in (0..).zip([0.4, 0.1, 0.3, 0.2]) {
        save(&mut trainer, epoch, value).await;
        test.turn(SECOND_US);
    }
    for name in NAMES {
        let quoted = format!("\"{}\"", name.replace('"', "\\\""));
        let filter = format!("metrics.{quoted} < 0.25");
        assert_eq!(numbers(&trainer, &filter, "number").await, [1, 3], "{filter}");
        let order = format!("metrics.{quoted} desc");
        assert_eq!(numbers(&trainer, "", &order).await, [0, 2, 3, 1], "{order}");
    }
    // 2027-01-15T08:00:00Z is when the tests' clocks begin.
    for (filter, expected) in [
        ("epoch = 0 OR epoch = 3", vec![0, 3]),
        ("epoch = 0 OR epoch = 3 AND metrics.val_loss > 1", vec![0]),
        ("(epoch = 0 OR epoch = 3) AND metrics.val_loss > 1", vec![]),
        ("(epoch < 1 OR metrics.'val loss' < 0.15) AND number >= 1", vec![1]),
        ("epoch IN (1, 2, 9)", vec![1, 2]),
        ("metrics.val_loss IN (0.4, 0.3)", vec![0, 2]),
        ("run IN ('first', 'second') AND number IN (2)", vec![2]),
        ("run IN ('second')", vec![]),
        ("create_time >= '2027-01-15T09:00:02+01:00'", vec![2, 3]),
        ("create_time < '2027-01-15 03:00:01.000000-05:00'", vec![0]),
        ("create_time > '2027-01-15t08:00:02.5z' OR number = 0", vec![0, 3]),
        ("config : 'adam'", vec![0, 1, 2, 3]),
        ("config : '100% Ärger_\"X\"' AND epoch = 1", vec![1]),
        ("config:'100_'", vec![]),
        ("config : '1%r'", vec![]),
        ("batch = 0 OR batch != 0", vec![]),
    ] {
        assert_eq!(numbers(&trainer, filter, "number").await, expected, "{filter}");
    }
    assert_eq!(test.problems().await, Vec::<String>::new());
}

async fn what_is_called_nearly_so_is_named(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    save(&mut trainer, 0, 0.5).await;
    let artifact = trainer.artifact.clone();
    let hints = async |filter: &str, order: &str| test.app.hints(&artifact, filter, order).await.unwrap();
    let name = "teams/default/projects/digits/artifacts/run-first-model";
    assert_eq!(
        hints("metrics.val_los < 1 AND epoch = 0", "").await,
        [format!("no version of `{name}` has a metric `val_los`: `val_loss` is nearly called so")]
    );
    assert_eq!(
        hints("", "metrics.'top-1 (%' desc").await,
        [format!("no version of `{name}` has a metric `top-1 (%`: `Top-1 (%)` is nearly called so")]
    );
    assert_eq!(
        hints("run = 'fisrt' OR run = 'first'", "").await,
        [format!("no run `fisrt` saves into `{name}`: `first` is nearly called so")]
    );
    let far = hints("metrics.reward < 1", "").await;
    assert!(far[0].ends_with("has a metric `reward`: there are `Top-1 (%)`, `a`b'c`, `say \\\"x\\\"`, `val loss`, `val/loss`, ...") || far[0].contains("there are "), "{far:?}");
    assert_eq!(
        hints("metrics.val_loss > 9 AND run = 'first'", "metrics.val_loss").await,
        Vec::<String>::new()
    );
    let run = keepbest::domain::ids::BestParent::Run(trainer.run.clone());
    let direction = Some(keepbest::domain::metric::Direction::Min);
    assert_eq!(
        sentence(test.app.best_version(&run, Some("vall_loss".to_owned()), direction).await),
        "no committed version in `teams/default/projects/digits/runs/first` has a number as `vall_loss`: `val_loss` is nearly \
         called so"
    );
}

async fn runs_are_found_by_their_state_and_settings(database: TestDatabase) {
    let test = TestApp::over(database).await;
    for number in 0..450 {
        let mut begin = start(PROJECT, &format!("r{number}"), every_epoch());
        let optimizer = if number % 100 == 7 { "SGD" } else { "adam" };
        begin.config = Some(format!("{{\"optimizer\":\"{optimizer}\"}}"));
        let trainer = Trainer::start(&test.app, begin).await.unwrap();
        if number == 107 {
            test.app.finish_run(trainer.run.clone(), 1, RunState::Failed).await.unwrap();
        }
        test.turn(1);
    }
    let parent = ListParent { team: id("default"), project: Some(id("digits")) };
    let found = async |filter: &str| {
        let (mut ids, mut before, mut looks) = (Vec::new(), None, 0);
        loop {
            let page = test.app.list_runs_where(&parent, filter, before, 2).await.unwrap();
            assert!(page.runs.len() <= 2 && page.looks <= 200);
            ids.extend(page.runs.iter().map(|it| it.name.run.to_string()));
            looks += page.looks;
            before = page.next;
            if before.is_none() {
                return (ids, looks);
            }
        }
    };
    assert_eq!(found("config : 'sgd'").await.0, ["r407", "r307", "r207", "r107", "r7"]);
    assert_eq!(found("config : 'sgd' AND state = 'active'").await.0, ["r407", "r307", "r207", "r7"]);
    assert_eq!(found("state IN ('FAILED')").await.0, ["r107"]);
    assert_eq!(found("run = 'r3' OR artifact = 'run-r5-model'").await.0, ["r5", "r3"]);
    assert_eq!(found("monitor != 'val_loss'").await, (Vec::new(), 450));
    assert_eq!(found("config : 'sgd' AND create_time <= '2027-01-15T08:00:00.000100Z'").await.0, ["r7"]);
    assert_eq!(found("").await.0.len(), 450);
}
