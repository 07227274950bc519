//! What right answers are, and how near an answer comes to them.

use crate::dataset::{Judgement, Truth};
use crate::dense::FetchScratch;
use crate::error::{Error, Result};
use crate::linalg::normalise;
use crate::search::{Hit, Searcher};
use crate::simd::Kernels;
use crate::types::{Key, Metric};

/// Right answers for a set of queries.
#[derive(Debug)]
pub enum Reference {
    /// For each query, the scores of its nearest rows, best first.
    Neighbours(Vec<Vec<f32>>),
    /// For each query, its relevant documents.
    Relevance(Vec<Vec<Key>>),
}

/// How good an answer is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quality {
    /// Recall in the first k hits.
    pub recall: f64,
    /// Reciprocal rank of the first right hit, 0 if there is none in the first k.
    pub reciprocal_rank: f64,
}

impl Reference {
    /// From the row numbers of the nearest rows: their scores are computed from the index's own dense vectors, for the
    /// ranks in `ks` (the others are not needed). `key_of` turns a row number of the input into the key it was indexed
    /// under.
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
        let mut scratch = FetchScratch::default();
        let mut scores = Vec::with_capacity(truth.queries());
        for (i, query) in queries.chunks(searcher.dim()).enumerate() {
            let mut query = query.to_vec();
            if searcher.metric() == Metric::Cosine {
                normalise(&mut query);
            }
            let mut of_query = vec![f32::NAN; deepest];
            for &k in ks {
                let key = key_of(truth.nearest(i)[k - 1]);
                of_query[k - 1] = score_of(searcher, &query, key, &mut scratch)?;
            }
            scores.push(of_query);
        }
        Ok(Reference::Neighbours(scores))
    }

    /// From labelled documents: those graded above 0. Documents that the index lacks count as missed.
    pub fn relevance(judgements: &[Judgement], queries: usize, key_of: &dyn Fn(u64) -> Key) -> Result<Reference> {
        let mut relevant = vec![Vec::new(); queries];
        for judgement in judgements.iter().filter(|j| j.grade > 0.0) {
            let found = usize::try_from(judgement.query).ok().and_then(|q| relevant.get_mut(q));
            let of_query = found
                .ok_or_else(|| Error::mismatch("query of a judgement", format!("below {queries}"), judgement.query))?;
            of_query.push(key_of(judgement.document));
        }
        Ok(Reference::Relevance(relevant))
    }

    /// Quality of the first `k` hits of a query; None where nothing is known to be right for it.
    pub fn quality(&self, query: usize, hits: &[Hit], k: usize) -> Option<Quality> {
        let hits = &hits[..hits.len().min(k)];
        let (right, wanted): (Vec<bool>, usize) = match self {
            Reference::Neighbours(scores) => {
                let least = scores[query][k - 1];
                (hits.iter().map(|hit| hit.score >= least).collect(), k)
            }
            Reference::Relevance(relevant) => {
                let relevant = &relevant[query];
                (hits.iter().map(|hit| relevant.contains(&hit.key)).collect(), relevant.len())
            }
        };
        let found = right.iter().filter(|&&r| r).count();
        (wanted > 0).then(|| Quality {
            recall: found as f64 / wanted as f64,
            reciprocal_rank: right.iter().position(|&r| r).map_or(0.0, |at| 1.0 / (at + 1) as f64),
        })
    }
}

fn score_of(searcher: &Searcher, query: &[f32], key: Key, scratch: &mut FetchScratch) -> Result<f32> {
    let index = searcher.index();
    let row = index.row(key)?.ok_or_else(|| {
        Error::params("truth", format!("it names row {key}, which the index lacks; is it the truth of this index?"))
    })?;
    let mut score = f32::NAN;
    index.dense().for_each(&[row], scratch, &mut |_, record| {
        score = record.score(Kernels::detect(), searcher.metric(), query);
    })?;
    Ok(score)
}
