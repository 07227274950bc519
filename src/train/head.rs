//! A [`Head`] while it is trained.

use ndarray::{Array2, ArrayView2, Axis};
use rayon::prelude::*;

use super::optimiser::Parameter;
use crate::heads::{Head, Residual};
use crate::linalg::{blocked, normalise};
use crate::sample::Rng;

/// Rows of one task.
const BLOCK: usize = 256;

/// The parameters of a head.
#[derive(Debug, Clone)]
pub(super) struct TrainedHead {
    linear: Parameter,
    residual: Option<TrainedResidual>,
    normalise: bool,
}

#[derive(Debug, Clone)]
struct TrainedResidual {
    inner: Parameter,
    /// 1 x hidden.
    bias: Parameter,
    outer: Parameter,
}

/// What the forward pass leaves for the backward pass.
#[derive(Debug)]
pub(super) struct Pass {
    /// n x out.
    pub(super) output: Array2<f32>,
    /// n x hidden, after the rectifier.
    hidden: Option<Array2<f32>>,
    /// Length of each output before it was scaled; empty where it is not.
    norms: Vec<f32>,
}

impl TrainedHead {
    /// Starts from `head`; `rate` is the highest learning rate, `decay` pulls the linear map towards its start and the
    /// layers of the residual towards zero.
    pub(super) fn new(head: &Head, rate: f32, decay: f32) -> TrainedHead {
        let parameter = |value: &Array2<f32>| Parameter { decay, ..Parameter::new(value.clone(), rate) };
        let linear = Parameter { anchor: Some(head.linear.clone()), ..parameter(&head.linear) };
        let residual = head.residual.as_ref().map(|r| TrainedResidual {
            inner: parameter(&r.inner),
            bias: parameter(&ndarray::aview1(&r.bias).insert_axis(Axis(0)).to_owned()),
            outer: parameter(&r.outer),
        });
        TrainedHead { linear, residual, normalise: head.normalise }
    }

    /// A map that changes nothing and is not trained. With a rate it has one hidden unit that is on for every input: its output is a
    /// direction that is added to all of them, and is learned at that rate.
    pub(super) fn direction(dim: usize, normalise: bool, rate: Option<f32>) -> TrainedHead {
        let mut head = TrainedHead::new(&Head::identity(dim, normalise), 0.0, 0.0);
        let fixed = |value| Parameter::new(value, 0.0);
        head.residual = rate.map(|rate| TrainedResidual {
            inner: fixed(Array2::zeros((1, dim))),
            bias: fixed(Array2::ones((1, 1))),
            outer: Parameter::new(Array2::zeros((dim, 1)), rate),
        });
        head
    }

    /// The head as it is now.
    pub(super) fn head(&self) -> Head {
        let residual = self.residual.as_ref().map(|r| Residual {
            inner: r.inner.value.clone(),
            bias: r.bias.value.row(0).to_vec(),
            outer: r.outer.value.clone(),
        });
        Head { linear: self.linear.value.clone(), residual, normalise: self.normalise }
    }

    /// All parameters, always in the same order.
    pub(super) fn parameters(&mut self) -> Vec<&mut Parameter> {
        let mut all = vec![&mut self.linear];
        if let Some(TrainedResidual { inner, bias, outer }) = &mut self.residual {
            all.extend([inner, bias, outer]);
        }
        all
    }

    /// Maps the rows of `x` (n x in).
    pub(super) fn forward(&self, x: ArrayView2<'_, f32>) -> Pass {
        let mut output = blocked::nt(x, self.linear.value.view());
        let hidden = self.residual.as_ref().map(|r| {
            let mut hidden = blocked::nt(x, r.inner.value.view());
            let bias = r.bias.value.as_slice().expect("C order");
            par_rows(&mut hidden, |row| row.iter_mut().zip(bias).for_each(|(h, b)| *h = (*h + b).max(0.0)));
            output += &blocked::nt(hidden.view(), r.outer.value.view());
            hidden
        });
        let norms = if self.normalise { normalise_rows(&mut output) } else { Vec::new() };
        Pass { output, hidden, norms }
    }

    /// Adds to the gradients of all parameters, from the gradient at the output (n x out).
    pub(super) fn backward(&mut self, x: ArrayView2<'_, f32>, pass: &Pass, mut gradient: Array2<f32>) {
        if self.normalise {
            through_normalise(&pass.output, &pass.norms, &mut gradient);
        }
        blocked::add_tn(&mut self.linear.gradient, 1.0, gradient.view(), x);
        let (Some(r), Some(hidden)) = (&mut self.residual, &pass.hidden) else { return };
        blocked::add_tn(&mut r.outer.gradient, 1.0, gradient.view(), hidden.view());
        let mut inner = blocked::nn(gradient.view(), r.outer.value.view());
        inner.zip_mut_with(hidden, |g, &h| {
            if h <= 0.0 {
                *g = 0.0;
            }
        });
        r.bias.gradient += &inner.sum_axis(Axis(0)).insert_axis(Axis(0));
        blocked::add_tn(&mut r.inner.gradient, 1.0, inner.view(), x);
    }

