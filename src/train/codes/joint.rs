//! Stage 1 with the encoder in it: codes and a static text encoder learn together.
//!
//! The start is that of the codes alone (lists, rotation and codebooks of OPQ over the documents as the encoder has them); the
//! rotation is folded into the encoder's projection, so that the quantizer needs none. Then every batch of texts is encoded,
//! coded and scored, and the gradient of the quantized scores goes on through the codes (by the softmax of the choice, see
//! [`super::super::soft`]) into the token table: documents move to where codes can tell them apart, queries towards what the codes
//! say. Beside it stands the loss of full-precision scores, with a weight of its own: the same encoder's vectors verify what the
//! codes return, until stage 2 has trained others for that.

use ndarray::Array2;
use std::time::Instant;

use super::super::Watch;
use super::super::batch::{Batch, epoch_pairs};
use super::super::examples::Examples;
use super::super::loss::{MASKED, info_nce};
use super::super::optimiser::{Schedule, check_divergence};
use super::super::text::{StaticModel, TextExamples, TextParameters, TextTraining};
use super::super::validate::{ranks, recall_at};
use super::model::{Model, Wanted, row};
use super::start::Start;
use super::{CodeTraining, Epoch, HeadChoice, Method, VALID_DEPTH, best_epoch};
use crate::error::{Error, Result};
use crate::heads::Heads;
use crate::linalg::blocked;
use crate::quantizer::{Product, Quantizer, Reconstruction};
use crate::sample::Rng;
use crate::types::Metric;

/// What the training of codes and encoder together made.
#[derive(Debug)]
pub struct CodesAndText {
    /// The encoder of the best epoch.
    pub model: StaticModel,
    /// Lists and codes over its vectors; without rotation or heads.
    pub quantizer: Quantizer,
    /// All epochs.
    pub curve: Vec<Epoch>,
    /// Codewords that were moved because no document chose them.
    pub reseeded: usize,
}

/// Trains lists, codes and the encoder together, from `start` on. Of the settings of codes all but heads, teacher and translation
/// count; of those of texts the learning rates and the dropout. `dense_weight` is that of the full-precision loss.
///
/// # Errors
/// `InvalidParams` for settings or examples, `Unsupported` for another method than contrastive, heads or another metric than
/// cosine, `Diverged`, what `watch` stops with.
pub fn train_codes_and_text(
    start: &StaticModel,
    examples: &TextExamples,
    codes: &CodeTraining,
    text: &TextTraining,
    dense_weight: f32,
    watch: &dyn Watch,
) -> Result<CodesAndText> {
    check_codes_and_text(codes, text, dense_weight)?;
    examples.check(start.table.nrows())?;
    let mut trainer = Joint::new(start, examples, (codes, text, dense_weight), watch)?;
    trainer.run()?;
    trainer.finish()
}

/// Refuses settings that [`train_codes_and_text`] would refuse.
///
/// # Errors
/// `InvalidParams`; `Unsupported` for another method than contrastive, heads or another metric than cosine.
pub fn check_codes_and_text(codes: &CodeTraining, text: &TextTraining, dense_weight: f32) -> Result<()> {
    codes.check()?;
    text.check()?;
    if codes.method != Method::Contrastive || codes.heads != HeadChoice::None || codes.metric != Metric::Cosine {
        return Err(Error::Unsupported {
            what: format!(
                "method {}, heads {} and metric {} with an encoder that is trained along",
                codes.method, codes.heads, codes.metric
            ),
            remedy: "train contrastively, without heads, under cosine".into(),
        });
    }
    if !(0.0..=f32::MAX).contains(&dense_weight) {
        return Err(Error::params("dense_weight", format!("{dense_weight}; it must be 0 or more")));
    }
    Ok(())
}

/// All that is trained.
#[derive(Clone)]
struct Parts {
    model: Model,
    encoder: TextParameters,
}

