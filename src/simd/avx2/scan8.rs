//! Scan of 8-bit codes.
//!
//! A look-up among 256 entries is a tree: 16 `vpshufb` by the low nibble give the 16 candidates of each code, and
//! 15 `vpblendvb` choose among them by the bits of the high nibble. That is 31 operations for 32 codes and no memory
//! access but the tables', which beats one scalar look-up a code (two loads and an addition each). The sums are those of
//! the AVX-512 scan: bytes added in pairs, and the upper bytes once more alone.

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
    for first in (0..run.rows).step_by(BLOCK_ROWS) {
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
    let low = _mm256_and_si256(code, _mm256_set1_epi8(0x0f));
    // `vpblendvb` chooses by the top bit of each byte: bits 4, 5, 6 and 7 of the code, moved there.
    let bits = [_mm256_slli_epi16::<3>(code), _mm256_slli_epi16::<2>(code), _mm256_slli_epi16::<1>(code), code];
    let mut quarters = [_mm256_setzero_si256(); 4];
    for (quarter, table) in quarters.iter_mut().zip(table.as_chunks::<64>().0) {
        let [a, b, c, d] = sixteenths(table, low);
        let (ab, cd) = (_mm256_blendv_epi8(a, b, bits[0]), _mm256_blendv_epi8(c, d, bits[0]));
        *quarter = _mm256_blendv_epi8(ab, cd, bits[1]);
    }
    let [a, b, c, d] = quarters;
    let (ab, cd) = (_mm256_blendv_epi8(a, b, bits[2]), _mm256_blendv_epi8(c, d, bits[2]));
    _mm256_blendv_epi8(ab, cd, bits[3])
}

/// The entries that the low nibbles choose in each of four tables of 16.
#[inline]
#[target_feature(enable = "avx2")]
fn sixteenths(table: &[u8; 64], low: __m256i) -> [__m256i; 4] {
    let mut entries = [_mm256_setzero_si256(); 4];
    for (entry, table) in entries.iter_mut().zip(table.as_chunks::<16>().0) {
        // SAFETY: the reference is to 16 bytes.
        let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
        *entry = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), low);
    }
    entries
}
