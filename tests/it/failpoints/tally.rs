//! Counts of what became of a trainer's calls.

/// What became of all the calls.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) calls: usize,
    /// Answered UNAVAILABLE: the database or the store was away, or the run's row was locked for long.
    pub(super) unavailable: usize,
    /// Broken off with the server.
    pub(super) broken: usize,
    /// Cancelled before they were answered.
    pub(super) cancelled: usize,
    /// Refused because a cancelled stream was taken for the newer one.
    pub(super) superseded: usize,
    pub(super) saves: usize,
    pub(super) abandoned: usize,
    pub(super) deleted: usize,
    pub(super) attempts: usize,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.calls += other.calls;
        self.unavailable += other.unavailable;
        self.broken += other.broken;
        self.cancelled += other.cancelled;
        self.superseded += other.superseded;
        self.saves += other.saves;
        self.abandoned += other.abandoned;
        self.deleted += other.deleted;
        self.attempts += other.attempts;
    }
}
