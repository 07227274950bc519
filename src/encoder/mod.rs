//! Text to vectors (feature `text`): sentence encoders from a local folder, run on the CPU.
//!
//! ```text
//! text --> tokens ------> token vectors -----------------------> pooling ------> unit length
//!          tokenizer.json  a table (static), or a BERT's layers   mean or first
//! ```
//! Two kinds of folder are read, in the layouts that are usual for them:
//!
//! | kind | files | tensors in `model.safetensors` (F32, F16, BF16; the table also I8) |
//! |---|---|---|
//! | BERT | `config.json` with `"model_type": "bert"`, `tokenizer.json`, perhaps `modules.json`, `1_Pooling/config.json`, `sentence_bert_config.json` | those of the `BertModel`, with or without the prefix `bert.` |
//! | static | `tokenizer.json`, perhaps `config.json` | `embedding.weight`, `embeddings` or `embedding` (tokens x e); perhaps `embedding.scale` (tokens), `token.weight` or `weights` (tokens), `projection.weight` (d x e) |
//!
//! A BERT reads word order and costs milliseconds; a static encoder is a sum over a table and costs microseconds. A static one
//! can be trained here. One whose `config.json` says `"model_type": "model2vec"` leaves unknown tokens out, as its library does. Vectors
//! have unit length whatever the model's folder says, so that inner products are cosines.
//!
//! What is bounded: texts are at most [`MAX_TEXT`] bytes and not empty; what exceeds the model's tokens is cut, as the models'
//! own libraries do. Answers depend on the batch in no way other than rounding: sequences are packed without padding.

mod bert;
mod files;
mod math;
mod table;
mod tokens;
mod views;
mod vocabulary;
mod write;

use std::path::{Path, PathBuf};

use ndarray::Array2;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::linalg::normalise;

use bert::Bert;
use files::{Folder, Kind};
use tokens::{Tokens, Wanted};

pub use table::TokenTable;
pub use views::{LEAST_WORDS, TextViews, ViewLimits, sentences, text_views};
pub use vocabulary::{Vocabulary, plain_text};
pub use write::{TableElement, as_written, check_output, write_static};

/// Longest text that is taken, in bytes.
pub const MAX_TEXT: usize = 1 << 20;
/// Tokens that are encoded together at most: enough for the products to be fast, little enough for their results to stay in
/// cache.
const BATCH_TOKENS: usize = 2048;

/// Why a text has no vector although it has tokens.
const NO_DIRECTION: &str = "its vector has no direction; give words that the encoder knows";

/// How an encoder is opened.
#[derive(Debug, Clone, Copy, Default)]
pub struct EncoderOptions {
    /// Tokens of a text that are read at most, with the special ones; the model's own limit where it is not said.
    pub max_tokens: Option<usize>,
}

/// A text encoder, ready to encode. Share it between threads.
#[derive(Debug)]
pub struct Encoder {
    path: PathBuf,
    id: String,
    tokens: Tokens,
    model: Model,
}

#[derive(Debug)]
enum Model {
    Bert(Box<Bert>),
    Table(TokenTable),
}

impl Encoder {
    /// Opens the encoder in the folder `dir`.
    ///
    /// # Errors
    /// `Io` where a file is missing, `InvalidInput` or `Mismatch` where files are damaged or do not belong together, `Unsupported`
    /// where the model is of another kind.
    pub fn open(dir: &Path) -> Result<Encoder> {
        Encoder::open_with(dir, EncoderOptions::default())
    }

    /// [`Encoder::open`] with options.
    ///
    /// # Errors
    /// As there, and `InvalidParams` where the model cannot take that many tokens.
    pub fn open_with(dir: &Path, options: EncoderOptions) -> Result<Encoder> {
        let folder = Folder::open(dir)?;
        let kind = folder.kind()?;
        let model = match kind {
            Kind::Bert => Model::Bert(Box::new(Bert::read(&folder)?)),
            Kind::Static | Kind::Model2Vec => Model::Table(TokenTable::read(&folder)?),
        };
        let known_only = kind == Kind::Model2Vec;
        let (rows, limit, settings) = match &model {
            Model::Bert(bert) => (bert.vocabulary(), bert.max_tokens(), bert.settings()),
            Model::Table(table) => (table.vocabulary(), table::MAX_TOKENS, format!("static, known only: {known_only}")),
        };
        let wanted = Wanted { rows, limit, framed: kind == Kind::Bert, known_only };
        let tokens = Tokens::read(&folder, &wanted, options.max_tokens)?;
        Ok(Encoder { path: dir.to_path_buf(), id: folder.id(&settings), tokens, model })
    }

    /// The same encoder, reading at most so many tokens of a text.
    ///
    /// # Errors
    /// `InvalidParams` where the model cannot take that many.
    pub fn with_max_tokens(self, max_tokens: usize) -> Result<Encoder> {
        Ok(Encoder { tokens: self.tokens.limited(max_tokens)?, ..self })
    }

