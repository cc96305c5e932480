//! A call of the store: how long it may take, and that a conflict is tried again here.

use std::future::Future;
use std::io;
use std::time::Duration;

/// The longest that one call waits for the store, with the retries of its client: 8 MiB at 140 KB/s. A caller that waits holds
/// buffers, so it is told to come back; whatever the call still does, its key is never used again.
pub const CALL_LIMIT: Duration = Duration::from_secs(60);
/// Pauses before a call that met a conflict is tried again, 1.5 s in all. No call of ours has a condition, and no key has two
/// writers with different bytes, so a conflict is the store's own: two parts of it that have not agreed yet.
const CONFLICT_PAUSES: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
];

/// The store's answer within the limit. A conflict is tried again here, for a caller could do nothing else about it.
pub(super) async fn ask<T, F>(call: impl Fn() -> F) -> object_store::Result<T>
where
    F: Future<Output = object_store::Result<T>>,
{
    let answer = async {
        for pause in CONFLICT_PAUSES {
            match call().await {
                Err(error) if is_conflict(&error) => tokio::time::sleep(pause).await,
                answer => return answer,
            }
        }
        call().await
    };
    match tokio::time::timeout(CALL_LIMIT, answer).await {
        Ok(answer) => answer,
        Err(_) => {
            let why = format!("the store did not answer within {} s", CALL_LIMIT.as_secs());
            let source = Box::new(io::Error::new(io::ErrorKind::TimedOut, why));
            Err(object_store::Error::Generic { store: "slow", source })
        }
    }
}

/// 409 and 412, as the driver reads them.
fn is_conflict(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. })
}
