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
//! trimmed to the least of those that are open.
//!
//! # Locks, in the order in which they are taken
//! `making` (one version is staged or compacted at a time; this takes minutes), `switching` (what is served changes; no longer than
//! a file takes to be written), `shelving` (a version catches up and is listed), `shelf` (the list).
//!
//! Without a state folder a collection is read-only: table and changes are empty, and writing is refused.

use arc_swap::ArcSwap;
use serde::Serialize;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::canary::CanaryReport;
use super::control::{Control, Epoch, Field, Level, Owner, Patch};
use super::owners::group_in;
use super::registry::{Registry, SplitRef, VersionRef};
use super::search::{AdSettings, View};
use super::stage::missed_changes;
use super::values::Values;
use super::version::{Version, now};
use crate::error::{Error, Result};
use crate::index::OpenOptions;
use crate::journal::Cut;
use crate::live::{Change, Live, Snapshot};
use crate::search::Searcher;
use crate::types::Key;
use crate::vfs::{MemoryVfs, RealVfs, Vfs, create_dir_durably};

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
    /// Bytes that must be free where changes are kept for writes to be accepted.
    pub least_free: u64,
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
    /// Versions that were not opened because of their canary queries, for the list.
    pub(super) refused: Mutex<Vec<VersionInfo>>,
    /// Only one version is made or staged at a time.
    pub(super) making: Mutex<()>,
    /// What is served changes only with this.
    pub(super) switching: Mutex<()>,
    /// A version is put on the shelf only with this.
    pub(super) shelving: Mutex<()>,
    /// The folder that a version is being written to.
    pub(super) writing: Mutex<Option<PathBuf>>,
    /// Whether something is left to be removed from disk.
    pub(super) untidy: AtomicBool,
    /// Ads that are getting a record of their own, and those whose rows could not be told.
    owning: Mutex<HashSet<Key>>,
    /// What opening it found that somebody should know.
    notes: Vec<String>,
    pub(super) compactions: AtomicU64,
    pub(super) switches: AtomicU64,
}

/// What requests take their version from.
#[derive(Clone)]
pub(super) struct Serving {
    pub(super) active: Arc<Version>,
    pub(super) previous: Option<VersionRef>,
    pub(super) split: Option<(Arc<Version>, f32)>,
    /// Whether the active version was rolled back to.
    pub(super) rolled_back: bool,
}

/// An open version.
#[derive(Clone)]
pub(super) struct Shelved {
    pub(super) version: Arc<Version>,
    pub(super) canary: Option<CanaryReport>,
    /// What somebody should know of it.
    pub(super) note: Option<String>,
    /// Whether it can be served: it knows all ads that have a record of their own.
    pub(super) ready: bool,
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
    /// Rows: ads, or views of them.
    pub rows: u64,
    /// What it is.
    pub state: VersionState,
    /// Its share of the traffic.
    pub share: f32,
    /// How it did with its canary queries, where it had any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryReport>,
    /// What to know of it before it is activated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Rows of ads that came, or were replaced, after it was built: ads, or views of them.
    pub delta_rows: usize,
    /// Rows of it that were replaced or deleted.
    pub tombstones: usize,
    /// Whether it is active because somebody rolled back to it: changes are not compacted by themselves then.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub rolled_back: bool,
}

impl VersionInfo {
    /// Of a version that gets no traffic and has no changes over it.
    pub(super) fn of(shelved: &Shelved, state: VersionState) -> VersionInfo {
        let version = &shelved.version;
        VersionInfo {
            version: version.at.id.clone(),
            path: version.at.path.display().to_string(),
            rows: version.searcher.rows(),
            state,
            share: 0.0,
            canary: shelved.canary.clone(),
            note: shelved.note.clone(),
            delta_rows: 0,
            tombstones: 0,
            rolled_back: false,
        }
    }
}

