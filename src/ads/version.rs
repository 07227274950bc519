//! One open version: an index, who answers for its rows, and what they are worth at the moment.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use super::control::{Control, Epoch};
use super::owners::Owners;
use super::registry::VersionRef;
use super::sampled::SampledRows;
use super::search::AdSettings;
use super::values::Values;
use crate::error::{Error, Result};
use crate::index::OpenOptions;
use crate::search::Searcher;

/// Rows of the sample that recall of live traffic is estimated with.
const SAMPLED_ROWS: u64 = 20_000;

/// An index being served, or about to be.
pub struct Version {
    /// Where it lies, and its index id.
    pub at: VersionRef,
    /// The index.
    pub searcher: Arc<Searcher>,
    /// Who answers for its rows.
    pub owners: Owners,
    /// Rows that stand for all of them.
    pub sample: SampledRows,
    values: RwLock<Arc<Values>>,
}

impl Version {
    /// Opens the index in `path`.
    ///
    /// # Errors
    /// Those of opening an index.
    pub fn open(path: &Path, options: &OpenOptions, control: &Control, settings: &AdSettings) -> Result<Version> {
        let searcher = Arc::new(Searcher::open(path, options)?);
        Version::new(path.to_path_buf(), searcher, control, settings)
    }

    /// Of an index that is open.
    ///
    /// # Errors
    /// `Io` and `Corrupt` where keys cannot be read.
    pub fn new(path: PathBuf, searcher: Arc<Searcher>, control: &Control, settings: &AdSettings) -> Result<Version> {
        let owners = Owners::new(searcher.index(), control, &settings.group_attribute)?;
        let values = Values::new(&owners, &control.epoch(), now(), settings.default_ctr);
        let sample = SampledRows::new(searcher.rows(), SAMPLED_ROWS, 1);
        let at = VersionRef { path, id: searcher.version().to_string() };
        Ok(Version { at, searcher, owners, sample, values: RwLock::new(Arc::new(values)) })
    }

    /// Refuses an index that is not the one that was in its folder.
    ///
    /// # Errors
    /// `Mismatch`.
    pub fn check_id(&self, at: &VersionRef) -> Result<()> {
        if self.at.id == at.id {
            return Ok(());
        }
        let what = format!(
            "the index in {} (put the version back that was there, or remove versions.json from the state folder to start with the \
             index that is named on the command line)",
            at.path.display()
        );
        Err(Error::mismatch(what, format!("version {}", at.id), format!("version {}", self.at.id)))
    }

    /// What its rows were worth a moment ago.
    pub fn values(&self) -> Arc<Values> {
        self.values.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Works out anew what its rows are worth, if the table has changed or flights may have begun or ended.
    pub fn refresh(&self, epoch: &Epoch, default_ctr: f32, even_so: bool) {
        if even_so || self.values().epoch() != epoch.number() {
            let values = Arc::new(Values::new(&self.owners, epoch, now(), default_ctr));
            *self.values.write().unwrap_or_else(PoisonError::into_inner) = values;
        }
    }

    /// Bytes that it keeps in memory beside what its vectors take.
    pub fn memory_bytes(&self) -> u64 {
        self.searcher.memory_bytes() + (self.owners.memory_bytes() + self.values().memory_bytes()) as u64
    }
}

/// Seconds since 1970.
pub fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs() as i64)
}
