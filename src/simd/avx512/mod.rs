//! AVX-512 with VBMI and VNNI: Ice Lake, Zen 4 and later.
//!
//! Every kernel is a safe function with `#[target_feature]`; pointers are used only where a checked slice would cost a
//! branch in an inner loop, and what keeps them in bounds is asserted at the top of the same function.

mod between;
mod codewords;
mod dense;
mod rows;
mod scan4;
mod scan8;

use std::arch::x86_64::*;

use super::Kernels;

/// Whether this CPU, and the operating system, can run the kernels of this folder.
pub(super) fn runnable() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
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
    name: "avx512",
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
    between_u8: entry!(between::between_u8(ordinals, low, high, words)),
    between_u16: entry!(between::between_u16(ordinals, low, high, words)),
    between_u32: entry!(between::between_u32(ordinals, low, high, words)),
    between_u64: entry!(between::between_u64(ordinals, low, high, words)),
};

/// A mask of the first `count` (at most 16) lanes.
fn first16(count: usize) -> __mmask16 {
    ((1u32 << count.min(16)) - 1) as u16
}

/// A mask of the first `count` (at most 64) lanes.
fn first64(count: usize) -> __mmask64 {
    if count >= 64 { !0 } else { (1 << count) - 1 }
}

/// Where survivors go: the two output slices of a scan as pointers, and how many have been written.
struct Survivors {
    rows: *mut u32,
    scores: *mut u32,
    count: usize,
}

impl Survivors {
    /// Appends the lanes of `scores` in `keep`; lane 0 is row `first`. The compression happens in a register and a whole
    /// register is stored, because the form of the instruction that stores just the survivors is microcoded on Zen 4.
    ///
    /// # Safety
    /// `count + 16` elements of both slices exist. A scan guarantees it: before the 16 rows from `first` on at most
    /// `first` have survived, `first < rows`, and the slices have room for rows + 16.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn append(&mut self, keep: __mmask16, first: usize, scores: __m512i) {
        let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let rows = _mm512_add_epi32(lanes, _mm512_set1_epi32(first as i32));
        // SAFETY: as the caller promises.
        unsafe {
            _mm512_storeu_si512(self.rows.add(self.count).cast(), _mm512_maskz_compress_epi32(keep, rows));
            _mm512_storeu_si512(self.scores.add(self.count).cast(), _mm512_maskz_compress_epi32(keep, scores));
        }
        self.count += keep.count_ones() as usize;
    }
}

/// Adds the 16 lanes of a long sum in the order that the kernels' definition fixes: within quads, then the quads.
#[inline]
#[target_feature(enable = "avx512f")]
fn sum_sixteen(v: __m512) -> f32 {
    let v = _mm512_add_ps(v, _mm512_permute_ps::<0b01_00_11_10>(v));
    let v = _mm512_add_ps(v, _mm512_permute_ps::<0b10_11_00_01>(v));
    let v = _mm512_add_ps(v, _mm512_shuffle_f32x4::<0b01_00_11_10>(v, v));
    let v = _mm512_add_ps(v, _mm512_shuffle_f32x4::<0b10_11_00_01>(v, v));
    _mm512_cvtss_f32(v)
}
