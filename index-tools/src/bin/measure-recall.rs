//! `measure-recall`: how good and how fast an index answers.

use bigrain::dataset::{KeyFile, Truth, VectorFile, read_qrels};
use bigrain::dense::Store;
use bigrain::error::{Error, Result};
use bigrain::eval::{self, Machine, Memory, Outcome, Plan, Reference, Setting};
use bigrain::search::{OpenOptions, SearchParams, Searcher};
use bigrain::types::Key;
use clap::{ArgGroup, Parser};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Measure recall and speed of an index over a grid of settings.
///
/// Right answers are the nearest rows (--truth, or --exact to compute them from the index's own vectors) or labelled
/// documents (--qrels). Every combination of -k, --nprobe, --candidates and --sparse-weight is one line of the result.
/// Beside the recall of hits stands that of the candidates before verification ("of cand."), which bounds it; JSON has it
/// by depth.
#[derive(Parser)]
#[command(name = "measure-recall", version, group(ArgGroup::new("reference").required(true).args(["truth", "qrels", "exact"])))]
struct Arguments {
    /// The index directory.
    #[arg(long)]
    index: PathBuf,
    /// Query vectors, in any format that build-index reads.
    #[arg(long)]
    queries: PathBuf,
    /// Column of a Parquet file of queries.
    #[arg(long)]
    column: Option<String>,
    /// Nearest row numbers of each query, nearest first (.npy or .ivecs).
    #[arg(long)]
    truth: Option<PathBuf>,
    /// Relevant documents: query row, document row, grade.
    #[arg(long)]
    qrels: Option<PathBuf>,
    /// Compute the nearest rows by exact search.
    #[arg(long)]
    exact: bool,
    /// The keys that the index was built with, where they are not row numbers (for --truth and --qrels).
    #[arg(long)]
    keys: Option<PathBuf>,
    /// Use only the first N queries.
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Hits a query.
    #[arg(short, long, value_delimiter = ',', default_value = "10,100")]
    k: Vec<usize>,
    /// Lists to scan (0: the index's default).
    #[arg(long, value_delimiter = ',', default_value = "0")]
    nprobe: Vec<usize>,
    /// Candidates to verify (0: the default for k).
    #[arg(long, value_delimiter = ',', default_value = "0")]
    candidates: Vec<usize>,
    /// Recalls to aim for instead; the index must have been built with --queries.
    #[arg(long, value_delimiter = ',', value_name = "R", conflicts_with_all = ["nprobe", "candidates"])]
    recall_target: Vec<f32>,
    /// Weights of the code score beside the dense score.
    #[arg(long, value_delimiter = ',', default_value = "0", value_name = "W")]
    sparse_weight: Vec<f32>,
    /// Choose lists by centroids although the index has a router, for comparing.
    #[arg(long)]
    geometric: bool,
    /// Threads that search at the same time.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Hand over all queries at once instead of one at a time.
    #[arg(long)]
    batch: bool,
    /// Time every setting for at least this long.
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    seconds: f64,
    /// How dense vectors are read: mmap, pread, uring or memory.
    #[arg(long, default_value = "mmap")]
    store: Store,
    /// Read past the page cache (pread and uring).
    #[arg(long)]
    direct: bool,
    /// Write the results as JSON.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write a page with the frontier and the table.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("measure-recall: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    check(arguments)?;
    let begun = Instant::now();
    let searcher = Searcher::open(&arguments.index, &OpenOptions { store: arguments.store, direct: arguments.direct })?;
    let open_ms = begun.elapsed().as_secs_f64() * 1e3;
    let opened = Memory::now();
    searcher.notes().iter().for_each(|note| eprintln!("note: {note}"));
    let queries = read_queries(arguments, &searcher)?;
    let reference = reference(arguments, &searcher, &queries)?;
    let plan = Plan {
        threads: arguments.threads,
        batch: arguments.batch,
        at_least: Duration::from_secs_f64(arguments.seconds),
        exact: false,
        geometric: arguments.geometric,
    };
    let table = Table { print: !arguments.json, weight: arguments.sparse_weight.iter().any(|&weight| weight != 0.0) };
    table.header();
    let mut outcomes = Vec::new();
    for setting in grid(arguments) {
        let outcome = eval::measure(&searcher, &queries, &reference, setting, &plan)?;
        table.row(&outcome);
        outcomes.push(outcome);
    }
    let report = report(&searcher, open_ms, opened, &outcomes);
    if arguments.json {
        println!("{report:#}");
    }
    if let Some(path) = &arguments.out {
        std::fs::write(path, format!("{report:#}\n")).map_err(Error::io(path))?;
    }
    if let Some(path) = &arguments.html {
        std::fs::write(path, page(arguments, &report, &outcomes)).map_err(Error::io(path))?;
    }
    Ok(())
}

