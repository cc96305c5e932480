//! A file on its way: read and hashed in groups of chunks, of which those are sent that the server's team has not.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use keepbest_proto::v1;
use keepbest_rules::digest::{CHUNK_BYTES, of_pieces};
use tokio::sync::mpsc;

use super::cuts::Cuts;
use super::stamp::{Stamp, changed_file};
use crate::client::Client;
use crate::digest::FileDigest;
use crate::error::{Error, Result};
use crate::progress::FileMeter;

/// With 64 KiB the throughput is a third; 4 MiB is slower again.
const MESSAGE_BYTES: u64 = 1 << 20;
/// A group is asked for in one call, and three of them are in memory: one that is read, one that waits, one that is sent.
const GROUP_BYTES: u64 = 16 << 20;
/// After so many questions in a row without an answer none is asked any more.
const MOST_UNSAID: usize = 2;
/// The server takes so many known chunks in a message; a group has no more.
const GROUP_CHUNKS: usize = 1_000;

/// A chunk of the file, as messages.
pub(super) struct Chunk {
    data: Vec<Bytes>,
    size_bytes: u64,
    digest: [u8; 32],
}

/// Chunks that follow each other.
#[derive(Default)]
pub(super) struct Group {
    chunks: Vec<Chunk>,
    size_bytes: u64,
    /// The file ends behind it.
    is_last: bool,
}

/// Reads the file, on a thread that may block.
pub(super) struct Reader {
    pub(super) source: PathBuf,
    /// What the file must still be like when all of it was read.
    pub(super) stamp: Stamp,
    pub(super) groups: mpsc::Sender<Group>,
}

impl Reader {
    /// Hands the file over from the offset on and returns the digest of all of it; none if nobody wants it any more. The bytes
    /// before the offset are hashed too, because the server may have them from another state of the file.
    pub(super) fn read(self, offset_bytes: u64) -> Result<Option<[u8; 32]>> {
        let mut file = self.open()?;
        self.stamp.check(&self.source, &file)?;
        let size_bytes = self.stamp.size_bytes;
        let name = self.source.to_string_lossy();
        let cuts = Cuts::of(&name, &self.open()?, size_bytes);
        let mut digest = FileDigest::default();
        let mut position = 0;
        while position < offset_bytes {
            let data = self.read_piece(&mut file, MESSAGE_BYTES.min(offset_bytes - position))?;
            digest.update(&data);
            position += data.len() as u64;
        }
        loop {
            let mut group = Group::default();
            while position < size_bytes && group.size_bytes < GROUP_BYTES && group.chunks.len() < GROUP_CHUNKS
            {
                let end = cuts.end_of_chunk(position, size_bytes);
                let chunk = self.read_chunk(&mut file, end - position)?;
                let is_cell = chunk.size_bytes == CHUNK_BYTES || end == size_bytes;
                match digest.is_at_cell() && is_cell {
                    true => digest.add_cell(&chunk.digest),
                    false => chunk.data.iter().for_each(|piece| digest.update(piece)),
                }
                position = end;
                group.size_bytes += chunk.size_bytes;
                group.chunks.push(chunk);
            }
            let is_last = position == size_bytes;
            if is_last {
                self.stamp.check(&self.source, &file)?;
            }
            if self.groups.blocking_send(Group { is_last, ..group }).is_err() {
                return Ok(None);
            }
            if is_last {
                return Ok(Some(digest.finish()));
            }
        }
    }

    fn open(&self) -> Result<File> {
        File::open(&self.source).map_err(|error| Error::io("read", &self.source, error))
    }

    fn read_chunk(&self, file: &mut File, size_bytes: u64) -> Result<Chunk> {
        let (mut data, mut left) = (Vec::new(), size_bytes);
        while left > 0 {
            let piece = self.read_piece(file, MESSAGE_BYTES.min(left))?;
            left -= piece.len() as u64;
            data.push(Bytes::from(piece));
        }
        let digest = of_pieces(data.iter().map(|piece| &**piece));
        Ok(Chunk { data, size_bytes, digest })
    }

