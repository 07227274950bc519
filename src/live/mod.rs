//! Changes over an immutable index: upserts and deletes that are durable when they are acknowledged, and visible to the next
//! request.
//!
//! ```text
//! apply --> check --> journal (one sync for all who wait) --> snapshot --> answered
//!                                                              |
//!            base: index version, read-only                    |  what a request sees, immutable:
//!            dead rows: one bit a row of the base    <---------+  base + dead rows + delta
//!            delta: documents in memory, searched exactly
//!
//! compact:   base - dead rows + delta  -->  a new index directory, without training
//! attach:    another version follows the changes too, so that it can be served from one moment to the next
//! detach:    a version follows them no longer
//! ```
//! The easy version keeps a list of changes and rebuilds. Departures:
//! - **The delta holds finished dense records**, as they would lie in a shard: a document scores the same to the bit in the delta
//!   and in the index that compaction makes of it.
//! - **Snapshots share what is equal.** Publishing a change copies the last chunk of the delta, one piece of the bits, and the map
//!   that the key is in; all else is counted references.
//! - **A version says which changes it includes** ([`crate::index::Included`]): opening, and attaching, a version replays the
//!   journal from there. Both are the same code, so what is served does not depend on how it came about. A version that was built
//!   from files includes none: all that the journal still holds applies over it.
//! - **Going back is possible**: the journal is trimmed when it is asked to be, as far as no version needs it any more.
//! - **A document is one change, however many views it has**: its rows come and go together, in one step, in the journal, in every
//!   snapshot and in compaction. A base whose rows are documents follows such changes too, with the first view of each: so a version
//!   with views can be staged beside one without, and be rolled back from. The journal has all views. They are refused only where no
//!   base has room for them.
//! - **Compaction copies codes.** Rows of the base keep codes and dense records as they are, so only the delta is assigned and
//!   encoded. (Row terms of L2 are requantised where a list's range changes: an error of half a step of that list.)
//!
//! Deliberately absent: transactions over several calls, and reading an older snapshot than the current one.

mod base_rows;
mod bits;
mod change;
mod columns;
mod compact;
mod delta;
mod prepare;
mod search;
mod snapshot;
#[cfg(test)]
mod tests;

pub use change::{Change, Document};
pub use compact::CompactReport;
pub use delta::DeltaRow;
pub use prepare::{MAX_RECORD, MAX_VIEWS, UNTAGGED};
pub use snapshot::{Place, Snapshot};

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::error::{Error, Result};
use crate::index::Included;
use crate::journal::{Cut, Grouped, Journal, Records};
use crate::search::Searcher;
use crate::train::Watch;
use crate::vfs::Vfs;
use prepare::{Prepared, check_room, prepare};

/// A journal, the bases that follow it, and the snapshot over each that requests see now. Share it between threads.
pub struct Live {
    vfs: Arc<dyn Vfs>,
    /// Changes prepared for each base, in the order of `current`.
    log: Grouped<Vec<Vec<Prepared>>>,
    journal_id: String,
    cut: Option<Cut>,
    /// One a base.
    current: RwLock<Vec<Arc<Snapshot>>>,
    /// Shared from the preparation of changes for the bases until they are published over them; alone while bases come or go.
    bases: RwLock<()>,
    /// One attachment at a time.
    attaching: Mutex<()>,
}

impl Live {
    /// Opens the journal in `dir` (creating both) and replays what `base` does not include.
    ///
    /// # Errors
    /// Those of [`Journal::open`]; `Mismatch` where the base includes changes that the journal has not seen, or does not include
    /// some that it has no more; those of [`Live::check`] for changes that do not fit the base.
    pub fn open(vfs: Arc<dyn Vfs>, dir: &Path, base: Arc<Searcher>) -> Result<Live> {
        let journal = Journal::open(vfs.clone(), dir, &mut |_, _| Ok(()))?;
        let snapshot = replayed(base, &journal)?;
        Ok(Live {
            vfs,
            journal_id: journal.id(),
            cut: journal.cut().cloned(),
            log: Grouped::new(journal),
            current: RwLock::new(vec![Arc::new(snapshot)]),
            bases: RwLock::new(()),
            attaching: Mutex::new(()),
        })
    }

    fn snapshots(&self) -> Vec<Arc<Snapshot>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the next request over `base` sees; None if it does not follow the changes (any more).
    pub fn over(&self, base: &Arc<Searcher>) -> Option<Arc<Snapshot>> {
        let snapshots = self.current.read().unwrap_or_else(PoisonError::into_inner);
        snapshots.iter().find(|snapshot| Arc::ptr_eq(snapshot.base(), base)).cloned()
    }

