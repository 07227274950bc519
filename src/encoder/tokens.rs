//! Text to tokens, by the tokenizer of the model.

use std::path::Path;

use tokenizers::{ModelWrapper, Tokenizer};

use super::files::{Folder, TOKENIZER};
use crate::error::{Error, Result};

/// Bytes of a text that are looked at for each token that is kept. Words are shorter; what lies further on is cut anyhow.
const BYTES_PER_TOKEN: usize = 64;
/// A cut is moved back to the end of a word over at most so many bytes: not all writing has blanks.
const LONGEST_WORD: usize = 256;

/// A tokenizer with the limits of its model.
#[derive(Debug)]
pub(super) struct Tokens {
    tokenizer: Tokenizer,
    /// The tokens before and after a text, if the model wants them.
    frame: Option<(u32, u32)>,
    /// The token that is left out wherever it stands.
    left_out: Option<u32>,
    /// Most tokens of a text, and the least and the most that this may be.
    max_tokens: usize,
    bounds: (usize, usize),
}

/// What a model wants of its tokens.
pub(super) struct Wanted {
    /// Its token vectors.
    pub(super) rows: usize,
    /// Tokens that it takes.
    pub(super) limit: usize,
    /// Whether special ones stand before and after a text.
    pub(super) framed: bool,
    /// Whether the unknown token is left out.
    pub(super) known_only: bool,
}

impl Tokens {
    /// Reads the tokenizer of a model.
    pub(super) fn read(folder: &Folder, wanted: &Wanted, asked: Option<usize>) -> Result<Tokens> {
        let &Wanted { rows, limit, framed, known_only } = wanted;
        let path = folder.path(TOKENIZER);
        let (tokenizer, size) = parse(folder.tokenizer(), &path)?;
        if size > rows {
            let place = format!("token number {}", size - 1);
            return Err(Error::input(&path, place, format!("it is not below the {rows} rows of the weights")));
        }
        let special = |token: &str| {
            tokenizer.token_to_id(token).ok_or_else(|| {
                Error::input(&path, "its vocabulary", format!("the model needs the token {token}, which is missing"))
            })
        };
        let frame = framed.then(|| Ok((special("[CLS]")?, special("[SEP]")?))).transpose()?;
        let left_out = known_only.then(|| unknown(&tokenizer)).flatten();
        let bounds = (if framed { 3 } else { 1 }, limit);
        let tokens = Tokens { tokenizer, frame, left_out, max_tokens: limit, bounds };
        tokens.limited(asked.unwrap_or(limit))
    }

    /// The same with another limit.
    pub(super) fn limited(self, max_tokens: usize) -> Result<Tokens> {
        let (least, most) = self.bounds;
        if !(least..=most).contains(&max_tokens) {
            let reason = format!("{max_tokens} was asked for; this encoder takes {least} to {most}");
            return Err(Error::params("max_tokens", reason));
        }
        Ok(Tokens { max_tokens, ..self })
    }

    /// A tokenizer without a model, which wants no special tokens, and one more than its largest token.
    pub(super) fn alone(json: &[u8], path: &Path, max_tokens: usize) -> Result<(Tokens, usize)> {
        let (tokenizer, size) = parse(json, path)?;
        Ok((Tokens { tokenizer, frame: None, left_out: None, max_tokens, bounds: (1, max_tokens) }, size))
    }

    pub(super) fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// The tokens of a text, at least one besides special ones; the reason why there are none.
    pub(super) fn of(&self, text: &str) -> std::result::Result<Vec<u32>, String> {
        let encoding = self.tokenizer.encode_fast(head(text, self.max_tokens * BYTES_PER_TOKEN), false);
        let encoding = encoding.map_err(|e| format!("the tokenizer cannot read it: {e}"))?;
        let room = self.max_tokens - if self.frame.is_some() { 2 } else { 0 };
        let known = encoding.get_ids().iter().copied().filter(|&id| Some(id) != self.left_out);
        let ids: Vec<u32> = known.take(room).collect();
        if ids.is_empty() {
            return Err("it has no token that the encoder knows; give at least one word".into());
        }
        Ok(match self.frame {
            None => ids,
            Some((first, last)) => std::iter::once(first).chain(ids).chain([last]).collect(),
        })
    }
}

/// A tokenizer that neither pads nor cuts, and one more than its largest token.
fn parse(json: &[u8], path: &Path) -> Result<(Tokenizer, usize)> {
    let mut tokenizer =
        Tokenizer::from_bytes(json).map_err(|e| Error::input(path, "its JSON", format!("not a tokenizer: {e}")))?;
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|e| Error::input(path, "truncation", e.to_string()))?;
    let most = tokenizer.get_vocab(true).values().max().copied();
    let most = most.ok_or_else(|| Error::input(path, "its vocabulary", "it is empty"))?;
    Ok((tokenizer, most as usize + 1))
}

/// The token that stands for what the vocabulary does not have.
fn unknown(tokenizer: &Tokenizer) -> Option<u32> {
    let name = match tokenizer.get_model() {
        ModelWrapper::WordPiece(model) => Some(model.unk_token.as_str()),
        ModelWrapper::WordLevel(model) => Some(model.unk_token.as_str()),
        ModelWrapper::BPE(model) => model.unk_token.as_deref(),
        ModelWrapper::Unigram(_) => None,
    };
    name.and_then(|name| tokenizer.token_to_id(name))
}

/// The beginning of a text, at most `bytes` of it, cut between words where it can be.
fn head(text: &str, bytes: usize) -> &str {
    let text = text.trim_start();
    if text.len() <= bytes {
        return text;
    }
    let end = (0..=bytes).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    let head = &text[..end];
    let between = head.rfind(char::is_whitespace).filter(|at| end - at <= LONGEST_WORD);
    between.map_or(head, |at| &head[..at])
}

#[cfg(test)]
mod tests {
    use super::head;

    #[test]
    fn long_texts_are_cut_between_words_and_characters() {
        assert_eq!(head("one two three", 100), "one two three");
        assert_eq!(head("one two three", 9), "one two");
        assert_eq!(head("ääää", 5), "ää");
        assert_eq!(head("   wwwwwwwwwwwwwww", 9), "wwwwwwwww");
    }

    #[test]
    fn writing_without_blanks_is_not_cut_back_to_the_last_one() {
        let text = format!("標題. {}", "字".repeat(20_000));
        let kept = head(&text, 10_000);
        assert!(kept.len() > 9_990 && text.starts_with(kept), "{} bytes", kept.len());
    }
}
