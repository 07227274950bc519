//! The words that every module shares: rows, lists, keys, metrics, element types.

use serde::{Deserialize, Serialize};

/// Ordinal of a document in the index. Row order is list order: the rows of list 0, then those of list 1, and so on.
pub type Row = u32;

/// The most rows that one index holds; a larger corpus is several indexes.
pub const MAX_ROWS: u64 = u32::MAX as u64;

/// Ordinal of an inverted list.
pub type ListId = u32;

/// The caller's own id of a document. It lies beside the dense vector, not in memory.
pub type Key = u64;

/// How a query and a document are compared. Scores are larger when better, so L2 is the *negated squared* distance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// Inner product.
    Ip,
    /// Inner product of normalised vectors; documents are stored normalised.
    Cosine,
    /// Negated squared Euclidean distance.
    L2,
}

/// Element type of a dense vector on SSD.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Element {
    /// 32-bit float.
    F32,
    /// 16-bit IEEE float.
    F16,
    /// 8-bit integer with one `f32` scale a vector.
    I8,
}

impl Element {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Element::F32 => 4,
            Element::F16 => 2,
            Element::I8 => 1,
        }
    }
}

/// Public names of the variants of an enum: `Display`, and `FromStr` whose error lists them.
macro_rules! names {
    ($type:ty, $param:literal, $($variant:path => $name:literal),+) => {
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(match self { $($variant => $name),+ })
            }
        }
        impl std::str::FromStr for $type {
            type Err = $crate::error::Error;
            fn from_str(text: &str) -> $crate::error::Result<Self> {
                match text {
                    $($name => Ok($variant),)+
                    other => Err($crate::error::Error::params($param, format!("{other:?} is not one of {}", [$($name),+].join(", ")))),
                }
            }
        }
    };
}
pub(crate) use names;
names!(Metric, "metric", Metric::Ip => "ip", Metric::Cosine => "cosine", Metric::L2 => "l2");
names!(Element, "dense", Element::F32 => "f32", Element::F16 => "f16", Element::I8 => "i8");
