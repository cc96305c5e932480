//! The writer with an SQLite database in memory.

use std::sync::Arc;
use std::sync::Mutex;

use sqlx::ConnectOptions;
use tokio::sync::Notify;

use super::*;
use crate::db::connection::args;
use crate::db::job::Outcome;
use crate::db::job::Rare;
use crate::db::job::Turn;
use crate::db::job::Work;

/// A writer that is busy until `open`, so that what is queued meanwhile becomes one batch.
struct Held {
    writer: Arc<Writer>,
    open: Arc<Notify>,
    first: tokio::task::JoinHandle<Result<(), Error>>,
}

impl Held {
    async fn new(connection: SqliteConnection) -> Held {
        let writer =
            Arc::new(Writer::on_sqlite(connection, CancellationToken::new(), Arc::default()).unwrap());
        let (begun, open) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (told, gate, first) = (Arc::clone(&begun), Arc::clone(&open), Arc::clone(&writer));
        let first = tokio::spawn(async move {
            let held = first.rare(move |_| {
                Box::pin(async move {
                    told.notify_one();
                    gate.notified().await;
                    Ok(())
                })
            });
            held.await
        });
        begun.notified().await;
        Held { writer, open, first }
    }
}

impl Writer {
    async fn rare<T: Send + 'static>(&self, work: impl Work<T>) -> Result<T, Error> {
        self.write(Rare::new(work, Turn::own(1)), None).await
    }
}

async fn in_memory() -> SqliteConnection {
    sqlx::sqlite::SqliteConnectOptions::new().connect().await.unwrap()
}

#[tokio::test]
async fn a_job_whose_caller_left_before_it_began_is_left_out() {
    let Held { writer, open, first } = Held::new(in_memory().await).await;
    let done = Arc::new(Mutex::new(Vec::new()));
    let note = |name: &'static str| {
        let done = Arc::clone(&done);
        writer.rare(move |_| {
            Box::pin(async move {
                done.lock().unwrap().push(name);
                Ok(())
            })
        })
    };
    let mut left = Box::pin(note("left"));
    // Polled once it stands in the queue, and then its caller goes away.
    assert!(futures::poll!(&mut left).is_pending());
    let stayed = note("stayed");
    drop(left);
    open.notify_one();
    stayed.await.unwrap();
    first.await.unwrap().unwrap();
    assert_eq!(*done.lock().unwrap(), ["stayed"]);
}

#[tokio::test]
async fn a_disk_that_is_full_for_one_job_is_no_broken_database_for_the_others() {
    let mut connection = in_memory().await;
    sqlx::raw_sql("CREATE TABLE pages (page BYTEA); PRAGMA max_page_count = 4")
        .execute(&mut connection)
        .await
        .unwrap();
    let Held { writer, open, first } = Held::new(connection).await;
    let insert = |bytes: usize| {
        writer.rare(move |connection| {
            Box::pin(async move {
                let sql = "INSERT INTO pages (page) VALUES ($1)";
                connection.execute(sql, args![vec![7; bytes]]).await.map(drop)
            })
        })
    };
    let refused = || {
        writer.rare(|_| Box::pin(async move { Err::<(), _>(Error::unreadable("row", "as a rule says no")) }))
    };
    let (before, rule, large, after) = (insert(1), refused(), insert(1 << 20), insert(1));
    let mut calls = Box::pin(futures::future::join4(before, rule, large, after));
    assert!(futures::poll!(&mut calls).is_pending());
    open.notify_one();
    let (before, rule, large, after) = calls.await;
    first.await.unwrap().unwrap();
    for full in [before, large, after] {
        assert!(matches!(full, Err(Error::Full(_))), "{full:?}");
    }
    assert!(matches!(rule, Err(Error::Unreadable { .. })), "it had its own answer: {rule:?}");
    insert(1).await.unwrap();
    let count = writer.rare(|connection| {
        Box::pin(async move { connection.row("SELECT COUNT(*) FROM pages", vec![]).await?.unwrap().int(0) })
    });
    assert_eq!(count.await.unwrap(), 1, "nothing of the batch stands");
}

/// Writes rows of a table that takes each number once.
struct Insert<const KIND: u8>(i64);

impl<const KIND: u8> Write for Insert<KIND> {
    type Answer = ();

    fn turn(&self) -> Turn {
        Turn::own(1)
    }

    async fn run(set: &[&Self], tx: &mut Tx<'_>) -> Result<Vec<Outcome<()>>, Error> {
        let sql = "WITH {v: number bigint} INSERT INTO numbers (number) SELECT number FROM v";
        tx.execute_of(sql, set.iter().map(|it| args![it.0]).collect()).await?;
        Ok(set.iter().map(|_| Outcome::Done(())).collect())
    }
}

