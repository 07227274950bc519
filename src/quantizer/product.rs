//! The product quantizer: a vector is cut into subspaces, each piece replaced by the nearest of 16 or 256 codewords.
//!
//! Subspace `m` of `M` covers the dimensions `m d / M .. (m+1) d / M` (rounded down), so any `d` goes with any `M`;
//! pieces may differ by one dimension, and where `M > d` some are empty and cost bytes for nothing.
//!
//! Codewords are stored dimension-major: subspace `m` is a `d_m x K` matrix, so that a vector register holds one
//! dimension of 16 codewords. Score tables and encoding both run over codewords in lanes.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::simd::{CodeBits, Kernels};

/// Fewest and most code bytes a row.
pub const CODE_BYTES: std::ops::RangeInclusive<usize> = 4..=128;

/// Shape of a code: bits a subspace and bytes a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodeShape {
    /// Bits of one code.
    pub bits: CodeBits,
    /// Code bytes a row.
    pub bytes: usize,
}

impl CodeShape {
    /// A checked shape: 4..=128 bytes, and a multiple of 4 for 4-bit codes (their scan reads 4 bytes of a row at once).
    pub fn new(bits: CodeBits, bytes: usize) -> Result<CodeShape> {
        if !CODE_BYTES.contains(&bytes) {
            return Err(Error::params("code_bytes", format!("{bytes} is not between 4 and 128")));
        }
        if bits == CodeBits::Four && !bytes.is_multiple_of(4) {
            let (below, above) = (bytes / 4 * 4, bytes.next_multiple_of(4));
            return Err(Error::params(
                "code_bytes",
                format!("{bytes} is not a multiple of 4, as 4-bit codes need; use {below} or {above}, or 8-bit codes"),
            ));
        }
        Ok(CodeShape { bits, bytes })
    }

    /// Number of subspaces `M`.
    pub fn subspaces(self) -> usize {
        match self.bits {
            CodeBits::Four => self.bytes * 2,
            CodeBits::Eight => self.bytes,
        }
    }

    /// Codewords a subspace, `K`.
    pub fn codewords(self) -> usize {
        match self.bits {
            CodeBits::Four => 16,
            CodeBits::Eight => 256,
        }
    }

    /// Bytes of a query's u8 score tables.
    pub fn table_len(self) -> usize {
        self.subspaces() * self.codewords()
    }

    /// Where the table of subspace `m` starts among the entries that the scan reads (the layout of [`crate::simd`]).
    pub fn table_start(self, m: usize) -> usize {
        match self.bits {
            CodeBits::Eight => m * 256,
            CodeBits::Four => m / 8 * 128 + m % 2 * 64 + m % 8 / 2 * 16,
        }
    }

    /// The dimensions of subspace `m` in a vector of `dim`.
    pub fn dims(self, dim: usize, m: usize) -> Range<usize> {
        let subspaces = self.subspaces();
        m * dim / subspaces..(m + 1) * dim / subspaces
    }

    /// Writes code `value` of subspace `m` into a row's code bytes (zeroed before).
    fn put(self, code: &mut [u8], m: usize, value: u8) {
        match self.bits {
            CodeBits::Eight => code[m] = value,
            CodeBits::Four => code[m / 2] |= value << (m % 2 * 4),
        }
    }

    /// Reads the code of subspace `m` from a row's code bytes.
    pub fn get(self, code: &[u8], m: usize) -> usize {
        usize::from(match self.bits {
            CodeBits::Eight => code[m],
            CodeBits::Four => code[m / 2] >> (m % 2 * 4) & 15,
        })
    }
}

/// Codebooks of all subspaces.
#[derive(Debug, Clone, PartialEq)]
pub struct Product {
    shape: CodeShape,
    dim: usize,
    /// Subspace after subspace, each `d_m x K`; `dim x K` in all.
    codewords: Vec<f32>,
    /// `|c|^2 / 2`, `M x K`.
    half_norms: Vec<f32>,
    /// What a codeword adds to a row's score whatever the query, `M x K`; empty: nothing.
    offsets: Vec<f32>,
}

impl Product {
    /// A product quantizer of `dim x K` codewords (subspace after subspace, dimension-major).
    pub fn new(shape: CodeShape, dim: usize, codewords: Vec<f32>) -> Product {
        let k = shape.codewords();
        assert_eq!(codewords.len(), dim * k);
        let mut half_norms = vec![0f32; shape.subspaces() * k];
        for (m, norms) in half_norms.chunks_mut(k).enumerate() {
            for row in codewords[piece(shape, dim, m)].chunks(k) {
                norms.iter_mut().zip(row).for_each(|(n, v)| *n += v * v / 2.0);
            }
        }
        Product { shape, dim, codewords, half_norms, offsets: Vec::new() }
    }

    /// The product quantizer with score offsets: `M x K` values, one a codeword, added to the score of every row that is
    /// coded by it. They cost nothing at search (they are part of the tables), and let training correct what a codeword
    /// systematically gets wrong, such as the length it takes from vectors.
    pub fn with_offsets(self, offsets: Vec<f32>) -> Product {
        assert_eq!(offsets.len(), self.shape.subspaces() * self.shape.codewords());
        Product { offsets, ..self }
    }

