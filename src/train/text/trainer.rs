//! The loop: batches of pairs, of taught texts, or of both; the epoch with the best validation counts.

use ndarray::{Array2, Axis};
use std::time::Instant;

use super::super::Watch;
use super::super::batch::{Batch, epoch_pairs};
use super::super::codes::Epoch;
use super::super::examples::{Example, Examples, select};
use super::super::locality::{Candidates, Sampler, Sampling, Triple};
use super::super::loss::{MASKED, info_nce, list_net, softmax_rows};
use super::super::optimiser::{Schedule, check_divergence};
use super::super::validate::{ranks, recall_at};
use super::model::{StaticModel, TextParameters};
use super::{Teaching, TextExamples, TextTraining, Texts};
use crate::error::{Error, Result};
use crate::linalg::blocked;
use crate::sample::Rng;

/// Recall of validation looks this deep.
const VALID_DEPTH: u32 = 10;
/// One of so many taught texts is held out, where there are no pairs to choose by.
const HELD_OUT: u64 = 50;

/// What an encoder learns from: pairs, a teacher's vectors, or both.
#[derive(Debug, Clone, Copy, Default)]
pub struct TextLessons<'a> {
    /// Queries and their documents.
    pub pairs: Option<&'a TextExamples>,
    /// What an index returns for the queries: hard negatives, and what validation re-ranks.
    pub candidates: Option<&'a Candidates>,
    /// Texts with the vectors that they should have.
    pub teaching: Option<&'a Teaching>,
}

/// Trains a static encoder from `start` on. Returns the model of the best epoch, and all epochs: their recall is that of held-out
/// queries at 10 (over all documents, or among the candidates); without pairs the mean cosine with the teacher's vectors of
/// held-out texts.
///
/// # Errors
/// `InvalidParams` for settings, or where there is nothing to learn from; `Mismatch` for vectors of another dimension;
/// `Diverged`; what `watch` stops with.
pub fn train_text(
    start: &StaticModel,
    lessons: TextLessons<'_>,
    settings: &TextTraining,
    watch: &dyn Watch,
) -> Result<(StaticModel, Vec<Epoch>)> {
    settings.check()?;
    if let Some(pairs) = lessons.pairs {
        pairs.check(start.table.nrows())?;
    }
    if let Some(teaching) = lessons.teaching {
        teaching.check(start.table.nrows(), start.dim())?;
        let (found, least) = (teaching.texts.len(), 2 * HELD_OUT);
        if lessons.pairs.is_none() && (found as u64) < least {
            return Err(Error::params("texts", format!("{found} are too few to learn from; give {least} or more")));
        }
        if settings.distillation.weight() == 0.0 {
            return Err(Error::params("distillation", "cosine and order both weigh 0; give one of them a weight"));
        }
    } else if lessons.pairs.is_none() {
        return Err(Error::params("pairs", "there are none, and no vectors of a teacher either; give one of them"));
    }
    if settings.sampling != Sampling::Random && lessons.candidates.is_none() {
        return Err(Error::params("sampling", "it needs the candidates of every query; search them, or use random"));
    }
    Training::new(start, lessons, settings, watch)?.run()
}

/// Numbers of the texts that are learned from, and of those that are held out. Texts with the same tokens stay together, and which
/// are held out does not depend on the seed: runs over seeds are then judged alike.
fn hold_out(texts: &Texts) -> [Vec<u32>; 2] {
    let of = |i: u32| {
        let hash = blake3::hash(bytemuck::cast_slice(texts.tokens(i as usize)));
        u64::from_le_bytes(*hash.as_bytes().first_chunk().expect("32 bytes"))
    };
    let hashes: Vec<u64> = (0..texts.len() as u32).map(of).collect();
    // The first one, so that there is always something to judge by.
    let least = hashes.iter().copied().min();
    let held = |i: &u32| {
        let hash = hashes[*i as usize];
        hash.is_multiple_of(HELD_OUT) || Some(hash) == least
    };
    let (valid, train) = (0..texts.len() as u32).partition(held);
    [train, valid]
}

