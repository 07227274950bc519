use super::*;
use crate::error::Error;
use crate::quantizer::CodeShape;
use crate::sample::Rng;
use crate::simd::CodeBits;
use crate::train::{Example, Silent, train_quantizer};
use crate::types::Metric;
use crate::vfs::MemoryVfs;

/// Documents whose first 4 of 16 dimensions decide what is relevant, a point on a sphere that is small beside the sphere of the
/// other 12 dimensions, which queries hardly have. Squared error spends the bytes on the large sphere; a code that is trained
/// for retrieval must not.
fn nuisance(n: usize, seed: u64) -> Examples {
    let mut rng = Rng::new(seed);
    let mut on_sphere = |out: &mut [f32], radius: f32| {
        out.iter_mut().for_each(|v| *v = rng.normal());
        crate::linalg::normalise(out);
        out.iter_mut().for_each(|v| *v *= radius);
    };
    let (mut documents, mut queries) = (Array2::zeros((n, 16)), Array2::zeros((n, 16)));
    for (mut document, mut query) in documents.rows_mut().into_iter().zip(queries.rows_mut()) {
        let (document, query) = (document.as_slice_mut().unwrap(), query.as_slice_mut().unwrap());
        on_sphere(&mut document[..4], 0.35);
        on_sphere(&mut document[4..], 1.0);
        on_sphere(query, 0.1);
        query.iter_mut().zip(&document[..4]).for_each(|(q, d)| *q += 2.0 * d);
    }
    // A fixed turn, so that no subspace holds the four by luck.
    let any = Array2::from_shape_fn((16, 16), |_| rng.normal());
    let turn = crate::linalg::procrustes(any.view()).unwrap();
    for x in [&mut documents, &mut queries] {
        *x = x.dot(&turn);
        x.rows_mut().into_iter().for_each(|mut row| {
            crate::linalg::normalise(row.as_slice_mut().unwrap());
        });
    }
    let pair = |i: usize| Example { query: i as u32, document: i as u32 };
    let valid = n * 4 / 5;
    Examples {
        documents,
        queries,
        train: (0..valid).map(pair).collect(),
        valid: (valid..n).map(pair).collect(),
        known: Vec::new(),
    }
}

fn quick(method: Method, lists: usize) -> CodeTraining {
    CodeTraining {
        epochs: 40,
        patience: 40,
        batch: 128,
        code_rate: 0.2,
        score_temperature: 0.02,
        teacher_temperature: 0.02,
        neighbours: 50,
        ..CodeTraining::new(method, Metric::Cosine, lists, CodeShape::new(CodeBits::Four, 4).unwrap())
    }
}

fn squared_error(quantizer: &Quantizer, examples: &Examples) -> f32 {
    let seen = quantizer.reconstruct(examples.documents.view());
    model::mean_square(&(&seen.vectors - &examples.documents))
}

/// Share of the held-out queries whose document is among the first 10 by decoded vectors.
fn recall(quantizer: &Quantizer, examples: &Examples) -> f32 {
    let pairs = &examples.valid;
    let seen = quantizer.reconstruct(quantizer.map_documents(&examples.documents).view());
    let queries = select(examples.queries.view(), pairs.iter().map(|p| p.query));
    let queries = quantizer.heads().code_query.as_ref().map_or(queries.clone(), |head| head.apply_rows(queries.view()));
    let own: Vec<u32> = pairs.iter().map(|p| p.document).collect();
    let none = vec![&[][..]; own.len()];
    recall_at(&ranks(queries.view(), seen.vectors.view(), &seen.offsets, &own, &none), 10)
}

fn opq(examples: &Examples, settings: &CodeTraining) -> Quantizer {
    train_quantizer(examples.documents.view(), &start::spec(settings, examples.documents.nrows()), &Silent).unwrap()
}

#[test]
fn contrastive_codes_find_what_squared_error_hides_while_squared_error_rises() {
    let examples = nuisance(1_500, 7);
    for lists in [1, 8] {
        let settings = quick(Method::Contrastive, lists);
        let plain = opq(&examples, &settings);
        let trained = train_codes(&examples, &settings, &Heads::default(), None, &Silent).unwrap();
        let (before, after) = (recall(&plain, &examples), recall(&trained.quantizer, &examples));
        assert!(after > before + 0.1, "{lists} lists: {before} to {after}");
        assert!(squared_error(&trained.quantizer, &examples) > 1.1 * squared_error(&plain, &examples));
    }
}