    /// Dimension of the vectors.
    pub fn dim(&self) -> usize {
        match &self.model {
            Model::Bert(bert) => bert.dim(),
            Model::Table(table) => table.dim(),
        }
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Thirty-two hexadecimal digits over its weights, its tokenizer and the settings that vectors depend on (pooling, activation
    /// and the like; not how many tokens are read): equal for equal encoders.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// `"bert"` or `"static"`.
    pub fn kind(&self) -> &'static str {
        match self.model {
            Model::Bert(_) => "bert",
            Model::Table(_) => "static",
        }
    }

    /// Tokens of a text that are read at most, with the special ones.
    pub fn max_tokens(&self) -> usize {
        self.tokens.max_tokens()
    }

    /// The table of a static encoder.
    pub fn table(&self) -> Option<&TokenTable> {
        match &self.model {
            Model::Table(table) => Some(table),
            Model::Bert(_) => None,
        }
    }

    /// The tokens of a text, as the model reads them.
    ///
    /// # Errors
    /// `InvalidParams` where the text is empty, too long or has no token.
    pub fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        check_text(text).and_then(|()| self.tokens.of(text)).map_err(|reason| Error::params("text", reason))
    }

    /// The vector of a text.
    ///
    /// # Errors
    /// As [`Encoder::tokens`], and where the vector has no direction.
    pub fn encode_one(&self, text: &str) -> Result<Vec<f32>> {
        let vector = self.vectors(&[self.tokens(text)?]).into_raw_vec_and_offset().0;
        if has_direction(&vector) { Ok(vector) } else { Err(Error::params("text", NO_DIRECTION)) }
    }

    /// The vectors of texts: row i, of unit length, is that of text i. Runs on the threads of the current pool.
    ///
    /// # Errors
    /// As [`Encoder::tokens`], of the first such text, with its place.
    pub fn encode<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Result<Array2<f32>> {
        let (vectors, bad) = self.encode_each(texts);
        match bad.into_iter().next() {
            None => Ok(vectors),
            Some((place, reason)) => Err(Error::params("text", format!("text {place}: {reason}"))),
        }
    }

    /// As [`Encoder::encode`], but a text that cannot be encoded spoils only its own row, which is not a number; its place and
    /// the reason stand beside.
    pub fn encode_each<T: AsRef<str> + Sync>(&self, texts: &[T]) -> (Array2<f32>, Vec<(usize, String)>) {
        let read = |text: &T| check_text(text.as_ref()).and_then(|()| self.tokens.of(text.as_ref()));
        let read: Vec<_> = texts.par_iter().map(read).collect();
        let (mut places, mut sequences, mut bad) = (Vec::new(), Vec::new(), Vec::new());
        for (place, tokens) in read.into_iter().enumerate() {
            match tokens {
                Ok(tokens) => {
                    places.push(place);
                    sequences.push(tokens);
                }
                Err(reason) => bad.push((place, reason)),
            }
        }
        let vectors = self.vectors(&sequences);
        if bad.is_empty() && vectors.rows().into_iter().all(|row| has_direction(row.as_slice().expect("C order"))) {
            return (vectors, bad);
        }
        let mut out = Array2::from_elem((texts.len(), self.dim()), f32::NAN);
        for (&place, row) in places.iter().zip(vectors.rows()) {
            match has_direction(row.as_slice().expect("C order")) {
                true => out.row_mut(place).assign(&row),
                false => bad.push((place, NO_DIRECTION.into())),
            }
        }
        bad.sort_unstable_by_key(|(place, _)| *place);
        (out, bad)
    }

    /// The vectors of sequences of tokens. Sequences of about the same length share a batch.
    fn vectors(&self, sequences: &[Vec<u32>]) -> Array2<f32> {
        let dim = self.dim();
        let mut order: Vec<usize> = (0..sequences.len()).collect();
        order.sort_by_key(|&i| (sequences[i].len(), i));
        let batches: Vec<&[usize]> = batches(&order, sequences);
        let made: Vec<Array2<f32>> = batches
            .par_iter()
            .map(|batch| {
                let batch: Vec<&[u32]> = batch.iter().map(|&i| &*sequences[i]).collect();
                let mut out = match &self.model {
                    Model::Bert(bert) => bert.forward(&batch),
                    Model::Table(table) => table.pool(&batch),
                };
                out.rows_mut().into_iter().for_each(|mut row| {
                    normalise(row.as_slice_mut().expect("C order"));
                });
                out
            })
            .collect();
        let mut out = Array2::zeros((sequences.len(), dim));
        for (batch, made) in batches.iter().zip(&made) {
            for (&i, row) in batch.iter().zip(made.rows()) {
                out.row_mut(i).assign(&row);
            }
        }
        out
    }
}

/// Cuts an order of sequences where the next would make a batch too large.
fn batches<'a>(order: &'a [usize], sequences: &[Vec<u32>]) -> Vec<&'a [usize]> {
    let mut batches = Vec::new();
    let (mut first, mut tokens) = (0, 0);
    for (at, &i) in order.iter().enumerate() {
        if at > first && tokens + sequences[i].len() > BATCH_TOKENS {
            batches.push(&order[first..at]);
            (first, tokens) = (at, 0);
        }
        tokens += sequences[i].len();
    }
    if first < order.len() {
        batches.push(&order[first..]);
    }
    batches
}

/// Whether a vector is a direction: a sum of token vectors may be zero.
fn has_direction(vector: &[f32]) -> bool {
    vector.iter().all(|v| v.is_finite()) && vector.iter().any(|&v| v != 0.0)
}

/// Whether a text can be encoded; the reason why not.
fn check_text(text: &str) -> std::result::Result<(), String> {
    if text.trim().is_empty() {
        return Err("it is empty; give at least one word".into());
    }
    if text.len() > MAX_TEXT {
        return Err(format!("it has {} bytes, more than the {MAX_TEXT} that are taken; cut it", text.len()));
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
