//! Logs to stderr: text for people or one JSON object a line. Stdout belongs to what a command prints.

use std::error::Error;
use std::io;

use tracing_subscriber::EnvFilter;

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Text,
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
        Format::Text => subscriber.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).try_init(),
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
    EnvFilter::try_new(filter).map_err(|error| {
        format!(
            "log filter `{filter}` is malformed ({error}), but it must be directives as `info,keepbest=debug`"
        )
        .into()
    })
}

#[cfg(test)]
mod tests {
    use super::check_filter;

    #[test]
    fn a_malformed_filter_is_refused_with_an_example() {
        for filter in ["info", "info,keepbest=debug", "warn,h2=off"] {
            assert!(check_filter(filter).is_ok(), "{filter}");
        }
        let error = check_filter("keepbest=loud").unwrap_err().to_string();
        assert!(error.contains("`keepbest=loud`") && error.contains("`info,keepbest=debug`"), "{error}");
    }
}
