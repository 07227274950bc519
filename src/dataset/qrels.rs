//! Graded documents: which documents are relevant to which queries, in the forms that benchmarks publish.
//!
//! A line is `query document grade` or TREC's `query 0 document grade` (the second column is not looked at), separated by
//! tabs or blanks. Queries and documents are row numbers, or ids where [`Naming`] has files that map ids to rows.

use std::collections::HashMap;
use std::path::Path;

use super::lines::Lines;
use super::names::Names;
use crate::error::Result;

/// One line of a qrels file: how relevant a document is to a query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judgement {
    /// Row of the query in the file of queries.
    pub query: u64,
    /// Row of the document in the file of vectors.
    pub document: u64,
    /// Larger is more relevant; 0 or less is not.
    pub grade: f32,
}

/// Ids of queries and of documents, where lines hold ids; without them row numbers are read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Naming<'a> {
    /// Ids of the rows of the query file.
    pub queries: Option<&'a Names>,
    /// Ids of the rows of the vector file.
    pub documents: Option<&'a Names>,
}

/// Reads the judgements of a file, in its order.
///
/// # Errors
/// `Io`; `InvalidInput` naming the line with another number of columns, an unknown id, a grade that is no number, or a
/// pair that was judged before; an empty file is one.
pub fn read_qrels(path: &Path, naming: Naming<'_>) -> Result<Vec<Judgement>> {
    let mut lines = Lines::open(path, 4096)?;
    let (mut judgements, mut seen) = (Vec::new(), HashMap::new());
    let mut number = 0u64;
    while let Some(text) = lines.next_line()? {
        number += 1;
        if text.trim().is_empty() {
            continue;
        }
        let judgement = parse(text, naming).and_then(|j| match seen.insert((j.query, j.document), number) {
            Some(before) => Err(format!("{text:?} judges the pair of line {before} again; keep one of the two")),
            None => Ok(j),
        });
        judgements.push(judgement.map_err(|reason| lines.error(reason))?);
    }
    if judgements.is_empty() {
        return Err(lines.error("the file has no judgements"));
    }
    Ok(judgements)
}

fn parse(text: &str, naming: Naming<'_>) -> Result<Judgement, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (query, document, grade) = match words[..] {
        [query, document, grade] | [query, _, document, grade] => (query, document, grade),
        _ => {
            return Err(format!(
                "{text:?} has {} columns; `query document grade` has 3, TREC's `query 0 document grade` 4",
                words.len()
            ));
        }
    };
    let number = grade.parse().ok().filter(|grade: &f32| grade.is_finite());
    Ok(Judgement {
        query: row("query", query, naming.queries)?,
        document: row("document", document, naming.documents)?,
        grade: number.ok_or_else(|| format!("the grade {grade:?} in {text:?} is not a finite number"))?,
    })
}

/// The row that a word stands for: that of the id, or the number itself where there are no ids.
fn row(what: &str, word: &str, names: Option<&Names>) -> Result<u64, String> {
    match names {
        Some(names) => names.row(word).ok_or_else(|| {
            format!(
                "{what} {word:?} is not in {}; take the line out or give the ids of all rows",
                names.path().display()
            )
        }),
        None => word.parse().map_err(|_| {
            format!("{what} {word:?} is not a row number, counted from 0; if it is an id, give --{what}-ids")
        }),
    }
}
