//! All that the program prints: lines and tables for people, or JSON; and on stderr notes, and why it failed.
//!
//! What was reported, named or answered by others is printed here and nowhere else, so that nothing in it can command a terminal:
//! a character that would is shown as its escape.

use std::borrow::Cow;
use std::fmt;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::process::{ExitCode, Stdio};

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde_json::Value;

use super::failure::Failure;

/// The output of one command.
pub(super) struct Output {
    writer: Box<dyn Write + Send>,
    json: bool,
    /// Of the list that is being printed.
    items: usize,
}

/// A column of a table.
#[derive(Debug, Clone)]
pub(super) enum Column {
    Text(String),
    /// Aligned to the right, so that digits stand below each other.
    Number(String),
}

/// Where another program writes what it has to say beside our lines.
pub(super) fn where_errors_go() -> Stdio {
    Stdio::from(io::stderr())
}

impl Output {
    /// What goes to stdout, as JSON or for people.
    pub(super) fn new(json: bool) -> Output {
        Output { writer: Box::new(io::stdout()), json, items: 0 }
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

    /// Begins a document that is a list under `key`. Its items follow one by one, so that a list of any length takes little
    /// memory, and [`Output::end_list`] ends it.
    pub(super) fn begin_list(&mut self, key: &str) -> io::Result<()> {
        self.items = 0;
        write!(self.writer, "{{\n  {}: [", json_escaped(&Value::from(key).to_string()))
    }

    /// The next item of a list.
    pub(super) fn item(&mut self, value: &Value) -> io::Result<()> {
        let text = serde_json::to_string_pretty(value).expect("a JSON value can be written");
        let comma = if self.items == 0 { "" } else { "," };
        self.items += 1;
        write!(self.writer, "{comma}\n    {}", json_escaped(&text).replace('\n', "\n    "))
    }

    /// Ends a list, with what else its document says.
    pub(super) fn end_list(&mut self, fields: &[(&str, Value)]) -> io::Result<()> {
        let mut text = if self.items == 0 { "]".to_owned() } else { "\n  ]".to_owned() };
        for (key, value) in fields {
            let _ = write!(
                text,
                ",\n  {}: {}",
                json_escaped(&Value::from(*key).to_string()),
                json_escaped(&value.to_string())
            );
        }
        writeln!(self.writer, "{text}\n}}")?;
        self.writer.flush()
    }

    /// Something that belongs to what is printed and is no part of it. It goes to stderr, so that a table can be cut and counted,
    /// and nowhere with `--json`.
    pub(super) fn note(&self, text: &str) {
        if !self.json {
            // What was asked for was printed: nobody needs to hear that a closed stderr took no note.
            let _ = writeln!(io::stderr(), "note: {}", escaped(text));
        }
    }

    /// Bytes as they are: for a program that reads them, and from no server.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_all(bytes)?;
        self.writer.flush()
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

/// Says on stderr why a command failed: as one line of JSON where that was asked for.
pub(super) fn failure(failure: &Failure, json: bool) {
    if json {
        let _ = writeln!(io::stderr(), "{}", json_escaped(&failure.to_json().to_string()));
    } else {
        error(&failure.to_string());
    }
}

/// A text of several lines cannot pose as further messages: they are indented.
fn error(text: &str) {
    let lines: Vec<_> = text.trim_end().lines().map(escaped).collect();
    // Nothing is left to do when stderr is closed too.
    let _ = writeln!(io::stderr(), "error: {}", lines.join("\n  "));
}

/// Prints help, the version, or what is wrong with the arguments.
pub(super) fn wrong_arguments(wrong: &clap::Error, json: bool) -> ExitCode {
    let text = wrong.render().to_string();
    let plain = text.trim_start_matches("error: ");
    if wrong.use_stderr() && json {
        failure(&Failure::usage(plain.trim_end()), true);
    } else if text.contains(|c| c != '\n' && is_command(c)) {
        error(plain);
    } else {
        // In colours, where the terminal has them. A closed output is nobody's fault.
        let _ = wrong.print();
    }
    u8::try_from(wrong.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// Whether a terminal would obey the character or show nothing for it, so that two texts that differ look the same: the control
/// characters, what turns the direction of writing or ends a line, and all that Unicode says may be ignored when it is shown
/// (`Default_Ignorable_Code_Point`).
fn is_command(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}')
}

/// Text for people, on one line.
fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(is_command) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            // With the short forms that everybody knows.
            _ if c.is_control() => escaped.extend(c.escape_debug()),
            _ if is_command(c) => escaped.extend(c.escape_unicode()),
            _ => escaped.push(c),
        }
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
            // Beyond the basic plane JSON has two escapes for one character.
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(escaped, "\\u{unit:04x}");
            }
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
            ("c\u{200b}nn\u{ad}\u{feff}", "c\\u{200b}nn\\u{ad}\\u{feff}"),
            ("v\u{2060}1\u{3164}\u{e0041}\u{fe0f}", "v\\u{2060}1\\u{3164}\\u{e0041}\\u{fe0f}"),
        ];
        for (text, shown) in table {
            assert_eq!(escaped(text), shown);
        }
    }

    #[test]
    fn json_with_escapes_is_the_same_document() {
        let text: String = (0..0x3000).chain(0xe0000..0xe0100).filter_map(char::from_u32).collect();
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