    /// Floating-point operations of a forward and a backward pass over `n` rows.
    pub(super) fn flops(&self, n: usize) -> u64 {
        let residual = self.residual.as_ref().map_or(0, |r| 4 * r.inner.value.len() + 6 * r.outer.value.len());
        (n * (4 * self.linear.value.len() + residual)) as u64
    }
}

/// A head to start from: `linear` (out x in), and a residual of `hidden` units that adds nothing yet.
pub(super) fn start(linear: Array2<f32>, hidden: Option<usize>, normalise: bool, rng: &mut Rng) -> Head {
    let (out, input) = linear.dim();
    let scale = (2.0 / input as f32).sqrt();
    let residual = hidden.map(|hidden| Residual {
        inner: Array2::from_shape_fn((hidden, input), |_| rng.normal() * scale),
        bias: vec![0.0; hidden],
        outer: Array2::zeros((out, hidden)),
    });
    Head { linear, residual, normalise }
}

/// `rotation` laid over a head: `R head(x)`. Lengths stay, since `R` (d x out) is orthogonal.
pub(super) fn rotated(head: &Head, rotation: ArrayView2<'_, f32>) -> Head {
    let residual =
        head.residual.as_ref().map(|r| Residual { outer: blocked::nn(rotation, r.outer.view()), ..r.clone() });
    Head { linear: blocked::nn(rotation, head.linear.view()), residual, normalise: head.normalise }
}

fn par_rows(x: &mut Array2<f32>, work: impl Fn(&mut [f32]) + Sync) {
    x.axis_chunks_iter_mut(Axis(0), BLOCK).into_par_iter().for_each(|mut block| {
        block.rows_mut().into_iter().for_each(|mut row| work(row.as_slice_mut().expect("C order")));
    });
}

/// Scales every row to unit length; returns the lengths.
pub(crate) fn normalise_rows(x: &mut Array2<f32>) -> Vec<f32> {
    let mut norms = vec![0f32; x.nrows()];
    let blocks = x.axis_chunks_iter_mut(Axis(0), BLOCK).into_par_iter();
    blocks.zip(norms.par_chunks_mut(BLOCK)).for_each(|(mut block, norms)| {
        for (mut row, norm) in block.rows_mut().into_iter().zip(norms) {
            *norm = normalise(row.as_slice_mut().expect("C order"));
        }
    });
    norms
}

/// With `y = z / |z|`: `dz = (dy - y <y, dy>) / |z|`.
pub(crate) fn through_normalise(output: &Array2<f32>, norms: &[f32], gradient: &mut Array2<f32>) {
    let rows = gradient.rows_mut().into_iter().zip(output.rows()).zip(norms);
    rows.for_each(|((mut g, y), norm)| {
        let along = y.dot(&g);
        let scale = if *norm > 0.0 { 1.0 / norm } else { 0.0 };
        g.zip_mut_with(&y, |g, y| *g = (*g - y * along) * scale);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(r: usize, c: usize, seed: u64) -> Array2<f32> {
        let mut rng = Rng::new(seed);
        Array2::from_shape_fn((r, c), |_| rng.normal())
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        for (hidden, normalise) in [(None, false), (None, true), (Some(6), false), (Some(6), true)] {
            let mut head = start(random(4, 5, 1), hidden, normalise, &mut Rng::new(2));
            if let Some(residual) = &mut head.residual {
                residual.outer = random(4, 6, 3);
            }
            let mut trained = TrainedHead::new(&head, 0.1, 0.0);
            let (x, g) = (random(7, 5, 4), random(7, 4, 5));
            let pass = trained.forward(x.view());
            assert!(pass.output.iter().zip(&head.apply_rows(x.view())).all(|(a, b)| (a - b).abs() < 1e-5));
            trained.backward(x.view(), &pass, g.clone());
            let count = trained.parameters().len();
            for p in 0..count {
                let size = trained.parameters()[p].value.len();
                for at in 0..size {
                    let mut loss = |by: f32| {
                        trained.parameters()[p].value.as_slice_mut().unwrap()[at] += by;
                        let output = trained.forward(x.view()).output;
                        trained.parameters()[p].value.as_slice_mut().unwrap()[at] -= by;
                        output.iter().zip(&g).map(|(o, g)| f64::from(o * g)).sum::<f64>()
                    };
                    let numeric = (loss(2e-3) - loss(-2e-3)) / 4e-3;
                    let analytic = f64::from(trained.parameters()[p].gradient.as_slice().unwrap()[at]);
                    assert!(
                        (numeric - analytic).abs() < 1e-2 * (1.0 + analytic.abs()),
                        "{p} {at}: {numeric} {analytic}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_start_adds_nothing_and_a_rotation_keeps_scores() {
        let x = random(9, 6, 1);
        let mut head = start(Array2::eye(6), Some(8), false, &mut Rng::new(2));
        assert!(head.apply_rows(x.view()).iter().zip(&x).all(|(a, b)| (a - b).abs() < 1e-6));
        head.residual.as_mut().unwrap().outer = random(6, 8, 3);
        let rotation = crate::linalg::procrustes(random(6, 6, 4).view()).unwrap();
        let (plain, turned) = (head.apply_rows(x.view()), rotated(&head, rotation.view()).apply_rows(x.view()));
        let (a, b) = (plain.dot(&plain.t()), turned.dot(&turned.t()));
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-3 * (1.0 + a.abs())));
    }
}
