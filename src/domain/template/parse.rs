//! Parsing: a template's text into literal stretches and fields, as Python's `str.format` reads it.

use super::{EPOCH, Field, Piece, Spec, TemplateError};
use crate::domain::format::{Conversion, FormatError, FormatSpec, FormatValue};

/// Cuts a template into pieces; or the format of the field `outer`, whose own fields hold no further ones.
pub(super) fn pieces(source: &str, outer: Option<&str>) -> Result<Vec<Piece>, TemplateError> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut characters = Characters::new(source);
    while let Some((at, c)) = characters.next() {
        match c {
            '{' | '}' if characters.take(c) => literal.push(c),
            '}' => return Err(TemplateError::UnmatchedClose { at }),
            '{' => {
                if !literal.is_empty() {
                    pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                }
                let field = field(&mut characters, at, outer)?;
                pieces.push(Piece::Field(field));
            }
            _ => literal.push(c),
        }
    }
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal));
    }
    Ok(pieces)
}

/// Reads a field whose `{` was at byte `at`.
fn field(characters: &mut Characters<'_>, at: usize, outer: Option<&str>) -> Result<Field, TemplateError> {
    let unmatched = TemplateError::UnmatchedOpen { at };
    let mut name = String::new();
    let end = loop {
        match characters.next().ok_or_else(|| unmatched.clone())?.1 {
            '.' => return Err(TemplateError::Attribute { name: name + "." }),
            '[' => return Err(TemplateError::Index { name: name + "[" }),
            '{' => return Err(TemplateError::Nested { name }),
            end @ ('}' | ':' | '!') => break end,
            c => name.push(c),
        }
    };
    // Python counts any Unicode digits as a position; an empty name is one, too.
    if name.chars().all(char::is_numeric) {
        return Err(TemplateError::Positional { name });
    }
    let (conversion, end) = match end {
        '!' => {
            let (conversion, end) = conversion(characters, &name, unmatched.clone())?;
            (Some(conversion), end)
        }
        end => (None, end),
    };
    let written = if end == ':' { spec_text(characters, &unmatched)? } else { String::new() };
    let spec = match (written.contains('{'), outer) {
        (true, Some(outer)) => return Err(TemplateError::Nested { name: outer.to_owned() }),
        (true, None) => Spec::Composed(pieces(&written, Some(&name))?),
        (false, _) => match fixed_spec(&name, conversion, &written) {
            Ok(spec) => Spec::Fixed(spec),
            Err(error) => return Err(TemplateError::Spec { name, spec: written, error }),
        },
    };
    Ok(Field { name, conversion, spec })
}

/// Reads a format up to the `}` that closes its field.
fn spec_text(characters: &mut Characters<'_>, unmatched: &TemplateError) -> Result<String, TemplateError> {
    let mut text = String::new();
    let mut open = 0_usize;
    loop {
        match characters.next().ok_or_else(|| unmatched.clone())?.1 {
            '}' if open == 0 => return Ok(text),
            c => {
                match c {
                    '{' => open += 1,
                    '}' => open -= 1,
                    _ => {}
                }
                text.push(c);
            }
        }
    }
}

fn fixed_spec(name: &str, conversion: Option<Conversion>, written: &str) -> Result<FormatSpec, FormatError> {
    let spec = FormatSpec::parse(written)?;
    fits_some_value(name, conversion, &spec)?;
    Ok(spec)
}

/// Reads what follows the `!`: one letter, then the end of the field or of this part of it.
fn conversion(
    characters: &mut Characters<'_>,
    name: &str,
    unmatched: TemplateError,
) -> Result<(Conversion, char), TemplateError> {
    let mut written = String::new();
    loop {
        match characters.next().ok_or_else(|| unmatched.clone())?.1 {
            end @ ('}' | ':') => {
                let mut letters = written.chars();
                return match (letters.next().and_then(Conversion::from_letter), letters.next()) {
                    (Some(conversion), None) => Ok((conversion, end)),
                    _ => Err(TemplateError::Conversion { name: name.to_owned(), conversion: written }),
                };
            }
            c => written.push(c),
        }
    }
}

/// Tries the spec on one value of each type that the field can have.
fn fits_some_value(name: &str, conversion: Option<Conversion>, spec: &FormatSpec) -> Result<(), FormatError> {
    let text = FormatValue::Str("");
    let (first, others) = match (conversion, name) {
        (Some(_), _) => (text, vec![]),
        (None, EPOCH) => (FormatValue::Int(1), vec![]),
        (None, _) => (FormatValue::Float(1.0), vec![FormatValue::Int(1), text]),
    };
    match spec.format(&first) {
        Err(_) if others.iter().any(|value| spec.format(value).is_ok()) => Ok(()),
        outcome => outcome.map(|_| ()),
    }
}

/// The characters of a template with their places.
struct Characters<'a>(std::iter::Peekable<std::str::CharIndices<'a>>);

impl<'a> Characters<'a> {
    fn new(source: &'a str) -> Characters<'a> {
        Characters(source.char_indices().peekable())
    }

    fn next(&mut self) -> Option<(usize, char)> {
        self.0.next()
    }

    fn take(&mut self, wanted: char) -> bool {
        self.0.next_if(|&(_, c)| c == wanted).is_some()
    }
}
