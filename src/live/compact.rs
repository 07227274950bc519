//! A new index from a snapshot, without training: rows of the base as they are, but for the dead ones, and those of the delta
//! behind them in their lists.

use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;
use serde::Serialize;
use std::path::Path;
use std::time::Instant;

use super::base_rows::{BaseRecords, BaseTexts};
use super::columns::survey;
use super::delta::DeltaRow;
use super::prepare::layout_of;
use super::snapshot::Snapshot;
use crate::build::{Commit, NewRow, Output, Written};
use crate::error::{Error, Result};
use crate::format::hex;
use crate::index::{Files, Included, Index, Manifest};
use crate::simd::{Kernels, unpack_row};
use crate::train::Watch;
use crate::types::{ListId, MAX_ROWS, Row};
use crate::vfs::Vfs;

/// Documents of the delta that are assigned and encoded at once.
const ENCODE_ROWS: usize = 256;
/// Bytes that sorting the keys may take.
const KEY_BUDGET: u64 = 64 << 20;

/// What compaction made.
#[derive(Clone, Debug, Serialize)]
pub struct CompactReport {
    /// The new index id, hexadecimal.
    pub id: String,
    /// Rows of the new index.
    pub rows: u64,
    /// Rows of the base that were left out: replaced or deleted.
    pub removed: u64,
    /// Rows that came from the delta.
    pub added: u64,
    /// The new index includes all changes up to this one.
    pub seq: u64,
    /// Bytes of all its files.
    pub disk_bytes: u64,
    /// Seconds in all.
    pub seconds: f64,
}

/// List, code and term of a document of the delta.
struct Coded {
    list: ListId,
    place: usize,
    code: Vec<u8>,
    term: f32,
}

/// Writes the snapshot as an index into `dir`.
pub(super) fn compact(
    vfs: &dyn Vfs,
    snapshot: &Snapshot,
    included: Included,
    dir: &Path,
    watch: &dyn Watch,
) -> Result<CompactReport> {
    let started = Instant::now();
    let base = snapshot.base().index();
    let rows = snapshot.rows();
    check_rows(rows)?;
    let commit = Commit::begin(vfs, dir)?;
    let attributes = survey(snapshot, dir, watch)?;
    let coded = encode_delta(snapshot, watch)?;
    let index_id = index_id(snapshot, &included);
    let output = Output {
        vfs,
        folder: commit.folder(),
        temporary: commit.temporary(),
        index_id,
        shape: base.manifest().code_shape()?,
        terms: base.quantizer().has_terms(),
        layout: layout_of(snapshot.base()),
        layout_of_attributes: attributes.as_ref(),
        attributes_path: dir,
        watch,
        key_budget: KEY_BUDGET,
        keys_path: dir,
        views: base.manifest().views.is_some(),
    };
    let written = write_rows(snapshot, &coded, &output, watch)?;
    let quantizer = base.quantizer().write(vfs, &commit.folder().join("quantizer.bg"), index_id)?;
    let seq = included.seq;
    let manifest = Manifest {
        format: Manifest::format(),
        id: hex(&index_id),
        folder: commit.folder_name(&index_id)?,
        rows,
        views: written.views,
        live: Some(included),
        files: Files {
            quantizer,
            codes: written.codes,
            keys: written.keys,
            fields: written.fields,
            canary: None,
            attributes: written.attributes,
            dense: written.dense,
        },
        ..base.manifest().clone()
    };
    commit.finish(&manifest)?;
    Ok(CompactReport {
        id: manifest.id.clone(),
        rows,
        removed: snapshot.tombstones() as u64,
        added: snapshot.delta_rows() as u64,
        seq,
        disk_bytes: manifest.files.all().map(|file| file.bytes).sum(),
        seconds: started.elapsed().as_secs_f64(),
    })
}

fn check_rows(rows: u64) -> Result<()> {
    match rows {
        0 => Err(Error::params("compact", "every document is deleted, and an index needs one; put one in first")),
        1..=MAX_ROWS => Ok(()),
        _ => Err(Error::params("compact", format!("{rows} documents are more than the {MAX_ROWS} of an index"))),
    }
}

