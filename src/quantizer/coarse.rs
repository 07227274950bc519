//! The coarse quantizer: one centroid a list; which list a document belongs to, and which lists a query should probe.
//!
//! The easy version compares a query with every centroid in f32. That reads `4 L d` bytes a query, which at 512 lists
//! of 784 dimensions is more memory traffic than all the codes that are scanned afterwards. So:
//! - **probe** scans an int8 copy of the centroids (a quarter of the bytes, exact integer products), takes a few more
//!   lists than asked for, and scores only those in f32. Centroids and query are taken relative to the mean centroid
//!   first: the shared part changes no order and would waste the eight bits.
//! - **assign** is a matrix product in tiles, for training and building.

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis};
use rayon::prelude::*;

use crate::linalg::{norm2, product_nt};
use crate::simd::Kernels;
use crate::topk::{order_key, split_key};
use crate::types::{ListId, Metric};

/// Rows and lists of a tile whose products are made at once: a mebibyte, which the second-level cache holds.
const ASSIGN_ROWS: usize = 256;
const ASSIGN_LISTS: usize = 1_024;
/// Columns of int8 rows are padded to this.
const COLUMNS: usize = 64;

/// `L x d` centroids with what is derived from them.
#[derive(Debug, Clone)]
pub struct Coarse {
    centroids: Array2<f32>,
    half_norms: Vec<f32>,
    center: Vec<f32>,
    metric: Metric,
    int8: Int8Rows,
}

/// Centroids minus their mean as int8, one scale a row.
#[derive(Debug, Clone)]
struct Int8Rows {
    columns: usize,
    values: Vec<i8>,
    sums: Vec<i32>,
    scales: Vec<f32>,
    /// What is added to the rescaled product to rank lists, with `c` the mean: `-|o - c|^2 / 2` by distance
    /// (`|q - o|^2 = |(q-c) - (o-c)|^2`), `<c, o - c>` by inner product (`<q,o> = <q,c> + <q-c, o-c> + <c, o-c>`).
    offsets: Vec<f32>,
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
    query: Vec<i8>,
    products: Vec<i32>,
    keys: Vec<u64>,
    order: Vec<(f32, Probe)>,
}

impl Coarse {
    /// A coarse quantizer over `L x d` centroids, `L` at least 1.
    pub fn new(centroids: Array2<f32>, metric: Metric) -> Coarse {
        let half_norms = centroids.rows().into_iter().map(|c| norm2(c.as_slice().expect("C order")) / 2.0).collect();
        let center = centroids.mean_axis(Axis(0)).expect("at least one list").to_vec();
        let int8 = Int8Rows::new(&centroids, &center, metric);
        Coarse { centroids, half_norms, center, metric, int8 }
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
        self.centroids.len() * 4 + self.int8.values.len() + self.lists() * 16
    }

    /// The list nearest (Euclidean) to each row of `x` (n x d): the first one on ties. Documents of every metric are
    /// assigned by distance, since it is the residual's length that the codes pay for.
    pub fn assign(&self, x: ArrayView2<'_, f32>, out: &mut [ListId]) {
        assert_eq!(x.nrows(), out.len());
        let mut scores = vec![0f32; ASSIGN_ROWS.min(x.nrows()) * ASSIGN_LISTS.min(self.lists())];
        let mut best = [f32::NEG_INFINITY; ASSIGN_ROWS];
        for (rows, out) in x.axis_chunks_iter(Axis(0), ASSIGN_ROWS).zip(out.chunks_mut(ASSIGN_ROWS)) {
            best.fill(f32::NEG_INFINITY);
            let tiles =
                self.centroids.axis_chunks_iter(Axis(0), ASSIGN_LISTS).zip(self.half_norms.chunks(ASSIGN_LISTS));
            for ((centroids, half_norms), first) in tiles.zip((0..).step_by(ASSIGN_LISTS)) {
                let scores = &mut scores[..rows.nrows() * half_norms.len()];
                let shape = (rows.nrows(), half_norms.len());
                product_nt(rows, centroids, ArrayViewMut2::from_shape(shape, scores).expect("rows x lists"));
                for ((scores, best), out) in scores.chunks(half_norms.len()).zip(&mut best).zip(&mut *out) {
                    let (score, list) = best_of(scores, half_norms);
                    if score > *best {
                        (*best, *out) = (score, first + list);
                    }
                }
            }
        }
    }

