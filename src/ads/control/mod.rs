//! The control table: whether an ad may be shown now, and what a click on it is worth. Small, mutable and durable, where an
//! index version is large and immutable.
//!
//! Advertisers have campaigns, campaigns ad groups, ad groups ads. Each of these entities may say something of itself by a
//! [`Patch`]; what holds for an ad, its [`Standing`], follows from the chain above it:
//!
//! | field | along the chain |
//! |---|---|
//! | `status`, `budget` | all must allow; the widest that does not is the [`Reason`] |
//! | `start`, `end` | the flights' intersection: `start <= now < end` |
//! | `bid_micros`, `ctr` | the nearest to the ad that says one |
//!
//! The easy version walks four hash maps for every candidate of every query. It departs from that in this:
//! - A row knows its [`Owner`], four bytes: its ad group, or its own record where it has one. Ids are looked up when a version
//!   is loaded, not when it is asked.
//! - The chain is worked out when it changes, for each ad group below the change, and not for its ads: pausing a campaign of a
//!   million ads in a thousand ad groups changes a thousand standings. [`Epoch::standing`] reads one element of an array, one cache
//!   line, and for an ad with a record of its own two.
//! - A request sees one [`Epoch`], which never changes. The next one shares all chunks of those arrays that it does not change.
//!
//! # What lasts
//! ```text
//! DIR/control.bg       all entities as of some epoch, with its number: one column a field (see store.rs)
//! DIR/log-<seq>.bg     the journal: one record for each call of apply; the record's number is the epoch's
//! ```
//! Patches of one call are one record, so that either all of them survive a crash or none. Calls that wait for the disk at the same
//! time share a sync. A patch is visible when it is durable, and not before. Epoch numbers go on after a restart.
//!
//! Deliberately absent: forgetting an entity. Who has once said something keeps its place, so owners stay what they are.

mod chunks;
mod epoch;
mod patch;
mod store;
mod table;
#[cfg(test)]
mod tests;

pub use epoch::{Epoch, Owner, Reason, Standing};
pub use patch::{Budget, Entity, Field, Level, MAX_BID_MICROS, Patch, Status};
pub use table::Earlier;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use crate::error::{Error, Result};
use crate::journal::{Cut, Grouped, Journal};
use crate::types::Key;
use crate::vfs::Vfs;
use table::Table;

/// The most patches of one call.
pub const MAX_PATCHES: usize = 100_000;
/// A journal this long is worth a [`Control::checkpoint`]: it takes a second or two to replay.
pub const CHECKPOINT_BYTES: u64 = 64 << 20;

/// The control table, open. All functions may be called by any number of threads.
pub struct Control {
    vfs: Arc<dyn Vfs>,
    dir: PathBuf,
    table: RwLock<Table>,
    /// What readers see; apart from the table, so that they wait for no patch that is being worked in.
    current: RwLock<Arc<Epoch>>,
    log: Grouped<Vec<Patch>>,
    cut: Option<Cut>,
    /// Held while a snapshot is written.
    checkpointing: Mutex<()>,
}

impl Control {
    /// Opens the table in the folder `dir`, or makes an empty one.
    ///
    /// # Errors
    /// `Corrupt` or `Mismatch` where the snapshot or the journal is damaged, missing or of another table, `Unsupported` where a newer
    /// bigrain wrote them, `InvalidParams` where another process has the table open, `Io`.
    pub fn open(vfs: Arc<dyn Vfs>, dir: &Path) -> Result<Control> {
        let mut table = Table::new();
        let included = store::read_snapshot(&*vfs, dir, &mut table)?;
        let mut number = included;
        let journal = Journal::open(vfs.clone(), dir, &mut |seq, payload| {
            if seq > included {
                store::decode(dir, seq, payload)?.iter().for_each(|patch| table.apply(patch));
                number = seq;
            }
            Ok(())
        })?;
        store::check_journal(&*vfs, dir, included, &journal)?;
        let current = RwLock::new(table.publish(number));
        let cut = journal.cut().cloned();
        let (table, log) = (RwLock::new(table), Grouped::new(journal));
        Ok(Control { vfs, dir: dir.into(), table, current, log, cut, checkpointing: Mutex::new(()) })
    }

