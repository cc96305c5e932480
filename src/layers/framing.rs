//! Where a body stands between and within its messages: each has five bytes before it, the last four of them its length.

/// Bytes before a message.
const HEAD_BYTES: usize = 5;

/// What bytes of a body are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part<'a> {
    /// A message of so many bytes begins.
    Begin(usize),
    /// Bytes of it.
    Bytes(&'a [u8]),
}

/// Passes over a body's bytes as they come.
#[derive(Clone, Debug, Default)]
pub(super) struct Framing {
    head: [u8; HEAD_BYTES],
    /// Bytes of the head that have come.
    have: usize,
    /// Bytes of the message, once its head has come.
    length: usize,
    /// Bytes of the message that have not come.
    left: usize,
}

impl Framing {
    /// Passes over the next bytes and answers how many messages they complete.
    pub(super) fn pass(&mut self, data: &[u8]) -> usize {
        self.pass_with(data, |_| {})
    }

    /// The same, and tells what they are.
    pub(super) fn pass_with<'a>(&mut self, mut data: &'a [u8], mut tell: impl FnMut(Part<'a>)) -> usize {
        let mut ended = 0;
        while !data.is_empty() {
            if self.have < HEAD_BYTES {
                let part = (HEAD_BYTES - self.have).min(data.len());
                self.head[self.have..self.have + part].copy_from_slice(&data[..part]);
                (self.have, data) = (self.have + part, &data[part..]);
                if self.have == HEAD_BYTES {
                    let [_, length @ ..] = self.head;
                    self.length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
                    self.left = self.length;
                    tell(Part::Begin(self.length));
                }
            } else {
                let part = self.left.min(data.len());
                tell(Part::Bytes(&data[..part]));
                (self.left, data) = (self.left - part, &data[part..]);
            }
            if self.have == HEAD_BYTES && self.left == 0 {
                (self.have, self.length, ended) = (0, 0, ended + 1);
            }
        }
        ended
    }

    /// Whether no message has begun that has not ended.
    pub(super) fn is_between(&self) -> bool {
        self.have == 0
    }

    /// Bytes that have come of the message that has not ended.
    pub(super) fn under_way(&self) -> usize {
        self.have + self.length - self.left
    }

    /// Bytes of the message that were announced and have not come.
    pub(super) fn announced(&self) -> usize {
        self.length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_end_where_their_length_says_however_the_bytes_are_cut() {
        let body: Vec<u8> =
            [&[0, 0, 0, 0, 3][..], b"abc", &[0, 0, 0, 0, 0], &[0, 0, 0, 1, 0], &[7; 256]].concat();
        for size in [1, 2, 3, 5, 7, 8, 100, body.len()] {
            let mut framing = Framing::default();
            let ended: usize = body.chunks(size).map(|part| framing.pass(part)).sum();
            assert_eq!(
                (ended, framing.is_between(), framing.under_way()),
                (3, true, 0),
                "in parts of {size}"
            );
            assert_eq!(framing.pass(&[0, 0, 0, 0, 9, 1, 1]), 0);
            assert_eq!((framing.is_between(), framing.under_way(), framing.announced()), (false, 7, 9));
        }
    }
}
