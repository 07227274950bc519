//! The kernels: every inner loop that is worth an instruction set of its own.
//!
//! # One table, one oracle
//! [`Kernels`] is a table of functions. There is one constant table per instruction set; [`Kernels::detect`] hands out
//! the best one that this CPU can run, [`Kernels::all`] every one it can run (tests and benches loop over those). The
//! scalar table is the oracle: integer kernels agree with it to the bit, float kernels within a stated bound. A kernel
//! does a block of work, so one indirect call costs nothing. There is no NEON table yet: on other processors the scalar
//! one runs.
//!
//! # Answers do not depend on the instruction set
//! The float kernels agree to the bit too, because the order of every sum is part of their definition and every
//! multiply-add is fused (rounded once):
//! - a *long sum* (`dot_*`, `l2_*`) has 64 lanes; element `i` is added to lane `i % 64`; the lanes `l, l+16, l+32, l+48`
//!   are added as `(l + l+16) + (l+32 + l+48)`, and the 16 that remain as below;
//! - a *row sum* (`dot_rows_f32`) has 16 lanes; element `i` is added to lane `i % 16`; each quad of neighbours is added
//!   as `(0 + 2) + (1 + 3)`, then the four quads in the same way;
//! - `table_f32` and `nearest` add a codeword's dimensions one after the other: their lanes are codewords.
//!
//! The error of a sum of `n` products is at most `(n/64 + 8) * 2^-24 * sum_i |a_i b_i|` for a long sum and
//! `(n/16 + 6) * 2^-24 * sum_i |a_i b_i|` for a row sum (each product meets at most that many roundings; first order).
//! The price is that scalar code must call `fma` where the processor has none.
//!
//! # Packed layouts
//! Codes of a list are packed so that a vector register holds the same code position of many rows.
//!
//! ## 4-bit codes: groups of 16 rows
//! A row has `bytes` code bytes (a multiple of 4), two subspaces a byte: byte `b` holds subspace `2b` in its low and
//! `2b+1` in its high nibble. A *chunk* is 4 consecutive code bytes (8 subspaces). Group `g` of 16 rows stores its
//! chunks one after the other, each as 16 rows x 4 bytes:
//! ```text
//! offset of (row r, byte b)  =  (g * bytes/4 + b/4) * 64  +  (r % 16) * 4  +  b % 4        g = r / 16
//! ```
//! The last group is padded to 16 rows with zero codes. A 64-byte register therefore holds 16 rows x 4 bytes, its low
//! nibbles index the tables of 4 even subspaces and its high nibbles those of 4 odd ones: a 6-bit index
//! (`byte position << 4 | nibble`) into a 64-byte table (`vpermb`), and `vpdpbusd` adds the 4 bytes of a row into its
//! 32-bit lane.
//!
//! Score tables for 4-bit codes ([`ScanTables::entries`]): per chunk `c` 128 bytes; the even (low-nibble) tables, then
//! the odd ones:
//! ```text
//! even[b * 16 + k] = T[8c + 2b][k]        odd[b * 16 + k] = T[8c + 2b + 1][k]       b in 0..4, k in 0..16
//! ```
//!
//! ## 8-bit codes: blocks of 64 rows
//! Block `B` holds rows `64B .. 64B+63`; every block but the last has width `w = 64`, the last has `w` = its rows rounded
//! up to 16 (padded with zero codes). One subspace a byte:
//! ```text
//! offset of (row r, byte b)  =  B * 64 * bytes  +  b * w  +  r % 64
//! ```
//! Score tables: `T[m][k]` at `m * 256 + k`.
//!
//! # Integer scores
//! A row's scan score is `sum_m T[m][code_m]`, plus `(term * term_weight) >> 8` where the list has row terms (one byte
//! a row: the part of an L2 score that no table can hold). The makers of tables guarantee that it fits 16 bits.

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod avx2;
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod avx512;
mod pack;
#[allow(unsafe_code)]
mod prefetch;
mod scalar;
#[cfg(test)]
mod tests;

