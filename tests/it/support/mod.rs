//! What the tests stand on.

pub(crate) mod apps;
pub(crate) mod azure;
pub(crate) mod calls;
pub(crate) mod cluster;
pub(crate) mod databases;
pub(crate) mod disk;
pub(crate) mod faults;
pub(crate) mod front;
pub(crate) mod health;
pub(crate) mod launch;
pub(crate) mod logs;
pub(crate) mod plays;
pub(crate) mod ports;
pub(crate) mod probed;
pub(crate) mod proxy;
pub(crate) mod random;
pub(crate) mod raw;
pub(crate) mod refusals;
pub(crate) mod replicas;
pub(crate) mod requests;
pub(crate) mod s3;
pub(crate) mod server;
pub(crate) mod soak;
pub(crate) mod strace;
pub(crate) mod traces;
pub(crate) mod transfers;
