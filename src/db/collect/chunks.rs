//! G2: chunk rows that no file pins become doomed objects; pinned ones are put aside until a pin goes.

use crate::db::Db;
use crate::db::Error;
use crate::db::chunks::ASIDE_US;
use crate::db::collect::Graces;
use crate::db::collect::PAGE;
use crate::db::collect::Step;
use crate::db::collect::count;
use crate::db::collect::objects::doom_object;
use crate::db::connection::Connection;
use crate::db::connection::Row;
use crate::db::connection::args;

/// A chunk as the collector saw it, outside of a transaction.
#[derive(Clone)]
struct OldChunk {
    touch_time_us: i64,
    team: String,
    digest: Vec<u8>,
    object_key: String,
    size_bytes: i64,
    is_pinned: bool,
}

pub(super) const OLD_CHUNKS: &str = "SELECT touch_time_us, team, digest, object_key, size_bytes, CAST(CASE WHEN EXISTS \
    (SELECT 1 FROM file_chunks f WHERE f.team = c.team AND f.digest = c.digest) THEN 1 ELSE 0 END AS BIGINT) FROM chunks c \
    WHERE touch_time_us <= $1 AND (touch_time_us, team, digest) > ($2, $3, $4) \
    ORDER BY touch_time_us, team, digest LIMIT $5";

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

impl Db {
    /// G2: chunk rows that no file pins and that were not touched for the grace become doomed objects. Answers how many,
    /// and their bytes. Pinned ones are put aside until a pin goes: a pass costs what changed, not what is kept.
    pub async fn drop_unused_chunks(&self, now_us: i64, graces: Graces) -> Result<Step, Error> {
        let mut step = Step::default();
        let until_us = match graces.chunk_us {
            // No time at all, whatever the clocks of other replicas say.
            0 => ASIDE_US - 1,
            grace_us => now_us.saturating_sub(grace_us).min(ASIDE_US - 1),
        };
        let due_us = graces.object_due_us(now_us);
        let mut after = (i64::MIN, String::new(), Vec::new());
        loop {
            let mut page = self.old_chunks(until_us, after).await?;
            let Some(last) = page.last() else { return Ok(step) };
            after = (last.touch_time_us, last.team.clone(), last.digest.clone());
            let is_last = count(page.len()) < PAGE.unsigned_abs();
            // In the order in which uploads lock them.
            page.sort_unstable_by(|a, b| (&a.team, &a.digest).cmp(&(&b.team, &b.digest)));
            self.drop_chunks(page, due_us, &mut step).await?;
            if is_last {
                return Ok(step);
            }
        }
    }

    /// All in one transaction, or, where one of them is in the way, each in its own.
    async fn drop_chunks(&self, page: Vec<OldChunk>, due_us: i64, step: &mut Step) -> Result<(), Error> {
        let all = page.clone();
        let dropped = self.write(move |connection| Box::pin(drop_chunks(connection, all, due_us))).await;
        match dropped {
            Ok((chunks, bytes)) => step.add(chunks, bytes),
            Err(error) if page.len() > 1 && super::is_of_one_thing(&error) => {
                for chunk in page {
                    Box::pin(self.drop_chunks(vec![chunk], due_us, step)).await?;
                }
            }
            Err(error) => {
                let key = page.first().map(|chunk| chunk.object_key.clone()).unwrap_or_default();
                step.leave(|| format!("chunk of object `{key}`"), error)?;
            }
        }
        Ok(())
    }

    /// A page of chunks that are not put aside and were not touched for the grace, behind the last one of the page before.
    async fn old_chunks(
        &self,
        until_us: i64,
        (touch_time_us, team, digest): (i64, String, Vec<u8>),
    ) -> Result<Vec<OldChunk>, Error> {
        let values = args![until_us, touch_time_us, team, digest, PAGE];
        let rows = self.rows(OLD_CHUNKS, values).await?;
        rows.iter().map(old_chunk_of).collect()
    }
}

fn old_chunk_of(row: &Row) -> Result<OldChunk, Error> {
    Ok(OldChunk {
        touch_time_us: row.int(0)?,
        team: row.text(1)?,
        digest: row.bytes(2)?,
        object_key: row.text(3)?,
        size_bytes: row.int(4)?,
        is_pinned: row.flag(5)?,
    })
}

/// Answers how many chunks were dropped, and their bytes.
async fn drop_chunks(
    connection: &mut Connection<'_>,
    page: Vec<OldChunk>,
    due_us: i64,
) -> Result<(u64, u64), Error> {
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
}

impl Step {
    fn add(&mut self, done: u64, freed_bytes: u64) {
        self.done += done;
        self.freed_bytes += freed_bytes;
    }
}
