//! Texts, one a row: the lines of a `.txt`, or columns of a file of records.
//!
//! Cells of a table are taken as they stand: `12.50` keeps its zero. What is wrong with one row is told as the reason why *it* has no
//! text, so that a caller may leave such rows out; a table without the column is refused.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::fields::{Cells, FieldFile, LONGEST};
use super::lines::{Lines, count_lines};
use crate::error::{Error, Result};

/// What joins the columns of a text.
const JOINT: &str = ". ";

/// The text of a row, or the reason why it has none.
pub type RowText = std::result::Result<String, String>;

/// A file of texts, read in row order.
#[derive(Debug)]
pub struct TextFile {
    path: PathBuf,
    rows: u64,
    next: u64,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Lines(Lines),
    /// `loose`: each record has names of its own.
    Records {
        file: FieldFile,
        columns: Vec<String>,
        record: String,
        loose: bool,
    },
}

impl TextFile {
    /// Opens a `.txt` (a text a line), or a `.jsonl`, `.tsv`, `.csv` or `.parquet` file, of which `columns` are joined, those
    /// that are null or empty left out, in a `.jsonl` those that are missing, too; where no columns are named, `text`.
    ///
    /// # Errors
    /// `Io`; `Unsupported` for another ending; `InvalidInput` for a file that has no rows, `InvalidParams` for columns of a file that
    /// has none.
    pub fn open(path: &Path, columns: &[String]) -> Result<TextFile> {
        let plain = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("txt"));
        if plain && !columns.is_empty() {
            let reason = format!("{} has no columns, only lines; leave them out", path.display());
            return Err(Error::params("columns", reason));
        }
        let rows = if plain { count_lines(path)? } else { FieldFile::count(path)? };
        if rows == 0 {
            return Err(Error::input(path, "line 1", "the file has no texts"));
        }
        let source = match plain {
            true => Source::Lines(Lines::open(path, LONGEST)?),
            false => {
                let columns = if columns.is_empty() { vec!["text".to_string()] } else { columns.to_vec() };
                let mut file = FieldFile::open(path, rows)?;
                file.set_cells(&columns.iter().map(|column| (column.clone(), Cells::Strings)).collect());
                let loose = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("jsonl"));
                Source::Records { file, columns, record: String::new(), loose }
            }
        };
        Ok(TextFile { path: path.to_path_buf(), rows, next: 0, source })
    }

    /// Number of texts; at least 1.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next text; it may be empty. None after the last. A row has none where a column holds a list or an object, or where a
    /// `.jsonl` record has none of the columns.
    ///
    /// # Errors
    /// `Io`; `InvalidInput` for a row that is not a record, and for a table that lacks a column.
    pub fn next_text(&mut self) -> Result<Option<RowText>> {
        if self.next == self.rows {
            return Ok(None);
        }
        let row = self.next;
        self.next += 1;
        match &mut self.source {
            Source::Lines(lines) => Ok(Some(Ok(lines.next_line()?.unwrap_or_default().to_string()))),
            Source::Records { file, columns, record, loose } => {
                file.read(record)?;
                let wrong = |reason| Error::input(&self.path, format!("row {row}"), reason);
                let fields: Map<String, Value> = serde_json::from_str(record).map_err(|e| wrong(e.to_string()))?;
                let missing = columns.iter().filter(|column| !fields.contains_key(*column)).count();
                if missing > 0 && (!*loose || missing == columns.len()) {
                    let reason = missing_columns(&fields, columns);
                    return if *loose { Ok(Some(Err(reason))) } else { Err(wrong(reason)) };
                }
                Ok(Some(joined(&fields, columns)))
            }
        }
    }
}

/// Which of the columns a record lacks, and what it has.
fn missing_columns(fields: &Map<String, Value>, columns: &[String]) -> String {
    let missing = columns.iter().filter(|column| !fields.contains_key(*column)).map(|column| format!("{column:?}"));
    let names: Vec<&str> = fields.keys().map(String::as_str).take(20).collect();
    let has = if names.is_empty() { "nothing".into() } else { names.join(", ") };
    format!("it has no {}; it has {has}", missing.collect::<Vec<_>>().join(", no "))
}

/// The columns of a record as one text.
fn joined(fields: &Map<String, Value>, columns: &[String]) -> RowText {
    let mut text = String::new();
    for column in columns {
        let part = match fields.get(column) {
            Some(Value::String(part)) => part.trim().to_string(),
            Some(Value::Number(number)) => number.to_string(),
            Some(Value::Bool(bool)) => bool.to_string(),
            None | Some(Value::Null) => continue,
            Some(Value::Array(_) | Value::Object(_)) => {
                return Err(format!("its {column:?} is no text; name another column"));
            }
        };
        if !part.is_empty() {
            let joint = if text.is_empty() { "" } else { JOINT };
            text.push_str(joint);
            text.push_str(&part);
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, content: &str, columns: &[&str]) -> Result<Vec<String>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        let columns: Vec<String> = columns.iter().map(|c| (*c).to_string()).collect();
        let mut file = TextFile::open(&path, &columns)?;
        let mut texts = Vec::new();
        while let Some(text) = file.next_text()? {
            texts.push(text.unwrap_or_else(|reason| format!("bad: {reason}")));
        }
        assert_eq!(texts.len() as u64, file.rows());
        assert!(file.next_text()?.is_none());
        Ok(texts)
    }

    #[test]
    fn texts_are_lines_or_joined_columns() {
        assert_eq!(read("a.txt", "one\n\nthree", &[]).unwrap(), ["one", "", "three"]);
        let tsv = "title\ttext\tprice\nRed shoe\t\t12\nHat\tA hat.\t\n";
        assert_eq!(read("a.tsv", tsv, &["title", "text", "price"]).unwrap(), ["Red shoe. 12", "Hat. A hat."]);
        assert_eq!(read("a.tsv", tsv, &[]).unwrap(), ["", "A hat."]);
        assert_eq!(read("a.csv", "text,x\n\"a, b\",1\n", &[]).unwrap(), ["a, b"]);
        let prices = "text\tprice\nRed shoe\t12.50\n1e3\t007\n";
        assert_eq!(read("a.tsv", prices, &["text", "price"]).unwrap(), ["Red shoe. 12.50", "1e3. 007"]);
        assert_eq!(read("a.jsonl", "{\"text\": \"007\"}\n{\"text\": true}\n", &[]).unwrap(), ["007", "true"]);
    }

    #[test]
    fn what_is_no_text_is_named() {
        let refused = |name: &str, content: &str, columns: &[&str], expected: &str| {
            let error = read(name, content, columns).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        refused("a.txt", "", &[], "no texts");
        refused("a.tsv", "text\n", &[], "no texts");
        refused("a.txt", "one\n", &["title"], "no columns");
        refused("a.tsv", "title\nx\n", &[], "row 0: it has no \"text\"; it has title");
        let mixed = "{\"text\": [1]}\n{\"title\": \"x\"}\n{\"text\": \"y\", \"z\": 1}\n{}\n";
        let rows = read("a.jsonl", mixed, &["text", "z"]).unwrap();
        assert!(rows[0].contains("bad: its \"text\" is no text"), "{rows:?}");
        assert!(rows[1].contains("it has no \"text\", no \"z\"; it has title"), "{rows:?}");
        assert_eq!((&*rows[2], rows[3].contains("it has nothing")), ("y. 1", true));
        refused("a.doc", "x", &[], "ending");
    }
}
