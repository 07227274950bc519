//! Losses over a matrix of scores, and their gradients.
//!
//! Both are cross-entropies between a target distribution over the columns and the softmax of a row, so the gradient with
//! respect to the (scaled) scores is `(softmax - target) / rows` for both:
//! - **InfoNCE**: the target is the row's own positive;
//! - **ListNet** (Cao et al., 2007): the target is the softmax of a teacher's scores.

use ndarray::{Array2, ArrayView2, Axis};
use rayon::prelude::*;

/// Rows of one task.
const BLOCK: usize = 16;

/// A score that is left out of its row's softmax.
pub(crate) const MASKED: f32 = f32::NEG_INFINITY;

/// InfoNCE: the mean over the rows of `-log softmax(scores)[positive]`. `scores` (n x m, scaled) become the gradient.
pub(crate) fn info_nce(scores: &mut Array2<f32>, positives: &[usize]) -> f32 {
    let weight = 1.0 / scores.nrows() as f32;
    mean_over_rows(scores, |row, i| {
        let own = row[positives[i]];
        let log_sum = softmax(row, weight);
        row[positives[i]] -= weight;
        log_sum - own
    })
}

/// ListNet: the mean over the rows of the cross-entropy of `softmax(scores)` against `targets`, whose rows sum to 1
/// (n x m). `scores` become the gradient. The target's own entropy is subtracted: a perfect student has loss 0.
pub(crate) fn list_net(scores: &mut Array2<f32>, targets: ArrayView2<'_, f32>) -> f32 {
    let weight = 1.0 / scores.nrows() as f32;
    mean_over_rows(scores, |row, i| {
        let target = targets.row(i);
        let target = target.as_slice().expect("C order");
        let dot: f32 = row.iter().zip(target).filter(|(_, t)| **t > 0.0).map(|(s, t)| s * t).sum();
        let entropy: f32 = target.iter().filter(|&&t| t > 0.0).map(|t| -t * t.ln()).sum();
        let log_sum = softmax(row, weight);
        row.iter_mut().zip(target).for_each(|(p, t)| *p -= weight * t);
        log_sum - dot - entropy
    })
}

/// Every row becomes its softmax.
pub(crate) fn softmax_rows(scores: &mut Array2<f32>) {
    mean_over_rows(scores, |row, _| softmax(row, 1.0));
}

fn mean_over_rows(scores: &mut Array2<f32>, row_loss: impl Fn(&mut [f32], usize) -> f32 + Sync) -> f32 {
    let rows = scores.nrows();
    let losses: Vec<f64> = scores
        .axis_chunks_iter_mut(Axis(0), BLOCK)
        .into_par_iter()
        .enumerate()
        .map(|(block, mut chunk)| {
            let rows = chunk.rows_mut().into_iter().zip(block * BLOCK..);
            rows.map(|(mut row, i)| f64::from(row_loss(row.as_slice_mut().expect("C order"), i))).sum()
        })
        .collect();
    (losses.iter().sum::<f64>() / rows as f64) as f32
}

/// `row` becomes `weight * softmax(row)`; returns the logarithm of the sum of exponentials.
pub(crate) fn softmax(row: &mut [f32], weight: f32) -> f32 {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter_mut().for_each(|v| *v = exp(*v - largest));
    let sum = lanes_sum(row);
    let scale = weight / sum;
    row.iter_mut().for_each(|v| *v *= scale);
    largest + sum.ln()
}

/// A sum in eight lanes, which vectorises.
fn lanes_sum(row: &[f32]) -> f32 {
    let mut lanes = [0f32; 8];
    let chunks = row.chunks_exact(8);
    let rest: f32 = chunks.remainder().iter().sum();
    chunks.for_each(|c| lanes.iter_mut().zip(c).for_each(|(l, v)| *l += v));
    lanes.iter().sum::<f32>() + rest
}

/// Below it `e^x` counts as nothing beside 1. Were it kept, products of such numbers would become denormal, and slow.
const VANISHED: f32 = -40.0;

/// `e^x` for `x <= 0`, to 2e-7 relative, without a branch or a call so that loops over it vectorise: `2^n` by the exponent
/// bits times a polynomial (the Taylor series to degree 6) on the rest, which is at most `ln 2 / 2`. 0 below [`VANISHED`].
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    /// 1.5 * 2^23: adding it rounds to an integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.max(VANISHED);
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts: the first has few bits, so that n times it is exact.
    let r = (clamped - n * 0.693_359_4) + n * 2.121_944_4e-4;
    let p = 1.0 + r * (1.0 + r * (0.5 + r * (1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r / 720.0)))));
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    let value = p * power;
    if x < VANISHED { 0.0 } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Rng;

    #[test]
    fn exp_is_accurate_and_vanishes() {
        for i in 0..4_000 {
            let x = -(i as f32) / 100.0;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 3e-7, "{x} {} {exact}", exp(x));
        }
        assert_eq!((exp(0.0), exp(-40.1), exp(f32::NEG_INFINITY)), (1.0, 0.0, 0.0));
    }

    fn random(n: usize, m: usize, seed: u64) -> Array2<f32> {
        let mut rng = Rng::new(seed);
        Array2::from_shape_fn((n, m), |_| rng.normal() * 2.0)
    }

    /// The gradient that a loss reports, against central differences of the loss itself.
    fn check_gradient(scores: &Array2<f32>, loss: impl Fn(&mut Array2<f32>) -> f32) {
        let mut gradient = scores.clone();
        loss(&mut gradient);
        for (at, &analytic) in gradient.indexed_iter() {
            let at_offset = |h: f32| {
                let mut moved = scores.clone();
                moved[at] += h;
                f64::from(loss(&mut moved))
            };
            let numeric = (at_offset(0.01) - at_offset(-0.01)) / 0.02;
            assert!((numeric - f64::from(analytic)).abs() < 2e-4, "{at:?}: {numeric} {analytic}");
        }
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let scores = random(5, 9, 1);
        check_gradient(&scores, |s| info_nce(s, &[0, 3, 2, 8, 8]));
        let mut targets = random(5, 9, 2);
        softmax_rows(&mut targets);
        check_gradient(&scores, |s| list_net(s, targets.view()));
    }

    #[test]
    fn known_values() {
        let mut even = Array2::zeros((2, 4));
        assert!((info_nce(&mut even, &[0, 1]) - 4f32.ln()).abs() < 1e-6);
        let mut masked = ndarray::arr2(&[[0.0, MASKED, 0.0]]);
        assert!((info_nce(&mut masked, &[0]) - 2f32.ln()).abs() < 1e-6);
        assert_eq!(masked[[0, 1]], 0.0);
        let teacher = random(3, 4, 5);
        let mut targets = teacher.clone();
        softmax_rows(&mut targets);
        assert!(list_net(&mut teacher.clone(), targets.view()).abs() < 1e-5);
    }
}
