//! An index on disk: the manifest and the files it names, opened for search.
//!
//! ```text
//! DIR/manifest.json        which files make the index; renamed into place last
//! DIR/v-89abcdef/          the files of one version
//!     quantizer.bg         centroids, rotation, codebooks        -> memory
//!     codes.bg             inverted lists                        -> memory
//!     dense-000.bg ...     dense vectors, keys                   stay on SSD
//!     keys.bg              keys -> rows                          stay on SSD (fences in memory)
//!     fields.bg            what is returned with a hit           stay on SSD
//! ```
//! Files are immutable; every one carries the index id, so files of different versions cannot be mixed up.

mod fields;
mod keys;
mod manifest;

pub(crate) use fields::FieldsWriter;
pub(crate) use keys::{KeysWriter, mix};
pub use manifest::{Files, MANIFEST, Manifest, Provenance};

use std::path::{Path, PathBuf};

use crate::codes::{Codes, CodesShape};
use crate::dense::{DenseSet, FetchScratch, RecordLayout, Store};
use crate::error::{Error, Result};
use crate::format::{FileEntry, FileReader};
use crate::quantizer::Quantizer;
use crate::types::{Key, Row};
use crate::vfs::{RealVfs, Vfs};
use fields::Fields;
use keys::Keys;

/// How to open an index.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenOptions {
    /// How dense vectors are read.
    pub store: Store,
    /// Read past the page cache (positioned reads and io_uring only).
    pub direct: bool,
}

/// An open index. Its parts are read-only; share it freely between threads.
#[derive(Debug)]
pub struct Index {
    dir: PathBuf,
    manifest: Manifest,
    quantizer: Quantizer,
    codes: Codes,
    dense: DenseSet,
    keys: Keys,
    fields: Option<Fields>,
}

impl Index {
    /// Opens the current version of the index in `dir`: reads codes and quantizer into memory (checking their
    /// checksums) and the headers of all else.
    pub fn open(dir: &Path, options: &OpenOptions) -> Result<Index> {
        let vfs = &RealVfs;
        let manifest = Manifest::read(vfs, dir)?;
        let id = manifest.id_bytes().expect("checked when read");
        let folder = dir.join(&manifest.folder);
        for entry in manifest.files.all() {
            check_entry(vfs, &folder, entry, &id)?;
        }
        let path = |entry: &FileEntry| folder.join(&entry.name);
        let quantizer = Quantizer::read(vfs, &path(&manifest.files.quantizer), Some(&id))?;
        check_agreement(&manifest, &quantizer, &path(&manifest.files.quantizer))?;
        let shape = CodesShape {
            code: manifest.code_shape()?,
            lists: manifest.lists,
            rows: manifest.rows,
            terms: quantizer.has_terms(),
        };
        let codes = Codes::open(vfs, &path(&manifest.files.codes), &id, shape)?;
        let layout = RecordLayout::new(manifest.dense, manifest.dim);
        let dense = DenseSet::open(
            vfs,
            &folder,
            &manifest.files.dense,
            &id,
            layout,
            manifest.rows,
            options.store,
            options.direct,
        )?;
        let keys = Keys::open(vfs, &path(&manifest.files.keys), &id, manifest.rows)?;
        let fields = match &manifest.files.fields {
            Some(entry) => Some(Fields::open(vfs, &path(entry), &id, manifest.rows)?),
            None => None,
        };
        Ok(Index { dir: dir.to_path_buf(), manifest, quantizer, codes, dense, keys, fields })
    }

    /// The index directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the index is made of.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Centroids, rotation, codebooks.
    pub fn quantizer(&self) -> &Quantizer {
        &self.quantizer
    }

    /// The inverted lists.
    pub fn codes(&self) -> &Codes {
        &self.codes
    }

    /// The dense vectors.
    pub fn dense(&self) -> &DenseSet {
        &self.dense
    }

