//! An index on disk: the manifest and the files it names, opened for search.
//!
//! ```text
//! DIR/manifest.json        which files make the index; renamed into place last
//! DIR/v-89abcdef/          the files of one version
//!     quantizer.bg         centroids, codebooks, heads           -> memory
//!     codes.bg             inverted lists                        -> memory
//!     dense-000.bg ...     dense vectors, keys                   stay on SSD
//!     keys.bg              keys -> rows                          stay on SSD (fences in memory)
//!     fields.bg            what is returned with a hit           stay on SSD
//!     attributes.bg        what is filtered by                   -> memory
//! ```
//! Files are immutable; every one carries the index id, so files of different versions cannot be mixed up.

mod calibration;
mod canary;
mod fields;
mod keys;
mod manifest;
#[cfg(feature = "text")]
mod text;

pub use crate::dense::OpenOptions;
pub use calibration::{Calibration, Effort, Goal, Prefix};
pub use canary::Canary;
pub(crate) use fields::FieldsWriter;
pub(crate) use keys::{KeysWriter, mix};
pub use manifest::{EncoderNote, Files, Included, MANIFEST, Manifest, Provenance, Views};

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::attributes::{Columns, parse_record};
use crate::codes::{Codes, CodesShape};
use crate::dense::{DenseSet, FetchScratch, RecordLayout};
use crate::error::{Error, Result};
use crate::format::{FileEntry, FileReader};
use crate::quantizer::Quantizer;
use crate::train::Watch;
use crate::types::{Key, ListId, Row};
use crate::vfs::{RealVfs, Vfs};
use fields::Fields;
use keys::Keys;

/// Records read at once by a check.
const CHECK_ROWS: usize = 4_096;

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
    attributes: Option<Arc<Columns>>,
    canary: Option<Canary>,
}

impl Index {
    /// Opens the current version of the index in `dir`: reads codes and quantizer into memory (checking their
    /// checksums) and the headers of all else.
    pub fn open(dir: &Path, options: &OpenOptions) -> Result<Index> {
        Index::open_on(&RealVfs, dir, options)
    }

    /// Opens an index on any file system; what a simulated one holds cannot be mapped and is loaded instead.
    pub fn open_on(vfs: &dyn Vfs, dir: &Path, options: &OpenOptions) -> Result<Index> {
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
        let layout = RecordLayout::new(manifest.dense, manifest.dense_dim);
        let dense = DenseSet::open(vfs, &folder, &manifest.files.dense, &id, layout, manifest.rows, options)?;
        let keys = Keys::open(vfs, &path(&manifest.files.keys), &id, manifest.rows, manifest.views.is_some())?;
        let fields = match &manifest.files.fields {
            Some(entry) => Some(Fields::open(vfs, &path(entry), &id, manifest.rows)?),
            None => None,
        };
        let attributes = match &manifest.files.attributes {
            Some(entry) => Some(Arc::new(Columns::open(vfs, &path(entry), &id, &list_starts(&codes))?)),
            None => None,
        };
        let canary = match &manifest.files.canary {
            Some(entry) => Some(Canary::read(vfs, &path(entry), &id, manifest.dim)?),
            None => None,
        };
        Ok(Index { dir: dir.to_path_buf(), manifest, quantizer, codes, dense, keys, fields, attributes, canary })
    }

    /// The index directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the index is made of.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Centroids, rotation, codebooks, heads, router.
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

    /// Queries with the scores of their exact answers, if the index was given sample queries.
    pub fn canary(&self) -> Option<&Canary> {
        self.canary.as_ref()
    }

    /// Bytes that searching keeps in memory: codes, centroids, codebooks, fences, columns, and of the dense vectors the int8 tier and
    /// what the page cache holds now. Shards that are mapped, or loaded by [`crate::dense::Store::Memory`], are not among them.
    pub fn memory_bytes(&self) -> u64 {
        let fields = self.fields.as_ref().map_or(0, Fields::memory_bytes);
        let attributes = self.attributes.as_ref().map_or(0, |columns| columns.memory_bytes());
        let codes = self.codes.memory_bytes() + self.quantizer.memory_bytes();
        let sparse = codes + self.keys.memory_bytes() + fields + attributes;
        sparse as u64 + self.dense.memory_bytes()
    }

