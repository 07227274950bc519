//! The external shuffle: records are appended to a bucket each, then read back one bucket at a time.

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::vfs::{Vfs, WriteFile};

/// Buffered bytes over all buckets.
const BUFFERS: usize = 8 << 20;

/// Buckets being filled.
pub(super) struct Spill<'v> {
    vfs: &'v dyn Vfs,
    buckets: Vec<Bucket>,
    buffer_len: usize,
}

struct Bucket {
    path: PathBuf,
    file: Box<dyn WriteFile>,
    buffer: Vec<u8>,
}

impl<'v> Spill<'v> {
    /// `count` empty buckets in files `name-0 ...` of `dir`.
    pub(super) fn create(vfs: &'v dyn Vfs, dir: &Path, name: &str, count: usize) -> Result<Spill<'v>> {
        let open = |i| -> Result<Bucket> {
            let path = dir.join(format!("{name}-{i}"));
            Ok(Bucket { file: vfs.create(&path)?, path, buffer: Vec::new() })
        };
        let buckets = (0..count).map(open).collect::<Result<_>>()?;
        Ok(Spill { vfs, buckets, buffer_len: (BUFFERS / count).clamp(16 << 10, 1 << 20) })
    }

    /// Appends bytes to a bucket; the returned buffer is the bucket's own, to be filled by the caller.
    pub(super) fn push(&mut self, bucket: usize, write: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        let bucket = &mut self.buckets[bucket];
        write(&mut bucket.buffer);
        if bucket.buffer.len() >= self.buffer_len {
            bucket.file.write_all(&bucket.buffer)?;
            bucket.buffer.clear();
        }
        Ok(())
    }

    /// Ends the writing; the buckets can be read.
    pub(super) fn finish(mut self) -> Result<SpillReader<'v>> {
        for bucket in &mut self.buckets {
            bucket.file.write_all(&bucket.buffer)?;
        }
        Ok(SpillReader { vfs: self.vfs, paths: self.buckets.into_iter().map(|b| b.path).collect() })
    }
}

/// Buckets to read back.
pub(super) struct SpillReader<'v> {
    vfs: &'v dyn Vfs,
    paths: Vec<PathBuf>,
}

impl SpillReader<'_> {
    /// Number of buckets.
    pub(super) fn count(&self) -> usize {
        self.paths.len()
    }

    /// Reads a bucket into `out` and removes its file.
    pub(super) fn take(&self, bucket: usize, out: &mut Vec<u8>) -> Result<()> {
        let path = &self.paths[bucket];
        let file = self.vfs.open(path)?;
        out.clear();
        out.resize(file.len() as usize, 0);
        file.read_exact_at(0, out)?;
        self.vfs.remove_file(path)
    }
}
