//! The adapter of one linear layer: forward, backward, merge.

use std::ops::Range;

use ndarray::{Array2, ArrayView2, s};

use super::{AdapterShape, Method, TaskRows};
use crate::error::{Error, Result};
use crate::linalg::blocked;
use crate::sample::Rng;
use crate::train::loss::softmax;
use crate::train::optimiser::Parameter;

/// The trained matrices beside one frozen layer; see the module for the formula.
#[derive(Debug, Clone)]
pub struct Adapter {
    shape: AdapterShape,
    tasks: usize,
    /// `A`, rank x input: one, or one a task.
    pub(super) downs: Vec<Parameter>,
    /// `Lambda_t`, rank x rank: one a task, or none where all are the identity.
    pub(super) transforms: Vec<Parameter>,
    /// `B_i`, output x rank: `ups` that are shared, or one a task.
    pub(super) ups: Vec<Parameter>,
    /// `w_t`, tasks x ups; 0 x ups where there is nothing to weigh.
    pub(super) weights: Parameter,
}

/// What the forward pass leaves for the backward pass.
#[derive(Debug)]
pub struct Pass {
    /// `h`, rows x output.
    pub output: Array2<f32>,
    /// `A x`, rows x rank.
    u: Array2<f32>,
    /// `Lambda_t A x`, rows x rank; nothing where all `Lambda` are the identity.
    v: Option<Array2<f32>>,
}

impl Adapter {
    /// An adapter that adds nothing yet, for a layer from `input` to `output` values: `A` is random, every `B` is 0.
    ///
    /// # Errors
    /// `InvalidParams` for a shape that is none, or no tasks.
    pub fn new(input: usize, output: usize, tasks: usize, shape: AdapterShape, rng: &mut Rng) -> Result<Adapter> {
        shape.check()?;
        if tasks == 0 || input == 0 || output == 0 {
            let reason = format!("{tasks} tasks of a layer from {input} to {output} values; each must be at least 1");
            return Err(Error::params("adapter", reason));
        }
        let rank = shape.rank;
        let scale = 1.0 / (input as f32).sqrt();
        let own = if shape.method == Method::LoraPerTask { tasks } else { 1 };
        let down = |_| parameter(Array2::from_shape_fn((rank, input), |_| rng.normal() * scale));
        let downs = (0..own).map(down).collect();
        let transforms = match shape.method {
            Method::MtlLora => (0..tasks).map(|_| anchored(Array2::eye(rank))).collect(),
            Method::Lora | Method::LoraPerTask => Vec::new(),
        };
        let ups = if shape.method == Method::MtlLora { shape.ups } else { own };
        let ups: Vec<Parameter> = (0..ups).map(|_| parameter(Array2::zeros((output, rank)))).collect();
        // Equal weights would give all B_i one gradient, and they would stay the same for ever.
        let weighted = if shape.method == Method::MtlLora && ups.len() > 1 { tasks } else { 0 };
        let weights = Array2::from_shape_fn((weighted, ups.len()), |_| rng.normal() * shape.temperature);
        Ok(Adapter { shape, tasks, downs, transforms, ups, weights: parameter(weights) })
    }

    /// Size and scale.
    pub fn shape(&self) -> &AdapterShape {
        &self.shape
    }

    /// Number of tasks.
    pub fn tasks(&self) -> usize {
        self.tasks
    }

    /// Values a row goes in with.
    pub fn input_dim(&self) -> usize {
        self.downs[0].value.ncols()
    }

    /// Values a row comes out with.
    pub fn output_dim(&self) -> usize {
        self.ups[0].value.nrows()
    }

    /// Number of trained values.
    pub fn trainable(&self) -> usize {
        let matrices = self.downs.iter().chain(&self.transforms).chain(&self.ups);
        matrices.map(|p| p.value.len()).sum::<usize>() + self.weights.value.len()
    }

    /// All parameters, always in the same order.
    pub(crate) fn parameters(&mut self) -> Vec<&mut Parameter> {
        let matrices = self.downs.iter_mut().chain(&mut self.transforms).chain(&mut self.ups);
        matrices.chain([&mut self.weights]).collect()
    }

