//! What the database's room counts: how long reads and writes take and what they come to, and what transactions have changed.
//!
//! What was changed is counted where its transaction has ended, so that it is told once, whoever waits for the answer.

use std::collections::HashSet;
use std::time::Instant;

use crate::db::Database;
use crate::db::Db;
use crate::db::Error;
use crate::db::chunks::PlacedChunk;
use crate::db::chunks::Stored;
use crate::db::connection::args;
use crate::db::decisions::DecisionRow;
use crate::db::job::Turn;
use crate::db::places::Read;
use crate::domain::decision::Action;
use crate::metrics::Counter;
use crate::metrics::Counts;
use crate::metrics::Each;
use crate::metrics::Seconds;
use crate::metrics::Text;

/// Why the database did not do something. The last two are a bug or a damaged database.
const ERRORS: [&str; 8] =
    ["unavailable", "busy", "late", "full", "unsynced", "overloaded", "broken", "unreadable"];
/// How chunks came to be pinned.
const CHUNKS: [&str; 3] = ["new", "shared", "healed"];
const ACTIONS: [&str; 3] = ["SAVE", "SKIP", "FAIL"];

/// What waits is counted up to here: whether there are 10,000 or a million, somebody must look.
const MOST_COUNTED: i64 = 10_000;
const DUE_MANIFESTS: &str = "SELECT COUNT(*) FROM (SELECT 1 FROM checkpoints \
    WHERE version IS NOT NULL AND manifest_state <> state LIMIT $1) AS due";
const UNCHAINED: &str =
    "SELECT COUNT(*) FROM (SELECT 1 FROM audit_entries WHERE position IS NULL LIMIT $1) AS waiting";

/// See the module.
#[derive(Debug)]
pub(super) struct Metrics {
    reads: Each<Seconds, 3>,
    writes: Each<Seconds, 3>,
    read_errors: Each<Counter, 8>,
    write_errors: Each<Counter, 8>,
    transactions: Each<Seconds, 3>,
    failed_transactions: Counter,
    sets: Each<Counts, 3>,
    events: Counter,
    repeated_events: Counter,
    decisions: Each<Counter, 3>,
    commits: Counter,
    chunks: Each<Counter, 3>,
    chunk_bytes: Each<Counter, 3>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics {
            reads: Each::of(&Read::WORDS),
            writes: Each::of(&Turn::KINDS),
            read_errors: Each::of(&ERRORS),
            write_errors: Each::of(&ERRORS),
            transactions: Each::of(&Turn::KINDS),
            failed_transactions: Counter::default(),
            sets: Each::of(&Turn::KINDS),
            events: Counter::default(),
            repeated_events: Counter::default(),
            decisions: Each::of(&ACTIONS),
            commits: Counter::default(),
            chunks: Each::of(&CHUNKS),
            chunk_bytes: Each::of(&CHUNKS),
        }
    }
}

/// The place of an error among [`ERRORS`]; none: a rule says no, which is an answer like others.
fn place(error: &Error) -> Option<usize> {
    match error {
        Error::Unavailable(_) | Error::Address(_) => Some(0),
        Error::Busy(_) => Some(1),
        Error::Late(_) => Some(2),
        Error::Full(_) => Some(3),
        Error::Unsynced(_) => Some(4),
        Error::Refused(refusal) => (refusal.reason == "OVERLOADED").then_some(5),
        Error::Broken(_) | Error::Schema(_) => Some(6),
        Error::Unreadable { .. } => Some(7),
    }
}

impl Metrics {
    /// A read that began then has ended, with this error if any.
    pub(super) fn read(&self, kind: Read, begin: Instant, error: Option<&Error>) {
        self.reads.at(kind as usize).since(begin);
        if let Some(place) = error.and_then(place) {
            self.read_errors.at(place).add(1);
        }
    }

    /// The same of a write.
    pub(super) fn written(&self, kind: usize, begin: Instant, error: Option<&Error>) {
        self.writes.at(kind).since(begin);
        if let Some(place) = error.and_then(place) {
            self.write_errors.at(place).add(1);
        }
    }

    /// A transaction that began then has ended. Its kind is that of its first set.
    pub(super) fn transaction(
        &self,
        sets: impl Iterator<Item = (usize, usize)>,
        begin: Instant,
        is_ok: bool,
    ) {
        let mut first = None;
        for (kind, writes) in sets {
            first = first.or(Some(kind));
            self.sets.at(kind).observe(writes as u64);
        }
        self.transactions.at(first.unwrap_or_default()).since(begin);
        self.failed_transactions.add(u64::from(!is_ok));
    }

    /// Events were stored, so many of them before, and these decisions made.
    pub(super) fn reported<'a>(
        &self,
        events: u64,
        repeated: u64,
        made: impl Iterator<Item = &'a DecisionRow>,
    ) {
        self.events.add(events);
        self.repeated_events.add(repeated);
        for row in made {
            let place = match row.decision.action {
                Action::Save => 0,
                Action::Skip => 1,
                Action::Fail => 2,
            };
            self.decisions.at(place).add(1);
        }
    }

    /// A checkpoint became a version.
    pub(super) fn committed(&self) {
        self.commits.add(1);
    }

    /// Chunks were pinned. Of equal ones of a call the first may be new.
    pub(super) fn pinned<'a>(&self, chunks: impl Iterator<Item = &'a PlacedChunk>) {
        let mut seen = HashSet::new();
        for chunk in chunks {
            let place = match chunk.stored {
                Stored::New(_) if seen.insert(chunk.digest) => 0,
                Stored::New(_) | Stored::Held => 1,
                Stored::Healed(_) => 2,
            };
            self.chunks.at(place).add(1);
            self.chunk_bytes.at(place).add(u64::try_from(chunk.size_bytes).unwrap_or_default());
        }
    }
}

