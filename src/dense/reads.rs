//! What the positioned readers share: open shards, aligned buffers, and the plan that merges neighbouring rows into reads.

use bytemuck::{Pod, Zeroable};
use std::ops::Range;
use std::path::PathBuf;

use super::cache::PageCache;
use super::{FetchScratch, FetchStats, OnRecord, RecordLayout, RecordRef, damaged};
use crate::error::Result;
use crate::format::{FileReader, PAGE};
use crate::types::Row;
use crate::vfs::{ReadFile, Vfs};

/// A read grows by merging neighbours up to this many bytes: on SSDs 16 KiB take as long as 4 KiB.
const MAX_READ: u64 = 16 << 10;
/// Bytes between two rows that are read along rather than starting another read.
const MAX_GAP: u64 = 4 << 10;

/// A shard open for positioned reads.
pub(super) struct ShardFile {
    pub(super) path: PathBuf,
    pub(super) file: Box<dyn ReadFile>,
    /// Reads go past the page cache.
    pub(super) direct: bool,
}

impl std::fmt::Debug for ShardFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardFile").field("path", &self.path).field("direct", &self.direct).finish()
    }
}

impl ShardFile {
    /// All shards, past the page cache if asked and possible; if it is not, says so once.
    pub(super) fn open_all(
        vfs: &dyn Vfs,
        files: Vec<FileReader>,
        direct: bool,
        notes: &mut Vec<String>,
    ) -> Vec<ShardFile> {
        let mut direct = direct;
        let open = |header: FileReader| {
            let path = header.path().to_path_buf();
            if direct {
                match open_direct(vfs, &header) {
                    Ok(file) => return ShardFile { path, file, direct },
                    Err(error) => {
                        notes.push(format!("direct reads are not available ({error}); the page cache is used"));
                        direct = false;
                    }
                }
            }
            let file = header.into_file();
            advise_random(&*file);
            ShardFile { path, file, direct }
        };
        files.into_iter().map(open).collect()
    }
}

/// Opens a shard past the page cache, and reads a page to see whether that works: some file systems let a file be opened
/// so, and refuse the reads.
fn open_direct(vfs: &dyn Vfs, header: &FileReader) -> Result<Box<dyn ReadFile>> {
    let file = vfs.open_direct(header.path())?;
    file.read_exact_at(0, Slot::default().buffer(PAGE))?;
    Ok(file)
}

/// Tells the system to read what is asked for, and nothing ahead. Advice: that it is not taken does no harm.
fn advise_random(file: &dyn ReadFile) {
    #[cfg(target_os = "linux")]
    if let Some(file) = file.as_file() {
        let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::Random);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = file;
}

/// One page of a buffer: direct reads need the alignment.
#[derive(Clone, Copy)]
#[repr(C, align(4096))]
pub(super) struct Page([u8; PAGE as usize]);

// SAFETY: an array of bytes without padding (its size is its alignment), valid for every bit pattern, zero included.
unsafe impl Zeroable for Page {}
// SAFETY: as above; `repr(C)` and `Copy`.
unsafe impl Pod for Page {}

/// A buffer and the read it is for.
#[derive(Default)]
pub(super) struct Slot {
    pages: Vec<Page>,
    /// Index of the read in the plan.
    pub(super) read: usize,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot").field("pages", &self.pages.len()).field("read", &self.read).finish()
    }
}

impl Slot {
    /// `length` bytes, a multiple of a page, to read into.
    pub(super) fn buffer(&mut self, length: u64) -> &mut [u8] {
        let pages = (length / PAGE) as usize;
        if self.pages.len() < pages {
            self.pages.resize(pages, Page::zeroed());
        }
        bytemuck::cast_slice_mut(&mut self.pages[..pages])
    }

    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.pages)
    }
}

/// One read of whole pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) shard: usize,
    /// First byte in the file; a multiple of a page.
    pub(super) offset: u64,
    /// A multiple of a page.
    pub(super) length: u64,
    /// The rows it brings, as places in the list of rows.
    pub(super) rows: Range<usize>,
}

