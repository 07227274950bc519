//! Staging, activating, rolling back, splitting, compacting: how a collection's versions change under load.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::canary::run_canary;
use super::collection::{Collection, Serving, Shelved, VersionInfo, lock};
use super::registry::{Registry, SplitRef};
use super::version::Version;
use crate::calibrate::write_canary;
use crate::error::{Error, Result};
use crate::train::{Silent, Watch};

/// Folder of the versions that compaction makes, within the state folder.
const MADE: &str = "versions";

impl Collection {
    /// Opens the version in `path` (within the folder of versions), reads every byte of it, measures it with its canary queries and lets
    /// it catch up with all changes: it can be activated then.
    ///
    /// # Errors
    /// `InvalidParams` for a path outside of that folder, those of opening and checking an index, `Mismatch` for an index that
    /// answers other queries than the active one.
    pub fn stage(&self, path: &str) -> Result<VersionInfo> {
        self.check_writable()?;
        let _making = lock(&self.making);
        let version = self.shelve(&self.resolve(path)?)?;
        self.info_of(&version)
    }

    /// Where a name leads within the folder of versions.
    fn resolve(&self, path: &str) -> Result<PathBuf> {
        let Some(folder) = &self.options.versions else {
            return Err(Error::Unsupported {
                what: "staging versions without a folder of versions".into(),
                remedy: "set ads.versions to the folder that holds the indexes to be served".into(),
            });
        };
        let wrong =
            |why: &str| Error::params("path", format!("{path:?} {why}; name a folder within the folder of versions"));
        let plain = |part: std::path::Component<'_>| matches!(part, std::path::Component::Normal(_));
        if path.is_empty() || !Path::new(path).components().all(plain) {
            return Err(wrong("is not a plain relative path"));
        }
        let whole = folder.join(path);
        // Links may lead anywhere, and are followed on purpose: who can write into the folder decides what is served.
        if whole.is_dir() { Ok(whole) } else { Err(wrong("is not there")) }
    }

    /// Opens, checks and measures a version, and puts it with the open ones. One that is open already stays as it is.
    pub(super) fn shelve(&self, path: &Path) -> Result<Arc<Version>> {
        let version = Version::open(path, &self.options.open, &self.control, &self.options.settings)?;
        if let Some(known) = self.find(&version.at.id) {
            return Ok(known);
        }
        let active = self.active();
        let (old, new) = (&active.searcher, &version.searcher);
        if (old.dim(), old.metric()) != (new.dim(), new.metric()) {
            let shape =
                |searcher: &crate::search::Searcher| format!("{} dimensions, {}", searcher.dim(), searcher.metric());
            return Err(Error::mismatch("the version", shape(old), shape(new)));
        }
        version.searcher.index().check(&Silent)?;
        let canary = run_canary(&version.searcher)?;
        let version = Arc::new(version);
        self.live.attach(version.searcher.clone())?;
        // Ads that got a record of their own while this version was being opened.
        for (key, owner) in self.control.epoch().ads() {
            version.owners.set(version.searcher.index(), key, owner)?;
        }
        lock(&self.shelf).push(Shelved { version: version.clone(), canary, served: false });
        Ok(version)
    }

    fn find(&self, id: &str) -> Option<Arc<Version>> {
        lock(&self.shelf).iter().map(|shelved| &shelved.version).find(|version| version.at.id == id).cloned()
    }

    fn info_of(&self, version: &Version) -> Result<VersionInfo> {
        let found = self.versions().into_iter().find(|info| info.version == version.at.id);
        found.ok_or_else(|| unknown(&version.at.id))
    }

    /// Serves the version `id` from now on, if `if_current` is active now (or is not given). Returns the id of the one before.
    ///
    /// # Errors
    /// `InvalidParams` for a version that is not open, `Mismatch` where another one is active than was said, `Unsupported` where
    /// its canary queries did not reach the recall that is asked for.
    pub fn activate(&self, id: &str, if_current: Option<&str>) -> Result<String> {
        self.check_writable()?;
        let _making = lock(&self.making);
        self.activate_alone(id, if_current)
    }

    fn activate_alone(&self, id: &str, if_current: Option<&str>) -> Result<String> {
        let version = self.find(id).ok_or_else(|| unknown(id))?;
        let before = self.active();
        if let Some(expected) = if_current.filter(|expected| *expected != before.at.id) {
            return Err(Error::mismatch("the active version", expected, &before.at.id));
        }
        self.check_canary(id)?;
        if before.at.id == id {
            return Ok(before.at.id.clone());
        }
        version.refresh(&self.control.epoch(), self.options.settings.default_ctr, true);
        self.change_serving(|serving| {
            serving.previous = Some(before.at.clone());
            serving.active = version.clone();
            serving.split = None;
        })?;
        self.switches.fetch_add(1, Relaxed);
        lock(&self.shelf).iter_mut().filter(|shelved| shelved.version.at.id == id).for_each(|s| s.served = true);
        self.close_others()?;
        Ok(before.at.id.clone())
    }

    fn check_canary(&self, id: &str) -> Result<()> {
        let shelf = lock(&self.shelf);
        let canary =
            shelf.iter().find(|shelved| shelved.version.at.id == id).and_then(|shelved| shelved.canary.clone());
        match canary {
            Some(canary) if canary.recall < self.options.canary_recall => Err(Error::Unsupported {
                what: format!(
                    "version {id}: its recall with {} canary queries is {:.3}, below ads.canary_recall {}, so activating it",
                    canary.queries, canary.recall, self.options.canary_recall
                ),
                remedy: "build it with more code bytes or lists, or lower the setting".into(),
            }),
            _ => Ok(()),
        }
    }

