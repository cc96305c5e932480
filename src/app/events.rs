//! Events in, decisions out: the events of a large call in slices, each one transaction around the pure rules.

use std::collections::HashMap;
use std::sync::Arc;

use crate::app::App;
use crate::app::Error;
use crate::app::micros;
use crate::db::DecisionFilter;
use crate::db::DecisionRow;
use crate::db::EventRow;
use crate::db::LedTo;
use crate::domain::decision::NextDue;
use crate::domain::decision::next_due;
use crate::domain::event::Event;
use crate::domain::ids::Id;
use crate::domain::ids::RunName;
use crate::domain::refusal::Refusal;
use crate::domain::report::Report;
use crate::domain::run::Run;

/// Most events in a request: a second of the fastest trainers, far below the message limit.
pub const MAX_EVENTS: usize = 10_000;
/// Decisions of one answer, in bytes: every client takes messages of 4 MiB, and one decision has at most some 20 KiB.
const ANSWER_BYTES: usize = 3 << 20;
/// What a decision has beside its texts and names: tags, numbers, a time.
const DECISION_BYTES: usize = 200;
/// Events in one transaction: 2 ms of work. The next ones of a large request let others pass.
const SLICE_EVENTS: usize = 1_024;

#[derive(Clone, Debug)]
pub struct NewEvents {
    pub run: RunName,
    pub attempt: i64,
    /// Which process of the run; none: the only one.
    pub writer: Option<Id>,
    /// Sequence of the first event.
    pub first_sequence: i64,
    /// The events; without a wall time: now.
    pub events: Vec<Event>,
}

/// The answer to a report.
#[derive(Clone, Debug)]
pub struct Answer {
    /// One for each event at which a save was due.
    pub decisions: Vec<DecisionRow>,
    /// Where the writer goes on; below the end of its report if the decisions were too many for one answer.
    pub next_sequence: i64,
    /// When the next decision can come.
    pub next_due: NextDue,
    /// How many events were stored before.
    pub duplicate_count: i64,
}

impl App {
    /// Stores events and answers each save attempt. Takes fewer events than it was given when the answer has grown large.
    pub async fn report_events(&self, new: NewEvents) -> Result<Answer, Error> {
        if new.events.len() > MAX_EVENTS {
            let message =
                format!("{} events in one request: at most {MAX_EVENTS} are allowed", new.events.len());
            return Err(Refusal::exhausted("LIMIT_EXCEEDED", message).into());
        }
        for (index, event) in new.events.iter().enumerate() {
            event.validate().map_err(|error| {
                Refusal::invalid("BAD_EVENT", format!("event {index}: {error}"))
                    .with("field", format!("events[{index}].{}", error.field()))
            })?;
        }
        let name_bytes = new.run.to_string().len();
        let call: Arc<[Event]> = new.events.into();
        let mut report = Report {
            run: new.run,
            attempt: new.attempt,
            writer: new.writer.map(|id| id.as_str().to_owned()).unwrap_or_default(),
            first_sequence: new.first_sequence,
            range: 0..call.len().min(SLICE_EVENTS),
            call,
            now_us: self.clock.now_us(),
            pending_expiry_us: micros(self.limits.pending_expiry),
        };
        let (mut decisions, mut duplicate_count) = (Vec::new(), 0);
        let (mut bytes, mut most_bytes) = (0, 0);
        loop {
            let reported = self.db.report(report.clone()).await?;
            let done =
                usize::try_from(reported.next_sequence.saturating_sub(report.first_sequence)).unwrap_or(0);
            let before = bytes;
            for row in reported.decisions {
                let row_bytes = decision_bytes(&row, name_bytes);
                if bytes + row_bytes > ANSWER_BYTES {
                    // What is left out is stored: whoever sends it again is answered it.
                    let repeated = reported.duplicate_count.min(row.sequence - report.first_sequence);
                    return Ok(Answer {
                        next_due: soonest(&reported.run),
                        decisions,
                        next_sequence: row.sequence,
                        duplicate_count: duplicate_count + repeated,
                    });
                }
                bytes += row_bytes;
                decisions.push(row);
            }
            most_bytes = most_bytes.max(bytes - before);
            duplicate_count += reported.duplicate_count;
            let from = report.range.start.saturating_add(done).min(report.range.end);
            if from == report.call.len() {
                return Ok(Answer {
                    next_due: next_due(&reported.run.strategy, &reported.run.monitor_state),
                    decisions,
                    next_sequence: reported.next_sequence,
                    duplicate_count,
                });
            }
            report.first_sequence =
                new.first_sequence.saturating_add(i64::try_from(from).unwrap_or(i64::MAX));
            if bytes + most_bytes > ANSWER_BYTES {
                // Another slice like the largest so far would not fit: it is not begun.
                return Ok(Answer {
                    next_due: next_due(&reported.run.strategy, &reported.run.monitor_state),
                    decisions,
                    next_sequence: report.first_sequence,
                    duplicate_count,
                });
            }
            report.range = from..from.saturating_add(SLICE_EVENTS).min(report.call.len());
        }
    }

    /// Rows of a run's events from the one with `position` on, as many as fit a few messages; none: there are no more.
    pub async fn list_events(&self, run: &Run, position: i64) -> Result<Vec<EventRow>, Error> {
        Ok(self.db.list_events(&run.uid, position).await?)
    }

    /// A run's decisions from `position` on.
    pub async fn list_decisions(
        &self,
        name: &RunName,
        filter: DecisionFilter,
        position: i64,
        limit: i64,
    ) -> Result<Vec<DecisionRow>, Error> {
        let run = self.db.run(name).await?;
        Ok(self.db.list_decisions(&run.uid, filter, position, limit).await?)
    }

    /// What the SAVEs among decisions led to, by the checkpoint's uid.
    pub async fn led_to(&self, decisions: &[DecisionRow]) -> Result<HashMap<String, LedTo>, Error> {
        let uids: Vec<&str> = decisions.iter().filter_map(|it| it.checkpoint_uid.as_deref()).collect();
        Ok(self.db.led_to(&uids).await?)
    }
}

/// About what a decision takes in an answer, and not less.
fn decision_bytes(row: &DecisionRow, run_name_bytes: usize) -> usize {
    let decision = &row.decision;
    let texts = [&decision.reason_text, &decision.message, &decision.finished_message, &row.writer];
    let optional = [&decision.path, &decision.error_text, &decision.error_type, &row.checkpoint_uid];
    let texts = texts.into_iter().chain(optional.into_iter().flatten()).chain(&decision.warnings);
    DECISION_BYTES + run_name_bytes + texts.map(|it| it.len() + 6).sum::<usize>()
}

/// When the next decision can come at the earliest, whatever events follow.
fn soonest(run: &Run) -> NextDue {
    match next_due(&run.strategy, &run.monitor_state) {
        NextDue::EpochEnd => NextDue::EpochEnd,
        NextDue::Batches(_) | NextDue::EveryBatch => NextDue::EveryBatch,
    }
}
