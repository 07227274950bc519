//! Training: from vectors, and from pairs of queries and their documents, to a [`Quantizer`] and its heads.
//!
//! | what | how |
//! |---|---|
//! | [`train_quantizer`] | k-means lists, OPQ and codebooks: squared error, no queries |
//! | [`train_codes`] | stage 1: lists and codes from labelled pairs, or from full-precision scores without labels |
//! | [`train_router`] | which lists to probe, from queries and where their answers lie |
//! | [`train_dense`] | heads of the dense vectors: on random negatives, or stage 2, on the candidates of the codes |
//! | [`train_contrast`] | a pair of heads from what served each query best and worst |
//! | [`train_query_head`] | stage 3: one query head for fixed documents of both grains |
//! | `train_text` | static text encoders, from pairs of texts or from a larger encoder's vectors (feature `text`) |
//! | `train_codes_and_text` | stage 1 with the encoder in it: its token table learns what the codes can keep (feature `text`) |
//! | [`train_views`] | heads for documents that are found by the best of several views, with a teacher |
//!
//! Below them: losses and straight-through codes with their gradients, trained heads, AdamW, samplers of batches, exact
//! neighbours and ranks. [`crate::learn`] runs the stages one after the other.
//!
//! Everything here works on vectors held in memory (n x d, C order), is seeded, and gives the same result at any number
//! of threads: parallel work is cut into fixed pieces whose results are added in order. (The instruction set may change
//! the last bits, and with them the trained parts; answers of a given index do not depend on it.)

pub(crate) mod batch;
mod codes;
mod contrast;
mod dense;
pub(crate) mod examples;
pub(crate) mod head;
mod kmeans;
mod locality;
pub(crate) mod loss;
mod nearest;
pub(crate) mod optimiser;
mod product;
mod routing;
mod soft;
#[cfg(feature = "text")]
mod sparse;
#[cfg(test)]
mod stress;
#[cfg(feature = "text")]
mod text;
pub(crate) mod validate;
mod views;

pub use codes::{CodeTraining, Epoch, HeadChoice, Method, TrainedCodes, train_codes};
#[cfg(feature = "text")]
pub use codes::{CodesAndText, check_codes_and_text, train_codes_and_text};
pub use contrast::{Contrast, ContrastEpoch, Contrasts, Learned, train_contrast};
pub use dense::{DenseTraining, TrainedHeads, train_dense, train_query_head};
pub use examples::{Example, Examples};
pub use kmeans::{FLAT_LISTS, Iterations, distortion, kmeans};
pub use locality::{Candidates, Sampling};
pub use nearest::nearest;
pub use product::{train_codebooks, train_opq};
pub use routing::{RouterTraining, Routes, shares, train_router};
#[cfg(feature = "text")]
pub use text::{
    Distillation, StaticModel, Teaching, TextExamples, TextLessons, TextTraining, Texts, inverse_frequencies,
    train_text,
};
pub use views::{LEXICAL, ViewEpoch, ViewExamples, ViewHeads, ViewTraining, train_views};

use ndarray::ArrayView2;
use rayon::prelude::*;

use crate::error::Result;
use crate::quantizer::{Coarse, CodeShape, Quantizer};
use crate::sample::sample_rows;
use crate::types::Metric;

/// Sees how long work advances, and may stop it.
pub trait Watch: Sync {
    /// A phase of `total` units begins.
    fn begin(&self, phase: &'static str, total: u64);
    /// `units` of the phase are done.
    fn advance(&self, units: u64);
    /// Something worth a line, such as the result of an epoch.
    fn note(&self, _: &str) {}
    /// An error stops the work at the next safe point.
    fn check(&self) -> Result<()> {
        Ok(())
    }
}

/// Watches nothing.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Watch for Silent {
    fn begin(&self, _: &'static str, _: u64) {}
    fn advance(&self, _: u64) {}
}

/// What to train.
#[derive(Debug, Clone)]
pub struct QuantizerSpec {
    /// How queries and documents are compared.
    pub metric: Metric,
    /// Number of inverted lists (fewer where the sample has fewer rows).
    pub lists: usize,
    /// Bits and bytes of a code.
    pub shape: CodeShape,
    /// Whether to learn a rotation (OPQ).
    pub opq: bool,
    /// Rows that codebooks and rotation are trained on.
    pub code_rows: usize,
    /// Of every random choice.
    pub seed: u64,
}

/// Rows that codebooks are trained on where memory is not planned: more hardly change them.
pub const CODE_ROWS: usize = 131_072;

const COARSE_ITERATIONS: Iterations = Iterations { coarse: 6, fine: 4 };

/// Comparisons of a vector with a centroid: for each row of the sample in training, and for each row that is assigned.
pub(crate) fn comparisons(lists: usize) -> (f64, f64) {
    (kmeans::comparisons(lists, COARSE_ITERATIONS), kmeans::assign_comparisons(lists))
}

/// Trains centroids, rotation and codebooks on `sample` (n x d, n at least 1; normalised under cosine).
pub fn train_quantizer(sample: ArrayView2<'_, f32>, spec: &QuantizerSpec, watch: &dyn Watch) -> Result<Quantizer> {
    watch.begin("train lists", kmeans::work(sample.nrows(), spec.lists, COARSE_ITERATIONS));
    let coarse = kmeans(sample, spec.lists, COARSE_ITERATIONS, spec.seed, watch)?;
    let rows = sample_rows(sample.nrows() as u64, spec.code_rows, spec.seed ^ 2);
    let mut residuals = kmeans::gather(sample, &rows);
    subtract_centroids(&mut residuals, &coarse);
    watch.begin("train codes", product::work(rows.len(), spec.shape, spec.opq));
    let (rotation, product) = if spec.opq {
        let (rotation, product) = train_opq(residuals.view(), spec.shape, spec.seed ^ 3, watch)?;
        (Some(rotation), product)
    } else {
        (None, train_codebooks(residuals.view(), spec.shape, spec.seed ^ 3, watch)?)
    };
    Quantizer::new(spec.metric, coarse.centroids().to_owned(), rotation, product)
        .with_groups(coarse.group_starts().to_vec())
}

fn subtract_centroids(x: &mut ndarray::Array2<f32>, coarse: &Coarse) {
    x.axis_chunks_iter_mut(ndarray::Axis(0), coarse.rows_at_once()).into_par_iter().for_each(|mut rows| {
        let mut lists = vec![0; rows.nrows()];
        coarse.assign(rows.view(), &mut lists);
        for (mut row, &list) in rows.rows_mut().into_iter().zip(&lists) {
            row -= &ndarray::aview1(coarse.centroid(list));
        }
    });
}
