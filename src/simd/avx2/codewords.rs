//! Kernels over the codewords of a subspace, and the step that turns their scores into bytes.
//!
//! Lanes are codewords, as with AVX-512, in tiles of 64 codewords: eight registers of sums.

use std::arch::x86_64::*;

use super::super::{check_codewords, check_ranges};

/// Codewords of a tile where there are 256.
const TILE: usize = 64;

#[target_feature(enable = "avx2,fma")]
pub(super) fn table_f32(query: &[f32], codewords: &[f32], out: &mut [f32]) {
    let count = out.len();
    check_codewords(query, codewords, count);
    if count < TILE {
        store(products::<2>(query, codewords, count, 0), out);
        return;
    }
    for (t, out) in out.chunks_exact_mut(TILE).enumerate() {
        store(products::<8>(query, codewords, count, t * TILE), out);
    }
}

#[target_feature(enable = "avx2")]
pub(super) fn ranges(values: &[f32], low: &mut [f32], high: &mut [f32]) {
    let run = check_ranges(values, low, high);
    for ((values, low), high) in values.chunks_exact(run).zip(low).zip(high) {
        let (first, rest) = values.as_chunks::<8>().0.split_first().expect("a run of 16 or 256");
        let (mut least, mut most) = (load(first), load(first));
        for values in rest {
            least = _mm256_min_ps(least, load(values));
            most = _mm256_max_ps(most, load(values));
        }
        let (least, most) = (lanes(least), lanes(most));
        *low = least.into_iter().fold(f32::INFINITY, |a, b| if b < a { b } else { a });
        *high = most.into_iter().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
    }
}

/// The numbers in a register.
#[inline]
#[target_feature(enable = "avx")]
fn lanes(register: __m256) -> [f32; 8] {
    let mut lanes = [0f32; 8];
    // SAFETY: the destination is an array of 8.
    unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), register) };
    lanes
}

/// Inner products of `x` with the 8 N codewords from `first` on.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn products<const N: usize>(x: &[f32], codewords: &[f32], count: usize, first: usize) -> [__m256; N] {
    let mut sums = [_mm256_setzero_ps(); N];
    for (x, dimension) in x.iter().zip(codewords.chunks_exact(count)) {
        let x = _mm256_set1_ps(*x);
        for (sum, c) in sums.iter_mut().zip(dimension[first..][..8 * N].as_chunks::<8>().0) {
            *sum = _mm256_fmadd_ps(x, load(c), *sum);
        }
    }
    sums
}

/// Costs of the 8 N codewords from `first` on: half norms less inner products.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn costs<const N: usize>(x: &[f32], codewords: &[f32], half_norms: &[f32], first: usize) -> [__m256; N] {
    let mut costs = [_mm256_setzero_ps(); N];
    for (cost, half_norm) in costs.iter_mut().zip(half_norms[first..][..8 * N].as_chunks::<8>().0) {
        *cost = load(half_norm);
    }
    for (x, dimension) in x.iter().zip(codewords.chunks_exact(half_norms.len())) {
        let x = _mm256_set1_ps(*x);
        for (cost, c) in costs.iter_mut().zip(dimension[first..][..8 * N].as_chunks::<8>().0) {
            *cost = _mm256_fnmadd_ps(x, load(c), *cost);
        }
    }
    costs
}

#[inline]
#[target_feature(enable = "avx2")]
fn store<const N: usize>(sums: [__m256; N], out: &mut [f32]) {
    for out in out.as_chunks_mut::<8>().0.as_chunks_mut::<N>().0 {
        for (sum, out) in sums.iter().zip(out) {
            // SAFETY: the destination is an array of 8.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), *sum) };
        }
    }
}

/// The first smallest cost of each lane and the codeword that has it.
struct Best {
    cost: __m256,
    at: __m256i,
}

impl Best {
    /// Takes in the costs of the 8 N codewords from `first` on.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn update<const N: usize>(&mut self, costs: [__m256; N], first: usize) {
        let mut at = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(first as i32));
        for cost in costs {
            let better = _mm256_cmp_ps::<_CMP_LT_OQ>(cost, self.cost);
            self.cost = _mm256_blendv_ps(self.cost, cost, better);
            self.at = _mm256_blendv_epi8(self.at, at, _mm256_castps_si256(better));
            at = _mm256_add_epi32(at, _mm256_set1_epi32(8));
        }
    }

    /// The smallest codeword among the lanes that hold the smallest cost.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn first_smallest(&self) -> u8 {
        let (mut costs, mut at) = ([0.0f32; 8], [0u32; 8]);
        // SAFETY: both destinations have 32 bytes.
        unsafe {
            _mm256_storeu_ps(costs.as_mut_ptr(), self.cost);
            _mm256_storeu_si256(at.as_mut_ptr().cast(), self.at);
        }
        let mut best = (costs[0], at[0]);
        for (&cost, &at) in costs.iter().zip(&at) {
            if cost < best.0 || (cost == best.0 && at < best.1) {
                best = (cost, at);
            }
        }
        best.1 as u8
    }
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn nearest(x: &[f32], codewords: &[f32], half_norms: &[f32]) -> u8 {
    check_codewords(x, codewords, half_norms.len());
    let mut best = Best { cost: _mm256_set1_ps(f32::INFINITY), at: _mm256_setzero_si256() };
    if half_norms.len() < TILE {
        best.update(costs::<2>(x, codewords, half_norms, 0), 0);
    } else {
        for first in (0..half_norms.len()).step_by(TILE) {
            best.update(costs::<8>(x, codewords, half_norms, first), first);
        }
    }
    best.first_smallest()
}

#[target_feature(enable = "avx2")]
pub(super) fn quantize_u8(x: &[f32], min: f32, inv_step: f32, out: &mut [u8]) {
    assert_eq!(x.len(), out.len(), "one byte a value");
    let (x, x_rest) = x.as_chunks::<8>();
    let (out, out_rest) = out.as_chunks_mut::<8>();
    for (x, out) in x.iter().zip(out) {
        *out = quantize_eight(x, min, inv_step);
    }
    let mut last = [0.0; 8];
    last[..x_rest.len()].copy_from_slice(x_rest);
    out_rest.copy_from_slice(&quantize_eight(&last, min, inv_step)[..x_rest.len()]);
}

#[inline]
#[target_feature(enable = "avx2")]
fn quantize_eight(x: &[f32; 8], min: f32, inv_step: f32) -> [u8; 8] {
    let scaled = _mm256_mul_ps(_mm256_sub_ps(load(x), _mm256_set1_ps(min)), _mm256_set1_ps(inv_step));
    // The second operand of `max` is its result when the first is not a number: 0, as in the scalar kernel.
    let clamped = _mm256_min_ps(_mm256_max_ps(scaled, _mm256_setzero_ps()), _mm256_set1_ps(255.0));
    let words = _mm256_cvtps_epi32(clamped);
    let words = _mm_packs_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
    _mm_cvtsi128_si64(_mm_packus_epi16(words, words)).to_le_bytes()
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(lanes: &[f32; 8]) -> __m256 {
    // SAFETY: the reference is to 8 elements.
    unsafe { _mm256_loadu_ps(lanes.as_ptr()) }
}
