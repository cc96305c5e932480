//! A run and its states: which attempt may write, what a new attempt changes, and what an event's decision leaves behind.

use crate::domain::decision::Action;
use crate::domain::decision::Decision;
use crate::domain::decision::decide;
use crate::domain::event::Event;
use crate::domain::ids::Id;
use crate::domain::ids::RunName;
use crate::domain::metric::Direction;
use crate::domain::monitor::MonitorState;
use crate::domain::refusal::Refusal;
use crate::domain::strategy::Strategy;
use crate::domain::template::Template;

/// A run that was not heard from for so long is silent: three heartbeats were missed.
pub const SILENCE_US: i64 = 3 * HEARTBEAT_US;
/// How often a process says that it lives when it has nothing else to say.
pub const HEARTBEAT_US: i64 = 30_000_000;

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// It takes events.
    Active,
    /// Its training came to its end.
    Finished,
    /// Its training was given up.
    Failed,
}

impl RunState {
    /// The state as it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            RunState::Active => "ACTIVE",
            RunState::Finished => "FINISHED",
            RunState::Failed => "FAILED",
        }
    }

    /// The state that is stored so.
    pub fn parse(text: &str) -> Option<RunState> {
        [RunState::Active, RunState::Finished, RunState::Failed].into_iter().find(|it| it.as_str() == text)
    }
}

/// One training job, over all its attempts.
#[derive(Clone, Debug)]
pub struct Run {
    /// Unique for ever, also after a deletion.
    pub uid: String,
    pub name: RunName,
    /// The artifact of its versions, by uid.
    pub artifact_uid: String,
    pub artifact: Id,
    /// When to save, as the newest attempt told.
    pub strategy: Strategy,
    /// Whether less or more of the monitor is better; settled when the run was made.
    pub direction: Direction,
    /// What the strategy remembers.
    pub monitor_state: MonitorState,
    /// The newest attempt; it fences all older ones.
    pub attempt: i64,
    pub state: RunState,
    /// Events stored; also the position of the next one.
    pub event_count: i64,
    /// 0-based epoch of the default writer's newest event, or a later one that another writer has reported since.
    pub last_epoch: Option<i64>,
    /// The trainer's settings, JSON.
    pub config: Option<String>,
    /// Microseconds since 1970.
    pub create_time_us: i64,
    /// Microseconds since 1970.
    pub update_time_us: i64,
    /// Microseconds since 1970.
    pub finish_time_us: Option<i64>,
    /// Since when it is being deleted, in microseconds since 1970.
    pub delete_time_us: Option<i64>,
    /// Since when its artifact is being deleted, in microseconds since 1970.
    pub artifact_delete_time_us: Option<i64>,
    /// When a process of the newest attempt was heard from last, in microseconds since 1970.
    pub heard_time_us: i64,
    /// Of one that failed: why, if its last event said so.
    pub failure: Option<String>,
}

/// A decision about one of several events, and the checkpoint that a SAVE leads to.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// The event's place among them.
    pub index: usize,
    pub decision: Decision,
    /// The checkpoint's uid; only of a SAVE.
    pub checkpoint_uid: Option<String>,
}

/// What the rules say of new events.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The run after them.
    pub run: Run,
    /// How many of them were looked at: fewer than all where there would be too many decisions.
    pub taken: usize,
    /// What was decided, in their order.
    pub judgements: Vec<Judgement>,
    /// Pending checkpoints that are given up, by uid.
    pub given_up: Vec<String>,
}

impl Run {
    /// Refuses an attempt that is not the newest.
    pub fn check_attempt(&self, attempt: i64) -> Result<(), Refusal> {
        if attempt == self.attempt {
            return Ok(());
        }
        let message = if attempt == 0 {
            format!(
                "attempt of a call to run `{}` is not set: every call after StartRun sends the `attempt` that it answered",
                self.name
            )
        } else if attempt < self.attempt {
            format!(
                "attempt {attempt} of run `{}` is stale: attempt {} has begun since, so this process must stop writing",
                self.name, self.attempt
            )
        } else {
            format!(
                "attempt {attempt} of run `{}` has not begun: the newest is {}, as StartRun told",
                self.name, self.attempt
            )
        };
        Err(Refusal::precondition("STALE_ATTEMPT", message).with("attempt", self.attempt))
    }

