//! The course of a training that several tasks share: batches of an epoch, a look at the validation rows, the best epoch.
//!
//! Which epoch is best is said by a mean over the tasks that weighs each by the root of its validation rows, as far as that many rows
//! can tell two epochs apart: a task with 16 of them would otherwise choose by chance for one with 500.

use serde::Serialize;

use crate::error::Result;
use crate::train::Watch;
use crate::train::optimiser::{Parameter, Schedule, check_divergence};

/// What an epoch came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Epoch {
    /// From 1; 0 is before training.
    pub epoch: usize,
    /// Mean loss.
    pub loss: f32,
    /// What the validation rows of each task say.
    pub scores: Vec<f32>,
    /// Mean of the scores, weighted by the roots of the numbers of these rows; the epoch is chosen by it.
    pub mean: f32,
}

/// What is trained, and on what.
pub(crate) trait Course {
    /// What comes out.
    type Model: Clone;
    /// One draw of a batch.
    type Draw;

    /// All draws of an epoch, in their order.
    fn draws(&self, epoch: u64) -> Vec<Self::Draw>;

    /// Adds the gradients of a batch. Returns its loss, and among how many it would be guessed.
    fn learn(&self, model: &mut Self::Model, batch: &[Self::Draw], step: u64) -> (f32, usize);

    /// What is trained of the model, always in the same order.
    fn parameters<'m>(&self, model: &'m mut Self::Model) -> Vec<&'m mut Parameter>;

    /// Validation rows of each task.
    fn judged(&self) -> Vec<usize>;

    /// The score of each task by these rows.
    fn judge(&self, model: &Self::Model) -> Result<Vec<f32>>;
}

/// How long a training is, and how fast.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) epochs: usize,
    /// Draws of a batch.
    pub(crate) batch: usize,
    /// Share of the steps in which the learning rate grows.
    pub(crate) warmup: f32,
    /// Largest norm of a gradient.
    pub(crate) clip: f32,
    /// Epochs without a better mean before it stops.
    pub(crate) patience: usize,
}

/// Trains `model`. Returns it as it was after the best epoch, which may be the start, and the course of training.
///
/// # Errors
/// `Diverged`; what judging fails with, and what `watch` stops with.
pub(crate) fn follow<C: Course>(
    course: &C,
    mut model: C::Model,
    pace: Pace,
    what: &'static str,
    watch: &dyn Watch,
) -> Result<(C::Model, Vec<Epoch>)> {
    let steps = course.draws(0).len().div_ceil(pace.batch);
    let total = (steps * pace.epochs) as u64;
    let schedule = Schedule { warmup: ((total as f32 * pace.warmup) as u64).max(1), total, clip: pace.clip };
    watch.begin(what, total);
    let epoch = |epoch, loss, model: &C::Model| -> Result<Epoch> {
        let scores = course.judge(model)?;
        let mean = weighted(&scores, &course.judged());
        Ok(Epoch { epoch, loss, scores, mean })
    };
    let mut curve = vec![epoch(0, 0.0, &model)?];
    let (mut best, mut best_at, mut step) = (model.clone(), 0, 0);
    for number in 1..=pace.epochs {
        let mut sum = 0f64;
        for batch in course.draws(number as u64).chunks(pace.batch) {
            watch.check()?;
            let (loss, columns) = course.learn(&mut model, batch, step);
            let norm = schedule.step(step, &mut course.parameters(&mut model));
            check_divergence(step, loss, norm, columns)?;
            (sum, step) = (sum + f64::from(loss), step + 1);
            watch.advance(1);
        }
        let now = epoch(number, (sum / steps as f64) as f32, &model)?;
        watch.note(&format!("epoch {number}: loss {:.3}, validation {:.2} %", now.loss, 100.0 * now.mean));
        let better = now.mean > curve[best_at].mean;
        curve.push(now);
        if better {
            (best, best_at) = (model.clone(), number);
        } else if number - best_at >= pace.patience {
            break;
        }
    }
    Ok((best, curve))
}

/// Mean of scores, each weighted by the root of the number of rows behind it.
fn weighted(scores: &[f32], rows: &[usize]) -> f32 {
    let weights = rows.iter().map(|&rows| (rows as f32).sqrt());
    let sum: f32 = scores.iter().zip(weights.clone()).map(|(score, weight)| score * weight).sum();
    sum / weights.sum::<f32>().max(f32::MIN_POSITIVE)
}

/// Draws of each task in an epoch: as many in all as there is to draw from, shared in proportion to `size ^ balance`.
pub(crate) fn shares(sizes: &[usize], balance: f32) -> Vec<usize> {
    let total: usize = sizes.iter().sum();
    let weights: Vec<f64> = sizes.iter().map(|&size| (size as f64).powf(balance.into())).collect();
    let all: f64 = weights.iter().sum();
    weights.iter().map(|weight| ((total as f64 * weight / all).round() as usize).max(1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::Silent;

    /// A value that grows by one a step. Task 0 has many validation rows and is best after two epochs; task 1 has few, and likes later ones
    /// a little more.
    struct Counting;

    impl Course for Counting {
        type Model = u32;
        type Draw = ();
        fn draws(&self, _: u64) -> Vec<()> {
            vec![(); 5]
        }
        fn learn(&self, model: &mut u32, batch: &[()], step: u64) -> (f32, usize) {
            assert_eq!(batch.len(), if step % 3 == 2 { 1 } else { 2 });
            *model += 1;
            (0.5, 2)
        }
        fn parameters<'m>(&self, _: &'m mut u32) -> Vec<&'m mut Parameter> {
            Vec::new()
        }
        fn judged(&self) -> Vec<usize> {
            vec![400, 4]
        }
        fn judge(&self, model: &u32) -> Result<Vec<f32>> {
            let epoch = *model as f32 / 3.0;
            Ok(vec![1.0 - 0.1 * (epoch - 2.0).abs(), 0.2 * epoch])
        }
    }

    #[test]
    fn the_epoch_is_chosen_by_the_tasks_that_can_tell() {
        let pace = Pace { epochs: 9, batch: 2, warmup: 0.1, clip: 1.0, patience: 3 };
        let (best, curve) = follow(&Counting, 0, pace, "count", &Silent).unwrap();
        assert_eq!(best, 6, "the plain mean of the two would take the last");
        assert_eq!(curve.len(), 1 + 2 + 3, "it stops three epochs after the best");
        let plain = |epoch: &Epoch| epoch.scores.iter().sum::<f32>();
        assert!(curve.windows(2).all(|pair| plain(&pair[0]) < plain(&pair[1])));
        assert!((curve[0].mean - (20.0 * 0.8) / 22.0).abs() < 1e-6, "{}", curve[0].mean);
    }

    #[test]
    fn draws_are_shared_between_as_they_are_and_alike() {
        assert_eq!(shares(&[900, 100], 1.0), [900, 100]);
        assert_eq!(shares(&[900, 100], 0.5), [750, 250]);
        assert_eq!(shares(&[900, 100], 0.0), [500, 500]);
    }
}
