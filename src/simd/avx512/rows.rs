//! One query against every row of a matrix (centroids, mostly).
//!
//! The easy version is one inner product a row. Departures, and why:
//! - Several rows go together: a load of the query serves all of them, and as many chains of additions overlap. 8 of
//!   int8, but only 4 of f32: two sets of 8 long rows, this one and the next, would not fit the first-level cache.
//! - Their sums are reduced together: a transposing tree of shuffles turns 8 registers of partial sums into one register
//!   of 8 results, at three shuffles and additions a row instead of eight.
//! - Rows side by side are as many streams, which the processor's own prefetchers follow badly from memory. The bytes of
//!   the next rows are one run, though, and each step asks for the next few lines of it.
//! - int8: `vpdpbusd` wants one side unsigned. The query moves up by 128 (`q ^ 0x80` as u8), which adds `128 * sum(row)`
//!   to every product; the row sums take it out again.

use std::arch::x86_64::*;

use super::super::check_rows_i8;
use super::{first16, sum_sixteen};

/// Rows of int8 that share the loads of the query.
const ROWS_I8: usize = 8;

/// Rows of f32 that share the loads of the query.
const ROWS_F32: usize = 4;

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn dot_rows_i8(query: &[i8], rows: &[i8], row_sums: &[i32], out: &mut [i32]) {
    check_rows_i8(query, rows, row_sums, out);
    let columns = query.len();
    let mut first = 0;
    while first < out.len() {
        // SAFETY: `first + 8` (or `first + 1`) rows, row sums and results exist.
        unsafe {
            let matrix = rows.as_ptr().add(first * columns);
            if first + ROWS_I8 <= out.len() {
                let sums = _mm256_loadu_si256(row_sums.as_ptr().add(first).cast());
                let products = sum_each(&shifted_products::<ROWS_I8>(query, matrix));
                let scores = _mm256_sub_epi32(products, _mm256_slli_epi32::<7>(sums));
                _mm256_storeu_si256(out.as_mut_ptr().add(first).cast(), scores);
                first += ROWS_I8;
            } else {
                let [product] = shifted_products::<1>(query, matrix);
                out[first] = _mm512_reduce_add_epi32(product) - (row_sums[first] << 7);
                first += 1;
            }
        }
    }
}

/// 16 partial sums of `sum_j (query[j] + 128) * row[j]` of each of N rows.
///
/// # Safety
/// `matrix` points at N rows of `query.len()` columns, a multiple of 64.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn shifted_products<const N: usize>(query: &[i8], matrix: *const i8) -> [__m512i; N] {
    let columns = query.len();
    let next = matrix.wrapping_add(N * columns);
    let flip = _mm512_set1_epi8(i8::MIN);
    let mut sums = [_mm512_setzero_si512(); N];
    for j in (0..columns).step_by(64) {
        // SAFETY: `j + 64 <= columns`.
        let shifted = _mm512_xor_si512(unsafe { _mm512_loadu_si512(query.as_ptr().add(j).cast()) }, flip);
        for (r, sum) in sums.iter_mut().enumerate() {
            // SAFETY: row `r < N` has `columns` elements; a prefetch may be of any address.
            let row = unsafe {
                _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(j * N + r * 64));
                _mm512_loadu_si512(matrix.add(r * columns + j).cast())
            };
            *sum = _mm512_dpbusd_epi32(*sum, shifted, row);
        }
    }
    sums
}

/// Lane `r` of the result is the sum of the 16 lanes of `partial[r]`.
#[inline]
#[target_feature(enable = "avx512f")]
fn sum_each(partial: &[__m512i; ROWS_I8]) -> __m256i {
    let [a, b, c, d, e, f, g, h] = *partial;
    let (lower, upper) = (sum_four(a, b, c, d), sum_four(e, f, g, h));
    let sums = _mm512_add_epi32(_mm512_shuffle_i32x4::<0x44>(lower, upper), _mm512_shuffle_i32x4::<0xee>(lower, upper));
    let sums = _mm512_add_epi32(_mm512_shuffle_i32x4::<0x88>(sums, sums), _mm512_shuffle_i32x4::<0xdd>(sums, sums));
    _mm512_castsi512_si256(sums)
}

/// Lane `r` of each quad of the result is the sum of the same quad of row `r`.
#[inline]
#[target_feature(enable = "avx512f")]
fn sum_four(a: __m512i, b: __m512i, c: __m512i, d: __m512i) -> __m512i {
    let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd))
}

#[target_feature(enable = "avx512f")]
pub(super) fn dot_rows_f32(query: &[f32], rows: &[f32], out: &mut [f32]) {
    assert_eq!(rows.len(), query.len() * out.len(), "f32 matrix of {} rows", out.len());
    let columns = query.len();
    let mut first = 0;
    while first < out.len() {
        // SAFETY: `first + 4` (or `first + 1`) rows of `columns` elements and as many results exist.
        unsafe {
            let matrix = rows.as_ptr().add(first * columns);
            if first + ROWS_F32 <= out.len() {
                let scores = sum_each_f32(row_lanes::<ROWS_F32>(query, matrix));
                _mm_storeu_ps(out.as_mut_ptr().add(first), scores);
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
    let next = matrix.wrapping_add(N * columns);
    let mut lanes = [_mm512_setzero_ps(); N];
    for j in (0..whole).step_by(16) {
        // SAFETY: `j + 16 <= columns`, of the query and of each row; a prefetch may be of any address.
        unsafe {
            let x = _mm512_loadu_ps(query.as_ptr().add(j));
            for (r, lane) in lanes.iter_mut().enumerate() {
                _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(j * N + r * 16).cast());
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
#[target_feature(enable = "avx512f")]
fn sum_each_f32(lanes: [__m512; ROWS_F32]) -> __m128 {
    let [a, b, c, d] = lanes;
    let quads = sum_quads(a, b, c, d);
    // Quads 0 + 2 and 1 + 3, then their sum.
    let quads = _mm512_add_ps(quads, _mm512_shuffle_f32x4::<0x4e>(quads, quads));
    let quads = _mm512_add_ps(quads, _mm512_shuffle_f32x4::<0xb1>(quads, quads));
    _mm512_castps512_ps128(quads)
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
