//! The client against servers of a few lines, which do what the real one does rarely or never. Against the real one it is tested
//! with everything else, in `tests/it` of the workspace.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod away;
mod changes;
mod fake;
mod transfer;
