//! Which ordinals of a column lie within a range, as bits: a subtraction and a comparison a register, whose mask is the answer.

use std::arch::x86_64::*;

use super::super::check_between;

/// A kernel: `$lanes` ordinals a register, so `64 / $lanes` registers a word.
macro_rules! between {
    ($name:ident, $type:ty, $signed:ty, $lanes:literal, $mask:ty, $set:ident, $load:ident, $sub:ident, $compare:ident) => {
        #[target_feature(enable = "avx512f,avx512bw")]
        pub(in crate::simd) fn $name(ordinals: &[$type], low: $type, high: $type, words: &mut [u64]) {
            check_between(ordinals, low, high, words);
            // What is below `low` becomes larger than `high - low`, by wrapping around.
            let base = $set(low.cast_signed());
            let span = $set((high - low).cast_signed());
            for (word, ordinals) in words.iter_mut().zip(ordinals.chunks(64)) {
                let mut bits = 0u64;
                for (part, ordinals) in ordinals.chunks($lanes).enumerate() {
                    let there = (u64::MAX >> (64 - ordinals.len())) as $mask;
                    // SAFETY: of the register only as many lanes are read as there are ordinals.
                    let lanes = unsafe { $load(there, ordinals.as_ptr().cast::<$signed>()) };
                    let within = $compare(there, $sub(lanes, base), span);
                    bits |= u64::from(within) << (part * $lanes);
                }
                *word |= bits;
            }
        }
    };
}

between!(
    between_u8,
    u8,
    i8,
    64,
    __mmask64,
    _mm512_set1_epi8,
    _mm512_maskz_loadu_epi8,
    _mm512_sub_epi8,
    _mm512_mask_cmple_epu8_mask
);
between!(
    between_u16,
    u16,
    i16,
    32,
    __mmask32,
    _mm512_set1_epi16,
    _mm512_maskz_loadu_epi16,
    _mm512_sub_epi16,
    _mm512_mask_cmple_epu16_mask
);
between!(
    between_u32,
    u32,
    i32,
    16,
    __mmask16,
    _mm512_set1_epi32,
    _mm512_maskz_loadu_epi32,
    _mm512_sub_epi32,
    _mm512_mask_cmple_epu32_mask
);
between!(
    between_u64,
    u64,
    i64,
    8,
    __mmask8,
    _mm512_set1_epi64,
    _mm512_maskz_loadu_epi64,
    _mm512_sub_epi64,
    _mm512_mask_cmple_epu64_mask
);
