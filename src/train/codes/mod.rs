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

mod batch;
mod checkpoint;
mod model;
mod settings;
#[cfg(test)]
mod tests;

pub use settings::{CodeTraining, HeadChoice, Method};

pub(super) use batch::{Batch, epoch_pairs};

use ndarray::{Array2, Axis, s};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use super::examples::{Examples, select};
use super::head::{self, TrainedHead};
use super::nearest::nearest;
use super::optimiser::{Parameter, Schedule, check_divergence};
use super::soft::SoftCodes;
use super::validate::{ranks, recall_at};
use super::{QuantizerSpec, Watch, train_quantizer};
use crate::error::{Error, Result};
use crate::heads::{Head, Heads};
use crate::linalg::blocked;
use crate::quantizer::{Coarse, CodeShape, Product, Quantizer};
use crate::sample::Rng;
use crate::simd::Kernels;
use crate::types::{ListId, Metric};
use crate::vfs::Vfs;
use batch::{Nearest, negatives};
use model::{Inputs, LossSettings, Model, mean_square, row};

/// Queries that recall is validated on.
const VALID_QUERIES: usize = 2_000;
/// Rows of one task where documents are coded.
const BLOCK: usize = 512;
/// Offsets learn so much more slowly than codewords: they know nothing of the query, and soon learn by heart which documents
/// are asked for in training.
const OFFSET_RATE: f32 = 0.1;
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

/// Trains lists and codes. `start` are heads to start from, such as those that [`super::train_dense`] made on random
/// negatives; without them trained heads start at the identity. A checkpoint is kept at `checkpoint` (and removed by the
/// caller when the result is safe).
///
/// # Errors
/// `InvalidParams` for settings, `Diverged` if the loss explodes, `Mismatch` for a checkpoint of another run.
pub fn train_codes(
    examples: &Examples,
    settings: &CodeTraining,
    start: Option<(&Head, &Head)>,
    checkpoint: Option<(&dyn Vfs, &Path)>,
    watch: &dyn Watch,
) -> Result<TrainedCodes> {
    settings.check()?;
    check_examples(examples)?;
    let mut trainer = Trainer::new(examples, settings, start, checkpoint, watch)?;
    trainer.run()?;
    trainer.finish()
}

fn check_examples(examples: &Examples) -> Result<()> {
    for (name, pairs) in [("pairs", &examples.train), ("valid", &examples.valid)] {
        if pairs.is_empty() {
            return Err(Error::params(name, "there are none; give pairs of queries and their documents"));
        }
        let outside = |p: &&super::Example| {
            p.query as usize >= examples.queries.nrows() || p.document as usize >= examples.documents.nrows()
        };
        if let Some(p) = pairs.iter().find(outside) {
            return Err(Error::params(name, format!("query {} or document {} does not exist", p.query, p.document)));
        }
    }
    if examples.queries.ncols() != examples.dim() {
        return Err(Error::mismatch("dimension of the queries", examples.dim(), examples.queries.ncols()));
    }
    Ok(())
}

