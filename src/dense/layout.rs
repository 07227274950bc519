//! One record of a dense shard, and where it lies.
//!
//! ```text
//! vector                 dim x f32 | f16 | i8, then zeros up to a multiple of 4
//! scale   f32            i8 only: value = scale * int8
//! key     u64
//! crc32c  u32            of all before it
//! ```
//! Records have a fixed stride. Where a record fits a page (4 KiB), records never straddle one: a page holds as many as
//! fit, then zeros. Larger records follow each other without gaps.
//!
//! # What rounding costs
//! f32 is kept to the bit. The error of one stored value `x` is at most
//! - f16: `2^-11 |x|`, and `2^-25` where `|x| < 2^-14` (round to nearest; beyond ±65,504 there is no f16: an error);
//! - i8: `m / 254 * (1 + 2^-14) + 2^-142` for `m` the largest `|x|` of the vector: half a step of the scale `m / 127`,
//!   the roundings of quotient and product, and what a scale loses that is too small for a normal f32.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::error::{Error, Result};
use crate::format::PAGE;
use crate::simd::Kernels;
use crate::types::{Element, Key, Metric, Row};

/// Shards are cut so that their records do not take more than this.
const SHARD_BYTES: u64 = 1 << 30;
/// The largest finite f16.
const F16_MAX: f32 = 65_504.0;
/// A larger scale of i8 would, times 127, be infinite after rounding.
const I8_SCALE_MAX: f32 = (f32::MAX / 127.0).next_down();

/// Shape of records and shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordLayout {
    element: Element,
    dim: usize,
    stride: usize,
    per_page: usize,
    rows_per_shard: u64,
}

impl RecordLayout {
    /// The layout of vectors of `dim` elements.
    pub fn new(element: Element, dim: usize) -> RecordLayout {
        let vector = (dim * element.size()).next_multiple_of(4);
        let scale = if element == Element::I8 { 4 } else { 0 };
        let stride = vector + scale + 8 + 4;
        let per_page = (PAGE as usize / stride).max(1);
        // Whole pages a record or whole records a page: either way, shards begin on a page.
        let pages = if stride <= PAGE as usize { PAGE } else { stride as u64 };
        let rows_per_shard = (SHARD_BYTES / pages).max(1) * per_page as u64;
        RecordLayout { element, dim, stride, per_page, rows_per_shard }
    }

    #[cfg(test)]
    pub(super) fn with_rows_per_shard(self, rows: u64) -> RecordLayout {
        RecordLayout { rows_per_shard: rows.next_multiple_of(self.per_page as u64), ..self }
    }

    /// Bytes of a record.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Type of the elements as they are stored.
    pub fn element(&self) -> Element {
        self.element
    }

    /// Elements of a vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Most rows of a shard.
    pub fn rows_per_shard(&self) -> u64 {
        self.rows_per_shard
    }

    /// Number of shards of an index of `rows`.
    pub fn shards(&self, rows: u64) -> usize {
        rows.div_ceil(self.rows_per_shard) as usize
    }

    /// Rows of shard `shard` of an index of `rows`.
    pub(super) fn shard_rows(&self, shard: usize, rows: u64) -> u64 {
        (rows - shard as u64 * self.rows_per_shard).min(self.rows_per_shard)
    }

    /// The shard of a row, and its place there.
    pub(super) fn place(&self, row: Row) -> (usize, u64) {
        let row = u64::from(row);
        ((row / self.rows_per_shard) as usize, row % self.rows_per_shard)
    }

    /// Rows that are kept in memory together: those of a page, or one where a record is larger than a page. Shards hold whole
    /// blocks, so `row / block_rows` counts them through all shards.
    pub(super) fn block_rows(&self) -> usize {
        self.per_page
    }

    fn fits_page(&self) -> bool {
        self.stride <= PAGE as usize
    }

    /// Where record `at` of a shard begins in its section.
    pub(super) fn offset(&self, at: u64) -> u64 {
        if self.fits_page() {
            at / self.per_page as u64 * PAGE + at % self.per_page as u64 * self.stride as u64
        } else {
            at * self.stride as u64
        }
    }

    /// Zeros between record `at` and the next one.
    pub(super) fn gap_after(&self, at: u64) -> u64 {
        self.offset(at + 1) - self.offset(at) - self.stride as u64
    }

    /// Bytes of the section of a shard of `rows`: up to the end of its last record.
    pub(super) fn section_bytes(&self, rows: u64) -> u64 {
        if rows == 0 { 0 } else { self.offset(rows - 1) + self.stride as u64 }
    }

    /// Bytes of all shard files of an index of `rows`.
    pub fn file_bytes(&self, rows: u64) -> u64 {
        (0..self.shards(rows))
            .map(|shard| PAGE + self.section_bytes(self.shard_rows(shard, rows)).next_multiple_of(PAGE))
            .sum()
    }

    fn vector_bytes(&self) -> usize {
        (self.dim * self.element.size()).next_multiple_of(4)
    }

