//! The arguments of `keepbest rm`.

use clap::Args;
use clap::ValueEnum;

/// Delete versions, runs, artifacts and projects
///
/// The number of a version is never used again. `latest` and `best` move to the versions that are the latest and the best without it.
/// More than one version goes with `--yes` alone; without it the command says what would go, and what that frees. The bytes are
/// freed a while later (`collector.deleted_grace_seconds`).
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keepbest rm vision/mnist/cnn:v3                               a version
  keepbest rm vision/mnist/cnn --filter 'epoch < 10' --yes      versions, but for `best` and those with aliases of yours
  keepbest rm vision/mnist/cnn --keep-newest 5 --yes            all but the newest five
  keepbest rm vision/mnist/sweep-17 --kind run --yes            a run with its versions
  keepbest rm vision/mnist/cnn --kind artifact                  what deleting the artifact would free
  keepbest rm vision/mnist --kind project --yes                 all runs and artifacts of a project")]
pub(in crate::cli) struct Rm {
    /// Version by its number, artifact, run or project; without TEAM/PROJECT/ it is in --project
    #[arg(value_name = "NAME")]
    pub(in crate::cli) name: String,
    /// What NAME is [default: a version with `:vN`; else the artifact or run of that name]
    #[arg(long)]
    pub(in crate::cli) kind: Option<Kind>,
    /// Of an artifact, delete the versions that match, as in `keepbest versions --filter`
    #[arg(long)]
    pub(in crate::cli) filter: Option<String>,
    /// Of an artifact, delete versions but for the newest N of those that match
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    pub(in crate::cli) keep_newest: Option<i64>,
    /// With --filter or --keep-newest, delete the best version too
    #[arg(long)]
    pub(in crate::cli) delete_best: bool,
    /// Delete it even if aliases of yours point at it, which are removed too, and even if a run is alive
    #[arg(long)]
    pub(in crate::cli) force: bool,
    /// Only say what would be deleted
    #[arg(long, conflicts_with = "yes")]
    pub(in crate::cli) dry_run: bool,
    /// Delete more than one version
    #[arg(long)]
    pub(in crate::cli) yes: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Kind {
    Run,
    Artifact,
    Project,
}
