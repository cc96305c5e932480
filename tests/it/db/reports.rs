//! The same event sent twice, by anyone, to any replica, has one decision.

use futures::future::join_all;
use keepbest::app::DecisionFilter;
use keepbest::app::events::NewEvents;
use keepbest::domain::decision::Action;
use keepbest::domain::event::Event;
use keepbest::domain::metric::MetricValue;

use crate::support::apps::TestApp;
use crate::support::apps::Trainer;
use crate::support::apps::best_only;
use crate::support::apps::every_epoch;
use crate::support::apps::id;
use crate::support::apps::reason;
use crate::support::apps::sentence;
use crate::support::apps::shown;
use crate::support::apps::val_loss;
use crate::support::databases::TestDatabase;
use crate::support::databases::on_all_databases;

on_all_databases! {
    a_report_repeated_whole_or_in_part_is_answered_from_what_is_stored
    a_gap_is_refused_and_says_what_is_next
    two_writers_count_on_their_own_and_one_is_decided_upon
    one_report_from_many_tasks_has_one_decision
    a_refused_report_stores_none_of_its_events
    every_kind_of_value_is_read_back_as_it_was_sent
    decisions_and_events_are_listed_page_by_page
}

async fn decisions(trainer: &Trainer) -> String {
    let all = trainer.app.list_decisions(&trainer.run, DecisionFilter::default(), 0, 1_000).await;
    shown(&all.unwrap())
}

async fn a_report_repeated_whole_or_in_part_is_answered_from_what_is_stored(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", best_only()).await;
    let first = vec![val_loss(0, 0.5), val_loss(1, f64::NAN), val_loss(2, 0.25)];
    let answer = trainer.report(first.clone()).await.unwrap();
    assert_eq!((answer.decisions.len(), answer.next_sequence, answer.duplicate_count), (3, 3, 0));
    let before = shown(&test.app.run(&trainer.run).await.unwrap());

    test.turn(77);
    let replica = test.replica().await;
    let repeat = NewEvents { first_sequence: 0, ..trainer.events(first) };
    let again = replica.report_events(repeat).await.unwrap();
    assert_eq!(shown(&again.decisions), shown(&answer.decisions));
    assert_eq!((again.next_sequence, again.duplicate_count), (3, 3));
    assert_eq!(shown(&test.app.run(&trainer.run).await.unwrap()), before, "nothing moved");

    // Another event under a used sequence is refused, and nothing behind it is stored.
    let other = vec![val_loss(1, 0.1), val_loss(2, 0.25), val_loss(3, 0.2)];
    let other = NewEvents { first_sequence: 1, ..trainer.events(other) };
    assert_eq!(reason(replica.report_events(other).await), "SEQUENCE_CONFLICT");
    assert_eq!(shown(&test.app.run(&trainer.run).await.unwrap()), before, "nothing moved");

    // The overlap is what was stored; the rest is new.
    let overlap = vec![val_loss(1, f64::NAN), val_loss(2, 0.25), val_loss(3, 0.2), val_loss(4, 0.3)];
    let overlap = NewEvents { first_sequence: 1, ..trainer.events(overlap) };
    let third = replica.report_events(overlap).await.unwrap();
    assert_eq!((third.next_sequence, third.duplicate_count), (5, 2));
    assert_eq!(shown(&third.decisions[..2].to_vec()), shown(&answer.decisions[1..].to_vec()));
    let new: Vec<_> = third.decisions[2..].iter().map(|it| (it.sequence, it.decision.action)).collect();
    assert_eq!(new, [(3, Action::Save), (4, Action::Skip)]);
    let all: Vec<_> = answer.decisions.iter().chain(&third.decisions[2..]).cloned().collect();
    assert_eq!(decisions(&trainer).await, shown(&all));
    let stored: Vec<Event> = trainer.rows().await.into_iter().flat_map(|row| row.events).collect();
    let values: Vec<_> = stored.iter().map(|it| (it.epoch, it.metrics["val_loss"].as_f64())).collect();
    let sent = [(0, 0.5), (1, f64::NAN), (2, 0.25), (3, 0.2), (4, 0.3)].map(|(n, it)| (n, Some(it)));
    assert_eq!(shown(&values), shown(&sent));
}

