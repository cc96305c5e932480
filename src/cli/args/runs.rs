//! The arguments of the commands about runs: which there are, and what was decided in them.

use clap::{Args, ValueEnum};

/// List runs, newest first
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  keepbest runs vision/mnist --limit 10")]
pub(in crate::cli) struct Runs {
    /// Project; `TEAM/-` for all projects of a team [default: --project]
    #[arg(value_name = "TEAM/PROJECT")]
    pub(in crate::cli) parent: Option<String>,
    /// List at most this many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub(in crate::cli) limit: u32,
}

/// List why each model of a run was saved or not, oldest first
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
    /// List at most this many
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(in crate::cli) limit: u32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(in crate::cli) enum Action {
    Save,
    Skip,
    Fail,
}
