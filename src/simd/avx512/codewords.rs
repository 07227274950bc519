//! Kernels over the codewords of a subspace, and the step that turns their scores into bytes.
//!
//! Lanes are codewords: a codebook is stored dimension-major, so each dimension of the query is broadcast once and
//! multiplied with registers of 16 codewords. All 256 sums stay in 16 registers, which takes loops of constant length:
//! hence arrays of arrays (`tiles`) where slices would do.

use std::arch::x86_64::*;

use super::super::{check_codewords, check_ranges};
use super::first16;

#[target_feature(enable = "avx512f")]
pub(super) fn table_f32(query: &[f32], codewords: &[f32], out: &mut [f32]) {
    check_codewords(query, codewords, out.len());
    match out.len() {
        16 => table::<1>(query, codewords, out),
        _ => table::<16>(query, codewords, out),
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn table<const N: usize>(query: &[f32], codewords: &[f32], out: &mut [f32]) {
    let mut sums = [_mm512_setzero_ps(); N];
    for (x, dimension) in query.iter().zip(tiles::<N>(codewords)) {
        let x = _mm512_set1_ps(*x);
        for (sum, c) in sums.iter_mut().zip(dimension) {
            *sum = _mm512_fmadd_ps(x, load(c), *sum);
        }
    }
    for out in out.as_chunks_mut::<16>().0.as_chunks_mut::<N>().0 {
        for (sum, out) in sums.iter().zip(out) {
            // SAFETY: the destination is an array of 16.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), *sum) };
        }
    }
}

#[target_feature(enable = "avx512f")]
pub(super) fn ranges(values: &[f32], low: &mut [f32], high: &mut [f32]) {
    let run = check_ranges(values, low, high);
    for ((values, low), high) in values.chunks_exact(run).zip(low).zip(high) {
        let (first, rest) = values.as_chunks::<16>().0.split_first().expect("a run of 16 or 256");
        let (mut least, mut most) = (load(first), load(first));
        for values in rest {
            least = _mm512_min_ps(least, load(values));
            most = _mm512_max_ps(most, load(values));
        }
        (*low, *high) = (_mm512_reduce_min_ps(least), _mm512_reduce_max_ps(most));
    }
}

#[target_feature(enable = "avx512f")]
pub(super) fn nearest(x: &[f32], codewords: &[f32], half_norms: &[f32]) -> u8 {
    check_codewords(x, codewords, half_norms.len());
    match half_norms.len() {
        16 => nearest_of::<1>(x, codewords, half_norms),
        _ => nearest_of::<16>(x, codewords, half_norms),
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn nearest_of<const N: usize>(x: &[f32], codewords: &[f32], half_norms: &[f32]) -> u8 {
    let mut costs = [_mm512_setzero_ps(); N];
    for half_norms in tiles::<N>(half_norms) {
        for (cost, half_norm) in costs.iter_mut().zip(half_norms) {
            *cost = load(half_norm);
        }
    }
    for (x, dimension) in x.iter().zip(tiles::<N>(codewords)) {
        let x = _mm512_set1_ps(*x);
        for (cost, c) in costs.iter_mut().zip(dimension) {
            *cost = _mm512_fnmadd_ps(x, load(c), *cost);
        }
    }
    // The first smallest cost of each lane, then the smallest codeword among the lanes that hold the smallest of all.
    let mut best = _mm512_set1_ps(f32::INFINITY);
    let mut best_at = _mm512_setzero_si512();
    let mut at = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for cost in costs {
        let better = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(cost, best);
        best = _mm512_mask_mov_ps(best, better, cost);
        best_at = _mm512_mask_mov_epi32(best_at, better, at);
        at = _mm512_add_epi32(at, _mm512_set1_epi32(16));
    }
    let smallest = _mm512_set1_ps(_mm512_reduce_min_ps(best));
    let holders = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(best, smallest);
    _mm512_mask_reduce_min_epu32(holders, best_at) as u8
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn quantize_u8(x: &[f32], min: f32, inv_step: f32, out: &mut [u8]) {
    assert_eq!(x.len(), out.len(), "one byte a value");
    let (min, inv_step) = (_mm512_set1_ps(min), _mm512_set1_ps(inv_step));
    for i in (0..x.len()).step_by(16) {
        let mask = first16(x.len() - i);
        // SAFETY: the elements in the mask exist in both slices; no other is touched.
        unsafe {
            let scaled = _mm512_mul_ps(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x.as_ptr().add(i)), min), inv_step);
            // The second operand of `max` is its result when the first is not a number: 0, as in the scalar kernel.
            let clamped = _mm512_min_ps(_mm512_max_ps(scaled, _mm512_setzero_ps()), _mm512_set1_ps(255.0));
            let bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(clamped));
            _mm_mask_storeu_epi8(out.as_mut_ptr().add(i).cast(), mask, bytes);
        }
    }
}

/// The same numbers as arrays of N registers.
fn tiles<const N: usize>(numbers: &[f32]) -> &[[[f32; 16]; N]] {
    numbers.as_chunks::<16>().0.as_chunks::<N>().0
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(lanes: &[f32; 16]) -> __m512 {
    // SAFETY: the reference is to 16 elements.
    unsafe { _mm512_loadu_ps(lanes.as_ptr()) }
}
