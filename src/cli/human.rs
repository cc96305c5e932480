//! Formats what the server tells for people: ages of times, epochs counted from 1, names of versions. How figures are written
//! is in `figures.rs`.

use keepbest_client::v1;
use keepbest_client::well_known::Timestamp;

use super::epochs;
use crate::figures;

pub(super) use crate::figures::{count, grouped, metric, size};

/// How long ago something happened, as `10 min ago`; empty if it has not.
pub(super) fn age(time: Option<&Timestamp>, now_us: i64) -> String {
    let Some(time) = time else { return String::new() };
    figures::age((now_us - time_us(time)) / 1_000_000)
}

/// An epoch or a batch as Keras prints it: counted from 1.
pub(super) fn from_one(number: i64) -> String {
    number.saturating_add(1).to_string()
}

/// As [`from_one`]; empty if there is none.
pub(super) fn optional_from_one(number: Option<i64>) -> String {
    number.map(from_one).unwrap_or_default()
}

/// As [`metric`]; empty if there is none.
pub(super) fn optional_metric(value: Option<f64>) -> String {
    value.map(metric).unwrap_or_default()
}

/// An epoch or a batch as [`from_one`], and as other programs count it.
pub(super) fn both_counts(number: i64) -> String {
    format!("{} ({number} counted from 0)", from_one(number))
}

/// The names of a version as they are typed here, and how many more it has than the server tells.
pub(super) fn aliases(version: &v1::Version) -> String {
    named(version, |alias| epochs::shown_alias(alias).into_owned())
}

/// The same, each that holds a number also as other programs type it.
pub(super) fn both_aliases(version: &v1::Version) -> String {
    named(version, |alias| match epochs::shown_alias(alias) {
        shown if shown == alias => alias.to_owned(),
        shown => format!("{shown} ({alias} counted from 0)"),
    })
}

fn named(version: &v1::Version, shown: impl Fn(&str) -> String) -> String {
    let told = i64::try_from(version.aliases.len()).unwrap_or(i64::MAX);
    let more = version.alias_count.saturating_sub(told);
    let more = (more > 0).then(|| format!("and {more} more"));
    version.aliases.iter().map(|alias| shown(alias)).chain(more).collect::<Vec<_>>().join(", ")
}

/// `min` or `max`; empty if the server has not resolved it.
pub(super) fn mode(mode: v1::Mode) -> &'static str {
    match mode {
        v1::Mode::Unspecified => "",
        v1::Mode::Min => "min",
        v1::Mode::Max => "max",
    }
}

/// A monitor with its direction, as `val_loss (min)`.
pub(super) fn monitor(monitor: &str, direction: v1::Mode) -> String {
    match mode(direction) {
        "" => monitor.to_owned(),
        mode => format!("{monitor} ({mode})"),
    }
}

/// The name of an enum's value without its prefix: `RUN_STATE_ACTIVE` is `active`.
pub(super) fn enum_name(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_lowercase()
}

/// Microseconds since 1970.
pub(super) fn time_us(time: &Timestamp) -> i64 {
    time.seconds.saturating_mul(1_000_000).saturating_add(i64::from(time.nanos) / 1_000)
}

#[cfg(test)]
mod tests {
    use keepbest_client::well_known::Timestamp;

    use super::age;

    #[test]
    fn what_has_not_happened_has_no_age() {
        let ten = Timestamp { seconds: 999_400, nanos: 0 };
        assert_eq!(age(Some(&ten), 1_000_000_000_000), "10 min ago");
        assert_eq!(age(None, 0), "");
    }
}