    /// Refuses new events of a run that has ended.
    pub fn check_active(&self) -> Result<(), Refusal> {
        match self.state {
            RunState::Active => Ok(()),
            RunState::Finished | RunState::Failed => {
                let message =
                    format!("run `{}` is finished: StartRun opens it again with a new attempt", self.name);
                Err(Refusal::precondition("RUN_FINISHED", message))
            }
        }
    }

    /// Refuses to go on with a run that is being deleted, or whose artifact is.
    pub fn check_stands(&self) -> Result<(), Refusal> {
        let what = match (self.delete_time_us, self.artifact_delete_time_us) {
            (Some(_), _) => format!("run `{}`", self.name),
            // One that is gone already gives way to a new one.
            (None, Some(_)) if !self.artifact.is_gone() => {
                format!("artifact `{}` of run `{}`", self.artifact, self.name)
            }
            _ => return Ok(()),
        };
        Err(Refusal::aborted(
            "DELETING",
            format!("{what} is being deleted: repeat the same call in a moment"),
        ))
    }

    /// Refuses to delete what lives, unless it is forced.
    pub fn check_deletable(&self, force: bool, now_us: i64) -> Result<(), Refusal> {
        if force || !self.is_alive(now_us) {
            return Ok(());
        }
        let ago_s = now_us.saturating_sub(self.heard_time_us).max(0) / 1_000_000;
        let message = format!(
            "run `{}` is alive, a process of it was heard from {ago_s} s ago: end it first, or say that it is to be deleted \
             all the same (`force`)",
            self.name
        );
        Err(Refusal::precondition("RUN_ALIVE", message).with("run", &self.name))
    }

    /// Whether it takes events and was heard from lately.
    pub fn is_alive(&self, now_us: i64) -> bool {
        self.state == RunState::Active && now_us.saturating_sub(self.heard_time_us) <= SILENCE_US
    }

    /// Ends the run. One that has ended so stays as it is; one that has ended otherwise is not ended anew.
    pub fn finish(&mut self, state: RunState, now_us: i64) -> Result<(), Refusal> {
        if self.state == RunState::Active {
            (self.state, self.finish_time_us, self.update_time_us) = (state, Some(now_us), now_us);
        }
        if self.state == state {
            return Ok(());
        }
        let message = format!(
            "run `{}` has ended as {} and is not ended as {}: StartRun opens it again with a new attempt",
            self.name,
            self.state.as_str(),
            state.as_str()
        );
        Err(Refusal::precondition("RUN_FINISHED", message))
    }

