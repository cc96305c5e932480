//! The collector's statements: what may go, in an order that a crash or a race at any point cannot turn into a loss.
//!
//! G1 expires pending checkpoints and takes the pins of deleted ones away. G2 turns chunk rows that nobody pins into doomed
//! objects. G3 claims doomed objects that are due; the caller deletes the bytes and then `forget`s the row.

use crate::store::Error;
use crate::store::Store;
use crate::store::checkpoints::give_up;
use crate::store::connection::args;
use crate::store::runs::lock_run_by_uid;

/// Checkpoints or rows in one transaction: short ones let others in between.
const PAGE: i64 = 200;

/// How long things that nobody needs are kept.
#[derive(Clone, Copy, Debug)]
pub struct Graces {
    /// Deleted checkpoints keep their bytes so long.
    pub deleted_us: i64,
    /// Chunks without a file.
    pub chunk_us: i64,
    /// Objects without a chunk: a reader may still stream them.
    pub object_us: i64,
}

fn count(rows: usize) -> u64 {
    u64::try_from(rows).unwrap_or(u64::MAX)
}

impl Store {
    /// G1, first half: pending checkpoints whose time is over are given up, each with its run's monitor state.
    pub async fn expire_checkpoints(&self, now_us: i64) -> Result<u64, Error> {
        let mut expired = 0;
        loop {
            let due = "SELECT uid, run_uid FROM checkpoints WHERE state = 'PENDING' AND expire_time_us < $1 LIMIT $2";
            let rows = self.rows(due, args![now_us, PAGE]).await?;
            for row in &rows {
                let (uid, run_uid) = (row.text(0)?, row.text(1)?);
                self.expire_checkpoint(run_uid, uid, now_us).await?;
            }
            expired += count(rows.len());
            if rows.len() < usize::try_from(PAGE).unwrap_or(0) {
                return Ok(expired);
            }
        }
    }

