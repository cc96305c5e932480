//! Memory for whole chunks: begins where a disk takes it as it is, and is used again. Memory that is fresh costs more than
//! the copy into it: the system clears each page when it is first touched.

use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use bytes::Bytes;

use crate::domain::digest::CHUNK_BYTES;

/// What `O_DIRECT` asks of addresses and lengths: a page, which is a multiple of every disk's sector.
pub(super) const ALIGN: usize = 4096;
/// What a block holds: a chunk.
pub(super) const BLOCK_BYTES: usize = CHUNK_BYTES as usize;
/// What is smaller takes memory of its own size, not a block, and goes through the page cache: there a copy is cheap.
pub(super) const BLOCK_FROM: usize = BLOCK_BYTES / 2 + 1;
/// Blocks that are kept for the next chunk: 64 MiB, as many as keep a disk busy. What needs more at once takes fresh ones, as
/// far as uploads and downloads have room, and gives them back.
const KEPT: usize = 8;

/// The memory that an object of so many bytes takes while it is written or read: its size, or a whole block.
pub fn memory_bytes(size_bytes: u64) -> u64 {
    match (BLOCK_FROM as u64..=CHUNK_BYTES).contains(&size_bytes) {
        true => CHUNK_BYTES,
        false => size_bytes,
    }
}

/// Blocks that are used again.
#[derive(Clone, Default)]
pub(super) struct Blocks(Arc<Mutex<Vec<Vec<u8>>>>);

impl fmt::Debug for Blocks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Blocks").field("free", &self.free().len()).finish()
    }
}

impl Blocks {
    fn free(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An empty block.
    pub(super) fn take(&self) -> Block {
        let recycled = self.free().pop();
        let memory = recycled.unwrap_or_else(|| vec![0; BLOCK_BYTES + ALIGN]);
        let start = memory.as_ptr().align_offset(ALIGN).min(ALIGN);
        Block { memory, start, filled: 0, home: self.clone() }
    }
}

/// Room for a chunk, and what of it is filled.
pub struct Block {
    /// More than a chunk, so that an aligned one lies in it; never grows, for then it would move.
    memory: Vec<u8>,
    start: usize,
    filled: usize,
    home: Blocks,
}

impl fmt::Debug for Block {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Block").field("filled", &self.filled).finish_non_exhaustive()
    }
}

impl Block {
    /// What is filled.
    pub fn filled(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.filled]
    }

    /// Copies bytes behind what is filled. Panics if a chunk would be longer than chunks are.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.rest()[..bytes.len()].copy_from_slice(bytes);
        self.filled += bytes.len();
    }

    /// What is not filled yet, to be read into.
    pub(super) fn rest(&mut self) -> &mut [u8] {
        &mut self.memory[self.start + self.filled..self.start + BLOCK_BYTES]
    }

    /// So many bytes were read into [`Block::rest`].
    pub(super) fn fill(&mut self, bytes: usize) {
        self.filled = (self.filled + bytes).min(BLOCK_BYTES);
    }

    /// Takes back what was filled.
    pub(super) fn clear(&mut self) {
        self.filled = 0;
    }

    /// The bytes, which go back into the store's blocks when the last one who has them is done.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(Frozen(self))
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut free = self.home.free();
        if free.len() < KEPT {
            free.push(std::mem::take(&mut self.memory));
        }
    }
}

struct Frozen(Block);

impl AsRef<[u8]> for Frozen {
    fn as_ref(&self) -> &[u8] {
        self.0.filled()
    }
}

/// Whether a disk takes these bytes as they are, but for what is behind the last whole page.
pub(super) fn is_aligned(bytes: &[u8]) -> bool {
    bytes.as_ptr().align_offset(ALIGN) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_aligned_and_comes_back_empty_when_its_last_bytes_are_gone() {
        let blocks = Blocks::default();
        let mut block = blocks.take();
        block.extend_from_slice(b"abc");
        block.extend_from_slice(&[1; 5000]);
        let bytes = block.freeze();
        assert!(is_aligned(&bytes));
        assert_eq!((&bytes[..4], bytes.len()), (&b"abc\x01"[..], 5003));
        let address = bytes.as_ptr();
        let slice = bytes.slice(4000..);
        drop(bytes);
        assert_eq!(blocks.free().len(), 0, "a part of it is still used");
        drop(slice);
        assert_eq!(blocks.free().len(), 1);
        let again = blocks.take();
        assert_eq!((again.filled().as_ptr(), again.filled().len()), (address, 0));
    }

    #[test]
    fn no_more_than_a_few_blocks_are_kept() {
        let blocks = Blocks::default();
        let taken: Vec<Block> = (0..KEPT + 3).map(|_| blocks.take()).collect();
        drop(taken);
        assert_eq!(blocks.free().len(), KEPT);
    }

    #[test]
    #[should_panic(expected = "range end index")]
    fn a_block_never_grows() {
        let mut block = Blocks::default().take();
        block.extend_from_slice(&vec![0; BLOCK_BYTES]);
        block.extend_from_slice(&[0]);
    }
}
