//! Activating, rolling back, splitting: which of the open versions is served, changed under load. None of these waits for a version
//! that is being made or staged.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::collection::{Collection, Serving, Shelved, lock};
use super::registry::{Registry, SplitRef, VersionRef};
use super::version::Version;
use crate::error::{Error, Result};

impl Serving {
    /// As the registry says it.
    pub(super) fn registry(&self) -> Registry {
        let split = self.split.as_ref().map(|(version, share)| SplitRef { version: version.at.clone(), share: *share });
        let mut registry = Registry::new(self.active.at.clone(), self.previous.clone(), split);
        registry.rolled_back = self.rolled_back;
        registry
    }

    /// Whether a version is active, was so before, or has a share of the traffic.
    pub(super) fn names(&self, version: &VersionRef) -> bool {
        self.active.at == *version
            || self.previous.as_ref() == Some(version)
            || self.split.as_ref().is_some_and(|split| split.0.at == *version)
    }
}

impl Collection {
    /// Serves the version `id` from now on, if `if_current` is active now (or is not given). Returns the id of the one before.
    ///
    /// # Errors
    /// `InvalidParams` for a version that is not open, `Mismatch` where another one is active than was said, `Unsupported` where
    /// its canary queries did not reach the recall that is asked for; `Io` where the registry cannot be written.
    pub fn activate(&self, id: &str, if_current: Option<&str>) -> Result<String> {
        self.check_writable()?;
        let _switching = lock(&self.switching);
        let before = self.active().at.id.clone();
        if let Some(expected) = if_current.filter(|expected| *expected != before) {
            return Err(Error::mismatch("the active version", expected, &before));
        }
        self.serve(&self.find_staged(id)?, false)?;
        Ok(before)
    }

    /// Serves an open version.
    fn serve(&self, version: &Arc<Version>, rolled_back: bool) -> Result<()> {
        let before = self.serving.load().clone();
        if before.active.at.id == version.at.id {
            return match before.rolled_back == rolled_back {
                true => Ok(()),
                false => self.change_serving(|serving| serving.rolled_back = rolled_back),
            };
        }
        version.refresh(&self.control.epoch(), self.options.settings.default_ctr, true);
        self.change_serving(|serving| {
            serving.previous = Some(before.active.at.clone());
            serving.active = version.clone();
            serving.split = None;
            serving.rolled_back = rolled_back;
        })?;
        self.switches.fetch_add(1, Relaxed);
        lock(&self.shelf).iter_mut().filter(|s| Arc::ptr_eq(&s.version, version)).for_each(|s| s.served = true);
        self.close_others();
        Ok(())
    }

    /// Serves the version again that was active before. Returns its id. Changes are not compacted by themselves from then on, which
    /// would undo it, until another version is activated or somebody asks for it.
    ///
    /// # Errors
    /// `Unsupported` where there is none; those of opening it.
    pub fn roll_back(&self) -> Result<String> {
        self.check_writable()?;
        let _switching = lock(&self.switching);
        let previous = self.serving.load().previous.clone().ok_or_else(|| Error::Unsupported {
            what: "rolling back, since no version was active before this one".into(),
            remedy: "activate a staged version".into(),
        })?;
        let version = match self.find(&previous.id) {
            Some(version) => version,
            None => self.shelve_known(&previous)?,
        };
        self.serve(&version, true)?;
        Ok(version.at.id.clone())
    }

    /// Gives the version `id` a share of the traffic (above 0, below 1), or all of it back to the active one.
    ///
    /// # Errors
    /// `InvalidParams` for a share out of range or a version that is not open or active itself, `Unsupported` where its canary failed.
    pub fn split(&self, to: Option<(&str, f32)>) -> Result<()> {
        self.check_writable()?;
        let _switching = lock(&self.switching);
        let Some((id, share)) = to else { return self.change_serving(|serving| serving.split = None) };
        if !(share > 0.0 && share < 1.0) {
            return Err(Error::params("share", format!("{share} is not above 0 and below 1")));
        }
        let version = self.find_staged(id)?;
        if self.active().at.id == id {
            return Err(Error::params("version", format!("{id} is active itself; name another one")));
        }
        self.change_serving(|serving| serving.split = Some((version, share)))
    }

    /// Changes what is served: on disk first, then for requests.
    fn change_serving(&self, change: impl FnOnce(&mut Serving)) -> Result<()> {
        let mut serving = self.serving.load().as_ref().clone();
        change(&mut serving);
        if let Some(state) = &self.options.state {
            serving.registry().write(&*self.vfs, state)?;
        }
        self.serving.store(Arc::new(serving));
        Ok(())
    }

    /// Closes versions that are neither served nor staged for it: those that were previous once. The switch stands, so what cannot be
    /// removed from disk is no error of it.
    fn close_others(&self) {
        let serving = self.serving.load().clone();
        // One that was never served is waiting for its turn.
        let stays = |shelved: &Shelved| !shelved.served || serving.names(&shelved.version.at);
        let mut closed = Vec::new();
        lock(&self.shelf).retain(|shelved| {
            if !stays(shelved) {
                closed.push(shelved.version.clone());
            }
            stays(shelved)
        });
        closed.iter().for_each(|version| self.live.detach(&version.searcher));
        self.tidy_or_later();
    }

    /// Versions activated, and compactions done, since the start.
    pub fn counts(&self) -> (u64, u64) {
        (self.switches.load(Relaxed), self.compactions.load(Relaxed))
    }
}
