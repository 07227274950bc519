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
//! - **Records are asked of memory before they are scored** (prefetch), as many as cover its latency, since rows are scattered over
//!   the shard.
//! - **Beyond memory**, a page fault blocks its thread for one device latency a record. [`Store::Uring`] submits a whole
//!   batch of page-aligned reads and scores records as they arrive; [`Store::Pread`] does the same with a fixed pool of
//!   threads. Neighbouring pages are read together. Both can read past the page cache.
//! - [`Store::Memory`] loads everything into huge pages: for small indexes, and to tell what the reading costs.
//! - **Hot pages stay in memory** where reads go past the system's page cache: a cache of a given size, whose pages were
//!   verified when they came in and which one-off scans do not wash out ([`OpenOptions::page_cache`]).
//! - **Most candidates need no read at all** where memory has room for a coarser copy: every vector as int8
//!   ([`Int8Tier`]), with bounds so sound that leaving out what they exclude changes no answer.
//!
//! All readers hand [`RecordRef`]s to the same function; which one runs changes no answer.

#![allow(unsafe_code)] // maps, aligned pages and rings; each use states why it is sound

mod cache;
mod layout;
mod mapped;
mod pread;
mod reads;
#[cfg(test)]
mod tests;
mod tier;
#[cfg(target_os = "linux")]
mod uring;
mod writer;

pub use layout::{RecordLayout, RecordRef};
pub use tier::{Int8Tier, TierQuery};
pub use writer::DenseWriter;

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::format::{FileEntry, FileReader, Kind, PAGE};
use crate::types::{Element, Row, names};
use crate::vfs::Vfs;
use cache::PageCache;
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

/// What is kept in memory of every dense vector, to score candidates without a read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Nothing.
    #[default]
    None,
    /// One byte an element and 8 bytes a row ([`Int8Tier`]).
    Int8,
}

names!(Tier, "dense_tier", Tier::None => "none", Tier::Int8 => "int8");

/// How to open the dense vectors of an index.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenOptions {
    /// How vectors are read.
    pub store: Store,
    /// Read past the system's page cache (positioned reads and io_uring only).
    pub direct: bool,
    /// Most bytes of pages that direct reads keep in memory for the next query; 0: none. The process may grow by more: an
    /// allocator keeps what lies between pages that went.
    pub page_cache: u64,
    /// What is kept in memory of every vector.
    pub tier: Tier,
}

impl OpenOptions {
    /// Refuses a page cache where the system has one already.
    fn check(&self) -> Result<()> {
        let own_reads = matches!(self.store, Store::Pread | Store::Uring) && self.direct;
        if self.page_cache == 0 || own_reads {
            return Ok(());
        }
        let (bytes, store) = (self.page_cache, self.store);
        let way = if self.direct { "" } else { " without direct reads" };
        let reason = format!(
            "{bytes} bytes for pages are of use only to direct reads by pread or uring, not to {store}{way}; give 0, or \
             store uring with direct"
        );
        Err(Error::params("page_cache", reason))
    }
}

/// What a fetch cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FetchStats {
    /// Records handed out.
    pub vectors: usize,
    /// Those of them that came from the page cache.
    pub cached: usize,
    /// Bytes read, or touched in a map.
    pub bytes: usize,
    /// Reads issued; 0 for maps and memory.
    pub reads: usize,
}

/// Working memory of one thread's fetches: buffers, and a ring of its own.
#[derive(Debug, Default)]
pub struct FetchScratch {
    plan: Vec<reads::Read>,
    misses: reads::Misses,
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
    cache: Option<PageCache>,
    tier: Option<Int8Tier>,
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
    /// Opens the shards `entries` in `dir` after checking their headers; a tier reads every vector once, on rayon's threads.
    /// Where io_uring or direct reads cannot be had, the next best way is taken and [`DenseSet::notes`] says why.
    ///
    /// # Errors
    /// `InvalidParams` for a page cache that is too small or of no use, and for a tier of vectors that are int8 already;
    /// `Corrupt` and `Io` naming the shard.
    pub fn open(
        vfs: &dyn Vfs,
        dir: &Path,
        entries: &[FileEntry],
        index_id: &[u8; 16],
        layout: RecordLayout,
        rows: u64,
        options: &OpenOptions,
    ) -> Result<DenseSet> {
        options.check()?;
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
        let (store, direct) = (effective(options.store, &files, &mut notes), options.direct);
        let reader = match store {
            Store::Mmap => Reader::Mapped(mapped::map_all(&files, &layout, rows)?),
            Store::Memory => Reader::Mapped(mapped::load_all(&files)?),
            Store::Pread => Reader::Pread(PreadReader::new(ShardFile::open_all(vfs, files, direct, &mut notes))),
            #[cfg(target_os = "linux")]
            Store::Uring => Reader::Uring(ShardFile::open_all(vfs, files, direct, &mut notes)),
            #[cfg(not(target_os = "linux"))]
            Store::Uring => unreachable!("effective() replaced it"),
        };
        let cache = PageCache::new(options.page_cache, layout, rows)?;
        let mut set = DenseSet { layout, rows, reader, cache, tier: None, store, notes };
        if options.tier == Tier::Int8 {
            set.tier = Some(Int8Tier::build(&set)?);
        }
        Ok(set)
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

    /// Number of vectors.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The vectors that are kept in memory as int8, if any are.
    pub fn tier(&self) -> Option<&Int8Tier> {
        self.tier.as_ref()
    }

    /// Bytes of the tier and of the pages that the cache holds now.
    pub fn memory_bytes(&self) -> u64 {
        self.cache.as_ref().map_or(0, PageCache::memory_bytes) + self.tier.as_ref().map_or(0, Int8Tier::memory_bytes)
    }

    /// Calls `f` once for each of `rows` (ascending, below the number of rows) with its place in `rows` and its record,
    /// in the order in which records arrive. The scratch may serve any thread and any set, one fetch at a time.
    ///
    /// # Errors
    /// `Corrupt` naming the file and row of a damaged record, `Io` of a failed read; some records may have been handed
    /// out before, none is afterwards, and the scratch is as good as new.
    pub fn for_each(&self, rows: &[Row], scratch: &mut FetchScratch, f: OnRecord<'_>) -> Result<FetchStats> {
        self.read(self.cache.as_ref(), rows, scratch, f)
    }

    /// [`DenseSet::for_each`] past the page cache: for exact search, checks and all else that reads rows whatever queries ask
    /// for. Reads every byte from where it is stored, and leaves the cache as it is.
    ///
    /// # Errors
    /// As [`DenseSet::for_each`].
    pub fn for_each_once(&self, rows: &[Row], scratch: &mut FetchScratch, f: OnRecord<'_>) -> Result<FetchStats> {
        self.read(None, rows, scratch, f)
    }

    fn read(
        &self,
        cache: Option<&PageCache>,
        rows: &[Row],
        scratch: &mut FetchScratch,
        f: OnRecord<'_>,
    ) -> Result<FetchStats> {
        assert!(rows.last().is_none_or(|&row| u64::from(row) < self.rows), "rows are those of this index");
        debug_assert!(rows.is_sorted());
        match &self.reader {
            Reader::Mapped(shards) => mapped::for_each(shards, &self.layout, rows, f),
            Reader::Pread(reader) => reader.for_each(&self.layout, cache, rows, scratch, f),
            #[cfg(target_os = "linux")]
            Reader::Uring(files) => {
                uring::for_each(reads::Source { files, layout: &self.layout, cache }, rows, scratch, f)
            }
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
