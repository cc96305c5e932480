//! The collector's statements: what may go, in an order that a crash or a race at any point cannot turn into a loss.
//!
//! G1 (`checkpoints`) expires pending checkpoints, takes the pins of deleted ones away and dooms their manifests. G2 (`chunks`)
//! turns chunk rows that nobody pins into doomed objects. G3 (`objects`) claims doomed objects that are due; the caller deletes
//! the bytes and then forgets the row. What one thing alone stands in the way of is left, told, and tried by the next pass.

mod checkpoints;
mod chunks;
mod objects;

use crate::db::Error;

pub use checkpoints::ManifestKey;

/// Checkpoints or rows in one transaction: short ones let others in between.
const PAGE: i64 = 200;
/// Things that a step names of those that it left; it counts the others. A log says no more of them.
const MOST_NAMED: usize = 20;

/// How long things that nobody needs are kept.
#[derive(Clone, Copy, Debug)]
pub struct Graces {
    /// Deleted checkpoints keep their bytes so long.
    pub deleted_us: i64,
    pub chunk_us: i64,
    /// Objects without a chunk: a reader may still stream them.
    pub object_us: i64,
}

impl Graces {
    /// When an object that is doomed now may go.
    const fn object_due_us(&self, now_us: i64) -> i64 {
        // Below 1 stands for a claim.
        let due_us = now_us.saturating_add(self.object_us);
        if due_us < 1 { 1 } else { due_us }
    }
}

/// What a step of a pass did.
#[derive(Debug, Default)]
pub struct Step {
    /// Things that it dealt with.
    pub done: u64,
    /// Bytes of them, where they are chunks.
    pub freed_bytes: u64,
    /// Things that it could not deal with: the next pass tries them again.
    pub left: u64,
    /// The first of those, each with what stood in the way.
    pub named: Vec<Left>,
}

/// A thing that a pass could not deal with.
#[derive(Debug)]
pub struct Left {
    /// For people: the thing and its name.
    pub what: String,
    /// What stood in the way.
    pub error: Error,
}

impl Step {
    /// Leaves a thing because of an error that is its own. An error of the whole database ends the pass.
    fn leave(&mut self, what: impl FnOnce() -> String, error: Error) -> Result<(), Error> {
        if !is_of_one_thing(&error) {
            return Err(error);
        }
        self.left += 1;
        if self.named.len() < MOST_NAMED {
            self.named.push(Left { what: what(), error });
        }
        Ok(())
    }

    /// How many rows a page must pass over, so that what was left does not come again in this pass.
    fn offset(&self) -> i64 {
        i64::try_from(self.left).unwrap_or(i64::MAX)
    }
}

/// Whether an error says something of the row that was asked for, and nothing of others: it cannot be read, a rule of the schema
/// is in its way, or somebody holds it.
fn is_of_one_thing(error: &Error) -> bool {
    match error {
        Error::Refused(_) | Error::Busy(_) | Error::Broken(_) | Error::Unreadable { .. } => true,
        Error::Address(_)
        | Error::Unavailable(_)
        | Error::Late(_)
        | Error::Full(_)
        | Error::Schema(_)
        | Error::Unsynced(_) => false,
    }
}

fn count(rows: usize) -> u64 {
    u64::try_from(rows).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