    /// Serves the version again that was active before. Returns its id.
    ///
    /// # Errors
    /// `Unsupported` where there is none; those of opening it.
    pub fn roll_back(&self) -> Result<String> {
        self.check_writable()?;
        let _making = lock(&self.making);
        let previous = self.serving.load().previous.clone().ok_or_else(|| Error::Unsupported {
            what: "rolling back, since no version was active before this one".into(),
            remedy: "activate a staged version".into(),
        })?;
        let version = match self.find(&previous.id) {
            Some(version) => version,
            None => self.shelve(&previous.path)?,
        };
        let id = version.at.id.clone();
        self.activate_alone(&id, None)?;
        Ok(id)
    }

    /// Gives the version `id` a share of the traffic (above 0, below 1), or all of it back to the active one.
    ///
    /// # Errors
    /// `InvalidParams` for a share out of range or a version that is not open or active itself, `Unsupported` where its canary failed.
    pub fn split(&self, to: Option<(&str, f32)>) -> Result<()> {
        self.check_writable()?;
        let _making = lock(&self.making);
        let Some((id, share)) = to else { return self.change_serving(|serving| serving.split = None) };
        if !(share > 0.0 && share < 1.0) {
            return Err(Error::params("share", format!("{share} is not above 0 and below 1")));
        }
        let version = self.find(id).ok_or_else(|| unknown(id))?;
        if self.active().at.id == id {
            return Err(Error::params("version", format!("{id} is active itself; name another one")));
        }
        self.check_canary(id)?;
        self.change_serving(|serving| serving.split = Some((version, share)))
    }

    /// Changes what is served: on disk first, then for requests.
    pub(super) fn change_serving(&self, change: impl FnOnce(&mut Serving)) -> Result<()> {
        let mut serving = self.serving.load().as_ref().clone();
        change(&mut serving);
        if let Some(state) = &self.options.state {
            let split =
                serving.split.as_ref().map(|(version, share)| SplitRef { version: version.at.clone(), share: *share });
            let previous = serving.previous.clone();
            Registry::new(serving.active.at.clone(), previous, split).write(&*self.vfs, state)?;
        }
        self.serving.store(Arc::new(serving));
        Ok(())
    }

    /// Closes versions that are neither served nor staged for it: those that were previous once. What compaction made of them is
    /// removed from disk, and the journal is trimmed to what the others need.
    fn close_others(&self) -> Result<()> {
        let serving = self.serving.load().clone();
        let keeps = |version: &Version| {
            version.at.id == serving.active.at.id
                || serving.previous.as_ref().is_some_and(|previous| *previous == version.at)
                || serving.split.as_ref().is_some_and(|split| split.0.at == version.at)
        };
        let mut closed = Vec::new();
        lock(&self.shelf).retain(|shelved| {
            // One that was never served is waiting for its turn.
            let stays = keeps(&shelved.version) || !shelved.served;
            if !stays {
                closed.push(shelved.version.clone());
            }
            stays
        });
        for version in &closed {
            self.live.detach(&version.searcher);
            self.remove_made(&version.at.path)?;
        }
        let needed = lock(&self.shelf).iter().map(|shelved| self.live.included_seq(&shelved.version.searcher)).min();
        match needed {
            Some(seq) if self.options.state.is_some() => self.live.trim(seq),
            _ => Ok(()),
        }
    }

    /// Removes a version that compaction made.
    fn remove_made(&self, path: &Path) -> Result<()> {
        let Some(made) = self.options.state.as_ref().map(|state| state.join(MADE)) else { return Ok(()) };
        if path.parent() == Some(&made) { self.vfs.remove_dir_all(path) } else { Ok(()) }
    }

    /// Writes the active version and all changes over it as a new version, and activates that. Returns its id; None where there is nothing to
    /// compact.
    ///
    /// # Errors
    /// Those of reading and writing; the active version serves on.
    pub fn compact(&self, watch: &dyn Watch) -> Result<Option<String>> {
        self.check_writable()?;
        let _making = lock(&self.making);
        let active = self.active();
        let Some(snapshot) = self.live.over(&active.searcher) else { return Ok(None) };
        if snapshot.delta_rows() + snapshot.tombstones() == 0 {
            return Ok(None);
        }
        let made = self.options.state.as_ref().expect("a writable collection has a state folder").join(MADE);
        let path = made.join(format!("seq-{:020}", snapshot.seq()));
        self.live.compact(&active.searcher, &path, watch)?;
        if let Some(canary) = active.searcher.index().canary() {
            write_canary(&*self.vfs, &path, &canary.queries)?;
        }
        let version = self.shelve(&path)?;
        let id = version.at.id.clone();
        self.activate_alone(&id, Some(&active.at.id))?;
        self.compactions.fetch_add(1, Relaxed);
        Ok(Some(id))
    }

    /// Versions activated, and compactions done, since the start.
    pub fn counts(&self) -> (u64, u64) {
        (self.switches.load(Relaxed), self.compactions.load(Relaxed))
    }
}

fn unknown(id: &str) -> Error {
    Error::params("version", format!("{id:?} is not open; stage it first, or see the list of versions"))
}
