//! Paths of files within a checkpoint: relative, and harmless on any machine that pulls them.

use crate::domain::ids::shown;
use crate::domain::refusal::Refusal;

pub use keepbest_rules::paths::MAX_PATH_BYTES;
pub use keepbest_rules::paths::MAX_SEGMENT_BYTES;

/// Checks a file's path by the rule that the clients know too.
pub fn check(path: &str) -> Result<(), Refusal> {
    let Some(problem) = keepbest_rules::paths::problem(path) else { return Ok(()) };
    let message = format!(
        "path `{}` {problem}: a relative path such as `variables/variables.index` is right",
        shown(path)
    );
    Err(Refusal::invalid("BAD_PATH", message))
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
