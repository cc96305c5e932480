//! The conversions `!s`, `!r` and `!a`, which turn any value into text before the spec applies.
//!
//! Which characters beyond ASCII `!r` shows as they are is asked of the standard library. It excludes the same general
//! categories as Python does, so the two differ only for characters that one side's Unicode version does not know yet.

use super::{FormatValue, float};

/// A conversion that a template field asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conversion {
    /// `!s`: Python's `str()`.
    Str,
    /// `!r`: Python's `repr()`.
    Repr,
    /// `!a`: Python's `ascii()`.
    Ascii,
}

impl Conversion {
    /// The conversion that `letter` stands for after the `!`.
    pub fn from_letter(letter: char) -> Option<Conversion> {
        match letter {
            's' => Some(Conversion::Str),
            'r' => Some(Conversion::Repr),
            'a' => Some(Conversion::Ascii),
            _ => None,
        }
    }

    /// The value as text, as Python 3.11 converts it.
    pub fn apply(self, value: &FormatValue<'_>) -> String {
        match (*value, self) {
            (FormatValue::Int(int), _) => int.to_string(),
            (FormatValue::Float(float), _) => float::repr(float),
            (FormatValue::Str(text), Conversion::Str) => text.to_owned(),
            (FormatValue::Str(text), Conversion::Repr) => quote(text),
            (FormatValue::Str(text), Conversion::Ascii) => escape_non_ascii(&quote(text)),
        }
    }

    /// Converts what is already the `repr` of some other object; only `!a` has something left to do.
    pub fn apply_to_repr(self, repr: &str) -> String {
        match self {
            Conversion::Str | Conversion::Repr => repr.to_owned(),
            Conversion::Ascii => escape_non_ascii(repr),
        }
    }
}

/// Python's `repr` of text: single quotes, unless only double quotes save an escape.
fn quote(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push(quote);
    for c in text.chars() {
        match c {
            '\\' => quoted.push_str("\\\\"),
            '\t' => quoted.push_str("\\t"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            _ if c == quote => {
                quoted.push('\\');
                quoted.push(c);
            }
            _ if is_printable(c) => quoted.push(c),
            _ => quoted.push_str(&escape(c)),
        }
    }
    quoted.push(quote);
    quoted
}

fn escape_non_ascii(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii() {
            escaped.push(c);
        } else {
            escaped.push_str(&escape(c));
        }
    }
    escaped
}

fn escape(c: char) -> String {
    match u32::from(c) {
        code @ 0..=0xff => format!("\\x{code:02x}"),
        code @ 0x100..=0xffff => format!("\\u{code:04x}"),
        code => format!("\\U{code:08x}"),
    }
}

fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_control();
    }
    // A leading letter, because the first character of a text is also escaped when it merely combines with others.
    let probe = String::from_iter(['a', c]);
    probe.escape_debug().nth(1) == Some(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repr_quotes_as_python_does() {
        for (text, expected) in [
            ("a", "'a'"),
            ("it's", "\"it's\""),
            ("\"it's\"", "'\"it\\'s\"'"),
            ("a\tb\n\\\u{1}\u{7f}", "'a\\tb\\n\\\\\\x01\\x7f'"),
            ("é\u{a0}\u{200b}\u{e000}\u{f0000}", "'é\\xa0\\u200b\\ue000\\U000f0000'"),
            ("e\u{301}🎉", "'e\u{301}🎉'"),
        ] {
            assert_eq!(Conversion::Repr.apply(&FormatValue::Str(text)), expected);
        }
    }

    #[test]
    fn ascii_escapes_what_repr_shows() {
        assert_eq!(Conversion::Ascii.apply(&FormatValue::Str("é→🎉")), "'\\xe9\\u2192\\U0001f389'");
        assert_eq!(Conversion::Ascii.apply_to_repr("[é]"), "[\\xe9]");
    }
}
