//! A search much wider than needed, to see how wide it had to be for each true hit.

use rayon::prelude::*;
use std::collections::HashMap;

use super::quantile;
use crate::error::Result;
use crate::eval::Reference;
use crate::index::Prefix;
use crate::search::{Hit, Scratch, SearchParams, Searcher};
use crate::types::{Key, Row};

/// Lists looked at, and candidates: at least, and for each hit.
const LISTS: usize = 2_048;
const CANDIDATES: usize = 1_000;
const CANDIDATES_A_HIT: usize = 10;
/// Weights of the gap that are tried, in units of one over the median gap halfway (by rank) to the end; none is one of them.
const WEIGHTS: [f32; 12] = [0.0, 0.125, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 16.0, 32.0];
/// The weight that takes least at these shares of the true hits is the best one.
const SHARES: [f64; 3] = [0.9, 0.95, 0.98];

/// One of a sequence, most promising first.
#[derive(Debug, Clone, Copy)]
struct Step {
    gap: f32,
    /// True hits that it holds, and what it costs to take.
    hits: u32,
    cost: u32,
}

/// A sequence of lists, or of candidates, for each query.
pub(super) struct Sequences(Vec<Vec<Step>>);

/// What a wide search saw.
pub(super) struct Wide {
    /// Cost: rows.
    pub(super) lists: Sequences,
    /// Cost: one each.
    pub(super) candidates: Sequences,
}

/// Searches all `queries` (n x dim) widely.
///
/// # Errors
/// As those of a search.
pub(super) fn wide(searcher: &Searcher, queries: &[f32], truth: &Reference, k: usize) -> Result<Wide> {
    let looked: Vec<(Vec<Step>, Vec<Step>)> = queries
        .par_chunks(searcher.dim())
        .enumerate()
        .map_init(
            || (searcher.scratch(), Vec::new()),
            |(scratch, hits), (i, query)| look(searcher, query, |hit| truth.has(i, hit), k, scratch, hits),
        )
        .collect::<Result<_>>()?;
    let (lists, candidates) = looked.into_iter().unzip();
    Ok(Wide { lists: Sequences(lists), candidates: Sequences(candidates) })
}

fn look(
    searcher: &Searcher,
    query: &[f32],
    is_true: impl Fn(&Hit) -> bool,
    k: usize,
    scratch: &mut Scratch,
    hits: &mut Vec<Hit>,
) -> Result<(Vec<Step>, Vec<Step>)> {
    // Where rows are views, as many rows as should hold k documents.
    let kth_row = searcher.rows_for(k);
    let candidates = CANDIDATES.max(CANDIDATES_A_HIT * kth_row);
    let params = SearchParams { k, nprobe: LISTS, candidates, ..SearchParams::default() };
    let mut found = Vec::new();
    searcher.candidates(query, &params, scratch, &mut found)?;
    let (unit, codes) = (searcher.unit(scratch.code_query()), searcher.index().codes());
    let mut lists: Vec<Step> = Vec::new();
    let mut place = HashMap::new();
    for (at, probe) in scratch.probes().iter().enumerate() {
        lists.push(Step { gap: probe.gap, hits: 0, cost: codes.rows_of(probe.list) as u32 });
        place.insert(probe.list, at);
    }
    let kth = found[kth_row.min(found.len()) - 1].1;
    let mut rows: Vec<Row> = found.iter().map(|candidate| candidate.0).collect();
    rows.sort_unstable();
    searcher.score_rows(query, &rows, scratch, hits)?;
    if searcher.views().is_some() {
        only_best_views(hits);
    }
    let is_true_row = |row: Row| is_true(&hits[rows.partition_point(|other| *other < row)]);
    let mut steps = Vec::with_capacity(found.len());
    for (row, score) in found {
        let hits = u32::from(is_true_row(row));
        steps.push(Step { gap: unit.gap(kth, score), hits, cost: 1 });
        if let Some(&at) = place.get(&codes.list_of(row)) {
            lists[at].hits += hits;
        }
    }
    Ok((lists, steps))
}

