//! How figures are written for people, on the command line and on the page: sizes with units, ages, short numbers.

/// A size with three digits and a unit, as `1.25 MiB`.
pub(crate) fn size(bytes: i64) -> String {
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

/// How long ago something happened, in seconds, as `10 min ago`.
pub(crate) fn age(seconds: i64) -> String {
    match seconds {
        ..5 => "now".to_owned(),
        5..120 => format!("{seconds} s ago"),
        120..7_200 => format!("{} min ago", seconds / 60),
        7_200..172_800 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

/// A metric with at most six significant digits.
pub(crate) fn metric(value: f64) -> String {
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

/// A number with a comma behind each thousand, as `1,200`.
pub(crate) fn grouped(number: u64) -> String {
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

/// A count with a noun in the singular or the plural, as `1 file`.
pub(crate) fn count(number: i64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

fn trim_zeros(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

#[cfg(test)]
mod tests {
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
        let ages = [-9, 3, 90, 600, 7_200, 864_000].map(age);
        assert_eq!(ages, ["now", "now", "90 s ago", "10 min ago", "2 h ago", "10 days ago"]);
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
