//! The file name template of a run, such as `weights.{epoch:02d}-{val_loss:.2f}.ckpt`: parsed once, when the run is
//! registered, with the semantics of Python's `str.format` and its metrics as keywords. What Python would look up beyond
//! a plain key is refused here, so that a template cannot fail late for a reason that was known early.

mod fault;
mod parse;
mod render;

pub use fault::PathFault;
pub use render::{Fields, MissingKeys, RenderError, Rendered};

use crate::domain::format::{Conversion, FormatError, FormatSpec};
use crate::domain::path::MAX_PATH_BYTES;

/// The longest template, in bytes: as long as the longest path that it could render to.
pub const MAX_TEMPLATE_BYTES: usize = MAX_PATH_BYTES;

/// The field that every event has.
const EPOCH: &str = "epoch";

/// Stands for a field's unknown value while a template's literal text is checked: neither a letter nor a control character.
const PLACEHOLDER: char = '\u{fffc}';

/// A template that can be rendered: its literal text is a safe relative path, and every field fits some value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    source: String,
    pieces: Vec<Piece>,
}

/// Why a template is refused when it is registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// The template is too long.
    #[error("template has {bytes} bytes, more than the limit of {MAX_TEMPLATE_BYTES}; use a shorter one")]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// A `}` closes nothing.
    #[error("`}}` at byte {at} closes no field; write `}}}}` for the character itself")]
    UnmatchedClose {
        /// Where it is.
        at: usize,
    },
    /// A `{` is never closed.
    #[error(
        "`{{` at byte {at} is never closed; end the field with `}}`, or write `{{{{` for the character itself"
    )]
    UnmatchedOpen {
        /// Where it is.
        at: usize,
    },
    /// A field without a name, or with a number in its place.
    #[error("field `{{{name}}}` is positional; name what it prints, such as `{{epoch}}` or `{{val_loss}}`")]
    Positional {
        /// What stands in the name's place.
        name: String,
    },
    /// A field such as `{a.b}`.
    #[error("field `{{{name}}}` asks for an attribute; use the metric's name alone, without `.`")]
    Attribute {
        /// The name up to where it goes wrong.
        name: String,
    },
    /// A field such as `{a[0]}`.
    #[error("field `{{{name}}}` asks for an index; use the metric's name alone, without `[`")]
    Index {
        /// The name up to where it goes wrong.
        name: String,
    },
    /// A `{` in a field's name, or a field in a field in a field.
    #[error(
        "field `{name}` has fields nested too deep; only a format may hold fields, such as `{{loss:.{{digits}}f}}`"
    )]
    Nested {
        /// The outer field.
        name: String,
    },
    /// A `!` that no conversion follows.
    #[error("field `{name}` has the conversion `!{conversion}`; use `!s`, `!r` or `!a`, then `:` or `}}`")]
    Conversion {
        name: String,
        /// What follows the `!`.
        conversion: String,
    },
    /// A spec that cannot be parsed or fits no value the field can have.
    #[error("field `{name}` cannot be printed with `{spec}`: {error}; use a format such as `02d` or `.4f`")]
    Spec {
        name: String,
        spec: String,
        /// What Python says of it.
        error: FormatError,
    },
    /// The literal text is no safe relative path.
    #[error("template {fault}")]
    Path {
        /// What is wrong with it.
        fault: PathFault,
    },
}

/// A stretch of literal text, or a field.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Field(Field),
}

/// `{name!conversion:spec}`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Field {
    name: String,
    conversion: Option<Conversion>,
    spec: Spec,
}

/// How a field prints.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Spec {
    /// Known when the template is parsed.
    Fixed(FormatSpec),
    /// Holds fields, as in `{loss:.{digits}f}`: known when their values are. Those fields' own specs are fixed.
    Composed(Vec<Piece>),
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// Everything that is known to be wrong before there is a value; see [`TemplateError`].
    pub fn parse(source: &str) -> Result<Template, TemplateError> {
        if source.len() > MAX_TEMPLATE_BYTES {
            return Err(TemplateError::TooLong { bytes: source.len() });
        }
        let refused = |fault| TemplateError::Path { fault };
        fault::check_characters(source).map_err(refused)?;
        let pieces = parse::pieces(source, None)?;
        // The check must not depend on values: a value may be empty, so it counts as a name but not as length.
        fault::check_segments(&skeleton(&pieces, Some(PLACEHOLDER))).map_err(refused)?;
        fault::check_lengths(&skeleton(&pieces, None)).map_err(refused)?;
        Ok(Template { source: source.to_owned(), pieces })
    }

    /// The template as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The names of the fields in their order, also of those in formats, repeated where the template repeats them.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        names(&self.pieces).into_iter()
    }
}

