//! The two passes over the input: which list each row belongs to; then its code, its record and its place in the shuffle.

use ndarray::{ArrayView1, ArrayView2, CowArray, Ix2};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;

use super::plan::Plan;
use super::source::{Chunk, Companions, MAX_NORM, Source, as_matrix, prepare};
use super::spec::BuildSpec;
use super::spill::{Spill, SpillReader};
use crate::dataset::{Cells, VectorFile};
use crate::dense::RecordLayout;
use crate::error::{Error, Result};
use crate::heads::Head;
use crate::linalg::norm2;
use crate::quantizer::Quantizer;
use crate::simd::Kernels;
use crate::train::Watch;
use crate::types::{Key, ListId};
use crate::vfs::Vfs;

/// The list of a row that was left out.
const SKIPPED: ListId = ListId::MAX;
/// Rows of a unit of parallel work. Chunks are whole blocks, so that what is computed together, and with it every
/// rounding, does not depend on the size of chunks.
pub(super) const BLOCK: usize = 256;
/// Bytes between the fixed part of a row in the shuffle and its fields.
const BEHIND: usize = 12;
/// Name of the file that holds each row's list between the passes.
const LISTS_FILE: &str = "lists";

/// What the first pass learned.
pub(super) struct Assigned {
    /// Rows of each list.
    pub(super) counts: Vec<u64>,
    /// Rows left out.
    pub(super) skipped: u64,
    /// Hash of every vector, as read.
    pub(super) hash: [u8; 32],
}

impl Assigned {
    /// Rows that stay.
    pub(super) fn rows(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// What both passes work with.
pub(super) struct Passes<'a> {
    pub(super) spec: &'a BuildSpec,
    pub(super) plan: &'a Plan,
    /// How the cells of a table of records are read.
    pub(super) cells: Option<&'a BTreeMap<String, Cells>>,
    pub(super) quantizer: &'a Quantizer,
    pub(super) vfs: &'a dyn Vfs,
    /// Directory of temporary files.
    pub(super) dir: &'a Path,
    pub(super) watch: &'a dyn Watch,
}

impl Passes<'_> {
    /// First pass: assigns every row to a list; the assignment goes to a file, the counts stay in memory.
    pub(super) fn assign(&self, file: VectorFile) -> Result<Assigned> {
        let dim = self.plan.dim;
        let mut out = self.vfs.create(&self.dir.join(LISTS_FILE))?;
        let mut hasher = blake3::Hasher::new();
        let mut assigned = Assigned { counts: vec![0; self.plan.lists], skipped: 0, hash: [0; 32] };
        let (mut lists, mut good) = (Vec::new(), Vec::new());
        self.watch.begin("assign lists", self.plan.rows);
        Source::new(file, self.plan.chunk_rows).for_each(|chunk| {
            self.watch.check()?;
            hasher.update(bytemuck::cast_slice(&chunk.vectors));
            prepare(self.spec, chunk, dim, &mut good)?;
            lists.clear();
            lists.resize(good.len(), SKIPPED);
            let head = self.quantizer.heads().code_document.as_ref();
            let block = self.quantizer.coarse().rows_at_once();
            let blocks = lists.par_chunks_mut(block).zip(chunk.vectors.par_chunks_mut(block * dim)).enumerate();
            blocks.try_for_each(|(at, (lists, rows))| {
                let rows = as_matrix(rows, dim);
                let rows = self.mapped(head, rows.view(), chunk.first + (at * block) as u64)?;
                self.quantizer.coarse().assign(rows.view(), lists);
                Ok::<(), Error>(())
            })?;
            for (list, &good) in lists.iter_mut().zip(&good) {
                if good {
                    assigned.counts[*list as usize] += 1;
                } else {
                    *list = SKIPPED;
                    assigned.skipped += 1;
                }
            }
            self.watch.advance(lists.len() as u64);
            out.write_all(bytemuck::cast_slice(&lists))
        })?;
        if assigned.rows() == 0 {
            return Err(Error::input(&self.spec.input, "rows", "every row is bad; look at one and at the metric"));
        }
        assigned.hash = hasher.finalize().into();
        Ok(assigned)
    }

