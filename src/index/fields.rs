//! What is returned with a hit beside its key: one JSON object a row, kept on disk as it was given.
//!
//! Rows are grouped in blocks of 32, so that the index of blocks is small enough for memory (a quarter byte a row).
//! ```text
//! BLOB   blocks: u32 x 32 lengths, the texts one after the other, CRC-32C u32 of all before it
//! INDX   u64 x (blocks+1): where blocks start in BLOB, then its length
//! ```

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::format::{FileEntry, FileReader, FileWriter, Kind, Section, as_bytes, from_bytes};
use crate::train::Watch;
use crate::types::Row;
use crate::vfs::Vfs;

const BLOB: [u8; 4] = *b"BLOB";
const INDX: [u8; 4] = *b"INDX";

const ROWS: usize = 32;
/// A block larger than this is refused when written, and taken for damage when read.
const MAX_BLOCK: u64 = 64 << 20;

/// Writes a field file in row order.
pub(crate) struct FieldsWriter {
    file: FileWriter,
    path: PathBuf,
    lengths: Vec<u32>,
    texts: Vec<u8>,
    starts: Vec<u64>,
}

impl FieldsWriter {
    pub(crate) fn create(vfs: &dyn Vfs, path: &Path, index_id: [u8; 16]) -> Result<FieldsWriter> {
        let mut file = FileWriter::create(vfs, path, Kind::Fields, index_id)?;
        file.begin(BLOB)?;
        let path = path.to_path_buf();
        Ok(FieldsWriter { file, path, lengths: Vec::new(), texts: Vec::new(), starts: vec![0] })
    }

    pub(crate) fn push(&mut self, text: &[u8]) -> Result<()> {
        self.lengths.push(text.len() as u32);
        self.texts.extend_from_slice(text);
        if self.texts.len() as u64 > MAX_BLOCK {
            return Err(Error::input(&self.path, "fields", "32 neighbouring rows have more than 64 MiB of them"));
        }
        if self.lengths.len() == ROWS { self.end_block() } else { Ok(()) }
    }

    fn end_block(&mut self) -> Result<()> {
        self.lengths.resize(ROWS, 0);
        let lengths = as_bytes(&self.lengths);
        let checksum = crc32c::crc32c_append(crc32c::crc32c(lengths), &self.texts);
        self.file.write(lengths)?;
        self.file.write(&self.texts)?;
        self.file.write(as_bytes(&[checksum]))?;
        let start = self.starts[self.starts.len() - 1];
        self.starts.push(start + (ROWS * 4 + self.texts.len() + 4) as u64);
        self.lengths.clear();
        self.texts.clear();
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Result<FileEntry> {
        if !self.lengths.is_empty() {
            self.end_block()?;
        }
        self.file.end()?;
        self.file.write_array(INDX, &self.starts)?;
        self.file.finish()
    }
}

/// An open field file.
#[derive(Debug)]
pub(crate) struct Fields {
    path: PathBuf,
    file: FileReader,
    blob: Section,
    starts: Vec<u64>,
}

impl Fields {
    pub(crate) fn open(vfs: &dyn Vfs, path: &Path, index_id: &[u8; 16], rows: u64) -> Result<Fields> {
        let file = FileReader::open(vfs, path, Kind::Fields, Some(index_id))?;
        let blob = file.section(BLOB)?;
        let starts: Vec<u64> = file.read_array(INDX)?;
        let fits = starts.len() as u64 == rows.div_ceil(ROWS as u64) + 1
            && starts.last() == Some(&blob.length)
            && starts.windows(2).all(|w| w[1] > w[0] && (ROWS as u64 * 4 + 4..=MAX_BLOCK * 2).contains(&(w[1] - w[0])));
        if !fits {
            return Err(Error::corrupt(path, "INDX", format!("it does not fit {rows} rows and the texts")));
        }
        Ok(Fields { path: path.to_path_buf(), file, blob, starts })
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.starts.len() * 8
    }

