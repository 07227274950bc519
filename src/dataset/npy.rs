//! NumPy's `.npy`: the header, read and written.
//!
//! ```text
//! 0x93 "NUMPY" | major u8, minor u8 | length u16 (version 1) or u32 (2, 3) | dictionary, padded | values
//! ```
//!
//! The dictionary is a Python literal: `{'descr': '<f4', 'fortran_order': False, 'shape': (60000, 784), }`. Only its
//! three keys are looked for; the full grammar of Python is not.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::flat::{FlatFile, Layout};
use super::header::short_header;
use super::scalar::Scalar;
use crate::error::{Error, Result};

const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// Real headers have about a hundred bytes; structured types a few thousand.
const LONGEST_DICTIONARY: u64 = 1 << 16;

/// Length of the headers that [`header`] makes: a multiple of 64, and room for any shape.
pub(super) const HEADER_LENGTH: usize = 128;

/// Opens a matrix of any element type known here: vectors, or row numbers.
pub(super) fn open(path: &Path) -> Result<FlatFile> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let layout = read_header(path, &mut file)?;
    FlatFile::new(path, file, layout)
}

/// Reads a matrix of vectors that is already in memory (the body of a request): its number of columns, and
/// `rows x columns` values. `name` stands for the path in errors.
///
/// # Errors
/// `InvalidInput`: not a `.npy` of f32, f16, u8 or i8 in C order, or another length than its header says. A shape without
/// rows is no error here.
pub fn parse_npy(name: &str, bytes: &[u8]) -> Result<(usize, Vec<f32>)> {
    let path = Path::new(name);
    let layout = read_header(path, &mut &*bytes)?;
    if !layout.scalar.is_vector_element() {
        let reason = format!("{:?} values; vectors are f32, f16, u8 or i8", layout.scalar);
        return Err(Error::input(path, "header", reason));
    }
    if layout.file_length() != Some(bytes.len() as u64) {
        let (rows, dim) = (layout.rows, layout.dim);
        let reason = format!("{rows} x {dim} values of {:?} do not fit {} bytes", layout.scalar, bytes.len());
        return Err(Error::input(path, "header", reason));
    }
    let values = layout.scalar.decode(&bytes[layout.header as usize..]).unwrap_or_default();
    let dim = usize::try_from(layout.dim).map_err(|_| Error::input(path, "header", "too wide"))?;
    Ok((dim, values))
}

fn read_header(path: &Path, file: &mut impl Read) -> Result<Layout> {
    let mut start = [0; 8];
    file.read_exact(&mut start).map_err(|source| short_header(path, "magic", source))?;
    if &start[..6] != MAGIC {
        return Err(Error::input(path, "header", "not an .npy file: it does not begin with \\x93NUMPY"));
    }
    let length_bytes = match start[6] {
        1 => 2,
        2 | 3 => 4,
        other => {
            let reason = format!("version {other} of the format; 1, 2 and 3 are read: save it with numpy.save");
            return Err(Error::input(path, "header", reason));
        }
    };
    let mut length = [0; 4];
    file.read_exact(&mut length[..length_bytes]).map_err(|source| short_header(path, "header length", source))?;
    let length = u64::from(u32::from_le_bytes(length));
    if length > LONGEST_DICTIONARY {
        let reason = format!("it claims {length} bytes, more than {LONGEST_DICTIONARY}: damaged, or not an array");
        return Err(Error::input(path, "header", reason));
    }
    let mut dictionary = vec![0; length as usize];
    file.read_exact(&mut dictionary).map_err(|source| short_header(path, "values", source))?;
    let text = String::from_utf8_lossy(&dictionary);
    let header = start.len() as u64 + length_bytes as u64 + length;
    parse(&text, header).map_err(|reason| Error::input(path, "header", reason))
}

/// The layout that a dictionary describes, or the reason why it cannot be read.
fn parse(text: &str, header: u64) -> Result<Layout, String> {
    let field = |key: &str| {
        let missing = || format!("it has no key '{key}': {text:?}");
        let at = text.find(&format!("'{key}'")).ok_or_else(missing)?;
        let value = text[at + key.len() + 2..].trim_start().strip_prefix(':').ok_or_else(missing)?;
        Ok::<_, String>(value.trim_start())
    };
    let scalar = parse_type(field("descr")?)?;
    if !field("fortran_order")?.starts_with("False") {
        return Err("the array is in Fortran order; save it with numpy.ascontiguousarray(a)".into());
    }
    let shape = field("shape")?;
    let sizes: Option<Vec<u64>> =
        shape.strip_prefix('(').and_then(|rest| rest.split_once(')')).and_then(|(inner, _)| {
            inner.split(',').map(str::trim).filter(|size| !size.is_empty()).map(|size| size.parse().ok()).collect()
        });
    match sizes.as_deref() {
        Some(&[rows, dim]) => Ok(Layout { scalar, rows, dim, header, prefix: 0 }),
        Some(sizes) => {
            Err(format!("shape {sizes:?}; it must be (rows, dimensions): save it with a.reshape(len(a), -1)"))
        }
        None => Err(format!("the shape is not a tuple of integers: {:?}", shape.chars().take(80).collect::<String>())),
    }
}

/// `'<f4'` and the like.
fn parse_type(text: &str) -> Result<Scalar, String> {
    let name = text.strip_prefix('\'').and_then(|rest| rest.split_once('\'')).map(|(name, _)| name);
    match name {
        Some("<f4") => Ok(Scalar::F32),
        Some("<f2") => Ok(Scalar::F16),
        Some("|u1" | "<u1") => Ok(Scalar::U8),
        Some("|i1" | "<i1") => Ok(Scalar::I8),
        Some("<i4") => Ok(Scalar::I32),
        Some("<u4") => Ok(Scalar::U32),
        Some("<i8") => Ok(Scalar::I64),
        Some("<u8") => Ok(Scalar::U64),
        other => {
            let name = other.map_or_else(|| text.chars().take(40).collect(), str::to_string);
            Err(format!("element type {name:?}; save vectors as f32, f16, u8 or i8, for example with astype('<f4')"))
        }
    }
}

/// A version 1 header of [`HEADER_LENGTH`] bytes for any number of rows, so that it can be written again when they are known.
pub(super) fn header(scalar: Scalar, rows: u64, dim: usize) -> [u8; HEADER_LENGTH] {
    let name = match scalar {
        Scalar::F32 => "<f4",
        Scalar::F16 => "<f2",
        Scalar::U8 => "|u1",
        Scalar::I8 => "|i1",
        Scalar::I32 => "<i4",
        Scalar::U32 => "<u4",
        Scalar::I64 => "<i8",
        Scalar::U64 => "<u8",
    };
    let dictionary = format!("{{'descr': '{name}', 'fortran_order': False, 'shape': ({rows}, {dim}), }}");
    let mut bytes = [b' '; HEADER_LENGTH];
    bytes[..6].copy_from_slice(MAGIC);
    bytes[6..8].copy_from_slice(&[1, 0]);
    bytes[8..10].copy_from_slice(&((HEADER_LENGTH - 10) as u16).to_le_bytes());
    bytes[10..10 + dictionary.len()].copy_from_slice(dictionary.as_bytes());
    bytes[HEADER_LENGTH - 1] = b'\n';
    bytes
}
