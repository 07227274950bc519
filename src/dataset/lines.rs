//! Lines of a text file, one at a time, of bounded length, numbered from 1 for messages.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A reader of lines.
#[derive(Debug)]
pub(super) struct Lines {
    path: PathBuf,
    reader: BufReader<File>,
    /// The longest line allowed, in bytes: a binary file given by mistake is refused before it fills memory.
    limit: usize,
    number: u64,
    buffer: Vec<u8>,
}

impl Lines {
    /// Opens the file before its first line.
    pub(super) fn open(path: &Path, limit: usize) -> Result<Lines> {
        let file = File::open(path).map_err(Error::io(path))?;
        Ok(Lines {
            path: path.into(),
            reader: BufReader::with_capacity(1 << 16, file),
            limit,
            number: 0,
            buffer: vec![],
        })
    }

    /// The next line without its end (LF or CR LF); `None` after the last.
    pub(super) fn next_line(&mut self) -> Result<Option<&str>> {
        self.buffer.clear();
        self.number += 1;
        let mut limited = (&mut self.reader).take(self.limit as u64 + 2);
        let read = limited.read_until(b'\n', &mut self.buffer).map_err(Error::io(&self.path))?;
        if read == 0 {
            return Ok(None);
        }
        if self.buffer.pop_if(|byte| *byte == b'\n').is_some() {
            self.buffer.pop_if(|byte| *byte == b'\r');
        }
        if self.buffer.len() > self.limit {
            return Err(self.error(format!("longer than {} bytes; is this the right file?", self.limit)));
        }
        match std::str::from_utf8(&self.buffer) {
            // Some editors begin a file with a byte order mark.
            Ok(text) if self.number == 1 => Ok(Some(text.strip_prefix('\u{feff}').unwrap_or(text))),
            Ok(text) => Ok(Some(text)),
            Err(e) => Err(self.error(format!("byte {} is not UTF-8", e.valid_up_to()))),
        }
    }

    /// An error at the line last read.
    pub(super) fn error(&self, reason: impl Into<String>) -> Error {
        Error::input(&self.path, format!("line {}", self.number), reason)
    }
}

/// Counts the lines of a file; the last one needs no line end.
pub(super) fn count_lines(path: &Path) -> Result<u64> {
    let mut reader = BufReader::with_capacity(1 << 18, File::open(path).map_err(Error::io(path))?);
    let (mut count, mut last) = (0u64, b'\n');
    loop {
        let bytes = reader.fill_buf().map_err(Error::io(path))?;
        let Some(&end) = bytes.last() else { break };
        count += bytes.iter().map(|&byte| u64::from(byte == b'\n')).sum::<u64>();
        last = end;
        let length = bytes.len();
        reader.consume(length);
    }
    Ok(count + u64::from(last != b'\n'))
}

/// Refuses a file that has another number of lines than there are rows: found out here, not after an hour of building.
pub(super) fn check_count(path: &Path, records: u64, rows: u64) -> Result<()> {
    if records == rows {
        return Ok(());
    }
    let reason = format!("{records} lines for {rows} vectors; one line a vector is needed, in the same order");
    Err(Error::input(path, format!("line {}", records.min(rows) + 1), reason))
}
