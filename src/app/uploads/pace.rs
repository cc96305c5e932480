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
        self.since = self.since.saturating_add(piece.as_ref().map_or(0, Piece::moved_bytes));
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

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;
    use crate::app::uploads::Known;
    use crate::domain::digest::Digest;

    /// Whether a stream of such pieces, one every half of the idle time and a little, is still heard after many of them.
    async fn is_heard(piece: Piece) -> bool {
        let idle = Duration::from_secs(60);
        let step = Duration::from_secs(35);
        let mut pieces = std::pin::pin!(stream::repeat(piece).then(async |piece| {
            tokio::time::sleep(step).await;
            Ok(piece)
        }));
        let mut pace = Pace::new(idle);
        for _ in 0..10 {
            if pace.next(&mut pieces).await.is_err() {
                return false;
            }
        }
        true
    }

    #[tokio::test(start_paused = true)]
    async fn chunks_that_need_not_be_sent_are_heard_like_bytes() {
        let of = |size_bytes| Piece {
            known: vec![Known { size_bytes, digest: Digest([0; 32]) }],
            ..Piece::default()
        };
        assert!(is_heard(of(IDLE_BYTES as i64)).await);
        assert!(!is_heard(of(1)).await);
        assert!(!is_heard(Piece { data: "x".into(), ..Piece::default() }).await);
    }
}
