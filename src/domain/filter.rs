//! The filter and order of ListVersions and ListRuns: a tiny language, parsed into a tree of known fields and bound values.

mod parse;

use crate::domain::ids::shown;
use crate::domain::refusal::Refusal;

pub use parse::MAX_DEPTH;
pub use parse::MAX_FILTER_BYTES;
pub use parse::MAX_TERMS;
pub use parse::MAX_VALUES;
pub use parse::parse_filter;
pub use parse::parse_run_filter;

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
    /// The run's settings, as JSON.
    Config,
    /// A number of the version's event.
    Metric(String),
    /// Of a run: where it stands.
    State,
    /// Of a run: the id of its artifact.
    Artifact,
    /// Of a run: the metric that it watches.
    Monitor,
    /// Of a run: when it was heard from last.
    HeardTime,
    /// Of a run: its newest attempt.
    Attempt,
    /// Of a run: 0-based.
    LastEpoch,
    /// Of a run: events stored.
    EventCount,
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
    /// `:`, a text in a text whatever the case.
    Has,
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

/// A part of a filter. All parts of a filter must hold.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    Term(Term),
    /// The field is equal to one of these.
    In(Field, Vec<Operand>),
    /// All of these hold.
    All(Vec<Condition>),
    /// One of these holds.
    Any(Vec<Condition>),
}

impl Condition {
    /// The comparison, if that is all.
    pub fn term(&self) -> Option<&Term> {
        match self {
            Condition::Term(term) => Some(term),
            Condition::In(..) | Condition::All(_) | Condition::Any(_) => None,
        }
    }

    /// Every field that it looks at, with what it is compared with.
    pub fn fields(&self) -> Vec<(&Field, &[Operand])> {
        match self {
            Condition::Term(term) => vec![(&term.field, std::slice::from_ref(&term.operand))],
            Condition::In(field, operands) => vec![(field, operands)],
            Condition::All(parts) | Condition::Any(parts) => {
                parts.iter().flat_map(Condition::fields).collect()
            }
        }
    }
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

/// Parses `metrics.val_loss desc`; empty is the newest first.
pub fn parse_order(text: &str) -> Result<Order, Refusal> {
    let refuse = |message: String| Err(Refusal::invalid("BAD_ORDER", message));
    if text.trim().is_empty() {
        return Ok(Order::default());
    }
    if text.contains('\0') {
        return refuse("order_by has a zero byte, which no name has".to_owned());
    }
    let (name, rest) =
        parse::field_name(text.trim()).map_err(|refusal| Refusal { reason: "BAD_ORDER", ..refusal })?;
    let mut words = rest.split_whitespace();
    let field = match parse::version_field(&name) {
        Some(
            field @ (Field::Number | Field::CreateTime | Field::Epoch | Field::SizeBytes | Field::Metric(_)),
        ) => field,
        _ => {
            return refuse(format!(
                "order by `{}` is not possible: number, create_time, epoch, size_bytes and metrics.NAME are",
                shown(&name.text())
            ));
        }
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
            Condition::Term(Term {
                field: Field::Epoch,
                comparison: Comparison::GreaterOrEqual,
                operand: Operand::Integer(3),
            }),
            Condition::Term(Term {
                field: Field::Metric("val_loss".to_owned()),
                comparison: Comparison::Less,
                operand: Operand::Number(0.25),
            }),
            Condition::Term(Term {
                field: Field::Run,
                comparison: Comparison::Equal,
                operand: Operand::Text("first".to_owned()),
            }),
        ];
        assert_eq!(terms, expected);
        assert_eq!(parse_filter("  ").unwrap(), vec![]);
    }

