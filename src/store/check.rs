//! What `keepbest check` reads: committed versions page by page, and the invariants that SQL can tell.

use crate::domain::digest::Digest;
use crate::store::Error;
use crate::store::Store;
use crate::store::connection::args;
use crate::store::files::digest_of;

/// A chunk of a file that is checked.
#[derive(Clone, Debug)]
pub struct CheckChunk {
    /// Where it stands in the file.
    pub offset_bytes: i64,
    /// As the file has it.
    pub size_bytes: i64,
    /// As the file has it.
    pub digest: Digest,
    /// As the chunk's row has it; none: the row is missing.
    pub object_key: Option<String>,
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

impl Store {
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

    /// The chunks of a file in order, also those whose row is missing.
    pub async fn check_chunks(&self, file_uid: &str) -> Result<Vec<CheckChunk>, Error> {
        let sql = "SELECT f.offset_bytes, f.size_bytes, f.digest, c.object_key FROM file_chunks f \
            LEFT JOIN chunks c ON c.team = f.team AND c.digest = f.digest WHERE f.file_uid = $1 ORDER BY f.offset_bytes";
        let rows = self.rows(sql, args![file_uid]).await?;
        rows.iter()
            .map(|row| {
                Ok(CheckChunk {
                    offset_bytes: row.int(0)?,
                    size_bytes: row.int(1)?,
                    digest: digest_of(&row.bytes(2)?)?,
                    object_key: row.text_or_null(3)?,
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