    /// How fast it learns: `own` is the rate of `Lambda` and `w`. Decay pulls `Lambda` towards the identity, from which it starts, `A` and `B`
    /// towards 0; `w` has none, because a task without a preference is no better than one that has it.
    pub(crate) fn set_rates(&mut self, rate: f32, own: f32, decay: f32) {
        for parameter in self.downs.iter_mut().chain(&mut self.ups) {
            (parameter.rate, parameter.decay) = (rate, decay);
        }
        for parameter in &mut self.transforms {
            (parameter.rate, parameter.decay) = (own, decay);
        }
        (self.weights.rate, self.weights.decay) = (own, 0.0);
    }

    /// Maps `x` (rows x input, sorted as `rows` says) through the frozen `weight` (output x input) and the adapter.
    pub fn forward(&self, weight: ArrayView2<'_, f32>, x: ArrayView2<'_, f32>, rows: &TaskRows) -> Pass {
        assert_eq!(x.nrows(), rows.rows(), "rows of the batch");
        let mut u = Array2::zeros((x.nrows(), self.shape.rank));
        for (task, range) in self.spans(self.downs.len() > 1, rows) {
            let part = blocked::nt(x.slice(s![range.clone(), ..]), self.down(task).value.view());
            u.slice_mut(s![range, ..]).assign(&part);
        }
        let v = (!self.transforms.is_empty()).then(|| {
            let mut v = Array2::zeros(u.dim());
            for (task, range) in rows.present() {
                let part = blocked::nt(u.slice(s![range.clone(), ..]), self.transforms[task].value.view());
                v.slice_mut(s![range, ..]).assign(&part);
            }
            v
        });
        let mut output = blocked::nt(x, weight);
        let inner = v.as_ref().unwrap_or(&u);
        for (task, range) in self.spans(self.own_ups(), rows) {
            let added = blocked::nt(inner.slice(s![range.clone(), ..]), self.up(task).view());
            output.slice_mut(s![range, ..]).scaled_add(self.scale(), &added);
        }
        Pass { output, u, v }
    }

    /// Adds to the gradients of all matrices, from the gradient at the output (rows x output). Returns the gradient at `x`,
    /// the part that goes through the frozen `weight` included, where `wants_input`: the first layer needs none.
    pub(crate) fn backward(
        &mut self,
        weight: ArrayView2<'_, f32>,
        x: ArrayView2<'_, f32>,
        rows: &TaskRows,
        pass: &Pass,
        gradient: &Array2<f32>,
        wants_input: bool,
    ) -> Option<Array2<f32>> {
        let scale = self.scale();
        let inner = pass.v.as_ref().unwrap_or(&pass.u);
        let mut dv = Array2::zeros(inner.dim());
        for (task, range) in self.spans(self.own_ups(), rows) {
            let g = gradient.slice(s![range.clone(), ..]);
            let mut dup = Array2::zeros((g.ncols(), self.shape.rank));
            blocked::add_tn(&mut dup, scale, g, inner.slice(s![range.clone(), ..]));
            let part = blocked::nn(g, self.up(task).view()) * scale;
            dv.slice_mut(s![range, ..]).assign(&part);
            self.spread(task, &dup);
        }
        let du = if pass.v.is_some() {
            let mut du = Array2::zeros(dv.dim());
            for (task, range) in rows.present() {
                let dv = dv.slice(s![range.clone(), ..]);
                let transform = &mut self.transforms[task];
                blocked::add_tn(&mut transform.gradient, 1.0, dv, pass.u.slice(s![range.clone(), ..]));
                du.slice_mut(s![range, ..]).assign(&blocked::nn(dv, transform.value.view()));
            }
            du
        } else {
            dv
        };
        let mut dx = wants_input.then(|| blocked::nn(gradient.view(), weight));
        for (task, range) in self.spans(self.downs.len() > 1, rows) {
            let du = du.slice(s![range.clone(), ..]);
            let own = if self.downs.len() > 1 { task } else { 0 };
            let down = &mut self.downs[own];
            blocked::add_tn(&mut down.gradient, 1.0, du, x.slice(s![range.clone(), ..]));
            if let Some(dx) = &mut dx {
                let mut dx = dx.slice_mut(s![range, ..]);
                dx += &blocked::nn(du, down.value.view());
            }
        }
        dx
    }

