//! The claim behind stage 2, on data made for it: what is learned from near negatives orders candidates better, what is learned
//! from random ones searches the whole corpus better (BiDR, WWW 2022, tables 2 and 7).

use ndarray::Array2;

use super::dense::{DenseTraining, train_dense};
use super::examples::{Example, Examples, select};
use super::locality::{Candidates, Sampling};
use super::validate::{ranks, recall_at};
use super::{Silent, nearest};
use crate::linalg::normalise;
use crate::sample::Rng;
use crate::types::Metric;

const NEIGHBOURHOODS: usize = 80;
const MEMBERS: usize = 25;
/// Dimensions that tell neighbourhoods apart, and dimensions that tell their members apart. Heads have room for neither all.
const GLOBAL: usize = 8;
const LOCAL: usize = 8;
const OUT: usize = 8;

/// Documents in neighbourhoods; queries see both kinds of dimensions through noise.
fn examples(seed: u64) -> Examples {
    let mut rng = Rng::new(seed);
    let n = NEIGHBOURHOODS * MEMBERS;
    let centers = Array2::from_shape_fn((NEIGHBOURHOODS, GLOBAL), |_| rng.normal());
    let mut documents = Array2::zeros((n, GLOBAL + LOCAL));
    let mut queries = documents.clone();
    for i in 0..n {
        for j in 0..GLOBAL + LOCAL {
            let value = match j < GLOBAL {
                true => centers[[i % NEIGHBOURHOODS, j]],
                false => rng.normal(),
            };
            documents[[i, j]] = value + 0.05 * rng.normal();
            queries[[i, j]] = value + 0.5 * rng.normal();
        }
    }
    for x in [&mut documents, &mut queries] {
        x.rows_mut().into_iter().for_each(|mut row| {
            normalise(row.as_slice_mut().unwrap());
        });
    }
    let pair = |i: usize| Example { query: i as u32, document: i as u32 };
    let (train, valid) = (0..n * 3 / 4, n * 3 / 4..n);
    Examples {
        documents,
        queries,
        train: train.map(pair).collect(),
        valid: valid.map(pair).collect(),
        known: Vec::new(),
    }
}

/// What codes that only know neighbourhoods return: the nearest documents by the global dimensions.
fn candidates(examples: &Examples) -> Candidates {
    let global = |x: &Array2<f32>| x.slice(ndarray::s![.., ..GLOBAL]).as_standard_layout().into_owned();
    let found = nearest(global(&examples.queries).view(), global(&examples.documents).view(), 2 * MEMBERS, &Silent);
    let without_own = |(query, found): (usize, Vec<u32>)| found.into_iter().filter(|&d| d != query as u32).collect();
    Candidates { by_query: found.unwrap().into_iter().enumerate().map(without_own).collect() }
}

/// Recall at 1 among the candidates, and at 10 over the whole corpus, of held-out queries.
fn recalls(examples: &Examples, candidates: &Candidates, sampling: Sampling) -> (f32, f32) {
    let settings = DenseTraining {
        dim: Some(OUT),
        epochs: 30,
        batch: 128,
        score_temperature: 0.05,
        rate: 5e-3,
        patience: 30,
        ..DenseTraining::new(Metric::Cosine, sampling)
    };
    let trained = train_dense(examples, Some(candidates), &settings, &Silent).unwrap();
    let queries =
        trained.query.apply_rows(select(examples.queries.view(), examples.valid.iter().map(|p| p.query)).view());
    let documents = trained.document.apply_rows(examples.documents.view());
    let own: Vec<u32> = examples.valid.iter().map(|p| p.document).collect();
    let first = examples.valid.iter().zip(queries.rows()).filter(|(pair, q)| {
        let score = |row: u32| q.dot(&documents.row(row as usize));
        let others = &candidates.by_query[pair.query as usize];
        others.iter().all(|&row| score(row) < score(pair.document))
    });
    let first = first.count() as f32 / own.len() as f32;
    let none = vec![&[][..]; own.len()];
    (first, recall_at(&ranks(queries.view(), documents.view(), &[], &own, &none), 10))
}

#[test]
fn near_negatives_win_among_candidates_and_random_ones_over_the_corpus() {
    // Sums over two draws, so that a few queries more or less do not decide.
    let sums = [Sampling::Snowball, Sampling::AnnInBatch, Sampling::Random].map(|sampling| {
        [11, 12].iter().fold((0.0, 0.0), |sum, &seed| {
            let examples = examples(seed);
            let found = recalls(&examples, &candidates(&examples), sampling);
            (sum.0 + found.0, sum.1 + found.1)
        })
    });
    let [snowball, mixed, random] = sums;
    assert!(snowball.0 > mixed.0 + 0.05 && mixed.0 > random.0, "among candidates: {sums:?}");
    assert!(random.1 > mixed.1 && mixed.1 > snowball.1, "over the corpus: {sums:?}");
}
