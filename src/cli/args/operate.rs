//! The arguments of those commands that open the database and the object store themselves: for who runs the service.

use std::path::PathBuf;

use clap::Args;

/// Start the server
///
/// It prints where it listens on stdout and logs to stderr. SIGINT and SIGTERM stop it: calls that run may end, for at most
/// `limits.drain_seconds`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keepbest serve
  keepbest serve --data /var/lib/keepbest --listen 127.0.0.1:0
  keepbest serve --config FILE

Every setting of the file can also be given in the environment: KEEPBEST_LISTEN, KEEPBEST_LOG_FORMAT, ...")]
pub(in crate::cli) struct Serve {
    #[command(flatten)]
    pub(in crate::cli) settings: Settings,
    /// Where to listen; port 0 lets the system choose
    #[arg(long, value_name = "HOST:PORT")]
    pub(in crate::cli) listen: Option<String>,
    /// Bring the schema of a Postgres database up to date first; SQLite always is
    #[arg(long)]
    pub(in crate::cli) migrate: bool,
}

/// Check the settings and print what they come to, without starting anything
///
/// The settings are the defaults, then the file, then the environment, then flags; the last one wins.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  keepbest check-config --config FILE")]
pub(in crate::cli) struct CheckConfig {
    #[command(flatten)]
    pub(in crate::cli) settings: Settings,
}

/// Bring the schema of the database up to date
///
/// Once, before the servers of a new version start; those of the version before go on meanwhile. SQLite needs it only if
/// you want it done before the server starts. Run it as often as you like: what was applied stays.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keepbest migrate --config FILE
  DATABASE_URL=postgres://keepbest@db/keepbest keepbest migrate")]
pub(in crate::cli) struct Migrate {
    #[command(flatten)]
    pub(in crate::cli) settings: Settings,
}

// No doc comment: it would stand in the help of the commands that take these.
#[derive(Debug, Args)]
pub(in crate::cli) struct Settings {
    /// TOML file with settings
    #[arg(long, env = "KEEPBEST_CONFIG", value_name = "FILE")]
    pub(in crate::cli) config: Option<PathBuf>,
    /// Folder that holds the database and the chunks
    #[arg(long, value_name = "DIR")]
    pub(in crate::cli) data: Option<PathBuf>,
}

/// Free the bytes of what was deleted or given up
///
/// Works on the data folder itself, with or without a server beside it, which does the same every few minutes.
#[derive(Debug, Args)]
pub(in crate::cli) struct Gc {
    #[command(flatten)]
    pub(in crate::cli) settings: Settings,
    /// Do not wait for the graces of `collector` in the settings; downloads of deleted versions may break
    #[arg(long)]
    pub(in crate::cli) now: bool,
}
