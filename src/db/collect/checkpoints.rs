//! G1: gives up pending checkpoints that have expired, and removes the files of deleted ones.

use std::collections::HashSet;

use crate::db::Db;
use crate::db::Error;
use crate::db::checkpoints::give_up;
use crate::db::chunks::look_again;
use crate::db::collect::Graces;
use crate::db::collect::PAGE;
use crate::db::collect::Step;
use crate::db::collect::count;
use crate::db::collect::objects::doom_object;
use crate::db::connection::Connection;
use crate::db::connection::args;
use crate::db::runs::lock_run_by_uid;

/// The key of a version's manifest, from its checkpoint's uid and the time of its commit.
pub type ManifestKey = fn(&str, i64) -> String;

// What a pass asks for when nothing is to do. Each must find its rows by an index: see the tests. What was dealt with is found no
// more, so the next page begins behind what was left.
pub(super) const EXPIRED: &str = "SELECT uid, run_uid FROM checkpoints WHERE state = 'PENDING' AND expire_time_us < $1 \
    ORDER BY expire_time_us LIMIT $2 OFFSET $3";
pub(super) const DELETED: &str = "SELECT uid FROM checkpoints WHERE state = 'DELETED' AND purge_time_us IS NULL \
    AND delete_time_us <= $1 ORDER BY delete_time_us LIMIT $2 OFFSET $3";

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
    connection.execute("DELETE FROM feed WHERE checkpoint_uid = $1", args![&uid]).await?;
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

impl Db {
    /// G1, first half: pending checkpoints whose time is over are given up, each with its run's monitor state.
    pub async fn expire_checkpoints(&self, now_us: i64) -> Result<Step, Error> {
        let mut step = Step::default();
        // Runs that cannot be read, or that others hold: each try of one may wait for a lock.
        let mut left = HashSet::new();
        loop {
            let rows = self.rows(EXPIRED, args![now_us, PAGE, step.offset()]).await?;
            for row in &rows {
                let (uid, run_uid) = (row.text(0)?, row.text(1)?);
                if left.contains(&run_uid) {
                    step.left += 1;
                    continue;
                }
                match self.expire_checkpoint(run_uid.clone(), uid.clone(), now_us).await {
                    Ok(()) => step.done += 1,
                    Err(error) => {
                        step.leave(|| format!("pending checkpoint `{uid}` of run `{run_uid}`"), error)?;
                        left.insert(run_uid);
                    }
                }
            }
            if count(rows.len()) < PAGE.unsigned_abs() {
                return Ok(step);
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
    ) -> Result<Step, Error> {
        let doomed = DoomedManifest { key: manifest_key, due_time_us: graces.object_due_us(now_us) };
        let until_us = now_us.saturating_sub(graces.deleted_us);
        let mut step = Step::default();
        loop {
            let rows = self.rows(DELETED, args![until_us, PAGE, step.offset()]).await?;
            for row in &rows {
                let uid = row.text(0)?;
                match self.purge_checkpoint(&uid, now_us, doomed).await {
                    Ok(true) => step.done += 1,
                    Ok(false) => {}
                    Err(error) => step.leave(|| format!("deleted checkpoint `{uid}`"), error)?,
                }
            }
            if count(rows.len()) < PAGE.unsigned_abs() {
                return Ok(step);
            }
        }
    }

    /// Answers whether it was this call that came to the end.
    async fn purge_checkpoint(&self, uid: &str, now_us: i64, doomed: DoomedManifest) -> Result<bool, Error> {
        loop {
            let uid = uid.to_owned();
            let purged = self.write(move |connection| Box::pin(purge_page(connection, uid, now_us, doomed)));
            match purged.await? {
                Purge::More => {}
                Purge::Done => return Ok(true),
                Purge::DoneByAnother => return Ok(false),
            }
        }
    }
}
