//! Stage 1: lists and codes that are trained for retrieval.
//!
//! Start: k-means lists, rotation and codebooks of OPQ ([`super::train_quantizer`]). The rotation stays; queries and documents
//! are rotated once. Then, batch after batch, the inner products of queries with *decoded* documents `o + PQ(v - o)` are
//! pushed to say what labels (contrastive) or full-precision scores (distillation) say. Sources: contrastive quantization of
//! BiDR (WWW 2022) and MoPQ (EMNLP 2021); inverted lists, ListNet and training without labels of Distill-VQ (SIGIR 2022).
//!
//! The easy version is a loop of "batch, loss, gradient, AdamW". Departures:
//! - **Units.** Learning rates of codewords and centroids are given in units of their root mean square, the choice's
//!   temperature in units of a subspace's mean squared error: the same settings serve 4 and 64 bytes, 96 and 1024
//!   dimensions, residuals and whole vectors.
//! - **Lists move.** Where centroids or the document head are trained, all documents are assigned again before every epoch
//!   (the index build assigns them once more with the final ones).
//! - **Dead codewords** take the place of a random document's residual after every epoch.
//! - **The best epoch counts**: recall of held-out queries after each epoch decides what is returned, and when to stop.
//! - **Resuming.** After every epoch the whole state goes to a checkpoint; a killed run continues from it and ends with the
//!   same bytes.
//!
//! With trained heads the rotation is folded into them: a query pays for one matrix, not two.

mod checkpoint;
#[cfg(feature = "text")]
mod joint;
mod model;
mod negatives;
mod settings;
mod start;
#[cfg(test)]
mod tests;

#[cfg(feature = "text")]
pub use joint::{CodesAndText, check_codes_and_text, train_codes_and_text};
pub use settings::{CodeTraining, HeadChoice, Method};

use ndarray::{Array2, Axis};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Instant;

use super::Watch;
use super::batch::{Batch, epoch_pairs};
use super::examples::{Examples, select};
use super::head::TrainedHead;
use super::optimiser::{Schedule, check_divergence};
use super::validate::{ranks, recall_at};
use crate::error::Result;
use crate::heads::{Head, Heads};
use crate::linalg::blocked;
use crate::quantizer::{Product, Quantizer};
use crate::sample::Rng;
use crate::types::ListId;
use crate::vfs::Vfs;
use model::{Inputs, Model, row};
use negatives::{Nearest, negatives};
use start::Start;

/// Validation looks this deep.
const VALID_DEPTH: u32 = 100;

/// What one epoch came to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Counted from 1; 0 is the start.
    pub epoch: usize,
    /// Mean loss of its steps (NaN-free; 0 for the start).
    pub loss: f32,
    /// What it was judged by, on held-out queries: candidate recall at 100 (codes) or final recall at 10 (dense vectors).
    pub recall: f32,
    /// Seconds since the training began.
    pub seconds: f64,
}

/// What training made.
#[derive(Debug)]
pub struct TrainedCodes {
    /// The quantizer of the best epoch, with its heads.
    pub quantizer: Quantizer,
    /// All epochs.
    pub curve: Vec<Epoch>,
    /// Billions of floating-point operations a second, while steps ran.
    pub gflops: f64,
    /// Codewords that were moved because no document chose them.
    pub reseeded: usize,
}

/// Trains lists and codes. The code heads of `heads` are where trained heads start, such as those that [`super::train_dense`]
/// made on random negatives; a trained head that is not among them starts at the identity. A checkpoint is kept at
/// `checkpoint` (and removed by the caller when the result is safe).
///
/// # Errors
/// `InvalidParams` for settings, `Diverged` if the loss explodes, `Mismatch` for a checkpoint of another run.
pub fn train_codes(
    examples: &Examples,
    settings: &CodeTraining,
    heads: &Heads,
    checkpoint: Option<(&dyn Vfs, &Path)>,
    watch: &dyn Watch,
) -> Result<TrainedCodes> {
    settings.check()?;
    examples.check()?;
    let mut trainer = Trainer::new(examples, settings, heads, checkpoint, watch)?;
    trainer.run()?;
    trainer.finish()
}

struct Trainer<'a> {
    examples: &'a Examples,
    settings: &'a CodeTraining,
    checkpoint: Option<(&'a dyn Vfs, &'a Path)>,
    watch: &'a dyn Watch,
    fingerprint: [u8; 16],
    positives: Vec<Vec<u32>>,
    nearest: Option<Nearest>,
    /// Where it all starts; the vectors in it stay.
    start: Start<'a>,
    model: Model,
    /// The list of every document, by the centroids as they are.
    lists: Vec<ListId>,
    best: Vec<Array2<f32>>,
    curve: Vec<Epoch>,
    step: u64,
    reseeded: usize,
    began: Instant,
    flops: u64,
    busy: f64,
}

