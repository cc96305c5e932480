//! The arguments of the commands that tell and mend damage: `check` and `rebuild`.

use clap::Args;

use super::Settings;
use crate::maintenance::{ReadData, Subset};

/// Check that all that is visible is whole
///
/// Compares the rows, the manifests and the sizes of all objects, with or without a server beside it. Prints each problem with
/// the version and file that it is in; exits with 1 if there is one.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keepbest check
  keepbest check --read-data
  keepbest check --read-data-subset 1/7     today; 2/7 tomorrow: after seven days all was read")]
pub(in crate::cli) struct Check {
    #[command(flatten)]
    pub(in crate::cli) settings: Settings,
    /// Read all bytes and compare their digests, too: each chunk once, however many versions share it
    #[arg(long, conflicts_with = "read_data_subset")]
    read_data: bool,
    /// Read part N of T of all chunks: a chunk is always in the same part, and the T parts are everything
    #[arg(long, value_name = "N/T")]
    read_data_subset: Option<Subset>,
}

impl Check {
    /// Which bytes to read.
    pub(in crate::cli) fn read(&self) -> ReadData {
        match self.read_data_subset {
            Some(subset) => ReadData::Subset(subset),
            None if self.read_data => ReadData::Everything,
            None => ReadData::Nothing,
        }
    }
}

/// Make a lost database anew from the object store
///
/// Reads the manifest that each version left there and writes an empty database: versions with their numbers, aliases, metrics
/// and files, and the runs that they are of. What users named, events and decisions are not in the store. Stop all servers
/// first. Nothing in the store is changed. Prints what could not be brought back; exits with 1 if there is something.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keepbest rebuild --data /var/lib/keepbest     after keepbest.db* were moved away
  keepbest rebuild --config FILE")]
pub(in crate::cli) struct Rebuild {
    #[command(flatten)]
    pub(in crate::cli) settings: Settings,
}
