//! How relevant are two texts to each other, for each of several tasks? A model over the vectors of a frozen encoder.
//!
//! ```text
//! a, b  -->  [a, b, a*b, |a-b|]  -->  W1 + adapter_t --> relu --> W2 + adapter_t --> relu --> output of task t
//! vectors    features, 4 d            \____________ trunk, frozen ___________/                 a score a class, or a value
//! ```
//! The **trunk** is trained first, without labels: which pairs of texts belong together (half of them have had their second text
//! swapped within the task), and which task a row is of. Then it is frozen, and the adapters of its layers
//! ([`crate::adapters`]) learn the tasks, each with a small output of its own. A task with single texts has no `b`: its vector is 0.
//!
//! Once trained, a task's adapters are merged into the trunk ([`RelevanceModel::ranker`]), and a pair of vectors costs two small
//! matrices. That is meant for the last step of a search: the hits, re-scored.
//!
//! | what | where |
//! |---|---|
//! | the model, its file, re-scoring | [`RelevanceModel`], [`Ranker`] |
//! | both trainings | [`pretrain`], [`train_relevance`] |
//! | accuracy, average precision, rank correlation; which of them a task is judged by | [`Quality`], [`Measure`] |

mod measure;
mod model;
mod network;
mod train;

pub use measure::{Measure, Quality, average_precision, spearman};
pub use model::{Ranker, RelevanceModel};
pub use train::{RelevanceTraining, pretrain, train_relevance};

use ndarray::{Array2, ArrayView2};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What a task's label is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// One of these classes; a label is the place of its class.
    Classes(Vec<String>),
    /// A number, of this mean and standard deviation.
    Value {
        /// Mean over the training rows.
        mean: f32,
        /// Standard deviation over the training rows, above 0.
        deviation: f32,
    },
}

impl Target {
    /// Values of the task's output.
    pub fn outputs(&self) -> usize {
        match self {
            Target::Classes(classes) => classes.len(),
            Target::Value { .. } => 1,
        }
    }

    fn check(&self) -> Result<()> {
        match self {
            Target::Classes(classes) if classes.len() < 2 => {
                Err(Error::params("classes", format!("{classes:?}; a task needs two or more")))
            }
            Target::Value { mean, deviation } if !(mean.is_finite() && deviation.is_finite() && *deviation > 0.0) => {
                let reason = format!("mean {mean}, deviation {deviation}; labels that are all the same teach nothing");
                Err(Error::params("value", reason))
            }
            Target::Classes(_) | Target::Value { .. } => Ok(()),
        }
    }
}

/// What a task asks, and how it is judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kind {
    /// What its labels are.
    pub target: Target,
    /// The figure that counts, chosen by the training labels.
    pub measure: Measure,
    /// Whether all its rows were pairs; others teach nothing about a query and a document.
    pub pairs: bool,
}

impl Kind {
    fn check(&self) -> Result<()> {
        self.target.check()?;
        let fits = match (&self.target, self.measure) {
            (Target::Value { .. }, measure) => measure == Measure::RankCorrelation,
            (Target::Classes(_), Measure::Accuracy) => true,
            (Target::Classes(classes), Measure::AveragePrecision { class }) => classes.len() == 2 && class < 2,
            (Target::Classes(_), Measure::RankCorrelation) => false,
        };
        if fits {
            return Ok(());
        }
        Err(Error::params("measure", format!("{:?} does not fit {:?}", self.measure, self.target)))
    }
}

/// Two texts, or one, and what is said of them. Texts are rows of a matrix of vectors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    /// The first text.
    pub a: u32,
    /// The second; None where the task is about single texts.
    pub b: Option<u32>,
    /// The class's place, or the value.
    pub label: f32,
}

/// A task with its rows.
#[derive(Debug, Clone, PartialEq)]
pub struct RelevanceTask {
    /// Its name.
    pub name: String,
    /// What its labels are.
    pub target: Target,
    /// Rows to learn from.
    pub train: Vec<Row>,
    /// Rows to choose the best epoch by.
    pub valid: Vec<Row>,
}

impl RelevanceTask {
    /// What it asks, and how it is judged.
    pub fn kind(&self) -> Kind {
        let labels: Vec<f32> = self.train.iter().map(|row| row.label).collect();
        let measure = Measure::of(&self.target, &labels);
        let pairs = self.train.iter().chain(&self.valid).all(|row| row.b.is_some());
        Kind { target: self.target.clone(), measure, pairs }
    }

    /// # Errors
    /// `InvalidParams` naming the task: no rows, a text that is not there, a label that is no class or not finite.
    fn check(&self, texts: usize) -> Result<()> {
        let refused = |reason: String| Err(Error::params("task", format!("{:?}: {reason}", self.name)));
        if self.train.is_empty() || self.valid.is_empty() {
            return refused("it needs rows to train on and rows to choose by".into());
        }
        if let Err(error) = self.target.check() {
            return refused(error.to_string());
        }
        for row in self.train.iter().chain(&self.valid) {
            if row.a as usize >= texts || row.b.is_some_and(|b| b as usize >= texts) {
                return refused(format!("text {} or {:?} does not exist: there are {texts}", row.a, row.b));
            }
            let known = match &self.target {
                Target::Classes(classes) => {
                    row.label >= 0.0 && row.label.fract() == 0.0 && row.label < classes.len() as f32
                }
                Target::Value { .. } => row.label.is_finite(),
            };
            if !known {
                return refused(format!("the label {} is no class of {:?}", row.label, self.target));
            }
        }
        Ok(())
    }
}

/// Features of pairs of unit vectors, n x 4 d: `[a, b, a*b, |a-b|]`, scaled so that elements are of about 1.
fn features(vectors: ArrayView2<'_, f32>, pairs: impl ExactSizeIterator<Item = (u32, Option<u32>)>) -> Array2<f32> {
    let dim = vectors.ncols();
    let mut out = Array2::zeros((pairs.len(), 4 * dim));
    let none = ndarray::Array1::zeros(dim);
    for (mut row, (a, b)) in out.rows_mut().into_iter().zip(pairs) {
        let a = vectors.row(a as usize);
        let b = b.map_or(none.view(), |b| vectors.row(b as usize));
        write_features(a.iter().zip(b), row.as_slice_mut().expect("C order"));
    }
    out
}

/// Writes the features of one pair.
fn write_features<'a>(pair: impl Iterator<Item = (&'a f32, &'a f32)>, out: &mut [f32]) {
    let dim = out.len() / 4;
    let scale = (dim as f32).sqrt();
    for (at, (a, b)) in pair.enumerate() {
        out[at] = a * scale;
        out[dim + at] = b * scale;
        out[2 * dim + at] = a * b * scale * scale;
        out[3 * dim + at] = (a - b).abs() * scale;
    }
}
