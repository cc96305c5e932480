//! One binary of all integration tests: linking is what costs.

mod support;

mod cli;
mod crashes;
mod format;
mod runs;
mod tidy;
mod traces;