struct Joint<'a> {
    examples: &'a TextExamples,
    codes: &'a CodeTraining,
    text: &'a TextTraining,
    dense_weight: f32,
    watch: &'a dyn Watch,
    /// The pairs, without vectors.
    labels: Examples,
    positives: Vec<Vec<u32>>,
    groups: Vec<u32>,
    parts: Parts,
    best: Parts,
    /// The list of every document, by encoder and centroids as they were after the last epoch.
    lists: Vec<u32>,
    curve: Vec<Epoch>,
    reseeded: usize,
    step: u64,
    began: Instant,
}

impl<'a> Joint<'a> {
    fn new(
        start: &StaticModel,
        examples: &'a TextExamples,
        (codes, text, dense_weight): (&'a CodeTraining, &'a TextTraining, f32),
        watch: &'a dyn Watch,
    ) -> Result<Joint<'a>> {
        let began = Instant::now();
        let encoded = examples.encoded(start);
        let (model, groups, rotated) = {
            let begin = Start::new(&encoded, codes, &Heads::default(), watch)?;
            let projection = blocked::nn(begin.rotation.view(), start.projection.view());
            let groups = begin.quantizer.coarse().group_starts().to_vec();
            (begin.model(codes), groups, StaticModel { projection, ..start.clone() })
        };
        let parts = Parts { model, encoder: TextParameters::new(&rotated, text.table_rate, text.projection_rate) };
        let nothing = |x: &Array2<f32>| Array2::zeros((x.nrows(), 1));
        let labels = Examples { documents: nothing(&encoded.documents), queries: nothing(&encoded.queries), ..encoded };
        let mut joint = Joint {
            examples,
            codes,
            text,
            dense_weight,
            watch,
            positives: labels.positives(),
            labels,
            groups,
            best: parts.clone(),
            parts,
            lists: Vec::new(),
            curve: Vec::new(),
            reseeded: 0,
            step: 0,
            began,
        };
        joint.judge(0, 0.0);
        Ok(joint)
    }

    fn run(&mut self) -> Result<()> {
        let codes = self.codes;
        let per_epoch = epoch_pairs(&self.labels.train, 0, 0).len().div_ceil(codes.batch) as u64;
        let total = per_epoch * codes.epochs as u64;
        let schedule = Schedule { warmup: ((total as f32 * codes.warmup) as u64).max(1), total, clip: codes.clip };
        self.watch.begin("train codes and encoder", total);
        for epoch in 1..=codes.epochs {
            let loss = self.epoch(epoch, &schedule)?;
            self.judge(epoch, loss);
            if self.curve.len() - 1 - best_epoch(&self.curve) >= codes.patience {
                break;
            }
        }
        Ok(())
    }

    fn epoch(&mut self, epoch: usize, schedule: &Schedule) -> Result<f32> {
        let codes = self.codes;
        let pairs = epoch_pairs(&self.labels.train, codes.seed, epoch as u64);
        let mut rng = Rng::stream(codes.seed, (5 << 32) + epoch as u64);
        let mut used = vec![0; codes.shape.subspaces() * codes.shape.codewords()];
        let documents = self.examples.documents.len() as u64;
        let (mut sum, mut steps) = (0f64, 0);
        for pairs in pairs.chunks(codes.batch) {
            self.watch.check()?;
            let more = (0..codes.negatives).map(|_| rng.below(documents) as u32).collect();
            let batch = Batch::new(pairs, more, &self.positives);
            let loss = self.batch(&batch, &mut rng, &mut used);
            let Parts { model, encoder } = &mut self.parts;
            let TextParameters { table, projection, .. } = encoder;
            let mut dense = model.parameters();
            dense.push(projection);
            let norm = schedule.step_with(self.step, &mut dense, table);
            check_divergence(self.step, loss, norm, batch.columns.len())?;
            (sum, steps, self.step) = (sum + f64::from(loss), steps + 1, self.step + 1);
            self.watch.advance(1);
        }
        self.reseeded += self.reseed(&used, &mut rng);
        Ok((sum / f64::from(steps.max(1))) as f32)
    }

    /// Adds the gradients of a batch; returns the loss of the codes.
    fn batch(&mut self, batch: &Batch, rng: &mut Rng, used: &mut [u32]) -> f32 {
        let (examples, dropout) = (self.examples, self.text.dropout);
        let Parts { model, encoder } = &mut self.parts;
        let queries = examples.queries.select(batch.queries.iter().copied(), dropout, rng);
        let documents = examples.documents.select(batch.columns.iter().copied(), dropout, rng);
        let (q, v) = (encoder.forward(&queries), encoder.forward(&documents));
        let lists: Vec<u32> = batch.columns.iter().map(|&c| self.lists[c as usize]).collect();
        let wanted = Wanted { queries: true, documents: true };
        let flow = model.flow((&q.output, &v.output), &lists, batch, None, wanted, used);
        let (mut dq, mut dv) = (flow.queries.expect("it was wanted"), flow.documents);
        if self.dense_weight > 0.0 {
            let tau = self.text.temperature;
            let mut g = blocked::nt(q.output.view(), v.output.view()) / tau;
            batch.masked.iter().for_each(|&at| g[at] = MASKED);
            info_nce(&mut g, &batch.own);
            g *= self.dense_weight / tau;
            dq += &blocked::nn(g.view(), v.output.view());
            blocked::add_tn(&mut dv, 1.0, g.view(), q.output.view());
        }
        encoder.backward(&queries, &q, dq);
        encoder.backward(&documents, &v, dv);
        flow.loss
    }

    /// Moves codewords that nothing chose to the residuals of random documents.
    fn reseed(&mut self, used: &[u32], rng: &mut Rng) -> usize {
        let (examples, lists) = (self.examples, &self.lists);
        let encoder = self.parts.encoder.model();
        let centroids = self.parts.model.centroids.value.clone();
        self.parts.model.reseed(used, || {
            let i = rng.below(examples.documents.len() as u64) as u32;
            let one = encoder.encode(&examples.documents.select([i].into_iter(), 0.0, &mut Rng::new(0)));
            one.iter().zip(row(&centroids, lists[i as usize] as usize)).map(|(v, o)| v - o).collect()
        })
    }

    /// Encodes and assigns every document anew, measures on held-out queries, and keeps what is the best so far.
    fn judge(&mut self, epoch: usize, loss: f32) {
        let encoder = self.parts.encoder.model();
        let seen: Reconstruction =
            self.parts.quantizer(self.codes).reconstruct(encoder.encode(&self.examples.documents).view());
        let valid = self.labels.judged(self.codes.seed);
        let mut rng = Rng::new(0);
        let queries = encoder.encode(&self.examples.queries.select(valid.iter().map(|p| p.query), 0.0, &mut rng));
        let own: Vec<u32> = valid.iter().map(|p| p.document).collect();
        let relevant: Vec<&[u32]> = valid.iter().map(|p| self.positives[p.query as usize].as_slice()).collect();
        let recall =
            recall_at(&ranks(queries.view(), seen.vectors.view(), &seen.offsets, &own, &relevant), VALID_DEPTH);
        self.lists = seen.lists;
        self.curve.push(Epoch { epoch, loss, recall, seconds: self.began.elapsed().as_secs_f64() });
        if best_epoch(&self.curve) + 1 == self.curve.len() {
            self.best = self.parts.clone();
        }
        self.watch.note(&format!("epoch {epoch}: loss {loss:.3}, validation R@{VALID_DEPTH} {:.2} %", recall * 100.0));
    }

    fn finish(self) -> Result<CodesAndText> {
        let quantizer = self.best.quantizer(self.codes).with_groups(self.groups)?;
        Ok(CodesAndText { model: self.best.encoder.model(), quantizer, curve: self.curve, reseeded: self.reseeded })
    }
}

