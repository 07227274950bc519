//! The trained parts of stage 1, and one step of their training.
//!
//! Everything happens in the rotated space: queries and documents come in rotated (or through heads into which the rotation is
//! folded), so a document `v` in list `o` is coded as `o + PQ(v - o)`.

use ndarray::{Array2, Axis};
use rayon::prelude::*;
use std::borrow::Cow;

use super::super::batch::Batch;
use super::super::examples::select;
use super::super::head::{Pass, TrainedHead};
use super::super::loss::{MASKED, info_nce, list_net, softmax_rows};
use super::super::optimiser::Parameter;
use super::super::soft::{Codebook, Gradients, SoftCodes, Upstream};
use crate::linalg::{blocked, norm2};
use crate::sample::Rng;
use crate::types::ListId;

/// What trains.
#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) soft: SoftCodes,
    /// d x K.
    pub(super) words: Parameter,
    /// M x K: what a codeword adds to the score of every document that chooses it.
    pub(super) offsets: Parameter,
    /// L x d.
    pub(super) centroids: Parameter,
    pub(super) query_head: Option<TrainedHead>,
    pub(super) document_head: Option<TrainedHead>,
    pub(super) loss: LossSettings,
    /// Weight of the list scores' loss; None before the first step has set it.
    pub(super) list_weight: Option<f32>,
}

/// How the loss is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct LossSettings {
    pub(super) score_temperature: f32,
    pub(super) teacher_temperature: f32,
    /// Share of the teacher in the targets.
    pub(super) teacher_weight: f32,
    /// Whether lists are scored, too.
    pub(super) lists: bool,
    /// Length of the vector that a pair is moved by.
    pub(super) translation: f32,
}

/// Vectors that a step draws from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) queries: &'a Array2<f32>,
    pub(super) documents: &'a Array2<f32>,
    /// The list of every document.
    pub(super) lists: &'a [ListId],
    /// Queries and documents whose inner products teach.
    pub(super) teacher: (&'a Array2<f32>, &'a Array2<f32>),
}

/// The vectors of a batch, on the way forward.
struct Forward {
    query_input: Array2<f32>,
    query_pass: Option<Pass>,
    document_input: Array2<f32>,
    document_pass: Option<Pass>,
}

/// Which gradients [`Model::flow`] returns.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) queries: bool,
    pub(super) documents: bool,
}

/// What a batch came to.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) loss: f32,
    /// The gradient at the queries, B x d.
    pub(super) queries: Option<Array2<f32>>,
    /// The gradient at the documents, columns x d; of no use where it was not wanted.
    pub(super) documents: Array2<f32>,
}

impl Forward {
    fn queries(&self) -> &Array2<f32> {
        self.query_pass.as_ref().map_or(&self.query_input, |pass| &pass.output)
    }

    fn documents(&self) -> &Array2<f32> {
        self.document_pass.as_ref().map_or(&self.document_input, |pass| &pass.output)
    }
}

impl Model {
    /// All parameters, always in the same order.
    pub(super) fn parameters(&mut self) -> Vec<&mut Parameter> {
        let mut all = vec![&mut self.words, &mut self.offsets, &mut self.centroids];
        for head in [&mut self.query_head, &mut self.document_head].into_iter().flatten() {
            all.extend(head.parameters());
        }
        all
    }

    /// Adds the gradients of one batch; returns its loss. `used` counts how often each codeword was chosen, subspace after
    /// subspace.
    pub(super) fn step(&mut self, inputs: &Inputs<'_>, batch: &Batch, used: &mut [u32]) -> f32 {
        let forward = self.forward(inputs, batch);
        let (q, v) = (forward.queries(), forward.documents());
        let lists: Vec<u32> = batch.columns.iter().map(|&c| inputs.lists[c as usize]).collect();
        let targets = self.targets(inputs, batch);
        let wanted = Wanted { queries: forward.query_pass.is_some(), documents: self.document_head.is_some() };
        let flow = self.flow((q, v), &lists, batch, targets.as_ref(), wanted, used);
        if let (Some(head), Some(pass)) = (&mut self.document_head, &forward.document_pass) {
            head.backward(forward.document_input.view(), pass, flow.documents);
        }
        if let (Some(head), Some(pass), Some(dq)) = (&mut self.query_head, &forward.query_pass, flow.queries) {
            head.backward(forward.query_input.view(), pass, dq);
        }
        flow.loss
    }

