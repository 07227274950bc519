//! Packing of row-major codes into the layouts of [the module above](super), and back. Apart from the scan kernels this
//! is the only place that knows them.

use super::CodeBits;

/// Rows of a group of 4-bit codes. Runs of 4-bit codes may be cut at multiples of it.
pub const GROUP_ROWS: usize = 16;

/// Rows of a full block of 8-bit codes. Runs of 8-bit codes may be cut at multiples of it.
pub const BLOCK_ROWS: usize = 64;

/// A list may be cut into runs at multiples of this many rows whatever its codes.
pub const SCAN_UNIT: usize = 64;

impl CodeBits {
    /// Bits of one code as a number.
    pub const fn bits(self) -> usize {
        match self {
            CodeBits::Four => 4,
            CodeBits::Eight => 8,
        }
    }

    /// Rows at whose multiples packed codes may be cut: [`GROUP_ROWS`] or [`BLOCK_ROWS`].
    pub const fn unit_rows(self) -> usize {
        match self {
            CodeBits::Four => GROUP_ROWS,
            CodeBits::Eight => BLOCK_ROWS,
        }
    }

    /// Codewords of a subspace: 16 or 256.
    pub const fn codewords(self) -> usize {
        1 << self.bits()
    }

    /// Bytes of the score tables ([`super::ScanTables::entries`]) of rows with `bytes` code bytes.
    pub const fn table_len(self, bytes: usize) -> usize {
        bytes * 8 / self.bits() * self.codewords()
    }
}

/// Length in bytes of the packed codes of `rows` rows of `bytes` code bytes. Both layouts pad the rows to a multiple of
/// 16. A run that is cut out of a list starts at `packed_len(bits, bytes, first_row)`.
pub const fn packed_len(_bits: CodeBits, bytes: usize, rows: usize) -> usize {
    rows.next_multiple_of(GROUP_ROWS) * bytes
}

/// Offset of byte `byte` of row `row` within the packed codes of `rows` rows.
pub(super) fn offset(bits: CodeBits, bytes: usize, rows: usize, row: usize, byte: usize) -> usize {
    match bits {
        CodeBits::Four => (row / 16 * (bytes / 4) + byte / 4) * 64 + row % 16 * 4 + byte % 4,
        CodeBits::Eight => {
            let block = row / BLOCK_ROWS;
            let width = (rows - block * BLOCK_ROWS).next_multiple_of(GROUP_ROWS).min(BLOCK_ROWS);
            block * BLOCK_ROWS * bytes + byte * width + row % BLOCK_ROWS
        }
    }
}

/// Packs `codes` (rows x `bytes`, row-major) into `out` (length [`packed_len`]); padding rows become zero codes.
///
/// # Panics
/// If the lengths do not agree, or `bytes` is not a multiple of 4 for 4-bit codes.
pub fn pack(bits: CodeBits, bytes: usize, codes: &[u8], out: &mut [u8]) {
    assert!(bytes > 0 && codes.len().is_multiple_of(bytes), "{} bytes are no rows of {bytes}", codes.len());
    assert!(bits == CodeBits::Eight || bytes.is_multiple_of(4), "4-bit rows have a multiple of 4 code bytes");
    let rows = codes.len() / bytes;
    assert_eq!(out.len(), packed_len(bits, bytes, rows), "packed codes of {rows} rows of {bytes} bytes");
    out.fill(0);
    for (row, code) in codes.chunks_exact(bytes).enumerate() {
        for (byte, &value) in code.iter().enumerate() {
            out[offset(bits, bytes, rows, row, byte)] = value;
        }
    }
}

/// Copies the code of `row` out of the packed codes of `rows` rows into `out` (length `bytes`).
///
/// # Panics
/// If the lengths do not agree or `row` is not below `rows`.
pub fn unpack_row(bits: CodeBits, bytes: usize, packed: &[u8], rows: usize, row: usize, out: &mut [u8]) {
    assert!(row < rows, "row {row} of {rows}");
    assert_eq!(packed.len(), packed_len(bits, bytes, rows), "packed codes of {rows} rows of {bytes} bytes");
    assert_eq!(out.len(), bytes, "one code");
    for (byte, value) in out.iter_mut().enumerate() {
        *value = packed[offset(bits, bytes, rows, row, byte)];
    }
}
