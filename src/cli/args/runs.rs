//! The arguments of the commands about runs: which there are, and what was decided in them.

use clap::{Args, ValueEnum};

use super::Listing;

const FILTER: &str = "Only runs that match, by run, state, artifact, monitor, config (config : \"adam\"), create_time, heard_time, \
                      attempt, last_epoch (from 1) or event_count";

/// List the projects of a team
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keepbest projects
  keepbest projects vision --all")]
pub(in crate::cli) struct Projects {
    /// Team [default: that of --project]
    #[arg(value_name = "TEAM")]
    pub(in crate::cli) team: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) list: Listing,
}

/// List artifacts, by project and name
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keepbest artifacts vision/mnist
  keepbest artifacts vision --limit 10   of all projects of the team")]
pub(in crate::cli) struct Artifacts {
    /// Project, or a team for all of its projects [default: --project]
    #[arg(value_name = "TEAM[/PROJECT]")]
    pub(in crate::cli) parent: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) list: Listing,
}

/// List runs, newest first
///
/// Each push is a run of its own, named `push-` and 16 or more hexadecimal digits. A table leaves them out unless --pushes or --filter asks for
/// them; JSON has all.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keepbest runs vision/mnist --limit 10
  keepbest runs vision/mnist --filter 'state = \"ACTIVE\" AND config : \"adam\"'")]
pub(in crate::cli) struct Runs {
    /// Project, or a team for all of its projects [default: --project]
    #[arg(value_name = "TEAM[/PROJECT]")]
    pub(in crate::cli) parent: Option<String>,
    /// List the runs too that `keepbest push` made, one a push
    #[arg(long)]
    pub(in crate::cli) pushes: bool,
    #[arg(long, help = FILTER)]
    pub(in crate::cli) filter: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) list: Listing,
}

/// List why each model of a run was saved or not
///
/// The newest decisions are listed, of these the oldest first. BECAME says what a save led to: a version, `open` while its files may
/// still come, `given up` if they never came, `deleted`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keepbest decisions vision/mnist/run-7
  keepbest decisions vision/mnist/run-7 --epoch 12
  keepbest decisions vision/mnist/run-7 --action skip")]
pub(in crate::cli) struct Decisions {
    /// Run; without TEAM/PROJECT/ it is in --project
    #[arg(value_name = "TEAM/PROJECT/RUN")]
    pub(in crate::cli) run: String,
    /// Only this epoch, counted from 1
    #[arg(long, value_parser = clap::value_parser!(i64).range(1..))]
    pub(in crate::cli) epoch: Option<i64>,
    /// Only this action
    #[arg(long)]
    pub(in crate::cli) action: Option<Action>,
    #[command(flatten)]
    pub(in crate::cli) list: Listing,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(in crate::cli) enum Action {
    Save,
    Skip,
    Fail,
}
