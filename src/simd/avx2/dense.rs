//! Inner products and distances of one query with one dense vector: the long sums of the kernels' definition.
//!
//! 64 lanes are eight registers, enough independent chains of multiply-adds to hide their latency. What remains after
//! the last whole 8 elements is copied into zeros first, because AVX2 cannot load part of a register of bytes.

use std::arch::x86_64::*;

use half::f16;

use super::sum_sixteen;

/// A long sum over `$a: &[f32]` and `$b`: `$step` folds 8 elements of each into an accumulator, `$load` reads 8 elements
/// of `$b`, whose zero is `$zero`.
macro_rules! long_sum {
    ($a:expr, $b:expr, $load:ident, $zero:expr, |$acc:ident, $x:ident, $y:ident| $step:expr) => {{
        assert_eq!($a.len(), $b.len(), "vectors of equal length");
        let mut lanes = [_mm256_setzero_ps(); 8];
        let (a, a_rest) = $a.as_chunks::<8>();
        let (b, b_rest) = $b.as_chunks::<8>();
        let (a_blocks, a_eights) = a.as_chunks::<8>();
        let (b_blocks, b_eights) = b.as_chunks::<8>();
        for (a, b) in a_blocks.iter().zip(b_blocks) {
            for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
                let ($acc, $x, $y) = (*lane, load_f32(a), $load(b));
                *lane = $step;
            }
        }
        for (lane, (a, b)) in lanes.iter_mut().zip(a_eights.iter().zip(b_eights)) {
            let ($acc, $x, $y) = (*lane, load_f32(a), $load(b));
            *lane = $step;
        }
        if !a_rest.is_empty() {
            let (mut a, mut b) = ([0.0; 8], [$zero; 8]);
            // Element by element: a copy of unknown length would be a call.
            for (i, (x, y)) in a_rest.iter().zip(b_rest).enumerate() {
                (a[i], b[i]) = (*x, *y);
            }
            let lane = &mut lanes[a_eights.len()];
            let ($acc, $x, $y) = (*lane, load_f32(&a), $load(&b));
            *lane = $step;
        }
        let [a, b, c, d, e, f, g, h] = lanes;
        sum_sixteen(
            _mm256_add_ps(_mm256_add_ps(a, c), _mm256_add_ps(e, g)),
            _mm256_add_ps(_mm256_add_ps(b, d), _mm256_add_ps(f, h)),
        )
    }};
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
    long_sum!(a, b, load_f32, 0.0, |acc, x, y| _mm256_fmadd_ps(x, y, acc))
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dot_f16(a: &[f32], b: &[f16]) -> f32 {
    long_sum!(a, b, load_f16, f16::ZERO, |acc, x, y| _mm256_fmadd_ps(x, y, acc))
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dot_i8(a: &[f32], b: &[i8]) -> f32 {
    long_sum!(a, b, load_i8, 0, |acc, x, y| _mm256_fmadd_ps(x, y, acc))
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn l2_f32(a: &[f32], b: &[f32]) -> f32 {
    long_sum!(a, b, load_f32, 0.0, |acc, x, y| add_square(acc, _mm256_sub_ps(x, y)))
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn l2_f16(a: &[f32], b: &[f16]) -> f32 {
    long_sum!(a, b, load_f16, f16::ZERO, |acc, x, y| add_square(acc, _mm256_sub_ps(x, y)))
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn l2_i8(a: &[f32], b: &[i8], scale: f32) -> f32 {
    let scale = _mm256_set1_ps(scale);
    long_sum!(a, b, load_i8, 0, |acc, x, y| add_square(acc, _mm256_fnmadd_ps(scale, y, x)))
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn add_square(acc: __m256, difference: __m256) -> __m256 {
    _mm256_fmadd_ps(difference, difference, acc)
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_f32(from: &[f32; 8]) -> __m256 {
    // SAFETY: the reference is to 8 elements.
    unsafe { _mm256_loadu_ps(from.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn load_f16(from: &[f16; 8]) -> __m256 {
    // SAFETY: the reference is to 8 elements; an f16 is its 16 bits.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(from.as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_i8(from: &[i8; 8]) -> __m256 {
    // SAFETY: the reference is to 8 elements, which is what this load reads.
    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(unsafe { _mm_loadl_epi64(from.as_ptr().cast()) }))
}
