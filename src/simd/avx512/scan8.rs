//! Scan of 8-bit codes.
//!
//! The easy version: for each byte of a row look one of 256 entries up and add it. Departures, and why:
//! - The 256 entries of a subspace stay in four registers. `vpermi2b` looks 64 codes up in two of them by their low 7
//!   bits, a second one in the other two, and the top bit of each code chooses: 64 look-ups without touching memory.
//! - Blocks of 64 rows are transposed, so a register is one byte of 64 rows, and sums are 16 bits wide (they fit by
//!   contract). Adding the bytes as they come, in pairs, gives `even + 256 * odd` modulo 2^16; adding the upper bytes
//!   alone gives `odd`; `even` follows at the end. Three operations instead of four for each 64 look-ups.
//! - Up to four blocks go together, so that the four table loads serve that many loads of codes. The last of them may be
//!   narrower: its loads are masked.
//! - As in the 4-bit scan each step asks for the next lines of the blocks that follow, but only into the second-level
//!   cache: four blocks of long codes fill the first.

use std::arch::x86_64::*;

use super::super::{BLOCK_ROWS, CodeBits, GROUP_ROWS, PackedRows, ScanTables, check_scan};
use super::{Survivors, first64};

/// Blocks beyond these do not change how many of them go together.
const MOST_WANTED: usize = 6;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
pub(super) fn scan(
    run: PackedRows<'_>,
    tables: ScanTables<'_>,
    threshold: u32,
    rows: &mut [u32],
    scores: &mut [u32],
) -> usize {
    check_scan(CodeBits::Eight, &run, &tables, rows, scores);
    if threshold > u32::from(u16::MAX) {
        return 0; // no score is that large
    }
    let threshold = threshold as u16;
    let mut survivors = Survivors { rows: rows.as_mut_ptr(), scores: scores.as_mut_ptr(), count: 0 };
    let blocks = run.rows.div_ceil(BLOCK_ROWS);
    let mut block = 0;
    while block < blocks {
        let wanted = wanted_blocks(&run, block, blocks);
        if wanted == 0 {
            block += 1;
            continue;
        }
        // SAFETY: `check_scan` has compared all lengths, and `block + N <= blocks`.
        unsafe {
            block += match wanted {
                1 => scan_blocks::<1>(&run, &tables, threshold, block, &mut survivors),
                2 => scan_blocks::<2>(&run, &tables, threshold, block, &mut survivors),
                3 | 5 => scan_blocks::<3>(&run, &tables, threshold, block, &mut survivors),
                _ => scan_blocks::<4>(&run, &tables, threshold, block, &mut survivors),
            };
        }
    }
    survivors.count
}

/// How many blocks from `block` on have a row that may survive, one after the other; at most as many as matter to the scan.
#[inline]
fn wanted_blocks(run: &PackedRows<'_>, block: usize, blocks: usize) -> usize {
    if run.passing.is_empty() {
        return blocks - block;
    }
    let most = (blocks - block).min(MOST_WANTED);
    run.passing[block..block + most].iter().position(|&word| word == 0).unwrap_or(most)
}

