//! Pairs of texts that belong together.

use std::path::Path;

use super::lines::Lines;
use crate::error::{Error, Result};

/// Longest line, in bytes.
const LINE: usize = 1 << 22;

/// A query and a document that is relevant to it, as texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextPair {
    /// The query.
    pub query: String,
    /// The document.
    pub document: String,
    /// What must not be torn apart when pairs are split for training and test, such as a source, where a third field names one.
    pub group: Option<String>,
}

/// Reads pairs: query, tab, document, and perhaps a tab and a group. Blank lines are skipped.
///
/// # Errors
/// `Io`; `InvalidInput` naming the line that is no pair; a file without pairs is one.
pub fn read_text_pairs(path: &Path) -> Result<Vec<TextPair>> {
    let mut lines = Lines::open(path, LINE)?;
    let mut pairs = Vec::new();
    while let Some(text) = lines.next_line()? {
        if text.trim().is_empty() {
            continue;
        }
        let fields: Vec<&str> = text.split('\t').map(str::trim).collect();
        let (query, document, group) = match fields[..] {
            [query, document] => (query, document, None),
            [query, document, group] => (query, document, Some(group.to_string()).filter(|group| !group.is_empty())),
            _ => {
                let reason = format!("{} fields; it must be `query <tab> document`, or with a group", fields.len());
                return Err(lines.error(reason));
            }
        };
        if query.is_empty() || document.is_empty() {
            return Err(lines.error("a pair with an empty text; remove the line"));
        }
        pairs.push(TextPair { query: query.into(), document: document.into(), group });
    }
    match pairs.is_empty() {
        true => Err(Error::input(path, "the whole file", "no pairs: `query <tab> document`, one a line, is needed")),
        false => Ok(pairs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_read_and_refused_with_the_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pairs.tsv");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read_text_pairs(&path)
        };
        let pairs = read("red shoe\tA shoe, red.\n\nblue\tsky\tg1\n").unwrap();
        assert_eq!((pairs.len(), pairs[0].group.as_deref(), pairs[1].group.as_deref()), (2, None, Some("g1")));
        for (text, expected) in
            [("a\tb\nc", "line 2"), ("a\t \n", "line 1"), ("\n", "no pairs"), ("a\tb\tc\td", "4 fields")]
        {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
