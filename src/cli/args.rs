//! The arguments: what can be typed, with the help that explains it.

mod admin;
mod alias;
mod files;
mod listing;
mod operate;
mod recover;
pub(super) mod remove;
mod runs;
mod versions;

use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};

pub(super) use self::admin::{
    Admin, AdminAction, Audit, CreateTeam, CreateToken, Init, Members, RemoveMember, RevokeToken, SetMember,
    Teams, Tokens, WhoAmI,
};
pub(super) use self::alias::{Alias, AliasAction, AliasRm, AliasSet};
pub(super) use self::files::{Pull, Push};
pub(super) use self::listing::Listing;
pub(super) use self::operate::{CheckConfig, Gc, Migrate, Serve, Settings};
pub(super) use self::recover::{Check, Rebuild};
pub(super) use self::runs::{Action, Artifacts, Decisions, Projects, Runs};
pub(super) use self::versions::{Best, Mode, Show, Versions, Watch};

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

Epochs:
  Epochs and batches are counted from 1, as Keras prints them: in what is printed, in --epoch, in --filter and in the
  aliases of short names, so that cnn:epoch_7 is epoch 7. Other programs, the fields `epoch` and `batch` of --json and full
  names count from 0; beside these fields stand `epoch_number` and `batch_number`, from 1.

Lists:
  A table has the first 50 lines unless --limit or --all says otherwise, and a note on stderr tells how many there are. JSON is
  whole, unless --limit cuts it: then `next_page_token` is what --page-token takes.

Exit codes: 0 done, 1 failed, 2 wrong arguments, 3 not found, 130 and 143 stopped by Ctrl-C and by SIGTERM. An error goes
to stderr, with --json as {\"error\": {\"kind\", \"message\", \"reason\", \"exit_code\"}}.";

/// Where the options of all commands stand in the help.
const GLOBAL: &str = "Options of all commands";

#[derive(Debug, Args)]
pub(super) struct Global {
    /// Address of the server: http://HOST:PORT, or https://HOST:PORT for one with TLS
    #[arg(
        long,
        global = true,
        help_heading = GLOBAL,
        env = "KEEPBEST_ADDRESS",
        default_value = "http://127.0.0.1:7400",
        value_name = "URL"
    )]
    pub(super) server: String,
    /// File of the authorities whose servers are trusted at an https address [default: those of the system]
    #[arg(long, global = true, help_heading = GLOBAL, env = "KEEPBEST_CA", value_name = "FILE", value_parser = path())]
    pub(super) ca: Option<PathBuf>,
    /// File of the certificate to show to a server that asks for one
    #[arg(long, global = true, help_heading = GLOBAL, env = "KEEPBEST_CLIENT_CERT", value_name = "FILE", value_parser = path())]
    pub(super) client_cert: Option<PathBuf>,
    /// File of its private key
    #[arg(long, global = true, help_heading = GLOBAL, env = "KEEPBEST_CLIENT_KEY", value_name = "FILE", value_parser = path())]
    pub(super) client_key: Option<PathBuf>,
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
    /// File with the API token, for a server that asks who calls; `KEEPBEST_TOKEN` may hold the token itself
    #[arg(long, global = true, help_heading = GLOBAL, env = "KEEPBEST_TOKEN_FILE", value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// Print JSON: one document, sizes in bytes and times as RFC 3339
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub(super) json: bool,
}

/// Takes an empty one too: which variable is empty, `config` tells better.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    Serve(Serve),
    CheckConfig(CheckConfig),
    Migrate(Migrate),
    Projects(Projects),
    Runs(Runs),
    Artifacts(Artifacts),
    Show(Show),
    Best(Best),
    Versions(Versions),
    Watch(Watch),
    Pull(Pull),
    Push(Push),
    Decisions(Decisions),
    Alias(Alias),
    Rm(remove::Rm),
    #[command(name = "whoami")]
    WhoAmI(WhoAmI),
    Admin(Admin),
    Gc(Gc),
    Check(Check),
    Rebuild(Rebuild),
}

#[cfg(test)]
mod tests {
    use clap::{Command, CommandFactory as _};

    use super::Arguments;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    /// Every command with its name, as it is typed.
    fn commands(of: &Command, before: &str) -> Vec<(String, Command)> {
        let mut all = Vec::new();
        for command in of.get_subcommands().filter(|command| command.get_name() != "help") {
            let name = format!("{before}{}", command.get_name());
            all.extend(commands(command, &format!("{name} ")));
            all.push((name, command.clone()));
        }
        all
    }

    #[test]
    fn every_command_has_examples_that_name_it() {
        for (name, command) in commands(&Arguments::command(), "") {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example") && help.contains(&format!("keepbest {name}")), "{name}: {help}");
        }
    }

    #[test]
    fn the_readme_lists_every_command() {
        let readme = include_str!("../../README.md");
        for (name, _) in commands(&Arguments::command(), "") {
            // A group of commands is listed by its members.
            let is_there = readme.contains(&format!("| `keepbest {name}"))
                || readme.contains(&format!("`keepbest {name}`"))
                || readme.contains(&format!("`{name}`"));
            assert!(is_there || name == "alias", "`keepbest {name}` is not in README.md");
        }
    }
}
