//! What many do at once: reports and small saves of 64 runs, one report beside others' uploads, and a folder of small files pushed
//! to a database that is far away. With `--before PROGRAM` each round is done by another version of the server as well.

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::Result;
use futures::future::join_all;
use futures::future::try_join_all;
use keepbest_client::Client;
use keepbest_proto::v1;
use keepbest_proto::v1::runs_client::RunsClient;

use crate::Bench;
use crate::Book;
use crate::calls::Reporter;
use crate::calls::connect;
use crate::calls::median;
use crate::calls::save_often;
use crate::cluster::Cluster;
use crate::distance::ROUND_TRIP;
use crate::distance::distant;
use crate::peers::BareSqlite;
use crate::peers::Process;

/// Runs that report, and trainers that save, at once.
const RUNS: usize = 64;
/// Trainers that upload small files without a pause while another one only reports.
const UPLOADERS: usize = 16;
/// Files in a folder that is pushed.
const FILES: usize = 1_000;

/// A program that serves, and what its values are called.
struct Version {
    program: PathBuf,
    label: &'static str,
}

pub(crate) async fn measure(bench: &mut Bench, before: Option<&Path>) -> Result<()> {
    let ours = Version { program: env!("CARGO_BIN_EXE_keepbest").into(), label: "now" };
    let before = before.map(|program| Version { program: program.to_owned(), label: "before" });
    let versions: Vec<&Version> = [Some(&ours), before.as_ref()].into_iter().flatten().collect();
    let cluster = Cluster::start(None);
    for round in 0..bench.rounds {
        for version in &versions {
            let folder = tempfile::tempdir_in(bench.folder.path())?;
            let server = Process::server_of(&version.program, folder.path(), &[])?;
            at_once(&mut bench.book, version.label, &server, bench.quick).await?;
            let sink = bench.sink.address.clone();
            beside(&mut bench.book, version.label, &server, &sink, folder.path(), bench.quick).await?;
            let database = cluster.create(&format!("{}_{round}", version.label));
            let folder = tempfile::tempdir_in(bench.folder.path())?;
            push(&mut bench.book, version, &database, folder.path()).await?;
        }
    }
    lines(&mut bench.book, before.is_some());
    Ok(())
}

/// Reports of one event a call, and whole small saves, of 64 runs.
async fn at_once(book: &mut Book, label: &str, server: &Process, quick: bool) -> Result<()> {
    let channel = connect(&server.address).await?;
    let starts = (0..RUNS).map(|number| Reporter::start(channel.clone(), format!("many-{number}")));
    let mut many = try_join_all(starts).await?;
    let each = if quick { 20 } else { 100 };
    let begin = Instant::now();
    try_join_all(many.iter_mut().map(|reporter| async move {
        for _ in 0..each {
            reporter.report_batch().await?;
        }
        anyhow::Ok(())
    }))
    .await?;
    book.add(&format!("reports {label}"), (RUNS * each) as f64 / begin.elapsed().as_secs_f64());

    let client = Client::connect_lazy(server.address.as_str())?;
    let each = if quick { 5 } else { 20 };
    let begin = Instant::now();
    try_join_all((0..RUNS).map(|number| save_often(&client, number, each))).await?;
    book.add(&format!("saves {label}"), (RUNS * each) as f64 / begin.elapsed().as_secs_f64());
    Ok(())
}

