//! Settings of stage 1.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::quantizer::CodeShape;
use crate::simd::CodeBits;
use crate::types::{Metric, names};

/// What codes learn from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Labelled pairs: a query must tell its document from the others of the batch by quantized scores (InfoNCE).
    Contrastive,
    /// No labels: quantized scores must order documents as full-precision scores do (ListNet).
    Distill,
}

/// Which vectors are mapped by a trained head before they meet the codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadChoice {
    /// None: only lists and codewords are trained.
    None,
    /// Queries.
    Query,
    /// Queries and documents.
    Both,
}

names!(Method, "method", Method::Contrastive => "contrastive", Method::Distill => "distill");
names!(HeadChoice, "heads", HeadChoice::None => "none", HeadChoice::Query => "query", HeadChoice::Both => "both");

/// How lists and codes are trained. As a section of a file of settings it has the fields that are not skipped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CodeTraining {
    /// What they learn from.
    #[serde(skip)]
    pub method: Method,
    /// How queries and documents are compared: inner product or cosine.
    #[serde(skip)]
    pub metric: Metric,
    /// Inverted lists.
    #[serde(skip)]
    pub lists: usize,
    /// Bits and bytes of a code.
    #[serde(skip)]
    pub shape: CodeShape,
    /// Which heads are trained along.
    #[serde(skip)]
    pub heads: HeadChoice,
    /// Hidden units of each head's residual where heads start at the identity; None: they are linear.
    #[serde(skip)]
    pub hidden: Option<usize>,
    /// Passes over the training queries.
    pub epochs: usize,
    /// Queries of a batch.
    pub batch: usize,
    /// Random documents added to a batch as negatives.
    pub negatives: usize,
    /// Length of a random vector that is added to a query and its document alike in every batch: pairs that do not exist, but
    /// could. Codewords then learn less of the training documents by heart.
    pub translation: f32,
    /// `tau`: quantized scores are divided by it.
    pub score_temperature: f32,
    /// Temperature of the choice among codewords, in units of a subspace's mean squared error at the start.
    pub choice_temperature: f32,
    /// The teacher's scores are divided by it.
    pub teacher_temperature: f32,
    /// Weight of the teacher beside labels, 0 to 1, under [`Method::Contrastive`].
    pub teacher_weight: f32,
    /// Nearest documents from which distillation samples a query's candidates.
    pub neighbours: usize,
    /// Learning rate of codewords, in units of their root mean square.
    pub code_rate: f32,
    /// Learning rate of centroids, in units of their root mean square; 0 leaves them as they are.
    pub list_rate: f32,
    /// Learning rate of heads.
    pub head_rate: f32,
    /// Weight decay of heads, towards their start.
    pub head_decay: f32,
    /// Share of the steps in which learning rates grow.
    pub warmup: f32,
    /// Largest norm of a gradient.
    pub clip: f32,
    /// Epochs without a better validation recall before training stops.
    pub patience: usize,
    /// Of every random choice.
    #[serde(skip)]
    pub seed: u64,
}

impl Default for CodeTraining {
    fn default() -> Self {
        let shape = CodeShape { bits: CodeBits::Eight, bytes: 8 };
        CodeTraining::new(Method::Contrastive, Metric::Cosine, 1, shape)
    }
}

impl CodeTraining {
    /// The defaults for codes of this shape.
    pub fn new(method: Method, metric: Metric, lists: usize, shape: CodeShape) -> CodeTraining {
        CodeTraining {
            method,
            metric,
            lists,
            shape,
            heads: HeadChoice::None,
            hidden: None,
            epochs: 6,
            batch: 2_048,
            negatives: 0,
            translation: 0.0,
            score_temperature: 0.03,
            choice_temperature: 0.5,
            teacher_temperature: 0.03,
            teacher_weight: 0.0,
            neighbours: 200,
            code_rate: 0.08,
            list_rate: 0.02,
            head_rate: 3e-4,
            head_decay: 0.0,
            warmup: 0.05,
            clip: 1.0,
            patience: 3,
            seed: 1,
        }
    }

    /// Refuses values that cannot train.
    ///
    /// # Errors
    /// `InvalidParams` and `Unsupported`, naming the value and the remedy.
    pub fn check(&self) -> Result<()> {
        if self.metric == Metric::L2 {
            return Err(Error::Unsupported {
                what: "training codes under the metric l2".into(),
                remedy: "train under cosine or ip, or take --method opq".into(),
            });
        }
        for (name, value) in [("lists", self.lists), ("epochs", self.epochs), ("batch", self.batch)] {
            if value == 0 {
                return Err(Error::params(name, "0; give at least 1"));
            }
        }
        if self.batch < 2 && self.negatives == 0 {
            return Err(Error::params("batch", "1 without negatives leaves nothing to tell apart; give at least 2"));
        }
        let positive = [
            ("score_temperature", self.score_temperature),
            ("choice_temperature", self.choice_temperature),
            ("teacher_temperature", self.teacher_temperature),
            ("code_rate", self.code_rate),
            ("clip", self.clip),
        ];
        if let Some((name, value)) = positive.into_iter().find(|(_, v)| !v.is_finite() || *v <= 0.0) {
            return Err(Error::params(name, format!("{value}; it must be above 0")));
        }
        let not_negative = [
            ("translation", self.translation, f32::MAX),
            ("list_rate", self.list_rate, f32::MAX),
            ("head_rate", self.head_rate, f32::MAX),
            ("head_decay", self.head_decay, f32::MAX),
            ("warmup", self.warmup, 1.0),
            ("teacher_weight", self.teacher_weight, 1.0),
        ];
        match not_negative.into_iter().find(|(_, v, most)| !(0.0..=*most).contains(v)) {
            Some((name, value, most)) => Err(Error::params(name, format!("{value}; it must be 0 to {most}"))),
            None => Ok(()),
        }
    }
}
