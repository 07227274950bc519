//! From files to [`Examples`] in memory.

use ndarray::Array2;
use std::path::Path;

use super::LearnSpec;
use crate::dataset::{Pair, VectorFile, check_row, read_pairs};
use crate::error::{Error, Result};
use crate::linalg::normalise;
use crate::sample::sample_rows;
use crate::train::{Example, Examples, Watch};
use crate::types::Metric;

/// Rows read at once.
const CHUNK: usize = 8_192;

/// Examples, and where their rows come from.
#[derive(Debug)]
pub struct Loaded {
    /// The vectors and pairs.
    pub examples: Examples,
    /// Row in the file of each document in memory, ascending.
    pub document_rows: Vec<u64>,
}

impl Loaded {
    /// Where a row of the file is in memory, if it is.
    pub(super) fn place(&self, row: u64) -> Option<u32> {
        self.document_rows.binary_search(&row).ok().map(|place| place as u32)
    }
}

/// Reads documents (all, or all that pairs name and a random rest up to the limit), queries and pairs.
///
/// # Errors
/// What reading gives; `Mismatch` where queries and documents differ in dimension; `InvalidInput` naming the row for values
/// that are not finite and, under cosine, vectors of zeros; `InvalidParams` for an empty split.
pub fn load(spec: &LearnSpec, watch: &dyn Watch) -> Result<Loaded> {
    let mut documents = VectorFile::open(&spec.input, spec.column.as_deref())?;
    let queries = spec.queries.as_deref().map(|path| VectorFile::open(path, None)).transpose()?;
    if let Some(queries) = &queries
        && queries.dim() != documents.dim()
    {
        let what = format!("dimension of the queries in {}", queries.path().display());
        return Err(Error::mismatch(what, documents.dim(), queries.dim()));
    }
    let (query_rows, rows) = (queries.as_ref().map_or(0, VectorFile::rows), documents.rows());
    let read = |path: &Option<std::path::PathBuf>| match path {
        Some(path) => read_pairs(path, query_rows, rows),
        None => Ok(Vec::new()),
    };
    let (train, valid) = (read(&spec.pairs)?, read(&spec.valid)?);
    let document_rows = choose(rows, spec.max_documents, train.iter().chain(&valid).map(|p| p.document), spec.seed);
    watch.begin("read vectors", document_rows.len() as u64 + query_rows);
    let metric = spec.metric;
    let documents = read_rows(&mut documents, &document_rows, metric, watch)?;
    let queries = match queries {
        Some(mut file) => read_rows(&mut file, &(0..query_rows).collect::<Vec<_>>(), metric, watch)?,
        None => Array2::zeros((0, documents.ncols())),
    };
    let examples = Examples { documents, queries, train: Vec::new(), valid: Vec::new(), known: Vec::new() };
    let mut loaded = Loaded { examples, document_rows };
    let placed = |pairs: Vec<Pair>| -> Vec<Example> {
        let place = |p: &Pair| loaded.place(p.document).expect("documents of pairs are in memory");
        pairs.iter().map(|p| Example { query: p.query as u32, document: place(p) }).collect()
    };
    let (train, valid) = (placed(train), placed(valid));
    (loaded.examples.train, loaded.examples.valid) = (train, valid);
    if !loaded.examples.train.is_empty() && loaded.examples.valid.is_empty() {
        loaded.examples.hold_out(spec.valid_share, spec.seed)?;
    }
    check_apart(&loaded.examples, spec.valid.as_deref())?;
    Ok(loaded)
}

/// At most `most` rows (but all that are named), ascending.
fn choose(rows: u64, most: usize, named: impl Iterator<Item = u64>, seed: u64) -> Vec<u64> {
    if rows <= most as u64 {
        return (0..rows).collect();
    }
    let mut chosen: Vec<u64> = named.collect();
    chosen.sort_unstable();
    chosen.dedup();
    chosen.extend(sample_rows(rows, most.saturating_sub(chosen.len()), seed));
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}

/// The given rows (ascending) of a file, checked, of unit length under cosine.
fn read_rows(file: &mut VectorFile, rows: &[u64], metric: Metric, watch: &dyn Watch) -> Result<Array2<f32>> {
    let dim = file.dim();
    let mut out = vec![0f32; rows.len() * dim];
    let mut buffer = Vec::new();
    let mut at = 0;
    while at < rows.len() {
        watch.check()?;
        // A run of rows that lie close enough to be read together.
        let near = rows[at..].iter().take_while(|&&row| row < rows[at] + CHUNK as u64).count();
        let span = (rows[at + near - 1] - rows[at] + 1) as usize;
        buffer.resize(span * dim, 0.0);
        file.read(rows[at], &mut buffer)?;
        for (&row, out) in rows[at..at + near].iter().zip(out[at * dim..].chunks_mut(dim)) {
            let from = (row - rows[at]) as usize * dim;
            out.copy_from_slice(&buffer[from..from + dim]);
            check_row(out)
                .map_err(|bad| Error::input(file.path(), format!("row {row}"), format!("{bad}; mend the row")))?;
            if metric == Metric::Cosine && normalise(out) == 0.0 {
                let reason = "it is zero, which has no direction to compare by cosine; mend the row";
                return Err(Error::input(file.path(), format!("row {row}"), reason));
            }
        }
        watch.advance(near as u64);
        at += near;
    }
    Ok(Array2::from_shape_vec((rows.len(), dim), out).expect("whole rows"))
}

/// No query is in both splits: its validation would measure memory.
fn check_apart(examples: &Examples, valid: Option<&Path>) -> Result<()> {
    let Some(path) = valid else { return Ok(()) };
    let trained: std::collections::HashSet<u32> = examples.train.iter().map(|p| p.query).collect();
    match examples.valid.iter().position(|p| trained.contains(&p.query)) {
        Some(at) => {
            let reason =
                format!("query {} is among the training pairs, too; split with split-pairs", examples.valid[at].query);
            Err(Error::input(path, format!("pair {}", at + 1), reason))
        }
        None => Ok(()),
    }
}
