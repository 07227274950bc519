//! From a document as it was given to one as the index keeps it.

use ndarray::ArrayView2;
use serde_json::{Map, Value};
use std::sync::atomic::AtomicU32;

use super::change::{Change, Document};
use crate::attributes::{Record, parse_record};
use crate::build::{MAX_NORM, prepare_row};
use crate::dense::RecordLayout;
use crate::error::{Error, Result};
use crate::heads::Head;
use crate::linalg::norm2;
use crate::search::Searcher;
use crate::types::{Element, Key, Row};

/// The tag of a document that nobody has tagged yet.
pub const UNTAGGED: u32 = u32::MAX;
/// The longest record of a document, bytes.
pub const MAX_RECORD: usize = 1 << 20;

/// A change that fits the base it was prepared for.
pub(super) struct Prepared {
    pub(super) key: Key,
    /// Where the base has the key.
    pub(super) base_row: Option<Row>,
    /// None: the key goes.
    pub(super) entry: Option<Entry>,
}

/// A document as the delta keeps it.
pub(super) struct Entry {
    /// The dense record, as it would lie in a shard.
    pub(super) record: Vec<u32>,
    pub(super) companion: Companion,
}

/// What goes with a dense record.
#[derive(Debug)]
pub(super) struct Companion {
    pub(super) key: Key,
    /// The JSON object, as it was given.
    pub(super) text: String,
    /// What of it can be filtered by.
    pub(super) attributes: Record,
    /// The vector that is coded when the delta becomes part of an index, where the dense record is no exact copy of it.
    pub(super) coded: Option<Vec<f32>>,
    /// See [`super::DeltaRow::tag`].
    pub(super) tag: AtomicU32,
}

/// Shape of the dense records of a base.
pub(super) fn layout_of(base: &Searcher) -> RecordLayout {
    let manifest = base.index().manifest();
    RecordLayout::new(manifest.dense, manifest.dense_dim)
}

/// Prepares a change for `base`.
///
/// # Errors
/// `Mismatch` and `InvalidParams` for what cannot be indexed, `Io` and `Corrupt` where the base cannot be asked for the key.
pub(super) fn prepare(change: &Change, base: &Searcher) -> Result<Prepared> {
    let entry = match change {
        Change::Upsert(document) => Some(entry(document, base)?),
        Change::Delete(_) => None,
    };
    Ok(Prepared { key: change.key(), base_row: base.index().row(change.key())?, entry })
}

/// The document as the delta of `base` keeps it.
pub(super) fn entry(document: &Document, base: &Searcher) -> Result<Entry> {
    let quantizer = base.index().quantizer();
    quantizer.check_dim(document.vector.len())?;
    let attributes = attributes(&document.record, base)?;
    let mut vector = document.vector.clone();
    prepare_row(&mut vector, base.metric()).map_err(|reason| Error::params("vector", reason))?;
    let heads = quantizer.heads();
    let coded = mapped(heads.code_document.as_ref(), &vector)?;
    let dense = mapped(heads.dense_document.as_ref(), &vector)?;
    let layout = layout_of(base);
    let mut record = vec![0u32; layout.stride() / 4];
    let stored = dense.as_deref().unwrap_or(&vector);
    layout.encode(stored, document.key, bytemuck::cast_slice_mut(&mut record))?;
    let is_copy = layout.element() == Element::F32 && coded.is_none() && dense.is_none();
    let coded = if is_copy { None } else { Some(coded.unwrap_or(vector)) };
    let (key, text, tag) = (document.key, document.record.clone(), AtomicU32::new(UNTAGGED));
    Ok(Entry { record, companion: Companion { key, text, attributes, coded, tag } })
}

/// What a document head makes of a vector.
fn mapped(head: Option<&Head>, vector: &[f32]) -> Result<Option<Vec<f32>>> {
    let Some(head) = head else { return Ok(None) };
    let row = ArrayView2::from_shape((1, vector.len()), vector).expect("one row");
    let (mapped, _) = head.apply_rows(row).into_raw_vec_and_offset();
    let norm = norm2(&mapped).sqrt();
    if (0.0..=MAX_NORM).contains(&norm) {
        return Ok(Some(mapped));
    }
    Err(Error::params("vector", format!("a head of the quantizer maps it beyond {MAX_NORM:e}; scale it down")))
}

/// What can be filtered by, of the record of a document.
fn attributes(text: &str, base: &Searcher) -> Result<Record> {
    if text.len() > MAX_RECORD {
        return Err(Error::params("attributes", format!("{} bytes are more than {MAX_RECORD}", text.len())));
    }
    let object = parse_object(text)?;
    base.index().attributes().map_or(Ok(Record::new()), |columns| parse_record(columns.schema(), &object))
}

/// The JSON object that a record is.
pub(super) fn parse_object(text: &str) -> Result<Map<String, Value>> {
    serde_json::from_str(text).map_err(|error| Error::params("attributes", format!("they are no JSON object: {error}")))
}
