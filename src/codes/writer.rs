//! Writes a code file list by list, in list order.

use std::path::Path;

use super::{CODE, LIST_ALIGN, ROWS, TERM, list_len};
use crate::error::Result;
use crate::format::{FileEntry, FileWriter, Kind};
use crate::quantizer::CodeShape;
use crate::simd::{pack, packed_len};
use crate::types::Row;
use crate::vfs::Vfs;

/// See the module.
pub struct CodesWriter {
    file: FileWriter,
    shape: CodeShape,
    terms: bool,
    row_starts: Vec<Row>,
    scales: Vec<f32>,
    packed: Vec<u8>,
}

impl CodesWriter {
    /// Starts the file at `path`.
    pub fn create(vfs: &dyn Vfs, path: &Path, id: [u8; 16], shape: CodeShape, terms: bool) -> Result<CodesWriter> {
        let mut file = FileWriter::create(vfs, path, Kind::Codes, id)?;
        file.begin(CODE)?;
        Ok(CodesWriter { file, shape, terms, row_starts: vec![0], scales: Vec::new(), packed: Vec::new() })
    }

    /// Appends a list: `codes` are rows x bytes, `terms` one a row (or empty, as promised at the start).
    pub fn push_list(&mut self, codes: &[u8], terms: &[f32]) -> Result<()> {
        let rows = codes.len() / self.shape.bytes;
        assert_eq!(terms.len(), if self.terms { rows } else { 0 });
        let split = packed_len(self.shape.bits, self.shape.bytes, rows);
        self.packed.clear();
        self.packed.resize(list_len(self.shape, self.terms, rows).next_multiple_of(LIST_ALIGN), 0);
        pack(self.shape.bits, self.shape.bytes, codes, &mut self.packed[..split]);
        if self.terms {
            let (min, step) = scale_of(terms);
            self.scales.extend([min, step]);
            for (out, term) in self.packed[split..].iter_mut().zip(terms) {
                *out = if step > 0.0 { ((term - min) / step).round() as u8 } else { 0 };
            }
        }
        self.row_starts.push(self.row_starts[self.row_starts.len() - 1] + rows as Row);
        self.file.write(&self.packed)
    }

    /// Completes the file and makes it durable.
    pub fn finish(mut self) -> Result<FileEntry> {
        self.file.end()?;
        self.file.write_array(ROWS, &self.row_starts)?;
        if self.terms {
            self.file.write_array(TERM, &self.scales)?;
        }
        self.file.finish()
    }
}

/// Least term and the step of 255 that reaches the largest.
fn scale_of(terms: &[f32]) -> (f32, f32) {
    let min = terms.iter().copied().fold(f32::INFINITY, f32::min);
    let max = terms.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if min.is_finite() { (min, (max - min) / 255.0) } else { (0.0, 0.0) }
}
