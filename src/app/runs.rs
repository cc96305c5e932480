//! Runs: begin an attempt, end the run, look at it.

use crate::app::App;
use crate::app::Error;
use crate::db::RunPage;
use crate::db::RunPlace;
use crate::db::VersionRow;
use crate::domain::attempt::StartRun;
use crate::domain::decision::NextDue;
use crate::domain::decision::next_due;
use crate::domain::digest::Digest;
use crate::domain::filter::parse_run_filter;
use crate::domain::ids::Id;
use crate::domain::ids::ListParent;
use crate::domain::ids::ProjectName;
use crate::domain::ids::RunName;
use crate::domain::metric::Directions;
use crate::domain::refusal::Refusal;
use crate::domain::run::Run;
use crate::domain::run::RunState;
use crate::domain::strategy::SaveFrequency;
use crate::domain::strategy::Strategy;

/// Longest request id and artifact type.
pub const MAX_LABEL_BYTES: usize = 128;
/// Longest config of a run and metadata of a version, as JSON.
pub const MAX_JSON_BYTES: usize = 64 << 10;

/// What StartRun does when the run exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// Resume it, or create it.
    Allow,
    /// Refuse if it exists.
    Never,
    /// Refuse if it does not.
    Must,
}

#[derive(Clone, Debug)]
pub struct Start {
    pub project: ProjectName,
    /// Which; none: the server makes an id.
    pub run: Option<Id>,
    /// When to save.
    pub strategy: Strategy,
    /// What the framework knows of its metrics.
    pub directions: Directions,
    /// None: the run's, or `run-{run}-model`.
    pub artifact: Option<Id>,
    /// Empty: `model`.
    pub artifact_type: String,
    /// Makes a repeated start the same attempt.
    pub request_id: String,
    /// What to do if the run exists.
    pub resume: Resume,
    /// The trainer's settings, JSON.
    pub config: Option<String>,
    /// Which of the run's processes starts; none: the one whose events are decided upon.
    pub writer: Option<Id>,
}

/// An attempt that has begun.
#[derive(Clone, Debug)]
pub struct Begun {
    pub run: Run,
    pub attempt: i64,
    /// Where the events of the writer that starts go on.
    pub next_sequence: i64,
    /// The newest committed version.
    pub resume_from: Option<VersionRow>,
    /// Whether the run existed.
    pub resumed: bool,
    /// When the next decision can come.
    pub next_due: NextDue,
    /// Things that work but were perhaps not meant.
    pub warnings: Vec<String>,
}

/// Checks a label: short, and no control characters.
fn check_label(what: &str, text: &str) -> Result<(), Refusal> {
    if text.len() <= MAX_LABEL_BYTES && !text.chars().any(char::is_control) {
        return Ok(());
    }
    let message = format!("{what} must be at most {MAX_LABEL_BYTES} bytes without control characters");
    Err(Refusal::invalid("BAD_LABEL", message))
}

/// Checks free JSON by its length.
pub(crate) fn check_json(what: &str, json: Option<&String>) -> Result<(), Refusal> {
    match json {
        Some(json) if json.len() > MAX_JSON_BYTES => {
            let message =
                format!("{what} has {} bytes as JSON: at most {MAX_JSON_BYTES} are allowed", json.len());
            Err(Refusal::invalid("BAD_METADATA", message))
        }
        _ => Ok(()),
    }
}

impl App {
    /// Creates the run, or resumes it, and begins an attempt.
    pub async fn start_run(&self, start: Start) -> Result<Begun, Error> {
        check_label("request_id", &start.request_id)?;
        check_label("artifact_type", &start.artifact_type)?;
        check_json("config", start.config.as_ref())?;
        let validated = start.strategy.validate(&start.directions).map_err(|error| {
            Refusal::invalid("BAD_STRATEGY", error.to_string()).with("field", error.field())
        })?;
        let run = match start.run {
            Some(run) => run,
            // Repeated, it must be the same run: the request's id says which.
            None if !start.request_id.is_empty() => {
                let mut id = Digest::of_pieces([start.request_id.as_bytes()]).to_string();
                id.truncate(32);
                Id::parse("run", &id)?
            }
            None => Id::parse("run", &uuid::Uuid::now_v7().simple().to_string())?,
        };
        let warnings = warnings_about(&start.strategy);
        let started = self
            .db
            .start_run(StartRun {
                name: RunName { project: start.project, run },
                artifact: start.artifact,
                artifact_type: if start.artifact_type.is_empty() {
                    "model".to_owned()
                } else {
                    start.artifact_type
                },
                strategy: start.strategy,
                direction: validated.direction,
                request_id: start.request_id,
                must_be_new: start.resume == Resume::Never,
                must_exist: start.resume == Resume::Must,
                config: start.config,
                writer: start.writer.map(|id| id.as_str().to_owned()).unwrap_or_default(),
                now_us: self.clock.now_us(),
            })
            .await?;
        let resume_from = match started.resumed {
            true => self.db.newest_version_of_run(&started.run.uid).await?,
            false => None,
        };
        Ok(Begun {
            next_due: next_due(&started.run.strategy, &started.run.monitor_state),
            run: started.run,
            attempt: started.attempt,
            next_sequence: started.next_sequence,
            resume_from,
            resumed: started.resumed,
            warnings,
        })
    }

    /// Notes a sign of life of the newest attempt.
    pub async fn hear(&self, name: RunName, attempt: i64) -> Result<(), Error> {
        Ok(self.db.hear(name, attempt, self.clock.now_us()).await?)
    }

    /// Whether a run shows a sign of life now; none: it has ended.
    pub fn is_alive(&self, run: &Run) -> Option<bool> {
        (run.state == RunState::Active).then(|| run.is_alive(self.clock.now_us()))
    }

    pub async fn finish_run(&self, name: RunName, attempt: i64, state: RunState) -> Result<Run, Error> {
        Ok(self.db.finish_run(name, attempt, state, self.clock.now_us()).await?)
    }

    /// The run of this name.
    pub async fn run(&self, name: &RunName) -> Result<Run, Error> {
        Ok(self.db.run(name).await?)
    }

    /// Runs, newest first, after the one that `before` names.
    pub async fn list_runs(
        &self,
        parent: &ListParent,
        before: Option<(i64, String)>,
        limit: i64,
    ) -> Result<Vec<Run>, Error> {
        Ok(self.db.list_runs(parent, before, limit).await?)
    }

    /// The same for those that a filter matches, of as many as one look takes in.
    pub async fn list_runs_where(
        &self,
        parent: &ListParent,
        filter: &str,
        before: Option<RunPlace>,
        limit: i64,
    ) -> Result<RunPage, Error> {
        Ok(self.db.list_runs_where(parent, &parse_run_filter(filter)?, before, limit).await?)
    }
}

/// Strategies that work but surprise: each has cost somebody a model.
fn warnings_about(strategy: &Strategy) -> Vec<String> {
    let by_batch = matches!(strategy.save_frequency, SaveFrequency::Batches(_));
    let mut warnings = Vec::new();
    if by_batch && strategy.save_best_only && strategy.monitor.starts_with("val_") {
        warnings.push(format!(
            "`{}` is known at the end of an epoch, but saves are due after batches: see `when_monitor_missing`",
            strategy.monitor
        ));
    }
    if strategy.initial_value_threshold.is_some() && !strategy.save_best_only {
        warnings.push("`initial_value_threshold` has no effect without `save_best_only`".to_owned());
    }
    warnings
}