    /// [`Coarse::assign`] in parallel.
    pub fn assign_rows(&self, x: ArrayView2<'_, f32>) -> Vec<ListId> {
        let mut lists = vec![0; x.nrows()];
        let blocks = x.axis_chunks_iter(Axis(0), 2 * ASSIGN_ROWS).into_par_iter();
        lists.par_chunks_mut(2 * ASSIGN_ROWS).zip(blocks).for_each(|(lists, rows)| self.assign(rows, lists));
        lists
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
        self.rank_int8(kernels, query, shortlist, scratch);
        let ProbeScratch { keys, order, .. } = scratch;
        order.clear();
        order.extend(keys[..shortlist].iter().map(|&key| {
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
    fn rank_int8(&self, kernels: &Kernels, query: &[f32], shortlist: usize, scratch: &mut ProbeScratch) {
        let ProbeScratch { query: query8, products, keys, .. } = scratch;
        query8.resize(self.int8.columns, 0);
        products.resize(self.lists(), 0);
        let largest = query.iter().zip(&self.center).fold(0f32, |m, (q, c)| m.max((q - c).abs()));
        let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        for ((out, q), c) in query8.iter_mut().zip(query).zip(&self.center) {
            *out = ((q - c) * inverse).round_ties_even() as i8;
        }
        (kernels.dot_rows_i8)(query8, &self.int8.values, &self.int8.sums, products);
        let step = largest / 127.0;
        let scored = products.iter().zip(&self.int8.scales).zip(&self.int8.offsets).zip(0u32..);
        keys.clear();
        keys.extend(scored.map(|(((&p, s), offset), list)| order_key(p as f32 * (s * step) + offset, list)));
        if shortlist < keys.len() {
            keys.select_nth_unstable_by(shortlist - 1, |a, b| b.cmp(a));
        }
    }
}

impl Int8Rows {
    fn new(centroids: &Array2<f32>, center: &[f32], metric: Metric) -> Int8Rows {
        let (lists, d) = centroids.dim();
        let columns = d.next_multiple_of(COLUMNS);
        let mut rows = Int8Rows {
            columns,
            values: vec![0; lists * columns],
            sums: Vec::with_capacity(lists),
            scales: Vec::with_capacity(lists),
            offsets: Vec::with_capacity(lists),
        };
        for (centroid, out) in centroids.rows().into_iter().zip(rows.values.chunks_mut(columns)) {
            let relative: Vec<f32> = centroid.iter().zip(center).map(|(o, c)| o - c).collect();
            let largest = relative.iter().fold(0f32, |m, v| m.max(v.abs()));
            let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
            for (out, v) in out.iter_mut().zip(&relative) {
                *out = (v * inverse).round_ties_even() as i8;
            }
            rows.sums.push(out.iter().map(|&v| i32::from(v)).sum());
            rows.scales.push(largest / 127.0);
            rows.offsets.push(match metric {
                Metric::Ip => relative.iter().zip(center).map(|(r, c)| r * c).sum(),
                Metric::Cosine | Metric::L2 => -norm2(&relative) / 2.0,
            });
        }
        rows
    }
}

/// The largest `scores[i] - half_norms[i]` and its index, the first on ties.
fn best_of(scores: &[f32], half_norms: &[f32]) -> (f32, ListId) {
    // Two passes: the maxima of blocks, in lanes without an index beside them, which vectorises; then the place of the
    // maximum in the one block that has it.
    const LANES: usize = 16;
    const BLOCK: usize = 8 * LANES;
    let mut best = (f32::NEG_INFINITY, 0);
    for (at, (s, h)) in scores.chunks(BLOCK).zip(half_norms.chunks(BLOCK)).enumerate() {
        let ((s, s_rest), (h, h_rest)) = (s.as_chunks::<LANES>(), h.as_chunks::<LANES>());
        let mut lanes = [f32::NEG_INFINITY; LANES];
        for (s, h) in s.iter().zip(h) {
            for i in 0..LANES {
                lanes[i] = if s[i] - h[i] > lanes[i] { s[i] - h[i] } else { lanes[i] };
            }
        }
        let rest = s_rest.iter().zip(h_rest).map(|(s, h)| s - h);
        let largest = rest.chain(lanes).fold(f32::NEG_INFINITY, f32::max);
        if largest > best.0 {
            best = (largest, at * BLOCK);
        }
    }
    let place = scores[best.1..].iter().zip(&half_norms[best.1..]).position(|(s, h)| s - h == best.0);
    (best.0, (best.1 + place.unwrap_or(0)) as ListId)
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

    #[test]
    fn more_probes_than_lists_are_all_lists() {
        let coarse = Coarse::new(random(3, 5, 5), Metric::Ip);
        let mut scratch = ProbeScratch::default();
        assert_eq!(coarse.probe(Kernels::detect(), &[0.0; 5], 100, &mut scratch).len(), 3);
    }
}
