//! What right answers are, and how near an answer comes to them.

use std::collections::HashSet;

use crate::dataset::{Judgement, Truth};
use crate::error::{Error, Result};
use crate::search::{Hit, Scratch, Searcher};
use crate::types::{Key, Row};

/// Depths at which hits and candidates are measured, as far as they reach.
pub(super) const DEPTHS: [usize; 4] = [10, 50, 100, 1_000];

/// Right answers for a set of queries.
#[derive(Debug)]
pub enum Reference {
    /// For each query, the scores of its nearest rows, best first, from the vectors that the index stores.
    Neighbours(Vec<Vec<f32>>),
    /// For each query, the keys of its nearest rows, best first, where dense heads make the stored vectors others than
    /// those that the truth was computed from.
    Nearest(Vec<Vec<Key>>),
    /// For each query, its relevant documents.
    Relevance(Vec<Vec<Key>>),
}

/// How good an answer is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quality {
    /// Share of the right answers that were found.
    pub recall: f64,
    /// Reciprocal rank of the first right hit, 0 if there is none.
    pub reciprocal_rank: f64,
}

impl Quality {
    /// The mean over those queries for which something is known to be right; zeros if there are none.
    pub(super) fn mean(qualities: impl IntoIterator<Item = Option<Quality>>) -> Quality {
        let known: Vec<Quality> = qualities.into_iter().flatten().collect();
        let mean = |f: &dyn Fn(&Quality) -> f64| known.iter().map(f).sum::<f64>() / known.len().max(1) as f64;
        Quality { recall: mean(&|q| q.recall), reciprocal_rank: mean(&|q| q.reciprocal_rank) }
    }
}

impl Reference {
    /// From the row numbers of the nearest rows. Their scores are computed from the index's own dense vectors, for the
    /// ranks in `ks` and the depths of candidates (the others are not needed); through dense heads scores say nothing
    /// about the truth, and keys are kept instead. `key_of` turns a row number of the input into the key it was indexed
    /// under.
    ///
    /// # Errors
    /// `InvalidParams` for ranks that the truth does not have, and for rows that the index lacks.
    pub fn neighbours(
        searcher: &Searcher,
        queries: &[f32],
        truth: &Truth,
        ks: &[usize],
        key_of: &dyn Fn(u64) -> Key,
    ) -> Result<Reference> {
        let deepest = ks.iter().copied().max().unwrap_or(0);
        if deepest > truth.k {
            let reason = format!("{deepest} is deeper than the truth, which has {} rows a query", truth.k);
            return Err(Error::params("k", reason));
        }
        let heads = searcher.index().quantizer().heads();
        let mapped = heads.dense_query.is_some() || heads.dense_document.is_some();
        let ranks = || ks.iter().copied().chain(DEPTHS.into_iter().filter(|&depth| depth < deepest));
        let mut scratch = searcher.scratch();
        let (mut scores, mut nearest) = (Vec::new(), Vec::new());
        for (i, query) in queries.chunks(searcher.dim()).enumerate() {
            let keys = nearest_keys(searcher, truth.nearest(i).iter().map(|&row| key_of(row)), deepest)?;
            let mut of_query = vec![f32::NAN; deepest];
            for k in ranks() {
                let rows = rows_of(searcher, keys[k - 1])?;
                of_query[k - 1] = if mapped { 0.0 } else { score_of(searcher, query, &rows, &mut scratch)? };
            }
            scores.push(of_query);
            nearest.push(keys);
        }
        Ok(if mapped { Reference::Nearest(nearest) } else { Reference::Neighbours(scores) })
    }

    /// From labelled documents: those graded above 0. Documents that the index lacks count as missed.
    ///
    /// # Errors
    /// `Mismatch` for a judgement of a query that there is not; `InvalidParams` where no query has a relevant document.
    pub fn relevance(judgements: &[Judgement], queries: usize, key_of: &dyn Fn(u64) -> Key) -> Result<Reference> {
        let mut relevant = vec![Vec::new(); queries];
        for judgement in judgements.iter().filter(|j| j.grade > 0.0) {
            let found = usize::try_from(judgement.query).ok().and_then(|q| relevant.get_mut(q));
            let of_query = found
                .ok_or_else(|| Error::mismatch("query of a judgement", format!("below {queries}"), judgement.query))?;
            // Rows of one document are one relevant document.
            let key = key_of(judgement.document);
            if !of_query.contains(&key) {
                of_query.push(key);
            }
        }
        if relevant.iter().all(Vec::is_empty) {
            let reason = format!("none of {queries} queries has a document graded above 0; are they of another set?");
            return Err(Error::params("qrels", reason));
        }
        Ok(Reference::Relevance(relevant))
    }

