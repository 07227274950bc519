//! Answers as a TREC run file, for other people's evaluation programs: `query Q0 document rank score tag`.
//!
//! Ranks count from 1. Evaluation programs sort by score, not by rank, so scores are printed with all their digits; equal
//! scores keep their rank here and may come in another order there.

use std::fmt::Display;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Writes the answers of one query after the other.
#[derive(Debug)]
pub struct RunWriter {
    path: PathBuf,
    file: BufWriter<File>,
    tag: String,
}

impl RunWriter {
    /// Creates the file; `tag` names the system that answered, without blanks.
    ///
    /// # Errors
    /// `Io`; `InvalidParams` for a tag that is empty or has blanks in it.
    pub fn create(path: &Path, tag: &str) -> Result<RunWriter> {
        if tag.is_empty() || tag.contains(char::is_whitespace) {
            return Err(Error::params("tag", format!("{tag:?} is empty or has blanks in it; give one word")));
        }
        let file = BufWriter::new(File::create(path).map_err(Error::io(path))?);
        Ok(RunWriter { path: path.into(), file, tag: tag.into() })
    }

    /// Appends the documents and scores that answer `query`, best first.
    ///
    /// # Errors
    /// `Io`.
    pub fn write<D: Display>(&mut self, query: impl Display, answer: impl IntoIterator<Item = (D, f32)>) -> Result<()> {
        for (rank, (document, score)) in (1..).zip(answer) {
            writeln!(self.file, "{query} Q0 {document} {rank} {score} {}", self.tag).map_err(Error::io(&self.path))?;
        }
        Ok(())
    }

    /// Writes what is still held.
    ///
    /// # Errors
    /// `Io`.
    pub fn finish(mut self) -> Result<()> {
        self.file.flush().map_err(Error::io(&self.path))
    }
}
