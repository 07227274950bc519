//! Gradients against finite differences; encoders that must learn what is there to learn.

use ndarray::Array2;

use super::super::{Candidates, Sampling, Silent};
use super::model::TextParameters;
use super::trainer::taught;
use super::*;
use crate::sample::Rng;

fn random(r: usize, c: usize, seed: u64) -> Array2<f32> {
    let mut rng = Rng::new(seed);
    Array2::from_shape_fn((r, c), |_| rng.normal())
}

fn texts(n: usize, vocabulary: u64, seed: u64) -> Texts {
    let mut rng = Rng::new(seed);
    let text = |_| -> Vec<u32> { (0..1 + rng.below(6)).map(|_| rng.below(vocabulary) as u32).collect() };
    Texts::new(&(0..n).map(text).collect::<Vec<_>>())
}

#[test]
fn gradients_are_those_of_finite_differences() {
    let weights = (0..7).map(|t| 0.5 + t as f32 * 0.2).collect();
    let start = StaticModel { table: random(7, 4, 1), weights, projection: random(5, 4, 2) };
    let (texts, g) = (texts(9, 7, 3), random(9, 5, 4));
    let mut parameters = TextParameters::new(&start, 0.1, 0.1);
    let pass = parameters.forward(&texts);
    assert!(pass.output.iter().zip(&start.encode(&texts)).all(|(a, b)| (a - b).abs() < 1e-6));
    parameters.backward(&texts, &pass, g.clone());
    let loss = |model: &StaticModel| -> f64 {
        model.encode(&texts).iter().zip(&g).map(|(y, g)| f64::from(*y) * f64::from(*g)).sum()
    };
    let check = |analytic: f32, at: &dyn Fn(f32) -> StaticModel, place: String| {
        let numeric = (loss(&at(2e-3)) - loss(&at(-2e-3))) / 4e-3;
        let analytic = f64::from(analytic);
        assert!((numeric - analytic).abs() < 5e-3 * (1.0 + analytic.abs()), "{place}: {numeric} {analytic}");
    };
    for (at, &analytic) in parameters.table.gradient().indexed_iter() {
        let moved = |by| {
            let mut model = start.clone();
            model.table[at] += by;
            model
        };
        check(analytic, &moved, format!("table {at:?}"));
    }
    for (at, &analytic) in parameters.projection.gradient.indexed_iter() {
        let moved = |by| {
            let mut model = start.clone();
            model.projection[at] += by;
            model
        };
        check(analytic, &moved, format!("projection {at:?}"));
    }
}

#[test]
fn the_gradient_of_teaching_is_that_of_finite_differences() {
    let (y, mut t) = (random(6, 4, 1), random(6, 4, 2));
    t.rows_mut().into_iter().for_each(|mut row| {
        crate::linalg::normalise(row.as_slice_mut().unwrap());
    });
    let settings = TextTraining {
        distillation: Distillation { cosine: 0.7, order: 1.3, temperature: 0.5 },
        ..TextTraining::default()
    };
    let (_, gradient) = taught(&y, &t, &settings);
    for (at, &analytic) in gradient.indexed_iter() {
        let loss = |by: f32| {
            let mut moved = y.clone();
            moved[at] += by;
            f64::from(taught(&moved, &t, &settings).0)
        };
        let numeric = (loss(1e-2) - loss(-1e-2)) / 2e-2;
        assert!((numeric - f64::from(analytic)).abs() < 2e-3, "{at:?}: {numeric} {analytic}");
    }
}

