//! The filter and order of ListVersions: a tiny language, parsed into a tree of known fields and bound values.

use crate::domain::ids::shown;
use crate::domain::refusal::Refusal;
use crate::domain::time::time_us;

/// Longest filter text.
pub const MAX_FILTER_BYTES: usize = 4096;
/// Most comparisons in a filter; each may cost an index look-up a version.
pub const MAX_TERMS: usize = 16;

/// What a comparison or an order looks at.
#[derive(Clone, Debug, PartialEq)]
pub enum Field {
    /// N of `vN`.
    Number,
    /// 0-based.
    Epoch,
    /// 0-based.
    Batch,
    /// Optimizer steps.
    Step,
    /// Bytes of all files.
    SizeBytes,
    /// Time of the commit.
    CreateTime,
    /// Id of the run.
    Run,
    /// A number of the version's event.
    Metric(String),
}

/// `=` and its kin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

/// What a field is compared with.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// A number, or a time in microseconds.
    Number(f64),
    /// A whole number.
    Integer(i64),
    /// A text in quotes.
    Text(String),
}

/// One comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Term {
    pub field: Field,
    pub comparison: Comparison,
    pub operand: Operand,
}

/// The order of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    pub field: Field,
    /// Largest first.
    pub descending: bool,
}

/// The place of a version in an ordered list: pages go on behind it, whatever is added or deleted meanwhile.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    /// The value that the list is ordered by.
    pub key: Key,
    /// N of `vN`, which orders equal values.
    pub number: i64,
}

/// A value that lists are ordered by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Key {
    /// A count or a time.
    Integer(i64),
    Number(f64),
}

impl Place {
    /// The place as text without spaces; a metric keeps all its bits.
    pub fn to_text(self) -> String {
        match self.key {
            Key::Integer(key) => format!("{key}.{}", self.number),
            Key::Number(key) => format!("x{:x}.{}", key.to_bits(), self.number),
        }
    }

    /// Reads what `to_text` wrote.
    pub fn parse(text: &str) -> Option<Place> {
        let (key, number) = text.split_once('.')?;
        let key = match key.strip_prefix('x') {
            Some(bits) => Key::Number(f64::from_bits(u64::from_str_radix(bits, 16).ok()?)),
            None => Key::Integer(key.parse().ok()?),
        };
        Some(Place { key, number: number.parse().ok()? })
    }
}

impl Default for Order {
    fn default() -> Self {
        Order { field: Field::Number, descending: true }
    }
}

fn bad_filter(message: String) -> Refusal {
    Refusal::invalid("BAD_FILTER", message)
}

/// Parses `a >= 1 AND metrics.b < 0.5`; an empty text has no terms.
pub fn parse_filter(text: &str) -> Result<Vec<Term>, Refusal> {
    if text.len() > MAX_FILTER_BYTES {
        return Err(bad_filter(format!(
            "filter is {} bytes long, at most {MAX_FILTER_BYTES} are allowed",
            text.len()
        )));
    }
    if text.contains('\0') {
        return Err(bad_filter("filter has a zero byte, which no name and no text has".to_owned()));
    }
    let mut terms = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        if terms.len() == MAX_TERMS {
            return Err(bad_filter(format!("filter has more than {MAX_TERMS} comparisons")));
        }
        let (term, after) = parse_term(rest)?;
        terms.push(term);
        let after = after.trim_start();
        rest = match after.strip_prefix("AND") {
            Some(next) if next.starts_with(char::is_whitespace) => next.trim_start(),
            _ if after.is_empty() => after,
            _ => {
                return Err(bad_filter(format!(
                    "filter goes on with `{}` where `AND` or the end was expected",
                    shown(after)
                )));
            }
        };
        if rest.is_empty() && !after.is_empty() {
            return Err(bad_filter("filter ends after `AND`: a comparison was expected".to_owned()));
        }
    }
    Ok(terms)
}

const COMPARISONS: [(&str, Comparison); 6] = [
    ("!=", Comparison::NotEqual),
    ("<=", Comparison::LessOrEqual),
    (">=", Comparison::GreaterOrEqual),
    ("=", Comparison::Equal),
    ("<", Comparison::Less),
    (">", Comparison::Greater),
];

