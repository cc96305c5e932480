//! Measures the server beside what it could be at best: a sink that discards, the bare disk, the bare database. Every
//! ratio comes from rounds that alternate in one run on one machine; `benches/run.sh` builds and starts it.

mod bytes;
mod calls;
#[path = "../../tests/it/support/cluster.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "written for the tests, which use all of it")]
mod cluster;
#[path = "../../tests/it/support/distance.rs"]
#[expect(clippy::unwrap_used, reason = "written for the tests")]
mod distance;
mod peers;
mod shared;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use tempfile::TempDir;

use crate::bytes::Source;
use crate::peers::Process;

/// As in the server.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What the command line asks for.
struct Options {
    quick: bool,
    only: Option<String>,
    rounds: Option<usize>,
    json: PathBuf,
    before: Option<PathBuf>,
    sink: bool,
}

/// What every part needs.
struct Bench {
    quick: bool,
    rounds: usize,
    folder: TempDir,
    server: Process,
    sink: Process,
    source: Source,
    book: Book,
}

/// All values, by the name of what was measured.
#[derive(Default)]
struct Book {
    values: BTreeMap<String, Vec<f64>>,
    lines: Vec<Line>,
}

/// One line of the table: a measurement, and the peer it stands beside.
struct Line {
    what: String,
    unit: &'static str,
    ours: String,
    peer: Option<(&'static str, String)>,
}

impl Book {
    fn add(&mut self, name: &str, value: f64) {
        self.values.entry(name.to_owned()).or_default().push(value);
    }

    fn median(&self, name: &str) -> f64 {
        let mut sorted = self.values.get(name).cloned().unwrap_or_default();
        sorted.sort_unstable_by(f64::total_cmp);
        match sorted.len() {
            0 => f64::NAN,
            count if count % 2 == 1 => sorted[count / 2],
            count => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
        }
    }

    /// A line for the table; each name is one that values were added under.
    fn line(&mut self, what: &str, unit: &'static str, ours: &str, peer: Option<(&'static str, &str)>) {
        let peer = peer.map(|(label, name)| (label, name.to_owned()));
        self.lines.push(Line { what: what.to_owned(), unit, ours: ours.to_owned(), peer });
    }

    fn table(&self) -> String {
        let mut table =
            "| what | ours: median (range) | beside | its median (range) | ours / beside |\n".to_owned();
        table.push_str("|---|---:|---|---:|---:|\n");
        for line in &self.lines {
            let ours = self.shown(&line.ours, line.unit);
            let beside = line.peer.as_ref().map_or_else(
                || "| | |".to_owned(),
                |(label, name)| {
                    let ratio = self.median(&line.ours) / self.median(name);
                    format!("{label} | {} | {ratio:.2} |", self.shown(name, line.unit))
                },
            );
            let _ = writeln!(table, "| {} | {ours} | {beside}", line.what);
        }
        table
    }

    fn shown(&self, name: &str, unit: &str) -> String {
        let values = self.values.get(name).map_or(&[][..], Vec::as_slice);
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let range =
            if values.len() > 1 { format!(" ({}-{})", rounded(least), rounded(most)) } else { String::new() };
        format!("{} {unit}{range}", rounded(self.median(name)))
    }

    fn json(&self, machine: &BTreeMap<&str, String>) -> serde_json::Value {
        let lines: Vec<_> = self
            .lines
            .iter()
            .map(|line| {
                serde_json::json!({
                    "what": line.what,
                    "unit": line.unit,
                    "median": self.median(&line.ours),
                    "values": self.values.get(&line.ours),
                    "beside": line.peer.as_ref().map(|(label, _)| label),
                    "beside_median": line.peer.as_ref().map(|(_, name)| self.median(name)),
                    "beside_values": line.peer.as_ref().and_then(|(_, name)| self.values.get(name)),
                })
            })
            .collect();
        serde_json::json!({ "machine": machine, "lines": lines, "values": self.values })
    }
}

/// Three digits that count.
fn rounded(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn options() -> Result<Options> {
    let json = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench.json"));
    let mut options = Options { quick: false, only: None, rounds: None, json, before: None, sink: false };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            // Cargo adds it.
            "--bench" => {}
            "--quick" => options.quick = true,
            "--memory" => options.only = Some("memory".to_owned()),
            "--only" => options.only = Some(value()?),
            "--rounds" => options.rounds = Some(value()?.parse().context("--rounds needs a number")?),
            "--json" => options.json = value()?.into(),
            "--before" => options.before = Some(value()?.into()),
            "--sink" => options.sink = true,
            other => bail!("unknown argument `{other}`; benches/run.sh names those there are"),
        }
    }
    Ok(options)
}

/// Where and when the numbers were made.
fn machine() -> BTreeMap<&'static str, String> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cpu = read("/proc/cpuinfo");
    let cpu =
        cpu.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split(": ").nth(1));
    let memory = read("/proc/meminfo");
    let memory = memory.lines().next().and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    BTreeMap::from([
        ("cpu", cpu.unwrap_or("unknown").to_owned()),
        ("cores", std::thread::available_parallelism().map_or(0, usize::from).to_string()),
        ("memory_gib", (memory.unwrap_or(0) >> 20).to_string()),
        ("kernel", read("/proc/sys/kernel/osrelease")),
        ("congestion_control", read("/proc/sys/net/ipv4/tcp_congestion_control")),
        ("load_before", read("/proc/loadavg")),
    ])
}

fn say(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

fn main() -> Result<()> {
    let options = options()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if options.sink {
        return runtime.block_on(peers::serve_sink());
    }
    runtime.block_on(measure(&options))
}

async fn measure(options: &Options) -> Result<()> {
    let mut machine = machine();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).context("make a folder for the data")?;
    let mut bench = Bench {
        quick: options.quick,
        rounds: options.rounds.unwrap_or(if options.quick { 3 } else { 5 }),
        server: Process::server(&folder.path().join("data"))?,
        sink: Process::sink()?,
        folder,
        source: Source::new(),
        book: Book::default(),
    };
    let wanted = |part: &str| options.only.as_deref().is_none_or(|only| only == part);
    if wanted("bytes") {
        say("bytes: uploads and downloads ...")?;
        bytes::measure(&mut bench).await?;
    }
    if wanted("calls") {
        say("calls: events, decisions, queries ...")?;
        calls::measure(&mut bench).await?;
    }
    if wanted("shared") {
        say("shared: what many do at once ...")?;
        shared::measure(&mut bench, options.before.as_deref()).await?;
    }
    if wanted("memory") {
        say("memory: large files ...")?;
        bytes::measure_memory(&mut bench).await?;
    }
    machine.insert("load_after", std::fs::read_to_string("/proc/loadavg")?.trim().to_owned());
    let facts: Vec<String> = machine.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    say(&format!("\n{}; {} rounds\n\n{}", facts.join("; "), bench.rounds, bench.book.table()))?;
    std::fs::write(&options.json, format!("{:#}\n", bench.book.json(&machine)))?;
    Ok(())
}
