//! Which encoder makes vectors of query texts.

use std::path::Path;

use super::Manifest;
use crate::encoder::Encoder;
use crate::error::{Error, Result};

impl Manifest {
    /// Opens the encoder in the folder `given`, or the one that made the vectors of the index, if it was built from texts and the
    /// encoder is where it was. Says beside what a user should know of that.
    ///
    /// # Errors
    /// As [`Encoder::open`]; `Mismatch` where its vectors have another dimension than the index takes.
    pub fn open_encoder(&self, given: Option<&Path>) -> Result<(Option<Encoder>, Vec<String>)> {
        let mut notes = Vec::new();
        let folder = match (given, &self.encoder) {
            (Some(folder), _) => folder,
            (None, Some(made)) if made.path.is_dir() => &made.path,
            (None, made) => {
                notes.extend(made.as_ref().map(|made| {
                    format!("the encoder of the index is no longer in {}; texts need one", made.path.display())
                }));
                return Ok((None, notes));
            }
        };
        let encoder = Encoder::open(folder)?;
        if encoder.dim() != self.dim {
            let what = format!("dimension of the encoder in {}", folder.display());
            return Err(Error::mismatch(what, self.dim, encoder.dim()));
        }
        if let Some(made) = self.encoder.as_ref().filter(|made| made.id != encoder.id()) {
            notes.push(format!(
                "the encoder in {} is not the one that made the vectors of the index ({}): scores mean something only if it was \
                 trained to agree with it",
                folder.display(),
                made.path.display()
            ));
        }
        Ok((Some(encoder), notes))
    }
}
