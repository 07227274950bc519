//! Scanning a list: integer scores in the kernel, real scores for the survivors only.

use super::List;
use crate::quantizer::{CodeShape, ListScale};
use crate::simd::{CodeBits, Kernels, PackedRows, ScanTables, packed_len};
use crate::topk::{Reservoir, order_key};

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
    let scan = match shape.bits {
        CodeBits::Four => kernels.scan4,
        CodeBits::Eight => kernels.scan8,
    };
    let mut scanned = 0;
    while scanned < list.rows {
        let least = best.threshold().unwrap_or(f32::NEG_INFINITY);
        let Some(threshold) = scale.threshold(least) else { break };
        let rows = (list.rows - scanned).min(RUN);
        let codes = &list.codes[scanned * shape.bytes..][..packed_len(shape.bits, shape.bytes, rows)];
        let terms = if list.terms.is_empty() { &[][..] } else { &list.terms[scanned..scanned + rows] };
        let run = PackedRows { codes, rows, terms, term_weight: scale.term_weight };
        let survivors = scan(run, tables, threshold, &mut scratch.rows, &mut scratch.scores);
        let first = list.first_row + scanned as u32;
        for (&row, &score) in scratch.rows[..survivors].iter().zip(&scratch.scores) {
            best.push(order_key(scale.score(score), first + row));
        }
        scanned += rows;
    }
    scanned
}
