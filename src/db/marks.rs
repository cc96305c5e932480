//! The mark: which object store belongs to this database.

use crate::db::Db;
use crate::db::Error;
use crate::db::connection::Connection;
use crate::db::connection::Row;
use crate::db::connection::args;

/// What the database knows of its object store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreMark {
    /// What the store's object must say.
    pub store_id: String,
    /// Whether that object stood once.
    pub is_written: bool,
}

const MARK: &str = "SELECT store_id, is_written FROM store_marks WHERE id = 1";

impl Db {
    /// The mark, if the database ever had a store.
    pub async fn mark(&self) -> Result<Option<StoreMark>, Error> {
        self.row(MARK, args![]).await?.map(|row| mark_of(&row)).transpose()
    }

    /// The mark; it is `store_id` if there was none. Of several servers that start at once all answer the same.
    pub async fn make_mark(&self, store_id: String) -> Result<StoreMark, Error> {
        self.write(move |connection| {
            Box::pin(async move {
                let sql = "INSERT INTO store_marks (id, store_id) VALUES (1, $1) ON CONFLICT (id) DO NOTHING";
                connection.execute(sql, args![store_id]).await?;
                let row = connection.row(MARK, args![]).await?;
                mark_of(&row.ok_or_else(|| Error::unreadable("mark", "it was written and is not there"))?)
            })
        })
        .await
    }

    /// The store has the object now.
    pub async fn mark_written(&self) -> Result<(), Error> {
        self.write(|connection| {
            Box::pin(async move {
                let sql = "UPDATE store_marks SET is_written = 1 WHERE id = 1";
                connection.execute(sql, args![]).await.map(drop)
            })
        })
        .await
    }
}

/// A database that is made from a store belongs to it.
pub(super) async fn take_mark(connection: &mut Connection<'_>, store_id: &str) -> Result<(), Error> {
    let sql = "INSERT INTO store_marks (id, store_id, is_written) VALUES (1, $1, 1) \
        ON CONFLICT (id) DO UPDATE SET store_id = excluded.store_id, is_written = 1";
    connection.execute(sql, args![store_id]).await.map(drop)
}

fn mark_of(row: &Row) -> Result<StoreMark, Error> {
    Ok(StoreMark { store_id: row.text(0)?, is_written: row.flag(1)? })
}
