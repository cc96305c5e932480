//! Formats values for people: sizes with units, ages, epochs counted from 1, short numbers.

use keepbest_client::v1;
use keepbest_client::well_known::Timestamp;

use super::epochs;

/// A size with three digits and a unit, as `1.25 MiB`.
pub(super) fn size(bytes: i64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // 999.5 would be printed as 1000, with four digits.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// How long ago something happened, as `10 min ago`; empty if it has not.
pub(super) fn age(time: Option<&Timestamp>, now_us: i64) -> String {
    let Some(time) = time else { return String::new() };
    let seconds = (now_us - time_us(time)) / 1_000_000;
    match seconds {
        ..5 => "now".to_owned(),
        5..120 => format!("{seconds} s ago"),
        120..7_200 => format!("{} min ago", seconds / 60),
        7_200..172_800 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

/// An epoch or a batch as Keras prints it: counted from 1.
pub(super) fn from_one(number: i64) -> String {
    number.saturating_add(1).to_string()
}

/// As [`from_one`]; empty if there is none.
pub(super) fn optional_from_one(number: Option<i64>) -> String {
    number.map(from_one).unwrap_or_default()
}

/// A metric with at most six significant digits.
pub(super) fn metric(value: f64) -> String {
    if !value.is_finite() || value == 0.0 {
        // `-0` would be read as a dash and a zero.
        return if value == 0.0 && value.is_sign_negative() {
            format!("{value:?}")
        } else {
            value.to_string()
        };
    }
    let magnitude = value.abs().log10().floor();
    if !(-5.0..15.0).contains(&magnitude) {
        let text = format!("{value:.5e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        return format!("{}e{exponent}", trim_zeros(mantissa));
    }
    // Here the magnitude is between -5 and 14.
    let decimals = (5.0 - magnitude).clamp(0.0, 10.0) as usize;
    trim_zeros(&format!("{value:.decimals$}")).to_owned()
}

/// As [`metric`]; empty if there is none.
pub(super) fn optional_metric(value: Option<f64>) -> String {
    value.map(metric).unwrap_or_default()
}

/// A number with a comma behind each thousand, as `1,200`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// An epoch or a batch as [`from_one`], and as other programs count it.
pub(super) fn both_counts(number: i64) -> String {
    format!("{} ({number} counted from 0)", from_one(number))
}

/// A count with a noun in the singular or the plural, as `1 file`.
pub(super) fn count(number: i64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
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

fn trim_zeros(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

#[cfg(test)]
mod tests {
    use keepbest_client::well_known::Timestamp;

    use super::{age, count, grouped, metric, size};

    #[test]
    fn sizes_have_three_digits() {
        let table = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (10_240, "10.0 KiB"),
            (1_048_575, "1.00 MiB"),
            (123 << 20, "123 MiB"),
            (i64::MAX, "8192 PiB"),
        ];
        for (bytes, text) in table {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn ages_have_one_unit() {
        let ages = [-9, 3, 90, 600, 7_200, 864_000].map(|seconds| {
            age(Some(&Timestamp { seconds: 1_000_000 - seconds, nanos: 0 }), 1_000_000_000_000)
        });
        assert_eq!(ages, ["now", "now", "90 s ago", "10 min ago", "2 h ago", "10 days ago"]);
        assert_eq!(age(None, 0), "");
    }

    #[test]
    fn metrics_have_six_digits() {
        let table = [
            (0.0, "0"),
            (-0.0, "-0.0"),
            (0.1 + 0.2, "0.3"),
            (0.213_456_789, "0.213457"),
            (-12.5, "-12.5"),
            (1_234_567.0, "1234567"),
            (1e-9, "1e-9"),
            (1.5e300, "1.5e300"),
            (f64::NAN, "NaN"),
        ];
        for (value, text) in table {
            assert_eq!(metric(value), text);
        }
    }

    #[test]
    fn thousands_are_told_apart() {
        let table = [(0, "0"), (999, "999"), (1_200, "1,200"), (1_234_567, "1,234,567")];
        for (number, text) in table {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn one_thing_is_not_many() {
        assert_eq!([count(1, "file"), count(2, "file")], ["1 file", "2 files"]);
    }
}