fn check(arguments: &Arguments) -> Result<()> {
    if arguments.k.contains(&0) {
        return Err(Error::params("k", "0 hits have no recall; ask for 1 or more"));
    }
    if arguments.threads == 0 {
        return Err(Error::params("threads", "0 threads do nothing; use 1 or more"));
    }
    for &sparse_weight in &arguments.sparse_weight {
        SearchParams { sparse_weight, ..SearchParams::default() }.check()?;
    }
    if !(0.0..1e6).contains(&arguments.seconds) {
        return Err(Error::params("seconds", format!("{} is not between 0 and a million", arguments.seconds)));
    }
    Ok(())
}

fn read_queries(arguments: &Arguments, searcher: &Searcher) -> Result<Vec<f32>> {
    let mut file = VectorFile::open(&arguments.queries, arguments.column.as_deref())?;
    searcher.index().quantizer().check_dim(file.dim())?;
    let rows = arguments.limit.unwrap_or(u64::MAX).min(file.rows());
    if rows == 0 {
        return Err(Error::params("limit", "0 queries measure nothing"));
    }
    let mut queries = vec![0f32; rows as usize * file.dim()];
    file.read(0, &mut queries)?;
    Ok(queries)
}

fn reference(arguments: &Arguments, searcher: &Searcher, queries: &[f32]) -> Result<Reference> {
    let count = queries.len() / searcher.dim();
    let keys = read_keys(arguments, searcher)?;
    let key_of = |row: u64| -> Key {
        match &keys {
            Some(keys) => keys.get(row as usize).copied().unwrap_or(Key::MAX),
            None => row,
        }
    };
    if let Some(path) = &arguments.truth {
        let mut truth = Truth::read(path)?;
        if arguments.limit.is_some() && truth.queries() > count {
            truth.rows.truncate(count * truth.k);
        }
        truth.check(path, count as u64, u64::MAX)?;
        return Reference::neighbours(searcher, queries, &truth, &arguments.k, &key_of);
    }
    if let Some(path) = &arguments.qrels {
        return Reference::relevance(&read_qrels(path)?, count, &key_of);
    }
    eprintln!("exact search of {count} queries over {} rows ...", searcher.rows());
    eval::exact_scores(searcher, queries, arguments.k.iter().copied().max().unwrap_or(0))
}

fn read_keys(arguments: &Arguments, searcher: &Searcher) -> Result<Option<Vec<Key>>> {
    let Some(path) = &arguments.keys else { return Ok(None) };
    let rows = searcher.rows() + searcher.index().manifest().build.skipped_rows;
    let mut keys = vec![0; rows as usize];
    KeyFile::open(path, rows)?.read(&mut keys)?;
    Ok(Some(keys))
}

/// Every combination of the lists, weights fastest; candidates below k are raised to it, so duplicates are dropped.
fn grid(arguments: &Arguments) -> Vec<Setting> {
    let mut settings = Vec::new();
    if !arguments.recall_target.is_empty() {
        for &k in &arguments.k {
            for &recall_target in &arguments.recall_target {
                settings.extend(arguments.sparse_weight.iter().map(|&sparse_weight| Setting {
                    k,
                    nprobe: 0,
                    candidates: 0,
                    sparse_weight,
                    recall_target,
                }));
            }
        }
        return settings;
    }
    for &k in &arguments.k {
        for &nprobe in &arguments.nprobe {
            for &candidates in &arguments.candidates {
                let candidates = if candidates == 0 { 0 } else { candidates.max(k) };
                for &sparse_weight in &arguments.sparse_weight {
                    let setting = Setting { k, nprobe, candidates, sparse_weight, recall_target: 0.0 };
                    if !settings.contains(&setting) {
                        settings.push(setting);
                    }
                }
            }
        }
    }
    settings
}

