//! Lists of versions: their places are read off an index in the order of the list, then the rows of those that are shown.
//!
//! What a filter asks for beyond a range of that index is looked up for each version in turn. So that a filter without a match
//! reads no history, a page then looks at so many versions and says where it came to, whatever it found.

use std::collections::HashMap;
use std::collections::HashSet;

use crate::db::Db;
use crate::db::Error;
use crate::db::connection::Row;
use crate::db::connection::Value;
use crate::db::connection::args;
use crate::db::filters::Filter;
use crate::db::version_queries::BestScope;
use crate::db::version_queries::column;
use crate::db::version_queries::names_statement;
use crate::db::version_queries::operand;
use crate::db::version_queries::sign;
use crate::db::versions::VersionRow;
use crate::db::versions::version_of;
use crate::domain::filter::Comparison;
use crate::domain::filter::Condition;
use crate::domain::filter::Field;
use crate::domain::filter::Key;
use crate::domain::filter::Operand;
use crate::domain::filter::Order;
use crate::domain::filter::Place;
use crate::domain::filter::Term;

/// Versions that a filter looks at in one statement: some milliseconds of SQLite's work.
const LOOKS: i64 = 1_000;

/// Names among which one that was misspelt is looked for.
const MOST_NAMES: i64 = 1_000;

/// Which versions to list, and in which order.
#[derive(Clone, Debug)]
pub struct VersionQuery {
    pub artifact_uid: String,
    /// All must hold.
    pub terms: Vec<Condition>,
    pub order: Order,
    /// Where the last page ended.
    pub after: Option<Place>,
    pub limit: i64,
}

/// A part of a list.
#[derive(Clone, Debug, Default)]
pub struct VersionPage {
    /// What matches, each with its own place.
    pub versions: Vec<(VersionRow, Place)>,
    /// Where the list goes on; none: it has ended.
    pub next: Option<Place>,
    /// How many versions were looked at.
    pub looks: i64,
}

/// An entry of the index.
#[derive(Clone, Debug)]
struct Entry {
    uid: String,
    place: Place,
    /// What orders equal values.
    tie: i64,
    commit_time_us: i64,
}

/// An index that has the order of a list.
struct Index<'q> {
    /// What the list is ordered by.
    key: &'static str,
    /// What orders equal values; none: there are none.
    tie: Option<&'static str>,
    /// The statement up to the range.
    select: String,
    values: Vec<Value>,
    order: &'q Order,
}

impl<'q> Index<'q> {
    /// The index for a query, and the terms that are not a part of its range. `run` is the uid of the run that the list is of.
    fn of(query: &'q VersionQuery, run: Option<String>) -> (Index<'q>, Vec<&'q Condition>) {
        let mut values = args![&query.artifact_uid];
        let mut is_led = false;
        let (key, tie, from) = match &query.order.field {
            Field::Metric(name) => {
                values.push(name.into());
                let from = "version_metrics m JOIN checkpoints c ON c.uid = m.checkpoint_uid \
                    WHERE m.artifact_uid = $1 AND m.name = $2";
                // The order of the numbers: a later version of an artifact has a later time.
                ("m.value", Some("m.commit_time_us"), from)
            }
            field => {
                let mut from = "checkpoints c WHERE c.artifact_uid = $1 AND c.state = 'COMMITTED'";
                if let Some(run) = run {
                    (values, is_led) = (args![run], true);
                    from = "checkpoints c WHERE c.run_uid = $1 AND c.state = 'COMMITTED'";
                }
                match field {
                    Field::Epoch | Field::SizeBytes => (column(field), Some("c.version"), from),
                    _ => ("c.version", None, from),
                }
            }
        };
        let tied = tie.unwrap_or("c.version");
        let select = format!("SELECT c.uid, {key}, {tied}, c.version, c.commit_time_us FROM {from}");
        let mut index = Index { key, tie, select, values, order: &query.order };
        let led_by = if is_led { run_of(query) } else { None };
        let terms = query.terms.iter().filter(|it| led_by.is_none() || it.term() != led_by);
        let takes = |it: &&Condition| it.term().is_none_or(|term| !index.take(term, &mut is_led));
        let rest = terms.filter(takes).collect();
        (index, rest)
    }

