//! Training of query adapters: InfoNCE of several tasks against the same document vectors.
//!
//! A batch mixes the tasks. Its columns are the documents of all its pairs, and some random ones: one index will hold the documents of
//! every task, so those of the others are negatives, too. A document that is known to be relevant to a query is left out of its row.

use ndarray::{Array2, ArrayView2, Axis, concatenate};
use serde::{Deserialize, Serialize};

use super::course::{Course, Epoch, Pace, follow, shares};
use super::query::QueryAdapters;
use super::{AdapterShape, TaskNames, TaskRows};
use crate::error::{Error, Result};
use crate::linalg::blocked;
use crate::sample::Rng;
use crate::train::batch::{Batch, epoch_pairs};
use crate::train::examples::select;
use crate::train::head::{normalise_rows, through_normalise};
use crate::train::loss::{MASKED, info_nce};
use crate::train::optimiser::Parameter;
use crate::train::{Example, Silent, Watch, nearest};

/// Depth of the recall that training is judged by.
const DEPTH: usize = 10;
/// Validation queries of a task.
const JUDGED: usize = 500;

/// How query adapters are trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueryTraining {
    /// Size of the adapter, and what tasks share.
    #[serde(skip)]
    pub shape: AdapterShape,
    /// Whether mapped queries are scaled to unit length, as the cosine asks for.
    pub normalise: bool,
    /// Passes; each draws as many pairs as there are training queries.
    pub epochs: usize,
    /// Queries of a batch.
    pub batch: usize,
    /// Random documents added to every batch.
    pub negatives: usize,
    /// A task of n training queries is drawn in proportion to `n ^ balance`: 1 as they are, 0 all alike.
    pub balance: f32,
    /// Scores are divided by it.
    pub score_temperature: f32,
    /// Highest learning rate.
    pub rate: f32,
    /// The rate of what is a task's own and shared with none (`Lambda`, `w`), as a share of `rate`.
    pub own_rate: f32,
    /// Share of the steps in which the learning rate grows.
    pub warmup: f32,
    /// Largest norm of a gradient.
    pub clip: f32,
    /// Epochs without a better validation recall before training stops.
    pub patience: usize,
    /// Of every random choice.
    #[serde(skip)]
    pub seed: u64,
}

impl Default for QueryTraining {
    fn default() -> Self {
        QueryTraining {
            shape: AdapterShape::default(),
            normalise: true,
            epochs: 8,
            batch: 512,
            negatives: 512,
            balance: 0.5,
            score_temperature: 0.03,
            rate: 1e-3,
            own_rate: 1.0,
            warmup: 0.1,
            clip: 1.0,
            patience: 3,
            seed: 1,
        }
    }
}

impl QueryTraining {
    /// Refuses values that nothing can be trained with.
    ///
    /// # Errors
    /// `InvalidParams`, naming the value and its range.
    pub fn check(&self) -> Result<()> {
        self.shape.check()?;
        if self.epochs == 0 || self.batch < 2 {
            let (name, value) = if self.epochs == 0 { ("epochs", 0) } else { ("batch", self.batch) };
            return Err(Error::params(name, format!("{value}; epochs must be at least 1 and batches at least 2")));
        }
        let positive = [("score_temperature", self.score_temperature), ("rate", self.rate), ("clip", self.clip)];
        if let Some((name, value)) = positive.into_iter().find(|(_, v)| !v.is_finite() || *v <= 0.0) {
            return Err(Error::params(name, format!("{value}; it must be above 0")));
        }
        for (name, value) in [("balance", self.balance), ("warmup", self.warmup), ("own_rate", self.own_rate)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(Error::params(name, format!("{value}; give 0 to 1")));
            }
        }
        Ok(())
    }
}

/// Queries of one task and the documents that answer them.
#[derive(Debug, Clone)]
pub struct QueryTask {
    /// Its name.
    pub name: String,
    /// n x d, C order; unit length under the cosine.
    pub queries: Array2<f32>,
    /// Pairs to learn from: rows of `queries`, and of the documents that all tasks share.
    pub train: Vec<Example>,
    /// Pairs to choose the best epoch by.
    pub valid: Vec<Example>,
}

