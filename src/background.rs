//! When the service's own work is done: the collector's (`app/collect.rs`), the audit log's (`app/admin.rs`), and the look at how much
//! of it is left (`app/metrics.rs`).

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

/// How long an entry of the audit log may be without its place in the chain.
const CHAIN_EVERY: Duration = Duration::from_secs(2);
/// How often what is too old is dropped.
const DROP_EVERY: Duration = Duration::from_secs(600);

/// Keeps the audit log, and what is known of tokens, until told to stop, where the server asks who calls.
pub async fn keep_audit_log(app: App, stop: CancellationToken) {
    if !app.asks_who_calls() {
        return;
    }
    let (mut chains, mut drops) = (tokio::time::interval(CHAIN_EVERY), tokio::time::interval(DROP_EVERY));
    chains.set_missed_tick_behavior(MissedTickBehavior::Delay);
    drops.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let kept = tokio::select! {
            () = stop.cancelled() => return,
            _ = chains.tick() => app.chain_audit_entries().await,
            _ = drops.tick() => app.drop_old_access().await,
        };
        if let Err(error) = kept {
            tracing::warn!(error = %causes(&error), "Left the audit log for the next turn");
        }
    }
}

/// How often it is looked up how much work is left: as often as Prometheus asks by default, or a little less.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Looks up how much of the service's own work is left, until told to stop.
pub async fn look_at_backlog(app: App, stop: CancellationToken) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let looked = tokio::select! {
            () = stop.cancelled() => return,
            _ = looks.tick() => app.look_at_backlog().await,
        };
        if let Err(error) = looked {
            // The database's own metrics and the health tell it louder.
            tracing::debug!(error = %causes(&error), "Could not look up how much work is left");
        }
    }
}

/// Gives versions their places in the feed, and tells those who watch, until the server stops.
pub async fn keep_feed(app: App) {
    app.keep_feed().await;
}
