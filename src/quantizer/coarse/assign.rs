//! Which list a document belongs to: a matrix product in tiles.

use ndarray::{ArrayView2, ArrayViewMut2, Axis};
use rayon::prelude::*;

use super::Coarse;
use crate::linalg::product_nt;
use crate::types::ListId;

/// Rows and centroids of a tile whose products are made at once: a mebibyte, which the second-level cache holds.
const ROWS: usize = 256;
const CENTROIDS: usize = 1_024;
/// Rows that make a good call of [`Coarse::assign`].
const FLAT_ROWS: usize = 2 * ROWS;
/// With groups: every group then has some tens of rows to compare its members with.
const GROUPED_ROWS: usize = 1_024;

impl Coarse {
    /// The list nearest (Euclidean) to each row of `x` (n x d): the first one on ties. Documents of every metric are
    /// assigned by distance, since it is the residual's length that the codes pay for. With groups, only the lists of the
    /// groups nearest to a row are compared: now and then a list almost as near is taken.
    pub fn assign(&self, x: ArrayView2<'_, f32>, out: &mut [ListId]) {
        assert_eq!(x.nrows(), out.len());
        match &self.groups {
            None => nearest_rows(x, self.centroids.view(), &self.half_norms, |row, list, _| out[row] = list),
            Some(groups) => groups.assign(self, x, out),
        }
    }

    /// Rows that make a good call of [`Coarse::assign`]. With groups, rows of one call are compared together, and rounding may
    /// depend on which: calls that are to agree start at multiples of this.
    pub fn rows_at_once(&self) -> usize {
        Coarse::rows_for(self.groups.is_some())
    }

    /// [`Coarse::rows_at_once`], with or without groups.
    pub fn rows_for(grouped: bool) -> usize {
        if grouped { GROUPED_ROWS } else { FLAT_ROWS }
    }

    /// [`Coarse::assign`] in parallel.
    pub fn assign_rows(&self, x: ArrayView2<'_, f32>) -> Vec<ListId> {
        let mut lists = vec![0; x.nrows()];
        let rows = self.rows_at_once();
        let blocks = x.axis_chunks_iter(Axis(0), rows).into_par_iter();
        lists.par_chunks_mut(rows).zip(blocks).for_each(|(lists, rows)| self.assign(rows, lists));
        lists
    }
}

/// Calls `found` for each row of `x` with the nearest of `centroids` (the first one on ties) and its score `<x, o> - |o|^2 / 2`.
pub(super) fn nearest_rows(
    x: ArrayView2<'_, f32>,
    centroids: ArrayView2<'_, f32>,
    half_norms: &[f32],
    mut found: impl FnMut(usize, ListId, f32),
) {
    let mut scores = vec![0f32; ROWS.min(x.nrows()) * CENTROIDS.min(half_norms.len())];
    for (rows, first_row) in x.axis_chunks_iter(Axis(0), ROWS).zip((0..).step_by(ROWS)) {
        let mut best = [(f32::NEG_INFINITY, 0); ROWS];
        let tiles = centroids.axis_chunks_iter(Axis(0), CENTROIDS).zip(half_norms.chunks(CENTROIDS));
        for ((centroids, half_norms), first) in tiles.zip((0..).step_by(CENTROIDS)) {
            let scores = &mut scores[..rows.nrows() * half_norms.len()];
            let shape = (rows.nrows(), half_norms.len());
            product_nt(rows, centroids, ArrayViewMut2::from_shape(shape, scores).expect("rows x centroids"));
            for (scores, best) in scores.chunks(half_norms.len()).zip(&mut best) {
                let (score, list) = best_of(scores, half_norms);
                if score > best.0 {
                    *best = (score, first + list);
                }
            }
        }
        for ((score, list), row) in best[..rows.nrows()].iter().zip(first_row..) {
            found(row, *list, *score);
        }
    }
}

/// The largest `scores[i] - half_norms[i]` and its index, the first on ties.
fn best_of(scores: &[f32], half_norms: &[f32]) -> (f32, ListId) {
    // Two passes: the maxima of blocks, in lanes without an index beside them, which vectorises; then the place of the
    // maximum in the one block that has it.
    const LANES: usize = 16;
    const BLOCK: usize = 8 * LANES;
    let mut best = (f32::NEG_INFINITY, 0);
    for (at, (s, h)) in scores.chunks(BLOCK).zip(half_norms.chunks(BLOCK)).enumerate() {
        let ((s, s_rest), (h, h_rest)) = (s.as_chunks::<LANES>(), h.as_chunks::<LANES>());
        let mut lanes = [f32::NEG_INFINITY; LANES];
        for (s, h) in s.iter().zip(h) {
            for i in 0..LANES {
                lanes[i] = if s[i] - h[i] > lanes[i] { s[i] - h[i] } else { lanes[i] };
            }
        }
        let rest = s_rest.iter().zip(h_rest).map(|(s, h)| s - h);
        let largest = rest.chain(lanes).fold(f32::NEG_INFINITY, f32::max);
        if largest > best.0 {
            best = (largest, at * BLOCK);
        }
    }
    let place = scores[best.1..].iter().zip(&half_norms[best.1..]).position(|(s, h)| s - h == best.0);
    (best.0, (best.1 + place.unwrap_or(0)) as ListId)
}
