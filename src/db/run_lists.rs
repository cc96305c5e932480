//! Lists of runs by a filter: their places are read off an index, newest first, and so many are looked at in one statement.

use std::collections::HashMap;

use crate::db::Db;
use crate::db::Error;
use crate::db::connection::args;
use crate::db::filters::Filter;
use crate::db::runs::SELECT_RUN;
use crate::db::runs::run_of;
use crate::domain::filter::Condition;
use crate::domain::filter::Field;
use crate::domain::ids::ListParent;
use crate::domain::run::Run;

/// Runs that a filter looks at in one statement: their settings have up to 64 KiB each.
const LOOKS: i64 = 200;

/// The place of a run in a list: when it was made, and its uid.
pub type RunPlace = (i64, String);

/// A part of a list.
#[derive(Clone, Debug, Default)]
pub struct RunPage {
    pub runs: Vec<Run>,
    /// Where the list goes on; none: it has ended.
    pub next: Option<RunPlace>,
    /// How many runs were looked at.
    pub looks: i64,
}

fn column(field: &Field) -> &'static str {
    match field {
        Field::State => "r.state",
        Field::Artifact => "a.id",
        // A run watches what its artifact follows.
        Field::Monitor => "a.monitor",
        Field::Config => "r.config",
        Field::CreateTime => "r.create_time_us",
        Field::HeardTime => "COALESCE(r.heard_time_us, r.update_time_us)",
        Field::Attempt => "r.attempt",
        Field::LastEpoch => "r.last_epoch",
        Field::EventCount => "r.event_count",
        // The others are of versions, which the parser of a filter of runs does not know.
        _ => "r.id",
    }
}

impl Db {
    /// Runs for which all conditions hold, newest first, behind a place: `limit` at most of those that are looked at.
    pub async fn list_runs_where(
        &self,
        parent: &ListParent,
        conditions: &[Condition],
        before: Option<RunPlace>,
        limit: i64,
    ) -> Result<RunPage, Error> {
        if conditions.is_empty() {
            let runs = self.list_runs(parent, before, limit).await?;
            let looks = i64::try_from(runs.len()).unwrap_or(limit);
            let next = runs.last().filter(|_| looks == limit).map(place);
            return Ok(RunPage { runs, next, looks });
        }
        let (time_us, uid) = before.unwrap_or((i64::MAX, String::new()));
        let mut values = args![parent.team.as_str(), time_us, uid, LOOKS];
        let mut project = "";
        if let Some(id) = &parent.project {
            values.push(id.as_str().into());
            project = " AND r.project = $5";
        }
        let places = format!(
            "SELECT r.uid, r.create_time_us FROM runs r WHERE r.team = $1{project} AND r.delete_time_us IS NULL \
             AND (r.create_time_us, r.uid) < ($2, $3) ORDER BY r.create_time_us DESC, r.uid DESC LIMIT $4"
        );
        let rows = self.page(&places, values).await?;
        let looks = i64::try_from(rows.len()).unwrap_or(LOOKS);
        let last = rows.last().filter(|_| looks == LOOKS);
        let mut next = last.map(|row| Ok::<_, Error>((row.int(1)?, row.text(0)?))).transpose()?;
        let Filter { columns, values, sql, .. } = Filter::of(conditions, column);
        let select = SELECT_RUN.replace("FROM runs r", "FROM v CROSS JOIN runs r");
        let sql = format!("WITH {{v: uid text{columns}}} {select} WHERE r.uid = v.uid{sql}");
        let set = rows.iter().map(|row| Ok([args![row.text(0)?], values.clone()].concat()));
        let found = self.page_of(&sql, set.collect::<Result<_, Error>>()?).await?;
        let mut found: HashMap<String, Run> = found
            .iter()
            .map(|row| run_of(row).map(|run| (run.uid.clone(), run)))
            .collect::<Result<_, _>>()?;
        let mut runs = Vec::new();
        for row in &rows {
            let Some(run) = found.remove(&row.text(0)?) else { continue };
            if i64::try_from(runs.len()).is_ok_and(|it| it >= limit) {
                next = runs.last().map(place);
                break;
            }
            runs.push(run);
        }
        Ok(RunPage { runs, next, looks })
    }
}

fn place(run: &Run) -> RunPlace {
    (run.create_time_us, run.uid.clone())
}
