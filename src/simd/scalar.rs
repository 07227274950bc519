//! Plain Rust: the oracle of the other instruction sets, and what runs where there is none of them.
//!
//! Written to be read, with one exception: scans go over packed groups in memory order, because on other processors
//! this is the product.

use half::f16;

use super::pack::{BLOCK_ROWS, GROUP_ROWS};
use super::{CodeBits, Kernels, PackedRows, ScanTables, check_codewords, check_ranges, check_rows_i8, check_scan};

pub(super) static KERNELS: Kernels = Kernels {
    name: "scalar",
    scan4,
    scan8,
    dot_f32,
    dot_f16,
    dot_i8,
    l2_f32,
    l2_f16,
    l2_i8,
    dot_rows_i8,
    dot_rows_f32,
    table_f32,
    ranges,
    nearest,
    quantize_u8,
};

fn scan4(run: PackedRows<'_>, tables: ScanTables<'_>, threshold: u32, rows: &mut [u32], scores: &mut [u32]) -> usize {
    check_scan(CodeBits::Four, &run, &tables, rows, scores);
    let mut survivors = 0;
    let group_bytes = GROUP_ROWS * tables.bytes;
    for first in (0..run.rows).step_by(GROUP_ROWS).filter(|&first| run.passing16(first) != 0) {
        let group = &run.codes[first * tables.bytes..][..group_bytes];
        let mut sums = [0; GROUP_ROWS];
        for (chunk, table) in group.chunks_exact(64).zip(tables.entries.chunks_exact(128)) {
            for (sum, bytes) in sums.iter_mut().zip(chunk.chunks_exact(4)) {
                for (b, &byte) in bytes.iter().enumerate() {
                    let even = table[b * 16 + usize::from(byte & 15)];
                    let odd = table[64 + b * 16 + usize::from(byte >> 4)];
                    *sum += u32::from(even) + u32::from(odd);
                }
            }
        }
        survivors += keep(&run, first, &sums, threshold, &mut rows[survivors..], &mut scores[survivors..]);
    }
    survivors
}

fn scan8(run: PackedRows<'_>, tables: ScanTables<'_>, threshold: u32, rows: &mut [u32], scores: &mut [u32]) -> usize {
    check_scan(CodeBits::Eight, &run, &tables, rows, scores);
    let mut survivors = 0;
    for first in (0..run.rows).step_by(BLOCK_ROWS).filter(|&first| run.passing64(first / BLOCK_ROWS) != 0) {
        let width = (run.rows - first).next_multiple_of(GROUP_ROWS).min(BLOCK_ROWS);
        let block = &run.codes[first * tables.bytes..][..width * tables.bytes];
        let mut sums = [0; BLOCK_ROWS];
        for (codes, table) in block.chunks_exact(width).zip(tables.entries.chunks_exact(256)) {
            for (sum, &code) in sums.iter_mut().zip(codes) {
                *sum += u32::from(table[usize::from(code)]);
            }
        }
        survivors += keep(&run, first, &sums[..width], threshold, &mut rows[survivors..], &mut scores[survivors..]);
    }
    survivors
}

/// Adds the row terms to the table sums of the rows from `first` on and keeps the real, passing rows that reach the threshold.
fn keep(
    run: &PackedRows<'_>,
    first: usize,
    sums: &[u32],
    threshold: u32,
    rows: &mut [u32],
    scores: &mut [u32],
) -> usize {
    let mut kept = 0;
    for (row, &sum) in (first..run.rows).zip(sums) {
        let term = run.terms.get(row).map_or(0, |&term| (u32::from(term) * u32::from(run.term_weight)) >> 8);
        if sum + term >= threshold && run.passing16(row / 16 * 16) >> (row % 16) & 1 == 1 {
            rows[kept] = row as u32;
            scores[kept] = sum + term;
            kept += 1;
        }
    }
    kept
}

/// The long sum of the module above: `step(i, lane)` returns lane `i % 64` with element `i` added.
fn long_sum(len: usize, step: impl Fn(usize, f32) -> f32) -> f32 {
    let mut lanes = [0.0; 64];
    for i in 0..len {
        lanes[i % 64] = step(i, lanes[i % 64]);
    }
    let sixteen = std::array::from_fn(|l| (lanes[l] + lanes[l + 16]) + (lanes[l + 32] + lanes[l + 48]));
    sum_sixteen(&sixteen)
}

