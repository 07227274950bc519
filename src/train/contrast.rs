//! A pair of heads from ranked candidates: for each query one document that served it best, and some that served it worst.
//!
//! Loss: InfoNCE of `<g(q), f(d)> / tau` over the query's positive, its own hard negatives, documents of other tasks drawn at
//! random, and all columns of the other queries of the batch (UPRISE, 2303.08518). A column of a row's own task that was not
//! ranked for it says nothing about it and is left out.
//!
//! With [`Contrasts::ranked_only`] nothing but what was ranked for a query is a column of it. Columns of other queries tell tasks
//! apart, which serves a query of a known task; but a document that served many queries is then a negative of all others, and that
//! some documents serve nearly everyone cannot be learned. [`Learned::Direction`] learns just that: `<q + b, d>` holds `<b, d>`, which is
//! the same for every query. It has as many values as a vector, where maps have its square, and nothing in it that knows tasks by heart.

use ndarray::{Array2, ArrayView2};

use super::Watch;
use super::dense::DenseTraining;
use super::examples::select;
use super::head::{self, TrainedHead};
use super::loss::{MASKED, info_nce};
use super::optimiser::{Schedule, check_divergence};
use crate::error::{Error, Result};
use crate::heads::Head;
use crate::linalg::blocked;
use crate::sample::Rng;
use crate::types::Metric;

/// A query with what served it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contrast {
    /// Row of the query.
    pub query: u32,
    /// Its task.
    pub task: u32,
    /// Row of the document that served it best.
    pub positive: u32,
    /// Rows of documents that served it worst.
    pub hard: Vec<u32>,
}

/// What [`train_contrast`] learns from.
#[derive(Debug, Clone)]
pub struct Contrasts<'a> {
    /// n x d, of unit length under cosine.
    pub queries: ArrayView2<'a, f32>,
    /// m x d.
    pub documents: ArrayView2<'a, f32>,
    /// The task of each document.
    pub tasks: &'a [u32],
    /// To learn from.
    pub train: &'a [Contrast],
    /// To stop by.
    pub valid: &'a [Contrast],
    /// Documents of other tasks drawn for each query of a batch.
    pub others: usize,
    /// Whether only what was ranked for a query is compared for it; `others` does not count then.
    pub ranked_only: bool,
    /// What is learned.
    pub learned: Learned,
}

/// What [`train_contrast`] learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learned {
    /// A map of queries and one of documents.
    Maps,
    /// A direction that is added to all queries.
    Direction,
}

/// What an epoch came to; epoch 0 is the start.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct ContrastEpoch {
    /// Passes so far.
    pub epoch: usize,
    /// Mean loss of its steps.
    pub loss: f32,
    /// Loss on what is not learned from.
    pub valid: f32,
}

