//! The arguments: what can be typed, with the help that explains it.

mod operate;
mod recover;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(super) use self::operate::{CheckConfig, Gc, Migrate, Serve, Settings};
pub(super) use self::recover::{Check, Rebuild};

/// A checkpoint service: decides, stores, versions and finds the best model of every training run.
#[derive(Debug, Parser)]
#[command(name = "keepbest", version, max_term_width = 100, after_help = EXAMPLES, after_long_help = LONG_HELP)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  keepbest serve                                    start a server on this machine
  keepbest push model.h5 cnn --metric val_loss=0.21 store a file as the next version of `cnn`
  keepbest best                                     the best version in default/default
  keepbest pull cnn:best                            download it, verified";

const LONG_HELP: &str = "\
Examples:
  keepbest serve                                    start a server on this machine
  keepbest push model.h5 cnn --metric val_loss=0.21 store a file as the next version of `cnn`
  keepbest best                                     the best version in default/default
  keepbest pull cnn:best                            download it, verified

Words:
  run        one training job; it may be restarted as often as it takes
  artifact   a series of saved models under one name; each of them is a version: v0, v1, ...
  alias      a name of a version that can move to another one; the server keeps `latest` and `best`, others are yours

Names:
  TEAM/PROJECT/RUN, TEAM/PROJECT/ARTIFACT, and TEAM/PROJECT/ARTIFACT:ALIAS for a version, by an alias or by its number
  as v3. Without TEAM/PROJECT/ a name is looked up in --project. Full names (teams/TEAM/projects/...) work too.

Epochs and batches are counted from 1, as Keras prints them; but from 0, as trainers report them, with --json, in
--filter and in the aliases epoch_N.

Exit codes: 0 done, 1 failed, 2 wrong arguments, 3 not found.";

const FILTER: &str = "Only versions for which this is true: comparisons joined by AND, of number, epoch, batch (both from 0), \
                      step, size_bytes, create_time, run and metrics.NAME";

const ORDER: &str = "List in this order: by number, create_time, epoch, size_bytes or metrics.NAME, then asc or desc \
                     [default: number desc]";

/// Where the options of all commands stand in the help.
const GLOBAL: &str = "Options of all commands";

#[derive(Debug, Args)]
pub(super) struct Global {
    /// Address of the server
    #[arg(
        long,
        global = true,
        help_heading = GLOBAL,
        env = "KEEPBEST_ADDRESS",
        default_value = "http://127.0.0.1:7400",
        value_name = "URL"
    )]
    pub(super) server: String,
    /// Where names without a project are looked up
    #[arg(
        long,
        global = true,
        help_heading = GLOBAL,
        env = "KEEPBEST_PROJECT",
        default_value = "default/default",
        value_name = "TEAM/PROJECT"
    )]
    pub(super) project: String,
    /// Print JSON: one document, with epochs and batches from 0, sizes in bytes and times as RFC 3339
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    Serve(Serve),
    CheckConfig(CheckConfig),
    Migrate(Migrate),
    Runs(Runs),
    Show(Show),
    Best(Best),
    Versions(Versions),
    Pull(Pull),
    Push(Push),
    Decisions(Decisions),
    Alias(Alias),
    Rm(Rm),
    Gc(Gc),
    Check(Check),
    Rebuild(Rebuild),
}

/// List runs, newest first
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  keepbest runs vision/mnist --limit 10")]
pub(super) struct Runs {
    /// Project; `TEAM/-` for all projects of a team [default: --project]
    #[arg(value_name = "TEAM/PROJECT")]
    pub(super) parent: Option<String>,
    /// List at most this many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) limit: u32,
}

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
pub(super) struct Show {
    /// TEAM/PROJECT/RUN, TEAM/PROJECT/ARTIFACT or TEAM/PROJECT/ARTIFACT:ALIAS; without TEAM/PROJECT/ in --project
    pub(super) name: String,
}

/// Find the best version in a team, a project, an artifact or a run
///
/// The best value wins, and among equal values the version that was saved first. Infinities are compared like other numbers, as
/// in Keras; NaN is never best.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keepbest best vision/mnist
  keepbest best vision --metric val_accuracy --mode max
  keepbest best --run vision/mnist/run-7")]
pub(super) struct Best {
    /// Where to look [default: --project]
    #[arg(value_name = "TEAM[/PROJECT[/ARTIFACT]]", conflicts_with = "run")]
    pub(super) parent: Option<String>,
    /// Look only among the versions of this run
    #[arg(long, value_name = "TEAM/PROJECT/RUN")]
    pub(super) run: Option<String>,
    /// Metric to compare [default: the one that the artifacts there watch, if it is the same for all]
    #[arg(long)]
    pub(super) metric: Option<String>,
    /// Which values are better; needed with a metric that the artifacts do not watch
    #[arg(long)]
    pub(super) mode: Option<Mode>,
}

/// List the versions of an artifact, newest first
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keepbest versions cnn
  keepbest versions vision/mnist/cnn --filter 'epoch >= 3 AND metrics.val_loss < 0.2'
  keepbest versions vision/mnist/cnn --order-by 'metrics.val_loss asc' --limit 5")]
pub(super) struct Versions {
    /// Artifact; without TEAM/PROJECT/ it is in --project
    #[arg(value_name = "TEAM/PROJECT/ARTIFACT")]
    pub(super) artifact: String,
    #[arg(long, help = FILTER, default_value = "", hide_default_value = true)]
    pub(super) filter: String,
    #[arg(long, help = ORDER, default_value = "", hide_default_value = true, value_name = "FIELD [asc|desc]")]
    pub(super) order_by: String,
    /// List at most this many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) limit: u32,
}

