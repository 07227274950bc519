//! Every dense vector once more, as int8 in memory: bounds of a candidate's exact score without a read.
//!
//! ```text
//! values  dim x i8, then zeros up to a multiple of 4
//! scale   f32             x8 = scale * values
//! error   f32             at least |x - x8|
//! ```
//! in row order, rounded as [`Element::I8`] records are. By Cauchy and Schwarz `<q, x>` differs from `<q, x8>` by at most
//! `|q| error`, and by the triangle inequality `|q - x|` from `|q - x8|` by at most `error`. A candidate whose upper bound lies
//! below the kth best lower bound cannot be among the best k, so it need not be read, and the answer stays the same.
//!
//! The same *to the bit*, so the bounds are those of the scores as the kernels compute them. A long sum of `n` products is off
//! by at most `(n/64 + 8) * 2^-24` times the sum of their magnitudes ([`crate::simd`]), which is at most `|q| |x|`, or, for
//! distances, the sum itself. [`rounding`] is more than twice that; `error` includes its part for inner products of `x` and
//! of `x8`. What underflows is less than [`TINY`].

use memmap2::{Advice, MmapMut};
use rayon::prelude::*;

use super::layout::quantise;
use super::{DenseSet, Element, FetchScratch};
use crate::error::{Error, Result};
use crate::linalg::norm;
use crate::simd::{Kernels, prefetch};
use crate::types::{Metric, Row};

/// Rows that a thread quantises at a time.
const CHUNK: usize = 4_096;
/// More than all that sums of less than 2^20 products can lose to underflow.
const TINY: f64 = f32::MIN_POSITIVE as f64;

/// See the module.
#[derive(Debug)]
pub struct Int8Tier {
    bytes: MmapMut,
    dim: usize,
    stride: usize,
}

/// A query as bounds need it.
#[derive(Clone, Copy, Debug)]
pub struct TierQuery<'a> {
    values: &'a [f32],
    norm: f64,
}

impl<'a> TierQuery<'a> {
    /// A query of finite values, as many as vectors have.
    pub fn new(values: &'a [f32]) -> TierQuery<'a> {
        TierQuery { values, norm: norm(values) }
    }
}

impl Int8Tier {
    /// Reads and rounds every vector of `set`, on rayon's threads.
    pub(super) fn build(set: &DenseSet) -> Result<Int8Tier> {
        let (dim, rows) = (set.layout().dim(), set.rows() as usize);
        if set.layout().element() == Element::I8 {
            let reason =
                "int8 would repeat the vectors of this index, which are i8 already; give none, or store memory";
            return Err(Error::params("dense_tier", reason));
        }
        let stride = dim.next_multiple_of(4) + 8;
        let length = stride * rows;
        let mut bytes = MmapMut::map_anon(length.max(1)).map_err(Error::io("memory for the int8 tier"))?;
        // Advice only: a system without huge pages serves from small ones.
        let _ = bytes.advise(Advice::HugePage);
        let fill = |(scratch, wanted): &mut (FetchScratch, Vec<Row>), (chunk, out): (usize, &mut [u8])| {
            let first = (chunk * CHUNK) as Row;
            wanted.clear();
            wanted.extend(first..first + (out.len() / stride) as Row);
            let mut vector = vec![0.0; dim];
            let fetched = set.for_each_once(wanted, scratch, &mut |i, record| {
                record.decode(&mut vector);
                encode(&vector, &mut out[i * stride..(i + 1) * stride]);
            });
            fetched.map(drop)
        };
        bytes[..length]
            .par_chunks_mut(CHUNK * stride)
            .enumerate()
            .map_init(Default::default, fill)
            .collect::<Result<()>>()?;
        Ok(Int8Tier { bytes, dim, stride })
    }

    /// Bytes of all rows.
    pub fn memory_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn record(&self, row: Row) -> &[u8] {
        &self.bytes[row as usize * self.stride..][..self.stride]
    }

    /// Asks memory for a row that will be scored soon.
    pub fn prefetch(&self, row: Row) {
        prefetch(self.record(row));
    }

    /// Bounds `(low, high)` of what [`super::RecordRef::score`] gives for `row` (below the number of rows), whatever the
    /// kernels.
    pub fn bounds(&self, kernels: &Kernels, metric: Metric, query: TierQuery<'_>, row: Row) -> (f32, f32) {
        let (values, tail) = self.record(row).split_at(self.stride - 8);
        let values: &[i8] = bytemuck::cast_slice(&values[..self.dim]);
        let word = |at: usize| f32::from_le_bytes(tail[at..at + 4].try_into().expect("4 bytes"));
        let (scale, error) = (word(0), f64::from(word(4)));
        let (low, high) = match metric {
            Metric::L2 => {
                let rounding = rounding(self.dim);
                let squared = f64::from((kernels.l2_i8)(query.values, values, scale));
                let far = (squared * (1.0 + rounding) + TINY).sqrt() + error;
                let near = ((squared * (1.0 - rounding) - TINY).max(0.0).sqrt() - error).max(0.0);
                (-(far * far * (1.0 + rounding) + TINY), -(near * near * (1.0 - rounding) - TINY))
            }
            Metric::Ip | Metric::Cosine => {
                let score = f64::from((kernels.dot_i8)(query.values, values) * scale);
                let reach = query.norm * error + TINY;
                (score - reach, score + reach)
            }
        };
        // Rounding to f32 takes the nearest value, so one further is beyond.
        ((low as f32).next_down(), (high as f32).next_up())
    }
}

/// Most that a kernel's sum of `dim` products is off, in shares of the sum of their magnitudes, with room to spare.
fn rounding(dim: usize) -> f64 {
    (2 * (dim / 64 + 16)) as f64 / f64::from(1u32 << 24)
}

/// Writes the row of a vector.
fn encode(vector: &[f32], out: &mut [u8]) {
    let (values, tail) = out.split_at_mut(out.len() - 8);
    let values: &mut [i8] = bytemuck::cast_slice_mut(&mut values[..vector.len()]);
    let scale = quantise(vector, values);
    let lost = vector.iter().zip(&*values).map(|(&x, &v)| (f64::from(x) - f64::from(scale) * f64::from(v)).powi(2));
    let (lost, length) = (lost.sum::<f64>().sqrt(), norm(vector));
    // |x8| is at most |x| + |x - x8|.
    let error = lost + rounding(vector.len()) * (2.0 * length + lost);
    tail[..4].copy_from_slice(&scale.to_le_bytes());
    tail[4..].copy_from_slice(&(error as f32).next_up().to_le_bytes());
}