struct Training<'a> {
    lessons: TextLessons<'a>,
    settings: &'a TextTraining,
    watch: &'a dyn Watch,
    parameters: TextParameters,
    /// Labels of the pairs.
    labels: Examples,
    positives: Vec<Vec<u32>>,
    /// Taught texts that are learned from, and those that are held out.
    taught: [Vec<u32>; 2],
}

impl<'a> Training<'a> {
    fn new(
        start: &StaticModel,
        lessons: TextLessons<'a>,
        settings: &'a TextTraining,
        watch: &'a dyn Watch,
    ) -> Result<Self> {
        let nothing = Array2::zeros((0, 1));
        let none = Examples {
            documents: nothing.clone(),
            queries: nothing,
            train: Vec::new(),
            valid: Vec::new(),
            known: Vec::new(),
        };
        let labels = lessons.pairs.map_or(none, TextExamples::labels);
        let taught = match (lessons.teaching, lessons.pairs) {
            (Some(teaching), None) => hold_out(&teaching.texts),
            (Some(teaching), Some(_)) => [(0..teaching.texts.len() as u32).collect(), Vec::new()],
            (None, _) => Default::default(),
        };
        if lessons.teaching.is_some() && taught[0].is_empty() {
            return Err(Error::params("texts", "they are all one text to the encoder; give others, too"));
        }
        let parameters = TextParameters::new(start, settings.table_rate, settings.projection_rate);
        Ok(Training { positives: labels.positives(), lessons, settings, watch, parameters, labels, taught })
    }

    fn run(mut self) -> Result<(StaticModel, Vec<Epoch>)> {
        let (settings, began) = (self.settings, Instant::now());
        let per_epoch = match self.lessons.pairs {
            Some(_) => epoch_pairs(&self.labels.train, 0, 0).len(),
            None => self.taught[0].len(),
        }
        .div_ceil(settings.batch);
        let total = (per_epoch * settings.epochs) as u64;
        let warmup = ((total as f32 * settings.warmup) as u64).max(1);
        let schedule = Schedule { warmup, total, clip: settings.clip };
        self.watch.begin("train encoder", total);
        let mut curve = vec![Epoch { epoch: 0, loss: 0.0, recall: self.judge(), seconds: 0.0 }];
        let (mut best, mut best_at, mut step) = (self.parameters.model(), 0, 0);
        for epoch in 1..=settings.epochs {
            let loss = self.epoch(epoch as u64, &schedule, &mut step)?;
            let recall = self.judge();
            curve.push(Epoch { epoch, loss, recall, seconds: began.elapsed().as_secs_f64() });
            let what = if self.lessons.pairs.is_some() { "R@10" } else { "cosine" };
            self.watch.note(&format!("epoch {epoch}: loss {loss:.3}, validation {what} {:.2} %", recall * 100.0));
            if recall > curve[best_at].recall {
                (best, best_at) = (self.parameters.model(), epoch);
            } else if epoch - best_at >= settings.patience {
                break;
            }
        }
        Ok((best, curve))
    }

    /// One pass; the mean loss.
    fn epoch(&mut self, epoch: u64, schedule: &Schedule, step: &mut u64) -> Result<f32> {
        let settings = self.settings;
        let mut rng = Rng::stream(settings.seed, (3 << 32) + epoch);
        let none = Candidates::default();
        let candidates = self.lessons.candidates.unwrap_or(&none);
        let batches: Vec<Vec<Triple>> = match self.lessons.pairs {
            Some(pairs) => {
                let (train, documents) = (&self.labels.train, pairs.documents.len());
                let seed = settings.seed;
                Sampler::new(settings.sampling, candidates, train, documents, settings.batch, seed).epoch(
                    train,
                    &self.positives,
                    epoch,
                )
            }
            None => vec![Vec::new(); self.taught[0].len().div_ceil(settings.batch)],
        };
        rng.shuffle(&mut self.taught[0]);
        let mut taught = self.taught[0].clone().into_iter().cycle();
        let (mut sum, steps) = (0f64, batches.len());
        for triples in batches {
            self.watch.check()?;
            let (mut loss, mut weight, mut columns) = (0.0, 0.0, 2);
            if let Some(pairs) = self.lessons.pairs {
                let batch = self.batch(&triples, pairs.documents.len(), &mut rng);
                columns += batch.columns.len();
                loss += self.step_on_pairs(pairs, &batch, &mut rng);
                weight += 1.0;
            }
            if let Some(teaching) = self.lessons.teaching {
                let rows: Vec<u32> = taught.by_ref().take(settings.batch.min(self.taught[0].len())).collect();
                columns += rows.len();
                loss += self.step_on_teaching(teaching, &rows, &mut rng);
                weight += settings.distillation.weight();
            }
            let projection = &mut self.parameters.projection;
            let norm = schedule.step_with(*step, &mut [projection], &mut self.parameters.table);
            check_divergence(*step, loss / weight, norm, columns)?;
            (sum, *step) = (sum + f64::from(loss), *step + 1);
            self.watch.advance(1);
        }
        Ok((sum / steps.max(1) as f64) as f32)
    }