    /// Writes the record of a vector (dim finite values) into `out` (stride bytes).
    ///
    /// # Errors
    /// `InvalidParams` where a value is beyond the range of f16; `out` is then undefined.
    pub fn encode(&self, vector: &[f32], key: Key, out: &mut [u8]) -> Result<()> {
        assert_eq!((vector.len(), out.len()), (self.dim, self.stride));
        let (used, end) = (self.dim * self.element.size(), self.vector_bytes());
        match self.element {
            Element::F32 => out[..used].copy_from_slice(bytemuck::cast_slice(vector)),
            Element::F16 => {
                if let Some(value) = vector.iter().find(|value| value.abs() > F16_MAX) {
                    let reason =
                        format!("f16 ends at {F16_MAX}, and the vector of key {key} has a {value}; use f32 or i8");
                    return Err(Error::params("dense", reason));
                }
                for (out, value) in out[..used].chunks_exact_mut(2).zip(vector) {
                    out.copy_from_slice(&f16::from_f32(*value).to_le_bytes());
                }
            }
            Element::I8 => {
                let scale = quantise(vector, bytemuck::cast_slice_mut(&mut out[..used]));
                out[end..end + 4].copy_from_slice(&scale.to_le_bytes());
            }
        }
        out[used..end].fill(0);
        let (body, crc) = out.split_at_mut(self.stride - 4);
        body[self.stride - 12..].copy_from_slice(&key.to_le_bytes());
        crc.copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
        Ok(())
    }

    /// The record in `words`, made by [`RecordLayout::encode`] and not from a file: its checksum is not verified.
    ///
    /// # Panics
    /// If `words` are not the bytes of one record.
    pub fn record<'a>(&'a self, words: &'a [u32]) -> RecordRef<'a> {
        assert_eq!(words.len() * 4, self.stride, "one record");
        RecordRef::new(self, bytemuck::cast_slice(words))
    }

    /// The key within a record's bytes.
    pub fn key_of(&self, record: &[u8]) -> Key {
        let at = self.stride - 12;
        u64::from_le_bytes(record[at..at + 8].try_into().expect("8 bytes"))
    }

    /// Whether the checksum of a record's bytes is right.
    pub(super) fn is_whole(&self, record: &[u8]) -> bool {
        let (body, crc) = record.split_at(self.stride - 4);
        crc32c::crc32c(body).to_le_bytes() == crc
    }
}

/// Rounds a vector to int8 values in `out` (as many as the vector has); returns their scale: `value = scale * int8`.
pub(super) fn quantise(vector: &[f32], out: &mut [i8]) -> f32 {
    let scale = (vector.iter().fold(0f32, |m, v| m.max(v.abs())) / 127.0).min(I8_SCALE_MAX);
    // Not times the inverse, which is infinite for the smallest scales. Under scale 0 the quotients are NaN or infinite, and
    // clamped or cast to a value that the scale makes 0.
    for (out, value) in out.iter_mut().zip(vector) {
        *out = (value / scale).round_ties_even().clamp(-127.0, 127.0) as i8;
    }
    scale
}

/// A record whose checksum was verified. Its bytes start at a multiple of 4.
#[derive(Clone, Copy, Debug)]
pub struct RecordRef<'a> {
    layout: &'a RecordLayout,
    bytes: &'a [u8],
}

impl<'a> RecordRef<'a> {
    pub(super) fn new(layout: &'a RecordLayout, bytes: &'a [u8]) -> RecordRef<'a> {
        debug_assert_eq!(bytes.len(), layout.stride);
        RecordRef { layout, bytes }
    }

    /// The caller's key.
    pub fn key(&self) -> Key {
        self.layout.key_of(self.bytes)
    }

    /// Elements of the vector.
    pub fn dim(&self) -> usize {
        self.layout.dim
    }

    /// Its bytes, as they are in a shard.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    fn scale(&self) -> f32 {
        let at = self.layout.vector_bytes();
        f32::from_le_bytes(self.bytes[at..at + 4].try_into().expect("4 bytes"))
    }

    fn f32(&self) -> &'a [f32] {
        bytemuck::cast_slice(&self.bytes[..self.layout.dim * 4])
    }

    fn f16(&self) -> &'a [f16] {
        let bits: &[u16] = bytemuck::cast_slice(&self.bytes[..self.layout.dim * 2]);
        half::slice::HalfBitsSliceExt::reinterpret_cast(bits)
    }

    fn i8(&self) -> &'a [i8] {
        bytemuck::cast_slice(&self.bytes[..self.layout.dim])
    }

    /// Exact score of the stored vector against a query of dim values (normalised under cosine).
    pub fn score(&self, kernels: &Kernels, metric: Metric, query: &[f32]) -> f32 {
        match (metric, self.layout.element) {
            (Metric::L2, Element::F32) => -(kernels.l2_f32)(query, self.f32()),
            (Metric::L2, Element::F16) => -(kernels.l2_f16)(query, self.f16()),
            (Metric::L2, Element::I8) => -(kernels.l2_i8)(query, self.i8(), self.scale()),
            (_, Element::F32) => (kernels.dot_f32)(query, self.f32()),
            (_, Element::F16) => (kernels.dot_f16)(query, self.f16()),
            (_, Element::I8) => (kernels.dot_i8)(query, self.i8()) * self.scale(),
        }
    }

    /// The vector as f32, into `out` (dim values).
    pub fn decode(&self, out: &mut [f32]) {
        match self.layout.element {
            Element::F32 => out.copy_from_slice(self.f32()),
            Element::F16 => self.f16().convert_to_f32_slice(out),
            Element::I8 => out.iter_mut().zip(self.i8()).for_each(|(o, &v)| *o = f32::from(v) * self.scale()),
        }
    }
}