use std::sync::OnceLock;

use half::f16;

use crate::error::{Error, Result};

pub use pack::{BLOCK_ROWS, GROUP_ROWS, SCAN_UNIT, pack, packed_len, unpack_row};
pub use prefetch::{prefetch, prefetch_second_level};

/// Environment variable that names the instruction set to use instead of the best one.
pub const OVERRIDE: &str = "BIGRAIN_SIMD";

/// Bits of one code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CodeBits {
    /// 16 codewords a subspace, two subspaces a byte.
    Four,
    /// 256 codewords a subspace, one subspace a byte.
    Eight,
}

impl CodeBits {
    /// The bits that a number names.
    ///
    /// # Errors
    /// [`Error::InvalidParams`] for other numbers than 4 and 8.
    pub fn from_count(count: u8) -> Result<CodeBits> {
        match count {
            4 => Ok(CodeBits::Four),
            8 => Ok(CodeBits::Eight),
            other => Err(Error::params("code_bits", format!("{other} is neither 4 nor 8"))),
        }
    }
}

/// Score tables of one query in the layout that the scan of [`CodeBits`] reads (see the module).
#[derive(Clone, Copy, Debug)]
pub struct ScanTables<'a> {
    /// The u8 table entries; `bytes * 32` of them for 4-bit codes, `bytes * 256` for 8-bit codes.
    pub entries: &'a [u8],
    /// Code bytes a row.
    pub bytes: usize,
}

/// A run of packed rows of one list, starting at a group (4-bit) or block (8-bit) boundary.
#[derive(Clone, Copy, Debug)]
pub struct PackedRows<'a> {
    /// Packed codes of exactly these rows; its length is [`packed_len`].
    pub codes: &'a [u8],
    /// Real rows (padding rows never survive).
    pub rows: usize,
    /// One byte a row, or empty.
    pub terms: &'a [u8],
    /// Weight of the row terms, in 1/256 of an integer score step.
    pub term_weight: u16,
    /// Which rows may survive: bit `r % 64` of word `r / 64` for row `r`, in `rows.div_ceil(64)` words; empty: all of them.
    /// Runs of rows that may not are not read.
    pub passing: &'a [u64],
}

impl PackedRows<'_> {
    /// Which of the rows `64 * block ..` may survive; bits beyond the last row mean nothing.
    #[inline]
    fn passing64(&self, block: usize) -> u64 {
        self.passing.get(block).copied().unwrap_or(!0)
    }

    /// Which of the 16 rows from `first` on, a multiple of 16, may survive.
    #[inline]
    fn passing16(&self, first: usize) -> u16 {
        (self.passing64(first / 64) >> (first % 64)) as u16
    }
}

/// Scan kernel: writes the offsets (within the run) and integer scores of the passing rows whose score is at least `threshold`,
/// in row order, to the front of `rows` and `scores`, and returns how many there are. Both slices have room for the
/// run's rows + 16.
pub type ScanFn =
    fn(run: PackedRows<'_>, tables: ScanTables<'_>, threshold: u32, rows: &mut [u32], scores: &mut [u32]) -> usize;

/// Exact inner products of an int8 query with the rows of an int8 matrix: see [`Kernels::dot_rows_i8`].
pub type RowsI8Fn = fn(query: &[i8], rows: &[i8], row_sums: &[i32], out: &mut [i32]);

