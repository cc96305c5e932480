//! Where the files of a version go in a local directory. No path may lead out of it, neither by its text nor through a link; and
//! unfinished files stand at names that no file of the version has.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use keepbest_rules::digest::of_pieces;
use keepbest_rules::paths::leads_out;

use crate::digest::hex;
use crate::error::{Error, Result};

/// The folder of unfinished files. It is inside the directory that is pulled to, so that a finished file only needs to be renamed.
const UNFINISHED: &str = ".keepbest-pull";

/// The local files that belong to one file of a version.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) target: PathBuf,
    /// The bytes that have arrived so far, until the file is complete.
    pub(super) data: PathBuf,
    /// Which of those bytes are verified.
    pub(super) record: PathBuf,
}

/// Turns a path of a version into a local one, which stays inside any directory that it is joined to.
pub(super) fn relative(path: &str) -> Result<PathBuf> {
    let refuse =
        |problem: &str| Error::Invalid(format!("file `{}` {problem}: it is not pulled", path.escape_debug()));
    if let Some(problem) = leads_out(path) {
        return Err(refuse(problem));
    }
    // On Windows `C:x` leads to another drive.
    if cfg!(windows) && path.contains(':') {
        return Err(refuse("has a colon"));
    }
    Ok(path.split('/').collect())
}

/// The folder for the unfinished files of a version with these paths: `.keepbest-pull`, or the first of `.keepbest-pull-2` and so
/// on that is not the first name of any path. The same paths give the same folder, so that a download can go on.
pub(super) fn unfinished<'a>(directory: &Path, paths: impl Iterator<Item = &'a str>) -> PathBuf {
    // On some file systems `A` and `a` are the same name.
    let taken: HashSet<String> =
        paths.filter_map(|path| path.split('/').next()).map(str::to_lowercase).collect();
    let further = (2..).map(|number: u64| format!("{UNFINISHED}-{number}"));
    let name = std::iter::once(UNFINISHED.to_owned()).chain(further).find(|name| !taken.contains(name));
    directory.join(name.expect("there are more names than files"))
}

/// Makes the folders for a file and returns its place. Refuses links on the way to it.
pub(super) fn make_room(directory: &Path, unfinished: &Path, relative: &Path) -> Result<Place> {
    let mut folder = directory.to_owned();
    for segment in relative.parent().into_iter().flatten() {
        folder.push(segment);
        make_folder(&folder)?;
    }
    make_folder(unfinished)?;
    // Short whatever the path is: a name of 255 bytes, which is the most, could not be made longer.
    let name = hex(&of_pieces([relative.as_os_str().as_encoded_bytes()])[..16]);
    let place = Place {
        target: directory.join(relative),
        data: unfinished.join(format!("{name}.part")),
        record: unfinished.join(format!("{name}.record")),
    };
    for path in [&place.target, &place.data, &place.record] {
        match fs::symlink_metadata(path) {
            Ok(metadata) if !metadata.is_file() => return Err(in_the_way(path, "a file")),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("read", path, error));
            }
            _ => {}
        }
    }
    Ok(place)
}

fn make_folder(folder: &Path) -> Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(Error::io("made", folder, error));
        }
        _ => {}
    }
    let metadata = fs::symlink_metadata(folder).map_err(|error| Error::io("read", folder, error))?;
    if metadata.is_dir() { Ok(()) } else { Err(in_the_way(folder, "a folder")) }
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

    use super::{make_room, relative, unfinished};

    #[test]
    fn a_path_that_could_lead_out_is_refused() {
        for path in ["model.h5", "a/b/c.bin", "..data/x", "a.b/...", "ü/模型", "x.keepbest-part/y"] {
            assert_eq!(relative(path).unwrap(), Path::new(path));
        }
        let refused =
            ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", "./a", "a\\b", "..\\x", "a\0b", "a/.."];
        for path in refused {
            assert!(relative(path).is_err(), "{path}");
        }
    }

    #[test]
    fn no_file_of_a_version_stands_where_unfinished_ones_do() {
        let folder = |paths: &[&str]| unfinished(Path::new("d"), paths.iter().copied());
        assert_eq!(folder(&["a", "x/.keepbest-pull"]), Path::new("d/.keepbest-pull"));
        assert_eq!(folder(&[".keepbest-pull/a"]), Path::new("d/.keepbest-pull-2"));
        assert_eq!(folder(&[".Keepbest-PULL", ".keepbest-pull-2/x/y"]), Path::new("d/.keepbest-pull-3"));
    }

    #[cfg(unix)]
    #[test]
    fn links_in_the_way_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let link = |name: &str| {
            std::os::unix::fs::symlink(outside.path().join("x"), folder.path().join(name)).unwrap();
        };
        std::os::unix::fs::symlink(outside.path(), folder.path().join("link")).unwrap();
        link("file");
        let room = |path: &str| make_room(folder.path(), &folder.path().join("unfinished"), Path::new(path));
        let part = room("part").unwrap().data;
        link(&format!("unfinished/{}", part.file_name().unwrap().to_str().unwrap()));
        for path in ["link/x", "link/deep/x", "file", "part"] {
            let error = room(path).unwrap_err().to_string();
            assert!(error.contains("move it out of the way"), "{error}");
        }
        let linked = make_room(folder.path(), &folder.path().join("link"), Path::new("new"));
        assert!(linked.unwrap_err().to_string().contains("move it out of the way"));
        assert!(fs::read_dir(outside.path()).unwrap().next().is_none());
        assert!(room("new/deep/x").is_ok());
    }
}