#[tokio::test]
async fn a_write_that_fails_is_undone_and_no_other_one_is() {
    let mut connection = in_memory().await;
    sqlx::raw_sql("CREATE TABLE numbers (number BIGINT NOT NULL UNIQUE)")
        .execute(&mut connection)
        .await
        .unwrap();
    let Held { writer, open, first } = Held::new(connection).await;
    let before = [writer.write(Insert::<0>(1), None), writer.write(Insert::<0>(2), None)];
    // One of them fails among others of its kind, one is the only one of its kind.
    let failing = [
        writer.write(Insert::<1>(3), None),
        writer.write(Insert::<1>(1), None),
        writer.write(Insert::<1>(4), None),
    ];
    let lone = writer.write(Insert::<2>(2), None);
    let after = writer.write(Insert::<3>(5), None);
    let mut calls = Box::pin(async {
        use futures::future::join_all;
        futures::join!(join_all(before), join_all(failing), lone, after)
    });
    assert!(futures::poll!(&mut calls).is_pending());
    open.notify_one();
    let (before, failing, lone, after) = calls.await;
    first.await.unwrap().unwrap();
    let done: Vec<bool> = before.iter().chain(&failing).chain([&lone, &after]).map(Result::is_ok).collect();
    assert_eq!(done, [true, true, true, false, true, false, true]);
    let stored = writer.rare(|connection| {
        Box::pin(async move {
            let rows = connection.rows("SELECT number FROM numbers ORDER BY number", vec![]).await?;
            rows.iter().map(|row| row.int(0)).collect::<Result<Vec<_>, _>>()
        })
    });
    assert_eq!(stored.await.unwrap(), [1, 2, 3, 4, 5]);
}

/// Notes that it is carried out. One with a gate says when it begins, and goes on when it is let.
struct Noted<const IS_REPORT: bool> {
    name: &'static str,
    rows: usize,
    log: Arc<Mutex<Vec<&'static str>>>,
    gate: Option<Arc<[Notify; 2]>>,
}

impl<const IS_REPORT: bool> Write for Noted<IS_REPORT> {
    type Answer = ();

    fn turn(&self) -> Turn {
        Turn { is_report: IS_REPORT, ..Turn::own(self.rows) }
    }

    async fn run(set: &[&Self], _: &mut Tx<'_>) -> Result<Vec<Outcome<()>>, Error> {
        for noted in set {
            noted.log.lock().unwrap().push(noted.name);
            if let Some(gate) = &noted.gate {
                gate[0].notify_one();
                gate[1].notified().await;
            }
        }
        Ok(set.iter().map(|_| Outcome::Done(())).collect())
    }
}

#[tokio::test]
async fn a_report_waits_for_no_upload_that_has_not_begun_and_no_upload_is_left_for_good() {
    let Held { writer, open, first } = Held::new(in_memory().await).await;
    let log = Arc::new(Mutex::new(Vec::new()));
    let gates = [0, 1].map(|_| Arc::new([Notify::new(), Notify::new()]));
    let write = |name, rows, gate: Option<&Arc<[Notify; 2]>>| {
        let noted = Noted::<false> { name, rows, log: Arc::clone(&log), gate: gate.cloned() };
        let writer = Arc::clone(&writer);
        tokio::spawn(async move { writer.write(noted, None).await })
    };
    // Of two sets, which are one transaction unless a report comes.
    let uploads = [write("small", 1, Some(&gates[0])), write("large", ROWS_BETWEEN_REPORTS, Some(&gates[1]))];
    while writer.waiting().iter().sum::<usize>() < uploads.len() {
        tokio::task::yield_now().await;
    }
    open.notify_one();
    first.await.unwrap().unwrap();
    gates[0][0].notified().await;
    let report = Noted::<true> { name: "report", rows: 1, log: Arc::clone(&log), gate: None };
    let mut report = Box::pin(writer.write(report, None));
    assert!(futures::poll!(&mut report).is_pending());
    // Short ones go before long ones, but not before one that was left.
    let small = write("another small", 1, None);
    while writer.waiting().iter().sum::<usize>() < 2 {
        tokio::task::yield_now().await;
    }
    gates[0][1].notify_one();
    // The large one is held until the report is answered, with the one that was under way.
    report.await.unwrap();
    gates[1][1].notify_one();
    for upload in uploads.into_iter().chain([small]) {
        upload.await.unwrap().unwrap();
    }
    assert_eq!(*log.lock().unwrap(), ["small", "report", "large", "another small"]);
}

#[tokio::test]
async fn what_waits_when_a_sync_fails_is_told_that_it_was_not_done() {
    let Held { writer, open, first } = Held::new(in_memory().await).await;
    let (begun, gate) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (told, let_go) = (Arc::clone(&begun), Arc::clone(&gate));
    let failing = writer.rare(move |_| {
        Box::pin(async move {
            told.notify_one();
            let_go.notified().await;
            Err::<(), _>(Error::Unsynced(Arc::new(sqlx::Error::WorkerCrashed)))
        })
    });
    let mut failing = Box::pin(failing);
    assert!(futures::poll!(&mut failing).is_pending());
    open.notify_one();
    begun.notified().await;
    // It waits for the next transaction, and there is none.
    let waits = writer.rare(|_| Box::pin(async move { Ok(()) }));
    let mut waits = Box::pin(waits);
    assert!(futures::poll!(&mut waits).is_pending());
    gate.notify_one();
    first.await.unwrap().unwrap();
    assert!(matches!(failing.await, Err(Error::Unsynced(_))));
    assert!(matches!(waits.await, Err(Error::Unavailable(_))));
    let late = writer.rare(|_| Box::pin(async move { Ok(()) })).await;
    assert!(matches!(late, Err(Error::Unavailable(_))), "{late:?}");
}
