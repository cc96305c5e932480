//! What `keepbest check` reads: committed versions, their files and their chunks, page by page.

use crate::db::Db;
use crate::db::Error;
use crate::db::connection::Row;
use crate::db::connection::args;
use crate::db::files::digest_of;
use crate::domain::cells::CELL_BYTES;
use crate::domain::digest::Digest;

/// Rows read at once, those among them that no committed version has.
pub(super) const PAGE: i64 = 500;

/// A page of rows, and where the next one begins; none: this was the last one.
pub type CheckPage<T, K> = (Vec<T>, Option<K>);

/// The page of all rows, of which each is shown or not.
pub(super) fn page<T, K>(rows: Vec<(K, Option<T>)>) -> CheckPage<T, K> {
    let is_whole = i64::try_from(rows.len()) == Ok(PAGE);
    let (mut last, mut shown) = (None, Vec::new());
    for (key, row) in rows {
        last = Some(key);
        shown.extend(row);
    }
    (shown, last.filter(|_| is_whole))
}

/// A chunk that a committed version uses.
#[derive(Clone, Debug)]
pub struct CheckChunk {
    /// The team that holds it.
    pub team: String,
    /// BLAKE3 of its bytes.
    pub digest: Digest,
    pub size_bytes: i64,
    /// Where its bytes are.
    pub object_key: String,
}

/// A committed file that only its bytes, read from the beginning to the end, can tell to be right: it declared its SHA-256, or its
/// chunks end elsewhere than its cells.
#[derive(Clone, Debug)]
pub struct CheckFile {
    /// Unique for ever.
    pub uid: String,
    /// For people: its version and its path.
    pub name: String,
    pub team: String,
    pub size_bytes: i64,
    /// Over its cells.
    pub digest: Digest,
    /// As declared.
    pub sha256: Option<Digest>,
}

/// A committed version to check.
#[derive(Clone, Debug)]
pub struct CheckVersion {
    pub uid: String,
    /// For people: `team/project/artifact:vN`.
    pub name: String,
    /// As committed.
    pub digest: Digest,
}

/// Keys of pages.
pub type ChunkKey = (String, Vec<u8>);

impl Db {
    /// Committed versions in the order of their uids, after `after`.
    pub async fn check_versions(&self, after: &str) -> Result<CheckPage<CheckVersion, String>, Error> {
        // Not those that are committed alone: the databases would look for these by their state and sort them for each page.
        let sql = "SELECT c.uid, a.team, a.project, a.id, c.version, c.digest, c.state FROM checkpoints c \
            JOIN artifacts a ON a.uid = c.artifact_uid WHERE c.uid > $1 ORDER BY c.uid LIMIT $2";
        let version = |row: &Row| {
            if row.text(6)? != "COMMITTED" {
                return Ok((row.text(0)?, None));
            }
            let name = format!("{}/{}/{}:v{}", row.text(1)?, row.text(2)?, row.text(3)?, row.int(4)?);
            let digest = digest_of(&row.bytes(5)?)?;
            Ok((row.text(0)?, Some(CheckVersion { uid: row.text(0)?, name, digest })))
        };
        let rows = self.page(sql, args![after, PAGE]).await?;
        Ok(page(rows.iter().map(version).collect::<Result<_, Error>>()?))
    }

    /// Whether a version still is committed: one that was deleted while it was read is no problem.
    pub async fn is_committed(&self, uid: &str) -> Result<bool, Error> {
        let sql = "SELECT 1 FROM checkpoints WHERE uid = $1 AND state = 'COMMITTED'";
        Ok(self.row(sql, args![uid]).await?.is_some())
    }

