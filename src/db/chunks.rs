//! Chunks: what the team holds, in two short transactions around each upload of bytes.
//!
//! T1 touches a known chunk and pins it, or writes an intent to store a new object. Then the bytes go to the store. T2
//! makes the chunk row, or touches the one of a faster upload, removes the intent, and pins. Whoever adds a reference also
//! writes the referenced row: that is what the collector tests (`collect.rs`).

use crate::db::Db;
use crate::db::Error;
use crate::db::checkpoints::lock_pending;
use crate::db::connection::Connection;
use crate::db::connection::args;
use crate::db::files::Upload;
use crate::db::files::lock_file;
use crate::domain::digest::Digest;
use crate::domain::refusal::Refusal;
use crate::failpoint::failpoint;

/// Added to the touch time of a chunk that the collector saw pinned: it is put aside, and no later pass looks at it before
/// a pin goes (`unpin`). Times are far below: this is the year 148,108.
pub(super) const ASIDE_US: i64 = 1 << 62;
/// How long an upload may take between T1 and T2 before its object is collected.
const INTENT_US: i64 = 24 * 3_600 * 1_000_000;

/// A piece of a file that is about to be stored.
#[derive(Clone, Debug)]
pub struct WantedChunk {
    /// The file.
    pub file_uid: String,
    /// Where it stands in the file.
    pub offset_bytes: i64,
    /// Its length.
    pub size_bytes: i64,
    /// BLAKE3 of its bytes.
    pub digest: Digest,
    /// Where its bytes go if they are new; never used before.
    pub object_key: String,
}

/// A piece whose bytes are durable under its key.
pub type StoredChunk = WantedChunk;

impl Db {
    /// T1: pins the chunks that the team holds, and writes an intent for each that is new. Answers which are new.
    pub async fn claim_chunks(
        &self,
        upload: Upload,
        wanted: Vec<WantedChunk>,
        now_us: i64,
    ) -> Result<Vec<WantedChunk>, Error> {
        let run = upload.checkpoint.run.clone();
        self.write_of(&run, move |connection| {
            Box::pin(async move {
                let Upload { checkpoint, attempt, expire, token } = &upload;
                lock_pending(connection, checkpoint, *attempt, *expire).await?;
                let team = checkpoint.run.project.team.as_str();
                let mut new = Vec::new();
                for chunk in wanted {
                    lock_file(connection, &chunk.file_uid, token).await?;
                    if touch(connection, team, &chunk, now_us).await? {
                        pin(connection, team, &chunk).await?;
                    } else {
                        let intent = "INSERT INTO doomed_objects (object_key, due_time_us) VALUES ($1, $2)";
                        connection.execute(intent, args![&chunk.object_key, now_us + INTENT_US]).await?;
                        new.push(chunk);
                    }
                }
                failpoint!("chunk.claiming");
                Ok(new)
            })
        })
        .await
    }

    /// T2: makes the rows of chunks whose bytes are durable, and pins them.
    pub async fn settle_chunks(
        &self,
        upload: Upload,
        stored: Vec<StoredChunk>,
        now_us: i64,
    ) -> Result<(), Error> {
        let run = upload.checkpoint.run.clone();
        self.write_of(&run, move |connection| {
            Box::pin(async move {
                let Upload { checkpoint, attempt, expire, token } = &upload;
                lock_pending(connection, checkpoint, *attempt, *expire).await?;
                let team = checkpoint.run.project.team.as_str();
                for chunk in stored {
                    lock_file(connection, &chunk.file_uid, token).await?;
                    settle(connection, team, &chunk, now_us).await?;
                    pin(connection, team, &chunk).await?;
                }
                failpoint!("chunk.settling");
                Ok(())
            })
        })
        .await
    }
}

/// Marks a chunk as just used, so that a collector that saw it unused leaves it; whether the team holds it.
async fn touch(
    connection: &mut Connection<'_>,
    team: &str,
    chunk: &WantedChunk,
    now_us: i64,
) -> Result<bool, Error> {
    // The time always changes, also when two touches share a microsecond: the collector compares it.
    let sql = "UPDATE chunks SET touch_time_us = CASE WHEN touch_time_us % $4 < $1 THEN $1 ELSE touch_time_us % $4 + 1 END \
        WHERE team = $2 AND digest = $3";
    Ok(connection.execute(sql, args![now_us, team, chunk.digest, ASIDE_US]).await? == 1)
}

