//! The columns of an index in memory.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::encoding::Encoding;
use super::file;
use super::filter::Filter;
use super::meaning::translate;
use super::predicate::{Clause, Predicate};
use super::record::Record;
use super::summary::{ListSummary, summarise};
use super::{Attribute, Schema, Value};
use crate::error::Result;
use crate::format::{FileReader, Kind};
use crate::types::Row;
use crate::vfs::Vfs;

/// All columns of an index, in row order.
#[derive(Debug)]
pub struct Columns {
    schema: Schema,
    rows: usize,
    columns: Vec<Arc<Column>>,
    /// First row of each list, then the number of rows.
    list_starts: Arc<[Row]>,
}

/// One column.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) encoding: Encoding,
    pub(super) data: Data,
    pub(super) lists: Vec<ListSummary>,
}

/// What a column has of its rows.
pub(super) enum Data {
    U8(Vec<u8>),
    U16(Vec<u16>),
    U32(Vec<u32>),
    U64(Vec<u64>),
    Postings(Postings),
}

/// For each value the ascending rows that have it.
pub(super) struct Postings {
    /// Where the rows of each value start, then their number.
    starts: Vec<usize>,
    rows: Vec<Row>,
}

impl Postings {
    /// From the number of rows of each value, and the rows; checks all that the rest relies on.
    pub(super) fn from_parts(counts: &[u64], rows: Vec<Row>, index_rows: u64) -> Result<Postings, String> {
        let mut starts = Vec::with_capacity(counts.len() + 1);
        starts.push(0usize);
        for &count in counts {
            let end = usize::try_from(count).ok().and_then(|count| starts[starts.len() - 1].checked_add(count));
            starts.push(end.filter(|&end| end <= rows.len()).ok_or("its values have more rows than it holds")?);
        }
        if starts[counts.len()] != rows.len() {
            return Err(format!("its values have {} of its {} rows", starts[counts.len()], rows.len()));
        }
        let postings = Postings { starts, rows };
        for value in 0..counts.len() {
            let rows = postings.rows(value);
            if !rows.is_sorted_by(|a, b| a < b) || rows.last().is_some_and(|&row| u64::from(row) >= index_rows) {
                return Err(format!("the rows of value {value} do not ascend within the index"));
            }
        }
        Ok(postings)
    }

    pub(super) fn rows(&self, value: usize) -> &[Row] {
        &self.rows[self.starts[value]..self.starts[value + 1]]
    }

    /// The rows of a value within `first .. end`.
    pub(super) fn rows_within(&self, value: usize, first: Row, end: u64) -> &[Row] {
        let rows = self.rows(value);
        let rows = &rows[rows.partition_point(|&row| row < first)..];
        &rows[..rows.partition_point(|&row| u64::from(row) < end)]
    }

    pub(super) fn values(&self) -> usize {
        self.starts.len() - 1
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.memory_bytes())
    }
}

impl Data {
    /// The ordinal of a row; of a set there is none, which reads as null.
    #[inline]
    pub(super) fn ordinal(&self, row: usize) -> u64 {
        match self {
            Data::U8(ordinals) => u64::from(ordinals[row]),
            Data::U16(ordinals) => u64::from(ordinals[row]),
            Data::U32(ordinals) => u64::from(ordinals[row]),
            Data::U64(ordinals) => ordinals[row],
            Data::Postings(_) => u64::MAX,
        }
    }

    fn memory_bytes(&self) -> usize {
        match self {
            Data::U8(ordinals) => ordinals.len(),
            Data::U16(ordinals) => ordinals.len() * 2,
            Data::U32(ordinals) => ordinals.len() * 4,
            Data::U64(ordinals) => ordinals.len() * 8,
            Data::Postings(postings) => postings.starts.len() * 8 + postings.rows.len() * 4,
        }
    }
}

impl Column {
    /// A column without summaries.
    pub(super) fn new(encoding: Encoding, data: Data) -> Column {
        Column { encoding, data, lists: Vec::new() }
    }

    fn value(&self, row: Row) -> Value {
        match &self.data {
            Data::Postings(postings) => {
                let has = |value: &usize| postings.rows(*value).binary_search(&row).is_ok();
                let texts =
                    (0..postings.values()).filter(has).filter_map(|value| match self.encoding.value(value as u64) {
                        Value::Keyword(text) => Some(text),
                        _ => None,
                    });
                let texts: Vec<String> = texts.collect();
                if texts.is_empty() { Value::Null } else { Value::Keywords(texts) }
            }
            data => self.ordinal(data, row).map_or(Value::Null, |ordinal| self.encoding.value(ordinal)),
        }
    }

    #[inline]
    fn ordinal(&self, data: &Data, row: Row) -> Option<u64> {
        // Above every value's ordinal lies only null.
        Some(data.ordinal(row as usize)).filter(|&ordinal| Some(ordinal) <= self.encoding.largest())
    }
}

/// One column, for those who look at single rows.
#[derive(Clone, Copy, Debug)]
pub struct ColumnRef<'a>(&'a Column);

