//! One query against every row of a matrix (centroids, mostly).
//!
//! The easy version is one inner product a row. Departures, and why:
//! - 16 rows (int8) or 8 rows (f32) go together: a load of the query serves all of them, and as many chains of additions
//!   overlap.
//! - Their sums are reduced together: a transposing tree of shuffles turns 16 registers of partial sums into one
//!   register of 16 results, at under three shuffles and additions a row instead of eight.
//! - int8: `vpdpbusd` wants one side unsigned. The query moves up by 128 (`q ^ 0x80` as u8), which adds `128 * sum(row)`
//!   to every product; the row sums take it out again.

use std::arch::x86_64::*;

use super::super::check_rows_i8;
use super::{first16, sum_sixteen};

/// Rows of int8 that share the loads of the query.
const ROWS_I8: usize = 16;

/// Rows of f32 that share the loads of the query.
const ROWS_F32: usize = 8;

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn dot_rows_i8(query: &[i8], rows: &[i8], row_sums: &[i32], out: &mut [i32]) {
    check_rows_i8(query, rows, row_sums, out);
    let columns = query.len();
    let mut first = 0;
    while first < out.len() {
        let count = (out.len() - first).min(ROWS_I8);
        let mask = first16(count);
        // SAFETY: `first + count` rows, row sums and results exist; the masks cut the last of them off.
        unsafe {
            let matrix = rows.as_ptr().add(first * columns);
            let products = if count == ROWS_I8 {
                shifted_products::<ROWS_I8>(query, matrix)
            } else {
                let mut each = [0; ROWS_I8];
                for (r, product) in each[..count].iter_mut().enumerate() {
                    *product = _mm512_cvtsi512_si32(shifted_products::<1>(query, matrix.add(r * columns)));
                }
                _mm512_loadu_si512(each.as_ptr().cast())
            };
            let sums = _mm512_maskz_loadu_epi32(mask, row_sums.as_ptr().add(first));
            let scores = _mm512_sub_epi32(products, _mm512_slli_epi32::<7>(sums));
            _mm512_mask_storeu_epi32(out.as_mut_ptr().add(first), mask, scores);
        }
        first += count;
    }
}

/// `sum_j (query[j] + 128) * row[j]` of N rows, in lanes `0..N`.
///
/// # Safety
/// `matrix` points at N rows of `query.len()` columns, a multiple of 64.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn shifted_products<const N: usize>(query: &[i8], matrix: *const i8) -> __m512i {
    let columns = query.len();
    let flip = _mm512_set1_epi8(i8::MIN);
    let mut partial = [_mm512_setzero_si512(); ROWS_I8];
    for j in (0..columns).step_by(64) {
        // SAFETY: `j + 64 <= columns`.
        let shifted = _mm512_xor_si512(unsafe { _mm512_loadu_si512(query.as_ptr().add(j).cast()) }, flip);
        for (r, sum) in partial[..N].iter_mut().enumerate() {
            // SAFETY: row `r < N` has `columns` elements.
            let row = unsafe { _mm512_loadu_si512(matrix.add(r * columns + j).cast()) };
            *sum = _mm512_dpbusd_epi32(*sum, shifted, row);
        }
    }
    sum_each(&partial)
}

/// Lane `r` of the result is the sum of the 16 lanes of `partial[r]`.
#[inline]
#[target_feature(enable = "avx512f")]
fn sum_each(partial: &[__m512i; 16]) -> __m512i {
    let mut fours = [_mm512_setzero_si512(); 4];
    for (sum, quad) in fours.iter_mut().zip(partial.as_chunks::<4>().0) {
        let [a, b, c, d] = *quad;
        let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        *sum = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    }
    // Each register now holds, in each of its four 128-bit lanes, a partial sum of the same four rows.
    let [a, b, c, d] = fours;
    let x = _mm512_add_epi32(_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0xee>(a, b));
    let y = _mm512_add_epi32(_mm512_shuffle_i32x4::<0x44>(c, d), _mm512_shuffle_i32x4::<0xee>(c, d));
    _mm512_add_epi32(_mm512_shuffle_i32x4::<0x88>(x, y), _mm512_shuffle_i32x4::<0xdd>(x, y))
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq")]
pub(super) fn dot_rows_f32(query: &[f32], rows: &[f32], out: &mut [f32]) {
    assert_eq!(rows.len(), query.len() * out.len(), "f32 matrix of {} rows", out.len());
    let columns = query.len();
    let mut first = 0;
    while first < out.len() {
        // SAFETY: `first + 8` (or `first + 1`) rows of `columns` elements and as many results exist.
        unsafe {
            let matrix = rows.as_ptr().add(first * columns);
            if first + ROWS_F32 <= out.len() {
                let scores = sum_each_f32(&row_lanes::<ROWS_F32>(query, matrix));
                _mm256_storeu_ps(out.as_mut_ptr().add(first), scores);
                first += ROWS_F32;
            } else {
                let [lanes] = row_lanes::<1>(query, matrix);
                out[first] = sum_sixteen(lanes);
                first += 1;
            }
        }
    }
}

/// The 16 lanes of the row sums of N rows.
///
/// # Safety
/// `matrix` points at N rows of `query.len()` columns.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn row_lanes<const N: usize>(query: &[f32], matrix: *const f32) -> [__m512; N] {
    let columns = query.len();
    let whole = columns / 16 * 16;
    let mut lanes = [_mm512_setzero_ps(); N];
    for j in (0..whole).step_by(16) {
        // SAFETY: `j + 16 <= columns`, of the query and of each row.
        unsafe {
            let x = _mm512_loadu_ps(query.as_ptr().add(j));
            for (r, lane) in lanes.iter_mut().enumerate() {
                *lane = _mm512_fmadd_ps(x, _mm512_loadu_ps(matrix.add(r * columns + j)), *lane);
            }
        }
    }
    if whole < columns {
        let mask = first16(columns - whole);
        // SAFETY: the elements in the mask are those before `columns`.
        unsafe {
            let x = _mm512_maskz_loadu_ps(mask, query.as_ptr().add(whole));
            for (r, lane) in lanes.iter_mut().enumerate() {
                *lane = _mm512_fmadd_ps(x, _mm512_maskz_loadu_ps(mask, matrix.add(r * columns + whole)), *lane);
            }
        }
    }
    lanes
}

/// Lane `r` of the result is [`sum_sixteen`] of `lanes[r]`, to the bit.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn sum_each_f32(lanes: &[__m512; 8]) -> __m256 {
    let lower = sum_quads(lanes[0], lanes[1], lanes[2], lanes[3]);
    let upper = sum_quads(lanes[4], lanes[5], lanes[6], lanes[7]);
    // Quads 0 + 2 and 1 + 3 of the lower four rows, then of the upper four; then their sums.
    let quads = _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(lower, upper), _mm512_shuffle_f32x4::<0xee>(lower, upper));
    let quads = _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(quads, quads), _mm512_shuffle_f32x4::<0xdd>(quads, quads));
    _mm512_castps512_ps256(quads)
}

/// Element `r` of each quad of the result is `(0 + 2) + (1 + 3)` of the same quad of row `r`.
#[inline]
#[target_feature(enable = "avx512f")]
fn sum_quads(a: __m512, b: __m512, c: __m512, d: __m512) -> __m512 {
    let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)), _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)))
}
