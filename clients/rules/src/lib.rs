//! What the Keepbest server and its clients must agree upon: how bytes are digested, where a file may lie, what a name is,
//! what a token looks like.
//! Functions of their arguments alone, so that each side can build its own types and errors on them.

pub mod digest;
pub mod names;
pub mod paths;
pub mod token;