async fn a_gap_is_refused_and_says_what_is_next(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", best_only()).await;
    trainer.epoch(0, 0.5).await;
    let before = (decisions(&trainer).await, shown(&test.app.run(&trainer.run).await.unwrap()));
    for first_sequence in [2, i64::MAX] {
        let gap = NewEvents { first_sequence, ..trainer.events(vec![]) };
        let expected = format!(
            "events of writer `` of run `teams/default/projects/digits/runs/first` begin at sequence \
             {first_sequence}, but 1 is the next: send the ones between first"
        );
        assert_eq!(sentence(test.app.report_events(gap).await), expected);
    }
    for first_sequence in [-1, i64::MIN, i64::MAX] {
        let beyond = NewEvents { first_sequence, ..trainer.events(vec![val_loss(1, 0.4)]) };
        assert_eq!(reason(test.app.report_events(beyond).await), "BAD_EVENT");
    }
    let after = (decisions(&trainer).await, shown(&test.app.run(&trainer.run).await.unwrap()));
    assert_eq!(after, before);
}

async fn two_writers_count_on_their_own_and_one_is_decided_upon(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let trainer = test.start("first", best_only()).await;
    let from = |writer: Option<&str>, first_sequence, event| NewEvents {
        writer: writer.map(id),
        first_sequence,
        ..trainer.events(vec![event])
    };
    let sent = [
        (None, 0, val_loss(0, 0.5), Some(Action::Save)),
        (Some("eval"), 0, val_loss(0, 0.1), None),
        (Some("eval"), 1, val_loss(1, 0.1), None),
        (None, 1, val_loss(1, 0.4), Some(Action::Save)),
    ];
    for (position, (writer, sequence, event, action)) in (0_i64..).zip(&sent) {
        for duplicate_count in 0..2 {
            let answer = test.app.report_events(from(*writer, *sequence, event.clone())).await.unwrap();
            assert_eq!((answer.next_sequence, answer.duplicate_count), (sequence + 1, duplicate_count));
            let decided = answer.decisions.iter().map(|it| (it.position, it.sequence, it.decision.action));
            let expected = action.map(|action| (position, *sequence, action));
            assert_eq!(decided.collect::<Vec<_>>(), Vec::from_iter(expected));
        }
    }
    let rows = trainer.rows().await;
    let rows: Vec<_> = rows.iter().map(|it| (it.position, it.writer.as_str(), it.first_sequence)).collect();
    assert_eq!(rows, [(0, "", 0), (1, "eval", 0), (2, "eval", 1), (3, "", 1)]);
    assert_eq!(trainer.to_beat().await, Some(0.4));
    assert_eq!(reason(test.app.report_events(from(Some("late"), 1, val_loss(9, 9.0))).await), "SEQUENCE_GAP");
}

async fn one_report_from_many_tasks_has_one_decision(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    let (one, other) = (test.app.clone(), test.replica().await);
    for epoch in 0..10 {
        let report = trainer.events(vec![val_loss(epoch, 0.5), val_loss(epoch, 0.25)]);
        let tasks = (0..16).map(|n| {
            let (app, report) = (if n % 2 == 0 { &one } else { &other }.clone(), report.clone());
            tokio::spawn(async move { app.report_events(report).await.unwrap() })
        });
        let answers: Vec<_> = join_all(tasks).await.into_iter().map(|it| it.unwrap()).collect();
        let duplicates = answers.iter().map(|it| it.duplicate_count);
        assert_eq!(duplicates.sum::<i64>(), 15 * 2, "one was the first");
        for answer in &answers {
            assert_eq!(shown(&answer.decisions), shown(&answers[0].decisions));
        }
        trainer.sequence += 2;
    }
    assert_eq!(trainer.rows().await.len(), 10);
    assert_eq!(test.database.texts("SELECT uid FROM checkpoints").await.len(), 20);
}

