//! Small calls: events with durable acknowledgement, decisions, small saves, and the question for the best version.

use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use futures::future::try_join_all;
use keepbest_client::Client;
use keepbest_client::Run;
use keepbest_client::v1;
use keepbest_client::v1::runs_client::RunsClient;
use tonic::transport::Channel;
use tonic::transport::Endpoint;

use crate::Bench;
use crate::Book;
use crate::peers::BareSqlite;

/// Events in a request of the batched measurements.
const BATCH: i64 = 1_000;
/// Runs that report at once.
const RUNS: usize = 64;
/// Bytes of a small save.
const SMALL_BYTES: usize = 1_024;

/// A run, and where its events go on; calls go straight to the channel.
pub(crate) struct Reporter {
    client: RunsClient<Channel>,
    run: String,
    attempt: i64,
    sequence: i64,
    epoch: i64,
}

pub(crate) async fn connect(address: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    Ok(endpoint.tcp_nodelay(true).max_frame_size(1 << 20).connect().await?)
}

impl Reporter {
    /// Starts a run that saves only the best, on a connection that others may share.
    pub(crate) async fn start(channel: Channel, run: String) -> Result<Reporter> {
        let mut client = RunsClient::new(channel);
        let strategy = v1::Strategy {
            filepath: "model-{epoch}.bin".to_owned(),
            save_best_only: true,
            initial_value_threshold: Some(0.0),
            ..Default::default()
        };
        let request = v1::StartRunRequest {
            parent: "teams/bench/projects/calls".to_owned(),
            run_id: run,
            strategy: Some(strategy),
            ..Default::default()
        };
        let started = client.start_run(request).await?.into_inner();
        let run = started.run.context("a run")?.name;
        Ok(Reporter { client, run, attempt: started.attempt, sequence: started.next_sequence, epoch: 0 })
    }

    fn request(&mut self, events: Vec<v1::Event>) -> v1::ReportEventsRequest {
        let first_sequence = self.sequence;
        self.sequence += events.len() as i64;
        v1::ReportEventsRequest {
            run: self.run.clone(),
            attempt: self.attempt,
            writer: String::new(),
            first_sequence,
            events,
        }
    }

    fn batches(&mut self, count: i64) -> v1::ReportEventsRequest {
        let (epoch, first) = (self.epoch, self.sequence);
        self.request((first..first + count).map(|batch| batch_end(epoch, batch)).collect())
    }

    /// Reports the end of one batch.
    pub(crate) async fn report_batch(&mut self) -> Result<()> {
        let request = self.batches(1);
        self.client.report_events(request).await?;
        Ok(())
    }

    /// The end of an epoch that is not the best: decided and not saved.
    fn epoch_end(&mut self) -> v1::ReportEventsRequest {
        let event = v1::Event {
            kind: v1::EventKind::EpochEnd.into(),
            epoch: self.epoch,
            metrics: [("val_loss".to_owned(), 1.0), ("loss".to_owned(), 0.5)].into(),
            ..Default::default()
        };
        self.epoch += 1;
        self.request(vec![event])
    }
}

fn batch_end(epoch: i64, batch: i64) -> v1::Event {
    v1::Event {
        kind: v1::EventKind::BatchEnd.into(),
        epoch,
        batch: Some(batch),
        step: Some(batch),
        metrics: [("loss".to_owned(), 1.0 / (batch + 1) as f64), ("accuracy".to_owned(), 0.5)].into(),
        ..Default::default()
    }
}

pub(crate) async fn measure(bench: &mut Bench) -> Result<()> {
    events(bench).await?;
    decisions(bench).await?;
    saves_and_best(bench).await?;
    lines(&mut bench.book, bench.quick);
    Ok(())
}

