//! What the tests stand on.

pub(crate) mod apps;
pub(crate) mod databases;
pub(crate) mod faults;
pub(crate) mod random;
pub(crate) mod requests;
pub(crate) mod server;
pub(crate) mod traces;
