//! The arguments of the commands that help a person to find their way.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

/// Open a page of the server in the browser, and print its address
///
/// A name alone is an artifact or a run in --project or, where there is neither, a team.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keepbest open                      the runs of --project
  keepbest open vision/mnist/run-7   a run
  keepbest open vision/mnist/cnn     an artifact
  keepbest open --print              only print the address")]
pub(in crate::cli) struct Open {
    /// A run, an artifact, a project or a team [default: --project]
    #[arg(value_name = "NAME|TEAM/PROJECT[/NAME]")]
    pub(in crate::cli) name: Option<String>,
    /// Start no browser
    #[arg(long)]
    pub(in crate::cli) print: bool,
}

/// Print the completions of commands and options for a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keepbest completions bash > ~/.local/share/bash-completion/completions/keepbest
  keepbest completions zsh > ~/.zfunc/_keepbest
  keepbest completions fish > ~/.config/fish/completions/keepbest.fish")]
pub(in crate::cli) struct Completions {
    /// Shell that reads them
    pub(in crate::cli) shell: Shell,
}

/// Write a page for `man` of each command into a folder
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keepbest man ~/.local/share/man/man1
  man keepbest-push")]
pub(in crate::cli) struct Man {
    /// Folder, which is made if it is not there
    #[arg(value_name = "DIR")]
    pub(in crate::cli) directory: PathBuf,
}
