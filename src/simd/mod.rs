//! The kernels: every inner loop that is worth an instruction set of its own.
//!
//! # One table, one oracle
//! [`Kernels`] is a table of functions. There is one constant table per instruction set; [`Kernels::detect`] hands out
//! the best one that this CPU can run, [`Kernels::all`] every one it can run (tests and benches loop over those). The
//! scalar table is the oracle: integer kernels agree with it to the bit, float kernels within a stated bound. A kernel
//! does a block of work, so one indirect call costs nothing.
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
//! Score tables for 4-bit codes ([`ScanTables::entries`]): per chunk `c` 128 bytes; the even (low-nibble) tables, then the odd ones:
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
