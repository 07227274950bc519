//! How much a quantizer finds: candidates by codes alone, and the final list after verification.

use ndarray::{Array2, Axis};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

use super::{Loaded, TemporaryIndex};
use crate::error::{Error, Result};
use crate::search::SearchParams;
use crate::train::{Example, Watch, nearest};
use crate::types::Key;

/// Depths at which candidates are counted.
pub const DEPTHS: [usize; 3] = [10, 100, 1000];
/// Exact neighbours that are looked for among the first [`NEIGHBOUR_DEPTH`] candidates.
const NEIGHBOURS: usize = 10;
const NEIGHBOUR_DEPTH: usize = 100;
/// Queries of one task.
const BLOCK: usize = 64;

/// Queries with what is right for them.
#[derive(Debug)]
pub struct TestSet {
    /// Row of each query in the examples.
    queries: Vec<u32>,
    /// Keys (rows of the input) of each query's relevant documents.
    relevant: Vec<Vec<Key>>,
    /// Keys of documents that are relevant to each query but not asked for: they are left out of what is found.
    known: Vec<Vec<Key>>,
    /// Keys of each query's exact neighbours by the frozen vectors.
    neighbours: Vec<Vec<Key>>,
}

/// Shares of right documents, means over queries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// Relevant documents among the first 10, 100 and 1000 candidates by codes.
    pub candidates: [f64; 3],
    /// Exact neighbours (10, by the frozen vectors) among the first 100 candidates.
    pub neighbours: f64,
    /// Relevant documents among the first 10 and 100 after verification.
    pub verified: [f64; 2],
    /// Mean reciprocal rank of the first relevant document among the first 10 after verification.
    pub mrr: f64,
}

impl TestSet {
    /// Test queries and their pairs; neighbours are found by exact search over the documents in memory.
    ///
    /// # Errors
    /// `InvalidParams` without pairs; what `watch` stops with.
    pub fn new(loaded: &Loaded, pairs: &[Example], watch: &dyn Watch) -> Result<TestSet> {
        if pairs.is_empty() {
            return Err(Error::params("test", "there are no pairs to measure on"));
        }
        let mut relevant: HashMap<u32, Vec<Key>> = HashMap::new();
        for pair in pairs {
            relevant.entry(pair.query).or_default().push(loaded.document_rows[pair.document as usize]);
        }
        let mut queries: Vec<u32> = relevant.keys().copied().collect();
        queries.sort_unstable();
        let vectors = queries_of(&queries, loaded);
        let near = nearest(vectors.view(), loaded.examples.documents.view(), NEIGHBOURS, watch)?;
        let key = |row: u32| loaded.document_rows[row as usize];
        let neighbours = near.into_iter().map(|rows| rows.into_iter().map(key).collect()).collect();
        let relevant: Vec<Vec<Key>> = queries.iter().map(|q| relevant.remove(q).unwrap_or_default()).collect();
        let known = known_of(&queries, &relevant, loaded);
        Ok(TestSet { queries, relevant, known, neighbours })
    }

    /// Number of queries.
    pub fn queries(&self) -> usize {
        self.queries.len()
    }

    /// Exact search with the vectors as they are: the ceiling without training. It has no candidates; its figures there are
    /// zero.
    ///
    /// # Errors
    /// What `watch` stops with.
    pub fn exact(&self, loaded: &Loaded, watch: &dyn Watch) -> Result<Quality> {
        let vectors = queries_of(&self.queries, loaded);
        let depth = DEPTHS[1] + self.known.iter().map(Vec::len).max().unwrap_or(0);
        let found = nearest(vectors.view(), loaded.examples.documents.view(), depth, watch)?;
        let mut sum = Quality::default();
        for (i, rows) in found.iter().enumerate() {
            let keys: Vec<Key> = rows.iter().map(|&row| loaded.document_rows[row as usize]).collect();
            self.add_verified(i, &keys, &mut sum);
        }
        Ok(mean(&[sum], self.queries.len()))
    }

