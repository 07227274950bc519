//! `bigrain prompts`: demonstrations for a language model, from a source of examples to the prompt for an input.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bigrain::error::{Error, Result};
use bigrain::prompts::{
    Clusters, HttpScorer, KeptScorer, Ledger, Lexical, Method, MethodReport, PlanSpec, Pool, PoolSpec, ProcessScorer,
    PromptIndex, PromptNote, Scorer, TuneSpec, assemble, measure, plan, read_lessons, score, tune, write_lessons,
};
use bigrain::sample::sample_rows;
use bigrain::train::Watch;
use clap::{Args, Subcommand};
use serde_json::json;

use super::say;

/// Retrieve demonstrations for a language model, by what helped it before
///
/// A pool of demonstrations is indexed; a language model scores which of them help for inputs of training; heads are tuned on that;
/// the best three then go before a new input.
#[derive(Args)]
pub(super) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Index(IndexOptions),
    Score(ScoreOptions),
    Tune(TuneOptions),
    Retrieve(RetrieveOptions),
    Measure(MeasureOptions),
}

/// Index a pool of demonstrations
#[derive(Args)]
struct IndexOptions {
    /// Examples: a TSV with the columns template, prompt and completion
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Folder of the text encoder
    #[arg(long, value_name = "DIR")]
    encoder: PathBuf,
    /// Folder that is made
    #[arg(long, value_name = "DIR")]
    pool: PathBuf,
    /// Table of clusters of tasks [default: that of T0, config/task_clusters.tsv]
    #[arg(long, value_name = "FILE")]
    clusters: Option<PathBuf>,
    /// Clusters that are left out, to be measured on
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    leave_out: Vec<String>,
    /// Examples of a template; 0: all
    #[arg(long, value_name = "N", default_value_t = 0)]
    per_template: usize,
    /// Characters of a demonstration, at most
    #[arg(long, value_name = "N", default_value_t = 800)]
    most_chars: usize,
    /// Tokens of a text that the encoder reads at most [default: what it takes]
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// Of every random choice
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// The language model that scores.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct ScorerOptions {
    /// A command that reads and writes JSON lines: its words, separated by spaces
    #[arg(long, value_name = "COMMAND")]
    process: Option<String>,
    /// An endpoint that answers the same JSON: http://host:port/path
    #[arg(long, value_name = "URL")]
    url: Option<String>,
}

