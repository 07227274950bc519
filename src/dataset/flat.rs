//! Rows at a fixed stride in an uncompressed file: npy, bin, vecs and plain IDX differ in their header only.
//!
//! ```text
//! | header | prefix, values | prefix, values | ...
//! ```
//!
//! `prefix` is empty, or (vecs) the row's own dimension as `u32`, which must be the first row's.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::scalar::Scalar;
use crate::error::{Error, Result};

/// Bytes read at a time when rows must be decoded.
const CHUNK: usize = 1 << 20;

/// What a header says, not yet compared with the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub scalar: Scalar,
    pub rows: u64,
    pub dim: u64,
    /// Bytes before the first row.
    pub header: u64,
    /// Bytes before the values of each row: 0, or 4 for the row's dimension.
    pub prefix: usize,
}

impl Layout {
    /// Length of the file that holds exactly this; `None` beyond 2^64.
    pub(super) fn file_length(&self) -> Option<u64> {
        let values = self.dim.checked_mul(self.scalar.size() as u64)?;
        self.rows.checked_mul(values.checked_add(self.prefix as u64)?)?.checked_add(self.header)
    }

    /// Refuses shapes without rows or values.
    pub(super) fn check_not_empty(&self, path: &Path) -> Result<()> {
        if self.rows == 0 || self.dim == 0 {
            let reason = format!("{} rows x {} dimensions: there is nothing to read", self.rows, self.dim);
            return Err(Error::input(path, "header", reason));
        }
        Ok(())
    }
}

/// An open file whose length is what its header says.
#[derive(Debug)]
pub(super) struct FlatFile {
    path: PathBuf,
    file: File,
    layout: Layout,
    dim: usize,
    buffer: Vec<u8>,
}

impl FlatFile {
    /// Compares the layout with the length of the file.
    pub(super) fn new(path: &Path, file: File, layout: Layout) -> Result<FlatFile> {
        layout.check_not_empty(path)?;
        let found = file.metadata().map_err(Error::io(path))?.len();
        let size = layout.scalar.size();
        let shape = format!("{} rows x {} dimensions x {size} bytes", layout.rows, layout.dim);
        match layout.file_length() {
            Some(expected) if expected == found => {}
            Some(expected) if expected < found => {
                let reason = format!("{shape} end at byte {expected}, but the file has {found}: trailing bytes");
                return Err(Error::input(path, "header", reason));
            }
            expected => {
                let expected = expected.map_or("more than 2^64".into(), |e| e.to_string());
                let reason =
                    format!("{shape} need {expected} bytes, but the file has {found}: truncated, copy it again");
                return Err(Error::input(path, "header", reason));
            }
        }
        let dim =
            usize::try_from(layout.dim).map_err(|_| Error::input(path, "header", format!("{shape}: too wide")))?;
        Ok(FlatFile { path: path.to_path_buf(), file, layout, dim, buffer: Vec::new() })
    }

    /// The same, if its element type may hold vectors.
    pub(super) fn vectors(self) -> Result<FlatFile> {
        if self.layout.scalar.is_vector_element() {
            return Ok(self);
        }
        let reason =
            format!("{:?} values; vectors are f32, f16, u8 or i8: convert with astype('float32')", self.scalar());
        Err(Error::input(&self.path, "header", reason))
    }

    pub(super) fn rows(&self) -> u64 {
        self.layout.rows
    }

    pub(super) fn dim(&self) -> usize {
        self.dim
    }

    pub(super) fn scalar(&self) -> Scalar {
        self.layout.scalar
    }

    /// Reads whole rows of `f32`; the caller has checked the range.
    pub(super) fn read(&mut self, start: u64, out: &mut [f32]) -> Result<()> {
        let scalar = self.layout.scalar;
        if cfg!(target_endian = "little") && scalar == Scalar::F32 && self.layout.prefix == 0 {
            // The file's bytes are the caller's bytes.
            return self.read_rows(start, bytemuck::cast_slice_mut(out));
        }
        let mut rows = out.chunks_exact_mut(self.dim);
        self.for_each_row(start, rows.len() as u64, |_, bytes| {
            if let Some(row) = rows.next() {
                scalar.widen(bytes, row);
            }
            Ok(())
        })
    }

    /// Calls `visit(row, bytes of its values)` for `count` rows from `start` on, reading about a mebibyte at a time.
    pub(super) fn for_each_row(
        &mut self,
        start: u64,
        count: u64,
        mut visit: impl FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let stride = self.stride();
        let rows_at_once = (CHUNK / stride).max(1) as u64;
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut row = start;
        while row < start + count {
            let rows = rows_at_once.min(start + count - row);
            buffer.resize(rows as usize * stride, 0);
            self.read_rows(row, &mut buffer)?;
            for bytes in buffer.chunks_exact(stride) {
                let (prefix, values) = bytes.split_at(self.layout.prefix);
                self.check_prefix(row, prefix)?;
                visit(row, values)?;
                row += 1;
            }
        }
        self.buffer = buffer;
        Ok(())
    }

    /// Fills `bytes` from the beginning of `row` on.
    fn read_rows(&self, row: u64, bytes: &mut [u8]) -> Result<()> {
        // No overflow: the end of the last row is the file's length.
        let offset = self.layout.header + row * self.stride() as u64;
        self.file.read_exact_at(bytes, offset).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => {
                let reason = "the file has become shorter since it was opened; leave it alone while it is read";
                Error::input(&self.path, format!("row {row}"), reason)
            }
            _ => Error::Io { path: self.path.clone(), source },
        })
    }

    /// Bytes from one row to the next.
    fn stride(&self) -> usize {
        self.layout.prefix + self.dim * self.layout.scalar.size()
    }

    /// A row's own dimension must be that of the file.
    fn check_prefix(&self, row: u64, prefix: &[u8]) -> Result<()> {
        match <[u8; 4]>::try_from(prefix).map(u32::from_le_bytes) {
            Ok(dim) if dim as usize != self.dim => {
                let reason = format!("ragged: it says {dim} dimensions, row 0 says {}", self.dim);
                Err(Error::input(&self.path, format!("row {row}"), reason))
            }
            _ => Ok(()),
        }
    }
}
