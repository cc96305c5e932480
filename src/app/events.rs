//! Events in, decisions out: one transaction around the pure rules.

use crate::app::App;
use crate::app::Error;
use crate::app::micros;
use crate::db::DecisionFilter;
use crate::db::DecisionRow;
use crate::db::EventRow;
use crate::db::Judged;
use crate::db::Judgement;
use crate::db::Report;
use crate::db::RunRow;
use crate::domain::decision::Action;
use crate::domain::decision::NextDue;
use crate::domain::decision::decide;
use crate::domain::decision::next_due;
use crate::domain::event::Event;
use crate::domain::ids::Id;
use crate::domain::ids::RunName;
use crate::domain::refusal::Refusal;
use crate::domain::template::Template;

/// Most events in a request: a second of the fastest trainers, far below the message limit.
pub const MAX_EVENTS: usize = 10_000;

/// What a trainer reports.
#[derive(Clone, Debug)]
pub struct NewEvents {
    /// The run.
    pub run: RunName,
    /// The attempt.
    pub attempt: i64,
    /// Which process of the run; none: the only one.
    pub writer: Option<Id>,
    /// Sequence of the first event.
    pub first_sequence: i64,
    /// The events; a wall time of 0 means now.
    pub events: Vec<Event>,
}

/// The answer to a report.
#[derive(Clone, Debug)]
pub struct Answer {
    /// One for each event at which a save was due.
    pub decisions: Vec<DecisionRow>,
    /// Where the writer goes on.
    pub next_sequence: i64,
    /// When the next decision can come.
    pub next_due: NextDue,
    /// How many events were stored before.
    pub duplicate_count: i64,
}

impl App {
    /// Stores events and answers each save attempt.
    pub async fn report_events(&self, new: NewEvents) -> Result<Answer, Error> {
        if new.events.len() > MAX_EVENTS {
            let message =
                format!("{} events in one request: at most {MAX_EVENTS} are allowed", new.events.len());
            return Err(Refusal::exhausted("LIMIT_EXCEEDED", message).into());
        }
        let now_us = self.clock.now_us();
        let mut events = new.events;
        for (index, event) in events.iter_mut().enumerate() {
            event.validate().map_err(|error| {
                Refusal::invalid("BAD_EVENT", format!("event {index}: {error}"))
                    .with("field", format!("events[{index}].{}", error.field()))
            })?;
            if event.wall_time_us == 0 {
                event.wall_time_us = now_us;
            }
        }
        let report = Report {
            run: new.run,
            attempt: new.attempt,
            writer: new.writer.map(|id| id.as_str().to_owned()).unwrap_or_default(),
            first_sequence: new.first_sequence,
            events,
            now_us,
            pending_expiry_us: micros(self.limits.pending_expiry),
        };
        let reported = self.db.report(report, judge).await?;
        Ok(Answer {
            next_due: next_due(&reported.run.strategy, &reported.run.monitor_state),
            decisions: reported.decisions,
            next_sequence: reported.next_sequence,
            duplicate_count: reported.duplicate_count,
        })
    }

    /// Rows of a run's events from the one with `position` on, as many as fit a few messages; none: there are no more.
    pub async fn list_events(&self, run: &RunRow, position: i64) -> Result<Vec<EventRow>, Error> {
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
}

/// Walks the new events through the rules; each SAVE becomes a checkpoint in flight that the next event knows of. Only the
/// default writer's events are decided upon: the others' batches would be counted twice.
fn judge(run: &RunRow, writer: &str, events: &[Event]) -> Result<Judged, Refusal> {
    let mut judged =
        Judged { state: run.monitor_state.clone(), judgements: Vec::new(), given_up: Vec::new() };
    if !writer.is_empty() {
        return Ok(judged);
    }
    let template = Template::parse(&run.strategy.filepath)
        .map_err(|error| Refusal::precondition("BAD_STRATEGY", format!("stored template: {error}")))?;
    for (index, event) in events.iter().enumerate() {
        let (state, decision) = decide(&run.strategy, &template, run.direction, &judged.state, event);
        judged.state = state;
        let Some(decision) = decision else { continue };
        let checkpoint_uid =
            (decision.action == Action::Save).then(|| uuid::Uuid::now_v7().simple().to_string());
        if let Some(uid) = &checkpoint_uid {
            judged.given_up.extend(judged.state.save_started(uid, decision.improved_value()));
        }
        judged.judgements.push(Judgement { index, decision, checkpoint_uid });
    }
    Ok(judged)
}
