//! The digits of a float: shortest, fixed, scientific and general, correctly rounded as in Python.
//! The standard library does the rounding: with a precision it is exact, and ties go to even.

use super::FormatSpec;
use super::number::Number;
use super::spec::Code;

/// Python's default precision for the codes that have one.
const DEFAULT_PRECISION: i32 = 6;

/// `repr` turns to an exponent when the number has more digits than this before the point.
const REPR_MAX_DECIMAL_POINT: i32 = 16;

/// Takes a float apart as `spec` asks; its code is known to be one for floats.
pub(super) fn number(value: f64, spec: &FormatSpec) -> Number {
    let code = match spec.code {
        Code::Char(code) => Some(code),
        Code::None | Code::Malformed => None,
    };
    let value = if code == Some('%') { value * 100.0 } else { value };
    let precision = spec.precision.and_then(|precision| i32::try_from(precision).ok());
    let magnitude = value.abs();
    let mut written = if magnitude.is_finite() {
        match (code, precision) {
            (None, None) => shortest(magnitude, spec.alternate),
            (None, Some(precision)) => general(magnitude, precision, spec.alternate, Whole::PointZero),
            (Some('e' | 'E'), _) => {
                scientific(magnitude, precision.unwrap_or(DEFAULT_PRECISION), spec.alternate)
            }
            (Some('f' | 'F' | '%'), _) => {
                fixed(magnitude, precision.unwrap_or(DEFAULT_PRECISION), spec.alternate)
            }
            (Some(_), _) => {
                let precision = precision.unwrap_or(DEFAULT_PRECISION);
                general(magnitude, precision, spec.alternate, Whole::Bare)
            }
        }
    } else {
        Written {
            whole: String::new(),
            rest: if magnitude.is_nan() { "nan" } else { "inf" }.to_owned(),
            is_zero: false,
        }
    };
    if matches!(code, Some('E' | 'F' | 'G')) {
        written.rest.make_ascii_uppercase();
    }
    if code == Some('%') {
        written.rest.push('%');
    }
    let drop_sign = value.is_nan() || (spec.no_negative_zero && written.is_zero);
    Number {
        negative: value.is_sign_negative() && !drop_sign,
        prefix: "",
        digits: written.whole,
        rest: written.rest,
    }
}

/// Python's `repr` of a float: the fewest digits that read back as the same value.
pub(super) fn repr(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    let sign = if value.is_sign_negative() { "-" } else { "" };
    if value.is_infinite() {
        return format!("{sign}inf");
    }
    let written = shortest(value.abs(), false);
    format!("{sign}{}{}", written.whole, written.rest)
}

/// A magnitude as text, cut before the point.
struct Written {
    whole: String,
    rest: String,
    /// After rounding.
    is_zero: bool,
}

/// What a whole number without an exponent ends in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whole {
    Bare,
    PointZero,
}

/// Significant digits and the place of the decimal point: `digits` times ten to the `point`, read as `0.digits`.
struct Decimal {
    digits: Vec<u8>,
    point: i32,
}

impl Decimal {
    /// Reads Rust's scientific notation, `d.ddde-dd`.
    fn from_scientific(text: &str) -> Decimal {
        let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
        Decimal {
            digits: mantissa.bytes().filter(u8::is_ascii_digit).collect(),
            point: exponent.parse::<i32>().unwrap_or(0).saturating_add(1),
        }
    }

    fn is_zero(&self) -> bool {
        self.digits.iter().all(|&digit| digit == b'0')
    }

    /// The digits at the places `from..to`, with zeros where there are none.
    fn places(&self, from: i32, to: i32) -> String {
        (from..to)
            .map(|place| {
                let digit = usize::try_from(place).ok().and_then(|place| self.digits.get(place));
                char::from(digit.copied().unwrap_or(b'0'))
            })
            .collect()
    }
}

fn shortest(magnitude: f64, alternate: bool) -> Written {
    let decimal = shortest_decimal(magnitude);
    let places = decimal.digits.len() as i32;
    if decimal.point <= -4 || decimal.point > REPR_MAX_DECIMAL_POINT {
        with_exponent(&decimal, places, alternate)
    } else {
        without_exponent(&decimal, places, alternate, Whole::PointZero)
    }
}

