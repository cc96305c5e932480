//! Logs to stderr: text for people or one JSON object a line. Stdout belongs to what a command prints.

use std::error::Error;
use std::io;

use tracing_subscriber::EnvFilter;

use crate::near::nearest;

/// How much is logged.
const LEVELS: [&str; 6] = ["trace", "debug", "info", "warn", "error", "off"];
/// Whose lines one may ask for. A directive for another library is taken; one that is nearly one of these is a slip.
const TARGETS: [&str; 9] =
    ["keepbest", "h2", "hyper", "object_store", "reqwest", "rustls", "sqlx", "tonic", "tower"];

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For a person; in colours where `colours` is set and stderr is a terminal.
    Text {
        colours: bool,
    },
    Json,
}

/// Starts logging for the whole process.
///
/// # Errors
/// When `filter` is malformed, or logging was started before.
pub fn init(format: Format, filter: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
    let subscriber = tracing_subscriber::fmt().with_env_filter(parse(filter)?).with_writer(io::stderr);
    match format {
        // Colour codes are noise in a file.
        Format::Text { colours } => {
            subscriber.with_ansi(colours && io::IsTerminal::is_terminal(&io::stderr())).try_init()
        }
        Format::Json => subscriber.json().flatten_event(true).try_init(),
    }
}

/// Whether [`init`] takes `filter`.
///
/// # Errors
/// When it is malformed; the text says what would be right.
pub fn check_filter(filter: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
    parse(filter).map(drop)
}

fn parse(filter: &str) -> Result<EnvFilter, Box<dyn Error + Send + Sync>> {
    let wrong = |problem: String| {
        format!(
            "log filter `{filter}` is malformed ({problem}), but it must be directives as `info,keepbest=debug`"
        )
    };
    if let Some(problem) = filter.split(',').find_map(slip) {
        return Err(wrong(problem).into());
    }
    EnvFilter::try_new(filter).map_err(|error| wrong(error.to_string()).into())
}

/// What is wrong with a directive that could be read and would do something else than was meant: `inof` is taken for a library
/// whose lines are all wanted, and `keepbset=debug` for one that logs nothing.
fn slip(directive: &str) -> Option<String> {
    let directive = directive.trim();
    // What has spans and fields stands in brackets, whose commas are none between directives.
    if directive.is_empty() || directive.contains(['[', ']', '{', '}', '"']) {
        return None;
    }
    let meant = |word: &str, words: &[&'static str]| match nearest(word, words.iter().copied()) {
        Some(meant) => format!(": did you mean `{meant}`?"),
        None => String::new(),
    };
    let Some((target, _)) = directive.split_once('=') else {
        let is_level = LEVELS.contains(&directive.to_lowercase().as_str())
            || matches!(directive, "0" | "1" | "2" | "3" | "4" | "5");
        return (!is_level)
            .then(|| format!("`{directive}` is no level, as `info` is{}", meant(directive, &LEVELS)));
    };
    let library = target.split("::").next().unwrap_or(target);
    let is_slip = !TARGETS.contains(&library) && nearest(library, TARGETS).is_some();
    is_slip.then(|| format!("nothing is called `{library}`{}", meant(library, &TARGETS)))
}

#[cfg(test)]
mod tests {
    use super::check_filter;

    #[test]
    fn a_malformed_filter_is_refused_with_an_example() {
        for filter in
            ["info", "INFO", "info,keepbest=debug", "warn,h2=off", "hyper::proto=trace", "mylib=debug", "3"]
        {
            assert!(check_filter(filter).is_ok(), "{filter}");
        }
        let error = check_filter("keepbest=loud").unwrap_err().to_string();
        assert!(error.contains("`keepbest=loud`") && error.contains("`info,keepbest=debug`"), "{error}");
    }

    #[test]
    fn a_slip_that_could_be_read_is_refused_with_what_was_meant() {
        for (filter, meant) in [
            ("inof", "`info`"),
            ("debgu,h2=off", "`debug`"),
            ("keepbset=debug", "`keepbest`"),
            ("info,keepbet::any=debug", "`keepbest`"),
            ("keepbest", "`info`"),
        ] {
            let error = check_filter(filter).unwrap_err().to_string();
            assert!(error.contains(meant), "{filter}: {error}");
        }
    }
}
