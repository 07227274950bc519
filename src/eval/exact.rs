//! Exact nearest rows of many queries, by blocked matrix products over the index's dense vectors.
//!
//! The easy version scores every row against every query. Here a block of rows is decoded once and multiplied with all
//! queries (mapped by the dense head if there is one) at once, which runs at the speed of arithmetic, not of memory. The
//! products only choose: the best few of each
//! query (with some to spare for rounding) are scored again by the verification kernel, so that these scores and those
//! of search agree to the bit.

use ndarray::{Array2, ArrayView2, Axis};
use rayon::prelude::*;

use super::reference::Reference;
use crate::dense::FetchScratch;
use crate::error::Result;
use crate::linalg::{norm2, normalise, product_nt};
use crate::search::{Searcher, first_of_each};
use crate::topk::TopK;
use crate::types::{Metric, Row};

/// Rows decoded at a time.
const ROWS: usize = 2_048;
/// Queries of one matrix product.
const QUERIES: usize = 256;
/// Rows beyond k that are scored again, for the rounding of the products.
const SPARE: usize = 32;

/// The scores of the `k` nearest rows of each query (n x dim), best first; of the nearest documents, by their best rows, where rows
/// are views.
pub fn exact_scores(searcher: &Searcher, queries: &[f32], k: usize) -> Result<Reference> {
    let mapped = dense_queries(searcher, queries);
    let k = k.min(searcher.documents() as usize);
    let rows_kept = searcher.certain_rows(k) + SPARE;
    let mut best: Vec<TopK> = (0..mapped.nrows()).map(|_| TopK::new(rows_kept)).collect();
    let mut scratch = FetchScratch::default();
    let rows: Vec<Row> = (0..searcher.rows() as Row).collect();
    let mut block = Array2::zeros((ROWS, mapped.ncols()));
    for rows in rows.chunks(ROWS) {
        let mut used = block.slice_mut(ndarray::s![..rows.len(), ..]);
        searcher.index().dense().for_each_once(rows, &mut scratch, &mut |i, record| {
            record.decode(used.row_mut(i).as_slice_mut().expect("C order"));
        })?;
        offer(searcher.metric(), mapped.view(), used.view(), rows[0], &mut best);
    }
    let chosen: Vec<Vec<Row>> = best.iter_mut().map(|best| best.finish().map(|(_, row)| row).collect()).collect();
    chosen
        .into_par_iter()
        .zip(queries.par_chunks(searcher.dim()))
        .map_init(
            || (searcher.scratch(), Vec::new()),
            |(scratch, hits), (mut rows, query)| {
                rows.sort_unstable();
                searcher.score_rows(query, &rows, scratch, hits)?;
                if searcher.views().is_some() {
                    first_of_each(hits);
                }
                let mut scores: Vec<f32> = hits.iter().map(|hit| hit.score).collect();
                scores.sort_unstable_by(|a, b| b.total_cmp(a));
                scores.truncate(k);
                Ok(scores)
            },
        )
        .collect::<Result<Vec<_>>>()
        .map(Reference::Neighbours)
}

/// Queries (n x dim) as dense vectors are scored with them: n x dense_dim.
fn dense_queries(searcher: &Searcher, queries: &[f32]) -> Array2<f32> {
    let dim = searcher.dim();
    let mut queries = Array2::from_shape_vec((queries.len() / dim, dim), queries.to_vec()).expect("whole queries");
    if searcher.metric() == Metric::Cosine {
        queries.rows_mut().into_iter().for_each(|mut q| {
            normalise(q.as_slice_mut().expect("C order"));
        });
    }
    match &searcher.index().quantizer().heads().dense_query {
        Some(head) => head.apply_rows(queries.view()),
        None => queries,
    }
}

/// Offers a block of rows (m x d, the first of which is `first`) to the best of every query (n x d).
fn offer(metric: Metric, queries: ArrayView2<'_, f32>, rows: ArrayView2<'_, f32>, first: Row, best: &mut [TopK]) {
    let half_norms: Vec<f32> = match metric {
        Metric::L2 => rows.rows().into_iter().map(|r| norm2(r.as_slice().expect("C order")) / 2.0).collect(),
        Metric::Ip | Metric::Cosine => vec![0.0; rows.nrows()],
    };
    best.par_chunks_mut(QUERIES).zip(queries.axis_chunks_iter(Axis(0), QUERIES).into_par_iter()).for_each(
        |(best, queries)| {
            let mut scores = Array2::zeros((queries.nrows(), rows.nrows()));
            product_nt(queries, rows, scores.view_mut());
            for (best, scores) in best.iter_mut().zip(scores.rows()) {
                let mut least = best.threshold().unwrap_or(f32::NEG_INFINITY);
                for (at, (score, half_norm)) in scores.iter().zip(&half_norms).enumerate() {
                    let score = score - half_norm;
                    if score >= least {
                        best.push(score, first + at as Row);
                        least = best.threshold().unwrap_or(least);
                    }
                }
            }
        },
    );
}
