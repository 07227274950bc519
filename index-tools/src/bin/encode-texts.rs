//! `encode-texts`: from a file of texts to a file of vectors.

// What --help shows is indented, not fenced.
#![allow(rustdoc::invalid_rust_codeblocks)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use bigrain::build::{EncodedTexts, OnBad, encode_texts};
use bigrain::dataset::{Scalar, TextFile, VectorFile};
use bigrain::encoder::{Encoder, EncoderOptions};
use bigrain::error::{Error, Result};
use clap::Parser;
use index_tools::outln;
use index_tools::progress::Progress;
use index_tools::shell::{Failure, finish};
use index_tools::table::{duration, grouped, pairs};
use serde::Serialize;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Encode texts: one vector of unit length a text, in the order of the file.
///
/// Texts are the lines of a .txt, or columns of a .tsv, .csv, .jsonl or .parquet. The encoder is a local folder in the usual layout:
/// model.safetensors, tokenizer.json and, for a BERT, config.json. The file may be larger than memory.
///
/// Examples:
///
///     encode-texts --texts queries.txt --encoder models/minilm --output queries.npy
///     encode-texts --texts testdata/products/products.tsv --columns title --encoder testdata/encoder --output docs.npy
///     encode-texts --texts queries.txt --encoder models/minilm --max-tokens 32 --output q.npy --compare reference.npy
#[derive(Debug, Parser)]
#[command(name = "encode-texts", version, verbatim_doc_comment)]
struct Arguments {
    /// The texts, one a row
    #[arg(long, value_name = "FILE")]
    texts: PathBuf,
    /// Columns that are joined to a text [default: text]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    columns: Vec<String>,
    /// Folder of the encoder
    #[arg(long, value_name = "DIR")]
    encoder: PathBuf,
    /// Tokens of a text that are read at most [default: what the encoder takes]
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// Where the vectors go: .npy or .fbin
    #[arg(long, value_name = "VECTORS")]
    output: PathBuf,
    /// Write 16-bit floats to a .npy
    #[arg(long)]
    half: bool,
    /// What to do with a text that cannot be encoded: stop, or give it a vector of NaN, which build-index can skip
    #[arg(long, value_name = "fail|skip", default_value = "fail", value_parser = on_bad)]
    on_bad: OnBad,
    /// Vectors of the same texts from elsewhere, to say how far these are from them
    #[arg(long, value_name = "VECTORS")]
    compare: Option<PathBuf>,
    /// Threads [default: all]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

fn on_bad(text: &str) -> std::result::Result<OnBad, String> {
    text.parse::<index_tools::recipe::Bad>().map(|bad| bad.0).map_err(|e| e.to_string())
}

/// What was done.
#[derive(Serialize)]
struct Report {
    kind: &'static str,
    id: String,
    dim: usize,
    max_tokens: usize,
    #[serde(flatten)]
    encoded: EncodedTexts,
    seconds: f64,
    compared: Option<Compared>,
}

/// Cosines between rows of two files.
#[derive(Serialize)]
struct Compared {
    mean: f64,
    least: f64,
    row_of_least: u64,
}

fn main() -> ExitCode {
    finish("encode-texts", run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    if let Some(threads) = arguments.threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.max(1)).build_global();
        pool.map_err(|e| Failure::Usage(Error::params("threads", e.to_string())))?;
    }
    let options = EncoderOptions { max_tokens: arguments.max_tokens };
    let encoder = Encoder::open_with(&arguments.encoder, options)?;
    let texts = TextFile::open(&arguments.texts, &arguments.columns)?;
    let scalar = if arguments.half { Scalar::F16 } else { Scalar::F32 };
    let progress = Progress::start("encode-texts", "texts", &arguments.output)?;
    let begun = Instant::now();
    let encoded = encode_texts(&encoder, texts, &arguments.output, scalar, arguments.on_bad, &progress)?;
    let seconds = begun.elapsed().as_secs_f64();
    drop(progress);
    let compared = arguments.compare.as_ref().map(|other| compare(&arguments.output, other)).transpose()?;
    let report = Report {
        kind: encoder.kind(),
        id: encoder.id().to_string(),
        dim: encoder.dim(),
        max_tokens: encoder.max_tokens(),
        encoded,
        seconds,
        compared,
    };
    match arguments.json {
        true => outln!("{}", serde_json::to_string_pretty(&report).expect("plain values")),
        false => outln!("{}", describe(&report)),
    }
    Ok(())
}

fn describe(report: &Report) -> String {
    let mut facts = vec![
        (
            "encoder",
            format!("{} {}, {} dimensions, {} tokens at most", report.kind, report.id, report.dim, report.max_tokens),
        ),
        (
            "texts",
            format!("{}, {} of them could not be encoded", grouped(report.encoded.rows), grouped(report.encoded.bad)),
        ),
        (
            "time",
            format!(
                "{}, {:.0} texts/s",
                duration(report.seconds),
                report.encoded.rows as f64 / report.seconds.max(1e-9)
            ),
        ),
    ];
    if let Some(Compared { mean, least, row_of_least }) = report.compared {
        facts.push(("cosine to the others", format!("{mean:.5} on average, {least:.5} at least (row {row_of_least})")));
    }
    pairs(&facts)
}

fn compare(made: &std::path::Path, other: &std::path::Path) -> Result<Compared> {
    let (mut made, mut other) = (VectorFile::open(made, None)?, VectorFile::open(other, None)?);
    if made.dim() != other.dim() || made.rows() != other.rows() {
        let shape = |file: &VectorFile| format!("{} x {}", file.rows(), file.dim());
        return Err(Error::mismatch(format!("shape of {}", other.path().display()), shape(&made), shape(&other)));
    }
    let (mut a, mut b) = (vec![0.0; made.dim()], vec![0.0; made.dim()]);
    let mut compared = Compared { mean: 0.0, least: f64::INFINITY, row_of_least: 0 };
    for row in 0..made.rows() {
        made.read(row, &mut a)?;
        other.read(row, &mut b)?;
        let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
        let cosine = dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt();
        compared.mean += cosine / made.rows() as f64;
        if cosine < compared.least {
            (compared.least, compared.row_of_least) = (cosine, row);
        }
    }
    Ok(compared)
}
