//! The first pass over the records: types, widths and dictionaries.
//!
//! What nobody declared is inferred: integers, integers and floats together (floats), booleans, strings, arrays of strings.
//! Two of these in one column are an error that names a row of each. Long strings, objects and other arrays make a column
//! text, and so does having no value at all; the report says why.

use serde::Serialize;
use serde_json::{Map, Value as Json};
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::dictionary::Dictionary;
use super::encoding::{Encoding, OrdinalMap};
use super::meaning::ordered;
use super::record::{integer, parse_value};
use super::{Attribute, AttributeType, INFERRED_KEYWORD, Schema, Value};
use crate::error::{Error, Result};

/// What a distinct string costs beside its bytes while it is looked up.
const WORD_COST: u64 = 64;
/// More names than this are not names, but values.
const MOST_NAMES: usize = 1_000;

/// What a column was declared to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Declared {
    /// Returned with hits, not filtered by.
    Text,
    /// Filterable, of this type.
    Type(AttributeType),
}

impl FromStr for Declared {
    type Err = Error;

    fn from_str(text: &str) -> Result<Declared> {
        match text {
            "text" => Ok(Declared::Text),
            other => AttributeType::from_str(other).map(Declared::Type).map_err(|_| {
                let types = "keyword, integer, float, boolean, keywords (a set) and text (not filterable)";
                Error::params("attribute_types", format!("{other:?} is none of {types}"))
            }),
        }
    }
}

/// The declarations of a text such as `price:float,title:text`.
///
/// # Errors
/// `InvalidParams` for a declaration without a colon, an unknown type, and a name that comes twice.
pub fn parse_declared(text: &str) -> Result<BTreeMap<String, Declared>> {
    let mut declared = BTreeMap::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        // The type is behind the last colon; names may have some of their own.
        let (name, kind) = item.rsplit_once(':').ok_or_else(|| {
            Error::params("attribute_types", format!("{item:?} is not NAME:TYPE, such as price:float"))
        })?;
        if declared.insert(name.trim().to_string(), kind.trim().parse()?).is_some() {
            return Err(Error::params("attribute_types", format!("{name:?} is declared twice")));
        }
    }
    Ok(declared)
}

/// A column that is returned, but not filtered by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TextColumn {
    /// Name.
    pub name: String,
    /// Why, for people.
    pub reason: String,
}

/// What the columns of an index will be: the result of the first pass.
#[derive(Clone, Debug)]
pub struct Layout {
    pub(super) encodings: Vec<Encoding>,
    pub(super) text: Vec<TextColumn>,
    schema: Schema,
}

impl Layout {
    /// Names and types.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Columns that will not be filterable, and why.
    pub fn text(&self) -> &[TextColumn] {
        &self.text
    }

    /// Bytes of an attribute in memory a row; of a set, whose rows differ, None.
    pub fn bytes_per_row(&self, attribute: usize) -> Option<usize> {
        self.encodings.get(attribute).filter(|encoding| !encoding.is_set()).map(|encoding| encoding.width().bytes())
    }

    /// Distinct strings of an attribute of strings.
    pub fn distinct(&self, attribute: usize) -> Option<usize> {
        match &self.encodings.get(attribute)?.ordinals {
            OrdinalMap::Words(words) => Some(words.len()),
            OrdinalMap::Numbers { .. } => None,
        }
    }

    /// Bytes of the dictionaries.
    pub fn memory_bytes(&self) -> usize {
        self.encodings.iter().map(Encoding::memory_bytes).sum()
    }
}

/// The kinds of values that are told apart.
const KINDS: [AttributeType; 5] = [
    AttributeType::Boolean,
    AttributeType::Integer,
    AttributeType::Float,
    AttributeType::Keyword,
    AttributeType::Keywords,
];

/// What has been seen of one column.
#[derive(Debug, Default)]
struct Seen {
    declared: Option<Declared>,
    /// First row with a value of each of [`KINDS`].
    first: [Option<u64>; 5],
    /// Why it is text.
    opaque: Option<String>,
    integers: Option<(i64, i64)>,
    floats: Option<(f64, f64)>,
    words: HashSet<String>,
}

/// The first pass over the records.
#[derive(Debug)]
pub struct Survey {
    path: PathBuf,
    columns: BTreeMap<String, Seen>,
    rows: u64,
    /// Bytes of distinct strings, and how many there may be.
    bytes: u64,
    budget: u64,
}

impl Survey {
    /// A survey of the records of `path` (for messages) that may hold `budget` bytes of distinct strings.
    pub fn new(path: &Path, declared: &BTreeMap<String, Declared>, budget: u64) -> Survey {
        let column = |(name, declared): (&String, &Declared)| {
            (name.clone(), Seen { declared: Some(*declared), ..Seen::default() })
        };
        Survey { path: path.into(), columns: declared.iter().map(column).collect(), rows: 0, bytes: 0, budget }
    }