#[test]
fn distillation_needs_no_labels() {
    let mut examples = nuisance(1_500, 8);
    // Labels are replaced by what full precision finds.
    let top = crate::train::nearest(examples.queries.view(), examples.documents.view(), 1, &Silent).unwrap();
    for pair in examples.train.iter_mut().chain(&mut examples.valid) {
        pair.document = top[pair.query as usize][0];
    }
    let settings = quick(Method::Distill, 8);
    let plain = opq(&examples, &settings);
    let trained = train_codes(&examples, &settings, &Heads::default(), None, &Silent).unwrap();
    let (before, after) = (recall(&plain, &examples), recall(&trained.quantizer, &examples));
    assert!(after > before + 0.1, "{before} to {after}");
}

#[test]
fn heads_help_and_fold_the_rotation_away() {
    let examples = nuisance(1_500, 9);
    let settings = quick(Method::Contrastive, 4);
    let without = train_codes(&examples, &settings, &Heads::default(), None, &Silent).unwrap();
    for heads in [HeadChoice::Query, HeadChoice::Both] {
        let settings = CodeTraining { heads, hidden: Some(8), head_rate: 3e-3, ..settings.clone() };
        let with = train_codes(&examples, &settings, &Heads::default(), None, &Silent).unwrap();
        assert!(with.quantizer.rotation().is_none() && with.quantizer.heads().code_query.is_some());
        let (a, b) = (recall(&without.quantizer, &examples), recall(&with.quantizer, &examples));
        assert!(b > a - 0.02, "{heads:?}: {a} to {b}");
        if heads == HeadChoice::Both {
            assert!(b > a + 0.05, "{heads:?}: {a} to {b}");
        }
    }
}

/// Fails after so many steps.
struct Stop(std::sync::atomic::AtomicI64);

impl Watch for Stop {
    fn begin(&self, _: &'static str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn check(&self) -> Result<()> {
        match self.0.fetch_sub(1, std::sync::atomic::Ordering::Relaxed) {
            i64::MIN..=0 => Err(Error::params("watch", "stopped")),
            _ => Ok(()),
        }
    }
}

#[test]
fn a_stopped_run_resumes_to_the_same_result_and_threads_do_not_matter() {
    let examples = nuisance(600, 3);
    let settings =
        CodeTraining { heads: HeadChoice::Both, hidden: Some(4), epochs: 4, ..quick(Method::Contrastive, 4) };
    let whole = train_codes(&examples, &settings, &Heads::default(), None, &Silent).unwrap();
    let vfs = MemoryVfs::default();
    let path = Path::new("/run.checkpoint");
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let mut stops = 0;
    let resumed = loop {
        // k-means and OPQ look at the watch, too; a run gets a little further each time.
        let stop = Stop((16 + 8 * stops).into());
        let run = || train_codes(&examples, &settings, &Heads::default(), Some((&vfs, path)), &stop);
        match pool.install(run) {
            Ok(trained) => break trained,
            Err(error) => assert!(error.to_string().contains("stopped")),
        }
        stops += 1;
    };
    assert!(stops > 0);
    assert_eq!(resumed.quantizer.fingerprint(), whole.quantizer.fingerprint());
    let recalls = |t: &TrainedCodes| t.curve.iter().map(|e| (e.epoch, e.loss, e.recall)).collect::<Vec<_>>();
    assert_eq!(recalls(&resumed), recalls(&whole));
    let other = CodeTraining { seed: 2, ..settings };
    let message =
        train_codes(&examples, &other, &Heads::default(), Some((&vfs, path)), &Silent).unwrap_err().to_string();
    assert!(message.contains("/run.checkpoint") && message.contains("remove it"), "{message}");
}