async fn a_refused_report_stores_none_of_its_events(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    let bad = vec![val_loss(0, 0.5), val_loss(-1, 0.5)];
    assert_eq!(
        sentence(trainer.report(bad).await),
        "event 1: `epoch` is -1: must be from 0 to 9007199254740992"
    );
    let many = vec![val_loss(0, 0.5); 10_001];
    assert_eq!(reason(trainer.report(many).await), "LIMIT_EXCEEDED");
    assert_eq!(shown(&trainer.rows().await), "[]");
    assert_eq!(decisions(&trainer).await, "[]");
    assert_eq!(test.app.run(&trainer.run).await.unwrap().event_count, 0);
}

async fn every_kind_of_value_is_read_back_as_it_was_sent(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", best_only()).await;
    let numbers = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 5e-324, 0.1 + 0.2, f64::MAX];
    let mut event = val_loss((1 << 53) - 1, f64::NEG_INFINITY);
    (event.batch, event.step, event.wall_time_us) = (Some(0), Some(1 << 53), Some(1));
    for (n, number) in numbers.into_iter().enumerate() {
        event.metrics.insert(format!("number {n}"), MetricValue::Number(number));
    }
    event.metrics.insert("whole".to_owned(), MetricValue::Integer(i64::MIN));
    event.metrics.insert("größe/µ".to_owned(), MetricValue::Text("ein „Wort“ \u{1f980}\n".to_owned()));
    event.metrics.insert("array".to_owned(), MetricValue::NotScalar("[1 2]".to_owned()));
    event.metrics.insert("none".to_owned(), MetricValue::Missing);
    let decision = trainer.report(vec![event.clone()]).await.unwrap().decisions.pop().unwrap();
    let stored = trainer.rows().await.pop().unwrap();
    assert_eq!(shown(&stored.events), shown(&vec![event.clone()]));
    assert_eq!(decisions(&trainer).await, shown(&vec![decision.clone()]));
    let checkpoint = trainer.checkpoint(&decision.checkpoint_uid.unwrap());
    let pending = test.app.checkpoint(&checkpoint).await.unwrap();
    assert_eq!(shown(&pending.metrics), shown(&event.metrics));
    assert_eq!(trainer.to_beat().await, Some(f64::NEG_INFINITY));
}

async fn decisions_and_events_are_listed_page_by_page(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", best_only()).await;
    let mut all = Vec::new();
    for request in 0..6 {
        let events = (0..3).map(|n| val_loss(request, if n == 1 { 9.0 } else { -f64::from(n) }));
        all.extend(trainer.report(events.collect()).await.unwrap().decisions);
    }
    let app = &test.app;
    let (mut listed, mut position) = (Vec::new(), 0);
    while let Some(last) = {
        let page = app.list_decisions(&trainer.run, DecisionFilter::default(), position, 4).await.unwrap();
        listed.extend(page.iter().cloned());
        page.last().cloned()
    } {
        position = last.position + 1;
    }
    assert_eq!(shown(&listed), shown(&all));
    let of_two = DecisionFilter { epoch: Some(2), action: Some(Action::Skip), newest_first: false };
    let expected: Vec<_> =
        all.iter().filter(|it| it.epoch == 2 && it.decision.action == Action::Skip).collect();
    assert_eq!(shown(&app.list_decisions(&trainer.run, of_two, 0, 100).await.unwrap()), shown(&expected));

    // Whole requests, from the one that holds the position on.
    let run = app.run(&trainer.run).await.unwrap();
    for (position, rows) in [(0, 0..6), (3, 1..6), (5, 1..6), (17, 5..6), (18, 6..6), (i64::MAX, 6..6)] {
        let page = app.list_events(&run, position).await.unwrap();
        assert_eq!(shown(&page), shown(&trainer.rows().await[rows].to_vec()), "from {position}");
    }
}
