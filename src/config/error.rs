//! What can be wrong with the settings: each error names the key, where it was set and what would be right.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    #[error("the settings file `{}` cannot be read", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("line {line} of `{}` is not TOML: {problem}", path.display())]
    Malformed { path: PathBuf, line: usize, problem: String },
    #[error("key `{key}` in {origin} is unknown; the keys there are {known}")]
    UnknownKey { key: String, origin: String, known: String },
    #[error("the environment variable `{name}` is unknown{}", meant_by(meant.as_deref()))]
    UnknownVariable { name: String, meant: Option<String> },
    #[error("the environment variable `{name}` is empty: set it to {right}, or unset it")]
    EmptyVariable { name: &'static str, right: &'static str },
    #[error("the environment variable `{name}` is no UTF-8")]
    NotText { name: String },
    #[error("key `{key}` from {origin} is {found}, but it must be {right}")]
    Refused { key: String, origin: String, found: String, right: String },
    #[error("key `{key}` {problem}; {remedy}")]
    NotServed { key: String, problem: String, remedy: String },
}

fn meant_by(meant: Option<&str>) -> String {
    meant.map_or_else(
        || {
            ": `keepbest check-config` lists the settings, and each is a variable; remove it, or rename it"
                .to_owned()
        },
        |meant| format!(": did you mean `{meant}`?"),
    )
}