#[test]
fn bad_settings_and_examples_are_refused_and_divergence_is_noticed() {
    let examples = nuisance(300, 4);
    let run = |settings: &CodeTraining, examples: &Examples| {
        train_codes(examples, settings, &Heads::default(), None, &Silent).unwrap_err().to_string()
    };
    let good = quick(Method::Contrastive, 2);
    assert!(run(&CodeTraining { metric: Metric::L2, ..good.clone() }, &examples).contains("cosine or ip"));
    assert!(run(&CodeTraining { epochs: 0, ..good.clone() }, &examples).contains("epochs"));
    assert!(run(&CodeTraining { code_rate: f32::NAN, ..good.clone() }, &examples).contains("code_rate"));
    assert!(run(&good, &Examples { train: Vec::new(), ..examples.clone() }).contains("pairs"));
    let outside = vec![Example { query: 0, document: 9_999 }];
    assert!(run(&good, &Examples { train: outside, ..examples.clone() }).contains("document 9999"));
    let wild = CodeTraining { code_rate: 1e30, clip: 1e30, ..good };
    assert!(run(&wild, &examples).contains("lower the learning rate"));
}

/// With codewords at zero the decoded vectors are the centroids, so that the gradients of centroids and heads can be checked
/// against the loss itself.
#[test]
fn gradients_of_the_whole_step_are_those_of_finite_differences() {
    let examples = nuisance(60, 5);
    let settings = CodeTraining {
        lists: 3,
        heads: HeadChoice::Query,
        hidden: Some(4),
        teacher_weight: 0.3,
        ..quick(Method::Contrastive, 3)
    };
    let mut model = Start::new(&examples, &settings, &Heads::default(), &Silent).unwrap().model(&settings);
    model.words.value.fill(0.0);
    model.offsets.value.fill(0.0);
    model.list_weight = Some(0.7);
    let lists: Vec<ListId> = (0..60).map(|i| i % 3).collect();
    let teacher = (&examples.queries, &examples.documents);
    let inputs = Inputs { queries: &examples.queries, documents: &examples.documents, lists: &lists, teacher };
    let batch = Batch::new(&examples.train[..8], (40..52).collect(), &examples.positives());
    let mut used = vec![0; 8 * 16];
    model.step(&inputs, &batch, &mut used);
    assert_eq!(used.iter().sum::<u32>(), 20 * 8);
    let mut frozen = model.clone();
    // The loss reported is that of the codes; the list scores' loss, equal here, comes on top with its weight.
    let mut loss = |p: usize, at: usize, by: f32| {
        frozen.parameters()[p].value.as_slice_mut().unwrap()[at] += by;
        let loss = 1.7 * f64::from(frozen.step(&inputs, &batch, &mut used.clone()));
        frozen.parameters()[p].value.as_slice_mut().unwrap()[at] -= by;
        loss
    };
    for p in 2..model.parameters().len() {
        for at in [0, 2, 3] {
            let numeric = (loss(p, at, 3e-3) - loss(p, at, -3e-3)) / 6e-3;
            let analytic = f64::from(model.parameters()[p].gradient.as_slice().unwrap()[at]);
            assert!((numeric - analytic).abs() < 2e-3 * (1.0 + analytic.abs()), "{p} {at}: {numeric} {analytic}");
        }
    }
}

#[test]
fn dead_codewords_move_to_where_documents_are() {
    let examples = nuisance(60, 6);
    let settings = quick(Method::Contrastive, 1);
    let mut model = Start::new(&examples, &settings, &Heads::default(), &Silent).unwrap().model(&settings);
    let mut used = vec![1; 8 * 16];
    (used[3], used[16 + 5]) = (0, 0);
    let before = model.words.value.clone();
    assert_eq!(model.reseed(&used, || vec![2.0; 16]), 2);
    // Two dimensions a subspace: the codewords are (2, 2), their offsets -|c|^2 / 2.
    assert_eq!((model.words.value[[0, 3]], model.words.value[[3, 5]]), (2.0, 2.0));
    assert_eq!((model.offsets.value[[0, 3]], model.offsets.value[[1, 5]]), (-4.0, -4.0));
    let moved = model.words.value.iter().zip(&before).filter(|(a, b)| a != b).count();
    assert_eq!(moved, 4);
}
