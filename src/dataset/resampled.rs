//! Any number of vectors distributed like given ones, from a seed: to try a row count for which there are no vectors yet.
//!
//! The easy version draws rows with replacement, which makes copies: an index finds those without trying. Here a row `a` is
//! drawn, and its nearest rows `x_1 .. x_K` say where the data goes from there:
//!
//! ```text
//! new = a + SPREAD * sum_j g_j (x_j - a) / sqrt(K)        g_j normal, then scaled to the length of a
//! ```
//!
//! The sum is noise whose covariance is that of the neighbourhood, without computing any: along the directions in which
//! near rows differ, by as much as they differ. Two draws of the same row are about as far from each other as neighbours
//! are. [`crate::eval::likeness`] measures what becomes of the distribution.
//!
//! 1. **Copies in the source are no neighbours**: rows whose cosine reaches [`NEAR_COPY`] say nothing about directions. A row
//!    with too few others among its candidates lies in a heap of copies and is not drawn at all.
//! 2. **Queries are drawn further out**, from a sequence of their own.
//! 3. **A row is a function of the seed and its number**, so any piece of the set can be made by any thread.
//!
//! What this cannot do: a set larger than its source has more rows a neighbourhood but no new neighbourhoods, so topics that
//! only a larger collection has are missing.

use rayon::prelude::*;

use super::synthetic::Draw;
use crate::error::{Error, Result};
use crate::sample::Rng;

/// Nearest rows that say how a neighbourhood extends.
pub const NEIGHBOURS: usize = 32;

/// Nearest rows to look for, so that enough are left without copies.
pub const CANDIDATES: usize = 4 * NEIGHBOURS;

/// Rows of at least this cosine are copies of each other.
pub const NEAR_COPY: f32 = 0.999;

/// Standard deviation of the noise relative to the differences between neighbours.
const SPREAD: f32 = 0.75;

/// The same for queries.
const QUERY_SPREAD: f32 = 1.0;

/// Makes vectors by their number; holds the source.
#[derive(Clone, Debug)]
pub struct Resampler {
    dim: usize,
    seed: u64,
    /// n x dim.
    rows: Vec<f32>,
    /// Rows that are drawn.
    anchors: Vec<u32>,
    /// anchors x `width`: their neighbours.
    neighbours: Vec<u32>,
    width: usize,
}

impl Resampler {
    /// From `rows` (n x dim) and the nearest rows of each by cosine, best first, perhaps itself and copies among them; about
    /// [`CANDIDATES`] of them are wanted.
    ///
    /// # Errors
    /// `Mismatch` where there is not a list for each row; `InvalidParams` where no row has neighbours other than copies.
    pub fn new(rows: Vec<f32>, dim: usize, nearest: &[Vec<u32>], seed: u64) -> Result<Resampler> {
        if dim == 0 || rows.len() != nearest.len() * dim {
            let expected = format!("one for each of {} values in rows of {dim}", rows.len());
            return Err(Error::mismatch("lists of nearest rows", expected, nearest.len()));
        }
        // A source of few rows has few neighbours.
        let width = NEIGHBOURS.min(nearest.len().saturating_sub(1)).max(1);
        let row = |at: u32| &rows[at as usize * dim..][..dim];
        let others: Vec<Vec<u32>> = (0..nearest.len() as u32)
            .into_par_iter()
            .map(|a| {
                let apart = |&&x: &&u32| x != a && cosine(row(x), row(a)) < NEAR_COPY;
                nearest[a as usize].iter().filter(apart).take(width).copied().collect()
            })
            .collect();
        let (mut anchors, mut neighbours) = (Vec::new(), Vec::new());
        for (a, others) in (0..).zip(others).filter(|(_, others)| others.len() == width) {
            anchors.push(a);
            neighbours.extend(others);
        }
        if anchors.is_empty() {
            let reason = format!("none of {} rows has {width} neighbours that are not its copies", nearest.len());
            return Err(Error::params("like", format!("{reason}; give a file of more, and different, rows")));
        }
        Ok(Resampler { dim, seed, rows, anchors, neighbours, width })
    }

