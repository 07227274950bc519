//! Records beside the vectors: one JSON object a row, from `.jsonl`, from a table (`.tsv`, `.csv`) or from `.parquet`.
//!
//! The record stays text: this module checks that it is one JSON object (or makes one) and leaves its meaning to others. A
//! JSON line is passed on as it was written, so numbers keep their digits.
//!
//! Cells of a table have no types. One that reads as a JSON number is a number (`007` does not, so article numbers keep their
//! zeros), `true` and `false` are what they say, an empty one is null, all else is a string. Who knows better says so
//! ([`FieldFile::set_cells`]). `.tsv` knows no quoting; `.csv` is RFC 4180, with commas.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use serde_json::{Map, Number, Value};

use super::commas::Commas;
use super::lines::{Lines, check_count, count_lines};
#[cfg(feature = "parquet")]
use super::parquet_fields::ParquetRecords;
use crate::error::{Error, Result};

/// The longest record, in bytes.
pub(super) const LONGEST: usize = 16 << 20;

/// How the cells of a column of a table are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cells {
    /// As numbers, booleans and strings, by what they look like.
    #[default]
    AsTheyLook,
    /// As strings.
    Strings,
    /// As JSON arrays of strings (`["a", "b"]`) where they are some.
    Lists,
}

/// A file of records, read in row order.
#[derive(Debug)]
pub struct FieldFile {
    source: Source,
}

#[derive(Debug)]
enum Source {
    Objects(Lines),
    Tabs(Lines, Header),
    Commas(Box<Commas>, Header),
    #[cfg(feature = "parquet")]
    Parquet(Box<ParquetRecords>),
}

impl FieldFile {
    /// Opens a `.jsonl`, `.tsv`, `.csv` or `.parquet` file that must hold `rows` records; they are counted at once.
    ///
    /// # Errors
    /// `Io`; `Unsupported` for another ending; `InvalidInput` for another number of records or a header with empty or
    /// repeated names.
    pub fn open(path: &Path, rows: u64) -> Result<FieldFile> {
        let source = match ending(path).as_str() {
            "jsonl" => {
                check_count(path, count_lines(path)?, rows)?;
                Source::Objects(Lines::open(path, LONGEST)?)
            }
            "tsv" => open_tabs(path, rows)?,
            "csv" => {
                let (commas, names) = Commas::open(path, rows)?;
                let header = Header::new(names).map_err(|reason| Error::input(path, "line 1", reason))?;
                Source::Commas(Box::new(commas), header)
            }
            "parquet" => open_parquet(path, rows)?,
            _ => return Err(unknown_ending(path)),
        };
        Ok(FieldFile { source })
    }

    /// The records of a file.
    ///
    /// # Errors
    /// As [`FieldFile::open`].
    pub fn count(path: &Path) -> Result<u64> {
        match ending(path).as_str() {
            "jsonl" => count_lines(path),
            "tsv" => Ok(count_lines(path)?.saturating_sub(1)),
            "csv" => Commas::count(path),
            "parquet" => count_parquet(path),
            _ => Err(unknown_ending(path)),
        }
    }

    /// Whether the records are cells without types.
    pub fn is_table(&self) -> bool {
        matches!(self.source, Source::Tabs(..) | Source::Commas(..))
    }

    /// Says how cells of some columns of a table are read; other kinds of files have types of their own.
    pub fn set_cells(&mut self, cells: &BTreeMap<String, Cells>) {
        if let Source::Tabs(_, header) | Source::Commas(_, header) = &mut self.source {
            for (name, how) in header.names.iter().zip(&mut header.cells) {
                *how = cells.get(name).copied().unwrap_or_default();
            }
        }
    }

    /// Columns of a Parquet file that no record holds, because of their types.
    pub fn left_out(&self) -> &[String] {
        match &self.source {
            #[cfg(feature = "parquet")]
            Source::Parquet(records) => records.left_out(),
            _ => &[],
        }
    }

    /// Puts the next row's record, one JSON object, into `out`.
    ///
    /// # Errors
    /// `Io`; `InvalidInput` naming the line that is not a record, or the end of the file.
    pub fn read(&mut self, out: &mut String) -> Result<()> {
        out.clear();
        match &mut self.source {
            Source::Objects(lines) => {
                let found = match lines.next_line()? {
                    None => Err(END.into()),
                    Some(text) => check_object(text).map(|()| out.push_str(text.trim())),
                };
                found.map_err(|reason| lines.error(reason))
            }
            Source::Tabs(lines, header) => {
                let found = match lines.next_line()? {
                    None => Err(END.into()),
                    Some(text) => header.write_object(text.split('\t'), out),
                };
                found.map_err(|reason| lines.error(reason))
            }
            Source::Commas(commas, header) => {
                let found = match commas.next()? {
                    None => Err(END.into()),
                    Some(record) => header.write_object(record.iter(), out),
                };
                found.map_err(|reason| commas.error(reason))
            }
            #[cfg(feature = "parquet")]
            Source::Parquet(records) => records.read(out),
        }
    }
}

