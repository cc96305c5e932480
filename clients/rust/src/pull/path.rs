//! Paths of a version as paths in a directory: none may lead out of it, by its text or over a link.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// What ends the name of a file while it is downloaded.
pub(super) const PART_SUFFIX: &str = ".keepbest-part";
/// What ends the name of the record of its verified chunks.
pub(super) const STATE_SUFFIX: &str = ".keepbest-part-state";

/// The path, when it stays inside wherever it is joined to.
pub(super) fn relative(path: &str) -> Result<PathBuf> {
    let refuse =
        |problem: &str| Error::Invalid(format!("file `{}` {problem}: it is not pulled", path.escape_debug()));
    if path.contains(['\\', '\0']) {
        return Err(refuse("has a backslash or a zero in its path"));
    }
    // `C:x` is a path of its own on Windows.
    if cfg!(windows) && path.contains(':') {
        return Err(refuse("has a colon in its path"));
    }
    for segment in path.split('/') {
        if segment.is_empty() || segment == "." || segment == ".." {
            return Err(refuse("has a path that is absolute or has an empty, `.` or `..` segment"));
        }
        if segment.ends_with(PART_SUFFIX) || segment.ends_with(STATE_SUFFIX) {
            return Err(refuse("has a name that is kept for unfinished downloads"));
        }
    }
    Ok(path.split('/').collect())
}

/// The path of a file in the directory, after making the folders above it. Nothing on the way may be a link.
pub(super) fn make_room(directory: &Path, relative: &Path) -> Result<PathBuf> {
    let path = directory.join(relative);
    let mut folder = directory.to_owned();
    for segment in relative.parent().into_iter().flatten() {
        folder.push(segment);
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::io("made", &folder, error));
            }
            _ => {}
        }
        let metadata = fs::symlink_metadata(&folder).map_err(|error| Error::io("read", &folder, error))?;
        if !metadata.is_dir() {
            return Err(in_the_way(&folder, "a folder"));
        }
    }
    for name in [path.clone(), beside(&path, PART_SUFFIX), beside(&path, STATE_SUFFIX)] {
        match fs::symlink_metadata(&name) {
            Ok(metadata) if !metadata.is_file() => return Err(in_the_way(&name, "a file")),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("read", &name, error));
            }
            _ => {}
        }
    }
    Ok(path)
}

/// The path with more at the end of its name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn in_the_way(path: &Path, right: &str) -> Error {
    Error::Invalid(format!(
        "`{}` is a link or something else that is not {right}: move it out of the way",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::{make_room, relative};

    #[test]
    fn a_path_that_could_lead_out_is_refused() {
        for path in ["model.h5", "a/b/c.bin", "..data/x", "a.b/...", "ü/模型"] {
            assert_eq!(relative(path).unwrap(), Path::new(path));
        }
        let refused =
            ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", "./a", "a\\b", "..\\x", "a\0b", "a/.."];
        for path in refused.into_iter().chain(["x.keepbest-part", "x.keepbest-part-state/y"]) {
            assert!(relative(path).is_err(), "{path}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_in_the_way_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.path().join("link")).unwrap();
        for name in ["file", "part.keepbest-part"] {
            std::os::unix::fs::symlink(outside.path().join("x"), folder.path().join(name)).unwrap();
        }
        for path in ["link/x", "link/deep/x", "file", "part"] {
            let error = make_room(folder.path(), Path::new(path)).unwrap_err().to_string();
            assert!(error.contains("move it out of the way"), "{error}");
        }
        assert!(fs::read_dir(outside.path()).unwrap().next().is_none());
        assert!(make_room(folder.path(), Path::new("new/deep/x")).is_ok());
    }
}
