//! Lloyd's k-means from a k-means++ start: sampled, parallel, seeded, and the same at any number of threads.
//!
//! The easy version repeats "assign all, average all" from a k-means++ start over the whole sample. Departures:
//! - **Coarse to fine.** Most iterations run on a quarter of the sample; the last ones on all of it. The early moves are
//!   large, and a quarter shows their direction as well as the whole.
//! - **Rows are sorted by list** before they are averaged, and each list's rows are added in order by one thread: the
//!   result does not depend on rayon's schedule, and no thread needs centroids of its own.
//! - **Empty lists** are refilled by splitting the largest: its centroid is moved a little both ways.
//! - **Two levels** above [`FLAT_LISTS`]: first groups, twice the square root of that many, then each group's share of lists
//!   within it, then [`POLISHING`] iterations over all lists, in which a row may go to a neighbouring group. A flat run over n
//!   points costs `n L d` an iteration, two levels cost about `12 n sqrt(L) d`. The groups stay: [`Coarse::with_groups`].
//! - **k-means++ on a subset** of at most [`SEEDING_ROWS_PER_LIST`] rows a list: seeding is sequential and costs as much
//!   as an iteration a list... a column at a time; quality comes from the iterations that follow.

use ndarray::{Array2, ArrayView2, Axis, concatenate};
use rayon::prelude::*;

use super::Watch;
use crate::error::Result;
use crate::linalg::norm2;
use crate::quantizer::Coarse;
use crate::sample::{Rng, sample_rows};
use crate::simd::Kernels;
use crate::types::{ListId, Metric};

/// More lists than this are trained in two levels.
pub const FLAT_LISTS: usize = 4_096;
/// Iterations after two levels.
const POLISHING: usize = 2;
/// Rows a list that k-means++ chooses from.
const SEEDING_ROWS_PER_LIST: usize = 8;
/// Rows of one unit of parallel work.
const CHUNK: usize = 4_096;

/// How long to iterate.
#[derive(Debug, Clone, Copy)]
pub struct Iterations {
    /// On a quarter of the rows.
    pub coarse: usize,
    /// On all rows.
    pub fine: usize,
}

/// `lists` centroids (at most one a row) of the rows of `x` (n x d), in groups where they are many.
pub fn kmeans(
    x: ArrayView2<'_, f32>,
    lists: usize,
    iterations: Iterations,
    seed: u64,
    watch: &dyn Watch,
) -> Result<Coarse> {
    if lists > FLAT_LISTS {
        two_level(x, lists, iterations, seed, watch)
    } else {
        Ok(Coarse::new(flat(x, lists, iterations, seed, watch)?, Metric::L2))
    }
}

/// Rows that [`kmeans`] assigns, for progress.
pub(super) fn work(rows: usize, lists: usize, iterations: Iterations) -> u64 {
    let level = quarter(rows) * iterations.coarse + rows * iterations.fine;
    (if lists > FLAT_LISTS { 2 * level + (1 + POLISHING) * rows } else { level }) as u64
}

/// Comparisons with a centroid that [`kmeans`] makes for each of its rows.
pub(super) fn comparisons(lists: usize, iterations: Iterations) -> f64 {
    let level = iterations.coarse as f64 / 4.0 + iterations.fine as f64;
    if lists <= FLAT_LISTS {
        return level * lists as f64;
    }
    let groups = groups_of(lists) as f64;
    level * (groups + lists as f64 / groups) + groups + POLISHING as f64 * assign_comparisons(lists)
}

/// Comparisons with a centroid that assigning a row to one of the lists of [`kmeans`] takes.
pub(super) fn assign_comparisons(lists: usize) -> f64 {
    if lists > FLAT_LISTS { Coarse::grouped_comparisons(lists, groups_of(lists)) } else { lists as f64 }
}

/// Groups of many lists.
fn groups_of(lists: usize) -> usize {
    2 * (lists as f64).sqrt().ceil() as usize
}

fn quarter(rows: usize) -> usize {
    rows.div_ceil(4)
}

