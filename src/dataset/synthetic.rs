//! Clustered vectors from a seed, for builds of any size without a download.
//!
//! The easy version draws a centroid at random and adds normal noise. Its departures, each a property of real embeddings
//! without which an index looks better or worse than it is:
//!
//! 1. **Clusters come in topics**: centroids scatter around about `sqrt(clusters)` topics, so that a query's neighbours
//!    lie in several nearby clusters and probing one list is not enough.
//! 2. **Cluster sizes are skewed**: cluster `c` has weight `1 / sqrt(c + 1)`, so that lists differ in length.
//! 3. **Noise is anisotropic**: most of its energy lies in a few directions shared by all clusters, with a decaying
//!    spectrum, and the rest in all directions. Rotations and product codebooks have something to learn, and the nearest
//!    rows within a cluster are really nearer than the others.
//! 4. **A row is a function of the seed and its number**, so any piece of the set can be made by any thread.

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::sample::Rng;

/// Directions that carry most of the noise.
const DIRECTIONS: usize = 24;

/// Standard deviation along a direction, relative to the one before.
const DECAY: f32 = 0.88;

/// Share of the noise's energy that lies in the directions.
const DIRECTED: f32 = 0.85;

/// Centroids scatter this much around their topic, relative to the topics' own scatter.
const SCATTER: f32 = 0.7;

/// What to generate.
#[derive(Clone, Debug, PartialEq)]
pub struct Clustered {
    /// Number of vectors.
    pub rows: u64,
    /// Values a vector.
    pub dim: usize,
    /// Number of clusters.
    pub clusters: usize,
    /// Standard deviation of the noise relative to that of the topics: 0.3 is well separated, 1 blurred.
    pub spread: f32,
    /// Other seeds are other data.
    pub seed: u64,
}

/// Which of the two unending sequences of draws from one distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draw {
    /// The vectors to index.
    Rows,
    /// Queries: never equal to a row, near the same clusters.
    Queries,
}

/// Makes vectors by their number; holds `clusters x dim` values.
#[derive(Clone, Debug)]
pub struct Generator {
    shape: Clustered,
    /// clusters x dim.
    centroids: Vec<f32>,
    /// Standard deviation of the noise in each cluster.
    radii: Vec<f32>,
    /// Weights of clusters `0..=c`, ascending.
    cumulative: Vec<f64>,
    /// DIRECTIONS x dim, each scaled by its standard deviation.
    directions: Vec<f32>,
}

impl Clustered {
    /// Draws the clusters.
    ///
    /// # Errors
    /// `InvalidParams` for no rows, dimensions or clusters, or a spread that is negative or not finite.
    pub fn generator(&self) -> Result<Generator> {
        let positive = |name, value: u64| match value {
            0 => Err(Error::params(name, "0; at least 1 is needed")),
            _ => Ok(()),
        };
        positive("rows", self.rows)?;
        positive("dim", self.dim as u64)?;
        positive("clusters", self.clusters as u64)?;
        if !(self.spread.is_finite() && self.spread >= 0.0) {
            return Err(Error::params("spread", format!("{}; a finite number of at least 0 is needed", self.spread)));
        }
        if self.clusters.checked_mul(self.dim).is_none_or(|values| values > 1 << 32) {
            let reason = format!("{} clusters x {} dimensions; at most 2^32 values are kept", self.clusters, self.dim);
            return Err(Error::params("clusters", reason));
        }
        let mut rng = Rng::stream(self.seed, 0);
        let mut total = 0.0;
        let weigh = |c: usize| {
            total += 1.0 / ((c + 1) as f64).sqrt();
            total
        };
        Ok(Generator {
            cumulative: (0..self.clusters).map(weigh).collect(),
            directions: draw_directions(self.dim, &mut rng),
            centroids: draw_centroids(self.clusters, self.dim, &mut rng),
            radii: (0..self.clusters).map(|_| self.spread * (0.6 + 0.8 * rng.unit_f32())).collect(),
            shape: self.clone(),
        })
    }
}

impl Generator {
    /// What is generated.
    pub fn shape(&self) -> &Clustered {
        &self.shape
    }

    /// Fills `out` (row-major, whole rows) with vectors `start..`, by all threads of the current pool.
    ///
    /// # Panics
    /// If `out` is not whole rows.
    pub fn fill(&self, draw: Draw, start: u64, out: &mut [f32]) {
        assert_eq!(out.len() % self.shape.dim, 0, "whole rows of {}", self.shape.dim);
        out.par_chunks_mut(self.shape.dim).enumerate().for_each(|(i, row)| self.fill_row(draw, start + i as u64, row));
    }

    /// centroid + radius * (sum of directions, each by a normal number + normal noise in all directions).
    fn fill_row(&self, draw: Draw, number: u64, out: &mut [f32]) {
        // The clusters were drawn from the seed itself; rows and queries take sequences of their own.
        let purpose = if draw == Draw::Rows { 1 } else { 2 };
        let mut rng = Rng::stream(Rng::stream(self.shape.seed, purpose).next_u64(), number);
        let total = self.cumulative.last().copied().unwrap_or_default();
        let target = rng.unit_f64() * total;
        let cluster = self.cumulative.partition_point(|&sum| sum <= target).min(self.radii.len() - 1);
        let (radius, dim) = (self.radii[cluster], self.shape.dim);
        out.copy_from_slice(&self.centroids[cluster * dim..][..dim]);
        for direction in self.directions.chunks_exact(dim) {
            let amount = radius * rng.normal();
            out.iter_mut().zip(direction).for_each(|(value, along)| *value += amount * along);
        }
        let amount = radius * (1.0 - DIRECTED).sqrt();
        out.iter_mut().for_each(|value| *value += amount * rng.normal());
    }
}

