//! The chunk that fills.

use bytes::Bytes;

use crate::store::Block;

/// What came of a chunk, copied: messages are slices of the transport's buffers, which are up to twice as large and would all
/// be held. It moves into a block once there is room for one; until then it takes no more memory than its bytes.
#[derive(Debug)]
pub(super) enum Filling {
    Begun(Vec<u8>),
    Wide(Block),
}

impl Default for Filling {
    fn default() -> Filling {
        Filling::Begun(Vec::new())
    }
}

impl Filling {
    pub(super) fn len(&self) -> usize {
        match self {
            Filling::Begun(bytes) => bytes.len(),
            Filling::Wide(block) => block.filled().len(),
        }
    }

    /// Expects so many bytes in all before it is widened, if it is.
    pub(super) fn expect(&mut self, bytes: usize) {
        if let Filling::Begun(begun) = self {
            begun.reserve_exact(bytes.saturating_sub(begun.len()));
        }
    }

    /// Goes on in a block.
    pub(super) fn widen(&mut self, mut block: Block) {
        if let Filling::Begun(begun) = self {
            block.extend_from_slice(begun);
            *self = Filling::Wide(block);
        }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        match self {
            Filling::Begun(begun) => begun.extend_from_slice(bytes),
            Filling::Wide(block) => block.extend_from_slice(bytes),
        }
    }

    /// The bytes; what comes next is of another chunk.
    pub(super) fn take(&mut self) -> Bytes {
        match std::mem::take(self) {
            Filling::Begun(bytes) => Bytes::from(bytes),
            Filling::Wide(block) => block.freeze(),
        }
    }
}
