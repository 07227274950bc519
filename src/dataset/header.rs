//! Headers of the bin, vecs and IDX formats: a few integers each.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::flat::{FlatFile, Layout};
use super::scalar::Scalar;
use crate::error::{Error, Result};

/// `rows u32, dim u32`, then the rows.
pub(super) fn open_bin(path: &Path, scalar: Scalar) -> Result<FlatFile> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let (rows, dim) = (read_u32(path, &mut file, "rows")?, read_u32(path, &mut file, "dimensions")?);
    let layout = Layout {
        scalar,
        rows: u32::from_le_bytes(rows).into(),
        dim: u32::from_le_bytes(dim).into(),
        header: 8,
        prefix: 0,
    };
    FlatFile::new(path, file, layout)
}

/// Every row is `dim u32`, then its values; the number of rows follows from the length of the file.
pub(super) fn open_vecs(path: &Path, scalar: Scalar) -> Result<FlatFile> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let length = file.metadata().map_err(Error::io(path))?.len();
    if length == 0 {
        return Err(Error::input(path, "header", "the file is empty"));
    }
    let dim = u64::from(u32::from_le_bytes(read_u32(path, &mut file, "dimensions")?));
    let stride = 4 + dim * scalar.size() as u64;
    if dim == 0 || !length.is_multiple_of(stride) {
        let reason = format!(
            "{dim} dimensions make rows of {stride} bytes, but the file has {length}: {} left over; it is truncated, ragged \
             or of another type",
            length % stride
        );
        return Err(Error::input(path, "row 0", reason));
    }
    FlatFile::new(path, file, Layout { scalar, rows: length / stride, dim, header: 0, prefix: 4 })
}

/// An uncompressed IDX file.
pub(super) fn open_idx(path: &Path) -> Result<FlatFile> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let layout = read_idx(path, &mut file)?;
    FlatFile::new(path, file, layout)
}

/// The header of an IDX file: `0 u16, type u8, rank u8`, then `rank` sizes, big-endian. The first size counts the rows, the
/// others are flattened.
pub(super) fn read_idx(path: &Path, file: &mut impl Read) -> Result<Layout> {
    let [zero, also_zero, element, rank] = read_u32(path, file, "magic")?;
    if (zero, also_zero) != (0, 0) {
        return Err(Error::input(path, "header", "not an IDX file: it does not begin with two zero bytes"));
    }
    if element != 0x08 {
        let reason = format!("IDX type {element:#04x}; only 0x08, unsigned bytes, is read: convert the file to .npy");
        return Err(Error::input(path, "header", reason));
    }
    if rank < 2 {
        let reason = format!("rank {rank}: these are labels, not vectors; give the file of images");
        return Err(Error::input(path, "header", reason));
    }
    let rows = u32::from_be_bytes(read_u32(path, file, "rows")?);
    let mut dim = 1u64;
    for axis in 1..rank {
        let size = u32::from_be_bytes(read_u32(path, file, "sizes")?);
        dim = dim.checked_mul(size.into()).ok_or_else(|| {
            Error::input(path, "header", format!("the sizes up to axis {axis} multiply to more than 2^64"))
        })?;
    }
    Ok(Layout { scalar: Scalar::U8, rows: rows.into(), dim, header: 4 + 4 * u64::from(rank), prefix: 0 })
}

fn read_u32(path: &Path, file: &mut impl Read, what: &str) -> Result<[u8; 4]> {
    let mut bytes = [0; 4];
    file.read_exact(&mut bytes).map_err(|source| short_header(path, what, source))?;
    Ok(bytes)
}

/// A header that ends early is bad input, not a failure of the disk.
pub(super) fn short_header(path: &Path, what: &str, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::UnexpectedEof => {
            Error::input(path, "header", format!("the file ends before its {what}: truncated"))
        }
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => Error::input(path, "header", format!("{source}")),
        _ => Error::Io { path: path.to_path_buf(), source },
    }
}
