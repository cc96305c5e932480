//! How long an upload may be silent.

use std::pin::Pin;
use std::time::Duration;

use futures::Stream;
use futures::StreamExt;
use tokio::time::Instant;

use crate::app::Error;
use crate::app::uploads::Piece;
use crate::domain::refusal::Refusal;

/// An upload that sends less than this in the idle time is slow on purpose or broken.
const IDLE_BYTES: usize = 64 << 10;

/// Counts what comes within the idle time.
pub(super) struct Pace {
    idle: Duration,
    deadline: Instant,
    since: usize,
}

impl Pace {
    pub(super) fn new(idle: Duration) -> Pace {
        Pace { idle, deadline: Instant::now() + idle, since: 0 }
    }

    /// The next piece, if it comes in time; none: the stream has ended.
    pub(super) async fn next(
        &mut self,
        pieces: &mut Pin<&mut (impl Stream<Item = Result<Piece, Error>> + Send)>,
    ) -> Result<Option<Piece>, Error> {
        let Ok(piece) = tokio::time::timeout_at(self.deadline, pieces.next()).await else {
            return Err(idle_timeout(self.idle).into());
        };
        let piece = piece.transpose()?;
        self.since += piece.as_ref().map_or(0, |piece| piece.data.len());
        if self.since >= IDLE_BYTES {
            (self.deadline, self.since) = (Instant::now() + self.idle, 0);
        }
        Ok(piece)
    }

    /// While the store is slow, it is not the sender who is idle.
    pub(super) fn worked_since(&mut self, begun: Instant) {
        self.deadline += begun.elapsed();
    }
}

/// The refusal of a stream that was idle too long.
pub(crate) fn idle_timeout(idle: Duration) -> Refusal {
    let message = format!(
        "the upload sent less than 64 KiB in {} s: what is durable stays, ask PrepareFile where to go on",
        idle.as_secs()
    );
    Refusal::deadline("IDLE_TIMEOUT", message)
}
