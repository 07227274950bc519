//! Pairs of texts, each text once, split by group.
//!
//! Texts that a vocabulary trained here reads alike ([`plain_text`]) are one text: were they two, the same vector would be learned
//! from and measured on.

use std::collections::HashMap;
use std::path::Path;

use crate::dataset::{TextPair, read_text_pairs};
use crate::encoder::{Vocabulary, plain_text};
use crate::error::{Error, Result};
use crate::train::{Example, TextExamples, Texts};

/// Distinct texts and their pairs.
#[derive(Debug)]
pub(super) struct TextData {
    pub(super) queries: Vec<String>,
    pub(super) documents: Vec<String>,
    train: Vec<Example>,
    valid: Vec<Example>,
    /// Pairs that are measured at the end.
    pub(super) test: Vec<Example>,
    /// Pairs between two of these parts: neither learned from nor measured on, but never taken for wrong either.
    known: Vec<Example>,
}

/// Where a pair goes; of a text that is in several, the last one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Train,
    Valid,
    Test,
}

impl TextData {
    /// Reads pairs and holds out shares of their groups. Documents stay in the corpus wherever their pairs go; pairs whose query or
    /// document is held out by another pair are learned from no more.
    pub(super) fn read(path: &Path, valid_share: f64, test_share: f64) -> Result<TextData> {
        let pairs = read_text_pairs(path)?;
        let part_of = |pair: &TextPair| {
            let group = pair.group.clone().unwrap_or_else(|| plain_text(&pair.document));
            let hash = blake3::hash(group.as_bytes());
            let bits = u32::from_le_bytes(*hash.as_bytes().first_chunk().expect("32 bytes"));
            let at = f64::from(bits) / 2f64.powi(32);
            match at {
                at if at < test_share => Part::Test,
                at if at < test_share + valid_share => Part::Valid,
                _ => Part::Train,
            }
        };
        let parts: Vec<Part> = pairs.iter().map(part_of).collect();
        let (queries, query_of) = distinct(pairs.iter().map(|p| &*p.query));
        let (documents, document_of) = distinct(pairs.iter().map(|p| &*p.document));
        let mut query_parts = vec![Part::Train; queries.len()];
        let mut document_parts = vec![Part::Train; documents.len()];
        for (i, &part) in parts.iter().enumerate() {
            for part_of_text in [&mut query_parts[query_of[i] as usize], &mut document_parts[document_of[i] as usize]] {
                *part_of_text = part.max(*part_of_text);
            }
        }
        let (train, valid, test, known) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut data = TextData { queries, documents, train, valid, test, known };
        for (i, &part) in parts.iter().enumerate() {
            let example = Example { query: query_of[i], document: document_of[i] };
            let [query, document] = [query_parts[query_of[i] as usize], document_parts[document_of[i] as usize]];
            match part {
                _ if query != part || document != part => data.known.push(example),
                Part::Train => data.train.push(example),
                Part::Valid => data.valid.push(example),
                Part::Test => data.test.push(example),
            }
        }
        for pairs in [&mut data.train, &mut data.valid, &mut data.test, &mut data.known] {
            pairs.sort_unstable();
            pairs.dedup();
        }
        if data.train.is_empty() || data.valid.is_empty() {
            let reason = format!(
                "of {} pairs {} are left for training and {} for validation; give more pairs, or other shares than {valid_share} and {test_share}",
                pairs.len(),
                data.train.len(),
                data.valid.len()
            );
            return Err(Error::params("pairs", reason));
        }
        Ok(data)
    }

    /// Every document, and the queries that are learned from.
    pub(super) fn seen(&self) -> Vec<&str> {
        let mut queries: Vec<u32> = self.train.iter().map(|p| p.query).collect();
        queries.dedup();
        let queries = queries.into_iter().map(|q| &*self.queries[q as usize]);
        self.documents.iter().map(String::as_str).chain(queries).collect()
    }

    /// As a vocabulary reads it.
    pub(super) fn examples(&self, vocabulary: &Vocabulary) -> Result<TextExamples> {
        Ok(TextExamples {
            queries: Texts::new(&vocabulary.tokens(&self.queries)?),
            documents: Texts::new(&vocabulary.tokens(&self.documents)?),
            train: self.train.clone(),
            valid: self.valid.clone(),
            known: self.known.clone(),
        })
    }
}

/// Distinct texts as they first appear, in that order, and the number of each.
fn distinct<'a>(texts: impl Iterator<Item = &'a str>) -> (Vec<String>, Vec<u32>) {
    let mut numbers: HashMap<String, u32> = HashMap::new();
    let (mut all, mut of) = (Vec::new(), Vec::new());
    for text in texts {
        of.push(*numbers.entry(plain_text(text)).or_insert_with(|| {
            all.push(text.to_string());
            all.len() as u32 - 1
        }));
    }
    (all, of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_stay_together_and_nothing_of_the_test_is_learned_from() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pairs.tsv");
        let lines: Vec<String> =
            (0..600).map(|i| format!("query {}\tdocument {i}\tgroup {}\n", i % 500, i / 4)).collect();
        std::fs::write(&path, lines.concat()).unwrap();
        let data = TextData::read(&path, 0.1, 0.2).unwrap();
        assert_eq!((data.queries.len(), data.documents.len()), (500, 600));
        let group = |p: &Example| p.document / 4;
        let all: Vec<(usize, &Example)> = [&data.train, &data.valid, &data.test]
            .into_iter()
            .enumerate()
            .flat_map(|(i, p)| p.iter().map(move |p| (i, p)))
            .collect();
        for (part, pair) in &all {
            for (other_part, other) in &all {
                let shared = pair.query == other.query || group(pair) == group(other);
                assert!(!shared || part == other_part, "{pair:?} {other:?}");
            }
        }
        assert!(data.test.len() > 60 && data.valid.len() > 20 && data.train.len() > 300);
        let read = data.test.len() + data.valid.len() + data.train.len();
        assert_eq!((data.known.len(), data.known.is_empty()), (600 - read, false), "no pair is forgotten");
        let few = TextData::read(&path, 0.0, 0.2).unwrap_err().to_string();
        assert!(few.contains("0 for validation"), "{few}");
    }

    #[test]
    fn texts_that_read_alike_are_one_text_of_one_part() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pairs.tsv");
        let line = |i: usize| match i % 2 {
            0 => format!("Query {}\tNike  Shoes {}\n", i / 2, i / 2),
            _ => format!("query {}\tnike shoes {}\n", i / 2, i / 2),
        };
        std::fs::write(&path, (0..400).map(line).collect::<String>()).unwrap();
        let data = TextData::read(&path, 0.2, 0.2).unwrap();
        assert_eq!((data.queries.len(), data.documents.len()), (200, 200));
        assert_eq!(data.train.len() + data.valid.len() + data.test.len(), 200);
        assert_eq!((&*data.queries[0], data.known.len()), ("Query 0", 0));
    }
}
