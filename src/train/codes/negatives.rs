//! Documents that a step of stage 1 adds to those of its pairs.

use std::collections::HashMap;

use super::super::examples::{Example, Examples, select};
use super::super::{Watch, nearest};
use crate::error::Result;
use crate::sample::Rng;
use ndarray::Array2;

/// The nearest documents of training queries, best first, without those that are labelled.
#[derive(Debug, Clone)]
pub(super) struct Nearest {
    by_query: HashMap<u32, Vec<u32>>,
}

impl Nearest {
    /// Finds the `k` nearest of `documents` for every training query.
    pub(super) fn find(
        examples: &Examples,
        k: usize,
        queries: &Array2<f32>,
        documents: &Array2<f32>,
        watch: &dyn Watch,
    ) -> Result<Nearest> {
        let mut rows: Vec<u32> = examples.train.iter().map(|p| p.query).collect();
        rows.sort_unstable();
        rows.dedup();
        let positives = examples.positives();
        let found = nearest(select(queries.view(), rows.iter().copied()).view(), documents.view(), k, watch)?;
        let by_query = rows.into_iter().zip(found).map(|(query, mut near)| {
            near.retain(|document| positives[query as usize].binary_search(document).is_err());
            (query, near)
        });
        Ok(Nearest { by_query: by_query.collect() })
    }

    fn of(&self, query: u32) -> &[u32] {
        self.by_query.get(&query).map_or(&[], Vec::as_slice)
    }
}

/// For each pair one document of the query's nearest (distillation only), then random ones.
pub(super) fn negatives(
    pairs: &[Example],
    nearest: Option<&Nearest>,
    random: usize,
    documents: usize,
    rng: &mut Rng,
) -> Vec<u32> {
    let mut all = Vec::with_capacity(pairs.len() + random);
    if let Some(nearest) = nearest {
        all.extend(pairs.iter().filter_map(|pair| {
            let near = nearest.of(pair.query);
            (!near.is_empty()).then(|| near[rng.below(near.len() as u64) as usize])
        }));
    }
    all.extend((0..random).map(|_| rng.below(documents as u64) as u32));
    all
}
