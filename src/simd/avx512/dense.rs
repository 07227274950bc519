//! Inner products and distances of one query with one dense vector: the long sums of the kernels' definition.
//!
//! 64 lanes are four registers, four independent chains of multiply-adds, which hides their latency. The tail is the
//! same step with masked loads: lanes beyond the end add zero.

use std::arch::x86_64::*;

use half::f16;

use super::{first16, sum_sixteen};

/// A long sum over `$a: &[f32]` and `$b`: `$step` folds 16 elements of each into an accumulator, `$load` reads 16
/// elements of `$b` of which those in a mask exist.
macro_rules! long_sum {
    ($a:expr, $b:expr, $load:ident, |$acc:ident, $x:ident, $y:ident| $step:expr) => {{
        let (a, b) = ($a, $b);
        assert_eq!(a.len(), b.len(), "vectors of equal length");
        let mut lanes = [_mm512_setzero_ps(); 4];
        let whole = a.len() / 64 * 64;
        for i in (0..whole).step_by(64) {
            for (l, lane) in lanes.iter_mut().enumerate() {
                let i = i + 16 * l;
                // SAFETY: `i + 16 <= whole <= a.len()`.
                let $x = unsafe { _mm512_loadu_ps(a.as_ptr().add(i)) };
                // SAFETY: `b` is as long as `a`.
                let $y = unsafe { $load(b.as_ptr().add(i), !0) };
                let $acc = *lane;
                *lane = $step;
            }
        }
        for (l, lane) in lanes.iter_mut().enumerate() {
            let i = whole + 16 * l;
            if i < a.len() {
                let mask = first16(a.len() - i);
                // SAFETY: the elements in the mask exist; the others are not read.
                let $x = unsafe { _mm512_maskz_loadu_ps(mask, a.as_ptr().add(i)) };
                // SAFETY: `b` is as long as `a`.
                let $y = unsafe { $load(b.as_ptr().add(i), mask) };
                let $acc = *lane;
                *lane = $step;
            }
        }
        let low = _mm512_add_ps(lanes[0], lanes[1]);
        sum_sixteen(_mm512_add_ps(low, _mm512_add_ps(lanes[2], lanes[3])))
    }};
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
    long_sum!(a, b, load_f32, |acc, x, y| _mm512_fmadd_ps(x, y, acc))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn dot_f16(a: &[f32], b: &[f16]) -> f32 {
    long_sum!(a, b, load_f16, |acc, x, y| _mm512_fmadd_ps(x, y, acc))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn dot_i8(a: &[f32], b: &[i8]) -> f32 {
    long_sum!(a, b, load_i8, |acc, x, y| _mm512_fmadd_ps(x, y, acc))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn l2_f32(a: &[f32], b: &[f32]) -> f32 {
    long_sum!(a, b, load_f32, |acc, x, y| add_square(acc, _mm512_sub_ps(x, y)))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn l2_f16(a: &[f32], b: &[f16]) -> f32 {
    long_sum!(a, b, load_f16, |acc, x, y| add_square(acc, _mm512_sub_ps(x, y)))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn l2_i8(a: &[f32], b: &[i8], scale: f32) -> f32 {
    let scale = _mm512_set1_ps(scale);
    long_sum!(a, b, load_i8, |acc, x, y| add_square(acc, _mm512_fnmadd_ps(scale, y, x)))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn add_square(acc: __m512, difference: __m512) -> __m512 {
    _mm512_fmadd_ps(difference, difference, acc)
}

/// # Safety
/// The elements in `mask` exist.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load_f32(from: *const f32, mask: __mmask16) -> __m512 {
    // SAFETY: as the caller promises.
    unsafe { _mm512_maskz_loadu_ps(mask, from) }
}

/// # Safety
/// The elements in `mask` exist.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn load_f16(from: *const f16, mask: __mmask16) -> __m512 {
    // SAFETY: as the caller promises; an f16 is its 16 bits.
    _mm512_cvtph_ps(unsafe { _mm256_maskz_loadu_epi16(mask, from.cast()) })
}

/// # Safety
/// The elements in `mask` exist.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn load_i8(from: *const i8, mask: __mmask16) -> __m512 {
    // SAFETY: as the caller promises.
    _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(unsafe { _mm_maskz_loadu_epi8(mask, from) }))
}
