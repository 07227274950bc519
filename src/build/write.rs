//! The last pass: bucket by bucket, rows in list order, into the files of the version.

use std::path::Path;

use super::attributes::parse_object;
use super::passes::{Buckets, NewRow, SpillFormat};
use super::spill::{Spill, SpillReader};
use crate::attributes::{ColumnsWriter, Layout, parse_record};
use crate::codes::CodesWriter;
use crate::dense::{DenseWriter, RecordLayout};
use crate::error::{Error, Result};
use crate::format::FileEntry;
use crate::index::{FieldsWriter, KeysWriter, ViewCount, Views, mix};
use crate::quantizer::CodeShape;
use crate::train::Watch;
use crate::types::{Key, Row};
use crate::vfs::Vfs;

/// Bytes that sorting takes a key, about.
const KEY_BYTES: u64 = 64;

/// What is needed to write the files.
pub(crate) struct Output<'a> {
    pub(crate) vfs: &'a dyn Vfs,
    /// Folder of the version's files.
    pub(crate) folder: &'a Path,
    /// Folder of temporary files.
    pub(crate) temporary: &'a Path,
    pub(crate) index_id: [u8; 16],
    pub(crate) shape: CodeShape,
    pub(crate) terms: bool,
    pub(crate) layout: RecordLayout,
    /// Of the records, if there are any.
    pub(crate) layout_of_attributes: Option<&'a Layout>,
    /// Where the records came from, for messages.
    pub(crate) attributes_path: &'a Path,
    pub(crate) watch: &'a dyn Watch,
    /// Bytes that the sorting of keys, and of sets of keywords, may take.
    pub(crate) key_budget: u64,
    /// Where the user's keys came from, for messages.
    pub(crate) keys_path: &'a Path,
    /// Whether a key may have several rows.
    pub(crate) views: bool,
}

/// The files written from rows.
pub(crate) struct Written {
    pub(crate) codes: FileEntry,
    pub(crate) dense: Vec<FileEntry>,
    pub(crate) fields: Option<FileEntry>,
    pub(crate) attributes: Option<FileEntry>,
    pub(crate) keys: FileEntry,
    /// The documents, where rows are views of them.
    pub(crate) views: Option<Views>,
}

/// The files being written, and the row that comes next.
pub(crate) struct Writers<'a> {
    output: &'a Output<'a>,
    codes: CodesWriter,
    dense: DenseWriter<'a>,
    fields: Option<FieldsWriter>,
    attributes: Option<ColumnsWriter<'a>>,
    keys: Spill<'a>,
    key_buckets: u64,
    next_row: Row,
    list_codes: Vec<u8>,
    list_terms: Vec<f32>,
}

impl Output<'_> {
    /// Writes everything that comes from rows; `counts` are the rows of each list.
    pub(super) fn write(
        &self,
        spill: &SpillReader<'_>,
        format: &SpillFormat,
        buckets: &Buckets,
        counts: &[u64],
    ) -> Result<Written> {
        let rows: u64 = counts.iter().sum();
        self.watch.begin("write", rows);
        let mut writers = self.writers(rows)?;
        let (mut bytes, mut places) = (Vec::new(), Vec::new());
        for bucket in 0..spill.count() {
            self.watch.check()?;
            spill.take(bucket, &mut bytes)?;
            sort_by_list(format, &bytes, &mut places);
            let mut rows = places.iter().peekable();
            for list in buckets.lists(bucket) {
                while let Some(&&(_, at)) = rows.peek().filter(|place| place.0 as usize == list) {
                    let row = &bytes[at..];
                    writers.push_row(&format.row(&row[..format.row_len(row).expect("measured before")]))?;
                    rows.next();
                }
                writers.end_list()?;
            }
            self.watch.advance(buckets.lists(bucket).map(|list| counts[list]).sum());
        }
        writers.finish()
    }

    /// The files of a version of `rows`, open at its first list.
    pub(crate) fn writers(&self, rows: u64) -> Result<Writers<'_>> {
        let path = |name: &str| self.folder.join(name);
        let key_buckets = (rows * KEY_BYTES).div_ceil(self.key_budget).max(1);
        let layout = self.layout_of_attributes;
        let fields = layout.map(|_| FieldsWriter::create(self.vfs, &path("fields.bg"), self.index_id));
        let attributes = layout.map(|layout| ColumnsWriter::create(self.vfs, self.temporary, layout));
        Ok(Writers {
            output: self,
            codes: CodesWriter::create(self.vfs, &path("codes.bg"), self.index_id, self.shape, self.terms)?,
            dense: DenseWriter::new(self.vfs, self.folder, self.index_id, self.layout),
            fields: fields.transpose()?,
            attributes: attributes.transpose()?,
            keys: Spill::create(self.vfs, self.temporary, "keys", key_buckets as usize)?,
            key_buckets,
            next_row: 0,
            list_codes: Vec::new(),
            list_terms: Vec::new(),
        })
    }
}

/// List and place of every row of a bucket, by list, then in input order.
fn sort_by_list(format: &SpillFormat, bytes: &[u8], places: &mut Vec<(u32, usize)>) {
    places.clear();
    let mut at = 0;
    while let Some(length) = format.row_len(&bytes[at..]) {
        places.push((format.row(&bytes[at..at + length]).list, at));
        at += length;
    }
    // Places ascend in input order, so an unstable sort of the pairs is a stable sort by list.
    places.sort_unstable();
}

