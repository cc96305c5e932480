//! Client of the Keepbest checkpoint service: typed calls, retries, resumable uploads, verified downloads.
//!
//! ```no_run
//! # async fn example() -> Result<(), keepbest_client::Error> {
//! use keepbest_client::{Client, Run, v1};
//!
//! let client = Client::connect_lazy("http://127.0.0.1:7400")?;
//! let strategy = v1::Strategy { filepath: "model-{epoch:02d}.bin".into(), save_best_only: true, ..Default::default() };
//! let mut run = Run::start(&client, v1::StartRunRequest {
//!     parent: "teams/default/projects/mnist".into(),
//!     strategy: Some(strategy),
//!     ..Default::default()
//! }).await?;
//! let event = v1::Event {
//!     kind: v1::EventKind::EpochEnd.into(),
//!     metrics: [("val_loss".to_owned(), 0.25)].into(),
//!     ..Default::default()
//! };
//! for decision in run.report(vec![event]).await? {
//!     if decision.action() == v1::Action::Save {
//!         run.save(&decision, "model.bin".as_ref()).await?;
//!     }
//! }
//! run.finish(v1::RunState::Finished).await?;
//! # Ok(())
//! # }
//! ```
//!
//! [`Run`] is what a trainer needs, [`pull`] what a consumer needs; [`Client`] has a method for each RPC. The contract itself stands in
//! the `.proto` files; their types are here as [`v1`]. `examples/train.rs` is a whole training, which goes on after a kill.
//!
//! # Errors
//! [`Error`] tells the cases apart by what the caller can do. What may pass by itself ([`Error::is_retryable`]) was repeated before
//! it is returned, for [`Retry::budget`]; an interrupted upload or download goes on when its function is called again. What the server
//! refuses has a reason, as `STALE_ATTEMPT` ([`Error::reason`]).
//!
//! # Units
//! Epochs, batches and ranks count from 0. Sizes are in bytes and times that are numbers in microseconds, where a name does not say
//! otherwise; digests are BLAKE3, 32 bytes. Names of resources are whole, as `teams/*/projects/*/artifacts/*/versions/*`; [`parse_target`]
//! makes one of the short form.

#![warn(missing_docs)]

mod calls;
mod client;
mod digest;
mod error;
mod greeting;
mod heartbeat;
mod names;
mod passing;
mod patience;
mod progress;
mod pull;
mod retry;
mod run;
mod tls;
mod upload;
mod watch;

pub use keepbest_proto::v1;

/// The types of `google.protobuf` that occur in messages.
pub mod well_known {
    pub use prost_types::value::Kind;
    pub use prost_types::{Duration, ListValue, Struct, Timestamp, Value};
}

pub use crate::client::{Builder, Client};
pub use crate::digest::{CHUNK_BYTES, FileDigest, file_digest, hex, version_digest};
pub use crate::error::{Error, Fault, Refusal, Result};
pub use crate::names::{ProjectName, Target, parse_target, short_name};
pub use crate::progress::{OnProgress, Progress};
pub use crate::pull::{OtherFiles, PullOptions, Pulled, pull};
pub use crate::retry::Retry;
pub use crate::run::{Part, Run};
pub use crate::tls::Tls;
pub use crate::upload::{Survey, UploadOptions, Uploaded, survey, upload, upload_file, upload_tree};
pub use crate::watch::Watch;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::{Client, PullOptions, Run, UploadOptions, pull, upload, v1};

    /// Never called. That it compiles shows that the futures can be spawned.
    #[expect(dead_code, reason = "compiling it is the test")]
    fn futures_can_be_spawned(client: &'static Client, run: &'static mut Run, path: &'static Path) {
        fn spawnable(_: impl Future<Output = impl Send> + Send + 'static) {}
        spawnable(pull(client, "", path, Box::leak(Box::new(PullOptions::default()))));
        spawnable(upload(client, "", 1, path, Box::leak(Box::new(UploadOptions::default()))));
        spawnable(run.report(Vec::new()));
        spawnable(client.start_run(v1::StartRunRequest::default()));
    }
}
