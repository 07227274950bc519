//! Which document answers which query: pairs of row numbers, for training.

use std::path::Path;

use super::lines::Lines;
use crate::error::{Error, Result};

/// A query and a document that is relevant to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pair {
    /// Row of the query in the file of queries.
    pub query: u64,
    /// Row of the document in the file of documents.
    pub document: u64,
}

/// Reads `query row, document row`, or with a grade behind, separated by tabs or blanks; blank lines are skipped.
///
/// A pair of grade 0 or less is no pair. Row numbers must be below `queries` and `documents`, the numbers of rows of the
/// two files; `u64::MAX` stands for a number that is not known. Pairs keep the order of the file, repeated ones too.
///
/// # Errors
/// `Io`; `InvalidInput` naming the line that is no pair or names a row that is not there; a file without pairs is one.
pub fn read_pairs(path: &Path, queries: u64, documents: u64) -> Result<Vec<Pair>> {
    let mut lines = Lines::open(path, 4096)?;
    let mut pairs = Vec::new();
    while let Some(text) = lines.next_line()? {
        if text.trim().is_empty() {
            continue;
        }
        let found = match parse_pair(text) {
            Some((pair, grade)) => check_exists("query", "queries", pair.query, queries)
                .and_then(|()| check_exists("document", "documents", pair.document, documents))
                .map(|()| (grade > 0.0).then_some(pair)),
            None => Err(format!("{text:?} is not `query row <tab> document row`, with or without a grade behind")),
        };
        pairs.extend(found.map_err(|reason| lines.error(reason))?);
    }
    if pairs.is_empty() {
        return Err(Error::input(path, "the whole file", "no pairs (of a grade above 0): a pair a line is needed"));
    }
    Ok(pairs)
}

fn parse_pair(text: &str) -> Option<(Pair, f32)> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (query, document, grade) = match words[..] {
        [query, document] => (query, document, 1.0),
        [query, document, grade] => (query, document, grade.parse().ok()?),
        _ => return None,
    };
    f32::is_finite(grade).then_some(())?;
    Some((Pair { query: query.parse().ok()?, document: document.parse().ok()? }, grade))
}

fn check_exists(one: &str, many: &str, row: u64, rows: u64) -> Result<(), String> {
    // Row 2^64 - 1 is of no file, even where the number of rows is not known.
    if row < rows {
        return Ok(());
    }
    Err(format!("{one} row {row} does not exist: the file of {many} has {rows} rows, counted from 0"))
}
