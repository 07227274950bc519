//! Lists in groups: for so many lists that comparing a query, or a document, with every centroid would be the cost.
//!
//! The easy version compares with all: 65,536 centroids of 384 dimensions are 25 MB of int8, a millisecond a query. Here lists
//! that are neighbours have neighbouring numbers, and the mean of each such group is compared first:
//! - **probe** takes the most promising groups until they have `3 sqrt(nprobe L)` lists, and compares the query with these. Most
//!   of the lists it then misses are among the last ones of `nprobe`. Share of the `nprobe` nearest lists found (GloVe, 8,192
//!   lists in 180 groups, a hard case: its vectors have no clusters):
//!   ```text
//!   nprobe   lists compared   found, of all   of the nearest quarter
//!       16            1,063            .982                     .986
//!       64            2,085            .993                     .997
//!      256            4,127            .998                    1.000
//!   ```
//! - **assign** compares a document with the lists of the [`GROUPS_TRIED`] nearest groups. Rows are sorted by group first, so
//!   that these are matrix products too.
//!
//! A graph over the centroids makes a third of the comparisons and takes two to three times as long: each of them is a cache miss of
//! its own, where a group is one run of int8 in memory (11, 25 and 56 us for these three rows; HNSW of FAISS 33, 86 and 174 us for as
//! many of the nearest lists, `benches/record/2026-11-23-zen4-2core/alternatives.md`). And it would have to be stored.

use ndarray::{Array2, ArrayView2, Axis, s};

use super::int8::{Int8Query, Int8Rows};
use super::{Coarse, assign::nearest_rows};
use crate::error::{Error, Result};
use crate::linalg::{norm2, product_nt};
use crate::simd::Kernels;
use crate::topk::{order_key, split_key};
use crate::types::{ListId, Metric};

/// Lists compared with a query, in units of `sqrt(nprobe * lists)`.
const LISTS_COMPARED: f64 = 3.0;
/// Nearest groups whose lists a document is compared with.
pub(super) const GROUPS_TRIED: usize = 8;

/// Runs of lists with their means.
#[derive(Debug, Clone)]
pub(super) struct Groups {
    /// First list of each group, then the number of lists: G + 1.
    starts: Vec<ListId>,
    /// Mean centroid of each group: G x d.
    means: Array2<f32>,
    half_norms: Vec<f32>,
    int8: Int8Rows,
}

impl Groups {
    /// Groups of the lists of `centroids` that begin at `starts` (the last entry is the number of lists).
    ///
    /// # Errors
    /// `InvalidParams` where these are no runs of at least one list that make up all of them.
    pub(super) fn new(
        centroids: ArrayView2<'_, f32>,
        starts: Vec<ListId>,
        center: &[f32],
        metric: Metric,
    ) -> Result<Groups> {
        let lists = centroids.nrows();
        let whole = starts.first() == Some(&0) && starts.last().is_some_and(|&last| last as usize == lists);
        if !whole || !starts.is_sorted_by(|a, b| a < b) {
            return Err(Error::params("groups", format!("they are not runs of lists that make up all {lists}")));
        }
        let mut means = Array2::zeros((starts.len() - 1, centroids.ncols()));
        for (mut mean, pair) in means.rows_mut().into_iter().zip(starts.windows(2)) {
            let members = centroids.slice(s![pair[0] as usize..pair[1] as usize, ..]);
            mean.assign(&members.mean_axis(Axis(0)).expect("a list or more"));
        }
        let half_norms = means.rows().into_iter().map(|m| norm2(m.as_slice().expect("C order")) / 2.0).collect();
        let int8 = Int8Rows::new(means.view(), center, metric);
        Ok(Groups { starts, means, half_norms, int8 })
    }

    /// First list of each group, then the number of lists.
    pub(super) fn starts(&self) -> &[ListId] {
        &self.starts
    }

    fn count(&self) -> usize {
        self.means.nrows()
    }

    fn lists(&self) -> usize {
        self.starts[self.count()] as usize
    }

