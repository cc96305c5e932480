//! The arguments of the commands for a bad day: `check` finds damage, `rebuild` makes a lost database anew.

use clap::Args;

use super::Settings;
use crate::maintenance::{ReadData, Subset};

/// Check that every version is complete and undamaged
///
/// Compares the database with the manifests and the sizes of all objects in the store, whether a server runs or not. Prints each
/// problem with the version and the file it is in, and exits with 1 if there is any.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keepbest check
  keepbest check --read-data
  keepbest check --read-data-subset 1/7     today, 2/7 tomorrow: in seven days everything is read")]
pub(in crate::cli) struct Check {
    #[command(flatten)]
    pub(in crate::cli) settings: Settings,
    /// Read all stored bytes too and compare them with their digests; what versions share is read once
    #[arg(long, conflicts_with = "read_data_subset")]
    read_data: bool,
    /// Read only part N of T: what is stored is always divided in the same way, so the T parts together are everything
    #[arg(long, value_name = "N/T")]
    read_data_subset: Option<Subset>,
}

impl Check {
    /// Which stored bytes the check reads, as the two options say.
    pub(in crate::cli) fn read(&self) -> ReadData {
        match self.read_data_subset {
            Some(subset) => ReadData::Subset(subset),
            None if self.read_data => ReadData::Everything,
            None => ReadData::Nothing,
        }
    }
}

/// Rebuild a lost database from the object store
///
/// Each version left a manifest in the store. From these an empty database gets the versions back, with their numbers, metrics,
/// files and the server's own aliases, and the runs that they are of. Your own aliases, events and decisions are not in the store
/// and do not come back. Stop all servers first. Nothing in the store is changed. Prints what could not be brought back, and exits
/// with 1 if there is any.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keepbest rebuild --data /var/lib/keepbest     after keepbest.db* were moved away
  keepbest rebuild --config FILE")]
pub(in crate::cli) struct Rebuild {
    #[command(flatten)]
    pub(in crate::cli) settings: Settings,
}
