//! Training: of the trunk without labels, then of the adapters and outputs with them.

use ndarray::{Array2, ArrayView2};
use serde::{Deserialize, Serialize};

use super::model::RelevanceModel;
use super::network::{Layer, Network};
use super::{RelevanceTask, Row, Target, features};
use crate::adapters::course::{Course, Pace, follow, shares};
use crate::adapters::{Adapter, AdapterShape, Epoch, TaskNames, TaskRows};
use crate::error::{Error, Result};
use crate::sample::Rng;
use crate::train::Watch;
use crate::train::loss::info_nce;
use crate::train::optimiser::Parameter;

/// Guessing costs a task a loss of 1 or less, as among this many: the losses of classes are divided by the logarithm of their number.
const GUESSED: usize = 3;

/// How the model is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RelevanceTraining {
    /// Outputs of each layer of the trunk.
    pub widths: Vec<usize>,
    /// Passes; each draws as many rows as there are for training.
    pub epochs: usize,
    /// Rows of a batch.
    pub batch: usize,
    /// A task of n rows is drawn in proportion to `n ^ balance`: 1 as they are, 0 all alike.
    pub balance: f32,
    /// Highest learning rate.
    pub rate: f32,
    /// The rate of what adapters keep for a task alone (`Lambda`, `w`), as a share of `rate`.
    pub own_rate: f32,
    /// Weight decay: towards the identity where that is the start, else towards 0; biases and `w` have none.
    pub decay: f32,
    /// Share of the steps in which the learning rate grows.
    pub warmup: f32,
    /// Largest norm of a gradient.
    pub clip: f32,
    /// Epochs without a better validation score before training stops.
    pub patience: usize,
    /// Of every random choice.
    #[serde(skip)]
    pub seed: u64,
}

impl Default for RelevanceTraining {
    fn default() -> Self {
        RelevanceTraining {
            widths: vec![256, 256],
            epochs: 12,
            batch: 256,
            balance: 0.5,
            rate: 2e-3,
            own_rate: 1.0,
            decay: 0.0,
            warmup: 0.1,
            clip: 1.0,
            patience: 3,
            seed: 1,
        }
    }
}

impl RelevanceTraining {
    /// Refuses values that nothing can be trained with.
    ///
    /// # Errors
    /// `InvalidParams`, naming the value and its range.
    pub fn check(&self) -> Result<()> {
        if self.widths.is_empty() || self.widths.iter().any(|&width| width == 0 || width > 1 << 20) {
            return Err(Error::params("widths", format!("{:?}; name the outputs of one layer or more", self.widths)));
        }
        for (name, value) in [("epochs", self.epochs), ("batch", self.batch)] {
            if value == 0 {
                return Err(Error::params(name, "0; give at least 1"));
            }
        }
        for (name, value) in [("rate", self.rate), ("clip", self.clip)] {
            if !value.is_finite() || value <= 0.0 {
                return Err(Error::params(name, format!("{value}; it must be above 0")));
            }
        }
        let shares =
            [("balance", self.balance), ("warmup", self.warmup), ("decay", self.decay), ("own_rate", self.own_rate)];
        for (name, value) in shares {
            if !(0.0..=1.0).contains(&value) {
                return Err(Error::params(name, format!("{value}; give 0 to 1")));
            }
        }
        Ok(())
    }
}

/// Trains the trunk on the texts of the tasks, without their labels: do two texts belong together, and which task is a row of?
/// The model that comes out has these two for tasks; [`train_relevance`] takes its trunk. `vectors` are n x d, of unit length.
///
/// # Errors
/// `InvalidParams` for settings or tasks that cannot be, or a single task of single texts, which leaves nothing to ask; `Diverged`.
pub fn pretrain(
    vectors: ArrayView2<'_, f32>,
    tasks: &[RelevanceTask],
    settings: &RelevanceTraining,
    watch: &dyn Watch,
) -> Result<(RelevanceModel, Vec<Epoch>)> {
    settings.check()?;
    tasks.iter().try_for_each(|task| task.check(vectors.nrows()))?;
    let asked = questions(tasks, settings.seed);
    if asked.is_empty() {
        return Err(Error::params("tasks", "one task of single texts gives a trunk nothing to learn; give more tasks"));
    }
    let mut rng = Rng::stream(settings.seed, 0x7a11);
    let mut input = 4 * vectors.ncols();
    let mut trunk = Vec::new();
    for &width in &settings.widths {
        trunk.push(Layer::random(input, width, &mut rng));
        input = width;
    }
    fit(vectors, &asked, trunk, Vec::new(), true, settings, watch)
}

