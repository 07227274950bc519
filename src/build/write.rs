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
use crate::index::{FieldsWriter, KeysWriter, mix};
use crate::quantizer::CodeShape;
use crate::train::Watch;
use crate::types::{Key, Row};
use crate::vfs::Vfs;

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
}

/// The files written from rows.
pub(crate) struct Written {
    pub(crate) codes: FileEntry,
    pub(crate) dense: Vec<FileEntry>,
    pub(crate) fields: Option<FileEntry>,
    pub(crate) attributes: Option<FileEntry>,
    pub(crate) keys: FileEntry,
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
        let key_buckets = (rows * 32).div_ceil(self.key_budget).max(1);
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
        let entry = (mix(self.output.layout.key_of(row.record)), self.next_row);
        // The high bits choose the bucket, so buckets in order are entries in order.
        let bucket = ((u128::from(entry.0) * u128::from(self.key_buckets)) >> 64) as usize;
        self.keys.push(bucket, |out| {
            out.extend_from_slice(bytemuck::bytes_of(&self.output.layout.key_of(row.record)));
            out.extend_from_slice(bytemuck::bytes_of(&entry.1));
        })?;
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
        let keys = write_keys(self.output, &self.keys.finish()?, u64::from(self.next_row))?;
        Ok(Written { codes, dense, fields, attributes: attributes.transpose()?, keys })
    }
}

/// Sorts the keys bucket by bucket and refuses one that comes twice.
fn write_keys(output: &Output<'_>, spill: &SpillReader<'_>, rows: u64) -> Result<FileEntry> {
    const ENTRY: usize = 12;
    output.watch.begin("write keys", rows);
    let mut writer = KeysWriter::create(output.vfs, &output.folder.join("keys.bg"), output.index_id)?;
    let (mut bytes, mut entries): (Vec<u8>, Vec<(u64, Key, Row)>) = (Vec::new(), Vec::new());
    for bucket in 0..spill.count() {
        spill.take(bucket, &mut bytes)?;
        entries.clear();
        entries.extend(bytes.chunks_exact(ENTRY).map(|entry| {
            let key: Key = bytemuck::pod_read_unaligned(&entry[..8]);
            (mix(key), key, bytemuck::pod_read_unaligned(&entry[8..]))
        }));
        entries.sort_unstable();
        if let Some(twice) = entries.windows(2).find(|pair| pair[0].1 == pair[1].1) {
            let reason = format!("key {} comes more than once; every document needs a key of its own", twice[0].1);
            return Err(Error::input(output.keys_path, "keys", reason));
        }
        entries.iter().try_for_each(|&(_, key, row)| writer.push(key, row))?;
        output.watch.advance(entries.len() as u64);
    }
    writer.finish()
}
