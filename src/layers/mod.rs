//! What every request passes before its service: one log line, and errors that mean what they say.

mod trace;

pub use trace::TraceLayer;
