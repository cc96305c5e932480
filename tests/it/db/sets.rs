//! What is written costs as many statements for one as for many: calls that wait together, and items of one call.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use keepbest::app::App;
use keepbest::app::uploads::Piece;
use keepbest::app::uploads::SmallFile;
use keepbest::domain::event::Event;
use keepbest::domain::metric::MetricValue;

use crate::support::apps::TestApp;
use crate::support::apps::Trainer;
use crate::support::apps::every_epoch;
use crate::support::apps::val_loss;
use crate::support::databases::TestDatabase;
use crate::support::databases::on_all_databases;

on_all_databases! {
    many_items_of_one_call_take_the_statements_of_one
    a_cut_at_the_end_of_a_file_costs_nothing
    a_call_of_ten_thousand_saves_is_carried_out_in_slices
    calls_that_wait_together_take_the_statements_of_a_few
}

/// Transactions that may have begun before the others came: one on SQLite, one a connection for writes on Postgres.
const BEGUN_BEFORE: u64 = 12;

fn files(count: usize) -> Vec<SmallFile> {
    let file = |n: usize| SmallFile {
        path: format!("shard-{n:04}"),
        data: Bytes::from(format!("bytes of {n}")),
        sha256: None,
    };
    (0..count).map(file).collect()
}

/// How many statements a call took.
async fn counted<T>(app: &App, call: impl Future<Output = T>) -> (u64, T) {
    let before = app.statements();
    let answer = call.await;
    (app.statements() - before, answer)
}

async fn many_items_of_one_call_take_the_statements_of_one(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    // The first report and save of a run give nothing up, and neither do these.
    let (one, answer) = counted(&test.app.clone(), trainer.report(vec![val_loss(0, 0.5)])).await;
    assert_eq!(answer.unwrap().decisions.len(), 1);
    let many: Vec<Event> = (1..61).map(|epoch| val_loss(epoch, 0.5)).collect();
    let (sixty, answer) = counted(&test.app.clone(), trainer.report(many)).await;
    let decisions = answer.unwrap().decisions;
    assert_eq!((sixty, decisions.len()), (one, 60));
    println!("a report with one save or with sixty: {one} statements");

    let checkpoint = |n: usize| trainer.checkpoint(decisions[n].checkpoint_uid.as_ref().unwrap());
    let write = |n, count| test.app.write_small_files(checkpoint(n), 1, files(count));
    let (one, _) = counted(&test.app, write(0, 1)).await;
    let (sixty_four, written) = counted(&test.app, write(1, 64)).await;
    // Sixty-three of them are new, where the first was known: their rows and reservations are two statements more.
    assert_eq!(written.unwrap().len(), 64);
    assert!(sixty_four <= one + 3, "64 files take {sixty_four} statements, and one {one}");
    let (thousand, written) = counted(&test.app, write(2, 1_000)).await;
    assert_eq!(written.unwrap().len(), 1_000);
    assert!(thousand <= 16 * (one + 3), "1,000 files take {thousand} statements");
    println!("small files, one: {one} statements, 64: {sixty_four}, 1,000: {thousand}");

    // The first version of a team begins its feed.
    test.app.commit(checkpoint(0), 1, None, None).await.unwrap();
    let (few, _) = counted(&test.app, test.app.commit(checkpoint(1), 1, None, None)).await;
    let metrics = (0..999).map(|n| (format!("metric-{n}"), MetricValue::Number(f64::from(n))));
    let mut event = val_loss(99, 0.5);
    event.metrics.extend(metrics);
    let decision = trainer.report(vec![event]).await.unwrap().decisions.pop().unwrap();
    let wide = trainer.checkpoint(decision.checkpoint_uid.as_ref().unwrap());
    trainer.write(&wide, &[("model", b"bytes")]).await.unwrap();
    let (thousand, version) = counted(&test.app, test.app.commit(wide, 1, None, None)).await;
    assert_eq!((thousand, version.unwrap().metrics.len()), (few, 1_000), "a commit with 1,000 metrics");
    println!("a commit with one metric or with 1,000, and its manifest: {few} statements");
}

/// Our clients cut behind each chunk, also behind the last one.
async fn a_cut_at_the_end_of_a_file_costs_nothing(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    let mut taken = Vec::new();
    for (epoch, cut) in [(0, false), (1, true)] {
        let checkpoint = trainer.saved(epoch, 0.5).await;
        let target = trainer.target(&checkpoint, "model");
        test.app.prepare_file(target.clone(), 100, None).await.unwrap();
        let data = Bytes::from(vec![u8::try_from(epoch).unwrap(); 100]);
        let piece = Piece { data, cut, finish: true, ..Piece::default() };
        let pieces = futures::stream::iter([Ok(piece)]);
        let (statements, file) = counted(&test.app, test.app.write_file(target, 0, pieces)).await;
        assert!(file.unwrap().digest.is_some());
        taken.push(statements);
    }
    assert_eq!(taken[0], taken[1]);
}