    #[test]
    fn anything_else_is_refused_with_its_place() {
        let many = vec!["epoch = 1"; MAX_TERMS + 1].join(" AND ");
        let deep = format!("{}epoch = 1{}", "(".repeat(MAX_DEPTH + 1), ")".repeat(MAX_DEPTH + 1));
        let long_list = format!("epoch IN ({})", vec!["1"; MAX_VALUES + 1].join(", "));
        let bad = [
            "epoch",
            "epoch =",
            "epoch = x",
            "epoch = 1 AND",
            "(epoch = 1",
            "epoch = 1)",
            "()",
            "epoch = 1 OR",
            "epoch = 1 AND OR epoch = 2",
            "epoch IN",
            "epoch IN ()",
            "epoch IN (1, )",
            "epoch IN (1 2)",
            "epoch IN (1, x)",
            "epoch : 1",
            "config = \"adam\"",
            "state = \"ACTIVE\"",
            "metrics.\"a < 1",
            "metrics.\"\" < 1",
            "\"epoch\" = 1",
            "metrics.a b = 1",
            deep.as_str(),
            long_list.as_str(),
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
        let with_offset = parse_filter("create_time >= '2026-11-23T11:20:30.5+01:00'").unwrap();
        assert_eq!(terms, with_offset);
        assert_eq!(terms[0].term().unwrap().operand, Operand::Integer(1_795_429_230_500_000));
    }

    #[test]
    fn and_binds_closer_than_or_and_parentheses_closest() {
        let is = |field: Field, number: i64| {
            Condition::Term(Term { field, comparison: Comparison::Equal, operand: Operand::Integer(number) })
        };
        let [a, b, c] = [1, 2, 3].map(|number| is(Field::Epoch, number));
        let all = |parts: &[&Condition]| Condition::All(parts.iter().copied().cloned().collect());
        let any = |parts: &[&Condition]| Condition::Any(parts.iter().copied().cloned().collect());
        let table = [
            ("epoch = 1 OR epoch = 2 AND epoch = 3", vec![any(&[&a, &all(&[&b, &c])])]),
            ("(epoch = 1 or epoch=2)and epoch = 3", vec![any(&[&a, &b]), c.clone()]),
            ("((epoch = 1) AND (epoch = 2)) AND epoch = 3", vec![a.clone(), b.clone(), c.clone()]),
            ("epoch = 1 OR (epoch = 2 OR epoch = 3)", vec![any(&[&a, &b, &c])]),
            (
                "run IN (\"a\", 'b') AND epoch in(1)",
                vec![
                    Condition::In(Field::Run, ["a", "b"].map(|it| Operand::Text(it.to_owned())).into()),
                    Condition::In(Field::Epoch, vec![Operand::Integer(1)]),
                ],
            ),
        ];
        for (filter, expected) in table {
            assert_eq!(parse_filter(filter).unwrap(), expected, "{filter}");
        }
    }

    #[test]
    fn a_name_in_quotes_is_that_name() {
        for (filter, name) in [
            ("metrics.val/loss < 1", "val/loss"),
            ("metrics.acc(top) < 1", "acc(top)"),
            ("metrics.\"val loss\" < 1", "val loss"),
            ("metrics.'Top-1 (%)'<1", "Top-1 (%)"),
            ("metrics.`a\"b'c` < 1", "a\"b'c"),
            ("metrics.\"a\\\"b\\\\c\\d\" < 1", "a\"b\\c\\d"),
            ("metrics.\"a = b\" < 1", "a = b"),
            ("metrics.\"\u{e4} OR (x)\" < 1", "\u{e4} OR (x)"),
        ] {
            let parsed = parse_filter(filter).unwrap();
            assert_eq!(parsed[0].term().unwrap().field, Field::Metric(name.to_owned()), "{filter}");
            let order = format!("{} desc", filter.trim_end_matches(['1', '<', ' ']));
            assert_eq!(parse_order(&order).unwrap().field, Field::Metric(name.to_owned()), "{order}");
        }
    }

    #[test]
    fn runs_have_fields_of_their_own() {
        let parsed = parse_run_filter("state = \"ACTIVE\" AND config : \"Adam\" AND last_epoch > 3").unwrap();
        assert_eq!(parsed.len(), 3);
        assert_eq!(parsed[1].term().unwrap().comparison, Comparison::Has);
        for bad in ["metrics.a = 1", "number = 1", "state = ACTIVE", "state = \"RUNNING\"", "config : adam"] {
            assert_eq!(parse_run_filter(bad).unwrap_err().reason, "BAD_FILTER", "{bad}");
        }
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
