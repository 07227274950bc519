//! Heads for documents of several views: from mentions in context and the entities that they mean.
//!
//! ```text
//! mention m --> query head    --.
//!                                > inner product s of m and each view --> best view of each candidate --> which entity
//! view e    --> document head --'                                              ^ taught by
//!           m, e, shared words --> teacher (one hidden layer, sees both) ------'
//! ```
//! The student is two heads over the vectors of a frozen encoder; an entity scores as its best view does. The easy version trains it on
//! the labels. Departures: a teacher that sees mention and view at once is trained beside it, and the student is drawn to what the
//! teacher thinks of the candidates, and of the views of each (`loss.rs`); half of the negatives are those that the student itself takes
//! for the right one, found anew every epoch; the epoch that does best on other mentions is kept, the start included.
//!
//! Which views an entity has is up to the caller: local ones, a global one, or both. They are trained alike, and searched alike.

mod loss;
mod teacher;

pub use teacher::LEXICAL;

use ndarray::{Array2, ArrayView2, Axis};
use rayon::prelude::*;
use serde::Serialize;
use std::collections::HashMap;

use super::head::{Pass, TrainedHead, start};
use super::optimiser::{Schedule, check_divergence};
use super::{Watch, nearest};
use crate::error::{Error, Result};
use crate::heads::Head;
use crate::sample::Rng;
use loss::{Losses, Shape, Weights, losses};
use teacher::{Teacher, fill, inputs};

/// Rows that are looked at for hard negatives of a mention.
const NEAR: usize = 64;

/// Mentions, and the entities that they may mean.
#[derive(Clone, Copy)]
pub struct ViewExamples<'a> {
    /// n x d, of unit length.
    pub mentions: ArrayView2<'a, f32>,
    /// The entity of each mention.
    pub gold: &'a [u32],
    /// Views of all entities, entity by entity: m x d, of unit length.
    pub views: ArrayView2<'a, f32>,
    /// The first view of each entity, then m.
    pub starts: &'a [usize],
    /// What the words of a mention and of a view (rows of both) have in common, for the teacher; numbers of about 1.
    pub lexical: &'a (dyn Fn(usize, usize) -> [f32; LEXICAL] + Sync),
}

/// How to train.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ViewTraining {
    /// Passes over the mentions.
    pub epochs: usize,
    /// Mentions of a step.
    pub batch: usize,
    /// Candidates of a mention, the right one included.
    pub candidates: usize,
    /// Highest learning rate of the heads; the teacher's is [`ViewTraining::teacher_rate`].
    pub rate: f32,
    /// See `rate`.
    pub teacher_rate: f32,
    /// Pull of the heads' linear maps to the identity that they start from.
    pub decay: f32,
    /// What the student's inner products are divided by.
    pub temperature: f32,
    /// Hidden units of the heads; none: linear heads.
    pub hidden: Option<usize>,
    /// Hidden units of the teacher; None: the student learns from labels alone.
    pub teacher: Option<usize>,
    /// Weight of the divergence over candidates.
    pub across: f32,
    /// Weight of the divergence over the views of a candidate.
    pub within: f32,
    /// Of every random choice.
    pub seed: u64,
}

impl Default for ViewTraining {
    fn default() -> Self {
        ViewTraining {
            epochs: 4,
            batch: 32,
            candidates: 16,
            rate: 2e-4,
            teacher_rate: 1e-3,
            decay: 0.1,
            temperature: 0.05,
            hidden: None,
            teacher: Some(64),
            across: 0.3,
            within: 0.1,
            seed: 1,
        }
    }
}

/// What an epoch came to: mean losses, and how the heads do on other mentions after it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ViewEpoch {
    /// From 1; 0 is the start.
    pub epoch: usize,
    /// Cross-entropy of the student.
    pub student: f32,
    /// Cross-entropy of the teacher.
    pub teacher: f32,
    /// Divergence over candidates.
    pub across: f32,
    /// Divergence over views.
    pub within: f32,
    /// Share of the other mentions whose entity has the best view of all.
    pub recall_at_1: f64,
}

/// Trained heads.
#[derive(Debug, Clone)]
pub struct ViewHeads {
    /// For mentions.
    pub query: Head,
    /// For views.
    pub document: Head,
    /// All epochs, the start first.
    pub epochs: Vec<ViewEpoch>,
}

