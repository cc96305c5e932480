//! Paths of files within a checkpoint: relative, and harmless on any machine that pulls them.

/// Longest path; Linux takes 4 KiB, and the puller's own folder comes in front.
pub const MAX_PATH_BYTES: usize = 1024;
/// Longest segment: the limit of every common file system.
pub const MAX_SEGMENT_BYTES: usize = 255;

/// What older clients put behind a name while they download.
const PULL_SUFFIXES: [&str; 2] = [".keepbest-part", ".keepbest-part-state"];

/// What is wrong with a path that could lead out of the folder that it is pulled to, wherever that is. A client refuses such a path
/// whatever the server says of it.
pub fn leads_out(path: &str) -> Option<&'static str> {
    if path.starts_with('/') {
        return Some("is absolute");
    }
    if path.contains(['\\', '\0']) {
        return Some("has a zero or a backslash");
    }
    let is_odd = |segment: &str| segment.is_empty() || segment == "." || segment == "..";
    path.split('/').any(is_odd).then_some("has an empty, `.` or `..` segment")
}

/// What is wrong with a path that no checkpoint may have: `/` between segments, no empty, `.` or `..` segment, no control character, no
/// backslash, no drive, and not too long.
pub fn problem(path: &str) -> Option<&'static str> {
    if path.is_empty() {
        return Some("is empty");
    }
    if path.len() > MAX_PATH_BYTES {
        return Some("is longer than 1024 bytes");
    }
    if path.chars().any(char::is_control) {
        return Some("has a control character");
    }
    if path.as_bytes().get(1) == Some(&b':') {
        return Some("begins with a drive letter");
    }
    if PULL_SUFFIXES.iter().any(|suffix| path.ends_with(suffix)) {
        return Some("ends like a download that is not complete");
    }
    if path.split('/').any(|segment| segment.len() > MAX_SEGMENT_BYTES) {
        return Some("has a segment longer than 255 bytes");
    }
    leads_out(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_are_taken() {
        for path in ["model.keras", "variables/variables.data-00000-of-00001", "a b/ü.h5", "..x", "x.."] {
            assert_eq!(problem(path), None, "{path}");
        }
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        for path in ["", "/a", "../a", "a/../b", "a//b", "a/", "./a", "a\\b", "a\0", "a/.."] {
            assert!(leads_out(path).is_some() && problem(path).is_some(), "{path:?}");
        }
        let long = "x".repeat(MAX_SEGMENT_BYTES + 1);
        for path in ["a\nb", "C:x", "x.keepbest-part", &long, &"a/".repeat(600)] {
            assert!(problem(path).is_some(), "{path:?}");
        }
    }
}
