//! How good many answers are: hits, and the candidates they were chosen from.

use rayon::prelude::*;
use std::collections::BTreeMap;

use super::reference::{DEPTHS, Quality, Reference};
use crate::error::Result;
use crate::search::{Hit, Scratch, SearchParams, SearchStats, Searcher, first_of_each};
use crate::types::Row;

/// Mean quality of many ordered answers, at every depth.
pub(super) struct ByDepth {
    /// Recall among the first so many, for each of [`DEPTHS`] as far as answers reach, and for all of an answer.
    pub(super) recall: BTreeMap<usize, f64>,
    /// Mean reciprocal rank in all of an answer.
    pub(super) mrr: f64,
    /// Mean reciprocal rank among the first 10.
    pub(super) mrr_at_10: f64,
}

impl ByDepth {
    /// The mean over queries; `found` has the quality of each query at each of `depths`.
    fn mean(depths: &[usize], found: &[Vec<Option<Quality>>]) -> ByDepth {
        let mean = |at: usize| Quality::mean(found.iter().map(|of_query| of_query[at]));
        let (first, last) = (mean(0), mean(depths.len() - 1));
        ByDepth {
            recall: depths.iter().enumerate().map(|(at, &depth)| (depth, mean(at).recall)).collect(),
            mrr: last.reciprocal_rank,
            // The first depth is 10, or all of a shorter answer.
            mrr_at_10: first.reciprocal_rank,
        }
    }
}

/// Depths at which answers of `all` rows are measured.
fn depths(all: usize) -> Vec<usize> {
    DEPTHS.into_iter().filter(|&depth| depth < all).chain([all]).collect()
}

/// Quality of the first k hits.
pub(super) fn hit_quality(
    searcher: &Searcher,
    queries: &[f32],
    reference: &Reference,
    answers: &[(Vec<Hit>, SearchStats)],
    params: &SearchParams,
) -> Result<ByDepth> {
    let depths = depths(params.k);
    // A mixed score says nothing beside scores of dense vectors.
    let mixed = matches!(reference, Reference::Neighbours(_)) && params.sparse_weight > 0.0 && !params.exact;
    let quality = |scratch: &mut Scratch, query: usize, vector, hits: &[Hit]| {
        let hits = &hits[..hits.len().min(params.k)];
        let rescored = match mixed {
            true => Some(dense_hits(searcher, vector, hits.iter().map(|hit| hit.row), scratch)?),
            false => None,
        };
        let hits = rescored.as_deref().unwrap_or(hits);
        let within = |&depth: &usize| reference.quality(query, &hits[..hits.len().min(depth)], depth);
        Ok(depths.iter().map(within).collect())
    };
    let of_queries = queries.par_chunks(searcher.dim()).zip(answers).enumerate();
    let found: Vec<Vec<Option<Quality>>> = of_queries
        .map_init(|| searcher.scratch(), |scratch, (query, (vector, (hits, _)))| quality(scratch, query, vector, hits))
        .collect::<Result<_>>()?;
    Ok(ByDepth::mean(&depths, &found))
}

/// Quality of the candidates of `params`, in the order of their code scores. Where rows are views, the documents of the first so
/// many rows count, once each.
pub(super) fn candidate_quality(
    searcher: &Searcher,
    queries: &[f32],
    reference: &Reference,
    params: &SearchParams,
) -> Result<ByDepth> {
    let depths = depths(searcher.candidates_for(params));
    let of_query = |scratch: &mut Scratch, query, vector| -> Result<Vec<Option<Quality>>> {
        let mut candidates = Vec::new();
        searcher.candidates(vector, params, scratch, &mut candidates)?;
        let hits = dense_hits(searcher, vector, candidates.iter().map(|candidate| candidate.0), scratch)?;
        let within = |&depth: &usize| {
            let mut hits = hits[..hits.len().min(depth)].to_vec();
            if searcher.views().is_some() {
                first_of_each(&mut hits);
            }
            reference.quality(query, &hits, depth.min(params.k))
        };
        Ok(depths.iter().map(within).collect())
    };
    let found: Vec<Vec<Option<Quality>>> = queries
        .par_chunks(searcher.dim())
        .enumerate()
        .map_init(|| searcher.scratch(), |scratch, (query, vector)| of_query(scratch, query, vector))
        .collect::<Result<_>>()?;
    Ok(ByDepth::mean(&depths, &found))
}

/// Rows as hits with the scores of their dense vectors, in the order in which they come.
fn dense_hits(
    searcher: &Searcher,
    query: &[f32],
    rows: impl Iterator<Item = Row>,
    scratch: &mut Scratch,
) -> Result<Vec<Hit>> {
    let rows: Vec<Row> = rows.collect();
    let mut ascending = rows.clone();
    ascending.sort_unstable();
    let mut hits = Vec::new();
    searcher.score_rows(query, &ascending, scratch, &mut hits)?;
    let place = |row: &Row| ascending.partition_point(|other| other < row);
    Ok(rows.iter().map(|row| hits[place(row)]).collect())
}