/// The heads of the epoch with the lowest validation loss, for queries and documents, and all epochs.
///
/// `settings` decide as in [`super::train_dense`], but for `dim`, `negatives` and `sampling`, which do not apply; neither do `hidden` and
/// `decay` to a direction.
///
/// # Errors
/// `InvalidParams` for settings, or where nothing is to be learned or stopped by; `Mismatch` for sizes that do not fit; `Diverged`.
pub fn train_contrast(
    set: &Contrasts<'_>,
    settings: &DenseTraining,
    watch: &dyn Watch,
) -> Result<(Head, Head, Vec<ContrastEpoch>)> {
    check(set, settings)?;
    let mut rng = Rng::stream(settings.seed, 0xc0_27a5);
    let (dim, normalise) = (set.queries.ncols(), settings.metric == Metric::Cosine);
    let mut map = || {
        let head = head::start(Array2::eye(dim), settings.hidden, normalise, &mut rng);
        TrainedHead::new(&head, settings.rate, settings.decay)
    };
    let direction = |rate| TrainedHead::direction(dim, normalise, rate);
    let mut pair = match set.learned {
        Learned::Maps => Pair { query: map(), document: map() },
        Learned::Direction => Pair { query: direction(Some(settings.rate)), document: direction(None) },
    };
    let total = (set.train.len().div_ceil(settings.batch) * settings.epochs) as u64;
    let warmup = ((total as f32 * settings.warmup) as u64).max(1);
    let schedule = Schedule { warmup, total, clip: settings.clip };
    watch.begin("tune heads", total);
    let valid = |pair: &mut Pair| valid_loss(pair, set, settings);
    let mut curve = vec![ContrastEpoch { epoch: 0, loss: 0.0, valid: valid(&mut pair) }];
    let (mut best, mut best_at, mut step) = (pair.clone(), 0, 0);
    let mut order: Vec<&Contrast> = set.train.iter().collect();
    for epoch in 1..=settings.epochs {
        let mut rng = Rng::stream(settings.seed, epoch as u64);
        rng.shuffle(&mut order);
        let mut sum = 0.0;
        for rows in order.chunks(settings.batch) {
            watch.check()?;
            let batch = Columns::new(rows, set, &mut rng);
            let loss = pair.step(&batch, set, settings.score_temperature);
            let mut parameters = pair.query.parameters();
            parameters.extend(pair.document.parameters());
            let norm = schedule.step(step, &mut parameters);
            check_divergence(step, loss, norm, batch.columns.len())?;
            (sum, step) = (sum + loss * rows.len() as f32, step + 1);
            watch.advance(1);
        }
        let (loss, valid) = (sum / order.len() as f32, valid(&mut pair));
        watch.note(&format!("epoch {epoch}: loss {loss:.3}, on what is not learned from {valid:.3}"));
        curve.push(ContrastEpoch { epoch, loss, valid });
        if valid < curve[best_at].valid {
            (best, best_at) = (pair.clone(), epoch);
        } else if epoch - best_at >= settings.patience {
            break;
        }
    }
    Ok((best.query.head(), best.document.head(), curve))
}

fn check(set: &Contrasts<'_>, settings: &DenseTraining) -> Result<()> {
    settings.check(set.queries.ncols())?;
    if set.documents.ncols() != set.queries.ncols() {
        return Err(Error::mismatch("dimension of the queries", set.documents.ncols(), set.queries.ncols()));
    }
    if set.tasks.len() != set.documents.nrows() {
        return Err(Error::mismatch("tasks of the documents", set.documents.nrows(), set.tasks.len()));
    }
    if set.train.is_empty() || set.valid.is_empty() {
        let reason = format!("{} rows to learn from and {} to stop by", set.train.len(), set.valid.len());
        return Err(Error::params("contrasts", format!("{reason}; score more inputs")));
    }
    let (queries, documents) = (set.queries.nrows(), set.documents.nrows());
    for row in set.train.iter().chain(set.valid) {
        let rows = row.hard.iter().chain([&row.positive]);
        if row.query as usize >= queries || rows.clone().any(|&d| d as usize >= documents) {
            let reason = format!("{row:?} is beyond {queries} queries or {documents} documents");
            return Err(Error::params("contrasts", reason));
        }
    }
    Ok(())
}

/// The mean loss of the validation rows, always with the same columns.
fn valid_loss(pair: &mut Pair, set: &Contrasts<'_>, settings: &DenseTraining) -> f32 {
    let mut rng = Rng::stream(settings.seed, u64::MAX);
    let rows: Vec<&Contrast> = set.valid.iter().collect();
    let mut sum = 0.0;
    for rows in rows.chunks(settings.batch) {
        let batch = Columns::new(rows, set, &mut rng);
        sum += pair.clone().step(&batch, set, settings.score_temperature) * rows.len() as f32;
    }
    sum / set.valid.len() as f32
}

/// The rows and columns of a step.
struct Columns {
    queries: Vec<u32>,
    columns: Vec<u32>,
    /// The column of each row's positive.
    own: Vec<usize>,
    masked: Vec<(usize, usize)>,
}

impl Columns {
    fn new(rows: &[&Contrast], set: &Contrasts<'_>, rng: &mut Rng) -> Columns {
        let mut out = Columns { queries: Vec::new(), columns: Vec::new(), own: Vec::new(), masked: Vec::new() };
        let mut ends = Vec::new();
        for row in rows {
            out.queries.push(row.query);
            out.own.push(out.columns.len());
            out.columns.push(row.positive);
            out.columns.extend(&row.hard);
            ends.push(out.columns.len());
            // What is drawn from the own task is masked below, as if it had not been drawn.
            let others = if set.ranked_only { 0 } else { set.others };
            out.columns.extend((0..others).map(|_| rng.below(set.documents.nrows() as u64) as u32));
        }
        for (at, row) in rows.iter().enumerate() {
            let ranked = out.own[at]..ends[at];
            let own_task = |column: usize| set.tasks[out.columns[column] as usize] == row.task;
            let strange = |&column: &usize| !ranked.contains(&column) && (set.ranked_only || own_task(column));
            out.masked.extend((0..out.columns.len()).filter(strange).map(|column| (at, column)));
        }
        out
    }
}

