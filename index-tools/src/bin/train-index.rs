//! `train-index`: from vectors and labelled pairs to a learned quantizer for `build-index --quantizer`.

// What --help shows is indented, not fenced.
#![allow(rustdoc::invalid_rust_codeblocks)]

use index_tools::{out, outln};
use std::path::PathBuf;
use std::process::ExitCode;

use bigrain::dataset::VectorFile;
use bigrain::error::{Error, Result};
use bigrain::learn::{LearnReport, learn};
use clap::Parser;
use index_tools::progress::Progress;
use index_tools::shell::{Failure, finish};
use index_tools::size::Size;
use index_tools::table::{columns, duration, grouped, pairs};
use index_tools::training::{LearnPaths, Settings};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Train lists, codes and heads for retrieval.
///
/// Codes that are trained on pairs of queries and their documents find far more of them, at the same bytes, than codes
/// that keep the squared error small. The result is one file that build-index takes; queries and documents are always
/// given as they come from the encoder, whatever the file maps them to.
///
/// Methods:
///
///     opq          k-means lists and OPQ codes, as build-index makes them by itself
///     contrastive  from --pairs: `query row <tab> document row`, one a line
///     distill      without labels: codes learn to order documents as the full vectors do
///
/// Stages beyond codes: --heads maps queries (and documents) before the codes; --sampling trains heads for the dense
/// vectors on the candidates that the codes really return; routing to lists is learned where queries are given.
///
/// Examples:
///
///     train-index --input docs.npy --queries queries.npy --pairs train.tsv --output quantizer.bg --code-bytes 8
///     train-index --input docs.npy --method distill --output quantizer.bg
///     build-index --input docs.npy --quantizer quantizer.bg --output index
///
/// A stopped run continues where it was when the same command is given again. Settings are taken from flags, then the
/// environment (BIGRAIN_TRAIN_...), then the file given by --config, then the defaults; config/train.toml lists them.
#[derive(Debug, Parser)]
#[command(name = "train-index", version, verbatim_doc_comment)]
struct Arguments {
    /// The documents, one a row
    #[arg(long, value_name = "VECTORS")]
    input: PathBuf,
    /// The quantizer file to write
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// The queries, one a row
    #[arg(long, value_name = "VECTORS")]
    queries: Option<PathBuf>,
    /// Pairs to learn from: query row, document row, one a line
    #[arg(long, value_name = "FILE")]
    pairs: Option<PathBuf>,
    /// Pairs to choose by [default: a share of --pairs is held out]
    #[arg(long, value_name = "FILE")]
    valid: Option<PathBuf>,
    /// Column of a .parquet input [default: its only list column]
    #[arg(long, value_name = "NAME")]
    column: Option<String>,
    /// How lists and codes are trained [default: contrastive]
    #[arg(long, value_name = "opq|contrastive|distill")]
    method: Option<String>,
    /// How queries and documents are compared [default: cosine]
    #[arg(long, value_name = "ip|cosine|l2")]
    metric: Option<String>,
    /// Inverted lists; auto is about twice the square root of the rows [default: auto]
    #[arg(long, value_name = "N|auto")]
    lists: Option<String>,
    /// Bits of a code [default: 8]
    #[arg(long, value_name = "4|8")]
    code_bits: Option<String>,
    /// Code bytes a row; auto is one for eight dimensions [default: auto]
    #[arg(long, value_name = "N|auto")]
    code_bytes: Option<String>,
    /// Trained maps in front of the codes [default: none]
    #[arg(long, value_name = "none|query|both")]
    heads: Option<String>,
    /// Train heads for the dense vectors, with negatives from here [default: none]
    #[arg(long, value_name = "none|random|ann|ann-in-batch|walk|snowball")]
    sampling: Option<String>,
    /// Passes over the training queries in stage 1 [default: 6]
    #[arg(long, value_name = "N")]
    epochs: Option<String>,
    /// Seed of every random choice [default: 1]
    #[arg(long, value_name = "N")]
    seed: Option<String>,
    /// Threads; auto is all that the machine has [default: auto]
    #[arg(long, value_name = "N|auto")]
    threads: Option<String>,
    /// Any other setting, such as dense.dim=128
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// A file of settings, as config/train.toml
    #[arg(long, value_name = "FILE", env = "BIGRAIN_TRAIN_CONFIG")]
    config: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl Arguments {
    /// The settings that the command line names: dotted key and text.
    fn settings(&self) -> Result<Vec<(&str, String)>> {
        let named = [
            ("method", &self.method),
            ("metric", &self.metric),
            ("lists", &self.lists),
            ("code_bits", &self.code_bits),
            ("code_bytes", &self.code_bytes),
            ("heads", &self.heads),
            ("sampling", &self.sampling),
            ("codes.epochs", &self.epochs),
            ("seed", &self.seed),
            ("threads", &self.threads),
        ];
        let mut all: Vec<(&str, String)> = Vec::new();
        for text in &self.set {
            let (key, value) = text
                .split_once('=')
                .ok_or_else(|| Error::params("set", format!("{text:?} is not KEY=VALUE, such as dense.dim=128")))?;
            all.push((key.trim(), value.trim().to_string()));
        }
        all.extend(named.into_iter().filter_map(|(key, text)| text.clone().map(|text| (key, text))));
        Ok(all)
    }
}

fn main() -> ExitCode {
    finish("train-index", run(Arguments::parse()))
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    let flags = arguments.settings().map_err(Failure::Usage)?;
    let environment = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    let settings = Settings::load(arguments.config.as_deref(), environment, &flags).map_err(Failure::Usage)?;
    let threads = settings.threads().map_err(Failure::Usage)?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0)).build_global();
    pool.map_err(|e| Failure::Usage(Error::params("threads", format!("{e}; give fewer"))))?;
    let file = VectorFile::open(&arguments.input, arguments.column.as_deref())?;
    let paths = LearnPaths {
        input: arguments.input,
        column: arguments.column,
        queries: arguments.queries,
        pairs: arguments.pairs,
        valid: arguments.valid,
        output: arguments.output,
    };
    let spec = settings.spec(file.rows(), file.dim(), paths).map_err(Failure::Usage)?;
    let progress = Progress::start("train-index", "steps", &spec.output)?;
    let report = learn(&spec, &progress)?;
    drop(progress);
    if arguments.json {
        outln!("{}", serde_json::to_string_pretty(&report).expect("plain values"));
    } else {
        out!("{}", describe(&report, &spec.output));
    }
    Ok(())
}

