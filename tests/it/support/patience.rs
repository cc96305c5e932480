//! Calls that are repeated as a client repeats them.

use std::time::Duration;
use std::time::Instant;

use keepbest::app::Error;

/// How long a call is repeated that says that the database is away or busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// Repeats what a client would: a database that is only slow, while other tests have the machine, says that it is away.
pub(crate) async fn patiently<T, F>(call: impl Fn() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let begun = Instant::now();
    loop {
        match call().await {
            Err(Error::Unavailable { .. } | Error::Busy(_)) if begun.elapsed() < PATIENCE => {}
            answer => return answer,
        }
    }
}