/// The kernels of one instruction set. Vectors in one call have equal lengths; lengths and alignments are free.
pub struct Kernels {
    /// `scalar`, `avx2` or `avx512`.
    pub name: &'static str,
    /// Scan of 4-bit codes.
    pub scan4: ScanFn,
    /// Scan of 8-bit codes.
    pub scan8: ScanFn,
    /// Inner product.
    pub dot_f32: fn(&[f32], &[f32]) -> f32,
    /// Inner product of a query with an f16 vector.
    pub dot_f16: fn(&[f32], &[f16]) -> f32,
    /// Inner product of a query with an int8 vector (before its scale).
    pub dot_i8: fn(&[f32], &[i8]) -> f32,
    /// Squared Euclidean distance.
    pub l2_f32: fn(&[f32], &[f32]) -> f32,
    /// Squared Euclidean distance to an f16 vector.
    pub l2_f16: fn(&[f32], &[f16]) -> f32,
    /// Squared Euclidean distance of a query to `scale * vector`.
    pub l2_i8: fn(&[f32], &[i8], f32) -> f32,
    /// Inner products of one int8 query (values -127..=127) with each row of an int8 matrix of `row_sums.len()` rows,
    /// row-major with `query.len()` columns (a multiple of 64, zero padded); `row_sums[i]` is the sum of row `i`. Exact.
    pub dot_rows_i8: RowsI8Fn,
    /// Inner products of one query with each row of a row-major f32 matrix of `query.len()` columns; `out.len()` rows.
    pub dot_rows_f32: fn(query: &[f32], rows: &[f32], out: &mut [f32]),
    /// Partial scores of a query piece against one subspace's codewords, stored dimension-major
    /// (`codewords[j * K + k]`, `K = out.len()`, 16 or 256): `out[k] = sum_j query[j] * codewords[j * K + k]`.
    pub table_f32: fn(query: &[f32], codewords: &[f32], out: &mut [f32]),
    /// Least and largest of each run of `values.len() / low.len()` values (16 or 256), none of them NaN.
    pub ranges: fn(values: &[f32], low: &mut [f32], high: &mut [f32]),
    /// The codeword nearest to `x` in Euclidean distance, first on ties: codewords dimension-major as above,
    /// `half_norms[k] = |c_k|^2 / 2`, `K = half_norms.len()` (16 or 256).
    pub nearest: fn(x: &[f32], codewords: &[f32], half_norms: &[f32]) -> u8,
    /// `out[i] = round((x[i] - min) * inv_step)` clamped to 0..=255 (round half to even).
    pub quantize_u8: fn(x: &[f32], min: f32, inv_step: f32, out: &mut [u8]),
    /// Sets bit `i % 64` of `words[i / 64]` where `low <= ordinals[i] <= high`, leaves all other bits as they are;
    /// `low <= high`, and there are `ordinals.len().div_ceil(64)` words.
    pub between_u8: fn(ordinals: &[u8], low: u8, high: u8, words: &mut [u64]),
    /// As [`Kernels::between_u8`].
    pub between_u16: fn(ordinals: &[u16], low: u16, high: u16, words: &mut [u64]),
    /// As [`Kernels::between_u8`].
    pub between_u32: fn(ordinals: &[u32], low: u32, high: u32, words: &mut [u64]),
    /// As [`Kernels::between_u8`].
    pub between_u64: fn(ordinals: &[u64], low: u64, high: u64, words: &mut [u64]),
}

/// Every table compiled in, slowest first.
static TABLES: &[&Kernels] = &[
    &scalar::KERNELS,
    #[cfg(target_arch = "x86_64")]
    &avx2::KERNELS,
    #[cfg(target_arch = "x86_64")]
    &avx512::KERNELS,
];

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kernels({})", self.name)
    }
}