    /// The columns of a batch: positives, the triples' negatives where they are candidates, random documents.
    fn batch(&self, triples: &[Triple], documents: usize, rng: &mut Rng) -> Batch {
        let pairs: Vec<Example> = triples.iter().map(|t| t.pair).collect();
        let mut more = Vec::new();
        if self.settings.sampling != Sampling::Random {
            more.extend(triples.iter().map(|t| t.negative));
        }
        more.extend((0..self.settings.negatives).map(|_| rng.below(documents as u64) as u32));
        Batch::new(&pairs, more, &self.positives)
    }

    /// Adds the gradients of InfoNCE over a batch; returns its loss.
    fn step_on_pairs(&mut self, pairs: &TextExamples, batch: &Batch, rng: &mut Rng) -> f32 {
        let TextTraining { temperature: tau, dropout, .. } = *self.settings;
        let queries = pairs.queries.select(batch.queries.iter().copied(), dropout, rng);
        let documents = pairs.documents.select(batch.columns.iter().copied(), dropout, rng);
        let (q, v) = (self.parameters.forward(&queries), self.parameters.forward(&documents));
        let mut g = blocked::nt(q.output.view(), v.output.view()) / tau;
        batch.masked.iter().for_each(|&at| g[at] = MASKED);
        let loss = info_nce(&mut g, &batch.own);
        let dq = blocked::nn(g.view(), v.output.view()) / tau;
        let mut dv = Array2::zeros(v.output.dim());
        blocked::add_tn(&mut dv, 1.0 / tau, g.view(), q.output.view());
        self.parameters.backward(&queries, &q, dq);
        self.parameters.backward(&documents, &v, dv);
        loss
    }

    /// Adds the gradients of a batch of taught texts; returns its loss.
    fn step_on_teaching(&mut self, teaching: &Teaching, rows: &[u32], rng: &mut Rng) -> f32 {
        let settings = self.settings;
        let texts = teaching.texts.select(rows.iter().copied(), settings.dropout, rng);
        let targets = select(teaching.vectors.view(), rows.iter().copied());
        let pass = self.parameters.forward(&texts);
        let (loss, gradient) = taught(&pass.output, &targets, settings);
        self.parameters.backward(&texts, &pass, gradient);
        loss
    }

    /// How good the model is on what is held out.
    fn judge(&self) -> f32 {
        let model = self.parameters.model();
        match (self.lessons.pairs, self.lessons.teaching) {
            (Some(pairs), _) => self.recall(pairs, &model),
            (None, Some(teaching)) => {
                let mut rng = Rng::new(0);
                let texts = teaching.texts.select(self.taught[1].iter().copied(), 0.0, &mut rng);
                let vectors = model.encode(&texts);
                let rows = vectors.rows().into_iter().zip(&self.taught[1]);
                let sum: f64 = rows.map(|(y, &i)| f64::from(y.dot(&teaching.vectors.row(i as usize)))).sum();
                (sum / self.taught[1].len().max(1) as f64) as f32
            }
            (None, None) => 0.0,
        }
    }

