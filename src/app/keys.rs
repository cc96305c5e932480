//! Keys for objects that are about to be stored. They are reserved many at a time, so that an upload does not wait for a
//! transaction before it may put its bytes.

use std::sync::Mutex;
use std::sync::PoisonError;

use crate::app::App;
use crate::app::Error;
use crate::failpoint::failpoint;
use crate::store::new_key;

/// Keys of one reservation at least, unless a test says so. What is not used is a row that the collector removes after a day,
/// with a deletion of nothing.
pub const AT_ONCE: usize = 64;
/// How long a reserved key may be given out.
const FRESH_US: i64 = 3_600 * 1_000_000;
/// After this the collector deletes what stands under a reserved key that no chunk has: an upload may take almost as long from
/// its put to its row.
const DUE_US: i64 = 24 * 3_600 * 1_000_000;

/// Keys that are reserved and not given out.
#[derive(Debug, Default)]
pub(super) struct Keys(Mutex<Vec<(i64, String)>>);

impl Keys {
    /// So many of them, or as many as there are.
    fn take(&self, count: usize, now_us: i64) -> Vec<String> {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.retain(|(reserved_us, _)| (0..FRESH_US).contains(&(now_us - reserved_us)));
        let rest = keys.len().saturating_sub(count);
        keys.drain(rest..).map(|(_, key)| key).collect()
    }

    fn put(&self, keys: Vec<String>, now_us: i64) {
        let keys = keys.into_iter().map(|key| (now_us, key));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(keys);
    }
}

impl App {
    /// Keys that no object ever had, and that the collector knows of.
    pub(super) async fn take_keys(&self, count: usize) -> Result<Vec<String>, Error> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let now_us = self.clock.now_us();
        let mut keys = self.keys.take(count, now_us);
        let missing = count - keys.len();
        if missing > 0 {
            let mut new: Vec<String> =
                (0..missing.max(self.limits.keys_at_once)).map(|_| new_key(now_us)).collect();
            self.db.reserve_keys(new.clone(), now_us.saturating_add(DUE_US)).await?;
            failpoint!("chunk.claimed");
            keys.extend(new.drain(..missing));
            self.keys.put(new, now_us);
        }
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_given_out_once_and_none_that_is_old() {
        let keys = Keys::default();
        keys.put(vec!["a".to_owned(), "b".to_owned(), "c".to_owned()], 100);
        assert_eq!(keys.take(2, 100), ["b", "c"]);
        assert_eq!(keys.take(2, 100 + FRESH_US - 1), ["a"]);
        keys.put(vec!["d".to_owned()], 100);
        assert_eq!(keys.take(1, 100 + FRESH_US), Vec::<String>::new());
    }
}
