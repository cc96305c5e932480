//! Who is let in, what is kept of what they did, and how much they may ask for.

/// Who is let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// Whether callers must show who they are. False: on one's own machine a first try needs no set-up.
    pub required: bool,
    /// Whether reflection answers callers without a token, too. False: a stranger need not know what can be asked.
    pub open_reflection: bool,
}

/// The audit log, of a server that asks who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// For how many days an entry is kept; 0: for ever. 365: who asks who did it asks within the year.
    pub retention_days: u64,
    /// Of so many reads of weights one has an entry; 0: none has. 1: who took a model along is what is asked first.
    pub reads_one_in: u64,
}

/// What one team may ask of one server, where it asks who calls; 0: as much as it likes, for who has one team has nobody to defend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rates {
    /// Calls, and messages of streams.
    pub team_requests_per_second: u32,
    pub team_events_per_second: u32,
}