/// What of the service's own work is still to be done, as far as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backlog {
    pub due_manifests: i64,
    pub unchained_entries: i64,
}

impl Db {
    /// How much of the service's own work is still to be done: two partial indexes are read, which hold nothing else.
    pub async fn backlog(&self) -> Result<Backlog, Error> {
        let count = async |sql| self.row(sql, args![MOST_COUNTED]).await?.map_or(Ok(0), |row| row.int(0));
        Ok(Backlog { due_manifests: count(DUE_MANIFESTS).await?, unchained_entries: count(UNCHAINED).await? })
    }

    /// Tells what was counted, and how its places are used now.
    pub fn tell(&self, text: &mut Text) {
        self.tell_work(text);
        self.tell_changes(text);
        let places = match &self.database {
            Database::Sqlite(readers) => readers.places(),
            Database::Postgres(pool) => {
                let (open, idle) = pool.connections();
                text.gauge("keepbest_database_connections", "Connections to Postgres that are open.")
                    .put(&[("state", "used")], open.saturating_sub(idle))
                    .put(&[("state", "idle")], idle);
                pool.read_places()
            }
        };
        text.gauge("keepbest_database_connections", "Connections to Postgres that are open.");
        for (word, usage) in Read::WORDS.into_iter().zip(places.usage()) {
            let labels = [("kind", word)];
            text.gauge("keepbest_database_read_places", "Reads that may go on at once.")
                .put(&labels, usage.units);
            text.gauge("keepbest_database_read_places_used", "Reads that go on.").put(&labels, usage.taken);
            text.gauge("keepbest_database_reads_waiting", "Reads that wait for their place.")
                .put(&labels, usage.waiting as u64);
        }
        let waits = "How long reads waited for their place, of those that had to.";
        for (word, seconds) in places.waits().iter() {
            text.histogram("keepbest_database_read_wait_seconds", waits).put_all(&[("kind", word)], seconds);
        }
    }

    fn tell_work(&self, text: &mut Text) {
        let metrics = &*self.metrics;
        for (word, seconds) in metrics.reads.iter() {
            text.histogram(
                "keepbest_database_read_seconds",
                "How long reads took, with the wait for their place.",
            )
            .put_all(&[("kind", word)], seconds);
        }
        for (word, seconds) in metrics.writes.iter() {
            text.histogram(
                "keepbest_database_write_seconds",
                "How long writes took, with the wait for their turn.",
            )
            .put_all(&[("kind", word)], seconds);
        }
        for (what, errors) in [("read", &metrics.read_errors), ("write", &metrics.write_errors)] {
            for (word, count) in errors.iter() {
                text.counter(
                    "keepbest_database_errors_total",
                    "Reads and writes that the database did not do.",
                )
                .put(&[("what", what), ("error", word)], count);
            }
        }
        for (word, seconds) in metrics.transactions.iter() {
            text.histogram(
                "keepbest_database_transaction_seconds",
                "How long transactions took, by their first set's kind.",
            )
            .put_all(&[("kind", word)], seconds);
        }
        text.counter("keepbest_database_failed_transactions_total", "Transactions that were not committed.")
            .put(&[], &metrics.failed_transactions);
        for (word, sizes) in metrics.sets.iter() {
            text.histogram("keepbest_database_set_writes", "Writes that were carried out as one set.")
                .put_all(&[("kind", word)], sizes);
        }
        text.counter("keepbest_database_statements_total", "Statements of transactions.")
            .put(&[], self.statements());
        for (word, count) in Turn::KINDS.into_iter().zip(self.writer.waiting()) {
            text.gauge("keepbest_database_writes_waiting", "Writes that wait for a transaction.")
                .put(&[("kind", word)], count as u64);
        }
    }

    fn tell_changes(&self, text: &mut Text) {
        let metrics = &*self.metrics;
        text.counter("keepbest_events_total", "Events that were stored.").put(&[], &metrics.events);
        text.counter("keepbest_repeated_events_total", "Events that came again, and were stored before.")
            .put(&[], &metrics.repeated_events);
        for (word, count) in metrics.decisions.iter() {
            text.counter("keepbest_decisions_total", "Decisions that were made.")
                .put(&[("action", word)], count);
        }
        text.counter("keepbest_commits_total", "Checkpoints that became versions.")
            .put(&[], &metrics.commits);
        for ((word, count), (_, bytes)) in metrics.chunks.iter().zip(metrics.chunk_bytes.iter()) {
            let labels = [("stored", word)];
            text.counter(
                "keepbest_chunks_total",
                "Chunks of files: stored anew, had by the team, or mended.",
            )
            .put(&labels, count);
            text.counter("keepbest_chunk_bytes_total", "Bytes of chunks of files, by how these were stored.")
                .put(&labels, bytes);
        }
        text.gauge(
            "keepbest_database_sync_failed",
            "Whether a sync of the database failed; then the server ends.",
        )
        .put(&[], self.unsynced.is_cancelled());
    }
}
