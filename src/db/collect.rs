//! The collector's statements: what may go, in an order that a crash or a race at any point cannot turn into a loss.
//!
//! G1 expires pending checkpoints, takes the pins of deleted ones away and dooms their manifests. G2 turns chunk rows that nobody pins into doomed
//! objects. G3 claims doomed objects that are due; the caller deletes the bytes and then `forget`s the row.

use crate::db::Db;
use crate::db::Error;
use crate::db::checkpoints::give_up;
use crate::db::chunks::ASIDE_US;
use crate::db::chunks::look_again;
use crate::db::connection::Connection;
use crate::db::connection::args;
use crate::db::runs::lock_run_by_uid;

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

impl Graces {
    /// When an object that is doomed now may go.
    const fn object_due_us(&self, now_us: i64) -> i64 {
        // Below 1 stands for a claim.
        let due_us = now_us.saturating_add(self.object_us);
        if due_us < 1 { 1 } else { due_us }
    }
}

/// The key of a version's manifest, from its checkpoint's uid and the time of its commit.
pub type ManifestKey = fn(&str, i64) -> String;

/// A chunk as the collector saw it, outside of a transaction.
struct OldChunk {
    touch_time_us: i64,
    team: String,
    digest: Vec<u8>,
    object_key: String,
    size_bytes: i64,
    is_pinned: bool,
}

// What a pass asks for when nothing is to do. Each must find its rows by an index: see the tests.
const EXPIRED: &str =
    "SELECT uid, run_uid FROM checkpoints WHERE state = 'PENDING' AND expire_time_us < $1 LIMIT $2";
const DELETED: &str = "SELECT uid FROM checkpoints WHERE state = 'DELETED' AND purge_time_us IS NULL \
    AND delete_time_us <= $1 LIMIT $2";
const DUE: &str =
    "SELECT object_key FROM doomed_objects WHERE due_time_us <= $1 ORDER BY due_time_us DESC LIMIT $2";
const OLD_CHUNKS: &str = "SELECT touch_time_us, team, digest, object_key, size_bytes, CAST(CASE WHEN EXISTS \
    (SELECT 1 FROM file_chunks f WHERE f.team = c.team AND f.digest = c.digest) THEN 1 ELSE 0 END AS BIGINT) FROM chunks c \
    WHERE touch_time_us <= $1 AND (touch_time_us, team, digest) > ($2, $3, $4) \
    ORDER BY touch_time_us, team, digest LIMIT $5";

/// Where the purge of a checkpoint stands.
enum Purge {
    More,
    Done,
    DoneByAnother,
}

/// Takes some pins of a deleted checkpoint away; with the last ones its files, and marks it.
async fn purge_page(
    connection: &mut Connection<'_>,
    uid: String,
    now_us: i64,
    doomed: DoomedManifest,
) -> Result<Purge, Error> {
    // The checkpoint's row first: of two collectors one waits.
    let lock = "UPDATE checkpoints SET purge_time_us = purge_time_us WHERE uid = $1 AND purge_time_us IS NULL \
        RETURNING commit_time_us";
    let Some(row) = connection.row(lock, args![&uid]).await? else { return Ok(Purge::DoneByAnother) };
    let commit_time_us = row.int_or_null(0)?;
    let pins = "SELECT c.file_uid, c.offset_bytes, c.team, c.digest FROM files f \
        JOIN file_chunks c ON c.file_uid = f.uid WHERE f.checkpoint_uid = $1 LIMIT $2";
    let rows = connection.rows(pins, args![&uid, PAGE]).await?;
    let mut chunks = Vec::with_capacity(rows.len());
    for row in &rows {
        let unpin = "DELETE FROM file_chunks WHERE file_uid = $1 AND offset_bytes = $2";
        connection.execute(unpin, args![row.text(0)?, row.int(1)?]).await?;
        chunks.push((row.text(2)?, row.bytes(3)?));
    }
    look_again(connection, chunks).await?;
    if count(rows.len()) == PAGE.unsigned_abs() {
        return Ok(Purge::More);
    }
    connection.execute("DELETE FROM files WHERE checkpoint_uid = $1", args![&uid]).await?;
    connection
        .execute("UPDATE checkpoints SET purge_time_us = $1 WHERE uid = $2", args![now_us, &uid])
        .await?;
    // What was given up before its commit has none.
    if let Some(commit_time_us) = commit_time_us {
        doom_object(connection, (doomed.key)(&uid, commit_time_us), doomed.due_time_us).await?;
    }
    Ok(Purge::Done)
}

/// The manifest of a deleted version goes as its bytes do, so that a copy of the database that is not older than the graces
/// finds it. What a process that hung wrote late goes with it.
#[derive(Clone, Copy)]
struct DoomedManifest {
    key: ManifestKey,
    due_time_us: i64,
}

async fn doom_object(
    connection: &mut Connection<'_>,
    object_key: String,
    due_time_us: i64,
) -> Result<(), Error> {
    let doom = "INSERT INTO doomed_objects (object_key, due_time_us) VALUES ($1, $2)";
    connection.execute(doom, args![object_key, due_time_us]).await.map(drop)
}

/// Unchanged since it was seen pinned: whoever takes a pin away changes the touch time in that transaction.
async fn put_aside(connection: &mut Connection<'_>, chunk: OldChunk) -> Result<(), Error> {
    let aside = "UPDATE chunks SET touch_time_us = touch_time_us + $4 \
        WHERE team = $1 AND digest = $2 AND touch_time_us = $3 \
        AND EXISTS (SELECT 1 FROM file_chunks f WHERE f.team = $1 AND f.digest = $2)";
    let values = args![chunk.team, chunk.digest, chunk.touch_time_us, ASIDE_US];
    connection.execute(aside, values).await.map(drop)
}

