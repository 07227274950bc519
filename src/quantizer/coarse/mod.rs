//! The coarse quantizer: one centroid a list; which list a document belongs to, and which lists a query should probe.
//!
//! The easy version compares a query with every centroid in f32. That reads `4 L d` bytes a query, which at 512 lists
//! of 784 dimensions is more memory traffic than all the codes that are scanned afterwards. So:
//! - **probe** scans an int8 copy of the centroids (a quarter of the bytes, exact integer products), takes a few more
//!   lists than asked for, and scores only those in f32. Centroids and query are taken relative to the mean centroid
//!   first: the shared part changes no order and would waste the eight bits.
//! - **assign** is a matrix product in tiles, for training and building.

mod assign;
mod groups;
mod int8;

use ndarray::{Array2, ArrayView2, Axis};

use crate::error::Result;
use crate::linalg::norm2;
use crate::simd::{Kernels, prefetch};
use crate::topk::split_key;
use crate::types::{ListId, Metric};
use groups::Groups;
use int8::{Int8Query, Int8Rows};

/// `L x d` centroids with what is derived from them.
#[derive(Debug, Clone)]
pub struct Coarse {
    centroids: Array2<f32>,
    half_norms: Vec<f32>,
    center: Vec<f32>,
    metric: Metric,
    int8: Int8Rows,
    groups: Option<Groups>,
}

/// A list to scan, with what its rows' scores start from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Probe {
    /// Which list.
    pub list: ListId,
    /// `<q, o>` for the list's centroid `o`, or `-|q - o|^2` under L2.
    pub base: f32,
    /// How much less promising than the first list: how much farther its centroid is, as a share of the first one's
    /// distance; where lists are ranked by inner products, how much lower its score, as a share of the first one's size.
    pub gap: f32,
}

/// Working memory of [`Coarse::probe`].
#[derive(Debug, Default)]
pub struct ProbeScratch {
    query: Int8Query,
    keys: Vec<u64>,
    groups: Vec<u64>,
    order: Vec<(f32, Probe)>,
}

impl Coarse {
    /// A coarse quantizer over `L x d` centroids, `L` at least 1.
    pub fn new(centroids: Array2<f32>, metric: Metric) -> Coarse {
        let half_norms = centroids.rows().into_iter().map(|c| norm2(c.as_slice().expect("C order")) / 2.0).collect();
        let center = centroids.mean_axis(Axis(0)).expect("at least one list").to_vec();
        let int8 = Int8Rows::new(centroids.view(), &center, metric);
        Coarse { centroids, half_norms, center, metric, int8, groups: None }
    }

    /// The same with groups of neighbouring lists: the first list of each, then the number of lists.
    ///
    /// # Errors
    /// `InvalidParams` where these are no runs of at least one list that make up all of them.
    pub fn with_groups(self, starts: Vec<ListId>) -> Result<Coarse> {
        let groups = Groups::new(self.centroids.view(), starts, &self.center, self.metric)?;
        Ok(Coarse { groups: Some(groups), ..self })
    }

    /// Centroids, of groups and of lists, that a document is compared with where `lists` are in `groups` of equal size.
    pub fn grouped_comparisons(lists: usize, groups: usize) -> f64 {
        groups as f64 + (groups::GROUPS_TRIED as f64).min(groups as f64) * lists as f64 / groups as f64
    }

    /// First list of each group, then the number of lists; empty without groups.
    pub fn group_starts(&self) -> &[ListId] {
        self.groups.as_ref().map_or(&[], Groups::starts)
    }

