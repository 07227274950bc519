//! What a client may ask of attributes, and its JSON.
//!
//! ```json
//! {"must": [{"attribute": "price", "range": {"gte": 1, "lt": 9.5}}],
//!  "should": [{"attribute": "brand", "match": "Acme"}, {"attribute": "tags", "any": ["new", "sale"]}],
//!  "must_not": [{"attribute": "sold_out", "match": true}]}
//! ```
//! A row passes if every condition of `must` holds, at least one of `should` (where there is any), and none of `must_not`.

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// Conditions on the attributes of a row. Without any, every row passes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// All of these hold.
    pub must: Vec<Condition>,
    /// At least one of these holds, unless there is none.
    pub should: Vec<Condition>,
    /// None of these holds.
    pub must_not: Vec<Condition>,
}

impl Filter {
    /// Whether it asks nothing.
    pub fn is_empty(&self) -> bool {
        self.must.is_empty() && self.should.is_empty() && self.must_not.is_empty()
    }

    /// The names of the three parts with their conditions.
    pub(super) fn parts(&self) -> [(&'static str, &[Condition]); 3] {
        [("must", &self.must), ("should", &self.should), ("must_not", &self.must_not)]
    }
}

/// A test of one attribute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Fields", into = "Fields")]
pub struct Condition {
    /// Name of the attribute.
    pub attribute: String,
    /// What its value must be.
    pub test: Test,
}

/// What the value of an attribute must be. Of a set of keywords, one must be it.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// This.
    Match(Scalar),
    /// One of these; of none, no value is.
    Any(Vec<Scalar>),
    /// Within all given bounds; not for booleans and sets.
    Range(Range),
}

/// Bounds; all given ones hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// Greater than.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gt: Option<Scalar>,
    /// Greater than or equal to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gte: Option<Scalar>,
    /// Less than.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lt: Option<Scalar>,
    /// Less than or equal to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lte: Option<Scalar>,
}

/// A value to compare with.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    /// A string.
    Keyword(String),
    /// A number without a fraction.
    Integer(i64),
    /// Any other number.
    Float(f64),
    /// True or false.
    Boolean(bool),
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::Keyword(text) => write!(f, "{text:?}"),
            Scalar::Integer(number) => write!(f, "{number}"),
            Scalar::Float(number) => write!(f, "{number:?}"),
            Scalar::Boolean(truth) => write!(f, "{truth}"),
        }
    }
}

impl From<&str> for Scalar {
    fn from(text: &str) -> Scalar {
        Scalar::Keyword(text.into())
    }
}

impl From<i64> for Scalar {
    fn from(number: i64) -> Scalar {
        Scalar::Integer(number)
    }
}

impl From<f64> for Scalar {
    fn from(number: f64) -> Scalar {
        Scalar::Float(number)
    }
}

impl From<bool> for Scalar {
    fn from(truth: bool) -> Scalar {
        Scalar::Boolean(truth)
    }
}

/// A condition as it is written.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename = "Condition")]
struct Fields {
    attribute: String,
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    equal: Option<Scalar>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    any: Option<Vec<Scalar>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    range: Option<Range>,
}

impl TryFrom<Fields> for Condition {
    type Error = String;

    fn try_from(fields: Fields) -> Result<Condition, String> {
        let Fields { attribute, equal, any, range } = fields;
        let test = match (equal, any, range) {
            (Some(value), None, None) => Test::Match(value),
            (None, Some(values), None) => Test::Any(values),
            (None, None, Some(range)) if range == Range::default() => {
                return Err(format!("the range of {attribute:?} has no bound; give gt, gte, lt or lte"));
            }
            (None, None, Some(range)) => Test::Range(range),
            _ => return Err(format!("the condition on {attribute:?} needs one of match, any and range")),
        };
        Ok(Condition { attribute, test })
    }
}

impl From<Condition> for Fields {
    fn from(condition: Condition) -> Fields {
        let mut fields = Fields { attribute: condition.attribute, equal: None, any: None, range: None };
        match condition.test {
            Test::Match(value) => fields.equal = Some(value),
            Test::Any(values) => fields.any = Some(values),
            Test::Range(range) => fields.range = Some(range),
        }
        fields
    }
}

impl Serialize for Scalar {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Scalar::Keyword(text) => serializer.serialize_str(text),
            Scalar::Integer(number) => serializer.serialize_i64(*number),
            Scalar::Float(number) => serializer.serialize_f64(*number),
            Scalar::Boolean(truth) => serializer.serialize_bool(*truth),
        }
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Scalar, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl Visitor<'_> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a number, true or false")
    }

    fn visit_bool<E: de::Error>(self, truth: bool) -> Result<Scalar, E> {
        Ok(Scalar::Boolean(truth))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Scalar, E> {
        Ok(Scalar::Integer(number))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Scalar, E> {
        // Beyond every value of a column of integers, so how it is rounded does not matter there.
        Ok(i64::try_from(number).map_or(Scalar::Float(number as f64), Scalar::Integer))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Scalar, E> {
        Ok(Scalar::Float(number))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar::Keyword(text.into()))
    }
}
