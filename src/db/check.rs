//! What `keepbest check` reads: committed versions page by page, and the invariants that SQL can tell.

use crate::db::Db;
use crate::db::Error;
use crate::db::connection::args;
use crate::db::files::digest_of;
use crate::domain::digest::Digest;

/// Chunks or files looked up at once.
const PAGE: i64 = 200;

/// A chunk that a committed version uses.
#[derive(Clone, Debug)]
pub struct CheckChunk {
    /// The team that holds it.
    pub team: String,
    /// BLAKE3 of its bytes.
    pub digest: Digest,
    /// Its length.
    pub size_bytes: i64,
    /// Where its bytes are.
    pub object_key: String,
    /// Whether a file that declared its SHA-256 has it, and so is read from its beginning to its end.
    pub is_read_with_file: bool,
}

/// A committed file that declared its SHA-256.
#[derive(Clone, Debug)]
pub struct CheckFile {
    /// Unique for ever.
    pub uid: String,
    /// For people: its version and its path.
    pub name: String,
    /// Its team.
    pub team: String,
    /// Over its chunks.
    pub digest: Digest,
    /// As declared.
    pub sha256: Digest,
}

/// A committed version to check.
#[derive(Clone, Debug)]
pub struct CheckVersion {
    /// The checkpoint.
    pub uid: String,
    /// For people: `team/project/artifact:vN`.
    pub name: String,
    /// As committed.
    pub digest: Digest,
}

/// A place of chunk `k` in a committed version.
const USE: &str = "SELECT 1 FROM file_chunks f JOIN files i ON i.uid = f.file_uid \
    JOIN checkpoints c ON c.uid = i.checkpoint_uid \
    WHERE f.team = k.team AND f.digest = k.digest AND c.state = 'COMMITTED'";

impl Db {
    /// Committed versions in the order of their uids, after `after`.
    pub async fn check_versions(&self, after: &str, limit: i64) -> Result<Vec<CheckVersion>, Error> {
        let sql = "SELECT c.uid, a.team, a.project, a.id, c.version, c.digest FROM checkpoints c \
            JOIN artifacts a ON a.uid = c.artifact_uid WHERE c.state = 'COMMITTED' AND c.uid > $1 ORDER BY c.uid LIMIT $2";
        let rows = self.rows(sql, args![after, limit]).await?;
        rows.iter()
            .map(|row| {
                let name = format!("{}/{}/{}:v{}", row.text(1)?, row.text(2)?, row.text(3)?, row.int(4)?);
                Ok(CheckVersion { uid: row.text(0)?, name, digest: digest_of(&row.bytes(5)?)? })
            })
            .collect()
    }

    /// Whether a version still is committed: one that was deleted while it was read is no problem.
    pub async fn is_committed(&self, uid: &str) -> Result<bool, Error> {
        let sql = "SELECT 1 FROM checkpoints WHERE uid = $1 AND state = 'COMMITTED'";
        Ok(self.row(sql, args![uid]).await?.is_some())
    }

    /// Chunks of committed versions, each once, in the order of teams and digests, after `after`.
    pub async fn check_chunks(&self, after: &(String, Vec<u8>)) -> Result<Vec<CheckChunk>, Error> {
        let sql = format!(
            "SELECT k.team, k.digest, k.size_bytes, k.object_key, \
             CAST(CASE WHEN EXISTS ({USE} AND i.sha256 IS NOT NULL) THEN 1 ELSE 0 END AS BIGINT) FROM chunks k \
             WHERE (k.team, k.digest) > ($1, $2) AND EXISTS ({USE}) ORDER BY k.team, k.digest LIMIT $3"
        );
        let rows = self.rows(&sql, args![&after.0, after.1.clone(), PAGE]).await?;
        rows.iter()
            .map(|row| {
                Ok(CheckChunk {
                    team: row.text(0)?,
                    digest: digest_of(&row.bytes(1)?)?,
                    size_bytes: row.int(2)?,
                    object_key: row.text(3)?,
                    is_read_with_file: row.flag(4)?,
                })
            })
            .collect()
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
        let rows = self.rows(sql, args![team, digest]).await?;
        rows.iter()
            .map(|row| {
                let version = format!("{}/{}/{}:v{}", row.text(0)?, row.text(1)?, row.text(2)?, row.int(3)?);
                Ok(format!("{version} file `{}` at byte {}", row.text(4)?, row.int(5)?))
            })
            .collect()
    }

    /// Files of committed versions that declared their SHA-256, in the order of their uids, after `after`.
    pub async fn check_files(&self, after: &str) -> Result<Vec<CheckFile>, Error> {
        let sql = "SELECT i.uid, a.team, a.project, a.id, c.version, i.path, i.digest, i.sha256 FROM files i \
            JOIN checkpoints c ON c.uid = i.checkpoint_uid JOIN artifacts a ON a.uid = c.artifact_uid \
            WHERE i.uid > $1 AND i.sha256 IS NOT NULL AND c.state = 'COMMITTED' ORDER BY i.uid LIMIT $2";
        let rows = self.rows(sql, args![after, PAGE]).await?;
        rows.iter()
            .map(|row| {
                let version = format!("{}/{}/{}:v{}", row.text(1)?, row.text(2)?, row.text(3)?, row.int(4)?);
                Ok(CheckFile {
                    uid: row.text(0)?,
                    name: format!("{version} file `{}`", row.text(5)?),
                    team: row.text(1)?,
                    digest: digest_of(&row.bytes(6)?)?,
                    sha256: digest_of(&row.bytes(7)?)?,
                })
            })
            .collect()
    }

    /// Sentences about rows that contradict each other; none is right.
    pub async fn contradictions(&self) -> Result<Vec<String>, Error> {
        const CHECKS: [(&str, &str); 4] = [
            (
                "alias `{}` points at a checkpoint that is not committed",
                "SELECT l.alias FROM aliases l JOIN checkpoints c ON c.uid = l.checkpoint_uid WHERE c.state <> 'COMMITTED'",
            ),
            (
                "run `{}` has a best checkpoint that is not committed",
                "SELECT r.id FROM runs r JOIN checkpoints c ON r.monitor_state LIKE '%\"best_checkpoint\":\"' || c.uid || '\"%' \
                 WHERE c.state <> 'COMMITTED' AND c.run_uid = r.uid",
            ),
            (
                "artifact `{}` has a gap in its version numbers",
                "SELECT a.id FROM artifacts a WHERE a.next_version <> \
                 (SELECT COUNT(*) FROM checkpoints c WHERE c.artifact_uid = a.uid AND c.version IS NOT NULL)",
            ),
            (
                "version metrics stand for checkpoint `{}`, which is not committed",
                "SELECT DISTINCT m.checkpoint_uid FROM version_metrics m JOIN checkpoints c ON c.uid = m.checkpoint_uid \
                 WHERE c.state <> 'COMMITTED'",
            ),
        ];
        let mut found = Vec::new();
        for (sentence, sql) in CHECKS {
            for row in self.rows(sql, args![]).await? {
                found.push(sentence.replace("{}", &row.text(0)?));
            }
        }
        Ok(found)
    }
}
