//! The parser of filters: words to a tree, each error with the place where it is.

use std::borrow::Cow;

use crate::domain::filter::Comparison;
use crate::domain::filter::Condition;
use crate::domain::filter::Field;
use crate::domain::filter::Operand;
use crate::domain::filter::Term;
use crate::domain::ids::shown;
use crate::domain::refusal::Refusal;
use crate::domain::run::RunState;
use crate::domain::time::time_us;

/// Longest filter text.
pub const MAX_FILTER_BYTES: usize = 4096;
/// Most comparisons in a filter; each may cost an index look-up a version.
pub const MAX_TERMS: usize = 16;
/// Most values in all lists behind `IN`: each is bound for every version that is looked at.
pub const MAX_VALUES: usize = 64;
/// Parentheses in each other.
pub const MAX_DEPTH: usize = 8;

fn bad_filter(message: String) -> Refusal {
    Refusal::invalid("BAD_FILTER", message)
}

/// Parses a filter of versions, as `a >= 1 AND (metrics.b < 0.5 OR run IN ("x", "y"))`; an empty text has no conditions.
pub fn parse_filter(text: &str) -> Result<Vec<Condition>, Refusal> {
    parse(text, version_field, VERSION_FIELDS)
}

/// Parses a filter of runs.
pub fn parse_run_filter(text: &str) -> Result<Vec<Condition>, Refusal> {
    parse(text, run_field, RUN_FIELDS)
}

const VERSION_FIELDS: &str =
    "number, epoch, batch, step, size_bytes, create_time, run, config and metrics.NAME";
const RUN_FIELDS: &str =
    "run, state, artifact, monitor, config, create_time, heard_time, attempt, last_epoch and event_count";

pub(super) fn version_field(name: &Name<'_>) -> Option<Field> {
    Some(match name {
        Name::Plain("number") => Field::Number,
        Name::Plain("epoch") => Field::Epoch,
        Name::Plain("batch") => Field::Batch,
        Name::Plain("step") => Field::Step,
        Name::Plain("size_bytes") => Field::SizeBytes,
        Name::Plain("create_time") => Field::CreateTime,
        Name::Plain("run") => Field::Run,
        Name::Plain("config") => Field::Config,
        Name::Plain(name) => {
            let metric = name.strip_prefix("metrics.").filter(|it| !it.is_empty())?;
            Field::Metric(metric.to_owned())
        }
        Name::Metric(metric) if !metric.is_empty() => Field::Metric(metric.clone().into_owned()),
        Name::Metric(_) => return None,
    })
}

fn run_field(name: &Name<'_>) -> Option<Field> {
    let Name::Plain(name) = name else { return None };
    Some(match *name {
        "run" => Field::Run,
        "state" => Field::State,
        "artifact" => Field::Artifact,
        "monitor" => Field::Monitor,
        "config" => Field::Config,
        "create_time" => Field::CreateTime,
        "heard_time" => Field::HeardTime,
        "attempt" => Field::Attempt,
        "last_epoch" => Field::LastEpoch,
        "event_count" => Field::EventCount,
        _ => return None,
    })
}