/// Queries and documents in two languages: token `t` of a query is token `t + 40` of its document.
pub(super) fn two_languages(n: usize) -> TextExamples {
    let mut rng = Rng::new(5);
    let (mut queries, mut documents) = (Vec::new(), Vec::new());
    for _ in 0..n {
        let words: Vec<u32> = (0..3).map(|_| rng.below(40) as u32).collect();
        documents.push(words.iter().map(|w| w + 40).chain([80 + rng.below(10) as u32]).collect::<Vec<u32>>());
        queries.push(words);
    }
    let pair = |i: u32| Example { query: i, document: i };
    let held = n as u32 * 4 / 5;
    TextExamples {
        queries: Texts::new(&queries),
        documents: Texts::new(&documents),
        train: (0..held).map(pair).collect(),
        valid: (held..n as u32).map(pair).collect(),
        known: Vec::new(),
    }
}

fn quick() -> TextTraining {
    TextTraining { epochs: 12, batch: 64, table_rate: 0.05, patience: 12, ..TextTraining::default() }
}

pub(super) fn start(width: usize, dim: usize) -> StaticModel {
    StaticModel::random(vec![1.0; 90], width, dim, 7).unwrap()
}

#[test]
fn pairs_teach_which_tokens_mean_the_same() {
    let examples = two_languages(1000);
    let lessons = TextLessons { pairs: Some(&examples), ..TextLessons::default() };
    let (model, curve) = train_text(&start(16, 16), lessons, &quick(), &Silent).unwrap();
    let best = curve.iter().fold(0f32, |best, e| best.max(e.recall));
    assert!(curve[0].recall < 0.1 && best > 0.9, "{curve:?}");
    assert!(curve.last().unwrap().loss < curve[1].loss);
    // The same at any number of threads.
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let (again, _) = one.install(|| train_text(&start(16, 16), lessons, &quick(), &Silent)).unwrap();
    assert_eq!(model, again);
}

#[test]
fn a_teacher_is_copied() {
    let teacher = start(12, 24);
    let texts = texts(1500, 90, 8);
    let teaching = Teaching { vectors: teacher.encode(&texts), texts };
    let lessons = TextLessons { teaching: Some(&teaching), ..TextLessons::default() };
    let fresh = StaticModel::random(vec![1.0; 90], 12, 24, 99).unwrap();
    let patient = TextTraining { epochs: 60, patience: 60, ..quick() };
    let (_, curve) = train_text(&fresh, lessons, &patient, &Silent).unwrap();
    assert!(curve[0].recall < 0.3 && curve.last().unwrap().recall > 0.8, "{curve:?}");
}

/// Mean cosine of a model's vectors with those that it was taught.
fn cosine(model: &StaticModel, teaching: &Teaching) -> f32 {
    (model.encode(&teaching.texts) * &teaching.vectors).sum() / teaching.texts.len() as f32
}

#[test]
fn pairs_and_a_teacher_are_learned_together() {
    let examples = two_languages(600);
    let texts = texts(600, 90, 8);
    let teaching = Teaching { vectors: start(16, 16).encode(&texts), texts };
    let fresh = StaticModel::random(vec![1.0; 90], 16, 16, 99).unwrap();
    let both = TextLessons { pairs: Some(&examples), candidates: None, teaching: Some(&teaching) };
    let (model, curve) = train_text(&fresh, both, &quick(), &Silent).unwrap();
    let (alone, _) = train_text(&fresh, TextLessons { teaching: None, ..both }, &quick(), &Silent).unwrap();
    let best = curve.iter().fold(0f32, |best, e| best.max(e.recall));
    assert!(best > curve[0].recall + 0.3, "{curve:?}");
    assert!(cosine(&model, &teaching) > cosine(&alone, &teaching) + 0.2);
}