    /// Searches the index with every query; `params.candidates` rows are verified.
    ///
    /// # Errors
    /// As [`crate::search::Searcher::search`], and what `watch` stops with.
    pub fn measure(
        &self,
        index: &TemporaryIndex,
        loaded: &Loaded,
        params: &SearchParams,
        watch: &dyn Watch,
    ) -> Result<Quality> {
        watch.begin("measure", self.queries.len() as u64);
        let blocks: Result<Vec<Quality>> = (0..self.queries.len().div_ceil(BLOCK))
            .into_par_iter()
            .map(|block| {
                watch.check()?;
                let range = block * BLOCK..self.queries.len().min((block + 1) * BLOCK);
                let (mut scratch, mut hits, mut found) = (index.searcher().scratch(), Vec::new(), Vec::new());
                let mut sum = Quality::default();
                for i in range.clone() {
                    let query = loaded.examples.queries.row(self.queries[i] as usize);
                    let query = query.to_slice().expect("C order");
                    index.searcher().search(query, params, &mut scratch, &mut hits)?;
                    let keys: Vec<Key> = hits.iter().map(|hit| hit.key).collect();
                    self.add_verified(i, &keys, &mut sum);
                    index.searcher().candidates(query, params, &mut scratch, &mut found)?;
                    let keys: Vec<Key> = found.iter().map(|(row, _)| index.keys()[*row as usize]).collect();
                    self.add_candidates(i, &keys, &mut sum);
                }
                watch.advance(range.len() as u64);
                Ok(sum)
            })
            .collect();
        Ok(mean(&blocks?, self.queries.len()))
    }

    fn add_candidates(&self, i: usize, keys: &[Key], sum: &mut Quality) {
        sum.neighbours += share(&self.neighbours[i], &keys[..keys.len().min(NEIGHBOUR_DEPTH)]);
        let keys = &self.asked_for(i, keys);
        for (sum, depth) in sum.candidates.iter_mut().zip(DEPTHS) {
            *sum += share(&self.relevant[i], &keys[..keys.len().min(depth)]);
        }
    }

    /// What was found for query `i`, without what is right but not asked for.
    fn asked_for(&self, i: usize, keys: &[Key]) -> Vec<Key> {
        keys.iter().copied().filter(|key| !self.known[i].contains(key)).collect()
    }

    fn add_verified(&self, i: usize, keys: &[Key], sum: &mut Quality) {
        let keys = &self.asked_for(i, keys);
        for (sum, depth) in sum.verified.iter_mut().zip(DEPTHS) {
            *sum += share(&self.relevant[i], &keys[..keys.len().min(depth)]);
        }
        let first = keys.iter().take(10).position(|key| self.relevant[i].contains(key));
        sum.mrr += first.map_or(0.0, |at| 1.0 / (at + 1) as f64);
    }
}

/// The keys of documents that are known to be relevant to each of the queries, which ascend, beside those that are asked for.
fn known_of(queries: &[u32], relevant: &[Vec<Key>], loaded: &Loaded) -> Vec<Vec<Key>> {
    let mut known = vec![Vec::new(); queries.len()];
    for pair in &loaded.examples.known {
        let Ok(at) = queries.binary_search(&pair.query) else { continue };
        let key = loaded.document_rows[pair.document as usize];
        if !relevant[at].contains(&key) {
            known[at].push(key);
        }
    }
    known
}

/// The vectors of queries, in their order.
fn queries_of(queries: &[u32], loaded: &Loaded) -> Array2<f32> {
    let rows: Vec<usize> = queries.iter().map(|&q| q as usize).collect();
    loaded.examples.queries.select(Axis(0), &rows)
}

/// Share of `wanted` that is in `found`.
fn share(wanted: &[Key], found: &[Key]) -> f64 {
    wanted.iter().filter(|key| found.contains(key)).count() as f64 / wanted.len().max(1) as f64
}

fn mean(sums: &[Quality], queries: usize) -> Quality {
    let of = |f: &dyn Fn(&Quality) -> f64| sums.iter().map(f).sum::<f64>() / queries as f64;
    Quality {
        candidates: std::array::from_fn(|i| of(&|q| q.candidates[i])),
        neighbours: of(&|q| q.neighbours),
        verified: std::array::from_fn(|i| of(&|q| q.verified[i])),
        mrr: of(&|q| q.mrr),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::{Examples, Silent};

    /// Twelve documents, ever farther from the one query.
    #[test]
    fn what_is_right_but_not_asked_for_takes_no_place() {
        let documents = Array2::from_shape_fn((12, 2), |(i, j)| {
            let angle = i as f32 * 0.1;
            if j == 0 { angle.cos() } else { angle.sin() }
        });
        let pair = |document| Example { query: 0, document };
        let queries = ndarray::arr2(&[[1.0, 0.0]]);
        let measured = |known: Vec<Example>| {
            let examples = Examples {
                documents: documents.clone(),
                queries: queries.clone(),
                train: vec![],
                valid: vec![],
                known,
            };
            let loaded = Loaded { examples, document_rows: (0..12).collect() };
            TestSet::new(&loaded, &[pair(11)], &Silent).unwrap().exact(&loaded, &Silent).unwrap()
        };
        assert_eq!(measured(Vec::new()).verified, [0.0, 1.0]);
        let some = measured((0..4).chain([11]).map(pair).collect());
        assert_eq!((some.verified, some.mrr), ([1.0, 1.0], 1.0 / 8.0));
    }
}
