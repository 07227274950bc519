//! The operating system's file system.

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{DirLock, LOCK, ReadFile, Vfs, WriteFile};
use crate::error::{Error, Result};

/// The operating system's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealVfs;

impl Vfs for RealVfs {
    fn create(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        let file = File::create(path).map_err(Error::io(path))?;
        Ok(Box::new(RealWriteFile { file, path: path.into(), end: 0 }))
    }

    fn open_append(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        let file = OpenOptions::new().write(true).open(path).map_err(Error::io(path))?;
        let end = file.metadata().map_err(Error::io(path))?.len();
        Ok(Box::new(RealWriteFile { file, path: path.into(), end }))
    }

    fn open(&self, path: &Path) -> Result<Box<dyn ReadFile>> {
        open_with(path, OpenOptions::new().read(true))
    }

    fn open_direct(&self, path: &Path) -> Result<Box<dyn ReadFile>> {
        let direct = rustix::fs::OFlags::DIRECT.bits().cast_signed();
        open_with(path, OpenOptions::new().read(true).custom_flags(direct))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        fs::rename(from, to).map_err(Error::io(from))
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        fs::remove_file(path).map_err(Error::io(path))
    }

    fn remove_dir_all(&self, path: &Path) -> Result<()> {
        fs::remove_dir_all(path).map_err(Error::io(path))
    }

    fn create_dir_all(&self, path: &Path) -> Result<()> {
        fs::create_dir_all(path).map_err(Error::io(path))
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        File::open(path).and_then(|dir| dir.sync_all()).map_err(Error::io(path))
    }

    fn list(&self, path: &Path) -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(path).map_err(Error::io(path))?;
        let mut paths: Vec<_> =
            entries.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>().map_err(Error::io(path))?;
        paths.sort();
        Ok(paths)
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        path.try_exists().map_err(Error::io(path))
    }

    fn len(&self, path: &Path) -> Result<u64> {
        fs::metadata(path).and_then(|meta| file_len(&meta)).map_err(Error::io(path))
    }

    fn free_bytes(&self, dir: &Path) -> Result<u64> {
        let found = rustix::fs::statvfs(dir).map_err(|error| Error::io(dir)(error.into()))?;
        // What is kept for the superuser does not count.
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    fn lock(&self, dir: &Path) -> Result<DirLock> {
        let path = dir.join(LOCK);
        let file = File::create(&path).map_err(Error::io(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(DirLock::Held(file)),
            Err(TryLockError::WouldBlock) => Ok(DirLock::Taken),
            Err(TryLockError::Error(error)) => Err(Error::io(&path)(error)),
        }
    }
}

fn open_with(path: &Path, options: &OpenOptions) -> Result<Box<dyn ReadFile>> {
    let file = options.open(path).map_err(Error::io(path))?;
    let len = file.metadata().and_then(|meta| file_len(&meta)).map_err(Error::io(path))?;
    Ok(Box::new(RealReadFile { file, path: path.into(), len }))
}

/// Length of a file. The system opens directories for reading too, and gives them a length.
fn file_len(meta: &Metadata) -> io::Result<u64> {
    if meta.is_dir() { Err(io::ErrorKind::IsADirectory.into()) } else { Ok(meta.len()) }
}

struct RealReadFile {
    file: File,
    path: PathBuf,
    len: u64,
}

impl ReadFile for RealReadFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(buffer, offset).map_err(Error::io(&self.path))
    }

    fn as_file(&self) -> Option<&File> {
        Some(&self.file)
    }
}

struct RealWriteFile {
    file: File,
    path: PathBuf,
    /// Where the next `write_all` goes. Positioned writes for both functions leave no hidden cursor to disagree with.
    end: u64,
}

impl WriteFile for RealWriteFile {
    fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_all_at(self.end, bytes)?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    fn write_all_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, offset).map_err(Error::io(&self.path))
    }

    fn sync(&mut self) -> Result<()> {
        self.file.sync_all().map_err(Error::io(&self.path))
    }
}
