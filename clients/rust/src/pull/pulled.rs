//! What pulls have put into a directory, so that the files of an earlier version do not stay among a later one's.
//!
//! The record lies beside the directory, because in it is the version and nothing else. The Python client reads and writes the same.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Component, Path, PathBuf};

use keepbest_proto::v1;
use keepbest_rules::digest::parse_hex;

use super::part::is_equal;
use super::path::relative;
use crate::digest::hex;

/// Then a line for each file: size in bytes, digest, path. Of two lines with one path the later one holds.
const HEADER: &str = "keepbest-pulled 1\n";
/// Longest record that is read: a version has 100,000 files at most, with paths of 1 KiB.
const MAX_RECORD_BYTES: u64 = 256 << 20;
/// How many files of others an answer names.
const NAMED_FILES: usize = 5;

/// The files that pulls have put into one directory, and that no pull has replaced since. Where no record can be written, as beside
/// the root of a file system, nothing is known of earlier pulls.
#[derive(Debug)]
pub(super) struct PulledFiles {
    directory: PathBuf,
    record: Option<PathBuf>,
    /// By path in the directory: size in bytes, and digest in hexadecimal digits.
    files: BTreeMap<String, (u64, String)>,
    /// Whether the record on the disk is of this format, so that lines may be added to it.
    is_begun: bool,
}

/// Files in the directory of a version that are not of it, and stay there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OtherFiles {
    /// How many there are.
    pub count: u64,
    /// Some of them, by name.
    pub some: Vec<PathBuf>,
}

impl PulledFiles {
    /// Reads the record of a directory, if there is one.
    pub(super) fn read(directory: &Path) -> PulledFiles {
        let record = record_of(directory);
        let text = record.as_deref().and_then(|path| read_bounded(path).ok());
        let lines = text.as_deref().and_then(|text| text.strip_prefix(HEADER));
        let files = lines.unwrap_or_default().lines().filter_map(parsed).collect();
        PulledFiles { directory: directory.to_owned(), is_begun: lines.is_some(), record, files }
    }

    /// Notes a file that is going to be put there, before it is: a pull that is killed leaves no file unnoted.
    pub(super) fn expect(&mut self, file: &v1::File) {
        let Ok(size_bytes) = u64::try_from(file.size_bytes) else { return };
        let line = (size_bytes, hex(&file.digest));
        let text = format!("{} {} {}\n", line.0, line.1, file.path);
        self.files.insert(file.path.clone(), line);
        let Some(record) = &self.record else { return };
        if !self.is_begun {
            self.write();
        } else if let Ok(mut open) = OpenOptions::new().append(true).open(record) {
            // One write: lines of two pulls do not mix.
            let _ = open.write_all(text.as_bytes());
        }
    }

    /// Removes what earlier pulls put there, unless it is among `files` or was changed since. Answers how many files that were.
    pub(super) fn remove_others(&mut self, files: &[v1::File]) -> u64 {
        let kept: HashSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
        let stale: Vec<_> = self.files.keys().filter(|path| !kept.contains(path.as_str())).cloned().collect();
        let mut removed = 0;
        for path in stale {
            let Some((size_bytes, digest)) = self.files.remove(&path) else { continue };
            let (Ok(relative), Some(digest)) = (relative(&path), parse_hex(&digest)) else { continue };
            // A link in the way, or a file in use: it stays.
            if is_without_links(&self.directory, &relative)
                && is_equal(&self.directory.join(&relative), size_bytes, &digest).unwrap_or(false)
                && fs::remove_file(self.directory.join(&relative)).is_ok()
            {
                removed += 1;
                self.remove_empty(&relative);
            }
        }
        self.write();
        removed
    }

    /// Removes the folders of a removed file that hold nothing any more.
    fn remove_empty(&self, relative: &Path) {
        let folders = relative.ancestors().skip(1).filter(|it| !it.as_os_str().is_empty());
        for folder in folders {
            if fs::remove_dir(self.directory.join(folder)).is_err() {
                return;
            }
        }
    }

    fn write(&mut self) {
        let Some(record) = &self.record else { return };
        let mut text = HEADER.to_owned();
        for (path, (size_bytes, digest)) in &self.files {
            text.push_str(&format!("{size_bytes} {digest} {path}\n"));
        }
        let mut temporary = record.clone().into_os_string();
        temporary.push(format!("-{}", uuid::Uuid::new_v4().simple()));
        if fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, record)).is_ok() {
            self.is_begun = true;
        } else {
            let _ = fs::remove_file(&temporary);
        }
    }
}

/// The files beside those of a version of several: a loader may take them for some of its own.
pub(super) fn others(directory: &Path, paths: &[PathBuf]) -> OtherFiles {
    if paths.len() < 2 {
        return OtherFiles::default();
    }
    let targets: HashSet<PathBuf> = paths.iter().map(|path| directory.join(path)).collect();
    let folders: HashSet<&Path> = targets.iter().filter_map(|it| it.parent()).chain([directory]).collect();
    let entries = folders.into_iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_dir()))
        .map(|entry| entry.path())
        .filter(|path| !targets.contains(path))
        .collect();
    let count = found.len() as u64;
    found.sort();
    found.truncate(NAMED_FILES);
    OtherFiles { count, some: found }
}

