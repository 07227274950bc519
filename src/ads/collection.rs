//! A collection being served: its versions, the changes over them, and the control table.
//!
//! ```text
//! STATE/versions.json     which version is active, which was before, how traffic is split
//! STATE/control/          control table: snapshot and journal
//! STATE/ads/              journal of upserts and deletes
//! STATE/versions/<name>/  versions that compaction made
//! ```
//! # One version an answer
//! A request takes a [`Pinned`] at its start: the version, the changes over it and the epoch, each immutable, all held until the
//! answer is written. Activating another version in the meantime changes what later requests take, and nothing else.
//!
//! # Life of a version
//! staged (opened, checked byte by byte, measured with its canary queries, caught up with all changes) -> active -> previous -> closed.
//! A version that fails one of these is refused, and the active one serves on. Staged, active and previous versions all follow the changes,
//! so that activating and rolling back is one store. Every version needs the journal from its own `live_seq` on: it is
//! trimmed to the least of those that the registry names.
//!
//! Without a state folder a collection is read-only: table and changes are empty, and writing is refused.

use arc_swap::ArcSwap;
use serde::Serialize;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::canary::CanaryReport;
use super::control::{Control, Epoch, Level, Patch};
use super::registry::{Registry, SplitRef, VersionRef};
use super::search::{AdSettings, View};
use super::values::Values;
use super::version::{Version, now};
use crate::error::{Error, Result};
use crate::index::OpenOptions;
use crate::live::{Change, Live, Snapshot};
use crate::search::Searcher;
use crate::vfs::{MemoryVfs, RealVfs, Vfs};

/// How a collection is run.
#[derive(Clone, Debug)]
pub struct CollectionOptions {
    /// How versions are opened.
    pub open: OpenOptions,
    /// What searches depend on.
    pub settings: AdSettings,
    /// Where changes are kept; None: read-only.
    pub state: Option<PathBuf>,
    /// Where versions may be staged from; None: none may.
    pub versions: Option<PathBuf>,
    /// Recall@10 that a version must reach with its canary queries to be activated.
    pub canary_recall: f64,
    /// Changes over the active version from which on it is compacted in the background; 0: never.
    pub compact_changes: usize,
}

/// A collection.
pub struct Collection {
    pub(super) options: CollectionOptions,
    pub(super) vfs: Arc<dyn Vfs>,
    pub(super) control: Control,
    pub(super) live: Live,
    pub(super) serving: ArcSwap<Serving>,
    /// All open versions, whatever their state. Held while versions change, never while one is searched.
    pub(super) shelf: Mutex<Vec<Shelved>>,
    /// Only one version is made or staged at a time.
    pub(super) making: Mutex<()>,
    pub(super) compactions: AtomicU64,
    pub(super) switches: AtomicU64,
}

/// What requests take their version from.
#[derive(Clone)]
pub(super) struct Serving {
    pub(super) active: Arc<Version>,
    pub(super) previous: Option<VersionRef>,
    pub(super) split: Option<(Arc<Version>, f32)>,
}

/// An open version.
pub(super) struct Shelved {
    pub(super) version: Arc<Version>,
    pub(super) canary: Option<CanaryReport>,
    /// Whether it was ever active.
    pub(super) served: bool,
}

/// What one request sees, held together.
pub struct Pinned {
    collection: Arc<Collection>,
    /// The version that answers.
    pub version: Arc<Version>,
    /// The changes over it.
    pub snapshot: Arc<Snapshot>,
    /// The state of the control table.
    pub epoch: Arc<Epoch>,
    values: Arc<Values>,
    now: i64,
}

impl Pinned {
    /// To search with.
    pub fn view(&self) -> View<'_> {
        View {
            snapshot: &self.snapshot,
            owners: &self.version.owners,
            values: &self.values,
            control: &self.collection.control,
            epoch: &self.epoch,
            now: self.now,
            settings: &self.collection.options.settings,
        }
    }
}

/// What a version is to the collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum VersionState {
    /// It answers.
    Active,
    /// It did, and can again.
    Previous,
    /// It is ready.
    Staged,
    /// It was not good enough to be activated.
    Refused,
}

