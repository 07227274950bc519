//! A small language model that scores answers: the log-likelihood of a completion after a prompt.
//!
//! ```text
//! model.gguf --> weights (f32) + vocabulary        prompt, completions --> tokens --> one pass --> log-likelihoods
//! ```
//! It reads files in the GGUF format of the Gemma-3 family, whose weights are a few bits each, unpacks them once and runs on
//! `bigrain`'s matrix products: no dependency more. It scores; it does not generate, so what it needs is one pass over the
//! tokens of a request ([`Gemma::score`]). A prompt that begins as the one before is not read again from its beginning.
//!
//! Deliberately absent: other families of models, images, sampling, weights kept packed (270 million of them are 1.1 GB here).

mod gemma;
mod gguf;
mod tokens;
mod unpack;

pub use gemma::{Gemma, Scored};
pub use gguf::Gguf;
pub use tokens::Vocabulary;
