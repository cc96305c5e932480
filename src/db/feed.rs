//! The feed: the versions of a team in the order in which they became visible, each with a place that never changes.
//!
//! Of two versions of an artifact the earlier one has the lower place, and no place appears below one that was seen. On Postgres that
//! takes a second transaction: if each commit took the row of its team's end, all commits of a team would wait for each other.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;

use crate::db::Db;
use crate::db::Error;
use crate::db::connection::Connection;
use crate::db::connection::Row;
use crate::db::connection::Value;
use crate::db::connection::args;
use crate::db::job::Outcome;
use crate::db::job::Turn;
use crate::db::job::Write;
use crate::db::new_uid;
use crate::db::tx::Tx;
use crate::db::version_queries::BestScope;
use crate::domain::ids::Id;

/// Versions that get their places in one transaction.
const PLACED_AT_ONCE: i64 = 1_000;
/// About how many rows that is.
const PLACED_ROWS: usize = 100;

/// A version as the feed takes it up.
pub(super) struct NewVersion<'v> {
    pub(super) checkpoint_uid: &'v str,
    pub(super) team: &'v str,
    pub(super) project: &'v str,
    pub(super) artifact_uid: &'v str,
    pub(super) run_uid: &'v str,
    pub(super) is_best: bool,
    pub(super) commit_time_us: i64,
}

/// Takes versions up, in the transaction that commits them; where nobody else writes they get their places at once.
pub(super) async fn append(tx: &mut Tx<'_>, versions: &[NewVersion<'_>]) -> Result<(), Error> {
    let sql = "WITH {v: checkpoint_uid text, team text, project text, artifact_uid text, run_uid text, is_best bigint, \
        commit_time_us bigint} INSERT INTO feed (checkpoint_uid, team, project, artifact_uid, run_uid, is_best, commit_time_us) \
        SELECT * FROM v WHERE TRUE ON CONFLICT (checkpoint_uid) DO NOTHING";
    let row = |it: &NewVersion<'_>| {
        let is_best = i64::from(it.is_best);
        args![it.checkpoint_uid, it.team, it.project, it.artifact_uid, it.run_uid, is_best, it.commit_time_us]
    };
    tx.execute_of(sql, versions.iter().map(row).collect()).await?;
    if matches!(tx.connection(), Connection::Sqlite(_)) {
        place(tx).await?;
    }
    Ok(())
}

const WAITING: &str = "SELECT checkpoint_uid, team FROM feed WHERE position IS NULL ORDER BY commit_time_us, checkpoint_uid LIMIT $1";

/// Gives versions their places: as many statements for a thousand as for one. Says how many it looked at.
async fn place(tx: &mut Tx<'_>) -> Result<usize, Error> {
    let waiting = tx.rows(WAITING, args![PLACED_AT_ONCE]).await?;
    let teams: BTreeSet<String> = waiting.iter().map(|row| row.text(1)).collect::<Result<_, _>>()?;
    let take = "WITH {v: team text} SELECT e.team, e.last_position FROM v CROSS JOIN feed_ends e WHERE e.team = v.team \
        ORDER BY e.team {lock e}";
    let set = || teams.iter().map(|team| args![team]).collect::<Vec<_>>();
    let mut rows = tx.rows_of(take, set()).await?;
    if rows.len() < teams.len() {
        let make = "WITH {v: team text, feed_id text} INSERT INTO feed_ends (team, feed_id, last_position) \
            SELECT team, feed_id, 0 FROM v WHERE TRUE ON CONFLICT (team) DO NOTHING";
        tx.execute_of(make, teams.iter().map(|team| args![team, new_uid()]).collect()).await?;
        rows = tx.rows_of(take, set()).await?;
    }
    let mut ends: BTreeMap<String, i64> =
        rows.iter().map(|row| Ok((row.text(0)?, row.int(1)?))).collect::<Result<_, Error>>()?;
    // Who had the ends before may have placed some of them; nobody else does now.
    let waiting = match tx.connection() {
        Connection::Sqlite(_) => waiting,
        Connection::Postgres(_) => tx.rows(WAITING, args![PLACED_AT_ONCE]).await?,
    };
    let mut places = Vec::new();
    for row in &waiting {
        // A team that has come meanwhile has its turn next.
        let Some(end) = ends.get_mut(&row.text(1)?) else { continue };
        *end += 1;
        places.push(args![row.text(0)?, *end]);
    }
    let sql = "WITH {v: uid text, position bigint} UPDATE feed SET position = v.position FROM v WHERE feed.checkpoint_uid = v.uid";
    tx.execute_of(sql, places).await?;
    let sql = "WITH {v: team text, position bigint} UPDATE feed_ends SET last_position = v.position FROM v \
        WHERE feed_ends.team = v.team";
    tx.execute_of(sql, ends.into_iter().map(|(team, end)| args![team, end]).collect()).await?;
    Ok(waiting.len())
}

