//! Training on made entities: it learns, it is repeatable, and it refuses what does not fit.

use super::*;
use crate::linalg::normalise;
use crate::train::Silent;

const DIM: usize = 16;
/// Dimensions that mean something; the others are loud noise that heads should learn to ignore.
const MEANING: usize = 6;

struct Made {
    mentions: Array2<f32>,
    views: Array2<f32>,
    starts: Vec<usize>,
    gold: Vec<u32>,
}

impl Made {
    /// Entities of one to three views; a mention is like one view in the dimensions that mean something.
    fn new(entities: usize, mentions: usize, seed: u64) -> Made {
        let mut rng = Rng::new(seed);
        let mut noisy = |meaning: &[f32]| -> Vec<f32> {
            let mut row: Vec<f32> = meaning.to_vec();
            row.extend((MEANING..DIM).map(|_| rng.normal() * 1.5));
            normalise(&mut row);
            row
        };
        let mut draw = Rng::new(seed + 1);
        let mut meanings: Vec<Vec<f32>> = Vec::new();
        let (mut starts, mut of_view) = (vec![0], Vec::new());
        for entity in 0..entities {
            for _ in 0..1 + entity % 3 {
                meanings.push((0..MEANING).map(|_| draw.normal()).collect());
                of_view.push(entity as u32);
            }
            starts.push(meanings.len());
        }
        let views: Vec<f32> = meanings.iter().flat_map(|meaning| noisy(meaning)).collect();
        let (mut gold, mut asked) = (Vec::new(), Vec::new());
        for _ in 0..mentions {
            let view = draw.below(meanings.len() as u64) as usize;
            gold.push(of_view[view]);
            asked.extend(noisy(&meanings[view].iter().map(|v| v + 0.2 * draw.normal()).collect::<Vec<_>>()));
        }
        let matrix = |values: Vec<f32>| Array2::from_shape_vec((values.len() / DIM, DIM), values).unwrap();
        Made { mentions: matrix(asked), views: matrix(views), starts, gold }
    }

    fn examples(&self) -> ViewExamples<'_> {
        ViewExamples {
            mentions: self.mentions.view(),
            gold: &self.gold,
            views: self.views.view(),
            starts: &self.starts,
            lexical: &|_, _| [0.0; LEXICAL],
        }
    }
}

fn quick() -> ViewTraining {
    ViewTraining {
        epochs: 4,
        candidates: 8,
        rate: 0.01,
        decay: 0.0,
        temperature: 0.1,
        teacher: Some(16),
        ..Default::default()
    }
}

#[test]
fn learns_what_tells_entities_apart_with_and_without_a_teacher() {
    let (train, others) = (Made::new(60, 900, 1), Made::new(50, 300, 9));
    for teacher in [None, Some(16)] {
        let settings = ViewTraining { teacher, ..quick() };
        let trained = train_views(&train.examples(), &others.examples(), &settings, &Silent).unwrap();
        let (start, best) =
            (trained.epochs[0].recall_at_1, trained.epochs.iter().map(|e| e.recall_at_1).fold(0.0, f64::max));
        assert!(best > start + 0.15, "{teacher:?}: {:?}", trained.epochs);
        let kept = others.examples().recall_at_1(&trained.query, &trained.document, &Silent).unwrap();
        assert_eq!(kept, best, "the best epoch is kept");
        let (first, last) = (&trained.epochs[1], &trained.epochs[4]);
        assert!(
            last.student < first.student && (teacher.is_none() || last.teacher < first.teacher),
            "{:?}",
            trained.epochs
        );
    }
}

#[test]
fn the_same_seed_makes_the_same_heads_at_any_number_of_threads() {
    let (train, others) = (Made::new(30, 200, 1), Made::new(20, 50, 9));
    let settings = ViewTraining { epochs: 2, hidden: Some(8), ..quick() };
    let with = |threads: usize, seed: u64| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let settings = ViewTraining { seed, ..settings.clone() };
        pool.install(|| train_views(&train.examples(), &others.examples(), &settings, &Silent)).unwrap()
    };
    let (one, three, other) = (with(1, 1), with(3, 1), with(1, 2));
    assert_eq!((&one.query, &one.document, &one.epochs), (&three.query, &three.document, &three.epochs));
    assert_ne!(one.epochs[1], other.epochs[1]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let made = Made::new(10, 20, 1);
    let message = |examples: ViewExamples<'_>, settings: &ViewTraining| {
        train_views(&examples, &made.examples(), settings, &Silent).unwrap_err().to_string()
    };
    let mut empty = made.starts.clone();
    empty[3] = empty[2];
    assert!(message(ViewExamples { starts: &empty, ..made.examples() }, &quick()).contains("entity 2 has no view"));
    let far = vec![10; 20];
    assert!(message(ViewExamples { gold: &far, ..made.examples() }, &quick()).contains("entity 10 of 10"));
    assert!(message(made.examples(), &ViewTraining { candidates: 11, ..quick() }).contains("11"));
    assert!(message(made.examples(), &ViewTraining { rate: 0.0, ..quick() }).contains("above 0"));
    assert!(message(made.examples(), &ViewTraining { within: f32::NAN, ..quick() }).contains("weights"));
}
