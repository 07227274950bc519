//! Whether two sets of vectors are alike, as far as an index could tell: how near neighbours are, and in how many
//! directions vectors extend.
//!
//! Sets of the same number of rows are compared: the nearest of more rows are nearer.

use ndarray::{Array2, ArrayView2, Axis, s};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::linalg::{add_product_tn, eigen_symmetric, normalise};
use crate::sample::sample_rows;
use crate::train::{Watch, nearest};

/// Rows whose neighbours are looked for.
const SAMPLE: usize = 2_000;

/// Neighbours that are looked at, the first being the nearest other row.
const RANKS: [usize; 3] = [1, 10, 100];

/// Numbers of directions whose share is told, as far as there are as many.
const DIRECTIONS: [usize; 5] = [1, 10, 50, 100, 200];

/// Rows of a product.
const BLOCK: usize = 1_024;

/// Cosines between rows and their neighbours of one rank.
#[derive(Clone, Debug, Serialize)]
pub struct Cosines {
    /// 1 is the nearest other row.
    pub rank: usize,
    /// A tenth of all rows is below.
    pub low: f32,
    /// Half of them are.
    pub median: f32,
    /// Nine tenths are.
    pub high: f32,
}

/// How much of the variance lies in the first principal directions.
#[derive(Clone, Debug, Serialize)]
pub struct Share {
    /// Number of directions, those of the largest eigenvalues of the covariance.
    pub directions: usize,
    /// Sum of their eigenvalues over that of all.
    pub share: f32,
}

/// What is compared.
#[derive(Clone, Debug, Serialize)]
pub struct Likeness {
    /// Ranks 1, 10 and 100, as far as there are as many rows; over 2,000 rows against all.
    pub cosines: Vec<Cosines>,
    /// 1, 10, 50, 100 and 200 directions, as far as there are as many.
    pub spectrum: Vec<Share>,
}

/// Measures `rows` (n x d).
///
/// # Errors
/// `InvalidParams` for less than 2 rows, or vectors whose covariance has no eigenvalues; what `watch` stops with.
pub fn likeness(rows: ArrayView2<'_, f32>, watch: &dyn Watch) -> Result<Likeness> {
    if rows.nrows() < 2 {
        return Err(Error::params("rows", format!("{} rows have no neighbours; give 2 or more", rows.nrows())));
    }
    Ok(Likeness { cosines: cosines(rows, watch)?, spectrum: spectrum(rows)? })
}

fn cosines(rows: ArrayView2<'_, f32>, watch: &dyn Watch) -> Result<Vec<Cosines>> {
    let mut unit = rows.to_owned();
    unit.rows_mut().into_iter().for_each(|mut row| {
        normalise(row.as_slice_mut().expect("C order"));
    });
    let sample: Vec<usize> = sample_rows(unit.nrows() as u64, SAMPLE, 1).into_iter().map(|row| row as usize).collect();
    let queries = unit.select(Axis(0), &sample);
    let ranks: Vec<usize> = RANKS.into_iter().filter(|&rank| rank < unit.nrows()).collect();
    let deepest = ranks.last().copied().unwrap_or(1);
    // One more, for the row itself.
    let found = nearest(queries.view(), unit.view(), deepest + 1, watch)?;
    let at = |rank: usize| {
        let cosine =
            |(query, found): (ndarray::ArrayView1<'_, f32>, &Vec<u32>)| query.dot(&unit.row(found[rank] as usize));
        let mut cosines: Vec<f32> = queries.rows().into_iter().zip(&found).map(cosine).collect();
        cosines.sort_unstable_by(f32::total_cmp);
        let quantile = |share: f32| cosines[((cosines.len() - 1) as f32 * share).round() as usize];
        Cosines { rank, low: quantile(0.1), median: quantile(0.5), high: quantile(0.9) }
    };
    Ok(ranks.into_iter().map(at).collect())
}

fn spectrum(rows: ArrayView2<'_, f32>) -> Result<Vec<Share>> {
    let (n, d) = rows.dim();
    let mean = rows.mean_axis(Axis(0)).expect("rows");
    let mut covariance = Array2::zeros((d, d));
    for start in (0..n).step_by(BLOCK) {
        let centred = &rows.slice(s![start..n.min(start + BLOCK), ..]) - &mean;
        add_product_tn(centred.view(), centred.view(), covariance.view_mut());
    }
    let (values, _) = eigen_symmetric(covariance.view())?;
    let total: f32 = values.iter().sum();
    let share = |directions: usize| Share { directions, share: values[..directions].iter().sum::<f32>() / total };
    Ok(DIRECTIONS.into_iter().filter(|&directions| directions <= d).map(share).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Rng;
    use crate::train::Silent;

    #[test]
    fn a_plane_in_ten_dimensions_is_seen_as_one() {
        let mut rng = Rng::new(1);
        let rows = Array2::from_shape_fn((500, 12), |(_, j)| if j < 10 { rng.normal() } else { 0.0 });
        let found = likeness(rows.view(), &Silent).unwrap();
        assert_eq!(found.spectrum.iter().map(|s| s.directions).collect::<Vec<_>>(), [1, 10]);
        assert!(found.spectrum[0].share < 0.2 && (found.spectrum[1].share - 1.0).abs() < 1e-4);
        let medians: Vec<f32> = found.cosines.iter().map(|c| c.median).collect();
        assert!(
            medians.is_sorted_by(|a, b| a > b) && found.cosines.iter().all(|c| c.low < c.median && c.median < c.high)
        );
        assert_eq!(found.cosines.iter().map(|c| c.rank).collect::<Vec<_>>(), [1, 10, 100]);
    }

    #[test]
    fn copies_and_short_sets_are_told_as_they_are() {
        let copies = Array2::from_shape_fn((20, 3), |(i, j)| ((i / 2 + j) % 7) as f32 + 0.5 * j as f32 + 0.1);
        let found = likeness(copies.view(), &Silent).unwrap();
        assert_eq!(found.cosines.iter().map(|c| c.rank).collect::<Vec<_>>(), [1, 10]);
        assert!((found.cosines[0].low - 1.0).abs() < 1e-5);
        assert!(likeness(copies.slice(s![..1, ..]), &Silent).unwrap_err().to_string().contains("2 or more"));
    }
}
