//! When servers are killed: in the middle of what some trainer does, be it a report, an upload, a commit or the begin of an
//! attempt.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use super::trainer::STAGES;
use super::trainer::STREAM;
use super::trainer::Stage;
use super::trainer::UPLOAD;
use crate::support::random::Random;

/// How long a kill waits for a trainer to come to the chosen stage.
const STAGE_WAIT: Duration = Duration::from_millis(200);
/// The longest pause before it, in which work is done.
const PAUSE_MS: usize = 200;
/// The longest time that a trainer is left in a stage, so that kills hit all of it.
const STREAM_US: usize = 200_000;
const UPLOAD_US: usize = 60_000;
const CALL_US: usize = 3_000;

/// Kills `rounds` times with `kill`, which restarts what it killed and says how many processes these were. Answers what was
/// hit.
pub(super) fn kill_often(
    rounds: usize,
    mut random: Random,
    stages: &[Arc<Stage>],
    mut kill: impl FnMut(&mut Random) -> usize,
) -> String {
    let begun = Instant::now();
    let (mut hits, mut processes) = ([0_usize; STAGES.len()], 0);
    for _ in 0..rounds {
        // Half of them in an upload, which is most of a save, and half of those in a long one.
        let wanted = match random.below(4) {
            0 => STREAM,
            1 => UPLOAD,
            _ => random.below(STAGES.len()),
        };
        std::thread::sleep(Duration::from_millis(random.below(PAUSE_MS) as u64));
        let until = Instant::now() + STAGE_WAIT;
        while stages.iter().all(|stage| stage.get() != wanted) && Instant::now() < until {
            std::thread::sleep(Duration::from_micros(200));
        }
        let longest_us = match wanted {
            STREAM => STREAM_US,
            UPLOAD => UPLOAD_US,
            _ => CALL_US,
        };
        std::thread::sleep(Duration::from_micros(random.below(longest_us) as u64));
        for stage in stages {
            hits[stage.get()] += 1;
        }
        processes += kill(&mut random);
    }
    let hits: Vec<String> =
        STAGES.iter().zip(hits).map(|(stage, count)| format!("{stage} {count}")).collect();
    format!(
        "{rounds} kills of {processes} processes in {:.0?}; what the {} trainers did then: {}",
        begun.elapsed(),
        stages.len(),
        hits.join(", ")
    )
}
