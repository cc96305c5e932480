//! Lists of versions by filter and order, and of artifacts.

use keepbest::app::VersionRow;
use keepbest::app::runs::Start;
use keepbest::domain::ids::ListParent;

use crate::support::apps::BEGIN_US;
use crate::support::apps::PROJECT;
use crate::support::apps::SECOND_US;
use crate::support::apps::TestApp;
use crate::support::apps::Trainer;
use crate::support::apps::epoch_end;
use crate::support::apps::every_epoch;
use crate::support::apps::id;
use crate::support::apps::shown;
use crate::support::apps::start;
use crate::support::databases::TestDatabase;
use crate::support::databases::on_all_databases;

on_all_databases! {
    equal_values_stand_in_the_order_of_their_numbers_on_every_page
    filters_and_orders_do_what_they_say
    pages_of_versions_are_the_whole_list
    artifacts_are_listed_by_project_and_id
}

/// Six versions of two runs; the third was deleted and the fourth has no `score`.
async fn six(test: &TestApp) -> Trainer {
    let share = |run| Start { artifact: Some(id("shared")), ..start(PROJECT, run, every_epoch()) };
    let mut first = Trainer::start(&test.app, share("first")).await.unwrap();
    let mut second = Trainer::start(&test.app, share("second")).await.unwrap();
    let losses = [0.5, 0.25, 0.1, f64::NAN, -0.5, 0.5];
    for (n, loss) in (0_i32..).zip(losses) {
        let trainer = if n % 2 == 0 { &mut first } else { &mut second };
        let mut event = epoch_end(i64::from(n / 2), &[("val_loss", loss), ("score", f64::from(n) * 1e300)]);
        event.step = Some(i64::from(n) * 100);
        if n == 3 {
            event.metrics.remove("score");
            event.step = None;
        }
        let answer = trainer.report(vec![event]).await.unwrap();
        let checkpoint = trainer.checkpoint(answer.decisions[0].checkpoint_uid.as_ref().unwrap());
        let data = vec![0; usize::try_from(10 - n).unwrap()];
        trainer.write(&checkpoint, &[("model.keras", &data)]).await.unwrap();
        test.turn(SECOND_US);
        trainer.commit(&checkpoint).await.unwrap();
    }
    test.app.delete_version(&first.version("v2"), false).await.unwrap();
    first
}

async fn filters_and_orders_do_what_they_say(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let trainer = six(&test).await;
    assert_eq!(BEGIN_US, 1_800_000_000 * SECOND_US, "2027-01-15T08:00:00Z, as the filters below have it");
    let table: [(&str, &str, &[i64]); 22] = [
        ("", "", &[5, 4, 3, 1, 0]),
        ("", "number", &[0, 1, 3, 4, 5]),
        ("", "create_time desc", &[5, 4, 3, 1, 0]),
        ("", "size_bytes", &[5, 4, 3, 1, 0]),
        ("", "epoch desc", &[4, 5, 3, 0, 1]),
        ("", "metrics.val_loss", &[4, 1, 0, 5]),
        ("", "metrics.val_loss desc", &[0, 5, 1, 4]),
        ("", "metrics.score desc", &[5, 4, 1, 0]),
        ("number >= 3", "", &[5, 4, 3]),
        ("number = 2", "", &[]),
        ("number != 3 AND number != 9223372036854775807", "", &[5, 4, 1, 0]),
        ("epoch <= 0", "", &[1, 0]),
        ("size_bytes < 7 AND size_bytes > 5", "", &[4]),
        ("step = 100", "", &[1]),
        ("step != 100", "", &[5, 4, 0]),
        ("batch = 0", "", &[]),
        ("run = \"second\"", "number", &[1, 3, 5]),
        ("run != \"second\" AND metrics.val_loss < 0", "", &[4]),
        ("metrics.val_loss = 0.5", "", &[5, 0]),
        ("metrics.val_loss != 0.5", "", &[4, 1]),
        ("metrics.score >= 4e300", "metrics.val_loss", &[4, 5]),
        ("create_time > \"2027-01-15T08:00:04Z\"", "", &[5, 4]),
    ];
    for (filter, order, expected) in table {
        let listed = trainer.versions(filter, order).await;
        let numbers: Vec<i64> = listed.iter().map(|it| it.number).collect();
        assert_eq!(numbers, expected, "filter `{filter}` order `{order}`");
    }
}

