//! The one seam to files: what the engine asks of a file system, as three small traits.
//!
//! The easy version is `std::fs` called where needed. It departs from that for one reason: a build must survive a crash
//! at every write and a disk that fails at every read, and that can be tested only if every file operation passes one
//! narrow place. So all of it goes through [`Vfs`], which has four implementations:
//!
//! | implementation | used for |
//! |---|---|
//! | [`RealVfs`] | production |
//! | [`MemoryVfs`] | tests that need no disk, and the state of a disk after a simulated crash |
//! | [`testing::FaultyVfs`] | the n-th operation fails, or is cut short |
//! | [`testing::CrashVfs`] | the power fails after the n-th operation, and unsynced writes may be lost |
//!
//! A short read is an error here, never a smaller answer: index files have known lengths, so whoever asks for bytes that
//! are not there reads a damaged file. Memory maps and `io_uring` need the operating system's own file beneath:
//! [`ReadFile::as_file`] lends it where there is one.
//!
//! Deliberately absent: shortening a file, seeking, permissions, links, file times.

mod memory;
mod real;
pub mod testing;
#[cfg(test)]
mod tests;

pub use memory::MemoryVfs;
pub use real::RealVfs;

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A file system. Every error is an [`Error::Io`] that names the path.
pub trait Vfs: Send + Sync {
    /// Creates `path` for writing, emptying a file that is already there. The parent directory must exist.
    fn create(&self, path: &Path) -> Result<Box<dyn WriteFile>>;

    /// Opens the file `path`, which must be there, for writing on: [`WriteFile::write_all`] begins at its end.
    fn open_append(&self, path: &Path) -> Result<Box<dyn WriteFile>>;

    /// Opens the file `path` for reading.
    fn open(&self, path: &Path) -> Result<Box<dyn ReadFile>>;

    /// Opens `path` for reading past the page cache: offsets, lengths and buffers of all reads must be multiples of
    /// [`PAGE`](crate::format::PAGE). Fails where the file system cannot do that; one without a page cache need not
    /// tell the difference, which is the default here.
    fn open_direct(&self, path: &Path) -> Result<Box<dyn ReadFile>> {
        self.open(path)
    }

    /// Renames a file or directory, replacing a file by a file or an empty directory by a directory. Durable only after [`sync_dir`](Self::sync_dir) of the
    /// parent directory of `to`.
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;

    /// Removes a file.
    fn remove_file(&self, path: &Path) -> Result<()>;

    /// Removes a directory and all below it.
    fn remove_dir_all(&self, path: &Path) -> Result<()>;

    /// Creates a directory and those of its parents that are missing. Durable only after [`sync_dir`](Self::sync_dir) of
    /// the parent of each that was missing.
    fn create_dir_all(&self, path: &Path) -> Result<()>;

    /// Makes the names in a directory durable: files created, renamed into it, removed from it.
    fn sync_dir(&self, path: &Path) -> Result<()>;

    /// The full paths of what a directory holds, sorted.
    fn list(&self, path: &Path) -> Result<Vec<PathBuf>>;

    /// Whether a file or directory is there.
    fn exists(&self, path: &Path) -> Result<bool>;

    /// Length of a file in bytes.
    fn len(&self, path: &Path) -> Result<u64>;

    /// Bytes that may still be written below the directory `dir`; a file system that is never full need not count.
    fn free_bytes(&self, dir: &Path) -> Result<u64> {
        let _ = dir;
        Ok(u64::MAX)
    }

    /// Takes the lock on which the writers of the directory `dir`, which must be there, have agreed. A file system that one process has to
    /// itself needs none, which is the default here.
    fn lock(&self, dir: &Path) -> Result<DirLock> {
        let _ = dir;
        Ok(DirLock::Unneeded)
    }
}

/// What became of an attempt to lock a directory.
#[derive(Debug)]
pub enum DirLock {
    /// There are no other writers.
    Unneeded,
    /// Locked for as long as this file is open.
    Held(File),
    /// Another process, or this one, holds the lock.
    Taken,
}

/// Writes `path` anew in one step: `write` writes a file beside it, which then takes its place. Whoever reads `path`, even after
/// a crash, finds the old file or the new one, whole. Where it fails, what was written beside is removed: on a full disk it would be
/// in the way.
///
/// # Errors
/// What `write` gives, and `Io`.
pub fn replace_file(vfs: &dyn Vfs, path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".writing");
    let beside = path.with_file_name(name);
    if let Err(error) = write(&beside).and_then(|()| vfs.rename(&beside, path)) {
        // What stopped the writing is the error to tell.
        let _ = vfs.remove_file(&beside);
        return Err(error);
    }
    vfs.sync_dir(path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}

/// Creates a directory whose name outlives a crash: every new name is synced where it stands, and that of `dir` in any case, for
/// whoever created it before may have been killed in between.
///
/// # Errors
/// `Io`.
pub fn create_dir_durably(vfs: &dyn Vfs, dir: &Path) -> Result<()> {
    let mut unsynced = vec![dir];
    for path in dir.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()) {
        if vfs.exists(path)? {
            break;
        }
        unsynced.push(path);
    }
    vfs.create_dir_all(dir)?;
    for path in unsynced {
        match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => vfs.sync_dir(Path::new("."))?,
            Some(parent) => vfs.sync_dir(parent)?,
            None => {}
        }
    }
    Ok(())
}

/// Name of the file by which a directory is kept to one writer.
pub const LOCK: &str = ".lock";

/// Keeps other writers out of a directory for as long as the answer lives; None where there are no others.
///
/// # Errors
/// `InvalidParams` that begins with `taken` where another process, or this one, holds the lock; `Io`.
pub fn lock_dir(vfs: &dyn Vfs, dir: &Path, name: &'static str, taken: &str) -> Result<Option<File>> {
    match vfs.lock(dir)? {
        DirLock::Unneeded => Ok(None),
        DirLock::Held(file) => Ok(Some(file)),
        DirLock::Taken => Err(Error::params(name, format!("{taken} {}; wait for it or choose another", dir.display()))),
    }
}

/// A file open for reading. Reads are positioned, so any number of threads may share it.
pub trait ReadFile: Send + Sync {
    /// Length in bytes when the file was opened.
    fn len(&self) -> u64;

    /// Whether the file was empty when it was opened.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buffer` from byte `offset` on. Fails when the file ends before the buffer is full.
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()>;

    /// The operating system's file, for memory maps and rings; `None` where the file is simulated.
    fn as_file(&self) -> Option<&File> {
        None
    }
}

/// A file open for writing.
pub trait WriteFile: Send {
    /// Writes all of `bytes` after what was last written with this function.
    fn write_all(&mut self, bytes: &[u8]) -> Result<()>;

    /// Writes all of `bytes` at byte `offset`; [`write_all`](Self::write_all) goes on where it was.
    fn write_all_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()>;

    /// Returns when all written bytes are durable. The file's name may not be: see [`Vfs::sync_dir`].
    fn sync(&mut self) -> Result<()>;
}