    /// Second pass: encodes every row and appends it to the bucket of its list. Returns the shuffle and a hash of keys
    /// and fields.
    pub(super) fn encode(&self, file: VectorFile, buckets: &Buckets) -> Result<(SpillReader<'_>, [u8; 32])> {
        let lists_path = self.dir.join(LISTS_FILE);
        let lists_file = self.vfs.open(&lists_path)?;
        let mut companions = Companions::open(self.spec, self.plan.rows, self.cells)?;
        let mut spill = Spill::create(self.vfs, self.dir, "rows", buckets.count())?;
        let format = SpillFormat::new(self.spec, self.plan);
        let (mut lists, mut keys, mut good, mut records) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        self.watch.begin("encode", self.plan.rows);
        Source::new(file, self.plan.chunk_rows).for_each(|chunk| {
            self.watch.check()?;
            prepare(self.spec, chunk, self.plan.dim, &mut good)?;
            lists.resize(good.len(), SKIPPED);
            lists_file.read_exact_at(chunk.first * 4, bytemuck::cast_slice_mut(&mut lists))?;
            keys.resize(good.len(), 0);
            companions.keys(chunk.first, &mut keys)?;
            self.encode_chunk(&format, chunk, &lists, &keys, &mut records)?;
            for ((record, &list), row) in records.chunks(format.fixed).zip(&lists).zip(chunk.first..) {
                let fields = companions.next_fields()?;
                if list != SKIPPED {
                    spill.push(buckets.of(list), |out| format.push(record, row, fields, out))?;
                }
            }
            self.watch.advance(lists.len() as u64);
            Ok(())
        })?;
        self.vfs.remove_file(&lists_path)?;
        Ok((spill.finish()?, companions.hash()))
    }

    /// What a document head makes of rows (the rows themselves without one), the first of which is `first` of the input.
    fn mapped<'a>(&self, head: Option<&Head>, rows: ArrayView2<'a, f32>, first: u64) -> Result<CowArray<'a, f32, Ix2>> {
        let Some(head) = head else { return Ok(rows.into()) };
        let mapped = head.apply_rows(rows);
        let norm = |row: ArrayView1<'_, f32>| norm2(row.as_slice().expect("C order")).sqrt();
        match mapped.rows().into_iter().map(norm).position(|norm| !(0.0..=MAX_NORM).contains(&norm)) {
            None => Ok(mapped.into()),
            Some(at) => Err(Error::input(
                &self.spec.input,
                format!("row {}", first + at as u64),
                format!("a head of the quantizer maps it beyond {MAX_NORM:e}; scale the vectors down, or train again"),
            )),
        }
    }

    /// The fixed parts of a chunk's spill records.
    fn encode_chunk(
        &self,
        format: &SpillFormat,
        chunk: &mut Chunk,
        lists: &[ListId],
        keys: &[Key],
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let dim = self.plan.dim;
        out.resize(lists.len() * format.fixed, 0);
        let (first, heads) = (chunk.first, self.quantizer.heads());
        let blocks = out.par_chunks_mut(BLOCK * format.fixed).zip(chunk.vectors.par_chunks_mut(BLOCK * dim));
        let companions = lists.par_chunks(BLOCK).zip(keys.par_chunks(BLOCK));
        blocks.zip(companions).enumerate().try_for_each(|(block, ((out, rows), (lists, keys)))| {
            let (rows, first) = (as_matrix(rows, dim), first + (block * BLOCK) as u64);
            let coded = self.mapped(heads.code_document.as_ref(), rows.view(), first)?;
            let dense = self.mapped(heads.dense_document.as_ref(), rows.view(), first)?;
            // Rows that are left out are zeros; any list will do for them.
            let lists: Vec<ListId> = lists.iter().map(|&l| if l == SKIPPED { 0 } else { l }).collect();
            let encoded = self.quantizer.encode(Kernels::detect(), coded.view(), &lists);
            for ((i, out), dense) in out.chunks_mut(format.fixed).enumerate().zip(dense.rows()) {
                let term = encoded.terms.get(i).copied().unwrap_or(0.0);
                let code = &encoded.codes[i * format.code..][..format.code];
                format.write(lists[i], term, code, dense.as_slice().expect("C order"), keys[i], out)?;
            }
            Ok(())
        })
    }
}

/// One row in the shuffle: `list u32 | term f32 | code | dense record | length of fields u32 | row of the input u64 | fields`.
/// Temporary files of this machine, so native byte order will do.
pub(super) struct SpillFormat {
    code: usize,
    /// Bytes before the length of the fields.
    fixed: usize,
    layout: RecordLayout,
}

