//! The arguments of the commands that name versions and delete them.

use clap::{Args, Subcommand};

/// Create, move or remove an alias of an artifact
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keepbest alias set vision/mnist/cnn production v3
  keepbest alias rm vision/mnist/cnn production")]
pub(in crate::cli) struct Alias {
    #[command(subcommand)]
    pub(in crate::cli) action: AliasAction,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum AliasAction {
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
pub(in crate::cli) struct AliasSet {
    /// Artifact; without TEAM/PROJECT/ it is in --project
    #[arg(value_name = "TEAM/PROJECT/ARTIFACT")]
    pub(in crate::cli) artifact: String,
    /// Alias; `latest`, `best`, `epoch_*` and `vN` belong to the server
    pub(in crate::cli) alias: String,
    /// Version that it shall point at, as vN or by another alias
    pub(in crate::cli) version: String,
    /// Change nothing unless the alias points at this version now; `none`: unless there is no such alias
    #[arg(long, value_name = "vN|none")]
    pub(in crate::cli) expect: Option<String>,
}

/// Remove an alias; the version that it points at stays
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  keepbest alias rm vision/mnist/cnn production")]
pub(in crate::cli) struct AliasRm {
    /// Artifact; without TEAM/PROJECT/ it is in --project
    #[arg(value_name = "TEAM/PROJECT/ARTIFACT")]
    pub(in crate::cli) artifact: String,
    /// Alias to remove
    pub(in crate::cli) alias: String,
}