/// A version, as it is listed.
#[derive(Clone, Debug, Serialize)]
pub struct VersionInfo {
    /// The index id.
    pub version: String,
    /// Its folder.
    pub path: String,
    /// Rows.
    pub rows: u64,
    /// What it is.
    pub state: VersionState,
    /// Its share of the traffic.
    pub share: f32,
    /// How it did with its canary queries, where it had any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryReport>,
    /// Changes over it.
    pub delta_rows: usize,
    /// Rows of it that were replaced or deleted.
    pub tombstones: usize,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Collection {
    /// Opens a collection whose first version is the index in `index`; where the state names another version as active, that
    /// one is served.
    ///
    /// # Errors
    /// Those of opening an index, a control table and a journal.
    pub fn open(index: &Path, options: CollectionOptions) -> Result<Arc<Collection>> {
        let registry = match &options.state {
            Some(state) => Registry::read(&RealVfs, state)?,
            None => None,
        };
        let path = registry.as_ref().map_or(index, |registry| &registry.active.path);
        let searcher = Arc::new(Searcher::open(path, &options.open)?);
        Collection::over(path.to_path_buf(), searcher, registry, options)
    }

    /// A read-only collection of one open index.
    ///
    /// # Errors
    /// `Io` and `Corrupt` where keys cannot be read.
    pub fn read_only(searcher: Arc<Searcher>, options: CollectionOptions) -> Result<Arc<Collection>> {
        let path = searcher.index().dir().to_path_buf();
        Collection::over(path, searcher, None, CollectionOptions { state: None, ..options })
    }

    fn over(
        path: PathBuf,
        searcher: Arc<Searcher>,
        registry: Option<Registry>,
        options: CollectionOptions,
    ) -> Result<Arc<Collection>> {
        let (vfs, state): (Arc<dyn Vfs>, PathBuf) = match &options.state {
            Some(state) => (Arc::new(RealVfs), state.clone()),
            None => (Arc::new(MemoryVfs::default()), PathBuf::from("/")),
        };
        vfs.create_dir_all(&state)?;
        let control = Control::open(vfs.clone(), &state.join("control"))?;
        let live = Live::open(vfs.clone(), &state.join("ads"), searcher.clone())?;
        let version = Arc::new(Version::new(path, searcher, &control, &options.settings)?);
        let registry = registry.unwrap_or_else(|| Registry::new(version.at.clone(), None, None));
        let serving = Serving { active: version.clone(), previous: registry.previous, split: None };
        let collection = Arc::new(Collection {
            options,
            vfs,
            control,
            live,
            serving: ArcSwap::from_pointee(serving),
            shelf: Mutex::new(vec![Shelved { version, canary: None, served: true }]),
            making: Mutex::new(()),
            compactions: AtomicU64::new(0),
            switches: AtomicU64::new(0),
        });
        if let Some(SplitRef { version, share }) = registry.split {
            let challenger = collection.shelve(&version.path)?;
            collection.change_serving(|serving| serving.split = Some((challenger, share)))?;
        }
        Ok(collection)
    }

    /// How it is run.
    pub fn options(&self) -> &CollectionOptions {
        &self.options
    }

    /// The control table.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Everything that one request needs, fixed until it is dropped. Requests with the same `split_key` get the same version while
    /// traffic is split; those without one are spread by `chance`, any number.
    pub fn pin(self: &Arc<Self>, split_key: Option<&str>, chance: u64) -> Pinned {
        loop {
            let serving = self.serving.load();
            let version = match &serving.split {
                Some((challenger, share)) if place_of(split_key, chance) < *share => challenger,
                _ => &serving.active,
            };
            // A version that was closed at this moment follows no changes any more: take the one that is served now.
            if let Some(snapshot) = self.live.over(&version.searcher) {
                let version = version.clone();
                let values = version.values();
                let (collection, epoch) = (self.clone(), self.control.epoch());
                return Pinned { collection, version, snapshot, epoch, values, now: now() };
            }
        }
    }

    /// The active version.
    pub fn active(&self) -> Arc<Version> {
        self.serving.load().active.clone()
    }

    /// Refuses writing where there is no folder to keep it in.
    ///
    /// # Errors
    /// `Unsupported`.
    pub fn check_writable(&self) -> Result<()> {
        if self.options.state.is_some() {
            return Ok(());
        }
        Err(Error::Unsupported {
            what: "writing to a collection without a state folder".into(),
            remedy: "start the server with --state DIR (or ads.state), where changes are kept".into(),
        })
    }

    /// Checks one change of ads.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_change(&self, change: &Change) -> Result<()> {
        self.live.check(change)
    }

