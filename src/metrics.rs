//! What a server tells of itself: counters, gauges and histograms, and the text in which Prometheus reads them.
//!
//! Each room counts its own things in values of these kinds; `server` puts them together when somebody asks. Counting is an atomic
//! addition: no lock, no allocation, no name that is looked up. A label has words that stand in the code or in the contract, and so a
//! bounded number: never the name of a run, a team or a caller.

mod process;
mod text;

use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

pub use process::tell_process;
pub use text::Kind;
pub use text::Labels;
pub use text::Text;
pub use text::Value;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    pub fn add(&self, more: i64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Where the buckets of a histogram end, and what is observed.
pub trait Buckets {
    /// The ends, in the unit in which is observed, in their order; what is more is in a last one.
    const ENDS: &'static [u64];
    /// How many of that unit are one of the unit that is told.
    const PER_UNIT: f64;
}

/// Of durations, observed in microseconds and told in seconds: from what a read by key takes in memory to a call of the store that
/// is given up after a minute. Two or three a decade tell a half from a whole.
#[derive(Debug)]
pub enum InSeconds {}

impl Buckets for InSeconds {
    const ENDS: &'static [u64] = &[
        250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
        2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
    ];
    const PER_UNIT: f64 = 1_000_000.0;
}

/// Of how many there are of something: one alone, some, and as many as a transaction takes (`db/queue.rs`).
#[derive(Debug)]
pub enum InCounts {}

impl Buckets for InCounts {
    const ENDS: &'static [u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024];
    const PER_UNIT: f64 = 1.0;
}

/// How often something had which size.
pub struct Histogram<B> {
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
    buckets: PhantomData<B>,
}

/// A histogram of durations.
pub type Seconds = Histogram<InSeconds>;
/// A histogram of counts.
pub type Counts = Histogram<InCounts>;

impl<B> fmt::Debug for Histogram<B> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Histogram")
    }
}

impl<B: Buckets> Default for Histogram<B> {
    fn default() -> Histogram<B> {
        let counts = (0..=B::ENDS.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { counts, sum: AtomicU64::new(0), buckets: PhantomData }
    }
}

impl<B: Buckets> Histogram<B> {
    pub fn observe(&self, value: u64) {
        let bucket = B::ENDS.partition_point(|end| *end < value);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// How many were observed.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|it| it.load(Ordering::Relaxed)).sum()
    }

    /// The sum of what was observed, in the unit that is told.
    fn sum(&self) -> f64 {
        told(self.sum.load(Ordering::Relaxed), B::PER_UNIT)
    }

    /// The end of each bucket and how many are at or below it, then how many there are in all. They are read one after the other, so
    /// that what is observed meanwhile is in all that follow or in none.
    fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let mut all = 0;
        let ends = B::ENDS.iter().map(|end| told(*end, B::PER_UNIT)).chain([f64::INFINITY]);
        ends.zip(self.counts.iter()).map(move |(end, count)| {
            all += count.load(Ordering::Relaxed);
            (end, all)
        })
    }
}

impl Histogram<InSeconds> {
    /// Observes what has gone by.
    pub fn since(&self, begin: Instant) {
        self.took(begin.elapsed());
    }

    pub fn took(&self, time: Duration) {
        self.observe(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }
}

/// A number in another unit; above 2^53 its last digits are lost, which is 285 years in microseconds.
#[expect(clippy::cast_precision_loss, reason = "see above")]
fn told(value: u64, per_unit: f64) -> f64 {
    value as f64 / per_unit
}

/// A time in microseconds since 1970 in seconds, to a millisecond: more is of no use to whoever looks at it.
pub fn seconds_of(time_us: i64) -> f64 {
    let millis = u32::try_from(time_us.rem_euclid(1_000_000) / 1_000).unwrap_or_default();
    let seconds = u32::try_from(time_us.div_euclid(1_000_000)).unwrap_or_default();
    f64::from(seconds) + f64::from(millis) / 1_000.0
}

/// Something for each of some words, which stand in the code.
#[derive(Debug)]
pub struct Each<T, const N: usize> {
    words: &'static [&'static str; N],
    values: [T; N],
}

impl<T: Default, const N: usize> Each<T, N> {
    pub fn of(words: &'static [&'static str; N]) -> Each<T, N> {
        Each { words, values: std::array::from_fn(|_| T::default()) }
    }

    /// That of the word at this place. A place that is none is the last one's, so that nothing that is counted can end a call.
    pub fn at(&self, place: usize) -> &T {
        &self.values[place.min(N - 1)]
    }

    /// All, with their words.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &T)> {
        self.words.iter().copied().zip(&self.values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_in_the_first_bucket_that_it_fits_in() {
        let sizes = Counts::default();
        for value in [0, 1, 2, 3, 1_024, 1_025, 7_000] {
            sizes.observe(value);
        }
        let told: Vec<u64> = sizes.cumulative().map(|(_, count)| count).collect();
        assert_eq!(told, [2, 3, 4, 4, 4, 4, 4, 4, 4, 4, 5, 7]);
        assert_eq!((sizes.count(), sizes.sum()), (7, 9_055.0));
    }

    #[test]
    fn a_time_is_told_in_seconds() {
        assert_eq!(seconds_of(1_795_429_230_500_000), 1_795_429_230.5);
        assert_eq!(seconds_of(0), 0.0);
    }

    #[test]
    fn ends_of_buckets_are_in_their_order() {
        assert!(InSeconds::ENDS.is_sorted() && InCounts::ENDS.is_sorted());
    }

    #[test]
    fn each_word_has_its_own() {
        let each: Each<Counter, 2> = Each::of(&["put", "get"]);
        each.at(1).add(3);
        each.at(7).add(1);
        let told: Vec<_> = each.iter().map(|(word, it)| (word, it.get())).collect();
        assert_eq!(told, [("put", 0), ("get", 4)]);
    }
}
