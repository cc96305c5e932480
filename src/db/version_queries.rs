//! Best queries and filters of versions as SQL. Which version is best is one statement, here.

use crate::db::connection::Value;
use crate::db::connection::args;
use crate::domain::filter::Comparison;
use crate::domain::filter::Field;
use crate::domain::filter::Operand;
use crate::domain::ids::Id;
use crate::domain::metric::Direction;

/// Where the best version is looked for, as the indexes know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BestScope {
    /// One run, by uid.
    Run(String),
    /// One artifact, by uid.
    Artifact(String),
    Project(Id, Id),
    Team(Id),
}

/// Which version is best.
#[derive(Clone, Debug)]
pub struct BestQuery {
    pub scope: BestScope,
    pub metric: String,
    pub direction: Direction,
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

/// The uid and the value of the best version: the best value wins, of equal values the one that was committed first. One look
/// finds the value at an end of the index, another one where its equals begin.
pub(super) fn best_statement(query: &BestQuery) -> (String, Vec<Value>) {
    let mut values = args![&query.metric];
    let scope = query.scope.condition(&mut values);
    let direction = match query.direction {
        Direction::Min => "ASC",
        Direction::Max => "DESC",
    };
    // In an artifact, and so in a run, no two versions have the same time.
    let first = match query.scope {
        BestScope::Run(_) | BestScope::Artifact(_) => "m.commit_time_us",
        BestScope::Project(..) | BestScope::Team(_) => "m.commit_time_us, m.checkpoint_uid",
    };
    let sql = format!(
        "SELECT m.checkpoint_uid, m.value FROM version_metrics m WHERE m.name = $1 AND {scope} AND m.value = \
         (SELECT m.value FROM version_metrics m WHERE m.name = $1 AND {scope} ORDER BY m.value {direction} LIMIT 1) \
         ORDER BY {first} LIMIT 1"
    );
    (sql, values)
}

/// The column of a field that is one; metrics have their own table.
pub(super) fn column(field: &Field) -> &'static str {
    match field {
        Field::Epoch => "c.epoch",
        Field::Batch => "c.batch",
        Field::Step => "c.step",
        Field::SizeBytes => "c.size_bytes",
        Field::CreateTime => "c.commit_time_us",
        Field::Run => "r.id",
        Field::Config => "r.config",
        // The others are of runs, which the parser of a filter of versions does not know.
        _ => "c.version",
    }
}

/// How a comparison is written.
pub(super) fn sign(comparison: Comparison) -> &'static str {
    match comparison {
        Comparison::Equal => "=",
        Comparison::NotEqual => "<>",
        Comparison::Less => "<",
        Comparison::LessOrEqual => "<=",
        Comparison::Greater => ">",
        Comparison::GreaterOrEqual => ">=",
        Comparison::Has => "LIKE",
    }
}

/// What a field is compared with, as a bound value.
pub(super) fn operand(operand: &Operand) -> Value {
    match operand {
        Operand::Number(number) => (*number).into(),
        Operand::Integer(number) => (*number).into(),
        Operand::Text(text) => text.into(),
    }
}

/// Names of metrics that versions of a scope have, from one to the next by the index: at most so many. The last value is the limit.
pub(super) fn names_statement(scope: &BestScope, most: i64) -> (String, Vec<Value>) {
    let mut values = Vec::new();
    let scope = scope.condition(&mut values);
    values.push(most.into());
    let next =
        |after: &str| format!("SELECT MIN(m.name) FROM version_metrics m WHERE {scope} AND m.name > {after}");
    let sql = format!(
        "WITH RECURSIVE n (name) AS ({} UNION ALL SELECT ({}) FROM n WHERE n.name IS NOT NULL) \
         SELECT name FROM n WHERE name IS NOT NULL LIMIT ${}",
        next("''"),
        next("n.name"),
        values.len()
    );
    (sql, values)
}

#[cfg(test)]
mod tests;
