//! The second pass over the records, in row order: ordinals, column by column.
//!
//! Rows come with all their columns, the file has column after column; so each column goes to a temporary file first. Sets are
//! pairs of value and row there, and are sorted by value in as many goes as the budget asks for.

use std::path::{Path, PathBuf};

use super::Value;
use super::encoding::{Encoding, OrdinalMap};
use super::file::{tag, write_head};
use super::record::Record;
use super::survey::Layout;
use crate::error::{Error, Result};
use crate::format::{FileEntry, FileWriter, Kind, as_bytes};
use crate::types::Row;
use crate::vfs::{Vfs, WriteFile};

/// Bytes that a column gathers before they are written.
const BUFFER: usize = 64 << 10;
/// Bytes of a pair of value and row.
const PAIR: usize = 8;

/// Writes a file of columns.
pub struct ColumnsWriter<'v> {
    vfs: &'v dyn Vfs,
    layout: &'v Layout,
    columns: Vec<Spooled>,
    rows: u64,
}

/// A column on its way.
struct Spooled {
    path: PathBuf,
    file: Box<dyn WriteFile>,
    buffer: Vec<u8>,
    /// Of a set: rows of each value.
    counts: Vec<u64>,
}

impl<'v> ColumnsWriter<'v> {
    /// Begins; temporary files `column-0 ...` go into the folder `temporary`, which must exist.
    ///
    /// # Errors
    /// `Io`.
    pub fn create(vfs: &'v dyn Vfs, temporary: &Path, layout: &'v Layout) -> Result<ColumnsWriter<'v>> {
        let spool = |(at, encoding): (usize, &Encoding)| {
            let path = temporary.join(format!("column-{at}"));
            let values = match &encoding.ordinals {
                OrdinalMap::Words(words) if encoding.is_set() => words.len(),
                _ => 0,
            };
            Ok(Spooled { file: vfs.create(&path)?, path, buffer: Vec::new(), counts: vec![0; values] })
        };
        let columns = layout.encodings.iter().enumerate().map(spool).collect::<Result<_>>()?;
        Ok(ColumnsWriter { vfs, layout, columns, rows: 0 })
    }

    /// The attributes of the next row, as [`super::parse_record`] makes them.
    ///
    /// # Errors
    /// `Io`; `Mismatch` for a value that the first pass has not seen.
    pub fn push(&mut self, record: &Record) -> Result<()> {
        let row = self.rows as Row;
        for (encoding, column) in self.layout.encodings.iter().zip(&mut self.columns) {
            let value = record.get(&encoding.attribute.name).unwrap_or(&Value::Null);
            if !column.push(encoding, value, row) {
                let what = format!(
                    "attribute {:?} of row {row}, whose records changed during the build,",
                    encoding.attribute.name
                );
                return Err(Error::mismatch(what, "a value that was there before", format!("{value:?}")));
            }
            if column.buffer.len() >= BUFFER {
                column.file.write_all(&column.buffer)?;
                column.buffer.clear();
            }
        }
        self.rows += 1;
        Ok(())
    }

    /// Writes the file `path` and removes the temporary ones. Sorting of sets takes about `budget` bytes.
    ///
    /// # Errors
    /// `Io`.
    pub fn finish(mut self, path: &Path, index_id: [u8; 16], budget: u64) -> Result<FileEntry> {
        let mut file = FileWriter::create(self.vfs, path, Kind::Attributes, index_id)?;
        let counts: Vec<Vec<u64>> = self.columns.iter().map(|column| column.counts.clone()).collect();
        let text: Vec<String> = self.layout.text.iter().map(|column| column.name.clone()).collect();
        write_head(&mut file, self.rows, &self.layout.encodings, &text, &counts)?;
        for (at, (encoding, column)) in self.layout.encodings.iter().zip(&mut self.columns).enumerate() {
            column.file.write_all(&std::mem::take(&mut column.buffer))?;
            file.begin(tag(at))?;
            match encoding.is_set() {
                true => column.write_sorted(self.vfs, &mut file, budget)?,
                false => read_pieces(self.vfs, &column.path, &mut |bytes| file.write(bytes))?,
            }
            file.end()?;
            self.vfs.remove_file(&column.path)?;
        }
        file.finish()
    }
}

impl Spooled {
    /// Adds a row's value; false if the column cannot hold it.
    fn push(&mut self, encoding: &Encoding, value: &Value, row: Row) -> bool {
        if encoding.is_set() {
            let Value::Keywords(texts) = value else { return *value == Value::Null };
            return texts.iter().all(|text| {
                let Some(at) = encoding.ordinal(&Value::Keyword(text.clone())) else { return false };
                self.counts[at as usize] += 1;
                self.buffer.extend_from_slice(as_bytes(&[at as u32, row]));
                true
            });
        }
        let width = encoding.width();
        let ordinal = match value {
            Value::Null => Some(width.null()),
            value => encoding.ordinal(value),
        };
        ordinal.map(|ordinal| self.buffer.extend_from_slice(&ordinal.to_le_bytes()[..width.bytes()])).is_some()
    }

    /// Writes the rows of each value, values in order. Each go reads all pairs and keeps those of as many values as fit.
    fn write_sorted(&self, vfs: &dyn Vfs, file: &mut FileWriter, budget: u64) -> Result<()> {
        let mut first = 0;
        while first < self.counts.len() {
            let mut places = vec![0usize];
            let mut end = first;
            while end < self.counts.len()
                && (end == first || (places[end - first] as u64 + self.counts[end]) * 4 <= budget)
            {
                places.push(places[end - first] + self.counts[end] as usize);
                end += 1;
            }
            let mut rows: Vec<Row> = vec![0; places[end - first]];
            read_pieces(vfs, &self.path, &mut |bytes| {
                for pair in bytes.chunks_exact(PAIR) {
                    let [value, row]: [u32; 2] = bytemuck::pod_read_unaligned(pair);
                    if let Some(at) = (value as usize).checked_sub(first).filter(|&at| at < end - first) {
                        rows[places[at]] = row;
                        places[at] += 1;
                    }
                }
                Ok(())
            })?;
            file.write(as_bytes(&rows))?;
            first = end;
        }
        Ok(())
    }
}

/// Hands out a file in pieces of whole pairs.
fn read_pieces(vfs: &dyn Vfs, path: &Path, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let file = vfs.open(path)?;
    let mut buffer = vec![0; BUFFER.next_multiple_of(PAIR)];
    let mut at = 0;
    while at < file.len() {
        let length = (file.len() - at).min(buffer.len() as u64) as usize;
        file.read_exact_at(at, &mut buffer[..length])?;
        take(&buffer[..length])?;
        at += length as u64;
    }
    Ok(())
}
