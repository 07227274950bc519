//! The query's side of the codes: u8 score tables, and the arithmetic between integer and real scores.
//!
//! All subspaces share one step, so that integer entries can be added: `T[m][k] = min_m + step * entry`. The step is the
//! widest subspace's range over 255, or larger where the sum of all ranges (and of the row terms) would not fit the 16
//! bits that the scan accumulates in.

use super::{Quantizer, product::CodeShape};
use crate::simd::{Kernels, ScanTables};
use crate::types::Metric;

/// The largest integer score a table may allow: 16 bits less half a step of rounding for each of 256 subspaces.
const MAX_SCORE: f32 = 65_535.0 - 128.0 - 1.0;

/// Score tables of one query; reused from query to query.
#[derive(Debug, Default)]
pub struct QueryTables {
    entries: Vec<u8>,
    bytes: usize,
    step: f32,
    bias: f32,
    max_score: f32,
}

/// Working memory of [`QueryTables::prepare`]: four times the size of the tables, so the tables of many queries share one.
#[derive(Debug, Default)]
pub struct TableScratch {
    rotated: Vec<f32>,
    scores: Vec<f32>,
    /// Least and largest score of each subspace.
    low: Vec<f32>,
    high: Vec<f32>,
}

/// How the integer scores of one list's rows become real ones: `base + step * integer`.
#[derive(Debug, Clone, Copy)]
pub struct ListScale {
    base: f32,
    step: f32,
    max_score: f32,
    /// Weight of a row term, in 1/256 of an integer step (0: the list has none).
    pub term_weight: u16,
}

impl QueryTables {
    /// Makes the tables of `query` (d values, normalised under cosine). `term_range` is the widest range of row terms in
    /// any list (0 without terms).
    pub fn prepare(
        &mut self,
        quantizer: &Quantizer,
        kernels: &Kernels,
        query: &[f32],
        term_range: f32,
        scratch: &mut TableScratch,
    ) {
        let product = quantizer.product();
        let shape = product.shape();
        self.bytes = shape.bytes;
        let TableScratch { rotated, scores, .. } = scratch;
        rotated.resize(query.len(), 0.0);
        match &quantizer.rotation {
            None => rotated.copy_from_slice(query),
            Some(r) => (kernels.dot_rows_f32)(query, r.as_slice().expect("C order"), rotated),
        }
        if quantizer.metric() == Metric::L2 {
            rotated.iter_mut().for_each(|v| *v *= 2.0);
        }
        scores.resize(shape.table_len(), 0.0);
        product.tables(kernels, rotated, scores);
        self.quantize(kernels, shape, term_range, scratch);
    }

    fn quantize(&mut self, kernels: &Kernels, shape: CodeShape, term_range: f32, scratch: &mut TableScratch) {
        let k = shape.codewords();
        let (TableScratch { scores, low, high, .. }, QueryTables { entries, .. }) = (scratch, &mut *self);
        low.resize(shape.subspaces(), 0.0);
        high.resize(shape.subspaces(), 0.0);
        (kernels.ranges)(scores, low, high);
        let (mut widest, mut total, mut bias) = (0f32, 0f32, 0f32);
        for (low, high) in low.iter().zip(high.iter()) {
            widest = widest.max(high - low);
            total += high - low;
            bias += low;
        }
        // A query of zeros has no range at all; any positive step will do.
        let step = (widest / 255.0).max((total + term_range) / MAX_SCORE).max(f32::MIN_POSITIVE * 1e6);
        entries.resize(shape.table_len(), 0);
        for (m, (scores, low)) in scores.chunks_exact(k).zip(low).enumerate() {
            (kernels.quantize_u8)(scores, *low, 1.0 / step, &mut entries[shape.table_start(m)..][..k]);
        }
        (self.step, self.bias, self.max_score) = (step, bias, (total / step).ceil() + 128.0);
    }

