//! Names: what an id is, and how resource names are put together from ids.

/// Longest id: four of them and their words fit into one kilobyte, and each fits into a file name.
pub const MAX_ID_BYTES: usize = 128;

/// Stands for all projects in the name of a list's parent, so nothing else may bear it.
pub const ALL: &str = "-";

/// Whether the text may be an id of a team, project, run, artifact, version or writer: `[A-Za-z0-9._-]{1,128}`, not `.` or `..`. Of
/// these [`ALL`] is given to nothing.
pub fn is_id(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let length = (1..=MAX_ID_BYTES).contains(&text.len());
    length && text.bytes().all(allowed) && text != "." && text != ".."
}

/// The ids of a resource name such as `teams/{team}/projects/{project}`, whose words are known; none: it is of another form.
pub fn segments<'a, const N: usize>(name: &'a str, words: [&str; N]) -> Option<[&'a str; N]> {
    let mut parts = name.split('/');
    let mut ids = [""; N];
    for (word, id) in words.iter().zip(ids.iter_mut()) {
        if parts.next() != Some(word) {
            return None;
        }
        *id = parts.next()?;
    }
    parts.next().is_none().then_some(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_of_few_characters_and_lead_nowhere() {
        for id in ["a", "A-b_c.9", "...", ALL, &"x".repeat(MAX_ID_BYTES)] {
            assert!(is_id(id), "{id}");
        }
        let long = "x".repeat(MAX_ID_BYTES + 1);
        for text in ["", ".", "..", "a b", "a/b", "ü", "a\0", "%2e", &long] {
            assert!(!is_id(text), "{text:?}");
        }
    }

    #[test]
    fn a_name_has_its_words_and_no_more() {
        let words = ["teams", "projects"];
        assert_eq!(segments("teams/a/projects/b", words), Some(["a", "b"]));
        for name in [
            "",
            "teams/a",
            "teams/a/runs/b",
            "teams/a/projects",
            "teams/a/projects/b/c",
            "/teams/a/projects/b",
        ] {
            assert_eq!(segments(name, words), None, "{name}");
        }
    }
}