    /// Takes in the next record.
    ///
    /// # Errors
    /// `InvalidInput` that names the row and the value: not of the declared type, an integer beyond 64 bits, more names than columns
    /// can have; `InvalidParams` of `memory_limit` where distinct strings outgrow the budget.
    pub fn add(&mut self, record: &Map<String, Json>) -> Result<()> {
        let row = self.rows;
        self.rows += 1;
        for (name, value) in record {
            if !self.columns.contains_key(name) {
                if self.columns.len() == MOST_NAMES {
                    let reason = format!("{name:?} is one of more than {MOST_NAMES} names; are names the data here?");
                    return Err(Error::input(&self.path, format!("row {row}"), reason));
                }
                self.columns.insert(name.clone(), Seen::default());
            }
            let column = self.columns.get_mut(name).expect("just inserted");
            self.bytes += column.add(row, value).map_err(|reason| {
                Error::input(&self.path, format!("row {row}"), format!("attribute {name:?}: {reason}"))
            })?;
            if self.bytes > self.budget {
                let reason = format!(
                    "the distinct strings of attributes up to row {row} (last {name:?}) need more than {} MiB; raise it, or declare \
                     attributes of many values as text",
                    self.budget >> 20
                );
                return Err(Error::params("memory_limit", reason));
            }
        }
        Ok(())
    }

    /// Undeclared columns that hold both strings and other scalars: in a table, whose cells have no types, all of them were meant
    /// as strings.
    pub fn mixed_with_strings(&self) -> Vec<String> {
        let is_mixed = |seen: &Seen| {
            let [boolean, integer, float, keyword, _] = seen.first;
            seen.declared.is_none() && keyword.is_some() && (boolean.is_some() || integer.is_some() || float.is_some())
        };
        self.columns.iter().filter(|(_, seen)| is_mixed(seen)).map(|(name, _)| name.clone()).collect()
    }

    /// What the columns will be.
    ///
    /// # Errors
    /// `InvalidInput` for a column of mixed types, naming two rows; `InvalidParams` for more columns than an index has.
    pub fn finish(self) -> Result<Layout> {
        let (mut encodings, mut text) = (Vec::new(), Vec::new());
        for (name, seen) in self.columns {
            let found = seen.kind().map_err(|(row, reason)| {
                let reason = format!(
                    "attribute {name:?} {reason}; make them one type, or declare it: --attribute-types {name}:text"
                );
                Error::input(&self.path, format!("row {row}"), reason)
            })?;
            match found {
                Ok(kind) => encodings.push(seen.encoding(Attribute { name, kind })?),
                Err(reason) => text.push(TextColumn { name, reason }),
            }
        }
        let attributes = encodings.iter().map(|encoding: &Encoding| encoding.attribute.clone()).collect();
        let schema = Schema::new(attributes, text.iter().map(|column| column.name.clone()).collect())?;
        Ok(Layout { encodings, text, schema })
    }
}

impl Seen {
    /// Takes in a value; the bytes that it costs.
    fn add(&mut self, row: u64, json: &Json) -> Result<u64, String> {
        match self.declared {
            Some(Declared::Text) => Ok(0),
            Some(Declared::Type(kind)) => parse_value(kind, json).map(|value| self.count(value)),
            None => {
                let Some((kind, value)) = classify(json)? else { return Ok(0) };
                let at = KINDS.iter().position(|known| Some(*known) == kind);
                match at {
                    Some(at) => drop(self.first[at].get_or_insert(row)),
                    None => self
                        .set_opaque(|| format!("row {row} holds an object or an array of other things than strings")),
                }
                if let Some(text) = longest(&value).filter(|text| text.len() > INFERRED_KEYWORD) {
                    self.set_opaque(|| {
                        format!("row {row} has a string of {} bytes, more than {INFERRED_KEYWORD}", text.len())
                    });
                }
                Ok(self.count(value))
            }
        }
    }

    fn set_opaque(&mut self, reason: impl FnOnce() -> String) {
        if self.opaque.is_none() {
            self.opaque = Some(reason());
            self.words = HashSet::new();
        }
    }

    fn count(&mut self, value: Value) -> u64 {
        match value {
            Value::Null | Value::Boolean(_) => 0,
            Value::Integer(number) => {
                let (low, high) = self.integers.get_or_insert((number, number));
                (*low, *high) = ((*low).min(number), (*high).max(number));
                0
            }
            Value::Float(number) => {
                let (low, high) = self.floats.get_or_insert((number, number));
                (*low, *high) = (low.min(number), high.max(number));
                0
            }
            Value::Keyword(text) => self.count_word(text),
            Value::Keywords(texts) => texts.into_iter().map(|text| self.count_word(text)).sum(),
        }
    }

