//! Dense vectors on SSD: shards of records in row order, and the ways to read a few of them.
//!
//! The easy version maps the shards and reads through the map. That is the default ([`Store::Mmap`]), and the fastest
//! way while the shards fit the page cache. Departures:
//! - **Random advice.** With the system's read-ahead, one cold 4 KiB touch reads a hundred times as much.
//! - **Checksums once.** Every record carries a CRC-32C. It is verified whenever bytes come from the device: on every
//!   positioned read, and in a map on the first touch of a record, remembered in a bitmap.
//! - **First touches are announced.** A page fault waits for one read of the device. Records of a map that were never
//!   touched are asked of the system (`MADV_WILLNEED`) 64 ahead, so that their reads overlap; those touched before most
//!   likely are in memory, and a system call for each would cost more than scoring them.
//! - **The next record is asked for while this one is scored** (prefetch), since rows are scattered over the shard.
//! - **Beyond memory**, a page fault blocks its thread for one device latency a record. [`Store::Uring`] submits a whole
//!   batch of page-aligned reads and scores records as they arrive; [`Store::Pread`] does the same with a fixed pool of
//!   threads. Neighbouring pages are read together. Both can read past the page cache.
//! - [`Store::Memory`] loads everything into huge pages: for small indexes, and to tell what the reading costs.
//!
//! All readers hand [`RecordRef`]s to the same function; which one runs changes no answer.

#![allow(unsafe_code)] // maps, aligned pages and rings; each use states why it is sound

mod layout;
mod mapped;
mod pread;
mod reads;
#[cfg(test)]
mod tests;
#[cfg(target_os = "linux")]
mod uring;
mod writer;

pub use layout::{RecordLayout, RecordRef};
pub use writer::DenseWriter;

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::format::{FileEntry, FileReader, Kind, PAGE};
use crate::types::Row;
use crate::vfs::Vfs;
use mapped::Mapped;
use pread::PreadReader;
use reads::ShardFile;

const VECS: [u8; 4] = *b"VECS";

/// How dense vectors are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Store {
    /// Memory-mapped shards.
    #[default]
    Mmap,
    /// Positioned reads by a fixed pool of threads.
    Pread,
    /// Batches of reads through io_uring (Linux).
    Uring,
    /// Everything loaded when opened.
    Memory,
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Store::Mmap => "mmap",
            Store::Pread => "pread",
            Store::Uring => "uring",
            Store::Memory => "memory",
        })
    }
}

impl FromStr for Store {
    type Err = Error;
    fn from_str(text: &str) -> Result<Store> {
        [Store::Mmap, Store::Pread, Store::Uring, Store::Memory]
            .into_iter()
            .find(|store| store.to_string() == text)
            .ok_or_else(|| Error::params("store", format!("{text:?} is not one of mmap, pread, uring, memory")))
    }
}

/// What a fetch cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FetchStats {
    /// Records handed out.
    pub vectors: usize,
    /// Bytes read, or touched in a map.
    pub bytes: usize,
    /// Reads issued; 0 for maps and memory.
    pub reads: usize,
}

/// Working memory of one thread's fetches: buffers, and a ring of its own.
#[derive(Debug, Default)]
pub struct FetchScratch {
    plan: Vec<reads::Read>,
    #[cfg(target_os = "linux")]
    ring: Option<uring::Ring>,
    slots: Vec<reads::Slot>,
    replies: Option<pread::Replies>,
}