    /// Adds the gradients of lists and codes for one batch of queries `q` and documents `v` in lists `lists`; returns those at
    /// the queries and documents for whoever made them.
    pub(super) fn flow(
        &mut self,
        (q, v): (&Array2<f32>, &Array2<f32>),
        lists: &[ListId],
        batch: &Batch,
        targets: Option<&Array2<f32>>,
        wanted: Wanted,
        used: &mut [u32],
    ) -> Flow {
        let o = select(self.centroids.value.view(), lists.iter().copied());
        let u = v - &o;
        let mut z = o.clone();
        let choice = self.soft.forward(&self.words.value, u.view(), &mut z);
        for (m, used) in used.chunks_mut(self.soft.shape.codewords()).enumerate() {
            choice.chosen(m).iter().for_each(|&k| used[k as usize] += 1);
        }

        let tau = self.loss.score_temperature;
        let offsets = choice.offsets(&self.offsets.value);
        let (loss, g) = self.loss_of(q, &z, Some(&offsets), batch, targets);
        let at_sums: Vec<f32> = (g.sum_axis(Axis(0)) / tau).to_vec();
        let mut dz = Array2::zeros(z.dim());
        blocked::add_tn(&mut dz, 1.0 / tau, g.view(), q.view());
        let mut dq = wanted.queries.then(|| blocked::nn(g.view(), z.view()) / tau);
        drop(g);
        let mut d_lists = Array2::zeros(o.dim());
        if self.loss.lists {
            let (list_loss, mut g) = self.loss_of(q, &o, None, batch, targets);
            let weight = *self.list_weight.get_or_insert(if list_loss > 0.0 { loss / list_loss } else { 0.0 });
            g *= weight;
            blocked::add_tn(&mut d_lists, 1.0 / tau, g.view(), q.view());
            if let Some(dq) = &mut dq {
                *dq += &(blocked::nn(g.view(), o.view()) / tau);
            }
        }

        let wants_u = wanted.documents || self.centroids.rate > 0.0;
        let mut du = Array2::zeros(if wants_u { u.dim() } else { (0, 0) });
        let book = Codebook { words: &self.words.value, offsets: &self.offsets.value };
        let gradients = Gradients {
            words: &mut self.words.gradient,
            offsets: &mut self.offsets.gradient,
            residuals: wants_u.then_some(&mut du),
        };
        self.soft.backward(book, u.view(), choice, Upstream { decoded: dz.view(), offsets: &at_sums }, gradients);
        if self.centroids.rate > 0.0 {
            d_lists += &(&dz - &du);
            for (row, &list) in d_lists.rows().into_iter().zip(lists) {
                let mut target = self.centroids.gradient.row_mut(list as usize);
                target += &row;
            }
        }
        Flow { loss, queries: dq, documents: du }
    }

    fn forward(&self, inputs: &Inputs<'_>, batch: &Batch) -> Forward {
        let mut query_input = select(inputs.queries.view(), batch.queries.iter().copied());
        let mut document_input = select(inputs.documents.view(), batch.columns.iter().copied());
        if self.loss.translation > 0.0 {
            self.translate(&mut query_input, &mut document_input, batch);
        }
        let query_pass = self.query_head.as_ref().map(|head| head.forward(query_input.view()));
        let document_pass = self.document_head.as_ref().map(|head| head.forward(document_input.view()));
        Forward { query_input, query_pass, document_input, document_pass }
    }

    /// Moves every query and its own document by one random vector, and back to their lengths.
    fn translate(&self, queries: &mut Array2<f32>, documents: &mut Array2<f32>, batch: &Batch) {
        let d = queries.ncols();
        let scale = self.loss.translation / (d as f32).sqrt();
        let rows = queries.axis_iter_mut(Axis(0)).into_par_iter().zip(documents.axis_iter_mut(Axis(0)).into_par_iter());
        rows.enumerate().for_each(|(i, (mut query, mut document))| {
            let mut rng = Rng::stream(batch.draw, i as u64);
            let by: Vec<f32> = (0..d).map(|_| rng.normal() * scale).collect();
            for row in [&mut query, &mut document] {
                let row = row.as_slice_mut().expect("C order");
                let length = norm2(row).sqrt();
                row.iter_mut().zip(&by).for_each(|(v, by)| *v += by);
                let longer = norm2(row).sqrt().max(f32::MIN_POSITIVE);
                row.iter_mut().for_each(|v| *v *= length / longer);
            }
        });
    }

