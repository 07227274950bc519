//! Heads tuned on lessons, and the index that holds them.

use std::collections::{BTreeSet, HashMap};

use ndarray::{Array2, ArrayView2};
use serde::Serialize;

use super::index::{PromptIndex, TunedNote, UNTUNED, VECTORS, check_name};
use super::pool::Pool;
use super::score::Lesson;
use crate::build::{self, BuildSpec};
use crate::dataset::VectorFile;
use crate::error::{Error, Result};
use crate::heads::{Head, Heads};
use crate::index::Manifest;
use crate::sample::Rng;
use crate::train::{
    CODE_ROWS, Contrast, ContrastEpoch, Contrasts, DenseTraining, Learned, QuantizerSpec, Watch, train_contrast,
    train_quantizer,
};
use crate::types::Metric;
use crate::vfs::RealVfs;

/// What is compared for a lesson.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compared {
    /// Its candidates, [`TuneSpec::others`], and the candidates of other lessons (the paper): tells tasks apart.
    Everything,
    /// Its candidates.
    Candidates,
    /// Those of its candidates that are of other tasks: what an input of an unknown task has to choose among.
    Elsewhere,
}

/// How heads are tuned.
#[derive(Debug, Clone)]
pub struct TuneSpec {
    /// Name of the index that is made: a folder of the pool.
    pub name: String,
    /// Hard negatives of a lesson: its worst candidates (20 of 50 in the paper).
    pub hard: usize,
    /// Documents of other tasks drawn for a lesson (20 in the paper).
    pub others: usize,
    /// What is compared for a lesson.
    pub compared: Compared,
    /// What is learned.
    pub learned: Learned,
    /// A candidate is better than another from so much on, as a share of the other's worth: lessons without two such are not used.
    pub margin: f64,
    /// Share of the lessons that is not learned from, but stopped by: at least this, and whole tasks. Inputs of a task share candidates, so
    /// heads that know them by heart would look good on other inputs of the task.
    pub valid: f64,
    /// The training itself.
    pub training: DenseTraining,
}

impl TuneSpec {
    /// The defaults, under a name: the paper's, for inputs of tasks that the pool has demonstrations of.
    pub fn new(name: impl Into<String>, seed: u64) -> TuneSpec {
        let training = DenseTraining {
            metric: Metric::Cosine,
            epochs: 30,
            batch: 32,
            score_temperature: 0.05,
            rate: 3e-4,
            decay: 1.0,
            patience: 6,
            seed,
            ..DenseTraining::default()
        };
        TuneSpec {
            name: name.into(),
            hard: 4,
            others: 8,
            compared: Compared::Everything,
            learned: Learned::Maps,
            margin: 0.1,
            valid: 0.2,
            training,
        }
    }