impl ViewExamples<'_> {
    fn entities(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// Refuses what does not fit together.
    fn check(&self) -> Result<()> {
        let wrong = |reason: String| Err(Error::params("examples", reason));
        let (mentions, views, entities) = (self.mentions.nrows(), self.views.nrows(), self.entities());
        if mentions == 0 || entities < 2 {
            return wrong(format!("{mentions} mentions and {entities} entities teach nothing; give more"));
        }
        if self.gold.len() != mentions || self.mentions.ncols() != self.views.ncols() {
            return wrong(format!("{mentions} mentions, {} labels: counts or dimensions differ", self.gold.len()));
        }
        if let Some(gold) = self.gold.iter().find(|&&gold| gold as usize >= entities) {
            return wrong(format!("a mention means entity {gold} of {entities}"));
        }
        let ends = self.starts[0] == 0 && self.starts[entities] == views;
        match self.starts.windows(2).position(|w| w[1] <= w[0]) {
            Some(entity) => wrong(format!("entity {entity} has no view; leave it out")),
            None if !ends => wrong(format!("the entities' views end at {}, not {views}", self.starts[entities])),
            None => Ok(()),
        }
    }

    /// Share of the mentions whose entity has the best of all views through the heads.
    ///
    /// # Errors
    /// What `watch` stops with.
    pub fn recall_at_1(&self, query: &Head, document: &Head, watch: &dyn Watch) -> Result<f64> {
        let found = self.nearest_entities(query, document, 1, watch)?;
        let right = found.iter().zip(self.gold).filter(|(found, gold)| found.first() == Some(gold)).count();
        Ok(right as f64 / self.gold.len() as f64)
    }

    /// The entities of the `rows` best views of each mention, best first, each once.
    fn nearest_entities(&self, query: &Head, document: &Head, rows: usize, watch: &dyn Watch) -> Result<Vec<Vec<u32>>> {
        let (mentions, views) = (query.apply_rows(self.mentions), document.apply_rows(self.views));
        let found = nearest(mentions.view(), views.view(), rows, watch)?;
        let entity = |row: u32| (self.starts.partition_point(|&start| start <= row as usize) - 1) as u32;
        let of_mention = |rows: Vec<u32>| {
            let mut entities: Vec<u32> = Vec::with_capacity(rows.len());
            for entity in rows.into_iter().map(entity) {
                if !entities.contains(&entity) {
                    entities.push(entity);
                }
            }
            entities
        };
        Ok(found.into_par_iter().map(of_mention).collect())
    }
}

/// Trains both heads on `examples`, and keeps those of the epoch that does best on `others`.
///
/// # Errors
/// `InvalidParams` for examples or settings that do not fit, `Diverged`, and what `watch` stops with.
pub fn train_views(
    examples: &ViewExamples<'_>,
    others: &ViewExamples<'_>,
    settings: &ViewTraining,
    watch: &dyn Watch,
) -> Result<ViewHeads> {
    examples.check()?;
    others.check()?;
    settings.check(examples)?;
    let mut trainer = Trainer::new(examples, settings);
    let mut best = trainer.heads();
    let at_start = others.recall_at_1(&best.0, &best.1, watch)?;
    let zeros = ViewEpoch { epoch: 0, student: 0.0, teacher: 0.0, across: 0.0, within: 0.0, recall_at_1: at_start };
    let mut epochs = vec![zeros];
    for epoch in 1..=settings.epochs {
        let mean = trainer.epoch(epoch, watch)?;
        let heads = trainer.heads();
        let recall_at_1 = others.recall_at_1(&heads.0, &heads.1, watch)?;
        if epochs.iter().all(|before| recall_at_1 > before.recall_at_1) {
            best = heads;
        }
        let Losses { student, teacher, across, within } = mean;
        watch.note(&format!("epoch {epoch}: student {student:.3}, teacher {teacher:.3}, others' R@1 {recall_at_1:.4}"));
        epochs.push(ViewEpoch { epoch, student, teacher, across, within, recall_at_1 });
    }
    Ok(ViewHeads { query: best.0, document: best.1, epochs })
}

