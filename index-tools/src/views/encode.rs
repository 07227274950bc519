//! Texts to vectors, each different text once.

use std::collections::HashMap;
use std::path::Path;

use bigrain::dataset::VectorFile;
use bigrain::encoder::Encoder;
use bigrain::error::{Error, Result};
use ndarray::{Array2, ArrayView1};

/// Texts that are encoded at once, so that memory stays bounded.
const AT_ONCE: usize = 4_096;

/// An encoder, and vectors that it made before.
pub struct Encode<'a> {
    encoder: &'a Encoder,
    known: HashMap<String, Vec<f32>>,
}

impl<'a> Encode<'a> {
    /// An encoder alone.
    pub fn new(encoder: &'a Encoder) -> Encode<'a> {
        Encode { encoder, known: HashMap::new() }
    }

    /// With vectors that it made of the lines of a file of texts.
    ///
    /// # Errors
    /// `Io`, `InvalidInput` for files of another shape, `Mismatch` for vectors that are not one a line or of another dimension.
    pub fn with_known(mut self, texts: &Path, vectors: &Path) -> Result<Encode<'a>> {
        let lines = std::fs::read_to_string(texts).map_err(Error::io(texts))?;
        let lines: Vec<&str> = lines.lines().collect();
        let mut file = VectorFile::open(vectors, None)?;
        let dim = self.encoder.dim();
        if file.dim() != dim || file.rows() != lines.len() as u64 {
            let found = format!("{} x {}", file.rows(), file.dim());
            let what = format!("shape of {} (are they vectors of {}?)", vectors.display(), texts.display());
            return Err(Error::mismatch(what, format!("{} x {dim}", lines.len()), found));
        }
        for (row, line) in (0..).zip(lines) {
            let mut vector = vec![0.0; dim];
            file.read(row, &mut vector)?;
            self.known.insert(line.to_string(), vector);
        }
        Ok(self)
    }

    /// Row i is the vector of text i.
    ///
    /// # Errors
    /// Those of the encoder.
    pub fn texts(&self, texts: &[String]) -> Result<Array2<f32>> {
        let mut place: HashMap<&str, usize> = HashMap::new();
        let mut new: Vec<&str> = Vec::new();
        for text in texts.iter().map(String::as_str).filter(|&text| !self.known.contains_key(text)) {
            place.entry(text).or_insert_with(|| {
                new.push(text);
                new.len() - 1
            });
        }
        let mut made = Array2::zeros((new.len(), self.encoder.dim()));
        for (at, some) in (0..).step_by(AT_ONCE).zip(new.chunks(AT_ONCE)) {
            made.slice_mut(ndarray::s![at..at + some.len(), ..]).assign(&self.encoder.encode(some)?);
        }
        let mut all = Array2::zeros((texts.len(), self.encoder.dim()));
        for (mut row, text) in all.rows_mut().into_iter().zip(texts) {
            match self.known.get(text) {
                Some(vector) => row.assign(&ArrayView1::from(vector)),
                None => row.assign(&made.row(place[text.as_str()])),
            }
        }
        Ok(all)
    }
}
