//! Other people's files: vectors, texts, ground truth, keys, ids, fields, training pairs, runs.
//!
//! The easy version of a vector file is an array in memory. The departures from it:
//!
//! 1. **A file may be larger than memory**, so a [`VectorFile`] is read in pieces, by row number, into the caller's
//!    `f32` buffer. Reads are positioned, not mapped: pages of a map count as resident memory, and a build under a
//!    memory limit reads its input twice. Nothing is allocated by what a header claims before it was compared with the
//!    length of the file.
//! 2. **Some formats are streams.** Gzip and Parquet can only be decoded forwards, so these sources remember where they
//!    are: ascending access is one pass over the file, going back starts again (gzip: at the beginning, Parquet: at the
//!    row group). The contract for all formats is therefore *ascending access is cheap*.
//! 3. **Files are wrong in ordinary ways**: truncated, ragged, of another type, with trailing bytes. `open` checks the
//!    header and the length, `read` what only the rows can tell; every message names the row and both numbers. What
//!    a *value* may be (NaN, infinity) is the caller's decision: [`check_row`] finds it, the build fails or skips.
//!
//! | ending | element types | layout |
//! |---|---|---|
//! | `.npy` | f32, f16, u8, i8 | NumPy, C order, versions 1 to 3, shape (rows, dim) |
//! | `.fbin` `.u8bin` `.i8bin` | f32, u8, i8 | `rows u32, dim u32`, then the rows |
//! | `.fvecs` `.bvecs` `.ivecs` | f32, u8, i32 | each row is `dim u32`, then its values |
//! | `.parquet` | floats and integers | a list, large-list or fixed-size-list column (feature `parquet`) |
//! | `.DIM.memmap` `.DIM.bin` | f32 | the rows and nothing else, as `numpy.memmap` writes them |
//! | `-ubyte` `-ubyte.gz` | u8 | IDX: magic, sizes (big-endian), then the items, flattened |
//!
//! A memory map of raw values does not say its dimension, and every program that reads vectors would need a flag for each
//! of its files. So the file's name says it: `passages.768.memmap`, or a link of that name to the file.

mod commas;
mod fields;
mod flat;
mod gzip;
mod header;
mod keys;
mod lines;
mod names;
mod npy;
mod pairs;
#[cfg(feature = "parquet")]
mod parquet;
#[cfg(feature = "parquet")]
mod parquet_fields;
mod qrels;
mod raw;
pub mod resampled;
mod run;
mod scalar;
pub mod split;
pub mod synthetic;
#[cfg(test)]
mod tests;
mod text_pairs;
mod texts;
mod truth;
mod write;

pub use fields::{Cells, FieldFile};
pub use keys::KeyFile;
pub use names::Names;
pub use npy::parse_npy;
pub use pairs::{Pair, read_pairs};
pub use qrels::{Judgement, Naming, read_qrels};
pub use run::RunWriter;
pub use scalar::Scalar;
pub use text_pairs::{TextPair, read_text_pairs};
pub use texts::{RowText, TextFile};
pub use truth::Truth;
pub use write::VectorWriter;

use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use flat::FlatFile;
use gzip::GzipFile;

/// An open file of vectors: `rows` x `dim` values, read as `f32`.
#[derive(Debug)]
pub struct VectorFile {
    path: PathBuf,
    column: Option<String>,
    rows: u64,
    dim: usize,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Flat(FlatFile),
    Gzip(Box<GzipFile>),
    #[cfg(feature = "parquet")]
    Parquet(Box<parquet::ParquetFile>),
}

impl VectorFile {
    /// Opens a file recognised by its ending (see the module's table) and checks its header and length.
    ///
    /// `column` names the column of a Parquet file; by default its only list column is taken.
    ///
    /// # Errors
    /// `Io`; `Unsupported` for an unknown ending or type; `InvalidInput` for a file that is empty, truncated, ragged or has
    /// trailing bytes; `InvalidParams` for a column that is not there.
    pub fn open(path: &Path, column: Option<&str>) -> Result<VectorFile> {
        let source = open_source(path, column)?;
        let (rows, dim) = match &source {
            Source::Flat(file) => (file.rows(), file.dim()),
            Source::Gzip(file) => (file.rows(), file.dim()),
            #[cfg(feature = "parquet")]
            Source::Parquet(file) => (file.rows(), file.dim()),
        };
        Ok(VectorFile { path: path.to_path_buf(), column: column.map(str::to_string), rows, dim, source })
    }

