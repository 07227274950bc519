//! `make-vectors`: seeded vectors in a file, for builds and measurements of any size.

// What --help shows is indented, not fenced.
#![allow(rustdoc::invalid_rust_codeblocks)]

use index_tools::{out, outln};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bigrain::dataset::resampled::Resampler;
use bigrain::dataset::synthetic::{Clustered, Draw, Generator};
use bigrain::dataset::{Scalar, VectorWriter};
use bigrain::error::Result;
use bigrain::train::Watch;
use bigrain::types::Element;
use clap::Parser;
use index_tools::like;
use index_tools::progress::Progress;
use index_tools::shell::{Failure, finish};

/// Bytes made before they are written.
const PIECE: usize = 4 << 20;

/// The largest i8 that is written: the same on both sides of 0.
const LARGEST_I8: f32 = 127.0;

/// Make vectors from a seed: clustered ones, or ones distributed like those of a file.
///
/// Clustered vectors lie in clusters of skewed sizes, the clusters in topics, and
/// most of a cluster's scatter in a few directions that all clusters share:
/// enough structure for coarse and product quantizers to find, and enough blur
/// that recall is not given away.
///
/// With --like, rows of the file (at most 65,536, drawn at random) are drawn again
/// and again, each time moved along the directions in which its neighbours differ
/// from it, so that copies are no near-duplicates. --compare tells how like the
/// file that is. Queries are made in the same way, but moved further.
///
/// The same options give the same bytes on any number of threads, in bounded memory.
///
/// Examples, two million vectors and a thousand queries like them; as many rows as
/// MS MARCO has passages, like the vectors of an encoder:
///
///     make-vectors --rows 2000000 --dim 128 --clusters 4096 --seed 1 \
///         --output base.npy --queries 1000 --queries-output queries.npy
///     make-vectors --like docs.npy --rows 8841823 --element f16 --output base.npy
#[derive(Debug, Parser)]
#[command(name = "make-vectors", version, verbatim_doc_comment)]
struct Arguments {
    /// Number of vectors
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    rows: u64,
    /// Make vectors distributed like those of this file, in any format that build-index reads
    #[arg(long, value_name = "FILE", conflicts_with_all = ["dim", "clusters", "spread"])]
    like: Option<PathBuf>,
    /// Column of a .parquet file of --like [default: its only list column]
    #[arg(long, value_name = "NAME", requires = "like")]
    column: Option<String>,
    /// Compare as many rows as were taken of the file with those, and print how alike they are
    #[arg(long, requires = "like")]
    compare: bool,
    /// Element type with --like; i8 scales the largest value of the file to 127 and clips what is beyond
    #[arg(long, value_name = "f32|f16|i8", default_value = "f32", requires = "like")]
    element: Element,
    /// Dimensions of a clustered vector
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
    /// Where the vectors go: .npy, or .fbin (f32) or .i8bin (i8)
    #[arg(long)]
    output: PathBuf,
    /// Number of queries: other draws from the same distribution
    #[arg(long, requires = "queries_output", value_parser = clap::value_parser!(u64).range(1..))]
    queries: Option<u64>,
    /// Where the queries go, in the formats of --output
    #[arg(long, requires = "queries")]
    queries_output: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// What makes the vectors.
enum Maker {
    Clustered(Generator),
    Like(Resampler),
}

impl Maker {
    fn new(arguments: &Arguments, watch: &dyn Watch) -> Result<Maker> {
        let &Arguments { rows, dim, clusters, spread, seed, .. } = arguments;
        match &arguments.like {
            Some(path) => like::resampler(path, arguments.column.as_deref(), seed, watch).map(Maker::Like),
            None => Clustered { rows, dim, clusters, spread, seed }.generator().map(Maker::Clustered),
        }
    }

    fn dim(&self) -> usize {
        match self {
            Maker::Clustered(generator) => generator.shape().dim,
            Maker::Like(resampler) => resampler.dim(),
        }
    }

    fn fill(&self, draw: Draw, start: u64, out: &mut [f32]) {
        match self {
            Maker::Clustered(generator) => generator.fill(draw, start, out),
            Maker::Like(resampler) => resampler.fill(draw, start, out),
        }
    }

    /// What every value is multiplied with so that integers can hold it.
    fn factor(&self, element: Element) -> Option<f32> {
        match (self, element) {
            (Maker::Like(resampler), Element::I8) => Some(LARGEST_I8 / resampler.largest().max(f32::MIN_POSITIVE)),
            _ => None,
        }
    }
}

fn main() -> ExitCode {
    finish("make-vectors", run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let progress = Progress::start("make-vectors", "rows", &arguments.output)?;
    let maker = Maker::new(arguments, &progress)?;
    // The small file first: a wrong name for it shows at once.
    if let (Some(queries), Some(path)) = (arguments.queries, &arguments.queries_output) {
        progress.begin("make queries", queries);
        write(&maker, arguments.element, Draw::Queries, queries, path, &progress)?;
    }
    progress.begin("make rows", arguments.rows);
    write(&maker, arguments.element, Draw::Rows, arguments.rows, &arguments.output, &progress)?;
    report(arguments, &maker, &progress)?;
    Ok(())
}

/// Writes `rows` draws to `path`, a few mebibytes at a time.
fn write(maker: &Maker, element: Element, draw: Draw, rows: u64, path: &Path, watch: &dyn Watch) -> Result<()> {
    let dim = maker.dim();
    let scalar = match element {
        Element::F32 => Scalar::F32,
        Element::F16 => Scalar::F16,
        Element::I8 => Scalar::I8,
    };
    let mut writer = VectorWriter::create(path, scalar, dim)?;
    let factor = maker.factor(element);
    let mut piece = vec![0.0; (PIECE / 4 / dim).max(1) * dim];
    let mut done = 0;
    while done < rows {
        watch.check()?;
        let count = (rows - done).min((piece.len() / dim) as u64);
        let piece = &mut piece[..count as usize * dim];
        maker.fill(draw, done, piece);
        if let Some(factor) = factor {
            piece.iter_mut().for_each(|value| *value = (*value * factor).clamp(-LARGEST_I8, LARGEST_I8));
        }
        writer.write(piece)?;
        done += count;
        watch.advance(count);
    }
    writer.finish()?;
    Ok(())
}

fn report(arguments: &Arguments, maker: &Maker, watch: &dyn Watch) -> Result<()> {
    let &Arguments { rows, seed, .. } = arguments;
    let mut result = serde_json::json!({
        "rows": rows, "dim": maker.dim(), "queries": arguments.queries.unwrap_or(0), "seed": seed,
    });
    if let Maker::Like(resampler) = maker {
        let source = resampler.source().len() / resampler.dim();
        let compared = if arguments.compare { Some(like::compare(resampler, watch)?) } else { None };
        match &compared {
            Some(comparison) if !arguments.json => out!("{}", like::describe(comparison)),
            _ => {}
        }
        let element = arguments.element.to_string();
        result["like"] = serde_json::json!({
            "source_rows": source, "drawn_rows": resampler.anchors(), "element": element, "compared": compared,
        });
    }
    if arguments.json {
        outln!("{result:#}");
    }
    Ok(())
}