    /// What is right for some of the queries, as far as the `k` nearest.
    pub fn part(&self, queries: std::ops::Range<usize>, k: usize) -> Reference {
        fn cut<T: Clone>(lists: &[Vec<T>], k: usize) -> Vec<Vec<T>> {
            lists.iter().map(|list| list[..k.min(list.len())].to_vec()).collect()
        }
        match self {
            Reference::Neighbours(scores) => Reference::Neighbours(cut(&scores[queries], k)),
            Reference::Nearest(keys) => Reference::Nearest(cut(&keys[queries], k)),
            Reference::Relevance(keys) => Reference::Relevance(keys[queries].to_vec()),
        }
    }

    /// Whether a hit, with the score of its dense vector, is among all the right answers of a query.
    pub fn has(&self, query: usize, hit: &Hit) -> bool {
        match self {
            Reference::Neighbours(scores) => scores[query].last().is_some_and(|least| hit.score >= *least),
            Reference::Nearest(keys) | Reference::Relevance(keys) => keys[query].contains(&hit.key),
        }
    }

    /// Number of queries for which something is known to be right; means are over those.
    pub fn judged(&self) -> usize {
        match self {
            Reference::Neighbours(scores) => scores.len(),
            Reference::Nearest(keys) => keys.len(),
            Reference::Relevance(relevant) => relevant.iter().filter(|documents| !documents.is_empty()).count(),
        }
    }

    /// Quality of `hits`, all of them, when the `depth` nearest rows (or the relevant documents) are looked for; None
    /// where nothing is known to be right for the query. Scores of hits are those of the dense vectors alone.
    pub fn quality(&self, query: usize, hits: &[Hit], depth: usize) -> Option<Quality> {
        let among = |keys: &[Key]| hits.iter().map(|hit| keys.contains(&hit.key)).collect::<Vec<bool>>();
        let (right, wanted) = match self {
            Reference::Neighbours(scores) => {
                // An index may have fewer rows than are looked for.
                let depth = depth.min(scores[query].len());
                let least = scores[query][depth - 1];
                (hits.iter().map(|hit| hit.score >= least).collect(), depth)
            }
            Reference::Nearest(keys) => (among(&keys[query][..depth]), depth),
            Reference::Relevance(relevant) => (among(&relevant[query]), relevant[query].len()),
        };
        // Among many hits, more than `depth` may reach the score of the last one that is looked for.
        let found = right.iter().filter(|&&r| r).count().min(wanted);
        (wanted > 0).then(|| Quality {
            recall: found as f64 / wanted as f64,
            reciprocal_rank: right.iter().position(|&r| r).map_or(0.0, |at| 1.0 / (at + 1) as f64),
        })
    }
}

/// The first `deepest` different keys of a query's truth, nearest first.
fn nearest_keys(searcher: &Searcher, truth: impl Iterator<Item = Key>, deepest: usize) -> Result<Vec<Key>> {
    let mut seen = HashSet::new();
    // Where a row is a document nothing comes twice, unless the truth is wrong: that shows as a low recall.
    let keys: Vec<Key> = truth.filter(|&key| searcher.views().is_none() || seen.insert(key)).take(deepest).collect();
    match keys.len() < deepest {
        true => {
            let reason = format!(
                "{deepest} is deeper than the truth of a query, whose rows belong to {} documents; give more rows, or no truth",
                keys.len()
            );
            Err(Error::params("k", reason))
        }
        false => Ok(keys),
    }
}

/// The rows of a document, ascending.
fn rows_of(searcher: &Searcher, key: Key) -> Result<Vec<Row>> {
    let mut rows = searcher.index().rows(key)?;
    rows.sort_unstable();
    match rows.is_empty() {
        true => {
            let reason = format!("it names row {key}, which the index lacks; is it the truth of this index?");
            Err(Error::params("truth", reason))
        }
        false => Ok(rows),
    }
}

/// The best score of these rows.
fn score_of(searcher: &Searcher, query: &[f32], rows: &[Row], scratch: &mut Scratch) -> Result<f32> {
    let mut hits = Vec::with_capacity(rows.len());
    searcher.score_rows(query, rows, scratch, &mut hits)?;
    Ok(hits.iter().map(|hit| hit.score).fold(f32::NEG_INFINITY, f32::max))
}
