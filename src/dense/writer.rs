//! Writes dense shards in row order.

use std::path::{Path, PathBuf};

use super::{RecordLayout, VECS};
use crate::error::Result;
use crate::format::{FileEntry, FileWriter, Kind, PAGE};
use crate::vfs::Vfs;

/// Streams records into `dense-000.bg`, `dense-001.bg`, ... of a directory.
pub struct DenseWriter<'v> {
    vfs: &'v dyn Vfs,
    dir: PathBuf,
    index_id: [u8; 16],
    layout: RecordLayout,
    open: Option<FileWriter>,
    /// Records of the open shard.
    written: u64,
    finished: Vec<FileEntry>,
}

impl<'v> DenseWriter<'v> {
    /// A writer of shards in `dir`.
    pub fn new(vfs: &'v dyn Vfs, dir: &Path, index_id: [u8; 16], layout: RecordLayout) -> DenseWriter<'v> {
        DenseWriter { vfs, dir: dir.to_path_buf(), index_id, layout, open: None, written: 0, finished: Vec::new() }
    }

    /// Appends the record of the next row, made by [`RecordLayout::encode`].
    pub fn push_record(&mut self, record: &[u8]) -> Result<()> {
        assert_eq!(record.len(), self.layout.stride());
        if self.written == self.layout.rows_per_shard() {
            self.end_shard()?;
        }
        let file = match &mut self.open {
            Some(file) => {
                let gap = self.layout.gap_after(self.written - 1) as usize;
                file.write(&[0; PAGE as usize][..gap])?;
                file
            }
            None => {
                let path = self.dir.join(format!("dense-{:03}.bg", self.finished.len()));
                let mut file = FileWriter::create(self.vfs, &path, Kind::Dense, self.index_id)?;
                file.begin(VECS)?;
                self.open.insert(file)
            }
        };
        self.written += 1;
        file.write(record)
    }

    fn end_shard(&mut self) -> Result<()> {
        if let Some(mut file) = self.open.take() {
            file.end()?;
            self.finished.push(file.finish()?);
            self.written = 0;
        }
        Ok(())
    }

    /// Completes the last shard; the files in order.
    pub fn finish(mut self) -> Result<Vec<FileEntry>> {
        self.end_shard()?;
        Ok(self.finished)
    }
}
