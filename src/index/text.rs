//! Which encoder makes vectors of query texts.

use std::path::Path;

use super::Manifest;
use crate::encoder::Encoder;
use crate::error::{Error, Result};

impl Manifest {
    /// Opens the encoder in the folder `given`, or the one that made the vectors of the index, if it was built from texts and the
    /// encoder is where it was; that one reads as many tokens of a text as it did then. Says beside what a user should know of that.
    ///
    /// # Errors
    /// As [`Encoder::open`]; `Mismatch` where its vectors have another dimension than the index takes, or it no longer takes as many
    /// tokens as when the index was built.
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
        let Some(made) = &self.encoder else { return Ok((Some(encoder), notes)) };
        if made.id != encoder.id() {
            notes.push(format!(
                "the encoder in {} is not the one that made the vectors of the index ({}): scores mean something only if it was \
                 trained to agree with it; it reads up to {} tokens of a text",
                folder.display(),
                made.path.display(),
                encoder.max_tokens()
            ));
            return Ok((Some(encoder), notes));
        }
        let most = encoder.max_tokens();
        let as_built = encoder.with_max_tokens(made.max_tokens).map_err(|_| {
            let what = format!("tokens of a text that the encoder in {} reads", folder.display());
            Error::mismatch(
                what,
                format!("{}, as when the index was built", made.max_tokens),
                format!("{most} at most"),
            )
        })?;
        Ok((Some(as_built), notes))
    }
}
