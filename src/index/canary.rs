//! Canary queries: a few queries with the scores of their exact answers, stored with an index, so that whoever is about to serve it
//! can see for himself that it finds what it should.
//!
//! ```text
//! META   u32 x 2     number of queries n, number of scores k
//! QURY   f32 x n*d   the queries
//! BEST   f32 x n*k   scores of the exact answers of each, best first
//! ```

use std::path::Path;

use crate::error::{Error, Result};
use crate::format::{FileEntry, FileReader, FileWriter, Kind};
use crate::vfs::Vfs;

const META: [u8; 4] = *b"META";
const QURY: [u8; 4] = *b"QURY";
const BEST: [u8; 4] = *b"BEST";

/// Queries and the scores of their exact answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Canary {
    /// Exact answers of each query.
    pub k: usize,
    /// n x d.
    pub queries: Vec<f32>,
    /// n x k, best first.
    pub scores: Vec<f32>,
}

impl Canary {
    /// Writes the file `path` of the index with this id.
    ///
    /// # Errors
    /// `Io`.
    pub fn write(&self, vfs: &dyn Vfs, path: &Path, index_id: [u8; 16]) -> Result<FileEntry> {
        let mut file = FileWriter::create(vfs, path, Kind::Canary, index_id)?;
        let count = self.scores.len() / self.k.max(1);
        file.write_array(META, &[count as u32, self.k as u32])?;
        file.write_array(QURY, &self.queries)?;
        file.write_array(BEST, &self.scores)?;
        file.finish()
    }

    /// Reads the file of an index whose queries have `dim` values.
    ///
    /// # Errors
    /// `Corrupt` and `Io`.
    pub fn read(vfs: &dyn Vfs, path: &Path, index_id: &[u8; 16], dim: usize) -> Result<Canary> {
        let file = FileReader::open(vfs, path, Kind::Canary, Some(index_id))?;
        let (meta, queries): (Vec<u32>, Vec<f32>) = (file.read_array(META)?, file.read_array(QURY)?);
        let scores: Vec<f32> = file.read_array(BEST)?;
        let wrong = |reason: String| Error::corrupt(path, "META", reason);
        let &[count, k] = &meta[..] else { return Err(wrong(format!("it has {} values, not 2", meta.len()))) };
        let (count, k) = (count as usize, k as usize);
        let fits = count > 0
            && k > 0
            && Some(queries.len()) == count.checked_mul(dim)
            && Some(scores.len()) == count.checked_mul(k);
        if !fits {
            return Err(wrong(format!("{count} queries of {dim} dimensions with {k} scores do not fit the sections")));
        }
        match scores.iter().chain(&queries).position(|value| !value.is_finite()) {
            Some(at) => Err(wrong(format!("value {at} is not finite"))),
            None => Ok(Canary { k, queries, scores }),
        }
    }
}
