//! Files of a checkpoint and the chunks they are made of.

use std::collections::HashMap;

use crate::db::Db;
use crate::db::Error;
use crate::db::checkpoints::ExpireTimes;
use crate::db::checkpoints::lock_pending;
use crate::db::chunks::unpin;
use crate::db::connection::Connection;
use crate::db::connection::Row;
use crate::db::connection::args;
use crate::db::new_uid;
use crate::domain::digest::CHUNK_BYTES;
use crate::domain::digest::Digest;
use crate::domain::ids::CheckpointName;
use crate::domain::ids::shown;
use crate::domain::refusal::Refusal;
use crate::failpoint::failpoint;

/// Most files of a checkpoint; each is a row, and the largest sharded saves known have some ten thousand.
pub(super) const MAX_FILES: i64 = 100_000;

/// A file as it is stored.
#[derive(Clone, Debug)]
pub struct FileRow {
    /// Unique for ever.
    pub uid: String,
    /// Within the checkpoint.
    pub path: String,
    /// As declared.
    pub size_bytes: i64,
    /// Bytes from the start that are durable.
    pub durable_bytes: i64,
    /// Over its chunks, once complete.
    pub digest: Option<Digest>,
    /// As declared.
    pub sha256: Option<Digest>,
}

/// A stored piece of a file.
#[derive(Clone, Debug)]
pub struct FileChunk {
    /// Where it stands in the file.
    pub offset_bytes: i64,
    /// Its length.
    pub size_bytes: i64,
    /// BLAKE3 of its bytes.
    pub digest: Digest,
    /// Where its bytes are.
    pub object_key: String,
}

/// A file to declare.
#[derive(Clone, Debug)]
pub struct NewFile {
    /// Within the checkpoint, checked.
    pub path: String,
    /// All its bytes.
    pub size_bytes: i64,
    /// Of the whole file.
    pub sha256: Option<Digest>,
}

pub(super) fn digest_of(bytes: &[u8]) -> Result<Digest, Error> {
    Digest::from_slice(bytes).ok_or_else(|| Error::unreadable("digest", format!("{} bytes", bytes.len())))
}