/// The fewest digits that read back as the same value. When two such texts are equally near, Rust takes the greater one
/// and Python the even one: rounding to that many digits gives the even one, if it reads back.
fn shortest_decimal(magnitude: f64) -> Decimal {
    let shortest = format!("{magnitude:e}");
    let decimal = Decimal::from_scientific(&shortest);
    let after_first = decimal.digits.len().saturating_sub(1);
    let rounded = format!("{magnitude:.after_first$e}");
    if rounded != shortest && rounded.parse() == Ok(magnitude) {
        return Decimal::from_scientific(&rounded);
    }
    decimal
}

fn scientific(magnitude: f64, precision: i32, alternate: bool) -> Written {
    let decimal = significant(magnitude, precision.saturating_add(1));
    with_exponent(&decimal, precision.saturating_add(1), alternate)
}

fn fixed(magnitude: f64, precision: i32, alternate: bool) -> Written {
    let text = format!("{magnitude:.*}", usize::try_from(precision).unwrap_or(0));
    let is_zero = text.bytes().all(|byte| matches!(byte, b'0' | b'.'));
    let (whole, rest) = match text.split_once('.') {
        Some((whole, fraction)) => (whole.to_owned(), format!(".{fraction}")),
        None => (text, if alternate { "." } else { "" }.to_owned()),
    };
    Written { whole, rest, is_zero }
}

fn general(magnitude: f64, precision: i32, alternate: bool, whole: Whole) -> Written {
    let precision = precision.max(1);
    let mut decimal = significant(magnitude, precision);
    let significant_places = if alternate {
        precision
    } else {
        while decimal.digits.len() > 1 && decimal.digits.last() == Some(&b'0') {
            decimal.digits.pop();
        }
        decimal.digits.len() as i32
    };
    // A whole number that must show `.0` has one digit less to spend before the point.
    let max_point = match whole {
        Whole::Bare => precision,
        Whole::PointZero => precision - 1,
    };
    if decimal.point <= -4 || decimal.point > max_point {
        with_exponent(&decimal, significant_places, alternate)
    } else {
        without_exponent(&decimal, significant_places, alternate, whole)
    }
}

/// Exactly `count` significant digits.
fn significant(magnitude: f64, count: i32) -> Decimal {
    let after_first = usize::try_from(count - 1).unwrap_or(0);
    Decimal::from_scientific(&format!("{magnitude:.after_first$e}"))
}

fn with_exponent(decimal: &Decimal, places: i32, alternate: bool) -> Written {
    let exponent = decimal.point - 1;
    let sign = if exponent < 0 { '-' } else { '+' };
    let fraction = decimal.places(1, places);
    let point = if fraction.is_empty() && !alternate { "" } else { "." };
    Written {
        whole: decimal.places(0, 1),
        rest: format!("{point}{fraction}e{sign}{:02}", exponent.unsigned_abs()),
        is_zero: decimal.is_zero(),
    }
}

fn without_exponent(decimal: &Decimal, places: i32, alternate: bool, whole: Whole) -> Written {
    let places = match whole {
        Whole::Bare => places,
        Whole::PointZero => places.max(decimal.point + 1),
    };
    let fraction = decimal.places(decimal.point, places);
    let point = if fraction.is_empty() && !alternate { "" } else { "." };
    Written {
        // The places before the point; a number below one gets a single zero.
        whole: decimal.places(if decimal.point > 0 { 0 } else { decimal.point - 1 }, decimal.point),
        rest: format!("{point}{fraction}"),
        is_zero: decimal.is_zero(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repr_is_the_shortest_text_that_reads_back() {
        for (value, expected) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (0.1 + 0.2, "0.30000000000000004"),
            (-1.925_178_527_832_031_2, "-1.9251785278320312"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (123_456_789_012_345_680.0, "1.2345678901234568e+17"),
            (0.0001, "0.0001"),
            (0.000_01, "1e-05"),
            (5e-324, "5e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
            (f64::NAN, "nan"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(repr(value), expected);
        }
    }
}
