//! Rows of the base in ascending order, read many at once.

use crate::dense::{FetchScratch, RecordLayout};
use crate::error::Result;
use crate::index::Index;
use crate::types::Row;

/// Dense records that are read at once.
const READ_ROWS: usize = 4_096;
/// What a document without a record returns.
pub(super) const NO_RECORD: &str = "{}";

/// Dense records of an index.
pub(super) struct BaseRecords<'a> {
    base: &'a Index,
    stride: usize,
    scratch: FetchScratch,
    /// The first row of `records`, and the records from it on.
    first: Row,
    records: Vec<u8>,
}

impl<'a> BaseRecords<'a> {
    pub(super) fn new(base: &'a Index, layout: RecordLayout) -> BaseRecords<'a> {
        BaseRecords { base, stride: layout.stride(), scratch: FetchScratch::default(), first: 0, records: Vec::new() }
    }

    /// The record of a row.
    pub(super) fn get(&mut self, row: Row) -> Result<&[u8]> {
        if (row - self.first) as usize * self.stride >= self.records.len() {
            self.read(row)?;
        }
        Ok(&self.records[(row - self.first) as usize * self.stride..][..self.stride])
    }

    fn read(&mut self, first: Row) -> Result<()> {
        let end = self.base.manifest().rows.min(u64::from(first) + READ_ROWS as u64) as Row;
        let rows: Vec<Row> = (first..end).collect();
        self.first = first;
        self.records.resize(rows.len() * self.stride, 0);
        let (records, stride) = (&mut self.records, self.stride);
        self.base.dense().for_each_once(&rows, &mut self.scratch, &mut |at, record| {
            records[at * stride..][..stride].copy_from_slice(record.bytes());
        })?;
        Ok(())
    }
}

/// Records of an index as text; empty objects where it was given none.
pub(super) struct BaseTexts<'a> {
    base: &'a Index,
    /// The first row of `texts`, and the texts from it on.
    first: Row,
    texts: Vec<String>,
}

impl<'a> BaseTexts<'a> {
    pub(super) fn new(base: &'a Index) -> BaseTexts<'a> {
        BaseTexts { base, first: 0, texts: Vec::new() }
    }

    /// The JSON object of a row.
    pub(super) fn get(&mut self, row: Row) -> Result<&str> {
        if (row - self.first) as usize >= self.texts.len() {
            match self.base.fields_near(row)? {
                Some((first, texts)) => (self.first, self.texts) = (first, texts),
                None => return Ok(NO_RECORD),
            }
        }
        Ok(&self.texts[(row - self.first) as usize])
    }
}
