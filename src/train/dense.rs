//! Heads trained by InfoNCE on full-precision scores: `<g(q), f(a)>`.
//!
//! This is stage 2, the dense grain, where batches come from the candidates that the codes return ([`super::locality`]); and,
//! with random batches, it makes the heads that stage 1 may start from. The two differ in what they are judged by: recall of
//! the re-ranked candidates, or recall over the whole corpus.

use ndarray::{Array2, ArrayView2, CowArray, Ix2};
use serde::{Deserialize, Serialize};
use std::time::Instant;

use super::Watch;
use super::batch::{Batch, epoch_pairs};
use super::codes::Epoch;
use super::examples::{Example, Examples, select};
use super::head::{self, TrainedHead};
use super::locality::{Candidates, Sampler, Sampling, Triple};
use super::loss::{MASKED, info_nce};
use super::optimiser::{Schedule, check_divergence};
use super::validate::{ranks, recall_at};
use crate::error::{Error, Result};
use crate::heads::Head;
use crate::linalg::{blocked, eigen_symmetric};
use crate::sample::Rng;
use crate::types::Metric;

/// Candidates a query has to itself under [`Sampling::Ann`].
const OWN_NEGATIVES: usize = 7;

/// How dense heads are trained. As a section of a file of settings it has the fields that are not skipped, 0 for None.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DenseTraining {
    /// How queries and documents are compared: inner product or cosine.
    #[serde(skip)]
    pub metric: Metric,
    /// Where negatives come from.
    #[serde(skip)]
    pub sampling: Sampling,
    /// Dimension of the outputs; None: that of the inputs.
    #[serde(with = "zero_is_none")]
    pub dim: Option<usize>,
    /// Hidden units of each head's residual; None: heads are linear.
    #[serde(with = "zero_is_none")]
    pub hidden: Option<usize>,
    /// Passes over the training queries.
    pub epochs: usize,
    /// Queries of a batch.
    pub batch: usize,
    /// Random documents added to every batch.
    pub negatives: usize,
    /// Scores are divided by it.
    pub score_temperature: f32,
    /// Learning rate.
    pub rate: f32,
    /// Weight decay, towards the start.
    pub decay: f32,
    /// Share of the steps in which the learning rate grows.
    pub warmup: f32,
    /// Largest norm of a gradient.
    pub clip: f32,
    /// Epochs without a better validation recall before training stops.
    pub patience: usize,
    /// Of every random choice.
    #[serde(skip)]
    pub seed: u64,
}

impl Default for DenseTraining {
    fn default() -> Self {
        DenseTraining::new(Metric::Cosine, Sampling::Random)
    }
}

/// In files of settings 0 stands for None.
mod zero_is_none {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Option<usize>, serializer: S) -> Result<S::Ok, S::Error> {
        value.unwrap_or(0).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
        usize::deserialize(deserializer).map(|value| (value > 0).then_some(value))
    }
}

impl DenseTraining {
    /// The defaults.
    pub fn new(metric: Metric, sampling: Sampling) -> DenseTraining {
        DenseTraining {
            metric,
            sampling,
            dim: None,
            hidden: None,
            epochs: 10,
            batch: 1_024,
            negatives: 0,
            score_temperature: 0.03,
            rate: 3e-4,
            decay: 0.0,
            warmup: 0.1,
            clip: 1.0,
            patience: 4,
            seed: 1,
        }
    }

    /// Refuses values that cannot train vectors of `dim` values.
    ///
    /// # Errors
    /// `InvalidParams` and `Unsupported`, naming the value and the remedy.
    pub fn check(&self, dim: usize) -> Result<()> {
        if self.metric == Metric::L2 {
            return Err(Error::Unsupported {
                what: "training heads under the metric l2".into(),
                remedy: "train under cosine or ip".into(),
            });
        }
        if self.epochs == 0 || self.batch < 2 {
            return Err(Error::params("batch", "epochs must be at least 1 and batches at least 2"));
        }
        if self.dim.is_some_and(|out| out == 0 || out > dim) {
            let reason = format!("{:?}; the vectors have {dim} dimensions, give 1 to that", self.dim.unwrap_or(0));
            return Err(Error::params("dense_dim", reason));
        }
        let positive = [("score_temperature", self.score_temperature), ("rate", self.rate), ("clip", self.clip)];
        match positive.into_iter().find(|(_, v)| !v.is_finite() || *v <= 0.0) {
            Some((name, value)) => Err(Error::params(name, format!("{value}; it must be above 0"))),
            None => Ok(()),
        }
    }
}