    /// The tables as the scan kernels read them.
    pub fn scan_tables(&self) -> ScanTables<'_> {
        ScanTables { entries: &self.entries, bytes: self.bytes }
    }

    /// What one integer step is worth.
    pub fn step(&self) -> f32 {
        self.step
    }

    /// The scale of a list: `base` is the list's base score, a row's term is `term_min + term_step * byte`.
    pub fn list_scale(&self, base: f32, term_min: f32, term_step: f32) -> ListScale {
        let weight = term_step / self.step * 256.0;
        ListScale {
            base: base + term_min + self.bias,
            step: self.step,
            max_score: self.max_score + (term_step / self.step * 255.0).ceil(),
            term_weight: weight.round() as u16,
        }
    }

    #[cfg(test)]
    pub(crate) fn score_of(&self, shape: CodeShape, code: &[u8]) -> f32 {
        let entry = |m| u32::from(self.entries[shape.table_start(m) + shape.get(code, m)]);
        self.bias + self.step * (0..shape.subspaces()).map(entry).sum::<u32>() as f32
    }
}

impl ListScale {
    /// The real score of an integer one.
    #[inline]
    pub fn score(&self, integer: u32) -> f32 {
        self.base + self.step * integer as f32
    }

    /// The least integer score that may reach `score`, or None if no row of the list can. Rounded down by what
    /// [`ListScale::score`] may have rounded up, and by a whole step for the division here: no row that reaches the score is
    /// lost, so what a scan keeps does not depend on the order of the lists.
    pub fn threshold(&self, score: f32) -> Option<u32> {
        let slack = (score.abs() + self.base.abs()) * f32::EPSILON;
        let steps = ((score - slack - self.base) / self.step).floor() - 1.0;
        (steps <= self.max_score).then_some(if steps > 0.0 { steps as u32 } else { 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::random_quantizer;
    use super::*;
    use crate::simd::CodeBits;

    #[test]
    fn thresholds_never_lose_a_row_that_reaches_the_score() {
        let quantizer = random_quantizer(Metric::L2, CodeBits::Four, false, 11);
        let mut tables = QueryTables::default();
        tables.prepare(&quantizer, Kernels::detect(), &[0.3; 24], 50.0, &mut TableScratch::default());
        let scale = tables.list_scale(-3.0, -2.0, 0.1);
        for integer in [0u32, 1, 17, 900, 4000] {
            let reached = scale.threshold(scale.score(integer)).expect("within range");
            assert!(reached <= integer && integer - reached <= 3, "{integer} {reached}");
        }
        assert_eq!(scale.threshold(f32::NEG_INFINITY), Some(0));
        assert_eq!(scale.threshold(scale.score(70_000)), None);
    }

    #[test]
    fn thresholds_lose_no_row_where_the_base_swallows_the_steps() {
        // Rows that almost equal their centroid: many integers have one and the same real score.
        for base in [1.0f32, -1.0, 3.3e7, -77.7] {
            for step in [1e-9f32, 1e-3, 0.7] {
                let scale = ListScale { base, step: step * base.abs(), max_score: 66_000.0, term_weight: 0 };
                for integer in (0..65_000).step_by(7) {
                    let reached = scale.threshold(scale.score(integer)).expect("a row has this score");
                    assert!(reached <= integer, "{base} {step}: {reached} > {integer}");
                }
            }
        }
    }

    #[test]
    fn a_zero_query_scores_everything_alike() {
        let quantizer = random_quantizer(Metric::Ip, CodeBits::Eight, true, 12);
        let mut tables = QueryTables::default();
        tables.prepare(&quantizer, Kernels::detect(), &[0.0; 24], 0.0, &mut TableScratch::default());
        assert!(tables.step().is_normal() && tables.entries.iter().all(|&e| e == 0));
    }

    #[test]
    fn the_worst_sum_fits_sixteen_bits() {
        let quantizer = random_quantizer(Metric::L2, CodeBits::Eight, true, 13);
        let mut tables = QueryTables::default();
        let (term_step, term_range) = (40.0, 40.0 * 255.0);
        tables.prepare(&quantizer, Kernels::detect(), &[1.0; 24], term_range, &mut TableScratch::default());
        let worst: u32 = tables.entries.chunks(256).map(|t| u32::from(*t.iter().max().unwrap())).sum();
        let weight = u32::from(tables.list_scale(0.0, 0.0, term_step).term_weight);
        assert!(worst + ((255 * weight) >> 8) <= 65_535 && weight > 0);
    }
}
