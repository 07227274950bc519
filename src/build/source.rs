//! The input as the build sees it: chunks of checked rows, with their keys and fields.

use ndarray::ArrayViewMut2;
use rayon::prelude::*;
use std::collections::BTreeMap;

use super::spec::{BuildSpec, OnBad};
use crate::dataset::{Cells, FieldFile, KeyFile, VectorFile, check_row};
use crate::error::{Error, Result};
use crate::linalg::{norm2, normalise};
use crate::sample::sample_rows;
use crate::types::{Key, Metric};

/// The largest norm that a row may have, or be given by a head: beyond it, scores would overflow.
pub(crate) const MAX_NORM: f32 = 1e15;
/// Sampled rows with fewer rows than this between them are read together.
const SAMPLE_GAP: u64 = 16;
/// Rows of a unit of parallel checking.
const CHECK_ROWS: usize = 256;

/// Reads the input in chunks, forwards.
pub(super) struct Source {
    file: VectorFile,
    rows_per_chunk: usize,
    next: u64,
}

/// Consecutive rows of the input.
pub(super) struct Chunk {
    /// Number of the first row in the input.
    pub(super) first: u64,
    /// n x d, as read.
    pub(super) vectors: Vec<f32>,
}

impl Source {
    pub(super) fn new(file: VectorFile, rows_per_chunk: u64) -> Source {
        Source { file, rows_per_chunk: rows_per_chunk as usize, next: 0 }
    }

    /// Reads the next chunk into a used buffer; None after the last row.
    pub(super) fn next(&mut self, mut vectors: Vec<f32>) -> Result<Option<Chunk>> {
        let left = self.file.rows() - self.next;
        if left == 0 {
            return Ok(None);
        }
        let rows = left.min(self.rows_per_chunk as u64);
        vectors.resize(rows as usize * self.file.dim(), 0.0);
        self.file.read(self.next, &mut vectors)?;
        let first = self.next;
        self.next += rows;
        Ok(Some(Chunk { first, vectors }))
    }

    /// Calls `work` with every chunk in order; the next chunk is read meanwhile.
    pub(super) fn for_each(mut self, mut work: impl FnMut(&mut Chunk) -> Result<()> + Send) -> Result<()> {
        let mut current = self.next(Vec::new())?;
        let mut spare = Vec::new();
        while let Some(mut chunk) = current {
            let (done, next) = rayon::join(|| work(&mut chunk), || self.next(std::mem::take(&mut spare)));
            done?;
            current = next?;
            spare = chunk.vectors;
        }
        Ok(())
    }
}

/// Makes rows ready for the index (normalised under cosine) and says which ones are good.
///
/// # Errors
/// With [`OnBad::Fail`], the first bad row of the input by number.
pub(super) fn prepare(spec: &BuildSpec, chunk: &mut Chunk, dim: usize, good: &mut Vec<bool>) -> Result<()> {
    let Chunk { first, vectors } = chunk;
    good.clear();
    good.resize(vectors.len() / dim, true);
    let bad = vectors
        .par_chunks_mut(dim * CHECK_ROWS)
        .zip(good.par_chunks_mut(CHECK_ROWS))
        .enumerate()
        .map(|(block, (rows, good))| {
            let mut bad = None;
            for (i, (row, good)) in rows.chunks_mut(dim).zip(good).enumerate() {
                if let Err(reason) = prepare_row(row, spec.metric) {
                    *good = false;
                    row.fill(0.0);
                    bad = bad.or(Some((*first + (block * CHECK_ROWS + i) as u64, reason)));
                }
            }
            bad
        })
        .reduce(|| None, |a, b| a.or(b));
    match bad {
        Some((row, reason)) if spec.on_bad == OnBad::Fail => Err(Error::input(
            &spec.input,
            format!("row {row}"),
            format!("{reason}; mend the row or leave such rows out with --on-bad skip"),
        )),
        _ => Ok(()),
    }
}

/// Makes one row ready for the index: normalised under cosine.
///
/// # Errors
/// Why it cannot be indexed.
pub(crate) fn prepare_row(row: &mut [f32], metric: Metric) -> std::result::Result<(), String> {
    check_row(row).map_err(|bad| bad.to_string())?;
    let norm = norm2(row).sqrt();
    if norm > MAX_NORM || norm.is_nan() {
        return Err(format!("its norm {norm:e} is above {MAX_NORM:e}"));
    }
    if metric == Metric::Cosine && normalise(row) == 0.0 {
        return Err("it is zero, which has no direction to compare by cosine".into());
    }
    Ok(())
}

/// A seeded sample of about `want` good rows, ready for the index, n x d row-major.
pub(super) fn sample(spec: &BuildSpec, file: &mut VectorFile, want: u64, seed: u64) -> Result<Vec<f32>> {
    let dim = file.dim();
    let rows = sample_rows(file.rows(), want as usize, seed);
    let mut sample = Vec::with_capacity(rows.len() * dim);
    let mut chunk = Chunk { first: 0, vectors: Vec::new() };
    let mut good = Vec::new();
    for run in runs(&rows) {
        chunk.first = run[0];
        chunk.vectors.resize((run[run.len() - 1] - run[0] + 1) as usize * dim, 0.0);
        file.read(chunk.first, &mut chunk.vectors)?;
        prepare(spec, &mut chunk, dim, &mut good)?;
        for at in run.iter().map(|row| (row - chunk.first) as usize).filter(|&at| good[at]) {
            sample.extend_from_slice(&chunk.vectors[at * dim..][..dim]);
        }
    }
    Ok(sample)
}

