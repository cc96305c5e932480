//! Decisions that another process asks for: the ranks of a training learn what the leading one's report led to.

use std::time::Duration;

use crate::app::App;
use crate::app::Error;
use crate::app::waits::Wait;
use crate::db::DecisionRow;
use crate::domain::ids::RunName;
use crate::domain::refusal::Refusal;
use crate::domain::run::RunState;
use crate::domain::strategy::SaveFrequency;
use crate::domain::strategy::Strategy;

/// When a caller that waited in vain should come back: at once, for the wait is in the call.
const MISSING_RETRY: Duration = Duration::from_millis(100);

/// A moment of an attempt whose decision is asked for.
#[derive(Clone, Debug)]
pub struct Moment {
    pub run: RunName,
    pub attempt: i64,
    /// 0-based.
    pub epoch: i64,
    /// 0-based; none: the epoch's end.
    pub batch: Option<i64>,
}

impl App {
    /// The decision about a moment that another process reports, once it has. None: no save was due there.
    pub async fn await_decision(
        &self,
        moment: Moment,
        wait: Option<Duration>,
    ) -> Result<Option<DecisionRow>, Error> {
        let Moment { run: name, attempt, epoch, batch } = moment;
        if epoch < 0 || batch.is_some_and(|it| it < 0) {
            return Err(Refusal::invalid("BAD_EVENT", "epoch and batch begin at 0").into());
        }
        let mut wait = Wait::of(self, wait);
        let mut seen = None;
        loop {
            let run = self.db.run_of_attempt(&name, attempt).await?;
            if !may_decide(&run.strategy, batch) {
                return Ok(None);
            }
            if seen != Some(run.event_count) {
                // In this order: events come with their decisions, so whoever saw an event finds its decision.
                let newest = self.db.newest_event(&run.uid, attempt).await?;
                let decision = self.db.decision_at(&run.uid, attempt, epoch, batch).await?;
                if decision.is_some() || newest.is_some_and(|event| event.reaches(epoch, batch)) {
                    return Ok(decision);
                }
                seen = Some(run.event_count);
            }
            if run.state != RunState::Active {
                let message =
                    format!("run `{name}` is finished: nothing more is reported in attempt {attempt}");
                return Err(Refusal::precondition("RUN_FINISHED", message).into());
            }
            if !wait.pause().await {
                let batch = batch.map_or_else(String::new, |batch| format!(", batch {batch}"));
                let message = format!(
                    "epoch {epoch}{batch} of run `{name}` was not reported yet in attempt {attempt}: repeat the call to wait on"
                );
                return Err(Refusal::aborted("EVENT_MISSING", message).retry_after(MISSING_RETRY).into());
            }
        }
    }
}

/// Whether a decision can come at all at the end of a batch, or of an epoch.
fn may_decide(strategy: &Strategy, batch: Option<i64>) -> bool {
    matches!(strategy.save_frequency, SaveFrequency::Batches(_)) == batch.is_some()
}
