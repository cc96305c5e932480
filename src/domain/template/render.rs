//! Rendering: a template and the values of one event make a path. Values are not trusted: whatever they hold, the result
//! is a relative path that stays below its prefix, or there is none.

use std::collections::BTreeMap;

use super::{EPOCH, Field, PathFault, Piece, Spec, Template, fault};
use crate::domain::format::{Conversion, FormatError, FormatSpec, FormatValue};
use crate::domain::metric::MetricValue;
use crate::domain::path::MAX_PATH_BYTES;

const BATCH: &str = "batch";

/// What a missing key prints as when rendering goes on.
const MISSING_TEXT: &str = "none";

/// The values that one event offers.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    /// The epoch as it is printed, counted from 1.
    pub epoch: i64,
    /// The batch as it is printed, counted from 1; none when the epoch ends. A metric named `batch` replaces it.
    pub batch: Option<i64>,
    /// The metrics of the event.
    pub metrics: &'a BTreeMap<String, MetricValue>,
}

/// What to do about a key that the event does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissingKeys {
    /// Fail as Python does. A metric named `epoch` fails, too: Python refuses to pass it twice.
    Fail,
    /// Print `none`, whatever the field's spec, and go on. The event's own epoch wins over a metric of that name.
    PrintNone,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// Relative, without empty, `.` and `..` names, control characters and backslashes.
    pub path: String,
    /// The keys that printed as `none`, each once, in the order of the template.
    pub missing: Vec<String>,
}

/// Why a template has no path for an event. The texts are those of the Python exceptions, word for word, except where
/// only we refuse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RenderError {
    /// The event has no such key. The text is the key's `repr`, as that of a `KeyError` is.
    #[error("{}", Conversion::Repr.apply(&FormatValue::Str(.key)))]
    MissingKey { key: String },
    /// A metric is named `epoch`.
    #[error("str.format() got multiple values for keyword argument 'epoch'")]
    EpochTwice,
    /// The field's spec does not fit the value.
    #[error("{error}")]
    Format {
        field: String,
        /// What Python says of it.
        error: FormatError,
    },
    /// The value's type takes no spec at all.
    #[error("unsupported format string passed to {python_class}.__format__")]
    NoSpecAllowed {
        /// The value's Python class.
        python_class: &'static str,
    },
    /// The result is no safe relative path.
    #[error("rendered path {fault}")]
    Path {
        /// What is wrong with it.
        fault: PathFault,
    },
}

impl Template {
    /// The path for an event, as `source.format(epoch=…, batch=…, **metrics)` makes it.
    ///
    /// # Errors
    /// What Python would raise, and a result that is no safe relative path.
    pub fn render(&self, fields: &Fields<'_>, missing_keys: MissingKeys) -> Result<Rendered, RenderError> {
        if missing_keys == MissingKeys::Fail && fields.metrics.contains_key(EPOCH) {
            return Err(RenderError::EpochTwice);
        }
        let mut path = String::new();
        let mut missing: Vec<String> = Vec::new();
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => path.push_str(text),
                Piece::Field(field) => match (field.print(fields)?, missing_keys) {
                    (Printed::Text(text), _) => path.push_str(&text),
                    (Printed::Missing(key), MissingKeys::Fail) => {
                        return Err(RenderError::MissingKey { key: key.to_owned() });
                    }
                    (Printed::Missing(key), MissingKeys::PrintNone) => {
                        path.push_str(MISSING_TEXT);
                        if !missing.iter().any(|it| it == key) {
                            missing.push(key.to_owned());
                        }
                    }
                },
            }
            // Not later: many fields with long values would take memory for nothing.
            if path.len() > MAX_PATH_BYTES {
                let fault = PathFault::TooLong { bytes: path.len() };
                return Err(RenderError::Path { fault });
            }
        }
        fault::check(&path).map_err(|fault| RenderError::Path { fault })?;
        Ok(Rendered { path, missing })
    }
}

/// What became of a field.
enum Printed<'t> {
    Text(String),
    /// The event has no such key, the field's own or one in its format.
    Missing(&'t str),
}