/// Cuts ascending rows where more than [`SAMPLE_GAP`] rows lie between two, or after a thousand of the input.
fn runs(rows: &[u64]) -> Vec<&[u64]> {
    let mut runs = Vec::new();
    let mut start = 0;
    for i in 1..=rows.len() {
        if i == rows.len() || rows[i] - rows[i - 1] > SAMPLE_GAP || rows[i] - rows[start] >= 1024 {
            runs.push(&rows[start..i]);
            start = i;
        }
    }
    runs
}

/// Keys and fields that go with the vectors, in step with them.
pub(super) struct Companions {
    keys: Option<KeyFile>,
    fields: Option<FieldFile>,
    text: String,
    /// Of keys and of fields: one of both would depend on how many rows are read at a time.
    key_hasher: blake3::Hasher,
    field_hasher: blake3::Hasher,
}

impl Companions {
    /// Opens their files; `cells` says how those of a table are read.
    pub(super) fn open(spec: &BuildSpec, rows: u64, cells: Option<&BTreeMap<String, Cells>>) -> Result<Companions> {
        let keys = spec.keys.as_ref().map(|path| KeyFile::open(path, rows)).transpose()?;
        let mut fields = spec.attributes.as_ref().map(|path| FieldFile::open(path, rows)).transpose()?;
        if let Some((fields, cells)) = fields.as_mut().zip(cells) {
            fields.set_cells(cells);
        }
        let (key_hasher, field_hasher) = Default::default();
        Ok(Companions { keys, fields, text: String::new(), key_hasher, field_hasher })
    }

    /// The keys of the next rows, the first of which is `first`.
    pub(super) fn keys(&mut self, first: u64, out: &mut [Key]) -> Result<()> {
        match &mut self.keys {
            Some(file) => file.read(out)?,
            None => out.iter_mut().zip(first..).for_each(|(key, row)| *key = row),
        }
        self.key_hasher.update(bytemuck::cast_slice(out));
        Ok(())
    }

    /// The fields of the next row; empty if there are none.
    pub(super) fn next_fields(&mut self) -> Result<&str> {
        if let Some(file) = &mut self.fields {
            file.read(&mut self.text)?;
            self.field_hasher.update(self.text.as_bytes());
        }
        Ok(&self.text)
    }

    /// A hash of all keys and fields read.
    pub(super) fn hash(&self) -> [u8; 32] {
        let mut both = blake3::Hasher::new();
        both.update(self.key_hasher.finalize().as_bytes());
        both.update(self.field_hasher.finalize().as_bytes());
        both.finalize().into()
    }
}

/// A view of row-major values as a matrix.
pub(super) fn as_matrix(values: &mut [f32], dim: usize) -> ArrayViewMut2<'_, f32> {
    let rows = values.len() / dim;
    ArrayViewMut2::from_shape((rows, dim), values).expect("whole rows")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_cover_the_sample_in_order() {
        let rows = [0, 1, 5, 40, 41, 900, 2_000, 2_010, 2_026, 2_043];
        let cut = runs(&rows);
        assert_eq!(cut.concat(), rows);
        assert_eq!(cut[0], [0, 1, 5]);
        assert_eq!(cut.last().unwrap(), &[2_043]);
        let dense: Vec<u64> = (0..5_000).collect();
        assert!(runs(&dense).iter().all(|run| run.len() <= 1024));
    }

    #[test]
    fn the_hash_of_companions_does_not_depend_on_how_many_are_read_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let (keys, records) = (dir.path().join("keys.txt"), dir.path().join("records.jsonl"));
        std::fs::write(&keys, "5\n6\n7\n8\n").unwrap();
        std::fs::write(&records, "{\"a\": 1}\n{\"a\": 2}\n{}\n{\"a\": 4}\n").unwrap();
        let spec = BuildSpec { keys: Some(keys), attributes: Some(records), ..BuildSpec::new("in.npy", "out") };
        let hash = |chunk: usize| {
            let mut companions = Companions::open(&spec, 4, None).unwrap();
            for first in (0..4).step_by(chunk) {
                companions.keys(first as u64, &mut vec![0; chunk]).unwrap();
                (0..chunk).for_each(|_| drop(companions.next_fields().unwrap().to_string()));
            }
            companions.hash()
        };
        assert_eq!((hash(1), hash(2)), (hash(4), hash(4)));
    }

    #[test]
    fn bad_rows_are_named_or_marked() {
        let mut spec = BuildSpec::new("in.npy", "out");
        let rows = vec![1.0, 2.0, f32::NAN, 0.0, 0.0, 0.0, 3.0, 4.0];
        let chunk = || Chunk { first: 10, vectors: rows.clone() };
        let message = prepare(&spec, &mut chunk(), 2, &mut Vec::new()).unwrap_err().to_string();
        assert!(message.contains("row 11") && message.contains("--on-bad skip"), "{message}");
        spec.on_bad = OnBad::Skip;
        let (mut good, mut prepared) = (Vec::new(), chunk());
        prepare(&spec, &mut prepared, 2, &mut good).unwrap();
        assert_eq!(good, [true, false, false, true]);
        assert!((norm2(&prepared.vectors[6..]) - 1.0).abs() < 1e-6);
        spec.metric = Metric::L2;
        prepare(&spec, &mut chunk(), 2, &mut good).unwrap();
        assert_eq!(good, [true, false, true, true]);
    }
}
