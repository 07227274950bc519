//! Which queries and documents meet in a step.

use std::collections::HashMap;

use super::examples::Example;
use crate::sample::Rng;

/// Rows are queries, columns documents; every query is scored against every column.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Batch {
    /// Rows of the queries.
    pub(crate) queries: Vec<u32>,
    /// Rows of the documents.
    pub(crate) columns: Vec<u32>,
    /// The column of each query's own document.
    pub(crate) own: Vec<usize>,
    /// Places (row, column) that are left out: documents that are relevant, too.
    pub(crate) masked: Vec<(usize, usize)>,
    /// Seed of what is random about the batch itself.
    pub(crate) draw: u64,
}

impl Batch {
    /// A batch of pairs whose own documents come first; `more` columns follow.
    pub(crate) fn new(pairs: &[Example], more: Vec<u32>, positives: &[Vec<u32>]) -> Batch {
        let mut columns: Vec<u32> = pairs.iter().map(|p| p.document).collect();
        columns.extend(more);
        let queries: Vec<u32> = pairs.iter().map(|p| p.query).collect();
        let own: Vec<usize> = (0..pairs.len()).collect();
        let mut places: HashMap<u32, Vec<usize>> = HashMap::with_capacity(columns.len());
        columns.iter().enumerate().for_each(|(at, &document)| places.entry(document).or_default().push(at));
        let mut masked = Vec::new();
        for (row, &query) in queries.iter().enumerate() {
            for document in &positives[query as usize] {
                let found = places.get(document).into_iter().flatten().filter(|&&at| at != own[row]);
                masked.extend(found.map(|&at| (row, at)));
            }
        }
        Batch { queries, columns, own, masked, draw: 0 }
    }
}

/// One pair for each training query, in random order: its document is drawn among the query's pairs.
pub(crate) fn epoch_pairs(train: &[Example], seed: u64, epoch: u64) -> Vec<Example> {
    let mut rng = Rng::stream(seed, epoch);
    let mut sorted = train.to_vec();
    sorted.sort_unstable();
    let mut drawn: Vec<Example> =
        sorted.chunk_by(|a, b| a.query == b.query).map(|pairs| pairs[rng.below(pairs.len() as u64) as usize]).collect();
    rng.shuffle(&mut drawn);
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_relevant_documents_are_masked_wherever_they_stand() {
        let pair = |query, document| Example { query, document };
        let positives = vec![vec![3, 5], vec![4], vec![5]];
        let batch = Batch::new(&[pair(0, 3), pair(1, 4), pair(2, 5)], vec![5, 9, 4], &positives);
        assert_eq!(batch.columns, [3, 4, 5, 5, 9, 4]);
        let mut masked = batch.masked.clone();
        masked.sort_unstable();
        assert_eq!(masked, [(0, 2), (0, 3), (1, 5), (2, 3)]);
    }

    #[test]
    fn an_epoch_has_every_query_once_and_another_order_each_time() {
        let train: Vec<Example> = (0..90).map(|i| Example { query: i / 3, document: i }).collect();
        let first = epoch_pairs(&train, 1, 0);
        let mut queries: Vec<u32> = first.iter().map(|p| p.query).collect();
        assert!(first.iter().all(|p| p.document / 3 == p.query));
        assert_ne!(first, epoch_pairs(&train, 1, 1));
        assert_eq!(first, epoch_pairs(&train, 1, 0));
        queries.sort_unstable();
        assert_eq!(queries, (0..30).collect::<Vec<_>>());
    }
}
