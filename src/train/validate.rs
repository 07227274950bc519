//! How good is a model right now? Ranks of the right documents among all, by exact scores of given vectors.

use ndarray::{ArrayView1, ArrayView2, Axis, aview1};
use rayon::prelude::*;

use crate::linalg::product_nt;
use crate::simd::Kernels;

/// Documents and queries of one tile.
const DOCUMENTS: usize = 1_024;
const QUERIES: usize = 256;

/// For every query (n x d) the number of documents (rows of N x d) that score above its `own` document, the query's other
/// `relevant` documents not counted; equal scores are ordered by row. `offsets` (N, or none) are added to the scores of the
/// documents. Everything is in C order.
pub(crate) fn ranks(
    queries: ArrayView2<'_, f32>,
    documents: ArrayView2<'_, f32>,
    offsets: &[f32],
    own: &[u32],
    relevant: &[&[u32]],
) -> Vec<u32> {
    let kernels = Kernels::detect();
    let offset = |row: u32| offsets.get(row as usize).copied().unwrap_or(0.0);
    let own_score = |q: ArrayView1<'_, f32>, row: u32| {
        let own = documents.row(row as usize);
        (kernels.dot_f32)(q.to_slice().expect("C order"), own.to_slice().expect("C order")) + offset(row)
    };
    let own_scores: Vec<f32> = queries.rows().into_iter().zip(own).map(|(q, &row)| own_score(q, row)).collect();
    let blocks = documents.axis_chunks_iter(Axis(0), DOCUMENTS).into_par_iter().enumerate();
    let counts = blocks.map(|(block, documents)| {
        let first = (block * DOCUMENTS) as u32;
        let mut above = vec![0u32; own.len()];
        let mut scores = ndarray::Array2::zeros((QUERIES, documents.nrows()));
        for (tile, above) in above.chunks_mut(QUERIES).enumerate() {
            let start = tile * QUERIES;
            let rows = queries.slice(ndarray::s![start..start + above.len(), ..]);
            let mut scores = scores.slice_mut(ndarray::s![..above.len(), ..]);
            product_nt(rows, documents, scores.view_mut());
            if !offsets.is_empty() {
                scores += &aview1(&offsets[block * DOCUMENTS..][..documents.nrows()]);
            }
            for ((above, scores), i) in above.iter_mut().zip(scores.rows()).zip(start..) {
                *above = count_above(scores.to_slice().expect("C order"), first, own[i], own_scores[i], relevant[i]);
            }
        }
        above
    });
    counts.reduce(|| vec![0; own.len()], |a, b| a.iter().zip(&b).map(|(a, b)| a + b).collect())
}

fn count_above(scores: &[f32], first: u32, own: u32, own_score: f32, relevant: &[u32]) -> u32 {
    let beats = |score: f32, row: u32| score > own_score || (score == own_score && row < own);
    // Two counts without a branch; the few that must not count are taken out afterwards.
    let above = scores.iter().filter(|&&s| s > own_score).count();
    let level = scores.iter().zip(first..).filter(|&(&s, row)| s == own_score && row < own).count();
    let inside = relevant.iter().chain((!relevant.contains(&own)).then_some(&own));
    let excluded = inside.filter(|&&row| {
        let at = row.wrapping_sub(first) as usize;
        at < scores.len() && beats(scores[at], row)
    });
    (above + level - excluded.count()) as u32
}

/// Share of the ranks below `k`.
pub(crate) fn recall_at(ranks: &[u32], k: u32) -> f32 {
    ranks.iter().filter(|&&r| r < k).count() as f32 / ranks.len().max(1) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Rng;
    use ndarray::Array2;

    #[test]
    fn ranks_are_those_of_sorting() {
        let mut rng = Rng::new(1);
        let mut random = |r, c| Array2::from_shape_fn((r, c), |_| rng.normal());
        let (queries, documents) = (random(300, 4), random(2_500, 4));
        let own: Vec<u32> = (0..300).map(|i| i * 7).collect();
        let relevant: Vec<Vec<u32>> = (0..300).map(|i| vec![i * 7, (i * 13) % 2_500]).collect();
        let views: Vec<&[u32]> = relevant.iter().map(Vec::as_slice).collect();
        let some: Vec<f32> = (0..2_500).map(|i| (i % 7) as f32 / 3.0).collect();
        for offsets in [&[][..], &some] {
            let found = ranks(queries.view(), documents.view(), offsets, &own, &views);
            for i in 0..300 {
                let offset = |row: u32| offsets.get(row as usize).unwrap_or(&0.0);
                let score = |row: u32| queries.row(i).dot(&documents.row(row as usize)) + offset(row);
                let above = (0..2_500u32).filter(|r| !relevant[i].contains(r) && score(*r) > score(own[i])).count();
                assert!((above as i64 - i64::from(found[i])).abs() <= 1, "{above} {}", found[i]);
            }
        }
        assert!((recall_at(&[0, 5, 9, 10], 10) - 0.75).abs() < 1e-6);
    }
}