/// Trains adapters over `documents` (n x d, C order); returns those of the epoch that was best on the validation queries, which
/// may be the start, and the course of training.
///
/// # Errors
/// `InvalidParams` for settings or pairs that cannot be; `Mismatch` for queries of another dimension; `Diverged`.
pub fn train_query_adapters(
    documents: ArrayView2<'_, f32>,
    tasks: &[QueryTask],
    settings: &QueryTraining,
    watch: &dyn Watch,
) -> Result<(QueryAdapters, Vec<Epoch>)> {
    settings.check()?;
    let names = TaskNames::new(tasks.iter().map(|task| task.name.clone()).collect())?;
    tasks.iter().try_for_each(|task| check_task(task, documents))?;
    let mut adapters = QueryAdapters::new(names, documents.ncols(), settings.shape, settings.normalise, settings.seed)?;
    adapters.adapter.set_rates(settings.rate, settings.rate * settings.own_rate, 0.0);
    let &QueryTraining { epochs, batch, warmup, clip, patience, .. } = settings;
    let pace = Pace { epochs, batch, warmup, clip, patience };
    follow(&Training::new(documents, tasks, settings)?, adapters, pace, "train adapters", watch)
}

/// Mean over the queries (n x d) of the share of their relevant documents that are among the `k` of the highest inner product;
/// where a query has more than `k`, finding `k` of them is all. Queries without any do not count.
///
/// # Errors
/// None that can come: nobody stops the search for neighbours.
pub fn recall_at_ten(
    queries: ArrayView2<'_, f32>,
    documents: ArrayView2<'_, f32>,
    relevant: &[Vec<u32>],
) -> Result<f32> {
    let found = nearest(queries, documents, DEPTH, &Silent)?;
    let (mut sum, mut count) = (0f64, 0u32);
    for (found, relevant) in found.iter().zip(relevant).filter(|(_, relevant)| !relevant.is_empty()) {
        let hits = found.iter().filter(|row| relevant.contains(row)).count();
        sum += hits as f64 / relevant.len().min(DEPTH) as f64;
        count += 1;
    }
    Ok((sum / f64::from(count.max(1))) as f32)
}

fn check_task(task: &QueryTask, documents: ArrayView2<'_, f32>) -> Result<()> {
    if task.queries.ncols() != documents.ncols() {
        let what = format!("dimension of the queries of task {}", task.name);
        return Err(Error::mismatch(what, documents.ncols(), task.queries.ncols()));
    }
    for (name, pairs) in [("train", &task.train), ("valid", &task.valid)] {
        if pairs.is_empty() {
            let reason = format!("task {:?} has none; give pairs of queries and their documents", task.name);
            return Err(Error::params(name, reason));
        }
        let outside =
            |p: &&Example| p.query as usize >= task.queries.nrows() || p.document as usize >= documents.nrows();
        if let Some(p) = pairs.iter().find(outside) {
            let reason = format!("task {:?}: query {} or document {} does not exist", task.name, p.query, p.document);
            return Err(Error::params(name, reason));
        }
    }
    Ok(())
}

/// The pairs of all tasks; queries are numbered through.
struct Training<'a> {
    documents: ArrayView2<'a, f32>,
    settings: &'a QueryTraining,
    queries: Array2<f32>,
    /// The task of each query.
    task_of: Vec<usize>,
    /// Training pairs of each task.
    train: Vec<Vec<Example>>,
    /// Documents that are known to be relevant, of each query.
    positives: Vec<Vec<u32>>,
    /// Of each task: validation queries, and what is relevant to them.
    valid: Vec<(Vec<u32>, Vec<Vec<u32>>)>,
}

impl<'a> Training<'a> {
    fn new(documents: ArrayView2<'a, f32>, tasks: &[QueryTask], settings: &'a QueryTraining) -> Result<Training<'a>> {
        let views: Vec<_> = tasks.iter().map(|task| task.queries.view()).collect();
        let queries = concatenate(Axis(0), &views).map_err(|error| Error::params("queries", error.to_string()))?;
        let mut task_of = Vec::new();
        let mut positives = vec![Vec::new(); queries.nrows()];
        let (mut train, mut valid) = (Vec::new(), Vec::new());
        for (number, task) in tasks.iter().enumerate() {
            let first = task_of.len() as u32;
            let moved = |pairs: &[Example]| -> Vec<Example> {
                pairs.iter().map(|p| Example { query: first + p.query, ..*p }).collect()
            };
            for pair in moved(&task.train).iter().chain(&moved(&task.valid)) {
                positives[pair.query as usize].push(pair.document);
            }
            train.push(moved(&task.train));
            valid.push(judged(&moved(&task.valid), settings.seed));
            task_of.resize(task_of.len() + task.queries.nrows(), number);
        }
        Ok(Training { documents, settings, queries, task_of, train, positives, valid })
    }
}