impl ViewTraining {
    fn check(&self, examples: &ViewExamples<'_>) -> Result<()> {
        let wrong = |name: &'static str, reason: String| Err(Error::params(name, reason));
        if self.batch == 0 || self.epochs == 0 {
            return wrong("batch", format!("{} mentions a step, {} epochs: give 1 or more", self.batch, self.epochs));
        }
        if !(2..=examples.entities()).contains(&self.candidates) {
            let reason = format!("{} is not between 2 and the {} entities", self.candidates, examples.entities());
            return wrong("candidates", reason);
        }
        let positive = |v: f32| v.is_finite() && v > 0.0;
        if ![self.rate, self.teacher_rate, self.temperature].into_iter().all(positive) {
            return wrong("rate", "rates and temperature must be above 0".into());
        }
        let weight = |v: f32| v.is_finite() && v >= 0.0;
        match [self.across, self.within, self.decay].into_iter().all(weight) {
            true => Ok(()),
            false => wrong("across", "weights of losses and decay must be 0 or more".into()),
        }
    }
}

/// What is trained, and where it is.
struct Trainer<'a, 'e> {
    examples: &'a ViewExamples<'e>,
    settings: &'a ViewTraining,
    query: TrainedHead,
    document: TrainedHead,
    teacher: Option<Teacher>,
    schedule: Schedule,
    step: u64,
}

/// One step's mentions and pairs.
struct Step {
    shape: Shape,
    mentions: Vec<usize>,
    /// Different views of the step: rows of the examples.
    views: Vec<usize>,
    /// For each score, the mention's and the view's place in the step.
    pairs: Vec<(usize, usize)>,
}

impl<'a, 'e> Trainer<'a, 'e> {
    fn new(examples: &'a ViewExamples<'e>, settings: &'a ViewTraining) -> Trainer<'a, 'e> {
        let (dim, mut rng) = (examples.views.ncols(), Rng::stream(settings.seed, 1));
        let mut head = || {
            let head = start(Array2::eye(dim), settings.hidden, true, &mut rng);
            TrainedHead::new(&head, settings.rate, settings.decay)
        };
        let (query, document) = (head(), head());
        let teacher = settings.teacher.map(|hidden| Teacher::new(dim, hidden.max(1), settings.teacher_rate, &mut rng));
        let total = (examples.mentions.nrows().div_ceil(settings.batch) * settings.epochs) as u64;
        let schedule = Schedule { warmup: (total / 20).max(1), total: total + 1, clip: 5.0 };
        Trainer { examples, settings, query, document, teacher, schedule, step: 0 }
    }

    fn heads(&self) -> (Head, Head) {
        (self.query.head(), self.document.head())
    }

    /// One pass over the mentions; the mean losses.
    fn epoch(&mut self, epoch: usize, watch: &dyn Watch) -> Result<Losses> {
        let (query, document) = self.heads();
        let near = self.examples.nearest_entities(&query, &document, NEAR, watch)?;
        let mut rng = Rng::stream(self.settings.seed, 1 + epoch as u64);
        let mut order: Vec<usize> = (0..self.examples.mentions.nrows()).collect();
        rng.shuffle(&mut order);
        watch.begin("train views", order.len() as u64);
        let (mut sum, mut steps) = (Losses::default(), 0.0);
        for mentions in order.chunks(self.settings.batch) {
            watch.check()?;
            let step = self.draw(mentions, &near, &mut rng);
            let of_step = self.train_step(&step)?;
            sum.student += of_step.student;
            sum.teacher += of_step.teacher;
            sum.across += of_step.across;
            sum.within += of_step.within;
            steps += 1.0;
            watch.advance(mentions.len() as u64);
        }
        let mean = |sum: f32| sum / steps;
        Ok(Losses {
            student: mean(sum.student),
            teacher: mean(sum.teacher),
            across: mean(sum.across),
            within: mean(sum.within),
        })
    }

