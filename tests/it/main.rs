//! One binary of all integration tests: linking is what costs.

mod support;

mod format;
mod runs;
mod store;
mod traces;
