//! The arguments of the commands that open the database and the object store themselves, for whoever runs the service.

use std::path::PathBuf;

use clap::Args;

/// Start the server
///
/// It prints its address on stdout and logs to stderr. SIGINT or SIGTERM stops it; calls in progress then have
/// `limits.drain_seconds` to finish.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keepbest serve
  keepbest serve --data /var/lib/keepbest --listen 127.0.0.1:0
  keepbest serve --config FILE

Every setting of the file can also be given in the environment: KEEPBEST_LISTEN, KEEPBEST_LOG_FORMAT, ... \
`keepbest check-config` lists them all.")]
pub(in crate::cli) struct Serve {
    #[command(flatten)]
    pub(in crate::cli) settings: Settings,
    /// Address to listen at; port 0 lets the system choose one [default: 127.0.0.1:7400]
    #[arg(long, value_name = "HOST:PORT")]
    pub(in crate::cli) listen: Option<String>,
    /// Bring the schema of a Postgres database up to date first; that of SQLite is brought up to date anyway
    #[arg(long)]
    pub(in crate::cli) migrate: bool,
}

/// Check the settings and print them, without starting anything
///
/// A flag overrides the environment, the environment overrides the file, and the file overrides the defaults.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  keepbest check-config --config FILE")]
pub(in crate::cli) struct CheckConfig {
    #[command(flatten)]
    pub(in crate::cli) settings: Settings,
}

/// Bring the schema of the database up to date
///
/// Run it once before the servers of a new version start; those of the version before may go on meanwhile. A server on SQLite
/// does it by itself when it starts. Running it again does no harm.
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
    /// TOML file with the settings
    #[arg(long, env = "KEEPBEST_CONFIG", value_name = "FILE")]
    pub(in crate::cli) config: Option<PathBuf>,
    /// Folder of the SQLite database and of what is stored, where no others are set [default: ./keepbest-data]
    #[arg(long, value_name = "DIR")]
    pub(in crate::cli) data: Option<PathBuf>,
}

/// Free the space of deleted versions and of saves that were given up
///
/// A server does this by itself every few minutes. This command opens the database and the store itself, whether a server runs or
/// not.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keepbest gc --data /var/lib/keepbest
  keepbest gc --config FILE --now")]
pub(in crate::cli) struct Gc {
    #[command(flatten)]
    pub(in crate::cli) settings: Settings,
    /// Free everything now, without the waiting times of `collector` in the settings; a download of a deleted version that is
    /// still going on may break
    #[arg(long)]
    pub(in crate::cli) now: bool,
}
