//! `bigrain prompts`: demonstrations for a language model, from a source of examples to the prompt for an input.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bigrain::error::{Error, Result};
use bigrain::prompts::{
    Chooser, Clusters, Demonstration, HttpScorer, KeptScorer, Ledger, Lexical, Method, MethodReport, PlanSpec, Pool,
    PoolSpec, ProcessScorer, PromptIndex, PromptNote, Scorer, Table, TableReport, TuneSpec, assemble, check_unseen,
    draw_candidates, draw_inputs, measure, merge_lessons, plan, read_lessons, score, tune, write_lessons,
};
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
    /// Examples: a TSV with the columns template, prompt and completion; a newline in them is written as \n
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Folder of the text encoder
    #[arg(long, value_name = "DIR")]
    encoder: PathBuf,
    /// Folder that is made; it must be empty where there is one
    #[arg(long, value_name = "DIR")]
    pool: PathBuf,
    /// Table of clusters of tasks: the beginning of a template's name, a tab, its cluster; needed for templates that are not those of T0
    /// [default: config/task_clusters.tsv]
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
    /// Candidates of each, of its own task
    #[arg(long, value_name = "N", default_value_t = 12)]
    candidates: usize,
    /// Candidates of other tasks besides, for `tune --unseen`
    #[arg(long, value_name = "N", default_value_t = 0)]
    elsewhere: usize,
    /// Inputs of a task that share their candidates, at most
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
    /// For inputs of tasks that the pool has no demonstrations of: learn which demonstrations serve inputs of any other task, from what was
    /// scored with --elsewhere. The defaults of other options change with it
    #[arg(long)]
    unseen: bool,
    /// Hard negatives of an input: its worst candidates [default: 4, unseen 12]
    #[arg(long, value_name = "N")]
    hard: Option<usize>,
    /// Demonstrations of other tasks drawn for an input [default: 8, unseen none]
    #[arg(long, value_name = "N", conflicts_with = "unseen")]
    others: Option<usize>,
    /// How much better the best candidate of an input must be than one that counts as bad, as a share of its worth [default: 0.1, unseen
    /// 0.3]
    #[arg(long, value_name = "SHARE")]
    margin: Option<f64>,
    /// Share of what was scored that is stopped by, in whole tasks
    #[arg(long, value_name = "SHARE", default_value_t = 0.2)]
    valid: f64,
    /// Learning rate [default: 3e-4, unseen 3e-2]
    #[arg(long)]
    rate: Option<f32>,
    /// Decay of the heads, towards no change
    #[arg(long, default_value_t = 1.0, conflicts_with = "unseen")]
    decay: f32,
    /// Scores are divided by it [default: 0.05, unseen 0.2]
    #[arg(long)]
    temperature: Option<f32>,
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
    /// Inputs of the draw that are passed over: those that something was decided by
    #[arg(long, value_name = "N", default_value_t = 0)]
    skip: usize,
    /// Demonstrations before each
    #[arg(short, default_value_t = 3)]
    k: usize,
    /// Indexes to measure
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', default_value = "untuned,tuned")]
    names: Vec<String>,
    /// Random choices to measure: how many
    #[arg(long, value_name = "N", default_value_t = 1)]
    random: u64,
    /// Score every input with the same N demonstrations of all tasks, one at a time; all methods choose among them. Names joined by + are
    /// averaged
    #[arg(long, value_name = "N", conflicts_with = "k", conflicts_with = "random")]
    table: Option<usize>,
    /// Measure on clusters of the pool, on examples that are not in it (with --table)
    #[arg(long, requires = "table")]
    seen: bool,
    /// Measure only on inputs that ask to choose
    #[arg(long)]
    choices: bool,
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
    let ScoreOptions { inputs, candidates, elsewhere, share, seed, .. } = *options;
    let plan = plan(index.pool(), &PlanSpec { inputs, candidates, elsewhere, share, seed })?;
    let mut ledger = Ledger::open(&options.pool.join("scores.jsonl"))?;
    let (path, note) = (options.pool.join("lessons.jsonl"), index.note());
    let before = match path.exists() {
        true => read_lessons(&path, &note.pool, index.pool().demonstrations.len())?,
        false => Vec::new(),
    };
    let mut scorer = options.scorer.start(options.timeout)?;
    let mut kept = KeptScorer::new(scorer.as_mut(), &mut ledger);
    let (lessons, report) = score(index.pool(), &plan, &mut kept, &Lines::default())?;
    let all = merge_lessons(before, lessons);
    write_lessons(&path, &note.pool, &all)?;
    let mut report = json!(report);
    report["lessons_of_all_runs"] = json!(all.len());
    say(&report.to_string())
}

