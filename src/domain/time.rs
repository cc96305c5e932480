//! The calendar: RFC 3339 times and dates, to and from microseconds since 1970.

/// Microseconds since 1970 of an RFC 3339 time with any offset and any fraction, of which digits beyond the microseconds are cut
/// off. A leap second is the second before it.
pub fn time_us(text: &str) -> Option<i64> {
    let (date, rest) = text.split_at_checked(10)?;
    let date = digits(date, [4, 2, 2], '-')?;
    // "T" and "Z" may be small, and a space may stand for "T".
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let (clock, rest) = rest.split_at_checked(8)?;
    let [hour, minute, second] = digits(clock, [2, 2, 2], ':')?;
    let (fraction, zone) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?),
        None => ("0", rest),
    };
    let [year, month, day] = date;
    let in_range = year >= 1
        && (1..=12).contains(&month)
        && (1..=days_of(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60
        && !fraction.is_empty();
    if !in_range {
        return None;
    }
    let micros: i64 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second.min(59);
    Some((seconds - offset_seconds(zone)?) * 1_000_000 + micros)
}

/// Three numbers of so many digits each, with `between` between them.
fn digits(text: &str, lengths: [usize; 3], between: char) -> Option<[i64; 3]> {
    let mut parts = text.split(between);
    let mut numbers = [0; 3];
    for (number, length) in numbers.iter_mut().zip(lengths) {
        let part = parts.next().filter(|it| it.len() == length && it.bytes().all(|b| b.is_ascii_digit()))?;
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(numbers)
}

/// How far a clock at `Z`, `+02:00` or `-05:30` is before UTC.
fn offset_seconds(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let (sign, clock) = (if zone.starts_with('-') { -1 } else { 1 }, zone.strip_prefix(['+', '-'])?);
    let [hours, minutes, _] = digits(&format!("{clock}:00"), [2, 2, 2], ':')?;
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3_600 + minutes * 60))
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        12 => 31,
        _ => days_since_1970(year, month + 1, 1) - days_since_1970(year, month, 1),
    }
}

/// The civil calendar's day number (the usual algorithm with years that begin in March).
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The UTC date (the usual algorithm with years that begin in March).
pub fn date_of(now_us: i64) -> (i64, i64, i64) {
    let days = now_us.div_euclid(86_400_000_000) + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_any_offset_and_fraction() {
        let expected = Some(1_795_429_230_500_000);
        for same in [
            "2026-11-23T10:20:30.5Z",
            "2026-11-23t10:20:30.500z",
            "2026-11-23 10:20:30.5000009+00:00",
            "2026-11-23T10:20:30.5-00:00",
            "2026-11-23T12:20:30.5+02:00",
            "2026-11-22T22:20:30.500000000-12:00",
            "2026-11-23T15:50:30.5+05:30",
        ] {
            assert_eq!(time_us(same), expected, "{same}");
        }
        assert_eq!(time_us("2016-12-31T23:59:60Z"), time_us("2016-12-31T23:59:59Z"));
        assert_eq!(time_us("1969-12-31T23:00:00-01:00"), Some(0));
        assert_eq!(time_us("2024-02-29T00:00:00Z"), Some(1_709_164_800_000_000));
        assert_eq!(time_us("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(time_us("2000-03-01T00:00:00Z"), Some(951_868_800_000_000));
        assert_eq!(time_us("2026-11-23T10:20:30.5Z"), Some(1_795_429_230_500_000));
        for bad in [
            "",
            "2026-11-23",
            "2026-11-23T10:20:30",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-11-31T00:00:00Z",
            "0000-01-01T00:00:00Z",
            "2026-11-23T24:00:00Z",
            "2026-11-23T10:20:61Z",
            "2026-11-23T10:20:30.Z",
            "2026-11-23T10:20:30+2:00",
            "2026-11-23T10:20:30+02",
            "2026-11-23T10:20:30+24:00",
            "2026-11-23T10:20:30 Z",
            "2026-1-23T10:20:30Z",
            "+026-11-23T10:20:30Z",
            "２026-11-23T10:20:30Z",
            "yesterday",
        ] {
            assert_eq!(time_us(bad), None, "{bad}");
        }
    }

    #[test]
    fn dates_know_leap_years() {
        assert_eq!(date_of(0), (1970, 1, 1));
        assert_eq!(date_of(951_782_400_000_000), (2000, 2, 29));
        assert_eq!(date_of(1_795_429_230_500_000), (2026, 11, 23));
    }
}