    /// Values a vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Rows of the source that are drawn; the others lie in heaps of copies.
    pub fn anchors(&self) -> usize {
        self.anchors.len()
    }

    /// The rows of the source, n x dim.
    pub fn source(&self) -> &[f32] {
        &self.rows
    }

    /// The largest absolute value of the source.
    pub fn largest(&self) -> f32 {
        self.rows.iter().fold(0.0, |largest, value| value.abs().max(largest))
    }

    /// Fills `out` (row-major, whole rows) with vectors `start..`, by all threads of the current pool.
    ///
    /// # Panics
    /// If `out` is not whole rows.
    pub fn fill(&self, draw: Draw, start: u64, out: &mut [f32]) {
        assert_eq!(out.len() % self.dim, 0, "whole rows of {}", self.dim);
        out.par_chunks_mut(self.dim).enumerate().for_each(|(i, row)| self.fill_row(draw, start + i as u64, row));
    }

    fn fill_row(&self, draw: Draw, number: u64, out: &mut [f32]) {
        let (purpose, spread) = match draw {
            Draw::Rows => (1, SPREAD),
            Draw::Queries => (2, QUERY_SPREAD),
        };
        let mut rng = Rng::stream(Rng::stream(self.seed, purpose).next_u64(), number);
        let at = rng.below(self.anchors.len() as u64) as usize;
        let anchor = self.row(self.anchors[at]);
        out.copy_from_slice(anchor);
        let scale = spread / (self.width as f32).sqrt();
        for &neighbour in &self.neighbours[at * self.width..][..self.width] {
            let amount = scale * rng.normal();
            let towards = self.row(neighbour).iter().zip(anchor);
            out.iter_mut().zip(towards).for_each(|(value, (x, a))| *value += amount * (x - a));
        }
        let length = norm(out);
        if length > 0.0 {
            let factor = norm(anchor) / length;
            out.iter_mut().for_each(|value| *value *= factor);
        }
    }

    fn row(&self, at: u32) -> &[f32] {
        &self.rows[at as usize * self.dim..][..self.dim]
    }
}

fn norm(row: &[f32]) -> f32 {
    row.iter().map(|value| value * value).sum::<f32>().sqrt()
}