    fn count_word(&mut self, text: String) -> u64 {
        let cost = text.len() as u64 + WORD_COST;
        if self.opaque.is_none() && self.words.insert(text) { cost } else { 0 }
    }

    /// Its type, or why it is text.
    ///
    /// # Errors
    /// For mixed types, a row and what is there.
    fn kind(&self) -> Result<Result<AttributeType, String>, (u64, String)> {
        match self.declared {
            Some(Declared::Text) => return Ok(Err("declared".into())),
            Some(Declared::Type(kind)) => return Ok(Ok(kind)),
            None => {}
        }
        let mut found: Vec<(u64, AttributeType)> =
            self.first.iter().zip(KINDS).filter_map(|(first, kind)| first.map(|row| (row, kind))).collect();
        found.sort_unstable_by_key(|&(row, _)| row);
        let numbers = [AttributeType::Integer, AttributeType::Float];
        if found.iter().all(|(_, kind)| numbers.contains(kind)) && found.len() == 2 {
            found = vec![(found[0].0, AttributeType::Float)];
        }
        match (&self.opaque, &found[..]) {
            (Some(reason), _) => Ok(Err(reason.clone())),
            (None, []) => Ok(Err("no row has a value".into())),
            (None, [(_, kind)]) => Ok(Ok(*kind)),
            (None, [(row, kind), (other_row, other), ..]) => {
                Err((*other_row, format!("is of type {other} here and of type {kind} in row {row}")))
            }
        }
    }

    fn encoding(self, attribute: Attribute) -> Result<Encoding> {
        let span = |low: Value, high: Value| {
            let (low, high) = (ordered(&low).unwrap_or(0), ordered(&high).unwrap_or(0));
            OrdinalMap::Numbers { base: low, span: high - low }
        };
        let ordinals = match attribute.kind {
            AttributeType::Boolean => OrdinalMap::Numbers { base: 0, span: 1 },
            AttributeType::Integer => {
                let (low, high) = self.integers.unwrap_or_default();
                span(Value::Integer(low), Value::Integer(high))
            }
            AttributeType::Float => {
                let of_integers = self.integers.map(|(low, high)| (low as f64, high as f64));
                let ends = [self.floats, of_integers].into_iter().flatten();
                let ends = ends.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))).unwrap_or_default();
                span(Value::Float(ends.0), Value::Float(ends.1))
            }
            AttributeType::Keyword | AttributeType::Keywords => {
                let words = Dictionary::new(self.words.iter().map(String::as_str).collect());
                let words = words.filter(|words| words.len() < u32::MAX as usize).ok_or_else(|| {
                    let reason =
                        format!("the distinct strings of {:?} have more than 4 GiB; declare it text", attribute.name);
                    Error::params("attribute_types", reason)
                })?;
                OrdinalMap::Words(words)
            }
        };
        Ok(Encoding { attribute, ordinals })
    }
}

/// The longest string of a value.
fn longest(value: &Value) -> Option<&str> {
    match value {
        Value::Keyword(text) => Some(text),
        Value::Keywords(texts) => texts.iter().map(String::as_str).max_by_key(|text| text.len()),
        _ => None,
    }
}

/// The kind of a JSON value that nobody declared, None for one that no column can hold; and the value. None for null.
fn classify(json: &Json) -> Result<Option<(Option<AttributeType>, Value)>, String> {
    let kind = match json {
        Json::Null => return Ok(None),
        Json::Bool(_) => AttributeType::Boolean,
        Json::Number(number) if integer(number).is_some() => AttributeType::Integer,
        Json::Number(number) if number.is_f64() => AttributeType::Float,
        Json::Number(number) => {
            return Err(format!(
                "{number} does not fit an integer of 64 bits; make it a string, or declare float or text"
            ));
        }
        Json::String(_) => AttributeType::Keyword,
        Json::Array(values) if values.iter().all(Json::is_string) => AttributeType::Keywords,
        Json::Array(_) | Json::Object(_) => return Ok(Some((None, Value::Null))),
    };
    // Of a string, any length: one that is too long makes the column text.
    let value = match json {
        Json::String(text) => Value::Keyword(text.clone()),
        Json::Array(values) => Value::Keywords(values.iter().filter_map(Json::as_str).map(String::from).collect()),
        other => parse_value(kind, other)?,
    };
    Ok(Some((Some(kind), value)))
}
