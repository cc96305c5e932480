//! Lists the files below a directory, with the paths that they will have in the checkpoint.

use std::fs;
use std::path::{Path, PathBuf};

use super::stamp::Stamp;
use crate::error::{Error, Result};

/// The most files that the server takes in one checkpoint.
const MAX_FILES: usize = 100_000;

/// A local file that is to be uploaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LocalFile {
    pub(super) source: PathBuf,
    /// Its path in the checkpoint.
    pub(super) target: String,
    /// Taken before anything was read of the file.
    pub(super) stamp: Stamp,
}

impl LocalFile {
    pub(super) fn size_bytes(&self) -> u64 {
        self.stamp.size_bytes
    }
}

/// All files below `root`, sorted by path. Links are refused: there is no telling whether what they lead to belongs to the model,
/// and they can lead in a circle.
pub(super) fn list(root: &Path) -> Result<Vec<LocalFile>> {
    let mut files = Vec::new();
    let mut folders = vec![(root.to_owned(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(|error| Error::io("read", &folder, error))? {
            let entry = entry.map_err(|error| Error::io("read", &folder, error))?;
            let source = entry.path();
            let name = entry.file_name();
            let target = format!("{prefix}{}", name.to_str().ok_or_else(|| not_unicode(&source))?);
            let metadata =
                fs::symlink_metadata(&source).map_err(|error| Error::io("read", &source, error))?;
            if metadata.is_dir() {
                folders.push((source, format!("{target}/")));
            } else if metadata.is_file() {
                files.push(LocalFile { source, target, stamp: Stamp::of(&metadata) });
            } else {
                return Err(Error::Invalid(format!(
                    "`{}` is neither a file nor a folder, but only those are uploaded: put a copy of what it stands for \
                     in its place",
                    source.display()
                )));
            }
        }
    }
    if files.is_empty() || files.len() > MAX_FILES {
        return Err(Error::Invalid(format!(
            "folder `{}` has {} files, but a checkpoint has 1 to {MAX_FILES}",
            root.display(),
            files.len()
        )));
    }
    files.sort_by(|left, right| left.target.cmp(&right.target));
    Ok(files)
}

pub(super) fn not_unicode(path: &Path) -> Error {
    Error::Invalid(format!("the name of `{}` is not Unicode, but paths in a checkpoint are", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::list;

    #[test]
    fn files_are_listed_by_their_paths_below_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("variables/deep")).unwrap();
        fs::write(folder.path().join("variables/deep/a"), "12").unwrap();
        fs::write(folder.path().join("model.pb"), "1").unwrap();
        let files = list(folder.path()).unwrap();
        let listed: Vec<_> = files.iter().map(|file| (file.target.as_str(), file.size_bytes())).collect();
        assert_eq!(listed, [("model.pb", 1), ("variables/deep/a", 2)]);
    }

    #[test]
    fn an_empty_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(list(folder.path()).unwrap_err().to_string().contains("has 0 files"));
    }

    #[cfg(unix)]
    #[test]
    fn links_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/hostname", folder.path().join("link")).unwrap();
        assert!(list(folder.path()).unwrap_err().to_string().contains("neither a file nor a folder"));
    }
}