#[test]
fn a_heavy_lesson_is_not_taken_for_divergence() {
    let texts = texts(1500, 90, 8);
    let teaching = Teaching { vectors: start(12, 24).encode(&texts), texts };
    let lessons = TextLessons { teaching: Some(&teaching), ..TextLessons::default() };
    let fresh = StaticModel::random(vec![1.0; 90], 12, 24, 99).unwrap();
    let distillation = Distillation { order: 100.0, ..Distillation::default() };
    let (_, curve) = train_text(&fresh, lessons, &TextTraining { distillation, ..quick() }, &Silent).unwrap();
    assert!(curve[1].loss > 3.0 * 66f32.ln() + 3.0 && curve.last().unwrap().loss < curve[1].loss, "{curve:?}");
    let none = Distillation { order: 0.0, cosine: 0.0, ..Distillation::default() };
    let error = train_text(&fresh, lessons, &TextTraining { distillation: none, ..quick() }, &Silent).unwrap_err();
    assert!(error.to_string().contains("both weigh 0"), "{error}");
}

#[test]
fn candidates_make_harder_batches() {
    let examples = two_languages(600);
    let near = |q: u32| (0..600).filter(|d| *d != q && d % 50 == q % 50).collect();
    let candidates = Candidates { by_query: (0..600).map(near).collect() };
    let lessons = TextLessons { pairs: Some(&examples), candidates: Some(&candidates), teaching: None };
    let settings = TextTraining { sampling: Sampling::Snowball, ..quick() };
    let (_, curve) = train_text(&start(16, 16), lessons, &settings, &Silent).unwrap();
    assert!(curve.last().unwrap().recall > curve[0].recall + 0.02, "{curve:?}");
}

#[test]
fn what_cannot_train_is_refused() {
    let examples = two_languages(100);
    let pairs = TextLessons { pairs: Some(&examples), ..TextLessons::default() };
    let train = |lessons, settings: &TextTraining| {
        train_text(&start(8, 8), lessons, settings, &Silent).unwrap_err().to_string()
    };
    assert!(train(TextLessons::default(), &quick()).contains("no vectors of a teacher"));
    assert!(train(pairs, &TextTraining { temperature: 0.0, ..quick() }).contains("temperature"));
    assert!(train(pairs, &TextTraining { sampling: Sampling::Walk, ..quick() }).contains("candidates"));
    let mut empty = examples.clone();
    empty.queries = Texts::new(&[vec![1], vec![]]);
    assert!(train(TextLessons { pairs: Some(&empty), ..TextLessons::default() }, &quick()).contains("text 1"));
    let mut strange = examples.clone();
    strange.documents = Texts::new(&[vec![1, 90]]);
    assert!(train(TextLessons { pairs: Some(&strange), ..TextLessons::default() }, &quick()).contains("token 90"));
    let teaching = Teaching { texts: texts(200, 90, 1), vectors: random(200, 9, 1) };
    let taught = TextLessons { teaching: Some(&teaching), ..TextLessons::default() };
    assert!(train(taught, &quick()).contains("dimension"));
    assert!(StaticModel::random(vec![1.0], 0, 4, 1).is_err());
}

#[test]
fn frequent_tokens_weigh_less_and_models_stand_side_by_side() {
    let texts = Texts::new(&[vec![0, 1], vec![0, 2, 2], vec![0]]);
    let weights = inverse_frequencies(&[&texts], 4);
    assert!(weights[0] < weights[1] && weights[1] == weights[2]);
    assert!((weights[0] - 2f32.ln() / 4f32.ln()).abs() < 1e-6 && weights[3] == 1.0);
    let (a, b) = (start(6, 8), StaticModel::random(vec![0.5; 90], 4, 4, 3).unwrap());
    let both = a.beside(&b).unwrap().encode(&texts);
    let (mut left, mut right) =
        (both.slice(ndarray::s![.., ..8]).to_owned(), both.slice(ndarray::s![.., 8..]).to_owned());
    for (part, alone) in [(&mut left, a.encode(&texts)), (&mut right, b.encode(&texts))] {
        super::super::head::normalise_rows(part);
        assert!(part.iter().zip(&alone).all(|(x, y)| (x - y).abs() < 1e-5));
    }
    let table = a.to_table().unwrap();
    assert_eq!(StaticModel::from_table(&table).encode(&texts), a.encode(&texts));
}