struct Trainer<'a> {
    examples: &'a Examples,
    settings: &'a CodeTraining,
    checkpoint: Option<(&'a dyn Vfs, &'a Path)>,
    watch: &'a dyn Watch,
    fingerprint: [u8; 16],
    positives: Vec<Vec<u32>>,
    nearest: Option<Nearest>,
    rotation: Array2<f32>,
    /// Queries and documents as steps take them: rotated, unless a head does that.
    queries: Array2<f32>,
    documents: Array2<f32>,
    /// Queries and documents whose products teach.
    teacher: Option<(Array2<f32>, Array2<f32>)>,
    model: Model,
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
        start: Option<(&Head, &Head)>,
        checkpoint: Option<(&'a dyn Vfs, &'a Path)>,
        watch: &'a dyn Watch,
    ) -> Result<Trainer<'a>> {
        let began = Instant::now();
        let fingerprint = checkpoint::fingerprint(examples, settings, start);
        let saved = match checkpoint {
            Some((vfs, path)) => checkpoint::Saved::read(vfs, path, &fingerprint)?,
            None => None,
        };
        let normalise = settings.metric == Metric::Cosine;
        let (d, hidden) = (examples.dim(), settings.hidden);
        let mut rng = Rng::stream(settings.seed, 0x4ead);
        let mut head_start = |given: Option<&Head>| {
            given.cloned().unwrap_or_else(|| head::start(Array2::eye(d), hidden, normalise, &mut rng))
        };
        let heads = [head_start(start.map(|s| s.0)), head_start(start.map(|s| s.1))];
        let [wants_query, wants_document] = match settings.heads {
            HeadChoice::None => [false, false],
            HeadChoice::Query => [true, false],
            HeadChoice::Both => [true, true],
        };
        let mapped = |wanted: bool, head: &Head, x: &Array2<f32>| match wanted {
            true => head.apply_rows(x.view()),
            false => x.clone(),
        };
        let mapped_documents = mapped(wants_document, &heads[1], &examples.documents);
        let quantizer =
            train_quantizer(mapped_documents.view(), &start_spec(settings, mapped_documents.nrows()), watch)?;
        let rotation = quantizer.rotation().expect("asked for").to_owned();
        let rotate = |x: &Array2<f32>| blocked::nt(x.view(), rotation.view());
        let turned = |wanted: bool, head: &Head| wanted.then(|| head::rotated(head, rotation.view()));
        let turned = [turned(wants_query, &heads[0]), turned(wants_document, &heads[1])];
        let rotated_documents = rotate(&mapped_documents);
        drop(mapped_documents);
        let teacher_weight = if settings.method == Method::Distill { 1.0 } else { settings.teacher_weight };
        let mapped_queries = mapped(wants_query, &heads[0], &examples.queries);
        let rotated_queries = rotate(&mapped_queries);
        // With one head missing the plain side stays rotated; with it, steps take the plain vectors and map them.
        let queries = if wants_query { examples.queries.clone() } else { rotated_queries.clone() };
        let documents = if wants_document { examples.documents.clone() } else { rotated_documents.clone() };
        let nearest = match settings.method {
            Method::Distill => Some(find_nearest(examples, settings, &rotated_queries, &rotated_documents, watch)?),
            Method::Contrastive => None,
        };
        let model = start_model(settings, &quantizer, &rotated_documents, turned, teacher_weight);
        let teacher = (teacher_weight > 0.0).then_some((rotated_queries, rotated_documents));
        let mut trainer = Trainer {
            examples,
            settings,
            checkpoint,
            watch,
            fingerprint,
            positives: examples.positives(),
            nearest,
            rotation,
            queries,
            documents,
            teacher,
            best: Vec::new(),
            model,
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
        let lists = self.assign();
        let pairs = epoch_pairs(&self.examples.train, settings.seed, epoch as u64);
        let mut rng = Rng::stream(settings.seed, (1 << 32) + epoch as u64);
        let shape = settings.shape;
        let mut used = vec![0; shape.subspaces() * shape.codewords()];
        let (mut sum, mut steps) = (0f64, 0);
        for pairs in pairs.chunks(settings.batch) {
            self.watch.check()?;
            let began = Instant::now();
            let documents = self.documents.nrows();
            let more = negatives(pairs, self.nearest.as_ref(), settings.negatives, documents, &mut rng);
            let batch = Batch { draw: rng.next_u64(), ..Batch::new(pairs, more, &self.positives) };
            let teacher = self.teacher.as_ref().map_or((&self.queries, &self.documents), |(q, v)| (q, v));
            let inputs = Inputs { queries: &self.queries, documents: &self.documents, lists: &lists, teacher };
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
        self.reseeded += self.reseed(&used, &lists, &mut rng);
        Ok((sum / f64::from(steps.max(1))) as f32)
    }

    /// Moves codewords that nothing chose. The last epoch's rate is zero at its end, so moving still harms nothing.
    fn reseed(&mut self, used: &[u32], lists: &[ListId], rng: &mut Rng) -> usize {
        let Trainer { model, documents, .. } = self;
        let frozen = model.clone();
        model.reseed(used, || {
            let i = rng.below(documents.nrows() as u64) as usize;
            let one = documents.select(Axis(0), &[i]);
            let mapped = frozen.map_documents(&one).unwrap_or(one);
            let centroid = row(&frozen.centroids.value, lists[i] as usize);
            mapped.iter().zip(centroid).map(|(v, o)| v - o).collect()
        })
    }

    /// The list of every document, by the centroids as they are.
    fn assign(&self) -> Vec<ListId> {
        let mapped = self.model.map_documents(&self.documents);
        let documents = mapped.as_ref().unwrap_or(&self.documents);
        let coarse = Coarse::new(self.model.centroids.value.clone(), self.settings.metric);
        let mut lists = vec![0; documents.nrows()];
        let blocks = documents.axis_chunks_iter(Axis(0), BLOCK).into_par_iter();
        lists.par_chunks_mut(BLOCK).zip(blocks).for_each(|(lists, rows)| coarse.assign(rows, lists));
        lists
    }

    /// Measures the model on held-out queries and keeps it if it is the best so far.
    fn judge(&mut self, epoch: usize, loss: f32) {
        let quantizer = self.in_rotated_space();
        let mapped = self.model.map_documents(&self.documents);
        let decoded = decode_with_offsets(&quantizer, mapped.as_ref().unwrap_or(&self.documents));
        let valid = judged_pairs(self.examples, self.settings.seed);
        let inputs = select(self.queries.view(), valid.iter().map(|p| p.query));
        let queries = match &self.model.query_head {
            Some(head) => head.head().apply_rows(inputs.view()),
            None => inputs,
        };
        let own: Vec<u32> = valid.iter().map(|p| p.document).collect();
        let relevant: Vec<&[u32]> = valid.iter().map(|p| self.positives[p.query as usize].as_slice()).collect();
        let recall = recall_at(&ranks(with_ones(&queries).view(), decoded.view(), &own, &relevant), VALID_DEPTH);
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
        let quantizer = if self.settings.heads == HeadChoice::None {
            let centroids = blocked::nn(rotated.coarse().centroids(), self.rotation.view());
            let product = rotated.product().clone();
            Quantizer::new(self.settings.metric, centroids, Some(self.rotation), product)
        } else {
            let plain = || Head { linear: self.rotation.clone(), residual: None, normalise: false };
            let head = |trained: &Option<TrainedHead>| trained.as_ref().map_or_else(plain, TrainedHead::head);
            let code_query = Some(head(&self.model.query_head));
            let code_document = Some(head(&self.model.document_head));
            rotated.with_heads(Heads { code_query, code_document, ..Heads::default() })?
        };
        let gflops = if self.busy > 0.0 { self.flops as f64 / self.busy / 1e9 } else { 0.0 };
        Ok(TrainedCodes { quantizer, curve: self.curve, gflops, reseeded: self.reseeded })
    }

    fn resume(&mut self, saved: checkpoint::Saved) -> Result<()> {
        self.rotation = saved.rotation;
        (self.curve, self.step, self.reseeded) = (saved.curve, saved.step, saved.reseeded);
        self.model.list_weight = saved.list_weight;
        for (parameter, [value, mean, square]) in self.model.parameters().into_iter().zip(saved.parameters) {
            (parameter.value, parameter.mean, parameter.square) = (value, mean, square);
        }
        self.best = saved.best;
        self.watch.note(&format!("resumed after epoch {}", self.curve.len() - 1));
        Ok(())
    }
}