    /// The distribution over the columns that each query should have; None: all on its own document.
    fn targets(&self, inputs: &Inputs<'_>, batch: &Batch) -> Option<Array2<f32>> {
        let weight = self.loss.teacher_weight;
        if weight == 0.0 {
            return None;
        }
        let q = select(inputs.teacher.0.view(), batch.queries.iter().copied());
        let v = select(inputs.teacher.1.view(), batch.columns.iter().copied());
        let mut targets = blocked::nt(q.view(), v.view()) / self.loss.teacher_temperature;
        batch.masked.iter().for_each(|&at| targets[at] = MASKED);
        softmax_rows(&mut targets);
        if weight < 1.0 {
            targets *= weight;
            batch.own.iter().enumerate().for_each(|(row, &own)| targets[[row, own]] += 1.0 - weight);
        }
        Some(targets)
    }

    /// The loss of the scores of `q` (B x d) against `z` (columns x d) with their offsets, and its gradient with respect to the scaled scores.
    fn loss_of(
        &self,
        q: &Array2<f32>,
        z: &Array2<f32>,
        offsets: Option<&[f32]>,
        batch: &Batch,
        targets: Option<&Array2<f32>>,
    ) -> (f32, Array2<f32>) {
        let mut scores = blocked::nt(q.view(), z.view());
        if let Some(offsets) = offsets {
            scores += &ndarray::aview1(offsets);
        }
        scores /= self.loss.score_temperature;
        batch.masked.iter().for_each(|&at| scores[at] = MASKED);
        let loss = match targets {
            None => info_nce(&mut scores, &batch.own),
            Some(targets) => list_net(&mut scores, targets.view()),
        };
        (loss, scores)
    }

    /// Documents as the codes meet them: mapped by the head, if there is one.
    pub(super) fn map_documents<'x>(&self, documents: &'x Array2<f32>) -> Cow<'x, Array2<f32>> {
        match &self.document_head {
            Some(head) => Cow::Owned(head.head().apply_rows(documents.view())),
            None => Cow::Borrowed(documents),
        }
    }

    /// Codewords that no document of the last epoch chose move to where documents are: the residuals of random documents,
    /// a codeword each. Returns how many moved.
    pub(super) fn reseed(&mut self, used: &[u32], mut residual: impl FnMut() -> Vec<f32>) -> usize {
        let shape = self.soft.shape;
        let k = shape.codewords();
        let mut moved = 0;
        for m in 0..shape.subspaces() {
            for (word, _) in used[m * k..][..k].iter().enumerate().filter(|(_, n)| **n == 0) {
                let residual = residual();
                let dims = shape.dims(self.soft.dim, m);
                self.offsets.value[[m, word]] = -0.5 * norm2(&residual[dims.clone()]);
                self.offsets.forget((m, word));
                for j in dims {
                    self.words.value[[j, word]] = residual[j];
                    self.words.forget((j, word));
                }
                moved += 1;
            }
        }
        moved
    }

    /// Floating-point operations of a step.
    pub(super) fn flops(&self, batch: &Batch) -> u64 {
        let (rows, columns, d) = (batch.queries.len(), batch.columns.len(), self.soft.dim);
        let product = 2 * (rows * columns * d) as u64;
        let scores = 2 + u64::from(self.query_head.is_some());
        let teacher = u64::from(self.loss.teacher_weight > 0.0);
        let scored = product * (scores * (1 + u64::from(self.loss.lists)) + teacher);
        let heads = self.query_head.as_ref().map_or(0, |h| h.flops(rows))
            + self.document_head.as_ref().map_or(0, |h| h.flops(columns));
        scored + heads + self.soft.flops(columns, self.document_head.is_some() || self.centroids.rate > 0.0)
    }
}

/// Mean over all elements of the square.
pub(super) fn mean_square(x: &Array2<f32>) -> f32 {
    (x.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>() / x.len().max(1) as f64) as f32
}

/// The row of `x` as a vector.
pub(super) fn row(x: &Array2<f32>, i: usize) -> Vec<f32> {
    x.index_axis(Axis(0), i).to_vec()
}
