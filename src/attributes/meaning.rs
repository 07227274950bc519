//! What a condition means for an attribute of a type: one translation for columns and for single records, so that both
//! give the same answers.

use std::ops::Bound;

use super::filter::{Condition, Filter, Range, Scalar, Test};
use super::{AttributeType, Schema, Value};
use crate::error::{Error, Result};

/// Most conditions of a filter.
const MAX_CONDITIONS: usize = 64;
/// Most values of one `any`.
const MAX_VALUES: usize = 10_000;

const SIGN: u64 = 1 << 63;

/// A number or truth as an unsigned integer of the same order; None for other values.
///
/// Values of one type only may be compared. Positive and negative zero are the same.
pub(super) fn ordered(value: &Value) -> Option<u64> {
    match value {
        Value::Integer(number) => Some(number.cast_unsigned() ^ SIGN),
        Value::Float(number) => Some(ordered_float(*number)),
        Value::Boolean(truth) => Some(u64::from(*truth)),
        _ => None,
    }
}

fn ordered_float(number: f64) -> u64 {
    // Adding +0.0 turns -0.0 into +0.0 and leaves every other value as it is.
    let bits = (number + 0.0).to_bits();
    if bits & SIGN == 0 { bits | SIGN } else { !bits }
}

/// The value of a numeric or boolean type that [`ordered`] made `bits` of.
pub(super) fn unordered(kind: AttributeType, bits: u64) -> Value {
    match kind {
        AttributeType::Integer => Value::Integer((bits ^ SIGN).cast_signed()),
        AttributeType::Boolean => Value::Boolean(bits != 0),
        _ => Value::Float(f64::from_bits(if bits & SIGN == 0 { !bits } else { bits & !SIGN })),
    }
}

/// What a value must be.
#[derive(Clone, Debug)]
pub(super) enum Meaning {
    /// Of a number or truth: [`ordered`], it is within one of these ranges (ends included).
    Ordered(Vec<(u64, u64)>),
    /// Of a string: it is one of these, sorted.
    Words(Vec<String>),
    /// Of a string: it is between these.
    Between(Bound<String>, Bound<String>),
}

impl Meaning {
    /// What `condition` means for values of type `kind`.
    ///
    /// # Errors
    /// What does not fit, and the remedy.
    fn of(condition: &Condition, kind: AttributeType) -> Result<Meaning, String> {
        let name = &condition.attribute;
        let of_scalars = |values: &[Scalar]| match kind {
            AttributeType::Keyword | AttributeType::Keywords => {
                let mut words: Vec<String> = values.iter().map(|v| keyword(v, name)).collect::<Result<_, _>>()?;
                words.sort_unstable();
                words.dedup();
                Ok(Meaning::Words(words))
            }
            _ => {
                let points = values.iter().map(|value| point(value, name, kind).map(|at| (at, at)));
                Ok(Meaning::Ordered(points.collect::<Result<_, String>>()?))
            }
        };
        match &condition.test {
            Test::Match(value) => of_scalars(std::slice::from_ref(value)),
            Test::Any(values) if values.len() > MAX_VALUES => {
                Err(format!("{} values for {name:?} are more than {MAX_VALUES}; ask in parts", values.len()))
            }
            Test::Any(values) => of_scalars(values),
            Test::Range(range) => match kind {
                AttributeType::Keyword => between(range, name),
                AttributeType::Integer => integers(range, name),
                AttributeType::Float => floats(range, name),
                AttributeType::Boolean | AttributeType::Keywords => {
                    Err(format!("attribute {name:?} is of type {kind}, which has no ranges; use match or any"))
                }
            },
        }
    }

    /// Whether a value is what it must be. A null never is.
    pub(super) fn holds(&self, value: &Value) -> bool {
        match (self, value) {
            (_, Value::Keyword(text)) => self.holds_for(text),
            (_, Value::Keywords(texts)) => texts.iter().any(|text| self.holds_for(text)),
            (Meaning::Ordered(ranges), value) => {
                ordered(value).is_some_and(|at| ranges.iter().any(|&(low, high)| (low..=high).contains(&at)))
            }
            _ => false,
        }
    }

    fn holds_for(&self, text: &str) -> bool {
        match self {
            Meaning::Ordered(_) => false,
            Meaning::Words(words) => words.binary_search_by(|word| word.as_str().cmp(text)).is_ok(),
            Meaning::Between(low, high) => is_above(low, text) && is_below(high, text),
        }
    }
}

/// Whether `text` satisfies a lower bound.
pub(super) fn is_above(low: &Bound<String>, text: &str) -> bool {
    match low {
        Bound::Unbounded => true,
        Bound::Included(low) => text >= low.as_str(),
        Bound::Excluded(low) => text > low.as_str(),
    }
}

/// Whether `text` satisfies an upper bound.
pub(super) fn is_below(high: &Bound<String>, text: &str) -> bool {
    match high {
        Bound::Unbounded => true,
        Bound::Included(high) => text <= high.as_str(),
        Bound::Excluded(high) => text < high.as_str(),
    }
}

fn wrong(value: &Scalar, name: &str, kind: &str) -> String {
    format!("{value} cannot be compared with attribute {name:?}, which is of type {kind}; give a value of that type")
}

