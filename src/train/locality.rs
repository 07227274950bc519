//! Locality-centric sampling (BiDR, WWW 2022, section 4.2): batches whose members are each other's hard negatives.
//!
//! Verification only ever compares documents that the codes returned for one query. So every training query is searched with
//! the finished codes; query `q` and candidate `a` are neighbours in a graph. A batch is grown along it: from a query to one
//! of its candidates, from there back to other queries that the candidate was returned for, and so on. The positives and
//! negatives of all queries of such a batch come from one neighbourhood, and every query is compared with all of them.
//! - **walk** goes on from one of the queries found last (last in, first out): long paths;
//! - **snowball** takes all queries found, in the order found (first in, first out): dense neighbourhoods.

use std::collections::{HashSet, VecDeque};

use super::batch::epoch_pairs;
use super::examples::Example;
use crate::sample::Rng;
use crate::types::names;

/// Where the negatives of stage 2 come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampling {
    /// Random documents and the rest of the batch: the usual training of a dense retriever.
    Random,
    /// A query's own candidates only.
    Ann,
    /// One of the query's candidates, and the rest of a random batch.
    AnnInBatch,
    /// Batches along random walks.
    Walk,
    /// Batches that grow like snowballs.
    Snowball,
}

names!(Sampling, "sampling", Sampling::Random => "random", Sampling::Ann => "ann", Sampling::AnnInBatch => "ann-in-batch",
    Sampling::Walk => "walk", Sampling::Snowball => "snowball");

/// What the codes returned for each query, best first, relevant documents left out. Queries that were not searched have none.
#[derive(Debug, Clone, Default)]
pub struct Candidates {
    /// One list a query (row of [`super::Examples::queries`]).
    pub by_query: Vec<Vec<u32>>,
}

impl Candidates {
    fn of(&self, query: u32) -> &[u32] {
        self.by_query.get(query as usize).map_or(&[], Vec::as_slice)
    }
}

/// A query with its relevant document and one that is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Triple {
    pub(super) pair: Example,
    pub(super) negative: u32,
}

/// Cuts training queries into batches.
#[derive(Debug)]
pub(super) struct Sampler<'a> {
    sampling: Sampling,
    candidates: &'a Candidates,
    /// Training queries that each document was returned for.
    returned_for: Vec<Vec<u32>>,
    documents: usize,
    batch: usize,
    seed: u64,
}

/// The queries that one epoch has not used yet.
struct Unvisited {
    order: Vec<Example>,
    next: usize,
    pair_of: Vec<Option<Example>>,
}

impl Unvisited {
    fn new(order: Vec<Example>) -> Unvisited {
        let most = order.iter().map(|p| p.query as usize + 1).max().unwrap_or(0);
        let mut pair_of = vec![None; most];
        order.iter().for_each(|&pair| pair_of[pair.query as usize] = Some(pair));
        Unvisited { order, next: 0, pair_of }
    }

    fn has(&self, query: u32) -> bool {
        self.pair_of.get(query as usize).is_some_and(Option::is_some)
    }

    /// Takes this query, or nothing if it was used.
    fn take(&mut self, query: u32) -> Option<Example> {
        self.pair_of.get_mut(query as usize)?.take()
    }

    /// Takes a random one.
    fn take_any(&mut self) -> Option<Example> {
        while self.next < self.order.len() {
            self.next += 1;
            if let Some(pair) = self.take(self.order[self.next - 1].query) {
                return Some(pair);
            }
        }
        None
    }
}

