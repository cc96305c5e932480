//! G3: doomed objects are claimed before their bytes are deleted, and forgotten afterwards.

use crate::db::Db;
use crate::db::Error;
use crate::db::collect::PAGE;
use crate::db::connection::Connection;
use crate::db::connection::args;

pub(super) const DUE: &str = "SELECT object_key FROM doomed_objects WHERE due_time_us <= $1 AND due_time_us > 0 \
    ORDER BY due_time_us LIMIT $2";
pub(super) const CLAIMED: &str =
    "SELECT object_key FROM doomed_objects WHERE due_time_us = -1 LIMIT $1 OFFSET $2";

/// Dooms an object, unless it is doomed already.
pub(super) async fn doom_object(
    connection: &mut Connection<'_>,
    object_key: String,
    due_time_us: i64,
) -> Result<(), Error> {
    let doom = "INSERT INTO doomed_objects (object_key, due_time_us) VALUES ($1, $2) ON CONFLICT (object_key) DO NOTHING";
    connection.execute(doom, args![object_key, due_time_us]).await.map(drop)
}

impl Db {
    /// Claims some doomed objects that are due. From here on no upload can bring them back, so their bytes may go.
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

    /// Some objects that were claimed and not forgotten: a collector died, or their bytes could not be deleted. Passes over the
    /// first `offset` of them.
    pub async fn claimed(&self, offset: u64) -> Result<Vec<String>, Error> {
        let offset = i64::try_from(offset).unwrap_or(i64::MAX);
        let rows = self.rows(CLAIMED, args![PAGE, offset]).await?;
        rows.iter().map(|row| row.text(0)).collect()
    }

    /// The bytes of these objects are gone.
    pub async fn forget_doomed(&self, mut keys: Vec<String>) -> Result<(), Error> {
        // In the order in which uploads and other collectors lock them.
        keys.sort_unstable();
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
