//! The command line: reads arguments, calls the server through the client, prints for people or as JSON.
//!
//! It decides nothing itself. Each command is a function of its arguments and a `Context`.

mod admin;
mod alias;
mod args;
mod artifacts;
mod context;
mod decisions;
mod epochs;
mod failure;
mod human;
mod json;
mod listing;
mod local;
mod meant;
mod names;
mod output;
mod projects;
mod pull;
mod push;
mod remove;
mod runs;
mod serve;
mod show;
mod versions;
mod watch;
mod words;

use std::process::ExitCode;

use clap::Parser as _;

use self::args::{Arguments, Command};
use self::context::Context;
use self::failure::Failure;
use crate::config;

/// Runs the command that the arguments of this process name, and returns the exit code.
pub fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return output::wrong_arguments(&error, wants_json()),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let failure = Failure::failed(format!("no threads can be started: {error}"));
            return report(&failure, arguments.global.json);
        }
    };
    let json = arguments.global.json;
    match runtime.block_on(execute(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if failure.is_interrupted() {
                // Not after the file that is just being read to its end.
                runtime.shutdown_background();
            }
            report(&failure, json)
        }
    }
}

/// Whether arguments that could not be read ask for JSON.
fn wants_json() -> bool {
    config::arguments().any(|argument| argument == "--json")
}

async fn execute(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { command, global } = arguments;
    config::check_environment()?;
    let mut context = Context::new(global)?;
    let context = &mut context;
    match command {
        Command::Serve(serve) => serve::serve(context, serve).await,
        Command::CheckConfig(settings) => serve::check_config(context, &settings),
        Command::Migrate(migrate) => serve::migrate(context, migrate).await,
        Command::Projects(projects) => projects::list(context, projects).await,
        Command::Runs(runs) => runs::list(context, runs).await,
        Command::Artifacts(artifacts) => artifacts::list(context, artifacts).await,
        Command::Show(show) => show::show(context, show).await,
        Command::Best(best) => show::best(context, best).await,
        Command::Versions(versions) => versions::list(context, versions).await,
        Command::Watch(watch) => watch::watch(context, watch).await,
        Command::Pull(pull) => pull::pull(context, pull).await,
        Command::Push(push) => push::push(context, push).await,
        Command::Decisions(decisions) => decisions::list(context, decisions).await,
        Command::Alias(args::Alias { action: args::AliasAction::Set(set) }) => alias::set(context, set).await,
        Command::Alias(args::Alias { action: args::AliasAction::Rm(rm) }) => alias::remove(context, rm).await,
        Command::Rm(rm) => remove::remove(context, rm).await,
        Command::WhoAmI(_) => admin::who_am_i(context).await,
        Command::Admin(arguments) => admin::admin(context, arguments).await,
        Command::Gc(gc) => local::collect(context, gc).await,
        Command::Check(check) => local::check(context, check).await,
        Command::Rebuild(rebuild) => local::rebuild(context, rebuild).await,
    }
}

/// Prints what went wrong. It is no failure if the reader of the output has read enough (`| head`).
fn report(failure: &Failure, json: bool) -> ExitCode {
    if !failure.is_closed_output() {
        output::failure(failure, json);
    }
    failure.exit_code()
}
