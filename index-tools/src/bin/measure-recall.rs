//! `measure-recall`: how good and how fast an index answers.

// What --help shows is indented, not fenced.
#![allow(rustdoc::invalid_rust_codeblocks)]

use bigrain::dataset::{RunWriter, Truth, VectorFile, read_qrels};
use bigrain::dense::{Store, Tier};
use bigrain::error::{Error, Result};
use bigrain::eval::{self, Memory, Outcome, Plan, Reference, Setting};
use bigrain::search::{OpenOptions, SearchParams, Searcher};
use clap::{ArgGroup, Parser};
use index_tools::baseline::{self, Asked, Baselines, Documents};
use index_tools::frontier::{Table, by_depth, page, report};
use index_tools::rows::Rows;
use index_tools::size::Size;
use index_tools::{out, outln};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Measure recall and speed of an index over a grid of settings.
///
/// Right answers are the nearest rows (--truth, or --exact to compute them from
/// the index's own vectors) or labelled documents (--qrels). Every combination of
/// -k, --nprobe, --candidates and --sparse-weight is one line of the result. Beside
/// the recall of hits stands that of the candidates before verification ("of
/// cand."), which bounds it.
///
/// With -k above 10 a second table has MRR@10 and the recall at 10, 50, 100, 1,000
/// and k, of hits and of candidates in the order of their code scores; JSON always
/// has them. Means are over queries with a relevant document. With --exact, right
/// answers are the nearest of the stored vectors, so what i8 or f16 records lose is
/// not seen; give --truth from the original vectors to see it.
///
/// Lines of --qrels are `query document grade` or TREC's `query 0 document grade`.
/// Their ids are row numbers, unless --query-ids and --document-ids name files of
/// ids, one a line, line i for row i - 1. --run writes the hits of the one setting
/// given as a TREC run, with the same ids.
///
/// Example, MS MARCO's passages:
///
///     measure-recall --index index --queries dev.npy --qrels qrels.dev.small.tsv \
///         --query-ids dev.ids.txt --document-ids docs.ids.txt -k 1000 --run dev.run
///
/// In a build with the feature faiss, --baseline builds indexes of FAISS from the same
/// documents and asks them the same queries, one at a time, between the settings of
/// this index; both frontiers follow the table. Write PQ16np, not PQ16, which trains
/// for 20 times as long:
///
///     measure-recall --index index --queries queries.npy --exact --limit 1000 -k 10 \
///         --nprobe 4,8,16,32 --candidates 20,50,100 --documents vectors.npy \
///         --baseline IVF512,PQ50x4fs,RFlat --baseline IVF512,PQ16np
#[derive(Parser)]
#[command(name = "measure-recall", version, verbatim_doc_comment, group(ArgGroup::new("reference").required(true).args(["truth", "qrels", "exact"])))]
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
    /// Relevant documents: query, document, grade, or TREC's four columns.
    #[arg(long)]
    qrels: Option<PathBuf>,
    /// Compute the nearest rows by exact search.
    #[arg(long)]
    exact: bool,
    /// The keys that the index was built with, where they are not row numbers (for --truth and --qrels).
    #[arg(long)]
    keys: Option<PathBuf>,
    /// Ids of the queries in --qrels and --run, one a line [default: row numbers].
    #[arg(long, value_name = "FILE")]
    query_ids: Option<PathBuf>,
    /// Ids of the documents in --qrels and --run, one a line, in the order of the vectors that the index was built from
    /// [default: row numbers].
    #[arg(long, value_name = "FILE")]
    document_ids: Option<PathBuf>,
    /// Write the hits as a TREC run: query, Q0, document, rank, score, tag. Takes one setting.
    #[arg(long, value_name = "FILE")]
    run: Option<PathBuf>,
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
    /// Read past the system's page cache (pread and uring).
    #[arg(long)]
    direct: bool,
    /// Most bytes of pages that direct reads keep in memory for later queries; 0: none.
    #[arg(long, value_name = "BYTES", default_value = "0")]
    page_cache: Size,
    /// What is kept in memory of every dense vector, to score candidates without a read: none or int8.
    #[arg(long, value_name = "TIER", default_value_t = Tier::None)]
    dense_tier: Tier,
    /// Write the results as JSON.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write a page with the frontier and the table.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    baselines: baseline::Arguments,
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
    let Arguments { store, direct, page_cache: Size(page_cache), dense_tier: tier, .. } = *arguments;
    let searcher = Searcher::open(&arguments.index, &OpenOptions { store, direct, page_cache, tier })?;
    let open_ms = begun.elapsed().as_secs_f64() * 1e3;
    let opened = Memory::now();
    searcher.notes().iter().for_each(|note| eprintln!("note: {note}"));
    let (queries, query_rows) = read_queries(arguments, &searcher)?;
    let rows = read_rows(arguments, &searcher, query_rows)?;
    let reference = reference(arguments, &searcher, &queries, query_rows, &rows)?;
    let plan = Plan {
        threads: arguments.threads,
        batch: arguments.batch,
        at_least: Duration::from_secs_f64(arguments.seconds),
        exact: false,
        geometric: arguments.geometric,
    };
    let table = Table {
        print: !arguments.json,
        weight: arguments.sparse_weight.iter().any(|&weight| weight != 0.0),
        in_memory: page_cache > 0 || tier != Tier::None,
    };
    let mut baselines = match arguments.baselines.check()? {
        Some(path) => {
            let documents = Documents::read(path, &searcher, &rows)?;
            let asked = Asked::new(&searcher, &queries, &reference, &plan);
            Some(Baselines::build(&arguments.baselines, documents, asked, &arguments.k)?)
        }
        None => None,
    };
    table.header();
    let settings = grid(arguments);
    let mut outcomes = Vec::new();
    for &setting in &settings {
        let outcome = eval::measure(&searcher, &queries, &reference, setting, &plan)?;
        table.row(&outcome);
        outcomes.push(outcome);
        if let Some(baselines) = &mut baselines {
            baselines.keep_up(outcomes.len(), settings.len())?;
        }
    }
    if let (Some(path), [setting]) = (&arguments.run, &settings[..]) {
        write_run(path, &searcher, &queries, &setting.params(&plan), &rows)?;
    }
    let mut report = report(&searcher, open_ms, opened, &reference, queries.len() / searcher.dim(), &outcomes);
    if table.print {
        out!("{}", second_table(&outcomes));
    }
    if let Some(baselines) = &baselines {
        let frontiers = baseline::frontiers(&searcher, &outcomes, baselines.all());
        report["baselines"] = json!(baselines.all());
        report["frontiers"] = json!(frontiers);
        if table.print {
            out!("{}", baseline::describe(&frontiers));
        }
    }
    if arguments.json {
        outln!("{report:#}");
    }
    if let Some(path) = &arguments.out {
        std::fs::write(path, format!("{report:#}\n")).map_err(Error::io(path))?;
    }
    if let Some(path) = &arguments.html {
        std::fs::write(path, page(&report, &outcomes)).map_err(Error::io(path))?;
    }
    Ok(())
}