impl Kernels {
    /// The best table that this CPU can run, or the one that the environment variable [`OVERRIDE`] names. A name that
    /// cannot be used is reported on standard error, once, and the best table runs.
    pub fn detect() -> &'static Kernels {
        static CHOICE: OnceLock<&'static Kernels> = OnceLock::new();
        CHOICE.get_or_init(|| {
            let best = *TABLES.iter().rev().find(|table| table.runnable()).unwrap_or(&&scalar::KERNELS);
            match std::env::var(OVERRIDE) {
                Err(_) => best,
                Ok(name) => Kernels::named(&name).unwrap_or_else(|error| {
                    eprintln!("{OVERRIDE} is ignored: {error}; {} runs", best.name);
                    best
                }),
            }
        })
    }

    /// The table called `name`.
    ///
    /// # Errors
    /// [`Error::InvalidParams`] for an unknown name, [`Error::Unsupported`] where this CPU lacks the instructions.
    pub fn named(name: &str) -> Result<&'static Kernels> {
        let known = TABLES.iter().find(|table| table.name == name).ok_or_else(|| {
            let names: Vec<&str> = TABLES.iter().map(|table| table.name).collect();
            Error::params("simd", format!("{name:?} is not one of {}", names.join(", ")))
        })?;
        if known.runnable() {
            return Ok(known);
        }
        let names: Vec<&str> = Kernels::all().iter().map(|table| table.name).collect();
        Err(Error::Unsupported {
            what: format!("the instruction set {name} on this CPU"),
            remedy: format!("use one of {}", names.join(", ")),
        })
    }

    /// Every table that this CPU can run, the scalar oracle first, the fastest last.
    pub fn all() -> Vec<&'static Kernels> {
        TABLES.iter().copied().filter(|table| table.runnable()).collect()
    }

    /// Whether this CPU has every instruction that the table's functions use. This is what makes their fields safe to
    /// call: the tables are private to this module, and only `detect`, `named` and `all` hand one out, after this test.
    fn runnable(&self) -> bool {
        match self.name {
            #[cfg(target_arch = "x86_64")]
            "avx2" => avx2::runnable(),
            #[cfg(target_arch = "x86_64")]
            "avx512" => avx512::runnable(),
            _ => true,
        }
    }
}

/// What every scan relies on before it reads through pointers; a caller that breaks it has a bug.
fn check_scan(bits: CodeBits, run: &PackedRows<'_>, tables: &ScanTables<'_>, rows: &[u32], scores: &[u32]) {
    let entries = match bits {
        CodeBits::Four => 32,
        CodeBits::Eight => 256,
    };
    assert!(bits == CodeBits::Eight || tables.bytes.is_multiple_of(4), "4-bit rows have a multiple of 4 code bytes");
    assert_eq!(tables.entries.len(), tables.bytes * entries, "score tables for {} code bytes", tables.bytes);
    assert_eq!(run.codes.len(), packed_len(bits, tables.bytes, run.rows), "packed codes of {} rows", run.rows);
    assert!(run.terms.is_empty() || run.terms.len() == run.rows, "one row term a row, or none");
    assert!(
        run.passing.is_empty() || run.passing.len() == run.rows.div_ceil(64),
        "one bit a row in whole words, or none"
    );
    assert!(rows.len() >= run.rows + 16 && scores.len() >= run.rows + 16, "room for {} rows + 16", run.rows);
}

/// What every `dot_rows_i8` relies on.
fn check_rows_i8(query: &[i8], rows: &[i8], row_sums: &[i32], out: &[i32]) {
    assert!(query.len().is_multiple_of(64), "int8 rows are padded to 64 columns, not {}", query.len());
    assert_eq!(rows.len(), query.len() * row_sums.len(), "int8 matrix of {} rows", row_sums.len());
    assert_eq!(out.len(), row_sums.len(), "one score a row");
}

/// What `ranges` relies on; returns the length of a run.
fn check_ranges(values: &[f32], low: &[f32], high: &[f32]) -> usize {
    let run = values.len() / low.len().max(1);
    assert!(run == 16 || run == 256, "16 or 256 codewords a subspace, not {run}");
    assert_eq!((values.len(), high.len()), (run * low.len(), low.len()), "one range a run");
    run
}

/// What `table_f32` and `nearest` rely on.
fn check_codewords(x: &[f32], codewords: &[f32], count: usize) {
    assert!(count == 16 || count == 256, "16 or 256 codewords a subspace, not {count}");
    assert_eq!(codewords.len(), x.len() * count, "codewords of {} dimensions", x.len());
}

/// What every `between_*` relies on.
fn check_between<T: PartialOrd>(ordinals: &[T], low: T, high: T, words: &[u64]) {
    assert!(low <= high, "a range that begins before it ends");
    assert_eq!(words.len(), ordinals.len().div_ceil(64), "one bit a row");
}