    /// Gives one pending checkpoint up if its time is over.
    pub async fn expire_checkpoint(&self, run_uid: String, uid: String, now_us: i64) -> Result<(), Error> {
        self.write(move |connection| {
            Box::pin(async move {
                let run = lock_run_by_uid(connection, &run_uid).await?;
                // A write may have put it off since it was read; from here on none can.
                let still = "UPDATE checkpoints SET expire_time_us = expire_time_us \
                    WHERE uid = $1 AND state = 'PENDING' AND expire_time_us < $2";
                if connection.execute(still, args![&uid, now_us]).await? == 1 {
                    give_up(connection, run, &uid, now_us).await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// G1, second half: deleted checkpoints past their grace lose their files and with them the pins on chunks.
    pub async fn purge_checkpoints(&self, now_us: i64, grace_us: i64) -> Result<u64, Error> {
        let mut purged = 0;
        loop {
            let due = "SELECT uid FROM checkpoints WHERE state = 'DELETED' AND purge_time_us IS NULL \
                AND delete_time_us <= $1 LIMIT $2";
            let rows = self.rows(due, args![now_us.saturating_sub(grace_us), PAGE]).await?;
            for row in &rows {
                let uid = row.text(0)?;
                let purge = self.write(move |connection| {
                    Box::pin(async move {
                        // The checkpoint's row first: of two collectors one waits, and then has nothing to do.
                        // Its manifest is due once more: one that a process wrote late, after the deletion's, goes too.
                        let mark = "UPDATE checkpoints SET purge_time_us = $1, manifest_state = '' \
                            WHERE uid = $2 AND purge_time_us IS NULL";
                        if connection.execute(mark, args![now_us, &uid]).await? == 0 {
                            return Ok(0);
                        }
                        let chunks = "DELETE FROM file_chunks WHERE file_uid IN \
                            (SELECT uid FROM files WHERE checkpoint_uid = $1)";
                        connection.execute(chunks, args![&uid]).await?;
                        connection
                            .execute("DELETE FROM files WHERE checkpoint_uid = $1", args![&uid])
                            .await?;
                        Ok(1)
                    })
                });
                purged += purge.await?;
            }
            if rows.len() < usize::try_from(PAGE).unwrap_or(0) {
                return Ok(purged);
            }
        }
    }

    /// G2: chunk rows that no file pins and that were not touched for the grace become doomed objects. Answers how many,
    /// and their bytes.
    pub async fn drop_unused_chunks(&self, now_us: i64, graces: Graces) -> Result<(u64, u64), Error> {
        let (mut removed, mut freed) = (0, 0);
        loop {
            let unused = "SELECT team, digest, object_key, touch_time_us, size_bytes FROM chunks c \
                WHERE touch_time_us <= $1 AND NOT EXISTS \
                (SELECT 1 FROM file_chunks f WHERE f.team = c.team AND f.digest = c.digest) LIMIT $2";
            let rows = self.rows(unused, args![now_us.saturating_sub(graces.chunk_us), PAGE]).await?;
            let mut page = Vec::with_capacity(rows.len());
            for row in &rows {
                page.push((row.text(0)?, row.bytes(1)?, row.text(2)?, row.int(3)?, row.int(4)?));
            }
            // In the order in which uploads lock them.
            page.sort_unstable();
            let last = page.len() < usize::try_from(PAGE).unwrap_or(0);
            let due_us = now_us.saturating_add(graces.object_us).max(1);
            let (chunks, bytes) = self
                .write(move |connection| {
                    Box::pin(async move {
                        let (mut chunks, mut bytes) = (0_u64, 0_u64);
                        for (team, digest, key, touched_us, size_bytes) in page {
                            // Unchanged since it was seen unused: whoever pins a chunk changes its touch time first.
                            let delete = "DELETE FROM chunks WHERE team = $1 AND digest = $2 AND touch_time_us = $3 \
                                AND NOT EXISTS (SELECT 1 FROM file_chunks f WHERE f.team = $1 AND f.digest = $2)";
                            if connection.execute(delete, args![team, digest, touched_us]).await? == 1 {
                                let doom = "INSERT INTO doomed_objects (object_key, due_time_us) VALUES ($1, $2)";
                                connection.execute(doom, args![key, due_us]).await?;
                                chunks += 1;
                                bytes += u64::try_from(size_bytes).unwrap_or(0);
                            }
                        }
                        Ok((chunks, bytes))
                    })
                })
                .await?;
            removed += chunks;
            freed += bytes;
            if last || chunks == 0 {
                return Ok((removed, freed));
            }
        }
    }

    /// G3: claims doomed objects that are due. From here on no upload can bring them back, so their bytes may go. What a
    /// crash left claimed is claimed again.
    pub async fn claim_doomed(&self, now_us: i64) -> Result<Vec<String>, Error> {
        self.write(move |connection| {
            Box::pin(async move {
                let due = "SELECT object_key FROM doomed_objects WHERE due_time_us <= $1 ORDER BY due_time_us DESC LIMIT $2";
                let rows = connection.rows(due, args![now_us, PAGE]).await?;
                let mut keys: Vec<String> = rows.iter().map(|row| row.text(0)).collect::<Result<_, _>>()?;
                // In the order in which uploads and other collectors lock them.
                keys.sort_unstable();
                let mut claimed = Vec::with_capacity(keys.len());
                for key in keys {
                    let claim = "UPDATE doomed_objects SET due_time_us = -1 WHERE object_key = $1";
                    if connection.execute(claim, args![&key]).await? == 1 {
                        claimed.push(key);
                    }
                }
                Ok(claimed)
            })
        })
        .await
    }

    /// The bytes of these objects are gone.
    pub async fn forget_doomed(&self, keys: Vec<String>) -> Result<(), Error> {
        self.write(move |connection| {
            Box::pin(async move {
                for key in keys {
                    connection
                        .execute("DELETE FROM doomed_objects WHERE object_key = $1", args![key])
                        .await?;
                }
                Ok(())
            })
        })
        .await
    }
}
