//! Tokens without a model: what the training of a static encoder starts from.

use std::path::Path;

use rayon::prelude::*;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, Model as _, Tokenizer, Trainer};

use super::check_text;
use super::files::TOKENIZER;
use super::table::MAX_TOKENS;
use super::tokens::Tokens;
use crate::error::{Error, Result};

/// What stands for characters that the vocabulary does not have.
const UNKNOWN: &str = "[UNK]";
/// Pairs of pieces that are seen less often are not joined.
const LEAST_COUNT: u64 = 2;
/// Fewest tokens that a vocabulary is trained to: about the letters, digits and marks of a language.
const LEAST_SIZE: usize = 128;

/// A tokenizer on its own.
#[derive(Debug)]
pub struct Vocabulary {
    tokens: Tokens,
    json: Vec<u8>,
    size: usize,
}

impl Vocabulary {
    /// The tokenizer of the encoder in the folder `dir`.
    ///
    /// # Errors
    /// `Io` without the file, `InvalidInput` where it is damaged.
    pub fn open(dir: &Path) -> Result<Vocabulary> {
        let path = dir.join(TOKENIZER);
        Vocabulary::read(std::fs::read(&path).map_err(Error::io(&path))?, &path)
    }

    /// Trains one of at most `size` tokens on `texts`: lower-case pieces of words (byte-pair encoding, Sennrich et al., 2016);
    /// a piece that begins a word begins with a mark, so that it differs from the same letters inside one. Equal texts in any
    /// order give the same vocabulary.
    ///
    /// # Errors
    /// `InvalidParams` for a size below 128 or texts without words.
    pub fn train<T: AsRef<str> + Sync>(texts: &[T], size: usize) -> Result<Vocabulary> {
        if size < LEAST_SIZE {
            return Err(Error::params("vocabulary", format!("{size} tokens; give at least {LEAST_SIZE}")));
        }
        let broken = |e: tokenizers::Error| Error::params("vocabulary", format!("it cannot be trained: {e}"));
        let special = AddedToken::from(UNKNOWN, true);
        let mut model = BPE::builder().unk_token(UNKNOWN.into()).fuse_unk(true).build().map_err(broken)?;
        let mut trainer = BpeTrainerBuilder::new()
            .show_progress(false)
            .vocab_size(size)
            .min_frequency(LEAST_COUNT)
            .special_tokens(vec![special.clone()])
            .build();
        let splitter = with_splitting(Tokenizer::new(BPE::default())).map_err(broken)?;
        trainer.feed(texts.iter().map(AsRef::as_ref), |text| words(&splitter, text)).map_err(broken)?;
        trainer.train(&mut model).map_err(broken)?;
        if model.get_vocab_size() <= 1 {
            return Err(Error::params("texts", "they have no words that a vocabulary could be trained on"));
        }
        let mut tokenizer = with_splitting(Tokenizer::new(model)).map_err(broken)?;
        tokenizer.add_special_tokens([special]).map_err(broken)?;
        let json = tokenizer.to_string(false).map_err(broken)?;
        Vocabulary::read(json.into_bytes(), Path::new(TOKENIZER))
    }

    fn read(json: Vec<u8>, path: &Path) -> Result<Vocabulary> {
        let (tokens, size) = Tokens::alone(&json, path, MAX_TOKENS)?;
        Ok(Vocabulary { tokens, json, size })
    }

    /// One more than the largest number of a token: rows that a table needs.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The tokenizer as it stands in an encoder's folder.
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// The tokens of texts, as an encoder reads them.
    ///
    /// # Errors
    /// `InvalidParams` with the place of a text that is empty, too long or has no token.
    pub fn tokens<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Result<Vec<Vec<u32>>> {
        let of = |(place, text): (usize, &T)| {
            let text = text.as_ref();
            let found = check_text(text).and_then(|()| self.tokens.of(text));
            found.map_err(|reason| Error::params("text", format!("text {place}: {reason}")))
        };
        texts.par_iter().enumerate().map(of).collect()
    }
}

/// Lower case without accents; words and marks apart, a sign before each.
fn with_splitting(mut tokenizer: Tokenizer) -> tokenizers::Result<Tokenizer> {
    let marks = Metaspace::new('▁', PrependScheme::Always, false);
    let steps = vec![PreTokenizerWrapper::BertPreTokenizer(BertPreTokenizer), PreTokenizerWrapper::Metaspace(marks)];
    tokenizer.with_normalizer(Some(normalizer()))?.with_pre_tokenizer(Some(Sequence::new(steps)));
    Ok(tokenizer)
}