fn keyword(value: &Scalar, name: &str) -> Result<String, String> {
    match value {
        Scalar::Keyword(text) => Ok(text.clone()),
        other => Err(wrong(other, name, "keyword")),
    }
}

/// A single value as ordered bits.
fn point(value: &Scalar, name: &str, kind: AttributeType) -> Result<u64, String> {
    let found = match (kind, value) {
        (AttributeType::Boolean, Scalar::Boolean(truth)) => Some(Value::Boolean(*truth)),
        (AttributeType::Integer, Scalar::Integer(number)) => Some(Value::Integer(*number)),
        // Some clients write every number with a fraction.
        (AttributeType::Integer, Scalar::Float(number)) if number.fract() == 0.0 && number.abs() < 2f64.powi(63) => {
            Some(Value::Integer(*number as i64))
        }
        (AttributeType::Float, Scalar::Integer(_) | Scalar::Float(_)) => Some(Value::Float(float(value, name)?)),
        _ => None,
    };
    found.as_ref().and_then(ordered).ok_or_else(|| wrong(value, name, &kind.to_string()))
}

fn float(value: &Scalar, name: &str) -> Result<f64, String> {
    match value {
        Scalar::Integer(number) => Ok(*number as f64),
        Scalar::Float(number) if !number.is_nan() => Ok(*number),
        other => Err(wrong(other, name, "float")),
    }
}

/// The integers within the bounds; computed in 128 bits, where nothing overflows.
fn integers(range: &Range, name: &str) -> Result<Meaning, String> {
    let part = |value: &Scalar, round: fn(f64) -> f64| match value {
        Scalar::Integer(number) => Ok(i128::from(*number)),
        // Saturates, far beyond 64 bits.
        Scalar::Float(number) if !number.is_nan() => Ok(round(*number) as i128),
        other => Err(wrong(other, name, "integer")),
    };
    let (mut low, mut high) = (i128::from(i64::MIN), i128::from(i64::MAX));
    if let Some(value) = &range.gt {
        low = low.max(part(value, f64::floor)?.saturating_add(1));
    }
    if let Some(value) = &range.gte {
        low = low.max(part(value, f64::ceil)?);
    }
    if let Some(value) = &range.lt {
        high = high.min(part(value, f64::ceil)?.saturating_sub(1));
    }
    if let Some(value) = &range.lte {
        high = high.min(part(value, f64::floor)?);
    }
    let bits = |number: i128| i64::try_from(number).ok().and_then(|number| ordered(&Value::Integer(number)));
    let ends = bits(low).zip(bits(high)).filter(|(low, high)| low <= high);
    Ok(Meaning::Ordered(ends.into_iter().collect()))
}

fn floats(range: &Range, name: &str) -> Result<Meaning, String> {
    let bits = |value: &Option<Scalar>| value.as_ref().map(|v| float(v, name).map(ordered_float)).transpose();
    let lows = [bits(&range.gt)?.map(|at| at.saturating_add(1)), bits(&range.gte)?];
    let highs = [bits(&range.lt)?.map(|at| at.saturating_sub(1)), bits(&range.lte)?];
    let low = lows.into_iter().flatten().max().unwrap_or(0);
    let high = highs.into_iter().flatten().min().unwrap_or(u64::MAX);
    Ok(Meaning::Ordered(if low <= high { vec![(low, high)] } else { Vec::new() }))
}

fn between(range: &Range, name: &str) -> Result<Meaning, String> {
    let text = |value: &Option<Scalar>| value.as_ref().map(|v| keyword(v, name)).transpose();
    // Of two lower bounds the larger counts, of equal ones the one that excludes.
    let low = match (text(&range.gt)?, text(&range.gte)?) {
        (Some(gt), Some(gte)) if gte > gt => Bound::Included(gte),
        (Some(gt), _) => Bound::Excluded(gt),
        (None, Some(gte)) => Bound::Included(gte),
        (None, None) => Bound::Unbounded,
    };
    let high = match (text(&range.lt)?, text(&range.lte)?) {
        (Some(lt), Some(lte)) if lte < lt => Bound::Included(lte),
        (Some(lt), _) => Bound::Excluded(lt),
        (None, Some(lte)) => Bound::Included(lte),
        (None, None) => Bound::Unbounded,
    };
    Ok(Meaning::Between(low, high))
}

/// The three parts of a filter, each condition as what `make` makes of the place of its attribute and of its meaning.
pub(super) fn translate<T>(
    filter: &Filter,
    schema: &Schema,
    mut make: impl FnMut(usize, Meaning) -> T,
) -> Result<[Vec<T>; 3]> {
    let conditions: usize = filter.parts().iter().map(|(_, part)| part.len()).sum();
    if conditions > MAX_CONDITIONS {
        return Err(Error::params("filter", format!("{conditions} conditions are more than {MAX_CONDITIONS}")));
    }
    let mut translated = [const { Vec::new() }; 3];
    for ((part, conditions), out) in filter.parts().into_iter().zip(&mut translated) {
        for (at, condition) in conditions.iter().enumerate() {
            let wrong = |reason: String| Error::params("filter", format!("{part}/{at}: {reason}"));
            let place = schema.place(&condition.attribute);
            let place = place.ok_or_else(|| wrong(schema.unknown(&condition.attribute)))?;
            out.push(make(place, Meaning::of(condition, schema.attributes()[place].kind).map_err(wrong)?));
        }
    }
    Ok(translated)
}
