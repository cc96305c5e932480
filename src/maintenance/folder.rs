//! The data folder: its rights, and the room that is kept back in it for a start on a full disk.

use std::fs;
use std::fs::DirBuilder;
use std::fs::File;
use std::io;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Context;
use rustix::fs::Mode;

/// Models and metrics are their owner's.
const RIGHTS: u32 = 0o700;
/// The rights that a folder gives to its group and to everybody.
const OTHERS: u32 = 0o077;
/// Of these, those of everybody.
const EVERYBODY: u32 = 0o007;
/// And those to write.
const WRITES: u32 = 0o022;
/// The file that is deleted to make room when a server starts on a full disk.
const RESERVE: &str = "reserve";
/// SQLite needs a page of 32 KiB for the index of each 4,096 pages in its log, before it can read: room for a log of 500 MiB.
const RESERVE_BYTES: usize = 1 << 20;

/// Makes a folder that is its owner's alone, with those above it; one that exists is left as it is.
pub(super) fn make(folder: &Path) -> anyhow::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(RIGHTS).create(folder);
    made.with_context(|| format!("make the folder `{}`", folder.display()))
}

/// From now on the files that this process makes give others no more rights than the folder does; one that is not there yet
/// will give none.
pub(super) fn keep_rights(folder: &Path) -> anyhow::Result<()> {
    let mode = match fs::metadata(folder) {
        Ok(found) => found.permissions().mode() & 0o777,
        Err(error) if error.kind() == io::ErrorKind::NotFound => RIGHTS,
        Err(error) => {
            return Err(error).with_context(|| format!("look at the folder `{}`", folder.display()));
        }
    };
    let given = mode & OTHERS;
    if given & EVERYBODY != 0 {
        tracing::warn!(
            "The data folder `{}` is open to everybody (mode {:o}), and so is what is written to it: `chmod 700` closes it",
            folder.display(),
            mode
        );
    }
    // What was forbidden before stays so, and only the owner writes.
    let before = rustix::process::umask(Mode::from_raw_mode(OTHERS));
    rustix::process::umask(before | Mode::from_raw_mode((OTHERS & !given) | WRITES));
    Ok(())
}

/// Keeps room back, if there is some.
pub(super) fn reserve(folder: &Path) {
    let path = folder.join(RESERVE);
    if fs::metadata(&path).is_ok_and(|it| it.len() >= RESERVE_BYTES as u64) {
        return;
    }
    // Not of zeros, which some file systems keep as none at all.
    let written =
        File::create(&path).and_then(|mut file| file.write_all(&[0xa5; RESERVE_BYTES]).and(file.sync_all()));
    if let Err(error) = written {
        tracing::warn!(error = %error, "Kept no room back for a start on a full disk");
        drop(fs::remove_file(&path));
    }
}

/// Gives back what was kept, and says whether there was any.
pub(super) fn release(folder: &Path) -> io::Result<bool> {
    match fs::remove_file(folder.join(RESERVE)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