#[derive(Clone)]
struct Pair {
    query: TrainedHead,
    document: TrainedHead,
}

impl Pair {
    /// Adds the gradients of a batch; returns its loss.
    fn step(&mut self, batch: &Columns, set: &Contrasts<'_>, tau: f32) -> f32 {
        let query_input = select(set.queries, batch.queries.iter().copied());
        let document_input = select(set.documents, batch.columns.iter().copied());
        let query = self.query.forward(query_input.view());
        let document = self.document.forward(document_input.view());
        let mut g = blocked::nt(query.output.view(), document.output.view()) / tau;
        batch.masked.iter().for_each(|&at| g[at] = MASKED);
        let loss = info_nce(&mut g, &batch.own);
        let dq = blocked::nn(g.view(), document.output.view()) / tau;
        let mut dd = Array2::zeros(document.output.dim());
        blocked::add_tn(&mut dd, 1.0 / tau, g.view(), query.output.view());
        self.query.backward(query_input.view(), &query, dq);
        self.document.backward(document_input.view(), &document, dd);
        loss
    }
}

#[cfg(test)]
mod tests {
    use super::super::Silent;
    use super::super::dense::DenseTraining;
    use super::super::locality::Sampling;
    use super::*;
    use crate::linalg::normalise;

    fn unit(rows: usize, dim: usize, seed: u64) -> Array2<f32> {
        let mut rng = Rng::new(seed);
        let mut x = Array2::from_shape_fn((rows, dim), |_| rng.normal());
        x.rows_mut().into_iter().for_each(|mut row| {
            normalise(row.as_slice_mut().unwrap());
        });
        x
    }

    fn settings() -> DenseTraining {
        let defaults = DenseTraining::new(Metric::Cosine, Sampling::Random);
        DenseTraining { epochs: 30, batch: 16, rate: 3e-3, score_temperature: 0.1, patience: 30, ..defaults }
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let (queries, documents) = (unit(4, 5, 1), unit(12, 5, 2));
        let tasks: Vec<u32> = (0..12).map(|d| d / 4).collect();
        let train: Vec<Contrast> = (0..4)
            .map(|q| Contrast { query: q, task: q % 3, positive: q % 3 * 4, hard: vec![q % 3 * 4 + 1, q % 3 * 4 + 2] })
            .collect();
        let set = Contrasts {
            queries: queries.view(),
            documents: documents.view(),
            tasks: &tasks,
            train: &train,
            valid: &train,
            others: 2,
            ranked_only: false,
            learned: Learned::Maps,
        };
        let batch = Columns::new(&train.iter().collect::<Vec<_>>(), &set, &mut Rng::new(3));
        let start = |seed| TrainedHead::new(&head::start(unit(5, 5, seed), None, true, &mut Rng::new(1)), 0.1, 0.0);
        let mut pair = Pair { query: start(7), document: start(8) };
        let at = pair.clone();
        pair.step(&batch, &set, 0.5);
        for side in 0..2 {
            for i in 0..25 {
                let moved = |by: f32| {
                    let mut pair = at.clone();
                    let head = if side == 0 { &mut pair.query } else { &mut pair.document };
                    head.parameters()[0].value.as_slice_mut().unwrap()[i] += by;
                    f64::from(pair.step(&batch, &set, 0.5))
                };
                let numeric = (moved(1e-2) - moved(-1e-2)) / 2e-2;
                let head = if side == 0 { &mut pair.query } else { &mut pair.document };
                let analytic = f64::from(head.parameters()[0].gradient.as_slice().unwrap()[i]);
                assert!((numeric - analytic).abs() < 2e-3, "{side} {i}: {numeric} {analytic}");
            }
        }
    }

