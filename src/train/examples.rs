//! What the learned parts are trained on: documents, queries, and which of them belong together.

use ndarray::{Array2, ArrayView2, Axis};
use std::collections::HashMap;

use super::batch::epoch_pairs;
use crate::error::{Error, Result};
use crate::sample::Rng;

/// Queries that recall is validated on.
const VALID_QUERIES: usize = 2_000;

/// A query and a document that is relevant to it: rows of [`Examples`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Example {
    /// Row of the query.
    pub query: u32,
    /// Row of the document.
    pub document: u32,
}

/// Vectors in memory with labelled pairs of them. Under cosine all vectors have unit length.
#[derive(Debug, Clone)]
pub struct Examples {
    /// n x d.
    pub documents: Array2<f32>,
    /// Number of queries x d; without queries, 0 x d.
    pub queries: Array2<f32>,
    /// Pairs to learn from.
    pub train: Vec<Example>,
    /// Pairs to choose by, of other queries and other documents.
    pub valid: Vec<Example>,
    /// Further pairs that are relevant, such as those between what is learned from and what is held out: never a target, but never
    /// taken for wrong either.
    pub known: Vec<Example>,
}

impl Examples {
    /// Dimension of all vectors.
    pub fn dim(&self) -> usize {
        self.documents.ncols()
    }

    /// Moves a share of the documents that are in pairs, with every query that has only such documents, from `train` to
    /// `valid`. Pairs that would straddle the two are `known` from then on.
    ///
    /// # Errors
    /// `InvalidParams` if one of the two would be empty.
    pub fn hold_out(&mut self, share: f64, seed: u64) -> Result<()> {
        let held = |document: u32| Rng::stream(seed, u64::from(document)).unit_f64() < share;
        let mut inside: HashMap<u32, (bool, bool)> = HashMap::new();
        for pair in &self.train {
            let (any, all) = inside.entry(pair.query).or_insert((false, true));
            *any |= held(pair.document);
            *all &= held(pair.document);
        }
        let pairs = std::mem::take(&mut self.train);
        self.valid.extend(pairs.iter().filter(|p| inside[&p.query].1));
        self.train.extend(pairs.iter().filter(|p| !inside[&p.query].0));
        self.known.extend(pairs.iter().filter(|p| inside[&p.query] == (true, false)));
        if self.train.is_empty() || self.valid.is_empty() {
            let reason = format!(
                "of {} pairs, {} are left for training and {} for validation; give more pairs or another share than {share}",
                pairs.len(),
                self.train.len(),
                self.valid.len()
            );
            return Err(Error::params("valid", reason));
        }
        Ok(())
    }

    /// Refuses examples that nothing can be trained on.
    ///
    /// # Errors
    /// `InvalidParams` for a split without pairs or pairs of rows that do not exist, `Mismatch` for queries of another
    /// dimension.
    pub(crate) fn check(&self) -> Result<()> {
        for (name, pairs) in [("pairs", &self.train), ("valid", &self.valid), ("known", &self.known)] {
            if pairs.is_empty() && name != "known" {
                return Err(Error::params(name, "there are none; give pairs of queries and their documents"));
            }
            let outside = |p: &&Example| {
                p.query as usize >= self.queries.nrows() || p.document as usize >= self.documents.nrows()
            };
            if let Some(p) = pairs.iter().find(outside) {
                return Err(Error::params(
                    name,
                    format!("query {} or document {} does not exist", p.query, p.document),
                ));
            }
        }
        if self.queries.ncols() != self.dim() {
            return Err(Error::mismatch("dimension of the queries", self.dim(), self.queries.ncols()));
        }
        Ok(())
    }

    /// Held-out pairs that training is judged on: one a query, at most [`VALID_QUERIES`].
    pub(crate) fn judged(&self, seed: u64) -> Vec<Example> {
        let mut pairs = epoch_pairs(&self.valid, seed, u64::MAX);
        pairs.truncate(VALID_QUERIES);
        pairs
    }

    /// Every relevant document of each query, ascending.
    pub(crate) fn positives(&self) -> Vec<Vec<u32>> {
        let mut positives = vec![Vec::new(); self.queries.nrows()];
        for pair in self.train.iter().chain(&self.valid).chain(&self.known) {
            positives[pair.query as usize].push(pair.document);
        }
        positives.iter_mut().for_each(|p| {
            p.sort_unstable();
            p.dedup();
        });
        positives
    }
}

/// Copies the rows of `x` that are named.
pub(crate) fn select(x: ArrayView2<'_, f32>, rows: impl IntoIterator<Item = u32>) -> Array2<f32> {
    let rows: Vec<usize> = rows.into_iter().map(|r| r as usize).collect();
    x.select(Axis(0), &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples(pairs: &[(u32, u32)]) -> Examples {
        let train = pairs.iter().map(|&(query, document)| Example { query, document }).collect();
        let (documents, queries) = (Array2::zeros((400, 2)), Array2::zeros((400, 2)));
        Examples { documents, queries, train, valid: Vec::new(), known: Vec::new() }
    }

    #[test]
    fn nothing_straddles_what_is_held_out() {
        let pairs: Vec<(u32, u32)> = (0..400).flat_map(|i| [(i, i), (i / 2, (i + 1) % 400)]).collect();
        let mut examples = examples(&pairs);
        examples.hold_out(0.2, 3).unwrap();
        assert!(!examples.valid.is_empty() && examples.train.len() > examples.valid.len());
        for v in &examples.valid {
            assert!(examples.train.iter().all(|t| t.query != v.query && t.document != v.document));
        }
        assert_eq!(examples.train.len() + examples.valid.len() + examples.known.len(), pairs.len());
        let positives = examples.positives();
        assert!(pairs.iter().all(|&(q, d)| positives[q as usize].contains(&d)), "what is relevant stays so");
    }

    #[test]
    fn a_share_that_leaves_nothing_is_refused() {
        let message = examples(&[(0, 0), (1, 1)]).hold_out(1.0, 1).unwrap_err().to_string();
        assert!(message.contains("0 are left for training"), "{message}");
    }

    #[test]
    fn positives_are_those_of_both_splits() {
        let mut examples = examples(&[(1, 5), (1, 2), (1, 5)]);
        examples.valid.push(Example { query: 0, document: 9 });
        assert_eq!(examples.positives()[..3], [vec![9], vec![2, 5], vec![]]);
    }
}
