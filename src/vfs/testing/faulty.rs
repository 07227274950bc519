//! A file system whose n-th operation fails.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::vfs::{DirLock, ReadFile, Vfs, WriteFile};

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done and the error is of this kind (`StorageFull`, `PermissionDenied`, `Other` for an I/O error, ..).
    Error(ErrorKind),
    /// A read fills, or a write writes, only the first half of the bytes and then fails; other operations do nothing.
    Partial,
}

/// Wraps another file system and makes chosen operations fail. Every operation of [`Vfs`], [`ReadFile`] and
/// [`WriteFile`] that may fail counts one, from 0; to try every fault of a job, run it once with no fault, read
/// [`operations`](Self::operations), and run it again for each number below that.
///
/// Clones share the count.
#[derive(Clone)]
pub struct FaultyVfs {
    inner: Arc<dyn Vfs>,
    plan: Arc<Plan>,
}

struct Plan {
    done: AtomicU64,
    free: AtomicU64,
    first: AtomicU64,
    last: u64,
    fault: Fault,
}

impl FaultyVfs {
    /// Operation `n` fails, the others work.
    pub fn once(inner: Arc<dyn Vfs>, n: u64, fault: Fault) -> FaultyVfs {
        FaultyVfs::between(inner, n, n, fault)
    }

    /// Operation `n` and all after it fail: a disk that is full, or gone.
    pub fn starting_at(inner: Arc<dyn Vfs>, n: u64, fault: Fault) -> FaultyVfs {
        FaultyVfs::between(inner, n, u64::MAX, fault)
    }

    fn between(inner: Arc<dyn Vfs>, first: u64, last: u64, fault: Fault) -> FaultyVfs {
        let (first, free) = (AtomicU64::new(first), AtomicU64::new(u64::MAX));
        FaultyVfs { inner, plan: Arc::new(Plan { done: AtomicU64::new(0), free, first, last, fault }) }
    }

    /// From now on operations fail; made with [`starting_at`](Self::starting_at), all of them.
    pub fn fail_now(&self) {
        self.plan.first.store(self.operations(), Ordering::SeqCst);
    }

    /// From now on no more than `bytes` are said to be free, whatever the file system beneath says.
    pub fn set_free(&self, bytes: u64) {
        self.plan.free.store(bytes, Ordering::SeqCst);
    }

    /// Operations seen so far, failed ones included.
    pub fn operations(&self) -> u64 {
        self.plan.done.load(Ordering::SeqCst)
    }

    fn open_with(
        &self,
        path: &Path,
        open: impl FnOnce(&dyn Vfs) -> Result<Box<dyn ReadFile>>,
    ) -> Result<Box<dyn ReadFile>> {
        self.plan.pass(path)?;
        Ok(Box::new(FaultyReadFile { inner: open(&*self.inner)?, path: path.into(), plan: self.plan.clone() }))
    }
}

impl Plan {
    /// Counts one operation; the fault, if it is this one's turn.
    fn next(&self) -> Option<Fault> {
        let n = self.done.fetch_add(1, Ordering::SeqCst);
        (self.first.load(Ordering::SeqCst)..=self.last).contains(&n).then_some(self.fault)
    }

    /// Counts an operation that has no half.
    fn pass(&self, path: &Path) -> Result<()> {
        self.next().map_or(Ok(()), |fault| Err(fault.error(path, ErrorKind::Other)))
    }
}

impl Fault {
    fn error(self, path: &Path, partial: ErrorKind) -> Error {
        let kind = match self {
            Fault::Error(kind) => kind,
            Fault::Partial => partial,
        };
        Error::Io { path: path.into(), source: io::Error::new(kind, "injected fault") }
    }
}

impl Vfs for FaultyVfs {
    fn create(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        self.plan.pass(path)?;
        let inner = self.inner.create(path)?;
        Ok(Box::new(FaultyWriteFile { inner, end: 0, path: path.into(), plan: self.plan.clone() }))
    }

    fn open_append(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        self.plan.pass(path)?;
        let (end, inner) = (self.inner.len(path)?, self.inner.open_append(path)?);
        Ok(Box::new(FaultyWriteFile { inner, end, path: path.into(), plan: self.plan.clone() }))
    }

    fn open(&self, path: &Path) -> Result<Box<dyn ReadFile>> {
        self.open_with(path, |inner| inner.open(path))
    }

    fn open_direct(&self, path: &Path) -> Result<Box<dyn ReadFile>> {
        self.open_with(path, |inner| inner.open_direct(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.plan.pass(from)?;
        self.inner.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        self.plan.pass(path)?;
        self.inner.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> Result<()> {
        self.plan.pass(path)?;
        self.inner.remove_dir_all(path)
    }

    fn create_dir_all(&self, path: &Path) -> Result<()> {
        self.plan.pass(path)?;
        self.inner.create_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        self.plan.pass(path)?;
        self.inner.sync_dir(path)
    }

    fn list(&self, path: &Path) -> Result<Vec<PathBuf>> {
        self.plan.pass(path)?;
        self.inner.list(path)
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        self.plan.pass(path)?;
        self.inner.exists(path)
    }

    fn len(&self, path: &Path) -> Result<u64> {
        self.plan.pass(path)?;
        self.inner.len(path)
    }

    fn free_bytes(&self, dir: &Path) -> Result<u64> {
        Ok(self.inner.free_bytes(dir)?.min(self.plan.free.load(Ordering::SeqCst)))
    }

    fn lock(&self, dir: &Path) -> Result<DirLock> {
        self.inner.lock(dir)
    }
}

struct FaultyReadFile {
    inner: Box<dyn ReadFile>,
    path: PathBuf,
    plan: Arc<Plan>,
}

impl ReadFile for FaultyReadFile {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let Some(fault) = self.plan.next() else { return self.inner.read_exact_at(offset, buffer) };
        if fault == Fault::Partial {
            let half = buffer.len() / 2;
            self.inner.read_exact_at(offset, &mut buffer[..half])?;
        }
        Err(fault.error(&self.path, ErrorKind::UnexpectedEof))
    }
}

struct FaultyWriteFile {
    inner: Box<dyn WriteFile>,
    end: u64,
    path: PathBuf,
    plan: Arc<Plan>,
}

impl WriteFile for FaultyWriteFile {
    fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_all_at(self.end, bytes)?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    fn write_all_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let Some(fault) = self.plan.next() else { return self.inner.write_all_at(offset, bytes) };
        if fault == Fault::Partial {
            self.inner.write_all_at(offset, &bytes[..bytes.len() / 2])?;
        }
        Err(fault.error(&self.path, ErrorKind::WriteZero))
    }

    fn sync(&mut self) -> Result<()> {
        self.plan.pass(&self.path)?;
        self.inner.sync()
    }
}