fn names(pieces: &[Piece]) -> Vec<&str> {
    let mut found = Vec::new();
    for piece in pieces {
        if let Piece::Field(field) = piece {
            found.push(field.name.as_str());
            if let Spec::Composed(inner) = &field.spec {
                found.extend(names(inner));
            }
        }
    }
    found
}

/// The literal text, with `placeholder` for each field.
fn skeleton(pieces: &[Piece], placeholder: Option<char>) -> String {
    let mut skeleton = String::new();
    for piece in pieces {
        match piece {
            Piece::Literal(text) => skeleton.push_str(text),
            Piece::Field(_) => skeleton.extend(placeholder),
        }
    }
    skeleton
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(source: &str) -> String {
        match Template::parse(source) {
            Ok(template) => format!("accepted {template:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn any_key_that_python_reads_is_a_field_name() {
        let template = Template::parse("{epoch:02d}-{my metric}/{a/b!r:>8}{top-5}{{{-1}}}");
        let fields = template.as_ref().map(|template| template.fields().collect::<Vec<_>>());
        assert_eq!(fields, Ok(vec!["epoch", "my metric", "a/b", "top-5", "-1"]));
        let template = Template::parse("{loss:{width}.{digits:d}f}-{batch}");
        let fields = template.as_ref().map(|template| template.fields().collect::<Vec<_>>());
        assert_eq!(fields, Ok(vec!["loss", "width", "digits", "batch"]));
    }

    #[test]
    fn what_is_more_than_a_plain_key_is_refused() {
        for (source, start) in [
            ("{}", "field `{}` is positional; name what it prints"),
            ("{0}", "field `{0}` is positional"),
            ("{:.2f}", "field `{}` is positional"),
            ("{\u{663}}", "field `{\u{663}}` is positional"),
            ("{a.b}", "field `{a.}` asks for an attribute"),
            ("{a[0]}", "field `{a[}` asks for an index"),
            ("{a:{b:{c}}}", "field `a` has fields nested too deep"),
            ("{a{b}}", "field `a` has fields nested too deep"),
            ("{a:{b.c}}", "field `{b.}` asks for an attribute"),
            ("{a:{}}", "field `{}` is positional"),
            ("{a!x}", "field `a` has the conversion `!x`"),
            ("{a!}", "field `a` has the conversion `!`"),
            ("{a!rr}", "field `a` has the conversion `!rr`"),
            ("{a!:x}", "field `a` has the conversion `!`"),
        ] {
            let refusal = refusal(source);
            assert!(refusal.starts_with(start), "{source:?}: {refusal}");
        }
    }

    #[test]
    fn unbalanced_braces_are_refused_with_their_place() {
        for source in ["ab{", "ab{a", "ab{a:", "ab{a:2", "ab{a!", "ab{a!r"] {
            assert_eq!(Template::parse(source), Err(TemplateError::UnmatchedOpen { at: 2 }), "{source:?}");
        }
        assert_eq!(Template::parse("a}b"), Err(TemplateError::UnmatchedClose { at: 1 }));
        assert_eq!(Template::parse("{a}}"), Err(TemplateError::UnmatchedClose { at: 3 }));
        assert_eq!(refusal("a}b"), "`}` at byte 1 closes no field; write `}}` for the character itself");
    }

    #[test]
    fn literal_text_that_leaves_the_prefix_is_refused() {
        for (source, fault) in [
            ("/x/{epoch}", PathFault::Absolute),
            ("C:{epoch}", PathFault::Absolute),
            ("~/{epoch}", PathFault::Home),
            ("{epoch}/../x", PathFault::ParentSegment),
            ("a/./{epoch}", PathFault::CurrentSegment),
            ("a//{epoch}", PathFault::EmptySegment),
            ("{epoch}\\x", PathFault::Backslash),
            ("{epoch}\n", PathFault::Control { code_point: 10 }),
            ("", PathFault::Empty),
        ] {
            assert_eq!(Template::parse(source), Err(TemplateError::Path { fault }), "{source:?}");
        }
        for source in ["{a}:x", "{a}/b", "..{a}", "a..b", ".{a}"] {
            assert!(Template::parse(source).is_ok(), "{source:?}");
        }
    }

    #[test]
    fn a_template_beyond_the_limit_is_refused() {
        let bytes = MAX_TEMPLATE_BYTES + 1;
        assert_eq!(Template::parse(&"a".repeat(bytes)), Err(TemplateError::TooLong { bytes }));
    }

    #[test]
    fn a_spec_that_fits_no_value_is_refused_early() {
        for source in ["{val_loss:.2q}", "{val_loss:2ff}", "{epoch:s}", "{a!r:d}", "{a:300}"] {
            assert!(matches!(Template::parse(source), Err(TemplateError::Spec { .. })), "{source:?}");
        }
        for source in ["{val_loss:d}", "{batch:s}", "{epoch:.2f}", "{epoch!s:s}"] {
            assert!(Template::parse(source).is_ok(), "{source:?}");
        }
    }
}
