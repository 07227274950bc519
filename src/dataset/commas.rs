//! Comma-separated records with a header line (RFC 4180): cells may be quoted, and then hold commas and line ends.

use csv::{ErrorKind, Reader, ReaderBuilder, StringRecord};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::fields::LONGEST;
use super::lines::check_count;
use crate::error::{Error, Result};

/// Bytes that the reader reads ahead.
const BUFFER: usize = 1 << 16;

/// A reader of records.
#[derive(Debug)]
pub(super) struct Commas {
    path: PathBuf,
    reader: Reader<Limited>,
    record: StringRecord,
}

/// A file that fails when more of it is read for one record than a record may have: a quotation mark that nothing closes makes
/// one record of the rest of the file, which must not fill memory.
#[derive(Debug)]
struct Limited {
    file: File,
    left: usize,
}

impl Read for Limited {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            let reason = format!("a record is longer than {LONGEST} bytes; is a quotation mark not closed?");
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        let length = buffer.len().min(self.left);
        let read = self.file.read(&mut buffer[..length])?;
        self.left -= read;
        Ok(read)
    }
}

impl Commas {
    /// Opens a file of `rows` records, which are counted at once; also its names.
    pub(super) fn open(path: &Path, rows: u64) -> Result<(Commas, Vec<String>)> {
        check_count(path, Commas::count(path)?, rows)?;
        let mut commas = Commas::start(path)?;
        let names = commas.names()?;
        Ok((commas, names))
    }

    /// The records of a file, by reading it.
    pub(super) fn count(path: &Path) -> Result<u64> {
        let mut commas = Commas::start(path)?;
        commas.names()?;
        let mut counted = 0;
        while commas.next()?.is_some() {
            counted += 1;
        }
        Ok(counted)
    }

    fn start(path: &Path) -> Result<Commas> {
        let file = Limited { file: File::open(path).map_err(Error::io(path))?, left: LONGEST + BUFFER };
        let reader = ReaderBuilder::new().buffer_capacity(BUFFER).from_reader(file);
        Ok(Commas { path: path.into(), reader, record: StringRecord::new() })
    }

    fn names(&mut self) -> Result<Vec<String>> {
        let names = self.reader.headers().map(|names| names.iter().map(|name| name.trim().to_string()).collect());
        let names: Vec<String> = names.map_err(|e| failed(&self.path, e))?;
        match names.is_empty() {
            true => Err(Error::input(&self.path, "line 1", "the file is empty; a header line is needed")),
            false => Ok(names),
        }
    }

    /// The cells of the next record; None after the last.
    pub(super) fn next(&mut self) -> Result<Option<&StringRecord>> {
        self.reader.get_mut().left = LONGEST + BUFFER;
        match self.reader.read_record(&mut self.record) {
            Ok(true) => Ok(Some(&self.record)),
            Ok(false) => Ok(None),
            Err(error) => Err(failed(&self.path, error)),
        }
    }

    /// An error at the record last read.
    pub(super) fn error(&self, reason: impl Into<String>) -> Error {
        let line = self.record.position().map_or(1, csv::Position::line);
        Error::input(&self.path, format!("line {line}"), reason)
    }
}

fn failed(path: &Path, error: csv::Error) -> Error {
    let line = error.position().map_or(1, csv::Position::line);
    let reason = match error.into_kind() {
        ErrorKind::Io(error) if error.kind() == io::ErrorKind::InvalidData => error.to_string(),
        ErrorKind::Io(error) => return Error::io(path)(error),
        ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("{len} cells, but the header has {expected_len}")
        }
        ErrorKind::Utf8 { err, .. } => format!("cell {} is not UTF-8", err.field() + 1),
        other => format!("cannot be read ({other:?})"),
    };
    Error::input(path, format!("line {line}"), reason)
}