fn run_tune(options: &TuneOptions) -> Result<()> {
    let index = PromptIndex::open(&options.pool, "untuned", None)?;
    let size = index.pool().demonstrations.len();
    let lessons = read_lessons(&options.pool.join("lessons.jsonl"), &index.note().pool, size)?;
    let defaults = if options.unseen { TuneSpec::unseen } else { TuneSpec::new };
    let mut spec = TuneSpec { valid: options.valid, ..defaults(options.name.clone(), options.seed) };
    spec.hard = options.hard.unwrap_or(spec.hard);
    spec.others = options.others.unwrap_or(spec.others);
    spec.margin = options.margin.unwrap_or(spec.margin);
    spec.training.rate = options.rate.unwrap_or(spec.training.rate);
    spec.training.decay = options.decay;
    spec.training.score_temperature = options.temperature.unwrap_or(spec.training.score_temperature);
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
    let held = held_out(options)?;
    let untuned = PromptIndex::open(&options.pool, "untuned", None)?;
    let open = |name: &str| untuned.open_beside(name);
    let pool = untuned.pool();
    let lexical = Lexical::new(pool.demonstrations.iter().map(Demonstration::text));
    let mut ledger = Ledger::open(&options.pool.join("scores.jsonl"))?;
    let groups = options.names.iter().map(|names| names.split('+').map(open).collect::<Result<Vec<_>>>());
    let groups = groups.collect::<Result<Vec<_>>>()?;
    let range = options.skip..options.skip.saturating_add(options.inputs);
    let inputs = draw_inputs(&held, pool, range, options.seed);
    if !options.seen {
        check_unseen(pool, &inputs)?;
    }
    let mut scorer = options.scorer.start(options.timeout)?;
    let mut kept = KeptScorer::new(scorer.as_mut(), &mut ledger);
    if let Some(count) = options.table {
        let candidates = draw_candidates(pool, count, options.seed);
        let table = Table::score(pool, inputs, candidates, &mut kept, &Lines::default())?;
        let mut choosers = vec![Chooser::Lexical(&lexical)];
        choosers.extend(groups.iter().map(|group| Chooser::Indexes(group.iter().collect())));
        let reports = table.judge(&choosers)?;
        return say(&if options.json { table_json(&table, &reports) } else { table_shown(&table, &reports) });
    }
    let mut methods = vec![Method::Alone];
    methods.extend((1..=options.random).map(Method::Random));
    methods.push(Method::Lexical(&lexical));
    methods.extend(groups.iter().flatten().map(Method::Index));
    let reports = measure(&methods, pool, &inputs, options.k, &mut kept, &Lines::default())?;
    say(&if options.json { json!(reports).to_string() } else { shown(&reports) })
}

/// The examples to measure on.
fn held_out(options: &MeasureOptions) -> Result<Vec<Demonstration>> {
    let note = PromptNote::read(&options.pool)?;
    let clusters = clusters(options.clusters.as_deref())?;
    if clusters.id() != note.clusters {
        let what = "table of clusters; give the one that the pool was indexed with (--clusters)";
        return Err(Error::mismatch(what, note.clusters, clusters.id()));
    }
    let only = options.cluster.iter().cloned().collect();
    let spec = PoolSpec { only, most_chars: note.most_chars, seed: options.seed, ..PoolSpec::default() };
    let mut held = Pool::from_tsv(&options.data, &clusters, &spec)?.demonstrations;
    held.retain(|input| !options.choices || !input.options.is_empty());
    Ok(held)
}

/// All of a table, to judge by other means.
fn table_json(table: &Table, reports: &[TableReport]) -> String {
    let inputs = table.inputs();
    let input = |at: usize| json!({"task": inputs[at].task, "template": inputs[at].template, "row": table.row(at)});
    let rows: Vec<_> = (0..inputs.len()).map(input).collect();
    json!({"candidates": table.candidates(), "inputs": rows, "methods": reports}).to_string()
}

/// A table for people.
fn table_shown(table: &Table, reports: &[TableReport]) -> String {
    let (inputs, candidates) = (table.inputs().len(), table.candidates().len());
    let mut out =
        format!("{inputs} inputs, each with {candidates} demonstrations; gain: log worth less the row's mean\n");
    out += &format!("{:<24} {:>8} {:>8} {:>10} {:>9} {:>8}", "method", "gain", "+-", "of oracle", "accuracy", "log");
    for report in reports {
        out += &format!(
            "\n{:<24} {:>+8.4} {:>8.4} {:>10.3} {:>9.3} {:>8.3}",
            report.name, report.gain, report.standard_error, report.of_oracle, report.accuracy, report.log
        );
    }
    out
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