async fn pages_of_versions_are_the_whole_list(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = six(&test).await;
    test.app.set_alias(&trainer.artifact, "prod", "v4", "").await.unwrap();
    for order in
        ["", "number", "epoch", "epoch desc", "size_bytes", "create_time desc", "metrics.val_loss desc"]
    {
        let whole = trainer.versions("", order).await;
        for limit in 1..4 {
            let (mut pages, mut after) = (Vec::new(), None);
            loop {
                let listed =
                    test.app.list_versions(&trainer.artifact, "", order, after, limit).await.unwrap();
                assert!(listed.versions.len() <= usize::try_from(limit).unwrap());
                pages.extend(listed.versions.into_iter().map(|it| it.0));
                after = listed.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(shown(&pages), shown(&whole), "pages of {limit} by `{order}`");
        }
    }
    for version in trainer.versions("", "").await {
        let alone = test.app.version(&trainer.version(&format!("v{}", version.number))).await.unwrap();
        assert_eq!(shown(&alone), shown(&version), "with its aliases");
    }
    // What comes and goes between two pages neither hides nor repeats another.
    let first = test.app.list_versions(&trainer.artifact, "", "", None, 2).await.unwrap().versions;
    trainer.save(9, 0.5, b"model").await;
    test.app.delete_version(&trainer.version("v5"), false).await.unwrap();
    let second = test.app.list_versions(&trainer.artifact, "", "", Some(first[1].1), 9).await.unwrap();
    let numbers: Vec<i64> = first.iter().chain(&second.versions).map(|it| it.0.number).collect();
    assert_eq!(numbers, [5, 4, 3, 1, 0]);
}

fn real(number: i64) -> f64 {
    f64::from(i32::try_from(number % (1 << 30)).unwrap())
}

async fn equal_values_stand_in_the_order_of_their_numbers_on_every_page(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    // Few different values, so that each page ends among equals.
    for n in 0..24_i32 {
        let event = epoch_end(i64::from(n % 3), &[("val_loss", f64::from(n % 4) / 2.0)]);
        let answer = trainer.report(vec![event]).await.unwrap();
        let checkpoint = trainer.checkpoint(answer.decisions[0].checkpoint_uid.as_ref().unwrap());
        trainer.write(&checkpoint, &[("model.keras", &[0; 5][..(n % 5) as usize])]).await.unwrap();
        // A clock that is turned back: the order is that of the numbers.
        test.turn(-SECOND_US);
        trainer.commit(&checkpoint).await.unwrap();
    }
    for number in [3, 4, 11, 23] {
        test.app.delete_version(&trainer.version(&format!("v{number}")), true).await.unwrap();
    }
    let all = trainer.versions("", "number").await;
    assert_eq!(all.len(), 20);
    type Key = fn(&VersionRow) -> f64;
    let orders: [(&str, Key); 5] = [
        ("number", |it| real(it.number)),
        ("create_time", |it| real(it.commit_time_us - BEGIN_US)),
        ("epoch", |it| real(it.epoch)),
        ("size_bytes", |it| real(it.size_bytes)),
        ("metrics.val_loss", |it| it.metrics["val_loss"].as_f64().unwrap()),
    ];
    for (by, key) in orders {
        for direction in ["asc", "desc"] {
            for (filter, holds) in [
                ("", (|_| true) as fn(&VersionRow) -> bool),
                ("step = 1", |_| false),
                ("epoch != 1", |it| it.epoch != 1),
            ] {
                let mut expected: Vec<&VersionRow> = all.iter().filter(|it| holds(it)).collect();
                // Stable: equal ones stay in the order of their numbers.
                match direction {
                    "asc" => expected.sort_by(|a, b| key(a).total_cmp(&key(b))),
                    _ => expected.sort_by(|a, b| key(b).total_cmp(&key(a))),
                }
                let expected: Vec<i64> = expected.iter().map(|it| it.number).collect();
                let order = format!("{by} {direction}");
                for limit in [2, 50] {
                    let (mut numbers, mut after) = (Vec::new(), None);
                    loop {
                        let page =
                            test.app.list_versions(&trainer.artifact, filter, &order, after, limit).await;
                        let page = page.unwrap();
                        numbers.extend(page.versions.iter().map(|it| it.0.number));
                        let Some(next) = page.next else { break };
                        after = Some(next);
                    }
                    assert_eq!(numbers, expected, "`{filter}` by {order} in pages of {limit}");
                }
            }
        }
    }
}

async fn artifacts_are_listed_by_project_and_id(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut expected = Vec::new();
    for (project, run) in [("a", "2"), ("a", "10"), ("B", "1"), ("a", "1"), ("b", "1"), ("b", "0")] {
        let trainer =
            Trainer::start(&test.app, start(&format!("teams/t/projects/{project}"), run, every_epoch()));
        expected.push(trainer.await.unwrap().artifact.to_string());
    }
    Trainer::start(&test.app, start("teams/u/projects/a", "1", every_epoch())).await.unwrap();
    expected.sort();
    for (parent, among) in [("teams/t/projects/-", 0..6), ("teams/t/projects/a", 1..4)] {
        let parent = ListParent::parse(parent).unwrap();
        let (mut listed, mut after) = (Vec::new(), None);
        loop {
            let page = test.app.list_artifacts(&parent, after, 2).await.unwrap();
            let Some(last) = page.last() else { break };
            after = Some((last.name.project.project.to_string(), last.name.artifact.to_string()));
            listed.extend(page.into_iter().map(|it| it.name.to_string()));
        }
        assert_eq!(listed, expected[among]);
    }
}