    /// Chunks of committed versions, each once, in the order of teams and digests, after `after`.
    pub async fn check_chunks(&self, after: &ChunkKey) -> Result<CheckPage<CheckChunk, ChunkKey>, Error> {
        // Not EXISTS, for which Postgres would read all uses of all chunks first, and again for each page.
        let sql = "SELECT k.team, k.digest, k.size_bytes, k.object_key, CAST(CASE WHEN (SELECT 1 FROM file_chunks f \
            CROSS JOIN files i CROSS JOIN checkpoints c WHERE f.team = k.team AND f.digest = k.digest \
            AND i.uid = f.file_uid AND c.uid = i.checkpoint_uid AND c.state = 'COMMITTED' LIMIT 1) IS NULL THEN 0 ELSE 1 END AS BIGINT) \
            FROM chunks k WHERE (k.team, k.digest) > ($1, $2) ORDER BY k.team, k.digest LIMIT $3";
        let chunk = |row: &Row| {
            let (team, digest) = (row.text(0)?, row.bytes(1)?);
            let chunk = CheckChunk {
                team: team.clone(),
                digest: digest_of(&digest)?,
                size_bytes: row.int(2)?,
                object_key: row.text(3)?,
            };
            Ok(((team, digest), row.flag(4)?.then_some(chunk)))
        };
        let rows = self.page(sql, args![&after.0, after.1.clone(), PAGE]).await?;
        Ok(page(rows.iter().map(chunk).collect::<Result<_, Error>>()?))
    }

    /// Where a chunk's bytes are now: it may have been collected and stored again since it was listed.
    pub async fn chunk_key(&self, team: &str, digest: Digest) -> Result<Option<String>, Error> {
        let sql = "SELECT object_key FROM chunks WHERE team = $1 AND digest = $2";
        self.row(sql, args![team, digest]).await?.map(|row| row.text(0)).transpose()
    }

    /// Every place that a chunk has in committed versions, for people.
    pub async fn chunk_places(&self, team: &str, digest: Digest) -> Result<Vec<String>, Error> {
        let sql = "SELECT a.team, a.project, a.id, c.version, i.path, f.offset_bytes FROM file_chunks f \
            JOIN files i ON i.uid = f.file_uid JOIN checkpoints c ON c.uid = i.checkpoint_uid \
            JOIN artifacts a ON a.uid = c.artifact_uid WHERE f.team = $1 AND f.digest = $2 AND c.state = 'COMMITTED' \
            ORDER BY a.project, a.id, c.version, i.path, f.offset_bytes";
        let rows = self.page(sql, args![team, digest]).await?;
        rows.iter()
            .map(|row| {
                let version = format!("{}/{}/{}:v{}", row.text(0)?, row.text(1)?, row.text(2)?, row.int(3)?);
                Ok(format!("{version} file `{}` at byte {}", row.text(4)?, row.int(5)?))
            })
            .collect()
    }

    /// Files of committed versions that only all their bytes can tell to be right, in the order of their uids, after `after`.
    pub async fn check_files(&self, after: &str) -> Result<CheckPage<CheckFile, String>, Error> {
        let sql = "SELECT i.uid, a.team, a.project, a.id, c.version, i.path, i.digest, i.sha256, c.state, \
            CAST(CASE WHEN i.sha256 IS NOT NULL OR (SELECT 1 FROM file_chunks k WHERE k.file_uid = i.uid \
            AND k.offset_bytes % $3 <> 0 LIMIT 1) = 1 THEN 1 ELSE 0 END AS BIGINT), i.size_bytes FROM files i \
            JOIN checkpoints c ON c.uid = i.checkpoint_uid JOIN artifacts a ON a.uid = c.artifact_uid \
            WHERE i.uid > $1 ORDER BY i.uid LIMIT $2";
        let file = |row: &Row| {
            let uid = row.text(0)?;
            if !row.flag(9)? || row.text(8)? != "COMMITTED" {
                return Ok((uid, None));
            }
            let version = format!("{}/{}/{}:v{}", row.text(1)?, row.text(2)?, row.text(3)?, row.int(4)?);
            let file = CheckFile {
                uid: uid.clone(),
                name: format!("{version} file `{}`", row.text(5)?),
                team: row.text(1)?,
                size_bytes: row.int(10)?,
                digest: digest_of(&row.bytes(6)?)?,
                sha256: row.bytes_or_null(7)?.map(|it| digest_of(&it)).transpose()?,
            };
            Ok((uid, Some(file)))
        };
        let rows = self.page(sql, args![after, PAGE, CELL_BYTES]).await?;
        Ok(page(rows.iter().map(file).collect::<Result<_, Error>>()?))
    }
}