impl<'a> ColumnRef<'a> {
    /// Name and type.
    pub fn attribute(&self) -> &'a Attribute {
        &self.0.encoding.attribute
    }

    /// The ordinal of a row's value: equal for equal values, in the order of the values. None for a row without a value, and for
    /// every row of a set.
    ///
    /// # Panics
    /// If the index has no such row.
    #[inline]
    pub fn ordinal(&self, row: Row) -> Option<u64> {
        self.0.ordinal(&self.0.data, row)
    }

    /// The ordinal of a value, for those who compare a record outside of the index with its rows. None where no row of
    /// the index may have that value, and for null and sets.
    pub fn ordinal_of(&self, value: &Value) -> Option<u64> {
        self.0.encoding.ordinal(value).filter(|_| !self.0.encoding.is_set())
    }

    /// The value of a row. Of a set this is a search in the rows of every value.
    ///
    /// # Panics
    /// If the index has no such row.
    pub fn value(&self, row: Row) -> Value {
        self.0.value(row)
    }

    /// Bytes in memory.
    pub fn memory_bytes(&self) -> usize {
        self.0.data.memory_bytes() + self.0.encoding.memory_bytes() + self.0.lists.len() * size_of::<ListSummary>()
    }
}

impl Columns {
    /// Reads a file of columns into memory and checks it. `list_starts` are the first row of each list, then the number of
    /// rows; the summaries of the lists are made here.
    ///
    /// # Errors
    /// `Corrupt`, `Mismatch`, `Unsupported` and `Io`, as every file of an index.
    ///
    /// # Panics
    /// If `list_starts` is empty or does not ascend.
    pub fn open(vfs: &dyn Vfs, path: &Path, index_id: &[u8; 16], list_starts: &[Row]) -> Result<Columns> {
        assert!(list_starts.is_sorted(), "lists follow one another");
        let rows = list_starts[list_starts.len() - 1];
        let file = FileReader::open(vfs, path, Kind::Attributes, Some(index_id))?;
        let (schema, mut columns) = file::read(&file, u64::from(rows))?;
        for column in &mut columns {
            column.lists = summarise(column, list_starts);
        }
        let columns = columns.into_iter().map(Arc::new).collect();
        Ok(Columns { schema, rows: rows as usize, columns, list_starts: list_starts.into() })
    }

    /// Names and types.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The value of an attribute of a row; None if there is no such attribute or row.
    pub fn value(&self, name: &str, row: Row) -> Option<Value> {
        self.column(name).filter(|_| (row as usize) < self.rows).map(|column| column.value(row))
    }

    /// The column of an attribute, if it is filterable.
    pub fn column(&self, name: &str) -> Option<ColumnRef<'_>> {
        self.schema.place(name).map(|at| ColumnRef(&self.columns[at]))
    }

    /// Translates a filter into ordinals. Takes microseconds, and a search in a dictionary for each string.
    ///
    /// # Errors
    /// `InvalidParams` of `filter` whose reason begins with the place of the condition (`must/0: `): an unknown attribute (the
    /// nearest name is offered), a value of another type than the attribute's, a range where there is none, more than 64 conditions
    /// or 10,000 values.
    pub fn compile(&self, filter: &Filter) -> Result<Predicate> {
        let clause = |place: usize, meaning| Clause::new(self.columns[place].clone(), &meaning);
        let parts = translate(filter, &self.schema, clause)?;
        Ok(Predicate::new(self.rows, self.list_starts.clone(), parts))
    }

    /// Bytes in memory.
    pub fn memory_bytes(&self) -> usize {
        let columns: usize = self.columns.iter().map(|column| ColumnRef(column).memory_bytes()).sum();
        columns + self.list_starts.len() * size_of::<Row>()
    }

    /// Compares a row with the record that it should hold; `entries` counts what sets hold, for [`Columns::check_entries`].
    ///
    /// # Errors
    /// What differs.
    pub(crate) fn check_row(&self, row: Row, record: &Record, entries: &mut u64) -> Result<(), String> {
        for column in &self.columns {
            let name = &column.encoding.attribute.name;
            let due = record.get(name).unwrap_or(&Value::Null);
            let same = match (&column.data, due) {
                (Data::Postings(postings), Value::Keywords(texts)) => {
                    *entries += texts.len() as u64;
                    texts.iter().all(|text| {
                        let value = column.encoding.ordinal(&Value::Keyword(text.clone()));
                        value.is_some_and(|value| postings.rows(value as usize).binary_search(&row).is_ok())
                    })
                }
                // That it has no value follows from the count.
                (Data::Postings(_), due) => *due == Value::Null,
                _ => column.value(row) == *due,
            };
            if !same {
                return Err(format!("row {row}: attribute {name:?} is not {due:?}, as its record says"));
            }
        }
        Ok(())
    }

    /// Sets hold nothing beside what [`Columns::check_row`] has found in the records.
    ///
    /// # Errors
    /// The two numbers.
    pub(crate) fn check_entries(&self, entries: u64) -> Result<(), String> {
        let of = |column: &Arc<Column>| match &column.data {
            Data::Postings(postings) => postings.rows.len() as u64,
            _ => 0,
        };
        match self.columns.iter().map(of).sum::<u64>() {
            held if held == entries => Ok(()),
            held => Err(format!("sets hold {held} values, the records {entries}")),
        }
    }
}