    /// The JSON object of `row`, as text.
    pub(crate) fn get(&self, row: Row) -> Result<String> {
        self.block(row)?.text(row).map(String::from).map_err(|reason| self.wrong(row, reason))
    }

    /// The JSON objects of the rows that are kept together with `row`, and the first of these rows.
    pub(crate) fn neighbours(&self, row: Row) -> Result<(Row, Vec<String>)> {
        let (first, block) = (row - row % ROWS as Row, self.block(row)?);
        let text = |row| block.text(row).map(String::from).map_err(|reason| self.wrong(row, reason));
        Ok((first, (first..first + ROWS as Row).map(text).collect::<Result<_>>()?))
    }

    fn wrong(&self, row: Row, reason: &str) -> Error {
        Error::corrupt(&self.path, "BLOB", format!("row {row}: {reason}"))
    }

    /// The block that holds `row`.
    fn block(&self, row: Row) -> Result<Block> {
        let block = row as usize / ROWS;
        let (start, end) = (self.starts[block], self.starts[block + 1]);
        let mut bytes = vec![0; (end - start) as usize];
        self.file.read_at(&self.blob, start, &mut bytes)?;
        let checksum: Vec<u32> = from_bytes(&bytes.split_off(bytes.len() - 4));
        if crc32c::crc32c(&bytes) != checksum[0] {
            return Err(self.wrong(row, "the checksum of its block is wrong"));
        }
        let texts = bytes.split_off(ROWS * 4);
        Ok(Block { lengths: from_bytes(&bytes), texts })
    }

    /// Reads every block, for `check-index`; `each` is given every row with its text.
    pub(crate) fn check(
        &self,
        rows: u64,
        watch: &dyn Watch,
        each: &mut dyn FnMut(Row, &str) -> Result<()>,
    ) -> Result<()> {
        (0..rows).step_by(ROWS).try_for_each(|first| {
            watch.check()?;
            let end = rows.min(first + ROWS as u64);
            watch.advance(end - first);
            let block = self.block(first as Row)?;
            (first..end)
                .map(|row| row as Row)
                .try_for_each(|row| each(row, block.text(row).map_err(|reason| self.wrong(row, reason))?))
        })
    }
}

/// The texts of neighbouring rows.
struct Block {
    /// One a row, 0 behind the last.
    lengths: Vec<u32>,
    texts: Vec<u8>,
}

impl Block {
    fn text(&self, row: Row) -> std::result::Result<&str, &'static str> {
        let at = row as usize % ROWS;
        let start: usize = self.lengths[..at].iter().map(|&l| l as usize).sum();
        let text = self.texts.get(start..start + self.lengths[at] as usize).ok_or("its length is too large")?;
        std::str::from_utf8(text).map_err(|_| "it is not UTF-8")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::MemoryVfs;

    #[test]
    fn every_row_reads_back() {
        let (vfs, path) = (MemoryVfs::default(), Path::new("/fields.bg"));
        for n in [1u32, 31, 32, 33, 100] {
            let text = |i: u32| format!("{{\"n\": \"{}\"}}", "x".repeat(i as usize));
            let mut writer = FieldsWriter::create(&vfs, path, [1; 16]).unwrap();
            (0..n).for_each(|i| writer.push(text(i).as_bytes()).unwrap());
            writer.finish().unwrap();
            let fields = Fields::open(&vfs, path, &[1; 16], u64::from(n)).unwrap();
            (0..n).for_each(|i| assert_eq!(fields.get(i).unwrap(), text(i)));
            for i in 0..n {
                let (first, texts) = fields.neighbours(i).unwrap();
                assert_eq!(texts[(i - first) as usize], text(i));
            }
            let mut checked = 0;
            let mut each = |row, found: &str| {
                checked += 1;
                assert_eq!(found, text(row));
                Ok(())
            };
            fields.check(u64::from(n), &crate::train::Silent, &mut each).unwrap();
            assert_eq!(checked, n);
            assert!(Fields::open(&vfs, path, &[1; 16], u64::from(n) + 32).is_err());
        }
    }
}
