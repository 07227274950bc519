//! Sorted distinct strings: the place of a string is its ordinal.

use std::ops::Bound;

use super::meaning::{Meaning, is_above, is_below};

/// Sorted distinct strings in one piece of memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Dictionary {
    /// Where each string ends in the text.
    ends: Vec<u32>,
    text: String,
}

impl Dictionary {
    /// Of strings in any order, each once; None if they have more than 4 GiB together.
    pub(super) fn new(mut words: Vec<&str>) -> Option<Dictionary> {
        words.sort_unstable();
        let length: usize = words.iter().map(|word| word.len()).sum();
        let mut dictionary = Dictionary {
            ends: Vec::with_capacity(words.len()),
            text: String::with_capacity(u32::try_from(length).ok()? as usize),
        };
        for word in words {
            dictionary.text.push_str(word);
            dictionary.ends.push(dictionary.text.len() as u32);
        }
        Some(dictionary)
    }

    /// From a file's ends and text.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(super) fn from_parts(ends: Vec<u32>, text: Vec<u8>) -> Result<Dictionary, String> {
        let text = String::from_utf8(text).map_err(|_| "its text is not UTF-8")?;
        let mut start = 0;
        for &end in &ends {
            if end < start || !text.is_char_boundary(end as usize) {
                return Err(format!("a string from {start} to {end} is none"));
            }
            start = end;
        }
        if start as usize != text.len() {
            return Err(format!("its strings end at {start} of {}", text.len()));
        }
        let dictionary = Dictionary { ends, text };
        match (1..dictionary.len()).find(|&at| dictionary.get(at - 1) >= dictionary.get(at)) {
            Some(at) => Err(format!("string {at} is out of order")),
            None => Ok(dictionary),
        }
    }

    pub(super) fn ends(&self) -> &[u32] {
        &self.ends
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.ends.len() * 4 + self.text.len()
    }

    /// The string at a place.
    pub(super) fn get(&self, at: usize) -> Option<&str> {
        let end = *self.ends.get(at)? as usize;
        let start = if at == 0 { 0 } else { self.ends[at - 1] as usize };
        self.text.get(start..end)
    }

    /// The first place whose string is not `before`; strings that are come first.
    fn partition(&self, before: impl Fn(&str) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = (low + high) / 2;
            match self.get(middle).is_some_and(&before) {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        low
    }

    /// The place of a string.
    pub(super) fn find(&self, word: &str) -> Option<usize> {
        let at = self.partition(|known| known < word);
        (self.get(at) == Some(word)).then_some(at)
    }

    /// The places of strings that are what they must be, as ranges (ends included).
    pub(super) fn ranges(&self, meaning: &Meaning) -> Vec<(u64, u64)> {
        match meaning {
            Meaning::Ordered(_) => Vec::new(),
            Meaning::Words(words) => {
                words.iter().filter_map(|word| self.find(word)).map(|at| (at as u64, at as u64)).collect()
            }
            Meaning::Between(low, high) => self.between(low, high).into_iter().collect(),
        }
    }

    fn between(&self, low: &Bound<String>, high: &Bound<String>) -> Option<(u64, u64)> {
        let first = self.partition(|word| !is_above(low, word));
        let end = self.partition(|word| is_below(high, word));
        (first < end).then(|| (first as u64, end as u64 - 1))
    }
}
