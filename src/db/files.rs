//! Files of a checkpoint and the chunks they are made of: read, and written as rows.

use std::collections::HashMap;
use std::collections::HashSet;

use crate::db::Db;
use crate::db::Error;
use crate::db::connection::Row;
use crate::db::connection::Value;
use crate::db::connection::args;
use crate::db::tx::Tx;
use crate::db::uploads::FileState;
use crate::domain::cells::CELL_BYTES;
use crate::domain::digest::Digest;
use crate::domain::file::Places;
use crate::domain::file::StoredFile;
use crate::domain::ids::CheckpointName;
use crate::domain::ids::shown;
use crate::domain::refusal::Refusal;

/// A stored piece of a file.
#[derive(Clone, Debug)]
pub struct FileChunk {
    /// Where it stands in the file.
    pub offset_bytes: i64,
    pub size_bytes: i64,
    /// BLAKE3 of its bytes.
    pub digest: Digest,
    /// Where its bytes are.
    pub object_key: String,
}

/// The chunks before a byte of a file.
#[derive(Clone, Copy, Debug, Default)]
pub struct Before {
    pub chunk_count: i64,
    /// Whether one of them ends elsewhere than a cell.
    pub is_cut: bool,
}

pub(super) fn digest_of(bytes: &[u8]) -> Result<Digest, Error> {
    Digest::from_slice(bytes).ok_or_else(|| Error::unreadable("digest", format!("{} bytes", bytes.len())))
}

fn file_of(row: &Row) -> Result<StoredFile, Error> {
    Ok(StoredFile {
        uid: row.text(0)?,
        path: row.text(1)?,
        size_bytes: row.int(2)?,
        digest: row.bytes_or_null(3)?.map(|it| digest_of(&it)).transpose()?,
        sha256: row.bytes_or_null(4)?.map(|it| digest_of(&it)).transpose()?,
        durable_bytes: 0,
    })
}

/// All files of a checkpoint in the order of their paths (by bytes). Their durable size is not looked up: only complete
/// files are asked for it here, and those are durable whole.
pub(super) async fn files_of(tx: &mut Tx<'_>, checkpoint_uid: &str) -> Result<Vec<StoredFile>, Error> {
    sorted(&tx.rows(FILES_OF_CHECKPOINT, args![checkpoint_uid]).await?)
}

const FILES_OF_CHECKPOINT: &str =
    "SELECT uid, path, size_bytes, digest, sha256 FROM files WHERE checkpoint_uid = $1";

fn sorted(rows: &[Row]) -> Result<Vec<StoredFile>, Error> {
    let mut files: Vec<StoredFile> = rows.iter().map(file_of).collect::<Result<_, _>>()?;
    for file in files.iter_mut().filter(|it| it.digest.is_some()) {
        file.durable_bytes = file.size_bytes;
    }
    // Postgres sorts by its locale, SQLite by bytes: the digest of a version needs one order.
    files.sort_unstable_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
    Ok(files)
}

/// Files by checkpoint and path, each with its checkpoint's uid.
pub(super) async fn find_files(
    tx: &mut Tx<'_>,
    keys: HashSet<(&str, &str)>,
) -> Result<Vec<(String, FileState)>, Error> {
    let sql = "WITH {v: checkpoint_uid text, path text} SELECT f.uid, f.path, f.size_bytes, f.digest, f.sha256, \
        f.writer_token, f.checkpoint_uid FROM v CROSS JOIN files f WHERE f.checkpoint_uid = v.checkpoint_uid \
        AND f.path = v.path";
    let rows = tx.rows_of(sql, keys.into_iter().map(|(uid, path)| args![uid, path]).collect()).await?;
    let state = |row: &Row| {
        let file = FileState {
            stored: file_of(row)?,
            token: row.text(5)?,
            places: None,
            is_new: false,
            is_changed: false,
        };
        Ok((row.text(6)?, file))
    };
    rows.iter().map(state).collect()
}

