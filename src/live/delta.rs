//! Documents in memory, as they would lie in an index, in chunks that copies share.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use super::bits::Bits;
use super::prepare::{Companion, Entry};
use crate::attributes::{Record, Value};
use crate::dense::{RecordLayout, RecordRef};
use crate::types::Key;

/// Rows of a chunk: few enough to copy the last one at every publication, many enough for few chunks.
const CHUNK_ROWS: usize = 128;

/// About what an attribute costs beside its strings.
const ENTRY: usize = 64;

/// The rows of a delta. Places are given once and stay what they are, until [`Delta::without_dead`].
#[derive(Clone, Debug)]
pub(super) struct Delta {
    layout: RecordLayout,
    /// All full but the last.
    chunks: Vec<Arc<Chunk>>,
    rows: usize,
    dead: Bits,
}

#[derive(Clone, Debug, Default)]
struct Chunk {
    /// Dense records, one after the other.
    records: Vec<u32>,
    companions: Vec<Arc<Companion>>,
}

/// One document of a delta.
#[derive(Clone, Copy, Debug)]
pub struct DeltaRow<'a> {
    pub(super) place: usize,
    pub(super) record: RecordRef<'a>,
    pub(super) companion: &'a Companion,
}

impl<'a> DeltaRow<'a> {
    /// Its place, as searches name it.
    pub fn place(&self) -> usize {
        self.place
    }

    /// The caller's key.
    pub fn key(&self) -> Key {
        self.companion.key
    }

    /// Its JSON object, as it was given.
    pub fn record(&self) -> &'a str {
        &self.companion.text
    }

    /// What of it can be filtered by: the attributes of the base's schema. What is missing is null.
    pub fn attributes(&self) -> &'a Record {
        &self.companion.attributes
    }

    /// A number that whoever serves documents may keep with this one, over the same base; [`super::UNTAGGED`] at first. All snapshots share
    /// it, as long as no other document takes the place of this one.
    pub fn tag(&self) -> &'a AtomicU32 {
        &self.companion.tag
    }

    /// The vector as it would be stored: after the dense head if there is one, else normalised under cosine; dense_dim values.
    pub fn vector(&self) -> Vec<f32> {
        let mut vector = vec![0.0; self.record.dim()];
        self.record.decode(&mut vector);
        vector
    }
}

impl Delta {
    pub(super) fn new(layout: RecordLayout) -> Delta {
        Delta { layout, chunks: Vec::new(), rows: 0, dead: Bits::default() }
    }

    fn words(&self) -> usize {
        self.layout.stride() / 4
    }

    /// Appends a document; its place.
    pub(super) fn push(&mut self, entry: Entry) -> usize {
        self.append(&entry.record, Arc::new(entry.companion))
    }

    fn append(&mut self, record: &[u32], companion: Arc<Companion>) -> usize {
        if self.rows.is_multiple_of(CHUNK_ROWS) {
            self.chunks.push(Arc::default());
        }
        let last = self.chunks.len() - 1;
        let chunk = Arc::make_mut(&mut self.chunks[last]);
        chunk.records.extend_from_slice(record);
        chunk.companions.push(companion);
        self.rows += 1;
        self.rows - 1
    }

    /// Takes a document out; its place stays empty.
    pub(super) fn kill(&mut self, place: usize) {
        self.dead.insert(place);
    }

    /// Places, empty ones included.
    pub(super) fn places(&self) -> usize {
        self.rows
    }

    /// Documents.
    pub(super) fn len(&self) -> usize {
        self.rows - self.dead.count()
    }

    /// The document at a place, unless there is none (any more).
    pub(super) fn get(&self, place: usize) -> Option<DeltaRow<'_>> {
        if place >= self.rows || self.dead.contains(place) {
            return None;
        }
        let (chunk, at) = (&self.chunks[place / CHUNK_ROWS], place % CHUNK_ROWS);
        let words = &chunk.records[at * self.words()..][..self.words()];
        Some(DeltaRow { place, record: self.layout.record(words), companion: &chunk.companions[at] })
    }

    /// All documents, by place.
    pub(super) fn iter(&self) -> impl Iterator<Item = DeltaRow<'_>> {
        (0..self.rows).filter_map(|place| self.get(place))
    }

    /// The same documents without empty places between them.
    pub(super) fn without_dead(&self) -> Delta {
        let mut delta = Delta::new(self.layout);
        for place in (0..self.rows).filter(|&place| !self.dead.contains(place)) {
            let (chunk, at) = (&self.chunks[place / CHUNK_ROWS], place % CHUNK_ROWS);
            delta.append(&chunk.records[at * self.words()..][..self.words()], chunk.companions[at].clone());
        }
        delta
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let companion = |c: &Arc<Companion>| {
            let values: usize = c.attributes.iter().map(|(name, value)| ENTRY + name.len() + value_bytes(value)).sum();
            size_of::<Companion>() + c.text.len() + values + c.coded.as_ref().map_or(0, |vector| vector.len() * 4)
        };
        let chunk = |c: &Arc<Chunk>| c.records.len() * 4 + c.companions.iter().map(companion).sum::<usize>();
        self.chunks.iter().map(chunk).sum::<usize>() + self.dead.memory_bytes()
    }
}

/// Bytes of the strings of a value.
fn value_bytes(value: &Value) -> usize {
    match value {
        Value::Keyword(text) => text.len(),
        Value::Keywords(texts) => texts.iter().map(|text| size_of::<String>() + text.len()).sum(),
        Value::Null | Value::Integer(_) | Value::Float(_) | Value::Boolean(_) => 0,
    }
}
