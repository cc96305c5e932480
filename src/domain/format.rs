//! Python 3.11's format mini-language for integers, floats and text: parse a spec once, format many values.
//! Error texts are Python's own, so that a client can raise what `format()` would have raised. Templates are next door.

mod conversion;
mod error;
mod float;
mod number;
mod spec;

pub use conversion::Conversion;
pub use error::FormatError;
pub use spec::{FormatSpec, MAX_PRECISION, MAX_WIDTH};

use number::Number;
use spec::{Align, Code, Sign};

/// A value to format: the three Python types that a template field can hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FormatValue<'a> {
    /// A Python `int`, as far as 64 bits go.
    Int(i64),
    /// A Python `float`.
    Float(f64),
    /// A Python `str`.
    Str(&'a str),
}

impl FormatValue<'_> {
    /// The name of the value's Python type, as error texts have it.
    pub fn type_name(&self) -> &'static str {
        match self {
            FormatValue::Int(_) => "int",
            FormatValue::Float(_) => "float",
            FormatValue::Str(_) => "str",
        }
    }
}

impl FormatSpec {
    /// Formats `value` as `format(value, spec)` does in Python 3.11.
    ///
    /// # Errors
    /// What Python reports only when it knows the value's type, for instance code `d` for a float.
    pub fn format(&self, value: &FormatValue<'_>) -> Result<String, FormatError> {
        if self.code == Code::Malformed {
            return Err(FormatError::InvalidSpecifier {
                spec: self.source().to_owned(),
                type_name: value.type_name(),
            });
        }
        match *value {
            FormatValue::Int(int) => self.format_int(int),
            FormatValue::Float(float) => self.format_float(float, value),
            FormatValue::Str(text) => self.format_str(text, value),
        }
    }

    fn format_int(&self, int: i64) -> Result<String, FormatError> {
        let code = match self.code {
            Code::Char(code) => code,
            Code::None | Code::Malformed => 'd',
        };
        match code {
            'b' | 'c' | 'd' | 'n' | 'o' | 'x' | 'X' => {}
            'e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%' => {
                // The cast rounds to nearest, ties to even, as int.__float__ does.
                return Ok(number::lay_out(self, &float::number(int as f64, self)));
            }
            _ => return Err(self.unknown_code(&FormatValue::Int(int))),
        }
        if self.precision.is_some() {
            return Err(FormatError::NotInInteger { what: "Precision" });
        }
        if self.no_negative_zero {
            return Err(FormatError::NotInInteger { what: "Negative zero coercion (z)" });
        }
        if code == 'c' {
            return self.format_character(int);
        }
        let magnitude = int.unsigned_abs();
        let (prefix, digits) = match code {
            'b' => ("0b", format!("{magnitude:b}")),
            'o' => ("0o", format!("{magnitude:o}")),
            'x' => ("0x", format!("{magnitude:x}")),
            'X' => ("0X", format!("{magnitude:X}")),
            _ => ("", magnitude.to_string()),
        };
        Ok(number::lay_out(
            self,
            &Number {
                negative: int < 0,
                prefix: if self.alternate { prefix } else { "" },
                digits,
                rest: String::new(),
            },
        ))
    }

    fn format_character(&self, int: i64) -> Result<String, FormatError> {
        if self.sign.is_some() {
            return Err(FormatError::NotWithCharacter { what: "Sign" });
        }
        if self.alternate {
            return Err(FormatError::NotWithCharacter { what: "Alternate form (#)" });
        }
        let code_point = u32::try_from(int)
            .ok()
            .filter(|&code_point| code_point <= u32::from(char::MAX))
            .ok_or(FormatError::CharacterOutOfRange)?;
        let character = char::from_u32(code_point).ok_or(FormatError::Surrogate { code_point })?;
        Ok(number::lay_out(
            self,
            &Number { negative: false, prefix: "", digits: String::new(), rest: character.to_string() },
        ))
    }

    fn format_float(&self, float: f64, value: &FormatValue<'_>) -> Result<String, FormatError> {
        match self.code {
            Code::None | Code::Char('e' | 'E' | 'f' | 'F' | 'g' | 'G' | 'n' | '%') => {
                Ok(number::lay_out(self, &float::number(float, self)))
            }
            Code::Char(_) | Code::Malformed => Err(self.unknown_code(value)),
        }
    }

