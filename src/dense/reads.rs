//! What the positioned readers share: open shards, aligned buffers, and the plan that merges neighbouring rows into reads.

use bytemuck::{Pod, Zeroable};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::{RecordLayout, RecordRef, VECS};
use crate::error::{Error, Result};
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
}

impl std::fmt::Debug for ShardFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardFile").field("path", &self.path).finish()
    }
}

impl ShardFile {
    /// Opens all shards, past the page cache if asked and possible.
    pub(super) fn open_all(
        vfs: &dyn Vfs,
        files: &[FileReader],
        direct: bool,
        notes: &mut Vec<String>,
    ) -> Result<Vec<ShardFile>> {
        let mut shards = Vec::with_capacity(files.len());
        for file in files {
            let path = file.path().to_path_buf();
            if file.section(VECS)?.offset != PAGE {
                return Err(Error::corrupt(path, "VECS", "its records are not where they should be"));
            }
            let opened = if direct { open_direct(vfs, &path, notes)? } else { vfs.open(&path)? };
            shards.push(ShardFile { path, file: opened });
        }
        Ok(shards)
    }
}

fn open_direct(vfs: &dyn Vfs, path: &Path, notes: &mut Vec<String>) -> Result<Box<dyn ReadFile>> {
    vfs.open_direct(path).or_else(|error| {
        notes.push(format!("direct reads are not available ({error}); the page cache is used"));
        vfs.open(path)
    })
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
    /// The buffer for a read, grown if need be.
    pub(super) fn buffer(&mut self, read: &Read) -> &mut [u8] {
        let pages = (read.length / PAGE) as usize;
        if self.pages.len() < pages {
            self.pages.resize(pages, Page::zeroed());
        }
        &mut bytemuck::cast_slice_mut(&mut self.pages)[..read.length as usize]
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

/// Verifies and hands out the records that a read brought.
pub(super) fn deliver(
    files: &[ShardFile],
    layout: &RecordLayout,
    rows: &[Row],
    read: &Read,
    slot: &Slot,
    f: &mut dyn FnMut(usize, RecordRef<'_>),
) -> Result<()> {
    for i in read.rows.clone() {
        let at = layout.place(rows[i]).1;
        let start = (PAGE + layout.offset(at) - read.offset) as usize;
        let record = &slot.bytes()[start..start + layout.stride()];
        if !layout.is_whole(record) {
            let path = &files[read.shard].path;
            return Err(Error::corrupt(path, "VECS", format!("the checksum of record {at} is wrong")));
        }
        f(i, RecordRef::new(layout, record));
    }
    Ok(())
}
