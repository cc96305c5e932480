//! The arguments that every list takes: how much of it is printed.

use clap::Args;

// No doc comment: it would stand in the help of the commands that take these.
#[derive(Debug, Args)]
pub(in crate::cli) struct Listing {
    /// List at most this many [default: 50; with --json all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(in crate::cli) limit: Option<u32>,
    /// List all
    #[arg(long, conflicts_with = "limit")]
    pub(in crate::cli) all: bool,
    /// Go on where a list with --limit ended: the `next_page_token` that it printed with --json
    #[arg(long, value_name = "TOKEN", requires = "limit")]
    pub(in crate::cli) page_token: Option<String>,
}