    fn recall(&self, pairs: &TextExamples, model: &StaticModel) -> f32 {
        let valid = self.labels.judged(self.settings.seed);
        let mut rng = Rng::new(0);
        let queries = model.encode(&pairs.queries.select(valid.iter().map(|p| p.query), 0.0, &mut rng));
        let documents = model.encode(&pairs.documents);
        let own: Vec<u32> = valid.iter().map(|p| p.document).collect();
        let ranks = match self.lessons.candidates {
            None => {
                let relevant: Vec<&[u32]> = valid.iter().map(|p| &*self.positives[p.query as usize]).collect();
                ranks(queries.view(), documents.view(), &[], &own, &relevant)
            }
            Some(candidates) => {
                let above = |(i, pair): (usize, &Example)| {
                    let (q, found) = (queries.row(i), candidates.by_query.get(pair.query as usize));
                    let own = q.dot(&documents.row(pair.document as usize));
                    let found = found.into_iter().flatten();
                    found.filter(|&&row| q.dot(&documents.index_axis(Axis(0), row as usize)) > own).count() as u32
                };
                valid.iter().enumerate().map(above).collect()
            }
        };
        recall_at(&ranks, VALID_DEPTH)
    }
}

/// The loss of vectors `y` (n x d) against the teacher's `t` (n x d), and its gradient at `y`:
/// ```text
/// L = cosine * mean_i (1 - <y_i, t_i>) + order * ListNet(y t' / tau, softmax(t t' / tau))
/// ```
pub(super) fn taught(y: &Array2<f32>, t: &Array2<f32>, settings: &TextTraining) -> (f32, Array2<f32>) {
    let distillation = &settings.distillation;
    let n = y.nrows().max(1) as f32;
    let along: f64 = y.rows().into_iter().zip(t.rows()).map(|(y, t)| f64::from(y.dot(&t))).sum();
    let mut loss = distillation.cosine * (1.0 - (along / f64::from(n)) as f32);
    let mut gradient = t * (-distillation.cosine / n);
    if distillation.order > 0.0 {
        let tau = distillation.temperature;
        let mut targets = blocked::nt(t.view(), t.view()) / tau;
        softmax_rows(&mut targets);
        let mut g = blocked::nt(y.view(), t.view()) / tau;
        loss += distillation.order * list_net(&mut g, targets.view());
        gradient += &(blocked::nn(g.view(), t.view()) * (distillation.order / tau));
    }
    (loss, gradient)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{start, two_languages};
    use super::*;
    use crate::train::Silent;

    #[test]
    fn hard_negatives_are_candidates_of_their_queries() {
        let examples = two_languages(600);
        let near = |q: u32| (0..600).filter(|d| *d != q && d % 50 == q % 50).collect();
        let candidates = Candidates { by_query: (0..600).map(near).collect() };
        let lessons = TextLessons { pairs: Some(&examples), candidates: Some(&candidates), teaching: None };
        let settings = TextTraining { sampling: Sampling::Snowball, batch: 8, ..TextTraining::default() };
        let training = Training::new(&start(4, 4), lessons, &settings, &Silent).unwrap();
        let train = &training.labels.train;
        let sampler = Sampler::new(settings.sampling, &candidates, train, 600, settings.batch, 1);
        let mut seen = 0;
        for triples in sampler.epoch(train, &training.positives, 1) {
            let batch = training.batch(&triples, 600, &mut Rng::new(1));
            let (own, hard) = batch.columns.split_at(batch.queries.len());
            assert_eq!(
                (own.len(), hard.len()),
                (triples.len(), triples.len()),
                "a negative a query, after its own document"
            );
            for ((&query, &own), &negative) in batch.queries.iter().zip(own).zip(hard) {
                assert!(own == query && negative != query && negative % 50 == query % 50, "{query} {own} {negative}");
                seen += 1;
            }
        }
        assert_eq!(seen, train.len());
    }

    #[test]
    fn equal_texts_are_held_out_together() {
        let texts: Vec<Vec<u32>> = (0..600).map(|i| vec![i % 300, 3]).collect();
        let [train, valid] = hold_out(&Texts::new(&texts));
        assert!(valid.len() >= 2 && train.len() > 500 && train.len() + valid.len() == 600, "{}", valid.len());
        assert!(valid.iter().all(|i| valid.contains(&((i + 300) % 600))));
        let few = Texts::new(&(0..100).map(|i| vec![i]).collect::<Vec<_>>());
        assert!(!hold_out(&few)[1].is_empty(), "there is always something to judge by");
    }
}