/// The index id: a hash of all that decides the content of the files.
fn index_id(snapshot: &Snapshot, included: &Included) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(format!("{} {} {}", snapshot.base().version(), included.journal, included.seq).as_bytes());
    snapshot.dead_rows().for_each(|row| {
        hasher.update(&row.to_le_bytes());
    });
    for row in snapshot.delta() {
        hasher.update(row.record.bytes());
        hasher.update(&(row.record().len() as u64).to_le_bytes());
        hasher.update(row.record().as_bytes());
    }
    let mut id = [0; 16];
    id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    id
}

/// List, code and term of every document of the delta, by list, then by place.
fn encode_delta(snapshot: &Snapshot, watch: &dyn Watch) -> Result<Vec<Coded>> {
    watch.begin("encode", snapshot.delta_rows() as u64);
    let rows: Vec<DeltaRow<'_>> = snapshot.delta().collect();
    let blocks = rows.par_chunks(ENCODE_ROWS).map(|rows| {
        watch.check()?;
        let coded = encode(snapshot.base().index(), rows);
        watch.advance(rows.len() as u64);
        Ok(coded)
    });
    let mut coded = blocks.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect::<Vec<_>>();
    coded.sort_by_key(|row| (row.list, row.place));
    Ok(coded)
}

fn encode(base: &Index, rows: &[DeltaRow<'_>]) -> Vec<Coded> {
    let quantizer = base.quantizer();
    let dim = quantizer.code_dim();
    let mut vectors = Array2::zeros((rows.len(), dim));
    for (row, mut out) in rows.iter().zip(vectors.rows_mut()) {
        let out = out.as_slice_mut().expect("C order");
        match row.coded {
            Some(vector) => out.copy_from_slice(vector),
            None => row.record.decode(out),
        }
    }
    let vectors: ArrayView2<'_, f32> = vectors.view();
    let mut lists = vec![0; rows.len()];
    quantizer.coarse().assign(vectors, &mut lists);
    let encoded = quantizer.encode(Kernels::detect(), vectors, &lists);
    let codes = encoded.codes.chunks(quantizer.product().shape().bytes);
    let row = |(at, code): (usize, &[u8])| Coded {
        list: lists[at],
        place: rows[at].place,
        code: code.to_vec(),
        term: encoded.terms.get(at).copied().unwrap_or(0.0),
    };
    codes.enumerate().map(row).collect()
}

/// All rows in list order into the files of the version.
fn write_rows(snapshot: &Snapshot, coded: &[Coded], output: &Output<'_>, watch: &dyn Watch) -> Result<Written> {
    watch.begin("write", snapshot.rows());
    let base = snapshot.base().index();
    let mut writers = output.writers(snapshot.rows())?;
    let mut records = BaseRecords::new(base, output.layout);
    let mut texts = BaseTexts::new(base);
    let mut code = vec![0; output.shape.bytes];
    let mut coded = coded.iter().peekable();
    // Views of a document are all of the base, or all of the delta: their numbers are their order.
    let views = if output.views { base.views_of_rows()? } else { Vec::new() };
    for list_id in 0..base.manifest().lists as ListId {
        watch.check()?;
        let list = base.codes().list(list_id);
        let live = (0..list.rows).filter(|&at| !snapshot.is_dead(list.first_row + at as Row));
        for at in live {
            unpack_row(output.shape.bits, output.shape.bytes, list.codes, list.rows, at, &mut code);
            let term = list.terms.get(at).map_or(0.0, |&term| list.term_min + list.term_step * f32::from(term));
            let row = list.first_row + at as Row;
            let (record, fields) = (records.get(row)?, texts.get(row)?.as_bytes());
            let order = views.get(row as usize).copied().unwrap_or(0).into();
            writers.push_row(&NewRow { list: list_id, term, code: &code, record, fields, order })?;
            watch.advance(1);
        }
        while let Some(row) = coded.next_if(|row| row.list == list_id) {
            let document = snapshot.delta_row(row.place).expect("it was encoded from there");
            let (record, fields) = (document.record.bytes(), document.record().as_bytes());
            let order = document.view().into();
            writers.push_row(&NewRow { list: list_id, term: row.term, code: &row.code, record, fields, order })?;
            watch.advance(1);
        }
        writers.end_list()?;
    }
    writers.finish()
}
