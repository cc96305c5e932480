//! Filters as SQL: a condition over the columns of rows that are looked up by a set of uids.

use crate::db::connection::Value;
use crate::db::version_queries::sign;
use crate::domain::filter::Comparison;
use crate::domain::filter::Condition;
use crate::domain::filter::Field;
use crate::domain::filter::Operand;

/// The names under which a filter finds its fields. A field that the parser does not let through has none.
pub(super) type Columns = fn(&Field) -> &'static str;

/// A filter, and the values of it that stand in each row of the set `v`.
pub(super) struct Filter {
    /// Behind `uid text` in the columns of `v`.
    pub(super) columns: String,
    pub(super) values: Vec<Value>,
    /// Behind other conditions, or empty.
    pub(super) sql: String,
    names: Columns,
}

impl Filter {
    pub(super) fn of<'c>(conditions: impl IntoIterator<Item = &'c Condition>, names: Columns) -> Filter {
        let mut filter = Filter { columns: String::new(), values: Vec::new(), sql: String::new(), names };
        for condition in conditions {
            let sql = filter.condition(condition);
            filter.sql.push_str(&format!(" AND {sql}"));
        }
        filter
    }

    fn bind(&mut self, kind: &str, value: Value) -> String {
        let name = format!("o{}", self.values.len());
        self.columns.push_str(&format!(", {name} {kind}"));
        self.values.push(value);
        format!("v.{name}")
    }

    fn operand(&mut self, operand: &Operand) -> String {
        match operand {
            Operand::Number(number) => self.bind("real", (*number).into()),
            Operand::Integer(number) => self.bind("bigint", (*number).into()),
            Operand::Text(text) => self.bind("text", text.into()),
        }
    }

    fn condition(&mut self, condition: &Condition) -> String {
        match condition {
            Condition::Term(term) if term.comparison == Comparison::Has => {
                let pattern = match &term.operand {
                    Operand::Text(text) => pattern(text),
                    Operand::Number(_) | Operand::Integer(_) => String::new(),
                };
                let place = self.bind("text", (&pattern).into());
                // The database's own small letters on both sides: they differ beyond ASCII.
                format!("LOWER({}) LIKE LOWER({place}) ESCAPE '\\'", (self.names)(&term.field))
            }
            Condition::Term(term) => {
                let operand = self.operand(&term.operand);
                self.compare(&term.field, &format!("{} {operand}", sign(term.comparison)))
            }
            Condition::In(field, operands) => {
                let places: Vec<String> = operands.iter().map(|it| self.operand(it)).collect();
                self.compare(field, &format!("IN ({})", places.join(", ")))
            }
            Condition::All(parts) => self.joined(parts, " AND "),
            Condition::Any(parts) => self.joined(parts, " OR "),
        }
    }

    fn joined(&mut self, parts: &[Condition], between: &str) -> String {
        let parts: Vec<String> = parts.iter().map(|part| self.condition(part)).collect();
        format!("({})", parts.join(between))
    }

    fn compare(&mut self, field: &Field, comparison: &str) -> String {
        match field {
            Field::Metric(name) => {
                let name = self.bind("text", name.into());
                format!(
                    "EXISTS (SELECT 1 FROM version_metrics f WHERE f.checkpoint_uid = c.uid AND f.name = {name} \
                     AND f.value {comparison})"
                )
            }
            field => format!("{} {comparison}", (self.names)(field)),
        }
    }
}

/// Finds a text in JSON, where quotes and signs that JSON writes otherwise are so in the text, too.
fn pattern(text: &str) -> String {
    let json = serde_json::Value::from(text).to_string();
    let inside = json.get(1..json.len().saturating_sub(1)).unwrap_or_default();
    let mut pattern = String::from("%");
    for character in inside.chars() {
        if matches!(character, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern.push('%');
    pattern
}

#[cfg(test)]
mod tests;