    #[test]
    fn columns_of_the_own_task_count_only_where_they_were_ranked() {
        let (queries, documents) = (unit(2, 5, 1), unit(6, 5, 2));
        let tasks = [0, 0, 0, 1, 1, 1];
        let train = [
            Contrast { query: 0, task: 0, positive: 0, hard: vec![1] },
            // What served it is of the other's task.
            Contrast { query: 1, task: 1, positive: 2, hard: vec![4] },
        ];
        let set = Contrasts {
            queries: queries.view(),
            documents: documents.view(),
            tasks: &tasks,
            train: &train,
            valid: &train,
            others: 3,
            ranked_only: false,
            learned: Learned::Maps,
        };
        let batch = Columns::new(&train.iter().collect::<Vec<_>>(), &set, &mut Rng::new(3));
        assert_eq!((batch.columns.len(), batch.own.clone()), (10, vec![0, 5]));
        for row in 0..2 {
            for column in 0..10 {
                let ranked = (row * 5..row * 5 + 2).contains(&column);
                let own_task = tasks[batch.columns[column] as usize] == row as u32;
                assert_eq!(batch.masked.contains(&(row, column)), own_task && !ranked, "{row} {column}");
            }
        }
        let ranked = Contrasts { ranked_only: true, ..set };
        let batch = Columns::new(&[&train[0], &train[1]], &ranked, &mut Rng::new(3));
        assert_eq!((batch.columns, batch.masked), (vec![0, 1, 2, 4], vec![(0, 2), (0, 3), (1, 0), (1, 1)]));
    }

    /// What serves a query lies beside its mirror image: heads must learn a map that the identity does not have.
    #[test]
    fn heads_learn_what_serves_and_a_seed_decides() {
        let queries = unit(120, 8, 1);
        let mut documents = unit(480, 8, 2);
        for (i, query) in queries.rows().into_iter().enumerate() {
            documents.row_mut(4 * i).assign(&query.mapv(|v| -v));
            documents.row_mut(4 * i + 1).assign(&query);
        }
        let tasks: Vec<u32> = (0..480).map(|d| d / 48).collect();
        let all: Vec<Contrast> = (0..120)
            .map(|q| Contrast {
                query: q,
                task: tasks[4 * q as usize],
                positive: 4 * q,
                hard: vec![4 * q + 1, 4 * q + 2],
            })
            .collect();
        let set = Contrasts {
            queries: queries.view(),
            documents: documents.view(),
            tasks: &tasks,
            train: &all[..100],
            valid: &all[100..],
            others: 4,
            ranked_only: false,
            learned: Learned::Maps,
        };
        let spec = DenseTraining { rate: 3e-2, score_temperature: 0.3, ..settings() };
        let run = |seed| train_contrast(&set, &DenseTraining { seed, ..spec.clone() }, &Silent).unwrap();
        let (query, document, curve) = run(1);
        let best = curve.iter().map(|epoch| epoch.valid).fold(f32::INFINITY, f32::min);
        assert!(best < 0.5 * curve[0].valid, "{curve:?}");
        let (q, d) = (query.apply_rows(queries.view()), document.apply_rows(documents.view()));
        let better = (100..120).filter(|&i| q.row(i).dot(&d.row(4 * i)) > q.row(i).dot(&d.row(4 * i + 1))).count();
        assert!(better >= 19, "{better} of 20");
        assert_eq!(run(1).0, query);
        assert_ne!(run(2).0, query);
    }

    #[test]
    fn bad_sets_are_refused() {
        let (queries, documents) = (unit(2, 5, 1), unit(6, 5, 2));
        let row = Contrast { query: 0, task: 0, positive: 0, hard: vec![9] };
        let set = Contrasts {
            queries: queries.view(),
            documents: documents.view(),
            tasks: &[0; 6],
            train: &[row],
            valid: &[],
            others: 1,
            ranked_only: false,
            learned: Learned::Maps,
        };
        let refused = |set: &Contrasts<'_>, text: &str| {
            let error = train_contrast(set, &settings(), &Silent).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        };
        refused(&set, "1 rows to learn from and 0 to stop by");
        refused(&Contrasts { valid: set.train, ..set.clone() }, "beyond 2 queries or 6 documents");
        refused(&Contrasts { tasks: &[0; 3], ..set.clone() }, "tasks of the documents");
    }
}
