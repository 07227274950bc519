//! Attributes: typed columns in row order that filters are evaluated on.
//!
//! The easy version keeps the records and asks each of them. A scan looks at millions of rows a query, so:
//! 1. **Every single-valued column is unsigned ordinals** of the narrowest width that holds them (1, 2, 4 or 8 bytes a row),
//!    in the order of the values: a keyword is its place in a sorted dictionary, a number is its distance from the least
//!    number of the column, false and true are 0 and 1. A row without a value has the largest ordinal of the width, which is
//!    never given to a value. So every condition is a union of ranges of ordinals, whatever the type, and one kernel a
//!    width ([`crate::simd::Kernels::between_u8`] and its kin) answers all of them, 64 rows a word.
//! 2. **Sets of keywords are postings**: for each value the ascending rows that have it. A condition on a run of rows is a
//!    binary search and a few bits to set.
//! 3. **Every list has a summary of every column** (least and largest ordinal, and a 64-bit signature of the ordinals), so that
//!    whole lists are passed over ([`Predicate::may_pass`]).
//! 4. **Records outside of an index** (new documents) are asked by the same translation of conditions ([`RecordFilter`]), so
//!    both agree.
//!
//! What a condition means: one on a row without a value does not hold, whatever it asks (so `must_not` lets that row pass).
//! Strings are compared by their bytes. Integers run from -(2^63 - 1) to 2^63 - 1; a fractional bound of a range of integers
//! means what it means for numbers. In a column of floats an integer is the nearest 64-bit float; -0 is 0.
//!
//! Columns are made in two passes over the records ([`Survey`], then [`ColumnsWriter`]), because widths and dictionaries must be
//! known before the first ordinal is written; neither holds more than the dictionaries in memory.

mod columns;
mod dictionary;
mod encoding;
mod file;
mod filter;
mod meaning;
mod predicate;
mod record;
mod summary;
mod survey;
#[cfg(test)]
mod tests;
mod writer;

pub use columns::{ColumnRef, Columns};
pub use filter::{Condition, Filter, Range, Scalar, Test};
pub use predicate::{Predicate, PredicateScratch};
pub use record::{Record, RecordFilter, matches, parse_record};
pub use survey::{Declared, Layout, Survey, TextColumn, parse_declared};
pub use writer::ColumnsWriter;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::types::names;

/// The most filterable columns of an index.
pub const MAX_COLUMNS: usize = 100;
/// The longest keyword that a column may hold, in bytes. (Where nothing is declared, longer strings than
/// [`INFERRED_KEYWORD`] make a column text.)
pub const MAX_KEYWORD: usize = 1024;
/// A string longer than this is taken for text, which is returned but not filtered by, unless it is declared a keyword.
pub const INFERRED_KEYWORD: usize = 64;

/// Type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttributeType {
    /// One string, compared as a whole.
    Keyword,
    /// A signed integer of 64 bits (but not -2^63).
    Integer,
    /// A finite float of 64 bits.
    Float,
    /// True or false.
    Boolean,
    /// A set of strings.
    Keywords,
}

names!(
    AttributeType, "attribute_types",
    AttributeType::Keyword => "keyword", AttributeType::Integer => "integer", AttributeType::Float => "float",
    AttributeType::Boolean => "boolean", AttributeType::Keywords => "keywords"
);

/// The value of one attribute of one record.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// None: the attribute is missing, null or an empty set.
    Null,
    /// A string.
    Keyword(String),
    /// An integer.
    Integer(i64),
    /// A finite float.
    Float(f64),
    /// True or false.
    Boolean(bool),
    /// A set: sorted, every string once, at least one.
    Keywords(Vec<String>),
}

/// Name and type of a column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attribute {
    /// Name, as in the records.
    pub name: String,
    /// Type.
    #[serde(rename = "type")]
    pub kind: AttributeType,
}

/// The filterable attributes of an index, by name, and the names of those that are only returned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schema {
    attributes: Vec<Attribute>,
    text: Vec<String>,
}

impl Schema {
    /// A schema of these attributes; `text` names what is returned but not filtered by. Both are sorted by name.
    ///
    /// # Errors
    /// `InvalidParams` for a name that is empty or comes twice, and for more than [`MAX_COLUMNS`] attributes.
    pub fn new(mut attributes: Vec<Attribute>, mut text: Vec<String>) -> Result<Schema> {
        attributes.sort_by(|a, b| a.name.cmp(&b.name));
        text.sort();
        let schema = Schema { attributes, text };
        schema.check().map_err(|reason| Error::params("attribute_types", reason))?;
        Ok(schema)
    }

    /// What no schema may be; a file may hold anything.
    fn check(&self) -> Result<(), String> {
        if self.attributes.len() > MAX_COLUMNS {
            let reason =
                "columns are more than the 100 of one index; declare some as text (--attribute-types name:text)";
            return Err(format!("{} {reason}", self.attributes.len()));
        }
        let mut names: Vec<&str> = self.names().chain(self.text.iter().map(String::as_str)).collect();
        if !self.attributes.is_sorted_by(|a, b| a.name < b.name) || !self.text.is_sorted() {
            return Err("its names are out of order or repeated".into());
        }
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            _ if names.first() == Some(&"") => Err("an attribute has an empty name".into()),
            Some(pair) => Err(format!("attribute {:?} comes twice", pair[0])),
            None => Ok(()),
        }
    }

    /// Everything as it is, declared: so that columns made of other records are of the same types.
    pub fn declared(&self) -> BTreeMap<String, Declared> {
        let typed = self.attributes.iter().map(|attribute| (attribute.name.clone(), Declared::Type(attribute.kind)));
        typed.chain(self.text.iter().map(|name| (name.clone(), Declared::Text))).collect()
    }

    /// The filterable attributes, sorted by name.
    pub fn attributes(&self) -> &[Attribute] {
        &self.attributes
    }

    /// Names of what records hold beside them: returned, not filtered by.
    pub fn text(&self) -> &[String] {
        &self.text
    }

    /// Type of a filterable attribute.
    pub fn kind(&self, name: &str) -> Option<AttributeType> {
        self.place(name).map(|at| self.attributes[at].kind)
    }

    /// Place of a filterable attribute.
    fn place(&self, name: &str) -> Option<usize> {
        self.attributes.binary_search_by(|attribute| attribute.name.as_str().cmp(name)).ok()
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.attributes.iter().map(|attribute| attribute.name.as_str())
    }

    /// Why `name` cannot be filtered by, and what was perhaps meant.
    fn unknown(&self, name: &str) -> String {
        if self.text.iter().any(|text| text == name) {
            return format!(
                "attribute {name:?} is text: it is returned, not filtered by; declare a type when building"
            );
        }
        let similarity = |known: &str| strsim::normalized_damerau_levenshtein(name, known);
        let nearest = self.names().max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
        match nearest.filter(|known| similarity(known) >= 0.5) {
            Some(known) => format!("there is no attribute {name:?}; did you mean {known:?}?"),
            None if self.attributes.is_empty() => format!("there is no attribute {name:?}: the index has none"),
            None => {
                let names = self.names().take(20).collect::<Vec<_>>().join(", ");
                format!("there is no attribute {name:?}; there are {names}")
            }
        }
    }
}