/// Score candidates for inputs of training by a language model; what was scored is kept and not asked again
#[derive(Args)]
struct ScoreOptions {
    /// The pool
    #[arg(long, value_name = "DIR")]
    pool: PathBuf,
    #[command(flatten)]
    scorer: ScorerOptions,
    /// Seconds that an answer may take
    #[arg(long, value_name = "S", default_value_t = 120.0, value_parser = seconds)]
    timeout: f64,
    /// Inputs of training
    #[arg(long, value_name = "N", default_value_t = 240)]
    inputs: usize,
    /// Candidates of each
    #[arg(long, value_name = "N", default_value_t = 12)]
    candidates: usize,
    /// Inputs of a task that share their candidates
    #[arg(long, value_name = "N", default_value_t = 6)]
    share: usize,
    /// Of every random choice
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Tune heads on what was scored, and build an index that holds them
#[derive(Args)]
struct TuneOptions {
    /// The pool
    #[arg(long, value_name = "DIR")]
    pool: PathBuf,
    /// Name of the index that is made
    #[arg(long, default_value = "tuned")]
    name: String,
    /// Hard negatives of an input: its worst candidates
    #[arg(long, value_name = "N", default_value_t = 4)]
    hard: usize,
    /// Demonstrations of other tasks drawn for an input
    #[arg(long, value_name = "N", default_value_t = 8)]
    others: usize,
    /// Learning rate
    #[arg(long, default_value_t = 3e-4)]
    rate: f32,
    /// Scores are divided by it
    #[arg(long, default_value_t = 0.05)]
    temperature: f32,
    /// Passes over what was scored, at most
    #[arg(long, value_name = "N", default_value_t = 30)]
    epochs: usize,
    /// Of every random choice
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Retrieve demonstrations for an input and print the prompt
#[derive(Args)]
struct RetrieveOptions {
    /// The pool
    #[arg(long, value_name = "DIR")]
    pool: PathBuf,
    /// The index: untuned, or the name of a tuned one
    #[arg(long, default_value = "untuned")]
    name: String,
    /// Folder of the text encoder [default: the one that the pool was indexed with]
    #[arg(long, value_name = "DIR")]
    encoder: Option<PathBuf>,
    /// The input
    #[arg(long)]
    text: String,
    /// Demonstrations
    #[arg(short, default_value_t = 3)]
    k: usize,
    /// Print a JSON object: the demonstrations with their scores, and the prompt
    #[arg(long)]
    json: bool,
}

/// Measure what demonstrations are worth, on a cluster that the pool was indexed without
#[derive(Args)]
struct MeasureOptions {
    /// The pool
    #[arg(long, value_name = "DIR")]
    pool: PathBuf,
    /// The examples that the pool was made from
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Table of clusters of tasks [default: that of T0]
    #[arg(long, value_name = "FILE")]
    clusters: Option<PathBuf>,
    /// The clusters to measure on
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', required = true)]
    cluster: Vec<String>,
    #[command(flatten)]
    scorer: ScorerOptions,
    /// Seconds that an answer may take
    #[arg(long, value_name = "S", default_value_t = 120.0, value_parser = seconds)]
    timeout: f64,
    /// Inputs, drawn by the seed
    #[arg(long, value_name = "N", default_value_t = 200)]
    inputs: usize,
    /// Demonstrations before each
    #[arg(short, default_value_t = 3)]
    k: usize,
    /// Indexes to measure
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', default_value = "untuned,tuned")]
    names: Vec<String>,
    /// Random choices to measure: how many
    #[arg(long, value_name = "N", default_value_t = 1)]
    random: u64,
    /// Of the inputs
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn seconds(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value <= 86_400.0 => Ok(value),
        Ok(value) => Err(format!("{value} is not above 0 and at most a day")),
        Err(error) => Err(error.to_string()),
    }
}

/// Says on stderr how long work advances.
#[derive(Default)]
struct Lines {
    state: std::sync::Mutex<(&'static str, u64, u64)>,
}

impl Watch for Lines {
    fn begin(&self, phase: &'static str, total: u64) {
        eprintln!("{phase}: {total}");
        *self.state.lock().expect("no panic while it is held") = (phase, total, 0);
    }

    fn advance(&self, units: u64) {
        let mut state = self.state.lock().expect("no panic while it is held");
        let (phase, total, done) = *state;
        state.2 = done + units;
        // A line for every tenth.
        if total > 0 && done * 10 / total != state.2 * 10 / total {
            eprintln!("{phase}: {} of {total}", state.2);
        }
    }

