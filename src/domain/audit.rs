//! The audit log: who did what, and a chain by which a change of what was written shows.

use std::fmt;

use serde::Deserialize;
use serde::Serialize;

use crate::domain::digest::Digest;
use crate::domain::ids::Id;

/// Who calls, and about what: what the log tells of an effect of the call.
#[derive(Clone, Debug)]
pub struct Caller {
    /// When the call came, microseconds since 1970.
    pub time_us: i64,
    /// The team that it is about; none: the service.
    pub team: Option<Id>,
    pub act: Act,
}

/// An act, as the log keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Act {
    pub principal: String,
    /// As `Runs/StartRun`.
    pub method: String,
    /// The whole name of what it was done to.
    pub resource: String,
    pub request_id: String,
    /// Where the call came from: address and port.
    pub address: String,
}

/// A row of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub uid: String,
    /// Its place in its team's chain, from 0; none: it has not got one yet.
    pub position: Option<i64>,
    pub digest: Option<Digest>,
    pub time_us: i64,
    pub act: Act,
    /// The act as it was written, which is what the digest is of.
    pub body: String,
}

/// What stands before the first entry of a chain.
pub const BEGINNING: Digest = Digest([0; 32]);

/// The digest of an entry behind another one.
pub fn link(before: Digest, team: &str, uid: &str, time_us: i64, body: &str) -> Digest {
    let length = |text: &str| u64::try_from(text.len()).unwrap_or(u64::MAX).to_le_bytes();
    Digest::of_pieces([
        before.as_bytes(),
        &length(team),
        team.as_bytes(),
        &length(uid),
        uid.as_bytes(),
        &time_us.to_le_bytes(),
        body.as_bytes(),
    ])
}

/// Where a chain is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Break {
    /// An entry between others is not there.
    Missing(i64),
    /// An entry was changed, or put in.
    Changed(i64),
    /// Entries behind this one are not there.
    Cut(i64),
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Break::Missing(position) => write!(f, "entry {position} is missing"),
            Break::Changed(position) => write!(f, "entry {position} is not what was written"),
            Break::Cut(position) => write!(f, "the entries from {position} on are missing"),
        }
    }
}

/// Follows a chain from one end to the other.
#[derive(Clone, Debug)]
pub struct Verifier {
    next: i64,
    before: Digest,
}

impl Verifier {
    /// Of a chain whose first kept entry has this position, behind this digest.
    pub fn new(first: i64, before: Digest) -> Verifier {
        Verifier { next: first, before }
    }

    /// Takes the next entry that is there.
    pub fn take(&mut self, team: &str, entry: &Entry) -> Option<Break> {
        let position = entry.position?;
        let found = link(self.before, team, &entry.uid, entry.time_us, &entry.body);
        let broken = if position != self.next {
            Some(Break::Missing(self.next))
        } else if entry.digest != Some(found) {
            Some(Break::Changed(position))
        } else {
            None
        };
        // What follows is held against what stands there, so that one break is told once.
        self.next = position + 1;
        self.before = entry.digest.unwrap_or(found);
        broken
    }

    /// At the end: whether it is the one that was noted.
    pub fn end(&self, last: i64, digest: Digest) -> Option<Break> {
        if self.next <= last {
            return Some(Break::Cut(self.next));
        }
        (self.before != digest).then_some(Break::Changed(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(entries: i64) -> Vec<Entry> {
        let mut before = BEGINNING;
        let entry = |position| {
            let (uid, body) = (format!("u{position}"), format!("{{\"principal\":\"{position}\"}}"));
            before = link(before, "a", &uid, position, &body);
            Entry {
                uid,
                position: Some(position),
                digest: Some(before),
                time_us: position,
                act: Act::default(),
                body,
            }
        };
        (0..entries).map(entry).collect()
    }

    fn breaks(entries: &[Entry], whole: &[Entry]) -> Vec<Break> {
        let mut verifier = Verifier::new(0, BEGINNING);
        let mut breaks: Vec<Break> = entries.iter().filter_map(|it| verifier.take("a", it)).collect();
        let last = whole.last().unwrap();
        breaks.extend(verifier.end(last.position.unwrap(), last.digest.unwrap()));
        breaks
    }

    #[test]
    fn a_chain_shows_what_was_done_to_it() {
        let whole = chain(5);
        assert_eq!(breaks(&whole, &whole), []);
        for place in 0..5 {
            let mut changed = whole.clone();
            changed[place].body.push(' ');
            let position = whole[place].position.unwrap();
            assert_eq!(breaks(&changed, &whole), [Break::Changed(position)]);
            let mut missing = whole.clone();
            missing.remove(place);
            let told = if place == 4 { Break::Cut(4) } else { Break::Missing(position) };
            assert_eq!(breaks(&missing, &whole)[0], told);
        }
        let other = chain(6);
        assert_eq!(breaks(&other, &whole), [Break::Changed(4)]);
    }
}
