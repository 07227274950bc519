//! The documents of an index, from the file that it was built from.

use bigrain::dataset::VectorFile;
use bigrain::error::{Error, Result};
use bigrain::linalg::normalise;
use bigrain::search::Searcher;
use bigrain::types::{Metric, Row};
use std::path::Path;

use crate::rows::Rows;

/// Rows of the file read at a time.
const BLOCK: u64 = 4_096;

/// Vectors as a baseline indexes them, and which rows of the index they are.
pub struct Documents {
    vectors: Vec<f32>,
    rows: Vec<Row>,
    dim: usize,
}

impl Documents {
    /// Reads all rows of `path` that the index has (those that its build skipped are left out), normalised where the metric
    /// is cosine. `names` knows the keys that the index was built with.
    ///
    /// # Errors
    /// What reading gives; `Mismatch` for a file of another shape than the one that the index was built from;
    /// `InvalidInput` where the index lacks rows of it; `InvalidParams` where they do not fit in memory.
    pub fn read(path: &Path, searcher: &Searcher, names: &Rows) -> Result<Documents> {
        if searcher.views().is_some() {
            let reason =
                "a baseline finds rows, and this index documents of several; compare with one built without --views";
            return Err(Error::params("baseline", reason));
        }
        let mut file = VectorFile::open(path, None)?;
        searcher.index().quantizer().check_dim(file.dim())?;
        let built_from = searcher.rows() + searcher.index().manifest().build.skipped_rows;
        if file.rows() != built_from {
            let what =
                format!("the number of rows of {}, which an index of --documents is built from,", path.display());
            return Err(Error::mismatch(what, built_from, file.rows()));
        }
        let dim = file.dim();
        let mut documents = Documents::with_room(searcher.rows() as usize, dim)?;
        let mut block = vec![0.0; BLOCK.min(built_from) as usize * dim];
        for start in (0..built_from).step_by(BLOCK as usize) {
            let count = BLOCK.min(built_from - start) as usize;
            file.read(start, &mut block[..count * dim])?;
            for (number, vector) in (start..).zip(block[..count * dim].chunks_exact_mut(dim)) {
                let Some(row) = searcher.index().row(names.key(number))? else { continue };
                if searcher.metric() == Metric::Cosine {
                    normalise(vector);
                }
                documents.rows.push(row);
                documents.vectors.extend_from_slice(vector);
            }
        }
        if documents.rows.len() as u64 != searcher.rows() {
            let reason = format!(
                "{} of them have keys that the index has, which has {}; give the file that it was built from, and --keys if \
                 it was built with them",
                documents.rows.len(),
                searcher.rows()
            );
            return Err(Error::input(path, "rows", reason));
        }
        Ok(documents)
    }

    fn with_room(rows: usize, dim: usize) -> Result<Documents> {
        let mut vectors = Vec::new();
        vectors.try_reserve_exact(rows.saturating_mul(dim)).map_err(|_| {
            let reason = format!("{rows} rows of {dim} values do not fit in memory; compare on a part of them");
            Error::params("documents", reason)
        })?;
        Ok(Documents { vectors, rows: Vec::with_capacity(rows), dim })
    }

    /// The vectors, n x dim.
    pub fn vectors(&self) -> &[f32] {
        &self.vectors
    }

    /// Of each vector, its row in the index.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Values a vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The rows alone; the vectors are given back.
    pub fn into_rows(self) -> Vec<Row> {
        self.rows
    }
}
