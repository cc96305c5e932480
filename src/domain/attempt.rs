//! A start of a trainer's process: what it asks for, what it changes of a run that exists, and whether it is the same start again.

use crate::domain::digest::Digest;
use crate::domain::ids::Id;
use crate::domain::ids::MAX_ID_BYTES;
use crate::domain::ids::RunName;
use crate::domain::metric::Direction;
use crate::domain::monitor::MonitorState;
use crate::domain::refusal::Refusal;
use crate::domain::run::Run;
use crate::domain::run::RunState;
use crate::domain::strategy::Strategy;

#[derive(Clone, Debug)]
pub struct StartRun {
    pub name: RunName,
    /// The artifact's id; none: the run's, or `run-{run}-model`.
    pub artifact: Option<Id>,
    /// Used when the artifact is made.
    pub artifact_type: String,
    /// When to save.
    pub strategy: Strategy,
    /// The monitor's resolved direction.
    pub direction: Direction,
    /// Makes a repeated start the same attempt; empty: none.
    pub request_id: String,
    /// Refuse if the run exists.
    pub must_be_new: bool,
    /// Refuse if it does not.
    pub must_exist: bool,
    /// The trainer's settings, JSON.
    pub config: Option<String>,
    /// Which of the run's processes starts, as in its reports; empty: the one whose events are decided upon.
    pub writer: String,
    /// Now, in microseconds since 1970.
    pub now_us: i64,
}

/// What a start asks for, as digests: all that decides, and the config, which several processes of a launch may differ in by
/// mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Body {
    /// Strategy, direction, artifact and its type.
    pub asked: Digest,
    /// Its config.
    pub config: Digest,
}

/// Stands first in the digests. It changes with the strategy's fields: what a server of another version made is not compared,
/// since the ranks of one launch may start at two versions while replicas are replaced.
const BODY_VERSION: u8 = 1;

impl StartRun {
    /// What it asks for, in short.
    pub fn body(&self) -> Body {
        let artifact = self.artifact.as_ref().map_or("", Id::as_str);
        let digest = |text: String| {
            let mut digest = Digest::of_pieces([text.as_bytes()]);
            digest.0[0] = BODY_VERSION;
            digest
        };
        Body {
            asked: digest(format!("{:?}", (&self.strategy, self.direction, artifact, &self.artifact_type))),
            config: digest(format!("{:?}", self.config)),
        }
    }

    /// Refuses another start under a request id that was used: it would be told the attempt of the first.
    pub fn check_repeated(&self, stored: Body) -> Result<(), Refusal> {
        let own = self.body();
        let is_comparable = stored.asked.0[0] == BODY_VERSION;
        let what = if !is_comparable {
            return Ok(());
        } else if own.asked != stored.asked {
            "another strategy or artifact"
        } else if own.config != stored.config {
            "another config"
        } else {
            return Ok(());
        };
        let message = format!(
            "request_id `{}` of run `{}` was used by a start with {what}: each start takes a new id, and all processes of one \
             launch ask for the same",
            self.request_id, self.name
        );
        Err(Refusal::already_exists("REQUEST_CONFLICT", message))
    }

    /// Begins the next attempt of a run that exists: what older ones had in flight is given up.
    pub fn resume(&self, run: &mut Run) -> Result<(), Refusal> {
        if self.must_be_new {
            let message = format!("run `{}` exists already: take another id, or resume it", run.name);
            return Err(Refusal::already_exists("RUN_EXISTS", message));
        }
        if let Some(artifact) = self.artifact.as_ref().filter(|it| **it != run.artifact) {
            let message = format!(
                "run `{}` writes artifact `{}`, but this start asks for `{artifact}`: leave the artifact out, or begin a new run",
                run.name, run.artifact
            );
            return Err(Refusal::precondition("ARTIFACT_CONFLICT", message));
        }
        self.check_monitor("run", &run.name, (&run.strategy.monitor, run.direction))?;
        run.attempt += 1;
        (run.state, run.finish_time_us) = (RunState::Active, None);
        (run.update_time_us, run.heard_time_us) = (self.now_us, self.now_us);
        run.strategy = self.strategy.clone();
        run.monitor_state.new_attempt();
        if run.monitor_state.best_checkpoint.is_none() {
            // Nothing was committed as best yet, so the threshold of the new strategy counts.
            run.monitor_state.best = MonitorState::start(&run.strategy, run.direction).best;
        }
        run.config = self.config.clone().or(run.config.take());
        Ok(())
    }

