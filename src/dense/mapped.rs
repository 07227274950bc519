//! Shards in the address space: mapped files, or files loaded into anonymous memory.

use memmap2::{Advice, Mmap, MmapMut};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{FetchStats, OnRecord, RecordLayout, RecordRef, VECS, damaged};
use crate::error::{Error, Result};
use crate::format::{FileReader, PAGE};
use crate::simd::prefetch;
use crate::types::Row;

/// Bytes of records asked of memory ahead of the one being scored, and the bounds of the number of records that they are:
/// enough for the latency of memory while short records are scored, and not more than the first-level cache holds.
const AHEAD_BYTES: usize = 8 << 10;
const LEAST_AHEAD: usize = 2;
const MOST_AHEAD: usize = 32;
/// Records asked of the device ahead of the one being scored, where they were never touched before.
const READ_AHEAD: usize = 64;

/// One shard.
#[derive(Debug)]
pub(super) struct Mapped {
    path: PathBuf,
    bytes: Bytes,
    /// One bit a record: its checksum was verified. Empty where the whole shard was verified when loaded.
    checked: Vec<AtomicU64>,
}

#[derive(Debug)]
enum Bytes {
    /// The whole file.
    File(Mmap),
    /// The section of records.
    Loaded(MmapMut),
}

impl Mapped {
    /// The section of records.
    fn records(&self) -> &[u8] {
        match &self.bytes {
            // Records are the first section of the file, which begins on the second page.
            Bytes::File(map) => &map[PAGE as usize..],
            Bytes::Loaded(map) => map,
        }
    }

    /// Whether record `at` was checked before.
    fn is_checked(&self, at: u64) -> bool {
        let word = self.checked.get(at as usize / 64);
        word.is_none_or(|word| word.load(Ordering::Relaxed) & 1 << (at % 64) != 0)
    }

    /// Checks the record of `row`, which is record `at` of this shard, unless that was done before.
    fn verify(&self, layout: &RecordLayout, row: Row, at: u64, record: &[u8]) -> Result<()> {
        if self.is_checked(at) {
            return Ok(());
        }
        if !layout.is_whole(record) {
            return Err(damaged(&self.path, row, at));
        }
        self.checked[at as usize / 64].fetch_or(1 << (at % 64), Ordering::Relaxed);
        Ok(())
    }

    /// Tells the system that record `at` will be read. Advice: that it is not taken does no harm.
    fn will_need(&self, layout: &RecordLayout, at: u64) {
        if let Bytes::File(map) = &self.bytes {
            let _ = map.advise_range(Advice::WillNeed, (PAGE + layout.offset(at)) as usize, layout.stride());
        }
    }
}

/// Maps every shard; simulated files, which cannot be mapped, are loaded.
pub(super) fn map_all(files: &[FileReader], layout: &RecordLayout, rows: u64) -> Result<Vec<Mapped>> {
    let map = |(shard, file): (usize, &FileReader)| {
        let Some(real) = file.file().as_file() else { return load(file) };
        // SAFETY: the map is read-only, and index files are immutable once their manifest names them: writers only
        // create new files and remove old ones, which keeps the pages of open maps. A file that someone truncates by
        // force makes later reads fault; that is the operating system's answer to it for every mapped file.
        let map = unsafe { Mmap::map(real) }.map_err(Error::io(file.path()))?;
        if (map.len() as u64) < file.len() {
            return Err(Error::corrupt(file.path(), "VECS", "the file was cut short while it was opened"));
        }
        // Advice: without it, the system reads 128 KiB around every touched page.
        map.advise(Advice::Random).map_err(Error::io(file.path()))?;
        let words = layout.shard_rows(shard, rows).div_ceil(64) as usize;
        let checked = std::iter::repeat_with(AtomicU64::default).take(words).collect();
        Ok(Mapped { path: file.path().to_path_buf(), bytes: Bytes::File(map), checked })
    };
    files.iter().enumerate().map(map).collect()
}

/// Loads every shard, verifying the checksum of the whole.
pub(super) fn load_all(files: &[FileReader]) -> Result<Vec<Mapped>> {
    files.iter().map(load).collect()
}

fn load(file: &FileReader) -> Result<Mapped> {
    let length = file.section(VECS)?.length as usize;
    let mut map = MmapMut::map_anon(length.max(1)).map_err(Error::io(file.path()))?;
    // Advice only: a system without huge pages serves from small ones.
    let _ = map.advise(Advice::HugePage);
    file.read_section_into(VECS, &mut map[..length])?;
    Ok(Mapped { path: file.path().to_path_buf(), bytes: Bytes::Loaded(map), checked: Vec::new() })
}

/// See [`super::DenseSet::for_each`].
pub(super) fn for_each(shards: &[Mapped], layout: &RecordLayout, rows: &[Row], f: OnRecord<'_>) -> Result<FetchStats> {
    let record = |row: Row| {
        let (shard, at) = layout.place(row);
        (&shards[shard], at, &shards[shard].records()[layout.offset(at) as usize..][..layout.stride()])
    };
    let ask = |row: Row| {
        let (shard, at, _) = record(row);
        if !shard.is_checked(at) {
            shard.will_need(layout, at);
        }
    };
    let ahead = (AHEAD_BYTES / layout.stride()).clamp(LEAST_AHEAD, MOST_AHEAD);
    rows.iter().take(READ_AHEAD).for_each(|&row| ask(row));
    rows.iter().take(ahead).for_each(|&row| prefetch(record(row).2));
    for (i, &row) in rows.iter().enumerate() {
        if let Some(&later) = rows.get(i + READ_AHEAD) {
            ask(later);
        }
        if let Some(&next) = rows.get(i + ahead) {
            prefetch(record(next).2);
        }
        let (shard, at, bytes) = record(row);
        shard.verify(layout, row, at, bytes)?;
        f(i, RecordRef::new(layout, bytes));
    }
    Ok(FetchStats { vectors: rows.len(), cached: 0, bytes: rows.len() * layout.stride(), reads: 0 })
}
