//! Paths of files within a checkpoint: relative, and harmless on any machine that pulls them.

use crate::domain::ids::shown;
use crate::domain::refusal::Refusal;

/// Longest path; Linux takes 4 KiB, and the puller's own folder comes in front.
pub const MAX_PATH_BYTES: usize = 1024;
/// Longest segment: the limit of every common file system.
pub const MAX_SEGMENT_BYTES: usize = 255;

/// What the client that pulls puts behind a name while it downloads.
const PULL_SUFFIXES: [&str; 2] = [".keepbest-part", ".keepbest-part-state"];

/// Checks a file's path: `/` between segments, no empty, `.` or `..` segment, no control character, no backslash, no drive.
pub fn check(path: &str) -> Result<(), Refusal> {
    let refuse = |why: &str| {
        let message = format!(
            "path `{}` {why}: a relative path such as `variables/variables.index` is right",
            shown(path)
        );
        Err(Refusal::invalid("BAD_PATH", message))
    };
    if path.is_empty() {
        return refuse("is empty");
    }
    if path.len() > MAX_PATH_BYTES {
        return refuse("is longer than 1024 bytes");
    }
    if path.starts_with('/') {
        return refuse("is absolute");
    }
    if path.chars().any(|c| c.is_control() || c == '\\') {
        return refuse("has a control character or a backslash");
    }
    if path.as_bytes().get(1) == Some(&b':') {
        return refuse("begins with a drive letter");
    }
    if PULL_SUFFIXES.iter().any(|suffix| path.ends_with(suffix)) {
        return refuse("ends like a download that is not complete");
    }
    for segment in path.split('/') {
        if segment.is_empty() || segment == "." || segment == ".." {
            return refuse("has an empty, `.` or `..` segment");
        }
        if segment.len() > MAX_SEGMENT_BYTES {
            return refuse("has a segment longer than 255 bytes");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_are_taken() {
        for path in ["model.keras", "variables/variables.data-00000-of-00001", "a b/ü.h5", "..x", "x.."] {
            check(path).unwrap();
        }
    }

    #[test]
    fn paths_that_leave_the_folder_are_refused() {
        let long = "x".repeat(MAX_SEGMENT_BYTES + 1);
        let bad = [
            "",
            "/a",
            "../a",
            "a/../b",
            "a//b",
            "a/",
            "./a",
            "a\\b",
            "a\nb",
            "C:x",
            "a\0",
            "x.keepbest-part",
            long.as_str(),
        ];
        for path in bad {
            assert_eq!(check(path).unwrap_err().reason, "BAD_PATH", "{path:?}");
        }
    }
}