/// Trains the adapters of the trunk of `start`, which stays as it is, and an output for each task; without a `shape` only the
/// outputs. Returns the model of the epoch that was best on the validation rows, and the course of training.
///
/// # Errors
/// `InvalidParams` for settings or tasks that cannot be; `Mismatch` for vectors of another dimension; `Diverged`.
pub fn train_relevance(
    start: &RelevanceModel,
    vectors: ArrayView2<'_, f32>,
    tasks: &[RelevanceTask],
    shape: Option<AdapterShape>,
    settings: &RelevanceTraining,
    watch: &dyn Watch,
) -> Result<(RelevanceModel, Vec<Epoch>)> {
    settings.check()?;
    tasks.iter().try_for_each(|task| task.check(vectors.nrows()))?;
    if vectors.ncols() != start.dim() {
        return Err(Error::mismatch("dimension of the vectors", start.dim(), vectors.ncols()));
    }
    let mut rng = Rng::stream(settings.seed, 0xada9);
    let trunk: Vec<Layer> = start.network.trunk.clone();
    let mut adapters = Vec::new();
    if let Some(shape) = shape {
        for Layer { weight, .. } in &trunk {
            let (out, input) = weight.value.dim();
            adapters.push(Adapter::new(input, out, tasks.len(), shape, &mut rng)?);
        }
    }
    fit(vectors, tasks, trunk, adapters, false, settings, watch)
}

/// What can be asked of rows without their labels.
fn questions(tasks: &[RelevanceTask], seed: u64) -> Vec<RelevanceTask> {
    let mut rng = Rng::stream(seed, 0x9a1);
    let mut matched = |rows: fn(&RelevanceTask) -> &Vec<Row>| -> Vec<Row> {
        let mut all = Vec::new();
        for task in tasks {
            let pairs: Vec<(u32, u32)> = rows(task).iter().filter_map(|row| Some((row.a, row.b?))).collect();
            all.extend(pairs.iter().map(|&(a, b)| Row { a, b: Some(b), label: 1.0 }));
            all.extend(pairs.iter().map(|&(a, _)| {
                let other = pairs[rng.below(pairs.len() as u64) as usize].1;
                Row { a, b: Some(other), label: 0.0 }
            }));
        }
        all
    };
    let source = |rows: fn(&RelevanceTask) -> &Vec<Row>| -> Vec<Row> {
        let labelled = tasks.iter().enumerate();
        labelled.flat_map(|(t, task)| rows(task).iter().map(move |row| Row { label: t as f32, ..*row })).collect()
    };
    let yes_no = Target::Classes(vec!["0".into(), "1".into()]);
    let names = Target::Classes(tasks.iter().map(|task| task.name.clone()).collect());
    let asked = [
        ("matched", yes_no, matched(|task| &task.train), matched(|task| &task.valid)),
        ("source", names, source(|task| &task.train), source(|task| &task.valid)),
    ];
    let task = |(name, target, train, valid): (&str, Target, Vec<Row>, Vec<Row>)| RelevanceTask {
        name: name.to_string(),
        target,
        train,
        valid,
    };
    let answerable =
        |task: &RelevanceTask| task.target.outputs() > 1 && !task.train.is_empty() && !task.valid.is_empty();
    asked.into_iter().map(task).filter(answerable).collect()
}

