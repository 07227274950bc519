//! `bigrain search`: queries from a file or from the command line, answered without a server.

use std::collections::HashMap;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use bigrain::dataset::VectorFile;
use bigrain::dense::{Store, Tier};
use bigrain::error::{Error, Result};
use bigrain::search::{Hit, OpenOptions, SearchParams, SearchStats, Searcher};
use clap::Args;
use serde_json::{Map, Value, json};

use super::printed;
use super::table::{Line, table};
use super::task::{Task, TaskOptions};

/// Codes among which those of hits are looked for, to explain them.
const EXPLAINED: usize = 100_000;
/// Queries read and searched at a time: enough for all cores, little memory.
const CHUNK: u64 = 1024;

/// Search an index with query vectors
#[derive(Args)]
pub(super) struct Options {
    /// Index directory, as build-index made it
    #[arg(long, value_name = "DIR")]
    index: PathBuf,
    /// Query vectors: .npy .fbin .u8bin .i8bin .fvecs .bvecs .parquet, or IDX
    #[arg(long, value_name = "VECTORS", required_unless_present_any = ["vector", "text"], conflicts_with_all = ["vector", "text"])]
    queries: Option<PathBuf>,
    /// Column of a Parquet file of queries
    #[arg(long, requires = "queries")]
    column: Option<String>,
    /// One query, its numbers separated by commas: "0.1,0.2,..."
    #[arg(long, value_name = "NUMBERS", allow_hyphen_values = true)]
    vector: Option<String>,
    /// One query in words
    #[arg(long, value_name = "TEXT", conflicts_with = "vector")]
    text: Option<String>,
    /// Folder of the text encoder [default: the one that the index was built with]
    #[arg(long, value_name = "DIR", requires = "text")]
    encoder: Option<PathBuf>,
    #[command(flatten)]
    task: TaskOptions,
    /// Hits a query
    #[arg(short = 'k', long, value_name = "N", default_value_t = 10, value_parser = positive)]
    k: usize,
    /// Lists to probe [default: the index's]
    #[arg(long, value_name = "N", value_parser = positive)]
    nprobe: Option<usize>,
    /// Candidates whose dense vectors are read [default: four a hit, at least 100]
    #[arg(long, value_name = "N", value_parser = positive)]
    candidates: Option<usize>,
    /// Mean recall to aim for, below 1, in place of --nprobe and --candidates; the index must have been built with --queries
    #[arg(long, value_name = "R", conflicts_with_all = ["nprobe", "candidates", "exact"])]
    recall_target: Option<f32>,
    /// Weight of the code score beside the dense score in the order of hits, 0 to 1000000
    #[arg(long, value_name = "W", default_value_t = 0.0)]
    sparse_weight: f32,
    /// Score every row exactly
    #[arg(long, conflicts_with_all = ["nprobe", "candidates", "sparse_weight"])]
    exact: bool,
    /// How dense vectors are read: mmap, pread, uring or memory
    #[arg(long, default_value_t = Store::Mmap)]
    store: Store,
    /// Read past the system's page cache (pread and uring)
    #[arg(long)]
    direct: bool,
    /// Most bytes of pages that direct reads keep in memory for later queries; 0: none
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    page_cache: u64,
    /// What is kept in memory of every dense vector, to score candidates without a read: none or int8
    #[arg(long, value_name = "TIER", default_value_t = Tier::None)]
    dense_tier: Tier,
    /// Say of each hit where it was found: its list, how many lists are more promising, the score of its code (of the best hundred
    /// thousand) and of its dense vector
    #[arg(long)]
    explain: bool,
    /// Print one JSON object a query
    #[arg(long)]
    json: bool,
}

fn positive(text: &str) -> std::result::Result<usize, String> {
    match text.parse::<usize>() {
        Ok(0) => Err("give at least 1".into()),
        parsed => parsed.map_err(|error| error.to_string()),
    }
}

pub(super) fn run(options: &Options) -> Result<()> {
    let Options { store, direct, page_cache, dense_tier: tier, .. } = *options;
    let searcher = Searcher::open(&options.index, &OpenOptions { store, direct, page_cache, tier })?;
    for note in searcher.notes() {
        eprintln!("note: {note}");
    }
    let params = SearchParams {
        k: options.k,
        nprobe: options.nprobe.unwrap_or(0),
        candidates: options.candidates.unwrap_or(0),
        recall_target: options.recall_target.unwrap_or(0.0),
        exact: options.exact,
        sparse_weight: options.sparse_weight,
        ..SearchParams::default()
    };
    let task = options.task.open(&searcher)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    match (&options.vector, &options.text, &options.queries) {
        (Some(text), ..) => print(options, &task, &searcher, &params, 0, &parse_vector(text)?, &mut out)?,
        (None, Some(text), _) => {
            let vector = encode(&searcher, options.encoder.as_deref(), text)?;
            print(options, &task, &searcher, &params, 0, &vector, &mut out)?;
        }
        (None, None, Some(path)) => {
            let mut file = VectorFile::open(path, options.column.as_deref())?;
            let mut start = 0;
            while start < file.rows() {
                let rows = CHUNK.min(file.rows() - start);
                let mut queries = vec![0.0; rows as usize * file.dim()];
                file.read(start, &mut queries)?;
                if file.dim() != searcher.dim() {
                    return Err(Error::mismatch("dimension of the queries", searcher.dim(), file.dim()));
                }
                print(options, &task, &searcher, &params, start, &queries, &mut out)?;
                start += rows;
            }
        }
        (None, None, None) => unreachable!("clap asks for one of them"),
    }
    printed(out.flush())
}