    /// Makes the term a part of the range, if it can be.
    fn take(&mut self, term: &Term, is_led: &mut bool) -> bool {
        let by_number = self.tie.is_none();
        let is_key = if by_number { term.field == Field::Number } else { term.field == self.order.field };
        // The versions of one epoch and of one size stand in the order of their numbers, each in an index.
        let leads = by_number && !*is_led && term.comparison == Comparison::Equal;
        let column = match &term.field {
            _ if is_key && term.comparison != Comparison::NotEqual => self.key,
            Field::Epoch | Field::SizeBytes if leads => column(&term.field),
            _ => return false,
        };
        *is_led |= !is_key;
        let value = self.place(operand(&term.operand));
        self.select.push_str(&format!(" AND {column} {} {value}", sign(term.comparison)));
        true
    }

    fn place(&mut self, value: Value) -> String {
        self.values.push(value);
        format!("${}", self.values.len())
    }

    /// A range of the index, in the order of both columns; `limit` entries at most.
    async fn range(
        &self,
        db: &Db,
        range: Range,
        is_descending: bool,
        limit: usize,
    ) -> Result<Vec<Entry>, Error> {
        let (key, mut values) = (self.key, self.values.clone());
        let mut place = |value: Value| {
            values.push(value);
            values.len()
        };
        let range = match (range, self.tie) {
            (Range::All, _) => String::new(),
            (Range::Behind(at, Some(tie)), Some(column)) => {
                format!(" AND ({key}, {column}) > (${}, ${})", place(value(at)), place(tie.into()))
            }
            (Range::Behind(at, _), _) => {
                format!(" AND {key} {} ${}", if is_descending { "<" } else { ">" }, place(value(at)))
            }
            (Range::Equals(at, tie), column) => {
                let column = column.unwrap_or(key);
                format!(" AND {key} = ${} AND {column} > ${}", place(value(at)), place(tie.into()))
            }
        };
        let limit = place(i64::try_from(limit).unwrap_or(i64::MAX).into());
        let direction = if is_descending { "DESC" } else { "ASC" };
        let tie = self.tie.map_or_else(String::new, |tie| format!(", {tie} {direction}"));
        let sql = format!("{}{range} ORDER BY {key} {direction}{tie} LIMIT ${limit}", self.select);
        let is_metric = matches!(self.order.field, Field::Metric(_));
        let entry = |row: &Row| {
            let key = match is_metric {
                true => Key::Number(row.real_or_null(1)?.unwrap_or(f64::NAN)),
                false => Key::Integer(row.int(1)?),
            };
            let place = Place { key, number: row.int(3)? };
            Ok(Entry { uid: row.text(0)?, place, tie: row.int(2)?, commit_time_us: row.int(4)? })
        };
        db.page(&sql, values).await?.iter().map(entry).collect()
    }

    /// The next entries of the list, `limit` of them unless it ends.
    async fn entries(
        &self,
        db: &Db,
        artifact_uid: &str,
        after: Option<Place>,
        limit: usize,
    ) -> Result<Vec<Entry>, Error> {
        let is_descending = self.order.descending;
        let Some(after) = after else {
            let entries = self.range(db, Range::All, is_descending, limit).await?;
            return self.with_ties_upwards(db, entries, limit).await;
        };
        if self.tie.is_none() {
            let behind = Range::Behind(Key::Integer(after.number), None);
            return self.range(db, behind, is_descending, limit).await;
        }
        let tie = match self.order.field {
            Field::Metric(_) => db.commit_time_of(artifact_uid, after.number).await?,
            _ => after.number,
        };
        if !is_descending {
            return self.range(db, Range::Behind(after.key, Some(tie)), false, limit).await;
        }
        let mut entries = self.range(db, Range::Equals(after.key, tie), false, limit).await?;
        let left = limit - entries.len();
        if left > 0 {
            let lower = self.range(db, Range::Behind(after.key, None), true, left).await?;
            entries.extend(self.with_ties_upwards(db, lower, left).await?);
        }
        Ok(entries)
    }

