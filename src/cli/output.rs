//! Where output goes: lines and tables for people, or one JSON document.

use std::fmt;
use std::io::{self, Write};

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
    /// Aligned to the right.
    Number(String),
}

impl Output {
    pub(super) fn stdout(json: bool) -> Output {
        Output { writer: Box::new(io::stdout()), json }
    }

    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// The one document of a command.
    pub(super) fn document(&mut self, value: &Value) -> io::Result<()> {
        let text = serde_json::to_string_pretty(value).expect("a JSON value can be written");
        self.line(&text)
    }

    /// A line, at once: what a person or a script waits for must not stay in a buffer.
    pub(super) fn line(&mut self, line: &str) -> io::Result<()> {
        self.writer.write_all(format!("{line}\n").as_bytes())?;
        self.writer.flush()
    }

    /// Rows under headings, without borders: it can be read, cut and sorted.
    pub(super) fn table(&mut self, columns: &[Column], rows: Vec<Vec<String>>) -> io::Result<()> {
        let mut table = plain_table();
        table.set_header(columns.iter().map(|column| match column {
            Column::Text(heading) => Cell::new(heading),
            Column::Number(heading) => Cell::new(heading).set_alignment(CellAlignment::Right),
        }));
        for row in rows {
            table.add_row(columns.iter().zip(row).map(|(column, text)| match column {
                Column::Text(_) => Cell::new(text),
                Column::Number(_) => Cell::new(text).set_alignment(CellAlignment::Right),
            }));
        }
        self.print(table)
    }

    /// What a thing is, a property a line. Properties without a value are left out.
    pub(super) fn properties(&mut self, properties: &[(&str, String)]) -> io::Result<()> {
        let mut table = plain_table();
        table.add_rows(
            properties.iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| [*name, value]),
        );
        self.print(table)
    }

    fn print(&mut self, mut table: Table) -> io::Result<()> {
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        self.line(&table.trim_fmt())
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
