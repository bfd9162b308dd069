//! Data goes to stdout, and a reader that has gone away (`| head`) is no error.

use std::fmt::Write as _;
use std::io::{ErrorKind, IsTerminal, Write};

use serde::Serialize;

use crate::exit::Failure;

/// Formats that reading commands write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Aligned columns for people.
    Table,
    /// The same, with more columns.
    Wide,
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
    /// One JSON document per line.
    Jsonl,
    /// Names only, one per line.
    Name,
}

/// Whether colour may be used at all: `NO_COLOR` is unset or empty, and `TERM` is not `dumb`.
pub fn colour_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) && std::env::var_os("TERM").is_none_or(|v| v != "dumb")
}

/// Whether stdout is a terminal that may be coloured.
pub fn colour_stdout() -> bool {
    std::io::stdout().is_terminal() && colour_wanted()
}

/// Writes text to stdout as it is.
///
/// # Errors
/// When stdout cannot be written for another reason than that its reader has gone.
pub fn write(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::conflict(format!("cannot write to stdout: {error}"))),
    }
}

/// Writes a line to stdout.
///
/// # Errors
/// As [`write`].
pub fn line(text: &str) -> Result<(), Failure> {
    write(&format!("{text}\n"))
}

/// Writes progress or a hint to stderr; losing it is no error.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Writes a value as indented JSON.
///
/// # Errors
/// As [`write`].
pub fn json<T: Serialize>(value: &T) -> Result<(), Failure> {
    line(&serde_json::to_string_pretty(value).map_err(Failure::bug)?)
}

/// Writes a value as YAML.
///
/// # Errors
/// As [`write`].
pub fn yaml<T: Serialize>(value: &T) -> Result<(), Failure> {
    write(&serde_saphyr::to_string(value).map_err(Failure::bug)?)
}

/// Writes rows as aligned columns under upper-case headings.
///
/// # Errors
/// As [`write`].
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
    write(&format_table(headings, rows))
}

fn format_table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = headings.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut push = |cells: &mut dyn Iterator<Item = &str>| {
        let mut row = String::new();
        for (width, cell) in widths.iter().zip(cells) {
            // Writing into a String cannot fail.
            let _ = write!(row, "{cell:<width$}   ");
        }
        text.push_str(row.trim_end());
        text.push('\n');
    };
    push(&mut headings.iter().copied());
    for row in rows {
        push(&mut row.iter().map(String::as_str));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_lines_have_no_trailing_space() {
        let rows = vec![vec!["a".into(), "longer".into()], vec!["bbbb".into(), "x".into()]];
        assert_eq!(format_table(&["NAME", "V"], &rows), "NAME   V\na      longer\nbbbb   x\n");
    }
}
