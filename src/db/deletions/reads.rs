//! What a deletion would take away, read beforehand.

use crate::db::Db;
use crate::db::Error;
use crate::db::connection::args;
use crate::db::runs::project_of;
use crate::db::runs::stored_id;
use crate::domain::ids::ArtifactName;
use crate::domain::ids::Id;
use crate::domain::ids::TeamName;

/// Whose versions are meant, by uid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    Run(String),
    Artifact(String),
}

/// A version that is to go.
#[derive(Clone, Debug)]
pub struct Doomed {
    /// Of its checkpoint.
    pub uid: String,
    pub artifact: ArtifactName,
    pub artifact_uid: String,
    /// N of `vN`.
    pub number: i64,
    pub size_bytes: i64,
}

/// Pins of chunks that are looked at to say what the store gives back.
const MOST_PINS: i64 = 100_000;

impl Db {
    /// The most versions of which [`Db::exclusive_bytes`] tells.
    pub const MOST_EXCLUSIVE: usize = 10_000;

    /// Committed versions of a run or an artifact in the order of their numbers, behind a number and an uid.
    pub async fn versions_of(
        &self,
        owner: &Owner,
        (number, after): (i64, &str),
        limit: i64,
    ) -> Result<Vec<Doomed>, Error> {
        let (uid, column) = match owner {
            Owner::Run(uid) => (uid, "run_uid"),
            Owner::Artifact(uid) => (uid, "artifact_uid"),
        };
        // Versions of a run may be in several artifacts, whose numbers repeat.
        let sql = format!(
            "SELECT c.uid, a.team, a.project, a.id, a.uid, c.version, c.size_bytes FROM checkpoints c \
             JOIN artifacts a ON a.uid = c.artifact_uid WHERE c.{column} = $1 AND c.state = 'COMMITTED' \
             AND c.version >= $2 AND (c.version > $2 OR c.uid > $3) ORDER BY c.version, c.uid LIMIT $4"
        );
        let rows = self.page(&sql, args![uid, number, after, limit]).await?;
        let doomed = |row: &crate::db::connection::Row| {
            Ok(Doomed {
                uid: row.text(0)?,
                artifact: ArtifactName { project: project_of(row, 1)?, artifact: stored_id(&row.text(3)?)? },
                artifact_uid: row.text(4)?,
                number: row.int(5)?,
                size_bytes: row.int(6)?,
            })
        };
        rows.iter().map(doomed).collect()
    }

    /// The first aliases of users that point at these versions, each with what it points at.
    pub async fn user_aliases_of(&self, uids: &[&str], most: usize) -> Result<Vec<String>, Error> {
        let sql = "WITH {v: uid text} SELECT a.id, l.alias FROM v CROSS JOIN aliases l JOIN artifacts a ON a.uid = l.artifact_uid \
            WHERE l.checkpoint_uid = v.uid AND l.owner = 'user' ORDER BY a.id, l.alias";
        let rows = self.page_of(sql, uids.iter().map(|uid| args![*uid]).collect()).await?;
        rows.iter().take(most).map(|row| Ok(format!("{}:{}", row.text(0)?, row.text(1)?))).collect()
    }

    /// Bytes of the chunks that these versions have and no others; none if there are too many to look at.
    pub async fn exclusive_bytes(&self, uids: &[String]) -> Result<Option<i64>, Error> {
        if uids.len() > Db::MOST_EXCLUSIVE {
            return Ok(None);
        }
        let sql = format!(
            "WITH {{v: uid text}} SELECT CAST(COUNT(*) AS BIGINT), CAST(COALESCE(SUM(pins), 0) AS BIGINT), \
             CAST(COALESCE(SUM(CASE WHEN is_shared = 1 THEN 0 ELSE size_bytes END), 0) AS BIGINT) FROM \
             (SELECT COUNT(*) AS pins, MAX(p.size_bytes) AS size_bytes, CASE WHEN EXISTS (SELECT 1 FROM file_chunks q \
             JOIN files g ON g.uid = q.file_uid JOIN checkpoints k ON k.uid = g.checkpoint_uid WHERE q.team = p.team \
             AND q.digest = p.digest AND k.state <> 'DELETED' AND k.uid NOT IN (SELECT w.uid FROM v w)) \
             THEN 1 ELSE 0 END AS is_shared FROM (SELECT c.team, c.digest, c.size_bytes FROM v CROSS JOIN files f \
             JOIN file_chunks c ON c.file_uid = f.uid WHERE f.checkpoint_uid = v.uid LIMIT {}) AS p \
             GROUP BY p.team, p.digest) AS chunks",
            MOST_PINS + 1
        );
        let rows = self.page_of(&sql, uids.iter().map(|uid| args![uid]).collect()).await?;
        let Some(row) = rows.first() else { return Ok(Some(0)) };
        Ok((row.int(1)? <= MOST_PINS).then_some(row.int(2)?))
    }

    /// Projects of a team that have an artifact, behind the one that `after` names.
    pub async fn list_projects(&self, team: &TeamName, after: &str, limit: i64) -> Result<Vec<Id>, Error> {
        // From one to the next by the index, however many artifacts each has.
        let next = |after: &str| {
            format!(
                "SELECT MIN(a.project) FROM artifacts a WHERE a.team = $1 AND a.delete_time_us IS NULL AND a.project > {after}"
            )
        };
        let sql = format!(
            "WITH RECURSIVE p (project) AS ({} UNION ALL SELECT ({}) FROM p WHERE p.project IS NOT NULL) \
             SELECT project FROM p WHERE project IS NOT NULL LIMIT $3",
            next("$2"),
            next("p.project")
        );
        let rows = self.page(&sql, args![team.team.as_str(), after, limit]).await?;
        rows.iter().map(|row| stored_id(&row.text(0)?)).collect()
    }
}
