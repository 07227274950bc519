//! `make-vectors`: seeded clustered vectors in a file, for builds and measurements of any size.

// What --help shows is indented, not fenced.
#![allow(rustdoc::invalid_rust_codeblocks)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bigrain::dataset::synthetic::{Clustered, Draw, Generator};
use bigrain::dataset::{Scalar, VectorWriter};
use bigrain::error::Result;
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

/// Bytes made before they are written.
const PIECE: usize = 4 << 20;

/// Make clustered vectors from a seed.
///
/// The vectors lie in clusters of skewed sizes, the clusters in topics, and
/// most of a cluster's scatter in a few directions that all clusters share:
/// enough structure for coarse and product quantizers to find, and enough blur
/// that recall is not given away. The same options give the same bytes on any
/// number of threads.
///
/// Example, two million vectors and a thousand queries like them:
///
///     make-vectors --rows 2000000 --dim 128 --clusters 4096 --seed 1 \
///         --output base.npy --queries 1000 --queries-output queries.npy
#[derive(Debug, Parser)]
#[command(name = "make-vectors", version, verbatim_doc_comment)]
struct Arguments {
    /// Number of vectors
    #[arg(long)]
    rows: u64,
    /// Dimensions of a vector
    #[arg(long, default_value_t = 128)]
    dim: usize,
    /// Number of clusters; cluster c has a share proportional to 1/sqrt(c + 1)
    #[arg(long, default_value_t = 4096)]
    clusters: usize,
    /// Scatter within clusters relative to that of the topics: 0.3 is well separated, 1 blurred
    #[arg(long, default_value_t = 0.6)]
    spread: f32,
    /// Other seeds make other data
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the vectors go: .npy or .fbin, as f32
    #[arg(long)]
    output: PathBuf,
    /// Number of queries: other draws from the same clusters
    #[arg(long, requires = "queries_output", value_parser = clap::value_parser!(u64).range(1..))]
    queries: Option<u64>,
    /// Where the queries go: .npy or .fbin, as f32
    #[arg(long, requires = "queries")]
    queries_output: Option<PathBuf>,
    /// Print a line of JSON on stdout when done
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("make-vectors: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let &Arguments { rows, dim, clusters, spread, seed, .. } = arguments;
    let generator = Clustered { rows, dim, clusters, spread, seed }.generator()?;
    // The small file first: a wrong name for it shows at once.
    if let (Some(queries), Some(path)) = (arguments.queries, &arguments.queries_output) {
        write(&generator, Draw::Queries, queries, path)?;
    }
    write(&generator, Draw::Rows, rows, &arguments.output)?;
    if arguments.json {
        let queries = arguments.queries.unwrap_or(0);
        println!("{}", serde_json::json!({ "rows": rows, "dim": dim, "queries": queries, "seed": seed }));
    }
    Ok(())
}

/// Writes `rows` draws to `path`, a few mebibytes at a time.
fn write(generator: &Generator, draw: Draw, rows: u64, path: &Path) -> Result<()> {
    let dim = generator.shape().dim;
    let mut writer = VectorWriter::create(path, Scalar::F32, dim)?;
    let style = ProgressStyle::with_template("{msg} {wide_bar} {human_pos}/{human_len} rows, {per_sec}, {eta} left");
    let bar = ProgressBar::new(rows).with_message(path.display().to_string());
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut piece = vec![0.0; (PIECE / 4 / dim).max(1) * dim];
    let mut done = 0;
    while done < rows {
        let count = ((rows - done) as usize).min(piece.len() / dim);
        let piece = &mut piece[..count * dim];
        generator.fill(draw, done, piece);
        writer.write(piece)?;
        done += count as u64;
        bar.set_position(done);
    }
    writer.finish()?;
    bar.finish();
    Ok(())
}
