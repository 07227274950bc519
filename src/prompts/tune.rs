//! Heads tuned on lessons, and the index that holds them.

use std::collections::HashMap;

use ndarray::{Array2, ArrayView2};
use serde::Serialize;

use super::index::{PromptIndex, UNTUNED, VECTORS, check_name};
use super::score::Lesson;
use crate::build::{self, BuildSpec};
use crate::dataset::VectorFile;
use crate::error::{Error, Result};
use crate::heads::{Head, Heads};
use crate::sample::Rng;
use crate::train::{
    CODE_ROWS, Contrast, ContrastEpoch, Contrasts, DenseTraining, QuantizerSpec, Watch, train_contrast, train_quantizer,
};
use crate::types::Metric;
use crate::vfs::RealVfs;

/// How heads are tuned.
#[derive(Debug, Clone)]
pub struct TuneSpec {
    /// Name of the index that is made: a folder of the pool.
    pub name: String,
    /// Hard negatives of a lesson: its worst candidates (20 of 50 in the paper).
    pub hard: usize,
    /// Documents of other tasks drawn for a lesson (20 in the paper).
    pub others: usize,
    /// Share of the lessons that is not learned from, but stopped by.
    pub valid: f64,
    /// The training itself.
    pub training: DenseTraining,
}

impl TuneSpec {
    /// The defaults, under a name.
    pub fn new(name: impl Into<String>, seed: u64) -> TuneSpec {
        let training = DenseTraining {
            metric: Metric::Cosine,
            epochs: 30,
            batch: 32,
            score_temperature: 0.05,
            rate: 3e-4,
            patience: 6,
            seed,
            ..DenseTraining::default()
        };
        TuneSpec { name: name.into(), hard: 4, others: 8, valid: 0.2, training }
    }
}

/// What tuning came to.
#[derive(Debug, Clone, Serialize)]
pub struct TuneReport {
    /// Lessons learned from.
    pub train: usize,
    /// Lessons stopped by.
    pub valid: usize,
    /// All epochs.
    pub curve: Vec<ContrastEpoch>,
}

/// Tunes heads on lessons about the pool of `index` and builds an index that holds them. The encoder stays as it is.
///
/// # Errors
/// `InvalidParams` for settings or too few lessons, `Diverged`; those of the encoder and the build.
pub fn tune(index: &PromptIndex, lessons: &[Lesson], spec: &TuneSpec, watch: &dyn Watch) -> Result<TuneReport> {
    check_name(&spec.name)?;
    if spec.name == UNTUNED {
        return Err(Error::params("name", format!("{UNTUNED:?} is that of the index without heads; choose another")));
    }
    if spec.hard == 0 {
        return Err(Error::params("hard", "0; give at least 1 hard negative"));
    }
    let (train, valid) = split(lessons, spec);
    let documents = read_vectors(index)?;
    let inputs: Vec<&str> =
        lessons.iter().map(|l| index.pool().demonstrations[l.input as usize].input.as_str()).collect();
    let queries = index.encoder().encode(&inputs)?;
    let tasks = numbered(index.pool().demonstrations.iter().map(|d| d.task.as_str()));
    let set = Contrasts {
        queries: queries.view(),
        documents: documents.view(),
        tasks: &tasks,
        train: &train,
        valid: &valid,
        others: spec.others,
    };
    let (query, document, curve) = train_contrast(&set, &spec.training, watch)?;
    build_tuned(index, documents.view(), query, document, spec, watch)?;
    Ok(TuneReport { train: train.len(), valid: valid.len(), curve })
}

/// Contrasts of the lessons, numbered as these: to learn from, and to stop by. Lessons about the same input stay together.
fn split(lessons: &[Lesson], spec: &TuneSpec) -> (Vec<Contrast>, Vec<Contrast>) {
    let contrast = |(lesson, query): (&Lesson, u32)| {
        let ranked = &lesson.ranked;
        let positive = ranked[0];
        // The worst first; never one as good as the best.
        let worse = ranked.iter().rev().take_while(|(_, worth)| *worth < positive.1);
        let hard = worse.take(spec.hard).map(|(number, _)| *number).collect();
        Contrast { query, positive: positive.0, hard }
    };
    let held = |input: u32| Rng::stream(spec.training.seed ^ 0x5b117, u64::from(input)).unit_f64() < spec.valid;
    let (valid, train): (Vec<_>, Vec<_>) = lessons.iter().zip(0u32..).partition(|(lesson, _)| held(lesson.input));
    (train.into_iter().map(contrast).collect(), valid.into_iter().map(contrast).collect())
}

/// A number for each name, the same for the same.
fn numbered<'n>(names: impl Iterator<Item = &'n str>) -> Vec<u32> {
    let mut known: HashMap<&str, u32> = HashMap::new();
    names
        .map(|name| {
            let next = known.len() as u32;
            *known.entry(name).or_insert(next)
        })
        .collect()
}

fn read_vectors(index: &PromptIndex) -> Result<Array2<f32>> {
    let path = index.dir().join(VECTORS);
    let mut file = VectorFile::open(&path, None)?;
    let shape = (index.pool().demonstrations.len(), index.encoder().dim());
    if (file.rows(), file.dim()) != (shape.0 as u64, shape.1) {
        let found = format!("({}, {})", file.rows(), file.dim());
        return Err(Error::mismatch(format!("shape of {}", path.display()), format!("{shape:?}"), found));
    }
    let mut values = vec![0.0; shape.0 * shape.1];
    file.read(0, &mut values)?;
    Ok(Array2::from_shape_vec(shape, values).expect("rows x dimension"))
}

/// Builds the index: lists and codes of the mapped vectors, heads beside them, the vectors themselves as input.
fn build_tuned(
    index: &PromptIndex,
    documents: ArrayView2<'_, f32>,
    query: Head,
    document: Head,
    spec: &TuneSpec,
    watch: &dyn Watch,
) -> Result<()> {
    let output = index.dir().join(&spec.name);
    let seed = spec.training.seed;
    let plain = BuildSpec { seed, metric: Metric::Cosine, ..BuildSpec::new(index.dir().join(VECTORS), output) };
    let plan = build::plan(&plain)?;
    let wanted = QuantizerSpec {
        metric: Metric::Cosine,
        lists: plan.lists,
        shape: plan.shape(),
        opq: plan.opq,
        code_rows: CODE_ROWS,
        seed,
    };
    let mapped = document.apply_rows(documents);
    let heads = Heads {
        code_query: Some(query.clone()),
        code_document: Some(document.clone()),
        dense_query: Some(query),
        dense_document: Some(document),
    };
    let quantizer = train_quantizer(mapped.view(), &wanted, watch)?.with_heads(heads)?;
    let path = index.dir().join(format!("{}.bg", spec.name));
    quantizer.write(&RealVfs, &path, [0; 16])?;
    build::build(&BuildSpec { quantizer: Some(path.clone()), ..plain }, watch)?;
    // The index has its own copy.
    std::fs::remove_file(&path).map_err(Error::io(&path))
}