/// Trains a network and judges it after each epoch.
fn fit(
    vectors: ArrayView2<'_, f32>,
    tasks: &[RelevanceTask],
    trunk: Vec<Layer>,
    adapters: Vec<Adapter>,
    trains_trunk: bool,
    settings: &RelevanceTraining,
    watch: &dyn Watch,
) -> Result<(RelevanceModel, Vec<Epoch>)> {
    let width = trunk.last().map_or(0, |layer| layer.weight.value.nrows());
    // Outputs start at 0: no class is preferred, and no gradient of a guess disturbs what lies below.
    let output = |task: &RelevanceTask| {
        let outputs = task.target.outputs();
        Layer::new(Array2::zeros((outputs, width)), Array2::zeros((1, outputs)))
    };
    let outputs = tasks.iter().map(output).collect();
    let network = Network { trunk, adapters, outputs, trains_trunk };
    let names = TaskNames::new(tasks.iter().map(|task| task.name.clone()).collect())?;
    let kinds = tasks.iter().map(RelevanceTask::kind).collect();
    let mut model = RelevanceModel { tasks: names, kinds, network, encoder: None };
    if trains_trunk {
        // An output of 0 would hand the trunk no gradient; that is wanted of adapters, which start from 0 themselves.
        let mut rng = Rng::stream(settings.seed, 0x007);
        for layer in &mut model.network.outputs {
            layer.weight.value.mapv_inplace(|_| rng.normal() * 0.01);
        }
    }
    let &RelevanceTraining { epochs, batch, warmup, clip, patience, rate, own_rate, decay, .. } = settings;
    model.network.set_rates(rate, rate * own_rate, decay);
    let pace = Pace { epochs, batch, warmup, clip, patience };
    let what = if trains_trunk { "train trunk" } else { "train tasks" };
    follow(&Labels { vectors, tasks, settings }, model, pace, what, watch)
}

/// What a network is trained on.
struct Labels<'a> {
    vectors: ArrayView2<'a, f32>,
    tasks: &'a [RelevanceTask],
    settings: &'a RelevanceTraining,
}

impl Course for Labels<'_> {
    type Model = RelevanceModel;
    /// A task, and one of its training rows.
    type Draw = (usize, usize);

    /// Rows in random order: as many as there are training rows, shared among the tasks.
    fn draws(&self, epoch: u64) -> Vec<(usize, usize)> {
        let mut rng = Rng::stream(self.settings.seed ^ 0xe90c, epoch);
        let sizes: Vec<usize> = self.tasks.iter().map(|task| task.train.len()).collect();
        let mut drawn = Vec::new();
        for (task, share) in shares(&sizes, self.settings.balance).into_iter().enumerate() {
            let mut order: Vec<usize> = (0..sizes[task]).collect();
            rng.shuffle(&mut order);
            drawn.extend(order.iter().cycle().take(share).map(|&row| (task, row)));
        }
        rng.shuffle(&mut drawn);
        drawn
    }

    fn learn(&self, model: &mut RelevanceModel, drawn: &[(usize, usize)], _: u64) -> (f32, usize) {
        let mut drawn = drawn.to_vec();
        drawn.sort_by_key(|(task, _)| *task);
        let numbers: Vec<usize> = drawn.iter().map(|(task, _)| *task).collect();
        let (groups, _) = TaskRows::sort(&numbers, self.tasks.len()).expect("tasks are numbered here");
        let rows: Vec<Row> = drawn.iter().map(|&(task, row)| self.tasks[task].train[row]).collect();
        let x = features(self.vectors, rows.iter().map(|row| (row.a, row.b)));
        let passes = model.network.forward(x, &groups);
        let mut loss = 0.0;
        let mut gradients = Vec::new();
        for ((task, outputs), (_, range)) in passes.outputs.iter().zip(groups.present()) {
            let labels: Vec<f32> = rows[range].iter().map(|row| row.label).collect();
            let share = labels.len() as f32 / rows.len() as f32;
            let mut g = outputs.clone();
            loss += share * task_loss(&self.tasks[*task].target, &labels, &mut g);
            g *= share;
            gradients.push(g);
        }
        model.network.backward(&groups, &passes, &gradients);
        (loss, GUESSED)
    }

    fn parameters<'m>(&self, model: &'m mut RelevanceModel) -> Vec<&'m mut Parameter> {
        model.network.parameters()
    }

    fn judged(&self) -> Vec<usize> {
        self.tasks.iter().map(|task| task.valid.len()).collect()
    }

    fn judge(&self, model: &RelevanceModel) -> Result<Vec<f32>> {
        let score = |task: &RelevanceTask| Ok(model.ranker(&task.name)?.quality(self.vectors, &task.valid)?.score);
        self.tasks.iter().map(score).collect()
    }
}

