//! Best queries, filters and orders of versions as SQL. Which version is best is one `ORDER BY`, here.

use crate::db::connection::Value;
use crate::db::connection::args;
use crate::domain::filter::Comparison;
use crate::domain::filter::Field;
use crate::domain::filter::Key;
use crate::domain::filter::Operand;
use crate::domain::filter::Order;
use crate::domain::filter::Place;
use crate::domain::filter::Term;
use crate::domain::ids::Id;
use crate::domain::metric::Direction;

/// Where the best version is looked for, as the indexes know it.
#[derive(Clone, Debug)]
pub enum BestScope {
    /// One run, by uid.
    Run(String),
    /// One artifact, by uid.
    Artifact(String),
    /// One project.
    Project(Id, Id),
    /// One team.
    Team(Id),
}

/// Which version is best.
#[derive(Clone, Debug)]
pub struct BestQuery {
    /// Where.
    pub scope: BestScope,
    /// By which metric.
    pub metric: String,
    /// Which way.
    pub direction: Direction,
}

/// Which versions to list, and in which order.
#[derive(Clone, Debug)]
pub struct VersionQuery {
    /// The artifact's uid.
    pub artifact_uid: String,
    /// All must hold.
    pub terms: Vec<Term>,
    /// The order.
    pub order: Order,
    /// Where the last page ended.
    pub after: Option<Place>,
    /// How many at most.
    pub limit: i64,
}

impl BestScope {
    fn condition(&self, values: &mut Vec<Value>) -> String {
        let mut place = |value: Value| {
            values.push(value);
            values.len()
        };
        match self {
            BestScope::Run(uid) => format!("m.run_uid = ${}", place(uid.into())),
            BestScope::Artifact(uid) => format!("m.artifact_uid = ${}", place(uid.into())),
            BestScope::Project(team, project) => {
                let team = place(team.as_str().into());
                format!("m.team = ${team} AND m.project = ${}", place(project.as_str().into()))
            }
            BestScope::Team(team) => format!("m.team = ${}", place(team.as_str().into())),
        }
    }
}

/// The uid of the best version: the best value wins, of equal values the one that was committed first.
pub(super) fn best_statement(query: &BestQuery) -> (String, Vec<Value>) {
    let mut values = args![&query.metric];
    let scope = query.scope.condition(&mut values);
    let direction = match query.direction {
        Direction::Min => "ASC",
        Direction::Max => "DESC",
    };
    let sql = format!(
        "SELECT m.checkpoint_uid, m.value FROM version_metrics m WHERE m.name = $1 AND {scope} \
         ORDER BY m.value {direction}, m.commit_time_us, m.checkpoint_uid LIMIT 1"
    );
    (sql, values)
}

/// The column of a field that is one; metrics have their own table.
fn column(field: &Field) -> &'static str {
    match field {
        Field::Epoch => "c.epoch",
        Field::Batch => "c.batch",
        Field::Step => "c.step",
        Field::SizeBytes => "c.size_bytes",
        Field::CreateTime => "c.commit_time_us",
        Field::Run => "r.id",
        Field::Number | Field::Metric(_) => "c.version",
    }
}

/// The ORDER BY of a list; a metric is joined to the statement.
pub(super) fn order_by(order: &Order, sql: &mut String, values: &mut Vec<Value>) -> String {
    let direction = if order.descending { "DESC" } else { "ASC" };
    match &order.field {
        Field::Metric(name) => {
            values.push(name.into());
            sql.push_str(&format!(
                " JOIN version_metrics m ON m.checkpoint_uid = c.uid AND m.name = ${}",
                values.len()
            ));
            format!("m.value {direction}, c.version")
        }
        field => format!("{} {direction}, c.version", column(field)),
    }
}

/// Only what comes behind a place in the order.
pub(super) fn behind(order: &Order, place: Place, values: &mut Vec<Value>) -> String {
    let sign = if order.descending { "<" } else { ">" };
    let field = match &order.field {
        Field::Metric(_) => "m.value",
        field => column(field),
    };
    values.push(match place.key {
        Key::Integer(key) => key.into(),
        Key::Number(key) => key.into(),
    });
    let key = values.len();
    values.push(place.number.into());
    let number = values.len();
    format!(" AND ({field} {sign} ${key} OR ({field} = ${key} AND c.version > ${number}))")
}

/// One comparison of a filter.
pub(super) fn condition(term: &Term, values: &mut Vec<Value>) -> String {
    let sign = match term.comparison {
        Comparison::Equal => "=",
        Comparison::NotEqual => "<>",
        Comparison::Less => "<",
        Comparison::LessOrEqual => "<=",
        Comparison::Greater => ">",
        Comparison::GreaterOrEqual => ">=",
    };
    let mut place = |value: Value| {
        values.push(value);
        values.len()
    };
    let operand = match &term.operand {
        Operand::Number(number) => place((*number).into()),
        Operand::Integer(number) => place((*number).into()),
        Operand::Text(text) => place(text.into()),
    };
    match &term.field {
        Field::Metric(name) => format!(
            "EXISTS (SELECT 1 FROM version_metrics f WHERE f.checkpoint_uid = c.uid AND f.name = ${} AND f.value {sign} ${operand})",
            place(name.into())
        ),
        field => format!("{} {sign} ${operand}", column(field)),
    }
}

#[cfg(test)]
mod tests;
