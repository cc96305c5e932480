//! Decisions: the stored answer to each event that was decided upon, read back when the event is repeated.

use std::collections::BTreeMap;

use crate::db::Db;
use crate::db::Error;
use crate::db::connection::Row;
use crate::db::connection::Value;
use crate::db::connection::args;
use crate::db::from_json;
use crate::db::to_json;
use crate::db::tx::Tx;
use crate::domain::decision::Action;
use crate::domain::decision::Decision;

/// A decision as it is stored.
#[derive(Clone, Debug)]
pub struct DecisionRow {
    /// Place of its event in the run.
    pub position: i64,
    /// Which process reported the event.
    pub writer: String,
    /// The event's sequence.
    pub sequence: i64,
    /// The attempt that reported it.
    pub attempt: i64,
    /// 0-based.
    pub epoch: i64,
    /// 0-based.
    pub batch: Option<i64>,
    /// For SAVE.
    pub checkpoint_uid: Option<String>,
    /// Microseconds since 1970.
    pub decide_time_us: i64,
    pub decision: Decision,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct DecisionFilter {
    /// Only this epoch, 0-based.
    pub epoch: Option<i64>,
    /// Only this action.
    pub action: Option<Action>,
    /// The order of the list.
    pub newest_first: bool,
}

const COLUMNS: &str =
    "position, writer, sequence, attempt, epoch, batch, checkpoint_uid, decide_time_us, body FROM decisions";

fn decision_of(row: &Row) -> Result<DecisionRow, Error> {
    Ok(DecisionRow {
        position: row.int(0)?,
        writer: row.text(1)?,
        sequence: row.int(2)?,
        attempt: row.int(3)?,
        epoch: row.int(4)?,
        batch: row.int_or_null(5)?,
        checkpoint_uid: row.text_or_null(6)?,
        decide_time_us: row.int(7)?,
        decision: from_json("decision", &row.text(8)?)?,
    })
}

fn action_to_text(action: Action) -> &'static str {
    match action {
        Action::Save => "SAVE",
        Action::Skip => "SKIP",
        Action::Fail => "FAIL",
    }
}

pub(super) async fn insert_decisions(
    tx: &mut Tx<'_>,
    decisions: impl Iterator<Item = (&String, &DecisionRow)>,
) -> Result<(), Error> {
    let sql = "WITH {v: run_uid text, position bigint, writer text, sequence bigint, attempt bigint, epoch bigint, \
        batch bigint, action text, checkpoint_uid text, decide_time_us bigint, body text} \
        INSERT INTO decisions (run_uid, position, writer, sequence, attempt, epoch, batch, action, checkpoint_uid, \
        decide_time_us, body) SELECT * FROM v";
    let row = |(run_uid, row): (&String, &DecisionRow)| {
        Ok(args![
            run_uid,
            row.position,
            &row.writer,
            row.sequence,
            row.attempt,
            row.epoch,
            row.batch,
            action_to_text(row.decision.action),
            row.checkpoint_uid.clone(),
            row.decide_time_us,
            to_json(&row.decision)?,
        ])
    };
    let set = decisions.map(row).collect::<Result<_, Error>>()?;
    tx.execute_of(sql, set).await.map(drop)
}

/// A writer's sequences from `first` to before `end`.
#[derive(Clone, Debug)]
pub(super) struct Range {
    pub(super) run_uid: String,
    pub(super) writer: String,
    pub(super) first: i64,
    pub(super) end: i64,
}

impl Range {
    pub(super) fn values(&self) -> Vec<Value> {
        args![&self.run_uid, &self.writer, self.first, self.end]
    }

    /// The keys of its sequences.
    pub(super) fn keys(&self) -> std::ops::Range<(String, String, i64)> {
        let key = |sequence| (self.run_uid.clone(), self.writer.clone(), sequence);
        key(self.first)..key(self.end)
    }