/// One trainer's report, alone and while sixteen others save small files without a pause. A trainer is a process of its own: it has
/// a thread and a connection that the sixteen do not share. In turns with it an empty call of a server of its own and a commit
/// of a database of its own: what the machine and its disk give to anybody beside the sixteen.
async fn beside(
    book: &mut Book,
    label: &str,
    server: &Process,
    sink: &str,
    folder: &Path,
    quick: bool,
) -> Result<()> {
    let count = if quick { 100 } else { 400 };
    let alone = lone(&server.address, sink, folder, "alone", count).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let client = Client::connect_lazy(server.address.as_str())?;
    let uploading: Vec<_> = (0..UPLOADERS)
        .map(|number| {
            let (client, stop) = (client.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut number = 1_000 + number;
                while !stop.load(Ordering::Relaxed) {
                    save_often(&client, number, 10).await?;
                    number += UPLOADERS;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let crowded = lone(&server.address, sink, folder, "beside", count).await?;
    stop.store(true, Ordering::Relaxed);
    for done in join_all(uploading).await {
        done??;
    }
    for (what, [report, echo, commit]) in [("alone", alone), ("beside", crowded)] {
        book.add(&format!("{what} {label}"), report);
        book.add(&format!("echo {what} {label}"), echo);
        book.add(&format!("commit {what} {label}"), commit);
    }
    Ok(())
}

/// The median times of a report of one event, of an empty call and of a bare commit, in milliseconds, seen by a thread that does
/// nothing else.
async fn lone(address: &str, sink: &str, folder: &Path, run: &'static str, count: usize) -> Result<[f64; 3]> {
    let (address, sink) = (address.to_owned(), sink.to_owned());
    let database = folder.join(format!("bare-{run}.db"));
    let measured = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut reporter = Reporter::start(connect(&address).await?, run.to_owned()).await?;
            let mut empty = RunsClient::new(connect(&sink).await?);
            let mut bare = BareSqlite::open(&database).await?;
            let mut times = [const { Vec::new() }; 3];
            for _ in 0..count {
                let begin = Instant::now();
                reporter.report_batch().await?;
                times[0].push(begin.elapsed());
                let begin = Instant::now();
                empty.report_events(v1::ReportEventsRequest::default()).await?;
                times[1].push(begin.elapsed());
                let begin = Instant::now();
                bare.commit(1).await?;
                times[2].push(begin.elapsed());
            }
            Ok(times.map(|it| median(it).as_secs_f64() * 1e3))
        })
    });
    measured.await?
}

/// `push` of a folder of small files to a server whose database is far away; one that fails counts until it gave up.
async fn push(book: &mut Book, version: &Version, database: &str, folder: &Path) -> Result<()> {
    let pushed = folder.join("pushed");
    std::fs::create_dir(&pushed)?;
    for number in 0..FILES {
        std::fs::write(pushed.join(format!("{number}.bin")), number.to_le_bytes().repeat(100))?;
    }
    let database = distant(database);
    let settings = [("KEEPBEST_DATABASE_URL", database.as_str()), ("KEEPBEST_DATABASE_MIGRATE", "true")];
    let server = Process::server_of(&version.program, &folder.join("data"), &settings)?;
    let mut command = Command::new(&version.program);
    command.arg("push").arg(&pushed).arg("small").args(["--server", &format!("http://{}", server.address)]);
    let begin = Instant::now();
    let done = tokio::task::spawn_blocking(move || command.output()).await?.context("run push")?;
    book.add(&format!("push {}", version.label), begin.elapsed().as_secs_f64());
    let failed = if done.status.success() { 0.0 } else { 1.0 };
    book.add(&format!("push failed {}", version.label), failed);
    Ok(())
}

fn lines(book: &mut Book, has_before: bool) {
    let mut line = |what: &str, unit, name: &str| {
        let before = format!("{name} before");
        let peer = has_before.then_some(("the version before", before.as_str()));
        book.line(what, unit, &format!("{name} now"), peer);
    };
    line("events, 1 per call, 64 runs at once", "/s", "reports");
    line("small saves (report, 1 KiB, commit), 64 runs at once", "/s", "saves");
    line("a report of one event alone, p50", "ms", "alone");
    line("the same beside 16 that save small files, p50", "ms", "beside");
    let what = format!("`push` of 1,000 small files, the database {} ms away", ROUND_TRIP.as_millis());
    line(&what, "s", "push");
    line("of these failed", "", "push failed");
    let alone = ("alone", "alone now");
    book.line("a report beside 16 that save, and alone", "ms", "beside now", Some(alone));
    let echo = ("alone", "echo alone now");
    book.line("an empty call of another server beside them", "ms", "echo beside now", Some(echo));
    let commit = ("alone", "commit alone now");
    book.line("a bare SQLite commit of 1 row beside them", "ms", "commit beside now", Some(commit));
    if has_before {
        book.line("the version before: the same", "ms", "beside before", Some(("alone", "alone before")));
    }
}