/// The chunks of files by their uids; a file without any has an empty entry.
pub(super) async fn places_of(
    tx: &mut Tx<'_>,
    file_uids: Vec<String>,
) -> Result<HashMap<String, Places>, Error> {
    let sql = "WITH {v: file_uid text} SELECT p.file_uid, p.offset_bytes, p.size_bytes, p.digest FROM v \
        CROSS JOIN file_chunks p WHERE p.file_uid = v.file_uid";
    let mut places: HashMap<String, Places> = file_uids.into_iter().map(|uid| (uid, Places::new())).collect();
    let set = places.keys().map(|uid| args![uid]).collect();
    for row in tx.rows_of(sql, set).await? {
        let place = (row.int(2)?, digest_of(&row.bytes(3)?)?);
        places.entry(row.text(0)?).or_default().insert(row.int(1)?, place);
    }
    Ok(places)
}

fn state_and_digest(file: &StoredFile) -> (&'static str, Option<Vec<u8>>) {
    let digest = file.digest.map(|it| it.as_bytes().to_vec());
    (if digest.is_some() { "COMPLETE" } else { "OPEN" }, digest)
}

pub(super) async fn insert_files(tx: &mut Tx<'_>, new: Vec<(String, FileState)>) -> Result<(), Error> {
    let sql = "WITH {v: uid text, checkpoint_uid text, path text, size_bytes bigint, state text, digest bytes, \
        sha256 bytes, writer_token text} INSERT INTO files (uid, checkpoint_uid, path, size_bytes, state, digest, sha256, \
        writer_token) SELECT * FROM v";
    let row = |(checkpoint_uid, file): &(String, FileState)| -> Vec<Value> {
        let (state, digest) = state_and_digest(&file.stored);
        let sha256 = file.stored.sha256.map(|it| it.as_bytes().to_vec());
        let StoredFile { uid, path, size_bytes, .. } = &file.stored;
        args![uid, checkpoint_uid, path, *size_bytes, state, digest, sha256, &file.token]
    };
    tx.execute_of(sql, new.iter().map(row).collect()).await.map(drop)
}

pub(super) async fn update_files(tx: &mut Tx<'_>, changed: Vec<FileState>) -> Result<(), Error> {
    let sql = "WITH {v: uid text, state text, digest bytes, writer_token text} UPDATE files SET state = v.state, \
        digest = v.digest, writer_token = v.writer_token FROM v WHERE files.uid = v.uid";
    let row = |file: &FileState| -> Vec<Value> {
        let (state, digest) = state_and_digest(&file.stored);
        args![&file.stored.uid, state, digest, &file.token]
    };
    tx.execute_of(sql, changed.iter().map(row).collect()).await.map(drop)
}

impl Db {
    /// All files of a checkpoint in the order of their paths.
    pub async fn files(&self, checkpoint_uid: &str) -> Result<Vec<StoredFile>, Error> {
        sorted(&self.rows(FILES_OF_CHECKPOINT, args![checkpoint_uid]).await?)
    }

    /// The SHA-256 that was declared of files of a checkpoint, by path.
    pub async fn declared_sha256(
        &self,
        checkpoint: &CheckpointName,
        paths: &[&str],
    ) -> Result<HashMap<String, Digest>, Error> {
        let sql = "WITH {v: checkpoint_uid text, path text} SELECT f.path, f.sha256 FROM v CROSS JOIN files f \
            WHERE f.checkpoint_uid = v.checkpoint_uid AND f.path = v.path AND f.sha256 IS NOT NULL";
        let uid = checkpoint.checkpoint.as_str();
        let rows = self.rows_of(sql, paths.iter().map(|path| args![uid, *path]).collect()).await?;
        rows.iter().map(|row| Ok((row.text(0)?, digest_of(&row.bytes(1)?)?))).collect()
    }

    /// Files of a checkpoint by path, behind the path `after`, with what is durable of those that are open. The order is the
    /// database's own, as an index gives it: no page costs what lies before it.
    pub async fn list_files(
        &self,
        checkpoint_uid: &str,
        after: &str,
        limit: i64,
    ) -> Result<Vec<StoredFile>, Error> {
        let sql = format!("{FILES_OF_CHECKPOINT} AND path > $2 ORDER BY path LIMIT $3");
        let rows = self.page(&sql, args![checkpoint_uid, after, limit]).await?;
        let mut files: Vec<StoredFile> = rows.iter().map(file_of).collect::<Result<_, _>>()?;
        self.find_durable(&mut files).await?;
        Ok(files)
    }