fn parsed(line: &str) -> Option<(String, (u64, String))> {
    let mut fields = line.splitn(3, ' ');
    let (size_bytes, digest, path) = (fields.next()?.parse().ok()?, fields.next()?, fields.next()?);
    Some((path.to_owned(), (size_bytes, digest.to_owned())))
}

fn read_bounded(path: &Path) -> io::Result<String> {
    match fs::metadata(path)?.len() <= MAX_RECORD_BYTES {
        true => fs::read_to_string(path),
        false => Err(io::ErrorKind::FileTooLarge.into()),
    }
}

/// `.NAME.keepbest-pulled` beside the directory, however it is written; none beside the root. A link keeps its own name.
fn record_of(directory: &Path) -> Option<PathBuf> {
    let mut whole = PathBuf::new();
    for component in std::path::absolute(directory).ok()?.components() {
        match component {
            Component::ParentDir => drop(whole.pop()),
            other => whole.push(other),
        }
    }
    let name = format!(".{}.keepbest-pulled", whole.file_name()?.to_str()?);
    Some(whole.with_file_name(name))
}

/// Whether no folder on the way to a file is a link.
fn is_without_links(directory: &Path, relative: &Path) -> bool {
    let mut folder = directory.to_owned();
    relative.parent().into_iter().flatten().all(|segment| {
        folder.push(segment);
        fs::symlink_metadata(&folder).is_ok_and(|it| it.is_dir())
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use keepbest_proto::v1;

    use super::{PulledFiles, others, record_of};
    use crate::digest::file_digest;

    fn put(directory: &Path, path: &str, text: &str) -> v1::File {
        fs::create_dir_all(directory.join(path).parent().unwrap()).unwrap();
        fs::write(directory.join(path), text).unwrap();
        let digest = file_digest(&directory.join(path)).unwrap().to_vec().into();
        v1::File { path: path.to_owned(), size_bytes: text.len() as i64, digest, ..Default::default() }
    }

    fn pulled(directory: &Path, files: &[v1::File]) -> u64 {
        let mut record = PulledFiles::read(directory);
        files.iter().for_each(|file| record.expect(file));
        record.remove_others(files)
    }

    #[test]
    fn files_of_an_earlier_pull_go_unless_they_were_changed_or_are_somebody_elses() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("d");
        let first: Vec<_> =
            ["a/shard-0", "a/shard-1", "b/deep/x", "changed"].map(|path| put(&directory, path, path)).into();
        put(&directory, "mine", "mine");
        assert_eq!(pulled(&directory, &first), 0);
        fs::write(directory.join("changed"), "by me").unwrap();
        let second = [put(&directory, "a/shard-0", "new")];
        assert_eq!(pulled(&directory, &second), 2);
        let left = |path: &str| directory.join(path).exists();
        assert!(left("a/shard-0") && left("changed") && left("mine"));
        assert!(!left("a/shard-1") && !left("b"));
        assert_eq!(pulled(&directory, &second), 0);
        assert_eq!(pulled(&directory, &[]), 1);
        assert!(!left("a"));
    }

    #[test]
    fn nothing_is_removed_through_a_link_or_outside() {
        let folder = tempfile::tempdir().unwrap();
        let (directory, outside) = (folder.path().join("d"), folder.path().join("outside"));
        fs::create_dir(&directory).unwrap();
        let mut files = [put(&outside, "x", "x"), put(&outside, "y", "y")];
        fs::write(directory.join("y"), "y").unwrap();
        files[0].path = "link/x".to_owned();
        files[1].path = "../outside/y".to_owned();
        #[cfg(unix)]
        std::os::unix::fs::symlink(&outside, directory.join("link")).unwrap();
        let mut record = PulledFiles::read(&directory);
        files.iter().for_each(|file| record.expect(file));
        assert_eq!(record.remove_others(&[]), 0);
        assert!(outside.join("x").exists() && outside.join("y").exists());
    }

    #[test]
    fn the_record_is_found_however_the_directory_is_written() {
        let named = |text: &str| record_of(Path::new(text)).unwrap();
        assert_eq!(named("/a/b"), Path::new("/a/.b.keepbest-pulled"));
        for text in ["/a/b/", "/a/./b", "/a/c/../b", "/a/b/c/.."] {
            assert_eq!(named(text), Path::new("/a/.b.keepbest-pulled"), "{text}");
        }
        assert_eq!(record_of(Path::new("/")), None);
    }

    #[test]
    fn files_beside_those_of_a_version_of_several_are_told() {
        let folder = tempfile::tempdir().unwrap();
        for path in ["a/x", "a/y", "z", "w"] {
            put(folder.path(), path, path);
        }
        let found = others(folder.path(), &["a/x".into(), "z".into()]);
        let names: Vec<_> = found.some.iter().map(|it| it.strip_prefix(folder.path()).unwrap()).collect();
        assert_eq!((found.count, names), (2, vec![Path::new("a/y"), Path::new("w")]));
        assert_eq!(others(folder.path(), &["z".into()]).count, 0);
    }
}