/// Adds 16 lanes in the order of the module above: within quads, then the quads.
fn sum_sixteen(lanes: &[f32; 16]) -> f32 {
    let sum_quad = |quad: &[f32]| (quad[0] + quad[2]) + (quad[1] + quad[3]);
    let quads: [f32; 4] = std::array::from_fn(|q| sum_quad(&lanes[4 * q..4 * q + 4]));
    sum_quad(&quads)
}

fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "vectors of equal length");
    long_sum(a.len(), |i, lane| a[i].mul_add(b[i], lane))
}

fn dot_f16(a: &[f32], b: &[f16]) -> f32 {
    assert_eq!(a.len(), b.len(), "vectors of equal length");
    long_sum(a.len(), |i, lane| a[i].mul_add(b[i].to_f32(), lane))
}

fn dot_i8(a: &[f32], b: &[i8]) -> f32 {
    assert_eq!(a.len(), b.len(), "vectors of equal length");
    long_sum(a.len(), |i, lane| a[i].mul_add(f32::from(b[i]), lane))
}

fn l2_f32(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "vectors of equal length");
    long_sum(a.len(), |i, lane| squared(a[i] - b[i], lane))
}

fn l2_f16(a: &[f32], b: &[f16]) -> f32 {
    assert_eq!(a.len(), b.len(), "vectors of equal length");
    long_sum(a.len(), |i, lane| squared(a[i] - b[i].to_f32(), lane))
}

fn l2_i8(a: &[f32], b: &[i8], scale: f32) -> f32 {
    assert_eq!(a.len(), b.len(), "vectors of equal length");
    long_sum(a.len(), |i, lane| squared((-scale).mul_add(f32::from(b[i]), a[i]), lane))
}

fn squared(difference: f32, lane: f32) -> f32 {
    difference.mul_add(difference, lane)
}

fn dot_rows_i8(query: &[i8], rows: &[i8], row_sums: &[i32], out: &mut [i32]) {
    check_rows_i8(query, rows, row_sums, out);
    for (i, score) in out.iter_mut().enumerate() {
        let row = &rows[i * query.len()..][..query.len()];
        *score = query.iter().zip(row).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum();
    }
}

fn dot_rows_f32(query: &[f32], rows: &[f32], out: &mut [f32]) {
    assert_eq!(rows.len(), query.len() * out.len(), "f32 matrix of {} rows", out.len());
    for (i, score) in out.iter_mut().enumerate() {
        let row = &rows[i * query.len()..][..query.len()];
        let mut lanes = [0.0f32; 16];
        for (j, (a, b)) in query.iter().zip(row).enumerate() {
            lanes[j % 16] = a.mul_add(*b, lanes[j % 16]);
        }
        *score = sum_sixteen(&lanes);
    }
}

fn table_f32(query: &[f32], codewords: &[f32], out: &mut [f32]) {
    check_codewords(query, codewords, out.len());
    out.fill(0.0);
    for (x, dimension) in query.iter().zip(codewords.chunks_exact(out.len())) {
        for (sum, c) in out.iter_mut().zip(dimension) {
            *sum = x.mul_add(*c, *sum);
        }
    }
}

fn ranges(values: &[f32], low: &mut [f32], high: &mut [f32]) {
    let run = check_ranges(values, low, high);
    for ((values, low), high) in values.chunks_exact(run).zip(low).zip(high) {
        *low = values.iter().copied().fold(f32::INFINITY, f32::min);
        *high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    }
}

fn nearest(x: &[f32], codewords: &[f32], half_norms: &[f32]) -> u8 {
    let count = half_norms.len();
    check_codewords(x, codewords, count);
    let mut best = (f32::INFINITY, 0);
    for (k, &half_norm) in half_norms.iter().enumerate() {
        // |x - c|^2 / 2 without |x|^2 / 2, which is the same for every codeword.
        let cost = x.iter().enumerate().fold(half_norm, |sum, (j, x)| (-x).mul_add(codewords[j * count + k], sum));
        if cost < best.0 {
            best = (cost, k);
        }
    }
    best.1 as u8
}

fn quantize_u8(x: &[f32], min: f32, inv_step: f32, out: &mut [u8]) {
    assert_eq!(x.len(), out.len(), "one byte a value");
    for (byte, x) in out.iter_mut().zip(x) {
        *byte = ((x - min) * inv_step).round_ties_even().clamp(0.0, 255.0) as u8;
    }
}