/// What the training of a pair of heads made.
#[derive(Debug)]
pub struct TrainedHeads {
    /// For queries.
    pub query: Head,
    /// For documents.
    pub document: Head,
    /// All epochs.
    pub curve: Vec<Epoch>,
    /// Billions of floating-point operations a second, while steps ran.
    pub gflops: f64,
}

/// Trains a head for queries and one for documents. `candidates` are what the codes return for the training *and* validation
/// queries; with [`Sampling::Random`] they may be left out, and recall is then that over the whole corpus.
///
/// # Errors
/// `InvalidParams` for settings or missing candidates, `Diverged` if the loss explodes.
pub fn train_dense(
    examples: &Examples,
    candidates: Option<&Candidates>,
    settings: &DenseTraining,
    watch: &dyn Watch,
) -> Result<TrainedHeads> {
    settings.check(examples.dim())?;
    examples.check()?;
    if candidates.is_none() && settings.sampling != Sampling::Random {
        return Err(Error::params(
            "sampling",
            "it needs the candidates of every query; search them first, or use random",
        ));
    }
    let mut rng = Rng::stream(settings.seed, 0xde45e);
    let linear = start_map(examples, settings)?;
    let normalise = settings.metric == Metric::Cosine;
    let mut start = || {
        let head = head::start(linear.clone(), settings.hidden, normalise, &mut rng);
        TrainedHead::new(&head, settings.rate, settings.decay)
    };
    let heads = Pair { query: start(), document: Some(start()) };
    let none = Candidates::default();
    let training = Training { examples, candidates: candidates.unwrap_or(&none), settings, watch, fixed: &[], heads };
    let (heads, curve, gflops) = training.run(candidates.is_some())?;
    let document = heads.document.as_ref().expect("it is trained").head();
    Ok(TrainedHeads { query: heads.query.head(), document, curve, gflops })
}

/// Trains a query head alone against one or several fixed sets of document vectors (n x d each), on the sum of their losses:
/// a head that stage 1 may start from, or stage 3, one query head for both grains. It starts at `start`, or else at the
/// identity with the settings' hidden units. Recall is that of the first set over the whole corpus.
///
/// # Errors
/// As [`train_dense`].
pub fn train_query_head(
    examples: &Examples,
    documents: &[ArrayView2<'_, f32>],
    start: Option<&Head>,
    candidates: &Candidates,
    settings: &DenseTraining,
    watch: &dyn Watch,
) -> Result<(Head, Vec<Epoch>)> {
    settings.check(examples.dim())?;
    examples.check()?;
    let mut rng = Rng::stream(settings.seed, 0xde45e);
    let normalise = settings.metric == Metric::Cosine;
    let identity = || head::start(Array2::eye(examples.dim()), settings.hidden, normalise, &mut rng);
    let start = start.cloned().unwrap_or_else(identity);
    if let Some(other) = documents.iter().find(|d| d.ncols() != start.output_dim()) {
        return Err(Error::mismatch("dimension of the documents", start.output_dim(), other.ncols()));
    }
    let heads = Pair { query: TrainedHead::new(&start, settings.rate, settings.decay), document: None };
    let training = Training { examples, candidates, settings, watch, fixed: documents, heads };
    let (heads, curve, _) = training.run(false)?;
    Ok((heads.query.head(), curve))
}

/// The linear map to start from: the identity, or the first principal axes where the outputs are smaller.
fn start_map(examples: &Examples, settings: &DenseTraining) -> Result<Array2<f32>> {
    let d = examples.dim();
    match settings.dim {
        Some(out) if out < d => {
            let mut square = Array2::zeros((d, d));
            let x = examples.documents.view();
            blocked::add_tn(&mut square, 1.0 / x.nrows() as f32, x, x);
            let (_, axes) = eigen_symmetric(square.view())?;
            Ok(axes.slice(ndarray::s![..out, ..]).to_owned())
        }
        _ => Ok(Array2::eye(d)),
    }
}

#[derive(Clone)]
struct Pair {
    query: TrainedHead,
    /// None: documents are fixed.
    document: Option<TrainedHead>,
}

struct Training<'a> {
    examples: &'a Examples,
    candidates: &'a Candidates,
    settings: &'a DenseTraining,
    watch: &'a dyn Watch,
    /// Sets of document vectors that stay as they are.
    fixed: &'a [ArrayView2<'a, f32>],
    heads: Pair,
}