/// Takes all rows of a document but its best one out of the running: it is found by that one.
fn only_best_views(hits: &mut [Hit]) {
    let mut best: HashMap<Key, usize> = HashMap::new();
    for at in 0..hits.len() {
        let before = *best.entry(hits[at].key).or_insert(at);
        if before != at {
            let (worse, better) = if hits[at].score > hits[before].score { (before, at) } else { (at, before) };
            hits[worse].score = f32::NEG_INFINITY;
            best.insert(hits[at].key, better);
        }
    }
}

impl Sequences {
    /// The weight of the gap with which prefixes that hold a share of the true hits cost least; without `gaps` of any size, 0.
    pub(super) fn best_weight(&self) -> f32 {
        let mut halfway: Vec<f32> = self.0.iter().filter_map(|steps| Some(steps.get(steps.len() / 2)?.gap)).collect();
        halfway.sort_by(f32::total_cmp);
        let typical = quantile(&halfway, 0.5);
        if typical <= 0.0 {
            return 0.0;
        }
        let weights = WEIGHTS.map(|weight| weight / typical);
        let cost = |weight: f32| SHARES.iter().map(|&share| self.cost(weight, share).max(1.0).ln()).sum::<f64>();
        let costs = weights.map(cost);
        let best = (0..costs.len()).min_by(|&a, &b| costs[a].total_cmp(&costs[b])).unwrap_or(0);
        weights[best]
    }

    /// The efforts of the true hits, ascending: each would be taken with its own.
    pub(super) fn efforts(&self, weight: f32) -> Vec<f32> {
        let prefix = Prefix { weight, effort: 0.0, most: 0 };
        let of_query = |steps: &Vec<Step>| -> Vec<f32> {
            let hits = steps.iter().enumerate().filter(|(_, step)| step.hits > 0);
            hits.flat_map(|(rank, step)| (0..step.hits).map(move |_| prefix.value(rank, step.gap))).collect()
        };
        let mut efforts: Vec<f32> = self.0.iter().flat_map(of_query).collect();
        efforts.sort_by(f32::total_cmp);
        efforts
    }

    /// What prefixes cost that hold a share of the true hits, mean over queries.
    fn cost(&self, weight: f32, share: f64) -> f64 {
        let effort = quantile(&self.efforts(weight), share);
        let prefix = Prefix { weight, effort, most: usize::MAX };
        let of_query = |steps: &Vec<Step>| -> f64 {
            let taken = prefix.length(steps.iter().map(|step| step.gap));
            steps.iter().take(taken).map(|step| f64::from(step.cost)).sum()
        };
        self.0.iter().map(of_query).sum::<f64>() / self.0.len().max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Queries whose answers lie as far as the gap says, or as far as the rank says.
    fn sequences(by_gap: bool) -> Sequences {
        let of_query = |q: usize| -> Vec<Step> {
            // Gaps grow quickly for some queries, slowly for others.
            let speed = 0.01 * (1 + q % 10) as f32;
            let last = if by_gap { (0.3 / speed) as usize } else { 12 };
            let step = |rank: usize| Step { gap: rank as f32 * speed, hits: u32::from(rank <= last), cost: 1 };
            (0..60).map(step).collect()
        };
        Sequences((0..200).map(of_query).collect())
    }

    #[test]
    fn the_weight_follows_what_tells_answers_apart() {
        let (by_gap, by_rank) = (sequences(true), sequences(false));
        let weight = by_gap.best_weight();
        assert!(weight > 4.0 * by_rank.best_weight());
        assert!(by_gap.cost(weight, 0.98) < 0.8 * by_gap.cost(0.0, 0.98));
    }

    #[test]
    fn efforts_are_those_of_the_hits() {
        let step = |gap, hits| Step { gap, hits, cost: 1 };
        let one = Sequences(vec![vec![step(0.0, 1), step(0.5, 0), step(1.0, 2)]]);
        let third = 3f32.ln() + 2.0;
        assert_eq!(one.efforts(2.0), [0.0, third, third]);
        assert_eq!((one.cost(2.0, 0.0), one.cost(2.0, 1.0)), (1.0, 3.0));
    }
}
