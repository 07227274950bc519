//! Single records: from JSON by a schema, and asked by a filter without any column.

use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;

use super::filter::Filter;
use super::meaning::{Meaning, translate};
use super::{AttributeType, MAX_KEYWORD, Schema, Value};
use crate::error::{Error, Result};

/// The filterable attributes of a document, by name. What is missing is null.
pub type Record = BTreeMap<String, Value>;

/// The filterable attributes of a JSON object. What the schema does not know is passed over: it is returned with hits, not
/// filtered by.
///
/// # Errors
/// `InvalidParams` that names the attribute, the value and the type that it should have.
pub fn parse_record(schema: &Schema, json: &Map<String, Json>) -> Result<Record> {
    let mut record = Record::new();
    for attribute in schema.attributes() {
        let Some(value) = json.get(&attribute.name) else { continue };
        let value = parse_value(attribute.kind, value)
            .map_err(|reason| Error::params("attributes", format!("attribute {:?}: {reason}", attribute.name)))?;
        if value != Value::Null {
            record.insert(attribute.name.clone(), value);
        }
    }
    Ok(record)
}

/// A JSON value as one of a type.
pub(super) fn parse_value(kind: AttributeType, json: &Json) -> Result<Value, String> {
    let parsed = match (kind, json) {
        (_, Json::Null) => Some(Value::Null),
        (AttributeType::Boolean, Json::Bool(truth)) => Some(Value::Boolean(*truth)),
        (AttributeType::Integer, Json::Number(number)) => integer(number).map(Value::Integer),
        // Adding +0.0 makes negative zero positive, as it is in a column.
        (AttributeType::Float, Json::Number(number)) => {
            number.as_f64().filter(|number| number.is_finite()).map(|number| Value::Float(number + 0.0))
        }
        (AttributeType::Keyword, Json::String(text)) => Some(Value::Keyword(checked(text)?.to_string())),
        (AttributeType::Keywords, Json::Array(values)) => set(values)?,
        _ => None,
    };
    parsed.ok_or_else(|| {
        let shown: String = json.to_string().chars().take(60).collect();
        let due = match kind {
            AttributeType::Keyword => "a string",
            AttributeType::Integer => "an integer from -(2^63 - 1) to 2^63 - 1",
            AttributeType::Float => "a number",
            AttributeType::Boolean => "true or false",
            AttributeType::Keywords => "an array of strings",
        };
        format!("{shown} is not {due}, which type {kind} needs")
    })
}

/// The integer of a JSON number that is written without a fraction or an exponent.
pub(super) fn integer(number: &serde_json::Number) -> Option<i64> {
    number.as_i64().filter(|&number| number != i64::MIN)
}

fn checked(text: &str) -> Result<&str, String> {
    match text.len() {
        0..=MAX_KEYWORD => Ok(text),
        length => {
            let start: String = text.chars().take(30).collect();
            Err(format!(
                "{start:?}... has {length} bytes; a keyword has at most {MAX_KEYWORD}: shorten it, or declare text"
            ))
        }
    }
}

/// The set of an array of strings; None if it is another array.
fn set(values: &[Json]) -> Result<Option<Value>, String> {
    let Some(texts) = values.iter().map(Json::as_str).collect::<Option<Vec<&str>>>() else { return Ok(None) };
    let mut texts = texts.into_iter().map(|text| checked(text).map(String::from)).collect::<Result<Vec<_>, _>>()?;
    texts.sort_unstable();
    texts.dedup();
    Ok(Some(if texts.is_empty() { Value::Null } else { Value::Keywords(texts) }))
}

/// A filter translated once, to be asked of many records.
#[derive(Clone, Debug)]
pub struct RecordFilter {
    must: Vec<(String, Meaning)>,
    should: Vec<(String, Meaning)>,
    must_not: Vec<(String, Meaning)>,
}

impl RecordFilter {
    /// Translates a filter.
    ///
    /// # Errors
    /// As [`super::Columns::compile`].
    pub fn new(filter: &Filter, schema: &Schema) -> Result<RecordFilter> {
        let named = |place: usize, meaning| (schema.attributes()[place].name.clone(), meaning);
        let [must, should, must_not] = translate(filter, schema, named)?;
        Ok(RecordFilter { must, should, must_not })
    }

    /// Whether a record passes: as its row would, were it in an index.
    pub fn passes(&self, record: &Record) -> bool {
        let holds = |(name, meaning): &(String, Meaning)| record.get(name).is_some_and(|value| meaning.holds(value));
        self.must.iter().all(holds)
            && (self.should.is_empty() || self.should.iter().any(holds))
            && !self.must_not.iter().any(holds)
    }
}

/// Whether one record passes a filter. For many records translate once: [`RecordFilter`].
///
/// # Errors
/// As [`super::Columns::compile`].
pub fn matches(filter: &Filter, schema: &Schema, record: &Record) -> Result<bool> {
    RecordFilter::new(filter, schema).map(|filter| filter.passes(record))
}