/// Scans blocks `block .. block + N` and returns N.
///
/// # Safety
/// The run, the tables and the room for survivors are as `check_scan` wants them, and those blocks exist.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
unsafe fn scan_blocks<const N: usize>(
    run: &PackedRows<'_>,
    tables: &ScanTables<'_>,
    threshold: u16,
    block: usize,
    survivors: &mut Survivors,
) -> usize {
    let block_bytes = BLOCK_ROWS * tables.bytes;
    let codes = run.codes.as_ptr().wrapping_add(block * block_bytes);
    // Only the last of these blocks may be narrower than 64 rows.
    let last_rows = run.rows - (block + N - 1) * BLOCK_ROWS;
    let last_width = last_rows.next_multiple_of(GROUP_ROWS).min(BLOCK_ROWS);
    let last_lanes = first64(last_width);
    // What comes next in this run; at its end what is being scanned, because to read beyond would be wasted.
    let more = (block + N) * BLOCK_ROWS < run.rows;
    let next = if more { codes.wrapping_add(N * block_bytes) } else { codes };
    let mut pairs = [_mm512_setzero_si512(); N];
    let mut odds = [_mm512_setzero_si512(); N];
    for byte in 0..tables.bytes {
        let mut quarter = [_mm512_setzero_si512(); 4];
        for (q, entries) in quarter.iter_mut().enumerate() {
            // SAFETY: the tables have 256 entries a byte.
            *entries = unsafe { _mm512_loadu_si512(tables.entries.as_ptr().add(byte * 256 + q * 64).cast()) };
        }
        for b in 0..N {
            let codes = codes.wrapping_add(b * block_bytes);
            // SAFETY: a block has its width of codes for each byte; lanes beyond are not read; a
            // prefetch may be of any address.
            let code = unsafe {
                _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add((byte * N + b) * 64).cast());
                match b + 1 == N {
                    false => _mm512_loadu_si512(codes.add(byte * BLOCK_ROWS).cast()),
                    true => _mm512_maskz_loadu_epi8(last_lanes, codes.add(byte * last_width).cast()),
                }
            };
            let below = _mm512_permutex2var_epi8(quarter[0], code, quarter[1]);
            let above = _mm512_permutex2var_epi8(quarter[2], code, quarter[3]);
            let entry = _mm512_mask_blend_epi8(_mm512_movepi8_mask(code), below, above);
            pairs[b] = _mm512_add_epi16(pairs[b], entry);
            odds[b] = _mm512_add_epi16(odds[b], _mm512_srli_epi16::<8>(entry));
        }
    }
    for b in 0..N {
        let first = (block + b) * BLOCK_ROWS;
        let even = _mm512_sub_epi16(pairs[b], _mm512_slli_epi16::<8>(odds[b]));
        // SAFETY: rows `first ..` exist, and at most `first` rows have survived so far.
        unsafe { finish_block(run, threshold, first, even, odds[b], survivors) };
    }
    N
}

/// Adds the row terms to the sums of the even and odd rows of the block that starts at row `first`, and keeps what
/// reaches the threshold.
///
/// # Safety
/// `first < run.rows`, at most `first` rows have survived so far, and there is room for rows + 16 survivors.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
unsafe fn finish_block(
    run: &PackedRows<'_>,
    threshold: u16,
    first: usize,
    mut even: __m512i,
    mut odd: __m512i,
    survivors: &mut Survivors,
) {
    let real = first64(run.rows - first) & run.passing64(first / BLOCK_ROWS);
    if !run.terms.is_empty() {
        // SAFETY: there is a term for each row; lanes that are no rows are not read.
        let terms = unsafe { _mm512_maskz_loadu_epi8(real, run.terms.as_ptr().add(first).cast()) };
        // The upper half of (term << 8) * weight is (term * weight) >> 8.
        let weight = _mm512_set1_epi16(run.term_weight.cast_signed());
        let odd_terms = _mm512_maskz_mov_epi8(0xaaaa_aaaa_aaaa_aaaa, terms);
        even = _mm512_add_epi16(even, _mm512_mulhi_epu16(_mm512_slli_epi16::<8>(terms), weight));
        odd = _mm512_add_epi16(odd, _mm512_mulhi_epu16(odd_terms, weight));
    }
    let limit = _mm512_set1_epi16(threshold.cast_signed());
    if _mm512_cmpge_epu16_mask(_mm512_max_epu16(even, odd), limit) != 0 {
        // SAFETY: as the caller promises.
        unsafe { keep_rows(even, odd, limit, real, first, survivors) };
    }
}

/// Appends the rows in `real` whose score reaches `limit`. Not inlined: most blocks hold no survivor, and the scan is
/// compiled for several numbers of blocks.
///
/// # Safety
/// As for [`finish_block`].
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
unsafe fn keep_rows(
    even: __m512i,
    odd: __m512i,
    limit: __m512i,
    real: __mmask64,
    first: usize,
    survivors: &mut Survivors,
) {
    // Interleave into row order: lane i of `even` is row 2i.
    let lower = _mm512_set_epi16(
        47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1,
        32, 0,
    );
    let upper = _mm512_add_epi16(lower, _mm512_set1_epi16(16));
    for (half, index) in [lower, upper].into_iter().enumerate() {
        let scores = _mm512_permutex2var_epi16(even, index, odd);
        let keep = _mm512_cmpge_epu16_mask(scores, limit) & (real >> (32 * half)) as u32;
        let first = first + 32 * half;
        let quarters = [_mm512_castsi512_si256(scores), _mm512_extracti64x4_epi64::<1>(scores)];
        for (quarter, scores) in quarters.into_iter().enumerate() {
            let keep = (keep >> (16 * quarter)) as u16;
            if keep != 0 {
                // SAFETY: a row of these 16 survives, so `first + 16 * quarter` is a row, and at most that many have
                // survived before it.
                unsafe { survivors.append(keep, first + 16 * quarter, _mm512_cvtepu16_epi32(scores)) };
            }
        }
    }
}
