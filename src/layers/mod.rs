//! What every request passes before its service: one log line, who calls, errors that mean what they say, nothing but
//! gRPC, and bounds on bodies.

mod answers;
mod budget;
mod certificate;
mod door;
mod framing;
mod grpc_only;
mod metrics;
mod peer;
mod proxies;
mod requests;
mod trace;

pub use answers::AnswersLayer;
pub use budget::Budget;
pub use certificate::Certificate;
pub use door::DoorLayer;
pub use grpc_only::GrpcOnlyLayer;
pub use metrics::Requests;
pub use peer::Peer;
pub use proxies::CallerAddress;
pub use proxies::Proxies;
pub use requests::RequestsLayer;
pub use trace::TraceLayer;
