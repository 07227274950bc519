//! Scan of 8-bit codes.
//!
//! A look-up among 256 entries is 16 `vpshufb` by the low nibble, one for each high nibble, and a choice among their
//! results. The choice by bit 4 costs one cheap operation for two results: `vpshufb` gives zero where the top bit
//! of an index is set, so one of each two is asked with bit 4 there, the other with its complement, and `or` joins them.
//! The other bits choose by `vpblendvb` (at most one a cycle on Zen 4, which is why not all of them do): 4 + 2 + 1.
//! That is 31 operations for 32 codes and no memory access but the tables', which beats one scalar look-up a code. The
//! sums are those of the AVX-512 scan: bytes added in pairs, and the upper bytes once more alone.

use std::arch::x86_64::*;

use super::super::{BLOCK_ROWS, CodeBits, GROUP_ROWS, PackedRows, ScanTables, check_scan};
use super::{Survivors, load_padded};

#[target_feature(enable = "avx2")]
pub(super) fn scan(
    run: PackedRows<'_>,
    tables: ScanTables<'_>,
    threshold: u32,
    rows: &mut [u32],
    scores: &mut [u32],
) -> usize {
    check_scan(CodeBits::Eight, &run, &tables, rows, scores);
    let Ok(threshold) = u16::try_from(threshold) else {
        return 0; // no score is that large
    };
    let mut survivors = Survivors { rows, scores, count: 0 };
    let entries = tables.entries.as_chunks::<256>().0;
    for first in (0..run.rows).step_by(BLOCK_ROWS).filter(|&first| run.passing64(first / BLOCK_ROWS) != 0) {
        let width = (run.rows - first).next_multiple_of(GROUP_ROWS).min(BLOCK_ROWS);
        let block = &run.codes[first * tables.bytes..][..width * tables.bytes];
        for column in (0..width).step_by(32) {
            let [lower, upper] = sum_columns(&block[column..], width, entries);
            survivors.append(&run, first + column, lower, threshold);
            if first + column + GROUP_ROWS < run.rows {
                survivors.append(&run, first + column + GROUP_ROWS, upper, threshold);
            }
        }
    }
    survivors.count
}

/// The sums (u16, in row order) of the 2 x 16 rows whose codes start at the front of each `width` bytes of `columns`.
/// Where the block ends after 16 of them the second half means nothing.
#[inline]
#[target_feature(enable = "avx2")]
fn sum_columns(columns: &[u8], width: usize, entries: &[[u8; 256]]) -> [__m256i; 2] {
    let mut pairs = _mm256_setzero_si256();
    let mut odds = _mm256_setzero_si256();
    for (codes, table) in columns.chunks(width).zip(entries) {
        let code = match codes.first_chunk::<32>() {
            // SAFETY: the reference is to 32 bytes.
            Some(codes) => unsafe { _mm256_loadu_si256(codes.as_ptr().cast()) },
            None => _mm256_castsi128_si256(load_padded(codes)),
        };
        let entry = look_up(table, code);
        pairs = _mm256_add_epi16(pairs, entry);
        odds = _mm256_add_epi16(odds, _mm256_srli_epi16::<8>(entry));
    }
    let evens = _mm256_sub_epi16(pairs, _mm256_slli_epi16::<8>(odds));
    // Rows 0-7 and 16-23, rows 8-15 and 24-31.
    let (a, b) = (_mm256_unpacklo_epi16(evens, odds), _mm256_unpackhi_epi16(evens, odds));
    [_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b)]
}

/// `table[code]` of 32 codes.
#[inline]
#[target_feature(enable = "avx2")]
fn look_up(table: &[u8; 256], code: __m256i) -> __m256i {
    let top = _mm256_set1_epi8(i8::MIN);
    let low = _mm256_and_si256(code, _mm256_set1_epi8(0x0f));
    // Bits 4 to 7 of the code, each moved to the top of its byte.
    let bit4 = _mm256_and_si256(_mm256_slli_epi16::<3>(code), top);
    let (bit5, bit6, bit7) = (_mm256_slli_epi16::<2>(code), _mm256_slli_epi16::<1>(code), code);
    // Where bit 4 is clear the first index looks up and the second gives zero; where it is set, the other way round.
    let clear = _mm256_or_si256(low, bit4);
    let set = _mm256_xor_si256(clear, top);
    let mut quarters = [_mm256_setzero_si256(); 4];
    for (quarter, tables) in quarters.iter_mut().zip(table.as_chunks::<16>().0.as_chunks::<4>().0) {
        let [a, b, c, d] = tables;
        let ab = _mm256_or_si256(choose(a, clear), choose(b, set));
        let cd = _mm256_or_si256(choose(c, clear), choose(d, set));
        *quarter = _mm256_blendv_epi8(ab, cd, bit5);
    }
    let [a, b, c, d] = quarters;
    let (ab, cd) = (_mm256_blendv_epi8(a, b, bit6), _mm256_blendv_epi8(c, d, bit6));
    _mm256_blendv_epi8(ab, cd, bit7)
}

/// The entries of a table of 16 that the low nibbles choose; zero where the top bit is set.
#[inline]
#[target_feature(enable = "avx2")]
fn choose(table: &[u8; 16], index: __m256i) -> __m256i {
    // SAFETY: the reference is to 16 bytes.
    let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), index)
}