    /// Whether a change fits every base: dimension, values, norm, record.
    ///
    /// # Errors
    /// `Mismatch` and `InvalidParams` naming `vector`, `views` or `attributes`; `Io` and `Corrupt` where a base cannot be asked for the key.
    pub fn check(&self, change: &Change) -> Result<()> {
        let snapshots = self.snapshots();
        check_room(change, snapshots.iter().map(|snapshot| &**snapshot.base()))?;
        snapshots.iter().try_for_each(|snapshot| prepare(change, snapshot.base()).map(drop))
    }

    /// Makes changes durable, then visible over every base, all at once and in order; the number of the last one. Concurrent
    /// callers share a sync.
    ///
    /// # Errors
    /// Those of [`Live::check`] for the first change that does not fit: none is applied then. `Io` where the journal cannot be
    /// written; every later call fails too then, searches go on.
    pub fn apply(&self, changes: Vec<Change>) -> Result<u64> {
        let _same_bases = self.bases.read().unwrap_or_else(PoisonError::into_inner);
        let for_base = |snapshot: &Arc<Snapshot>| {
            changes.iter().map(|change| prepare(change, snapshot.base())).collect::<Result<Vec<_>>>()
        };
        let snapshots = self.snapshots();
        let bases = snapshots.iter().map(|snapshot| &**snapshot.base());
        changes.iter().try_for_each(|change| check_room(change, bases.clone()))?;
        let prepared = snapshots.iter().map(for_base).collect::<Result<Vec<_>>>()?;
        let payloads = changes.iter().map(Change::to_payload).collect();
        drop(changes);
        self.log.commit(payloads, prepared, |group| {
            self.publish(group);
            Ok(())
        })
    }

    /// Publishes changes that are durable; called with the journal locked.
    fn publish(&self, group: Vec<(Vec<Vec<Prepared>>, u64)>) {
        let mut next: Vec<Snapshot> = self.snapshots().iter().map(|snapshot| Snapshot::clone(snapshot)).collect();
        for (changes, last) in group {
            for (snapshot, changes) in next.iter_mut().zip(changes) {
                changes.into_iter().for_each(|change| snapshot.apply(change));
                snapshot.settle(last);
            }
        }
        self.replace(next.into_iter().map(Arc::new).collect());
    }

    fn replace(&self, snapshots: Vec<Arc<Snapshot>>) {
        let old = std::mem::replace(&mut *self.current.write().unwrap_or_else(PoisonError::into_inner), snapshots);
        // After the lock: this may free much.
        drop(old);
    }

    /// Writes a snapshot (base, tombstones and delta) to a new index in `output`, which says up to which change it includes them.
    /// Nothing is trained; changes go on meanwhile. The result is not served before it is attached. As with a build,
    /// what another index had in `output` is removed at the end: choose a directory that no version is served from, nor may be again.
    ///
    /// # Errors
    /// `InvalidParams` where `base` does not follow the changes, no document is left, or `output` holds something else; `Io`, `Corrupt`, and what
    /// `watch` stops with.
    pub fn compact(&self, base: &Arc<Searcher>, output: &Path, watch: &dyn Watch) -> Result<CompactReport> {
        let snapshot = {
            let mut journal = self.log.journal();
            // A new file begins here, so that trimming can later remove just what the new version includes.
            journal.trim(0)?;
            self.over(base)
        };
        let snapshot =
            snapshot.ok_or_else(|| Error::params("compact", format!("version {} is not served", base.version())))?;
        let included = Included { journal: self.journal_id.clone(), seq: snapshot.seq() };
        compact::compact(&*self.vfs, &snapshot, included, output, watch)
    }

    /// Lets `base` follow the changes from now on, beside those that do, with all changes that it does not include.
    ///
    /// # Errors
    /// As [`Live::open`].
    pub fn attach(&self, base: Arc<Searcher>) -> Result<()> {
        let _one = self.attaching.lock().unwrap_or_else(PoisonError::into_inner);
        let next = self.caught_up(base)?;
        self.finish_attaching(next)
    }

    /// Most of the work of attaching, while changes go on.
    fn caught_up(&self, base: Arc<Searcher>) -> Result<Snapshot> {
        let (records, included) = {
            let journal = self.log.journal();
            (journal.records(), included(&base, &journal)?)
        };
        let mut next = Snapshot::new(base, included);
        replay(&mut next, &records)?;
        Ok(next)
    }