/// A row on its way into the files of a version.
pub(crate) struct NewRow<'a> {
    pub(crate) list: ListId,
    pub(crate) term: f32,
    pub(crate) code: &'a [u8],
    pub(crate) record: &'a [u8],
    pub(crate) fields: &'a [u8],
    /// Ascends over the views of a document, in the order in which they were given.
    pub(crate) order: u64,
}

impl SpillFormat {
    pub(super) fn new(spec: &BuildSpec, plan: &Plan) -> SpillFormat {
        let layout = RecordLayout::new(spec.dense, plan.dense_dim);
        SpillFormat { code: plan.code_bytes, fixed: 8 + plan.code_bytes + layout.stride(), layout }
    }

    fn write(&self, list: ListId, term: f32, code: &[u8], vector: &[f32], key: Key, out: &mut [u8]) -> Result<()> {
        out[..4].copy_from_slice(bytemuck::bytes_of(&list));
        out[4..8].copy_from_slice(bytemuck::bytes_of(&term));
        out[8..8 + self.code].copy_from_slice(code);
        self.layout.encode(vector, key, &mut out[8 + self.code..])
    }

    fn push(&self, fixed: &[u8], order: u64, fields: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(fixed);
        out.extend_from_slice(bytemuck::bytes_of(&(fields.len() as u32)));
        out.extend_from_slice(bytemuck::bytes_of(&order));
        out.extend_from_slice(fields.as_bytes());
    }

    /// Length of the row at the front of `bytes`, or None if it is not all there.
    pub(super) fn row_len(&self, bytes: &[u8]) -> Option<usize> {
        let length: u32 = bytemuck::pod_read_unaligned(bytes.get(self.fixed..self.fixed + 4)?);
        let total = self.fixed + BEHIND + length as usize;
        (bytes.len() >= total).then_some(total)
    }

    /// The row at the front of `bytes`, which [`SpillFormat::row_len`] has measured.
    pub(super) fn row<'a>(&self, bytes: &'a [u8]) -> NewRow<'a> {
        let (fixed, fields) = bytes.split_at(self.fixed);
        let (code, record) = fixed[8..].split_at(self.code);
        NewRow {
            list: bytemuck::pod_read_unaligned(&fixed[..4]),
            term: bytemuck::pod_read_unaligned(&fixed[4..8]),
            code,
            record,
            fields: &fields[BEHIND..],
            order: bytemuck::pod_read_unaligned(&fields[4..BEHIND]),
        }
    }

    /// Bytes of a row without fields.
    pub(super) fn row_bytes(&self) -> u64 {
        (self.fixed + BEHIND) as u64
    }
}

/// Runs of consecutive lists whose rows are shuffled together.
pub(super) struct Buckets {
    /// First list of each bucket, then the number of lists.
    starts: Vec<usize>,
}

impl Buckets {
    /// As many lists a bucket as fit its budget, at least one.
    pub(super) fn new(counts: &[u64], row_bytes: u64, budget: u64) -> Buckets {
        let mut starts = vec![0];
        let mut filled = 0;
        for (list, count) in counts.iter().enumerate() {
            if filled > 0 && filled + count * row_bytes > budget {
                starts.push(list);
                filled = 0;
            }
            filled += count * row_bytes;
        }
        starts.push(counts.len());
        Buckets { starts }
    }

    pub(super) fn count(&self) -> usize {
        self.starts.len() - 1
    }

    /// The bucket of a list.
    fn of(&self, list: ListId) -> usize {
        self.starts.partition_point(|&start| start <= list as usize) - 1
    }

    /// The lists of a bucket.
    pub(super) fn lists(&self, bucket: usize) -> std::ops::Range<usize> {
        self.starts[bucket]..self.starts[bucket + 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_consecutive_lists_within_their_budget() {
        let counts = [5, 0, 7, 100, 1, 1, 1, 30];
        let buckets = Buckets::new(&counts, 10, 300);
        let mut next = 0;
        for bucket in 0..buckets.count() {
            let lists = buckets.lists(bucket);
            assert_eq!(lists.start, next);
            next = lists.end;
            let bytes: u64 = counts[lists.clone()].iter().sum::<u64>() * 10;
            assert!(bytes <= 300 || lists.len() == 1 || counts[lists.clone()].iter().filter(|&&c| c > 0).count() == 1);
            lists.for_each(|list| assert_eq!(buckets.of(list as ListId), bucket));
        }
        assert_eq!(next, counts.len());
    }
}