/// Download a version and verify every byte of it
///
/// A file appears only when all its bytes match their digest. Started again after an interruption, the download goes on where it
/// was. Files that are there already are left alone if they are equal and replaced if they differ; other files stay.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keepbest pull cnn:best
  keepbest pull vision/mnist/cnn:v3 ./model")]
pub(super) struct Pull {
    /// Version by its alias or number; without TEAM/PROJECT/ it is in --project
    #[arg(value_name = "TEAM/PROJECT/ARTIFACT:ALIAS")]
    pub(super) version: String,
    /// Folder to write to [default: ARTIFACT-vN in the current one]
    #[arg(value_name = "DIR")]
    pub(super) directory: Option<PathBuf>,
}

/// Store a file or a directory as the next version of an artifact
///
/// It is stored whatever its metrics are, and becomes `best` if they are better. The artifact is created if it does not exist.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keepbest push model.h5 cnn --metric val_loss=0.21 --metric val_accuracy=0.93
  keepbest push saved_model/ vision/mnist/cnn --metric f1=0.8 --monitor f1 --mode max --epoch 12")]
pub(super) struct Push {
    /// File or directory
    pub(super) path: PathBuf,
    /// Artifact; without TEAM/PROJECT/ it is in --project
    #[arg(value_name = "TEAM/PROJECT/ARTIFACT")]
    pub(super) artifact: String,
    /// A metric of this model; give the option once for each
    #[arg(long = "metric", value_name = "NAME=VALUE", value_parser = parse_metric)]
    pub(super) metrics: Vec<(String, f64)>,
    /// Metric that decides which version is `best`, if the artifact is new [default: the first --metric]
    #[arg(long)]
    pub(super) monitor: Option<String>,
    /// Which of its values are better, if the artifact is new [default: judged by its name]
    #[arg(long)]
    pub(super) mode: Option<Mode>,
    /// Epoch of this model, counted from 1
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(i64).range(1..))]
    pub(super) epoch: i64,
}

/// List why each model of a run was saved or not, oldest first
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keepbest decisions vision/mnist/run-7
  keepbest decisions vision/mnist/run-7 --epoch 12
  keepbest decisions vision/mnist/run-7 --action skip")]
pub(super) struct Decisions {
    /// Run; without TEAM/PROJECT/ it is in --project
    #[arg(value_name = "TEAM/PROJECT/RUN")]
    pub(super) run: String,
    /// Only this epoch, counted from 1
    #[arg(long, value_parser = clap::value_parser!(i64).range(1..))]
    pub(super) epoch: Option<i64>,
    /// Only this action
    #[arg(long)]
    pub(super) action: Option<Action>,
    /// List at most this many
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) limit: u32,
}

/// Create, move or remove an alias of an artifact
#[derive(Debug, Args)]
pub(super) struct Alias {
    #[command(subcommand)]
    pub(super) action: AliasAction,
}

#[derive(Debug, Subcommand)]
pub(super) enum AliasAction {
    Set(AliasSet),
    Rm(AliasRm),
}

/// Create an alias, or move it to another version
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keepbest alias set vision/mnist/cnn production v3
  keepbest alias set vision/mnist/cnn production best --expect v3     only if it points at v3 now
  keepbest alias set vision/mnist/cnn production v3 --expect none     only if there is none")]
pub(super) struct AliasSet {
    /// Artifact; without TEAM/PROJECT/ it is in --project
    #[arg(value_name = "TEAM/PROJECT/ARTIFACT")]
    pub(super) artifact: String,
    /// Alias; `latest`, `best`, `epoch_*` and `vN` belong to the server
    pub(super) alias: String,
    /// Version that it shall point at, as vN or by another alias
    pub(super) version: String,
    /// Change nothing unless the alias points at this version now; `none`: unless there is no such alias
    #[arg(long, value_name = "vN|none")]
    pub(super) expect: Option<String>,
}

/// Remove an alias; the version that it points at stays
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  keepbest alias rm vision/mnist/cnn production")]
pub(super) struct AliasRm {
    /// Artifact; without TEAM/PROJECT/ it is in --project
    #[arg(value_name = "TEAM/PROJECT/ARTIFACT")]
    pub(super) artifact: String,
    /// Alias to remove
    pub(super) alias: String,
}

/// Delete a version
///
/// Its number is never used again. `latest` and `best` move to the versions that are the latest and the best without it.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  keepbest rm vision/mnist/cnn:v3")]
pub(super) struct Rm {
    /// Version by its number; without TEAM/PROJECT/ it is in --project
    #[arg(value_name = "TEAM/PROJECT/ARTIFACT:vN")]
    pub(super) version: String,
    /// Delete it even if aliases of yours point at it; they are removed too
    #[arg(long)]
    pub(super) force: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Mode {
    /// smaller is better
    Min,
    /// larger is better
    Max,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Action {
    Save,
    Skip,
    Fail,
}

fn parse_metric(text: &str) -> Result<(String, f64), String> {
    let (name, value) = text.split_once('=').ok_or("it must be NAME=VALUE, as `val_loss=0.21`")?;
    if name.is_empty() {
        return Err("the name before `=` is empty".to_owned());
    }
    let value = value.parse().map_err(|_| format!("`{value}` is not a number"))?;
    Ok((name.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::{Arguments, parse_metric};

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_metric_is_a_name_and_a_number() {
        assert_eq!(parse_metric("val_loss=0.21"), Ok(("val_loss".to_owned(), 0.21)));
        assert!(parse_metric("a=NaN").unwrap().1.is_nan());
        for text in ["val_loss", "=1", "a=b", "a="] {
            assert!(parse_metric(text).is_err(), "{text}");
        }
    }
}
