//! The rules: no IO, no clock, no async, no logging. Everything here can be tested with a table.

pub mod access;
pub mod alias;
pub mod attempt;
pub mod audit;
pub mod cells;
pub mod checkpoint;
pub mod decision;
pub mod digest;
pub mod event;
pub mod file;
pub mod filter;
pub mod format;
pub mod ids;
pub mod manifest;
pub mod metric;
pub mod monitor;
pub mod parts;
pub mod path;
pub mod refusal;
pub mod report;
pub mod run;
pub mod strategy;
pub mod subset;
pub mod template;
pub mod time;
pub mod token;