    /// Refuses a start that watches another metric than the run or artifact, or watches it the other way.
    pub fn check_monitor(
        &self,
        what: &str,
        name: &dyn std::fmt::Display,
        (monitor, direction): (&str, Direction),
    ) -> Result<(), Refusal> {
        if self.strategy.monitor == monitor && self.direction == direction {
            return Ok(());
        }
        let word = |direction| match direction {
            Direction::Min => "min",
            Direction::Max => "max",
        };
        let message = format!(
            "{what} `{name}` follows `{monitor}` ({}), but this start asks for `{}` ({}): best would mean two things, so begin \
             a new {what}, or delete that one",
            word(direction),
            self.strategy.monitor,
            word(self.direction),
        );
        Err(Refusal::precondition("MONITOR_CONFLICT", message).with("monitor", monitor))
    }

    /// The artifact of a new run: the one asked for, or `run-{run}-model`. A run id too long for that keeps its end, which
    /// tells runs apart.
    pub fn artifact_of_new_run(&self) -> Id {
        if let Some(artifact) = &self.artifact {
            return artifact.clone();
        }
        let (run, before, after) = (&self.name.run, "run-", "-model");
        let cut = run.as_str().len().saturating_sub(MAX_ID_BYTES - before.len() - after.len());
        let kept = run.as_str().get(cut..).unwrap_or_default();
        Id::parse("artifact", &format!("{before}{kept}{after}")).unwrap_or_else(|_| run.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> StartRun {
        StartRun {
            name: RunName::parse("teams/t/projects/p/runs/r").unwrap(),
            artifact: None,
            artifact_type: "model".to_owned(),
            strategy: Strategy::default(),
            direction: Direction::Min,
            request_id: "launch".to_owned(),
            must_be_new: false,
            must_exist: false,
            config: Some("{\"lr\":0.1}".to_owned()),
            writer: String::new(),
            now_us: 7,
        }
    }

    #[test]
    fn the_same_start_again_asks_for_the_same() {
        let first = start().body();
        let again = StartRun { now_us: 8, writer: "rank-1".to_owned(), ..start() };
        assert_eq!(again.check_repeated(first), Ok(()));
        let other = Strategy { save_best_only: !start().strategy.save_best_only, ..Strategy::default() };
        for (other, said) in [
            (StartRun { strategy: other, ..start() }, "strategy"),
            (StartRun { direction: Direction::Max, ..start() }, "strategy"),
            (StartRun { artifact_type: "x".to_owned(), ..start() }, "artifact"),
            (StartRun { config: None, ..start() }, "config"),
        ] {
            let refused = other.check_repeated(first).unwrap_err();
            assert_eq!(refused.reason, "REQUEST_CONFLICT");
            assert!(refused.message.contains(said), "{refused}");
        }
        let mut by_another_version = StartRun { config: None, ..start() }.body();
        by_another_version.asked.0[0] = BODY_VERSION + 1;
        assert_eq!(start().check_repeated(by_another_version), Ok(()));
    }

    #[test]
    fn a_long_run_id_keeps_its_end_in_its_artifacts_name() {
        let long = format!("teams/t/projects/p/runs/{}z", "a".repeat(MAX_ID_BYTES - 1));
        let artifact = StartRun { name: RunName::parse(&long).unwrap(), ..start() }.artifact_of_new_run();
        assert_eq!(artifact.as_str().len(), MAX_ID_BYTES);
        assert!(artifact.as_str().ends_with("az-model"), "{artifact}");
        assert_eq!(start().artifact_of_new_run().as_str(), "run-r-model");
    }
}
