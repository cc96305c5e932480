//! The metric history as points of a curve: where an event stands on the axis of epochs, one line for each attempt, smoothed, and
//! thinned so that no spike is lost.

use std::collections::BTreeMap;
use std::collections::HashMap;

use keepbest_proto::v1;
use keepbest_proto::v1::metric_value::Kind;

/// Points of one line in a picture: about as many as it has pixels.
pub(super) const MOST_POINTS: usize = 800;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    /// Epochs, counted from 1 at the end of the first one.
    pub(super) x: f64,
    pub(super) y: f64,
}

/// What one attempt reported of a metric, in its order.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    pub(super) attempt: i64,
    pub(super) points: Vec<Point>,
}

/// Where an attempt stands on the axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Band {
    pub(super) attempt: i64,
    pub(super) from: f64,
    pub(super) to: f64,
}

/// What a page draws of a run's events.
#[derive(Debug, Default)]
pub(super) struct History {
    /// What the ends of epochs told.
    pub(super) metrics: BTreeMap<String, Vec<Line>>,
    /// What batches told: of a metric that epochs tell, too, it is something else, in Keras one batch's loss beside the mean of all.
    pub(super) batches: BTreeMap<String, Vec<Line>>,
    pub(super) bands: Vec<Band>,
    /// Where the event of a sequence stands.
    places: HashMap<i64, f64>,
    /// Values that are no finite numbers: they leave gaps.
    pub(super) gaps: usize,
}

impl History {
    /// Of the process that is decided upon; of runs in which none is, of all.
    pub(super) fn of(events: &[v1::RecordedEvent]) -> History {
        let is_decided = events.iter().any(|it| it.writer.is_empty());
        let events = events.iter().filter(|it| !is_decided || it.writer.is_empty());
        let told: Vec<_> = events.filter_map(|it| it.event.as_ref().map(|event| (it, event))).collect();
        let batches = Batches::of(told.iter().map(|(_, event)| *event));
        let mut history = History::default();
        for (recorded, event) in told {
            if event.kind() == v1::EventKind::TrainEnd {
                continue;
            }
            let x = batches.place(event);
            history.places.insert(recorded.sequence, x);
            history.reach(recorded.attempt, x);
            for (name, y) in numbers(event) {
                history.gaps += usize::from(!y.is_finite());
                let told = if event.batch.is_some() { &mut history.batches } else { &mut history.metrics };
                let lines = told.entry(name.to_owned()).or_default();
                match lines.last_mut().filter(|it| it.attempt == recorded.attempt) {
                    Some(line) => line.points.push(Point { x, y }),
                    None => lines.push(Line { attempt: recorded.attempt, points: vec![Point { x, y }] }),
                }
            }
        }
        history
    }

    /// The names of all metrics.
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.metrics.keys().chain(self.batches.keys())
    }

    /// A metric's lines of epochs, or of batches where no epoch told it.
    pub(super) fn lines(&self, metric: &str) -> &[Line] {
        self.metrics.get(metric).or_else(|| self.batches.get(metric)).map(Vec::as_slice).unwrap_or_default()
    }

    /// Where a decision's event stands; as its epoch says, if the event is not among those that were read.
    pub(super) fn place(&self, decision: &v1::Decision) -> f64 {
        let known = self.places.get(&decision.sequence).filter(|_| decision.writer.is_empty());
        known.copied().unwrap_or(decision.epoch.saturating_add(1) as f64)
    }

    /// From where to where the curves go.
    pub(super) fn span(&self) -> Option<(f64, f64)> {
        let low = self.bands.iter().map(|it| it.from).reduce(f64::min)?;
        Some((low, self.bands.iter().map(|it| it.to).reduce(f64::max)?))
    }

    fn reach(&mut self, attempt: i64, x: f64) {
        match self.bands.last_mut().filter(|it| it.attempt == attempt) {
            Some(band) => (band.from, band.to) = (band.from.min(x), band.to.max(x)),
            None => self.bands.push(Band { attempt, from: x, to: x }),
        }
    }
}

/// How many batches epochs have: known of those that have ended, and of the last one no fewer than of another.
struct Batches {
    of_epoch: HashMap<i64, i64>,
    most: i64,
    last_epoch: i64,
}

impl Batches {
    fn of<'a>(events: impl Iterator<Item = &'a v1::Event>) -> Batches {
        let mut batches = Batches { of_epoch: HashMap::new(), most: 1, last_epoch: 0 };
        for event in events {
            batches.last_epoch = batches.last_epoch.max(event.epoch);
            if let Some(batch) = event.batch {
                let count = batches.of_epoch.entry(event.epoch).or_default();
                *count = (*count).max(batch.saturating_add(1));
                batches.most = batches.most.max(*count);
            }
        }
        batches
    }

    fn place(&self, event: &v1::Event) -> f64 {
        let Some(batch) = event.batch else { return event.epoch.saturating_add(1) as f64 };
        let known = self.of_epoch.get(&event.epoch).filter(|_| event.epoch < self.last_epoch);
        event.epoch as f64 + (batch.saturating_add(1) as f64) / (*known.unwrap_or(&self.most)).max(1) as f64
    }
}

