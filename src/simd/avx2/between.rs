//! Which ordinals of a column lie within a range, as bits.
//!
//! There is no unsigned comparison here: after subtracting the lower end, a lane is within the range if its minimum with
//! `high - low` is itself; lanes of 64 bits, which have no minimum, are compared as signed with their sign bits flipped.

use std::arch::x86_64::*;

use super::super::check_between;

#[inline]
#[target_feature(enable = "avx2")]
fn between<T: Copy + PartialOrd + Default>(
    ordinals: &[T],
    low: T,
    high: T,
    words: &mut [u64],
    within: impl Fn(&[T; 64]) -> u64,
) {
    check_between(ordinals, low, high, words);
    let (whole, rest) = ordinals.as_chunks::<64>();
    for (word, ordinals) in words.iter_mut().zip(whole) {
        *word |= within(ordinals);
    }
    if let Some(word) = words.get_mut(whole.len()) {
        let mut padded = [T::default(); 64];
        padded[..rest.len()].copy_from_slice(rest);
        *word |= within(&padded) & (u64::MAX >> (64 - rest.len()));
    }
}

/// Loads register `at` of an array.
#[inline]
#[target_feature(enable = "avx2")]
fn load<T>(ordinals: &[T; 64], at: usize) -> __m256i {
    assert!((at + 1) * 32 <= size_of::<[T; 64]>(), "a register within the array");
    // SAFETY: 32 bytes from byte 32 at on lie within the array, as was just asserted.
    unsafe { _mm256_loadu_si256(ordinals.as_ptr().cast::<__m256i>().add(at)) }
}

#[target_feature(enable = "avx2")]
pub(in crate::simd) fn between_u8(ordinals: &[u8], low: u8, high: u8, words: &mut [u64]) {
    let (base, span) = (_mm256_set1_epi8(low.cast_signed()), _mm256_set1_epi8(high.wrapping_sub(low).cast_signed()));
    between(ordinals, low, high, words, |ordinals| {
        let half = |at| {
            let x = _mm256_sub_epi8(load(ordinals, at), base);
            u64::from(_mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_min_epu8(x, span), x)).cast_unsigned())
        };
        half(0) | half(1) << 32
    });
}

#[target_feature(enable = "avx2")]
pub(in crate::simd) fn between_u16(ordinals: &[u16], low: u16, high: u16, words: &mut [u64]) {
    let (base, span) = (_mm256_set1_epi16(low.cast_signed()), _mm256_set1_epi16(high.wrapping_sub(low).cast_signed()));
    between(ordinals, low, high, words, |ordinals| {
        let lanes = |at| {
            let x = _mm256_sub_epi16(load(ordinals, at), base);
            _mm256_cmpeq_epi16(_mm256_min_epu16(x, span), x)
        };
        let half = |at| {
            // Packing takes halves of both registers in turns.
            let bytes = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi16(lanes(at), lanes(at + 1)));
            u64::from(_mm256_movemask_epi8(bytes).cast_unsigned())
        };
        half(0) | half(2) << 32
    });
}

#[target_feature(enable = "avx2")]
pub(in crate::simd) fn between_u32(ordinals: &[u32], low: u32, high: u32, words: &mut [u64]) {
    let (base, span) = (_mm256_set1_epi32(low.cast_signed()), _mm256_set1_epi32(high.wrapping_sub(low).cast_signed()));
    between(ordinals, low, high, words, |ordinals| {
        (0..8).fold(0, |bits, at| {
            let x = _mm256_sub_epi32(load(ordinals, at), base);
            let within = _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_min_epu32(x, span), x));
            bits | u64::from(_mm256_movemask_ps(within).cast_unsigned()) << (8 * at)
        })
    });
}

#[target_feature(enable = "avx2")]
pub(in crate::simd) fn between_u64(ordinals: &[u64], low: u64, high: u64, words: &mut [u64]) {
    let sign = _mm256_set1_epi64x(i64::MIN);
    let base = _mm256_set1_epi64x(low.cast_signed());
    let span = _mm256_xor_si256(_mm256_set1_epi64x(high.wrapping_sub(low).cast_signed()), sign);
    between(ordinals, low, high, words, |ordinals| {
        (0..16).fold(0, |bits, at| {
            let x = _mm256_xor_si256(_mm256_sub_epi64(load(ordinals, at), base), sign);
            let beyond = _mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpgt_epi64(x, span))).cast_unsigned();
            bits | u64::from(!beyond & 15) << (4 * at)
        })
    });
}