/// A text as every vocabulary that is trained here reads it: its words and marks in lower case, without accents, a blank between.
/// Such a vocabulary cannot tell texts apart that are equal then.
pub fn plain_text(text: &str) -> String {
    use tokenizers::{NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};
    let mut normalized = NormalizedString::from(text);
    let mut split = match normalizer().normalize(&mut normalized) {
        Ok(()) => PreTokenizedString::from(normalized),
        Err(_) => PreTokenizedString::from(text),
    };
    if BertPreTokenizer.pre_tokenize(&mut split).is_err() {
        return text.to_string();
    }
    let parts = split.get_splits(OffsetReferential::Original, OffsetType::Byte);
    parts.iter().map(|(word, _, _)| *word).collect::<Vec<_>>().join(" ")
}

fn normalizer() -> BertNormalizer {
    BertNormalizer::new(true, true, None, true)
}

/// The words of a text as the tokenizer splits it.
fn words(tokenizer: &Tokenizer, text: &str) -> tokenizers::Result<Vec<String>> {
    use tokenizers::{Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};
    let mut normalized = text.into();
    if let Some(normalizer) = tokenizer.get_normalizer() {
        normalizer.normalize(&mut normalized)?;
    }
    let mut split = PreTokenizedString::from(normalized);
    if let Some(splitting) = tokenizer.get_pre_tokenizer() {
        splitting.pre_tokenize(&mut split)?;
    }
    let parts = split.get_splits(OffsetReferential::Original, OffsetType::Byte);
    Ok(parts.into_iter().map(|(word, _, _)| word.to_string()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXTS: [&str; 4] = ["Red shoes and blue shoes", "The red car", "the Scar of a shoe", "cars; a car, cars"];

    #[test]
    fn a_trained_vocabulary_reads_what_it_was_trained_on() {
        let vocabulary = Vocabulary::train(&TEXTS, 200).unwrap();
        let tokens = vocabulary.tokens(&["car", "CAR", "scar", "red car", "\u{4e2d}"]).unwrap();
        assert_eq!(tokens[0].len(), 1, "a frequent word is one token");
        assert_eq!(tokens[0], tokens[1]);
        assert!(!tokens[2].contains(&tokens[0][0]), "the end of a word is not the word");
        assert_eq!(tokens[3][1..], tokens[0]);
        let unknown = vocabulary.tokens(&["\u{4e8c}"]).unwrap();
        assert_eq!(tokens[4], unknown[0], "what is not known is all the same");
        assert!(tokens.iter().flatten().all(|&t| (t as usize) < vocabulary.size()));
    }

    #[test]
    fn training_is_deterministic_and_ignores_the_order() {
        let many: Vec<String> = (0..300).map(|i| format!("word{} other{} {}", i % 37, i % 11, TEXTS[i % 4])).collect();
        let first = Vocabulary::train(&many, 400).unwrap();
        let reversed: Vec<&String> = many.iter().rev().collect();
        assert_eq!(first.json(), Vocabulary::train(&reversed, 400).unwrap().json());
        assert!(first.size() <= 400 && first.size() > 50);
    }

    #[test]
    fn plain_texts_are_equal_where_tokens_are() {
        let vocabulary = Vocabulary::train(&TEXTS, 200).unwrap();
        for (a, b) in [("Nike Shoes", " nike  SHOES"), ("Café-bar", "cafe - bar"), ("a red car.", "a red car .")] {
            assert_eq!(plain_text(a), plain_text(b));
            let tokens = vocabulary.tokens(&[a, b]).unwrap();
            assert_eq!(tokens[0], tokens[1], "{a}");
        }
        assert_ne!(plain_text("red shoes"), plain_text("redshoes"));
    }

    #[test]
    fn useless_input_is_refused() {
        assert!(Vocabulary::train(&TEXTS, 10).unwrap_err().to_string().contains("at least 128"));
        assert!(Vocabulary::train(&["", " "], 200).unwrap_err().to_string().contains("no words"));
        let vocabulary = Vocabulary::train(&TEXTS, 200).unwrap();
        assert!(vocabulary.tokens(&["red", " "]).unwrap_err().to_string().contains("text 1"));
        assert!(Vocabulary::open(Path::new("/nowhere")).unwrap_err().to_string().contains("tokenizer.json"));
    }
}