    /// Makes changes of ads durable, then visible. Returns the number of the last one.
    ///
    /// # Errors
    /// `Unsupported` without a state folder; `Io` where the journal cannot be written, which then stops all writing.
    pub fn change_ads(&self, changes: Vec<Change>) -> Result<u64> {
        self.check_writable()?;
        self.live.apply(changes)
    }

    /// Makes patches of the control table durable, then visible. Returns the epoch.
    ///
    /// # Errors
    /// As those of [`Control::apply`]; `Unsupported` without a state folder.
    pub fn patch_control(&self, patches: Vec<Patch>) -> Result<u64> {
        self.check_writable()?;
        let ads: HashSet<u64> = patches.iter().filter(|p| p.level == Level::Ad).map(|p| p.id).collect();
        let epoch = self.control.apply(patches)?;
        let owners: Vec<_> = ads.iter().filter_map(|&key| Some((key, self.control.owner_of_ad(key)?))).collect();
        for shelved in &*lock(&self.shelf) {
            for &(key, owner) in &owners {
                shelved.version.owners.set(shelved.version.searcher.index(), key, owner)?;
            }
        }
        Ok(epoch)
    }

    /// All versions that are open.
    pub fn versions(&self) -> Vec<VersionInfo> {
        let shelf = lock(&self.shelf);
        let serving = self.serving.load();
        let info = |shelved: &Shelved| {
            let version = &shelved.version;
            let state = self.state_of(shelved, &serving);
            let split = serving.split.as_ref().map_or(0.0, |split| split.1);
            let challenges = serving.split.as_ref().is_some_and(|split| Arc::ptr_eq(&split.0, version));
            let share = match state {
                VersionState::Active => 1.0 - split,
                _ if challenges => split,
                _ => 0.0,
            };
            let snapshot = self.live.over(&version.searcher);
            VersionInfo {
                version: version.at.id.clone(),
                path: version.at.path.display().to_string(),
                rows: version.searcher.rows(),
                state,
                share,
                canary: shelved.canary.clone(),
                delta_rows: snapshot.as_ref().map_or(0, |snapshot| snapshot.delta_rows()),
                tombstones: snapshot.as_ref().map_or(0, |snapshot| snapshot.tombstones()),
            }
        };
        shelf.iter().map(info).collect()
    }

    fn state_of(&self, shelved: &Shelved, serving: &Serving) -> VersionState {
        if Arc::ptr_eq(&shelved.version, &serving.active) {
            return VersionState::Active;
        }
        if serving.previous.as_ref() == Some(&shelved.version.at) {
            return VersionState::Previous;
        }
        match &shelved.canary {
            Some(canary) if canary.recall < self.options.canary_recall => VersionState::Refused,
            _ => VersionState::Staged,
        }
    }

    /// Id of the version to roll back to, and of the one that has a share of the traffic.
    pub fn others(&self) -> (Option<String>, Option<(String, f32)>) {
        let serving = self.serving.load();
        let split = serving.split.as_ref().map(|(version, share)| (version.at.id.clone(), *share));
        (serving.previous.as_ref().map(|version| version.id.clone()), split)
    }
}

/// Where a request falls between 0 and 1.
fn place_of(split_key: Option<&str>, chance: u64) -> f32 {
    let hash = match split_key {
        Some(key) => blake3::hash(key.as_bytes()),
        None => blake3::hash(&chance.to_le_bytes()),
    };
    let bits = u32::from_le_bytes(hash.as_bytes()[..4].try_into().expect("four bytes"));
    (bits >> 8) as f32 / (1 << 24) as f32
}
