//! What every request passes before its service: one log line, errors that mean what they say, and bounds on bodies.

mod budget;
mod framing;
mod requests;
mod trace;

pub use budget::Budget;
pub use budget::Peer;
pub use requests::RequestsLayer;
pub use trace::TraceLayer;