impl<'a> Sampler<'a> {
    pub(super) fn new(
        sampling: Sampling,
        candidates: &'a Candidates,
        train: &[Example],
        documents: usize,
        batch: usize,
        seed: u64,
    ) -> Sampler<'a> {
        let mut returned_for = Vec::new();
        if matches!(sampling, Sampling::Walk | Sampling::Snowball) {
            returned_for.resize(documents, Vec::new());
            let mut queries: Vec<u32> = train.iter().map(|p| p.query).collect();
            queries.sort_unstable();
            queries.dedup();
            for query in queries {
                candidates.of(query).iter().for_each(|&document| returned_for[document as usize].push(query));
            }
        }
        Sampler { sampling, candidates, returned_for, documents, batch, seed }
    }

    /// The batches of an epoch: every training query once.
    pub(super) fn epoch(&self, train: &[Example], positives: &[Vec<u32>], epoch: u64) -> Vec<Vec<Triple>> {
        let mut rng = Rng::stream(self.seed, (2 << 32) + epoch);
        let mut unvisited = Unvisited::new(epoch_pairs(train, self.seed, epoch));
        let mut batches = Vec::new();
        loop {
            let batch = self.grow(&mut unvisited, positives, &mut rng);
            if batch.is_empty() {
                break;
            }
            batches.push(batch);
        }
        // A snowball's neighbourhoods come in the order of their starts; the last batches are leftovers.
        rng.shuffle(&mut batches);
        batches
    }

    fn grow(&self, unvisited: &mut Unvisited, positives: &[Vec<u32>], rng: &mut Rng) -> Vec<Triple> {
        let mut batch = Vec::with_capacity(self.batch);
        let mut queue: VecDeque<u32> = VecDeque::new();
        let mut used: HashSet<u32> = HashSet::new();
        while batch.len() < self.batch {
            let next = match self.sampling {
                Sampling::Walk => queue.pop_back(),
                Sampling::Snowball => queue.pop_front(),
                _ => None,
            };
            let pair = match next {
                Some(query) => unvisited.take(query),
                None => match unvisited.take_any() {
                    None => break,
                    some => some,
                },
            };
            let Some(pair) = pair else { continue };
            let negative = self.negative(pair, positives, &mut used, rng);
            batch.push(Triple { pair, negative });
            self.enqueue(negative, unvisited, &mut queue, rng);
        }
        batch
    }

    /// A candidate of the pair's query that is not relevant and not used in this batch, else a random document.
    fn negative(&self, pair: Example, positives: &[Vec<u32>], used: &mut HashSet<u32>, rng: &mut Rng) -> u32 {
        let relevant = &positives[pair.query as usize];
        let found = self.candidates.of(pair.query);
        if self.sampling != Sampling::Random && !found.is_empty() {
            let start = rng.below(found.len() as u64) as usize;
            let mut rotated = found[start..].iter().chain(&found[..start]);
            if let Some(&row) = rotated.find(|row| !relevant.contains(row) && !used.contains(*row)) {
                used.insert(row);
                return row;
            }
        }
        rng.below(self.documents as u64) as u32
    }

    fn enqueue(&self, negative: u32, unvisited: &Unvisited, queue: &mut VecDeque<u32>, rng: &mut Rng) {
        let Some(back) = self.returned_for.get(negative as usize) else { return };
        match self.sampling {
            Sampling::Snowball => queue.extend(back.iter().filter(|&&query| unvisited.has(query))),
            Sampling::Walk => {
                let fresh: Vec<u32> = back.iter().copied().filter(|&query| unvisited.has(query)).collect();
                if !fresh.is_empty() {
                    queue.push_back(fresh[rng.below(fresh.len() as u64) as usize]);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 40 queries in 4 neighbourhoods of 10, whose candidates are the neighbourhood's documents.
    fn neighbourhoods() -> (Vec<Example>, Candidates, Vec<Vec<u32>>) {
        let train: Vec<Example> = (0..40).map(|i| Example { query: i, document: i }).collect();
        let near = |q: u32| (0..40).filter(|d| d / 10 == q / 10 && *d != q).collect();
        let candidates = Candidates { by_query: (0..40).map(near).collect() };
        (train, candidates, (0..40).map(|i| vec![i]).collect())
    }

    fn batches(sampling: Sampling) -> Vec<Vec<Triple>> {
        let (train, candidates, positives) = neighbourhoods();
        Sampler::new(sampling, &candidates, &train, 40, 8, 5).epoch(&train, &positives, 1)
    }

    #[test]
    fn every_strategy_uses_every_query_once_and_never_a_relevant_document_as_candidate() {
        for sampling in [Sampling::Random, Sampling::Ann, Sampling::AnnInBatch, Sampling::Walk, Sampling::Snowball] {
            let batches = batches(sampling);
            let mut queries: Vec<u32> = batches.iter().flatten().map(|t| t.pair.query).collect();
            queries.sort_unstable();
            assert_eq!(queries, (0..40).collect::<Vec<_>>(), "{sampling:?}");
            assert!(batches.iter().all(|b| b.len() <= 8));
            if sampling != Sampling::Random {
                assert!(batches.iter().flatten().all(|t| t.negative != t.pair.query));
            }
        }
    }

    /// Neighbourhoods that meet in a batch, on average over batches.
    fn mixing(batches: &[Vec<Triple>]) -> f64 {
        let kinds = |b: &Vec<Triple>| b.iter().map(|t| t.pair.query / 10).collect::<HashSet<_>>().len();
        batches.iter().map(kinds).sum::<usize>() as f64 / batches.len() as f64
    }

    #[test]
    fn walks_and_snowballs_stay_in_a_neighbourhood() {
        let (walk, snowball, random) = (
            mixing(&batches(Sampling::Walk)),
            mixing(&batches(Sampling::Snowball)),
            mixing(&batches(Sampling::Random)),
        );
        assert!(snowball < 2.3 && walk < 2.6 && random > 3.0, "snowball {snowball}, walk {walk}, random {random}");
    }

    #[test]
    fn negatives_of_a_batch_do_not_repeat_while_there_are_others() {
        for batch in batches(Sampling::Snowball) {
            let negatives: HashSet<u32> = batch.iter().map(|t| t.negative).collect();
            assert!(negatives.len() >= batch.len() - 2);
        }
    }
}
