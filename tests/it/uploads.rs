//! The promise that nothing half is ever visible, and that what was stored once is not sent again.

mod commits;
mod cuts;
mod deaths;
mod declared;
mod known;
mod limits;
mod parts;
mod reads;
mod repeats;
mod serving;
mod small;
mod takeovers;
mod tuned;