impl Parts {
    /// Lists and codes over the encoder's vectors.
    fn quantizer(&self, codes: &CodeTraining) -> Quantizer {
        let words = self.model.words.value.as_slice().expect("C order").to_vec();
        let offsets = self.model.offsets.value.as_slice().expect("C order").to_vec();
        let product = Product::new(codes.shape, self.model.soft.dim, words).with_offsets(offsets);
        Quantizer::new(codes.metric, self.model.centroids.value.clone(), None, product)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantizer::CodeShape;
    use crate::simd::CodeBits;
    use crate::train::text::Texts;
    use crate::train::{Example, Silent};

    /// Token `t` of a query is token `t + 60` of its document; both hold noise that is not in the other.
    fn noisy(n: u32) -> TextExamples {
        let mut rng = Rng::new(11);
        let (mut queries, mut documents) = (Vec::new(), Vec::new());
        for _ in 0..n {
            let words: Vec<u32> = (0..3).map(|_| rng.below(60) as u32).collect();
            let noise: Vec<u32> = (0..3).map(|_| 120 + rng.below(30) as u32).collect();
            documents.push(words.iter().map(|w| w + 60).chain(noise).collect::<Vec<_>>());
            queries.push(words);
        }
        let pair = |i: u32| Example { query: i, document: i };
        let held = n * 4 / 5;
        TextExamples {
            queries: Texts::new(&queries),
            documents: Texts::new(&documents),
            train: (0..held).map(pair).collect(),
            valid: (held..n).map(pair).collect(),
            known: Vec::new(),
        }
    }

    fn settings() -> (CodeTraining, TextTraining) {
        let shape = CodeShape { bits: CodeBits::Four, bytes: 2 };
        let codes = CodeTraining {
            epochs: 8,
            batch: 128,
            patience: 8,
            score_temperature: 0.1,
            ..CodeTraining::new(Method::Contrastive, Metric::Cosine, 4, shape)
        };
        (codes, TextTraining { table_rate: 0.05, ..TextTraining::default() })
    }

    #[test]
    fn codes_and_encoder_together_find_more_than_they_started_with() {
        let examples = noisy(1200);
        let start = StaticModel::random(vec![1.0; 150], 16, 16, 3).unwrap();
        let (codes, text) = settings();
        let made = train_codes_and_text(&start, &examples, &codes, &text, 1.0, &Silent).unwrap();
        let best = made.curve.iter().fold(0f32, |best, e| best.max(e.recall));
        assert!(made.curve[0].recall < 0.25 && best > 0.6, "{:?}", made.curve);
        assert!(made.quantizer.rotation().is_none() && made.model.dim() == made.quantizer.code_dim());
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let again = one.install(|| train_codes_and_text(&start, &examples, &codes, &text, 1.0, &Silent)).unwrap();
        assert_eq!(made.model, again.model);
        assert_eq!(made.quantizer.fingerprint(), again.quantizer.fingerprint());
    }

    /// What reaches the table through smooth codes is the gradient of their loss. The choice itself is taken as settled, by
    /// codewords that are all zero: then the decoded vector is the centroid whatever is chosen, and queries alone move the loss.
    #[test]
    fn gradients_at_the_table_are_those_of_finite_differences() {
        let examples = noisy(60);
        let start = StaticModel::random(vec![1.0; 150], 8, 8, 3).unwrap();
        let (codes, text) = settings();
        let text = TextTraining { dropout: 0.0, ..text };
        let mut joint = Joint::new(&start, &examples, (&codes, &text, 0.0), &Silent).unwrap();
        joint.parts.model.words.value.fill(0.0);
        joint.parts.model.offsets.value.fill(0.0);
        joint.parts.model.loss.lists = false;
        let batch = Batch::new(&examples.train[..20], vec![41, 42], &joint.positives);
        let mut used = vec![0; codes.shape.subspaces() * codes.shape.codewords()];
        joint.batch(&batch, &mut Rng::new(1), &mut used);
        let gradient = joint.parts.encoder.table.gradient().clone();
        let mut checked = 0;
        for (at, &analytic) in gradient.indexed_iter().filter(|(_, g)| g.abs() > 0.02).take(40) {
            let mut loss = |by: f32| {
                joint.parts.encoder.table.value[at] += by;
                let loss = f64::from(joint.batch(&batch, &mut Rng::new(1), &mut used));
                joint.parts.encoder.table.value[at] -= by;
                loss
            };
            let numeric = (loss(4e-3) - loss(-4e-3)) / 8e-3;
            assert!(
                (numeric - f64::from(analytic)).abs() < 0.03 * (0.1 + analytic.abs() as f64),
                "{at:?}: {numeric} {analytic}"
            );
            checked += 1;
        }
        assert!(checked > 20, "{checked}");
    }

    /// InfoNCE of full-precision scores over a batch, by its definition.
    fn dense_loss(joint: &Joint<'_>, batch: &Batch) -> f64 {
        let encoder = joint.parts.encoder.model();
        let encode = |texts: &Texts, rows: &[u32]| {
            encoder.encode(&texts.select(rows.iter().copied(), 0.0, &mut Rng::new(1))).mapv(f64::from)
        };
        let q = encode(&joint.examples.queries, &batch.queries);
        let scores = q.dot(&encode(&joint.examples.documents, &batch.columns).t()) / f64::from(joint.text.temperature);
        let of_row = |row: usize| -> f64 {
            let left = (0..batch.columns.len()).filter(|&column| !batch.masked.contains(&(row, column)));
            left.map(|column| scores[[row, column]].exp()).sum::<f64>().ln() - scores[[row, batch.own[row]]]
        };
        (0..batch.queries.len()).map(of_row).sum::<f64>() / batch.queries.len() as f64
    }

    /// Where codewords and centroids are all zero, codes give every document the same score whatever the encoder does: what reaches
    /// the table is the gradient of full-precision scores alone, by queries and by documents.
    #[test]
    fn full_precision_scores_reach_the_table_with_their_weight() {
        let examples = noisy(60);
        let start = StaticModel::random(vec![1.0; 150], 8, 8, 3).unwrap();
        let (codes, text) = settings();
        let (weight, text) = (0.7, TextTraining { dropout: 0.0, temperature: 0.3, ..text });
        let mut joint = Joint::new(&start, &examples, (&codes, &text, weight), &Silent).unwrap();
        joint.parts.model.words.value.fill(0.0);
        joint.parts.model.offsets.value.fill(0.0);
        joint.parts.model.centroids.value.fill(0.0);
        joint.parts.model.loss.lists = false;
        let batch = Batch::new(&examples.train[..20], vec![41, 42], &joint.positives);
        let mut used = vec![0; codes.shape.subspaces() * codes.shape.codewords()];
        joint.batch(&batch, &mut Rng::new(1), &mut used);
        let gradient = joint.parts.encoder.table.gradient().clone();
        let (mut of_queries, mut of_documents) = (0, 0);
        for (at, &analytic) in gradient.indexed_iter().filter(|(_, g)| g.abs() > 0.01) {
            let mut loss = |by: f32| {
                joint.parts.encoder.table.value[at] += by;
                let loss = dense_loss(&joint, &batch);
                joint.parts.encoder.table.value[at] -= by;
                loss * f64::from(weight)
            };
            let numeric = (loss(4e-3) - loss(-4e-3)) / 8e-3;
            let wrong = (numeric - f64::from(analytic)).abs();
            assert!(wrong < 0.03 * (0.1 + f64::from(analytic.abs())), "{at:?}: {numeric} {analytic}");
            if at.0 < 60 { of_queries += 1 } else { of_documents += 1 }
        }
        assert!(of_queries > 20 && of_documents > 20, "{of_queries} {of_documents}");
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let examples = noisy(100);
        let start = StaticModel::random(vec![1.0; 150], 8, 8, 3).unwrap();
        let (codes, text) = settings();
        let train = |codes: &CodeTraining, weight| {
            train_codes_and_text(&start, &examples, codes, &text, weight, &Silent).unwrap_err().to_string()
        };
        assert!(train(&CodeTraining { method: Method::Distill, ..codes.clone() }, 1.0).contains("contrastively"));
        assert!(train(&codes, -1.0).contains("dense_weight"));
    }
}