impl Course for Training<'_> {
    type Model = QueryAdapters;
    type Draw = Example;

    /// Pairs in random order: as many as there are training queries, shared among the tasks.
    fn draws(&self, epoch: u64) -> Vec<Example> {
        let seed = self.settings.seed;
        let once: Vec<usize> = self.train.iter().map(|pairs| epoch_pairs(pairs, seed, epoch << 16).len()).collect();
        let mut drawn = Vec::new();
        for (task, share) in shares(&once, self.settings.balance).into_iter().enumerate() {
            let turns = share.div_ceil(once[task]) as u64;
            let pairs = (0..turns).flat_map(|turn| epoch_pairs(&self.train[task], seed, epoch << 16 | turn));
            drawn.extend(pairs.take(share));
        }
        Rng::stream(seed ^ 0x71a5, epoch).shuffle(&mut drawn);
        drawn
    }

    fn learn(&self, adapters: &mut QueryAdapters, pairs: &[Example], step: u64) -> (f32, usize) {
        let tau = self.settings.score_temperature;
        let mut pairs = pairs.to_vec();
        pairs.sort_by_key(|pair| self.task_of[pair.query as usize]);
        let tasks: Vec<usize> = pairs.iter().map(|pair| self.task_of[pair.query as usize]).collect();
        let (rows, _) = TaskRows::sort(&tasks, self.train.len()).expect("tasks are numbered here");
        let mut rng = Rng::stream(self.settings.seed ^ 0xba7c4, step);
        let random = (0..self.settings.negatives).map(|_| rng.below(self.documents.nrows() as u64) as u32);
        let batch = Batch::new(&pairs, random.collect(), &self.positives);
        let x = select(self.queries.view(), batch.queries.iter().copied());
        let v = select(self.documents, batch.columns.iter().copied());
        let identity = Array2::eye(x.ncols());
        let mut pass = adapters.adapter.forward(identity.view(), x.view(), &rows);
        let norms = if adapters.normalise { normalise_rows(&mut pass.output) } else { Vec::new() };
        let mut g = blocked::nt(pass.output.view(), v.view()) / tau;
        batch.masked.iter().for_each(|&at| g[at] = MASKED);
        let loss = info_nce(&mut g, &batch.own);
        let mut dh = blocked::nn(g.view(), v.view()) / tau;
        if adapters.normalise {
            through_normalise(&pass.output, &norms, &mut dh);
        }
        adapters.adapter.backward(identity.view(), x.view(), &rows, &pass, &dh, false);
        (loss, batch.columns.len())
    }

    fn parameters<'m>(&self, adapters: &'m mut QueryAdapters) -> Vec<&'m mut Parameter> {
        adapters.adapter.parameters()
    }

    fn judged(&self) -> Vec<usize> {
        self.valid.iter().map(|(queries, _)| queries.len()).collect()
    }

    /// Recall of each task's validation queries.
    fn judge(&self, adapters: &QueryAdapters) -> Result<Vec<f32>> {
        let names = adapters.tasks.names();
        let recall = |(name, (queries, relevant)): (&String, &(Vec<u32>, Vec<Vec<u32>>))| {
            let mapped = adapters.merge(name)?.apply_rows(select(self.queries.view(), queries.iter().copied()).view());
            recall_at_ten(mapped.view(), self.documents, relevant)
        };
        names.iter().zip(&self.valid).map(recall).collect()
    }
}

/// At most [`JUDGED`] queries of these pairs, with what is relevant to each.
fn judged(pairs: &[Example], seed: u64) -> (Vec<u32>, Vec<Vec<u32>>) {
    let mut chosen = epoch_pairs(pairs, seed, u64::MAX);
    chosen.truncate(JUDGED);
    let queries: Vec<u32> = chosen.iter().map(|pair| pair.query).collect();
    let of = |query: &u32| pairs.iter().filter(|p| p.query == *query).map(|p| p.document).collect();
    let relevant = queries.iter().map(of).collect();
    (queries, relevant)
}

#[cfg(test)]
mod tests {
    use super::super::Method;
    use super::*;
    use crate::linalg::normalise;

    const DIM: usize = 16;

