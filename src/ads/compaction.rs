//! Making a version of the active one and the changes over it, and removing versions that were made so.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, TryLockError};

use super::collection::{Collection, lock};
use super::registry::{Registry, VersionRef};
use super::version::Version;
use crate::calibrate::write_canary;
use crate::error::Result;
use crate::train::Watch;

/// Folder of the versions that compaction makes, within the state folder.
const MADE: &str = "versions";
/// How their names begin.
const PREFIX: &str = "seq-";

impl Collection {
    /// Writes the active version and all changes over it as a new version, and activates that. Returns its id; None where there is nothing to
    /// compact. Whatever fails, nothing is left of the new version.
    ///
    /// # Errors
    /// Those of reading and writing, `Io` of the kind `StorageFull` where there is no room for it, `Mismatch` where another version was
    /// activated meanwhile; the active version serves on.
    pub fn compact(&self, watch: &dyn Watch) -> Result<Option<String>> {
        self.check_writable()?;
        let _making = lock(&self.making);
        let active = self.active();
        let Some(snapshot) = self.live.over(&active.searcher) else { return Ok(None) };
        if snapshot.delta_rows() + snapshot.tombstones() == 0 {
            return Ok(None);
        }
        self.check_space(active.searcher.index().manifest().files.all().map(|file| file.bytes).sum())?;
        let path = self.new_folder(snapshot.seq(), &active.at.id)?;
        *lock(&self.writing) = Some(path.clone());
        let made = self.compact_into(&active, &path, watch);
        *lock(&self.writing) = None;
        if made.is_err() {
            self.close_unserved(&path);
        }
        self.tidy_or_later();
        let id = made?;
        self.compactions.fetch_add(1, Relaxed);
        Ok(Some(id))
    }

    fn compact_into(&self, active: &Version, path: &Path, watch: &dyn Watch) -> Result<String> {
        self.live.compact(&active.searcher, path, watch)?;
        if let Some(canary) = active.searcher.index().canary() {
            write_canary(&*self.vfs, path, &canary.queries)?;
        }
        let id = self.shelve(path)?.at.id.clone();
        self.activate(&id, Some(&active.at.id))?;
        Ok(id)
    }

    /// A name that no folder has. The number of the last change is not enough: without one in between, another version can be compacted.
    fn new_folder(&self, seq: u64, base: &str) -> Result<PathBuf> {
        let made = self.state().join(MADE);
        let short = base.get(..8).unwrap_or(base);
        let mut number = 1;
        loop {
            let path = made.join(format!("{PREFIX}{seq:020}-{short}-{number}"));
            if !self.vfs.exists(&path)? {
                return Ok(path);
            }
            number += 1;
        }
    }

    fn state(&self) -> PathBuf {
        self.options.state.clone().unwrap_or_default()
    }

    /// Closes the version in `path`, unless it is served.
    fn close_unserved(&self, path: &Path) {
        // Nobody may begin to serve it meanwhile.
        let _switching = lock(&self.switching);
        let serving = self.serving.load();
        let unserved = |version: &Arc<Version>| version.at.path == path && !serving.names(&version.at);
        let found = lock(&self.shelf).iter().map(|shelved| shelved.version.clone()).find(unserved);
        if let Some(version) = found {
            self.take_off(&version);
        }
    }

    /// [`tidy`](Self::tidy); what cannot be done now is left to the upkeep, which also says why.
    pub(super) fn tidy_or_later(&self) {
        if self.tidy().is_err() {
            self.untidy.store(true, Relaxed);
        }
    }

    /// Removes what compaction made and nobody needs any more, and of the journal what no version needs.
    ///
    /// # Errors
    /// `Io`; what is served is not concerned.
    pub(super) fn tidy(&self) -> Result<()> {
        // Whoever is opening a version needs folders and journal as they are.
        let _alone = match self.shelving.try_lock() {
            Ok(alone) => alone,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                self.untidy.store(true, Relaxed);
                return Ok(());
            }
        };
        if self.options.state.is_none() {
            return Ok(());
        }
        self.sweep()?;
        self.needed_seq().map_or(Ok(()), |seq| self.live.trim(seq))
    }

    /// Up to which change all versions include them; None where one that is not open may be wanted back.
    fn needed_seq(&self) -> Option<u64> {
        let (serving, shelf) = (self.serving.load(), lock(&self.shelf));
        let is_open = |at: &VersionRef| shelf.iter().any(|shelved| shelved.version.at == *at);
        if serving.previous.as_ref().is_some_and(|previous| !is_open(previous)) {
            return None;
        }
        shelf.iter().map(|shelved| self.live.included_seq(&shelved.version.searcher)).min()
    }

    /// Removes each folder that compaction made, or was making when it was killed, and that neither the registry nor anybody here names.
    ///
    /// # Errors
    /// The first `Io`, after all were tried.
    pub(super) fn sweep(&self) -> Result<()> {
        let made = self.state().join(MADE);
        if !self.vfs.exists(&made)? {
            return Ok(());
        }
        let named = self.named_folders()?;
        let is_left = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default();
            name.to_string_lossy().starts_with(PREFIX) && !named.contains(name)
        };
        let left = self.vfs.list(&made)?.into_iter().filter(is_left);
        left.map(|path| self.vfs.remove_dir_all(&path)).fold(Ok(()), Result::and)
    }

    /// Names of folders that are in use. Names, not paths: the registry has paths as somebody typed them.
    fn named_folders(&self) -> Result<HashSet<OsString>> {
        // What is on disk counts too: a registry that was written, but not acknowledged, is the one that is read after a restart.
        let registry = Registry::read(&*self.vfs, &self.state())?;
        let serving = self.serving.load();
        let mut paths: Vec<PathBuf> = registry.iter().flat_map(Registry::versions).map(|at| at.path.clone()).collect();
        paths.extend(serving.registry().versions().map(|at| at.path.clone()));
        paths.extend(lock(&self.shelf).iter().map(|shelved| shelved.version.at.path.clone()));
        paths.extend(lock(&self.writing).clone());
        Ok(paths.iter().filter_map(|path| path.file_name()).map(OsString::from).collect())
    }
}
