//! Codes in memory: inverted lists packed for the scan.
//!
//! The easy version keeps a vector of (id, code) pairs a list. Departures:
//! - **No ids.** Rows are numbered in list order, so row = first row of the list + offset. Four to eight bytes a row
//!   saved, and row order on SSD is the order in which lists are visited.
//! - **Packed blocks** in the layouts of [`crate::simd`], list after list in one arena of huge pages, each list starting
//!   on a cache line, its row terms (if any) right behind its codes.
//! - **Row terms are one byte**, scaled by a minimum and a step of the list.
//! - **Lists are announced** ([`Codes::announce`]): the beginning of the next list is on its way while this one is scanned, because
//!   scanning some hundreds of rows takes less time than memory takes to answer.
//!
//! # File
//! ```text
//! ROWS   u32 x (L+1)   first row of each list, then the number of rows
//! TERM   f32 x 2L      minimum and step of each list's row terms (only with terms)
//! CODE   bytes         list after list: packed codes, row terms, zeros up to a multiple of 64
//! ```

mod scan;
mod writer;

pub use scan::{ListScan, ScanScratch};
pub use writer::CodesWriter;

use memmap2::{Advice, MmapMut};
use std::path::Path;

use crate::error::{Error, Result};
use crate::format::{FileReader, Kind};
use crate::quantizer::CodeShape;
#[cfg(doc)]
use crate::simd::PackedRows;
use crate::simd::{packed_len, prefetch_second_level};
use crate::types::{ListId, Row};
use crate::vfs::Vfs;

const ROWS: [u8; 4] = *b"ROWS";
const TERM: [u8; 4] = *b"TERM";
const CODE: [u8; 4] = *b"CODE";

/// Lists start on a multiple of this within the arena.
const LIST_ALIGN: usize = 64;

/// Bytes of a list that are asked for before it is scanned; the scan itself asks for what follows.
const ANNOUNCED: usize = 16 << 10;

/// What the manifest promises about a code file.
#[derive(Debug, Clone, Copy)]
pub struct CodesShape {
    /// Bits and bytes of a code.
    pub code: CodeShape,
    /// Number of lists.
    pub lists: usize,
    /// Number of rows.
    pub rows: u64,
    /// Whether rows have terms.
    pub terms: bool,
}

/// All inverted lists of an index, in memory.
#[derive(Debug)]
pub struct Codes {
    shape: CodesShape,
    /// First row of each list, then the number of rows: L + 1.
    row_starts: Vec<Row>,
    /// Where each list starts in the arena, then its end: L + 1.
    offsets: Vec<usize>,
    /// Minimum and step of each list's row terms; empty without terms.
    term_scales: Vec<[f32; 2]>,
    widest_terms: f32,
    arena: MmapMut,
}

/// One list.
#[derive(Debug, Clone, Copy)]
pub struct List<'a> {
    /// Row of its first code.
    pub first_row: Row,
    /// Number of rows.
    pub rows: usize,
    /// Packed codes.
    pub codes: &'a [u8],
    /// One byte a row, or empty.
    pub terms: &'a [u8],
    /// A row's term is `term_min + term_step * byte`.
    pub term_min: f32,
    /// See `term_min`.
    pub term_step: f32,
    /// Which rows may be found, as [`PackedRows::passing`] has it; empty: all.
    pub passing: &'a [u64],
}

/// Bytes of one list in the arena: packed codes, then terms; without the padding to [`LIST_ALIGN`].
fn list_len(shape: CodeShape, terms: bool, rows: usize) -> usize {
    packed_len(shape.bits, shape.bytes, rows) + if terms { rows } else { 0 }
}

/// Starts of the lists in the arena, and its length.
fn list_offsets(shape: CodeShape, terms: bool, row_starts: &[Row]) -> Vec<usize> {
    let mut offsets = Vec::with_capacity(row_starts.len());
    offsets.push(0);
    for pair in row_starts.windows(2) {
        let length = list_len(shape, terms, (pair[1] - pair[0]) as usize);
        offsets.push(offsets[offsets.len() - 1] + length.next_multiple_of(LIST_ALIGN));
    }
    offsets
}

