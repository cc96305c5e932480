//! All that the program prints: lines and tables for people, or JSON; and on stderr why it failed.
//!
//! What was reported, named or answered by others is printed here and nowhere else, so that nothing in it can command a terminal:
//! a character that would is shown as its escape.

use std::borrow::Cow;
use std::fmt;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::process::ExitCode;

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde_json::Value;

/// The output of one command.
pub(super) struct Output {
    writer: Box<dyn Write + Send>,
    json: bool,
}

/// A column of a table.
#[derive(Debug, Clone)]
pub(super) enum Column {
    Text(String),
    /// Aligned to the right, so that digits stand below each other.
    Number(String),
}

impl Output {
    /// What goes to stdout, as JSON or for people.
    pub(super) fn new(json: bool) -> Output {
        Output { writer: Box::new(io::stdout()), json }
    }

    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// The one document of a command.
    pub(super) fn document(&mut self, value: &Value) -> io::Result<()> {
        let text = serde_json::to_string_pretty(value).expect("a JSON value can be written");
        self.write(&json_escaped(&text))
    }

    /// A document on one line, for programs that read line by line.
    pub(super) fn document_line(&mut self, value: &Value) -> io::Result<()> {
        self.write(&json_escaped(&value.to_string()))
    }

    /// One line for people; a line break in it is escaped.
    pub(super) fn line(&mut self, line: &str) -> io::Result<()> {
        self.write(&escaped(line))
    }

    /// Text that is escaped, at once: what a person or a script waits for must not stay in a buffer.
    fn write(&mut self, text: &str) -> io::Result<()> {
        self.writer.write_all(format!("{text}\n").as_bytes())?;
        self.writer.flush()
    }

    /// Rows under headings, without borders: it can be read, cut and sorted.
    pub(super) fn table(&mut self, columns: &[Column], rows: Vec<Vec<String>>) -> io::Result<()> {
        let mut table = plain_table();
        table.set_header(columns.iter().map(|column| match column {
            Column::Text(heading) => Cell::new(escaped(heading)),
            Column::Number(heading) => Cell::new(escaped(heading)).set_alignment(CellAlignment::Right),
        }));
        for row in rows {
            table.add_row(columns.iter().zip(row).map(|(column, text)| match column {
                Column::Text(_) => Cell::new(escaped(&text)),
                Column::Number(_) => Cell::new(escaped(&text)).set_alignment(CellAlignment::Right),
            }));
        }
        self.print(table)
    }

    /// What a thing is, a property a line. Properties without a value are left out.
    pub(super) fn properties(&mut self, properties: &[(&str, String)]) -> io::Result<()> {
        let mut table = plain_table();
        let filled = properties.iter().filter(|(_, value)| !value.is_empty());
        table.add_rows(filled.map(|(name, value)| [Cow::from(*name), escaped(value)]));
        self.print(table)
    }

    fn print(&mut self, mut table: Table) -> io::Result<()> {
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        self.write(&table.trim_fmt())
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Output").field("json", &self.json).finish_non_exhaustive()
    }
}

fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table
}

/// Says on stderr why a command failed. A text of several lines cannot pose as further messages: they are indented.
pub(super) fn failure(text: &str) {
    let lines: Vec<_> = text.trim_end().lines().map(escaped).collect();
    // Nothing is left to do when stderr is closed too.
    let _ = writeln!(io::stderr(), "error: {}", lines.join("\n  "));
}

/// Prints help, the version, or what is wrong with the arguments.
pub(super) fn wrong_arguments(error: &clap::Error) -> ExitCode {
    let text = error.render().to_string();
    if text.contains(|c| c != '\n' && is_command(c)) {
        failure(text.trim_start_matches("error: "));
    } else {
        // In colours, where the terminal has them. A closed output is nobody's fault.
        let _ = error.print();
    }
    u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// Whether a terminal would obey the character instead of showing it: the control characters, and what turns the direction of
/// writing or ends a line.
fn is_command(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Text for people, on one line.
fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(is_command) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if is_command(c) { escaped.extend(c.escape_debug()) } else { escaped.push(c) }
    }
    escaped.into()
}

/// JSON whose texts hold no command: its own line breaks stay.
fn json_escaped(json: &str) -> Cow<'_, str> {
    let is_command = |c| c != '\n' && is_command(c);
    if !json.contains(is_command) {
        return json.into();
    }
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        if is_command(c) {
            // All of them are of the basic plane, so that four digits say which.
            let _ = write!(escaped, "\\u{:04x}", u32::from(c));
        } else {
            escaped.push(c);
        }
    }
    escaped.into()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::{escaped, is_command, json_escaped};

    #[test]
    fn what_commands_a_terminal_is_shown_as_its_escape() {
        let table = [
            ("ünïcode 模型 \\ 🤖", "ünïcode 模型 \\ 🤖"),
            ("\u{1b}[31m", "\\u{1b}[31m"),
            ("a\r\n\tb\0", "a\\r\\n\\tb\\0"),
            ("\u{7f}\u{9b}", "\\u{7f}\\u{9b}"),
            ("\u{202e}x\u{2066}", "\\u{202e}x\\u{2066}"),
        ];
        for (text, shown) in table {
            assert_eq!(escaped(text), shown);
        }
    }

    #[test]
    fn json_with_escapes_is_the_same_document() {
        let text: String = (0..0x3000).filter_map(char::from_u32).collect();
        let value = serde_json::json!({ &text: [text] });
        for json in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
            let escaped = json_escaped(&json);
            assert!(!escaped.contains(|c| c != '\n' && is_command(c)));
            assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
        }
    }

    #[test]
    fn only_this_file_writes_to_the_terminal() {
        let cli = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli");
        let mut files = vec![cli.with_extension("rs")];
        let mut folders = vec![cli];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                if entry.is_dir() { folders.push(entry) } else { files.push(entry) }
            }
        }
        for file in files.iter().filter(|file| !file.ends_with("output.rs")) {
            let code = fs::read_to_string(file).unwrap();
            for word in ["stdout()", "stderr()", "println!", "print!("] {
                assert!(!code.contains(word), "{}: {word}", file.display());
            }
        }
    }
}
