//! The layers of the model, forward and backward.

use ndarray::{Array2, ArrayView2, Axis, s};

use crate::adapters::{Adapter, Pass, TaskRows};
use crate::linalg::blocked;
use crate::sample::Rng;
use crate::train::optimiser::Parameter;

/// A linear layer.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    /// out x in.
    pub(super) weight: Parameter,
    /// 1 x out.
    pub(super) bias: Parameter,
}

/// Trunk, adapters and outputs.
#[derive(Debug, Clone)]
pub(super) struct Network {
    /// Each is followed by a rectifier.
    pub(super) trunk: Vec<Layer>,
    /// One a layer of the trunk, or none at all.
    pub(super) adapters: Vec<Adapter>,
    /// One a task.
    pub(super) outputs: Vec<Layer>,
    /// Whether the trunk is trained: only before there are adapters.
    pub(super) trains_trunk: bool,
}

/// What the forward pass leaves for the backward pass.
#[derive(Debug)]
pub(super) struct Passes {
    /// What each layer of the trunk, and then the outputs, take.
    inputs: Vec<Array2<f32>>,
    /// Those of the adapters.
    adapted: Vec<Pass>,
    /// Of each task with rows, its outputs.
    pub(super) outputs: Vec<(usize, Array2<f32>)>,
}

impl Layer {
    /// Random weights for rectified inputs (He et al., 2015), no bias.
    pub(super) fn random(input: usize, output: usize, rng: &mut Rng) -> Layer {
        let scale = (2.0 / input as f32).sqrt();
        Layer::new(Array2::from_shape_fn((output, input), |_| rng.normal() * scale), Array2::zeros((1, output)))
    }

    pub(super) fn new(weight: Array2<f32>, bias: Array2<f32>) -> Layer {
        Layer { weight: Parameter::new(weight, 0.0), bias: Parameter::new(bias, 0.0) }
    }

    pub(super) fn forward(&self, x: ArrayView2<'_, f32>) -> Array2<f32> {
        blocked::nt(x, self.weight.value.view()) + &self.bias.value
    }

    /// Adds to the gradients.
    fn learn(&mut self, x: ArrayView2<'_, f32>, gradient: &Array2<f32>) {
        blocked::add_tn(&mut self.weight.gradient, 1.0, gradient.view(), x);
        self.bias.gradient += &gradient.sum_axis(Axis(0)).insert_axis(Axis(0));
    }
}

impl Network {
    /// All parameters that are trained, always in the same order.
    pub(super) fn parameters(&mut self) -> Vec<&mut Parameter> {
        let trunk = if self.trains_trunk { &mut self.trunk[..] } else { &mut [] };
        let layers = trunk.iter_mut().chain(&mut self.outputs);
        let mut all: Vec<&mut Parameter> = layers.flat_map(|Layer { weight, bias }| [weight, bias]).collect();
        all.extend(self.adapters.iter_mut().flat_map(Adapter::parameters));
        all
    }

    /// How fast each part learns: `own` is the rate of what adapters keep for a task alone. Decay leaves biases as they are.
    pub(super) fn set_rates(&mut self, rate: f32, own: f32, decay: f32) {
        for Layer { weight, bias } in self.trunk.iter_mut().chain(&mut self.outputs) {
            (weight.rate, weight.decay, bias.rate) = (rate, decay, rate);
        }
        self.adapters.iter_mut().for_each(|adapter| adapter.set_rates(rate, own, decay));
    }

    /// Maps features (rows sorted by task).
    pub(super) fn forward(&self, x: Array2<f32>, rows: &TaskRows) -> Passes {
        let (mut inputs, mut adapted) = (vec![x], Vec::new());
        for (at, layer) in self.trunk.iter().enumerate() {
            let mut out = match self.adapters.get(at) {
                None => layer.forward(inputs[at].view()),
                Some(adapter) => {
                    let mut pass = adapter.forward(layer.weight.value.view(), inputs[at].view(), rows);
                    let out = std::mem::take(&mut pass.output) + &layer.bias.value;
                    adapted.push(pass);
                    out
                }
            };
            out.mapv_inplace(|v| v.max(0.0));
            inputs.push(out);
        }
        let hidden = &inputs[self.trunk.len()];
        let output = |(task, range): (usize, std::ops::Range<usize>)| {
            (task, self.outputs[task].forward(hidden.slice(s![range, ..])))
        };
        let outputs = rows.present().map(output).collect();
        Passes { inputs, adapted, outputs }
    }