fn parse(
    text: &str,
    field: fn(&Name<'_>) -> Option<Field>,
    known: &'static str,
) -> Result<Vec<Condition>, Refusal> {
    if text.len() > MAX_FILTER_BYTES {
        let (has, most) = (text.len(), MAX_FILTER_BYTES);
        return Err(bad_filter(format!("filter is {has} bytes long, at most {most} are allowed")));
    }
    if text.contains('\0') {
        return Err(bad_filter("filter has a zero byte, which no name and no text has".to_owned()));
    }
    let mut parser = Parser { rest: text.trim(), field, known, terms: 0, values: 0, depth: 0 };
    if parser.rest.is_empty() {
        return Ok(Vec::new());
    }
    let whole = parser.any()?;
    if !parser.rest.is_empty() {
        let message =
            format!("filter goes on with `{}` where `AND`, `OR` or the end was expected", shown(parser.rest));
        return Err(bad_filter(message));
    }
    Ok(match whole {
        Condition::All(parts) => parts,
        other => vec![other],
    })
}

/// A field as it is written.
#[derive(Clone, Debug)]
pub(super) enum Name<'t> {
    Plain(&'t str),
    /// `metrics.` and a name in quotes.
    Metric(Cow<'t, str>),
}

impl Name<'_> {
    pub(super) fn text(&self) -> String {
        match self {
            Name::Plain(name) => (*name).to_owned(),
            Name::Metric(name) => format!("metrics.\"{name}\""),
        }
    }
}

/// The name of a field, and what follows it.
pub(super) fn field_name(text: &str) -> Result<(Name<'_>, &str), Refusal> {
    if let Some(after) = text.strip_prefix("metrics.")
        && after.starts_with(QUOTES)
    {
        let (name, rest) = quoted(after)?;
        return Ok((Name::Metric(name), rest));
    }
    let end = text.find(|c: char| c.is_whitespace() || "=!<>".contains(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at_checked(end).unwrap_or((text, ""));
    // `config:"adam"` needs no space; a metric's name may have a colon.
    match name.find(':').filter(|_| !name.starts_with("metrics.")) {
        Some(colon) => {
            Ok((Name::Plain(name.get(..colon).unwrap_or(name)), text.get(colon..).unwrap_or(rest)))
        }
        None => Ok((Name::Plain(name), rest)),
    }
}

const QUOTES: [char; 3] = ['"', '\'', '`'];

/// What stands in quotes, and what follows it. A `\` before the quote or another `\` takes its meaning away.
fn quoted(text: &str) -> Result<(Cow<'_, str>, &str), Refusal> {
    let mut characters = text.char_indices();
    let quote = characters.next().map_or('"', |(_, quote)| quote);
    let (mut plain, mut is_escaped) = (String::new(), false);
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => match characters.clone().next() {
                Some((_, next)) if next == quote || next == '\\' => {
                    characters.next();
                    is_escaped = true;
                    plain.push(next);
                }
                _ => plain.push('\\'),
            },
            _ if character == quote => {
                let rest = text.get(at + 1..).unwrap_or_default();
                let inside = text.get(1..at).unwrap_or_default();
                return Ok((if is_escaped { Cow::Owned(plain) } else { Cow::Borrowed(inside) }, rest));
            }
            _ => plain.push(character),
        }
    }
    Err(bad_filter(format!("`{}` has no closing {quote}", shown(text))))
}

enum Word<'t> {
    Bare(&'t str),
    Quoted(Cow<'t, str>),
}

struct Parser<'t> {
    rest: &'t str,
    field: fn(&Name<'_>) -> Option<Field>,
    known: &'static str,
    terms: usize,
    values: usize,
    depth: usize,
}

const COMPARISONS: [(&str, Comparison); 7] = [
    ("!=", Comparison::NotEqual),
    ("<=", Comparison::LessOrEqual),
    (">=", Comparison::GreaterOrEqual),
    ("=", Comparison::Equal),
    ("<", Comparison::Less),
    (">", Comparison::Greater),
    (":", Comparison::Has),
];

impl<'t> Parser<'t> {
    /// Takes a word that is written in letters, whatever their case.
    fn takes(&mut self, word: &str) -> bool {
        let Some((start, rest)) = self.rest.split_at_checked(word.len()) else { return false };
        let ends = rest.chars().next().is_none_or(|c| c.is_whitespace() || c == '(');
        let takes = start.eq_ignore_ascii_case(word) && ends;
        if takes {
            self.rest = rest.trim_start();
        }
        takes
    }

    fn takes_sign(&mut self, sign: char) -> bool {
        match self.rest.strip_prefix(sign) {
            Some(rest) => {
                self.rest = rest.trim_start();
                true
            }
            None => false,
        }
    }

    fn any(&mut self) -> Result<Condition, Refusal> {
        let mut parts = Vec::new();
        loop {
            match self.all()? {
                Condition::Any(inner) => parts.extend(inner),
                other => parts.push(other),
            }
            if !self.takes("OR") {
                break;
            }
        }
        Ok(if parts.len() == 1 { parts.swap_remove(0) } else { Condition::Any(parts) })
    }

    fn all(&mut self) -> Result<Condition, Refusal> {
        let mut parts = Vec::new();
        loop {
            match self.one()? {
                Condition::All(inner) => parts.extend(inner),
                other => parts.push(other),
            }
            if !self.takes("AND") {
                break;
            }
        }
        Ok(if parts.len() == 1 { parts.swap_remove(0) } else { Condition::All(parts) })
    }

    fn one(&mut self) -> Result<Condition, Refusal> {
        if !self.takes_sign('(') {
            return self.term();
        }
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(bad_filter(format!("filter has more than {MAX_DEPTH} parentheses in each other")));
        }
        let inside = self.any()?;
        self.depth -= 1;
        match self.takes_sign(')') {
            true => Ok(inside),
            false => Err(self.unexpected("`AND`, `OR` or `)`")),
        }
    }

    fn term(&mut self) -> Result<Condition, Refusal> {
        if self.rest.is_empty() {
            return Err(bad_filter("filter ends where a comparison was expected".to_owned()));
        }
        if self.terms == MAX_TERMS {
            return Err(bad_filter(format!("filter has more than {MAX_TERMS} comparisons")));
        }
        self.terms += 1;
        let (name, rest) = field_name(self.rest)?;
        let Some(field) = (self.field)(&name) else {
            let message = format!("field `{}` is unknown: {} are known", shown(&name.text()), self.known);
            return Err(bad_filter(message));
        };
        self.rest = rest.trim_start();
        if self.takes("IN") {
            return self.list(field, &name);
        }
        let found = COMPARISONS.iter().find(|(sign, _)| self.rest.starts_with(sign));
        let Some((sign, comparison)) = found else {
            let message = format!(
                "filter field `{}` is not followed by one of = != < <= > >= : or IN; a metric's name with spaces stands in \
                 quotes, as metrics.\"val loss\"",
                shown(&name.text())
            );
            return Err(bad_filter(message));
        };
        check_comparison(&field, *comparison, &name)?;
        self.rest = self.rest.get(sign.len()..).unwrap_or_default().trim_start();
        let word = self.word(false)?;
        let operand = operand_of(&field, &name, &word)?;
        Ok(Condition::Term(Term { field, comparison: *comparison, operand }))
    }

    fn list(&mut self, field: Field, name: &Name<'_>) -> Result<Condition, Refusal> {
        check_comparison(&field, Comparison::Equal, name)?;
        if !self.takes_sign('(') {
            return Err(self.unexpected("`(` and values with commas between them"));
        }
        let mut operands = Vec::new();
        loop {
            if self.values == MAX_VALUES {
                return Err(bad_filter(format!("filter has more than {MAX_VALUES} values behind IN")));
            }
            self.values += 1;
            let word = self.word(true)?;
            operands.push(operand_of(&field, name, &word)?);
            if self.takes_sign(')') {
                return Ok(Condition::In(field, operands));
            }
            if !self.takes_sign(',') {
                return Err(self.unexpected("`,` or `)`"));
            }
        }
    }

    /// A value, which ends at a space, a parenthesis and, in a list, a comma.
    fn word(&mut self, in_list: bool) -> Result<Word<'t>, Refusal> {
        if self.rest.starts_with(QUOTES) {
            let (word, rest) = quoted(self.rest)?;
            self.rest = rest.trim_start();
            return Ok(Word::Quoted(word));
        }
        let ends = |c: char| c.is_whitespace() || c == ')' || (in_list && c == ',');
        let (word, rest) = self
            .rest
            .split_at_checked(self.rest.find(ends).unwrap_or(self.rest.len()))
            .unwrap_or((self.rest, ""));
        self.rest = rest.trim_start();
        Ok(Word::Bare(word))
    }

    fn unexpected(&self, expected: &str) -> Refusal {
        match self.rest {
            "" => bad_filter(format!("filter ends where {expected} was expected")),
            rest => {
                bad_filter(format!("filter goes on with `{}` where {expected} was expected", shown(rest)))
            }
        }
    }
}