    /// `weight` (output x input) with the adapter of `task` folded in: one matrix that does what both do.
    ///
    /// # Panics
    /// If there is no such task, or the weight has another shape.
    pub fn merge(&self, weight: ArrayView2<'_, f32>, task: usize) -> Array2<f32> {
        let (down, up) = self.thin(task);
        &weight + &blocked::nn(up.view(), down.view())
    }

    /// What is added for a task, as a map down (rank x input) and one up (output x rank): `Lambda_t A` and the scaled `B`.
    ///
    /// # Panics
    /// If there is no such task.
    pub fn thin(&self, task: usize) -> (Array2<f32>, Array2<f32>) {
        assert!(task < self.tasks, "task {task} of {}", self.tasks);
        let down = self.down(task).value.view();
        let inner = match self.transforms.get(task) {
            Some(transform) => blocked::nn(transform.value.view(), down),
            None => down.to_owned(),
        };
        (inner, self.up(task) * self.scale())
    }

    fn scale(&self) -> f32 {
        self.shape.alpha / self.shape.rank as f32
    }

    /// Whether each task has another map up.
    fn own_ups(&self) -> bool {
        self.ups.len() > 1
    }

    fn down(&self, task: usize) -> &Parameter {
        &self.downs[if self.downs.len() > 1 { task } else { 0 }]
    }

    /// The map up of a task, output x rank: its own, or the weighted mean of the shared ones.
    fn up(&self, task: usize) -> Array2<f32> {
        match self.shape.method {
            Method::LoraPerTask => self.ups[task].value.clone(),
            Method::Lora => self.ups[0].value.clone(),
            Method::MtlLora => {
                let mut sum = Array2::zeros(self.ups[0].value.dim());
                for (share, up) in self.shares(task).into_iter().zip(&self.ups) {
                    sum.scaled_add(share, &up.value);
                }
                sum
            }
        }
    }

    /// `softmax(w_t / tau)`.
    fn shares(&self, task: usize) -> Vec<f32> {
        if self.weights.value.is_empty() {
            return vec![1.0; self.ups.len()];
        }
        let mut shares = (&self.weights.value.row(task) / self.shape.temperature).to_vec();
        softmax(&mut shares, 1.0);
        shares
    }

    /// Hands the gradient of a task's map up on to what it is made of.
    fn spread(&mut self, task: usize, dup: &Array2<f32>) {
        if self.shape.method != Method::MtlLora {
            let own = if self.ups.len() > 1 { task } else { 0 };
            self.ups[own].gradient += dup;
            return;
        }
        let shares = self.shares(task);
        for (share, up) in shares.iter().zip(&mut self.ups) {
            up.gradient.scaled_add(*share, dup);
        }
        if self.weights.value.is_empty() {
            return;
        }
        let along: Vec<f32> = self.ups.iter().map(|up| (&up.value * dup).sum()).collect();
        let mean: f32 = along.iter().zip(&shares).map(|(a, s)| a * s).sum();
        let mut weights = self.weights.gradient.row_mut(task);
        for ((w, share), a) in weights.iter_mut().zip(&shares).zip(&along) {
            *w += share * (a - mean) / self.shape.temperature;
        }
    }

    /// What is multiplied at once: the rows of each task where tasks differ, else all rows.
    fn spans(&self, differ: bool, rows: &TaskRows) -> Vec<(usize, Range<usize>)> {
        if differ { rows.present().collect() } else { vec![(0, 0..rows.rows())] }
    }
}

fn parameter(value: Array2<f32>) -> Parameter {
    Parameter::new(value, 0.0)
}