impl<'a> Trainer<'a> {
    fn new(
        examples: &'a Examples,
        settings: &'a CodeTraining,
        heads: &Heads,
        checkpoint: Option<(&'a dyn Vfs, &'a Path)>,
        watch: &'a dyn Watch,
    ) -> Result<Trainer<'a>> {
        let began = Instant::now();
        let fingerprint = checkpoint::fingerprint(examples, settings, heads);
        let saved = match checkpoint {
            Some((vfs, path)) => checkpoint::Saved::read(vfs, path, &fingerprint)?,
            None => None,
        };
        let start = Start::new(examples, settings, heads, watch)?;
        let nearest = match settings.method {
            Method::Distill => {
                let (queries, documents) = start.teacher();
                Some(Nearest::find(examples, settings.neighbours, queries, documents, watch)?)
            }
            Method::Contrastive => None,
        };
        let mut trainer = Trainer {
            examples,
            settings,
            checkpoint,
            watch,
            fingerprint,
            positives: examples.positives(),
            nearest,
            model: start.model(settings),
            start,
            lists: Vec::new(),
            best: Vec::new(),
            curve: Vec::new(),
            step: 0,
            reseeded: 0,
            began,
            flops: 0,
            busy: 0.0,
        };
        match saved {
            Some(saved) => trainer.resume(saved)?,
            None => trainer.judge(0, 0.0),
        }
        Ok(trainer)
    }

    fn steps_an_epoch(&self) -> u64 {
        let queries = epoch_pairs(&self.examples.train, 0, 0).len();
        queries.div_ceil(self.settings.batch) as u64
    }

    fn run(&mut self) -> Result<()> {
        let settings = self.settings;
        let per_epoch = self.steps_an_epoch();
        let total = per_epoch * settings.epochs as u64;
        let schedule =
            Schedule { warmup: ((total as f32 * settings.warmup) as u64).max(1), total, clip: settings.clip };
        self.watch.begin("train codes", total);
        self.watch.advance(self.step);
        for epoch in self.curve.len()..=settings.epochs {
            if self.stale() >= settings.patience {
                break;
            }
            let loss = self.epoch(epoch, &schedule)?;
            self.judge(epoch, loss);
            if let Some((vfs, path)) = self.checkpoint {
                checkpoint::write(self, vfs, path)?;
            }
        }
        Ok(())
    }

    /// Epochs since the best one.
    fn stale(&self) -> usize {
        let best = best_epoch(&self.curve);
        self.curve.len() - 1 - best
    }

    /// One pass over the training queries; the mean loss.
    fn epoch(&mut self, epoch: usize, schedule: &Schedule) -> Result<f32> {
        let settings = self.settings;
        let pairs = epoch_pairs(&self.examples.train, settings.seed, epoch as u64);
        let mut rng = Rng::stream(settings.seed, (1 << 32) + epoch as u64);
        let shape = settings.shape;
        let mut used = vec![0; shape.subspaces() * shape.codewords()];
        let (mut sum, mut steps) = (0f64, 0);
        for pairs in pairs.chunks(settings.batch) {
            self.watch.check()?;
            let began = Instant::now();
            let documents = self.examples.documents.nrows();
            let more = negatives(pairs, self.nearest.as_ref(), settings.negatives, documents, &mut rng);
            let batch = Batch { draw: rng.next_u64(), ..Batch::new(pairs, more, &self.positives) };
            let Start { queries, documents, .. } = &self.start;
            let inputs = Inputs { queries, documents, lists: &self.lists, teacher: self.start.teacher() };
            let loss = self.model.step(&inputs, &batch, &mut used);
            let norm = schedule.step(self.step, &mut self.model.parameters());
            check_divergence(self.step, loss, norm, batch.columns.len())?;
            self.flops += self.model.flops(&batch);
            self.busy += began.elapsed().as_secs_f64();
            self.step += 1;
            sum += f64::from(loss);
            steps += 1;
            self.watch.advance(1);
        }
        self.reseeded += self.reseed(&used, &mut rng);
        Ok((sum / f64::from(steps.max(1))) as f32)
    }

    /// Moves codewords that nothing chose. The epoch is judged afterwards: one that suffers from it is not kept.
    fn reseed(&mut self, used: &[u32], rng: &mut Rng) -> usize {
        let Trainer { model, start, lists, .. } = self;
        let frozen = model.clone();
        model.reseed(used, || {
            let i = rng.below(start.documents.nrows() as u64) as usize;
            let one = start.documents.select(Axis(0), &[i]);
            let mapped = frozen.map_documents(&one);
            let centroid = row(&frozen.centroids.value, lists[i] as usize);
            mapped.iter().zip(centroid).map(|(v, o)| v - o).collect()
        })
    }

    /// Assigns every document anew, measures the model on held-out queries and keeps it if it is the best so far.
    fn judge(&mut self, epoch: usize, loss: f32) {
        let seen = self.in_rotated_space().reconstruct(self.model.map_documents(&self.start.documents).view());
        let valid = self.examples.judged(self.settings.seed);
        let inputs = select(self.start.queries.view(), valid.iter().map(|p| p.query));
        let queries = match &self.model.query_head {
            Some(head) => head.head().apply_rows(inputs.view()),
            None => inputs,
        };
        let own: Vec<u32> = valid.iter().map(|p| p.document).collect();
        let relevant: Vec<&[u32]> = valid.iter().map(|p| self.positives[p.query as usize].as_slice()).collect();
        let ranks = ranks(queries.view(), seen.vectors.view(), &seen.offsets, &own, &relevant);
        let recall = recall_at(&ranks, VALID_DEPTH);
        self.lists = seen.lists;
        self.curve.push(Epoch { epoch, loss, recall, seconds: self.began.elapsed().as_secs_f64() });
        if best_epoch(&self.curve) + 1 == self.curve.len() {
            self.best = self.model.parameters().iter().map(|p| p.value.clone()).collect();
        }
        self.watch.note(&format!("epoch {epoch}: loss {loss:.3}, validation R@{VALID_DEPTH} {:.2} %", recall * 100.0));
    }

    /// The quantizer over the rotated space: no rotation, no heads.
    fn in_rotated_space(&self) -> Quantizer {
        let words = self.model.words.value.as_slice().expect("C order").to_vec();
        let offsets = self.model.offsets.value.as_slice().expect("C order").to_vec();
        let product = Product::new(self.settings.shape, self.model.soft.dim, words).with_offsets(offsets);
        Quantizer::new(self.settings.metric, self.model.centroids.value.clone(), None, product)
    }

    /// The best epoch's quantizer over the caller's space.
    fn finish(mut self) -> Result<TrainedCodes> {
        for (parameter, best) in self.model.parameters().into_iter().zip(std::mem::take(&mut self.best)) {
            parameter.value = best;
        }
        let rotated = self.in_rotated_space();
        let rotation = self.start.rotation;
        let groups = self.start.quantizer.coarse().group_starts().to_vec();
        let quantizer = if self.settings.heads == HeadChoice::None {
            let centroids = blocked::nn(rotated.coarse().centroids(), rotation.view());
            let product = rotated.product().clone();
            Quantizer::new(self.settings.metric, centroids, Some(rotation), product)
        } else {
            let plain = || Head { linear: rotation.clone(), residual: None, normalise: false };
            let head = |trained: &Option<TrainedHead>| trained.as_ref().map_or_else(plain, TrainedHead::head);
            let code_query = Some(head(&self.model.query_head));
            let code_document = Some(head(&self.model.document_head));
            rotated.with_heads(Heads { code_query, code_document, ..Heads::default() })?
        };
        let quantizer = quantizer.with_groups(groups)?;
        let gflops = if self.busy > 0.0 { self.flops as f64 / self.busy / 1e9 } else { 0.0 };
        Ok(TrainedCodes { quantizer, curve: self.curve, gflops, reseeded: self.reseeded })
    }

    /// Goes on where a run stopped. The start was made again from the same settings; that it came out the same to the bit is
    /// checked, since another instruction set may round differently.
    fn resume(&mut self, saved: checkpoint::Saved) -> Result<()> {
        saved.check(&self.start, &mut self.model)?;
        (self.curve, self.step, self.reseeded) = (saved.curve, saved.step, saved.reseeded);
        self.model.list_weight = saved.list_weight;
        for (parameter, [value, mean, square]) in self.model.parameters().into_iter().zip(saved.parameters) {
            (parameter.value, parameter.mean, parameter.square) = (value, mean, square);
        }
        self.best = saved.best;
        let documents = self.model.map_documents(&self.start.documents);
        self.lists = self.in_rotated_space().coarse().assign_rows(documents.view());
        self.watch.note(&format!("resumed after epoch {}", self.curve.len() - 1));
        Ok(())
    }
}

/// The first epoch with the highest recall.
fn best_epoch(curve: &[Epoch]) -> usize {
    let better = |best: usize, i: usize| if curve[i].recall > curve[best].recall { i } else { best };
    (1..curve.len()).fold(0, better)
}