/// 0 where one of the rows is zero.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let product: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
    let norms = norm(a) * norm(b);
    if norms > 0.0 { product / norms } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::synthetic::Clustered;
    use crate::eval::likeness::likeness;
    use crate::linalg::normalise;
    use crate::train::{Silent, nearest};
    use ndarray::{ArrayView2, s};

    const DIM: usize = 24;

    /// Unit vectors in clusters, every tenth of them a copy of the one before.
    fn source(rows: usize) -> Vec<f32> {
        let shape = Clustered { rows: rows as u64, dim: DIM, clusters: 30, spread: 0.8, seed: 5 };
        let mut out = vec![0.0; rows * DIM];
        shape.generator().unwrap().fill(Draw::Rows, 0, &mut out);
        for at in (10..rows).step_by(10) {
            out.copy_within((at - 1) * DIM..at * DIM, at * DIM);
        }
        out.chunks_exact_mut(DIM).for_each(|row| {
            normalise(row);
        });
        out
    }

    fn view(rows: &[f32]) -> ArrayView2<'_, f32> {
        ArrayView2::from_shape((rows.len() / DIM, DIM), rows).unwrap()
    }

    fn resampler(rows: &[f32], seed: u64) -> Resampler {
        let found = nearest(view(rows), view(rows), CANDIDATES.min(rows.len() / DIM), &Silent).unwrap();
        Resampler::new(rows.to_vec(), DIM, &found, seed).unwrap()
    }

    fn drawn(resampler: &Resampler, draw: Draw, start: u64, count: usize) -> Vec<f32> {
        let mut out = vec![0.0; count * DIM];
        resampler.fill(draw, start, &mut out);
        out
    }

    #[test]
    fn pieces_and_threads_give_the_same_bytes() {
        let rows = source(500);
        let made = resampler(&rows, 1);
        let whole = drawn(&made, Draw::Rows, 0, 100);
        let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(one_thread.install(|| drawn(&resampler(&rows, 1), Draw::Rows, 0, 100)), whole);
        assert_eq!(drawn(&made, Draw::Rows, 70, 30), whole[70 * DIM..]);
        assert_ne!(drawn(&made, Draw::Queries, 0, 100), whole);
        assert_ne!(drawn(&resampler(&rows, 2), Draw::Rows, 0, 100), whole);
    }

    #[test]
    fn what_is_made_is_distributed_like_its_source() {
        let rows = source(3_000);
        let made = drawn(&resampler(&rows, 1), Draw::Rows, 0, 3_000);
        let (source, made) = (likeness(view(&rows), &Silent).unwrap(), likeness(view(&made), &Silent).unwrap());
        // Plain copies miss these bounds, and so does twice the noise.
        for (a, b) in source.cosines.iter().zip(&made.cosines) {
            assert!((a.median - b.median).abs() < 0.06, "{source:?}\n{made:?}");
        }
        for (a, b) in source.spectrum.iter().zip(&made.spectrum) {
            assert!((a.share - b.share).abs() < 0.03, "{source:?}\n{made:?}");
        }
    }

    #[test]
    fn copies_are_neither_kept_nor_made() {
        let rows = source(1_000);
        let made = drawn(&resampler(&rows, 1), Draw::Rows, 0, 4_000);
        let closest = |rows: &[f32], against: &[f32], skip: usize| {
            let found = nearest(view(rows), view(against), skip + 1, &Silent).unwrap();
            let mean = |(row, found): (&[f32], &Vec<u32>)| {
                let other = view(against).slice(s![found[skip] as usize, ..]).to_vec();
                u32::from(cosine(row, &other) > 0.9999)
            };
            rows.chunks_exact(DIM).zip(&found).map(mean).sum::<u32>()
        };
        assert!(closest(&rows, &rows, 1) > 150, "a tenth of the source is copied");
        assert_eq!(closest(&made, &made, 1), 0, "though every row was drawn four times");
        assert_eq!(closest(&made, &rows, 0), 0, "no row of the source is among them");
    }

    #[test]
    fn lengths_stay_and_queries_lie_further_out() {
        let mut rows = source(800);
        rows.iter_mut().for_each(|value| *value *= 3.0);
        let made = resampler(&rows, 1);
        let (base, queries) = (drawn(&made, Draw::Rows, 0, 800), drawn(&made, Draw::Queries, 0, 200));
        assert!(base.chunks_exact(DIM).chain(queries.chunks_exact(DIM)).all(|row| (norm(row) - 3.0).abs() < 1e-4));
        let mean = |set: &[f32]| {
            let found = nearest(view(set), view(&rows), 1, &Silent).unwrap();
            let best = |(row, found): (&[f32], &Vec<u32>)| cosine(row, made.row(found[0]));
            set.chunks_exact(DIM).zip(&found).map(best).sum::<f32>() / (set.len() / DIM) as f32
        };
        assert!(mean(&queries) < mean(&base) && mean(&queries) > 0.4, "{} {}", mean(&queries), mean(&base));
    }

    #[test]
    fn sources_without_neighbours_are_refused() {
        let refused = |rows: Vec<f32>, lists: &[Vec<u32>], part: &str| {
            let message = Resampler::new(rows, 2, lists, 1).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        };
        refused(vec![1.0; 6], &[vec![0, 1, 2], vec![0, 1, 2], vec![0, 1, 2]], "none of 3 rows has 2 neighbours");
        refused(vec![1.0, 0.0], &[vec![0]], "none of 1 rows has 1 neighbours");
        refused(vec![1.0; 6], &[vec![0]], "found 1");
        let two = Resampler::new(vec![1.0, 0.0, 0.0, 1.0], 2, &[vec![0, 1], vec![1, 0]], 1).unwrap();
        assert_eq!((two.anchors(), two.dim(), two.largest()), (2, 2, 1.0));
    }
}
