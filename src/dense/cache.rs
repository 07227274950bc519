//! Pages that direct reads keep in memory for the next query.
//!
//! The easy version is a map from page to bytes, least recently used out first. Departures:
//! - **A scan does not wash it out.** `quick_cache` (CLOCK-Pro, with what S3-FIFO taught about one-hit wonders) lets a new
//!   page stay only if it is asked for again, soon after it came or soon after it went. What reads everything on purpose
//!   does not even ask ([`super::DenseSet::for_each_once`]).
//! - **Verified when they come in.** Every record of a page is checked before the page is kept, also those that nobody has
//!   asked for, so a hit costs no checksum, and a damaged page is read, and told of, each time anew.
//! - **Blocks, not pages of a file**: whole records only, which a hit finds by their row. A record larger than a page is a block
//!   of its own, without the pages around it.
//! - **A hit allocates nothing**: it counts a reference. Threads share the cache; the parts of it have a lock each.

use bytemuck::cast_slice;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use std::fmt;
use std::sync::Arc;

use super::reads::Misses;
use super::{OnRecord, RecordLayout, RecordRef};
use crate::error::{Error, Result};
use crate::format::PAGE;
use crate::types::Row;

/// What a block costs beside its records: counts and links of the cache, its table, the allocator's own.
const ENTRY_BYTES: u64 = 96;
/// With fewer blocks than this there is nothing to choose from.
const LEAST_BLOCKS: u64 = 16;

/// Records that lie together, as words: records begin at multiples of 4.
type Block = Arc<[u32]>;

/// See the module.
pub(super) struct PageCache {
    blocks: Cache<u32, Block, ByBytes>,
    layout: RecordLayout,
    rows: u64,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<u32, Block> for ByBytes {
    fn weight(&self, _: &u32, block: &Block) -> u64 {
        size_of_val(&block[..]) as u64 + ENTRY_BYTES
    }
}

impl fmt::Debug for PageCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageCache").field("bytes", &self.blocks.weight()).field("blocks", &self.blocks.len()).finish()
    }
}

impl PageCache {
    /// A cache of at most `bytes` for `rows` records; none for 0 bytes.
    pub(super) fn new(bytes: u64, layout: RecordLayout, rows: u64) -> Result<Option<PageCache>> {
        if bytes == 0 {
            return Ok(None);
        }
        let block = (layout.block_rows() * layout.stride()) as u64 + ENTRY_BYTES;
        if bytes < LEAST_BLOCKS * block {
            let least = LEAST_BLOCKS * block;
            let reason =
                format!("{bytes} bytes hold fewer than {LEAST_BLOCKS} blocks of {block}; give at least {least}, or 0");
            return Err(Error::params("page_cache", reason));
        }
        // Blocks of the whole index at most: what the cache remembers of blocks that went is sized by this.
        let blocks = (bytes / block).min(rows.div_ceil(layout.block_rows() as u64));
        let options = OptionsBuilder::new().estimated_items_capacity(blocks as usize).weight_capacity(bytes).build();
        let options = options.map_err(|error| Error::params("page_cache", error.to_string()))?;
        let blocks = Cache::with_options(options, ByBytes, DefaultHashBuilder::default(), DefaultLifecycle::default());
        Ok(Some(PageCache { blocks, layout, rows }))
    }

    /// Bytes held now.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.blocks.weight()
    }

    /// Hands out the records of `rows` (ascending) that are here, and leaves the other rows in `misses`.
    pub(super) fn deliver(&self, rows: &[Row], misses: &mut Misses, f: OnRecord<'_>) {
        misses.rows.clear();
        misses.places.clear();
        let mut place = 0;
        for rows in rows.chunk_by(|&a, &b| self.block_of(a) == self.block_of(b)) {
            match self.blocks.get(&self.block_of(rows[0])) {
                Some(block) => {
                    let records: &[u8] = cast_slice(&block[..]);
                    for (i, &row) in rows.iter().enumerate() {
                        let at = row as usize % self.layout.block_rows() * self.layout.stride();
                        f(place + i, RecordRef::new(&self.layout, &records[at..at + self.layout.stride()]));
                    }
                }
                None => {
                    misses.rows.extend_from_slice(rows);
                    misses.places.extend(place..place + rows.len());
                }
            }
            place += rows.len();
        }
    }

    /// Offers the blocks of `rows` (ascending), which lie in the `bytes` read from `offset` of their shard's file on. Blocks
    /// with a damaged record are not kept.
    pub(super) fn admit(&self, rows: &[Row], offset: u64, bytes: &[u8]) {
        let stride = self.layout.stride();
        for rows in rows.chunk_by(|&a, &b| self.block_of(a) == self.block_of(b)) {
            let block = self.block_of(rows[0]);
            let first = u64::from(block) * self.layout.block_rows() as u64;
            let records = (self.rows - first).min(self.layout.block_rows() as u64) as usize;
            let at = self.layout.place(first as Row).1;
            let start = (PAGE + self.layout.offset(at) - offset) as usize;
            let found = &bytes[start..start + records * stride];
            if found.chunks_exact(stride).all(|record| self.layout.is_whole(record)) {
                self.blocks.insert(block, Block::from(cast_slice::<u8, u32>(found)));
            }
        }
    }

    fn block_of(&self, row: Row) -> u32 {
        row / self.layout.block_rows() as u32
    }
}
