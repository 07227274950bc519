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

/// Working memory of [`scan_list`].
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
            List { first_row: self.first_row + first as Row, rows, codes, terms, ..self }
        })
    }
}

/// Scores the rows of `list` and offers those that may belong to the best ones to `best`, as order keys of row numbers.
/// Returns how many rows were scored; a list whose best possible row is not good enough is not read at all.
pub fn scan_list(
    kernels: &Kernels,
    shape: CodeShape,
    list: &List<'_>,
    tables: ScanTables<'_>,
    scale: &ListScale,
    best: &mut Reservoir,
    scratch: &mut ScanScratch,
) -> usize {
    let mut scanned = 0;
    for run in list.runs(shape) {
        let rows = scan_run(kernels, shape, &run, tables, scale, best, scratch);
        if rows == 0 {
            break;
        }
        scanned += rows;
    }
    scanned
}

/// [`scan_list`] for one of the [`List::runs`] of a list.
pub fn scan_run(
    kernels: &Kernels,
    shape: CodeShape,
    run: &List<'_>,
    tables: ScanTables<'_>,
    scale: &ListScale,
    best: &mut Reservoir,
    scratch: &mut ScanScratch,
) -> usize {
    let scan = match shape.bits {
        CodeBits::Four => kernels.scan4,
        CodeBits::Eight => kernels.scan8,
    };
    let least = best.threshold().unwrap_or(f32::NEG_INFINITY);
    let Some(threshold) = scale.threshold(least) else { return 0 };
    let List { codes, rows, terms, .. } = *run;
    let packed = PackedRows { codes, rows, terms, term_weight: scale.term_weight };
    let survivors = scan(packed, tables, threshold, &mut scratch.rows, &mut scratch.scores);
    for (&row, &score) in scratch.rows[..survivors].iter().zip(&scratch.scores) {
        best.push(order_key(scale.score(score), run.first_row + row));
    }
    rows
}
