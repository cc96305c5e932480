//! What can be wrong with a format spec, alone or together with a value. The texts are Python 3.11's, word for word,
//! except for the limits, which are ours.

/// Why a spec cannot be parsed or does not fit a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The code is none of those that the value's type has.
    #[error("Unknown format code '{}' for object of type '{type_name}'", python_char(*.code))]
    UnknownCode {
        code: char,
        /// The value's Python type.
        type_name: &'static str,
    },
    /// The spec goes on after the code.
    #[error("Invalid format specifier '{spec}' for object of type '{type_name}'")]
    InvalidSpecifier {
        /// The whole spec.
        spec: String,
        /// The value's Python type.
        type_name: &'static str,
    },
    /// The code has no thousands to separate.
    #[error("Cannot specify '{separator}' with '{}'.", python_char(*.code))]
    SeparatorNotAllowed {
        /// `,` or `_`.
        separator: char,
        code: char,
    },
    /// Both separators are there.
    #[error("Cannot specify both ',' and '_'.")]
    BothSeparators,
    /// A width or precision that 64 bits cannot hold.
    #[error("Too many decimal digits in format string")]
    TooManyDigits,
    /// A point without digits.
    #[error("Format specifier missing precision")]
    MissingPrecision,
    /// An option that text does not have.
    #[error("{what} not allowed in string format specifier")]
    NotInString {
        /// The option, in Python's words.
        what: &'static str,
    },
    /// An option that integers do not have.
    #[error("{what} not allowed in integer format specifier")]
    NotInInteger {
        /// The option, in Python's words.
        what: &'static str,
    },
    /// An option that code `c` does not have.
    #[error("{what} not allowed with integer format specifier 'c'")]
    NotWithCharacter {
        /// The option, in Python's words.
        what: &'static str,
    },
    /// Code `c` of an integer that is no code point.
    #[error("%c arg not in range(0x110000)")]
    CharacterOutOfRange,
    /// Code `c` of a surrogate: Python text can hold one, UTF-8 cannot.
    #[error("code point {code_point:#x} is half of a surrogate pair; `c` needs a whole character")]
    Surrogate {
        /// The code point.
        code_point: u32,
    },
    /// The width is beyond our limit.
    #[error("width {width} is beyond the limit of {limit}; use a smaller width")]
    WidthTooLarge {
        /// The width asked for.
        width: u64,
        /// The greatest that is allowed.
        limit: usize,
    },
    /// The precision is beyond our limit.
    #[error("precision {precision} is beyond the limit of {limit}; use a smaller precision")]
    PrecisionTooLarge {
        /// The precision asked for.
        precision: u64,
        /// The greatest that is allowed.
        limit: usize,
    },
}

impl FormatError {
    /// The Python exception that `format()` raises for this.
    pub fn python_type(&self) -> &'static str {
        match self {
            FormatError::CharacterOutOfRange => "OverflowError",
            _ => "ValueError",
        }
    }
}

/// Python prints a code as itself when it is visible ASCII (and DEL), else as a hexadecimal escape.
fn python_char(code: char) -> String {
    match u32::from(code) {
        33..=127 => code.to_string(),
        other => format!("\\x{other:x}"),
    }
}
