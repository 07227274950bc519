//! Which ordinals of a column lie within a range, as bits: a subtraction and a comparison a register, whose mask is the answer.

use std::arch::x86_64::*;

use super::super::check_between;

/// A kernel: `$lanes` ordinals a register, so `64 / $lanes` registers a word.
macro_rules! between {
    ($name:ident, $type:ty, $lanes:literal, $set:ident, $sub:ident, $compare:ident) => {
        #[target_feature(enable = "avx512f,avx512bw")]
        pub(in crate::simd) fn $name(ordinals: &[$type], low: $type, high: $type, words: &mut [u64]) {
            check_between(ordinals, low, high, words);
            // What is below `low` becomes larger than `high - low`, by wrapping around.
            let base = $set(low.cast_signed());
            let span = $set((high - low).cast_signed());
            let bits = |ordinals: &[$type; 64]| {
                let mut bits = 0u64;
                for (part, lanes) in ordinals.as_chunks::<$lanes>().0.iter().enumerate() {
                    // SAFETY: the reference is to 64 bytes.
                    let lanes = unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) };
                    bits |= u64::from($compare($sub(lanes, base), span)) << (part * $lanes);
                }
                bits
            };
            let (whole, rest) = ordinals.as_chunks::<64>();
            for (word, ordinals) in words.iter_mut().zip(whole) {
                *word |= bits(ordinals);
            }
            if let Some(word) = words.get_mut(whole.len()) {
                let mut padded = [0; 64];
                padded[..rest.len()].copy_from_slice(rest);
                *word |= bits(&padded) & (u64::MAX >> (64 - rest.len()));
            }
        }
    };
}

between!(between_u8, u8, 64, _mm512_set1_epi8, _mm512_sub_epi8, _mm512_cmple_epu8_mask);
between!(between_u16, u16, 32, _mm512_set1_epi16, _mm512_sub_epi16, _mm512_cmple_epu16_mask);
between!(between_u32, u32, 16, _mm512_set1_epi32, _mm512_sub_epi32, _mm512_cmple_epu32_mask);
between!(between_u64, u64, 8, _mm512_set1_epi64, _mm512_sub_epi64, _mm512_cmple_epu64_mask);
