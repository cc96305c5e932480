//! Wire to domain and back: the only place where both names meet.

mod events;
mod json;
mod resources;
mod strategy;

pub(crate) use events::event_of;
pub(crate) use events::event_to;
pub(crate) use json::json_of;
pub(crate) use json::struct_of;
pub(crate) use resources::alias_to;
pub(crate) use resources::artifact_to;
pub(crate) use resources::checkpoint_to;
pub(crate) use resources::decision_to;
pub(crate) use resources::deletion_to;
pub(crate) use resources::file_to;
pub(crate) use resources::listed_decision_to;
pub(crate) use resources::next_due_to;
pub(crate) use resources::run_to;
pub(crate) use resources::version_to;
pub(crate) use strategy::directions_of;
pub(crate) use strategy::mode_of;
pub(crate) use strategy::strategy_of;

use std::time::Duration;

use prost_types::Timestamp;

use crate::domain::digest::Digest;
use crate::domain::refusal::Refusal;

/// Microseconds as a timestamp.
pub(crate) fn timestamp_to(time_us: i64) -> Timestamp {
    let nanos = i32::try_from(time_us.rem_euclid(1_000_000) * 1_000).unwrap_or(0);
    Timestamp { seconds: time_us.div_euclid(1_000_000), nanos }
}

/// A timestamp as microseconds; only real ones between the years 1 and 9999.
pub(crate) fn timestamp_of(time: &Timestamp) -> Result<i64, Refusal> {
    const YEAR_1: i64 = -62_135_596_800;
    const YEAR_9999_END: i64 = 253_402_300_799;
    let real = (YEAR_1..=YEAR_9999_END).contains(&time.seconds) && (0..1_000_000_000).contains(&time.nanos);
    if !real {
        let message =
            format!("time of {} s and {} ns is not between the years 1 and 9999", time.seconds, time.nanos);
        return Err(Refusal::invalid("BAD_EVENT", message));
    }
    Ok(time.seconds * 1_000_000 + i64::from(time.nanos) / 1_000)
}

/// How long to wait: not negative.
pub(crate) fn duration_of(duration: &prost_types::Duration) -> Result<Duration, Refusal> {
    Duration::try_from(*duration).map_err(|_| {
        let message = format!("wait of {} s and {} ns is negative", duration.seconds, duration.nanos);
        Refusal::invalid("BAD_WAIT", message)
    })
}

/// An optional SHA-256 of 32 bytes.
pub(crate) fn sha256_of(bytes: &[u8]) -> Result<Option<Digest>, Refusal> {
    if bytes.is_empty() {
        return Ok(None);
    }
    match Digest::from_slice(bytes) {
        Some(digest) => Ok(Some(digest)),
        None => {
            let message = format!("sha256 has {} bytes: 32 raw bytes are right, or none", bytes.len());
            Err(Refusal::invalid("BAD_DIGEST", message))
        }
    }
}