impl Training<'_> {
    /// Runs all epochs; returns the heads of the best one. `rerank`: recall is that of re-ranked candidates.
    fn run(mut self, rerank: bool) -> Result<(Pair, Vec<Epoch>, f64)> {
        let Training { examples, settings, watch, .. } = self;
        let began = Instant::now();
        let positives = examples.positives();
        let documents = examples.documents.nrows();
        let sampler =
            Sampler::new(settings.sampling, self.candidates, &examples.train, documents, settings.batch, settings.seed);
        let queries = epoch_pairs(&examples.train, 0, 0).len();
        let total = (queries.div_ceil(settings.batch) * settings.epochs) as u64;
        let warmup = ((total as f32 * settings.warmup) as u64).max(1);
        let schedule = Schedule { warmup, total, clip: settings.clip };
        watch.begin("train heads", total);
        let judge = Judge::new(examples, self.candidates, &positives, rerank, settings.seed);
        let mut curve = vec![Epoch { epoch: 0, loss: 0.0, recall: judge.recall(&self), seconds: 0.0 }];
        let (mut best, mut best_at) = (self.heads.clone(), 0);
        let (mut step, mut flops, mut busy) = (0, 0, 0.0);
        for epoch in 1..=settings.epochs {
            let (mut sum, mut steps) = (0f64, 0);
            for triples in sampler.epoch(&examples.train, &positives, epoch as u64) {
                watch.check()?;
                let clock = Instant::now();
                let batch = self.batch(&triples, &positives, (epoch as u64) << 32 | step);
                let loss = self.step(&batch);
                let mut parameters = self.heads.query.parameters();
                parameters.extend(self.heads.document.iter_mut().flat_map(TrainedHead::parameters));
                let norm = schedule.step(step, &mut parameters);
                check_divergence(step, loss, norm, batch.columns.len() * self.fixed.len().max(1))?;
                flops += self.flops(&batch);
                busy += clock.elapsed().as_secs_f64();
                (sum, steps, step) = (sum + f64::from(loss), steps + 1, step + 1);
                watch.advance(1);
            }
            let loss = (sum / f64::from(steps.max(1))) as f32;
            let recall = judge.recall(&self);
            curve.push(Epoch { epoch, loss, recall, seconds: began.elapsed().as_secs_f64() });
            watch.note(&format!(
                "epoch {epoch}: loss {loss:.3}, validation R@{} {:.2} %",
                judge.depth(),
                recall * 100.0
            ));
            if recall > curve[best_at].recall {
                (best, best_at) = (self.heads.clone(), epoch);
            } else if epoch - best_at >= settings.patience {
                break;
            }
        }
        let gflops = if busy > 0.0 { flops as f64 / busy / 1e9 } else { 0.0 };
        Ok((best, curve, gflops))
    }

    /// The columns of a batch: positives, the triples' negatives, random documents.
    fn batch(&self, triples: &[Triple], positives: &[Vec<u32>], draw: u64) -> Batch {
        let pairs: Vec<Example> = triples.iter().map(|t| t.pair).collect();
        let documents = self.examples.documents.nrows() as u64;
        let mut rng = Rng::stream(self.settings.seed ^ 0xba7c4, draw);
        let mut more: Vec<u32> = triples.iter().map(|t| t.negative).collect();
        if self.settings.sampling == Sampling::Ann {
            for triple in triples {
                let found = self.candidates.by_query.get(triple.pair.query as usize).map_or(&[][..], Vec::as_slice);
                more.extend((1..OWN_NEGATIVES).map(|_| match found.len() {
                    0 => rng.below(documents) as u32,
                    n => found[rng.below(n as u64) as usize],
                }));
            }
            let mut batch = Batch::new(&pairs, more, positives);
            mask_strangers(&mut batch, pairs.len());
            return batch;
        }
        more.extend((0..self.settings.negatives).map(|_| rng.below(documents) as u32));
        Batch::new(&pairs, more, positives)
    }

    /// Adds the gradients of a batch; returns its loss.
    fn step(&mut self, batch: &Batch) -> f32 {
        let tau = self.settings.score_temperature;
        let query_input = select(self.examples.queries.view(), batch.queries.iter().copied());
        let query = self.heads.query.forward(query_input.view());
        let q = &query.output;
        let mut dq = Array2::zeros(q.dim());
        let mut loss = 0.0;
        let mut scored = |v: &Array2<f32>| {
            let mut g = blocked::nt(q.view(), v.view()) / tau;
            batch.masked.iter().for_each(|&at| g[at] = MASKED);
            loss += info_nce(&mut g, &batch.own);
            dq += &(blocked::nn(g.view(), v.view()) / tau);
            g
        };
        for fixed in self.fixed {
            scored(&select(*fixed, batch.columns.iter().copied()));
        }
        if let Some(head) = &mut self.heads.document {
            let input = select(self.examples.documents.view(), batch.columns.iter().copied());
            let pass = head.forward(input.view());
            let g = scored(&pass.output);
            let mut dv = Array2::zeros(pass.output.dim());
            blocked::add_tn(&mut dv, 1.0 / tau, g.view(), q.view());
            head.backward(input.view(), &pass, dv);
        }
        self.heads.query.backward(query_input.view(), &query, dq);
        loss
    }

    fn flops(&self, batch: &Batch) -> u64 {
        let (rows, columns) = (batch.queries.len(), batch.columns.len());
        let product = 2 * rows * columns * self.settings.dim.unwrap_or(self.examples.dim());
        let scores = 2 * self.fixed.len() + 3 * usize::from(self.heads.document.is_some());
        let documents = self.heads.document.as_ref().map_or(0, |h| h.flops(columns));
        (product * scores) as u64 + documents + self.heads.query.flops(rows)
    }

    /// The documents that queries are compared with.
    fn documents(&self) -> CowArray<'_, f32, Ix2> {
        match &self.heads.document {
            Some(head) => head.head().apply_rows(self.examples.documents.view()).into(),
            None => self.fixed[0].into(),
        }
    }
}