fn describe(report: &LearnReport, output: &std::path::Path) -> String {
    let facts = pairs(&[
        ("documents", grouped(report.documents as u64)),
        (
            "pairs",
            format!(
                "{} to learn from, {} to choose by",
                grouped(report.train_pairs as u64),
                grouped(report.valid_pairs as u64)
            ),
        ),
        ("re-seeded", format!("{} codewords", grouped(report.reseeded as u64))),
        ("time", duration(report.seconds)),
        ("peak memory", Size(report.peak_memory).to_string()),
        ("written", output.display().to_string()),
    ]);
    let mut rows = Vec::new();
    for stage in &report.stages {
        let best = stage.epochs.iter().max_by(|a, b| a.recall.total_cmp(&b.recall));
        let percent = |recall: Option<f32>| recall.map_or(String::new(), |r| format!("{:.2} %", 100.0 * r));
        rows.push(vec![
            stage.stage.to_string(),
            format!("{:.1}", stage.seconds),
            stage.epochs.len().saturating_sub(1).to_string(),
            percent(stage.epochs.first().map(|e| e.recall)),
            percent(best.map(|e| e.recall)),
            if stage.gflops > 0.0 { format!("{:.0}", stage.gflops) } else { String::new() },
        ]);
    }
    format!("{facts}\n{}", columns(&["stage", "seconds", "epochs", "recall before", "after", "GFLOP/s"], &rows))
}
