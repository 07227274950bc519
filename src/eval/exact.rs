//! Exact nearest rows of many queries, by blocked matrix products over the index's dense vectors.
//!
//! The easy version scores every row against every query. Here a block of rows is decoded once and multiplied with all
//! queries (mapped by the dense head if there is one) at once, which runs at the speed of arithmetic, not of memory. The
//! products only choose: the best few of each
//! query (with some to spare for rounding) are scored again by the verification kernel, so that these scores and those
//! of search agree to the bit. Where rows are views of documents, many rows may have to be kept to be sure of `k` documents: queries then
//! come in blocks, each of which reads all rows again, so that memory stays bounded.

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
/// Bytes that the best rows of all queries of a block may take.
const BUDGET: usize = 1 << 30;
/// Bytes of a row that is kept: a reservoir has room for twice as many.
const ROW_BYTES: usize = 2 * size_of::<u64>();

/// The scores of the `k` nearest rows of each query (n x dim), best first; of the nearest documents, by their best rows, where rows
/// are views.
///
/// # Errors
/// `Io` and `Corrupt` where a dense vector cannot be read, `InvalidParams` for queries that cannot be searched for.
pub fn exact_scores(searcher: &Searcher, queries: &[f32], k: usize) -> Result<Reference> {
    let k = k.min(searcher.documents() as usize);
    let at_once = (BUDGET / (rows_kept(searcher, k) * ROW_BYTES)).max(1);
    in_blocks(searcher, queries, k, at_once).map(Reference::Neighbours)
}

/// Rows that are kept of each query: they hold the best `k` documents for certain.
fn rows_kept(searcher: &Searcher, k: usize) -> usize {
    searcher.certain_rows(k) + SPARE
}

/// The scores, block by block of so many queries.
fn in_blocks(searcher: &Searcher, queries: &[f32], k: usize, at_once: usize) -> Result<Vec<Vec<f32>>> {
    let mut scores = Vec::with_capacity(queries.len() / searcher.dim());
    for block in queries.chunks(at_once.saturating_mul(searcher.dim())) {
        scores.extend(scores_of(searcher, block, k)?);
    }
    Ok(scores)
}

fn scores_of(searcher: &Searcher, queries: &[f32], k: usize) -> Result<Vec<Vec<f32>>> {
    let mapped = dense_queries(searcher, queries);
    let rows_kept = rows_kept(searcher, k);
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
        .collect()
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

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use super::*;
    use crate::build::{BuildSpec, build_on};
    use crate::dataset::{Scalar, VectorWriter};
    use crate::index::{Index, OpenOptions};
    use crate::sample::Rng;
    use crate::simd::Kernels;
    use crate::train::Silent;
    use crate::types::Key;
    use crate::vfs::MemoryVfs;

    const DIM: usize = 8;

    /// An index in memory of documents with 1, 2, 3 .. `most`, 1, 2, .. views.
    pub(crate) fn index_of_views(documents: Key, most: Key) -> Searcher {
        let (inputs, vfs) = (tempfile::tempdir().unwrap(), MemoryVfs::new());
        let (vectors, keys) = (inputs.path().join("v.fbin"), inputs.path().join("k.txt"));
        let lines: Vec<Key> = (0..documents).flat_map(|key| (0..=key % most).map(move |_| key)).collect();
        let mut writer = VectorWriter::create(&vectors, Scalar::F32, DIM).unwrap();
        writer.write(&random(lines.len(), 1)).unwrap();
        writer.finish().unwrap();
        std::fs::write(&keys, lines.iter().map(|key| format!("{key}\n")).collect::<String>()).unwrap();
        let spec = BuildSpec {
            keys: Some(keys),
            views: true,
            lists: Some(8),
            code_bytes: Some(4),
            ..BuildSpec::new(vectors, "/index")
        };
        build_on(&vfs, &spec, &Silent).unwrap();
        let index = Index::open_on(&vfs, Path::new("/index"), &OpenOptions::default()).unwrap();
        Searcher::new(index, Kernels::detect())
    }

    fn random(vectors: usize, seed: u64) -> Vec<f32> {
        let mut rng = Rng::new(seed);
        (0..vectors * DIM).map(|_| rng.normal()).collect()
    }

    #[test]
    fn blocks_of_queries_have_the_scores_of_all_at_once() {
        let (searcher, queries) = (index_of_views(150, 7), random(23, 2));
        let all = in_blocks(&searcher, &queries, 12, usize::MAX).unwrap();
        assert_eq!(all.len(), 23);
        assert!(all.iter().all(|scores| scores.len() == 12 && scores.is_sorted_by(|a, b| a >= b)));
        for at_once in [1, 5, 23, 100] {
            assert_eq!(in_blocks(&searcher, &queries, 12, at_once).unwrap(), all, "{at_once}");
        }
        assert!(in_blocks(&searcher, &[], 12, 5).unwrap().is_empty());
    }
}