fn check_comparison(field: &Field, comparison: Comparison, name: &Name<'_>) -> Result<(), Refusal> {
    let allowed = match field {
        Field::Config => (comparison == Comparison::Has, "`:`, a text that it has"),
        Field::Run | Field::State | Field::Artifact | Field::Monitor => {
            (matches!(comparison, Comparison::Equal | Comparison::NotEqual), "= or !=, or IN")
        }
        _ => (comparison != Comparison::Has, "= != < <= > >= or IN"),
    };
    match allowed {
        (true, _) => Ok(()),
        (false, right) => {
            Err(bad_filter(format!("filter field `{}` is compared with {right} only", name.text())))
        }
    }
}

fn operand_of(field: &Field, name: &Name<'_>, word: &Word<'_>) -> Result<Operand, Refusal> {
    let wrong = |expected: &str, got: &str| {
        Err(bad_filter(format!(
            "filter field `{}` is compared with `{}`, but {expected} was expected",
            shown(&name.text()),
            shown(got)
        )))
    };
    match (field, word) {
        (Field::State, Word::Quoted(text)) => match RunState::parse(&text.to_uppercase()) {
            Some(state) => Ok(Operand::Text(state.as_str().to_owned())),
            None => wrong("\"ACTIVE\", \"FINISHED\" or \"FAILED\"", text),
        },
        (Field::Run | Field::Artifact | Field::Monitor | Field::Config, Word::Quoted(text)) => {
            Ok(Operand::Text(text.clone().into_owned()))
        }
        (Field::State | Field::Run | Field::Artifact | Field::Monitor | Field::Config, Word::Bare(text)) => {
            wrong("a text in quotes", text)
        }
        (Field::CreateTime | Field::HeardTime, Word::Quoted(text)) => match time_us(text) {
            Some(time_us) => Ok(Operand::Integer(time_us)),
            None => wrong("a time such as \"2026-01-31T12:00:00Z\" or \"2026-01-31T13:00:00+01:00\"", text),
        },
        (Field::CreateTime | Field::HeardTime, Word::Bare(text)) => wrong("a time in quotes", text),
        (Field::Metric(_), Word::Bare(text)) => match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Operand::Number(number)),
            _ => wrong("a finite number", text),
        },
        (_, Word::Bare(text)) => match text.parse::<i64>() {
            Ok(number) => Ok(Operand::Integer(number)),
            Err(_) => wrong("a whole number", text),
        },
        (_, Word::Quoted(text)) => wrong("a number without quotes", text),
    }
}
