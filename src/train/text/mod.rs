//! Training of static text encoders: a vector a token, summed, mapped, scaled to unit length.
//!
//! ```text
//! s = sum over the tokens t of a text of w_t E_t          E: tokens x e, trained;  w: tokens, from inverse document frequency
//! z = P s,  y = z / |z|                                    P: d x e, trained
//! ```
//! and back, from the gradient at `y`: `dz = (dy - y <y, dy>) / |z|`, `dP += dz s'`, `ds = P' dz`, `dE_t += w_t ds` for every token
//! of the text. The encoder has no layers, so both directions are a few products and a scatter, and a processor trains it in
//! minutes.
//!
//! | what it learns from | loss |
//! |---|---|
//! | pairs of queries and documents ([`TextExamples`]) | InfoNCE: the own document among all of the batch; others that are relevant are left out |
//! | vectors of a larger encoder ([`Teaching`]) | 1 - cosine, and ListNet over the batch: texts must order the teacher's vectors as their own ones do |
//!
//! With candidates ([`super::Candidates`]) batches are grown along what an index returned ([`super::locality`]): the dense encoder
//! of stage 2. The encoder that is trained *with* its codes is in [`super::codes`].
//!
//! Tokens are dropped at random in training, so that no text is recognised by one rare word.

mod model;
mod settings;
#[cfg(test)]
mod tests;
mod trainer;

pub use model::{StaticModel, Texts, inverse_frequencies};
pub use settings::{Distillation, TextTraining};
pub use trainer::{TextLessons, train_text};

pub(super) use model::TextParameters;

use ndarray::Array2;

use super::examples::{Example, Examples};
use crate::error::{Error, Result};

/// Tokens of queries and documents, and which of them belong together.
#[derive(Debug, Clone)]
pub struct TextExamples {
    /// The queries.
    pub queries: Texts,
    /// The documents.
    pub documents: Texts,
    /// Pairs to learn from.
    pub train: Vec<Example>,
    /// Pairs to choose by, of other queries and other documents.
    pub valid: Vec<Example>,
    /// Further pairs that belong together; see [`Examples::known`].
    pub known: Vec<Example>,
}

impl TextExamples {
    /// The same pairs over the vectors that a model gives the texts.
    pub fn encoded(&self, model: &StaticModel) -> Examples {
        Examples {
            documents: model.encode(&self.documents),
            queries: model.encode(&self.queries),
            train: self.train.clone(),
            valid: self.valid.clone(),
            known: self.known.clone(),
        }
    }

    /// The labels alone, over vectors that say nothing.
    fn labels(&self) -> Examples {
        let nothing = |rows| Array2::zeros((rows, 1));
        let (documents, queries) = (nothing(self.documents.len()), nothing(self.queries.len()));
        let (train, valid, known) = (self.train.clone(), self.valid.clone(), self.known.clone());
        Examples { documents, queries, train, valid, known }
    }

    /// Refuses examples that nothing can be trained on.
    pub(super) fn check(&self, vocabulary: usize) -> Result<()> {
        self.queries.check("queries", vocabulary)?;
        self.documents.check("documents", vocabulary)?;
        self.labels().check()
    }
}

/// Texts and the vectors that they should have.
#[derive(Debug, Clone)]
pub struct Teaching {
    /// The texts.
    pub texts: Texts,
    /// Their vectors, a row each, of unit length.
    pub vectors: Array2<f32>,
}

impl Teaching {
    fn check(&self, vocabulary: usize, dim: usize) -> Result<()> {
        self.texts.check("texts", vocabulary)?;
        if self.vectors.nrows() != self.texts.len() {
            return Err(Error::mismatch("rows of the teacher's vectors", self.texts.len(), self.vectors.nrows()));
        }
        if self.vectors.ncols() != dim {
            return Err(Error::mismatch("dimension of the teacher's vectors", dim, self.vectors.ncols()));
        }
        Ok(())
    }
}