    /// Applies patches in their order, all or none; they are durable and visible when it returns. The number of the epoch from
    /// which on they are.
    ///
    /// # Errors
    /// The first that [`Control::check`] refuses (an ad's parent may have been named by a patch before it); `InvalidParams` for
    /// more than [`MAX_PATCHES`]; `Io`, after which nothing can be applied until the table is opened again.
    pub fn apply(&self, patches: Vec<Patch>) -> Result<u64> {
        if patches.is_empty() {
            return Ok(self.epoch().number());
        }
        if patches.len() > MAX_PATCHES {
            let reason = format!("{} are more than {MAX_PATCHES}; send them in several calls", patches.len());
            return Err(Error::params("patches", reason));
        }
        self.table().check_all(&patches)?;
        let payload = store::encode(&patches)?;
        self.log.commit(vec![payload], patches, |calls| {
            self.work_in(calls);
            Ok(())
        })
    }

    fn work_in(&self, calls: Vec<(Vec<Patch>, u64)>) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let mut number = table.epoch().number();
        for (patches, seq) in calls {
            patches.iter().for_each(|patch| table.apply(patch));
            number = seq;
        }
        self.publish(&mut table, number);
    }

    fn publish(&self, table: &mut Table, number: u64) {
        let next = table.publish(number);
        let before = std::mem::replace(&mut *self.current.write().unwrap_or_else(PoisonError::into_inner), next);
        // Perhaps the last use of many chunks, which readers need not wait for.
        drop(before);
    }

    fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a patch can be applied.
    ///
    /// # Errors
    /// `InvalidParams` named after the field: an id or a parent of 0, a parent of an advertiser, a flight without a second in it or
    /// beyond the year 9999, a bid above [`MAX_BID_MICROS`], a click rate outside 0 to 1, nothing to change, the first patch of
    /// an ad that does not name its parent.
    pub fn check(&self, patch: &Patch) -> Result<()> {
        self.check_after(patch, &mut Earlier::default())
    }

    /// Whether a patch can be applied in one call after those that were checked with the same `earlier`; if so, it is one of them then.
    ///
    /// # Errors
    /// As those of [`Control::check`].
    pub fn check_after(&self, patch: &Patch, earlier: &mut Earlier) -> Result<()> {
        self.table().check(patch, earlier)
    }

    /// The state of now.
    pub fn epoch(&self) -> Arc<Epoch> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The owner of the rows of an ad group; 0 is no ad group. One that nobody described yet is active, without a bid.
    pub fn owner_of_group(&self, id: u64) -> Owner {
        let known = self.table().ordinal(Level::AdGroup, id);
        known.map(Owner::group).unwrap_or_else(|| self.owners_of_groups([id])[0])
    }

    /// The owners of many ad groups, for loading a version: unknown ones are made known all at once.
    pub fn owners_of_groups(&self, ids: impl IntoIterator<Item = u64>) -> Vec<Owner> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let known = table.epoch().counts();
        let owners = ids.into_iter().map(|id| Owner::group(table.intern(Level::AdGroup, id))).collect();
        if table.epoch().counts() != known {
            let number = table.epoch().number();
            self.publish(&mut table, number);
        }
        owners
    }

    /// The owner of an ad's row, where the ad has a record of its own.
    pub fn owner_of_ad(&self, key: Key) -> Option<Owner> {
        self.table().ordinal(Level::Ad, key).map(Owner::ad)
    }

    /// What an entity says of itself, if it ever said anything.
    pub fn entity(&self, level: Level, id: u64) -> Option<Entity> {
        let table = self.table();
        table.ordinal(level, id).and_then(|ordinal| table.epoch().entity(level, ordinal))
    }

    /// What opening left out of the journal because a crash had torn it: patches that were never acknowledged.
    pub fn cut(&self) -> Option<&Cut> {
        self.cut.as_ref()
    }

    /// Bytes of the journal, which is replayed when the table is opened.
    pub fn journal_bytes(&self) -> u64 {
        self.log.journal().bytes()
    }

    /// Writes a snapshot and trims the journal, if the journal is longer than `journal_bytes`; whether it did. Patches are applied
    /// meanwhile. Call it now and then with [`CHECKPOINT_BYTES`], on a thread that may wait.
    ///
    /// # Errors
    /// `Io`; the snapshot and journal from before are still there then.
    pub fn checkpoint(&self, journal_bytes: u64) -> Result<bool> {
        let _alone = self.checkpointing.lock().unwrap_or_else(PoisonError::into_inner);
        let (bytes, id) = {
            let journal = self.log.journal();
            (journal.bytes(), journal.id())
        };
        if bytes <= journal_bytes {
            return Ok(false);
        }
        let epoch = self.epoch();
        store::write_snapshot(&*self.vfs, &self.dir, &id, &epoch)?;
        self.log.journal().trim(epoch.number())?;
        Ok(true)
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("dir", &self.dir).field("epoch", &self.epoch().number()).finish()
    }
}