    /// Fills in how much of each file is durable.
    async fn find_durable(&self, files: &mut [StoredFile]) -> Result<(), Error> {
        let mut open: HashMap<String, &mut StoredFile> = HashMap::new();
        for file in files {
            match file.digest {
                Some(_) => file.durable_bytes = file.size_bytes,
                None => drop(open.insert(file.uid.clone(), file)),
            }
        }
        let sql = "WITH {v: file_uid text} SELECT c.file_uid, c.offset_bytes, c.size_bytes FROM v \
            CROSS JOIN file_chunks c WHERE c.file_uid = v.file_uid ORDER BY c.file_uid, c.offset_bytes";
        for row in self.rows_of(sql, open.keys().map(|uid| args![uid]).collect()).await? {
            let (file_uid, offset_bytes) = (row.text(0)?, row.int(1)?);
            // What stands behind a gap does not count.
            if let Some(file) = open.get_mut(&file_uid).filter(|it| it.durable_bytes == offset_bytes) {
                file.durable_bytes += row.int(2)?;
            }
        }
        Ok(())
    }

    /// A file of a checkpoint.
    pub async fn file(&self, checkpoint_uid: &str, path: &str) -> Result<StoredFile, Error> {
        let sql = format!("{FILES_OF_CHECKPOINT} AND path = $2");
        let rows = self.rows(&sql, args![checkpoint_uid, path]).await?;
        sorted(&rows)?.pop().ok_or_else(|| Refusal::not_found("file", shown(path)).into())
    }

    /// The chunks before a byte of a file at which one begins.
    pub async fn before(&self, file: &StoredFile, offset_bytes: i64) -> Result<Before, Error> {
        let sql = "SELECT COUNT(*), CAST(COALESCE(MAX(CASE WHEN (offset_bytes + size_bytes) % $3 = 0 \
            OR offset_bytes + size_bytes = $4 THEN 0 ELSE 1 END), 0) AS BIGINT) FROM file_chunks \
            WHERE file_uid = $1 AND offset_bytes < $2";
        let row = self.row(sql, args![&file.uid, offset_bytes, CELL_BYTES, file.size_bytes]).await?;
        row.map_or(Ok(Before::default()), |row| Ok(Before { chunk_count: row.int(0)?, is_cut: row.flag(1)? }))
    }

    /// The places of a file's chunks, all of them.
    pub async fn places(&self, file_uid: &str) -> Result<Places, Error> {
        let sql = "SELECT offset_bytes, size_bytes, digest FROM file_chunks WHERE file_uid = $1";
        let rows = self.rows(sql, args![file_uid]).await?;
        rows.iter().map(|row| Ok((row.int(0)?, (row.int(1)?, digest_of(&row.bytes(2)?)?)))).collect()
    }

    /// The chunks of a file that touch the range, in order.
    pub async fn file_chunks(&self, file_uid: &str, from: i64, until: i64) -> Result<Vec<FileChunk>, Error> {
        let sql = "SELECT f.offset_bytes, f.size_bytes, f.digest, c.object_key FROM file_chunks f \
            LEFT JOIN chunks c ON c.team = f.team AND c.digest = f.digest \
            WHERE f.file_uid = $1 AND f.offset_bytes > $4 AND f.offset_bytes + f.size_bytes > $2 AND f.offset_bytes < $3 \
            ORDER BY f.offset_bytes";
        // No chunk is longer, so the index need not be read from the start.
        let rows = self.rows(sql, args![file_uid, from, until, from.saturating_sub(CELL_BYTES)]).await?;
        rows.iter()
            .map(|row| {
                Ok(FileChunk {
                    offset_bytes: row.int(0)?,
                    size_bytes: row.int(1)?,
                    digest: digest_of(&row.bytes(2)?)?,
                    object_key: row.text_or_null(3)?.unwrap_or_default(),
                })
            })
            .collect()
    }
}
