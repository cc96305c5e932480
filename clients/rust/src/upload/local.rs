//! Lists the files below a directory, with the paths that they will have in the checkpoint.

use std::fs;
use std::path::{Path, PathBuf};

use keepbest_rules::digest::FileDigest;

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

/// What stands below a folder.
#[derive(Debug, Default)]
pub(super) struct Listed {
    /// Sorted by path.
    pub(super) files: Vec<LocalFile>,
    empty_folders: u64,
    executable_files: u64,
}

/// What an upload of a file or a directory will send, and what of it will not come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// How many files it will send.
    pub file_count: u64,
    /// Of all of them together.
    pub size_bytes: u64,
    /// Folders that hold nothing: only files are kept.
    pub empty_folders: u64,
    /// Files that may be executed: only their bytes are kept.
    pub executable_files: u64,
    /// Changes when a path, a size or the time of a file's last change does.
    pub fingerprint: [u8; 32],
}

/// Looks at what an upload would send, without reading any file.
///
/// # Errors
/// As [`upload`](crate::upload()) of the same source before it sends anything.
pub async fn survey(source: &Path, follow_links: bool) -> Result<Survey> {
    let source = source.to_owned();
    let survey = tokio::task::spawn_blocking(move || survey_now(&source, follow_links));
    survey.await.map_err(Error::aborted)?
}

fn survey_now(source: &Path, follow_links: bool) -> Result<Survey> {
    let metadata = fs::metadata(source).map_err(|error| Error::io("read", source, error))?;
    let listed = match metadata.is_dir() {
        true => list(source, follow_links)?,
        false => Listed {
            files: vec![LocalFile {
                source: source.to_owned(),
                target: String::new(),
                stamp: Stamp::of(&metadata),
            }],
            executable_files: u64::from(is_executable(&metadata)),
            ..Listed::default()
        },
    };
    let mut fingerprint = FileDigest::default();
    for file in &listed.files {
        // Debug's form of a path, and of a time, ends where the next part begins.
        let text = format!("{:?} {} {:?}\n", file.target, file.size_bytes(), file.stamp.modified);
        fingerprint.update(text.as_bytes());
    }
    Ok(Survey {
        file_count: listed.files.len() as u64,
        size_bytes: listed.files.iter().map(LocalFile::size_bytes).sum(),
        empty_folders: listed.empty_folders,
        executable_files: listed.executable_files,
        fingerprint: fingerprint.finish(),
    })
}

/// A folder that is looked through.
struct Folder {
    path: PathBuf,
    /// What its files' paths in the checkpoint begin with.
    prefix: String,
    /// Where it really is, and all those above it: a link to one of them leads in a circle.
    trail: Vec<PathBuf>,
}

/// All files below `root`. Links are refused unless they are to be followed: there is no telling whether what they lead to belongs
/// to the model.
pub(super) fn list(root: &Path, follow_links: bool) -> Result<Listed> {
    let mut listed = Listed::default();
    let real = |path: &Path| fs::canonicalize(path).map_err(|error| Error::io("read", path, error));
    let mut folders = vec![Folder { path: root.to_owned(), prefix: String::new(), trail: vec![real(root)?] }];
    while let Some(Folder { path: folder, prefix, trail }) = folders.pop() {
        let mut is_empty = true;
        for entry in fs::read_dir(&folder).map_err(|error| Error::io("read", &folder, error))? {
            is_empty = false;
            let entry = entry.map_err(|error| Error::io("read", &folder, error))?;
            let source = entry.path();
            let name = entry.file_name();
            let target = format!("{prefix}{}", name.to_str().ok_or_else(|| not_unicode(&source))?);
            let looked = if follow_links { fs::metadata(&source) } else { fs::symlink_metadata(&source) };
            let metadata = looked.map_err(|error| Error::io("read", &source, error))?;
            if metadata.is_dir() {
                let real = real(&source)?;
                if trail.contains(&real) {
                    return Err(Error::Invalid(format!(
                        "the link `{}` leads back to a folder that it is in: take it away",
                        source.display()
                    )));
                }
                let trail = trail.iter().cloned().chain([real]).collect();
                folders.push(Folder { path: source, prefix: format!("{target}/"), trail });
            } else if metadata.is_file() {
                listed.executable_files += u64::from(is_executable(&metadata));
                listed.files.push(LocalFile { source, target, stamp: Stamp::of(&metadata) });
                check_count(root, listed.files.len())?;
            } else {
                return Err(not_uploaded(&source, &metadata));
            }
        }
        listed.empty_folders += u64::from(is_empty);
    }
    if listed.files.is_empty() {
        check_count(root, 0)?;
    }
    listed.files.sort_by(|left, right| left.target.cmp(&right.target));
    Ok(listed)
}