impl Codes {
    /// Reads a code file into memory, checking all that the scan will rely on.
    pub fn open(vfs: &dyn Vfs, path: &Path, index_id: &[u8; 16], shape: CodesShape) -> Result<Codes> {
        let file = FileReader::open(vfs, path, Kind::Codes, Some(index_id))?;
        let row_starts: Vec<Row> = file.read_array(ROWS)?;
        check_rows(path, &row_starts, &shape)?;
        let term_scales = if shape.terms { read_scales(&file, path, shape.lists)? } else { Vec::new() };
        let offsets = list_offsets(shape.code, shape.terms, &row_starts);
        let length = offsets[shape.lists];
        let found = file.section(CODE)?.length;
        if found != length as u64 {
            return Err(Error::corrupt(path, "CODE", format!("its length is {found}, its lists need {length}")));
        }
        let mut arena = new_arena(length).map_err(Error::io(path))?;
        file.read_section_into(CODE, &mut arena[..length])?;
        let widest_terms = term_scales.iter().fold(0f32, |widest, s| widest.max(s[1] * 255.0));
        Ok(Codes { shape, row_starts, offsets, term_scales, widest_terms, arena })
    }

    /// Shape of the codes.
    pub fn shape(&self) -> CodesShape {
        self.shape
    }

    /// The widest range of row terms in any list (0 without terms).
    pub fn widest_terms(&self) -> f32 {
        self.widest_terms
    }

    /// Bytes in memory.
    pub fn memory_bytes(&self) -> usize {
        self.arena.len() + self.row_starts.len() * 4 + self.offsets.len() * 8 + self.term_scales.len() * 8
    }

    /// The first row of `list`, which is the number of rows before it.
    pub fn first_row(&self, list: ListId) -> Row {
        self.row_starts[list as usize]
    }

    /// Number of rows in `list`.
    pub fn rows_of(&self, list: ListId) -> usize {
        (self.row_starts[list as usize + 1] - self.row_starts[list as usize]) as usize
    }

    /// The list that holds `row`.
    pub fn list_of(&self, row: Row) -> ListId {
        (self.row_starts.partition_point(|&start| start <= row) - 1) as ListId
    }

    /// Asks for the first bytes of `list`, which will be scanned soon.
    pub fn announce(&self, list: ListId) {
        let start = self.offsets[list as usize];
        let end = self.offsets[list as usize + 1].min(start + ANNOUNCED);
        prefetch_second_level(&self.arena[start..end]);
    }

    /// One list.
    pub fn list(&self, list: ListId) -> List<'_> {
        let at = list as usize;
        let rows = self.rows_of(list);
        let bytes = &self.arena[self.offsets[at]..self.offsets[at + 1]];
        let (codes, rest) = bytes.split_at(packed_len(self.shape.code.bits, self.shape.code.bytes, rows));
        let terms = if self.shape.terms { &rest[..rows] } else { &[] };
        let [term_min, term_step] = self.term_scales.get(at).copied().unwrap_or_default();
        List { first_row: self.row_starts[at], rows, codes, terms, term_min, term_step, passing: &[] }
    }
}

/// Zeroed memory, on huge pages where the system grants them (fewer TLB misses during the scan).
fn new_arena(length: usize) -> std::io::Result<MmapMut> {
    let arena = MmapMut::map_anon(length.max(1))?;
    // Advice only: a system without huge pages scans from small ones.
    let _ = arena.advise(Advice::HugePage);
    Ok(arena)
}

fn check_rows(path: &Path, row_starts: &[Row], shape: &CodesShape) -> Result<()> {
    let wrong = |reason| Err(Error::corrupt(path, "ROWS", reason));
    if row_starts.len() != shape.lists + 1 {
        return wrong(format!("it has {} entries, {} lists need one more than that", row_starts.len(), shape.lists));
    }
    if row_starts[0] != 0 || u64::from(row_starts[shape.lists]) != shape.rows {
        return wrong(format!("it does not run from 0 to the index's {} rows", shape.rows));
    }
    match row_starts.windows(2).position(|pair| pair[0] > pair[1]) {
        Some(list) => wrong(format!("list {list} ends before it begins")),
        None => Ok(()),
    }
}

fn read_scales(file: &FileReader, path: &Path, lists: usize) -> Result<Vec<[f32; 2]>> {
    let scales: Vec<f32> = file.read_array(TERM)?;
    if scales.len() != 2 * lists {
        return Err(Error::corrupt(path, "TERM", format!("it has {} values for {lists} lists", scales.len())));
    }
    let (pairs, _) = scales.as_chunks::<2>();
    match pairs.iter().position(|[min, step]| !min.is_finite() || !step.is_finite() || *step < 0.0) {
        Some(list) => Err(Error::corrupt(path, "TERM", format!("the scale of list {list} is not usable"))),
        None => Ok(pairs.to_vec()),
    }
}
