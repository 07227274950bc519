//! Rows of a matrix as int8, to be ranked for a query: a quarter of the bytes, and exact integer products.

use ndarray::ArrayView2;
use std::ops::Range;

use crate::linalg::norm2;
use crate::simd::Kernels;
use crate::topk::order_key;
use crate::types::Metric;

/// Columns of int8 rows are padded to this.
const COLUMNS: usize = 64;

/// Rows minus a centre as int8, one scale a row.
#[derive(Debug, Clone)]
pub(super) struct Int8Rows {
    columns: usize,
    values: Vec<i8>,
    sums: Vec<i32>,
    scales: Vec<f32>,
    /// What is added to the rescaled product to rank rows, with `c` the centre: `-|o - c|^2 / 2` by distance
    /// (`|q - o|^2 = |(q-c) - (o-c)|^2`), `<c, o - c>` by inner product (`<q,o> = <q,c> + <q-c, o-c> + <c, o-c>`).
    offsets: Vec<f32>,
}

/// A query as int8, and the integer products made with it; reused from query to query.
#[derive(Debug, Default)]
pub(super) struct Int8Query {
    values: Vec<i8>,
    /// What one step of the query is worth.
    step: f32,
    products: Vec<i32>,
}

impl Int8Query {
    /// Takes `query` in, relative to `center`.
    pub(super) fn set(&mut self, query: &[f32], center: &[f32]) {
        self.values.resize(query.len().next_multiple_of(COLUMNS), 0);
        let largest = query.iter().zip(center).fold(0f32, |m, (q, c)| m.max((q - c).abs()));
        let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        for ((out, q), c) in self.values.iter_mut().zip(query).zip(center) {
            *out = rounded((q - c) * inverse);
        }
        self.values[query.len()..].fill(0);
        self.step = largest / 127.0;
    }
}

impl Int8Rows {
    /// `rows` (n x d) relative to `center`, to be ranked under `metric`.
    pub(super) fn new(rows: ArrayView2<'_, f32>, center: &[f32], metric: Metric) -> Int8Rows {
        let (n, d) = rows.dim();
        let columns = d.next_multiple_of(COLUMNS);
        let mut int8 = Int8Rows {
            columns,
            values: vec![0; n * columns],
            sums: Vec::with_capacity(n),
            scales: Vec::with_capacity(n),
            offsets: Vec::with_capacity(n),
        };
        for (row, out) in rows.rows().into_iter().zip(int8.values.chunks_mut(columns)) {
            let relative: Vec<f32> = row.iter().zip(center).map(|(o, c)| o - c).collect();
            let largest = relative.iter().fold(0f32, |m, v| m.max(v.abs()));
            let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
            for (out, v) in out.iter_mut().zip(&relative) {
                *out = rounded(v * inverse);
            }
            int8.sums.push(out.iter().map(|&v| i32::from(v)).sum());
            int8.scales.push(largest / 127.0);
            int8.offsets.push(match metric {
                Metric::Ip => relative.iter().zip(center).map(|(r, c)| r * c).sum(),
                Metric::Cosine | Metric::L2 => -norm2(&relative) / 2.0,
            });
        }
        int8
    }

    /// Bytes in memory.
    pub(super) fn memory_bytes(&self) -> usize {
        self.values.len() + self.sums.len() * 12
    }

    /// Appends the keys of some rows: how they rank for the query, and their numbers.
    pub(super) fn rank(&self, kernels: &Kernels, query: &mut Int8Query, rows: Range<usize>, keys: &mut Vec<u64>) {
        let Int8Query { values, step, products } = query;
        products.resize(rows.len(), 0);
        let bytes = &self.values[rows.start * self.columns..rows.end * self.columns];
        (kernels.dot_rows_i8)(values, bytes, &self.sums[rows.clone()], products);
        let scored = products.iter().zip(&self.scales[rows.clone()]).zip(&self.offsets[rows.clone()]);
        let step = *step;
        keys.extend(
            scored
                .zip(rows.start as u32..)
                .map(|(((&p, scale), offset), row)| order_key(p as f32 * (scale * step) + offset, row)),
        );
    }
}

/// The nearest integer of a number between -127 and 127, half to even. A number of this size plus `1.5 * 2^23` has its integer
/// in the last bits: without SSE 4.1, which is not part of every x86-64, `round_ties_even` is a function call.
fn rounded(v: f32) -> i8 {
    const SHIFT: f32 = 12_582_912.0;
    (v + SHIFT).to_bits() as i8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_to_the_nearest_even() {
        for v in [-127.0, -126.5, -0.5, -0.4, 0.0, 0.5, 1.5, 2.5, 3.49, 126.5, 127.0f32] {
            assert_eq!(rounded(v), v.round_ties_even() as i8, "{v}");
        }
    }
}
