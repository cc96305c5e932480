//! The SHA-256 that a client declared of a whole file, checked before the file is complete.
//!
//! It is taken as the bytes pass, beside their storing. A stream that goes on in the middle of a file first has what is durable
//! read back: whoever sent that may have had other bytes. Where none was declared nothing is hashed.

use bytes::Bytes;
use futures::StreamExt;
use tokio::task::JoinHandle;

use crate::app::App;
use crate::app::Error;
use crate::app::uploads::SmallFile;
use crate::db::FileChunk;
use crate::domain::digest::CHUNK_BYTES;
use crate::domain::digest::Digest;
use crate::domain::digest::Sha256;
use crate::domain::file::NewFile;
use crate::domain::file::StoredFile;
use crate::domain::file::superseded;
use crate::domain::ids::shown;
use crate::domain::refusal::Refusal;

/// Chunks in memory while a file is read back: one that is hashed, and the next one.
const READ_BACK: u64 = 2;
/// Chunks looked up at once, as rows.
const PAGE_BYTES: i64 = 256 * (8 << 20);

/// Bytes of buffers that a stream needs before its first message is stored: chunks are read back one after the other.
pub(super) fn read_back_bytes(file: &StoredFile) -> u64 {
    let durable = file.sha256.map_or(0, |_| file.durable_bytes);
    u64::try_from(durable).unwrap_or(0).min(READ_BACK * CHUNK_BYTES)
}

/// The bytes are others than were declared.
pub(super) const DIGEST_MISMATCH: &str = "DIGEST_MISMATCH";
/// Bytes that were durable cannot be read back.
pub(super) const UPLOAD_BROKEN: &str = "UPLOAD_BROKEN";

/// The hash of a file whose SHA-256 was declared.
pub(super) struct Declared {
    declared: Option<Digest>,
    /// Hashes the newest chunk, on a thread for such work. Joined before the next one, so at most one chunk waits here.
    running: Option<JoinHandle<Sha256>>,
}

impl Declared {
    /// For a stream that goes on behind what is durable of the file.
    pub(super) async fn begin(app: &App, team: &str, file: &StoredFile) -> Result<Declared, Error> {
        let mut it = Declared { declared: file.sha256, running: None };
        if file.sha256.is_none() {
            return Ok(it);
        }
        let mut from = 0;
        while from < file.durable_bytes {
            let until = from.saturating_add(PAGE_BYTES).min(file.durable_bytes);
            let chunks = app.db.file_chunks(&file.uid, from, until).await?;
            let mut reads =
                futures::stream::iter(chunks).map(|chunk| read_back(app, team, file, chunk)).buffered(1);
            while let Some(data) = reads.next().await {
                let data = data?;
                it.take(&data).await?;
                from = from.saturating_add(i64::try_from(data.len()).unwrap_or(i64::MAX));
            }
            if from < until {
                // Its chunks were there when this stream began.
                return Err(superseded().into());
            }
        }
        Ok(it)
    }

    /// Takes the next chunk.
    pub(super) async fn take(&mut self, data: &Bytes) -> Result<(), Error> {
        if self.declared.is_some() {
            let (mut hash, data) = (self.hash().await?, data.clone());
            self.running = Some(tokio::task::spawn_blocking(move || {
                hash.update(&data);
                hash
            }));
        }
        Ok(())
    }

    async fn hash(&mut self) -> Result<Sha256, Error> {
        match self.running.take() {
            Some(running) => running.await.map_err(|error| Error::Internal(Box::new(error))),
            None => Ok(Sha256::default()),
        }
    }

    /// Refuses a file that is not what was declared, once all its bytes were taken.
    pub(super) async fn check(&mut self, path: &str) -> Result<(), Error> {
        let Some(declared) = self.declared else { return Ok(()) };
        Ok(same(path, declared, self.hash().await?.finish())?)
    }
}

/// A chunk that is durable, verified. One that is no more what it was is no fault of the client: it begins anew, and its bytes are
/// stored anew.
pub(super) async fn read_back(
    app: &App,
    team: &str,
    file: &StoredFile,
    chunk: FileChunk,
) -> Result<Bytes, Error> {
    let read = match chunk.object_key.as_str() {
        "" => Err(Error::DataLoss("its chunk has no row".to_owned())),
        key => app.read_chunk(team, key, chunk.size_bytes, chunk.digest).await,
    };
    match read {
        Err(Error::DataLoss(why)) => {
            tracing::error!(error = %why, "Found damaged bytes of an upload that goes on");
            let message = format!(
                "what was durable of file `{}` is damaged at byte {}: write it again from byte 0",
                shown(&file.path),
                chunk.offset_bytes
            );
            Err(Refusal::aborted(UPLOAD_BROKEN, message).into())
        }
        read => read,
    }
}

/// Refuses small files that are not what was declared of them.
pub(super) async fn check_small(files: &[(NewFile, SmallFile)]) -> Result<(), Error> {
    let hashed: Vec<(String, Bytes, Digest)> = files
        .iter()
        .filter_map(|(new, file)| Some((file.path.clone(), file.data.clone(), new.sha256?)))
        .collect();
    if hashed.is_empty() {
        return Ok(());
    }
    let checked = tokio::task::spawn_blocking(move || {
        hashed.iter().try_for_each(|(path, data, declared)| {
            let mut hash = Sha256::default();
            hash.update(data);
            same(path, *declared, hash.finish())
        })
    });
    Ok(checked.await.map_err(|error| Error::Internal(Box::new(error)))??)
}

fn same(path: &str, declared: Digest, received: Digest) -> Result<(), Refusal> {
    if declared == received {
        return Ok(());
    }
    let message = format!(
        "file `{}` has the SHA-256 {received}, but {declared} was declared: none of its bytes count, write it again from byte 0",
        shown(path)
    );
    let refusal = Refusal::invalid(DIGEST_MISMATCH, message);
    Err(refusal.with("declared_sha256", declared).with("received_sha256", received))
}