    fn format_str(&self, text: &str, value: &FormatValue<'_>) -> Result<String, FormatError> {
        // Without a code the type is `s`, and so CPython's complaint about the separator names it.
        if let (Code::None, Some(grouping)) = (self.code, self.grouping) {
            return Err(FormatError::SeparatorNotAllowed { separator: grouping.separator(), code: 's' });
        }
        if !matches!(self.code, Code::None | Code::Char('s')) {
            return Err(self.unknown_code(value));
        }
        let refused = match (self.sign, self.align) {
            (Some(Sign::Space), _) => Some("Space"),
            (Some(_), _) => Some("Sign"),
            _ if self.no_negative_zero => Some("Negative zero coercion (z)"),
            _ if self.alternate => Some("Alternate form (#)"),
            (_, Some(Align::AfterSign)) => Some("'=' alignment"),
            _ => None,
        };
        if let Some(what) = refused {
            return Err(FormatError::NotInString { what });
        }
        let kept: String = match self.precision {
            Some(precision) => text.chars().take(precision).collect(),
            None => text.to_owned(),
        };
        let align = self.align.unwrap_or(Align::Left);
        Ok(number::pad(self, align, "", &kept))
    }

    fn unknown_code(&self, value: &FormatValue<'_>) -> FormatError {
        FormatError::UnknownCode {
            code: match self.code {
                Code::Char(code) => code,
                Code::None | Code::Malformed => '\0',
            },
            type_name: value.type_name(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The output, or the error's text: what a person at a Python prompt would see.
    fn seen(value: FormatValue<'_>, spec: &str) -> String {
        FormatSpec::parse(spec).and_then(|spec| spec.format(&value)).unwrap_or_else(|error| error.to_string())
    }

    #[test]
    fn the_fields_of_common_file_names_print_as_python_prints_them() {
        for (value, spec, expected) in [
            (FormatValue::Int(7), "02d", "07"),
            (FormatValue::Int(7), "", "7"),
            (FormatValue::Float(0.214_999), ".2f", "0.21"),
            (FormatValue::Float(0.5), "", "0.5"),
            (FormatValue::Float(1e16), "", "1e+16"),
            (FormatValue::Float(1e-5), "", "1e-05"),
            (FormatValue::Float(3.0), "", "3.0"),
            (FormatValue::Str("adam"), ">6.3", "   ada"),
        ] {
            assert_eq!(seen(value, spec), expected, "{value:?} {spec:?}");
        }
    }

    #[test]
    fn zeros_that_fill_the_width_are_grouped_too() {
        assert_eq!(seen(FormatValue::Int(1234), "010,d"), "00,001,234");
        assert_eq!(seen(FormatValue::Int(1234), "09,d"), "0,001,234");
        assert_eq!(seen(FormatValue::Int(1234), "08,d"), "0,001,234");
        assert_eq!(seen(FormatValue::Int(-255), "#012_x"), "-0x0000_00ff");
    }

    #[test]
    fn ties_round_to_even_on_the_exact_value() {
        for (value, spec, expected) in [
            (0.5, ".0f", "0"),
            (1.5, ".0f", "2"),
            (2.5, ".0e", "2e+00"),
            (0.125, ".2f", "0.12"),
            (2.675, ".2f", "2.67"),
            (-0.001, "z.2f", "0.00"),
        ] {
            assert_eq!(seen(FormatValue::Float(value), spec), expected);
        }
    }

    #[test]
    fn an_error_that_needs_the_type_comes_from_format() {
        assert!(FormatSpec::parse("d").is_ok());
        assert_eq!(seen(FormatValue::Int(3), "d"), "3");
        assert_eq!(seen(FormatValue::Float(3.0), "d"), "Unknown format code 'd' for object of type 'float'");
    }

    #[test]
    fn a_character_must_be_one_that_text_can_hold() {
        assert_eq!(seen(FormatValue::Int(65), "03c"), "00A");
        assert_eq!(seen(FormatValue::Int(0x11_0000), "c"), "%c arg not in range(0x110000)");
        assert_eq!(
            seen(FormatValue::Int(0xd800), "c"),
            "code point 0xd800 is half of a surrogate pair; `c` needs a whole character"
        );
    }
}
