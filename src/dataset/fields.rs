//! Records beside the vectors: one JSON object a row, from `.jsonl` or from a tab-separated table with a header line.
//!
//! The record stays text: this module checks that it is one JSON object (or makes one of a table's line) and leaves its
//! meaning to others. A JSON line is passed on as it was written, so numbers keep their digits. In a table a cell that
//! reads as a JSON number is a number (`007` does not, so article numbers keep their zeros), an empty one is null, all
//! else is a string; there is no quoting.

use std::fmt::Write;
use std::path::Path;

use serde_json::{Map, Number, Value};

use super::lines::{Lines, check_count, count_lines};
use crate::error::{Error, Result};

/// The longest record, in bytes.
const LONGEST: usize = 16 << 20;

/// A file of records, read in row order.
#[derive(Debug)]
pub struct FieldFile {
    lines: Lines,
    /// Names from a table's header, as JSON strings; empty for `.jsonl`.
    names: Vec<String>,
}

impl FieldFile {
    /// Opens a `.jsonl` or `.tsv` file that must hold `rows` records; its lines are counted at once.
    ///
    /// # Errors
    /// `Io`; `Unsupported` for another ending; `InvalidInput` for another number of records or a header with empty or
    /// repeated names.
    pub fn open(path: &Path, rows: u64) -> Result<FieldFile> {
        let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
        let table = match ending.as_str() {
            "jsonl" => false,
            "tsv" => true,
            _ => {
                return Err(Error::Unsupported {
                    what: format!("the ending of {}", path.display()),
                    remedy: "records are read from .jsonl (one object a line) and .tsv (a header line, then tabs)"
                        .into(),
                });
            }
        };
        let lines = count_lines(path)?;
        if table && lines == 0 {
            return Err(Error::input(path, "line 1", "the file is empty; a header line is needed"));
        }
        check_count(path, lines - u64::from(table), rows)?;
        let mut lines = Lines::open(path, LONGEST)?;
        let names = if table { read_names(&mut lines)? } else { Vec::new() };
        Ok(FieldFile { lines, names })
    }

    /// Puts the next row's record, one JSON object, into `out`.
    ///
    /// # Errors
    /// `Io`; `InvalidInput` naming the line that is not a record, or the end of the file.
    pub fn read(&mut self, out: &mut String) -> Result<()> {
        out.clear();
        let found = match self.lines.next_line()? {
            None => Err("the file ends here: more records were asked for than it has lines".into()),
            Some(text) if self.names.is_empty() => check_object(text).map(|()| out.push_str(text.trim())),
            Some(text) => write_object(&self.names, text, out),
        };
        found.map_err(|reason| self.lines.error(reason))
    }
}

/// The header line: names, each written as a JSON string.
fn read_names(lines: &mut Lines) -> Result<Vec<String>> {
    let text = lines.next_line()?.unwrap_or_default().to_string();
    let mut names = Vec::new();
    for name in text.split('\t').map(str::trim) {
        let quoted = Value::from(name).to_string();
        if name.is_empty() || names.contains(&quoted) {
            return Err(lines.error(format!("the header's name {quoted} is empty or repeated: {text:?}")));
        }
        names.push(quoted);
    }
    Ok(names)
}

fn check_object(text: &str) -> Result<(), String> {
    match serde_json::from_str::<Map<String, Value>>(text) {
        Ok(_) => Ok(()),
        Err(e) => Err(format!("not a JSON object ({e}): {:?}", text.chars().take(60).collect::<String>())),
    }
}

/// Writes a table's line as an object.
fn write_object(names: &[String], line: &str, out: &mut String) -> Result<(), String> {
    let cells = line.split('\t').count();
    if cells != names.len() {
        return Err(format!("{cells} cells, but the header has {}", names.len()));
    }
    let mut separator = '{';
    for (name, cell) in names.iter().zip(line.split('\t')) {
        let value = match cell.trim() {
            "" => "null".to_string(),
            number if number.parse::<Number>().is_ok() => number.to_string(),
            _ => Value::from(cell).to_string(),
        };
        write!(out, "{separator}{name}:{value}").map_err(|e| e.to_string())?;
        separator = ',';
    }
    out.push('}');
    Ok(())
}
