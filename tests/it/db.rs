//! The store's suite through the use cases above it, each body run on SQLite and on Postgres. Without Postgres it fails.

mod aliases;
mod best;
mod checkpoints;
mod chunks;
mod commits;
mod contacts;
mod deletions;
mod durability;
mod gone;
mod lists;
mod parts;
mod places;
mod questions;
mod ranks;
mod reports;
mod runs;
mod sets;
mod statements;