impl Writers<'_> {
    /// Appends the next row of the open list.
    pub(crate) fn push_row(&mut self, row: &NewRow<'_>) -> Result<()> {
        self.list_codes.extend_from_slice(row.code);
        if self.output.terms {
            self.list_terms.push(row.term);
        }
        self.dense.push_record(row.record)?;
        if let Some(fields) = &mut self.fields {
            fields.push(row.fields)?;
        }
        if let Some((columns, layout)) = self.attributes.as_mut().zip(self.output.layout_of_attributes) {
            let object = parse_object(self.output.attributes_path, u64::from(self.next_row), row.fields)?;
            columns.push(&parse_record(layout.schema(), &object)?)?;
        }
        let key = self.output.layout.key_of(row.record);
        let entry = KeyEntry { mixed: mix(key), order: row.order, row: self.next_row, key, fields: 0 };
        // The high bits choose the bucket, so buckets in order are entries in order.
        let bucket = ((u128::from(entry.mixed) * u128::from(self.key_buckets)) >> 64) as usize;
        let views = self.output.views;
        let entry = KeyEntry { fields: if views { hash_of(row.fields) } else { 0 }, ..entry };
        self.keys.push(bucket, |out| entry.push(views, out))?;
        self.next_row += 1;
        Ok(())
    }

    /// Ends the open list; the next one is open.
    pub(crate) fn end_list(&mut self) -> Result<()> {
        self.codes.push_list(&self.list_codes, &self.list_terms)?;
        self.list_codes.clear();
        self.list_terms.clear();
        Ok(())
    }

    /// Completes the files, after the last list.
    pub(crate) fn finish(self) -> Result<Written> {
        let codes = self.codes.finish()?;
        let dense = self.dense.finish()?;
        let fields = self.fields.map(FieldsWriter::finish).transpose()?;
        let output = self.output;
        let path = output.folder.join("attributes.bg");
        let attributes = self.attributes.map(|columns| columns.finish(&path, output.index_id, output.key_budget));
        let (keys, views) = write_keys(self.output, &self.keys.finish()?, u64::from(self.next_row))?;
        Ok(Written { codes, dense, fields, attributes: attributes.transpose()?, keys, views })
    }
}

/// A key and a row of it on their way into the key file, in the order in which they are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct KeyEntry {
    mixed: u64,
    order: u64,
    row: Row,
    key: Key,
    /// A hash of the row's fields, where rows are views.
    fields: u64,
}

impl KeyEntry {
    /// Bytes in the shuffle: `key u64 | row u32`, and for views `| order u64 | fields u64`.
    fn len(views: bool) -> usize {
        if views { 28 } else { 12 }
    }

    fn push(&self, views: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(bytemuck::bytes_of(&self.key));
        out.extend_from_slice(bytemuck::bytes_of(&self.row));
        if views {
            out.extend_from_slice(bytemuck::bytes_of(&[self.order, self.fields]));
        }
    }

    fn read(bytes: &[u8]) -> KeyEntry {
        let key: Key = bytemuck::pod_read_unaligned(&bytes[..8]);
        let [order, fields] = bytes.get(12..28).map_or([0; 2], bytemuck::pod_read_unaligned);
        KeyEntry { mixed: mix(key), order, row: bytemuck::pod_read_unaligned(&bytes[8..12]), key, fields }
    }
}

fn hash_of(fields: &[u8]) -> u64 {
    bytemuck::pod_read_unaligned(&blake3::hash(fields).as_bytes()[..8])
}

/// Sorts the keys bucket by bucket. Refuses one that comes twice; where rows are views, a document whose rows differ in what they
/// are filtered by and returned with.
fn write_keys(output: &Output<'_>, spill: &SpillReader<'_>, rows: u64) -> Result<(FileEntry, Option<Views>)> {
    output.watch.begin("write keys", rows);
    let mut writer = KeysWriter::create(output.vfs, &output.folder.join("keys.bg"), output.index_id)?;
    let (mut bytes, mut entries): (Vec<u8>, Vec<KeyEntry>) = (Vec::new(), Vec::new());
    let mut count = ViewCount::default();
    for bucket in 0..spill.count() {
        spill.take(bucket, &mut bytes)?;
        entries.clear();
        entries.extend(bytes.chunks_exact(KeyEntry::len(output.views)).map(KeyEntry::read));
        entries.sort_unstable();
        for (at, entry) in entries.iter().enumerate() {
            // Equal keys are in one bucket.
            let before = at.checked_sub(1).map(|before| &entries[before]).filter(|before| before.key == entry.key);
            if let Some(before) = before {
                check_same_document(output, before, entry)?;
            }
            count.add(before.is_some());
            writer.push(entry.key, entry.row)?;
        }
        output.watch.advance(entries.len() as u64);
    }
    Ok((writer.finish()?, output.views.then(|| count.views())))
}

/// Refuses two rows of one key that cannot be views of one document.
fn check_same_document(output: &Output<'_>, a: &KeyEntry, b: &KeyEntry) -> Result<()> {
    let key = a.key;
    if !output.views {
        let reason = format!(
            "key {key} comes more than once; every document needs a key of its own (where rows are views of documents, say \
             --views)"
        );
        return Err(Error::input(output.keys_path, "keys", reason));
    }
    if a.fields != b.fields {
        let reason = format!("rows of key {key} have different records; give all views of a document the same one");
        return Err(Error::input(output.attributes_path, "records", reason));
    }
    Ok(())
}
