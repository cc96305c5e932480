//! How often a test repeats what it does: a little in every run of the suite, ten times that in `make soak`.

/// What `KEEPBEST_SOAK` multiplies by.
const SOAK: usize = 10;

/// The number of rounds: `usual`, and more with `KEEPBEST_SOAK=1`.
pub(crate) fn rounds(usual: usize) -> usize {
    let soaks = std::env::var_os("KEEPBEST_SOAK").is_some_and(|it| it == "1");
    if soaks { usual * SOAK } else { usual }
}
