//! `compare-codes`: methods of training side by side, on held-out queries, at equal bytes.

// What --help shows is indented, not fenced.
#![allow(rustdoc::invalid_rust_codeblocks)]

use index_tools::out;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use bigrain::dataset::{VectorFile, read_pairs};
use bigrain::error::{Error, Result};
use bigrain::learn::{
    COLUMNS, LearnSpec, Loaded, Run, TemporaryIndex, TestSet, cell, group_title, groups, learn, load, report_page,
};
use bigrain::quantizer::Quantizer;
use bigrain::search::SearchParams;
use bigrain::train::Example;
use bigrain::vfs::RealVfs;
use clap::Parser;
use index_tools::progress::Progress;
use index_tools::shell::{Failure, finish};
use index_tools::table::columns;
use index_tools::training::{LearnPaths, Settings};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Compare methods of training: candidate recall, final recall, time.
///
/// Trains every method at every budget with every seed, builds an index each, and searches it with the test queries. A
/// method is a name with the settings that set it apart from the others, as KEY=VALUE of config/train.toml:
///
///     --method "opq: method=opq" --method "contrastive: method=contrastive"
///     --method "with heads: method=contrastive heads=both sampling=snowball"
///
/// Finished runs are kept in --out; a run that is there already is not repeated. --baseline adds results of other
/// engines, of the same form. Test pairs must share no document with the training pairs: split-pairs makes such splits.
#[derive(Debug, Parser)]
#[command(name = "compare-codes", version, verbatim_doc_comment)]
struct Arguments {
    /// The documents, one a row
    #[arg(long, value_name = "VECTORS")]
    input: PathBuf,
    /// The queries, one a row
    #[arg(long, value_name = "VECTORS")]
    queries: PathBuf,
    /// Pairs to learn from
    #[arg(long, value_name = "FILE")]
    pairs: PathBuf,
    /// Pairs to choose by
    #[arg(long, value_name = "FILE")]
    valid: PathBuf,
    /// Pairs to measure on
    #[arg(long, value_name = "FILE")]
    test: PathBuf,
    /// A name and its settings, such as "opq: method=opq"; may be given several times
    #[arg(long = "method", value_name = "NAME: KEY=VALUE ...", required = true)]
    methods: Vec<String>,
    /// Code bytes a row
    #[arg(long, value_delimiter = ',', default_value = "8", value_name = "LIST")]
    code_bytes: Vec<usize>,
    /// Inverted lists
    #[arg(long, value_delimiter = ',', default_value = "1", value_name = "LIST")]
    lists: Vec<usize>,
    /// Lists probed (those beyond the number of lists are left out; no lists: 1)
    #[arg(long, value_delimiter = ',', default_value = "1", value_name = "LIST")]
    nprobe: Vec<usize>,
    /// Seeds
    #[arg(long, value_delimiter = ',', default_value = "1,2,3", value_name = "LIST")]
    seeds: Vec<u64>,
    /// Candidates that are verified
    #[arg(long, default_value_t = 1000, value_name = "N")]
    candidates: usize,
    /// Weight of the code score in verification
    #[arg(long, default_value_t = 0.0, value_name = "W")]
    sparse_weight: f32,
    /// Choose lists by centroids even where routing was learned
    #[arg(long)]
    geometric: bool,
    /// Measure exact search with the vectors as they are, too: the ceiling without training
    #[arg(long)]
    exact: bool,
    /// Results of other engines: a JSON list of the same form as --out
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// Where results are kept, JSON
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The page to write
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Its title
    #[arg(long, default_value = "Learned codes", value_name = "TEXT")]
    title: String,
    /// A file of settings, as config/train.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The name of exact search in the tables.
const EXACT: &str = "dense, exact";

/// A method: its name and what sets it apart.
#[derive(Debug)]
struct Method {
    name: String,
    flags: Vec<(String, String)>,
}

impl Method {
    fn parse(text: &str) -> Result<Method> {
        let wrong =
            || Error::params("method", format!("{text:?} is not NAME: KEY=VALUE ..., such as \"opq: method=opq\""));
        let (name, flags) = text.split_once(':').ok_or_else(wrong)?;
        let flag = |text: &str| text.split_once('=').map(|(k, v)| (k.to_string(), v.to_string())).ok_or_else(wrong);
        Ok(Method { name: name.trim().into(), flags: flags.split_whitespace().map(flag).collect::<Result<_>>()? })
    }
}

fn main() -> ExitCode {
    finish("compare-codes", run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let methods = arguments.methods.iter().map(|m| Method::parse(m)).collect::<Result<Vec<_>>>();
    let methods = methods.map_err(Failure::Usage)?;
    let mut runs = if arguments.out.exists() { read_runs(&arguments.out)? } else { Vec::new() };
    let progress = Progress::start("compare-codes", "steps", &arguments.out)?;
    let first = spec(arguments, &methods[0], 8, 1, 1).map_err(Failure::Usage)?;
    let loaded = load(&first, &progress)?;
    let (queries, rows) = (loaded.examples.queries.nrows() as u64, loaded.document_rows.len() as u64);
    let test: Vec<Example> = read_pairs(&arguments.test, queries, rows)?
        .iter()
        .map(|p| Example { query: p.query as u32, document: p.document as u32 })
        .collect();
    check_apart(arguments, &loaded, &test)?;
    let test = TestSet::new(&loaded, &test, &progress)?;
    for &bytes in &arguments.code_bytes {
        for &lists in &arguments.lists {
            for method in &methods {
                for &seed in &arguments.seeds {
                    let spec = spec(arguments, method, bytes, lists, seed).map_err(Failure::Usage)?;
                    compare(arguments, (method, &spec), (bytes, lists), (&loaded, &test), &mut runs, &progress)?;
                }
            }
        }
    }
    if arguments.exact && !runs.iter().any(|run| run.method == EXACT) {
        let quality = test.exact(&loaded, &progress)?;
        let (method, epochs) = (EXACT.to_string(), Vec::new());
        runs.push(Run { method, bytes: 0, lists: 1, nprobe: 1, seed: 0, quality, seconds: 0.0, epochs });
        write_runs(&arguments.out, &runs)?;
    }
    drop(progress);
    let baseline = arguments.baseline.as_deref().map(read_runs).transpose()?.unwrap_or_default();
    let all: Vec<Run> = baseline.into_iter().chain(runs).collect();
    out!("{}", describe(&all));
    if let Some(path) = &arguments.html {
        let lines = [format!(
            "{} documents of {} dimensions, {} test queries, {} candidates verified.",
            loaded.examples.documents.nrows(),
            loaded.examples.dim(),
            test.queries(),
            arguments.candidates
        )];
        std::fs::write(path, report_page(&arguments.title, &lines, &all)).map_err(Error::io(path))?;
    }
    Ok(())
}

fn spec(arguments: &Arguments, method: &Method, bytes: usize, lists: usize, seed: u64) -> Result<LearnSpec> {
    let mut flags: Vec<(&str, String)> =
        vec![("code_bytes", bytes.to_string()), ("lists", lists.to_string()), ("seed", seed.to_string())];
    flags.extend(method.flags.iter().map(|(k, v)| (k.as_str(), v.clone())));
    let settings = Settings::load(arguments.config.as_deref(), [], &flags)?;
    let file = VectorFile::open(&arguments.input, None)?;
    let paths = LearnPaths {
        input: arguments.input.clone(),
        column: None,
        queries: Some(arguments.queries.clone()),
        pairs: Some(arguments.pairs.clone()),
        valid: Some(arguments.valid.clone()),
        output: arguments.out.with_extension("quantizer.bg"),
    };
    let mut spec = settings.spec(file.rows(), file.dim(), paths)?;
    // Every document takes part in the search, so every document is in memory here.
    spec.max_documents = usize::MAX;
    Ok(spec)
}

/// A test document that was trained on measures memory.
fn check_apart(arguments: &Arguments, loaded: &Loaded, test: &[Example]) -> Result<()> {
    let pairs = loaded.examples.train.iter().chain(&loaded.examples.valid);
    let used: std::collections::HashSet<u32> = pairs.map(|p| p.document).collect();
    match test.iter().position(|p| used.contains(&p.document)) {
        Some(at) => {
            let reason =
                format!("document {} is among the training pairs, too; split with split-pairs", test[at].document);
            Err(Error::input(&arguments.test, format!("pair {}", at + 1), reason))
        }
        None => Ok(()),
    }
}

/// Trains, builds and measures one method at one budget with one seed, unless it is there already.
fn compare(
    arguments: &Arguments,
    (method, spec): (&Method, &LearnSpec),
    (bytes, lists): (usize, usize),
    (loaded, test): (&Loaded, &TestSet),
    runs: &mut Vec<Run>,
    progress: &Progress,
) -> Result<()> {
    let mut nprobes: Vec<usize> = arguments.nprobe.iter().map(|&n| n.min(lists)).collect();
    nprobes.dedup();
    let is = |run: &Run, nprobe| {
        (&run.method, run.bytes, run.lists, run.nprobe, run.seed) == (&method.name, bytes, lists, nprobe, spec.seed)
    };
    nprobes.retain(|&nprobe| !runs.iter().any(|run| is(run, nprobe)));
    if nprobes.is_empty() {
        return Ok(());
    }
    let began = Instant::now();
    let report = learn(spec, progress)?;
    let seconds = began.elapsed().as_secs_f64();
    let quantizer = Quantizer::read(&RealVfs, &spec.output, None)?;
    std::fs::remove_file(&spec.output).map_err(Error::io(&spec.output))?;
    let index = TemporaryIndex::build(spec, &quantizer, progress)?;
    let epochs = report.stages.iter().rfind(|s| s.stage == "codes").map_or(Vec::new(), |s| s.epochs.clone());
    for nprobe in nprobes {
        let params = SearchParams {
            k: 100,
            nprobe,
            candidates: arguments.candidates,
            sparse_weight: arguments.sparse_weight,
            geometric: arguments.geometric,
            ..SearchParams::default()
        };
        let quality = test.measure(&index, loaded, &params, progress)?;
        let (method, epochs) = (method.name.clone(), epochs.clone());
        runs.push(Run { method, bytes, lists, nprobe, seed: spec.seed, quality, seconds, epochs });
    }
    write_runs(&arguments.out, runs)
}

fn read_runs(path: &Path) -> Result<Vec<Run>> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    serde_json::from_str(&text).map_err(|e| Error::input(path, format!("line {}", e.line()), format!("{e}; remove it")))
}

fn write_runs(path: &Path, runs: &[Run]) -> Result<()> {
    let beside = path.with_extension("writing");
    std::fs::write(&beside, serde_json::to_vec_pretty(runs).expect("plain values")).map_err(Error::io(&beside))?;
    std::fs::rename(&beside, path).map_err(Error::io(path))
}

fn describe(runs: &[Run]) -> String {
    let mut out = String::new();
    let header: Vec<&str> = ["method"].into_iter().chain(COLUMNS.iter().map(|c| c.0)).collect();
    for group in groups(runs) {
        let rows: Vec<Vec<String>> = group
            .iter()
            .map(|row| {
                let cells = (0..COLUMNS.len()).map(|column| {
                    let (mean, spread) = cell(row, column);
                    format!("{mean} {spread}").trim().to_string()
                });
                [row.runs[0].method.clone()].into_iter().chain(cells).collect()
            })
            .collect();
        out.push_str(&format!("{}\n{}\n", group_title(&group), columns(&header, &rows)));
    }
    out
}
