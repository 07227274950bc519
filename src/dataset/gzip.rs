//! Gzipped IDX images: a stream that can only go forwards.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::flat::Layout;
use super::header::read_idx;
use crate::error::{Error, Result};

/// Deflate cannot shrink data by more than this, so a header that claims more is refused before anything is allocated.
const MOST_EXPANSION: u64 = 1032;

/// A gzipped IDX file and the place where its decoder is.
pub(super) struct GzipFile {
    path: PathBuf,
    decoder: MultiGzDecoder<BufReader<File>>,
    rows: u64,
    dim: usize,
    /// The row that the decoder yields next.
    next: u64,
    /// One row of bytes.
    row: Vec<u8>,
}

impl std::fmt::Debug for GzipFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GzipFile").field("path", &self.path).field("next", &self.next).finish_non_exhaustive()
    }
}

impl GzipFile {
    /// Reads the header; the length is known only at the end of the stream and checked there.
    pub(super) fn open(path: &Path) -> Result<GzipFile> {
        let (decoder, layout) = start(path)?;
        layout.check_not_empty(path)?;
        let compressed = decoder.get_ref().get_ref().metadata().map_err(Error::io(path))?.len();
        let most = compressed.saturating_mul(MOST_EXPANSION);
        let dim = usize::try_from(layout.dim).ok();
        let (Some(dim), true) = (dim, layout.file_length().is_some_and(|length| length <= most)) else {
            let reason = format!(
                "{} rows x {} dimensions cannot come from {compressed} compressed bytes: truncated, copy it again",
                layout.rows, layout.dim
            );
            return Err(Error::input(path, "header", reason));
        };
        Ok(GzipFile { path: path.to_path_buf(), decoder, rows: layout.rows, dim, next: 0, row: Vec::new() })
    }

    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    pub(super) fn dim(&self) -> usize {
        self.dim
    }

    /// Reads whole rows; the caller has checked the range.
    pub(super) fn read(&mut self, first: u64, out: &mut [f32]) -> Result<()> {
        if first < self.next {
            (self.decoder, _) = start(&self.path)?;
            self.next = 0;
        }
        self.row.resize(self.dim, 0);
        while self.next < first {
            self.next_row()?;
        }
        for out in out.chunks_exact_mut(self.dim) {
            self.next_row()?;
            for (value, &byte) in out.iter_mut().zip(&self.row) {
                *value = f32::from(byte);
            }
        }
        if self.next == self.rows { self.check_end() } else { Ok(()) }
    }

    /// Decodes one row into `self.row`.
    fn next_row(&mut self) -> Result<()> {
        let failed = |source| stream_error(&self.path, self.next, self.rows, source);
        self.decoder.read_exact(&mut self.row).map_err(failed)?;
        self.next += 1;
        Ok(())
    }

    /// After the last row the stream must end, with a good checksum.
    fn check_end(&mut self) -> Result<()> {
        let failed = |source| stream_error(&self.path, self.next, self.rows, source);
        if self.decoder.read(&mut [0]).map_err(failed)? == 0 {
            return Ok(());
        }
        let reason = format!("the header says {} rows x {} bytes, but the data goes on", self.rows, self.dim);
        Err(Error::input(&self.path, "after the last row", reason))
    }
}

/// A decoder just after the header.
fn start(path: &Path) -> Result<(MultiGzDecoder<BufReader<File>>, Layout)> {
    let file = File::open(path).map_err(Error::io(path))?;
    let mut decoder = MultiGzDecoder::new(BufReader::with_capacity(1 << 16, file));
    let layout = read_idx(path, &mut decoder)?;
    Ok((decoder, layout))
}

fn stream_error(path: &Path, row: u64, rows: u64, source: io::Error) -> Error {
    let place = format!("row {row}");
    match source.kind() {
        io::ErrorKind::UnexpectedEof => Error::input(
            path,
            place,
            format!("the stream ends here, the header says {rows} rows: truncated, copy it again"),
        ),
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
            Error::input(path, place, format!("damaged gzip data ({source}); copy the file again"))
        }
        _ => Error::Io { path: path.to_path_buf(), source },
    }
}