    /// Adds to the gradients of all that is trained, from the gradients at the outputs (in the order of [`Passes::outputs`]).
    pub(super) fn backward(&mut self, rows: &TaskRows, passes: &Passes, gradients: &[Array2<f32>]) {
        let hidden = &passes.inputs[self.trunk.len()];
        let mut gradient = Array2::zeros(hidden.dim());
        for ((task, range), at_output) in rows.present().zip(gradients) {
            let output = &mut self.outputs[task];
            output.learn(hidden.slice(s![range.clone(), ..]), at_output);
            gradient.slice_mut(s![range, ..]).assign(&blocked::nn(at_output.view(), output.weight.value.view()));
        }
        if self.adapters.is_empty() && !self.trains_trunk {
            return;
        }
        for at in (0..self.trunk.len()).rev() {
            gradient.zip_mut_with(&passes.inputs[at + 1], |g, &out| {
                if out <= 0.0 {
                    *g = 0.0;
                }
            });
            let (layer, x) = (&mut self.trunk[at], passes.inputs[at].view());
            let below = match self.adapters.get_mut(at) {
                Some(adapter) => {
                    let weight = layer.weight.value.view();
                    adapter.backward(weight, x, rows, &passes.adapted[at], &gradient, at > 0)
                }
                None => {
                    layer.learn(x, &gradient);
                    (at > 0).then(|| blocked::nn(gradient.view(), layer.weight.value.view()))
                }
            };
            match below {
                Some(below) => gradient = below,
                None => return,
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::adapters::AdapterShape;

    /// A network of random values: 6 features, 5 and 4 hidden, tasks of 3, 1 and 2 outputs.
    pub(in crate::relevance) fn random_network(adapted: bool) -> Network {
        let mut rng = Rng::new(1);
        let trunk = vec![Layer::random(8, 5, &mut rng), Layer::random(5, 4, &mut rng)];
        let outputs = [3, 1, 2].map(|classes| Layer::random(4, classes, &mut rng)).to_vec();
        let shape = AdapterShape { rank: 2, ups: 2, alpha: 2.0, temperature: 0.5, ..AdapterShape::default() };
        let adapters = [(8, 5), (5, 4)].map(|(i, o)| Adapter::new(i, o, 3, shape, &mut rng).unwrap()).to_vec();
        let adapters = if adapted { adapters } else { Vec::new() };
        let mut network = Network { trunk, adapters, outputs, trains_trunk: !adapted };
        for parameter in network.parameters() {
            parameter.value.mapv_inplace(|_| 0.5 * rng.normal());
        }
        network
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        for adapted in [false, true] {
            let mut network = random_network(adapted);
            let mut rng = Rng::new(2);
            let x = Array2::from_shape_fn((7, 8), |_| rng.normal());
            let (rows, _) = TaskRows::sort(&[0, 0, 0, 1, 1, 2, 2], 3).unwrap();
            let passes = network.forward(x.clone(), &rows);
            let g: Vec<Array2<f32>> =
                passes.outputs.iter().map(|(_, out)| Array2::from_shape_fn(out.dim(), |_| rng.normal())).collect();
            network.backward(&rows, &passes, &g);
            let loss = |network: &Network| {
                let outputs = network.forward(x.clone(), &rows).outputs;
                let each = outputs
                    .iter()
                    .zip(&g)
                    .map(|((_, o), g)| o.iter().zip(g).map(|(o, g)| f64::from(o * g)).sum::<f64>());
                each.sum::<f64>()
            };
            let mut wrong = Vec::new();
            for p in 0..network.parameters().len() {
                for at in 0..network.parameters()[p].value.len() {
                    let mut moved = |by: f32| {
                        network.parameters()[p].value.as_slice_mut().unwrap()[at] += by;
                        let loss = loss(&network);
                        network.parameters()[p].value.as_slice_mut().unwrap()[at] -= by;
                        loss
                    };
                    let numeric = (moved(1e-3) - moved(-1e-3)) / 2e-3;
                    let analytic = f64::from(network.parameters()[p].gradient.as_slice().unwrap()[at]);
                    if (numeric - analytic).abs() > 2e-2 * (1.0 + analytic.abs()) {
                        wrong.push((p, at, numeric, analytic));
                    }
                }
            }
            assert!(wrong.is_empty(), "{wrong:?}");
        }
    }
}
