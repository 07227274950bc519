//! Recall of live traffic, without the truth: a fixed random sample of rows is scored exactly for a few of the queries.
//!
//! The easy version runs sampled queries again over everything, which takes a million times a vector's reading each. Here a share p
//! of all rows, chosen once, stands for the corpus. For a query answered with k hits, let m be the number of sampled rows that may be found, rank
//! above the worst hit that was served, and were not served. Then m / p is on average the number of all rows that were missed
//! above that hit, and
//! ```text
//! recall at the threshold of what was served = k / (k + mean(m) / p)
//! ```
//! over many queries. It is unbiased in the number of missed rows at any size of the corpus, and the ratio's bias falls with the number of queries.
//! It asks what share of the ads as good as those served was served; that is never below recall among the best k, because an answer
//! that misses one of the best has a worse last hit.
//!
//! The same with eCPM in place of relevance comes for free: hits are compared by what the query ranks by. An answer with fewer hits than were
//! asked for should have had every ad that may be found, so all of those count that it has not.
//!
//! It holds for queries whose answer is the best of all ads by one order: without an offset, without caps, and without code scores in
//! the order ([`SampledRows::can_judge`]).

use std::collections::{HashMap, HashSet};

use super::rank::Candidate;
use super::search::{AdQuery, View};
use crate::error::Result;
use crate::live::Place;
use crate::sample::sample_rows;
use crate::search::Scratch;
use crate::types::{Key, Row};

/// A fixed random sample of the rows of one version.
#[derive(Debug)]
pub struct SampledRows {
    rows: Vec<Row>,
    share: f64,
}

impl SampledRows {
    /// About `wanted` of `rows` rows.
    pub fn new(rows: u64, wanted: u64, seed: u64) -> SampledRows {
        let chosen: Vec<Row> =
            sample_rows(rows, wanted.min(rows) as usize, seed).into_iter().map(|row| row as Row).collect();
        let share = chosen.len() as f64 / rows.max(1) as f64;
        SampledRows { rows: chosen, share }
    }

    /// The share of all rows that are in the sample.
    pub fn share(&self) -> f64 {
        self.share.max(f64::MIN_POSITIVE)
    }

    /// Whether an answer to this query can be judged by a threshold.
    pub fn can_judge(query: &AdQuery) -> bool {
        query.offset == 0 && query.ranking.diversity.is_none() && query.params.sparse_weight == 0.0
    }

    /// The keys of sampled rows that beat the worst of `served` (of all, if fewer were served than asked for), though they were not
    /// served. The version's rows only; fresh ads are searched exactly, so none of them is missed.
    ///
    /// # Errors
    /// As those of a search.
    pub fn missed(
        &self,
        view: &View<'_>,
        query: &AdQuery,
        served: &[Candidate],
        scratch: &mut Scratch,
    ) -> Result<Vec<Key>> {
        let full = served.len() >= query.limit;
        let worst = served.last().filter(|_| full).map_or(f64::NEG_INFINITY, |worst| worst.rank_score);
        let (prepared, counts) = (view.prepare(query)?, Default::default());
        let known: HashSet<Key> = served.iter().map(|candidate| candidate.key).collect();
        let may = |&&row: &&Row| prepared.passes(row) && view.admits_row(query, row, &counts);
        let rows: Vec<Row> = self.rows.iter().filter(may).copied().collect();
        let mut missed = Vec::new();
        for candidate in best_by_row(view, query, &rows, scratch)? {
            let counts = query.ranking.is_relevant(candidate.relevance)
                && !known.contains(&candidate.key)
                && !query.block.keys.contains(&candidate.key);
            if counts && candidate.rank_score > worst && stands_for_its_ad(view, query, &candidate, scratch)? {
                missed.push(candidate.key);
            }
        }
        Ok(missed)
    }
}

/// Each of these rows (ascending) as a candidate of the query vector that likes it best, in their order.
fn best_by_row(view: &View<'_>, query: &AdQuery, rows: &[Row], scratch: &mut Scratch) -> Result<Vec<Candidate>> {
    let (mut best, mut hits): (Vec<Candidate>, _) = (Vec::with_capacity(rows.len()), Vec::new());
    for (number, (vector, _)) in query.vectors.iter().enumerate() {
        view.snapshot.base().score_rows(vector, rows, scratch, &mut hits)?;
        for (at, hit) in hits.iter().enumerate() {
            let candidate = view.candidate(query, hit.key, Place::Base(hit.row), hit.score, number);
            match best.get_mut(at) {
                None => best.push(candidate),
                Some(best) if candidate.relevance > best.relevance => *best = candidate,
                Some(_) => {}
            }
        }
    }
    Ok(best)
}

