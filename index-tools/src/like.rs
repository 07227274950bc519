//! What `make-vectors --like` does beside drawing: reading the source, finding its neighbourhoods, and comparing what is made
//! with it.

use bigrain::dataset::resampled::{CANDIDATES, Resampler};
use bigrain::dataset::synthetic::Draw;
use bigrain::dataset::{VectorFile, check_row};
use bigrain::error::{Error, Result};
use bigrain::eval::likeness::{Likeness, likeness};
use bigrain::linalg::normalise;
use bigrain::sample::sample_rows;
use bigrain::train::{Watch, nearest};
use ndarray::{Array2, ArrayView2};
use serde::Serialize;
use std::path::Path;

use crate::table::columns;

/// Most rows of the source that are kept: neighbours are looked for among all of them, which takes the square of it.
pub const MOST_ROWS: usize = 65_536;

/// The source and what is made, as many rows of each.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// Of the source's rows.
    pub source: Likeness,
    /// Of as many rows drawn.
    pub made: Likeness,
}

/// Reads `path` (at most [`MOST_ROWS`] of its rows, drawn by `seed`) and finds the neighbours of each row.
///
/// # Errors
/// What reading gives; `InvalidInput` naming a row with values that are not finite; `InvalidParams` for a source without
/// neighbourhoods; what `watch` stops with.
pub fn resampler(path: &Path, column: Option<&str>, seed: u64, watch: &dyn Watch) -> Result<Resampler> {
    let mut file = VectorFile::open(path, column)?;
    let (chosen, dim) = (sample_rows(file.rows(), MOST_ROWS, seed), file.dim());
    watch.begin("read the source", chosen.len() as u64);
    let mut rows = vec![0.0; chosen.len() * dim];
    for (&number, row) in chosen.iter().zip(rows.chunks_exact_mut(dim)) {
        file.read(number, row)?;
        check_row(row).map_err(|bad| Error::input(path, format!("row {number}"), format!("{bad}; mend the row")))?;
        watch.advance(1);
    }
    let mut unit = Array2::from_shape_vec((chosen.len(), dim), rows.clone()).expect("whole rows");
    unit.rows_mut().into_iter().for_each(|mut row| {
        normalise(row.as_slice_mut().expect("C order"));
    });
    // The row itself is among them.
    let found = nearest(unit.view(), unit.view(), (CANDIDATES + 1).min(chosen.len()), watch)?;
    Resampler::new(rows, dim, &found, seed)
}

/// Compares the source with as many rows drawn from it.
///
/// # Errors
/// As [`likeness`].
pub fn compare(resampler: &Resampler, watch: &dyn Watch) -> Result<Comparison> {
    let (source, dim) = (resampler.source(), resampler.dim());
    let mut made = vec![0.0; source.len()];
    resampler.fill(Draw::Rows, 0, &mut made);
    let view = |rows| ArrayView2::from_shape((source.len() / dim, dim), rows).expect("whole rows");
    Ok(Comparison { source: likeness(view(source), watch)?, made: likeness(view(&made), watch)? })
}

/// The comparison as a table for people.
pub fn describe(comparison: &Comparison) -> String {
    let (source, made) = (&comparison.source, &comparison.made);
    let three = |c: &bigrain::eval::likeness::Cosines| [c.low, c.median, c.high].map(|v| format!("{v:.3}")).join("  ");
    let cosines = source
        .cosines
        .iter()
        .zip(&made.cosines)
        .map(|(a, b)| vec![format!("cosine to neighbour {} (10, 50, 90 %)", a.rank), three(a), three(b)]);
    let shares = source.spectrum.iter().zip(&made.spectrum).map(|(a, b)| {
        vec![format!("variance in {} directions", a.directions), format!("{:.3}", a.share), format!("{:.3}", b.share)]
    });
    columns(&["", "source", "made"], &cosines.chain(shares).collect::<Vec<_>>())
}