    /// The defaults for inputs of tasks that the pool has no demonstrations of: learns which demonstrations serve inputs of any other
    /// task, from candidates of other tasks ([`super::PlanSpec::elsewhere`]).
    pub fn unseen(name: impl Into<String>, seed: u64) -> TuneSpec {
        let mut spec = TuneSpec::new(name, seed);
        (spec.compared, spec.learned) = (Compared::Elsewhere, Learned::Direction);
        (spec.hard, spec.margin) = (12, 0.3);
        (spec.training.score_temperature, spec.training.rate) = (0.2, 3e-2);
        spec
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
    if !(spec.margin >= 0.0 && spec.margin.is_finite()) {
        return Err(Error::params("margin", format!("{}; give 0 or more", spec.margin)));
    }
    let tasks = numbered(index.pool().demonstrations.iter().map(|d| d.task.as_str()));
    let elsewhere = |lesson: &Lesson| {
        let own = tasks[lesson.input as usize];
        lesson.ranked.iter().filter(|(number, _)| tasks[*number as usize] != own).count() > 1
    };
    if spec.compared == Compared::Elsewhere && !lessons.iter().any(elsewhere) {
        return Err(Error::params("lessons", "none has candidates of other tasks; score with some (--elsewhere 12)"));
    }
    let (train, valid) = split(lessons, index.pool(), &tasks, spec);
    let documents = read_vectors(index)?;
    let inputs: Vec<&str> =
        lessons.iter().map(|l| index.pool().demonstrations[l.input as usize].input.as_str()).collect();
    let queries = index.encoder().encode(&inputs)?;
    let set = Contrasts {
        queries: queries.view(),
        documents: documents.view(),
        tasks: &tasks,
        train: &train,
        valid: &valid,
        others: spec.others,
        ranked_only: spec.compared != Compared::Everything,
        learned: spec.learned,
    };
    let (query, document, curve) = train_contrast(&set, &spec.training, watch)?;
    build_tuned(index, documents.view(), query, document, spec, watch)?;
    Ok(TuneReport { train: train.len(), valid: valid.len(), curve })
}

/// Contrasts of the lessons, numbered as these: to learn from, and to stop by.
fn split(lessons: &[Lesson], pool: &Pool, tasks: &[u32], spec: &TuneSpec) -> (Vec<Contrast>, Vec<Contrast>) {
    let contrast = |(lesson, query): (&Lesson, u32)| {
        let task = tasks[lesson.input as usize];
        let counts =
            |&&(number, _): &&(u32, f64)| spec.compared != Compared::Elsewhere || tasks[number as usize] != task;
        let ranked: Vec<&(u32, f64)> = lesson.ranked.iter().filter(counts).collect();
        let (positive, best) = **ranked.first()?;
        // The worst first; never one that is about as good as the best.
        let worse = ranked.iter().rev().take_while(|(_, worth)| worth * (1.0 + spec.margin) < best);
        let hard: Vec<u32> = worse.take(spec.hard).map(|(number, _)| *number).collect();
        (!hard.is_empty()).then_some((lesson.input, Contrast { query, task, positive, hard }))
    };
    let contrasts: Vec<(u32, Contrast)> = lessons.iter().zip(0u32..).filter_map(contrast).collect();
    let task = |input: u32| pool.demonstrations[input as usize].task.as_str();
    let held = held_tasks(contrasts.iter().map(|(input, _)| task(*input)), spec);
    let by_input = |input: u32| Rng::stream(spec.training.seed ^ 0x5b117, u64::from(input)).unit_f64() < spec.valid;
    // Where there is but one task, some of its inputs have to do.
    let is_held = |input: u32| if held.is_empty() { by_input(input) } else { held.contains(task(input)) };
    let (valid, train): (Vec<_>, Vec<_>) = contrasts.into_iter().partition(|(input, _)| is_held(*input));
    (train.into_iter().map(|(_, c)| c).collect(), valid.into_iter().map(|(_, c)| c).collect())
}

/// Tasks that have the wanted share of the lessons together, drawn by the seed; never all of them.
fn held_tasks<'n>(tasks: impl Iterator<Item = &'n str>, spec: &TuneSpec) -> BTreeSet<&'n str> {
    let all: Vec<&str> = tasks.collect();
    let mut order: Vec<&str> = all.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
    Rng::stream(spec.training.seed, 0x5b117).shuffle(&mut order);
    let (mut held, mut count) = (BTreeSet::new(), 0);
    for &task in order.iter().skip(1) {
        if count as f64 >= spec.valid * all.len() as f64 {
            break;
        }
        count += all.iter().filter(|other| **other == task).count();
        held.insert(task);
    }
    held
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
    std::fs::remove_file(&path).map_err(Error::io(&path))?;
    let manifest = Manifest::read(&RealVfs, &index.dir().join(&spec.name))?;
    TunedNote { pool: index.note().pool.clone(), index: manifest.id }.write(index.dir(), &spec.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompts::{Demonstration, Origin};

    /// Inputs 0 to 19 are of four tasks, five each; each has the candidates 20 and 21.
    fn made() -> (Pool, Vec<Lesson>) {
        let demonstration = |number: u32| Demonstration {
            template: "t".into(),
            task: format!("task {}", number % 4),
            cluster: "c".into(),
            example: number,
            options: Vec::new(),
            input: "i".into(),
            answer: "a".into(),
        };
        let pool = Pool { demonstrations: (0..22).map(demonstration).collect(), origin: Origin::default() };
        (pool, (0..20).map(|input| Lesson { input, ranked: vec![(20, 0.5), (21, 0.25)] }).collect())
    }

    #[test]
    fn whole_tasks_are_held_out() {
        let (pool, mut lessons) = made();
        for (seed, valid) in [(1, 0.2), (2, 0.3), (3, 0.9)] {
            let spec = TuneSpec { valid, ..TuneSpec::new("a", seed) };
            let (train, held) = split(&lessons, &pool, &[0; 22], &spec);
            let tasks = |rows: &[Contrast]| rows.iter().map(|row| row.query % 4).collect::<BTreeSet<_>>();
            assert!(tasks(&train).is_disjoint(&tasks(&held)) && !train.is_empty());
            assert_eq!((train.len() + held.len(), held.len()), (20, ((valid * 4.0).ceil() as usize).min(3) * 5));
        }
        lessons.retain(|lesson| lesson.input % 4 == 0);
        let (train, held) = split(&lessons, &pool, &[0; 22], &TuneSpec { valid: 0.5, ..TuneSpec::new("a", 1) });
        assert!(train.len() + held.len() == 5 && !train.is_empty() && !held.is_empty(), "one task is cut by inputs");
    }

    #[test]
    fn candidates_that_are_about_as_good_teach_nothing() {
        let (pool, mut lessons) = made();
        lessons[0].ranked = vec![(20, 0.5), (21, 0.48)];
        lessons[1].ranked = vec![(20, 0.5), (21, 0.48), (19, 0.1)];
        let count = |margin| {
            let (train, held) = split(&lessons, &pool, &[0; 22], &TuneSpec { margin, ..TuneSpec::new("a", 1) });
            let hard = train.iter().chain(&held).find(|row| row.query == 1).map(|row| row.hard.clone());
            (train.len() + held.len(), hard.unwrap_or_default())
        };
        assert_eq!(count(0.1), (19, vec![19]));
        assert_eq!(count(0.0), (20, vec![19, 21]));
        assert_eq!(count(10.0), (0, vec![]));
    }
}