/// Mean loss of a task's outputs, which become its gradient: cross-entropy as a share of what guessing costs, so that tasks of many
/// classes do not drown those of two; or half the squared error in deviations.
fn task_loss(target: &Target, labels: &[f32], outputs: &mut Array2<f32>) -> f32 {
    match target {
        Target::Classes(names) => {
            let classes: Vec<usize> = labels.iter().map(|&label| label as usize).collect();
            let guessing = (names.len() as f32).ln();
            let loss = info_nce(outputs, &classes) / guessing;
            *outputs /= guessing;
            loss
        }
        Target::Value { mean, deviation } => {
            let count = labels.len() as f32;
            let mut loss = 0.0;
            for (output, label) in outputs.iter_mut().zip(labels) {
                let error = *output - (label - mean) / deviation;
                loss += 0.5 * error * error / count;
                *output = error / count;
            }
            loss
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::Method;
    use crate::linalg::normalise;
    use crate::train::Silent;

    const DIM: usize = 8;

    fn vectors() -> Array2<f32> {
        let mut rng = Rng::new(1);
        let mut x = Array2::from_shape_fn((600, DIM), |_| rng.normal());
        x.rows_mut().into_iter().for_each(|mut row| {
            normalise(row.as_slice_mut().unwrap());
        });
        x
    }

    /// Tasks about the signs of single elements, which contradict each other, and one about a value of pairs.
    fn tasks(x: &Array2<f32>) -> Vec<RelevanceTask> {
        let rows =
            |range: std::ops::Range<u32>, label: &dyn Fn(usize) -> Row| range.map(|a| label(a as usize)).collect();
        let sign = |element: usize, flip: bool| {
            let label = move |a: usize| {
                let positive = (x[[a, element]] > 0.0) != flip;
                Row { a: a as u32, b: None, label: f32::from(u8::from(positive)) }
            };
            let target = Target::Classes(vec!["0".into(), "1".into()]);
            let (train, valid) = (rows(0..500, &label), rows(500..600, &label));
            RelevanceTask { name: format!("sign-{element}-{flip}"), target, train, valid }
        };
        let closeness = |a: usize| {
            let b = (a * 7 + 1) % 600;
            Row { a: a as u32, b: Some(b as u32), label: 3.0 + 2.0 * x.row(a).dot(&x.row(b)) }
        };
        let target = Target::Value { mean: 3.0, deviation: 0.7 };
        let (train, valid) = (rows(0..500, &closeness), rows(500..600, &closeness));
        let close = RelevanceTask { name: "close".into(), target, train, valid };
        vec![sign(0, false), sign(0, true), sign(3, false), close]
    }

    fn settings() -> RelevanceTraining {
        let widths = vec![16, 16];
        RelevanceTraining { widths, epochs: 25, batch: 64, rate: 1e-2, patience: 25, ..RelevanceTraining::default() }
    }

    fn trunk(x: &Array2<f32>) -> RelevanceModel {
        pretrain(x.view(), &tasks(x), &RelevanceTraining { epochs: 2, ..settings() }, &Silent).unwrap().0
    }

    #[test]
    fn adapters_learn_what_outputs_alone_cannot_and_the_trunk_stays() {
        let x = vectors();
        let start = trunk(&x);
        assert_eq!(start.tasks().names(), ["matched", "source"]);
        let best = |shape| {
            let (model, curve) = train_relevance(&start, x.view(), &tasks(&x), shape, &settings(), &Silent).unwrap();
            for (layer, before) in model.network.trunk.iter().zip(&start.network.trunk) {
                assert_eq!(layer.weight.value, before.weight.value);
                assert_eq!(layer.bias.value, before.bias.value);
            }
            curve.iter().map(|epoch| epoch.mean).fold(0.0, f32::max)
        };
        let none = best(None);
        for method in Method::ALL {
            let shape = AdapterShape { method, rank: 4, alpha: 8.0, ups: 2, temperature: 0.5 };
            let adapted = best(Some(shape));
            assert!(adapted > none + 0.02 && adapted > 0.85, "{method}: {adapted}, outputs alone {none}");
        }
    }

    #[test]
    fn guessing_costs_every_task_of_classes_the_same() {
        for classes in [2, 3, 150] {
            let target = Target::Classes((0..classes).map(|class| class.to_string()).collect());
            let mut outputs = Array2::zeros((4, classes));
            let loss = task_loss(&target, &[0., 1., 0., 1.], &mut outputs);
            assert!((loss - 1.0).abs() < 1e-5, "{classes} classes: {loss}");
            let (count, guessing) = (classes as f32, (classes as f32).ln());
            assert!((outputs[[0, 0]] - (1.0 / count - 1.0) / 4.0 / guessing).abs() < 1e-6, "{classes} classes");
        }
    }

    #[test]
    fn training_is_the_same_from_the_same_seed_at_any_number_of_threads() {
        let x = vectors();
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let settings = RelevanceTraining { epochs: 2, ..settings() };
                let shape = Some(AdapterShape::default());
                train_relevance(&trunk(&x), x.view(), &tasks(&x), shape, &settings, &Silent).unwrap().1
            })
        };
        assert_eq!(run(1), run(3));
    }

    #[test]
    fn bad_input_is_refused_with_its_name() {
        let x = vectors();
        let start = trunk(&x);
        let refused = |change: fn(&mut Vec<RelevanceTask>, &mut RelevanceTraining)| {
            let (mut tasks, mut settings) = (tasks(&x), settings());
            change(&mut tasks, &mut settings);
            train_relevance(&start, x.view(), &tasks, None, &settings, &Silent).unwrap_err().to_string()
        };
        assert!(refused(|tasks, _| tasks[1].train[3].a = 600).contains("\"sign-0-true\": text 600"));
        assert!(refused(|tasks, _| tasks[3].valid[3].b = Some(700)).contains("Some(700) does not exist"));
        assert!(refused(|tasks, _| tasks[0].train[0].label = 2.0).contains("the label 2 is no class"));
        assert!(refused(|tasks, _| tasks[3].train[0].label = f32::NAN).contains("label NaN"));
        assert!(refused(|tasks, _| tasks[0].target = Target::Classes(vec!["0".into()])).contains("two or more"));
        assert!(refused(|tasks, _| tasks[2].train.clear()).contains("it needs rows to train on"));
        assert!(refused(|tasks, _| tasks[1].name = "close".into()).contains("repeated"));
        assert!(refused(|_, settings| settings.epochs = 0).contains("invalid epochs: 0"));
        assert!(refused(|_, settings| settings.widths.clear()).contains("invalid widths: []"));
        assert!(refused(|_, settings| settings.rate = f32::INFINITY).contains("invalid rate: inf"));
        let alone = &tasks(&x)[..1];
        let message = pretrain(x.view(), alone, &settings(), &Silent).unwrap_err().to_string();
        assert!(message.contains("nothing to learn"), "{message}");
        let narrow = x.slice(ndarray::s![.., ..4]).to_owned();
        let message =
            train_relevance(&start, narrow.view(), &tasks(&x), None, &settings(), &Silent).unwrap_err().to_string();
        assert!(message.contains("expected 8, found 4"), "{message}");
    }
}