async fn a_call_of_ten_thousand_saves_is_carried_out_in_slices(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    let many: Vec<Event> = (0..10_000).map(|epoch| val_loss(epoch, 0.5)).collect();
    let (statements, answer) = counted(&test.app.clone(), trainer.report(many.clone())).await;
    let mut decisions = answer.unwrap().decisions;
    // What does not fit one answer is for the next call, as `next_sequence` says.
    while trainer.sequence < 10_000 {
        let rest = many[usize::try_from(trainer.sequence).unwrap()..].to_vec();
        decisions.extend(trainer.report(rest).await.unwrap().decisions);
    }
    assert_eq!(decisions.len(), 10_000);
    assert!(decisions.iter().zip(0..).all(|(decision, epoch)| decision.epoch == epoch));
    assert!(statements < 800, "10,000 saves take {statements} statements");
    println!("a report with 10,000 saves: {statements} statements");
    let repeated = trainer.app.report_events(keepbest::app::events::NewEvents {
        first_sequence: 0,
        ..trainer.events(many[..100].to_vec())
    });
    let told = repeated.await.unwrap().decisions;
    assert_eq!(format!("{told:?}"), format!("{:?}", &decisions[..100]));
}

async fn calls_that_wait_together_take_the_statements_of_a_few(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let starts = (0..256).map(|n| test.start(Box::leak(format!("run-{n}").into_boxed_str()), every_epoch()));
    let mut trainers: Vec<Trainer> = Vec::new();
    for start in starts {
        trainers.push(start.await);
    }
    let (alone, answer) = counted(&test.app, trainers[0].clone().report(vec![val_loss(0, 0.5)])).await;
    answer.unwrap();
    let held = Held::hold(&test).await;
    let before = test.app.statements();
    let calls: Vec<_> = trainers
        .iter()
        .map(|trainer| {
            let mut trainer = trainer.clone();
            let first = u64::from(trainer.run == trainers[0].run);
            trainer.sequence = i64::try_from(first).unwrap();
            tokio::spawn(async move { trainer.report(vec![val_loss(1, 0.5)]).await.unwrap().decisions.len() })
        })
        .collect();
    held.let_go_once_all_wait().await;
    let decided: usize = join_all(calls).await.into_iter().map(|it| it.unwrap()).sum();
    assert_eq!(decided, 256);
    let together = test.app.statements() - before;
    println!("256 reports that waited together: {together} statements, alone: {alone} each");
    assert!(
        together <= (BEGUN_BEFORE + 4) * alone,
        "256 reports that waited together took {together} statements, one takes {alone}"
    );
}

/// The table of runs, kept from all writers for a while.
struct Held {
    release: Arc<tokio::sync::Notify>,
    holding: tokio::task::JoinHandle<()>,
}

impl Held {
    async fn hold(test: &TestApp) -> Held {
        let (taken, release) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
        let (told, until) = (Arc::clone(&taken), Arc::clone(&release));
        let holding = match &test.database {
            TestDatabase::Sqlite(folder) => {
                let path = folder.path().join("test.db");
                tokio::spawn(async move {
                    use sqlx::ConnectOptions as _;
                    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
                    let mut connection = options.connect().await.unwrap();
                    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut connection).await.unwrap();
                    told.notify_one();
                    until.notified().await;
                    sqlx::raw_sql("ROLLBACK").execute(&mut connection).await.unwrap();
                })
            }
            TestDatabase::Postgres(_) => {
                let mut connection = test.database.postgres_connection().await;
                tokio::spawn(async move {
                    let lock = "BEGIN; LOCK TABLE runs IN ACCESS EXCLUSIVE MODE";
                    sqlx::raw_sql(lock).execute(&mut connection).await.unwrap();
                    told.notify_one();
                    until.notified().await;
                    sqlx::raw_sql("ROLLBACK").execute(&mut connection).await.unwrap();
                })
            }
        };
        taken.notified().await;
        Held { release, holding }
    }

    /// Tasks that were spawned before this one have queued their calls once it is polled often enough.
    async fn let_go_once_all_wait(self) {
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        self.release.notify_one();
        self.holding.await.unwrap();
    }
}
