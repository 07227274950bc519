//! Scan of 4-bit codes.
//!
//! `vpshufb` looks up in a table of 16 bytes a 128-bit lane, so a register must hold the same byte of many rows, while
//! the layout holds 4 bytes of a row side by side. Two groups (32 rows, four registers) are transposed inside the
//! registers: 3 shuffles a register, 12 for 128 code bytes. Sums are 16 bits wide (they fit by contract): as in the
//! 8-bit AVX-512 scan, bytes are added in pairs as they come and the upper bytes once more alone.

use std::arch::x86_64::*;

use super::super::{CodeBits, GROUP_ROWS, PackedRows, ScanTables, check_scan};
use super::Survivors;

#[target_feature(enable = "avx2")]
pub(super) fn scan(
    run: PackedRows<'_>,
    tables: ScanTables<'_>,
    threshold: u32,
    rows: &mut [u32],
    scores: &mut [u32],
) -> usize {
    check_scan(CodeBits::Four, &run, &tables, rows, scores);
    let Ok(threshold) = u16::try_from(threshold) else {
        return 0; // no score is that large
    };
    let mut survivors = Survivors { rows, scores, count: 0 };
    let group_bytes = GROUP_ROWS * tables.bytes;
    for first in (0..run.rows).step_by(2 * GROUP_ROWS) {
        if (run.passing64(first / 64) >> (first % 64)) as u32 == 0 {
            continue;
        }
        let pair = &run.codes[first * tables.bytes..];
        let one = &pair[..group_bytes];
        // A last group without a neighbour is scanned twice; its second sums are not looked at.
        let other = if first + GROUP_ROWS < run.rows { &pair[group_bytes..2 * group_bytes] } else { one };
        let [lower, upper] = sum_two_groups(one, other, tables.entries);
        survivors.append(&run, first, lower, threshold);
        if first + GROUP_ROWS < run.rows {
            survivors.append(&run, first + GROUP_ROWS, upper, threshold);
        }
    }
    survivors.count
}

/// The sums (u16, in row order) of the 16 rows of each of two groups.
#[inline]
#[target_feature(enable = "avx2")]
fn sum_two_groups(one: &[u8], other: &[u8], entries: &[u8]) -> [__m256i; 2] {
    let nibble = _mm256_set1_epi8(0x0f);
    let mut pairs = _mm256_setzero_si256();
    let mut odds = _mm256_setzero_si256();
    let chunks = one.as_chunks::<64>().0.iter().zip(other.as_chunks::<64>().0);
    for ((one, other), table) in chunks.zip(entries.as_chunks::<128>().0) {
        let codes = transpose(one, other);
        let (low_tables, high_tables) = table.split_at(64);
        let tables = low_tables.as_chunks::<16>().0.iter().zip(high_tables.as_chunks::<16>().0);
        for (code, (low_table, high_table)) in codes.into_iter().zip(tables) {
            let low = _mm256_shuffle_epi8(broadcast(low_table), _mm256_and_si256(code, nibble));
            let high = _mm256_and_si256(_mm256_srli_epi16::<4>(code), nibble);
            let high = _mm256_shuffle_epi8(broadcast(high_table), high);
            pairs = _mm256_add_epi16(pairs, _mm256_add_epi16(low, high));
            odds = _mm256_add_epi16(odds, _mm256_srli_epi16::<8>(low));
            odds = _mm256_add_epi16(odds, _mm256_srli_epi16::<8>(high));
        }
    }
    let evens = _mm256_sub_epi16(pairs, _mm256_slli_epi16::<8>(odds));
    // Sums of rows 0-3, 8-11 | 4-7, 12-15 of the first group, then the same of the second; 8 bytes each.
    let first = _mm256_unpacklo_epi16(evens, odds);
    let second = _mm256_unpackhi_epi16(evens, odds);
    [_mm256_permute4x64_epi64::<0b11_01_10_00>(first), _mm256_permute4x64_epi64::<0b11_01_10_00>(second)]
}

/// Turns 2 x (16 rows x 4 bytes) into 4 registers of one byte of 32 rows. The rows lie in the order 0-3, 8-11 of the
/// first and of the second group, then 4-7, 12-15 of both.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(one: &[u8; 64], other: &[u8; 64]) -> [__m256i; 4] {
    let by_byte = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    // Bytes 0, 1, 2, 3 of 4 rows, then of the next 4; 4 bytes each.
    let [a, b] = load_pair(one);
    let [c, d] = load_pair(other);
    let (a, b) = (_mm256_shuffle_epi8(a, by_byte), _mm256_shuffle_epi8(b, by_byte));
    let (c, d) = (_mm256_shuffle_epi8(c, by_byte), _mm256_shuffle_epi8(d, by_byte));
    let (ab_low, cd_low) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
    let (ab_high, cd_high) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
    [
        _mm256_unpacklo_epi64(ab_low, cd_low),
        _mm256_unpackhi_epi64(ab_low, cd_low),
        _mm256_unpacklo_epi64(ab_high, cd_high),
        _mm256_unpackhi_epi64(ab_high, cd_high),
    ]
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_pair(bytes: &[u8; 64]) -> [__m256i; 2] {
    // SAFETY: the reference is to 64 bytes.
    unsafe { [_mm256_loadu_si256(bytes.as_ptr().cast()), _mm256_loadu_si256(bytes.as_ptr().add(32).cast())] }
}

#[inline]
#[target_feature(enable = "avx2")]
fn broadcast(table: &[u8; 16]) -> __m256i {
    // SAFETY: the reference is to 16 bytes.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(table.as_ptr().cast()) })
}