/// Whether no row of the same ad is more relevant to any of the vectors than this one, nor as relevant and before it. Of an ad with
/// several views only that row counts: it is sampled as often as any, and so is the ad.
fn stands_for_its_ad(view: &View<'_>, query: &AdQuery, one: &Candidate, scratch: &mut Scratch) -> Result<bool> {
    let base = view.snapshot.base();
    if base.views().is_none() {
        return Ok(true);
    }
    let mut rows = base.index().rows(one.key)?;
    rows.sort_unstable();
    let others = best_by_row(view, query, &rows, scratch)?;
    Ok(others
        .iter()
        .all(|other| other.relevance < one.relevance || other.relevance == one.relevance && other.place >= one.place))
}

/// Recall at the threshold of what was served, from many queries.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SampledRecall {
    queries: u64,
    served: f64,
    missed: f64,
    missed_squares: f64,
    /// Of served times missed.
    products: f64,
    served_squares: f64,
    /// Queries that missed each sampled row.
    by_row: HashMap<Key, u64>,
    share: f64,
}

impl SampledRecall {
    /// Counts a query that was answered with `served` hits while `missed` rows of a sample of this share beat the worst of them.
    pub fn add(&mut self, served: usize, missed: &[Key], share: f64) {
        let (k, m) = (served as f64, missed.len() as f64 / share);
        self.queries += 1;
        self.served += k;
        self.missed += m;
        self.missed_squares += m * m;
        self.served_squares += k * k;
        self.products += k * m;
        missed.iter().for_each(|&key| *self.by_row.entry(key).or_default() += 1);
        self.share = share;
    }

    /// Queries counted.
    pub fn queries(&self) -> u64 {
        self.queries
    }

    /// The estimate and its standard error; None before any query that something could be found for.
    ///
    /// The error is that of a ratio of means, by the delta method. Queries are not all that was drawn: they share the sample of rows,
    /// and one row may stand for what many of them missed. A row that c queries missed adds `(1 - p) / p^2 (c^2 - c)` to the
    /// variance of the sum, which the spread from query to query does not show.
    pub fn estimate(&self) -> Option<(f64, f64)> {
        if self.queries == 0 || self.served + self.missed == 0.0 {
            return None;
        }
        let n = self.queries as f64;
        let (k, m) = (self.served / n, self.missed / n);
        let total = k + m;
        let variance = |squares: f64, mean: f64| (squares / n - mean * mean).max(0.0);
        let covariance = self.products / n - k * m;
        // d/dk of k / (k + m) is m / total^2, d/dm is -k / total^2.
        let spread = m * m * variance(self.served_squares, k) + k * k * variance(self.missed_squares, m)
            - 2.0 * k * m * covariance;
        let together = self.by_row.values().map(|&c| (c * (c - 1)) as f64).sum::<f64>();
        let shared = k * k * (1.0 - self.share) / (self.share * self.share) * together / (n * n);
        Some((k / total, (spread.max(0.0) / n + shared).sqrt() / (total * total)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_is_the_ratio_and_its_error_shrinks_with_the_queries() {
        let mut recall = SampledRecall::default();
        assert_eq!(recall.estimate(), None);
        for query in 0..400u64 {
            // One in ten queries misses one row of a sample of a tenth: ten rows, one a query on average.
            let missed = [query];
            recall.add(10, &missed[..usize::from(query % 10 == 0)], 0.1);
        }
        let (estimate, error) = recall.estimate().unwrap();
        assert!((estimate - 10.0 / 11.0).abs() < 1e-12, "{estimate}");
        // The standard deviation of the missed is 3; 10 / 11^2 of it, over 20.
        assert!((error - 10.0 / 121.0 * 3.0 / 20.0).abs() < 1e-9, "{error}");
        // The same row missed by all of them says less than forty different ones.
        let mut alike = SampledRecall::default();
        (0..400u64).for_each(|query| alike.add(10, &[7][..usize::from(query % 10 == 0)], 0.1));
        assert_eq!(alike.estimate().unwrap().0, estimate);
        assert!(alike.estimate().unwrap().1 > 2.0 * error);
    }
}