fn check(arguments: &Arguments) -> Result<()> {
    arguments.baselines.check()?;
    if arguments.k.contains(&0) {
        return Err(Error::params("k", "0 hits have no recall; ask for 1 or more"));
    }
    if arguments.threads == 0 {
        return Err(Error::params("threads", "0 threads do nothing; use 1 or more"));
    }
    for &sparse_weight in &arguments.sparse_weight {
        SearchParams { sparse_weight, ..SearchParams::default() }.check()?;
    }
    let settings = grid(arguments).len();
    if arguments.run.is_some() && settings != 1 {
        let reason = format!("it takes one setting, but there are {settings}; give one -k, --nprobe and so on");
        return Err(Error::params("run", reason));
    }
    if !(0.0..1e6).contains(&arguments.seconds) {
        return Err(Error::params("seconds", format!("{} is not between 0 and a million", arguments.seconds)));
    }
    Ok(())
}

/// The queries to ask, and how many the file has.
fn read_queries(arguments: &Arguments, searcher: &Searcher) -> Result<(Vec<f32>, u64)> {
    let mut file = VectorFile::open(&arguments.queries, arguments.column.as_deref())?;
    searcher.index().quantizer().check_dim(file.dim())?;
    let rows = arguments.limit.unwrap_or(u64::MAX).min(file.rows());
    if rows == 0 {
        return Err(Error::params("limit", "0 queries measure nothing"));
    }
    let mut queries = vec![0f32; rows as usize * file.dim()];
    file.read(0, &mut queries)?;
    Ok((queries, file.rows()))
}

fn read_rows(arguments: &Arguments, searcher: &Searcher, query_rows: u64) -> Result<Rows> {
    let document_rows = searcher.rows() + searcher.index().manifest().build.skipped_rows;
    let rows = Rows::new(query_rows, document_rows);
    let rows = match &arguments.keys {
        Some(path) => rows.with_keys(path)?,
        None => rows,
    };
    rows.with_ids(arguments.query_ids.as_deref(), arguments.document_ids.as_deref())
}

fn reference(
    arguments: &Arguments,
    searcher: &Searcher,
    queries: &[f32],
    query_rows: u64,
    rows: &Rows,
) -> Result<Reference> {
    let count = queries.len() / searcher.dim();
    let key_of = |row: u64| rows.key(row);
    if let Some(path) = &arguments.truth {
        let mut truth = Truth::read(path)?;
        if arguments.limit.is_some() && truth.queries() > count {
            truth.rows.truncate(count * truth.k);
        }
        truth.check(path, count as u64, u64::MAX)?;
        return Reference::neighbours(searcher, queries, &truth, &arguments.k, &key_of);
    }
    if let Some(path) = &arguments.qrels {
        let mut judgements = read_qrels(path, rows.naming())?;
        // Those of queries that are left out, but not those of queries that there are not: they are refused.
        judgements.retain(|judgement| judgement.query < count as u64 || judgement.query >= query_rows);
        return Reference::relevance(&judgements, count, &key_of);
    }
    eprintln!("exact search of {count} queries over {} rows ...", searcher.rows());
    eval::exact_scores(searcher, queries, arguments.k.iter().copied().max().unwrap_or(0))
}

/// Asks all queries once more and writes the hits.
fn write_run(path: &Path, searcher: &Searcher, queries: &[f32], params: &SearchParams, rows: &Rows) -> Result<()> {
    let mut run = RunWriter::create(path, "bigrain")?;
    for (query, (hits, _)) in (0..).zip(searcher.search_batch(queries, params)?) {
        run.write(rows.query(query), hits.iter().map(|hit| (rows.document(hit.key), hit.score)))?;
    }
    run.finish()
}

/// The table by depth, with a blank line before it; nothing where it has nothing to add.
fn second_table(outcomes: &[Outcome]) -> String {
    match by_depth(outcomes) {
        table if table.is_empty() => table,
        table => format!("\n{table}"),
    }
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