    /// The row of `key`, if the index has it; that of its first view where it has several.
    pub fn row(&self, key: Key) -> Result<Option<Row>> {
        self.keys.row(key)
    }

    /// All rows of `key`, in the order in which its views were given: one at most where the index has no views.
    ///
    /// # Errors
    /// `Corrupt` and `Io`.
    pub fn rows(&self, key: Key) -> Result<Vec<Row>> {
        self.keys.rows(key)
    }

    /// Which of the views of its document each row is, from 0, in row order. Reads all keys.
    ///
    /// # Errors
    /// `Corrupt` and `Io`.
    pub(crate) fn views_of_rows(&self) -> Result<Vec<u32>> {
        let mut views = vec![0; self.manifest.rows as usize];
        let mut last: Option<(Key, u32)> = None;
        self.keys.for_each(|key, row| {
            let view = last.filter(|last| last.0 == key).map_or(0, |last| last.1 + 1);
            views[row as usize] = view;
            last = Some((key, view));
            Ok(())
        })?;
        Ok(views)
    }

    /// The fields of `row` as a JSON object, if the index was given any.
    pub fn fields(&self, row: Row) -> Result<Option<String>> {
        self.fields.as_ref().map(|fields| fields.get(row)).transpose()
    }

    /// The fields of `row` and its neighbours, and which row is the first of them; for those who read all rows in order.
    pub(crate) fn fields_near(&self, row: Row) -> Result<Option<(Row, Vec<String>)>> {
        self.fields.as_ref().map(|fields| fields.neighbours(row)).transpose()
    }

    /// The columns of attributes that are filtered by, if the index was given any records.
    pub fn attributes(&self) -> Option<&Arc<Columns>> {
        self.attributes.as_ref()
    }

    /// The dense vector of `row` as it is stored: after the dense head if there is one, else normalised under cosine.
    pub fn vector(&self, row: Row, scratch: &mut FetchScratch) -> Result<Vec<f32>> {
        let mut vector = vec![0f32; self.manifest.dense_dim];
        self.dense.for_each(&[row], scratch, &mut |_, record| record.decode(&mut vector))?;
        Ok(vector)
    }

    /// Reads every byte of every file: checksums, padding, order, and whether keys, rows and vectors agree. The first
    /// damage is the error; records, pages and blocks come before the sections that hold them, so that damage is named
    /// as closely as can be.
    ///
    /// # Errors
    /// `Corrupt` for damage, `Io` for what cannot be read, and whatever `watch` stops with.
    pub fn check(&self, watch: &dyn Watch) -> Result<()> {
        self.check_on(&RealVfs, watch)
    }

    /// [`Index::check`] on the file system that the index was opened on.
    pub fn check_on(&self, vfs: &dyn Vfs, watch: &dyn Watch) -> Result<()> {
        let keys = self.read_keys(watch)?;
        watch.begin("keys", self.manifest.rows);
        self.check_keys(&keys, watch)?;
        drop(keys);
        if let Some(fields) = &self.fields {
            watch.begin("fields", self.manifest.rows);
            self.check_fields(fields, watch)?;
        }
        watch.begin("files", self.manifest.files.all().map(|entry| entry.bytes).sum());
        let id = self.manifest.id_bytes().expect("checked when read");
        for entry in self.manifest.files.all() {
            let path = self.dir.join(&self.manifest.folder).join(&entry.name);
            FileReader::open(vfs, &path, entry.kind, Some(&id))?.check_all(&mut |bytes| {
                watch.advance(bytes);
                watch.check()
            })?;
        }
        Ok(())
    }

    /// The key of every row, in row order. Reads every record.
    ///
    /// # Errors
    /// `Corrupt` and `Io`.
    pub fn keys_of_rows(&self) -> Result<Vec<Key>> {
        self.read_keys(&crate::train::Silent)
    }

    /// Reads every record, its checksum verified; the key of each row.
    fn read_keys(&self, watch: &dyn Watch) -> Result<Vec<Key>> {
        watch.begin("records", self.manifest.rows);
        let mut scratch = FetchScratch::default();
        let mut key_of = vec![0; self.manifest.rows as usize];
        let mut rows: Vec<Row> = Vec::with_capacity(CHECK_ROWS);
        for (first, keys) in (0..).step_by(CHECK_ROWS).zip(key_of.chunks_mut(CHECK_ROWS)) {
            watch.check()?;
            rows.clear();
            rows.extend(first..first + keys.len() as Row);
            self.dense.for_each_once(&rows, &mut scratch, &mut |i, record| keys[i] = record.key())?;
            watch.advance(keys.len() as u64);
        }
        Ok(key_of)
    }

