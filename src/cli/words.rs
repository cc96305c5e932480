//! What the server says, in the words that were typed: options for the fields of requests, and short names.

use super::epochs;

/// What the server says, and what is said here.
const PHRASES: [(&str, &str); 11] = [
    (
        "`certificate:uri:URI`, `certificate:dns:NAME` or `certificate:email:ADDRESS`",
        "`uri:URI`, `dns:NAME` or `email:ADDRESS`",
    ),
    ("so pass the mode: MIN or MAX", "so say which values are better: `--mode min` or `--mode max`"),
    ("pass metric and mode", "pass `--metric` and `--mode`"),
    ("pass mode `min` or mode `max`", "pass `--mode min` or `--mode max`"),
    ("direction of monitor `", "the direction of the monitor `"),
    ("expected_version", "`--expect`"),
    (
        "not as expected: look where it points",
        "not as `--expect` says: look where it points with `keepbest show`",
    ),
    (
        "page_token is not one that this query gave: begin with an empty one",
        "`--page-token` is none that this list printed: begin without it",
    ),
    ("order_by has", "`--order-by` has"),
    ("but this start asks for", "but this push asks for"),
    ("or set `follow_links`", "or push with `--follow-links`"),
];

/// A sentence of the server's for whoever typed a command.
pub(super) fn typed(text: &str) -> String {
    let text = PHRASES.iter().fold(text.to_owned(), |text, (said, typed)| text.replace(said, typed));
    // Names stand in backticks.
    let pieces = text
        .split('`')
        .enumerate()
        .map(|(n, piece)| if n % 2 == 1 { short(piece) } else { piece.to_owned() });
    pieces.collect::<Vec<_>>().join("`")
}

/// The short form of a resource name, with the epochs in it counted from 1.
pub(super) fn short(name: &str) -> String {
    let short = keepbest_client::short_name(name);
    if short == name {
        return short;
    }
    match short.split_once(':') {
        Some((artifact, version)) => format!("{artifact}:{}", epochs::shown_alias(version)),
        None => short,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::{PHRASES, short, typed};

    #[test]
    fn names_are_short_and_fields_are_options() {
        let text = "version `teams/t/projects/p/artifacts/c/versions/epoch_6` was not found";
        assert_eq!(typed(text), "version `t/p/c:epoch_7` was not found");
        let text = "`f1` is not the monitor of `teams/t/projects/p`, so pass the mode: MIN or MAX";
        assert_eq!(
            typed(text),
            "`f1` is not the monitor of `t/p`, so say which values are better: `--mode min` or `--mode max`"
        );
        assert_eq!(typed("expected_version `x` is neither"), "`--expect` `x` is neither");
        assert_eq!(short("teams/t/projects/p/artifacts/c/versions/v3"), "t/p/c:v3");
        assert_eq!(short("a `b` c"), "a `b` c");
    }

    /// A phrase that the server does not say any more would be left untranslated by nobody's decision.
    #[test]
    fn every_phrase_is_said() {
        let mut said = String::new();
        for room in ["src/app", "src/domain", "src/db", "src/grpc", "clients/rust/src"] {
            let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(room)];
            while let Some(folder) = folders.pop() {
                for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                    if path.is_dir() {
                        folders.push(path);
                        continue;
                    }
                    let code = fs::read_to_string(path).unwrap();
                    // A line break in a text is none in what it says.
                    said.extend(code.split("\\\n").flat_map(|line| [line.trim_start(), ""]));
                }
            }
        }
        for (phrase, _) in PHRASES {
            assert!(said.contains(phrase), "nobody says `{phrase}` any more");
        }
    }
}
