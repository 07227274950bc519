//! `train-adapters`: query encoders of several tasks, for one index.

// What --help shows is indented, not fenced.
#![allow(rustdoc::invalid_rust_codeblocks)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bigrain::adapters::{
    AdapterShape, Epoch, Method, QueryAdapters, QueryTask, QueryTraining, recall_at_ten, train_query_adapters,
};
use bigrain::dataset::{VectorFile, read_pairs};
use bigrain::error::{Error, Result};
use bigrain::linalg::normalise;
use bigrain::train::Example;
use bigrain::vfs::RealVfs;
use clap::Parser;
use index_tools::progress::Progress;
use index_tools::shell::{Failure, finish};
use index_tools::spread::Spread;
use index_tools::table::{columns, grouped};
use index_tools::{out, outln};
use mimalloc::MiMalloc;
use ndarray::Array2;
use serde::Deserialize;
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Train a query encoder for each of several tasks; document vectors, and so the index, stay as they are.
///
/// The file of tasks names the vectors of all documents, and of each task the queries and the pairs (query row, tab,
/// document row) to train on, to choose by, and to report:
///
///     documents = ["packages.npy", "answers.npy"]   # in the order of the index
///     [[task]]
///     name = "packages"
///     queries = "short.npy"
///     documents = "packages.npy"                    # what the pairs count in; the first when left out
///     train = "packages/train.pairs.tsv"
///     valid = "packages/valid.pairs.tsv"
///     test = "packages/test.pairs.tsv"              # optional
///
/// Paths are relative to that file. Prints recall of the 10 best over all documents, before and after, on the test pairs
/// (or those of valid where there are no others). With several seeds it prints their mean and spread, and saves the first.
///
/// Example:
///
///     train-adapters --tasks tasks.toml --output adapters.safetensors
///     bigrain serve --index index ...               # with [encoder] adapters = "adapters.safetensors"
#[derive(Debug, Parser)]
#[command(name = "train-adapters", version, verbatim_doc_comment)]
struct Arguments {
    /// The file of tasks (TOML)
    #[arg(long, value_name = "FILE")]
    tasks: PathBuf,
    /// Where the adapters are written, .safetensors
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// What tasks share: lora, lora-per-task or mtl-lora
    #[arg(long, default_value_t = Method::MtlLora)]
    method: Method,
    /// Rank of the adapter
    #[arg(long, value_name = "R", default_value_t = 8)]
    rank: usize,
    /// What the adapter adds is scaled by this at every rank: alpha / rank. Larger ranks move faster, so choose the rate for each method
    #[arg(long, value_name = "S", default_value_t = 2.0)]
    scale: f32,
    /// Maps up that tasks share (mtl-lora)
    #[arg(long, value_name = "N", default_value_t = 3)]
    ups: usize,
    /// Temperature of the weights of the maps up
    #[arg(long, value_name = "T", default_value_t = 0.1)]
    temperature: f32,
    /// Passes over the pairs
    #[arg(long, value_name = "N", default_value_t = QueryTraining::default().epochs)]
    epochs: usize,
    /// Queries of a batch
    #[arg(long, value_name = "N", default_value_t = QueryTraining::default().batch)]
    batch: usize,
    /// Random documents added to every batch
    #[arg(long, value_name = "N", default_value_t = QueryTraining::default().negatives)]
    negatives: usize,
    /// A task of n queries is drawn in proportion to n to this power
    #[arg(long, value_name = "B", default_value_t = QueryTraining::default().balance)]
    balance: f32,
    /// Scores are divided by it
    #[arg(long, value_name = "T", default_value_t = QueryTraining::default().score_temperature)]
    score_temperature: f32,
    /// Highest learning rate
    #[arg(long, value_name = "RATE", default_value_t = QueryTraining::default().rate)]
    rate: f32,
    /// Rate of what mtl-lora keeps for a task alone, as a share of the rate
    #[arg(long, value_name = "SHARE", default_value_t = QueryTraining::default().own_rate)]
    own_rate: f32,
    /// Id of the encoder that made the vectors, as encode-texts prints it; the adapters keep it
    #[arg(long, value_name = "ID")]
    encoder_id: Option<String>,
    /// Seeds, one run each
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1")]
    seeds: Vec<u64>,
    /// Train on these tasks only, by name
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Report the pairs of valid, to choose settings by
    #[arg(long)]
    on_valid: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// The file of tasks.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TaskFile {
    documents: Vec<PathBuf>,
    task: Vec<TaskSection>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TaskSection {
    name: String,
    queries: PathBuf,
    documents: Option<PathBuf>,
    train: PathBuf,
    valid: PathBuf,
    test: Option<PathBuf>,
}

/// All vectors and pairs.
struct Data {
    documents: Array2<f32>,
    tasks: Vec<QueryTask>,
    /// Of each task, the pairs that are reported.
    reported: Vec<Vec<Example>>,
}

/// Recall of each task by one seed: trained, and the course of training.
struct Run {
    adapters: QueryAdapters,
    recall: Vec<f32>,
    curve: Vec<Epoch>,
}

fn main() -> ExitCode {
    finish("train-adapters", run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let shape = AdapterShape {
        method: arguments.method,
        rank: arguments.rank,
        alpha: arguments.scale * arguments.rank as f32,
        ups: arguments.ups,
        temperature: arguments.temperature,
    };
    let settings = QueryTraining {
        shape,
        epochs: arguments.epochs,
        batch: arguments.batch,
        negatives: arguments.negatives,
        balance: arguments.balance,
        score_temperature: arguments.score_temperature,
        rate: arguments.rate,
        own_rate: arguments.own_rate,
        ..QueryTraining::default()
    };
    settings.check().map_err(Failure::Usage)?;
    let data = read(arguments)?;
    let before = start(&data)?;
    let watch = Progress::start("train-adapters", "step", &arguments.tasks)?;
    let mut runs = Vec::new();
    for &seed in &arguments.seeds {
        let settings = QueryTraining { seed, ..settings.clone() };
        let (adapters, curve) = train_query_adapters(data.documents.view(), &data.tasks, &settings, &watch)?;
        let adapters = adapters.with_encoder(arguments.encoder_id.clone());
        let recall = recalls(&data, |task, queries| Ok(adapters.merge(task)?.apply_rows(queries.view())))?;
        runs.push(Run { adapters, recall, curve });
    }
    if let (Some(path), Some(first)) = (&arguments.output, runs.first()) {
        first.adapters.save(&RealVfs, path)?;
    }
    report(arguments, &data, &before, &runs);
    Ok(())
}

/// The given path, or what it is relative to.
fn beside(file: &Path, path: &Path) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join(path)
}

/// Reads the vectors of a file, scaled to unit length.
fn vectors(path: &Path) -> Result<Array2<f32>> {
    let mut file = VectorFile::open(path, None)?;
    let mut values = vec![0f32; file.rows() as usize * file.dim()];
    file.read(0, &mut values)?;
    values.chunks_mut(file.dim()).for_each(|row| {
        normalise(row);
    });
    let shape = (file.rows() as usize, file.dim());
    Array2::from_shape_vec(shape, values).map_err(|error| Error::input(path, "shape", error.to_string()))
}

fn read(arguments: &Arguments) -> Result<Data> {
    let path = &arguments.tasks;
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    let file: TaskFile = toml::from_str(&text).map_err(|error| Error::input(path, "tasks", error.to_string()))?;
    let mut documents = Vec::new();
    let mut first = HashMap::new();
    let (mut rows, mut dim) = (0, 0);
    for name in &file.documents {
        let part = vectors(&beside(path, name))?;
        if !documents.is_empty() && part.ncols() != dim {
            return Err(Error::mismatch(format!("dimension of {}", name.display()), dim, part.ncols()));
        }
        first.insert(name.clone(), (rows as u32, part.nrows() as u64));
        (rows, dim) = (rows + part.nrows(), part.ncols());
        documents.push(part);
    }
    let views: Vec<_> = documents.iter().map(|part| part.view()).collect();
    let documents = ndarray::concatenate(ndarray::Axis(0), &views)
        .map_err(|_| Error::input(path, "documents", "there are none; name at least one file of vectors"))?;
    let (mut tasks, mut reported) = (Vec::new(), Vec::new());
    let wanted = |task: &&TaskSection| arguments.only.is_empty() || arguments.only.contains(&task.name);
    for task in file.task.iter().filter(wanted) {
        let (task, test) = read_task(path, &file, task, &first)?;
        reported.push(if arguments.on_valid { task.valid.clone() } else { test });
        tasks.push(task);
    }
    if let Some(name) = arguments.only.iter().find(|name| !tasks.iter().any(|task| task.name == **name)) {
        let known: Vec<&str> = file.task.iter().map(|task| task.name.as_str()).collect();
        return Err(Error::params("only", format!("there is no task {name:?}; the tasks are {}", known.join(", "))));
    }
    Ok(Data { documents, tasks, reported })
}

/// A task, and its pairs to report.
fn read_task(
    path: &Path,
    file: &TaskFile,
    task: &TaskSection,
    first: &HashMap<PathBuf, (u32, u64)>,
) -> Result<(QueryTask, Vec<Example>)> {
    let queries = vectors(&beside(path, &task.queries))?;
    let documents = task.documents.as_ref().unwrap_or(&file.documents[0]);
    let Some(&(offset, count)) = first.get(documents) else {
        let reason = format!("{} is not among the documents of all tasks", documents.display());
        return Err(Error::input(path, format!("task {}", task.name), reason));
    };
    let pairs = |name: &Path| -> Result<Vec<Example>> {
        let pairs = read_pairs(&beside(path, name), queries.nrows() as u64, count)?;
        Ok(pairs.iter().map(|p| Example { query: p.query as u32, document: offset + p.document as u32 }).collect())
    };
    let (train, valid) = (pairs(&task.train)?, pairs(&task.valid)?);
    let test = task.test.as_deref().map_or(Ok(valid.clone()), pairs)?;
    Ok((QueryTask { name: task.name.clone(), queries, train, valid }, test))
}

/// Recall of each task's reported pairs, its queries mapped by `map`.
fn recalls(data: &Data, map: impl Fn(&str, &Array2<f32>) -> Result<Array2<f32>>) -> Result<Vec<f32>> {
    let recall = |(task, pairs): (&QueryTask, &Vec<Example>)| {
        let mut relevant: HashMap<u32, Vec<u32>> = HashMap::new();
        pairs.iter().for_each(|pair| relevant.entry(pair.query).or_default().push(pair.document));
        let mut relevant: Vec<(u32, Vec<u32>)> = relevant.into_iter().collect();
        relevant.sort_unstable();
        let rows: Vec<usize> = relevant.iter().map(|(query, _)| *query as usize).collect();
        let queries = map(&task.name, &task.queries.select(ndarray::Axis(0), &rows))?;
        let relevant: Vec<Vec<u32>> = relevant.into_iter().map(|(_, documents)| documents).collect();
        recall_at_ten(queries.view(), data.documents.view(), &relevant)
    };
    data.tasks.iter().zip(&data.reported).map(recall).collect()
}

/// Recall of the queries as they are.
fn start(data: &Data) -> Result<Vec<f32>> {
    recalls(data, |_, queries| Ok(queries.clone()))
}

fn queries(pairs: &[Example]) -> usize {
    let mut queries: Vec<u32> = pairs.iter().map(|pair| pair.query).collect();
    queries.sort_unstable();
    queries.dedup();
    queries.len()
}

fn report(arguments: &Arguments, data: &Data, before: &[f32], runs: &[Run]) {
    let mean = |values: &[f32]| values.iter().sum::<f32>() / values.len().max(1) as f32;
    let percent = |share: f32| format!("{:.2}", 100.0 * share);
    let trained = |task: usize| Spread::of(runs.iter().map(|run| f64::from(run.recall[task]) * 100.0));
    let average = Spread::of(runs.iter().map(|run| f64::from(mean(&run.recall)) * 100.0));
    let values = runs.first().map_or(0, |run| run.adapters.adapter().trainable());
    if arguments.json {
        let tasks: Vec<Value> = (0..data.tasks.len())
            .map(|t| {
                let recall: Vec<f32> = runs.iter().map(|run| run.recall[t]).collect();
                let queries = queries(&data.reported[t]);
                json!({"name": data.tasks[t].name, "queries": queries, "before": before[t], "recall": recall})
            })
            .collect();
        let curves: Vec<&[Epoch]> = runs.iter().map(|run| &run.curve[..]).collect();
        let report = json!({
            "method": arguments.method, "trainable": values, "seeds": arguments.seeds, "tasks": tasks,
            "before": mean(before), "mean": average, "curves": curves,
        });
        outln!("{report:#}");
        return;
    }
    let mut rows: Vec<Vec<String>> = (0..data.tasks.len())
        .map(|t| {
            let queries = grouped(queries(&data.reported[t]) as u64);
            vec![data.tasks[t].name.clone(), queries, percent(before[t]), trained(t).to_string()]
        })
        .collect();
    rows.push(vec!["mean".into(), String::new(), percent(mean(before)), average.to_string()]);
    outln!("{} with {} trained values, {} seeds", arguments.method, grouped(values as u64), runs.len());
    out!("{}", columns(&["R@10, %", "queries", "before", "after"], &rows));
}