fn flat(
    x: ArrayView2<'_, f32>,
    lists: usize,
    iterations: Iterations,
    seed: u64,
    watch: &dyn Watch,
) -> Result<Array2<f32>> {
    let lists = lists.min(x.nrows());
    let mut centroids = start(x, lists, seed);
    let some = sample_rows(x.nrows() as u64, quarter(x.nrows()).max(lists), seed ^ 1);
    let subset = gather(x, &some);
    for i in 0..iterations.coarse + iterations.fine {
        let rows = if i < iterations.coarse { subset.view() } else { x };
        watch.check()?;
        let coarse = Coarse::new(centroids, Metric::L2);
        let (mut means, counts) = lloyd(rows, &coarse, watch);
        refill(&mut means, counts, coarse.centroids());
        centroids = means;
    }
    Ok(centroids)
}

/// Copies the given rows.
pub(crate) fn gather(x: ArrayView2<'_, f32>, rows: &[u64]) -> Array2<f32> {
    let rows: Vec<usize> = rows.iter().map(|&r| r as usize).collect();
    x.select(Axis(0), &rows)
}

/// k-means++ on a subset: each next centre drawn with probability proportional to the squared distance to the nearest
/// one so far.
fn start(x: ArrayView2<'_, f32>, lists: usize, seed: u64) -> Array2<f32> {
    let pool = gather(x, &sample_rows(x.nrows() as u64, lists * SEEDING_ROWS_PER_LIST, seed));
    let mut rng = Rng::stream(seed, 1);
    let mut chosen = vec![rng.below(pool.nrows() as u64)];
    let mut distances = vec![f32::INFINITY; pool.nrows()];
    let squared_distance = Kernels::detect().l2_f32;
    while chosen.len() < lists {
        let center = pool.row(*chosen.last().expect("one is chosen") as usize);
        let center = center.as_slice().expect("C order");
        distances.par_chunks_mut(CHUNK).zip(pool.axis_chunks_iter(Axis(0), CHUNK).into_par_iter()).for_each(
            |(distances, rows)| {
                for (distance, row) in distances.iter_mut().zip(rows.rows()) {
                    *distance = distance.min(squared_distance(row.as_slice().expect("C order"), center));
                }
            },
        );
        chosen.push(draw(&distances, &mut rng));
    }
    gather(pool.view(), &chosen)
}

/// A row drawn with probability proportional to its weight; any row if all weights are zero.
fn draw(weights: &[f32], rng: &mut Rng) -> u64 {
    let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
    let mut target = rng.unit_f64() * total;
    let found = weights.iter().position(|&w| {
        target -= f64::from(w);
        target < 0.0
    });
    found.map_or_else(|| rng.below(weights.len() as u64), |row| row as u64)
}

/// One iteration: assigns every row, and returns the mean of each list's rows with their number. A list without rows stays
/// where it was.
fn lloyd(x: ArrayView2<'_, f32>, coarse: &Coarse, watch: &dyn Watch) -> (Array2<f32>, Vec<usize>) {
    let by_list = ByList::new(&assign(coarse, x, watch), coarse.lists());
    let mut means = coarse.centroids().to_owned();
    means.axis_iter_mut(Axis(0)).into_par_iter().enumerate().for_each(|(list, mut mean)| {
        let rows = by_list.rows(list);
        if !rows.is_empty() {
            mean.fill(0.0);
            rows.iter().for_each(|&row| mean += &x.row(row as usize));
            mean /= rows.len() as f32;
        }
    });
    (means, by_list.counts())
}

/// Rows sorted by list.
struct ByList {
    /// First place of each list in `rows`, then their number: L + 1.
    starts: Vec<usize>,
    rows: Vec<u32>,
}