/// Merges ascending rows into reads.
pub(super) fn plan(layout: &RecordLayout, rows: &[Row], reads: &mut Vec<Read>) {
    reads.clear();
    for (i, &row) in rows.iter().enumerate() {
        let (shard, at) = layout.place(row);
        let start = PAGE + layout.offset(at);
        let end = (start + layout.stride() as u64).next_multiple_of(PAGE);
        let start = start / PAGE * PAGE;
        if let Some(last) = reads.last_mut()
            && last.shard == shard
            && start <= last.offset + last.length + MAX_GAP
            && (end <= last.offset + last.length || end - last.offset <= MAX_READ)
        {
            last.length = last.length.max(end - last.offset);
            last.rows.end = i + 1;
        } else {
            reads.push(Read { shard, offset: start, length: end - start, rows: i..i + 1 });
        }
    }
}

/// Rows that are not in memory.
#[derive(Debug, Default)]
pub(super) struct Misses {
    pub(super) rows: Vec<Row>,
    /// Their places in the rows asked for.
    pub(super) places: Vec<usize>,
}

/// What every fetch of a reader has in common.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) files: &'a [ShardFile],
    pub(super) layout: &'a RecordLayout,
    /// Where pages are looked for before they are read, and kept afterwards.
    pub(super) cache: Option<&'a PageCache>,
}

/// The reads of one call of [`super::DenseSet::for_each`].
pub(super) struct Fetch<'a> {
    pub(super) source: Source<'a>,
    /// The rows to read.
    pub(super) rows: &'a [Row],
    pub(super) reads: &'a [Read],
}

impl Fetch<'_> {
    /// Verifies and hands out the records that the read of `slot` brought.
    pub(super) fn deliver(&self, slot: &Slot, f: OnRecord<'_>) -> Result<()> {
        let (read, Source { files, layout, cache }) = (&self.reads[slot.read], self.source);
        for i in read.rows.clone() {
            let at = layout.place(self.rows[i]).1;
            let start = (PAGE + layout.offset(at) - read.offset) as usize;
            let record = &slot.bytes()[start..start + layout.stride()];
            if !layout.is_whole(record) {
                return Err(damaged(&files[read.shard].path, self.rows[i], at));
            }
            f(i, RecordRef::new(layout, record));
        }
        if let Some(cache) = cache {
            cache.admit(&self.rows[read.rows.clone()], read.offset, slot.bytes());
        }
        Ok(())
    }
}

/// Hands out what the cache of `source` has of `rows`, plans the reads for the others and lets `run` do them.
pub(super) fn fetch(
    source: Source<'_>,
    rows: &[Row],
    scratch: &mut FetchScratch,
    f: OnRecord<'_>,
    run: impl FnOnce(&Fetch<'_>, &mut FetchScratch, OnRecord<'_>) -> Result<()>,
) -> Result<FetchStats> {
    let Some(cache) = source.cache else { return read(source, rows, scratch, f, run) };
    let mut misses = std::mem::take(&mut scratch.misses);
    cache.deliver(rows, &mut misses, f);
    let Misses { rows: missing, places } = &misses;
    let stats = read(source, missing, scratch, &mut |i, record| f(places[i], record), run);
    scratch.misses = misses;
    stats.map(|read| FetchStats { vectors: rows.len(), cached: rows.len() - read.vectors, ..read })
}

/// Plans the reads for `rows` and lets `run` do them.
fn read(
    source: Source<'_>,
    rows: &[Row],
    scratch: &mut FetchScratch,
    f: OnRecord<'_>,
    run: impl FnOnce(&Fetch<'_>, &mut FetchScratch, OnRecord<'_>) -> Result<()>,
) -> Result<FetchStats> {
    if rows.is_empty() {
        return Ok(FetchStats::default());
    }
    let mut reads = std::mem::take(&mut scratch.plan);
    plan(source.layout, rows, &mut reads);
    let done = run(&Fetch { source, rows, reads: &reads }, scratch, f);
    let bytes = reads.iter().map(|read| read.length as usize).sum();
    let stats = FetchStats { vectors: rows.len(), cached: 0, bytes, reads: reads.len() };
    scratch.plan = reads;
    done.map(|()| stats)
}
