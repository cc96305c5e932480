//! The arguments: what can be typed, with the help that explains it.

mod alias;
mod files;
mod operate;
mod recover;
mod runs;
mod versions;

use clap::{Args, Parser, Subcommand};

pub(super) use self::alias::{Alias, AliasAction, AliasRm, AliasSet, Rm};
pub(super) use self::files::{Pull, Push};
pub(super) use self::operate::{CheckConfig, Gc, Migrate, Serve, Settings};
pub(super) use self::recover::{Check, Rebuild};
pub(super) use self::runs::{Action, Decisions, Runs};
pub(super) use self::versions::{Best, Mode, Show, Versions};

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

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::Arguments;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }
}
