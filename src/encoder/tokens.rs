//! Text to tokens, by the tokenizer of the model.

use std::path::Path;

use tokenizers::Tokenizer;

use super::files::{Folder, TOKENIZER};
use crate::error::{Error, Result};

/// Bytes of a text that are looked at for each token that is kept. Words are shorter; what lies further on is cut anyhow.
const BYTES_PER_TOKEN: usize = 64;

/// A tokenizer with the limits of its model.
#[derive(Debug)]
pub(super) struct Tokens {
    tokenizer: Tokenizer,
    /// The tokens before and after a text, if the model wants them.
    frame: Option<(u32, u32)>,
    max_tokens: usize,
}

impl Tokens {
    /// Reads the tokenizer of a model with `rows` token vectors that takes `limit` tokens, `framed` by special ones.
    pub(super) fn read(
        folder: &Folder,
        rows: usize,
        limit: usize,
        framed: bool,
        asked: Option<usize>,
    ) -> Result<Tokens> {
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
        let max_tokens = asked.unwrap_or(limit);
        let least = if framed { 3 } else { 1 };
        if !(least..=limit).contains(&max_tokens) {
            let reason = format!("{max_tokens} was asked for; this encoder takes {least} to {limit}");
            return Err(Error::params("max_tokens", reason));
        }
        Ok(Tokens { tokenizer, frame, max_tokens })
    }

    /// A tokenizer without a model, which wants no special tokens, and one more than its largest token.
    pub(super) fn alone(json: &[u8], path: &Path, max_tokens: usize) -> Result<(Tokens, usize)> {
        let (tokenizer, size) = parse(json, path)?;
        Ok((Tokens { tokenizer, frame: None, max_tokens }, size))
    }

    pub(super) fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// The tokens of a text, at least one besides special ones; the reason why there are none.
    pub(super) fn of(&self, text: &str) -> std::result::Result<Vec<u32>, String> {
        let encoding = self.tokenizer.encode_fast(head(text, self.max_tokens * BYTES_PER_TOKEN), false);
        let encoding = encoding.map_err(|e| format!("the tokenizer cannot read it: {e}"))?;
        let ids = encoding.get_ids();
        if ids.is_empty() {
            return Err("it has no token that the encoder knows; give at least one word".into());
        }
        Ok(match self.frame {
            None => ids[..ids.len().min(self.max_tokens)].to_vec(),
            Some((first, last)) => {
                let kept = &ids[..ids.len().min(self.max_tokens - 2)];
                std::iter::once(first).chain(kept.iter().copied()).chain([last]).collect()
            }
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

/// The beginning of a text, at most `bytes` of it, cut between words where it can be.
fn head(text: &str, bytes: usize) -> &str {
    let text = text.trim_start();
    if text.len() <= bytes {
        return text;
    }
    let end = (0..=bytes).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    let head = &text[..end];
    head.rfind(char::is_whitespace).map_or(head, |at| &head[..at])
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
}