fn report(searcher: &Searcher, open_ms: f64, opened: Memory, outcomes: &[Outcome]) -> serde_json::Value {
    let manifest = searcher.index().manifest();
    let disk: u64 = manifest.files.all().map(|f| f.bytes).sum();
    json!({
        "index": {
            "description": format!(
                "{} lists, {}-bit codes of {} bytes, {} dense", manifest.lists, manifest.code_bits, manifest.code_bytes, manifest.dense
            ),
            "version": manifest.id,
            "rows": manifest.rows,
            "dim": manifest.dim,
            "dense_dim": manifest.dense_dim,
            "heads": manifest.heads,
            "router": manifest.router,
            "metric": manifest.metric,
            "lists": manifest.lists,
            "code_bits": manifest.code_bits,
            "code_bytes": manifest.code_bytes,
            "dense": manifest.dense,
            "memory_bytes_per_row": searcher.memory_bytes() as f64 / manifest.rows as f64,
            "disk_bytes_per_row": disk as f64 / manifest.rows as f64,
            "open_ms": open_ms,
            "resident_when_opened": opened,
            "resident_after": Memory::now(),
        },
        "machine": Machine::this(),
        "results": outcomes,
    })
}

/// The table for people, a line as soon as it is measured.
struct Table {
    print: bool,
    /// Whether a column for the weight is worth its room.
    weight: bool,
}

impl Table {
    fn header(&self) {
        let weight = format!("{:>7}", "weight");
        self.line(
            &weight,
            &format!("{:>5} {:>7} {:>10}", "k", "nprobe", "candidates"),
            &format!(
                "{:>8} {:>8} {:>8} {:>9} {:>8} {:>8}",
                "recall", "of cand.", "MRR", "queries/s", "p50 µs", "p99 µs"
            ),
            &format!("{:>7} {:>7} {:>7} µs  {:>9} {:>8}", "probe", "scan", "fetch", "rows", "vectors"),
        );
    }

    fn row(&self, o: &Outcome) {
        let of_candidates = o.candidate_recall.last_key_value().map_or(1.0, |(_, &recall)| recall);
        let (recall, mrr, qps, p50, p99) = (o.recall, o.mrr, o.qps, o.p50_us, o.p99_us);
        let (probe, scan, fetch) = (o.probe_us, o.scan_us, o.fetch_us);
        self.line(
            &format!("{:>7}", o.sparse_weight),
            &format!("{:>5} {:>7} {:>10}", o.k, o.nprobe, o.candidates),
            &format!("{recall:>8.4} {of_candidates:>8.4} {mrr:>8.4} {qps:>9.0} {p50:>8.1} {p99:>8.1}"),
            &format!("{probe:>7.1} {scan:>7.1} {fetch:>7.1}     {:>9.0} {:>8.0}", o.rows_scanned, o.vectors_read),
        );
    }

    fn line(&self, weight: &str, setting: &str, quality: &str, work: &str) {
        if self.print {
            println!("{setting}{} {quality}   {work}", if self.weight { weight } else { "" });
        }
    }
}

fn page(arguments: &Arguments, report: &serde_json::Value, outcomes: &[Outcome]) -> String {
    let index = &report["index"];
    let machine = &report["machine"];
    let lines = [
        format!(
            "{} rows of {} dimensions, {}; {}. {:.1} bytes a row in memory, {:.0} on disk.",
            index["rows"],
            index["dim"],
            index["metric"].as_str().unwrap_or_default(),
            index["description"].as_str().unwrap_or_default(),
            index["memory_bytes_per_row"].as_f64().unwrap_or_default(),
            index["disk_bytes_per_row"].as_f64().unwrap_or_default(),
        ),
        format!(
            "{} threads on {} ({} cores, {}); dense vectors by {}.",
            arguments.threads,
            machine["cpu"].as_str().unwrap_or_default(),
            machine["cores"],
            machine["simd"].as_str().unwrap_or_default(),
            arguments.store
        ),
    ];
    eval::frontier_page("Recall and speed", &lines, outcomes)
}