    fn note(&self, line: &str) {
        eprintln!("{line}");
    }
}

pub(super) fn run(options: &Options) -> Result<()> {
    match &options.command {
        Command::Index(options) => index(options),
        Command::Score(options) => run_score(options),
        Command::Tune(options) => run_tune(options),
        Command::Retrieve(options) => retrieve(options),
        Command::Measure(options) => run_measure(options),
    }
}

fn clusters(path: Option<&Path>) -> Result<Clusters> {
    path.map_or_else(|| Ok(Clusters::default_table()), Clusters::read)
}

fn index(options: &IndexOptions) -> Result<()> {
    let spec = PoolSpec {
        leave_out: options.leave_out.iter().cloned().collect(),
        only: BTreeSet::new(),
        per_template: options.per_template,
        most_chars: options.most_chars,
        seed: options.seed,
    };
    let pool = Pool::from_tsv(&options.data, &clusters(options.clusters.as_deref())?, &spec)?;
    let encoder = (options.encoder.as_path(), options.max_tokens);
    let report = PromptIndex::create(&options.pool, &pool, &spec, encoder, &Lines::default())?;
    say(&json!(report).to_string())
}

impl ScorerOptions {
    fn start(&self, limit: f64) -> Result<Box<dyn Scorer>> {
        let limit = Duration::from_secs_f64(limit);
        match (&self.process, &self.url) {
            (Some(command), _) => {
                let words: Vec<String> = command.split_whitespace().map(String::from).collect();
                Ok(Box::new(ProcessScorer::start(&words, limit)?))
            }
            (None, Some(url)) => Ok(Box::new(HttpScorer::new(url, limit)?)),
            (None, None) => unreachable!("clap asks for one of them"),
        }
    }
}

fn run_score(options: &ScoreOptions) -> Result<()> {
    let index = PromptIndex::open(&options.pool, "untuned", None)?;
    let ScoreOptions { inputs, candidates, share, seed, .. } = *options;
    let plan = plan(index.pool(), &PlanSpec { inputs, candidates, share, seed })?;
    let mut ledger = Ledger::open(&options.pool.join("scores.jsonl"))?;
    let mut scorer = options.scorer.start(options.timeout)?;
    let mut kept = KeptScorer::new(scorer.as_mut(), &mut ledger);
    let (lessons, report) = score(index.pool(), &plan, &mut kept, &Lines::default())?;
    write_lessons(&options.pool.join("lessons.jsonl"), &lessons)?;
    say(&json!(report).to_string())
}

fn run_tune(options: &TuneOptions) -> Result<()> {
    let index = PromptIndex::open(&options.pool, "untuned", None)?;
    let lessons = read_lessons(&options.pool.join("lessons.jsonl"), index.pool())?;
    let mut spec =
        TuneSpec { hard: options.hard, others: options.others, ..TuneSpec::new(&options.name, options.seed) };
    spec.training.rate = options.rate;
    spec.training.score_temperature = options.temperature;
    spec.training.epochs = options.epochs;
    let report = tune(&index, &lessons, &spec, &Lines::default())?;
    say(&json!(report).to_string())
}

fn retrieve(options: &RetrieveOptions) -> Result<()> {
    let index = PromptIndex::open(&options.pool, &options.name, options.encoder.as_deref())?;
    let hits = index.retrieve(&options.text, options.k)?;
    let chosen: Vec<_> = hits.iter().map(|hit| hit.demonstration).collect();
    let prompt = assemble(&chosen, &options.text);
    if !options.json {
        return say(prompt.trim_end());
    }
    let demonstrations: Vec<_> = hits
        .iter()
        .map(|hit| json!({"number": hit.number, "score": hit.score, "demonstration": hit.demonstration}))
        .collect();
    say(&json!({"demonstrations": demonstrations, "prompt": prompt}).to_string())
}

fn run_measure(options: &MeasureOptions) -> Result<()> {
    let note = PromptNote::read(&options.pool)?;
    let only = options.cluster.iter().cloned().collect();
    let spec = PoolSpec { only, most_chars: note.most_chars, seed: options.seed, ..PoolSpec::default() };
    let held = Pool::from_tsv(&options.data, &clusters(options.clusters.as_deref())?, &spec)?.demonstrations;
    let rows = sample_rows(held.len() as u64, options.inputs, options.seed);
    let inputs: Vec<_> = rows.iter().map(|&row| held[row as usize].clone()).collect();
    let indexes =
        options.names.iter().map(|name| PromptIndex::open(&options.pool, name, None)).collect::<Result<Vec<_>>>()?;
    let Some(first) = indexes.first() else { return Err(Error::params("names", "none; give untuned at least")) };
    let lexical = Lexical::new(first.pool().demonstrations.iter().map(|d| d.input.as_str()));
    let mut methods = vec![Method::Alone];
    methods.extend((1..=options.random).map(Method::Random));
    methods.push(Method::Lexical(&lexical));
    methods.extend(indexes.iter().map(Method::Index));
    let mut ledger = Ledger::open(&options.pool.join("scores.jsonl"))?;
    let mut scorer = options.scorer.start(options.timeout)?;
    let mut kept = KeptScorer::new(scorer.as_mut(), &mut ledger);
    let reports = measure(&methods, first.pool(), &inputs, options.k, &mut kept, &Lines::default())?;
    match options.json {
        true => say(&json!(reports).to_string()),
        false => say(&shown(&reports)),
    }
}

/// A table for people; differences are to the first index, input by input.
fn shown(reports: &[MethodReport]) -> String {
    let base = reports.iter().find(|report| report.name == "untuned").unwrap_or(&reports[0]);
    let mut out = format!("{} inputs; differences to {}\n", base.worths.len(), base.name);
    out +=
        &format!("{:<12} {:>8} {:>8} {:>9} {:>8} {:>18}", "method", "worth", "+-", "accuracy", "loglik", "difference");
    for report in reports {
        let (difference, error) = report.against(base);
        out += &format!(
            "\n{:<12} {:>8.4} {:>8.4} {:>9.3} {:>8.3} {:>+9.4} +- {:.4}",
            report.name, report.worth, report.standard_error, report.accuracy, report.loglik, difference, error
        );
    }
    out
}