impl Field {
    /// The field's text.
    fn print(&self, fields: &Fields<'_>) -> Result<Printed<'_>, RenderError> {
        let value = match (self.name.as_str(), fields.metrics.get(&self.name), fields.batch) {
            (EPOCH, _, _) => FormatValue::Int(fields.epoch),
            (_, Some(MetricValue::Number(number)), _) => FormatValue::Float(*number),
            (_, Some(MetricValue::Integer(integer)), _) => FormatValue::Int(*integer),
            (_, Some(MetricValue::Text(text)), _) => FormatValue::Str(text),
            (_, Some(MetricValue::NotScalar(repr)), _) => {
                return self.print_object(fields, repr, "numpy.ndarray");
            }
            (_, Some(MetricValue::Missing), _) => return self.print_object(fields, "None", "NoneType"),
            (BATCH, None, Some(batch)) => FormatValue::Int(batch),
            (_, None, _) => return Ok(Printed::Missing(&self.name)),
        };
        match self.conversion {
            Some(conversion) => self.format(fields, &FormatValue::Str(&conversion.apply(&value))),
            None => self.format(fields, &value),
        }
    }

    /// Objects of other types take a spec only once a conversion has made text of them.
    fn print_object(
        &self,
        fields: &Fields<'_>,
        repr: &str,
        python_class: &'static str,
    ) -> Result<Printed<'_>, RenderError> {
        match (self.conversion, &self.spec) {
            (Some(conversion), _) => self.format(fields, &FormatValue::Str(&conversion.apply_to_repr(repr))),
            (None, Spec::Fixed(spec)) if spec.source().is_empty() => Ok(Printed::Text(repr.to_owned())),
            (None, _) => Err(RenderError::NoSpecAllowed { python_class }),
        }
    }

    fn format(&self, fields: &Fields<'_>, value: &FormatValue<'_>) -> Result<Printed<'_>, RenderError> {
        let failed = |error| RenderError::Format { field: self.name.clone(), error };
        let pieces = match &self.spec {
            Spec::Fixed(spec) => return spec.format(value).map(Printed::Text).map_err(failed),
            Spec::Composed(pieces) => pieces,
        };
        let mut written = String::new();
        for piece in pieces {
            match piece {
                Piece::Literal(text) => written.push_str(text),
                Piece::Field(field) => match field.print(fields)? {
                    Printed::Text(text) => written.push_str(&text),
                    missing @ Printed::Missing(_) => return Ok(missing),
                },
            }
        }
        FormatSpec::parse(&written).and_then(|spec| spec.format(value)).map(Printed::Text).map_err(failed)
    }
}

impl RenderError {
    /// The exception that Python raises for this; `ValueError` where only we refuse.
    pub fn python_type(&self) -> &'static str {
        match self {
            RenderError::MissingKey { .. } => "KeyError",
            RenderError::EpochTwice | RenderError::NoSpecAllowed { .. } => "TypeError",
            RenderError::Format { error, .. } => error.python_type(),
            RenderError::Path { .. } => "ValueError",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, any};

    use super::*;
    use crate::domain::path::MAX_SEGMENT_BYTES;

    fn render(
        source: &str,
        metrics: &[(&str, MetricValue)],
        missing_keys: MissingKeys,
    ) -> Result<Rendered, RenderError> {
        let metrics = metrics.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let fields = Fields { epoch: 7, batch: Some(40), metrics: &metrics };
        Template::parse(source).expect("the template is valid").render(&fields, missing_keys)
    }

    fn path(source: &str, metrics: &[(&str, MetricValue)]) -> String {
        match render(source, metrics, MissingKeys::Fail) {
            Ok(rendered) => rendered.path,
            Err(error) => format!("{}: {error}", error.python_type()),
        }
    }

    #[test]
    fn a_path_is_what_python_makes_of_it() {
        let metrics = [
            ("val_loss", MetricValue::Number(0.214_9)),
            ("a/b", MetricValue::Integer(3)),
            ("my metric", MetricValue::Text("é".to_owned())),
            ("nothing", MetricValue::Missing),
            ("array", MetricValue::NotScalar("array([1, 2])".to_owned())),
        ];
        for (source, expected) in [
            ("w.{epoch:02d}-{val_loss:.2f}.ckpt", "w.07-0.21.ckpt"),
            ("{batch:04d}/{{{a/b}}}", "0040/{3}"),
            ("{my metric}{my metric!r:>5}", "é  'é'"),
            ("{my metric!a}", "ValueError: rendered path has a backslash; separate names with `/`"),
            ("{nothing}-{nothing!s:>5}", "None- None"),
            ("{array}{array!r:.5}", "array([1, 2])array"),
            ("{nothing:.2f}", "TypeError: unsupported format string passed to NoneType.__format__"),
            ("{array:.2f}", "TypeError: unsupported format string passed to numpy.ndarray.__format__"),
            ("{val_acc:.2f}", "KeyError: 'val_acc'"),
            ("{val_loss:{a/b}.{digits}f}", "KeyError: 'digits'"),
            ("{val_loss:{my metric}>{batch}.{a/b}f}", &format!("{}0.215", "é".repeat(35))),
            (
                "{val_loss:.{val_loss}f}",
                "ValueError: Invalid format specifier '.0.2149f' for object of type 'float'",
            ),
            (
                "{val_loss:{batch}{batch}}",
                "ValueError: width 4040 is beyond the limit of 255; use a smaller width",
            ),
            ("{nothing:{a/b}}", "TypeError: unsupported format string passed to NoneType.__format__"),
            ("{val_loss:d}", "ValueError: Unknown format code 'd' for object of type 'float'"),
        ] {
            assert_eq!(path(source, &metrics), expected, "{source:?}");
        }
    }