fn file_of(row: &Row) -> Result<FileRow, Error> {
    Ok(FileRow {
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
pub(super) async fn files_of(
    connection: &mut Connection<'_>,
    checkpoint_uid: &str,
) -> Result<Vec<FileRow>, Error> {
    sorted(&connection.rows(FILES_OF_CHECKPOINT, args![checkpoint_uid]).await?)
}

const FILES_OF_CHECKPOINT: &str =
    "SELECT uid, path, size_bytes, digest, sha256 FROM files WHERE checkpoint_uid = $1";

fn sorted(rows: &[Row]) -> Result<Vec<FileRow>, Error> {
    let mut files: Vec<FileRow> = rows.iter().map(file_of).collect::<Result<_, _>>()?;
    for file in files.iter_mut().filter(|it| it.digest.is_some()) {
        file.durable_bytes = file.size_bytes;
    }
    // Postgres sorts by its locale, SQLite by bytes: the digest of a version needs one order.
    files.sort_unstable_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
    Ok(files)
}

async fn find(
    connection: &mut Connection<'_>,
    checkpoint_uid: &str,
    path: &str,
) -> Result<Option<FileRow>, Error> {
    let sql = format!("{FILES_OF_CHECKPOINT} AND path = $2");
    let Some(row) = connection.row(&sql, args![checkpoint_uid, path]).await? else { return Ok(None) };
    let mut file = file_of(&row)?;
    file.durable_bytes = durable_bytes(connection, &file).await?;
    Ok(Some(file))
}

/// Chunks of one upload may land out of order, and a cut can leave a gap: only what follows without one counts.
async fn durable_bytes(connection: &mut Connection<'_>, file: &FileRow) -> Result<i64, Error> {
    if file.digest.is_some() {
        return Ok(file.size_bytes);
    }
    let sql = "SELECT offset_bytes, size_bytes FROM file_chunks WHERE file_uid = $1 ORDER BY offset_bytes";
    let mut end = 0;
    for row in connection.rows(sql, args![&file.uid]).await? {
        if row.int(0)? != end {
            break;
        }
        end += row.int(1)?;
    }
    Ok(end)
}

/// Declares a file, or finds it. The checkpoint's row is locked.
async fn declare(
    connection: &mut Connection<'_>,
    name: &CheckpointName,
    file_count: i64,
    new: &NewFile,
) -> Result<FileRow, Error> {
    let checkpoint_uid = name.checkpoint.as_str();
    if let Some(file) = find(connection, checkpoint_uid, &new.path).await? {
        if file.size_bytes == new.size_bytes && (file.sha256 == new.sha256 || new.sha256.is_none()) {
            return Ok(file);
        }
        let message = format!(
            "file `{}` of checkpoint `{name}` stands with {} bytes, but now {} bytes or another SHA-256 are declared: \
             a file that changed needs a new save",
            shown(&new.path),
            file.size_bytes,
            new.size_bytes
        );
        return Err(Refusal::already_exists("FILE_EXISTS", message).into());
    }
    if file_count >= MAX_FILES {
        let message =
            format!("checkpoint `{name}` has {MAX_FILES} files, which is the most: pack small ones together");
        return Err(Refusal::exhausted("LIMIT_EXCEEDED", message).into());
    }
    let file = FileRow {
        uid: new_uid(),
        path: new.path.clone(),
        size_bytes: new.size_bytes,
        durable_bytes: 0,
        digest: None,
        sha256: new.sha256,
    };
    let insert = "INSERT INTO files (uid, checkpoint_uid, path, size_bytes, state, digest, sha256, writer_token) \
        VALUES ($1, $2, $3, $4, 'OPEN', NULL, $5, '')";
    let sha256 = new.sha256.map(|it| it.as_bytes().to_vec());
    connection.execute(insert, args![&file.uid, checkpoint_uid, &file.path, file.size_bytes, sha256]).await?;
    let count = "UPDATE checkpoints SET file_count = file_count + 1 WHERE uid = $1";
    connection.execute(count, args![checkpoint_uid]).await?;
    Ok(file)
}

/// Whether a stream may go on at the offset: at the beginning, at the end of what is durable, or where an earlier chunk
/// begins. The last is for a client that was told less a moment ago, while a chunk of its cut stream still landed.
async fn can_go_on(
    connection: &mut Connection<'_>,
    file: &FileRow,
    offset_bytes: i64,
) -> Result<bool, Error> {
    if offset_bytes == 0 || offset_bytes == file.durable_bytes {
        return Ok(true);
    }
    let begins = "SELECT 1 FROM file_chunks WHERE file_uid = $1 AND offset_bytes = $2";
    let begins = connection.row(begins, args![&file.uid, offset_bytes]).await?.is_some();
    Ok(begins && offset_bytes < file.durable_bytes)
}

async fn take_over(connection: &mut Connection<'_>, file: &FileRow, token: &str) -> Result<(), Error> {
    let sql = "UPDATE files SET writer_token = $1 WHERE uid = $2 AND state = 'OPEN'";
    connection.execute(sql, args![token, &file.uid]).await.map(drop)
}

/// The stream `token` still may write the file; takes its row for the rest of the transaction.
pub(super) async fn lock_file(
    connection: &mut Connection<'_>,
    file_uid: &str,
    token: &str,
) -> Result<(), Error> {
    let sql = "UPDATE files SET writer_token = writer_token WHERE uid = $1 AND writer_token = $2 AND state = 'OPEN'";
    if connection.execute(sql, args![file_uid, token]).await? == 1 {
        return Ok(());
    }
    let message = "another stream writes this file now, or its checkpoint was given up: ask PrepareFile where it stands";
    Err(Refusal::aborted("UPLOAD_SUPERSEDED", message).into())
}

/// Who writes, and until when the checkpoint lives without the next write.
#[derive(Clone, Debug)]
pub struct Upload {
    /// The checkpoint.
    pub checkpoint: CheckpointName,
    /// The attempt that writes.
    pub attempt: i64,
    /// The stream.
    pub token: String,
    /// The checkpoint's expiry after this call.
    pub expire: ExpireTimes,
}

impl Db {
    /// Declares a file, or finds it again with what is durable of it.
    pub async fn prepare_file(&self, upload: Upload, new: NewFile) -> Result<FileRow, Error> {
        let run = upload.checkpoint.run.clone();
        self.write_of(&run, move |connection| {
            Box::pin(async move {
                let Upload { checkpoint: name, attempt, expire, .. } = &upload;
                let checkpoint = lock_pending(connection, name, *attempt, *expire).await?;
                let file = declare(connection, name, checkpoint.file_count, &new).await?;
                failpoint!("prepare.written");
                Ok(file)
            })
        })
        .await
    }

    /// Makes this stream the writer of a prepared file that goes on at `offset_bytes`; what stands behind is written again.
    pub async fn begin_write(
        &self,
        upload: Upload,
        path: String,
        offset_bytes: i64,
    ) -> Result<FileRow, Error> {
        let run = upload.checkpoint.run.clone();
        self.write_of(&run, move |connection| {
            Box::pin(async move {
                let Upload { checkpoint: name, attempt, expire, token } = &upload;
                lock_pending(connection, name, *attempt, *expire).await?;
                let Some(mut file) = find(connection, name.checkpoint.as_str(), &path).await? else {
                    return Err(Refusal::not_found("file", shown(&path)).into());
                };
                if file.digest.is_some() {
                    return Ok(file);
                }
                if !can_go_on(connection, &file, offset_bytes).await? {
                    let message = format!(
                        "file `{}` goes on at byte {} or at a chunk before, not at {offset_bytes}: ask PrepareFile",
                        shown(&path),
                        file.durable_bytes
                    );
                    return Err(Refusal::precondition("OFFSET_MISMATCH", message)
                        .with("durable_bytes", file.durable_bytes)
                        .into());
                }
                take_over(connection, &file, token).await?;
                // Also what a cut left behind a gap.
                unpin(connection, &file.uid, offset_bytes).await?;
                file.durable_bytes = offset_bytes;
                failpoint!("upload.written");
                Ok(file)
            })
        })
        .await
    }

    /// Declares many files at once and makes this stream their writer; complete ones are answered as they are.
    pub async fn begin_small_files(&self, upload: Upload, new: Vec<NewFile>) -> Result<Vec<FileRow>, Error> {
        let run = upload.checkpoint.run.clone();
        self.write_of(&run, move |connection| {
            Box::pin(async move {
                let Upload { checkpoint: name, attempt, expire, token } = &upload;
                let checkpoint = lock_pending(connection, name, *attempt, *expire).await?;
                let mut files = Vec::with_capacity(new.len());
                for (count, new) in (checkpoint.file_count..).zip(&new) {
                    let file = declare(connection, name, count, new).await?;
                    if file.digest.is_none() {
                        take_over(connection, &file, token).await?;
                        unpin(connection, &file.uid, 0).await?;
                    }
                    files.push(file);
                }
                failpoint!("upload.written");
                Ok(files)
            })
        })
        .await
    }

    /// Completes files whose bytes are all durable, and answers them with their digests.
    pub async fn finish_files(&self, upload: Upload, files: Vec<FileRow>) -> Result<Vec<FileRow>, Error> {
        let run = upload.checkpoint.run.clone();
        self.write_of(&run, move |connection| {
            Box::pin(async move {
                let Upload { checkpoint: name, attempt, expire, token } = &upload;
                lock_pending(connection, name, *attempt, *expire).await?;
                let mut finished = Vec::with_capacity(files.len());
                for file in files {
                    finished.push(finish(connection, token, file).await?);
                }
                failpoint!("finish.written");
                Ok(finished)
            })
        })
        .await
    }

    /// All files of a checkpoint in the order of their paths.
    pub async fn files(&self, checkpoint_uid: &str) -> Result<Vec<FileRow>, Error> {
        sorted(&self.rows(FILES_OF_CHECKPOINT, args![checkpoint_uid]).await?)
    }

    /// Fills in how much is durable of the files that are open.
    pub(super) async fn find_durable(
        &self,
        checkpoint_uid: &str,
        files: &mut [FileRow],
    ) -> Result<(), Error> {
        let open = files.iter_mut().filter(|it| it.digest.is_none());
        let mut open: HashMap<String, &mut FileRow> = open.map(|it| (it.uid.clone(), it)).collect();
        if open.is_empty() {
            return Ok(());
        }
        let sql = "SELECT c.file_uid, c.offset_bytes, c.size_bytes FROM file_chunks c JOIN files f ON f.uid = c.file_uid \
            WHERE f.checkpoint_uid = $1 AND f.state = 'OPEN' ORDER BY c.file_uid, c.offset_bytes";
        for row in self.rows(sql, args![checkpoint_uid]).await? {
            let (file_uid, offset_bytes) = (row.text(0)?, row.int(1)?);
            // What stands behind a gap does not count.
            if let Some(file) = open.get_mut(&file_uid).filter(|it| it.durable_bytes == offset_bytes) {
                file.durable_bytes += row.int(2)?;
            }
        }
        Ok(())
    }

    /// A file of a checkpoint.
    pub async fn file(&self, checkpoint_uid: &str, path: &str) -> Result<FileRow, Error> {
        let sql = format!("{FILES_OF_CHECKPOINT} AND path = $2");
        let rows = self.rows(&sql, args![checkpoint_uid, path]).await?;
        sorted(&rows)?.pop().ok_or_else(|| Refusal::not_found("file", shown(path)).into())
    }

    /// The chunks of a file that touch the range, in order.
    pub async fn file_chunks(&self, file_uid: &str, from: i64, until: i64) -> Result<Vec<FileChunk>, Error> {
        let sql = "SELECT f.offset_bytes, f.size_bytes, f.digest, c.object_key FROM file_chunks f \
            LEFT JOIN chunks c ON c.team = f.team AND c.digest = f.digest \
            WHERE f.file_uid = $1 AND f.offset_bytes > $4 AND f.offset_bytes + f.size_bytes > $2 AND f.offset_bytes < $3 \
            ORDER BY f.offset_bytes";
        // No chunk is longer, so the index need not be read from the start.
        let longest = i64::try_from(CHUNK_BYTES).unwrap_or(i64::MAX);
        let rows = self.rows(sql, args![file_uid, from, until, from.saturating_sub(longest)]).await?;
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

async fn finish(connection: &mut Connection<'_>, token: &str, mut file: FileRow) -> Result<FileRow, Error> {
    if file.digest.is_some() {
        return Ok(file);
    }
    lock_file(connection, &file.uid, token).await?;
    let durable = durable_bytes(connection, &file).await?;
    if durable != file.size_bytes {
        let message = format!(
            "file `{}` has {durable} bytes, but {} were declared",
            shown(&file.path),
            file.size_bytes
        );
        return Err(Refusal::invalid("SIZE_MISMATCH", message).with("durable_bytes", durable).into());
    }
    let chunks = "SELECT digest FROM file_chunks WHERE file_uid = $1 ORDER BY offset_bytes";
    let chunks = connection.rows(chunks, args![&file.uid]).await?;
    let chunks: Vec<Digest> = chunks.iter().map(|row| digest_of(&row.bytes(0)?)).collect::<Result<_, _>>()?;
    let digest = Digest::of_file(chunks);
    let sql = "UPDATE files SET state = 'COMPLETE', digest = $1 WHERE uid = $2";
    connection.execute(sql, args![digest, &file.uid]).await?;
    (file.digest, file.durable_bytes) = (Some(digest), durable);
    Ok(file)
}