    /// Turns equal values of a downward list round, since their numbers go upwards in both directions. The last ones may have
    /// more equals than were read: they are read again from the other end.
    async fn with_ties_upwards(
        &self,
        db: &Db,
        mut entries: Vec<Entry>,
        limit: usize,
    ) -> Result<Vec<Entry>, Error> {
        if !self.order.descending || self.tie.is_none() {
            return Ok(entries);
        }
        while let Some(last) = entries.last().filter(|_| entries.len() == limit).map(|it| it.place.key) {
            let whole = entries.iter().take_while(|it| it.place.key != last).count();
            entries.truncate(whole);
            entries.extend(self.range(db, Range::Equals(last, i64::MIN), false, limit - whole).await?);
            let left = limit - entries.len();
            if left == 0 {
                break;
            }
            // Some of them were deleted between the two reads: those below them take their places.
            let lower = self.range(db, Range::Behind(last, None), true, left).await?;
            entries.extend(lower);
        }
        for equal in entries.chunk_by_mut(|a, b| a.place.key == b.place.key) {
            equal.sort_by_key(|it| it.tie);
        }
        Ok(entries)
    }
}

/// Which entries of an index.
#[derive(Clone, Copy, Debug)]
enum Range {
    All,
    /// Behind a value, or behind one of its equals in a list that goes upwards.
    Behind(Key, Option<i64>),
    /// Equal to a value and behind one of its equals.
    Equals(Key, i64),
}

fn value(key: Key) -> Value {
    match key {
        Key::Integer(key) => key.into(),
        Key::Number(key) => key.into(),
    }
}

impl Db {
    /// Versions of an artifact.
    pub async fn list_versions(&self, query: &VersionQuery) -> Result<VersionPage, Error> {
        let run = match run_of(query).map(|it| operand(&it.operand)) {
            Some(id) => match self.run_of_artifact(&query.artifact_uid, id).await? {
                None => return Ok(VersionPage::default()),
                run => run,
            },
            None => None,
        };
        let (index, rest) = Index::of(query, run);
        let looks = if rest.is_empty() { query.limit } else { LOOKS };
        let most = usize::try_from(looks).unwrap_or(0);
        let mut entries = index.entries(self, &query.artifact_uid, query.after, most).await?;
        let looks = i64::try_from(entries.len()).unwrap_or(looks);
        let last = entries.last().filter(|last| entries.len() == most && !is_past(query, last));
        let mut next = last.map(|it| it.place);
        if !rest.is_empty() {
            let matching = self.matching(&entries, &rest).await?;
            entries.retain(|it| matching.contains(&it.uid));
            let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
            if entries.len() > limit {
                entries.truncate(limit);
                next = entries.last().map(|it| it.place);
            }
        }
        Ok(VersionPage { versions: self.versions_at(entries).await?, next, looks })
    }

    /// Those for which all the terms hold.
    async fn matching(&self, entries: &[Entry], terms: &[&Condition]) -> Result<HashSet<String>, Error> {
        // The same operands in each row: a statement over a set has no values beside it.
        let Filter { columns, values, sql, .. } = Filter::of(terms.iter().copied(), column);
        let sql = format!(
            "WITH {{v: uid text{columns}}} SELECT c.uid FROM v CROSS JOIN checkpoints c JOIN runs r ON r.uid = c.run_uid \
             WHERE c.uid = v.uid{sql}"
        );
        let row = |it: &Entry| [args![&it.uid], values.clone()].concat();
        let rows = self.page_of(&sql, entries.iter().map(row).collect()).await?;
        rows.iter().map(|row| row.text(0)).collect()
    }

    /// The versions of the entries, but for those that were deleted meanwhile.
    async fn versions_at(&self, entries: Vec<Entry>) -> Result<Vec<(VersionRow, Place)>, Error> {
        let uids = entries.iter().map(|it| it.uid.as_str()).collect();
        let mut versions = self.versions_by_uid(uids).await?;
        Ok(entries.iter().filter_map(|it| Some((versions.remove(&it.uid)?, it.place))).collect())
    }

