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
/// Most views of a document beside its first.
pub const MAX_VIEWS: usize = 1_000;

/// A change that fits the base it was prepared for.
pub(super) struct Prepared {
    pub(super) key: Key,
    /// The rows that the base has of the key.
    pub(super) base_rows: Vec<Row>,
    /// None: the key goes.
    pub(super) entry: Option<Entry>,
    /// Whether the document has further views, which the base has no room for.
    pub(super) first_view_only: bool,
}

/// A document as the delta keeps it.
pub(super) struct Entry {
    /// Its views, the first one first; one at least.
    pub(super) views: Vec<ViewEntry>,
    pub(super) companion: Companion,
}

/// One view of a document as the delta keeps it.
pub(super) struct ViewEntry {
    /// The dense record, as it would lie in a shard.
    pub(super) record: Vec<u32>,
    /// The vector that is coded when the delta becomes part of an index, where the dense record is no exact copy of it.
    pub(super) coded: Option<Vec<f32>>,
}

/// What goes with the dense records of a document.
#[derive(Debug)]
pub(super) struct Companion {
    pub(super) key: Key,
    /// The JSON object, as it was given.
    pub(super) text: String,
    /// What of it can be filtered by.
    pub(super) attributes: Record,
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
    let first_view_only = has_views(change) && base.views().is_none();
    Ok(Prepared { key: change.key(), base_rows: base.index().rows(change.key())?, entry, first_view_only })
}

/// Whether a change gives a document further views.
fn has_views(change: &Change) -> bool {
    matches!(change, Change::Upsert(document) if !document.views.is_empty())
}

/// Refuses further views where none of the bases has room for them.
///
/// # Errors
/// `InvalidParams`.
pub(super) fn check_room<'b>(change: &Change, mut bases: impl Iterator<Item = &'b Searcher> + Clone) -> Result<()> {
    if !has_views(change) || bases.clone().any(|base| base.views().is_some()) {
        return Ok(());
    }
    let version = bases.next().map_or("", |base| base.version());
    let reason = format!(
        "a document of version {version} has one vector; serve an index that was built with --views (staging it is enough), or leave views out"
    );
    Err(Error::params("views", reason))
}

/// The document as the delta of `base` keeps it: with its first view alone where a row of the base is a document.
pub(super) fn entry(document: &Document, base: &Searcher) -> Result<Entry> {
    check_count(document.views.len())?;
    base.index().quantizer().check_dim(document.vector.len())?;
    let attributes = attributes(&document.record, base)?;
    let mut views = vec![view(document.key, &document.vector, base)?];
    let room = if base.views().is_some() { document.views.len() } else { 0 };
    for (number, vector) in (1..).zip(&document.views[..room]) {
        let further = view(document.key, vector, base).map_err(|error| match error {
            Error::InvalidParams { name: "vector", reason } => {
                Error::params("views", format!("view {number}: {reason}"))
            }
            other => other,
        })?;
        views.push(further);
    }
    let (key, text, tag) = (document.key, document.record.clone(), AtomicU32::new(UNTAGGED));
    Ok(Entry { views, companion: Companion { key, text, attributes, tag } })
}

/// Refuses too many views.
fn check_count(count: usize) -> Result<()> {
    if count > MAX_VIEWS {
        return Err(Error::params(
            "views",
            format!("{count} are more than {MAX_VIEWS}; send fewer, or several documents"),
        ));
    }
    Ok(())
}

/// One view as the delta of `base` keeps it.
fn view(key: Key, vector: &[f32], base: &Searcher) -> Result<ViewEntry> {
    let quantizer = base.index().quantizer();
    quantizer.check_dim(vector.len())?;
    let mut vector = vector.to_vec();
    prepare_row(&mut vector, base.metric()).map_err(|reason| Error::params("vector", reason))?;
    let heads = quantizer.heads();
    let coded = mapped(heads.code_document.as_ref(), &vector)?;
    let dense = mapped(heads.dense_document.as_ref(), &vector)?;
    let layout = layout_of(base);
    let mut record = vec![0u32; layout.stride() / 4];
    let stored = dense.as_deref().unwrap_or(&vector);
    layout.encode(stored, key, bytemuck::cast_slice_mut(&mut record))?;
    let is_copy = layout.element() == Element::F32 && coded.is_none() && dense.is_none();
    let coded = if is_copy { None } else { Some(coded.unwrap_or(vector)) };
    Ok(ViewEntry { record, coded })
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