fn parse_term(text: &str) -> Result<(Term, &str), Refusal> {
    let end = text.find(|c: char| c.is_whitespace() || "=!<>".contains(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at_checked(end).unwrap_or((text, ""));
    let field = parse_field(name).ok_or_else(|| bad_filter(unknown_field(name)))?;
    let rest = rest.trim_start();
    let (comparison, rest) = COMPARISONS
        .iter()
        .find_map(|(sign, comparison)| Some((*comparison, rest.strip_prefix(sign)?)))
        .ok_or_else(|| {
            bad_filter(format!("filter field `{}` is not followed by one of = != < <= > >=", shown(name)))
        })?;
    let (word, rest) = parse_word(rest.trim_start())?;
    let operand = operand_of(&field, name, &word)?;
    if field == Field::Run && !matches!(comparison, Comparison::Equal | Comparison::NotEqual) {
        return Err(bad_filter("filter field `run` is compared with = or != only".to_owned()));
    }
    Ok((Term { field, comparison, operand }, rest))
}

enum Word<'a> {
    Bare(&'a str),
    Quoted(&'a str),
}

fn parse_word(text: &str) -> Result<(Word<'_>, &str), Refusal> {
    if let Some(quoted) = text.strip_prefix('"') {
        return match quoted.split_once('"') {
            Some((word, rest)) => Ok((Word::Quoted(word), rest)),
            None => Err(bad_filter("filter has a text without its closing quote".to_owned())),
        };
    }
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    let (word, rest) = text.split_at_checked(end).unwrap_or((text, ""));
    Ok((Word::Bare(word), rest))
}

fn operand_of(field: &Field, name: &str, word: &Word<'_>) -> Result<Operand, Refusal> {
    let wrong = |expected: &str, got: &str| {
        Err(bad_filter(format!(
            "filter field `{name}` is compared with `{}`, but {expected} was expected",
            shown(got)
        )))
    };
    match (field, word) {
        (Field::Run, Word::Quoted(text)) => Ok(Operand::Text((*text).to_owned())),
        (Field::Run, Word::Bare(text)) => wrong("a run id in quotes", text),
        (Field::CreateTime, Word::Quoted(text)) => match time_us(text) {
            Some(time_us) => Ok(Operand::Integer(time_us)),
            None => wrong("a time such as \"2026-01-31T12:00:00Z\"", text),
        },
        (Field::CreateTime, Word::Bare(text)) => wrong("a time in quotes", text),
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

fn parse_field(name: &str) -> Option<Field> {
    Some(match name {
        "number" => Field::Number,
        "epoch" => Field::Epoch,
        "batch" => Field::Batch,
        "step" => Field::Step,
        "size_bytes" => Field::SizeBytes,
        "create_time" => Field::CreateTime,
        "run" => Field::Run,
        _ => match name.strip_prefix("metrics.") {
            Some(metric) if !metric.is_empty() => Field::Metric(metric.to_owned()),
            _ => return None,
        },
    })
}

fn unknown_field(name: &str) -> String {
    format!(
        "field `{}` is unknown: number, epoch, batch, step, size_bytes, create_time, run and metrics.NAME are known",
        shown(name)
    )
}

/// Parses `metrics.val_loss desc`; empty is the newest first.
pub fn parse_order(text: &str) -> Result<Order, Refusal> {
    let mut words = text.split_whitespace();
    let Some(name) = words.next() else { return Ok(Order::default()) };
    let refuse = |message: String| Err(Refusal::invalid("BAD_ORDER", message));
    if text.contains('\0') {
        return refuse("order_by has a zero byte, which no name has".to_owned());
    }
    let field = match parse_field(name) {
        Some(Field::Batch | Field::Step | Field::Run) | None => {
            return refuse(format!(
                "order by `{}` is not possible: number, create_time, epoch, size_bytes and metrics.NAME are",
                shown(name)
            ));
        }
        Some(field) => field,
    };
    let descending = match words.next() {
        None | Some("asc") => false,
        Some("desc") => true,
        Some(word) => return refuse(format!("order `{}` is neither `asc` nor `desc`", shown(word))),
    };
    match words.next() {
        None => Ok(Order { field, descending }),
        Some(word) => {
            refuse(format!("order goes on with `{}` after its direction: one field is allowed", shown(word)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons_are_joined_by_and() {
        let terms = parse_filter("epoch >= 3 AND metrics.val_loss<0.25 AND run = \"first\"").unwrap();
        let expected = vec![
            Term {
                field: Field::Epoch,
                comparison: Comparison::GreaterOrEqual,
                operand: Operand::Integer(3),
            },
            Term {
                field: Field::Metric("val_loss".to_owned()),
                comparison: Comparison::Less,
                operand: Operand::Number(0.25),
            },
            Term {
                field: Field::Run,
                comparison: Comparison::Equal,
                operand: Operand::Text("first".to_owned()),
            },
        ];
        assert_eq!(terms, expected);
        assert_eq!(parse_filter("  ").unwrap(), vec![]);
    }

    #[test]
    fn anything_else_is_refused_with_its_place() {
        let many = vec!["epoch = 1"; MAX_TERMS + 1].join(" AND ");
        let bad = [
            "epoch",
            "epoch =",
            "epoch = x",
            "epoch = 1 OR epoch = 2",
            "epoch = 1 AND",
            "(epoch = 1)",
            "metrics. = 1",
            "metrics.a = nan",
            "run = first",
            "run < \"a\"",
            "create_time > \"yesterday\"",
            "epoch = \"1\"",
            "run = \"a",
            "1 = 1; DROP TABLE runs",
            many.as_str(),
        ];
        for filter in bad {
            assert_eq!(parse_filter(filter).unwrap_err().reason, "BAD_FILTER", "{filter}");
        }
    }

    #[test]
    fn times_are_read_in_utc() {
        let terms = parse_filter("create_time >= \"2026-11-23T10:20:30.5Z\"").unwrap();
        assert_eq!(terms.first().unwrap().operand, Operand::Integer(1_795_429_230_500_000));
    }

    #[test]
    fn places_come_back_as_they_were() {
        for key in
            [Key::Integer(-3), Key::Integer(i64::MAX), Key::Number(0.1 + 0.2), Key::Number(f64::INFINITY)]
        {
            let place = Place { key, number: 7 };
            assert_eq!(Place::parse(&place.to_text()), Some(place));
        }
        for bad in ["", "1", "1.", ".1", "x.1", "y1.1"] {
            assert_eq!(Place::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn orders_have_one_field_and_a_direction() {
        assert_eq!(parse_order("").unwrap(), Order { field: Field::Number, descending: true });
        assert_eq!(
            parse_order("metrics.acc desc").unwrap(),
            Order { field: Field::Metric("acc".to_owned()), descending: true }
        );
        for bad in ["batch", "foo", "epoch up", "epoch asc, number"] {
            assert_eq!(parse_order(bad).unwrap_err().reason, "BAD_ORDER", "{bad}");
        }
    }
}
