//! When the collector runs; what it does is in `app/collect.rs`.

use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::app::causes;

/// Runs the collector every `interval` until told to stop. A pass that fails is tried again at the next turn.
pub async fn collect_every(app: App, interval: Duration, stop: CancellationToken) {
    let mut turns = tokio::time::interval(interval);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = turns.tick() => {}
        }
        // A pass that is left in the middle goes on in the next one: each of its steps stands by itself.
        let collected = tokio::select! {
            () = stop.cancelled() => return,
            collected = app.collect() => collected,
        };
        match collected {
            Ok(report) if report == Default::default() => {}
            Ok(report) => tracing::info!(
                written_manifests = report.written_manifests,
                expired_checkpoints = report.expired_checkpoints,
                removed_chunks = report.removed_chunks,
                removed_objects = report.removed_objects,
                freed_bytes = report.freed_bytes,
                left = report.left,
                "Collected what nobody needs"
            ),
            Err(error) => tracing::warn!(error = %causes(&error), "Left the collection for the next turn"),
        }
    }
}