impl ByList {
    /// A counting sort of the rows by their list; within a list they ascend.
    fn new(list_of: &[ListId], lists: usize) -> ByList {
        let mut starts = vec![0; lists + 1];
        list_of.iter().for_each(|&list| starts[list as usize + 1] += 1);
        (0..lists).for_each(|list| starts[list + 1] += starts[list]);
        let (mut next, mut rows) = (starts.clone(), vec![0; list_of.len()]);
        for (&list, row) in list_of.iter().zip(0..) {
            rows[next[list as usize]] = row;
            next[list as usize] += 1;
        }
        ByList { starts, rows }
    }

    fn rows(&self, list: usize) -> &[u32] {
        &self.rows[self.starts[list]..self.starts[list + 1]]
    }

    fn counts(&self) -> Vec<usize> {
        self.starts.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }
}

/// The list of every row.
fn assign(coarse: &Coarse, x: ArrayView2<'_, f32>, watch: &dyn Watch) -> Vec<ListId> {
    let mut lists = vec![0; x.nrows()];
    lists.par_chunks_mut(CHUNK).zip(x.axis_chunks_iter(Axis(0), CHUNK).into_par_iter()).for_each(|(lists, rows)| {
        coarse.assign(rows, lists);
        watch.advance(lists.len() as u64);
    });
    lists
}

/// An empty list takes half of the largest, or stays where it was if there is none to halve.
fn refill(centroids: &mut Array2<f32>, mut counts: Vec<usize>, old: ArrayView2<'_, f32>) {
    for list in 0..counts.len() {
        if counts[list] > 0 {
            continue;
        }
        let largest = (0..counts.len()).max_by_key(|&l| (counts[l], usize::MAX - l)).expect("at least one list");
        if counts[largest] < 2 {
            centroids.row_mut(list).assign(&old.row(list));
            continue;
        }
        let center = centroids.row(largest).to_owned();
        for (i, value) in center.iter().enumerate() {
            let nudge = if i % 2 == 0 { 1.0 / 1024.0 } else { -1.0 / 1024.0 };
            centroids[[list, i]] = value * (1.0 + nudge);
            centroids[[largest, i]] = value * (1.0 - nudge);
        }
        counts[list] = counts[largest] / 2;
        counts[largest] -= counts[list];
    }
}

/// Groups first, then every group's share of the lists within it, then all lists together.
fn two_level(
    x: ArrayView2<'_, f32>,
    lists: usize,
    iterations: Iterations,
    seed: u64,
    watch: &dyn Watch,
) -> Result<Coarse> {
    let lists = lists.min(x.nrows());
    let coarse = Coarse::new(flat(x, groups_of(lists), iterations, seed, watch)?, Metric::L2);
    let by_group = ByList::new(&assign(&coarse, x, watch), coarse.lists());
    let shares = shares(&by_group.counts(), lists);
    // One group after the other, each in parallel: groups side by side would hold a copy of the sample together.
    let parts = shares.iter().enumerate().filter(|&(_, &share)| share > 0).map(|(group, &share)| {
        let rows: Vec<u64> = by_group.rows(group).iter().map(|&row| u64::from(row)).collect();
        flat(gather(x, &rows).view(), share, iterations, seed ^ group as u64, watch)
    });
    let parts: Vec<Array2<f32>> = parts.collect::<Result<_>>()?;
    let mut starts: Vec<ListId> = vec![0];
    starts.extend(parts.iter().scan(0, |end, part| {
        *end += part.nrows() as ListId;
        Some(*end)
    }));
    let views: Vec<ArrayView2<'_, f32>> = parts.iter().map(|part| part.view()).collect();
    let centroids = concatenate(Axis(0), &views).expect("parts of one width");
    let mut coarse = Coarse::new(centroids, Metric::L2).with_groups(starts.clone())?;
    for _ in 0..POLISHING {
        watch.check()?;
        let (means, _) = lloyd(x, &coarse, watch);
        coarse = Coarse::new(means, Metric::L2).with_groups(starts.clone())?;
    }
    Ok(coarse)
}

