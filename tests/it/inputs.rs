//! Bad input over the wire: each is refused with its code and reason, and leaves nothing behind.

mod events;
mod files;
mod foreign;
mod names;
mod queries;
mod strategies;
mod transport;
