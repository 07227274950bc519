//! `train-relevance`: a multi-task model of pairs of texts, for the last step of a search.

// What --help shows is indented, not fenced.
#![allow(rustdoc::invalid_rust_codeblocks)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use bigrain::adapters::{AdapterShape, Epoch, Method};
use bigrain::encoder::Encoder;
use bigrain::error::{Error, Result};
use bigrain::relevance::{Quality, RelevanceModel, RelevanceTask, RelevanceTraining, Row, pretrain, train_relevance};
use bigrain::vfs::RealVfs;
use clap::Parser;
use index_tools::labelled::{Caps, Labelled, Source, read};
use index_tools::progress::Progress;
use index_tools::shell::{Failure, finish};
use index_tools::spread::Spread;
use index_tools::table::{columns, grouped};
use index_tools::{out, outln};
use mimalloc::MiMalloc;
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Train a model that says how relevant two texts are to each other, for each of several tasks.
///
/// The table has a header line and the columns task, split, text_a, text_b, label, separated by tabs. Rows of test are held
/// out, those of dev or val choose the best epoch; what a task lacks is drawn from its other rows, so that no text is in two
/// parts, and rows of `all` are divided 70 : 10 : 20. The trunk is trained without labels and frozen; then each method trains adapters of its layers and an
/// output for each task. Prints the held-out figures by task: accuracy, or average precision where one of two classes is rare
/// among the rows to train on, or rank correlation of values.
///
/// Example:
///
///     train-relevance --table tasks.tsv --encoder model --values similarity --output relevance.safetensors
///     bigrain search --index index --queries q.npy --relevance relevance.safetensors --task similarity
#[derive(Debug, Parser)]
#[command(name = "train-relevance", version, verbatim_doc_comment)]
struct Arguments {
    /// The table of labelled texts
    #[arg(long, value_name = "FILE")]
    table: PathBuf,
    /// Folder of the text encoder
    #[arg(long, value_name = "DIR", required_unless_present = "vectors_a", conflicts_with = "vectors_a")]
    encoder: Option<PathBuf>,
    /// Vectors of text_a, row i for row i of the table, in place of an encoder
    #[arg(long, value_name = "VECTORS", requires = "vectors_b")]
    vectors_a: Option<PathBuf>,
    /// Vectors of text_b; any where it is empty
    #[arg(long, value_name = "VECTORS", requires = "vectors_a")]
    vectors_b: Option<PathBuf>,
    /// Id of the encoder that made these vectors, as encode-texts prints it; the model keeps it
    #[arg(long, value_name = "ID", requires = "vectors_a")]
    encoder_id: Option<String>,
    /// Tasks whose labels are values, not classes
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    values: Vec<String>,
    /// Train on these tasks only, by name
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Most rows of a task to train on
    #[arg(long, value_name = "N", default_value_t = 3_000)]
    train_rows: usize,
    /// Most rows of a task to choose by
    #[arg(long, value_name = "N", default_value_t = 500)]
    valid_rows: usize,
    /// Most rows of a task to report
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    test_rows: usize,
    /// Methods to train, several to compare: none (outputs only), lora, lora-per-task, mtl-lora
    #[arg(long, value_name = "METHOD", value_delimiter = ',', default_value = "mtl-lora")]
    method: Vec<Adapted>,
    /// Rank of the adapters
    #[arg(long, value_name = "R", default_value_t = 8)]
    rank: usize,
    /// Give lora and lora-per-task the rank at which they have about as many trained values as mtl-lora
    #[arg(long)]
    equal_size: bool,
    /// What adapters add is scaled by this at every rank: alpha / rank. Larger ranks move faster, so choose the rate for each method
    #[arg(long, value_name = "S", default_value_t = 2.0)]
    scale: f32,
    /// Maps up that tasks share (mtl-lora)
    #[arg(long, value_name = "N", default_value_t = 3)]
    ups: usize,
    /// Temperature of the weights of the maps up
    #[arg(long, value_name = "T", default_value_t = 0.1)]
    temperature: f32,
    /// Outputs of the layers of the trunk
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = RelevanceTraining::default().widths)]
    widths: Vec<usize>,
    /// Passes over the rows
    #[arg(long, value_name = "N", default_value_t = RelevanceTraining::default().epochs)]
    epochs: usize,
    /// Passes that train the trunk
    #[arg(long, value_name = "N", default_value_t = 3)]
    trunk_epochs: usize,
    /// Rows of a batch
    #[arg(long, value_name = "N", default_value_t = RelevanceTraining::default().batch)]
    batch: usize,
    /// A task of n rows is drawn in proportion to n to this power
    #[arg(long, value_name = "B", default_value_t = RelevanceTraining::default().balance)]
    balance: f32,
    /// Highest learning rate, of all methods or one for each
    #[arg(long, value_name = "RATE", value_delimiter = ',', default_values_t = [RelevanceTraining::default().rate])]
    rate: Vec<f32>,
    /// Rate of what mtl-lora keeps for a task alone, as a share of the rate
    #[arg(long, value_name = "SHARE", default_value_t = RelevanceTraining::default().own_rate)]
    own_rate: f32,
    /// Highest learning rate of the trunk
    #[arg(long, value_name = "RATE", default_value_t = 1e-3)]
    trunk_rate: f32,
    /// Weight decay
    #[arg(long, value_name = "D", default_value_t = RelevanceTraining::default().decay)]
    decay: f32,
    /// Seeds, one run each
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1")]
    seeds: Vec<u64>,
    /// Train a model for each task alone, to see what the others give
    #[arg(long)]
    alone: bool,
    /// Report the rows that choose, not the held-out ones: to tune by
    #[arg(long)]
    on_valid: bool,
    /// Where the model of the first method and seed is written, .safetensors
    #[arg(long, value_name = "FILE", conflicts_with = "alone")]
    output: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// What is trained beside the outputs.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Adapted(Option<Method>);

