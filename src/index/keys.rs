//! From the caller's keys to rows, on disk, one read a look-up.
//!
//! Entries are sorted by a mixed key (a bijection, so that any keys spread evenly and equal keys stay neighbours) and
//! cut into pages of 256. The first mixed key and the checksum of every page are held in memory: 12 bytes for 256 rows.
//!
//! Where rows are views of documents, a key has an entry for each of its rows, in the order in which the views were given; they
//! may run over the end of a page.
//! ```text
//! PAGE   256 x u64 keys, then 256 x u32 rows; the last page is filled up with zeros
//! FENC   u64 a page: its first mixed key
//! CRCS   u32 a page: its CRC-32C
//! ```

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::format::{FileEntry, FileReader, FileWriter, Kind, Section, as_bytes, from_bytes};
use crate::types::{Key, Row};
use crate::vfs::Vfs;

const PAGE: [u8; 4] = *b"PAGE";
const FENC: [u8; 4] = *b"FENC";
const CRCS: [u8; 4] = *b"CRCS";

const ENTRIES: usize = 256;
const PAGE_BYTES: usize = ENTRIES * 12;

/// Spreads keys evenly over 64 bits; a bijection (the finalizer of SplitMix64, by Steele, Lea and Flood).
pub(crate) fn mix(key: Key) -> u64 {
    let mut z = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Writes a key file; entries come in the order of their mixed keys.
pub(crate) struct KeysWriter {
    file: FileWriter,
    keys: Vec<u64>,
    rows: Vec<u32>,
    fences: Vec<u64>,
    checksums: Vec<u32>,
}

impl KeysWriter {
    pub(crate) fn create(vfs: &dyn Vfs, path: &Path, index_id: [u8; 16]) -> Result<KeysWriter> {
        let mut file = FileWriter::create(vfs, path, Kind::Keys, index_id)?;
        file.begin(PAGE)?;
        let (keys, rows) = (Vec::with_capacity(ENTRIES), Vec::with_capacity(ENTRIES));
        Ok(KeysWriter { file, keys, rows, fences: Vec::new(), checksums: Vec::new() })
    }

    pub(crate) fn push(&mut self, key: Key, row: Row) -> Result<()> {
        if self.keys.is_empty() {
            self.fences.push(mix(key));
        }
        self.keys.push(key);
        self.rows.push(row);
        if self.keys.len() == ENTRIES { self.end_page() } else { Ok(()) }
    }

    fn end_page(&mut self) -> Result<()> {
        self.keys.resize(ENTRIES, 0);
        self.rows.resize(ENTRIES, 0);
        let (keys, rows) = (as_bytes(&self.keys), as_bytes(&self.rows));
        self.checksums.push(crc32c::crc32c_append(crc32c::crc32c(keys), rows));
        self.file.write(keys)?;
        self.file.write(rows)?;
        self.keys.clear();
        self.rows.clear();
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Result<FileEntry> {
        if !self.keys.is_empty() {
            self.end_page()?;
        }
        self.file.end()?;
        self.file.write_array(FENC, &self.fences)?;
        self.file.write_array(CRCS, &self.checksums)?;
        self.file.finish()
    }
}

/// An open key file.
#[derive(Debug)]
pub(crate) struct Keys {
    path: PathBuf,
    file: FileReader,
    pages: Section,
    rows: u64,
    /// Whether a key may have several rows.
    repeated: bool,
    fences: Vec<u64>,
    checksums: Vec<u32>,
}

impl Keys {
    /// Opens the file of an index of `rows` rows; `repeated` says whether a key may have several.
    pub(crate) fn open(vfs: &dyn Vfs, path: &Path, index_id: &[u8; 16], rows: u64, repeated: bool) -> Result<Keys> {
        let file = FileReader::open(vfs, path, Kind::Keys, Some(index_id))?;
        let pages = file.section(PAGE)?;
        let fences: Vec<u64> = file.read_array(FENC)?;
        let checksums: Vec<u32> = file.read_array(CRCS)?;
        let expected = rows.div_ceil(ENTRIES as u64);
        if [fences.len() as u64, checksums.len() as u64, pages.length / PAGE_BYTES as u64] != [expected; 3] {
            return Err(Error::corrupt(path, "PAGE", format!("{rows} rows need {expected} pages")));
        }
        Ok(Keys { path: path.to_path_buf(), file, pages, rows, repeated, fences, checksums })
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.fences.len() * 12
    }

    /// The row of `key`, if the index has it; the first one where it has several.
    pub(crate) fn row(&self, key: Key) -> Result<Option<Row>> {
        if self.repeated {
            return Ok(self.rows(key)?.first().copied());
        }
        let page = self.fences.partition_point(|&fence| fence <= mix(key));
        if page == 0 {
            return Ok(None);
        }
        let (keys, rows) = self.page(page - 1)?;
        Ok(keys.iter().position(|&k| k == key).map(|at| rows[at]))
    }

    /// All rows of `key`, in the order in which its views were given; none if the index lacks it.
    pub(crate) fn rows(&self, key: Key) -> Result<Vec<Row>> {
        // The page before the first one that begins with the key may end with it.
        let first = self.fences.partition_point(|&fence| fence < mix(key)).saturating_sub(1);
        let end = self.fences.partition_point(|&fence| fence <= mix(key));
        let mut found = Vec::new();
        for page in first..end {
            let (keys, rows) = self.page(page)?;
            found.extend(keys.iter().zip(rows).filter(|(k, _)| **k == key).map(|(_, row)| row));
        }
        Ok(found)
    }

    /// Keys and rows of one page.
    fn page(&self, page: usize) -> Result<(Vec<Key>, Vec<Row>)> {
        let mut bytes = vec![0; PAGE_BYTES];
        self.file.read_at(&self.pages, (page * PAGE_BYTES) as u64, &mut bytes)?;
        if crc32c::crc32c(&bytes) != self.checksums[page] {
            return Err(Error::corrupt(&self.path, "PAGE", format!("the checksum of page {page} is wrong")));
        }
        let used = (self.rows - (page * ENTRIES) as u64).min(ENTRIES as u64) as usize;
        let mut keys: Vec<Key> = from_bytes(&bytes[..ENTRIES * 8]);
        let mut rows: Vec<Row> = from_bytes(&bytes[ENTRIES * 8..]);
        keys.truncate(used);
        rows.truncate(used);
        match rows.iter().find(|&&row| u64::from(row) >= self.rows) {
            Some(row) => Err(Error::corrupt(&self.path, "PAGE", format!("page {page} names row {row}"))),
            None => Ok((keys, rows)),
        }
    }

    /// Reads every page, in order, for `check-index`.
    pub(crate) fn for_each(&self, mut f: impl FnMut(Key, Row) -> Result<()>) -> Result<()> {
        let mut last = None;
        for page in 0..self.fences.len() {
            let (keys, rows) = self.page(page)?;
            if self.fences[page] != mix(keys[0]) {
                return Err(Error::corrupt(&self.path, "FENC", format!("entry {page} does not match its page")));
            }
            for (key, row) in keys.into_iter().zip(rows) {
                if last.is_some_and(|l| l > mix(key) || l == mix(key) && !self.repeated) {
                    return Err(Error::corrupt(&self.path, "PAGE", format!("page {page}: key {key} is out of order")));
                }
                last = Some(mix(key));
                f(key, row)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::MemoryVfs;

    #[test]
    fn every_key_is_found_and_no_other() {
        let (vfs, path) = (MemoryVfs::default(), Path::new("/keys.bg"));
        for n in [1u64, 255, 256, 257, 2_000] {
            let mut entries: Vec<(Key, Row)> = (0..n).map(|i| (i * i * 7, i as Row)).collect();
            entries.sort_by_key(|e| mix(e.0));
            let mut writer = KeysWriter::create(&vfs, path, [1; 16]).unwrap();
            entries.iter().for_each(|&(key, row)| writer.push(key, row).unwrap());
            writer.finish().unwrap();
            let keys = Keys::open(&vfs, path, &[1; 16], n, false).unwrap();
            for i in 0..n {
                assert_eq!(keys.row(i * i * 7).unwrap(), Some(i as Row));
                assert_eq!(keys.row(i * i * 7 + 3).unwrap(), None);
            }
            let mut seen = 0;
            keys.for_each(|_, _| {
                seen += 1;
                Ok(())
            })
            .unwrap();
            assert_eq!(seen, n);
            assert!(Keys::open(&vfs, path, &[1; 16], n + 256, false).is_err());
        }
    }

    #[test]
    fn all_rows_of_a_key_are_found_over_the_ends_of_pages() {
        let (vfs, path) = (MemoryVfs::default(), Path::new("/keys.bg"));
        // Key k has k rows: of 700 in all, some keys lie on several pages.
        let mut of_key: Vec<(Key, Vec<Row>)> = (0..37).map(|k| (k, Vec::new())).collect();
        let mut next = 0;
        for (key, rows) in &mut of_key {
            rows.extend((0..*key as Row).rev().map(|view| next + view));
            next += *key as Row;
        }
        of_key.push((99, (next..next + 600).collect()));
        of_key.sort_by_key(|(key, _)| mix(*key));
        let mut writer = KeysWriter::create(&vfs, path, [1; 16]).unwrap();
        of_key.iter().for_each(|(key, rows)| rows.iter().for_each(|&row| writer.push(*key, row).unwrap()));
        writer.finish().unwrap();
        let count = u64::from(next) + 600;
        let keys = Keys::open(&vfs, path, &[1; 16], count, true).unwrap();
        for (key, rows) in &of_key {
            assert_eq!(&keys.rows(*key).unwrap(), rows, "key {key}");
            assert_eq!(keys.row(*key).unwrap(), rows.first().copied());
        }
        assert!(keys.rows(1_000).unwrap().is_empty());
        keys.for_each(|_, _| Ok(())).unwrap();
        let single = Keys::open(&vfs, path, &[1; 16], count, false).unwrap();
        assert!(single.for_each(|_, _| Ok(())).unwrap_err().to_string().contains("out of order"));
    }
}
