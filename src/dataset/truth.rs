//! What the right answers are: the nearest rows of each query. They are few and read whole.

use std::path::Path;

use super::flat::FlatFile;
use super::scalar::Scalar;
use super::{header, npy};
use crate::error::{Error, Result};

/// The nearest rows of each query, as row numbers of the input file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truth {
    /// Rows a query.
    pub k: usize,
    /// queries x k, nearest first.
    pub rows: Vec<u64>,
}

impl Truth {
    /// Reads `.npy` (a matrix of i32, u32, i64 or u64) or `.ivecs`.
    ///
    /// # Errors
    /// `Io`; `Unsupported` for another ending; `InvalidInput` for a damaged file, another type or a negative row number.
    pub fn read(path: &Path) -> Result<Truth> {
        let mut file = open_integers(path)?;
        let (queries, k, scalar) = (file.rows(), file.dim(), file.scalar());
        // The length of the file was checked, so this is at most twice the bytes that are really there.
        let mut rows = Vec::with_capacity(queries as usize * k);
        file.for_each_row(0, queries, |query, bytes| {
            for (rank, bytes) in bytes.chunks_exact(scalar.size()).enumerate() {
                let row = scalar.row_number(bytes).ok_or_else(|| {
                    let reason =
                        format!("the row number at rank {rank} is negative; cut the matrix to the ranks in use");
                    Error::input(path, format!("row {query}"), reason)
                })?;
                rows.push(row);
            }
            Ok(())
        })?;
        Ok(Truth { k, rows })
    }

    /// Number of queries.
    pub fn queries(&self) -> usize {
        self.rows.len() / self.k
    }

    /// The nearest rows of a query, nearest first.
    pub fn nearest(&self, query: usize) -> &[u64] {
        &self.rows[query * self.k..][..self.k]
    }

    /// Checks that there is a line for each of `queries` and that every row number is below `rows`.
    ///
    /// # Errors
    /// `Mismatch` for another number of queries, `InvalidInput` for a row that is not there.
    pub fn check(&self, path: &Path, queries: u64, rows: u64) -> Result<()> {
        if self.queries() as u64 != queries {
            let what = format!("the number of queries of {}", path.display());
            return Err(Error::mismatch(what, queries, self.queries()));
        }
        match self.rows.iter().position(|&row| row >= rows) {
            Some(at) => {
                let reason = format!("row number {} at rank {}, but there are {rows} rows", self.rows[at], at % self.k);
                Err(Error::input(path, format!("row {}", at / self.k), reason))
            }
            None => Ok(()),
        }
    }
}

fn open_integers(path: &Path) -> Result<FlatFile> {
    let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let file = match ending.as_str() {
        "npy" => npy::open(path)?,
        "ivecs" => header::open_vecs(path, Scalar::I32)?,
        _ => {
            return Err(Error::Unsupported {
                what: format!("the ending of {}", path.display()),
                remedy: "row numbers are read from .npy and .ivecs files".into(),
            });
        }
    };
    match file.scalar() {
        Scalar::I32 | Scalar::U32 | Scalar::I64 | Scalar::U64 => Ok(file),
        other => {
            let reason = format!("{other:?} values; row numbers are i32, u32, i64 or u64: are these the vectors?");
            Err(Error::input(path, "header", reason))
        }
    }
}
