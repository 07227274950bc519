//! Scanning a list: integer scores in the kernel, real scores for the survivors only.

use super::List;
use crate::quantizer::{CodeShape, ListScale};
use crate::simd::{CodeBits, Kernels, PackedRows, ScanTables, packed_len};
use crate::topk::{Reservoir, order_key};
use crate::types::Row;

/// Rows handed to the kernel at once: the threshold can rise in between, and survivors fit the first-level cache. A
/// multiple of the units of both layouts.
const RUN: usize = 2_048;
/// The kernels may write this many entries beyond the rows.
const SLACK: usize = 16;

/// Working memory of [`ListScan`].
#[derive(Debug)]
pub struct ScanScratch {
    rows: Vec<u32>,
    scores: Vec<u32>,
}

impl Default for ScanScratch {
    fn default() -> Self {
        ScanScratch { rows: vec![0; RUN + SLACK], scores: vec![0; RUN + SLACK] }
    }
}

impl<'a> List<'a> {
    /// The list in pieces of at most as many rows as a kernel is handed at once, in row order; `shape` is that of its codes.
    pub fn runs(self, shape: CodeShape) -> impl Iterator<Item = List<'a>> {
        (0..self.rows).step_by(RUN).map(move |first| {
            let rows = (self.rows - first).min(RUN);
            let codes = &self.codes[first * shape.bytes..][..packed_len(shape.bits, shape.bytes, rows)];
            let terms = if self.terms.is_empty() { self.terms } else { &self.terms[first..first + rows] };
            let words = first / 64..(first + rows).div_ceil(64);
            let passing = if self.passing.is_empty() { self.passing } else { &self.passing[words] };
            List { first_row: self.first_row + first as Row, rows, codes, terms, passing, ..self }
        })
    }
}

/// How one query scores the codes of one list.
#[derive(Debug, Clone, Copy)]
pub struct ListScan<'a> {
    /// Kernels of one instruction set.
    pub kernels: &'a Kernels,
    /// Bits and bytes of a code.
    pub shape: CodeShape,
    /// Score tables of the query.
    pub tables: ScanTables<'a>,
    /// What the list adds to them.
    pub scale: ListScale,
}

impl ListScan<'_> {
    /// Scores the rows of `list` and offers those that may belong to the best ones to `best`, as order keys of row numbers, if
    /// `allow` has nothing against them; it is asked about those only. Returns how many rows were scored; a list whose best
    /// possible row is not good enough is not read at all.
    pub fn list(
        &self,
        list: &List<'_>,
        best: &mut Reservoir,
        scratch: &mut ScanScratch,
        allow: &mut impl FnMut(Row) -> bool,
    ) -> usize {
        let mut scanned = 0;
        for run in list.runs(self.shape) {
            let rows = self.run(&run, best, scratch, allow);
            if rows == 0 {
                break;
            }
            scanned += rows;
        }
        scanned
    }

    /// [`ListScan::list`] for one of the [`List::runs`] of a list.
    pub fn run(
        &self,
        run: &List<'_>,
        best: &mut Reservoir,
        scratch: &mut ScanScratch,
        allow: &mut impl FnMut(Row) -> bool,
    ) -> usize {
        let scan = match self.shape.bits {
            CodeBits::Four => self.kernels.scan4,
            CodeBits::Eight => self.kernels.scan8,
        };
        let least = best.threshold().unwrap_or(f32::NEG_INFINITY);
        let Some(threshold) = self.scale.threshold(least) else { return 0 };
        let List { codes, rows, terms, passing, .. } = *run;
        let packed = PackedRows { codes, rows, terms, term_weight: self.scale.term_weight, passing };
        let survivors = scan(packed, self.tables, threshold, &mut scratch.rows, &mut scratch.scores);
        for (&row, &score) in scratch.rows[..survivors].iter().zip(&scratch.scores) {
            let row = run.first_row + row;
            let key = order_key(self.scale.score(score), row);
            if best.admits(key) && allow(row) {
                best.push(key);
            }
        }
        rows
    }
}
