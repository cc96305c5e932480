//! How far an upload or a download has come, counted over all its files.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// How far a transfer has come. Bytes that need not be transferred, because they are there already, count as done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Files that are complete.
    pub files_done: u64,
    /// Files in all.
    pub files_total: u64,
    /// Bytes that are done. After a break it may go back.
    pub bytes_done: u64,
    /// Bytes in all.
    pub bytes_total: u64,
}

/// Called about once for each MiB and each file, from several threads. It must not block.
#[derive(Clone, Default)]
pub struct OnProgress(Option<Arc<dyn Fn(Progress) + Send + Sync>>);

impl OnProgress {
    /// Calls `callback` with each progress. The default calls nothing.
    pub fn new(callback: impl Fn(Progress) + Send + Sync + 'static) -> OnProgress {
        OnProgress(Some(Arc::new(callback)))
    }
}

impl fmt::Debug for OnProgress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("OnProgress").field(&self.0.is_some()).finish()
    }
}

/// Adds up the progress of all files of a transfer.
#[derive(Debug)]
pub(crate) struct Meter {
    callback: OnProgress,
    progress: Mutex<Progress>,
}

/// Counts the bytes of one file towards its transfer.
#[derive(Debug)]
pub(crate) struct FileMeter {
    meter: Arc<Meter>,
    counted_bytes: Mutex<u64>,
}

impl Meter {
    pub(crate) fn new(callback: &OnProgress, files_total: u64, bytes_total: u64) -> Arc<Meter> {
        let progress = Progress { files_total, bytes_total, ..Progress::default() };
        Arc::new(Meter { callback: callback.clone(), progress: Mutex::new(progress) })
    }

    /// Counts files that are done, with all their bytes.
    pub(crate) fn files_done(&self, count: u64, bytes: u64) {
        self.change(|progress| {
            progress.files_done += count;
            progress.bytes_done += bytes;
        });
    }

    pub(crate) fn file(self: &Arc<Self>) -> Arc<FileMeter> {
        Arc::new(FileMeter { meter: Arc::clone(self), counted_bytes: Mutex::new(0) })
    }

    fn change(&self, change: impl FnOnce(&mut Progress)) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut progress);
        let now = *progress;
        drop(progress);
        if let Some(callback) = &self.callback.0 {
            callback(now);
        }
    }
}

impl FileMeter {
    /// Sets how many bytes of the file are done: fewer than before if an upload broke and goes on further back.
    pub(crate) fn set(&self, bytes: u64) {
        let mut counted = self.counted_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *counted, bytes);
        drop(counted);
        self.meter
            .change(|progress| progress.bytes_done = (progress.bytes_done + bytes).saturating_sub(before));
    }

    /// Counts bytes that follow those counted before.
    pub(crate) fn add(&self, bytes: u64) {
        *self.counted_bytes.lock().unwrap_or_else(PoisonError::into_inner) += bytes;
        self.meter.change(|progress| progress.bytes_done += bytes);
    }

    /// Counts the file as done, whatever was counted of it before.
    pub(crate) fn done(&self, size_bytes: u64) {
        self.set(size_bytes);
        self.meter.files_done(1, 0);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::{Meter, OnProgress, Progress};

    #[test]
    fn bytes_that_are_sent_again_count_once() {
        let seen = Arc::new(Mutex::new(Progress::default()));
        let copy = Arc::clone(&seen);
        let meter = Meter::new(&OnProgress::new(move |now| *copy.lock().unwrap() = now), 2, 30);
        let file = meter.file();
        file.set(8);
        file.set(4);
        file.add(2);
        file.done(10);
        meter.files_done(1, 20);
        let expected = Progress { files_done: 2, files_total: 2, bytes_done: 30, bytes_total: 30 };
        assert_eq!(*seen.lock().unwrap(), expected);
    }
}
