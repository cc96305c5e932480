//! What the use cases count: what the collector did, what was given up and refused, and how the room for bytes is used.
//!
//! What is read from the database for this, how much of its work is still to be done, is looked up now and then, and not when somebody
//! asks for the metrics: asking must cost the same however often it is done.

use std::time::Instant;

use crate::app::App;
use crate::app::Error;
use crate::app::buffers::Buffers;
use crate::app::collect::GcReport;
use crate::metrics::Counter;
use crate::metrics::Each;
use crate::metrics::Gauge;
use crate::metrics::Seconds;
use crate::metrics::Text;
use crate::metrics::seconds_of;

const FREED: [&str; 6] = ["manifest", "expired_checkpoint", "checkpoint", "run", "chunk", "object"];
const GIVEN_UP: [&str; 2] = ["abandoned", "expired"];

/// See the module.
#[derive(Debug)]
pub(super) struct Metrics {
    /// Of the collector, by what they came to.
    passes: Counter,
    failed_passes: Counter,
    pass_seconds: Seconds,
    success_us: Gauge,
    collected: Each<Counter, 6>,
    freed_bytes: Counter,
    left: Gauge,
    given_up: Each<Counter, 2>,
    due_manifests: Gauge,
    unchained_entries: Gauge,
    look_us: Gauge,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics {
            passes: Counter::default(),
            failed_passes: Counter::default(),
            pass_seconds: Seconds::default(),
            success_us: Gauge::default(),
            collected: Each::of(&FREED),
            freed_bytes: Counter::default(),
            left: Gauge::default(),
            given_up: Each::of(&GIVEN_UP),
            due_manifests: Gauge::default(),
            unchained_entries: Gauge::default(),
            look_us: Gauge::default(),
        }
    }
}

impl Metrics {
    /// A pass of the collector that began then has ended.
    pub(super) fn collected(&self, begin: Instant, collected: Result<&GcReport, ()>, now_us: i64) {
        self.pass_seconds.since(begin);
        let Ok(report) = collected else { return self.failed_passes.add(1) };
        self.passes.add(1);
        self.success_us.set(now_us);
        let done = [
            report.written_manifests,
            report.expired_checkpoints,
            report.removed_checkpoints,
            report.removed_runs,
            report.removed_chunks,
            report.removed_objects,
        ];
        for (place, count) in done.into_iter().enumerate() {
            self.collected.at(place).add(count);
        }
        self.given_up.at(1).add(report.expired_checkpoints);
        self.freed_bytes.add(report.freed_bytes);
        self.left.set(i64::try_from(report.left).unwrap_or(i64::MAX));
    }

    /// Somebody gave a checkpoint up.
    pub(super) fn abandoned(&self) {
        self.given_up.at(0).add(1);
    }

    fn tell(&self, text: &mut Text) {
        text.counter("keepbest_collector_passes_total", "Passes of the collector.")
            .put(&[("result", "done")], &self.passes)
            .put(&[("result", "failed")], &self.failed_passes);
        text.histogram("keepbest_collector_pass_seconds", "How long passes of the collector took.")
            .put_all(&[], &self.pass_seconds);
        text.gauge(
            "keepbest_collector_last_success_timestamp_seconds",
            "When the collector came to its end last; 0: not yet.",
        )
        .put(&[], seconds_of(self.success_us.get()));
        for (word, count) in self.collected.iter() {
            text.counter(
                "keepbest_collector_done_total",
                "What the collector has written, given up and taken away.",
            )
            .put(&[("what", word)], count);
        }
        text.counter(
            "keepbest_collector_freed_bytes_total",
            "Bytes of the chunks that the collector has taken away.",
        )
        .put(&[], &self.freed_bytes);
        text.gauge("keepbest_collector_left", "What the collector's newest pass could not deal with.")
            .put(&[], &self.left);
        for (word, count) in self.given_up.iter() {
            text.counter(
                "keepbest_checkpoints_given_up_total",
                "Checkpoints that were decided and are no versions.",
            )
            .put(&[("reason", word)], count);
        }
        text.gauge(
            "keepbest_manifests_due",
            "Versions whose manifest is not in the store yet, all servers together.",
        )
        .put(&[], &self.due_manifests);
        text.gauge(
            "keepbest_audit_entries_unchained",
            "Entries of the audit log without a place in their chain, all servers together.",
        )
        .put(&[], &self.unchained_entries);
        text.gauge(
            "keepbest_backlog_look_timestamp_seconds",
            "When manifests that are due and entries without a place were counted; 0: not yet.",
        )
        .put(&[], seconds_of(self.look_us.get()));
    }
}

impl App {
    /// Looks up how much of the service's own work is still to be done.
    pub async fn look_at_backlog(&self) -> Result<(), Error> {
        let backlog = self.db.backlog().await?;
        self.metrics.due_manifests.set(backlog.due_manifests);
        self.metrics.unchained_entries.set(backlog.unchained_entries);
        self.metrics.look_us.set(self.clock.now_us());
        Ok(())
    }

    /// Tells what this floor and those below have counted.
    pub fn tell(&self, text: &mut Text) {
        self.db.tell(text);
        self.store.tell(text);
        self.metrics.tell(text);
        for (word, count) in self.rates.refusals().iter() {
            text.counter(
                "keepbest_rate_refusals_total",
                "Requests of teams that asked for too much in a second.",
            )
            .put(&[("rate", word)], count);
        }
        for (word, buffers) in [("uploads", &self.upload_buffers), ("downloads", &self.download_buffers)] {
            tell_buffers(text, word, buffers);
        }
    }
}

fn tell_buffers(text: &mut Text, word: &str, buffers: &Buffers) {
    let (usage, labels) = (buffers.usage(), [("buffers", word)]);
    text.gauge("keepbest_buffer_limit_bytes", "Room for bytes in memory, taken or not.")
        .put(&labels, usage.limit_bytes);
    text.gauge("keepbest_buffer_used_bytes", "Room for bytes in memory that is taken.")
        .put(&labels, usage.used_bytes);
    text.gauge("keepbest_buffer_waiting", "Who waits for room.").put(&labels, usage.waiting);
    text.counter("keepbest_buffer_refusals_total", "Calls that found no room and were told to come back.")
        .put(&labels, buffers.refusals());
}
