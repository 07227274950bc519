//! Text to tokens as SentencePiece does it: pieces grow by the best-scored merge, bytes stand in for unknown characters.
//!
//! Spaces become `▁`. The text is cut into characters; as long as two neighbours joined are a piece of the vocabulary, the
//! pair whose piece has the highest score is joined, the leftmost of equals. What is still no piece is written byte by byte.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use bigrain::error::{Error, Result};

use super::gguf::Gguf;

/// Kinds of tokens that text never becomes: unknown and control tokens.
const NOT_TEXT: [f64; 2] = [2.0, 3.0];

/// The pieces of a model.
#[derive(Debug)]
pub struct Vocabulary {
    pieces: HashMap<String, u32>,
    scores: Vec<f32>,
    /// Token of each byte.
    bytes: Vec<u32>,
    begin: u32,
}

/// Two neighbours that may be joined.
#[derive(PartialEq)]
struct Join {
    score: f32,
    left: usize,
    right: usize,
    /// Length of the joined piece, in bytes: another one means that this join is out of date.
    length: usize,
}

impl Eq for Join {}

impl Ord for Join {
    fn cmp(&self, other: &Join) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Join {
    fn partial_cmp(&self, other: &Join) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A run of characters with its neighbours; `length` 0: joined to its left.
struct Part {
    start: usize,
    length: usize,
    left: Option<usize>,
    right: Option<usize>,
}

impl Vocabulary {
    /// The vocabulary of a model.
    ///
    /// # Errors
    /// `InvalidInput` where it is missing or has no bytes to fall back to, `Unsupported` for another kind of tokenizer.
    pub fn read(file: &Gguf) -> Result<Vocabulary> {
        let kind = file.text("tokenizer.ggml.model")?;
        if kind != "llama" {
            let what = format!("{}: tokenizer {kind:?}", file.path().display());
            return Err(Error::Unsupported { what, remedy: "give a model whose tokenizer is SentencePiece".into() });
        }
        let (texts, scores) = (file.texts("tokenizer.ggml.tokens")?, file.numbers("tokenizer.ggml.scores")?);
        let kinds = file.numbers("tokenizer.ggml.token_type")?;
        if texts.len() != scores.len() || texts.len() != kinds.len() {
            let found = format!("{} scores and {} kinds", scores.len(), kinds.len());
            return Err(Error::mismatch("scores and kinds of tokens", texts.len(), found));
        }
        let usable = (0..texts.len()).filter(|&i| !NOT_TEXT.contains(&kinds[i]));
        let pieces: HashMap<String, u32> = usable.map(|i| (texts[i].clone(), i as u32)).collect();
        let byte = |b: u8| {
            let absent = || Error::input(file.path(), "tokens", format!("there is none for the byte {b:#04x}"));
            pieces.get(&format!("<0x{b:02X}>")).copied().ok_or_else(absent)
        };
        let bytes = (0..=255).map(byte).collect::<Result<_>>()?;
        let begin = file.number("tokenizer.ggml.bos_token_id")? as u32;
        if begin as usize >= texts.len() {
            return Err(Error::mismatch("token that begins a text", format!("below {}", texts.len()), begin));
        }
        Ok(Vocabulary { pieces, scores: scores.iter().map(|&s| s as f32).collect(), bytes, begin })
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.scores.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.scores.is_empty()
    }

    /// The token that begins every text.
    pub fn begin(&self) -> u32 {
        self.begin
    }

    /// The tokens of a text, without the one that begins it.
    pub fn tokens(&self, text: &str) -> Vec<u32> {
        let text = text.replace(' ', "\u{2581}");
        let mut parts: Vec<Part> = Vec::new();
        for (start, c) in text.char_indices() {
            let at = parts.len();
            let left = at.checked_sub(1);
            parts.push(Part { start, length: c.len_utf8(), left, right: None });
            if let Some(left) = left {
                parts[left].right = Some(at);
            }
        }
        let mut joins = BinaryHeap::new();
        (1..parts.len()).for_each(|right| self.offer(&text, &parts, right - 1, right, &mut joins));
        while let Some(Join { left, right, length, .. }) = joins.pop() {
            let stale = parts[left].length == 0 || parts[right].length == 0;
            if stale || parts[left].length + parts[right].length != length {
                continue;
            }
            let after = parts[right].right;
            parts[left].length = length;
            parts[left].right = after;
            parts[right].length = 0;
            if let Some(after) = after {
                parts[after].left = Some(left);
                self.offer(&text, &parts, left, after, &mut joins);
            }
            if let Some(before) = parts[left].left {
                self.offer(&text, &parts, before, left, &mut joins);
            }
        }
        let mut out = Vec::new();
        for part in parts.iter().filter(|part| part.length > 0) {
            let piece = &text[part.start..part.start + part.length];
            match self.pieces.get(piece) {
                Some(&token) => out.push(token),
                None => out.extend(piece.bytes().map(|b| self.bytes[usize::from(b)])),
            }
        }
        out
    }

    fn offer(&self, text: &str, parts: &[Part], left: usize, right: usize, joins: &mut BinaryHeap<Join>) {
        let length = parts[left].length + parts[right].length;
        let piece = &text[parts[left].start..parts[left].start + length];
        if let Some(&token) = self.pieces.get(piece) {
            joins.push(Join { score: self.scores[token as usize], left, right, length });
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::gguf::tests::Writer;
    use super::*;

    /// Pieces of the made vocabulary after the control tokens and the 256 bytes, best first.
    const PIECES: [&str; 8] = ["ab", "\u{2581}a", "\u{2581}ab", "a", "b", "c", "\u{2581}", "bc"];
    pub(in super::super) const FIRST: u32 = 4 + 256;

    pub(in super::super) fn put_vocabulary(writer: &mut Writer) -> usize {
        let bytes: Vec<String> = (0..=255).map(|b| format!("<0x{b:02X}>")).collect();
        let mut texts = vec!["<pad>", "<eos>", "<bos>", "<unk>"];
        texts.extend(bytes.iter().map(String::as_str));
        texts.extend(PIECES);
        let scores: Vec<f32> = (0..texts.len()).map(|i| -(i as f32)).collect();
        let mut kinds = vec![3.0, 3.0, 3.0, 2.0];
        kinds.resize(texts.len(), 1.0);
        writer.text("tokenizer.ggml.model", "llama");
        writer.texts("tokenizer.ggml.tokens", &texts);
        writer.floats("tokenizer.ggml.scores", &scores);
        writer.floats("tokenizer.ggml.token_type", &kinds);
        writer.size("tokenizer.ggml.bos_token_id", 2);
        texts.len()
    }

    #[test]
    fn the_best_join_comes_first_and_bytes_stand_in() {
        let mut writer = Writer::default();
        put_vocabulary(&mut writer);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        std::fs::write(&path, writer.finish()).unwrap();
        let vocabulary = Vocabulary::read(&Gguf::open(&path).unwrap()).unwrap();
        // "ab" scores above "bc" and "_a": so "_ab" is reached through "ab", and "c" is left alone.
        assert_eq!(vocabulary.tokens(" abc"), [FIRST + 2, FIRST + 5]);
        assert_eq!(vocabulary.tokens("bc a"), [FIRST + 7, FIRST + 1]);
        assert_eq!(vocabulary.tokens("é"), [4 + 0xc3, 4 + 0xa9]);
        assert_eq!(vocabulary.tokens("<bos>").len(), 5, "control tokens are not made from text");
        assert!(vocabulary.tokens("").is_empty());
        assert_eq!((vocabulary.begin(), vocabulary.len()), (2, 268));
    }
}