    pub(super) fn holds(&self, run_uid: &str, writer: &str, sequence: i64) -> bool {
        (self.run_uid.as_str(), self.writer.as_str()) == (run_uid, writer)
            && (self.first..self.end).contains(&sequence)
    }
}

/// Decisions of all these sequences, by run, writer and sequence.
pub(super) async fn decisions_in(
    tx: &mut Tx<'_>,
    ranges: &[Range],
) -> Result<BTreeMap<(String, String, i64), DecisionRow>, Error> {
    let sql = "WITH {v: run_uid text, writer text, first bigint, past bigint} SELECT d.position, d.writer, d.sequence, \
        d.attempt, d.epoch, d.batch, d.checkpoint_uid, d.decide_time_us, d.body, d.run_uid FROM v \
        CROSS JOIN decisions d WHERE d.run_uid = v.run_uid AND d.writer = v.writer AND d.sequence >= v.first \
        AND d.sequence < v.past ORDER BY d.sequence";
    let rows = tx.rows_of(sql, ranges.iter().map(Range::values).collect()).await?;
    let keyed = |row: &Row| {
        let decision = decision_of(row)?;
        Ok(((row.text(9)?, decision.writer.clone(), decision.sequence), decision))
    };
    rows.iter().map(keyed).collect()
}

impl Db {
    /// The decision of an attempt about the end of a batch, or of an epoch.
    pub async fn decision_at(
        &self,
        run_uid: &str,
        attempt: i64,
        epoch: i64,
        batch: Option<i64>,
    ) -> Result<Option<DecisionRow>, Error> {
        // One attempt decides at the ends of batches or of epochs, never both, so without a batch there is one an epoch.
        let mut values = args![run_uid, attempt, epoch];
        let which = match batch {
            Some(batch) => {
                values.push(batch.into());
                " AND batch = $4"
            }
            None => "",
        };
        let sql = format!(
            "SELECT {COLUMNS} WHERE run_uid = $1 AND attempt = $2 AND epoch = $3{which} \
             ORDER BY batch DESC, position DESC LIMIT 1"
        );
        let row = self.row(&sql, values).await?;
        row.as_ref().map(decision_of).transpose()
    }

    /// A run's decisions from `position` on, oldest first; or those before it, newest first.
    pub async fn list_decisions(
        &self,
        run_uid: &str,
        filter: DecisionFilter,
        position: i64,
        limit: i64,
    ) -> Result<Vec<DecisionRow>, Error> {
        let DecisionFilter { epoch, action, newest_first } = filter;
        let (from, order) = if newest_first { ("<", " DESC") } else { (">=", "") };
        // The index of epochs has an action before the position: of all actions so many are more than enough.
        let actions = match (epoch, action) {
            (Some(_), None) => vec![Some(Action::Save), Some(Action::Skip), Some(Action::Fail)],
            (_, action) => vec![action],
        };
        let mut values = args![run_uid, position, limit];
        let mut selects = Vec::new();
        for (n, action) in actions.into_iter().enumerate() {
            let mut sql = format!("SELECT {COLUMNS} WHERE run_uid = $1 AND position {from} $2");
            if let Some(epoch) = epoch {
                values.push(epoch.into());
                sql.push_str(&format!(" AND epoch = ${}", values.len()));
            }
            if let Some(action) = action {
                values.push(action_to_text(action).into());
                sql.push_str(&format!(" AND action = ${}", values.len()));
            }
            selects.push(format!("SELECT * FROM ({sql} ORDER BY position{order} LIMIT $3) AS part_{n}"));
        }
        // One statement, so all of it is of one moment: no page skips what another one was too early for.
        let rows = self.page(&selects.join(" UNION ALL "), values).await?;
        let mut decisions: Vec<DecisionRow> = rows.iter().map(decision_of).collect::<Result<_, _>>()?;
        decisions.sort_by_key(|it| it.position);
        if newest_first {
            decisions.reverse();
        }
        decisions.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(decisions)
    }
}
