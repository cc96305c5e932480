//! The text of a format spec, taken apart: `[[fill]align][sign][z][#][0][width][grouping][.precision][type]`.
//! Whether the parts fit a value is for `format` to say, because only then is the value's type known.

use std::str::Chars;

use super::FormatError;

/// The greatest width: what is formatted here ends in a file name, and file systems stop at 255 bytes a name.
pub const MAX_WIDTH: usize = 255;

/// The greatest precision: as for the width, more digits do not fit a file name.
pub const MAX_PRECISION: usize = 255;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormatSpec {
    source: String,
    pub(super) fill: char,
    pub(super) align: Option<Align>,
    /// A `0` before the width, without a fill of its own: numbers are then padded after the sign.
    pub(super) zero: bool,
    pub(super) sign: Option<Sign>,
    pub(super) no_negative_zero: bool,
    pub(super) alternate: bool,
    pub(super) width: usize,
    pub(super) grouping: Option<Grouping>,
    pub(super) precision: Option<usize>,
    pub(super) code: Code,
}

/// Where a value stands in its width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
    Center,
    AfterSign,
}

/// What stands before a number that is not negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    Plus,
    Minus,
    Space,
}

/// What stands between groups of digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grouping {
    Comma,
    Underscore,
}

/// The presentation type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    None,
    Char(char),
    /// More than one character is left where the code should be. No type accepts that.
    Malformed,
}

impl FormatSpec {
    /// Parses a spec. What Python reports only when it knows the value's type is left to [`FormatSpec::format`].
    ///
    /// # Errors
    /// What is wrong for every type of value, and a width or precision beyond [`MAX_WIDTH`] or [`MAX_PRECISION`].
    pub fn parse(source: &str) -> Result<FormatSpec, FormatError> {
        let mut cursor = Cursor(source.chars());
        let (fill, align) = cursor.fill_and_align();
        let sign = cursor.take(|c| match c {
            '+' => Some(Sign::Plus),
            '-' => Some(Sign::Minus),
            ' ' => Some(Sign::Space),
            _ => None,
        });
        let no_negative_zero = cursor.skip('z');
        let alternate = cursor.skip('#');
        let zero = fill.is_none() && cursor.skip('0');
        let width = cursor.number()?.unwrap_or(0);
        if width > MAX_WIDTH as u64 {
            return Err(FormatError::WidthTooLarge { width, limit: MAX_WIDTH });
        }
        let grouping = cursor.grouping()?;
        let precision = cursor.precision()?;
        let spec = FormatSpec {
            source: source.to_owned(),
            fill: fill.unwrap_or(if zero { '0' } else { ' ' }),
            align,
            zero,
            sign,
            no_negative_zero,
            alternate,
            width: width as usize,
            grouping,
            precision,
            code: cursor.code(),
        };
        spec.check_grouping()?;
        Ok(spec)
    }

    /// The spec as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    fn check_grouping(&self) -> Result<(), FormatError> {
        let (Some(grouping), Code::Char(code)) = (self.grouping, self.code) else {
            return Ok(());
        };
        match (code, grouping) {
            ('d' | 'e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%', _) => Ok(()),
            ('b' | 'o' | 'x' | 'X', Grouping::Underscore) => Ok(()),
            _ => Err(FormatError::SeparatorNotAllowed { separator: grouping.separator(), code }),
        }
    }
}

impl Grouping {
    pub(super) fn separator(self) -> char {
        match self {
            Grouping::Comma => ',',
            Grouping::Underscore => '_',
        }
    }
}

impl Align {
    fn from_char(c: char) -> Option<Align> {
        match c {
            '<' => Some(Align::Left),
            '>' => Some(Align::Right),
            '^' => Some(Align::Center),
            '=' => Some(Align::AfterSign),
            _ => None,
        }
    }
}

/// What is left of the text.
struct Cursor<'a>(Chars<'a>);