/// One whose decay leads back to where it starts.
fn anchored(value: Array2<f32>) -> Parameter {
    Parameter { anchor: Some(value.clone()), ..parameter(value) }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::train::optimiser::Schedule;

    const TASKS: [usize; 9] = [2, 0, 2, 0, 0, 1, 2, 2, 0];

    fn random(rows: usize, cols: usize, seed: u64) -> Array2<f32> {
        let mut rng = Rng::new(seed);
        Array2::from_shape_fn((rows, cols), |_| rng.normal())
    }

    pub(in crate::adapters) fn shapes() -> Vec<AdapterShape> {
        let shape = |method, ups| AdapterShape { method, rank: 3, alpha: 6.0, ups, temperature: 0.5 };
        vec![
            shape(Method::Lora, 1),
            shape(Method::LoraPerTask, 1),
            shape(Method::MtlLora, 1),
            shape(Method::MtlLora, 3),
        ]
    }

    /// An adapter whose matrices are all random.
    pub(in crate::adapters) fn random_adapter(input: usize, output: usize, shape: AdapterShape) -> Adapter {
        let mut rng = Rng::new(7);
        let mut adapter = Adapter::new(input, output, 4, shape, &mut rng).unwrap();
        for parameter in adapter.parameters() {
            parameter.value.mapv_inplace(|_| 0.5 * rng.normal());
        }
        adapter
    }

    /// The formula, row by row.
    fn naive(adapter: &Adapter, weight: &Array2<f32>, x: &Array2<f32>, tasks: &[usize]) -> Array2<f32> {
        let mut out = x.dot(&weight.t());
        for ((mut out, x), &task) in out.rows_mut().into_iter().zip(x.rows()).zip(tasks) {
            let per_task = adapter.shape.method == Method::LoraPerTask;
            let mut v = adapter.downs[if per_task { task } else { 0 }].value.dot(&x);
            if let Some(transform) = adapter.transforms.get(task) {
                v = transform.value.dot(&v);
            }
            let exps = adapter.weights.value.outer_iter().nth(task).map(|w| w.mapv(|w| (w / 0.5).exp()));
            for (i, up) in adapter.ups.iter().enumerate() {
                let share = match (&exps, per_task) {
                    (Some(exps), _) => exps[i] / exps.sum(),
                    (None, true) => f32::from(u8::from(i == task)),
                    (None, false) => 1.0,
                };
                out.scaled_add(2.0 * share, &up.value.dot(&v));
            }
        }
        out
    }

    #[test]
    fn a_mixed_batch_is_the_formula_row_by_row_and_merged_it_is_the_same() {
        for shape in shapes() {
            let adapter = random_adapter(5, 6, shape);
            let (weight, batch) = (random(6, 5, 1), random(9, 5, 2));
            let (rows, order) = TaskRows::sort(&TASKS, 4).unwrap();
            let x = batch.select(ndarray::Axis(0), &order);
            let tasks: Vec<usize> = order.iter().map(|&row| TASKS[row]).collect();
            let output = adapter.forward(weight.view(), x.view(), &rows).output;
            let expected = naive(&adapter, &weight, &x, &tasks);
            assert!((&output - &expected).iter().all(|e| e.abs() < 1e-4), "{shape:?}");
            for (task, range) in rows.present() {
                let merged = x.slice(s![range.clone(), ..]).dot(&adapter.merge(weight.view(), task).t());
                let near = (&merged - &output.slice(s![range, ..])).iter().all(|e| e.abs() < 1e-4);
                assert!(near, "{shape:?}, task {task}");
            }
        }
    }

    #[test]
    fn a_new_adapter_changes_nothing_and_has_as_many_values_as_its_shape_says() {
        for shape in shapes() {
            let adapter = Adapter::new(5, 6, 4, shape, &mut Rng::new(1)).unwrap();
            let (weight, x) = (random(6, 5, 1), random(9, 5, 2));
            let (rows, _) = TaskRows::sort(&TASKS, 4).unwrap();
            let output = adapter.forward(weight.view(), x.view(), &rows).output;
            assert!((&output - &x.dot(&weight.t())).iter().all(|e| e.abs() < 1e-5));
            assert!((0..4).all(|task| adapter.merge(weight.view(), task) == weight));
            assert_eq!(adapter.trainable(), shape.parameters(5, 6, 4));
        }
        let counts: Vec<usize> = shapes().iter().map(|shape| shape.parameters(5, 6, 4)).collect();
        assert_eq!(counts, [33, 132, 15 + 36 + 18, 15 + 36 + 54 + 12]);
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        for shape in shapes() {
            let mut adapter = random_adapter(5, 6, shape);
            let (weight, mut x, g) = (random(6, 5, 1), random(9, 5, 2), random(9, 6, 3));
            let (rows, _) = TaskRows::sort(&TASKS, 4).unwrap();
            let loss = |adapter: &Adapter, x: &Array2<f32>| {
                let output = adapter.forward(weight.view(), x.view(), &rows).output;
                output.iter().zip(&g).map(|(o, g)| f64::from(o * g)).sum::<f64>()
            };
            let pass = adapter.forward(weight.view(), x.view(), &rows);
            let dx = adapter.backward(weight.view(), x.view(), &rows, &pass, &g, true).unwrap();
            let check = |numeric: f64, analytic: f32, what: &str| {
                let analytic = f64::from(analytic);
                let near = (numeric - analytic).abs() < 1e-2 * (1.0 + analytic.abs());
                assert!(near, "{shape:?} {what}: {numeric} {analytic}");
            };
            for at in 0..x.len() {
                let moved = |by: f32, x: &mut Array2<f32>| {
                    x.as_slice_mut().unwrap()[at] += by;
                    let loss = loss(&adapter, x);
                    x.as_slice_mut().unwrap()[at] -= by;
                    loss
                };
                let numeric = (moved(4e-3, &mut x) - moved(-4e-3, &mut x)) / 8e-3;
                check(numeric, dx.as_slice().unwrap()[at], "x");
            }
            for p in 0..adapter.parameters().len() {
                for at in 0..adapter.parameters()[p].value.len() {
                    let mut moved = |by: f32| {
                        adapter.parameters()[p].value.as_slice_mut().unwrap()[at] += by;
                        let loss = loss(&adapter, &x);
                        adapter.parameters()[p].value.as_slice_mut().unwrap()[at] -= by;
                        loss
                    };
                    let numeric = (moved(4e-3) - moved(-4e-3)) / 8e-3;
                    check(numeric, adapter.parameters()[p].gradient.as_slice().unwrap()[at], &format!("parameter {p}"));
                }
            }
        }
    }

    #[test]
    fn decay_leads_to_the_identity_and_leaves_preferences_alone() {
        let mut adapter = random_adapter(5, 6, shapes()[3]);
        let before = adapter.clone();
        adapter.set_rates(0.5, 0.25, 0.1);
        let schedule = Schedule { warmup: 1, total: 10, clip: 1.0 };
        schedule.step(0, &mut adapter.parameters());
        let near = |now: &Parameter, expected: Array2<f32>| (&now.value - &expected).iter().all(|e| e.abs() < 1e-6);
        let eye = Array2::<f32>::eye(3);
        for (now, then) in adapter.transforms.iter().zip(&before.transforms) {
            assert!(near(now, &then.value - &((&then.value - &eye) * 0.025)), "{}", now.value);
        }
        for (now, then) in adapter.ups.iter().chain(&adapter.downs).zip(before.ups.iter().chain(&before.downs)) {
            assert!(near(now, &then.value * 0.95), "{}", now.value);
        }
        assert_eq!(adapter.weights.value, before.weights.value);
    }

    #[test]
    fn shapes_that_cannot_be_are_refused() {
        let bad = |change: fn(&mut AdapterShape)| {
            let mut shape = AdapterShape::default();
            change(&mut shape);
            Adapter::new(5, 6, 4, shape, &mut Rng::new(1)).unwrap_err().to_string()
        };
        assert!(bad(|s| s.rank = 0).contains("rank: 0"));
        assert!(bad(|s| s.ups = 0).contains("ups: 0"));
        assert!(bad(|s| s.temperature = 0.0).contains("temperature: 0"));
        assert!(bad(|s| s.alpha = f32::NAN).contains("alpha: NaN"));
        let message = Adapter::new(5, 6, 0, AdapterShape::default(), &mut Rng::new(1)).unwrap_err().to_string();
        assert!(message.contains("0 tasks"), "{message}");
        assert!("lora-pertask".parse::<Method>().unwrap_err().to_string().contains("lora-per-task"));
        assert!(Method::ALL.iter().all(|m| m.to_string().parse::<Method>().unwrap() == *m));
    }
}