    /// The rest of it, while none come.
    fn finish_attaching(&self, mut next: Snapshot) -> Result<()> {
        let _no_changes = self.bases.write().unwrap_or_else(PoisonError::into_inner);
        let records = self.log.journal().records();
        replay(&mut next, &records)?;
        let mut snapshots = self.snapshots();
        snapshots.push(Arc::new(next));
        self.replace(snapshots);
        Ok(())
    }

    /// `base` follows the changes no longer. The last one stays.
    pub fn detach(&self, base: &Arc<Searcher>) {
        let _no_changes = self.bases.write().unwrap_or_else(PoisonError::into_inner);
        let mut snapshots = self.snapshots();
        if snapshots.len() > 1 {
            snapshots.retain(|snapshot| !Arc::ptr_eq(snapshot.base(), base));
        }
        self.replace(snapshots);
    }

    /// Up to which change of this journal a base includes them; 0 where it knows nothing of it.
    pub fn included_seq(&self, base: &Searcher) -> u64 {
        included_seq(base, &self.journal_id)
    }

    /// The last of those changes that `base` was never told of and that cannot be told it any more: where it knows nothing of this journal,
    /// all that were trimmed. What they deleted is back with it, unless whoever built it knew of them.
    pub fn missed_seq(&self, base: &Searcher) -> Option<u64> {
        let knows = base.index().manifest().live.as_ref().is_some_and(|live| live.journal == self.journal_id);
        Some(self.log.journal().first_seq() - 1).filter(|&seq| !knows && seq > 0)
    }

    /// Removes files of the journal whose changes are all numbered `seq` or below.
    ///
    /// # Errors
    /// `Io`.
    pub fn trim(&self, seq: u64) -> Result<()> {
        self.log.journal().trim(seq)
    }

    /// Bytes of the journal.
    pub fn journal_bytes(&self) -> u64 {
        self.log.journal().bytes()
    }

    /// What opening left out of the journal because a crash had torn it: changes that were never acknowledged.
    pub fn cut(&self) -> Option<&Cut> {
        self.cut.as_ref()
    }
}

/// Up to which change of a journal a base includes them; 0 where it knows nothing of that journal.
fn included_seq(base: &Searcher, journal: &str) -> u64 {
    base.index().manifest().live.as_ref().filter(|live| live.journal == journal).map_or(0, |live| live.seq)
}

/// The same, after a check that the journal has what is missing.
fn included(base: &Searcher, journal: &Journal) -> Result<u64> {
    let (seq, id) = (included_seq(base, &journal.id()), journal.id());
    let named = base.index().manifest().live.as_ref().is_some_and(|live| live.journal == id);
    if seq > journal.last_seq() {
        let what = format!("the journal beneath version {} (it is older than the version)", base.version());
        return Err(Error::mismatch(what, format!("changes up to {seq}"), format!("up to {}", journal.last_seq())));
    }
    if named && seq + 1 < journal.first_seq() {
        let what = format!("the journal beneath version {} (the version is too old)", base.version());
        return Err(Error::mismatch(
            what,
            format!("changes from {}", seq + 1),
            format!("from {}", journal.first_seq()),
        ));
    }
    Ok(seq)
}

/// `base` with all changes that it does not include.
fn replayed(base: Arc<Searcher>, journal: &Journal) -> Result<Snapshot> {
    let seq = included(&base, journal)?;
    let mut snapshot = Snapshot::new(base, seq);
    replay(&mut snapshot, &journal.records())?;
    Ok(snapshot)
}

/// Applies the records after those that a snapshot has.
fn replay(snapshot: &mut Snapshot, records: &Records) -> Result<()> {
    let base = snapshot.base().clone();
    records.replay(snapshot.seq() + 1, &mut |seq, payload| {
        let change = Change::from_payload(seq, payload)?;
        let fitting = |error| {
            let what = format!("change {seq} of the journal (key {}: {error})", change.key());
            Error::mismatch(what, format!("one that fits version {}", base.version()), "one made for another version")
        };
        let prepared = prepare(&change, &base).map_err(|error| match error {
            Error::InvalidParams { .. } | Error::Mismatch { .. } => fitting(error),
            other => other,
        })?;
        snapshot.apply(prepared);
        snapshot.settle(seq);
        Ok(())
    })
}