    #[test]
    fn a_metric_named_batch_replaces_the_batch() {
        assert_eq!(path("{batch}", &[("batch", MetricValue::Number(0.5))]), "0.5");
    }

    #[test]
    fn a_metric_named_epoch_is_refused_or_loses() {
        let metrics = [("epoch", MetricValue::Integer(99))];
        assert_eq!(
            path("{epoch}", &metrics),
            "TypeError: str.format() got multiple values for keyword argument 'epoch'"
        );
        assert_eq!(
            render("{epoch}", &metrics, MissingKeys::PrintNone),
            Ok(Rendered { path: "7".to_owned(), missing: vec![] })
        );
    }

    #[test]
    fn a_missing_key_prints_as_none_and_is_listed_once() {
        assert_eq!(
            render("{epoch}-{val_loss:.2f}-{b!r}-{val_loss}", &[], MissingKeys::PrintNone),
            Ok(Rendered {
                path: "7-none-none-none".to_owned(),
                missing: vec!["val_loss".to_owned(), "b".to_owned()]
            })
        );
        assert_eq!(
            render("{epoch:{width}d}", &[], MissingKeys::PrintNone),
            Ok(Rendered { path: "none".to_owned(), missing: vec!["width".to_owned()] })
        );
    }

    #[test]
    fn a_value_cannot_smuggle_a_way_out() {
        for (source, value, fault) in [
            ("a/{x}", "../../etc/passwd", PathFault::ParentSegment),
            ("a/.{x}", ".", PathFault::ParentSegment),
            ("a/{x}/b", "", PathFault::EmptySegment),
            ("{x}/b", "", PathFault::Absolute),
            ("{x}b", "C:", PathFault::Absolute),
            ("{x}/b", "~root", PathFault::Home),
            ("{x}", "", PathFault::Empty),
            ("{x}", "a\0b", PathFault::Control { code_point: 0 }),
        ] {
            assert_eq!(
                render(source, &[("x", MetricValue::Text(value.to_owned()))], MissingKeys::Fail),
                Err(RenderError::Path { fault }),
                "{source:?} {value:?}"
            );
        }
    }

    #[test]
    fn a_path_beyond_the_limits_is_refused() {
        for (length, bytes) in [(255, None), (256, Some(256)), (1000, Some(1000))] {
            let rendered = render("{x}", &[("x", MetricValue::Text("a".repeat(length)))], MissingKeys::Fail);
            let fault = bytes.map(|bytes| RenderError::Path { fault: PathFault::SegmentTooLong { bytes } });
            assert_eq!(rendered.err(), fault);
        }
        assert_eq!(
            render("{x}{x}{x}", &[("x", MetricValue::Text("a".repeat(600)))], MissingKeys::Fail),
            Err(RenderError::Path { fault: PathFault::TooLong { bytes: 1200 } })
        );
    }

    /// Any text, with a taste for what paths are made of.
    fn hostile() -> impl Strategy<Value = String> {
        let part = proptest::prop_oneof![
            proptest::sample::select(vec!["..", ".", "/", "\\", "~", "C:", "\0", "", "{", "x"])
                .prop_map(str::to_owned),
            any::<String>(),
        ];
        proptest::collection::vec(part, 0..6).prop_map(|parts| parts.concat())
    }

    proptest::proptest! {
        #[test]
        fn a_rendered_path_never_escapes(
            first in hostile(),
            second in hostile(),
            source in proptest::sample::select(vec![
                "{a}", "{a}/{b}", "x/{a}{b}/y", ".{a}", "{a!r}/{b!s}", "x/{a:.2}{b:.1}", "{a}.{b}", "{{{a}/{b:>9}",
            ]),
        ) {
            let metrics = [("a", MetricValue::Text(first)), ("b", MetricValue::Text(second))];
            if let Ok(rendered) = render(source, &metrics, MissingKeys::Fail) {
                let path = std::path::Path::new(&rendered.path);
                proptest::prop_assert!(path
                    .components()
                    .all(|part| matches!(part, std::path::Component::Normal(_))));
                proptest::prop_assert!(!rendered.path.contains(['\\', '\0']));
                proptest::prop_assert!(!rendered.path.starts_with('~'));
                proptest::prop_assert!(rendered.path.len() <= MAX_PATH_BYTES);
                for name in rendered.path.split('/') {
                    let leads_elsewhere = matches!(name, "" | "." | "..");
                    proptest::prop_assert!(!leads_elsewhere && name.len() <= MAX_SEGMENT_BYTES);
                }
            }
        }

        #[test]
        fn any_template_is_parsed_or_refused_without_a_panic(source in hostile()) {
            if let Ok(template) = Template::parse(&source) {
                proptest::prop_assert_eq!(template.source(), source);
            }
        }
    }
}
