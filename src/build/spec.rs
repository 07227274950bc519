//! What to build, and the report of what was built.

use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

use super::attributes::AttributeReport;
use crate::attributes::Declared;
use crate::index::Views;
use crate::simd::CodeBits;
use crate::types::{Element, Metric};

/// What to do with a row that cannot be indexed: not finite, too large, or zero under cosine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnBad {
    /// Stop with an error that names the row.
    Fail,
    /// Leave it out and count it.
    Skip,
}

/// What to build.
#[derive(Clone, Debug)]
pub struct BuildSpec {
    /// Vectors, one document a row, in any format of [`crate::dataset`].
    pub input: PathBuf,
    /// Texts to build from in place of `input`.
    #[cfg(feature = "text")]
    pub texts: Option<super::TextInput>,
    /// Column of a Parquet input.
    pub column: Option<String>,
    /// One key a line; None: the row number.
    pub keys: Option<PathBuf>,
    /// Whether rows are views of documents: rows with the same key are one document, whose score is that of its best view. Their
    /// order in the input is the order of the views. Needs `keys`.
    pub views: bool,
    /// One record a row, returned with hits and filtered by; the same for all rows of a document.
    pub attributes: Option<PathBuf>,
    /// Types of some attributes; those of the others are inferred.
    pub attribute_types: BTreeMap<String, Declared>,
    /// The index directory.
    pub output: PathBuf,
    /// How queries and documents are compared.
    pub metric: Metric,
    /// Number of lists; None: chosen by the number of rows.
    pub lists: Option<usize>,
    /// Bits of a code.
    pub code_bits: CodeBits,
    /// Code bytes a row; None: chosen by the dimension.
    pub code_bytes: Option<usize>,
    /// Whether to learn a rotation of residuals; None: chosen by the dimension.
    pub opq: Option<bool>,
    /// Element type of the dense vectors.
    pub dense: Element,
    /// A trained quantizer to use instead of training one.
    pub quantizer: Option<PathBuf>,
    /// Most resident memory to use, bytes.
    pub memory_limit: u64,
    /// Of every random choice.
    pub seed: u64,
    /// What to do with bad rows.
    pub on_bad: OnBad,
}

impl BuildSpec {
    /// A build of `input` into `output` with every choice left at its default.
    pub fn new(input: impl Into<PathBuf>, output: impl Into<PathBuf>) -> BuildSpec {
        BuildSpec {
            input: input.into(),
            #[cfg(feature = "text")]
            texts: None,
            column: None,
            keys: None,
            views: false,
            attributes: None,
            attribute_types: BTreeMap::new(),
            output: output.into(),
            metric: Metric::Cosine,
            lists: None,
            code_bits: CodeBits::Eight,
            code_bytes: None,
            opq: None,
            dense: Element::F32,
            quantizer: None,
            memory_limit: 4 << 30,
            seed: 1,
            on_bad: OnBad::Fail,
        }
    }
}

/// What was built, and what it took.
#[derive(Clone, Debug, Serialize)]
pub struct BuildReport {
    /// The index id, hexadecimal.
    pub id: String,
    /// Rows in the index.
    pub rows: u64,
    /// Its documents, where rows are views of them.
    pub views: Option<Views>,
    /// Rows of the input left out as bad.
    pub skipped_rows: u64,
    /// Dimension of the input, and of queries.
    pub dim: usize,
    /// Dimension of the stored dense vectors.
    pub dense_dim: usize,
    /// Names of the quantizer's heads; document heads were applied by the build, query heads will be by search.
    pub heads: Vec<String>,
    /// Whether lists are chosen by a learned router.
    pub router: bool,
    /// Number of lists.
    pub lists: usize,
    /// Rows of the largest list.
    pub largest_list: u64,
    /// Bits of a code.
    pub code_bits: u8,
    /// Code bytes a row.
    pub code_bytes: usize,
    /// Whether residuals are rotated (OPQ).
    pub opq: bool,
    /// Bytes a row that searching keeps in memory (codes, terms, padding, lists, quantizer).
    pub memory_bytes_per_row: f64,
    /// Bytes a row on disk, all files.
    pub disk_bytes_per_row: f64,
    /// Bytes of all files.
    pub disk_bytes: u64,
    /// Attributes of the records, by name.
    pub attributes: Vec<AttributeReport>,
    /// Phases in order.
    pub phases: Vec<Phase>,
    /// Seconds in all.
    pub seconds: f64,
    /// Peak resident memory of the process, bytes (0 where the system does not tell).
    pub peak_memory: u64,
}

/// One phase of a build.
#[derive(Clone, Debug, Serialize)]
pub struct Phase {
    /// Name.
    pub name: &'static str,
    /// Rows it handled.
    pub rows: u64,
    /// Seconds it took.
    pub seconds: f64,
}