    /// Walks new events of a writer through the rules; each SAVE becomes a checkpoint in flight that the next event knows of,
    /// with an uid from `new_uid`. It stops before the event that would lead to more than `most` decisions. Only the default
    /// writer's events are decided upon: the others' batches would be counted twice.
    pub fn judge(
        &self,
        writer: &str,
        events: &[Event],
        most: usize,
        mut new_uid: impl FnMut() -> String,
    ) -> Result<Judged, Refusal> {
        let mut judged = Judged { run: self.clone(), taken: 0, judgements: Vec::new(), given_up: Vec::new() };
        let state = &mut judged.run.monitor_state;
        if writer.is_empty() {
            let template = Template::parse(&self.strategy.filepath)
                .map_err(|error| Refusal::invalid("BAD_STRATEGY", error.to_string()))?;
            for (index, event) in events.iter().enumerate() {
                let (next, decision) = decide(&self.strategy, &template, self.direction, state, event);
                if decision.is_some() && judged.judgements.len() == most {
                    break;
                }
                *state = next;
                judged.taken = index + 1;
                let Some(decision) = decision else { continue };
                let checkpoint_uid = (decision.action == Action::Save).then(&mut new_uid);
                if let Some(uid) = &checkpoint_uid {
                    judged.given_up.extend(state.save_started(uid, decision.improved_value()));
                }
                judged.judgements.push(Judgement { index, decision, checkpoint_uid });
            }
        } else {
            judged.taken = events.len();
        }
        let taken = events.get(..judged.taken).unwrap_or_default();
        judged.run.event_count += i64::try_from(taken.len()).unwrap_or(i64::MAX);
        if let Some(last) = taken.last() {
            // A rank that lags must not make the run look younger than it is.
            let lags = !writer.is_empty() && self.last_epoch > Some(last.epoch);
            judged.run.last_epoch = if lags { self.last_epoch } else { Some(last.epoch) };
        }
        Ok(judged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::EventKind;
    use crate::domain::metric::MetricValue;
    use crate::domain::metric::Metrics;

    fn run() -> Run {
        let name = RunName::parse("teams/t/projects/p/runs/r").unwrap();
        let strategy = Strategy { filepath: "m-{epoch}".to_owned(), ..Strategy::default() };
        Run {
            uid: "r".to_owned(),
            artifact: Id::parse("artifact", "a").unwrap(),
            name,
            artifact_uid: "a".to_owned(),
            direction: Direction::Min,
            monitor_state: MonitorState::start(&strategy, Direction::Min),
            strategy,
            attempt: 2,
            state: RunState::Active,
            event_count: 0,
            last_epoch: None,
            config: None,
            create_time_us: 1,
            update_time_us: 1,
            finish_time_us: None,
            delete_time_us: None,
            artifact_delete_time_us: None,
            heard_time_us: 1,
            failure: None,
        }
    }

    fn epochs(epochs: std::ops::Range<i64>) -> Vec<Event> {
        let event = |epoch| Event {
            kind: EventKind::EpochEnd,
            epoch,
            batch: None,
            step: None,
            wall_time_us: None,
            metrics: Metrics::from([("val_loss".to_owned(), MetricValue::Number(0.5))]),
        };
        epochs.map(event).collect()
    }

    #[test]
    fn only_the_newest_attempt_may_write() {
        assert_eq!(run().check_attempt(2), Ok(()));
        for (attempt, word) in [(0, "is not set"), (1, "stale"), (3, "has not begun")] {
            let refused = run().check_attempt(attempt).unwrap_err();
            assert_eq!(refused.metadata, [("attempt", "2".to_owned())]);
            assert!(refused.message.contains(word), "{refused}");
        }
    }

    #[test]
    fn a_run_that_ended_stays_as_it_ended() {
        let mut run = run();
        run.finish(RunState::Failed, 7).unwrap();
        run.finish(RunState::Failed, 8).unwrap();
        assert_eq!(run.finish(RunState::Finished, 9).unwrap_err().reason, "RUN_FINISHED");
        assert_eq!((run.state, run.finish_time_us, run.update_time_us), (RunState::Failed, Some(7), 7));
        assert_eq!(run.check_active().unwrap_err().reason, "RUN_FINISHED");
    }

    #[test]
    fn judging_stops_before_there_are_too_many_decisions_and_goes_on_from_there() {
        let (events, mut number) = (epochs(0..5), 0);
        let mut new_uid = || {
            number += 1;
            number.to_string()
        };
        let first = run().judge("", &events, 2, &mut new_uid).unwrap();
        assert_eq!((first.taken, first.judgements.len(), first.run.event_count), (2, 2, 2));
        let rest = first.run.judge("", &events[2..], 5, &mut new_uid).unwrap();
        let whole = run().judge("", &events, 5, || "x".to_owned()).unwrap();
        let paths = |it: &[Judgement]| it.iter().map(|it| it.decision.path.clone()).collect::<Vec<_>>();
        assert_eq!([paths(&first.judgements), paths(&rest.judgements)].concat(), paths(&whole.judgements));
        assert_eq!((rest.run.event_count, rest.run.last_epoch), (5, Some(4)));
    }

    #[test]
    fn a_writer_that_lags_does_not_move_the_last_epoch_back() {
        let mut run = Run { last_epoch: Some(7), ..run() };
        let after = |run: &Run, writer: &str, epoch: i64| {
            run.judge(writer, &epochs(epoch..epoch + 1), 9, String::new).unwrap().run.last_epoch
        };
        assert_eq!((after(&run, "rank-1", 3), after(&run, "rank-1", 9)), (Some(7), Some(9)));
        // The default writer begins an earlier epoch again after a restart.
        assert_eq!(after(&run, "", 3), Some(3));
        run.last_epoch = None;
        assert_eq!(after(&run, "rank-1", 3), Some(3));
    }
}
