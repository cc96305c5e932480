//! The arguments of the commands that find versions.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::Listing;

const FILTER: &str = "Only versions for which this is true: comparisons joined by AND, of number, epoch, batch (both from 1), \
                      step, size_bytes, create_time, run and metrics.NAME";

const ORDER: &str = "List in this order: by number, create_time, epoch, size_bytes or metrics.NAME, then asc or desc \
                     [default: number desc]";

/// Show a run, an artifact, or a version with its files
///
/// If a run and an artifact have the same name, the artifact is shown; the run's full name,
/// teams/TEAM/projects/PROJECT/runs/RUN, shows the run.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keepbest show run-7                      a run in --project
  keepbest show vision/mnist/cnn           an artifact with its aliases
  keepbest show vision/mnist/cnn:best      a version with its files")]
pub(in crate::cli) struct Show {
    /// TEAM/PROJECT/RUN, TEAM/PROJECT/ARTIFACT or TEAM/PROJECT/ARTIFACT:ALIAS; without TEAM/PROJECT/ in --project
    pub(in crate::cli) name: String,
}

/// Find the best version in a team, a project, an artifact or a run
///
/// A name alone is an artifact or a run in --project or, where there is neither, a team; what is printed says which.
///
/// The best value wins, and among equal values the version that was saved first. Infinities are compared like other numbers, as
/// in Keras; NaN is never best.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keepbest best cnn                                      an artifact in --project
  keepbest best vision/mnist                             a project
  keepbest best vision --metric val_accuracy --mode max  a team
  keepbest best --run vision/mnist/run-7")]
pub(in crate::cli) struct Best {
    /// Where to look [default: --project]
    #[arg(value_name = "NAME|TEAM/PROJECT[/NAME]", conflicts_with = "run")]
    pub(in crate::cli) parent: Option<String>,
    /// Look only among the versions of this run
    #[arg(long, value_name = "TEAM/PROJECT/RUN")]
    pub(in crate::cli) run: Option<String>,
    /// Metric to compare [default: the one that the artifacts there watch, if it is the same for all]
    #[arg(long)]
    pub(in crate::cli) metric: Option<String>,
    /// Which values are better; needed with a metric that the artifacts do not watch
    #[arg(long)]
    pub(in crate::cli) mode: Option<Mode>,
}

/// List the versions of an artifact, newest first
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keepbest versions cnn
  keepbest versions vision/mnist/cnn --filter 'epoch >= 3 AND metrics.val_loss < 0.2'
  keepbest versions vision/mnist/cnn --order-by 'metrics.val_loss asc' --limit 5")]
pub(in crate::cli) struct Versions {
    /// Artifact; without TEAM/PROJECT/ it is in --project
    #[arg(value_name = "TEAM/PROJECT/ARTIFACT")]
    pub(in crate::cli) artifact: String,
    #[arg(long, help = FILTER, default_value = "", hide_default_value = true)]
    pub(in crate::cli) filter: String,
    #[arg(long, help = ORDER, default_value = "", hide_default_value = true, value_name = "FIELD [asc|desc]")]
    pub(in crate::cli) order_by: String,
    #[command(flatten)]
    pub(in crate::cli) list: Listing,
}

/// Watch versions as they become visible, and run a command for each
///
/// Each version comes once and in its order, also while servers restart. A watch that is begun again with `--cursor-file` goes on where
/// it was: a version whose command did not end well comes again.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keepbest watch cnn
  keepbest watch vision --best --json                    each new best of a team, a line of JSON each
  keepbest watch cnn --best --cursor-file cnn.cursor --exec ./evaluate --model {path}")]
pub(in crate::cli) struct Watch {
    /// An artifact, a run, a project or a team [default: --project]
    #[arg(value_name = "NAME|TEAM/PROJECT[/NAME]", conflicts_with = "run")]
    pub(in crate::cli) parent: Option<String>,
    /// Only the versions of this run
    #[arg(long, value_name = "TEAM/PROJECT/RUN")]
    pub(in crate::cli) run: Option<String>,
    /// Only versions that became the best of their artifact
    #[arg(long)]
    pub(in crate::cli) best: bool,
    /// Begin with the first version that is still there, not with the next one
    #[arg(long, conflicts_with = "cursor")]
    pub(in crate::cli) from_start: bool,
    /// Begin behind this place, as `--json` prints it
    #[arg(long)]
    pub(in crate::cli) cursor: Option<String>,
    /// File that keeps the place, so that the next watch goes on behind it
    #[arg(long, value_name = "FILE", conflicts_with = "cursor")]
    pub(in crate::cli) cursor_file: Option<PathBuf>,
    /// End after so many versions
    #[arg(long, value_name = "N")]
    pub(in crate::cli) count: Option<u64>,
    /// Folder that a version is pulled to for --exec [default: ARTIFACT-vN in the current one]
    #[arg(long, value_name = "DIR", requires = "exec")]
    pub(in crate::cli) directory: Option<PathBuf>,
    /// Command to run for each version, once it is pulled; the last option. `{path}` in it is the folder, `{version}` the name. If it
    /// fails the watch ends
    #[arg(long, value_name = "COMMAND", num_args = 1.., allow_hyphen_values = true)]
    pub(in crate::cli) exec: Vec<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(in crate::cli) enum Mode {
    /// smaller is better
    Min,
    /// larger is better
    Max,
}
