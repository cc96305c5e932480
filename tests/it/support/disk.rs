//! Files below a folder, and a small disk that a test can fill: a tmpfs, for which it is root, at least in a namespace of its own.

use std::fs;
use std::fs::File;
use std::io::ErrorKind;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

/// Whether this process may mount. If not, the test runs once more, alone and as the root of its own namespace, and this
/// answers `false` when it has passed there.
pub(crate) fn may_mount(test: &str) -> bool {
    if rustix::process::getuid().is_root() {
        return true;
    }
    let again = Command::new("unshare")
        .arg("--map-root-user")
        .arg("--mount")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .status();
    let passed = again.is_ok_and(|it| it.success());
    assert!(passed, "{test}: needs root or user namespaces (`unshare -rm true`), or has failed there");
    false
}

/// Paths of all files below a folder, from there, sorted.
pub(crate) fn files_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort_unstable();
    found
}

/// Mounted until it is dropped.
pub(crate) struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    /// Of so many MiB and files, at an empty folder.
    pub(crate) fn mount(at: &Path, mebibytes: u32, files: u32) -> SmallDisk {
        let options = format!("size={mebibytes}m,nr_inodes={files}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).status();
        assert!(mounted.unwrap().success(), "mount a tmpfs");
        SmallDisk { at: at.to_owned() }
    }

    /// Writes until not a byte more goes in.
    pub(crate) fn fill(&self) {
        let mut ballast = File::options().create(true).append(true).open(self.at.join("ballast")).unwrap();
        let mut piece = vec![1; 1 << 20];
        while !piece.is_empty() {
            // What went in of a piece that does not fit stays.
            if let Err(error) = ballast.write_all(&piece) {
                assert_eq!(error.kind(), ErrorKind::StorageFull);
                piece.truncate(piece.len() / 2);
            }
        }
    }

    /// So many bytes less of what fills it.
    pub(crate) fn give(&self, bytes: u64) {
        let ballast = File::options().write(true).open(self.at.join("ballast")).unwrap();
        ballast.set_len(ballast.metadata().unwrap().len() - bytes).unwrap();
    }

    /// Makes files until not one more can be.
    pub(crate) fn fill_with_files(&self) {
        fs::create_dir(self.at.join("crowd")).unwrap();
        for number in 0.. {
            if let Err(error) = File::create(self.at.join("crowd").join(number.to_string())) {
                assert_eq!(error.kind(), ErrorKind::StorageFull);
                return;
            }
        }
    }

    /// There is room again.
    pub(crate) fn free(&self) {
        drop(fs::remove_file(self.at.join("ballast")));
        drop(fs::remove_dir_all(self.at.join("crowd")));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(&self.at).status());
    }
}