/// Takes away the pins of a file from an offset on.
pub(super) async fn unpin(
    connection: &mut Connection<'_>,
    file_uid: &str,
    offset_bytes: i64,
) -> Result<(), Error> {
    let pins = "SELECT team, digest FROM file_chunks WHERE file_uid = $1 AND offset_bytes >= $2";
    let rows = connection.rows(pins, args![file_uid, offset_bytes]).await?;
    if rows.is_empty() {
        return Ok(());
    }
    let unpin = "DELETE FROM file_chunks WHERE file_uid = $1 AND offset_bytes >= $2";
    connection.execute(unpin, args![file_uid, offset_bytes]).await?;
    let chunks: Result<Vec<_>, Error> = rows.iter().map(|row| Ok((row.text(0)?, row.bytes(1)?))).collect();
    look_again(connection, chunks?).await
}

/// Shows chunks that lost a pin to the collector again. Whoever takes pins away calls this in the same transaction; the time
/// changes, so that a collector that just saw the pin does not put the chunk aside.
pub(super) async fn look_again(
    connection: &mut Connection<'_>,
    mut chunks: Vec<(String, Vec<u8>)>,
) -> Result<(), Error> {
    // In the order in which uploads lock them.
    chunks.sort_unstable();
    chunks.dedup();
    let sql = "UPDATE chunks SET touch_time_us = touch_time_us % $3 + 1 WHERE team = $1 AND digest = $2";
    for (team, digest) in chunks {
        connection.execute(sql, args![team, digest, ASIDE_US]).await?;
    }
    Ok(())
}

async fn settle(
    connection: &mut Connection<'_>,
    team: &str,
    chunk: &StoredChunk,
    now_us: i64,
) -> Result<(), Error> {
    let insert = "INSERT INTO chunks (team, digest, size_bytes, object_key, touch_time_us) VALUES ($1, $2, $3, $4, $5) \
        ON CONFLICT (team, digest) DO NOTHING";
    let values = args![team, chunk.digest, chunk.size_bytes, &chunk.object_key, now_us];
    let intent = if connection.execute(insert, values).await? == 1 {
        "DELETE FROM doomed_objects WHERE object_key = $1 AND due_time_us > 0"
    } else if !touch(connection, team, chunk, now_us).await? {
        return Err(lost_race());
    } else if is_settled(connection, team, chunk).await? {
        return Ok(());
    } else {
        // A faster upload of the same bytes won. Our object keeps its intent, so the collector removes it.
        "UPDATE doomed_objects SET due_time_us = due_time_us WHERE object_key = $1 AND due_time_us > 0"
    };
    match connection.execute(intent, args![&chunk.object_key]).await? {
        1 => Ok(()),
        // The collector took the intent: the object is gone, or came after the collector and would stay for ever. Nothing
        // may refer to it, and the caller deletes it.
        _ => Err(lost_race()),
    }
}

/// Whether this upload's own object is the chunk: then it only asks again.
async fn is_settled(connection: &mut Connection<'_>, team: &str, chunk: &StoredChunk) -> Result<bool, Error> {
    let sql = "SELECT 1 FROM chunks WHERE team = $1 AND digest = $2 AND object_key = $3";
    Ok(connection.row(sql, args![team, chunk.digest, &chunk.object_key]).await?.is_some())
}

fn lost_race() -> Error {
    Refusal::aborted("RACE", "the upload took so long that its bytes were collected: send them again").into()
}

async fn pin(connection: &mut Connection<'_>, team: &str, chunk: &WantedChunk) -> Result<(), Error> {
    // A stream writes each place once: what stands there is this pin from before a lost answer.
    let sql = "INSERT INTO file_chunks (file_uid, offset_bytes, size_bytes, team, digest) VALUES ($1, $2, $3, $4, $5) \
        ON CONFLICT (file_uid, offset_bytes) DO UPDATE SET size_bytes = excluded.size_bytes, digest = excluded.digest";
    let values = args![&chunk.file_uid, chunk.offset_bytes, chunk.size_bytes, team, chunk.digest];
    connection.execute(sql, values).await.map(drop)
}
