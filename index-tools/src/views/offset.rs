//! Whether global views want scores of their own scale: exact scores of all views, with a number added to those of the global ones.

use bigrain::heads::Head;
use bigrain::linalg::product_nt;
use rayon::prelude::*;
use serde::Serialize;

use super::{Encoded, Variant};

/// Mentions whose scores are held at once.
const AT_ONCE: usize = 64;

/// What mentions find by exact scores, with the scores of global views moved.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Moved {
    /// What is added to the score of a global view.
    pub by: f32,
    /// Share of the mentions whose entity comes first.
    pub recall_at_1: f64,
    /// Share of the mentions whose entity is among the best `k`.
    pub recall_at_k: f64,
}

/// Recall with each of the offsets. An entity scores as its best view does; ties count for the mention.
pub fn moved(encoded: &Encoded, heads: Option<(&Head, &Head)>, offsets: &[f32], k: usize) -> Vec<Moved> {
    let (both, mentions) = (encoded.views(Variant::Both), encoded.mentions.view());
    let mapped = heads.map(|(query, document)| (query.apply_rows(mentions), document.apply_rows(both.vectors.view())));
    let (asked, views) = match &mapped {
        Some((asked, views)) => (asked.view(), views.view()),
        None => (mentions, both.vectors.view()),
    };
    let chunks: Vec<usize> = (0..asked.nrows()).step_by(AT_ONCE).collect();
    // For each offset, mentions with their entity first, and among the best k.
    let count = |first: usize| -> Vec<[u64; 2]> {
        let rows = asked.slice(ndarray::s![first..(first + AT_ONCE).min(asked.nrows()), ..]);
        let mut scores = ndarray::Array2::zeros((rows.nrows(), views.nrows()));
        product_nt(rows, views, scores.view_mut());
        let mut counts = vec![[0; 2]; offsets.len()];
        for (row, &gold) in scores.rows().into_iter().zip(&encoded.gold[first..]) {
            let best = best_of_each(row.as_slice().expect("C order"), &both.starts);
            for (counts, by) in counts.iter_mut().zip(offsets) {
                let score = |&(global, local): &(f32, f32)| (global + by).max(local);
                let due = score(&best[gold as usize]);
                let above = best.iter().filter(|best| score(best) > due).count();
                counts[0] += u64::from(above == 0);
                counts[1] += u64::from(above < k);
            }
        }
        counts
    };
    let sum = |mut a: Vec<[u64; 2]>, b: Vec<[u64; 2]>| {
        a.iter_mut().zip(b).for_each(|(a, b)| *a = [a[0] + b[0], a[1] + b[1]]);
        a
    };
    let counts = chunks.into_par_iter().map(count).reduce(|| vec![[0; 2]; offsets.len()], sum);
    let share = |count: u64| count as f64 / encoded.gold.len() as f64;
    let of = |(&by, count): (&f32, [u64; 2])| Moved { by, recall_at_1: share(count[0]), recall_at_k: share(count[1]) };
    offsets.iter().zip(counts).map(of).collect()
}

/// The score of each entity's global view, and the best of its local ones. An entity with one view has no global one.
fn best_of_each(scores: &[f32], starts: &[usize]) -> Vec<(f32, f32)> {
    let best = |views: &[f32]| views.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    starts
        .windows(2)
        .map(|w| match &scores[w[0]..w[1]] {
            [only] => (f32::NEG_INFINITY, *only),
            views => (views[0], best(&views[1..])),
        })
        .collect()
}
