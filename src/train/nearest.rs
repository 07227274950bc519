//! Exact nearest documents of many queries, by matrix products in tiles.

use ndarray::{Array2, ArrayView2, Axis};
use rayon::prelude::*;

use super::Watch;
use crate::error::Result;
use crate::linalg::product_nt;
use crate::topk::TopK;

/// Queries of one task, and documents that are scored at once.
const QUERIES: usize = 256;
const DOCUMENTS: usize = 1_024;

/// The `k` documents (rows of N x d) with the largest inner product with each query (n x d), best first.
///
/// # Errors
/// What `watch` stops with.
pub fn nearest(
    queries: ArrayView2<'_, f32>,
    documents: ArrayView2<'_, f32>,
    k: usize,
    watch: &dyn Watch,
) -> Result<Vec<Vec<u32>>> {
    watch.begin("find neighbours", queries.nrows() as u64);
    let blocks: Vec<_> = queries.axis_chunks_iter(Axis(0), QUERIES).collect();
    let found: Result<Vec<Vec<Vec<u32>>>> = blocks
        .into_par_iter()
        .map(|queries| {
            watch.check()?;
            let mut best: Vec<TopK> = queries.rows().into_iter().map(|_| TopK::new(k)).collect();
            let mut scores = Array2::zeros((queries.nrows(), DOCUMENTS));
            for (documents, first) in documents.axis_chunks_iter(Axis(0), DOCUMENTS).zip((0u32..).step_by(DOCUMENTS)) {
                if documents.nrows() != scores.ncols() {
                    scores = Array2::zeros((queries.nrows(), documents.nrows()));
                }
                product_nt(queries, documents, scores.view_mut());
                for (best, scores) in best.iter_mut().zip(scores.rows()) {
                    let least = best.threshold().unwrap_or(f32::NEG_INFINITY);
                    let row = scores.to_slice().expect("C order");
                    row.iter().zip(first..).filter(|(s, _)| **s >= least).for_each(|(&s, row)| best.push(s, row));
                }
            }
            watch.advance(queries.nrows() as u64);
            Ok(best.iter_mut().map(|best| best.finish().map(|(_, row)| row).collect()).collect())
        })
        .collect();
    Ok(found?.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Rng;
    use crate::train::Silent;

    #[test]
    fn finds_what_sorting_finds() {
        let mut rng = Rng::new(1);
        let mut random = |r, c| Array2::from_shape_fn((r, c), |_| rng.normal());
        let (queries, documents) = (random(300, 5), random(2_300, 5));
        let found = nearest(queries.view(), documents.view(), 7, &Silent).unwrap();
        for (query, found) in queries.rows().into_iter().zip(&found) {
            let mut order: Vec<(f32, u32)> =
                documents.rows().into_iter().zip(0..).map(|(d, row)| (query.dot(&d), row)).collect();
            order.sort_by(|a, b| b.0.total_cmp(&a.0));
            let least = order[6].0 - 1e-4;
            assert_eq!(found.len(), 7);
            assert!(found.iter().all(|&row| query.dot(&documents.row(row as usize)) >= least));
        }
    }
}
