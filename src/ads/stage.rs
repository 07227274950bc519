//! How a version comes to be open: found, checked byte by byte, measured, caught up with all changes, put on the shelf.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::canary::{CanaryReport, run_canary};
use super::collection::{Collection, Shelved, VersionInfo, VersionState, lock};
use super::registry::VersionRef;
use super::version::Version;
use crate::error::{Error, Result};
use crate::search::Searcher;
use crate::train::Silent;

/// Refused versions that are remembered.
const REMEMBERED: usize = 16;

impl Collection {
    /// Opens the version in `path` (within the folder of versions), reads every byte of it, measures it with its canary queries and lets
    /// it catch up with all changes: it can be activated then. One whose canary queries do not reach the recall that is asked for is
    /// listed as refused, and closed.
    ///
    /// # Errors
    /// `InvalidParams` for a path outside of that folder, those of opening and checking an index, `Mismatch` for an index that
    /// answers other queries than the active one.
    pub fn stage(&self, path: &str) -> Result<VersionInfo> {
        self.check_writable()?;
        let _making = lock(&self.making);
        let opened = self.open_checked(&self.resolve(path)?)?;
        if self.check_canary(&opened).is_err() {
            return Ok(self.remember_refused(&opened));
        }
        let version = self.put_on_shelf(opened)?;
        let found = self.versions().into_iter().find(|info| info.version == version.at.id);
        found.ok_or_else(|| unknown(&version.at.id))
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

    /// Opens a version and puts it with the open ones. One that is open already stays as it is.
    pub(super) fn shelve(&self, path: &Path) -> Result<Arc<Version>> {
        let opened = self.open_checked(path)?;
        self.check_canary(&opened)?;
        self.put_on_shelf(opened)
    }

    /// The same for a version that the registry names.
    pub(super) fn shelve_known(&self, at: &VersionRef) -> Result<Arc<Version>> {
        let opened = self.open_checked(&at.path)?;
        opened.version.check_id(at)?;
        self.check_canary(&opened)?;
        self.put_on_shelf(opened)
    }

    /// Opens, checks and measures a version; the open one if it is open already.
    fn open_checked(&self, path: &Path) -> Result<Shelved> {
        let version = Version::open(path, &self.options.open, &self.control, &self.options.settings)?;
        let known =
            lock(&self.shelf).iter().find(|shelved| shelved.ready && shelved.version.at.id == version.at.id).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let active = self.active();
        let (old, new) = (&active.searcher, &version.searcher);
        if (old.dim(), old.metric()) != (new.dim(), new.metric()) {
            let shape = |searcher: &Searcher| format!("{} dimensions, {}", searcher.dim(), searcher.metric());
            return Err(Error::mismatch("the version", shape(old), shape(new)));
        }
        version.searcher.index().check(&Silent)?;
        let canary = run_canary(&version.searcher)?;
        let note = missed_changes(self.live.missed_seq(&version.searcher));
        Ok(Shelved { version: Arc::new(version), canary, note, ready: false, served: false })
    }

    /// Refuses a version that does not find what it should.
    pub(super) fn check_canary(&self, shelved: &Shelved) -> Result<()> {
        match &shelved.canary {
            Some(canary) if canary.recall < self.options.canary_recall => {
                Err(self.below_canary_recall(&shelved.version.at.id, canary))
            }
            _ => Ok(()),
        }
    }

    fn below_canary_recall(&self, id: &str, canary: &CanaryReport) -> Error {
        Error::Unsupported {
            what: format!(
                "activating version {id}, whose recall with {} canary queries is {:.3}, below ads.canary_recall {},",
                canary.queries, canary.recall, self.options.canary_recall
            ),
            remedy: "build it with more code bytes or lists, or lower the setting, and stage it again".into(),
        }
    }

    /// Remembers a version that is not open because of its canary queries.
    fn remember_refused(&self, shelved: &Shelved) -> VersionInfo {
        let info = VersionInfo::of(shelved, VersionState::Refused);
        let mut refused = lock(&self.refused);
        refused.retain(|known| known.version != info.version);
        if refused.len() == REMEMBERED {
            refused.remove(0);
        }
        refused.push(info.clone());
        info
    }

    /// Lets a version follow the changes, and lists it.
    fn put_on_shelf(&self, opened: Shelved) -> Result<Arc<Version>> {
        let _one = lock(&self.shelving);
        let version = opened.version.clone();
        if let Some(known) = self.find(&version.at.id) {
            return Ok(known);
        }
        self.live.attach(version.searcher.clone())?;
        lock(&self.shelf).push(opened);
        // Listed first: an ad that gets its first record from now on finds the version there; those of before are in the epoch.
        let index = version.searcher.index();
        let noted = self.control.epoch().ads().try_for_each(|(key, owner)| version.owners.set(index, key, owner));
        if let Err(error) = noted {
            self.take_off(&version);
            return Err(error);
        }
        lock(&self.refused).retain(|refused| refused.version != version.at.id);
        lock(&self.shelf).iter_mut().filter(|s| Arc::ptr_eq(&s.version, &version)).for_each(|s| s.ready = true);
        Ok(version)
    }

    /// Closes a version that nobody is served from.
    pub(super) fn take_off(&self, version: &Arc<Version>) {
        lock(&self.shelf).retain(|shelved| !Arc::ptr_eq(&shelved.version, version));
        self.live.detach(&version.searcher);
    }

    /// The open version `id`.
    pub(super) fn find(&self, id: &str) -> Option<Arc<Version>> {
        let shelf = lock(&self.shelf);
        let mut ready = shelf.iter().filter(|shelved| shelved.ready).map(|shelved| &shelved.version);
        ready.find(|version| version.at.id == id).cloned()
    }

    /// The open version `id`, or why it is not open.
    pub(super) fn find_staged(&self, id: &str) -> Result<Arc<Version>> {
        if let Some(version) = self.find(id) {
            return Ok(version);
        }
        let recall = lock(&self.refused).iter().find(|info| info.version == id).map(|info| info.canary.clone());
        match recall.flatten() {
            Some(canary) => Err(self.below_canary_recall(id, &canary)),
            None => Err(unknown(id)),
        }
    }
}

/// What to know of a version that was never told of the changes up to `seq`.
pub(super) fn missed_changes(seq: Option<u64>) -> Option<String> {
    seq.map(|seq| {
        format!(
            "built apart from the changes of ads, and those up to number {seq} are kept no more: ads that they deleted are back and ads that \
             they added are missing, unless its input knew of them"
        )
    })
}

fn unknown(id: &str) -> Error {
    Error::params("version", format!("{id:?} is not open; stage it first, or see the list of versions"))
}
