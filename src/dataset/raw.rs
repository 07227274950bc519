//! Raw `f32` values without a header, as `numpy.memmap` and `ndarray.tofile` write them. The name of the file says how many
//! make a row: `passages.768.memmap`.

use std::fs::File;
use std::path::Path;

use super::flat::{FlatFile, Layout};
use super::scalar::Scalar;
use crate::error::{Error, Result};

/// Opens a file whose name has its dimension before the ending.
pub(super) fn open(path: &Path) -> Result<FlatFile> {
    let dim = dimension(path)?;
    let file = File::open(path).map_err(Error::io(path))?;
    let length = file.metadata().map_err(Error::io(path))?.len();
    let stride = dim.checked_mul(Scalar::F32.size() as u64);
    match stride.filter(|stride| length.is_multiple_of(*stride)) {
        Some(stride) => {
            FlatFile::new(path, file, Layout { scalar: Scalar::F32, rows: length / stride, dim, header: 0, prefix: 0 })
        }
        None => {
            let reason = format!(
                "{length} bytes are not whole rows of {dim} x 4 bytes: truncated, of another type or dimension, or with a \
                 header (then .fbin is its ending)"
            );
            Err(Error::input(path, "the whole file", reason))
        }
    }
}

/// The number between the last two dots of the name.
fn dimension(path: &Path) -> Result<u64> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let dim = stem.rsplit_once('.').and_then(|(_, dim)| dim.parse().ok()).filter(|&dim| dim > 0);
    dim.ok_or_else(|| {
        let ending = path.extension().unwrap_or_default().to_string_lossy().into_owned();
        Error::Unsupported {
            what: format!("raw values of an unknown dimension ({})", path.display()),
            remedy: format!(
                "put the dimension into the name: ln -s {stem}.{ending} {stem}.768.{ending} where it is 768"
            ),
        }
    })
}