    /// Every record can be read, and the columns hold what the records say.
    fn check_fields(&self, fields: &Fields, watch: &dyn Watch) -> Result<()> {
        let path = |entry: &FileEntry| self.dir.join(&self.manifest.folder).join(&entry.name);
        let wrong = |reason: String| {
            let path = self.manifest.files.attributes.as_ref().map_or(self.dir.clone(), path);
            Error::corrupt(path, "columns", reason)
        };
        let mut entries = 0;
        fields.check(self.manifest.rows, watch, &mut |row, text| {
            let Some(columns) = &self.attributes else { return Ok(()) };
            let object =
                serde_json::from_str(text).map_err(|e| wrong(format!("row {row}: its record is no object: {e}")))?;
            let record = parse_record(columns.schema(), &object).map_err(|e| wrong(format!("row {row}: {e}")))?;
            columns.check_row(row, &record, &mut entries).map_err(wrong)
        })?;
        self.attributes.as_ref().map_or(Ok(()), |columns| columns.check_entries(entries).map_err(wrong))
    }

    /// Every key leads to the rows whose records carry it, and there are as many documents as the manifest says.
    fn check_keys(&self, key_of: &[Key], watch: &dyn Watch) -> Result<()> {
        let path = self.dir.join(&self.manifest.folder).join(&self.manifest.files.keys.name);
        let (mut count, mut last) = (ViewCount::default(), None);
        let mut seen = vec![false; if self.manifest.views.is_some() { key_of.len() } else { 0 }];
        self.keys.for_each(|key, row| {
            let found = key_of[row as usize];
            if found != key {
                let reason = format!("key {key} leads to row {row}, whose record has key {found}");
                return Err(Error::corrupt(&path, "PAGE", reason));
            }
            // Different keys lead to different rows; the same key may not lead to one row twice.
            if seen.get_mut(row as usize).is_some_and(|seen| std::mem::replace(seen, true)) {
                return Err(Error::corrupt(&path, "PAGE", format!("key {key} leads to row {row} twice")));
            }
            count.add(last.replace(key) == Some(key));
            watch.advance(1);
            Ok(())
        })?;
        match self.manifest.views {
            Some(views) if views != count.views() => {
                let reason = format!("the manifest says {views:?} of keys that are {:?}", count.views());
                Err(Error::corrupt(&path, "PAGE", reason))
            }
            _ => Ok(()),
        }
    }
}

/// Counts the documents of rows that come by key.
#[derive(Debug, Default)]
pub(crate) struct ViewCount {
    parents: u64,
    of_last: u64,
    most: u64,
}

impl ViewCount {
    /// Counts a row, of the same document as the one before it or not.
    pub(crate) fn add(&mut self, same: bool) {
        self.parents += u64::from(!same);
        self.of_last = if same { self.of_last + 1 } else { 1 };
        self.most = self.most.max(self.of_last);
    }

    /// What was counted.
    pub(crate) fn views(&self) -> Views {
        Views { parents: self.parents, most: self.most }
    }
}

/// First row of each list, then the number of rows.
fn list_starts(codes: &Codes) -> Vec<Row> {
    let lists = codes.shape().lists;
    let mut starts = vec![0];
    starts.extend((0..lists as ListId).scan(0, |end, list| {
        *end += codes.rows_of(list) as Row;
        Some(*end)
    }));
    starts
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
    let trained = (quantizer.metric(), quantizer.coarse().lists(), quantizer.product().shape());
    let dims = (quantizer.dim(), quantizer.dense_dim(), quantizer.router().is_some());
    let heads = quantizer.heads().named().map(|(name, _)| name);
    if trained != (manifest.metric, manifest.lists, manifest.code_shape()?)
        || dims != (manifest.dim, manifest.dense_dim, manifest.router)
        || !heads.eq(manifest.heads.iter().map(String::as_str))
    {
        return Err(Error::corrupt(path, "META", "it does not agree with the manifest"));
    }
    Ok(())
}
