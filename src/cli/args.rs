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

Names:
  TEAM/PROJECT/RUN, TEAM/PROJECT/ARTIFACT and TEAM/PROJECT/ARTIFACT:ALIAS; the alias may be a version as v3.
  Without TEAM/PROJECT/ they are looked up in --project. Full names (teams/TEAM/projects/...) work too.

Epochs and batches are counted from 1, as Keras prints them. With --json, in --filter and in the aliases epoch_N
they are counted from 0, as trainers report them.

Exit codes: 0 done, 1 failed, 2 wrong arguments, 3 not found.";

const FILTER: &str = "Comparisons joined by AND, over number, epoch and batch (both from 0), step, size_bytes, create_time, \
                      run and metrics.NAME";

const ORDER: &str = "number, create_time, epoch, size_bytes or metrics.NAME, then optionally asc or desc [default: number desc]";

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
    /// Print one JSON document; epochs and batches are counted from 0, sizes are bytes, times RFC 3339
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
    /// Project; `TEAM/-` for all of a team [default: --project]
    #[arg(value_name = "TEAM/PROJECT")]
    pub(super) parent: Option<String>,
    /// How many at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) limit: u32,
}

/// Show a run, an artifact, or a version with its files
///
/// Of a run and an artifact with the same name the artifact is shown; the full name teams/TEAM/projects/PROJECT/runs/RUN
/// shows the run.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keepbest show run-7                      a run in --project
  keepbest show vision/mnist/cnn           an artifact with its aliases
  keepbest show vision/mnist/cnn:best      a version with its files")]
pub(super) struct Show {
    /// TEAM/PROJECT/RUN, TEAM/PROJECT/ARTIFACT or TEAM/PROJECT/ARTIFACT:ALIAS
    pub(super) name: String,
}

/// Find the best version in a team, a project, an artifact or a run
///
/// The best value wins; of equal values the one that was committed first. An infinity is a number like others, as in Keras;
/// NaN is never best.
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
    /// Look in one run
    #[arg(long, value_name = "TEAM/PROJECT/RUN")]
    pub(super) run: Option<String>,
    /// Metric to compare [default: the monitor that all artifacts there share]
    #[arg(long)]
    pub(super) metric: Option<String>,
    /// Which values are better; required with a metric that is not the monitor
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
    /// How many at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) limit: u32,
}

/// Download a version, in parallel and verified
///
/// Each file gets its name when all its bytes match their digest. Started again after an interruption it goes on with what
/// is verified. Files that are there already and equal are left alone; those that differ are replaced.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keepbest pull cnn:best
  keepbest pull vision/mnist/cnn:v3 ./model")]
pub(super) struct Pull {
    /// Version by its alias or number; without TEAM/PROJECT/ it is in --project
    #[arg(value_name = "TEAM/PROJECT/ARTIFACT:ALIAS")]
    pub(super) version: String,
    /// Folder to write to [default: ARTIFACT-vN here]
    #[arg(value_name = "DIR")]
    pub(super) directory: Option<PathBuf>,
}

/// Store a file or a directory as the next version of an artifact
///
/// It is kept whatever its metrics are; `best` moves when they are better. An artifact that does not exist is made.
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
    /// A metric of this model; may be repeated
    #[arg(long = "metric", value_name = "NAME=VALUE", value_parser = parse_metric)]
    pub(super) metrics: Vec<(String, f64)>,
    /// Metric that `best` follows, when the artifact is new [default: the first metric]
    #[arg(long)]
    pub(super) monitor: Option<String>,
    /// Which values of it are better, when the artifact is new [default: found out from its name]
    #[arg(long)]
    pub(super) mode: Option<Mode>,
    /// Epoch of this model, counted from 1
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(i64).range(1..))]
    pub(super) epoch: i64,
}

/// Why was my model (not) saved? List the decisions of a run, oldest first
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
    /// How many at most
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) limit: u32,
}

/// Make, move or remove an alias of an artifact
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

/// Make an alias or move it
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
    /// Not `latest`, `best`, `epoch_*` or `vN`: those belong to the server
    pub(super) alias: String,
    /// vN or another alias
    pub(super) version: String,
    /// Only if the alias points at this version now; `none`: only if there is no such alias
    #[arg(long, value_name = "vN|none")]
    pub(super) expect: Option<String>,
}

/// Remove an alias; its version stays
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  keepbest alias rm vision/mnist/cnn production")]
pub(super) struct AliasRm {
    /// Artifact; without TEAM/PROJECT/ it is in --project
    #[arg(value_name = "TEAM/PROJECT/ARTIFACT")]
    pub(super) artifact: String,
    /// Its name
    pub(super) alias: String,
}

/// Delete a version
///
/// Its number is never used again; `latest` and `best` move to what is right then.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  keepbest rm vision/mnist/cnn:v3")]
pub(super) struct Rm {
    /// Version by its number; without TEAM/PROJECT/ it is in --project
    #[arg(value_name = "TEAM/PROJECT/ARTIFACT:vN")]
    pub(super) version: String,
    /// Delete it although aliases of yours point at it; they go with it
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
