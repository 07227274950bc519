//! How the values of one column become ordinals.

use serde::{Deserialize, Serialize};

use super::dictionary::Dictionary;
use super::meaning::{Meaning, ordered, unordered};
use super::{Attribute, AttributeType, Value};

/// Ordinals of a column and what they stand for.
#[derive(Clone, Debug)]
pub(super) struct Encoding {
    pub(super) attribute: Attribute,
    pub(super) ordinals: OrdinalMap,
}

/// What ordinals stand for.
#[derive(Clone, Debug)]
pub(super) enum OrdinalMap {
    /// Numbers and truths: `base + ordinal` is the value in the order of [`ordered`]; no ordinal is above `span`.
    Numbers { base: u64, span: u64 },
    /// Strings: the ordinal is a place.
    Words(Dictionary),
}

/// Bytes of an ordinal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Width {
    U8,
    U16,
    U32,
    U64,
}

impl Width {
    /// The narrowest that holds ordinals up to `largest`, and null above them.
    fn for_largest(largest: u64) -> Width {
        match largest {
            0..0xff => Width::U8,
            0xff..0xffff => Width::U16,
            0xffff..0xffff_ffff => Width::U32,
            _ => Width::U64,
        }
    }

    pub(super) fn bytes(self) -> usize {
        match self {
            Width::U8 => 1,
            Width::U16 => 2,
            Width::U32 => 4,
            Width::U64 => 8,
        }
    }

    /// The ordinal of a row without a value.
    pub(super) fn null(self) -> u64 {
        u64::MAX >> (64 - 8 * self.bytes())
    }
}

impl Encoding {
    pub(super) fn is_set(&self) -> bool {
        self.attribute.kind == AttributeType::Keywords
    }

    /// Whether type and ordinals go together, and every ordinal stands for a value of the type.
    ///
    /// # Errors
    /// What does not fit.
    pub(super) fn check(&self) -> Result<(), String> {
        let kind = self.attribute.kind;
        let fits = match (&self.ordinals, kind) {
            (OrdinalMap::Words(words), AttributeType::Keyword | AttributeType::Keywords) => {
                words.len() < u32::MAX as usize
            }
            (OrdinalMap::Numbers { base, span }, AttributeType::Boolean) => (*base, *span) == (0, 1),
            // 0 stands for -2^63, which no column holds: so the largest span leaves room for null.
            (OrdinalMap::Numbers { base, span }, AttributeType::Integer) => {
                *base > 0 && base.checked_add(*span).is_some()
            }
            (OrdinalMap::Numbers { base, span }, AttributeType::Float) => {
                let finite = |bits: u64| matches!(unordered(kind, bits), Value::Float(number) if number.is_finite());
                base.checked_add(*span).is_some_and(|last| finite(*base) && finite(last))
            }
            _ => false,
        };
        if fits { Ok(()) } else { Err(format!("its ordinals do not stand for values of type {kind}")) }
    }

    /// The largest ordinal that a value may have; None if no value has one.
    pub(super) fn largest(&self) -> Option<u64> {
        match &self.ordinals {
            OrdinalMap::Numbers { span, .. } => Some(*span),
            OrdinalMap::Words(words) => (words.len() as u64).checked_sub(1),
        }
    }

    pub(super) fn width(&self) -> Width {
        Width::for_largest(self.largest().unwrap_or(0))
    }

    /// The ordinal of a value of this column's type; None for null, a set, and what the column cannot hold.
    pub(super) fn ordinal(&self, value: &Value) -> Option<u64> {
        match (&self.ordinals, value) {
            (OrdinalMap::Words(words), Value::Keyword(text)) => words.find(text).map(|at| at as u64),
            (OrdinalMap::Numbers { base, span }, value) => {
                ordered(value)?.checked_sub(*base).filter(|ordinal| ordinal <= span)
            }
            _ => None,
        }
    }

    /// The value of an ordinal, which for sets is one of their strings.
    pub(super) fn value(&self, ordinal: u64) -> Value {
        match &self.ordinals {
            OrdinalMap::Numbers { base, .. } => unordered(self.attribute.kind, base.wrapping_add(ordinal)),
            OrdinalMap::Words(words) => {
                words.get(ordinal as usize).map_or(Value::Null, |text| Value::Keyword(text.into()))
            }
        }
    }

    /// The ordinals of values that are what they must be: sorted ranges, ends included, none touching the next.
    pub(super) fn ranges(&self, meaning: &Meaning) -> Vec<(u64, u64)> {
        let mut ranges = match (&self.ordinals, meaning) {
            (OrdinalMap::Words(words), meaning) => words.ranges(meaning),
            (OrdinalMap::Numbers { base, span }, Meaning::Ordered(ranges)) => {
                let clip = |&(low, high): &(u64, u64)| {
                    let ends = (low.saturating_sub(*base), high.checked_sub(*base)?.min(*span));
                    (ends.0 <= ends.1).then_some(ends)
                };
                ranges.iter().filter_map(clip).collect()
            }
            _ => Vec::new(),
        };
        ranges.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::with_capacity(ranges.len());
        for (low, high) in ranges {
            match merged.last_mut() {
                Some(last) if low <= last.1.saturating_add(1) => last.1 = last.1.max(high),
                _ => merged.push((low, high)),
            }
        }
        merged
    }

    pub(super) fn memory_bytes(&self) -> usize {
        match &self.ordinals {
            OrdinalMap::Numbers { .. } => 0,
            OrdinalMap::Words(words) => words.memory_bytes(),
        }
    }
}