/// Events with durable acknowledgement, in turn with bare commits of as many rows.
async fn events(bench: &mut Bench) -> Result<()> {
    let channel = connect(&bench.server.address).await?;
    let mut one = Reporter::start(channel.clone(), "one".to_owned()).await?;
    let mut batched = Reporter::start(channel.clone(), "batched".to_owned()).await?;
    let mut streamed = Reporter::start(channel.clone(), "streamed".to_owned()).await?;
    let starts = (0..RUNS).map(|number| Reporter::start(channel.clone(), format!("many-{number}")));
    let mut many = try_join_all(starts).await?;
    let mut bare = BareSqlite::open(&bench.folder.path().join("bare.db")).await?;
    let singles: i64 = if bench.quick { 200 } else { 1_000 };
    let batches: i64 = if bench.quick { 20 } else { 100 };
    for round in 0..=bench.rounds {
        let book = &mut Book::default();
        rate(book, "one", singles, async {
            for _ in 0..singles {
                let request = one.batches(1);
                one.client.report_events(request).await?;
            }
            Ok(())
        })
        .await?;
        rate(book, "bare 1", singles, async {
            for _ in 0..singles {
                bare.commit(1).await?;
            }
            Ok(())
        })
        .await?;
        let each = singles / 10;
        let all = each * RUNS as i64;
        rate(book, "many", all, try_join_all(many.iter_mut().map(|it| one_by_one(it, each)))).await?;
        rate(book, "bare many", all, async {
            for _ in 0..each {
                bare.commit(RUNS as i64).await?;
            }
            Ok(())
        })
        .await?;
        let requests: Vec<_> = (0..batches).map(|_| batched.batches(BATCH)).collect();
        rate(book, "batched", batches * BATCH, async {
            for request in requests {
                batched.client.report_events(request).await?;
            }
            Ok(())
        })
        .await?;
        let requests: Vec<_> = (0..batches).map(|_| streamed.batches(BATCH)).collect();
        rate(book, "streamed", batches * BATCH, stream(&mut streamed, requests)).await?;
        rate(book, "bare 1000", batches * BATCH, async {
            for _ in 0..batches {
                bare.commit(BATCH).await?;
            }
            Ok(())
        })
        .await?;
        let requests: Vec<_> = (0..singles).map(|_| streamed.batches(1)).collect();
        rate(book, "streamed one", singles, stream(&mut streamed, requests)).await?;
        if round > 0 {
            take(&mut bench.book, book);
        }
    }
    Ok(())
}

fn take(book: &mut Book, round: &mut Book) {
    for (name, values) in std::mem::take(&mut round.values) {
        values.into_iter().for_each(|value| book.add(&name, value));
    }
}

async fn rate<T>(
    book: &mut Book,
    name: &str,
    count: i64,
    work: impl Future<Output = Result<T>>,
) -> Result<()> {
    let begin = Instant::now();
    work.await?;
    book.add(name, count as f64 / begin.elapsed().as_secs_f64());
    Ok(())
}

async fn one_by_one(reporter: &mut Reporter, count: i64) -> Result<()> {
    for _ in 0..count {
        reporter.report_batch().await?;
    }
    Ok(())
}

/// All requests on one stream, without waiting between them.
async fn stream(reporter: &mut Reporter, requests: Vec<v1::ReportEventsRequest>) -> Result<()> {
    let expected = requests.len();
    let mut answers = reporter.client.stream_events(futures::stream::iter(requests)).await?.into_inner();
    let mut count = 0;
    while answers.message().await?.is_some() {
        count += 1;
    }
    ensure!(count == expected, "{count} of {expected} answers came");
    Ok(())
}

/// One epoch's end at a time, in turn with an empty call and with a bare commit of one row.
async fn decisions(bench: &mut Bench) -> Result<()> {
    let mut reporter = Reporter::start(connect(&bench.server.address).await?, "decisions".to_owned()).await?;
    let mut echo = RunsClient::new(connect(&bench.sink.address).await?);
    let mut bare = BareSqlite::open(&bench.folder.path().join("bare-decisions.db")).await?;
    let count = if bench.quick { 100 } else { 400 };
    for round in 0..=bench.rounds {
        let [mut decided, mut echoed, mut committed] = [const { Vec::new() }; 3];
        for _ in 0..count {
            let request = reporter.epoch_end();
            let copy = request.clone();
            let begin = Instant::now();
            let answer = reporter.client.report_events(request).await?.into_inner();
            decided.push(begin.elapsed());
            ensure!(answer.decisions.len() == 1, "an epoch's end is decided");
            let begin = Instant::now();
            echo.report_events(copy).await?;
            echoed.push(begin.elapsed());
            let begin = Instant::now();
            bare.commit(1).await?;
            committed.push(begin.elapsed());
        }
        if round > 0 {
            percentiles(&mut bench.book, "decision", decided);
            percentiles(&mut bench.book, "echo", echoed);
            percentiles(&mut bench.book, "bare commit", committed);
        }
    }
    Ok(())
}

pub(crate) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// p50 and p99 in microseconds.
fn percentiles(book: &mut Book, name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    for (label, part) in [("p50", 50), ("p99", 99)] {
        if let Some(time) = times.get(times.len() * part / 100) {
            book.add(&format!("{name} {label}"), time.as_secs_f64() * 1e6);
        }
    }
}

