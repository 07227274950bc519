//! Learned routing: a matrix `W` (L x d) that says which lists a query should probe.
//!
//! Documents are put into the list of the nearest centroid; whether that centroid is also the best sign for a *query* is
//! another matter, above all where queries are distributed unlike documents. `W` starts at the centroids and is trained by
//! cross-entropy between `softmax(W q / tau)` and the share that each list holds of the query's right answers: its labelled
//! documents, its exact nearest ones, or both. Probing costs the same; where lists are scored (`<q, o>`) centroids stay.
//! (The settings are ours; the idea of learning to choose lists from queries is in Distill-VQ, SIGIR 2022, and in
//! "learning to route", e.g. Vecchiato et al., SIGIR 2024.)

use ndarray::{Array2, ArrayView2};
use serde::{Deserialize, Serialize};

use super::Watch;
use super::examples::select;
use super::loss::list_net;
use super::optimiser::{Parameter, Schedule, check_divergence};
use crate::error::{Error, Result};
use crate::linalg::blocked;
use crate::sample::Rng;
use crate::types::ListId;

/// How a router is trained. As a section of a file of settings it has the fields that are not skipped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RouterTraining {
    /// Passes over the queries.
    pub epochs: usize,
    /// Queries of a batch.
    pub batch: usize,
    /// Routing scores are divided by it.
    pub temperature: f32,
    /// Learning rate, in units of the centroids' root mean square.
    pub rate: f32,
    /// Epochs without a better validation loss before training stops.
    pub patience: usize,
    /// Of the order of queries.
    #[serde(skip)]
    pub seed: u64,
}

impl Default for RouterTraining {
    fn default() -> Self {
        RouterTraining { epochs: 20, batch: 512, temperature: 0.02, rate: 0.03, patience: 3, seed: 1 }
    }
}

/// Queries with the lists that hold their right answers.
#[derive(Debug, Clone, Copy)]
pub struct Routes<'a> {
    /// n x d, as probing sees them: mapped by the query head of the codes, if there is one.
    pub queries: ArrayView2<'a, f32>,
    /// For each query its lists, with the weight of each; the weights of a query sum to 1.
    pub lists: &'a [Vec<(ListId, f32)>],
}

/// Trains a router that starts from `centroids` (L x d): the one with the least loss on `valid`.
///
/// # Errors
/// `InvalidParams` where there is nothing to train on or for values that cannot train; `Diverged`.
pub fn train_router(
    centroids: ArrayView2<'_, f32>,
    train: Routes<'_>,
    valid: Routes<'_>,
    settings: &RouterTraining,
    watch: &dyn Watch,
) -> Result<Array2<f32>> {
    let n = train.queries.nrows();
    if n == 0 || valid.queries.nrows() == 0 {
        return Err(Error::params("queries", "none to train routing on, or none to validate it; give more queries"));
    }
    let sound = |v: f32| v.is_finite() && v > 0.0;
    if settings.epochs == 0 || settings.batch == 0 || !sound(settings.temperature) || !sound(settings.rate) {
        return Err(Error::params("routing", "epochs, batch, temperature and rate must be above 0"));
    }
    let mean_square = centroids.iter().map(|v| v * v).sum::<f32>() / centroids.len().max(1) as f32;
    let mut w = Parameter::new(centroids.to_owned(), mean_square.sqrt() * settings.rate);
    let total = (n.div_ceil(settings.batch) * settings.epochs) as u64;
    let schedule = Schedule { warmup: (total / 10).max(1), total, clip: 1.0 };
    watch.begin("train routing", total);
    let valid_rows: Vec<u32> = (0..valid.queries.nrows() as u32).collect();
    let mut best = (loss_and_gradient(&w.value, valid, &valid_rows, settings.temperature).0, w.value.clone());
    let mut rows: Vec<u32> = (0..n as u32).collect();
    let (mut step, mut stale) = (0, 0);
    for epoch in 0..settings.epochs {
        Rng::stream(settings.seed, epoch as u64).shuffle(&mut rows);
        for rows in rows.chunks(settings.batch) {
            watch.check()?;
            let (loss, gradient) = loss_and_gradient(&w.value, train, rows, settings.temperature);
            w.gradient = gradient;
            let norm = schedule.step(step, &mut [&mut w]);
            check_divergence(step, loss, norm, centroids.nrows())?;
            step += 1;
            watch.advance(1);
        }
        let loss = loss_and_gradient(&w.value, valid, &valid_rows, settings.temperature).0;
        watch.note(&format!("routing, epoch {}: validation loss {loss:.4}", epoch + 1));
        stale = if loss < best.0 { 0 } else { stale + 1 };
        if stale == 0 {
            best = (loss, w.value.clone());
        } else if stale >= settings.patience {
            break;
        }
    }
    Ok(best.1)
}

