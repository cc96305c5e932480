//! What every request passes before its service: one log line, what it speaks, who calls, errors that mean what they say, and bounds
//! on bodies.

mod answers;
mod budget;
mod certificate;
mod connect;
mod door;
mod framing;
mod kinds;
mod metrics;
mod origin;
mod peer;
mod proxies;
mod requests;
mod trace;

pub use answers::AnswersLayer;
pub use budget::Budget;
pub use certificate::Certificate;
pub use door::DoorLayer;
pub use kinds::Http;
pub use kinds::KindsLayer;
pub use metrics::Requests;
pub use peer::Peer;
pub use proxies::CallerAddress;
pub use proxies::Proxies;
pub use requests::RequestsLayer;
pub use trace::TraceLayer;
