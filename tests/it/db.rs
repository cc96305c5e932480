//! The store's suite through the use cases above it, each body run on SQLite and on Postgres. Without Postgres it fails.

mod aliases;
mod best;
mod checkpoints;
mod chunks;
mod commits;
mod deletions;
mod durability;
mod lists;
mod parts;
mod places;
mod ranks;
mod reports;
mod runs;
mod sets;
mod statements;