    fn read_piece(&self, file: &mut File, piece_bytes: u64) -> Result<Vec<u8>> {
        let mut data = Vec::with_capacity(usize::try_from(piece_bytes).expect("a message fits into memory"));
        file.take(piece_bytes)
            .read_to_end(&mut data)
            .map_err(|error| Error::io("read", &self.source, error))?;
        if data.len() as u64 == piece_bytes {
            return Ok(data);
        }
        Err(changed_file(&self.source, "has another size now"))
    }
}

/// Makes messages of groups.
pub(super) struct Sender {
    pub(super) client: Client,
    pub(super) checkpoint: String,
    /// The next message; the first one says which file it is.
    pub(super) next: v1::WriteFileRequest,
    pub(super) messages: mpsc::Sender<v1::WriteFileRequest>,
    pub(super) meter: Arc<FileMeter>,
    pub(super) source: PathBuf,
    /// What the file must still be like when all of it was sent.
    pub(super) stamp: Stamp,
}

impl Sender {
    /// Sends what the team has not, and names the rest, until the file ends or the server has ended the stream.
    pub(super) async fn send(mut self, mut groups: mpsc::Receiver<Group>, offset_bytes: u64) -> Result<()> {
        let (mut unsaid, mut position, mut is_finished) = (0, offset_bytes, false);
        while let Some(group) = groups.recv().await {
            let mut is_missing = vec![true; group.chunks.len()];
            if unsaid < MOST_UNSAID && !group.chunks.is_empty() {
                let digests: Vec<[u8; 32]> = group.chunks.iter().map(|it| it.digest).collect();
                match self.client.ask_missing_chunks(&self.checkpoint, &digests).await {
                    Some(missing) => {
                        is_missing.fill(false);
                        missing.into_iter().for_each(|place| is_missing[place] = true);
                        unsaid = 0;
                    }
                    // An older server, or one that hangs: all bytes are sent.
                    None => unsaid += 1,
                }
            }
            let count = group.chunks.len();
            for (number, (chunk, is_missing)) in (1..).zip(group.chunks.into_iter().zip(is_missing)) {
                if !is_missing {
                    position += chunk.size_bytes;
                    self.next.known.push(known(&chunk));
                    continue;
                }
                let Some(()) = self.pass_known().await else { return Ok(()) };
                let last = chunk.data.len() - 1;
                for (index, data) in chunk.data.into_iter().enumerate() {
                    position += data.len() as u64;
                    self.next.crc32c = Some(crc_fast::crc32_iscsi(&data));
                    (self.next.data, self.next.cut) = (data, index == last);
                    self.next.finish = group.is_last && number == count && index == last;
                    if self.next.finish {
                        // What stands there now must be what was read, or the server does not complete the file.
                        self.stamp.check_path(&self.source)?;
                        is_finished = true;
                    }
                    let Some(()) = self.pass().await else { return Ok(()) };
                    self.meter.set(position);
                }
            }
            let Some(()) = self.pass_known().await else { return Ok(()) };
            if group.is_last && !is_finished {
                self.stamp.check_path(&self.source)?;
                self.next.finish = true;
                let Some(()) = self.pass().await else { return Ok(()) };
            }
            self.meter.set(position);
        }
        Ok(())
    }

    /// Sends the next message; none: the stream has ended.
    async fn pass(&mut self) -> Option<()> {
        self.messages.send(std::mem::take(&mut self.next)).await.ok()
    }

    /// The same if it names chunks.
    async fn pass_known(&mut self) -> Option<()> {
        if self.next.known.is_empty() { Some(()) } else { self.pass().await }
    }
}

fn known(chunk: &Chunk) -> v1::KnownChunk {
    v1::KnownChunk {
        size_bytes: i32::try_from(chunk.size_bytes).expect("a chunk is small"),
        digest: Bytes::copy_from_slice(&chunk.digest),
    }
}
