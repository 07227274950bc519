//! What rows are called: keys within the index, ids in the files of others.

use bigrain::dataset::{KeyFile, Names, Naming};
use bigrain::error::Result;
use bigrain::types::Key;
use std::borrow::Cow;
use std::path::Path;

/// Keys and ids of the rows of a file of queries and a file of documents. Where there are neither, row numbers stand for
/// both.
#[derive(Debug)]
pub struct Rows {
    queries: u64,
    documents: u64,
    /// By row.
    keys: Option<Vec<Key>>,
    /// Keys with their rows, ascending.
    of_keys: Vec<(Key, u64)>,
    query_ids: Option<Names>,
    document_ids: Option<Names>,
}

impl Rows {
    /// Files of so many rows.
    pub fn new(queries: u64, documents: u64) -> Rows {
        Rows { queries, documents, keys: None, of_keys: Vec::new(), query_ids: None, document_ids: None }
    }

    /// The same with the keys that documents were indexed under.
    ///
    /// # Errors
    /// As [`KeyFile`].
    pub fn with_keys(self, path: &Path) -> Result<Rows> {
        let mut file = KeyFile::open(path, self.documents)?;
        let mut keys = vec![0; self.documents as usize];
        file.read(&mut keys)?;
        let mut of_keys: Vec<(Key, u64)> = keys.iter().copied().zip(0..).collect();
        of_keys.sort_unstable();
        Ok(Rows { keys: Some(keys), of_keys, ..self })
    }

    /// The same with the ids of files that were given.
    ///
    /// # Errors
    /// As [`Names::read`].
    pub fn with_ids(self, queries: Option<&Path>, documents: Option<&Path>) -> Result<Rows> {
        let query_ids = queries.map(|path| Names::read(path, self.queries)).transpose()?;
        let document_ids = documents.map(|path| Names::read(path, self.documents)).transpose()?;
        Ok(Rows { query_ids, document_ids, ..self })
    }

    /// From ids to rows.
    pub fn naming(&self) -> Naming<'_> {
        Naming { queries: self.query_ids.as_ref(), documents: self.document_ids.as_ref() }
    }

    /// The key of a document's row; the largest one where there is no such row, which no document has.
    pub fn key(&self, row: u64) -> Key {
        match &self.keys {
            Some(keys) => usize::try_from(row).ok().and_then(|row| keys.get(row)).copied().unwrap_or(Key::MAX),
            None => row,
        }
    }

    /// What a query is called: its id, or its row number.
    pub fn query(&self, row: u64) -> Cow<'_, str> {
        name(self.query_ids.as_ref(), row)
    }

    /// What the document with a key is called: its id, or its row number.
    pub fn document(&self, key: Key) -> Cow<'_, str> {
        let at = self.of_keys.partition_point(|&(other, _)| other < key);
        let row = self.of_keys.get(at).filter(|found| found.0 == key).map_or(key, |found| found.1);
        name(self.document_ids.as_ref(), row)
    }
}

fn name(names: Option<&Names>, row: u64) -> Cow<'_, str> {
    match names.and_then(|names| names.name(row)) {
        Some(name) => Cow::Borrowed(name),
        None => Cow::Owned(row.to_string()),
    }
}
