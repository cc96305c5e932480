//! Whether a database and an object store belong together: both have a mark, and the marks say the same.

use anyhow::Context;
use anyhow::bail;

use crate::db::Db;
use crate::db::StoreMark;
use crate::store::MARK;
use crate::store::Store;
use crate::store::mark_text;

/// Refuses an object store that is not the database's own. Where neither has a mark they belong together from now on, if
/// `may_mark`: both are new, or of a version that knew no marks.
pub(super) async fn belong(db: &Db, store: Store, place: &str, may_mark: bool) -> anyhow::Result<Store> {
    if store.is_volatile() {
        return Ok(store);
    }
    let read = async || store.read_mark().await.with_context(|| format!("read `{MARK}` in {place}"));
    // The store first: a server that starts at the same time marks the database before the store.
    let found = read().await?;
    let mark = match db.mark().await.context("read the mark of the object store")? {
        Some(mark) => mark,
        None if found.is_some() => bail!(
            "{place} belongs to another database, as its `{MARK}` says: name that database, make it anew with `keepbest \
             rebuild` if it is lost, or give this one another store"
        ),
        None if may_mark => {
            let store_id = uuid::Uuid::now_v7().simple().to_string();
            db.make_mark(store_id).await.context("write the mark of the object store")?
        }
        None => return Ok(store),
    };
    // Again: it may have been marked meanwhile.
    match read().await? {
        Some(found) if found == mark.store_id => {}
        Some(_) => bail!(
            "{place} belongs to another database, as its `{MARK}` says: name the store of this one, in which it is {}",
            mark_text(&mark.store_id)
        ),
        None if mark.is_written => bail!(
            "{place} is not the one that this database was used with, for it has no `{MARK}`: is the address right, and the \
             folder mounted? If only that object was lost, write it again: {}",
            mark_text(&mark.store_id)
        ),
        None if !may_mark => return Ok(store),
        None => {
            store.write_mark(&mark.store_id).await.with_context(|| format!("write `{MARK}` in {place}"))?
        }
    }
    if may_mark {
        confirm(db, &mark).await?;
    }
    Ok(store.marked(mark.store_id))
}

/// From now on a store without the mark is another one.
async fn confirm(db: &Db, mark: &StoreMark) -> anyhow::Result<()> {
    if mark.is_written {
        return Ok(());
    }
    db.mark_written().await.context("write the mark of the object store")
}
