//! One query against every row of a matrix: four rows go together, share the loads of the query and are reduced by one
//! transposing tree of shuffles. As with AVX-512 each step asks for the next lines of the run that the next four rows are.
//!
//! int8: `vpmaddubsw` wants one side unsigned and saturates at 16 bits. `|row| * (query with the sign of row)` is the
//! same product, and because the query is at least -127 two of them stay below 2^15: exact.

use std::arch::x86_64::*;

use super::super::check_rows_i8;
use super::sum_sixteen;

/// Rows that share the loads of the query.
const ROWS: usize = 4;

#[target_feature(enable = "avx2")]
pub(super) fn dot_rows_i8(query: &[i8], rows: &[i8], row_sums: &[i32], out: &mut [i32]) {
    check_rows_i8(query, rows, row_sums, out);
    let columns = query.len();
    let mut first = 0;
    while first < out.len() {
        // SAFETY: `first + 4` (or `first + 1`) rows of `columns` elements exist, and as many results.
        unsafe {
            let matrix = rows.as_ptr().add(first * columns);
            if first + ROWS <= out.len() {
                let products = partial_products::<ROWS>(query, matrix);
                _mm_storeu_si128(out.as_mut_ptr().add(first).cast(), sum_each(products));
                first += ROWS;
            } else {
                let [product] = partial_products::<1>(query, matrix);
                let zero = _mm256_setzero_si256();
                out[first] = _mm_cvtsi128_si32(sum_each([product, zero, zero, zero]));
                first += 1;
            }
        }
    }
}

/// Eight partial sums of the inner product of each of N rows.
///
/// # Safety
/// `matrix` points at N rows of `query.len()` columns, a multiple of 64.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn partial_products<const N: usize>(query: &[i8], matrix: *const i8) -> [__m256i; N] {
    let columns = query.len();
    let next = matrix.wrapping_add(N * columns);
    let ones = _mm256_set1_epi16(1);
    let mut sums = [_mm256_setzero_si256(); N];
    for j in (0..columns).step_by(32) {
        // SAFETY: `j + 32 <= columns`.
        let x = unsafe { _mm256_loadu_si256(query.as_ptr().add(j).cast()) };
        for (r, sum) in sums.iter_mut().enumerate() {
            // SAFETY: row `r < N` has `columns` elements; a prefetch may be of any address.
            let row = unsafe {
                _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(j * N + r * 32));
                _mm256_loadu_si256(matrix.add(r * columns + j).cast())
            };
            let products = _mm256_maddubs_epi16(_mm256_abs_epi8(row), _mm256_sign_epi8(x, row));
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(products, ones));
        }
    }
    sums
}

/// Lane `r` of the result is the sum of the eight lanes of `partial[r]`.
#[inline]
#[target_feature(enable = "avx2")]
fn sum_each(partial: [__m256i; ROWS]) -> __m128i {
    let [a, b, c, d] = partial;
    let ab = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    let cd = _mm256_add_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
    let sums = _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
    _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums))
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn dot_rows_f32(query: &[f32], rows: &[f32], out: &mut [f32]) {
    assert_eq!(rows.len(), query.len() * out.len(), "f32 matrix of {} rows", out.len());
    let columns = query.len();
    let mut first = 0;
    while first < out.len() {
        // SAFETY: `first + 4` (or `first + 1`) rows of `columns` elements and as many results exist.
        unsafe {
            let matrix = rows.as_ptr().add(first * columns);
            if first + ROWS <= out.len() {
                let [lower, upper] = row_lanes::<ROWS>(query, matrix);
                let quads = _mm256_add_ps(sum_quads(lower), sum_quads(upper));
                let scores = _mm_add_ps(_mm256_castps256_ps128(quads), _mm256_extractf128_ps::<1>(quads));
                _mm_storeu_ps(out.as_mut_ptr().add(first), scores);
                first += ROWS;
            } else {
                let [[lower], [upper]] = row_lanes::<1>(query, matrix);
                out[first] = sum_sixteen(lower, upper);
                first += 1;
            }
        }
    }
}

/// The 16 lanes of the row sums of N rows: lanes 0..8 of each, lanes 8..16 of each.
///
/// # Safety
/// `matrix` points at N rows of `query.len()` columns.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn row_lanes<const N: usize>(query: &[f32], matrix: *const f32) -> [[__m256; N]; 2] {
    let columns = query.len();
    let whole = columns / 8 * 8;
    let next = matrix.wrapping_add(N * columns);
    let mut lanes = [[_mm256_setzero_ps(); N]; 2];
    for j in (0..whole / 16 * 16).step_by(16) {
        for (half, lanes) in lanes.iter_mut().enumerate() {
            let j = j + 8 * half;
            // SAFETY: `j + 8 <= whole`.
            let x = unsafe { _mm256_loadu_ps(query.as_ptr().add(j)) };
            for (r, lane) in lanes.iter_mut().enumerate() {
                // SAFETY: row `r < N` has `columns` elements; a prefetch may be of any address.
                let row = unsafe {
                    _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(j * N + r * 8).cast());
                    _mm256_loadu_ps(matrix.add(r * columns + j))
                };
                *lane = _mm256_fmadd_ps(x, row, *lane);
            }
        }
    }
    if whole % 16 == 8 {
        // SAFETY: `whole - 8 + 8 <= columns`, of the query and of each row.
        unsafe {
            let x = _mm256_loadu_ps(query.as_ptr().add(whole - 8));
            for (r, lane) in lanes[0].iter_mut().enumerate() {
                *lane = _mm256_fmadd_ps(x, _mm256_loadu_ps(matrix.add(r * columns + whole - 8)), *lane);
            }
        }
    }
    if whole < columns {
        let mask = first_lanes(columns - whole);
        // SAFETY: the elements in the mask are those before `columns`; no other is read.
        unsafe {
            let x = _mm256_maskload_ps(query.as_ptr().add(whole), mask);
            for (r, lane) in lanes[whole / 8 % 2].iter_mut().enumerate() {
                *lane = _mm256_fmadd_ps(x, _mm256_maskload_ps(matrix.add(r * columns + whole), mask), *lane);
            }
        }
    }
    lanes
}

/// A mask of the first `count` of eight 32-bit lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn first_lanes(count: usize) -> __m256i {
    _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
}

/// Element `r` of each quad of the result is `(0 + 2) + (1 + 3)` of the same quad of row `r`.
#[inline]
#[target_feature(enable = "avx2")]
fn sum_quads(rows: [__m256; ROWS]) -> __m256 {
    let [a, b, c, d] = rows;
    let ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    let cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
    let (ab, cd) = (_mm256_castps_pd(ab), _mm256_castps_pd(cd));
    _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(ab, cd)), _mm256_castpd_ps(_mm256_unpackhi_pd(ab, cd)))
}
