//! A report: which of its events are new, and whether those that are not are the same as before.

use std::ops::Range;
use std::sync::Arc;

use crate::domain::event::Event;
use crate::domain::ids::RunName;
use crate::domain::ids::shown;
use crate::domain::metric::MetricValue;
use crate::domain::refusal::Refusal;

/// Events of one writer of a run, in their order.
#[derive(Clone, Debug)]
pub struct Report {
    pub run: RunName,
    pub attempt: i64,
    /// Which process of the run; empty: the one whose events are decided upon.
    pub writer: String,
    /// Sequence of the first event of the range.
    pub first_sequence: i64,
    /// The events of the whole call as they were sent, some without a wall time.
    pub call: Arc<[Event]>,
    /// Which of them this is about.
    pub range: Range<usize>,
    /// Now, in microseconds since 1970.
    pub now_us: i64,
    /// How long a pending checkpoint lives without a write.
    pub pending_expiry_us: i64,
}

impl Report {
    /// The events of the range.
    pub fn events(&self) -> &[Event] {
        self.call.get(self.range.clone()).unwrap_or_default()
    }

    /// How many of the events were stored before, where `next` is the writer's next sequence.
    pub fn repeated(&self, next: i64) -> Result<usize, Refusal> {
        let count = i64::try_from(self.events().len()).unwrap_or(i64::MAX);
        if self.first_sequence < 0 || self.first_sequence.checked_add(count).is_none() {
            let message = format!("first_sequence {} is not between 0 and 2^63 - 1", self.first_sequence);
            return Err(Refusal::invalid("BAD_EVENT", message));
        }
        if self.first_sequence > next {
            let message = format!(
                "events of writer `{}` of run `{}` begin at sequence {}, but {next} is the next: send the ones between first",
                shown(&self.writer),
                self.run,
                self.first_sequence
            );
            return Err(Refusal::precondition("SEQUENCE_GAP", message).with("next_sequence", next));
        }
        Ok(usize::try_from((next - self.first_sequence).min(count)).unwrap_or(usize::MAX))
    }

    /// Refuses another event under a sequence that is used: it would be told the decision of the first.
    pub fn check_same(&self, index: usize, stored: &Event) -> Result<(), Refusal> {
        let Some(sent) = self.events().get(index) else { return Ok(()) };
        if is_same(stored, sent) {
            return Ok(());
        }
        let sequence = self.first_sequence.saturating_add(i64::try_from(index).unwrap_or(i64::MAX));
        let message = format!(
            "sequence {sequence} of writer `{}` of run `{}` stands for another event, of epoch {}: two processes report as \
             one writer, or one sends again what it has changed; each process that starts needs a request_id of its own",
            shown(&self.writer),
            self.run,
            stored.epoch
        );
        Err(Refusal::precondition("SEQUENCE_CONFLICT", message).with("sequence", sequence))
    }
}

/// Whether a stored event is what was sent: its wall time may have been filled in.
fn is_same(stored: &Event, sent: &Event) -> bool {
    let place = |it: &Event| (it.kind, it.epoch, it.batch, it.step);
    place(stored) == place(sent)
        && (sent.wall_time_us.is_none() || sent.wall_time_us == stored.wall_time_us)
        && stored.metrics.len() == sent.metrics.len()
        && stored.metrics.iter().zip(&sent.metrics).all(|(a, b)| a.0 == b.0 && is_same_value(a.1, b.1))
}

fn is_same_value(stored: &MetricValue, sent: &MetricValue) -> bool {
    match (stored, sent) {
        // By bits: NaN is itself, and -0.0 is not 0.0.
        (MetricValue::Number(a), MetricValue::Number(b)) => a.to_bits() == b.to_bits(),
        (a, b) => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::EventKind;
    use crate::domain::metric::Metrics;

    fn event(value: f64) -> Event {
        Event {
            kind: EventKind::EpochEnd,
            epoch: 3,
            batch: None,
            step: None,
            wall_time_us: None,
            metrics: Metrics::from([("val_loss".to_owned(), MetricValue::Number(value))]),
        }
    }

    fn report(first_sequence: i64, events: Vec<Event>) -> Report {
        let run = RunName::parse("teams/t/projects/p/runs/r").unwrap();
        let writer = String::new();
        Report {
            run,
            attempt: 1,
            writer,
            first_sequence,
            range: 0..events.len(),
            call: events.into(),
            now_us: 0,
            pending_expiry_us: 1,
        }
    }

    #[test]
    fn what_is_repeated_is_told_from_what_is_new() {
        let three = report(4, vec![event(0.5); 3]);
        assert_eq!([4, 5, 7, 9].map(|next| three.repeated(next).unwrap()), [0, 1, 3, 3]);
        let gap = three.repeated(3).unwrap_err();
        assert_eq!((gap.reason, gap.metadata), ("SEQUENCE_GAP", vec![("next_sequence", "3".to_owned())]));
        for first in [-1, i64::MAX] {
            assert_eq!(report(first, vec![event(0.5)]).repeated(0).unwrap_err().reason, "BAD_EVENT");
        }
    }

    #[test]
    fn another_event_under_a_used_sequence_is_refused() {
        for value in [0.5, f64::NAN, -0.0, f64::INFINITY] {
            let stored = Event { wall_time_us: Some(7), ..event(value) };
            assert_eq!(
                report(4, vec![event(value)]).check_same(0, &stored),
                Ok(()),
                "the time was filled in"
            );
        }
        let timed = |time| Event { wall_time_us: Some(time), ..event(0.5) };
        let changed = [
            event(0.4),
            Event { epoch: 4, ..event(0.5) },
            Event { kind: EventKind::TrainEnd, ..event(0.5) },
            Event { step: Some(1), ..event(0.5) },
            Event { metrics: Metrics::new(), ..event(0.5) },
            timed(8),
        ];
        for sent in changed {
            let refused = report(4, vec![event(0.5), sent]).check_same(1, &timed(7)).unwrap_err();
            assert_eq!((refused.reason, &refused.metadata[0].1), ("SEQUENCE_CONFLICT", &"5".to_owned()));
        }
        assert!(report(4, vec![event(0.0)]).check_same(0, &event(-0.0)).is_err());
    }
}
