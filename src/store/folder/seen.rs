//! Which objects were read before, not long ago.

use std::collections::HashSet;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::PoisonError;

/// Objects that are remembered: of whole chunks 32 GiB, more than most machines have to keep them in.
const MOST: usize = 4096;

/// The objects whose first reads are the newest.
#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<Order>);

#[derive(Debug, Default)]
struct Order {
    keys: HashSet<String>,
    oldest_first: VecDeque<String>,
}

impl Seen {
    /// Remembers a read; whether the object was read before, not long ago.
    pub(super) fn again(&self, key: &str) -> bool {
        let mut order = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if order.keys.contains(key) {
            return true;
        }
        order.keys.insert(key.to_owned());
        order.oldest_first.push_back(key.to_owned());
        if order.oldest_first.len() > MOST
            && let Some(oldest) = order.oldest_first.pop_front()
        {
            order.keys.remove(&oldest);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_first() {
        let seen = Seen::default();
        assert!(!seen.again("a"));
        assert!(seen.again("a"));
        for number in 1..MOST {
            assert!(!seen.again(&number.to_string()));
        }
        assert!(seen.again("a"));
        assert!(!seen.again("one more"));
        assert!(!seen.again("a"), "the one whose first read is the oldest has made room");
        assert_eq!(seen.0.lock().unwrap().keys.len(), MOST);
    }
}