impl Cursor<'_> {
    fn peek(&self) -> Option<char> {
        self.0.clone().next()
    }

    /// Takes the next character when `part` knows it.
    fn take<T>(&mut self, part: impl Fn(char) -> Option<T>) -> Option<T> {
        let taken = self.peek().and_then(part)?;
        self.0.next();
        Some(taken)
    }

    fn skip(&mut self, wanted: char) -> bool {
        self.take(|c| (c == wanted).then_some(())).is_some()
    }

    /// Any character is a fill when an alignment follows it, even one that is an alignment itself.
    fn fill_and_align(&mut self) -> (Option<char>, Option<Align>) {
        let mut ahead = self.0.clone();
        let fill = ahead.next();
        if let Some(align) = ahead.next().and_then(Align::from_char) {
            self.0 = ahead;
            return (fill, Some(align));
        }
        (None, self.take(Align::from_char))
    }

    fn number(&mut self) -> Result<Option<u64>, FormatError> {
        let mut number: Option<i64> = None;
        while let Some(digit) = self.take(|c| c.to_digit(10)) {
            let next = number
                .unwrap_or(0)
                .checked_mul(10)
                .and_then(|number| number.checked_add(i64::from(digit)))
                .ok_or(FormatError::TooManyDigits)?;
            number = Some(next);
        }
        Ok(number.map(i64::unsigned_abs))
    }

    fn grouping(&mut self) -> Result<Option<Grouping>, FormatError> {
        let comma = self.skip(',');
        let underscore = self.skip('_');
        if underscore && (comma || self.peek() == Some(',')) {
            return Err(FormatError::BothSeparators);
        }
        Ok(match (comma, underscore) {
            (true, _) => Some(Grouping::Comma),
            (_, true) => Some(Grouping::Underscore),
            _ => None,
        })
    }

    fn precision(&mut self) -> Result<Option<usize>, FormatError> {
        if !self.skip('.') {
            return Ok(None);
        }
        let precision = self.number()?.ok_or(FormatError::MissingPrecision)?;
        if precision > MAX_PRECISION as u64 {
            return Err(FormatError::PrecisionTooLarge { precision, limit: MAX_PRECISION });
        }
        Ok(Some(precision as usize))
    }

    fn code(&mut self) -> Code {
        match (self.0.next(), self.0.next()) {
            (None, _) => Code::None,
            (Some(code), None) => Code::Char(code),
            (Some(_), Some(_)) => Code::Malformed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_found_in_its_place() {
        assert_eq!(
            FormatSpec::parse("é^+z#012,.3f"),
            Ok(FormatSpec {
                source: "é^+z#012,.3f".to_owned(),
                fill: 'é',
                align: Some(Align::Center),
                zero: false,
                sign: Some(Sign::Plus),
                no_negative_zero: true,
                alternate: true,
                width: 12,
                grouping: Some(Grouping::Comma),
                precision: Some(3),
                code: Code::Char('f'),
            })
        );
    }

    #[test]
    fn an_alignment_can_be_its_own_fill() {
        let parts = FormatSpec::parse("<<5").map(|spec| (spec.fill, spec.align, spec.width));
        assert_eq!(parts, Ok(('<', Some(Align::Left), 5)));
    }

    #[test]
    fn a_width_beyond_the_limit_is_refused() {
        assert_eq!(FormatSpec::parse("255").map(|spec| spec.width), Ok(MAX_WIDTH));
        assert_eq!(
            FormatSpec::parse("256"),
            Err(FormatError::WidthTooLarge { width: 256, limit: MAX_WIDTH })
        );
        assert_eq!(FormatSpec::parse("99999999999999999999"), Err(FormatError::TooManyDigits));
    }

    #[test]
    fn a_precision_beyond_the_limit_is_refused() {
        assert_eq!(FormatSpec::parse(".255f").map(|spec| spec.precision), Ok(Some(MAX_PRECISION)));
        assert_eq!(
            FormatSpec::parse(".256f"),
            Err(FormatError::PrecisionTooLarge { precision: 256, limit: MAX_PRECISION })
        );
    }
}
