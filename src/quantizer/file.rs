//! A quantizer as a file.
//!
//! ```text
//! META   JSON          metric, dim, lists, code_bits, code_bytes, rotation
//! CENT   f32 x L d     centroids
//! ROTA   f32 x d d     rotation, row-major (only where there is one)
//! WORD   f32 x d K     codewords: subspace after subspace, each d_m x K
//! ```

use ndarray::Array2;
use serde::{Deserialize, Serialize};
use std::path::Path;

use super::{CodeShape, Product, Quantizer};
use crate::error::{Error, Result};
use crate::format::{FileEntry, FileReader, FileWriter, Kind};
use crate::simd::CodeBits;
use crate::types::Metric;
use crate::vfs::Vfs;

const META: [u8; 4] = *b"META";
const CENT: [u8; 4] = *b"CENT";
const ROTA: [u8; 4] = *b"ROTA";
const WORD: [u8; 4] = *b"WORD";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Meta {
    metric: Metric,
    dim: usize,
    lists: usize,
    code_bits: u8,
    code_bytes: usize,
    rotation: bool,
}

impl Quantizer {
    /// Writes the quantizer to `path`.
    pub fn write(&self, vfs: &dyn Vfs, path: &Path, index_id: [u8; 16]) -> Result<FileEntry> {
        let shape = self.product.shape();
        let meta = Meta {
            metric: self.metric,
            dim: self.dim(),
            lists: self.coarse.lists(),
            code_bits: shape.bits.bits() as u8,
            code_bytes: shape.bytes,
            rotation: self.rotation.is_some(),
        };
        let mut file = FileWriter::create(vfs, path, Kind::Quantizer, index_id)?;
        file.write_array(META, &serde_json::to_vec(&meta).expect("plain values"))?;
        file.write_array(CENT, self.coarse.centroids().as_slice().expect("C order"))?;
        if let Some(rotation) = &self.rotation {
            file.write_array(ROTA, rotation.as_slice().expect("C order"))?;
        }
        file.write_array(WORD, self.product.codewords())?;
        file.finish()
    }

    /// Reads the quantizer at `path`; `index_id` is that of the index it must belong to, if any.
    pub fn read(vfs: &dyn Vfs, path: &Path, index_id: Option<&[u8; 16]>) -> Result<Quantizer> {
        let file = FileReader::open(vfs, path, Kind::Quantizer, index_id)?;
        let meta: Meta = serde_json::from_slice(&file.read_section(META)?)
            .map_err(|e| Error::corrupt(path, "META", e.to_string()))?;
        let bits = CodeBits::from_count(meta.code_bits)?;
        let shape = CodeShape::new(bits, meta.code_bytes)?;
        if meta.dim == 0 || meta.lists == 0 {
            return Err(Error::corrupt(path, "META", "it has no dimensions or no lists"));
        }
        let centroids = matrix(&file, path, CENT, meta.lists, meta.dim)?;
        let rotation = if meta.rotation { Some(matrix(&file, path, ROTA, meta.dim, meta.dim)?) } else { None };
        let words = matrix(&file, path, WORD, meta.dim, shape.codewords())?;
        let product = Product::new(shape, meta.dim, words.into_raw_vec_and_offset().0);
        Ok(Quantizer::new(meta.metric, centroids, rotation, product))
    }

    /// A hash of all that is trained; equal for equal quantizers.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        let mut floats = |values: &[f32]| {
            hasher.update(bytemuck::cast_slice(values));
        };
        floats(self.coarse.centroids().as_slice().expect("C order"));
        if let Some(rotation) = &self.rotation {
            floats(rotation.as_slice().expect("C order"));
        }
        floats(self.product.codewords());
        hasher.finalize().into()
    }
}

/// Reads a matrix of finite values, rows x cols.
fn matrix(file: &FileReader, path: &Path, tag: [u8; 4], rows: usize, cols: usize) -> Result<Array2<f32>> {
    let section = String::from_utf8_lossy(&tag).into_owned();
    let values: Vec<f32> = file.read_array(tag)?;
    if let Some(at) = values.iter().position(|v| !v.is_finite()) {
        return Err(Error::corrupt(path, section, format!("value {at} is {}", values[at])));
    }
    let found = values.len();
    Array2::from_shape_vec((rows, cols), values)
        .map_err(|_| Error::corrupt(path, section, format!("it has {found} values, {rows} x {cols} are needed")))
}

#[cfg(test)]
mod tests {
    use super::super::tests::random_quantizer;
    use super::*;
    use crate::vfs::MemoryVfs;

    #[test]
    fn a_written_quantizer_reads_back_the_same() {
        let vfs = MemoryVfs::default();
        let path = Path::new("/q.bg");
        for (metric, bits, rotate) in [(Metric::L2, CodeBits::Four, true), (Metric::Cosine, CodeBits::Eight, false)] {
            let quantizer = random_quantizer(metric, bits, rotate, 2);
            quantizer.write(&vfs, path, [7; 16]).unwrap();
            let read = Quantizer::read(&vfs, path, Some(&[7; 16])).unwrap();
            assert_eq!(read.fingerprint(), quantizer.fingerprint());
            assert_eq!((read.metric(), read.rotation().is_some()), (metric, rotate));
            assert!(Quantizer::read(&vfs, path, Some(&[8; 16])).is_err());
        }
    }

    #[test]
    fn values_that_are_not_finite_are_refused() {
        let vfs = MemoryVfs::default();
        let path = Path::new("/q.bg");
        let mut quantizer = random_quantizer(Metric::Ip, CodeBits::Four, true, 2);
        quantizer.rotation.as_mut().unwrap()[[3, 4]] = f32::NAN;
        quantizer.write(&vfs, path, [7; 16]).unwrap();
        let message = Quantizer::read(&vfs, path, None).unwrap_err().to_string();
        assert!(message.contains("ROTA") && message.contains("NaN"), "{message}");
    }
}
