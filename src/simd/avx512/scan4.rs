//! Scan of 4-bit codes.
//!
//! The easy version: for each byte of a row look two entries up and add them. Departures, and why:
//! - A 64-byte register of codes holds 16 rows x 4 bytes, and a 64-byte table the entries of the 4 even (or odd)
//!   subspaces that those bytes encode. One `vpternlogd` makes all 64 indices `byte position << 4 | nibble`, one
//!   `vpermb` looks them up, and `vpdpbusd` with ones adds the 4 bytes of each row into its 32-bit lane: nothing can
//!   overflow, and a row's sum is where its compare, compress and store want it.
//! - [`GROUPS`] groups go together, so that the two table loads serve that many loads of codes and the chains of
//!   dependent additions overlap.
//! - Groups side by side are as many streams, which the processor's own prefetchers follow badly from memory. The bytes
//!   of the next groups are one run, though, and each step asks for the next lines of it.
//! - Per 64 bytes of codes that is 7 operations (shift, 2 ternary, 2 permute, 2 dot), which at 2 a cycle (Zen 4) bound
//!   it to 3.5 cycles.

use std::arch::x86_64::*;

use super::super::{CodeBits, GROUP_ROWS, PackedRows, ScanTables, check_scan};
use super::{Survivors, first16, first64};

/// Groups of rows that share the loads of the tables.
const GROUPS: usize = 4;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
pub(super) fn scan(
    run: PackedRows<'_>,
    tables: ScanTables<'_>,
    threshold: u32,
    rows: &mut [u32],
    scores: &mut [u32],
) -> usize {
    check_scan(CodeBits::Four, &run, &tables, rows, scores);
    let mut survivors = Survivors { rows: rows.as_mut_ptr(), scores: scores.as_mut_ptr(), count: 0 };
    let groups = run.rows.div_ceil(GROUP_ROWS);
    let mut group = 0;
    // SAFETY: `check_scan` has compared all lengths; groups `group .. group + N` lie below `groups`.
    unsafe {
        while group + GROUPS <= groups {
            scan_groups::<GROUPS>(&run, &tables, threshold, group, &mut survivors);
            group += GROUPS;
        }
        while group < groups {
            scan_groups::<1>(&run, &tables, threshold, group, &mut survivors);
            group += 1;
        }
    }
    survivors.count
}

/// Scans groups `group .. group + N`.
///
/// # Safety
/// The run, the tables and the room for survivors are as `check_scan` wants them, and those groups exist.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
unsafe fn scan_groups<const N: usize>(
    run: &PackedRows<'_>,
    tables: &ScanTables<'_>,
    threshold: u32,
    group: usize,
    survivors: &mut Survivors,
) {
    // The groups of one call lie within one word, because four groups are 64 rows.
    let rows = (run.passing64(group / GROUPS) >> (group % GROUPS * GROUP_ROWS)) & first64(N * GROUP_ROWS);
    if rows == 0 {
        return;
    }
    let nibble = _mm512_set1_epi8(0x0f);
    let position = _mm512_set1_epi32(0x30_20_10_00);
    let ones = _mm512_set1_epi8(1);
    let group_bytes = GROUP_ROWS * tables.bytes;
    let codes = run.codes.as_ptr().wrapping_add(group * group_bytes);
    // What comes next in this run; at its end what is being scanned, because to read beyond would be wasted.
    let more = (group + N) * GROUP_ROWS < run.rows;
    let next = if more { codes.wrapping_add(N * group_bytes) } else { codes };
    let mut sums = [_mm512_setzero_si512(); N];
    for chunk in 0..tables.bytes / 4 {
        let table = tables.entries.as_ptr().wrapping_add(chunk * 128);
        // SAFETY: the tables have 128 bytes a chunk.
        let (even, odd) = unsafe { (_mm512_loadu_si512(table.cast()), _mm512_loadu_si512(table.add(64).cast())) };
        for (g, sum) in sums.iter_mut().enumerate() {
            // SAFETY: each of the N groups has 64 bytes a chunk; a prefetch may be of any address.
            let code = unsafe {
                _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add((chunk * N + g) * 64).cast());
                _mm512_loadu_si512(codes.add(g * group_bytes + chunk * 64).cast())
            };
            // (code & nibble) | position
            let low = _mm512_ternarylogic_epi32::<0xea>(code, nibble, position);
            let high = _mm512_ternarylogic_epi32::<0xea>(_mm512_srli_epi16::<4>(code), nibble, position);
            *sum = _mm512_dpbusd_epi32(*sum, _mm512_permutexvar_epi8(low, even), ones);
            *sum = _mm512_dpbusd_epi32(*sum, _mm512_permutexvar_epi8(high, odd), ones);
        }
    }
    let threshold = _mm512_set1_epi32(threshold.cast_signed());
    for (g, &sum) in sums.iter().enumerate() {
        let first = (group + g) * GROUP_ROWS;
        let real = first16(run.rows - first) & run.passing16(first);
        let score = if run.terms.is_empty() {
            sum
        } else {
            // SAFETY: there is a term for each row; lanes that are no rows are not read.
            let terms = unsafe { _mm_maskz_loadu_epi8(real, run.terms.as_ptr().add(first).cast()) };
            let product = _mm512_mullo_epi32(_mm512_cvtepu8_epi32(terms), _mm512_set1_epi32(run.term_weight.into()));
            _mm512_add_epi32(sum, _mm512_srli_epi32::<8>(product))
        };
        let keep = _mm512_mask_cmpge_epu32_mask(real, score, threshold);
        if keep != 0 {
            // SAFETY: `first < rows`, and at most `first` rows have survived so far.
            unsafe { survivors.append(keep, first, score) };
        }
    }
}
