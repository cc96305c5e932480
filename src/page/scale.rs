//! An axis: where a value stands on it, and which values are written beside it.

use crate::figures;

/// About so many lines are written.
const TICKS: f64 = 5.0;
/// Within fewer powers of ten twice and five times each of them has a line, too.
const FEW_DECADES: f64 = 3.0;

/// Values that are no further apart beside their size are the same, but for what an average has made of them.
const FLAT: f64 = 1e-12;

#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    is_log: bool,
    /// Where `low` and `high` stand.
    from: f64,
    to: f64,
}

impl Scale {
    /// From the least to the greatest of the values, with some room when `padded`. On a logarithmic scale only what is above 0 has a
    /// place; without such a value it is linear.
    pub(super) fn of(values: impl Iterator<Item = f64> + Clone, is_log: bool, padded: bool) -> Scale {
        let finite = || values.clone().filter(|it| it.is_finite());
        let is_log = is_log && finite().any(|it| it > 0.0);
        let shown = || {
            finite()
                .filter(move |it| !is_log || *it > 0.0)
                .map(move |it| if is_log { it.log10() } else { it })
        };
        let mut low = shown().reduce(f64::min).unwrap_or(0.0);
        let mut high = shown().reduce(f64::max).unwrap_or(1.0);
        if high - low <= FLAT * high.abs().max(low.abs()) {
            let room = if high == 0.0 || is_log { 0.5 } else { high.abs() / 10.0 };
            (low, high) = (low - room, high + room);
        } else if padded {
            let room = (high - low) * 0.06;
            (low, high) = (low - room, high + room);
        }
        Scale { low, high, is_log, from: 0.0, to: 1.0 }
    }

    /// The same in a picture, from here to there.
    pub(super) fn on(self, from: f64, to: f64) -> Scale {
        Scale { from, to, ..self }
    }

    /// Where a value stands; none if it has no place.
    pub(super) fn place(&self, value: f64) -> Option<f64> {
        let value = if self.is_log { value.log10() } else { value };
        let share = (value - self.low) / (self.high - self.low);
        share.is_finite().then_some(self.from + share * (self.to - self.from))
    }

    /// Round values on it, with the texts for them. With `whole` no fractions.
    pub(super) fn ticks(&self, whole: bool) -> Vec<(f64, String)> {
        if self.is_log && (0.7..FEW_DECADES).contains(&(self.high - self.low)) {
            let decades = steps(self.low.floor(), self.high, 1.0).into_iter();
            let ticks = decades.flat_map(|it| [1.0, 2.0, 5.0].map(|factor| factor * 10_f64.powf(it)));
            let range = 10_f64.powf(self.low)..=10_f64.powf(self.high);
            return ticks.filter(|it| range.contains(it)).map(|it| (it, figures::metric(it))).collect();
        }
        if self.is_log && self.high - self.low >= FEW_DECADES {
            let every = ((self.high - self.low) / 6.0).ceil().max(1.0);
            let exponents = steps(self.low, self.high, every);
            return exponents
                .into_iter()
                .map(|it| (10_f64.powf(it), figures::metric(10_f64.powf(it))))
                .collect();
        }
        let (low, high) =
            if self.is_log { (10_f64.powf(self.low), 10_f64.powf(self.high)) } else { (self.low, self.high) };
        let step = round((high - low) / TICKS);
        let step = if whole { step.max(1.0).round() } else { step };
        let ticks = steps(low, high, step);
        // 0.1 + 0.2 is to be read as 0.3, and -0.0 as 0.
        ticks.into_iter().map(|it| (it, figures::metric((it / step).round() * step + 0.0))).collect()
    }
}

/// The multiples of a step in a range.
fn steps(low: f64, high: f64, step: f64) -> Vec<f64> {
    let (first, last) = ((low / step - 1e-9).ceil(), (high / step + 1e-9).floor());
    // A step so small that it is lost beside the values would never end.
    if !(last - first).is_finite() || last - first > 100.0 {
        return Vec::new();
    }
    // Counted, not added up: beside a large number one more is none.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 100")]
    let count = (last - first + 1.0).max(0.0) as u32;
    (0..count).map(|it| (first + f64::from(it)) * step).collect()
}

/// 1, 2 or 5 times a power of ten, near the value.
fn round(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let factor = value / power;
    power
        * if factor < 1.5 {
            1.0
        } else if factor < 3.5 {
            2.0
        } else if factor < 7.5 {
            5.0
        } else {
            10.0
        }
}

#[cfg(test)]
mod tests {
    use super::Scale;
    use super::steps;

    fn texts(values: &[f64], is_log: bool, whole: bool) -> Vec<String> {
        let scale = Scale::of(values.iter().copied(), is_log, false);
        scale.ticks(whole).into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(texts(&[0.0, 1.0], false, false), ["0", "0.2", "0.4", "0.6", "0.8", "1"]);
        assert_eq!(texts(&[1.0, 12.0], false, true), ["2", "4", "6", "8", "10", "12"]);
        assert_eq!(texts(&[1.0, 2.0], false, true), ["1", "2"]);
        assert_eq!(texts(&[0.001, 10.0], true, false), ["0.001", "0.01", "0.1", "1", "10"]);
        assert_eq!(texts(&[0.3, 4.0], true, false), ["0.5", "1", "2"]);
        assert_eq!(texts(&[2.0, 3.0], true, false), ["2", "2.2", "2.4", "2.6", "2.8", "3"]);
        assert_eq!(texts(&[3.0, 3.0], false, false).len(), 7);
        assert!(texts(&[f64::NAN], false, false).len() > 2);
        // Averages of a constant differ by what a sum leaves; such a range has no steps of its own, and ends.
        assert_eq!(texts(&[0.1, 0.1 + 3e-17, 0.1 - 2e-17], false, false).len(), 5);
        assert_eq!(steps(1e17, 1e17 + 64.0, 1.0).len(), 65);
        assert!(steps(0.1 - 2e-17, 0.1 + 3e-17, 1e-18).len() <= 101);
    }

    #[test]
    fn what_a_logarithm_does_not_know_has_no_place() {
        let scale = Scale::of([-1.0, 0.0, 0.1, 10.0].into_iter(), true, false).on(100.0, 0.0);
        assert_eq!((scale.place(0.0), scale.place(-1.0)), (None, None));
        assert!((scale.place(1.0).unwrap() - 50.0).abs() < 1e-9);
        // None above 0: linear.
        assert!(Scale::of([-1.0, 0.0].into_iter(), true, false).place(-0.5).is_some());
    }
}