const END: &str = "the file ends here: more records were asked for than it has";

fn ending(path: &Path) -> String {
    path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default()
}

fn unknown_ending(path: &Path) -> Error {
    Error::Unsupported {
        what: format!("the ending of {}", path.display()),
        remedy: "records are read from .jsonl (one object a line), .tsv and .csv (with a header line) and .parquet"
            .into(),
    }
}

fn open_tabs(path: &Path, rows: u64) -> Result<Source> {
    let lines = count_lines(path)?;
    if lines == 0 {
        return Err(Error::input(path, "line 1", "the file is empty; a header line is needed"));
    }
    check_count(path, lines - 1, rows)?;
    let mut lines = Lines::open(path, LONGEST)?;
    let text = lines.next_line()?.unwrap_or_default().to_string();
    let names = text.split('\t').map(|name| name.trim().to_string()).collect();
    let header = Header::new(names).map_err(|reason| lines.error(format!("{reason}: {text:?}")))?;
    Ok(Source::Tabs(lines, header))
}

#[cfg(feature = "parquet")]
fn open_parquet(path: &Path, rows: u64) -> Result<Source> {
    ParquetRecords::open(path, rows).map(|records| Source::Parquet(Box::new(records)))
}

#[cfg(feature = "parquet")]
fn count_parquet(path: &Path) -> Result<u64> {
    ParquetRecords::count(path)
}

#[cfg(not(feature = "parquet"))]
fn open_parquet(path: &Path, _rows: u64) -> Result<Source> {
    Err(no_parquet(path))
}

#[cfg(not(feature = "parquet"))]
fn count_parquet(path: &Path) -> Result<u64> {
    Err(no_parquet(path))
}

#[cfg(not(feature = "parquet"))]
fn no_parquet(path: &Path) -> Error {
    Error::Unsupported {
        what: format!("Parquet ({})", path.display()),
        remedy: "this program was built without the feature `parquet`; build it with, or convert the file to .csv"
            .into(),
    }
}

fn check_object(text: &str) -> Result<(), String> {
    match serde_json::from_str::<Map<String, Value>>(text) {
        Ok(_) => Ok(()),
        Err(e) => Err(format!("not a JSON object ({e}): {:?}", text.chars().take(60).collect::<String>())),
    }
}

/// The columns of a table.
#[derive(Debug)]
struct Header {
    names: Vec<String>,
    /// The names as JSON strings.
    quoted: Vec<String>,
    cells: Vec<Cells>,
}

impl Header {
    /// # Errors
    /// The name that is empty or repeated.
    fn new(names: Vec<String>) -> Result<Header, String> {
        for (at, name) in names.iter().enumerate() {
            if name.is_empty() || names[..at].contains(name) {
                return Err(format!("the header's name {name:?} is empty or repeated"));
            }
        }
        let quoted = names.iter().map(|name| Value::from(name.as_str()).to_string()).collect();
        Ok(Header { quoted, cells: vec![Cells::default(); names.len()], names })
    }

    /// Writes a row as an object.
    fn write_object<'a>(&self, cells: impl Iterator<Item = &'a str> + Clone, out: &mut String) -> Result<(), String> {
        let count = cells.clone().count();
        if count != self.names.len() {
            return Err(format!("{count} cells, but the header has {}", self.names.len()));
        }
        let mut separator = '{';
        for ((name, how), cell) in self.quoted.iter().zip(&self.cells).zip(cells) {
            let value = match (how, cell.trim()) {
                (_, "") => "null".to_string(),
                (Cells::AsTheyLook, word @ ("true" | "false")) => word.to_string(),
                (Cells::AsTheyLook, number) if number.parse::<Number>().is_ok() => number.to_string(),
                (Cells::Lists, list) if serde_json::from_str::<Vec<String>>(list).is_ok() => list.to_string(),
                _ => Value::from(cell).to_string(),
            };
            write!(out, "{separator}{name}:{value}").map_err(|e| e.to_string())?;
            separator = ',';
        }
        out.push('}');
        Ok(())
    }
}
