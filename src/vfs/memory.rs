//! A file system in memory.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::{ReadFile, Vfs, WriteFile};
use crate::error::{Error, Result};

/// Bytes of a file, shared by its name and its open handles, as an inode is.
type Content = Arc<RwLock<Vec<u8>>>;

/// What there is, by path; `None` is a directory.
type Nodes = BTreeMap<PathBuf, Option<Content>>;

/// A file system in memory. Clones share the same files. Parent directories must exist, as on a real one, save for `/`
/// and the empty path, which always do.
#[derive(Clone, Default)]
pub struct MemoryVfs {
    nodes: Arc<Mutex<Nodes>>,
}

fn failed(path: &Path, kind: ErrorKind) -> Error {
    Error::Io { path: path.into(), source: io::Error::from(kind) }
}

impl MemoryVfs {
    /// An empty file system.
    pub fn new() -> MemoryVfs {
        MemoryVfs::default()
    }

    /// The bytes of a file.
    pub fn bytes(&self, path: &Path) -> Result<Vec<u8>> {
        Ok(read(&self.content(path)?).clone())
    }

    /// Writes a whole file, creating its parent directories.
    pub fn put(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        if let Some(parent) = path.parent() {
            self.create_dir_all(parent)?;
        }
        self.create(path)?.write_all(bytes)
    }

    /// All directories (`None`) and files with their bytes, parents first.
    pub fn snapshot(&self) -> Vec<(PathBuf, Option<Vec<u8>>)> {
        self.lock().iter().map(|(path, node)| (path.clone(), node.as_ref().map(|file| read(file).clone()))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn content(&self, path: &Path) -> Result<Content> {
        content(&self.lock(), path)
    }
}

fn content(nodes: &Nodes, path: &Path) -> Result<Content> {
    match nodes.get(path) {
        Some(Some(content)) => Ok(content.clone()),
        Some(None) => Err(failed(path, ErrorKind::IsADirectory)),
        None => Err(failed(path, ErrorKind::NotFound)),
    }
}

fn check_dir(nodes: &Nodes, path: &Path) -> Result<()> {
    match nodes.get(path) {
        Some(None) => Ok(()),
        Some(Some(_)) => Err(failed(path, ErrorKind::NotADirectory)),
        None if is_root(path) => Ok(()),
        None => Err(failed(path, ErrorKind::NotFound)),
    }
}

fn is_root(path: &Path) -> bool {
    path.parent().is_none()
}

fn read(content: &Content) -> std::sync::RwLockReadGuard<'_, Vec<u8>> {
    content.read().unwrap_or_else(PoisonError::into_inner)
}

impl Vfs for MemoryVfs {
    fn create(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        let mut nodes = self.lock();
        check_dir(&nodes, path.parent().unwrap_or(Path::new("")))?;
        let content = match nodes.entry(path.into()).or_insert_with(|| Some(Content::default())) {
            Some(content) => content.clone(),
            None => return Err(failed(path, ErrorKind::IsADirectory)),
        };
        content.write().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(Box::new(MemoryWriteFile { content, end: 0 }))
    }

    fn open_append(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        let content = self.content(path)?;
        let end = read(&content).len() as u64;
        Ok(Box::new(MemoryWriteFile { content, end }))
    }

    fn open(&self, path: &Path) -> Result<Box<dyn ReadFile>> {
        let content = self.content(path)?;
        let len = read(&content).len() as u64;
        Ok(Box::new(MemoryReadFile { content, path: path.into(), len }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let mut nodes = self.lock();
        check_dir(&nodes, to.parent().unwrap_or(Path::new("")))?;
        let is_dir = nodes.get(from).ok_or_else(|| failed(from, ErrorKind::NotFound))?.is_none();
        if from == to {
            return Ok(());
        }
        if to.starts_with(from) {
            return Err(failed(from, ErrorKind::InvalidInput));
        }
        match nodes.get(to) {
            Some(None) if !is_dir => return Err(failed(from, ErrorKind::IsADirectory)),
            Some(Some(_)) if is_dir => return Err(failed(from, ErrorKind::NotADirectory)),
            _ if nodes.keys().any(|path| path.starts_with(to) && path != to) => {
                return Err(failed(from, ErrorKind::DirectoryNotEmpty));
            }
            _ => {}
        }
        let moved: Vec<PathBuf> = nodes.keys().filter(|path| path.starts_with(from)).cloned().collect();
        for path in moved {
            let node = nodes.remove(&path).flatten();
            // The prefix was just matched; a path equal to it leaves an empty rest, and joining that would add a slash.
            let rest = path.strip_prefix(from).unwrap_or(&path);
            let target = if rest.as_os_str().is_empty() { to.to_path_buf() } else { to.join(rest) };
            nodes.insert(target, node);
        }
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        let mut nodes = self.lock();
        content(&nodes, path)?;
        nodes.remove(path);
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> Result<()> {
        let mut nodes = self.lock();
        check_dir(&nodes, path)?;
        nodes.retain(|name, _| !name.starts_with(path));
        Ok(())
    }

    fn create_dir_all(&self, path: &Path) -> Result<()> {
        let mut nodes = self.lock();
        let dirs = || path.ancestors().filter(|dir| !is_root(dir));
        if dirs().any(|dir| matches!(nodes.get(dir), Some(Some(_)))) {
            return Err(failed(path, ErrorKind::NotADirectory));
        }
        nodes.extend(dirs().map(|dir| (dir.to_path_buf(), None)).collect::<Vec<_>>());
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        check_dir(&self.lock(), path)
    }

    fn list(&self, path: &Path) -> Result<Vec<PathBuf>> {
        let nodes = self.lock();
        check_dir(&nodes, path)?;
        Ok(nodes.keys().filter(|name| name.parent() == Some(path)).cloned().collect())
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        Ok(is_root(path) || self.lock().contains_key(path))
    }

    fn len(&self, path: &Path) -> Result<u64> {
        Ok(read(&self.content(path)?).len() as u64)
    }
}

struct MemoryReadFile {
    content: Content,
    path: PathBuf,
    len: u64,
}

impl ReadFile for MemoryReadFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let content = read(&self.content);
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = content.get(start..start.saturating_add(buffer.len()));
        buffer.copy_from_slice(bytes.ok_or_else(|| failed(&self.path, ErrorKind::UnexpectedEof))?);
        Ok(())
    }
}

struct MemoryWriteFile {
    content: Content,
    end: u64,
}

impl WriteFile for MemoryWriteFile {
    fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_all_at(self.end, bytes)?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    fn write_all_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut content = self.content.write().unwrap_or_else(PoisonError::into_inner);
        write_at(&mut content, offset, bytes);
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Writes into a growing file; a hole reads as zeros.
pub(super) fn write_at(content: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let start = offset as usize;
    if content.len() < start + bytes.len() {
        content.resize(start + bytes.len(), 0);
    }
    content[start..start + bytes.len()].copy_from_slice(bytes);
}
