//! Finds out whether a file has changed while it was read, by its identity, its size and the time of its last change.
//!
//! File systems record that time in ticks, so a second write within the same tick leaves no trace. For a file that was written only
//! a moment ago the time is therefore not enough: before a large one is read, the tick is waited for; a small one is read twice.

use std::fs::{self, File, Metadata};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};

/// The usual file systems have the kernel's ticks, of at most 10 ms. This is two of them.
const TICK: Duration = Duration::from_millis(20);
/// Some file systems record whole seconds, or even only every second one.
const LONG_TICK: Duration = Duration::from_secs(2);

/// What is different after a file was written to or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) size_bytes: u64,
    /// When it was changed last; none if the system does not say.
    pub(super) modified: Option<SystemTime>,
    /// Device and inode; zeros on systems without them.
    pub(super) identity: (u64, u64),
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Stamp {
        Stamp { size_bytes: metadata.len(), modified: metadata.modified().ok(), identity: identity(metadata) }
    }

    /// For how long from now a write could leave this stamp unchanged.
    #[expect(clippy::disallowed_methods, reason = "how old a file is says the clock that file systems use")]
    pub(super) fn blind(&self) -> Duration {
        self.blind_for(SystemTime::now())
    }

    fn blind_for(&self, now: SystemTime) -> Duration {
        let Some(modified) = self.modified else { return Duration::ZERO };
        let whole_seconds = modified.duration_since(UNIX_EPOCH).is_ok_and(|since| since.subsec_nanos() == 0);
        let tick = if whole_seconds { LONG_TICK } else { TICK };
        // A change in the future was recorded by another machine's clock. Then one tick is the best guess.
        tick.saturating_sub(now.duration_since(modified).unwrap_or_default())
    }

    /// Fails if `file`, which was opened at `path`, or what is at `path` now differs from this stamp.
    pub(super) fn check(&self, path: &Path, file: &File) -> Result<()> {
        let read = |error| Error::io("read", path, error);
        self.check_one(path, &file.metadata().map_err(read)?)?;
        self.check_path(path)
    }

    /// Fails if what is at `path` now differs from this stamp.
    pub(super) fn check_path(&self, path: &Path) -> Result<()> {
        self.check_one(path, &fs::metadata(path).map_err(|error| Error::io("read", path, error))?)
    }

    fn check_one(&self, path: &Path, metadata: &Metadata) -> Result<()> {
        let now = Stamp::of(metadata);
        let changed = if now.identity != self.identity {
            "is another file now"
        } else if now.size_bytes != self.size_bytes {
            "has another size now"
        } else if now.modified != self.modified {
            "was written to"
        } else {
            return Ok(());
        };
        Err(changed_file(path, changed))
    }
}

/// Reads a small file, with `read`, and makes sure that all bytes are of the same moment.
pub(super) fn read_whole(
    path: &Path,
    stamp: &Stamp,
    mut read: impl FnMut(&mut File) -> std::io::Result<Vec<u8>>,
) -> Result<Vec<u8>> {
    let failed = |error| Error::io("read", path, error);
    let blind = !stamp.blind().is_zero();
    let mut file = File::open(path).map_err(failed)?;
    let data = read(&mut file).map_err(failed)?;
    if blind {
        let mut again = File::open(path).map_err(failed)?;
        if read(&mut again).map_err(failed)? != data {
            return Err(changed_file(path, "was written to"));
        }
    }
    stamp.check(path, &file)?;
    if data.len() as u64 == stamp.size_bytes {
        Ok(data)
    } else {
        Err(changed_file(path, "has another size now"))
    }
}

/// The error about a file that changed while it was uploaded.
pub(super) fn changed_file(path: &Path, changed: &str) -> Error {
    Error::Corrupt(format!(
        "`{}` {changed}, while it was uploaded: what was sent may be of two states, so it is not taken; upload it when \
         nothing writes it any more",
        path.display()
    ))
}

#[cfg(unix)]
fn identity(metadata: &Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt as _;
    (metadata.dev(), metadata.ino())
}

#[cfg(not(unix))]
fn identity(_: &Metadata) -> (u64, u64) {
    (0, 0)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Read as _;
    use std::path::Path;
    use std::time::{Duration, UNIX_EPOCH};

    use super::{LONG_TICK, Stamp, TICK, read_whole};

    fn stamp(path: &Path) -> Stamp {
        Stamp::of(&fs::metadata(path).unwrap())
    }

    fn whole(file: &mut File) -> std::io::Result<Vec<u8>> {
        let mut data = Vec::new();
        file.read_to_end(&mut data).map(|_| data)
    }

    #[test]
    fn a_write_could_be_missed_only_within_the_tick_of_the_last_one() {
        let now = UNIX_EPOCH + Duration::new(1_000, 500);
        let blind = |modified| Stamp { size_bytes: 1, modified, identity: (0, 0) }.blind_for(now);
        let ago = |time: Duration| Some(now - time);
        assert_eq!(blind(ago(Duration::ZERO)), TICK);
        assert_eq!(blind(ago(TICK / 2)), TICK / 2);
        assert_eq!(blind(ago(TICK)), Duration::ZERO);
        assert_eq!(blind(Some(now + TICK)), TICK);
        let whole = UNIX_EPOCH + Duration::from_secs(999);
        assert_eq!(blind(Some(whole)), LONG_TICK - now.duration_since(whole).unwrap());
        assert_eq!(blind(None), Duration::ZERO);
    }

    #[test]
    fn a_small_file_that_is_written_to_while_it_is_read_is_found_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        let other = folder.path().join("other");
        let old = UNIX_EPOCH + Duration::from_millis(1_500);
        type Change<'a> = &'a dyn Fn();
        let rewrite: Change = &|| fs::write(&path, "new").unwrap();
        let lengthen: Change = &|| fs::write(&path, "longer").unwrap();
        let replace: Change = &|| {
            fs::write(&other, "new").unwrap();
            fs::rename(&other, &path).unwrap();
        };
        for (fresh, change, said) in [
            (false, rewrite, "was written to"),
            (true, rewrite, "was written to"),
            (false, lengthen, "has another size now"),
            (false, replace, "is another file now"),
        ] {
            fs::write(&path, "old").unwrap();
            if !fresh {
                File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
            }
            let before = stamp(&path);
            let mut changes = Some(change);
            let error = read_whole(&path, &before, |file| {
                let data = whole(file);
                changes.take().inspect(|change| change());
                data
            });
            let error = error.unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        fs::write(&path, "old").unwrap();
        assert_eq!(read_whole(&path, &stamp(&path), whole).unwrap(), b"old");
    }
}