/// Splits `lists` among groups in proportion to their sizes, none more than its rows; `lists` is at most their sum.
fn shares(sizes: &[usize], lists: usize) -> Vec<usize> {
    let total: usize = sizes.iter().sum();
    let mut shares: Vec<usize> = sizes.iter().map(|&n| n * lists / total).collect();
    let mut missing = lists - shares.iter().sum::<usize>();
    while missing > 0 {
        let neediest = (0..sizes.len())
            .filter(|&g| shares[g] < sizes[g])
            .max_by_key(|&g| (sizes[g] / (shares[g] + 1), usize::MAX - g))
            .expect("fewer lists than rows");
        shares[neediest] += 1;
        missing -= 1;
    }
    shares
}

/// Mean squared distance of the rows to their nearest centroid.
pub fn distortion(x: ArrayView2<'_, f32>, coarse: &Coarse) -> f32 {
    let mut lists = vec![0; x.nrows()];
    coarse.assign(x, &mut lists);
    let total: f32 = x
        .rows()
        .into_iter()
        .zip(&lists)
        .map(|(row, &l)| norm2((&row - &ndarray::aview1(coarse.centroid(l))).as_slice().expect("C order")))
        .sum();
    total / x.nrows() as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::Silent;

    const ITERATIONS: Iterations = Iterations { coarse: 4, fine: 3 };

    /// `blobs` tight clusters on a line of integers, `per` rows each.
    fn blobs(blobs: usize, per: usize, dim: usize) -> Array2<f32> {
        let mut rng = Rng::new(4);
        Array2::from_shape_fn((blobs * per, dim), |(i, j)| ((i % blobs) * (j + 1)) as f32 + 0.01 * rng.normal())
    }

    #[test]
    fn finds_well_separated_clusters() {
        let x = blobs(12, 50, 5);
        let found = kmeans(x.view(), 12, ITERATIONS, 9, &Silent).unwrap();
        assert!(distortion(x.view(), &found) < 0.01);
    }

    #[test]
    fn does_not_depend_on_the_number_of_threads() {
        let x = blobs(30, 400, 6);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| kmeans(x.view(), 20, ITERATIONS, 3, &Silent).unwrap().centroids().to_owned())
        };
        assert_eq!(run(1), run(3));
    }

    #[test]
    fn duplicates_and_few_rows_are_no_trouble() {
        let same = Array2::from_elem((10, 3), 2.5f32);
        let found = kmeans(same.view(), 4, ITERATIONS, 1, &Silent).unwrap();
        assert!(found.centroids().iter().all(|v| (v - 2.5).abs() < 0.1));
        let one = Array2::from_elem((1, 3), 1.0f32);
        assert_eq!(kmeans(one.view(), 8, ITERATIONS, 1, &Silent).unwrap().lists(), 1);
    }

    #[test]
    fn two_levels_are_nearly_as_good_as_one() {
        let mut rng = Rng::new(8);
        let x = Array2::from_shape_fn((6_000, 12), |_| rng.normal());
        let one = Coarse::new(flat(x.view(), 300, ITERATIONS, 5, &Silent).unwrap(), Metric::L2);
        let two = two_level(x.view(), 300, ITERATIONS, 5, &Silent).unwrap();
        assert_eq!((two.lists(), two.group_starts().last()), (300, Some(&300)));
        let (one, two) = (distortion(x.view(), &one), distortion(x.view(), &two));
        assert!(two < 1.05 * one, "{two} {one}");
    }

    #[test]
    fn two_levels_of_few_distinct_rows_are_no_trouble() {
        let x = Array2::from_shape_fn((500, 4), |(i, _)| (i % 3) as f32);
        let found = two_level(x.view(), 100, ITERATIONS, 1, &Silent).unwrap();
        assert_eq!(found.lists(), 100);
        assert!(distortion(x.view(), &found) < 0.01);
    }

    #[test]
    fn shares_fill_up_without_passing_a_groups_rows() {
        assert_eq!(shares(&[10, 0, 5, 1], 16), vec![10, 0, 5, 1]);
        let some = shares(&[100, 50, 3], 20);
        assert_eq!(some.iter().sum::<usize>(), 20);
        assert!(some[0] > some[1] && some[1] > some[2]);
    }
}
