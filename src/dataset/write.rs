//! Vector files made by this project's tools: `.npy` and the bin formats.

use std::fs::File;
use std::io::{BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

use super::npy;
use super::scalar::Scalar;
use crate::error::{Error, Result};

/// Writes rows one after the other; how many there are may be known only at the end.
///
/// The header says 0 rows until [`VectorWriter::finish`], so a file cut short is refused by every reader here.
#[derive(Debug)]
pub struct VectorWriter {
    path: PathBuf,
    file: BufWriter<File>,
    scalar: Scalar,
    npy: bool,
    dim: usize,
    rows: u64,
    bytes: Vec<u8>,
}

impl VectorWriter {
    /// Creates a file of vectors of `dim` values: `.npy` of the given element type, or `.fbin`, `.u8bin`, `.i8bin`, whose
    /// ending must agree with it.
    ///
    /// # Errors
    /// `Io`; `Unsupported` for another ending; `InvalidParams` for `dim` 0 or an element type that the ending excludes.
    pub fn create(path: &Path, scalar: Scalar, dim: usize) -> Result<VectorWriter> {
        let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
        let implied = match ending.as_str() {
            "npy" if matches!(scalar, Scalar::F32 | Scalar::F16 | Scalar::U8 | Scalar::I8 | Scalar::I32) => scalar,
            "npy" => return Err(Error::params("element", format!("{scalar:?} cannot be written from f32"))),
            "fbin" => Scalar::F32,
            "u8bin" => Scalar::U8,
            "i8bin" => Scalar::I8,
            _ => {
                return Err(Error::Unsupported {
                    what: format!("writing {}", path.display()),
                    remedy: "name the output .npy, .fbin, .u8bin or .i8bin".into(),
                });
            }
        };
        if implied != scalar {
            return Err(Error::params("element", format!("{scalar:?}, but a .{ending} file holds {implied:?}")));
        }
        let npy = ending == "npy";
        if dim == 0 || (!npy && u32::try_from(dim).is_err()) {
            return Err(Error::params("dim", format!("{dim} dimensions cannot be written to a .{ending} file")));
        }
        let file = BufWriter::with_capacity(1 << 20, File::create(path).map_err(Error::io(path))?);
        let mut writer = VectorWriter { path: path.into(), file, scalar, npy, dim, rows: 0, bytes: Vec::new() };
        writer.write_header(0)?;
        Ok(writer)
    }

    /// Appends rows; `values` is row-major. Integers are rounded.
    ///
    /// # Errors
    /// `Io`; `Mismatch` if `values` is not whole rows; `InvalidInput` for a value that the element type cannot hold.
    pub fn write(&mut self, values: &[f32]) -> Result<()> {
        if !values.len().is_multiple_of(self.dim) {
            return Err(Error::mismatch("rows to write", format!("a multiple of {}", self.dim), values.len()));
        }
        self.bytes.clear();
        self.scalar.narrow(values, &mut self.bytes).map_err(|bad| {
            let row = self.rows + (bad.position / self.dim) as u64;
            let reason = format!("{} does not fit {:?}; scale the vectors first", bad.value, self.scalar);
            Error::input(&self.path, format!("row {row}"), reason)
        })?;
        self.file.write_all(&self.bytes).map_err(Error::io(&self.path))?;
        self.rows += (values.len() / self.dim) as u64;
        Ok(())
    }

    /// Writes the number of rows into the header, and everything to the device; returns that number.
    ///
    /// # Errors
    /// `Io`; `InvalidParams` if a bin file got more than 2^32 - 1 rows.
    pub fn finish(mut self) -> Result<u64> {
        self.file.rewind().map_err(Error::io(&self.path))?;
        self.write_header(self.rows)?;
        let file = self.file.into_inner().map_err(|e| Error::io(&self.path)(e.into_error()))?;
        file.sync_all().map_err(Error::io(&self.path))?;
        Ok(self.rows)
    }

    fn write_header(&mut self, rows: u64) -> Result<()> {
        let written = if self.npy {
            self.file.write_all(&npy::header(self.scalar, rows, self.dim))
        } else {
            let rows = u32::try_from(rows).map_err(|_| Error::params("rows", format!("{rows}: write .npy instead")))?;
            let mut header = [0; 8];
            header[..4].copy_from_slice(&rows.to_le_bytes());
            header[4..].copy_from_slice(&(self.dim as u32).to_le_bytes());
            self.file.write_all(&header)
        };
        written.map_err(Error::io(&self.path))
    }
}