    /// Score offsets, `M x K`, or nothing.
    pub fn offsets(&self) -> &[f32] {
        &self.offsets
    }

    /// What `code` adds to the score of its row whatever the query.
    pub fn offset(&self, code: &[u8]) -> f32 {
        let k = self.shape.codewords();
        self.offsets.chunks(k).enumerate().map(|(m, offsets)| offsets[self.shape.get(code, m)]).sum()
    }

    /// Bits and bytes of a code.
    pub fn shape(&self) -> CodeShape {
        self.shape
    }

    /// All codewords, as given to [`Product::new`].
    pub fn codewords(&self) -> &[f32] {
        &self.codewords
    }

    /// The codewords of subspace `m`, `d_m x K`.
    pub fn subspace(&self, m: usize) -> &[f32] {
        &self.codewords[piece(self.shape, self.dim, m)]
    }

    /// Encodes a vector of `dim` into `code` (`bytes` long): the nearest codeword of every subspace.
    pub fn encode(&self, kernels: &Kernels, x: &[f32], code: &mut [u8]) {
        let k = self.shape.codewords();
        code.fill(0);
        for (m, half_norms) in self.half_norms.chunks(k).enumerate() {
            let dims = self.shape.dims(self.dim, m);
            if !dims.is_empty() {
                self.shape.put(code, m, (kernels.nearest)(&x[dims], self.subspace(m), half_norms));
            }
        }
    }

    /// The vector that `code` stands for.
    pub fn decode(&self, code: &[u8], out: &mut [f32]) {
        let k = self.shape.codewords();
        for m in 0..self.shape.subspaces() {
            let word = self.shape.get(code, m);
            let dims = self.shape.dims(self.dim, m);
            for (out, row) in out[dims].iter_mut().zip(self.subspace(m).chunks(k)) {
                *out = row[word];
            }
        }
    }

    /// Score tables in f32: `out[m * K + k] = <q_m, c_mk>` plus the codeword's offset; `out` is `M x K`.
    pub fn tables(&self, kernels: &Kernels, query: &[f32], out: &mut [f32]) {
        let k = self.shape.codewords();
        for (m, out) in out.chunks_mut(k).enumerate() {
            (kernels.table_f32)(&query[self.shape.dims(self.dim, m)], self.subspace(m), out);
        }
        out.iter_mut().zip(&self.offsets).for_each(|(out, offset)| *out += offset);
    }
}

/// Where the codewords of subspace `m` lie.
fn piece(shape: CodeShape, dim: usize, m: usize) -> Range<usize> {
    let dims = shape.dims(dim, m);
    dims.start * shape.codewords()..dims.end * shape.codewords()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Rng;

    #[test]
    fn subspaces_cover_every_dimension_once() {
        for bytes in [4, 8, 20, 128] {
            for dim in [1, 7, 37, 100, 784] {
                let shape = CodeShape::new(CodeBits::Four, bytes).unwrap();
                let all: Vec<usize> = (0..shape.subspaces()).flat_map(|m| shape.dims(dim, m)).collect();
                assert_eq!(all, (0..dim).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn shapes_are_checked() {
        assert!(CodeShape::new(CodeBits::Eight, 5).is_ok());
        let message = CodeShape::new(CodeBits::Four, 6).unwrap_err().to_string();
        assert!(message.contains("use 4 or 8"), "{message}");
        assert!(CodeShape::new(CodeBits::Eight, 3).is_err() && CodeShape::new(CodeBits::Eight, 129).is_err());
    }

    #[test]
    fn codewords_encode_to_themselves_and_tables_score_their_decoding() {
        for (bits, bytes, dim) in [(CodeBits::Four, 4, 19), (CodeBits::Eight, 5, 19), (CodeBits::Eight, 8, 5)] {
            let shape = CodeShape::new(bits, bytes).unwrap();
            let mut rng = Rng::new(7);
            let words = (0..dim * shape.codewords()).map(|_| rng.normal()).collect();
            let offsets = (0..shape.subspaces() * shape.codewords()).map(|_| rng.normal()).collect();
            let product = Product::new(shape, dim, words).with_offsets(offsets);
            let x: Vec<f32> = (0..dim).map(|_| rng.normal()).collect();
            let q: Vec<f32> = (0..dim).map(|_| rng.normal()).collect();
            for kernels in Kernels::all() {
                let (mut code, mut again) = (vec![0; bytes], vec![0; bytes]);
                let mut decoded = vec![0f32; dim];
                product.encode(kernels, &x, &mut code);
                product.decode(&code, &mut decoded);
                product.encode(kernels, &decoded, &mut again);
                assert_eq!(code, again);
                let mut tables = vec![0f32; shape.table_len()];
                product.tables(kernels, &q, &mut tables);
                let k = shape.codewords();
                let score: f32 = (0..shape.subspaces()).map(|m| tables[m * k + shape.get(&code, m)]).sum();
                let expected: f32 = q.iter().zip(&decoded).map(|(a, b)| a * b).sum::<f32>() + product.offset(&code);
                assert!((score - expected).abs() < 1e-4);
            }
        }
    }
}