impl FromStr for Adapted {
    type Err = Error;
    fn from_str(text: &str) -> Result<Adapted> {
        match text {
            "none" => Ok(Adapted(None)),
            method => method.parse().map(|method| Adapted(Some(method))).map_err(|_| {
                Error::params("method", format!("{method:?} is not one of none, lora, lora-per-task, mtl-lora"))
            }),
        }
    }
}

impl std::fmt::Display for Adapted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(method) => method.fmt(f),
            None => f.write_str("none"),
        }
    }
}

/// What a method came to with one seed.
struct Run {
    /// Of each task.
    figures: Vec<Quality>,
    /// Of each training: one, or one a task.
    curves: Vec<Vec<Epoch>>,
}

/// What a method came to.
struct Outcome {
    method: Adapted,
    rate: f32,
    rank: usize,
    trainable: usize,
    /// One a seed.
    runs: Vec<Run>,
}

fn main() -> ExitCode {
    finish("train-relevance", run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let methods = arguments.method.len();
    if ![1, methods].contains(&arguments.rate.len()) {
        let reason = format!("{:?} for {methods} methods; give one, or one for each", arguments.rate);
        return Err(Failure::Usage(Error::params("rate", reason)));
    }
    let checked = arguments.rate.iter().try_for_each(|&rate| settings(arguments, rate, 1).check());
    checked.and_then(|()| trunk_settings(arguments, 1).check()).map_err(Failure::Usage)?;
    shape(arguments, Method::MtlLora, arguments.rank).check().map_err(Failure::Usage)?;
    let watch = Progress::start("train-relevance", "step", &arguments.table)?;
    let data = data(arguments, &watch)?;
    let mut outcomes: Vec<Outcome> = Vec::new();
    for &seed in &arguments.seeds {
        let trunk = pretrain(data.vectors.view(), &data.tasks, &trunk_settings(arguments, seed), &watch)?.0;
        for at in 0..methods {
            let outcome = trained(arguments, &data, &trunk, at, seed, &watch)?;
            match outcomes.get_mut(at) {
                Some(before) => before.runs.extend(outcome.runs),
                None => outcomes.push(outcome),
            }
        }
    }
    warn_of_sizes(arguments, &outcomes);
    report(arguments, &data, &outcomes);
    Ok(())
}

fn settings(arguments: &Arguments, rate: f32, seed: u64) -> RelevanceTraining {
    RelevanceTraining {
        widths: arguments.widths.clone(),
        epochs: arguments.epochs,
        batch: arguments.batch,
        balance: arguments.balance,
        rate,
        own_rate: arguments.own_rate,
        decay: arguments.decay,
        seed,
        ..RelevanceTraining::default()
    }
}

/// Those of the trunk: what is tried for the tasks leaves it as it is.
fn trunk_settings(arguments: &Arguments, seed: u64) -> RelevanceTraining {
    let (widths, epochs, rate) = (arguments.widths.clone(), arguments.trunk_epochs, arguments.trunk_rate);
    RelevanceTraining { widths, epochs, rate, seed, ..RelevanceTraining::default() }
}

fn data(arguments: &Arguments, watch: &Progress) -> Result<Labelled> {
    let caps = Caps { train: arguments.train_rows, valid: arguments.valid_rows, test: arguments.test_rows };
    let encoder = arguments.encoder.as_deref().map(Encoder::open).transpose()?;
    let source = match (&encoder, &arguments.vectors_a, &arguments.vectors_b) {
        (Some(encoder), ..) => Source::Encoder(encoder),
        (None, Some(a), Some(b)) => Source::Files(a, b),
        _ => return Err(Error::params("encoder", "give a folder, or vectors of both texts")),
    };
    let data = read(&arguments.table, &arguments.only, &arguments.values, caps, &source, watch)?;
    Ok(Labelled { encoder: data.encoder.or_else(|| arguments.encoder_id.clone()), ..data })
}

fn shape(arguments: &Arguments, method: Method, rank: usize) -> AdapterShape {
    let alpha = arguments.scale * rank as f32;
    AdapterShape { method, rank, alpha, ups: arguments.ups, temperature: arguments.temperature }
}

/// The rank of a method: as given, or the one with about as many trained values as mtl-lora has at the given one.
fn rank(arguments: &Arguments, method: Method, dim: usize, tasks: usize) -> usize {
    if !arguments.equal_size || method == Method::MtlLora {
        return arguments.rank;
    }
    let size = |method, rank| {
        let shape = shape(arguments, method, rank);
        let inputs = [4 * dim].into_iter().chain(arguments.widths.iter().copied());
        inputs.zip(&arguments.widths).map(|(input, &output)| shape.parameters(input, output, tasks)).sum::<usize>()
    };
    let wanted = size(Method::MtlLora, arguments.rank);
    (wanted as f64 / size(method, 1) as f64).round().max(1.0) as usize
}

/// Says so where methods that should have equal sizes have not: ranks are whole, and those of lora-per-task are small.
fn warn_of_sizes(arguments: &Arguments, outcomes: &[Outcome]) {
    let Some(wanted) = outcomes.iter().find(|o| o.method.0 == Some(Method::MtlLora)) else { return };
    for o in outcomes.iter().filter(|o| arguments.equal_size && o.method.0.is_some()) {
        let ratio = o.trainable as f64 / wanted.trainable as f64;
        if !(0.9..=1.1).contains(&ratio) {
            let sizes = [o.trainable, wanted.trainable].map(|size| grouped(size as u64));
            eprintln!(
                "warning: {} of rank {} has {} trained values, mtl-lora {}: no rank comes nearer; choose another --rank or --ups",
                o.method, o.rank, sizes[0], sizes[1]
            );
        }
    }
}

/// Trains the method at this place with one seed.
fn trained(
    arguments: &Arguments,
    data: &Labelled,
    trunk: &RelevanceModel,
    at: usize,
    seed: u64,
    watch: &Progress,
) -> Result<Outcome> {
    let (method, rate) = (arguments.method[at], arguments.rate[at % arguments.rate.len()]);
    let settings = settings(arguments, rate, seed);
    let group = if arguments.alone { 1 } else { data.tasks.len() };
    let rank = method.0.map_or(0, |method| rank(arguments, method, trunk.dim(), group));
    let shape = method.0.map(|method| shape(arguments, method, rank));
    let (mut figures, mut curves, mut trainable) = (Vec::new(), Vec::new(), 0);
    for (tasks, tests) in data.tasks.chunks(group).zip(data.test.chunks(group)) {
        let (model, curve) = train_relevance(trunk, data.vectors.view(), tasks, shape, &settings, watch)?;
        for (task, test) in tasks.iter().zip(tests) {
            let rows = if arguments.on_valid { &task.valid } else { test };
            figures.push(model.ranker(&task.name)?.quality(data.vectors.view(), rows)?);
        }
        trainable += model.trainable();
        curves.push(curve);
        if let (Some(path), 0, true) = (&arguments.output, at, seed == arguments.seeds[0]) {
            model.with_encoder(data.encoder.clone()).save(&RealVfs, path)?;
        }
    }
    Ok(Outcome { method, rate, rank, trainable, runs: vec![Run { figures, curves }] })
}

/// Mean score over the tasks.
fn mean(run: &Run) -> f64 {
    run.figures.iter().map(|q| f64::from(q.score)).sum::<f64>() / run.figures.len().max(1) as f64
}

fn average(o: &Outcome) -> Spread {
    Spread::of(o.runs.iter().map(|run| 100.0 * mean(run)))
}

fn report(arguments: &Arguments, data: &Labelled, outcomes: &[Outcome]) {
    if arguments.json {
        outln!("{:#}", as_json(arguments, data, outcomes));
        return;
    }
    let task_score =
        |o: &Outcome, t: usize| Spread::of(o.runs.iter().map(|run| 100.0 * f64::from(run.figures[t].score)));
    let title = |o: &Outcome| match o.rank {
        0 => o.method.to_string(),
        rank => format!("{} r={rank}", o.method),
    };
    let mut header = vec!["task".to_string(), "train".into(), "test".into(), "score, %".into()];
    header.extend(outcomes.iter().map(title));
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (t, task) in data.tasks.iter().enumerate() {
        let quality = &outcomes[0].runs[0].figures[t];
        let counts = [task.train.len(), quality.rows].map(|count| grouped(count as u64));
        let mut row = vec![task.name.clone()];
        row.extend(counts);
        row.push(quality.measure.into());
        row.extend(outcomes.iter().map(|o| task_score(o, t).to_string()));
        rows.push(row);
    }
    let blank = || vec![String::new(); 3];
    let line = |name: &str, cell: &dyn Fn(&Outcome) -> String| {
        [vec![name.to_string()], blank(), outcomes.iter().map(cell).collect()].concat()
    };
    rows.push(line("mean", &|o| average(o).to_string()));
    rows.push(line("trained values", &|o| grouped(o.trainable as u64)));
    out!("{}", columns(&header.iter().map(String::as_str).collect::<Vec<_>>(), &rows));
}

fn as_json(arguments: &Arguments, data: &Labelled, outcomes: &[Outcome]) -> Value {
    let method = |o: &Outcome| {
        let task = |(t, task): (usize, &RelevanceTask)| {
            let runs: Vec<Quality> = o.runs.iter().map(|run| run.figures[t]).collect();
            json!({"name": task.name, "runs": runs})
        };
        let tasks: Vec<Value> = data.tasks.iter().enumerate().map(task).collect();
        let curves: Vec<&[Vec<Epoch>]> = o.runs.iter().map(|run| &run.curves[..]).collect();
        json!({
            "method": o.method.to_string(), "rate": o.rate, "rank": o.rank, "trainable": o.trainable, "mean": average(o),
            "means": o.runs.iter().map(mean).collect::<Vec<_>>(), "tasks": tasks, "curves": curves,
        })
    };
    let sizes = |(task, test): (&RelevanceTask, &Vec<Row>)| {
        let (train, valid) = (task.train.len(), task.valid.len());
        json!({"name": task.name, "train": train, "valid": valid, "test": test.len(), "kind": task.kind()})
    };
    let tasks: Vec<Value> = data.tasks.iter().zip(&data.test).map(sizes).collect();
    let methods: Vec<Value> = outcomes.iter().map(method).collect();
    json!({"seeds": arguments.seeds, "alone": arguments.alone, "tasks": tasks, "methods": methods})
}