    /// The lists of a group.
    fn members(&self, group: ListId) -> std::ops::Range<usize> {
        self.starts[group as usize] as usize..self.starts[group as usize + 1] as usize
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.starts.len() * 4 + self.means.len() * 4 + self.half_norms.len() * 4 + self.int8.memory_bytes()
    }

    /// Replaces `keys` by those of the lists of the most promising groups: as many lists as finding the best `nprobe` takes, and
    /// at least `least`.
    pub(super) fn rank(
        &self,
        kernels: &Kernels,
        lists: &Int8Rows,
        query: &mut Int8Query,
        (nprobe, least): (usize, usize),
        keys: &mut Vec<u64>,
        chosen: &mut Vec<u64>,
    ) {
        let compared = LISTS_COMPARED * (nprobe as f64 * self.lists() as f64).sqrt();
        let compared = (compared as usize).max(least).min(self.lists());
        chosen.clear();
        self.int8.rank(kernels, query, 0..self.count(), chosen);
        // Twice the number that groups of equal size would need; all of them where that is not enough.
        let likely = (2 * compared * self.count()).div_ceil(self.lists()).min(self.count());
        if likely < self.count() {
            chosen.select_nth_unstable_by(likely - 1, |a, b| b.cmp(a));
        }
        chosen[..likely].sort_unstable_by(|a, b| b.cmp(a));
        keys.clear();
        for &group in chosen.iter() {
            if keys.len() >= compared {
                break;
            }
            lists.rank(kernels, query, self.members(split_key(group).1), keys);
        }
    }

    /// See [`Coarse::assign`].
    pub(super) fn assign(&self, coarse: &Coarse, x: ArrayView2<'_, f32>, out: &mut [ListId]) {
        let tried = GROUPS_TRIED.min(self.count());
        let (starts, rows_of) = self.rows_by_group(x, tried);
        let mut best = vec![f32::NEG_INFINITY; x.nrows()];
        for group in 0..self.count() {
            let rows = &rows_of[starts[group]..starts[group + 1]];
            if rows.is_empty() {
                continue;
            }
            let members = self.members(group as ListId);
            let centroids = coarse.centroids.slice(s![members.clone(), ..]);
            let places: Vec<usize> = rows.iter().map(|&row| row as usize).collect();
            let gathered = x.select(Axis(0), &places);
            nearest_rows(gathered.view(), centroids, &coarse.half_norms[members.clone()], |at, member, score| {
                let (row, list) = (places[at], members.start as ListId + member);
                // Groups come by ascending list: the first one stays on ties.
                if score > best[row] {
                    (best[row], out[row]) = (score, list);
                }
            });
        }
    }

    /// The rows of `x` that try each group, one group after the other: where each begins (G + 1), and the rows.
    fn rows_by_group(&self, x: ArrayView2<'_, f32>, tried: usize) -> (Vec<usize>, Vec<u32>) {
        let mut scores = Array2::zeros((x.nrows(), self.count()));
        product_nt(x, self.means.view(), scores.view_mut());
        let mut keys = Vec::with_capacity(self.count());
        let mut nearest: Vec<u32> = Vec::with_capacity(x.nrows() * tried);
        for scores in scores.rows() {
            keys.clear();
            let ranked = scores.iter().zip(&self.half_norms).zip(0..);
            keys.extend(ranked.map(|((score, half_norm), group)| order_key(score - half_norm, group)));
            if tried < keys.len() {
                keys.select_nth_unstable_by(tried - 1, |a, b| b.cmp(a));
            }
            nearest.extend(keys[..tried].iter().map(|&key| split_key(key).1));
        }
        let mut starts = vec![0; self.count() + 1];
        nearest.iter().for_each(|&group| starts[group as usize + 1] += 1);
        (0..self.count()).for_each(|group| starts[group + 1] += starts[group]);
        let (mut next, mut rows_of) = (starts.clone(), vec![0; nearest.len()]);
        for (at, &group) in nearest.iter().enumerate() {
            rows_of[next[group as usize]] = (at / tried) as u32;
            next[group as usize] += 1;
        }
        (starts, rows_of)
    }
}
