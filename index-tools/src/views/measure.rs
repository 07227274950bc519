//! Recall of mentions in a real index: built with views, and searched.

use std::path::Path;

use bigrain::build::{BuildSpec, build};
use bigrain::dataset::{Scalar, VectorWriter};
use bigrain::error::{Error, Result};
use bigrain::heads::{Head, Heads};
use bigrain::index::OpenOptions;
use bigrain::quantizer::CodeShape;
use bigrain::search::{SearchParams, Searcher};
use bigrain::simd::CodeBits;
use bigrain::train::{CODE_ROWS, QuantizerSpec, Watch, train_quantizer};
use bigrain::types::Metric;
use bigrain::vfs::RealVfs;
use ndarray::ArrayView2;
use rayon::prelude::*;
use serde::Serialize;

use super::{Encoded, ViewSet};

/// Which views of an entity an index has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// The global view alone.
    Single,
    /// Local views.
    Local,
    /// The global view, then the local ones.
    Both,
}

/// All of them.
pub const VARIANTS: [Variant; 3] = [Variant::Single, Variant::Local, Variant::Both];

/// How an index is made and asked.
#[derive(Clone, Copy, Debug)]
pub struct Searched {
    /// Code bytes a row.
    pub code_bytes: usize,
    /// Whether residuals are rotated before they are coded.
    pub opq: bool,
    /// Rows whose dense vectors are read, for each mention.
    pub candidates: usize,
    /// Entities of an answer.
    pub k: usize,
    /// Of lists and codes.
    pub seed: u64,
}

/// What an index finds.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Share of the mentions whose entity comes first.
    pub recall_at_1: f64,
    /// Share of the mentions whose entity is in the answer.
    pub recall_at_k: f64,
    /// Rows of the index.
    pub rows: u64,
    /// Code bytes of a row.
    pub code_bytes: usize,
    /// Code bytes of an entity.
    pub code_bytes_per_entity: f64,
    /// Bytes of an entity that searching keeps in memory, all in all.
    pub memory_per_entity: f64,
    /// Bytes of an entity on disk, dense vectors included.
    pub disk_per_entity: f64,
    /// Dense vectors read for a mention, mean.
    pub vectors_read: f64,
    /// Microseconds of a search, mean, one thread at a time.
    pub microseconds: f64,
}

/// Builds an index of `variant` below `dir`, with `heads` (query, document) if there are any, and asks it every mention.
///
/// # Errors
/// Those of training codes, building and searching.
pub fn measure(
    dir: &Path,
    encoded: &Encoded,
    variant: Variant,
    heads: Option<(&Head, &Head)>,
    searched: Searched,
    watch: &dyn Watch,
) -> Result<Measured> {
    let ViewSet { vectors, starts, .. } = encoded.views(variant);
    let keys = starts.windows(2).enumerate().flat_map(|(entity, w)| (w[0]..w[1]).map(move |_| entity));
    std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
    let path = |name: &str| dir.join(name);
    let mut writer = VectorWriter::create(&path("views.fbin"), Scalar::F32, vectors.ncols())?;
    writer.write(vectors.as_slice().expect("C order"))?;
    writer.finish()?;
    let lines: String = keys.map(|key| format!("{key}\n")).collect();
    std::fs::write(path("keys.txt"), lines).map_err(Error::io(path("keys.txt")))?;
    quantizer(vectors.view(), heads, searched, &path("quantizer.bg"), watch)?;
    let spec = BuildSpec {
        keys: Some(path("keys.txt")),
        views: true,
        quantizer: Some(path("quantizer.bg")),
        seed: searched.seed,
        ..BuildSpec::new(path("views.fbin"), path("index"))
    };
    let report = build(&spec, watch)?;
    let searcher = Searcher::open(&spec.output, &OpenOptions::default())?;
    let found = ask(&searcher, encoded, searched)?;
    let mean = |of: &dyn Fn(&Found) -> f64| found.iter().map(of).sum::<f64>() / found.len() as f64;
    let entities = encoded.entities() as f64;
    let (rows, per_entity) = (report.rows, report.rows as f64 / entities);
    Ok(Measured {
        recall_at_1: mean(&|found| f64::from(u8::from(found.rank == Some(0)))),
        recall_at_k: mean(&|found| f64::from(u8::from(found.rank.is_some()))),
        rows,
        code_bytes: report.code_bytes,
        code_bytes_per_entity: report.code_bytes as f64 * per_entity,
        memory_per_entity: report.memory_bytes_per_row * per_entity,
        disk_per_entity: report.disk_bytes as f64 / entities,
        vectors_read: mean(&|found| f64::from(found.read)),
        microseconds: mean(&|found| found.microseconds),
    })
}

/// Lists and codes of the vectors as the document head maps them; the heads go with them, for codes and for dense vectors.
fn quantizer(
    vectors: ArrayView2<'_, f32>,
    heads: Option<(&Head, &Head)>,
    searched: Searched,
    path: &Path,
    watch: &dyn Watch,
) -> Result<()> {
    let mapped = heads.map_or_else(|| vectors.to_owned(), |(_, document)| document.apply_rows(vectors));
    let spec = QuantizerSpec {
        metric: Metric::Cosine,
        lists: ((vectors.nrows() as f64).sqrt() / 2.0).ceil() as usize,
        shape: CodeShape::new(CodeBits::Eight, searched.code_bytes)?,
        opq: searched.opq,
        code_rows: CODE_ROWS,
        seed: searched.seed,
    };
    let trained = train_quantizer(mapped.view(), &spec, watch)?;
    let quantizer = match heads {
        None => trained,
        Some((query, document)) => trained.with_heads(Heads {
            code_query: Some(query.clone()),
            code_document: Some(document.clone()),
            dense_query: Some(query.clone()),
            dense_document: Some(document.clone()),
        })?,
    };
    quantizer.write(&RealVfs, path, [1; 16]).map(drop)
}

/// What a mention found.
struct Found {
    rank: Option<usize>,
    read: u32,
    microseconds: f64,
}

fn ask(searcher: &Searcher, encoded: &Encoded, searched: Searched) -> Result<Vec<Found>> {
    // All lists: what is compared are views and codes, not the choice of lists.
    let params = SearchParams {
        k: searched.k,
        nprobe: searcher.index().manifest().lists,
        candidates: searched.candidates,
        ..SearchParams::default()
    };
    let mentions: Vec<(&[f32], u64)> = encoded
        .mentions
        .rows()
        .into_iter()
        .map(|row| row.to_slice().expect("C order"))
        .zip(encoded.gold.iter().map(|&gold| u64::from(gold)))
        .collect();
    let one = |scratch: &mut (_, Vec<_>), (vector, gold): &(&[f32], u64)| -> Result<Found> {
        let begun = std::time::Instant::now();
        let stats = searcher.search(vector, &params, &mut scratch.0, &mut scratch.1)?;
        let microseconds = begun.elapsed().as_secs_f64() * 1e6;
        let rank = scratch.1.iter().position(|hit| hit.key == *gold);
        Ok(Found { rank, read: stats.vectors_read, microseconds })
    };
    mentions.par_iter().map_init(|| (searcher.scratch(), Vec::new()), one).collect()
}