/// The vector of a text by the encoder in a folder, or by that of the index.
fn encode(searcher: &Searcher, folder: Option<&Path>, text: &str) -> Result<Vec<f32>> {
    let (encoder, notes) = searcher.index().manifest().open_encoder(folder)?;
    notes.iter().for_each(|note| eprintln!("note: {note}"));
    let none =
        || Error::params("text", "there is no encoder to make a vector of it; give the folder of one by --encoder");
    encoder.ok_or_else(none)?.encode_one(text)
}

fn parse_vector(text: &str) -> Result<Vec<f32>> {
    let number = |part: &str| {
        let part = part.trim();
        part.parse().map_err(|_| Error::params("vector", format!("{part:?} is not a number; give 0.1,0.2,...")))
    };
    text.trim().trim_start_matches('[').trim_end_matches(']').split(',').map(number).collect()
}

/// Searches `queries` (their first has the number `first`) and prints the answers.
fn print(
    options: &Options,
    task: &Task,
    searcher: &Searcher,
    params: &SearchParams,
    first: u64,
    queries: &[f32],
    out: &mut impl Write,
) -> Result<()> {
    if options.vector.is_some() && queries.len() != searcher.dim() {
        return Err(Error::mismatch("dimension of the query", searcher.dim(), queries.len()));
    }
    let mapped = task.mapped(queries, searcher.dim())?;
    let answers = searcher.search_batch(&mapped, params)?;
    let asked = queries.chunks(searcher.dim()).zip(mapped.chunks(searcher.dim()));
    for ((number, (query, mapped)), (hits, stats)) in (first..).zip(asked).zip(&answers) {
        let mut lines = hits.iter().map(|hit| line(searcher, hit)).collect::<Result<Vec<_>>>()?;
        if options.explain {
            explain(searcher, params, mapped, hits, &mut lines)?;
        }
        if let Some(scores) = task.scores(searcher, query, hits)? {
            lines.iter_mut().zip(scores).for_each(|(line, score)| line.score = score);
            // Stable: equal scores stay in the order of the search.
            lines.sort_by(|a, b| b.score.total_cmp(&a.score));
        }
        let text = if options.json { json_line(number, &lines, stats) } else { people(number, &lines, stats) };
        printed(out.write_all(text.as_bytes()))?;
    }
    Ok(())
}

/// A hit with its fields.
pub(super) fn line(searcher: &Searcher, hit: &Hit) -> Result<Line> {
    let fields = match searcher.fields(hit.row)?.map(|text| serde_json::from_str(&text)) {
        Some(Ok(Value::Object(fields))) => fields,
        _ => Map::new(),
    };
    Ok(Line { key: hit.key, score: hit.score, fields, found: Map::new() })
}

/// Notes at the lines where their hits were found: lists as the query ranks them, codes as a scan of these lists scores them.
fn explain(searcher: &Searcher, params: &SearchParams, query: &[f32], hits: &[Hit], lines: &mut [Line]) -> Result<()> {
    let mut scratch = searcher.scratch();
    let ranks = searcher.list_ranks(query, &mut scratch)?;
    let rank = |hit: &Hit| ranks[searcher.list_of(hit.row) as usize];
    let nprobe = hits.iter().map(rank).max().unwrap_or(0) + 1;
    let scan = SearchParams { k: params.k, nprobe, candidates: EXPLAINED, ..SearchParams::default() };
    let mut scanned = Vec::new();
    searcher.candidates(query, &scan, &mut scratch, &mut scanned)?;
    let codes: HashMap<u32, f32> = scanned.into_iter().collect();
    let shown = |score: f32| (f64::from(score) * 1e4).round() / 1e4;
    for (hit, line) in hits.iter().zip(lines) {
        let code = codes.get(&hit.row).copied();
        // Without the code's share of a mixed score nobody can tell the rest.
        let share = if params.sparse_weight > 0.0 { code.map(|code| params.sparse_weight * code) } else { Some(0.0) };
        let dense = share.map(|share| hit.score - share);
        let found = json!({
            "list": searcher.list_of(hit.row), "list_rank": rank(hit), "code_score": code.map(shown), "dense_score": dense.map(shown),
        });
        line.found = found.as_object().cloned().unwrap_or_default();
    }
    Ok(())
}

fn json_line(number: u64, lines: &[Line], stats: &SearchStats) -> String {
    let hit = |line: &Line| {
        let mut hit = json!({"key": line.key, "score": line.score});
        for (name, map) in [("explain", &line.found), ("fields", &line.fields)] {
            if !map.is_empty() {
                hit[name] = json!(map);
            }
        }
        hit
    };
    let hits: Vec<Value> = lines.iter().map(hit).collect();
    format!("{}\n", json!({"query": number, "hits": hits, "stats": stats}))
}

fn people(number: u64, lines: &[Line], stats: &SearchStats) -> String {
    let micros = (stats.probe_ns + stats.scan_ns + stats.fetch_ns + stats.rank_ns) / 1000;
    let SearchStats { lists_probed, rows_scanned, vectors_read, .. } = stats;
    let work = format!("{lists_probed} lists, {rows_scanned} rows scanned, {vectors_read} vectors read, {micros} us");
    format!("query {number}: {work}\n{}\n", table(lines))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_is_read_with_or_without_brackets() {
        assert_eq!(parse_vector("[1, -2.5,3e-1]").unwrap(), [1.0, -2.5, 0.3]);
        assert!(parse_vector("1,,2").unwrap_err().to_string().contains("\"\" is not a number"));
    }
}
