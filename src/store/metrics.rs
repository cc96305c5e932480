//! What the store's room counts: how long its calls take, what they come to, and the bytes that they carry.

use std::future::Future;
use std::time::Instant;

use crate::metrics::Counter;
use crate::metrics::Each;
use crate::metrics::Seconds;
use crate::metrics::Text;
use crate::store::Error;
use crate::store::Store;

/// A call of the store, by its place among [`OPERATIONS`].
#[derive(Clone, Copy, Debug)]
pub(super) enum Operation {
    /// With what is asked afterwards (`confirm_writes`).
    Put,
    Get,
    Size,
    List,
    Delete,
}

const OPERATIONS: [&str; 5] = ["put", "get", "size", "list", "delete"];
const ERRORS: [&str; 3] = ["missing", "full", "unavailable"];

/// See the module.
#[derive(Debug)]
pub(super) struct Metrics {
    seconds: Each<Seconds, 5>,
    errors: [Each<Counter, 3>; 5],
    written_bytes: Counter,
    read_bytes: Counter,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics {
            seconds: Each::of(&OPERATIONS),
            errors: std::array::from_fn(|_| Each::of(&ERRORS)),
            written_bytes: Counter::default(),
            read_bytes: Counter::default(),
        }
    }
}

impl Metrics {
    /// The call's answer, which is counted.
    pub(super) async fn of<T>(
        &self,
        operation: Operation,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let begin = Instant::now();
        let answer = call.await;
        self.seconds.at(operation as usize).since(begin);
        if let Err(error) = &answer {
            let place = match error {
                Error::Missing(_) => 0,
                Error::Full(_) => 1,
                Error::Unavailable(_) => 2,
            };
            self.errors[operation as usize].at(place).add(1);
        }
        answer
    }

    pub(super) fn wrote(&self, bytes: u64) {
        self.written_bytes.add(bytes);
    }

    pub(super) fn read(&self, bytes: u64) {
        self.read_bytes.add(bytes);
    }
}

impl Store {
    /// Tells what was counted.
    pub fn tell(&self, text: &mut Text) {
        let metrics = &*self.metrics;
        for ((word, seconds), errors) in metrics.seconds.iter().zip(&metrics.errors) {
            text.histogram(
                "keepbest_store_seconds",
                "How long calls of the object store took, with all their tries.",
            )
            .put_all(&[("operation", word)], seconds);
            for (error, count) in errors.iter() {
                text.counter(
                    "keepbest_store_errors_total",
                    "Calls of the object store that came to nothing.",
                )
                .put(&[("operation", word), ("error", error)], count);
            }
        }
        text.counter(
            "keepbest_store_bytes_total",
            "Bytes of objects that were put into the store, or read from it.",
        )
        .put(&[("direction", "written")], &metrics.written_bytes)
        .put(&[("direction", "read")], &metrics.read_bytes);
        text.gauge(
            "keepbest_store_sync_failed",
            "Whether a sync of the folder of objects failed; then the server ends.",
        )
        .put(&[], self.unsynced.is_cancelled());
    }
}
