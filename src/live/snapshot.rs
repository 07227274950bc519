//! What one request sees: an immutable picture of base, delta and tombstones.

use std::collections::HashMap;
use std::sync::Arc;

use super::bits::Bits;
use super::delta::{Delta, DeltaRow};
use super::prepare::{Prepared, layout_of};
use crate::error::Result;
use crate::index::mix;
use crate::search::Searcher;
use crate::types::{Key, Row};

/// Maps that keys are spread over: a publication copies only those that its keys are in.
const SHARDS: usize = 1024;
/// A delta with more empty places than documents is written anew, if there are at least so many.
const LEAST_EMPTY: usize = 4096;

/// Base, delta and tombstones at one moment. It never changes; copies share what is equal.
#[derive(Clone)]
pub struct Snapshot {
    base: Arc<Searcher>,
    seq: u64,
    /// Rows of the base that were replaced or deleted, and how many documents they are.
    dead: Bits,
    dead_documents: usize,
    /// Changes that gave a document further views, which the base has no room for.
    first_views_only: u64,
    delta: Delta,
    /// The place of every key of the delta: that of its first view.
    places: Vec<Arc<HashMap<Key, usize>>>,
}

/// Where a document is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// At this row of the base: that of its first view.
    Base(Row),
    /// At this place of the delta: that of its first view.
    Delta(usize),
    /// There is none.
    Nowhere,
}

impl Snapshot {
    /// A base without changes, which includes those up to `seq`.
    pub(super) fn new(base: Arc<Searcher>, seq: u64) -> Snapshot {
        let delta = Delta::new(layout_of(&base));
        let (dead, places) = (Bits::default(), vec![Arc::default(); SHARDS]);
        Snapshot { base, seq, dead, dead_documents: 0, first_views_only: 0, delta, places }
    }

    /// The index version beneath.
    pub fn base(&self) -> &Arc<Searcher> {
        &self.base
    }

    /// Number of the last change that is visible.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Rows of the delta: documents, or views of them.
    pub fn delta_rows(&self) -> usize {
        self.delta.len()
    }

    /// Places of the delta, some of them empty: all places are below.
    pub fn delta_places(&self) -> usize {
        self.delta.places()
    }

    /// Rows of the base that were replaced or deleted.
    pub fn tombstones(&self) -> usize {
        self.dead.count()
    }

    /// Rows that can be found: documents, or views of them.
    pub fn rows(&self) -> u64 {
        self.base.rows() - self.dead.count() as u64 + self.delta.len() as u64
    }

    /// Documents of the delta.
    pub fn delta_documents(&self) -> usize {
        self.places.iter().map(|shard| shard.len()).sum()
    }

    /// Documents of the base that were replaced or deleted.
    pub fn dead_documents(&self) -> usize {
        self.dead_documents
    }

    /// Documents that can be found.
    pub fn documents(&self) -> u64 {
        self.base.documents() - self.dead_documents as u64 + self.delta_documents() as u64
    }

    /// Changes over the base that gave a document further views, of which the base, where a row is a document, has no room for more than
    /// the first.
    pub fn first_views_only(&self) -> u64 {
        self.first_views_only
    }

    /// Whether a row of the base was replaced or deleted.
    #[inline]
    pub fn is_dead(&self, row: Row) -> bool {
        self.dead.contains(row as usize)
    }

    /// Those rows, ascending.
    pub fn dead_rows(&self) -> impl Iterator<Item = Row> {
        self.dead.iter().map(|row| row as Row)
    }

    /// The rows of the delta, by place.
    pub fn delta(&self) -> impl Iterator<Item = DeltaRow<'_>> {
        self.delta.iter()
    }

    /// The row at a place of the delta, unless the place is empty.
    pub fn delta_row(&self, place: usize) -> Option<DeltaRow<'_>> {
        self.delta.get(place)
    }

    /// The document with `key`, if the delta has it.
    pub fn delta_row_of(&self, key: Key) -> Option<DeltaRow<'_>> {
        self.places[shard(key)].get(&key).and_then(|&place| self.delta_row(place))
    }

    /// Where the document with `key` is.
    ///
    /// # Errors
    /// `Io` and `Corrupt` where the base cannot be asked.
    pub fn place(&self, key: Key) -> Result<Place> {
        if let Some(&place) = self.places[shard(key)].get(&key) {
            return Ok(Place::Delta(place));
        }
        let row = self.base.index().row(key)?.filter(|&row| !self.is_dead(row));
        Ok(row.map_or(Place::Nowhere, Place::Base))
    }

    /// Where all views of the document with `key` are, the first one first; nowhere if there is none.
    ///
    /// # Errors
    /// As those of [`Snapshot::place`].
    pub fn places(&self, key: Key) -> Result<Vec<Place>> {
        if let Some(&first) = self.places[shard(key)].get(&key) {
            return Ok(self.delta.places_of(first).map(Place::Delta).collect());
        }
        let rows = self.base.index().rows(key)?;
        Ok(rows.into_iter().filter(|&row| !self.is_dead(row)).map(Place::Base).collect())
    }

    /// Which view of the document with `key` lies at `place`, from 0; None where a row is a document.
    ///
    /// # Errors
    /// As those of [`Snapshot::place`].
    pub fn view(&self, key: Key, place: Place) -> Result<Option<usize>> {
        match place {
            _ if self.base.views().is_none() => Ok(None),
            Place::Delta(place) => Ok(self.delta_row(place).map(|row| row.view() as usize)),
            _ => Ok(self.places(key)?.iter().position(|other| *other == place)),
        }
    }

    /// Bytes of delta and tombstones in memory.
    pub fn memory_bytes(&self) -> usize {
        let entry = size_of::<(Key, usize)>() + 1;
        let places: usize = self.places.iter().map(|map| size_of_val(map) + map.capacity() * entry).sum();
        self.delta.memory_bytes() + self.dead.memory_bytes() + places
    }

    /// Makes a change visible that was prepared for this base.
    pub(super) fn apply(&mut self, change: Prepared) {
        let Prepared { key, base_rows, entry, first_view_only } = change;
        let mut died = false;
        for row in base_rows {
            died |= self.dead.insert(row as usize);
        }
        // Rows of a document go together.
        self.dead_documents += usize::from(died);
        self.first_views_only += u64::from(first_view_only);
        let new = entry.map(|entry| self.delta.push(entry));
        let map = &mut self.places[shard(key)];
        if new.is_none() && !map.contains_key(&key) {
            return;
        }
        let map = Arc::make_mut(map);
        let old = match new {
            Some(place) => map.insert(key, place),
            None => map.remove(&key),
        };
        old.into_iter().for_each(|place| self.delta.kill(place));
    }

    /// Ends a group of changes, the last of which has number `seq`.
    pub(super) fn settle(&mut self, seq: u64) {
        self.seq = seq;
        let empty = self.delta.places() - self.delta.len();
        if empty < LEAST_EMPTY.max(self.delta.len()) {
            return;
        }
        self.delta = self.delta.without_dead();
        let mut places: Vec<HashMap<Key, usize>> = vec![HashMap::new(); SHARDS];
        for row in self.delta.iter().filter(|row| row.view() == 0) {
            places[shard(row.key())].insert(row.key(), row.place());
        }
        self.places = places.into_iter().map(Arc::new).collect();
    }
}

fn shard(key: Key) -> usize {
    (mix(key) % SHARDS as u64) as usize
}
