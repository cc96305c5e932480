//! How often a test repeats what it does: a little in every run of the suite, much in `make soak`.

/// How often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rounds {
    /// In every run.
    pub(crate) usual: usize,
    /// With `KEEPBEST_SOAK=1`.
    pub(crate) soak: usize,
}

impl Rounds {
    /// In this run.
    pub(crate) fn now(self) -> usize {
        if soaks() { self.soak } else { self.usual }
    }
}

/// Whether this is a long run.
pub(crate) fn soaks() -> bool {
    std::env::var_os("KEEPBEST_SOAK").is_some_and(|it| it == "1")
}
