//! The store's suite, one body run on SQLite and on Postgres.
