//! The teacher: a small network that sees a mention and a view at once.
//!
//! ```text
//! score(m, e) = w . relu(W [m, e, m * e, |m - e|, lexical] + b)
//! ```
//! A student compares two vectors that were made apart; the teacher sees where they agree, dimension by dimension, and which words
//! they share. It serves training only.

use ndarray::{Array2, ArrayView1, ArrayViewMut1, Axis};
use rayon::prelude::*;

use crate::linalg::blocked;
use crate::sample::Rng;
use crate::train::optimiser::Parameter;

/// Features beside those of the vectors: what the caller says of the words of mention and view.
pub const LEXICAL: usize = 4;

/// The network.
#[derive(Debug)]
pub(super) struct Teacher {
    /// hidden x inputs.
    inner: Parameter,
    /// 1 x hidden.
    bias: Parameter,
    /// 1 x hidden.
    outer: Parameter,
}

/// Inputs for vectors of `dim` values.
pub(super) fn inputs(dim: usize) -> usize {
    4 * dim + LEXICAL
}

/// Fills the inputs of one pair. Unit vectors have elements of about `1 / sqrt(dim)`: all parts are scaled to about 1.
pub(super) fn fill(
    mention: ArrayView1<'_, f32>,
    view: ArrayView1<'_, f32>,
    lexical: [f32; LEXICAL],
    mut out: ArrayViewMut1<'_, f32>,
) {
    let dim = mention.len();
    let root = (dim as f32).sqrt();
    let out = out.as_slice_mut().expect("C order");
    for (i, (&m, &e)) in mention.iter().zip(view).enumerate() {
        out[i] = m * root;
        out[dim + i] = e * root;
        out[2 * dim + i] = m * e * root * root;
        out[3 * dim + i] = (m - e).abs() * root;
    }
    out[4 * dim..].copy_from_slice(&lexical);
}

impl Teacher {
    pub(super) fn new(dim: usize, hidden: usize, rate: f32, rng: &mut Rng) -> Teacher {
        let scale = (1.0 / inputs(dim) as f32).sqrt();
        let parameter = |value| Parameter { decay: 0.01, ..Parameter::new(value, rate) };
        let inner = Array2::from_shape_fn((hidden, inputs(dim)), |_| rng.normal() * scale);
        let outer = Array2::from_shape_fn((1, hidden), |_| rng.normal() * (1.0 / hidden as f32).sqrt());
        Teacher { inner: parameter(inner), bias: parameter(Array2::zeros((1, hidden))), outer: parameter(outer) }
    }

    pub(super) fn parameters(&mut self) -> Vec<&mut Parameter> {
        vec![&mut self.inner, &mut self.bias, &mut self.outer]
    }

    /// The score of each pair, and the hidden layer that the way back needs.
    pub(super) fn forward(&self, x: &Array2<f32>) -> (Vec<f32>, Array2<f32>) {
        let mut hidden = blocked::nt(x.view(), self.inner.value.view());
        let bias = self.bias.value.row(0);
        let scores = hidden
            .axis_iter_mut(Axis(0))
            .into_par_iter()
            .map(|mut row| {
                row.zip_mut_with(&bias, |h, b| *h = (*h + b).max(0.0));
                row.dot(&self.outer.value.row(0))
            })
            .collect();
        (scores, hidden)
    }

    /// Adds to the gradients, from those of the scores.
    pub(super) fn backward(&mut self, x: &Array2<f32>, hidden: &Array2<f32>, gradient: &[f32]) {
        let outer = self.outer.value.row(0);
        let mut back = hidden.clone();
        for ((mut back, hidden), &g) in back.rows_mut().into_iter().zip(hidden.rows()).zip(gradient) {
            self.outer.gradient.row_mut(0).scaled_add(g, &hidden);
            back.zip_mut_with(&outer, |h, w| *h = if *h > 0.0 { g * w } else { 0.0 });
        }
        self.bias.gradient += &back.sum_axis(Axis(0)).insert_axis(Axis(0));
        blocked::add_tn(&mut self.inner.gradient, 1.0, back.view(), x.view());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let (dim, pairs) = (5, 7);
        let mut rng = Rng::new(1);
        let vectors = Array2::from_shape_fn((2 * pairs, dim), |_| rng.normal() * 0.4);
        let mut x = Array2::zeros((pairs, inputs(dim)));
        for (pair, row) in x.rows_mut().into_iter().enumerate() {
            fill(vectors.row(pair), vectors.row(pairs + pair), [rng.normal(); LEXICAL], row);
        }
        let mut teacher = Teacher::new(dim, 6, 0.1, &mut rng);
        let wanted: Vec<f32> = (0..pairs).map(|_| rng.normal()).collect();
        let (_, hidden) = teacher.forward(&x);
        teacher.backward(&x, &hidden, &wanted);
        for p in 0..3 {
            for at in 0..teacher.parameters()[p].value.len() {
                let mut loss = |by: f32| {
                    teacher.parameters()[p].value.as_slice_mut().unwrap()[at] += by;
                    let scores = teacher.forward(&x).0;
                    teacher.parameters()[p].value.as_slice_mut().unwrap()[at] -= by;
                    scores.iter().zip(&wanted).map(|(s, g)| f64::from(s * g)).sum::<f64>()
                };
                let numeric = (loss(1e-3) - loss(-1e-3)) / 2e-3;
                let analytic = f64::from(teacher.parameters()[p].gradient.as_slice().unwrap()[at]);
                assert!((numeric - analytic).abs() < 1e-2 * (1.0 + analytic.abs()), "{p} {at}: {numeric} {analytic}");
            }
        }
    }

    #[test]
    fn inputs_are_what_the_picture_says() {
        let (m, e) = (ndarray::arr1(&[0.5, -1.0, 0.0, 2.0]), ndarray::arr1(&[1.0, 1.0, 3.0, 2.0]));
        let mut out = ndarray::Array1::zeros(inputs(4));
        fill(m.view(), e.view(), [1.0, 2.0, 3.0, 4.0], out.view_mut());
        let due = [1., -2., 0., 4., 2., 2., 6., 4., 2., -4., 0., 16., 1., 4., 6., 0., 1., 2., 3., 4.];
        assert_eq!(out.as_slice().unwrap(), due);
    }
}