    /// Number of vectors; at least 1.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Values a vector; at least 1.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A second, independent reader of the same file, for another thread or another position.
    ///
    /// # Errors
    /// As [`VectorFile::open`]; `Mismatch` if the file was replaced by one of another shape.
    pub fn reopen(&self) -> Result<VectorFile> {
        let other = VectorFile::open(&self.path, self.column.as_deref())?;
        if (other.rows, other.dim) != (self.rows, self.dim) {
            let shape = |file: &VectorFile| format!("{} x {}", file.rows, file.dim);
            let what = format!("the shape of {}, which changed since it was opened,", self.path.display());
            return Err(Error::mismatch(what, shape(self), shape(&other)));
        }
        Ok(other)
    }

    /// Reads `out.len() / dim` rows from row `start` on; `out` is row-major. Ascending access is cheap for every format.
    ///
    /// # Errors
    /// `Mismatch` if `out` is not whole rows; `InvalidParams` for rows that are not there; `Io`; `InvalidInput` for rows
    /// that are ragged, null or cut off.
    pub fn read(&mut self, start: u64, out: &mut [f32]) -> Result<()> {
        if !out.len().is_multiple_of(self.dim) {
            return Err(Error::mismatch("a buffer for rows", format!("a multiple of {}", self.dim), out.len()));
        }
        let count = (out.len() / self.dim) as u64;
        if start.checked_add(count).is_none_or(|end| end > self.rows) {
            let reason = format!("{count} rows from row {start} on: {} has {}", self.path.display(), self.rows);
            return Err(Error::params("rows", reason));
        }
        if count == 0 {
            return Ok(());
        }
        match &mut self.source {
            Source::Flat(file) => file.read(start, out),
            Source::Gzip(file) => file.read(start, out),
            #[cfg(feature = "parquet")]
            Source::Parquet(file) => file.read(start, out),
        }
    }
}

/// Which reader an ending asks for.
fn open_source(path: &Path, column: Option<&str>) -> Result<Source> {
    let name = path.file_name().map(|n| n.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    if name.ends_with(".parquet") {
        return open_parquet(path, column);
    }
    if let Some(column) = column {
        let reason = format!("{column:?} was given, but {} is not a .parquet file; leave it out", path.display());
        return Err(Error::params("column", reason));
    }
    if name.ends_with("-ubyte.gz") {
        return GzipFile::open(path).map(|file| Source::Gzip(Box::new(file)));
    }
    let flat = match name.rsplit_once('.').map_or("", |(_, ending)| ending) {
        "npy" => npy::open(path).and_then(FlatFile::vectors),
        "fbin" => header::open_bin(path, Scalar::F32),
        "u8bin" => header::open_bin(path, Scalar::U8),
        "i8bin" => header::open_bin(path, Scalar::I8),
        "fvecs" => header::open_vecs(path, Scalar::F32),
        "bvecs" => header::open_vecs(path, Scalar::U8),
        "ivecs" => header::open_vecs(path, Scalar::I32),
        "memmap" | "bin" => raw::open(path),
        _ if name.ends_with("-ubyte") => header::open_idx(path),
        _ => Err(Error::Unsupported {
            what: format!("the ending of {}", path.display()),
            remedy:
                "vectors are read from .npy, .fbin, .u8bin, .i8bin, .fvecs, .bvecs, .ivecs, .parquet, .DIM.memmap, \
                     .DIM.bin, -ubyte and -ubyte.gz files"
                    .into(),
        }),
    };
    flat.map(Source::Flat)
}

#[cfg(feature = "parquet")]
fn open_parquet(path: &Path, column: Option<&str>) -> Result<Source> {
    parquet::ParquetFile::open(path, column).map(|file| Source::Parquet(Box::new(file)))
}

#[cfg(not(feature = "parquet"))]
fn open_parquet(path: &Path, _column: Option<&str>) -> Result<Source> {
    Err(Error::Unsupported {
        what: format!("Parquet ({})", path.display()),
        remedy: "this program was built without the feature `parquet`; build it with, or convert the file to .npy"
            .into(),
    })
}

/// A value that no vector may hold: NaN or an infinity.
#[derive(Clone, Copy, Debug)]
pub struct BadRow {
    /// Index of the first such value within the row.
    pub position: usize,
    /// The value.
    pub value: f32,
}

impl fmt::Display for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "value {} at position {} is not a finite number", self.value, self.position)
    }
}

impl BadRow {
    /// The error for row `row` of `path`.
    pub fn into_error(self, path: &Path, row: u64) -> Error {
        Error::input(path, format!("row {row}"), format!("{self}; mend the row or skip such rows with --on-bad skip"))
    }
}

/// Finds the first NaN or infinity of a row.
///
/// # Errors
/// The [`BadRow`] found.
pub fn check_row(row: &[f32]) -> Result<(), BadRow> {
    // No early exit, so that the usual row is checked with vector instructions.
    if row.iter().fold(true, |good, value| good & value.is_finite()) {
        return Ok(());
    }
    let bad = row.iter().enumerate().find(|(_, value)| !value.is_finite());
    bad.map_or(Ok(()), |(position, &value)| Err(BadRow { position, value }))
}
