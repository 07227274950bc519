//! Retrieval by words: BM25 (Robertson and Zaragoza, 2009), to compare with.
//!
//! `score(q, d) = sum over words of q: idf * f (k1 + 1) / (f + k1 (1 - b + b |d| / mean))`, where `f` counts the word in `d` and
//! `idf = ln(1 + (N - n + 0.5) / (n + 0.5))` for a word in `n` of `N` texts.

use std::collections::HashMap;

const K1: f32 = 1.2;
const B: f32 = 0.75;

/// Texts, ready to be found by their words.
#[derive(Debug, Clone)]
pub struct Lexical {
    /// For each word, the texts that have it and how often.
    postings: HashMap<String, Vec<(u32, f32)>>,
    /// The part of the denominator that a text decides.
    lengths: Vec<f32>,
}

impl Lexical {
    /// Indexes texts by their words: runs of letters and digits, in lower case.
    pub fn new(texts: impl IntoIterator<Item = impl AsRef<str>>) -> Lexical {
        let (mut postings, mut lengths) = (HashMap::<String, Vec<(u32, f32)>>::new(), Vec::new());
        for (text, number) in texts.into_iter().zip(0u32..) {
            let mut counts: HashMap<String, f32> = HashMap::new();
            words(text.as_ref()).for_each(|word| *counts.entry(word).or_default() += 1.0);
            lengths.push(counts.values().sum::<f32>());
            counts.into_iter().for_each(|(word, count)| postings.entry(word).or_default().push((number, count)));
        }
        let mean = (lengths.iter().sum::<f32>() / lengths.len().max(1) as f32).max(1.0);
        lengths.iter_mut().for_each(|length| *length = K1 * (1.0 - B + B * *length / mean));
        Lexical { postings, lengths }
    }

    /// The best `k` texts for `query`, best first, ties by number; those that share no word with it are not among them.
    pub fn best(&self, query: &str, k: usize) -> Vec<(u32, f32)> {
        let mut scores = vec![0f32; self.lengths.len()];
        let total = self.lengths.len() as f32;
        for word in words(query) {
            let Some(postings) = self.postings.get(&word) else { continue };
            let n = postings.len() as f32;
            let idf = (1.0 + (total - n + 0.5) / (n + 0.5)).ln();
            for &(number, count) in postings {
                scores[number as usize] += idf * count * (K1 + 1.0) / (count + self.lengths[number as usize]);
            }
        }
        let mut found: Vec<(u32, f32)> = (0u32..).zip(scores).filter(|(_, score)| *score > 0.0).collect();
        found.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        found.truncate(k);
        found
    }
}

fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rare_words_and_short_texts_count_more() {
        let texts = ["the red shoe", "the blue shoe", "the old red hat of the old man", "nothing here"];
        let index = Lexical::new(texts);
        let found = |query: &str| index.best(query, 9).iter().map(|hit| hit.0).collect::<Vec<_>>();
        assert_eq!(found("RED"), [0, 2]);
        assert_eq!(found("blue, shoe!"), [1, 0]);
        assert!(found("green").is_empty() && index.best("the", 2).len() == 2);
        // By hand: "blue" is in one of four texts, once in a text of three words; the mean is 16 / 4.
        let idf = (1.0f32 + 3.5 / 1.5).ln();
        let expected = idf * 2.2 / (1.0 + 1.2 * (0.25 + 0.75 * 3.0 / 4.0));
        assert!((index.best("blue", 1)[0].1 - expected).abs() < 1e-5);
    }
}