/// What to know of a version that has room for one view of an ad, where changes gave some ads several.
fn first_views_only(snapshot: &Snapshot) -> Option<String> {
    match snapshot.first_views_only() {
        0 => None,
        changes => Some(format!(
            "an ad of it has one vector, so it finds ads of {changes} changes with several views by the first one alone"
        )),
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Collection {
    /// Opens a collection whose first version is the index in `index`; where the state names another version as active, that
    /// one is served.
    ///
    /// # Errors
    /// Those of opening an index, a control table and a journal; `Mismatch` where another index lies where the state says the active
    /// version is.
    pub fn open(index: &Path, options: CollectionOptions) -> Result<Arc<Collection>> {
        Collection::open_on(Arc::new(RealVfs), index, options)
    }

    /// The same with another way to the files of the state folder. Indexes are opened as ever, those that compaction made too.
    ///
    /// # Errors
    /// As [`Collection::open`].
    pub fn open_on(vfs: Arc<dyn Vfs>, index: &Path, options: CollectionOptions) -> Result<Arc<Collection>> {
        let registry = match &options.state {
            Some(state) => Registry::read(&*vfs, state)?,
            None => None,
        };
        let path = registry.as_ref().map_or(index, |registry| &registry.active.path);
        let searcher = Arc::new(Searcher::open(path, &options.open)?);
        Collection::over(vfs, path.to_path_buf(), searcher, registry, options)
    }

    /// A read-only collection of one open index.
    ///
    /// # Errors
    /// `Io` and `Corrupt` where keys cannot be read.
    pub fn read_only(searcher: Arc<Searcher>, options: CollectionOptions) -> Result<Arc<Collection>> {
        let path = searcher.index().dir().to_path_buf();
        let options = CollectionOptions { state: None, ..options };
        Collection::over(Arc::new(RealVfs), path, searcher, None, options)
    }

    fn over(
        vfs: Arc<dyn Vfs>,
        path: PathBuf,
        searcher: Arc<Searcher>,
        registry: Option<Registry>,
        options: CollectionOptions,
    ) -> Result<Arc<Collection>> {
        let (vfs, state): (Arc<dyn Vfs>, PathBuf) = match &options.state {
            Some(state) => (vfs, state.clone()),
            None => (Arc::new(MemoryVfs::default()), PathBuf::from("/")),
        };
        create_dir_durably(&*vfs, &state)?;
        let control = Control::open(vfs.clone(), &state.join("control"))?;
        let live = Live::open(vfs.clone(), &state.join("ads"), searcher.clone())?;
        let version = Arc::new(Version::new(path, searcher, &control, &options.settings)?);
        let registry = registry.unwrap_or_else(|| Registry::new(version.at.clone(), None, None));
        version.check_id(&registry.active)?;
        let note = missed_changes(live.missed_seq(&version.searcher));
        let views = live.over(&version.searcher).and_then(|snapshot| first_views_only(&snapshot));
        let notes = note.iter().chain(&views).map(|note| format!("version {}: {note}", version.at.id)).collect();
        let Registry { previous, split, rolled_back, .. } = registry;
        let serving = Serving { active: version.clone(), previous, split: None, rolled_back };
        let mut collection = Collection {
            options,
            vfs,
            control,
            live,
            serving: ArcSwap::from_pointee(serving),
            shelf: Mutex::new(vec![Shelved { version, canary: None, note, ready: true, served: true }]),
            refused: Mutex::default(),
            making: Mutex::default(),
            switching: Mutex::default(),
            shelving: Mutex::default(),
            writing: Mutex::default(),
            untidy: AtomicBool::new(false),
            owning: Mutex::default(),
            notes,
            compactions: AtomicU64::new(0),
            switches: AtomicU64::new(0),
        };
        collection.settle_in(split);
        Ok(Arc::new(collection))
    }

    /// What can wait if it fails: the version that had a share of the traffic, and what an interrupted compaction left.
    fn settle_in(&mut self, split: Option<SplitRef>) {
        if let Some(SplitRef { version, share }) = split {
            match self.shelve_known(&version) {
                Ok(challenger) => {
                    let serving = self.serving.load().as_ref().clone();
                    self.serving.store(Arc::new(Serving { split: Some((challenger, share)), ..serving }));
                }
                Err(error) => self.notes.push(format!(
                    "version {} cannot be opened, so its share of the traffic ({share}) goes to the active one: {error}",
                    version.id
                )),
            }
        }
        if self.options.state.is_some() && self.sweep().is_err() {
            self.untidy.store(true, Relaxed);
        }
    }

    /// What opening it found that somebody should know.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// What opening it left out of the journals, each with its name, because a crash had torn them: changes that were never acknowledged.
    pub fn cuts(&self) -> impl Iterator<Item = (&'static str, &Cut)> {
        let (control, ads) = (self.control.cut(), self.live.cut());
        control.map(|cut| ("control", cut)).into_iter().chain(ads.map(|cut| ("ads", cut)))
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
    /// `Unsupported` without a state folder; `Io` of the kind `StorageFull` where the disk has too little room; `Io` where the journal
    /// cannot be written, which then stops all writing.
    pub fn change_ads(&self, changes: Vec<Change>) -> Result<u64> {
        self.check_writable()?;
        self.check_space(0)?;
        let adopted: Vec<Patch> = changes.iter().filter_map(|change| self.adoption(change)).collect();
        if !adopted.is_empty() {
            self.control.apply(adopted)?;
        }
        self.live.apply(changes)
    }

    /// What puts an ad with a record of its own, which names no ad group, below the ad group that the change gives the ad: what is said of the
    /// group holds for its ads.
    fn adoption(&self, change: &Change) -> Option<Patch> {
        let Change::Upsert(document) = change else { return None };
        self.control.owner_of_ad(document.key)?;
        let entity = self.control.entity(Level::Ad, document.key).filter(|entity| entity.parent.is_none())?;
        let group = group_in(&document.record, &self.options.settings.group_attribute)?;
        Some(Patch { parent: Field::Set(group), ..Patch::new(Level::Ad, entity.id) })
    }

    /// Makes patches of the control table durable, then visible. Returns the epoch.
    ///
    /// # Errors
    /// As those of [`Control::apply`]; `Unsupported` without a state folder; `Io` of the kind `StorageFull` where the disk has too little
    /// room; `Io` and `Corrupt` where a version cannot be asked for an ad: the patches hold then, but perhaps not for that ad in it
    /// before the next patch of it.
    pub fn patch_control(&self, patches: Vec<Patch>) -> Result<u64> {
        self.check_writable()?;
        self.check_space(0)?;
        let new = self.first_records(&patches);
        let epoch = self.control.apply(patches).inspect_err(|_| {
            let mut owning = lock(&self.owning);
            new.iter().filter(|&&key| self.control.owner_of_ad(key).is_none()).for_each(|key| {
                owning.remove(key);
            });
        })?;
        // Whoever puts a version on the shelf after this reads these ads from the epoch.
        let versions: Vec<_> = lock(&self.shelf).iter().map(|shelved| shelved.version.clone()).collect();
        let mut first_error = None;
        for (key, owner) in new.iter().filter_map(|&key| Some((key, self.control.owner_of_ad(key)?))) {
            let noted = versions.iter().map(|version| self.note_owner(version, key, owner)).fold(Ok(()), Result::and);
            match noted {
                Ok(()) => {
                    lock(&self.owning).remove(&key);
                }
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        first_error.map_or(Ok(epoch), Err)
    }

    /// The ads that get a record of their own from these patches, or from others that are being applied.
    fn first_records(&self, patches: &[Patch]) -> HashSet<Key> {
        let mut owning = lock(&self.owning);
        let ads = patches.iter().filter(|patch| patch.level == Level::Ad).map(|patch| patch.id);
        let new: HashSet<Key> =
            ads.filter(|&key| self.control.owner_of_ad(key).is_none() || owning.contains(&key)).collect();
        owning.extend(&new);
        new
    }

    /// Tells the rows of a version, and its fresh ads, that an ad answers for itself.
    fn note_owner(&self, version: &Version, key: Key, owner: Owner) -> Result<()> {
        if let Some(snapshot) = self.live.over(&version.searcher)
            && let Some(row) = snapshot.delta_row_of(key)
        {
            row.tag().store(owner.to_bits(), Relaxed);
        }
        version.owners.set(version.searcher.index(), key, owner)
    }

    /// All versions that are open, and those that were lately refused.
    pub fn versions(&self) -> Vec<VersionInfo> {
        let refused = lock(&self.refused).clone();
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
            let views = snapshot.as_ref().and_then(|snapshot| first_views_only(snapshot));
            let notes: Vec<String> = shelved.note.iter().cloned().chain(views).collect();
            VersionInfo {
                share,
                note: Some(notes.join("; ")).filter(|notes| !notes.is_empty()),
                rolled_back: state == VersionState::Active && serving.rolled_back,
                delta_rows: snapshot.as_ref().map_or(0, |snapshot| snapshot.delta_rows()),
                tombstones: snapshot.as_ref().map_or(0, |snapshot| snapshot.tombstones()),
                ..VersionInfo::of(shelved, state)
            }
        };
        shelf.iter().filter(|shelved| shelved.ready).map(info).chain(refused).collect()
    }

    fn state_of(&self, shelved: &Shelved, serving: &Serving) -> VersionState {
        if Arc::ptr_eq(&shelved.version, &serving.active) {
            return VersionState::Active;
        }
        if serving.previous.as_ref() == Some(&shelved.version.at) {
            return VersionState::Previous;
        }
        VersionState::Staged
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