    /// Bytes that searching keeps in memory: codes, centroids, codebooks, fences. Dense vectors are not among them,
    /// unless they were loaded into memory.
    pub fn memory_bytes(&self) -> u64 {
        let fields = self.fields.as_ref().map_or(0, Fields::memory_bytes);
        (self.codes.memory_bytes() + self.quantizer.memory_bytes() + self.keys.memory_bytes() + fields) as u64
    }

    /// The row of `key`, if the index has it.
    pub fn row(&self, key: Key) -> Result<Option<Row>> {
        self.keys.row(key)
    }

    /// The fields of `row` as a JSON object, if the index was given any.
    pub fn fields(&self, row: Row) -> Result<Option<String>> {
        self.fields.as_ref().map(|fields| fields.get(row)).transpose()
    }

    /// The dense vector of `row` (normalised under cosine), as it is stored.
    pub fn vector(&self, row: Row, scratch: &mut FetchScratch) -> Result<Vec<f32>> {
        let mut vector = vec![0f32; self.manifest.dim];
        self.dense.for_each(&[row], scratch, &mut |_, record| record.decode(&mut vector))?;
        Ok(vector)
    }

    /// Reads every byte of every file: checksums, padding, order, and whether keys, rows and vectors agree. `progress`
    /// hears of bytes done. The first damage is the error.
    pub fn check(&self, progress: &mut dyn FnMut(u64)) -> Result<()> {
        let vfs = &RealVfs;
        let id = self.manifest.id_bytes().expect("checked when read");
        for entry in self.manifest.files.all() {
            let path = self.dir.join(&self.manifest.folder).join(&entry.name);
            FileReader::open(vfs, &path, entry.kind, Some(&id))?.check_all()?;
            progress(entry.bytes);
        }
        if let Some(fields) = &self.fields {
            fields.check(self.manifest.rows)?;
        }
        self.check_keys()
    }

    /// Every key leads to the row whose record carries it.
    fn check_keys(&self) -> Result<()> {
        let mut scratch = FetchScratch::default();
        let mut key_of = vec![0; self.manifest.rows as usize];
        let rows: Vec<Row> = (0..self.manifest.rows as Row).collect();
        for part in rows.chunks(4096) {
            let keys = &mut key_of[part[0] as usize..][..part.len()];
            self.dense.for_each(part, &mut scratch, &mut |i, record| keys[i] = record.key())?;
        }
        let path = self.dir.join(&self.manifest.folder).join(&self.manifest.files.keys.name);
        self.keys.for_each(|key, row| match key_of[row as usize] == key {
            true => Ok(()),
            false => Err(Error::corrupt(
                &path,
                "PAGE",
                format!("key {key} leads to row {row}, whose record has key {}", key_of[row as usize]),
            )),
        })
    }
}

/// A file is there, is the one the manifest names, and is as long as it says.
fn check_entry(vfs: &dyn Vfs, folder: &Path, entry: &FileEntry, id: &[u8; 16]) -> Result<()> {
    let path = folder.join(&entry.name);
    if !vfs.exists(&path)? {
        return Err(Error::corrupt(&path, "header", "the manifest names it, but it is not there"));
    }
    let file = FileReader::open(vfs, &path, entry.kind, Some(id))?;
    if (file.len(), file.header_crc()) != (entry.bytes, entry.header_crc) {
        return Err(Error::corrupt(&path, "header", "it is not the file that the manifest names"));
    }
    Ok(())
}

fn check_agreement(manifest: &Manifest, quantizer: &Quantizer, path: &Path) -> Result<()> {
    let of_quantizer =
        (quantizer.metric(), quantizer.dim(), quantizer.coarse().lists(), quantizer.product().shape());
    if of_quantizer != (manifest.metric, manifest.dim, manifest.lists, manifest.code_shape()?) {
        return Err(Error::corrupt(path, "META", "it does not agree with the manifest"));
    }
    Ok(())
}