/// The first epoch with the highest recall.
fn best_epoch(curve: &[Epoch]) -> usize {
    let better = |best: usize, i: usize| if curve[i].recall > curve[best].recall { i } else { best };
    (1..curve.len()).fold(0, better)
}

/// Held-out pairs that recall is judged on: at most [`VALID_QUERIES`].
fn judged_pairs(examples: &Examples, seed: u64) -> Vec<super::Example> {
    let mut pairs = epoch_pairs(&examples.valid, seed, u64::MAX);
    pairs.truncate(VALID_QUERIES);
    pairs
}

fn start_spec(settings: &CodeTraining, rows: usize) -> QuantizerSpec {
    QuantizerSpec {
        metric: settings.metric,
        lists: settings.lists.min(rows),
        shape: settings.shape,
        opq: true,
        code_rows: 131_072,
        seed: settings.seed,
    }
}

fn start_model(
    settings: &CodeTraining,
    quantizer: &Quantizer,
    documents: &Array2<f32>,
    [query, document]: [Option<Head>; 2],
    teacher_weight: f32,
) -> Model {
    let d = documents.ncols();
    let rotation = quantizer.rotation().expect("asked for");
    let centroids = blocked::nt(quantizer.coarse().centroids(), rotation);
    let shape = settings.shape;
    let words = Array2::from_shape_vec((d, shape.codewords()), quantizer.product().codewords().to_vec());
    let words = words.expect("d x K codewords");
    let offsets = start_offsets(&words, shape);
    let rotated = Quantizer::new(settings.metric, centroids.clone(), None, quantizer.product().clone());
    let sampled: Vec<u32> = (0..documents.nrows() as u32).step_by(documents.nrows().div_ceil(4_096)).collect();
    let sampled = select(documents.view(), sampled);
    let error = mean_square(&(&decode_all(&rotated, &sampled) - &sampled)) * d as f32 / shape.subspaces() as f32;
    let temperature = (settings.choice_temperature * error).max(1e-9);
    let rate = |x: &Array2<f32>, units: f32| mean_square(x).sqrt() * units;
    let (word_rate, list_rate) = (rate(&words, settings.code_rate), rate(&centroids, settings.list_rate));
    let several = quantizer.coarse().lists() > 1;
    let trained = |head: Option<Head>| head.map(|h| TrainedHead::new(&h, settings.head_rate, settings.head_decay));
    Model {
        soft: SoftCodes { shape, dim: d, temperature },
        offsets: Parameter::new(offsets.clone(), rate(&offsets, settings.code_rate * OFFSET_RATE)),
        words: Parameter::new(words, word_rate),
        centroids: Parameter::new(centroids, if several { list_rate } else { 0.0 }),
        query_head: trained(query),
        document_head: trained(document),
        loss: LossSettings {
            score_temperature: settings.score_temperature,
            teacher_temperature: settings.teacher_temperature,
            teacher_weight,
            lists: several && settings.list_rate > 0.0,
            translation: settings.translation,
        },
        list_weight: None,
    }
}