/// The metrics of an event that are numbers.
fn numbers(event: &v1::Event) -> impl Iterator<Item = (&str, f64)> {
    let typed = event.typed_metrics.iter().filter_map(|(name, value)| match value.kind {
        Some(Kind::Number(number)) => Some((name.as_str(), number)),
        Some(Kind::Integer(number)) => Some((name.as_str(), number as f64)),
        _ => None,
    });
    event.metrics.iter().map(|(name, value)| (name.as_str(), *value)).chain(typed)
}

/// The moving average with weights that fall by `factor`, free of the pull towards 0 that it begins with.
pub(super) fn smoothed(points: &[Point], factor: f64) -> Vec<Point> {
    let (mut sum, mut weight) = (0.0, 0.0);
    let smooth = |point: &Point| {
        if !point.y.is_finite() {
            return *point;
        }
        sum = sum * factor + point.y * (1.0 - factor);
        weight = weight * factor + (1.0 - factor);
        Point { x: point.x, y: sum / weight }
    };
    points.iter().map(smooth).collect()
}

/// At most so many points: of each stretch its lowest and its highest, in their order.
pub(super) fn thinned(points: &[Point], most: usize) -> Vec<Point> {
    if points.len() <= most {
        return points.to_vec();
    }
    let stretch = points.len().div_ceil((most / 2).max(1));
    let extremes = points.chunks(stretch).flat_map(|chunk| {
        let finite = || chunk.iter().enumerate().filter(|(_, it)| it.y.is_finite());
        let low = finite().min_by(|a, b| a.1.y.total_cmp(&b.1.y)).map(|(at, _)| at);
        let high = finite().max_by(|a, b| a.1.y.total_cmp(&b.1.y)).map(|(at, _)| at);
        // Where nothing is a number the gap stays.
        let (low, high) = (low.unwrap_or(0), high.unwrap_or(0));
        let last = (low != high).then(|| chunk[low.max(high)]);
        [Some(chunk[low.min(high)]), last].into_iter().flatten()
    });
    extremes.collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use keepbest_proto::v1;

    use super::{History, Line, Point, smoothed, thinned};

    fn event(sequence: i64, attempt: i64, epoch: i64, batch: Option<i64>, y: f64) -> v1::RecordedEvent {
        let kind = if batch.is_some() { v1::EventKind::BatchEnd } else { v1::EventKind::EpochEnd };
        let metrics = BTreeMap::from([("loss".to_owned(), y)]);
        let event = v1::Event { kind: kind.into(), epoch, batch, metrics, ..Default::default() };
        v1::RecordedEvent { sequence, attempt, event: Some(event), writer: String::new() }
    }

    #[test]
    fn batches_stand_within_their_epoch_and_attempts_have_lines_of_their_own() {
        let events = [
            event(0, 1, 0, Some(0), 4.0),
            event(1, 1, 0, Some(3), 3.0),
            event(2, 1, 0, None, 3.5),
            event(3, 2, 0, None, 2.0),
            event(4, 2, 1, Some(1), f64::NAN),
        ];
        let history = History::of(&events);
        let xs = |line: &Line| line.points.iter().map(|it| it.x).collect::<Vec<_>>();
        let of_batches: Vec<_> = history.batches["loss"].iter().map(xs).collect();
        assert_eq!(of_batches, [vec![0.25, 1.0], vec![1.5]]);
        assert_eq!(history.lines("loss").iter().map(xs).collect::<Vec<_>>(), [vec![1.0], vec![1.0]]);
        assert_eq!((history.span(), history.gaps), (Some((0.25, 1.5)), 1));
        assert_eq!(history.bands.iter().map(|it| it.attempt).collect::<Vec<_>>(), [1, 2]);
        let at = |sequence| history.place(&v1::Decision { sequence, epoch: 7, ..Default::default() });
        assert_eq!((at(4), at(99)), (1.5, 8.0));
    }

    #[test]
    fn a_spike_survives_and_points_stay_few() {
        let wave = |n: usize| Point { x: n as f64, y: (n as f64 / 50.0).sin() };
        let mut points: Vec<_> = (0..100_000).map(wave).collect();
        points[54_321].y = 77.0;
        points[54_322].y = -77.0;
        let thin = thinned(&points, 800);
        assert!(thin.len() <= 800, "{}", thin.len());
        assert!(thin.iter().any(|it| it.y == 77.0) && thin.iter().any(|it| it.y == -77.0));
        assert!(thin.windows(2).all(|it| it[0].x < it[1].x));
        assert_eq!(thinned(&points[..800], 800), &points[..800]);
    }

    #[test]
    fn an_average_begins_where_its_values_do() {
        let flat = [5.0, 5.0, f64::NAN, 5.0].map(|y| Point { x: 0.0, y });
        let ys: Vec<_> = smoothed(&flat, 0.9).iter().map(|it| it.y).collect();
        assert!((ys[0] - 5.0).abs() < 1e-12 && (ys[3] - 5.0).abs() < 1e-12 && ys[2].is_nan(), "{ys:?}");
        let step = [0.0, 1.0].map(|y| Point { x: 0.0, y });
        // (0.5 * 0.5 * 0 + 0.5 * 1) / (0.5 * 0.5 + 0.5)
        assert!((smoothed(&step, 0.5)[1].y - 2.0 / 3.0).abs() < 1e-12);
    }
}
