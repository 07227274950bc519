//! AVX2 with FMA and F16C: Haswell, Zen 1 and later. The layouts were drawn for AVX-512; this folder reads the same.
//!
//! As there, kernels are safe functions with `#[target_feature]`, and what keeps a pointer in bounds is asserted at the
//! top of the function that uses it.

mod codewords;
mod dense;
mod rows;
mod scan4;
mod scan8;

use std::arch::x86_64::*;

use super::{Kernels, PackedRows};

/// Whether this CPU, and the operating system, can run the kernels of this folder.
pub(super) fn runnable() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

/// A table entry: the call of a function of this folder.
macro_rules! entry {
    ($($path:ident)::+ ( $($argument:ident),* )) => {
        // SAFETY: `KERNELS` is private to `simd` and handed out only after `runnable` has said that this CPU has every
        // feature that the functions of this folder enable.
        |$($argument),*| unsafe { $($path)::+($($argument),*) }
    };
}

pub(super) static KERNELS: Kernels = Kernels {
    name: "avx2",
    scan4: entry!(scan4::scan(run, tables, threshold, rows, scores)),
    scan8: entry!(scan8::scan(run, tables, threshold, rows, scores)),
    dot_f32: entry!(dense::dot_f32(a, b)),
    dot_f16: entry!(dense::dot_f16(a, b)),
    dot_i8: entry!(dense::dot_i8(a, b)),
    l2_f32: entry!(dense::l2_f32(a, b)),
    l2_f16: entry!(dense::l2_f16(a, b)),
    l2_i8: entry!(dense::l2_i8(a, b, scale)),
    dot_rows_i8: entry!(rows::dot_rows_i8(query, rows, row_sums, out)),
    dot_rows_f32: entry!(rows::dot_rows_f32(query, rows, out)),
    table_f32: entry!(codewords::table_f32(query, codewords, out)),
    ranges: entry!(codewords::ranges(values, low, high)),
    nearest: entry!(codewords::nearest(x, codewords, half_norms)),
    quantize_u8: entry!(codewords::quantize_u8(x, min, inv_step, out)),
};

/// Where survivors go: the two output slices of a scan, and how many have been written.
struct Survivors<'a> {
    rows: &'a mut [u32],
    scores: &'a mut [u32],
    count: usize,
}

impl Survivors<'_> {
    /// Adds the row terms to the sums of rows `first .. first + 16` (u16, in row order) and appends what is a row, may pass and
    /// reaches the threshold.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn append(&mut self, run: &PackedRows<'_>, first: usize, mut sums: __m256i, threshold: u16) {
        let real = run.rows - first;
        if !run.terms.is_empty() {
            // The upper half of (term << 8) * weight is (term * weight) >> 8.
            let terms = _mm256_slli_epi16::<8>(_mm256_cvtepu8_epi16(load_padded(&run.terms[first..])));
            sums = _mm256_add_epi16(sums, _mm256_mulhi_epu16(terms, _mm256_set1_epi16(run.term_weight.cast_signed())));
        }
        let limit = _mm256_set1_epi16(threshold.cast_signed());
        let keep = _mm256_cmpeq_epi16(_mm256_max_epu16(sums, limit), sums);
        // Two equal mask bits a row.
        let mut keep = _mm256_movemask_epi8(keep).cast_unsigned();
        if real < 16 {
            keep &= (1 << (2 * real)) - 1;
        }
        if keep == 0 {
            return;
        }
        let passing = run.passing16(first);
        let mut each = [0u16; 16];
        // SAFETY: the destination has 32 bytes.
        unsafe { _mm256_storeu_si256(each.as_mut_ptr().cast(), sums) };
        while keep != 0 {
            let lane = keep.trailing_zeros() as usize / 2;
            if passing >> lane & 1 == 1 {
                self.rows[self.count] = (first + lane) as u32;
                self.scores[self.count] = u32::from(each[lane]);
                self.count += 1;
            }
            keep &= !(3 << (2 * lane));
        }
    }
}

/// The first 16 bytes of a slice, zeros where it is shorter.
#[inline]
#[target_feature(enable = "sse2")]
fn load_padded(bytes: &[u8]) -> __m128i {
    let mut padded = [0; 16];
    let source = match bytes.first_chunk::<16>() {
        Some(whole) => whole,
        None => {
            padded[..bytes.len()].copy_from_slice(bytes);
            &padded
        }
    };
    // SAFETY: the reference is to 16 bytes.
    unsafe { _mm_loadu_si128(source.as_ptr().cast()) }
}

/// Adds 16 lanes, in two registers, in the order that the kernels' definition fixes: within quads, then the quads.
#[inline]
#[target_feature(enable = "avx2")]
fn sum_sixteen(lower: __m256, upper: __m256) -> f32 {
    let quads = _mm256_add_ps(sum_quad(lower), sum_quad(upper));
    let sum = _mm_add_ss(_mm256_castps256_ps128(quads), _mm256_extractf128_ps::<1>(quads));
    _mm_cvtss_f32(sum)
}

/// `(0 + 2) + (1 + 3)` of each quad, in its first element.
#[inline]
#[target_feature(enable = "avx2")]
fn sum_quad(v: __m256) -> __m256 {
    let v = _mm256_add_ps(v, _mm256_permute_ps::<0b01_00_11_10>(v));
    _mm256_add_ps(v, _mm256_permute_ps::<0b10_11_00_01>(v))
}