    /// The candidates of some mentions: the right one, then others, half of them near.
    fn draw(&self, mentions: &[usize], near: &[Vec<u32>], rng: &mut Rng) -> Step {
        let (examples, candidates) = (self.examples, self.settings.candidates);
        let mut step = Step {
            shape: Shape { starts: vec![0], candidates },
            mentions: mentions.to_vec(),
            views: vec![],
            pairs: vec![],
        };
        let mut place: HashMap<usize, usize> = HashMap::new();
        for (at, &mention) in mentions.iter().enumerate() {
            let gold = examples.gold[mention];
            let mut chosen = vec![gold];
            let mut hard: Vec<u32> = near[mention].iter().copied().filter(|&entity| entity != gold).collect();
            rng.shuffle(&mut hard);
            chosen.extend(hard.into_iter().take(candidates / 2));
            while chosen.len() < candidates {
                let entity = rng.below(examples.entities() as u64) as u32;
                if !chosen.contains(&entity) {
                    chosen.push(entity);
                }
            }
            for entity in chosen {
                for view in examples.starts[entity as usize]..examples.starts[entity as usize + 1] {
                    let next = step.views.len();
                    let known = *place.entry(view).or_insert(next);
                    if known == next {
                        step.views.push(view);
                    }
                    step.pairs.push((at, known));
                }
                step.shape.starts.push(step.pairs.len());
            }
        }
        step
    }

    /// Forwards, losses, backwards, one update.
    fn train_step(&mut self, step: &Step) -> Result<Losses> {
        let settings = self.settings;
        let mentions = self.examples.mentions.select(Axis(0), &step.mentions);
        let views = self.examples.views.select(Axis(0), &step.views);
        let (asked, shown) = (self.query.forward(mentions.view()), self.document.forward(views.view()));
        let inverse = 1.0 / settings.temperature;
        let score = |&(m, v): &(usize, usize)| asked.output.row(m).dot(&shown.output.row(v)) * inverse;
        let mut student: Vec<f32> = step.pairs.par_iter().map(score).collect();
        let weights = Weights { across: settings.across, within: settings.within };
        let taught = self.teacher.as_ref().map(|teacher| {
            let x = self.teacher_inputs(step, &mentions, &views);
            let (scores, hidden) = teacher.forward(&x);
            (x, scores, hidden)
        });
        let of_step = match taught {
            None => losses(&step.shape, weights, &mut student, None),
            Some((x, mut scores, hidden)) => {
                let of_step = losses(&step.shape, weights, &mut student, Some(&mut scores));
                self.teacher.iter_mut().for_each(|teacher| teacher.backward(&x, &hidden, &scores));
                of_step
            }
        };
        self.student_backward(step, (&mentions, &asked), (&views, &shown), &student);
        let mut parameters = self.query.parameters();
        parameters.extend(self.document.parameters());
        parameters.extend(self.teacher.iter_mut().flat_map(Teacher::parameters));
        let norm = self.schedule.step(self.step, &mut parameters);
        check_divergence(self.step, of_step.student, norm, settings.candidates)?;
        self.step += 1;
        Ok(of_step)
    }

    /// From gradients at the scores to those of the heads.
    fn student_backward(
        &mut self,
        step: &Step,
        (mentions, asked): (&Array2<f32>, &Pass),
        (views, shown): (&Array2<f32>, &Pass),
        gradient: &[f32],
    ) {
        let inverse = 1.0 / self.settings.temperature;
        let mut of_asked = Array2::zeros(asked.output.dim());
        let mut of_shown = Array2::zeros(shown.output.dim());
        for (&(m, v), &g) in step.pairs.iter().zip(gradient).filter(|(_, g)| **g != 0.0) {
            of_asked.row_mut(m).scaled_add(g * inverse, &shown.output.row(v));
            of_shown.row_mut(v).scaled_add(g * inverse, &asked.output.row(m));
        }
        self.query.backward(mentions.view(), asked, of_asked);
        self.document.backward(views.view(), shown, of_shown);
    }

    fn teacher_inputs(&self, step: &Step, mentions: &Array2<f32>, views: &Array2<f32>) -> Array2<f32> {
        let mut x = Array2::zeros((step.pairs.len(), inputs(mentions.ncols())));
        x.axis_iter_mut(Axis(0)).into_par_iter().zip(&step.pairs).for_each(|(row, &(m, v))| {
            let lexical = (self.examples.lexical)(step.mentions[m], step.views[v]);
            fill(mentions.row(m), views.row(v), lexical, row);
        });
        x
    }
}

#[cfg(test)]
mod tests;