/// The loss of some queries, and its gradient with respect to `w`.
fn loss_and_gradient(w: &Array2<f32>, routes: Routes<'_>, rows: &[u32], temperature: f32) -> (f32, Array2<f32>) {
    let q = select(routes.queries, rows.iter().copied());
    let mut scores = blocked::nt(q.view(), w.view()) / temperature;
    let mut targets = Array2::zeros(scores.dim());
    for (mut target, &row) in targets.rows_mut().into_iter().zip(rows) {
        routes.lists[row as usize].iter().for_each(|&(list, weight)| target[list as usize] += weight);
    }
    let loss = list_net(&mut scores, targets.view());
    let mut gradient = Array2::zeros(w.dim());
    blocked::add_tn(&mut gradient, 1.0 / temperature, scores.view(), q.view());
    (loss, gradient)
}

/// Shares of the lists in a query's right answers: each of `answers` counts alike.
pub fn shares(answers: impl IntoIterator<Item = ListId>) -> Vec<(ListId, f32)> {
    let mut lists: Vec<ListId> = answers.into_iter().collect();
    lists.sort_unstable();
    let each = 1.0 / lists.len().max(1) as f32;
    lists.chunk_by(|a, b| a == b).map(|same| (same[0], same.len() as f32 * each)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::Silent;

    /// How much of the right answers lies in the `nprobe` lists that `w` ranks first, on average over the queries.
    fn coverage(w: ArrayView2<'_, f32>, routes: Routes<'_>, nprobe: usize) -> f32 {
        let scores = blocked::nt(routes.queries, w);
        let mut total = 0.0;
        for (scores, lists) in scores.rows().into_iter().zip(routes.lists) {
            let above = |score: f32| scores.iter().filter(|&&s| s > score).count();
            total += lists.iter().filter(|(l, _)| above(scores[*l as usize]) < nprobe).map(|(_, w)| w).sum::<f32>();
        }
        total / routes.lists.len().max(1) as f32
    }

    /// Queries point at the centroid *after* the one that holds their answer.
    fn shifted(n: usize, seed: u64) -> (Array2<f32>, Vec<Vec<(ListId, f32)>>) {
        let mut rng = Rng::new(seed);
        let mut queries = Array2::zeros((n, 8));
        let lists = (0..n)
            .map(|i| {
                let list = i % 8;
                (0..8).for_each(|j| queries[[i, j]] = 0.2 * rng.normal());
                queries[[i, (list + 1) % 8]] += 1.0;
                vec![(list as ListId, 1.0)]
            })
            .collect();
        (queries, lists)
    }

    #[test]
    fn learns_where_queries_are_distributed_unlike_documents() {
        let ((q, lists), (vq, vlists)) = (shifted(600, 1), shifted(200, 2));
        let (train, valid) =
            (Routes { queries: q.view(), lists: &lists }, Routes { queries: vq.view(), lists: &vlists });
        let centroids = Array2::eye(8);
        let settings = RouterTraining { rate: 0.1, temperature: 0.2, ..RouterTraining::default() };
        let w = train_router(centroids.view(), train, valid, &settings, &Silent).unwrap();
        let (before, after) = (coverage(centroids.view(), valid, 1), coverage(w.view(), valid, 1));
        assert!(before < 0.1 && after > 0.9, "{before} {after}");
    }

    #[test]
    fn the_gradient_is_that_of_finite_differences() {
        let (q, lists) = shifted(12, 3);
        let routes = Routes { queries: q.view(), lists: &lists };
        let rows: Vec<u32> = (0..12).collect();
        let w = Array2::from_shape_fn((8, 8), |(i, j)| ((i * 3 + j) % 5) as f32 * 0.1);
        let gradient = loss_and_gradient(&w, routes, &rows, 0.5).1;
        for at in [(0, 0), (3, 5), (7, 7)] {
            let loss = |by: f32| {
                let mut w = w.clone();
                w[at] += by;
                f64::from(loss_and_gradient(&w, routes, &rows, 0.5).0)
            };
            let numeric = (loss(0.01) - loss(-0.01)) / 0.02;
            assert!((numeric - f64::from(gradient[at])).abs() < 1e-3, "{numeric} {}", gradient[at]);
        }
    }

    #[test]
    fn shares_sum_to_one() {
        assert_eq!(shares([4, 2, 4, 4]), [(2, 0.25), (4, 0.75)]);
        assert!(shares([]).is_empty());
    }
}
