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
//! switch:    serve on top of another version; changes that it does not include stay in the delta
//! ```
//! The easy version keeps a list of changes and rebuilds. Departures:
//! - **The delta holds finished dense records**, as they would lie in a shard: a document scores the same to the bit in the delta
//!   and in the index that compaction makes of it.
//! - **Snapshots share what is equal.** Publishing a change copies the last chunk of the delta, one piece of the bits, and the map
//!   that the key is in; all else is counted references.
//! - **A version says which changes it includes** ([`crate::index::Included`]): opening, and switching to, a version replays the
//!   journal from there. Both are the same code, so what is served does not depend on how it came about. A version that was built
//!   from files includes none: all that the journal still holds applies over it.
//! - **Going back is possible**: switching trims the journal only as far as neither the old nor the new version needs it.
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
pub use prepare::MAX_RECORD;
pub use snapshot::{Place, Snapshot};

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::error::{Error, Result};
use crate::index::Included;
use crate::journal::{Cut, Grouped, Journal, Records};
use crate::search::Searcher;
use crate::train::Watch;
use crate::vfs::Vfs;
use prepare::{Prepared, prepare};

/// A base, its journal, and the snapshot that requests see now. Share it between threads.
pub struct Live {
    vfs: Arc<dyn Vfs>,
    log: Grouped<Vec<Prepared>>,
    journal_id: String,
    cut: Option<Cut>,
    current: RwLock<Arc<Snapshot>>,
    /// Shared from the preparation of changes for a base until they are published over it; alone while the base is replaced.
    base: RwLock<()>,
    /// One switch at a time.
    switching: Mutex<()>,
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
            current: RwLock::new(Arc::new(snapshot)),
            base: RwLock::new(()),
            switching: Mutex::new(()),
        })
    }

    /// What the next request sees.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a change fits the base: dimension, values, norm, record.
    ///
    /// # Errors
    /// `Mismatch` and `InvalidParams` naming `vector` or `attributes`; `Io` and `Corrupt` where the base cannot be asked for the key.
    pub fn check(&self, change: &Change) -> Result<()> {
        prepare(change, self.snapshot().base()).map(drop)
    }

    /// Makes changes durable, then visible, all at once and in order; the number of the last one. Concurrent callers share a sync.
    ///
    /// # Errors
    /// Those of [`Live::check`] for the first change that does not fit: none is applied then. `Io` where the journal cannot be
    /// written; every later call fails too then, searches go on.
    pub fn apply(&self, changes: Vec<Change>) -> Result<u64> {
        let _same_base = self.base.read().unwrap_or_else(PoisonError::into_inner);
        let snapshot = self.snapshot();
        let prepared = changes.iter().map(|change| prepare(change, snapshot.base())).collect::<Result<Vec<_>>>()?;
        drop(snapshot);
        let payloads = changes.iter().map(Change::to_payload).collect();
        drop(changes);
        self.log.commit(payloads, prepared, |group| {
            self.publish(group);
            Ok(())
        })
    }

    /// Publishes changes that are durable; called with the journal locked.
    fn publish(&self, group: Vec<(Vec<Prepared>, u64)>) {
        let mut next = Snapshot::clone(&self.snapshot());
        for (changes, last) in group {
            changes.into_iter().for_each(|change| next.apply(change));
            next.settle(last);
        }
        self.replace(next);
    }

    fn replace(&self, snapshot: Snapshot) {
        let snapshot = Arc::new(snapshot);
        let old = std::mem::replace(&mut *self.current.write().unwrap_or_else(PoisonError::into_inner), snapshot);
        // After the lock: this may free much.
        drop(old);
    }

    /// Writes base, tombstones and delta as they are now to a new index in `output`, which says up to which change it includes them.
    /// Nothing is trained; changes go on meanwhile. The result is not served before [`Live::switch`]. As with a build, what another
    /// index had in `output` is removed at the end: choose a directory that no version is served from, nor may be again.
    ///
    /// # Errors
    /// `InvalidParams` where no document is left, or `output` holds something else; `Io`, `Corrupt`, and what `watch` stops with.
    pub fn compact(&self, output: &Path, watch: &dyn Watch) -> Result<CompactReport> {
        let snapshot = {
            let mut journal = self.log.journal();
            // A new file begins here, so that trimming can later remove just what the new version includes.
            journal.trim(0)?;
            self.snapshot()
        };
        let included = Included { journal: self.journal_id.clone(), seq: snapshot.seq() };
        compact::compact(&*self.vfs, &snapshot, included, output, watch)
    }

    /// Serves on top of `base` from now on, with all changes that it does not include, in one step. Then removes the part of the
    /// journal that neither this base nor the one before it needs.
    ///
    /// # Errors
    /// As [`Live::open`]; what was served is served on then.
    pub fn switch(&self, base: Arc<Searcher>) -> Result<()> {
        let _one = self.switching.lock().unwrap_or_else(PoisonError::into_inner);
        let records = self.log.journal().records();
        let included = self.included(&base)?;
        // Most of the work, while changes go on.
        let mut next = Snapshot::new(base, included);
        replay(&mut next, &records)?;
        let _no_changes = self.base.write().unwrap_or_else(PoisonError::into_inner);
        let mut journal = self.log.journal();
        replay(&mut next, &journal.records())?;
        let needed = included.min(included_seq(self.snapshot().base(), &self.journal_id));
        self.replace(next);
        // The switch stands; a longer journal is no harm, and a disk that fails here fails the next change, which says so.
        let _ = journal.trim(needed);
        Ok(())
    }

    fn included(&self, base: &Searcher) -> Result<u64> {
        included(base, &self.log.journal())
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
