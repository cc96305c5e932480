//! What makes a relative path safe to write to: the one check for templates when they are registered and for what they
//! render to. It knows no file system; it only refuses names that could mean a place outside their prefix.

use crate::domain::path::{MAX_PATH_BYTES, MAX_SEGMENT_BYTES};

/// Why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathFault {
    /// The path is empty.
    #[error("is empty; name at least a file")]
    Empty,
    /// The path is too long.
    #[error("has {bytes} bytes, more than the limit of {MAX_PATH_BYTES}; use a shorter one")]
    TooLong {
        /// How long it is, as far as it was counted.
        bytes: usize,
    },
    /// A name between two slashes is too long.
    #[error(
        "has a name of {bytes} bytes between two slashes, more than the limit of {MAX_SEGMENT_BYTES}; use shorter names"
    )]
    SegmentTooLong {
        /// How long the name is.
        bytes: usize,
    },
    /// It begins with `/` or with a drive such as `C:`.
    #[error("is absolute; use a path relative to the run, such as `weights/last.ckpt`")]
    Absolute,
    /// It begins with `~`.
    #[error(
        "begins with `~`, which a shell would replace by a home directory; use a path relative to the run"
    )]
    Home,
    /// It has a `..` segment.
    #[error("has a `..` segment, which leads out of the run; use names only")]
    ParentSegment,
    /// It has a `.` segment.
    #[error("has a `.` segment; leave it out")]
    CurrentSegment,
    /// Two slashes follow each other, or one is the last character.
    #[error("has an empty name before or after a `/`; use one `/` between two names")]
    EmptySegment,
    /// It has a backslash.
    #[error("has a backslash; separate names with `/`")]
    Backslash,
    /// It has a control character.
    #[error("has the control character U+{code_point:04X}; use printable characters only")]
    Control { code_point: u32 },
}

/// Checks a whole path.
pub(super) fn check(path: &str) -> Result<(), PathFault> {
    check_characters(path)?;
    check_lengths(path)?;
    check_segments(path)
}

/// Refuses characters that have no place in a path.
pub(super) fn check_characters(path: &str) -> Result<(), PathFault> {
    for c in path.chars() {
        if c == '\\' {
            return Err(PathFault::Backslash);
        }
        if c.is_control() {
            return Err(PathFault::Control { code_point: u32::from(c) });
        }
    }
    Ok(())
}

/// Refuses a path that is too long as a whole or in one of its names.
pub(super) fn check_lengths(path: &str) -> Result<(), PathFault> {
    if path.len() > MAX_PATH_BYTES {
        return Err(PathFault::TooLong { bytes: path.len() });
    }
    match path.split('/').map(str::len).max() {
        Some(bytes) if bytes > MAX_SEGMENT_BYTES => Err(PathFault::SegmentTooLong { bytes }),
        _ => Ok(()),
    }
}

/// Refuses a path that is absolute or whose names lead elsewhere.
pub(super) fn check_segments(path: &str) -> Result<(), PathFault> {
    if path.is_empty() {
        return Err(PathFault::Empty);
    }
    if path.starts_with('/') || has_drive(path) {
        return Err(PathFault::Absolute);
    }
    if path.starts_with('~') {
        return Err(PathFault::Home);
    }
    for segment in path.split('/') {
        match segment {
            "" => return Err(PathFault::EmptySegment),
            "." => return Err(PathFault::CurrentSegment),
            ".." => return Err(PathFault::ParentSegment),
            _ => {}
        }
    }
    Ok(())
}

fn has_drive(path: &str) -> bool {
    let mut characters = path.chars();
    matches!(
        (characters.next(), characters.next()),
        (Some(letter), Some(':')) if letter.is_ascii_alphabetic()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_could_leave_its_prefix_is_refused() {
        for (path, fault) in [
            ("", PathFault::Empty),
            ("/etc/passwd", PathFault::Absolute),
            ("//host/share", PathFault::Absolute),
            ("c:/x", PathFault::Absolute),
            ("C:x", PathFault::Absolute),
            ("~root/x", PathFault::Home),
            ("a/../b", PathFault::ParentSegment),
            ("..", PathFault::ParentSegment),
            ("./a", PathFault::CurrentSegment),
            ("a//b", PathFault::EmptySegment),
            ("a/", PathFault::EmptySegment),
            ("a\\b", PathFault::Backslash),
            ("a\0", PathFault::Control { code_point: 0 }),
            ("a\u{85}", PathFault::Control { code_point: 0x85 }),
        ] {
            assert_eq!(check(path), Err(fault), "{path:?}");
        }
    }

    #[test]
    fn dots_inside_a_name_are_fine() {
        for path in ["a..b/...", ".hidden", "a.", "x/..y", "12:30", "top~5"] {
            assert_eq!(check(path), Ok(()), "{path:?}");
        }
    }

    #[test]
    fn the_limits_are_inclusive() {
        let name = "n".repeat(MAX_SEGMENT_BYTES);
        let path = [name.as_str(); 4].join("/");
        assert_eq!(check(&path), Ok(()));
        assert_eq!(path.len(), MAX_PATH_BYTES - 1);
        assert_eq!(check(&format!("{path}/n")), Err(PathFault::TooLong { bytes: 1025 }));
        assert_eq!(check(&format!("{name}n")), Err(PathFault::SegmentTooLong { bytes: 256 }));
    }
}
