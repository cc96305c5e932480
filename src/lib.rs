//! Keepbest, a checkpoint service: decides, stores, versions and finds the best model of every training run.
//!
//! The floors, lowest first; each uses only those above it in this list (ARCHITECTURE.md, `tests/it/tidy.rs`).

pub mod domain;
pub mod failpoint;
mod figures;
pub mod metrics;
mod near;
pub mod turns;

pub mod clock;
pub mod db;
pub mod store;

pub mod app;

pub mod grpc;
pub mod layers;

pub mod background;
pub mod config;
pub mod maintenance;
pub mod page;
pub mod server;
pub mod telemetry;

pub mod cli;