/// Places for versions that have none.
struct PlaceVersions;

impl Write for PlaceVersions {
    type Answer = usize;
    const IN_SETS: bool = false;
    const AUDITED: bool = false;

    fn turn(&self) -> Turn {
        Turn::own(PLACED_ROWS)
    }

    async fn run(set: &[&Self], tx: &mut Tx<'_>) -> Result<Vec<Outcome<usize>>, Error> {
        let mut outcomes = Vec::with_capacity(set.len());
        for _ in set {
            outcomes.push(Outcome::Done(place(tx).await?));
        }
        Ok(outcomes)
    }
}

/// Where a feed ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedEnd {
    pub feed_id: String,
    pub position: i64,
}

/// A version of a feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedEntry {
    pub checkpoint_uid: String,
    pub position: i64,
    /// Whether it became the best of its artifact.
    pub is_best: bool,
}

impl Db {
    /// Gives versions that have none their places.
    pub async fn place_versions(&self) -> Result<(), Error> {
        while !self.rows(WAITING, args![1]).await?.is_empty() {
            self.change(PlaceVersions).await?;
        }
        Ok(())
    }

    /// Where the feeds of teams end; a team without a version has none.
    pub async fn feed_ends(&self, teams: &[Id]) -> Result<HashMap<String, FeedEnd>, Error> {
        let sql = "WITH {v: team text} SELECT e.team, e.feed_id, e.last_position FROM v CROSS JOIN feed_ends e WHERE e.team = v.team";
        let rows = self.rows_of(sql, teams.iter().map(|it| args![it.as_str()]).collect()).await?;
        let end = |row: &Row| Ok((row.text(0)?, FeedEnd { feed_id: row.text(1)?, position: row.int(2)? }));
        rows.iter().map(end).collect()
    }

    /// The next entries of a scope behind a position, `limit` of them unless the feed ends.
    pub async fn feed(&self, scope: &BestScope, after: i64, limit: i64) -> Result<Vec<FeedEntry>, Error> {
        let (scope, values) = condition(scope);
        let values = [args![after, limit], values].concat();
        let sql = format!(
            "SELECT checkpoint_uid, position, is_best FROM feed WHERE {scope} AND position > $1 ORDER BY position LIMIT $2"
        );
        let entry = |row: &Row| {
            Ok(FeedEntry { checkpoint_uid: row.text(0)?, position: row.int(1)?, is_best: row.flag(2)? })
        };
        self.page(&sql, values).await?.iter().map(entry).collect()
    }
}

fn condition(scope: &BestScope) -> (&'static str, Vec<Value>) {
    match scope {
        BestScope::Run(uid) => ("run_uid = $3", args![uid]),
        BestScope::Artifact(uid) => ("artifact_uid = $3", args![uid]),
        BestScope::Project(team, project) => {
            ("team = $3 AND project = $4", args![team.as_str(), project.as_str()])
        }
        BestScope::Team(team) => ("team = $3", args![team.as_str()]),
    }
}
