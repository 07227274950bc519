//! Writes are refused before the disk is full: a write that fails half-way stops the journal until the server is started again.

use std::io::{self, ErrorKind};

use super::collection::Collection;
use crate::error::{Error, Result};

/// The disk has less room than is to be left: nothing has failed, and writes go on by themselves once there is room.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{} MiB are free where {} MiB are needed", free >> 20, needed.div_ceil(1 << 20))]
pub struct LowSpace {
    free: u64,
    needed: u64,
}

impl Collection {
    /// Refuses a write of `more` bytes that would leave less room in the state folder than the options ask for.
    ///
    /// # Errors
    /// `Io` of the kind `StorageFull` that holds a [`LowSpace`] and names the state folder; `Io` where the room cannot be asked for.
    pub(super) fn check_space(&self, more: u64) -> Result<()> {
        let Some(state) = &self.options.state else { return Ok(()) };
        let needed = self.options.least_free.saturating_add(more);
        if needed == 0 {
            return Ok(());
        }
        match self.vfs.free_bytes(state)? {
            free if free >= needed => Ok(()),
            free => Err(Error::io(state)(io::Error::new(ErrorKind::StorageFull, LowSpace { free, needed }))),
        }
    }
}