/// Whole small saves of 64 runs at once into one artifact, until it has all its versions; then which of them is best.
async fn saves_and_best(bench: &mut Bench) -> Result<()> {
    let versions = if bench.quick { 1_000 } else { 10_000 };
    let client = Client::connect_lazy(bench.server.address.as_str())?;
    let each = versions / RUNS + 1;
    let saving = (0..RUNS).map(|number| {
        let client = client.clone();
        tokio::spawn(async move { save_often(&client, number, each).await })
    });
    let begin = Instant::now();
    let done = futures::future::join_all(saving).await;
    done.into_iter().try_for_each(|it| it.map_err(anyhow::Error::from)?)?;
    bench.book.add("saves", (RUNS * each) as f64 / begin.elapsed().as_secs_f64());

    let mut echo = RunsClient::new(connect(&bench.sink.address).await?);
    let artifact = "teams/bench/projects/saves/artifacts/models".to_owned();
    let by_monitor = v1::GetBestVersionRequest { parent: artifact.clone(), ..Default::default() };
    let by_other = v1::GetBestVersionRequest {
        metric: "accuracy".to_owned(),
        mode: v1::Mode::Max.into(),
        ..by_monitor.clone()
    };
    for round in 0..=bench.rounds {
        let [mut monitor, mut other, mut echoed] = [const { Vec::new() }; 3];
        for _ in 0..200 {
            for (request, times) in [(&by_monitor, &mut monitor), (&by_other, &mut other)] {
                let begin = Instant::now();
                client.get_best_version(request.clone()).await?;
                times.push(begin.elapsed());
            }
            let begin = Instant::now();
            echo.report_events(v1::ReportEventsRequest::default()).await?;
            echoed.push(begin.elapsed());
        }
        if round > 0 {
            percentiles(&mut bench.book, "best", monitor);
            percentiles(&mut bench.book, "best other", other);
            percentiles(&mut bench.book, "best echo", echoed);
        }
    }
    Ok(())
}

/// Report, one small file, commit.
pub(crate) async fn save_often(client: &Client, number: usize, count: usize) -> Result<()> {
    let strategy = v1::Strategy { filepath: "model-{epoch}.bin".to_owned(), ..Default::default() };
    let request = v1::StartRunRequest {
        parent: "teams/bench/projects/saves".to_owned(),
        run_id: format!("saves-{number}"),
        artifact_id: "models".to_owned(),
        strategy: Some(strategy),
        ..Default::default()
    };
    let mut run = Run::start(client, request).await?;
    for epoch in 0..count {
        let metrics = [
            ("val_loss".to_owned(), 1.0 / (1 + number * count + epoch) as f64),
            ("accuracy".to_owned(), ((epoch * RUNS + number) as f64).sin()),
        ];
        let event = v1::Event {
            kind: v1::EventKind::EpochEnd.into(),
            epoch: epoch as i64,
            metrics: metrics.into(),
            ..Default::default()
        };
        let decision = run.report(vec![event]).await?.pop().context("a save is due")?;
        let mut data = vec![0; SMALL_BYTES];
        data[..8].copy_from_slice(&((number * count + epoch) as u64).to_le_bytes());
        let files = v1::WriteSmallFilesRequest {
            checkpoint: decision.checkpoint.clone(),
            attempt: run.attempt(),
            files: vec![v1::SmallFile {
                path: "model.bin".to_owned(),
                data: data.into(),
                ..Default::default()
            }],
        };
        client.write_small_files(files).await?;
        run.commit(&decision.checkpoint, 1).await?;
    }
    Ok(())
}

fn lines(book: &mut Book, quick: bool) {
    let per_second = "/s";
    let single = ("bare SQLite, 1 row per commit", "bare 1");
    let batch = ("bare SQLite, 1,000 rows per commit", "bare 1000");
    book.line("events, 1 per call, one run", per_second, "one", Some(single));
    book.line("events, 1 per message of a stream", per_second, "streamed one", Some(single));
    let many = ("bare SQLite, 64 rows per commit", "bare many");
    book.line("events, 1 per call, 64 runs at once", per_second, "many", Some(many));
    book.line("events, 1,000 per call", per_second, "batched", Some(batch));
    book.line("events, 1,000 per message of a stream", per_second, "streamed", Some(batch));
    for part in ["p50", "p99"] {
        let name = |of: &str| format!("{of} {part}");
        let what = format!("decision at an epoch's end, {part}");
        book.line(&what, "µs", &name("decision"), Some(("empty gRPC call", &name("echo"))));
        book.line(&what, "µs", &name("decision"), Some(("SQLite commit of 1 row", &name("bare commit"))));
    }
    book.line("small saves (report, 1 KiB, commit), 64 runs", per_second, "saves", None);
    let count = if quick { "1,000" } else { "10,000" };
    for (of, name) in [("the monitor", "best"), ("another metric", "best other")] {
        for part in ["p50", "p99"] {
            let what = format!("best of {count} versions by {of}, {part}");
            let echo = format!("best echo {part}");
            book.line(&what, "µs", &format!("{name} {part}"), Some(("empty gRPC call", &echo)));
        }
    }
}
