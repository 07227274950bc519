//! Texts, one a row: the lines of a `.txt`, or columns of a file of records.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::fields::{FieldFile, LONGEST};
use super::lines::{Lines, count_lines};
use crate::error::{Error, Result};

/// What joins the columns of a text.
const JOINT: &str = ". ";

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
    Records { file: FieldFile, columns: Vec<String>, record: String },
}

impl TextFile {
    /// Opens a `.txt` (a text a line), or a `.jsonl`, `.tsv`, `.csv` or `.parquet` file, of which `columns` are joined, those
    /// that are null or empty left out; where no columns are named, `text`.
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
                Source::Records { file: FieldFile::open(path, rows)?, columns, record: String::new() }
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

    /// The next text; it may be empty. None after the last.
    ///
    /// # Errors
    /// `Io`; `InvalidInput` for a row that is not a record, lacks a column, or holds a list or an object there.
    pub fn next_text(&mut self) -> Result<Option<String>> {
        if self.next == self.rows {
            return Ok(None);
        }
        let row = self.next;
        self.next += 1;
        match &mut self.source {
            Source::Lines(lines) => Ok(Some(lines.next_line()?.unwrap_or_default().to_string())),
            Source::Records { file, columns, record } => {
                file.read(record)?;
                let wrong = |reason| Error::input(&self.path, format!("row {row}"), reason);
                joined(record, columns).map(Some).map_err(wrong)
            }
        }
    }
}

/// The columns of a record as one text.
fn joined(record: &str, columns: &[String]) -> Result<String, String> {
    let fields: Map<String, Value> = serde_json::from_str(record).map_err(|e| e.to_string())?;
    let mut text = String::new();
    for column in columns {
        let part = match fields.get(column) {
            Some(Value::String(part)) => part.trim().to_string(),
            Some(Value::Number(number)) => number.to_string(),
            Some(Value::Bool(bool)) => bool.to_string(),
            Some(Value::Null) => continue,
            Some(Value::Array(_) | Value::Object(_)) => {
                return Err(format!("its {column:?} is no text; name another column"));
            }
            None => {
                let names: Vec<&str> = fields.keys().map(String::as_str).take(20).collect();
                return Err(format!("it has no {column:?}; it has {}", names.join(", ")));
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
            texts.push(text);
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
        refused("a.jsonl", "{\"text\": [1]}\n", &[], "is no text");
        refused("a.doc", "x", &[], "ending");
    }
}