/// Leaves each query its own positive and its own negatives: pair `i` owns column `i`, column `rows + i`, and the `i`th run
/// of what follows.
fn mask_strangers(batch: &mut Batch, rows: usize) {
    let owner = |column: usize| match column / rows {
        0 | 1 => column % rows,
        _ => (column - 2 * rows) / (OWN_NEGATIVES - 1),
    };
    for row in 0..rows {
        batch.masked.extend((0..batch.columns.len()).filter(|&c| owner(c) != row).map(|c| (row, c)));
    }
}

/// Held-out queries and how they are judged.
struct Judge {
    pairs: Vec<Example>,
    relevant: Vec<Vec<u32>>,
    /// The candidates that each query re-ranks; None: the whole corpus.
    candidates: Option<Vec<Vec<u32>>>,
}

impl Judge {
    fn new(examples: &Examples, candidates: &Candidates, positives: &[Vec<u32>], rerank: bool, seed: u64) -> Judge {
        let pairs = examples.judged(seed);
        let relevant = pairs.iter().map(|p| positives[p.query as usize].clone()).collect();
        let of = |p: &Example| candidates.by_query.get(p.query as usize).cloned().unwrap_or_default();
        let candidates = rerank.then(|| pairs.iter().map(of).collect());
        Judge { pairs, relevant, candidates }
    }

    fn depth(&self) -> u32 {
        if self.candidates.is_some() { 10 } else { 100 }
    }

    fn recall(&self, training: &Training<'_>) -> f32 {
        let inputs = select(training.examples.queries.view(), self.pairs.iter().map(|p| p.query));
        let queries = training.heads.query.head().apply_rows(inputs.view());
        let documents = training.documents();
        let own: Vec<u32> = self.pairs.iter().map(|p| p.document).collect();
        let ranks = match &self.candidates {
            None => {
                let relevant: Vec<&[u32]> = self.relevant.iter().map(Vec::as_slice).collect();
                ranks(queries.view(), documents.view(), &[], &own, &relevant)
            }
            Some(candidates) => (0..own.len())
                .map(|i| {
                    let (q, own) = (queries.row(i), documents.row(own[i] as usize));
                    let own = q.dot(&own);
                    candidates[i].iter().filter(|&&row| q.dot(&documents.row(row as usize)) > own).count() as u32
                })
                .collect(),
        };
        recall_at(&ranks, self.depth())
    }
}