    /// `L x d` centroids.
    pub fn centroids(&self) -> ArrayView2<'_, f32> {
        self.centroids.view()
    }

    /// Number of lists.
    pub fn lists(&self) -> usize {
        self.centroids.nrows()
    }

    /// The centroid of `list`.
    pub fn centroid(&self, list: ListId) -> &[f32] {
        let d = self.centroids.ncols();
        &self.centroids.as_slice().expect("C order")[list as usize * d..][..d]
    }

    /// Bytes that probing keeps in memory.
    pub fn memory_bytes(&self) -> usize {
        let groups = self.groups.as_ref().map_or(0, Groups::memory_bytes);
        self.centroids.len() * 4 + self.half_norms.len() * 4 + self.int8.memory_bytes() + groups
    }

    /// The `nprobe` most promising lists for a query, best first (ties by list). Inner products rank lists by
    /// `<q, o>`; cosine and L2 by distance, as documents were assigned.
    pub fn probe<'s>(
        &self,
        kernels: &Kernels,
        query: &[f32],
        nprobe: usize,
        scratch: &'s mut ProbeScratch,
    ) -> impl ExactSizeIterator<Item = Probe> + 's {
        let nprobe = nprobe.min(self.lists());
        // The spare lists cover the rounding of the int8 products.
        let shortlist = (nprobe + nprobe / 8 + 8).min(self.lists());
        self.rank_int8(kernels, query, nprobe, shortlist, scratch);
        let ProbeScratch { keys, order, .. } = scratch;
        order.clear();
        order.extend(keys[..shortlist].iter().zip(1..).map(|(&key, next)| {
            if let Some(&next) = keys[..shortlist].get(next) {
                prefetch(bytemuck::cast_slice(self.centroid(split_key(next).1)));
            }
            let list = split_key(key).1;
            let product = (kernels.dot_f32)(query, self.centroid(list));
            let rank = if self.metric == Metric::Ip { product } else { product - self.half_norms[list as usize] };
            (rank, Probe { list, base: product, gap: 0.0 })
        }));
        order.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.list.cmp(&b.1.list)));
        let (metric, norm) = (self.metric, if self.metric == Metric::Ip { 0.0 } else { norm2(query) });
        // By distance, a rank is `(|q|^2 - |q - o|^2) / 2`.
        let far = move |rank: f32| if metric == Metric::Ip { -rank } else { (norm - 2.0 * rank).max(0.0).sqrt() };
        let nearest = far(order[0].0);
        let unit = nearest.abs().max(f32::MIN_POSITIVE);
        order[..nprobe].iter().map(move |&(rank, probe)| {
            let base = if metric == Metric::L2 { 2.0 * rank - norm } else { probe.base };
            Probe { base, gap: (far(rank) - nearest) / unit, ..probe }
        })
    }

    /// What the scores of the rows of `list` start from: `<q, o>`, or `-|q - o|^2` under L2.
    pub(super) fn base(&self, kernels: &Kernels, query: &[f32], list: ListId) -> f32 {
        match self.metric {
            Metric::L2 => -(kernels.l2_f32)(query, self.centroid(list)),
            Metric::Ip | Metric::Cosine => (kernels.dot_f32)(query, self.centroid(list)),
        }
    }

    /// Leaves the keys of the `shortlist` best lists by int8 products at the front of `scratch.keys`.
    fn rank_int8(&self, kernels: &Kernels, query: &[f32], nprobe: usize, shortlist: usize, scratch: &mut ProbeScratch) {
        let ProbeScratch { query: query8, keys, groups: chosen, .. } = scratch;
        query8.set(query, &self.center);
        match &self.groups {
            Some(groups) => groups.rank(kernels, &self.int8, query8, (nprobe, shortlist), keys, chosen),
            None => {
                keys.clear();
                self.int8.rank(kernels, query8, 0..self.lists(), keys);
            }
        }
        if shortlist < keys.len() {
            keys.select_nth_unstable_by(shortlist - 1, |a, b| b.cmp(a));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Rng;

    fn random(rows: usize, dim: usize, seed: u64) -> Array2<f32> {
        let mut rng = Rng::new(seed);
        Array2::from_shape_fn((rows, dim), |_| rng.normal() + 3.0)
    }

    fn naive(coarse: &Coarse, metric: Metric, q: &[f32]) -> Vec<(f32, u32)> {
        let mut all: Vec<(f32, u32)> = coarse
            .centroids()
            .rows()
            .into_iter()
            .zip(0..)
            .map(|(o, list)| {
                let dot: f32 = o.iter().zip(q).map(|(a, b)| a * b).sum();
                let l2: f32 = o.iter().zip(q).map(|(a, b)| (a - b) * (a - b)).sum();
                (if metric == Metric::Ip { dot } else { -l2 }, list)
            })
            .collect();
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        all
    }

    #[test]
    fn probe_finds_the_same_lists_as_a_full_comparison() {
        for metric in [Metric::Ip, Metric::Cosine, Metric::L2] {
            let coarse = Coarse::new(random(200, 37, 1), metric);
            let queries = random(20, 37, 2);
            let mut scratch = ProbeScratch::default();
            for q in queries.rows() {
                let q = q.as_slice().unwrap();
                let expected = naive(&coarse, metric, q);
                for kernels in Kernels::all() {
                    let got: Vec<Probe> = coarse.probe(kernels, q, 10, &mut scratch).collect();
                    let lists: Vec<u32> = got.iter().map(|p| p.list).collect();
                    assert_eq!(lists, expected[..10].iter().map(|e| e.1).collect::<Vec<_>>(), "{metric}");
                    let far = |e: &(f32, u32)| if metric == Metric::Ip { -e.0 } else { (-e.0).sqrt() };
                    for (probe, e) in got.iter().zip(&expected) {
                        let gap = (far(e) - far(&expected[0])) / far(&expected[0]).abs();
                        assert!((probe.gap - gap).abs() < 1e-3, "{metric}: {} {gap}", probe.gap);
                    }
                    if metric != Metric::Cosine {
                        assert!(got.iter().zip(&expected).all(|(p, e)| (p.base - e.0).abs() < 1e-3 * e.0.abs()));
                    }
                }
            }
        }
    }

    #[test]
    fn assignment_is_the_nearest_centroid() {
        let coarse = Coarse::new(random(77, 19, 3), Metric::L2);
        let x = random(300, 19, 4);
        let mut lists = vec![0; 300];
        coarse.assign(x.view(), &mut lists);
        assert_eq!(lists, coarse.assign_rows(x.view()));
        for (row, list) in x.rows().into_iter().zip(lists) {
            assert_eq!(list, naive(&coarse, Metric::L2, row.as_slice().unwrap())[0].1);
        }
    }

    /// 1,200 lists in 40 groups of 30, each around a point of its own.
    fn grouped(metric: Metric) -> Coarse {
        let (points, mut lists) = (random(40, 24, 6), random(1_200, 24, 7));
        for (i, mut list) in lists.rows_mut().into_iter().enumerate() {
            list *= 0.3;
            list += &points.row(i / 30);
        }
        Coarse::new(lists, metric).with_groups((0..=1_200).step_by(30).collect()).unwrap()
    }

    #[test]
    fn groups_find_almost_the_same_lists() {
        for metric in [Metric::Ip, Metric::Cosine, Metric::L2] {
            let coarse = grouped(metric);
            let (mut scratch, mut same) = (ProbeScratch::default(), 0);
            for q in random(50, 24, 8).rows() {
                let q = q.as_slice().unwrap();
                let expected = naive(&coarse, metric, q);
                let got: Vec<Probe> = coarse.probe(Kernels::detect(), q, 20, &mut scratch).collect();
                assert_eq!(got.len(), 20);
                same += expected[..20].iter().filter(|e| got.iter().any(|p| p.list == e.1)).count();
            }
            assert!(same >= 50 * 20 * 95 / 100, "{metric}: {same}");
            assert_eq!(coarse.probe(Kernels::detect(), &[0.5; 24], 5_000, &mut scratch).len(), 1_200);
        }
    }

    #[test]
    fn groups_assign_almost_the_same_lists() {
        let coarse = grouped(Metric::L2);
        let mut x = random(2_000, 24, 9);
        for (i, mut row) in x.rows_mut().into_iter().enumerate() {
            row *= 0.1;
            row += &coarse.centroids().row(i % 1_200);
        }
        let lists = coarse.assign_rows(x.view());
        let nearest = Coarse::new(coarse.centroids().to_owned(), Metric::L2).assign_rows(x.view());
        let same = lists.iter().zip(&nearest).filter(|(a, b)| a == b).count();
        assert!(same >= 1_980, "{same}");
    }

    #[test]
    fn groups_that_are_no_runs_of_all_lists_are_refused() {
        for starts in [vec![], vec![0], vec![0, 5], vec![0, 5, 5, 12], vec![1, 12], vec![0, 7, 5, 12], vec![0, 13]] {
            assert!(Coarse::new(random(12, 3, 1), Metric::L2).with_groups(starts.clone()).is_err(), "{starts:?}");
        }
        let whole = Coarse::new(random(12, 3, 1), Metric::L2).with_groups(vec![0, 5, 12]).unwrap();
        assert_eq!(whole.group_starts(), [0, 5, 12]);
    }

    #[test]
    fn more_probes_than_lists_are_all_lists() {
        let coarse = Coarse::new(random(3, 5, 5), Metric::Ip);
        let mut scratch = ProbeScratch::default();
        assert_eq!(coarse.probe(Kernels::detect(), &[0.0; 5], 100, &mut scratch).len(), 3);
    }
}