/// What is done with a record and its place in the rows asked for.
type OnRecord<'a> = &'a mut dyn FnMut(usize, RecordRef<'_>);

/// The dense vectors of an index.
#[derive(Debug)]
pub struct DenseSet {
    layout: RecordLayout,
    rows: u64,
    reader: Reader,
    store: Store,
    notes: Vec<String>,
}

#[derive(Debug)]
enum Reader {
    Mapped(Vec<Mapped>),
    Pread(PreadReader),
    #[cfg(target_os = "linux")]
    Uring(Vec<ShardFile>),
}

impl DenseSet {
    /// Opens the shards `entries` in `dir` after checking their headers. `direct` asks for reads past the page cache.
    /// Where io_uring or direct reads cannot be had, the next best way is taken and [`DenseSet::notes`] says why.
    #[allow(clippy::too_many_arguments, reason = "what a manifest says, once, when an index is opened")]
    pub fn open(
        vfs: &dyn Vfs,
        dir: &Path,
        entries: &[FileEntry],
        index_id: &[u8; 16],
        layout: RecordLayout,
        rows: u64,
        store: Store,
        direct: bool,
    ) -> Result<DenseSet> {
        if entries.len() != layout.shards(rows) {
            let found = format!("{} dense shards are named, {rows} rows need {}", entries.len(), layout.shards(rows));
            return Err(Error::corrupt(dir, "manifest", found));
        }
        let files: Vec<FileReader> = entries
            .iter()
            .enumerate()
            .map(|(shard, entry)| {
                open_shard(vfs, &dir.join(&entry.name), index_id, &layout, layout.shard_rows(shard, rows))
            })
            .collect::<Result<_>>()?;
        let mut notes = Vec::new();
        let store = effective(store, &files, &mut notes);
        let reader = match store {
            Store::Mmap => Reader::Mapped(mapped::map_all(&files, &layout, rows)?),
            Store::Memory => Reader::Mapped(mapped::load_all(&files)?),
            Store::Pread => Reader::Pread(PreadReader::new(ShardFile::open_all(vfs, files, direct, &mut notes))),
            #[cfg(target_os = "linux")]
            Store::Uring => Reader::Uring(ShardFile::open_all(vfs, files, direct, &mut notes)),
            #[cfg(not(target_os = "linux"))]
            Store::Uring => unreachable!("effective() replaced it"),
        };
        Ok(DenseSet { layout, rows, reader, store, notes })
    }

    /// How vectors are really read.
    pub fn store(&self) -> Store {
        self.store
    }

    /// What an operator should know: why another way of reading than the one asked for is used.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Shape of the records.
    pub fn layout(&self) -> &RecordLayout {
        &self.layout
    }

    /// Calls `f` once for each of `rows` (ascending, below the number of rows) with its place in `rows` and its record,
    /// in the order in which records arrive. The scratch may serve any thread and any set, one fetch at a time.
    ///
    /// # Errors
    /// `Corrupt` naming the file and row of a damaged record, `Io` of a failed read; some records may have been handed
    /// out before, none is afterwards, and the scratch is as good as new.
    pub fn for_each(&self, rows: &[Row], scratch: &mut FetchScratch, f: OnRecord<'_>) -> Result<FetchStats> {
        assert!(rows.last().is_none_or(|&row| u64::from(row) < self.rows), "rows are those of this index");
        debug_assert!(rows.is_sorted());
        match &self.reader {
            Reader::Mapped(shards) => mapped::for_each(shards, &self.layout, rows, f),
            Reader::Pread(reader) => reader.for_each(&self.layout, rows, scratch, f),
            #[cfg(target_os = "linux")]
            Reader::Uring(files) => uring::for_each(files, &self.layout, rows, scratch, f),
        }
    }
}

/// Opens one shard and checks that it holds `rows` records where they should be.
fn open_shard(vfs: &dyn Vfs, path: &Path, index_id: &[u8; 16], layout: &RecordLayout, rows: u64) -> Result<FileReader> {
    let file = FileReader::open(vfs, path, Kind::Dense, Some(index_id))?;
    let (section, needed) = (file.section(VECS)?, layout.section_bytes(rows));
    if section.length != needed {
        let reason = format!("its length is {}, the {rows} rows of this shard need {needed}", section.length);
        return Err(Error::corrupt(path, "VECS", reason));
    }
    if section.offset != PAGE {
        return Err(Error::corrupt(path, "VECS", format!("it begins at {}, not at {PAGE}", section.offset)));
    }
    Ok(file)
}

/// The store that this system can do for these files, nearest to the one asked for.
fn effective(store: Store, files: &[FileReader], notes: &mut Vec<String>) -> Store {
    if store != Store::Uring {
        return store;
    }
    let simulated = files.iter().any(|file| file.file().as_file().is_none());
    #[cfg(target_os = "linux")]
    let refused = uring::probe().err().map(|e| e.to_string());
    #[cfg(not(target_os = "linux"))]
    let refused = Some("it is a feature of Linux".to_string());
    match refused.or(simulated.then(|| "the files are simulated".to_string())) {
        None => Store::Uring,
        Some(reason) => {
            notes.push(format!("io_uring is not available ({reason}); positioned reads are used instead"));
            Store::Pread
        }
    }
}

/// Record `at` of the shard `path`, which is `row` of the index, is not what was written.
fn damaged(path: &Path, row: Row, at: u64) -> Error {
    Error::corrupt(path, "VECS", format!("the checksum of row {row}, record {at} of this shard, is wrong"))
}
