//! The text that Prometheus reads (its exposition format 0.0.4): families by name, each with its help, its kind and its series.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;

use crate::metrics::Buckets;
use crate::metrics::Counter;
use crate::metrics::Gauge;
use crate::metrics::Histogram;

/// What a family is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// The labels of one series, as names and values.
pub type Labels<'a> = [(&'static str, &'a str)];

/// A number as it is written.
#[derive(Clone, Copy, Debug)]
pub enum Value {
    Whole(u64),
    Signed(i64),
    Real(f64),
}

impl fmt::Display for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Whole(value) => write!(formatter, "{value}"),
            Value::Signed(value) => write!(formatter, "{value}"),
            // As Prometheus writes it, and Rust does not.
            Value::Real(value) if *value == f64::INFINITY => formatter.write_str("+Inf"),
            Value::Real(value) => write!(formatter, "{value}"),
        }
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Value {
        Value::Whole(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Value {
        Value::Signed(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Value {
        Value::Real(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Value {
        Value::Whole(u64::from(value))
    }
}

impl From<&Counter> for Value {
    fn from(counter: &Counter) -> Value {
        Value::Whole(counter.get())
    }
}

impl From<&Gauge> for Value {
    fn from(gauge: &Gauge) -> Value {
        Value::Signed(gauge.get())
    }
}

/// What is told, family by family. Several rooms may tell series of one family.
#[derive(Debug, Default)]
pub struct Text {
    families: BTreeMap<&'static str, Family>,
}

#[derive(Debug)]
struct Family {
    kind: Kind,
    help: &'static str,
    series: String,
}

/// A family that is written to.
#[derive(Debug)]
pub struct Writing<'a> {
    name: &'static str,
    series: &'a mut String,
}

impl Text {
    /// The family of that name, which is told also while it has no series.
    pub fn family(&mut self, kind: Kind, name: &'static str, help: &'static str) -> Writing<'_> {
        let family =
            self.families.entry(name).or_insert_with(|| Family { kind, help, series: String::new() });
        debug_assert!(family.kind == kind && family.help == help, "two rooms mean two things by {name}");
        Writing { name, series: &mut family.series }
    }

    pub fn counter(&mut self, name: &'static str, help: &'static str) -> Writing<'_> {
        self.family(Kind::Counter, name, help)
    }

    pub fn gauge(&mut self, name: &'static str, help: &'static str) -> Writing<'_> {
        self.family(Kind::Gauge, name, help)
    }

    pub fn histogram(&mut self, name: &'static str, help: &'static str) -> Writing<'_> {
        self.family(Kind::Histogram, name, help)
    }
}

impl Writing<'_> {
    /// One series.
    pub fn put(&mut self, labels: &Labels<'_>, value: impl Into<Value>) -> &mut Self {
        self.line("", labels, None, value.into());
        self
    }

    /// The series of a histogram.
    pub fn put_all<B: Buckets>(&mut self, labels: &Labels<'_>, histogram: &Histogram<B>) -> &mut Self {
        let mut all = 0;
        for (end, count) in histogram.cumulative() {
            self.line("_bucket", labels, Some(end), count.into());
            all = count;
        }
        self.line("_sum", labels, None, histogram.sum().into());
        // The last bucket's, for what was observed meanwhile would make the two differ.
        self.line("_count", labels, None, all.into());
        self
    }

    fn line(&mut self, suffix: &str, labels: &Labels<'_>, end: Option<f64>, value: Value) {
        self.series.push_str(self.name);
        self.series.push_str(suffix);
        let mut separator = '{';
        for (name, text) in labels {
            self.label(&mut separator, name, text);
        }
        if let Some(end) = end {
            self.label(&mut separator, "le", &Value::Real(end).to_string());
        }
        if separator == ',' {
            self.series.push('}');
        }
        // Into a string it cannot fail.
        let _ = writeln!(self.series, " {value}");
    }

    fn label(&mut self, separator: &mut char, name: &str, text: &str) {
        self.series.push(std::mem::replace(separator, ','));
        self.series.push_str(name);
        self.series.push_str("=\"");
        for letter in text.chars() {
            match letter {
                '\\' => self.series.push_str("\\\\"),
                '"' => self.series.push_str("\\\""),
                '\n' => self.series.push_str("\\n"),
                other => self.series.push(other),
            }
        }
        self.series.push('"');
    }
}

impl fmt::Display for Text {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, Family { kind, help, series }) in &self.families {
            write!(formatter, "# HELP {name} {help}\n# TYPE {name} {}\n{series}", kind.word())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Seconds;

    #[test]
    fn families_are_told_by_name_and_series_in_their_order() {
        let mut text = Text::default();
        text.gauge("b_bytes", "Two rooms tell it.").put(&[("of", "one")], 1_u64);
        text.counter("a_total", "Nothing else.").put(&[], &Counter::default());
        text.gauge("b_bytes", "Two rooms tell it.").put(&[("of", "other")], 0.5);
        let expected = "# HELP a_total Nothing else.\n# TYPE a_total counter\na_total 0\n\
            # HELP b_bytes Two rooms tell it.\n# TYPE b_bytes gauge\nb_bytes{of=\"one\"} 1\nb_bytes{of=\"other\"} 0.5\n";
        assert_eq!(text.to_string(), expected);
    }

    #[test]
    fn what_would_end_a_label_is_escaped() {
        let mut text = Text::default();
        text.gauge("a", "b").put(&[("c", "\"\\\n")], -1_i64);
        assert!(text.to_string().ends_with("a{c=\"\\\"\\\\\\n\"} -1\n"));
    }

    #[test]
    fn a_histogram_has_its_sum_its_count_and_buckets_that_add_up() {
        let seconds = Seconds::default();
        [200, 1_500, 90_000_000].into_iter().for_each(|it| seconds.observe(it));
        let mut text = Text::default();
        text.histogram("a_seconds", "b").put_all(&[("c", "d")], &seconds);
        let text = text.to_string();
        for line in [
            "a_seconds_bucket{c=\"d\",le=\"0.00025\"} 1",
            "a_seconds_bucket{c=\"d\",le=\"0.001\"} 1",
            "a_seconds_bucket{c=\"d\",le=\"0.0025\"} 2",
            "a_seconds_bucket{c=\"d\",le=\"60\"} 2",
            "a_seconds_bucket{c=\"d\",le=\"+Inf\"} 3",
            "a_seconds_sum{c=\"d\"} 90.0017",
            "a_seconds_count{c=\"d\"} 3",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
        }
    }
}