    /// Versions by their checkpoints' uids, but for those that were deleted.
    pub async fn versions_by_uid(&self, uids: Vec<&str>) -> Result<HashMap<String, VersionRow>, Error> {
        let sql = "WITH {v: uid text} SELECT a.team, a.project, a.id, c.version, r.id, c.uid, c.attempt, c.epoch, c.batch, \
            c.step, c.path, c.weights_only, c.size_bytes, c.file_count, c.digest, c.metrics, c.reason, c.reason_text, \
            c.commit_time_us, c.metadata FROM v CROSS JOIN checkpoints c JOIN artifacts a ON a.uid = c.artifact_uid \
            JOIN runs r ON r.uid = c.run_uid WHERE c.uid = v.uid AND c.state = 'COMMITTED'";
        let rows = self.rows_of(sql, uids.into_iter().map(|uid| args![uid]).collect()).await?;
        let versions = self.with_aliases(rows.iter().map(version_of).collect::<Result<_, _>>()?).await?;
        let uid = |version: &VersionRow| version.checkpoint.checkpoint.as_str().to_owned();
        Ok(versions.into_iter().map(|it| (uid(&it), it)).collect())
    }

    /// The run of this id, if it saves into the artifact.
    async fn run_of_artifact(&self, artifact_uid: &str, id: Value) -> Result<Option<String>, Error> {
        let sql = "SELECT r.uid FROM artifacts a JOIN runs r ON r.team = a.team AND r.project = a.project \
            WHERE a.uid = $1 AND r.id = $2 AND r.artifact_uid = a.uid";
        self.row(sql, vec![artifact_uid.into(), id]).await?.map(|row| row.text(0)).transpose()
    }

    /// Names of metrics that versions of a scope have: the first ones.
    pub async fn metric_names(&self, scope: &BestScope) -> Result<Vec<String>, Error> {
        let (sql, values) = names_statement(scope, MOST_NAMES);
        self.page(&sql, values).await?.iter().map(|row| row.text(0)).collect()
    }

    /// Ids of runs that save into an artifact: the first ones.
    pub async fn run_ids_of(&self, artifact_uid: &str) -> Result<Vec<String>, Error> {
        let sql = "SELECT id FROM runs WHERE artifact_uid = $1 ORDER BY uid LIMIT $2";
        self.page(sql, args![artifact_uid, MOST_NAMES]).await?.iter().map(|row| row.text(0)).collect()
    }

    /// When the version of this number was committed.
    async fn commit_time_of(&self, artifact_uid: &str, number: i64) -> Result<i64, Error> {
        let sql = "SELECT commit_time_us FROM checkpoints WHERE artifact_uid = $1 AND version = $2";
        self.row(sql, args![artifact_uid, number]).await?.map_or(Ok(i64::MAX), |row| row.int(0))
    }
}

/// The term that leaves the versions of one run, in a list that its index serves.
fn run_of(query: &VersionQuery) -> Option<&Term> {
    let is_by_number = matches!(query.order.field, Field::Number | Field::CreateTime);
    let is_one = |it: &&Term| it.field == Field::Run && it.comparison == Comparison::Equal;
    query.terms.iter().filter_map(Condition::term).find(is_one).filter(|_| is_by_number)
}

/// Whether nothing behind the entry can match: in the order of the numbers times only grow.
fn is_past(query: &VersionQuery, entry: &Entry) -> bool {
    let Order { field, descending } = &query.order;
    let is_by_time = matches!(field, Field::Number | Field::CreateTime);
    is_by_time
        && query.terms.iter().filter_map(Condition::term).filter(|it| it.field == Field::CreateTime).any(
            |term| {
                let (Operand::Integer(bound), at) = (&term.operand, entry.commit_time_us) else {
                    return false;
                };
                match term.comparison {
                    Comparison::Equal => {
                        if *descending {
                            at < *bound
                        } else {
                            at > *bound
                        }
                    }
                    Comparison::Greater | Comparison::GreaterOrEqual => *descending && at < *bound,
                    Comparison::Less | Comparison::LessOrEqual => !*descending && at > *bound,
                    Comparison::NotEqual | Comparison::Has => false,
                }
            },
        )
}
