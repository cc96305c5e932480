//! One binary of all integration tests: linking is what costs.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]
#![expect(clippy::print_stdout, reason = "a test says its seed, so that it can be repeated, and its figures")]

mod support;

mod access;
mod backends;
mod bounds;
mod check;
mod cli;
mod client;
mod collector;
mod crashes;
mod db;
mod events;
#[cfg(debug_assertions)]
mod failpoints;
mod faults;
mod format;
#[cfg(debug_assertions)]
mod history;
mod http;
mod inputs;
mod log_lines;
mod manifests;
mod metrics;
mod outages;
mod page;
mod rebuild;
mod runs;
mod tidy;
mod tls;
mod traces;
mod uploads;
mod watch;
mod wire_traces;
