//! Settings of the training of static encoders.

use serde::{Deserialize, Serialize};

use super::super::locality::Sampling;
use crate::error::{Error, Result};

/// How static encoders are trained. As a section of a file of settings it has the fields that are not skipped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TextTraining {
    /// Where the negatives of pairs come from.
    #[serde(skip)]
    pub sampling: Sampling,
    /// Passes over the training queries or, without pairs, over the texts that are taught.
    pub epochs: usize,
    /// Queries of a batch, and texts that are taught in a step.
    pub batch: usize,
    /// Random documents added to a batch as negatives.
    pub negatives: usize,
    /// Scores are divided by it.
    pub temperature: f32,
    /// Learning rate of the table, in units of its root mean square.
    pub table_rate: f32,
    /// Learning rate of the projection, in units of its root mean square.
    pub projection_rate: f32,
    /// Share of the tokens of a text that a step leaves out.
    pub dropout: f32,
    /// Share of the steps in which learning rates grow.
    pub warmup: f32,
    /// Largest norm of a gradient.
    pub clip: f32,
    /// Epochs without a better validation before training stops.
    pub patience: usize,
    /// The teacher's part.
    pub distillation: Distillation,
    /// Of every random choice.
    #[serde(skip)]
    pub seed: u64,
}

/// How a teacher's vectors are learned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Distillation {
    /// Weight of `1 - cosine` with the own vector.
    pub cosine: f32,
    /// Weight of the order of the batch's vectors (ListNet).
    pub order: f32,
    /// Scores are divided by it, the student's and the teacher's.
    pub temperature: f32,
}

impl Distillation {
    /// Of all its parts.
    pub(super) fn weight(&self) -> f32 {
        self.cosine + self.order
    }
}

impl Default for Distillation {
    fn default() -> Self {
        Distillation { cosine: 1.0, order: 1.0, temperature: 0.05 }
    }
}

impl Default for TextTraining {
    fn default() -> Self {
        TextTraining {
            sampling: Sampling::Random,
            epochs: 10,
            batch: 1_024,
            negatives: 0,
            temperature: 0.05,
            table_rate: 0.02,
            projection_rate: 0.005,
            dropout: 0.1,
            warmup: 0.05,
            clip: 1.0,
            patience: 3,
            distillation: Distillation::default(),
            seed: 1,
        }
    }
}

impl TextTraining {
    /// Refuses values that cannot train.
    ///
    /// # Errors
    /// `InvalidParams`, naming the value and the remedy.
    pub fn check(&self) -> Result<()> {
        if self.batch < 2 {
            return Err(Error::params("batch", format!("{}; give at least 2", self.batch)));
        }
        let positive = [
            ("temperature", self.temperature),
            ("table_rate", self.table_rate),
            ("projection_rate", self.projection_rate),
            ("clip", self.clip),
            ("distillation.temperature", self.distillation.temperature),
        ];
        if let Some((name, value)) = positive.into_iter().find(|(_, v)| !v.is_finite() || *v <= 0.0) {
            return Err(Error::params(name, format!("{value}; it must be above 0")));
        }
        let bounded = [
            ("dropout", self.dropout, 0.9),
            ("warmup", self.warmup, 1.0),
            ("distillation.cosine", self.distillation.cosine, f32::MAX),
            ("distillation.order", self.distillation.order, f32::MAX),
        ];
        match bounded.into_iter().find(|(_, v, most)| !(0.0..=*most).contains(v)) {
            Some((name, value, most)) => Err(Error::params(name, format!("{value}; it must be 0 to {most}"))),
            None => Ok(()),
        }
    }
}