    fn unit(rows: usize, rng: &mut Rng) -> Array2<f32> {
        let mut x = Array2::from_shape_fn((rows, DIM), |_| rng.normal());
        x.rows_mut().into_iter().for_each(|mut row| {
            normalise(row.as_slice_mut().unwrap());
        });
        x
    }

    /// Tasks that want opposite things: each turns the first elements of its queries in another way.
    fn tasks(documents: &Array2<f32>) -> Vec<QueryTask> {
        let task = |number: usize| {
            let mut queries = documents.clone();
            for mut row in queries.rows_mut() {
                row[2 * number] *= -1.0;
                row[2 * number + 1] *= -1.0;
            }
            let pair = |i: u32| Example { query: i, document: i };
            let (train, valid) = ((0..300).map(pair).collect(), (300..400).map(pair).collect());
            QueryTask { name: format!("flip-{number}"), queries, train, valid }
        };
        (0..3).map(task).collect()
    }

    fn settings(method: Method) -> QueryTraining {
        let shape = AdapterShape { method, rank: 6, alpha: 6.0, ups: 2, temperature: 0.5 };
        QueryTraining {
            shape,
            epochs: 30,
            batch: 64,
            negatives: 64,
            rate: 2e-2,
            patience: 30,
            ..QueryTraining::default()
        }
    }

    #[test]
    fn adapters_of_tasks_that_disagree_learn_what_one_adapter_for_all_cannot() {
        let documents = unit(400, &mut Rng::new(1));
        let run = |method| {
            let (_, curve) =
                train_query_adapters(documents.view(), &tasks(&documents), &settings(method), &Silent).unwrap();
            (curve[0].mean, curve.iter().map(|epoch| epoch.mean).fold(0.0, f32::max))
        };
        let (start, mtl) = run(Method::MtlLora);
        let (_, lora) = run(Method::Lora);
        assert!(mtl > lora + 0.02 && lora >= start, "start {start}, plain {lora}, by task {mtl}");
    }

    #[test]
    fn training_is_the_same_from_the_same_seed_at_any_number_of_threads() {
        let documents = unit(400, &mut Rng::new(1));
        let settings = QueryTraining { epochs: 2, ..settings(Method::MtlLora) };
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| train_query_adapters(documents.view(), &tasks(&documents), &settings, &Silent).unwrap())
        };
        let ((one, first), (three, second)) = (run(1), run(3));
        assert_eq!(first, second);
        assert_eq!(one.merge("flip-1").unwrap(), three.merge("flip-1").unwrap());
    }

    #[test]
    fn bad_input_is_refused_with_its_name() {
        let documents = unit(400, &mut Rng::new(1));
        let refused = |change: fn(&mut Vec<QueryTask>, &mut QueryTraining)| {
            let (mut tasks, mut settings) = (tasks(&documents), settings(Method::MtlLora));
            change(&mut tasks, &mut settings);
            train_query_adapters(documents.view(), &tasks, &settings, &Silent).unwrap_err().to_string()
        };
        assert!(refused(|tasks, _| tasks[1].train[0].document = 400).contains("\"flip-1\": query 0 or document 400"));
        assert!(refused(|tasks, _| tasks[2].valid.clear()).contains("invalid valid: task \"flip-2\""));
        assert!(refused(|tasks, _| tasks[0].queries = Array2::zeros((400, 3))).contains("task flip-0"));
        assert!(refused(|tasks, _| tasks[0].name = "flip-1".into()).contains("repeated"));
        assert!(refused(|tasks, _| tasks.clear()).contains("there are none"));
        assert!(refused(|_, settings| settings.batch = 1).contains("invalid batch: 1"));
        assert!(refused(|_, settings| settings.balance = 2.0).contains("invalid balance: 2"));
        assert!(refused(|_, settings| settings.own_rate = -1.0).contains("invalid own_rate: -1"));
        assert!(refused(|_, settings| settings.rate = 0.0).contains("invalid rate: 0"));
    }

    #[test]
    fn recall_counts_what_can_be_found() {
        let documents = Array2::eye(30);
        let queries = Array2::from_shape_fn((2, 30), |(_, j)| 1.0 / (j + 1) as f32);
        let relevant = vec![vec![0, 5, 20, 25], (0..20).collect()];
        assert_eq!(recall_at_ten(queries.view(), documents.view(), &relevant).unwrap(), 0.75);
        assert_eq!(recall_at_ten(queries.view(), documents.view(), &[vec![], vec![29]]).unwrap(), 0.0);
    }
}