/// DIRECTIONS random directions whose squared lengths decay and sum to `DIRECTED * dim`.
fn draw_directions(dim: usize, rng: &mut Rng) -> Vec<f32> {
    let scales: Vec<f32> = std::iter::successors(Some(1.0), |s| Some(s * DECAY)).take(DIRECTIONS).collect();
    let energy: f32 = scales.iter().map(|s| s * s).sum();
    let factor = (DIRECTED / energy).sqrt();
    scales.iter().flat_map(|scale| (0..dim).map(|_| factor * scale * rng.normal()).collect::<Vec<_>>()).collect()
}

/// clusters x dim, around about `sqrt(clusters)` topics; values have variance 1.
fn draw_centroids(clusters: usize, dim: usize, rng: &mut Rng) -> Vec<f32> {
    let topics = (clusters as f64).sqrt().ceil() as usize;
    let (of_topic, own) = ((1.0 - SCATTER * SCATTER).sqrt(), SCATTER);
    let topic_values: Vec<f32> = (0..topics * dim).map(|_| of_topic * rng.normal()).collect();
    let mut centroids = Vec::with_capacity(clusters * dim);
    for _ in 0..clusters {
        let topic = rng.below(topics as u64) as usize;
        centroids.extend(topic_values[topic * dim..][..dim].iter().map(|value| value + own * rng.normal()));
    }
    centroids
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> Clustered {
        Clustered { rows: 2000, dim: 32, clusters: 50, spread: 0.5, seed: 1 }
    }

    fn rows(generator: &Generator, draw: Draw, start: u64, count: usize) -> Vec<f32> {
        let mut out = vec![0.0; count * generator.shape().dim];
        generator.fill(draw, start, &mut out);
        out
    }

    #[test]
    fn pieces_and_threads_give_the_same_bytes() {
        let generator = shape().generator().unwrap();
        let whole = rows(&generator, Draw::Rows, 0, 100);
        let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(one_thread.install(|| rows(&generator, Draw::Rows, 0, 100)), whole);
        assert_eq!(rows(&generator, Draw::Rows, 60, 40), whole[60 * 32..]);
        assert_eq!(rows(&shape().generator().unwrap(), Draw::Rows, 0, 100), whole);
        assert_ne!(rows(&Clustered { seed: 2, ..shape() }.generator().unwrap(), Draw::Rows, 0, 100), whole);
    }

    /// Squared distance from `query` to its nearest of `vectors`.
    fn nearest(query: &[f32], vectors: &[f32]) -> f32 {
        let distance = |row: &[f32]| row.iter().zip(query).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
        vectors.chunks_exact(query.len()).map(distance).fold(f32::INFINITY, f32::min)
    }

    #[test]
    fn queries_lie_among_the_rows_but_are_none_of_them() {
        let generator = shape().generator().unwrap();
        let (base, queries) = (rows(&generator, Draw::Rows, 0, 2000), rows(&generator, Draw::Queries, 0, 50));
        let foreign = rows(&Clustered { seed: 9, ..shape() }.generator().unwrap(), Draw::Queries, 0, 50);
        let mean = |set: &[f32]| set.chunks_exact(32).map(|q| nearest(q, &base)).sum::<f32>() / 50.0;
        assert!(queries.chunks_exact(32).all(|q| nearest(q, &base) > 0.0));
        assert!(mean(&queries) < 0.5 * mean(&foreign), "{} {}", mean(&queries), mean(&foreign));
    }

    #[test]
    fn clusters_are_skewed_and_noise_is_anisotropic() {
        // Without noise every row is its cluster's centroid, so equal rows count a cluster's size.
        let generator = Clustered { spread: 0.0, ..shape() }.generator().unwrap();
        let base = rows(&generator, Draw::Rows, 0, 2000);
        let mut sizes: Vec<usize> = generator
            .centroids
            .chunks_exact(32)
            .map(|centroid| base.chunks_exact(32).filter(|row| row == &centroid).count())
            .collect();
        sizes.sort_unstable();
        assert_eq!(sizes.iter().sum::<usize>(), 2000);
        assert!(sizes[49] > 4 * sizes[5], "{sizes:?}");
        let energy = |d: &[f32]| d.iter().map(|v| v * v).sum::<f32>();
        let all: Vec<f32> = shape().generator().unwrap().directions.chunks_exact(32).map(energy).collect();
        assert!(all[0] > 10.0 * all[DIRECTIONS - 1], "{all:?}");
    }

    #[test]
    fn bad_shapes_are_refused() {
        for bad in [
            Clustered { rows: 0, ..shape() },
            Clustered { dim: 0, ..shape() },
            Clustered { clusters: 0, ..shape() },
            Clustered { clusters: usize::MAX, ..shape() },
            Clustered { spread: f32::NAN, ..shape() },
            Clustered { spread: -1.0, ..shape() },
        ] {
            assert!(matches!(bad.generator(), Err(Error::InvalidParams { .. })), "{bad:?}");
        }
    }
}