/// Removes the row of a chunk that nobody pins and dooms its object; its bytes, or none if somebody came before.
async fn doom(
    connection: &mut Connection<'_>,
    chunk: OldChunk,
    due_time_us: i64,
) -> Result<Option<u64>, Error> {
    // Unchanged since it was seen unused: whoever pins a chunk changes its touch time first.
    let delete = "DELETE FROM chunks WHERE team = $1 AND digest = $2 AND touch_time_us = $3 \
        AND NOT EXISTS (SELECT 1 FROM file_chunks f WHERE f.team = $1 AND f.digest = $2)";
    if connection.execute(delete, args![chunk.team, chunk.digest, chunk.touch_time_us]).await? == 0 {
        return Ok(None);
    }
    doom_object(connection, chunk.object_key, due_time_us).await?;
    Ok(Some(u64::try_from(chunk.size_bytes).unwrap_or(0)))
}

fn count(rows: usize) -> u64 {
    u64::try_from(rows).unwrap_or(u64::MAX)
}

impl Db {
    /// G1, first half: pending checkpoints whose time is over are given up, each with its run's monitor state.
    pub async fn expire_checkpoints(&self, now_us: i64) -> Result<u64, Error> {
        let mut expired = 0;
        loop {
            let rows = self.rows(EXPIRED, args![now_us, PAGE]).await?;
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

    /// G1, second half: deleted checkpoints past their grace lose their files and with them the pins on chunks, and their
    /// manifests are doomed.
    pub async fn purge_checkpoints(
        &self,
        now_us: i64,
        graces: Graces,
        manifest_key: ManifestKey,
    ) -> Result<u64, Error> {
        let doomed = DoomedManifest { key: manifest_key, due_time_us: graces.object_due_us(now_us) };
        let mut purged = 0;
        loop {
            let rows = self.rows(DELETED, args![now_us.saturating_sub(graces.deleted_us), PAGE]).await?;
            for row in &rows {
                let uid = row.text(0)?;
                loop {
                    let uid = uid.clone();
                    let step =
                        self.write(move |connection| Box::pin(purge_page(connection, uid, now_us, doomed)));
                    match step.await? {
                        Purge::More => {}
                        Purge::Done => break purged += 1,
                        Purge::DoneByAnother => break,
                    }
                }
            }
            if rows.len() < usize::try_from(PAGE).unwrap_or(0) {
                return Ok(purged);
            }
        }
    }

    /// G2: chunk rows that no file pins and that were not touched for the grace become doomed objects. Answers how many,
    /// and their bytes. Pinned ones are put aside until a pin goes: a pass costs what changed, not what is kept.
    pub async fn drop_unused_chunks(&self, now_us: i64, graces: Graces) -> Result<(u64, u64), Error> {
        let (mut removed, mut freed) = (0, 0);
        let until_us = match graces.chunk_us {
            // No time at all, whatever the clocks of other replicas say.
            0 => ASIDE_US - 1,
            grace_us => now_us.saturating_sub(grace_us).min(ASIDE_US - 1),
        };
        let due_us = graces.object_due_us(now_us);
        let mut after = (i64::MIN, String::new(), Vec::new());
        loop {
            let mut page = self.old_chunks(until_us, after).await?;
            let Some(last) = page.last() else { return Ok((removed, freed)) };
            after = (last.touch_time_us, last.team.clone(), last.digest.clone());
            let is_last = count(page.len()) < PAGE.unsigned_abs();
            // In the order in which uploads lock them.
            page.sort_unstable_by(|a, b| (&a.team, &a.digest).cmp(&(&b.team, &b.digest)));
            let write = self.write(move |connection| {
                Box::pin(async move {
                    let (mut chunks, mut bytes) = (0_u64, 0_u64);
                    for chunk in page {
                        if chunk.is_pinned {
                            put_aside(connection, chunk).await?;
                        } else if let Some(size_bytes) = doom(connection, chunk, due_us).await? {
                            chunks += 1;
                            bytes += size_bytes;
                        }
                    }
                    Ok((chunks, bytes))
                })
            });
            let (chunks, bytes) = write.await?;
            removed += chunks;
            freed += bytes;
            if is_last {
                return Ok((removed, freed));
            }
        }
    }

    /// A page of chunks that are not put aside and were not touched for the grace, behind the last one of the page before.
    async fn old_chunks(
        &self,
        until_us: i64,
        (touch_time_us, team, digest): (i64, String, Vec<u8>),
    ) -> Result<Vec<OldChunk>, Error> {
        let values = args![until_us, touch_time_us, team, digest, PAGE];
        let rows = self.rows(OLD_CHUNKS, values).await?;
        rows.iter()
            .map(|row| {
                Ok(OldChunk {
                    touch_time_us: row.int(0)?,
                    team: row.text(1)?,
                    digest: row.bytes(2)?,
                    object_key: row.text(3)?,
                    size_bytes: row.int(4)?,
                    is_pinned: row.flag(5)?,
                })
            })
            .collect()
    }

    /// G3: claims doomed objects that are due. From here on no upload can bring them back, so their bytes may go. What a
    /// crash left claimed is claimed again.
    pub async fn claim_doomed(&self, now_us: i64) -> Result<Vec<String>, Error> {
        self.write(move |connection| {
            Box::pin(async move {
                let rows = connection.rows(DUE, args![now_us, PAGE]).await?;
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

#[cfg(test)]
mod tests;