/// `-|c|^2 / 2` of every codeword, M x K.
fn start_offsets(words: &Array2<f32>, shape: CodeShape) -> Array2<f32> {
    let mut offsets = Array2::zeros((shape.subspaces(), shape.codewords()));
    for m in 0..shape.subspaces() {
        for j in shape.dims(words.nrows(), m) {
            let row = words.row(j);
            offsets.row_mut(m).zip_mut_with(&row, |offset, w| *offset -= 0.5 * w * w);
        }
    }
    offsets
}

/// Every document, coded and decoded again; its offset stands in one more dimension, for queries that have 1 there.
fn decode_with_offsets(quantizer: &Quantizer, documents: &Array2<f32>) -> Array2<f32> {
    let kernels = Kernels::detect();
    let (n, d) = documents.dim();
    let mut out = Array2::zeros((n, d + 1));
    let blocks = documents.axis_chunks_iter(Axis(0), BLOCK).into_par_iter();
    out.axis_chunks_iter_mut(Axis(0), BLOCK).into_par_iter().zip(blocks).for_each(|(mut out, rows)| {
        let mut lists = vec![0; rows.nrows()];
        quantizer.coarse().assign(rows, &mut lists);
        let encoded = quantizer.encode(kernels, rows, &lists);
        let mut decoded = Array2::zeros(rows.dim());
        quantizer.decode(&encoded.codes, &lists, decoded.view_mut());
        out.slice_mut(s![.., ..d]).assign(&decoded);
        let codes = encoded.codes.chunks(quantizer.product().shape().bytes);
        out.column_mut(d).iter_mut().zip(codes).for_each(|(out, code)| *out = quantizer.product().offset(code));
    });
    out
}

/// `x` with a column of ones.
fn with_ones(x: &Array2<f32>) -> Array2<f32> {
    let mut out = Array2::ones((x.nrows(), x.ncols() + 1));
    out.slice_mut(s![.., ..x.ncols()]).assign(x);
    out
}

/// Every document, coded and decoded again.
fn decode_all(quantizer: &Quantizer, documents: &Array2<f32>) -> Array2<f32> {
    let kernels = Kernels::detect();
    let mut out = Array2::zeros(documents.dim());
    let blocks = documents.axis_chunks_iter(Axis(0), BLOCK).into_par_iter();
    out.axis_chunks_iter_mut(Axis(0), BLOCK).into_par_iter().zip(blocks).for_each(|(out, rows)| {
        let mut lists = vec![0; rows.nrows()];
        quantizer.coarse().assign(rows, &mut lists);
        let encoded = quantizer.encode(kernels, rows, &lists);
        quantizer.decode(&encoded.codes, &lists, out);
    });
    out
}

/// The nearest documents of every training query, without its own (the pair's document).
fn find_nearest(
    examples: &Examples,
    settings: &CodeTraining,
    queries: &Array2<f32>,
    documents: &Array2<f32>,
    watch: &dyn Watch,
) -> Result<Nearest> {
    let mut rows: Vec<u32> = examples.train.iter().map(|p| p.query).collect();
    rows.dedup();
    let own: HashMap<u32, u32> = examples.train.iter().map(|p| (p.query, p.document)).collect();
    let found =
        nearest(select(queries.view(), rows.iter().copied()).view(), documents.view(), settings.neighbours, watch)?;
    let by_query = rows
        .iter()
        .zip(found)
        .map(|(&query, near)| (query, near.into_iter().filter(|document| Some(document) != own.get(&query)).collect()));
    Ok(Nearest { by_query: by_query.collect() })
}