fn check_count(root: &Path, count: usize) -> Result<()> {
    if (1..=MAX_FILES).contains(&count) {
        return Ok(());
    }
    let has = if count == 0 { "0 files".to_owned() } else { format!("more than {MAX_FILES} files") };
    Err(Error::Invalid(format!(
        "folder `{}` has {has}, but a checkpoint has 1 to {MAX_FILES}",
        root.display()
    )))
}

fn not_uploaded(source: &Path, metadata: &fs::Metadata) -> Error {
    let source = source.display();
    Error::Invalid(match metadata.is_symlink() {
        true => format!(
            "`{source}` is a link, and links are not followed unless asked: put a copy of what it leads to in its place, or set \
             `follow_links`"
        ),
        false => format!(
            "`{source}` is neither a file nor a folder, but only those are uploaded: put a copy of what it stands for in its \
             place"
        ),
    })
}

#[cfg(unix)]
fn is_executable(metadata: &fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    metadata.permissions().mode() & 0o111 != 0
}

#[cfg(not(unix))]
fn is_executable(_: &fs::Metadata) -> bool {
    false
}

pub(super) fn not_unicode(path: &Path) -> Error {
    Error::Invalid(format!("the name of `{}` is not Unicode, but paths in a checkpoint are", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{list, survey_now};

    #[test]
    fn files_are_listed_by_their_paths_below_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("variables/deep")).unwrap();
        fs::write(folder.path().join("variables/deep/a"), "12").unwrap();
        fs::write(folder.path().join("model.pb"), "1").unwrap();
        let files = list(folder.path(), false).unwrap().files;
        let listed: Vec<_> = files.iter().map(|file| (file.target.as_str(), file.size_bytes())).collect();
        assert_eq!(listed, [("model.pb", 1), ("variables/deep/a", 2)]);
    }

    #[test]
    fn an_empty_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(list(folder.path(), false).unwrap_err().to_string().contains("has 0 files"));
    }

    #[cfg(unix)]
    #[test]
    fn links_are_refused_unless_they_are_to_be_followed() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        fs::create_dir_all(elsewhere.path().join("deep")).unwrap();
        fs::write(elsewhere.path().join("deep/shard"), "12").unwrap();
        fs::write(folder.path().join("model"), "1").unwrap();
        symlink(elsewhere.path().join("deep"), folder.path().join("shards")).unwrap();
        symlink(elsewhere.path().join("deep/shard"), folder.path().join("one")).unwrap();
        let refused = list(folder.path(), false).unwrap_err().to_string();
        assert!(refused.contains("is a link"), "{refused}");
        let files = list(folder.path(), true).unwrap().files;
        let listed: Vec<_> = files.iter().map(|file| (file.target.as_str(), file.size_bytes())).collect();
        assert_eq!(listed, [("model", 1), ("one", 2), ("shards/shard", 2)]);
        symlink(folder.path(), elsewhere.path().join("deep/back")).unwrap();
        let circle = list(folder.path(), true).unwrap_err().to_string();
        assert!(circle.contains("leads back"), "{circle}");
    }

    #[cfg(unix)]
    #[test]
    fn a_survey_tells_what_is_not_kept_and_notices_changes() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("assets")).unwrap();
        let tool = folder.path().join("tool");
        fs::write(&tool, "12").unwrap();
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
        let survey = survey_now(folder.path(), false).unwrap();
        assert_eq!((survey.file_count, survey.size_bytes), (1, 2));
        assert_eq!((survey.empty_folders, survey.executable_files), (1, 1));
        assert_eq!(survey_now(folder.path(), false).unwrap(), survey);
        fs::write(&tool, "123").unwrap();
        assert_ne!(survey_now(folder.path(), false).unwrap().fingerprint, survey.fingerprint);
    }
}
