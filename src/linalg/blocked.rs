//! Products that run on all threads. The rows of the result are cut into blocks of a fixed height, so every element is
//! summed in the same order at any number of threads.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, Par};
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use super::view;

/// Rows of the result that one task makes.
const BLOCK: usize = 128;

/// `a b'`: a is m x k, b is n x k.
pub fn nt(a: ArrayView2<'_, f32>, b: ArrayView2<'_, f32>) -> Array2<f32> {
    let mut out = Array2::zeros((a.nrows(), b.nrows()));
    rows(&mut out, |first, c| {
        let count = c.nrows();
        matmul(c, Accum::Replace, view(&a).subrows(first, count), view(&b).transpose(), 1.0, Par::Seq);
    });
    out
}

/// `a b`: a is m x k, b is k x n.
pub fn nn(a: ArrayView2<'_, f32>, b: ArrayView2<'_, f32>) -> Array2<f32> {
    let mut out = Array2::zeros((a.nrows(), b.ncols()));
    rows(&mut out, |first, c| {
        let count = c.nrows();
        matmul(c, Accum::Replace, view(&a).subrows(first, count), view(&b), 1.0, Par::Seq);
    });
    out
}

/// `out += factor a' b`: a is n x p, b is n x q, out is p x q.
pub fn add_tn(out: &mut Array2<f32>, factor: f32, a: ArrayView2<'_, f32>, b: ArrayView2<'_, f32>) {
    rows(out, |first, c| {
        let columns = view(&a).subcols(first, c.nrows());
        matmul(c, Accum::Add, columns.transpose(), view(&b), factor, Par::Seq);
    });
}

/// Calls `work` with each block of rows of `out`, in parallel.
fn rows(out: &mut Array2<f32>, work: impl Fn(usize, MatMut<'_, f32>) + Sync) {
    let cols = out.ncols();
    if cols == 0 {
        return;
    }
    let slice = out.as_slice_mut().expect("C order");
    slice.par_chunks_mut(BLOCK * cols).enumerate().for_each(|(block, rows)| {
        let count = rows.len() / cols;
        work(block * BLOCK, MatMut::from_row_major_slice_mut(rows, count, cols));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Rng;

    #[test]
    fn blocks_make_the_products_of_the_definition() {
        let mut rng = Rng::new(1);
        let mut random = |m, n| Array2::from_shape_fn((m, n), |_| rng.normal());
        let (a, b, c) = (random(300, 17), random(23, 17), random(300, 23));
        let near = |x: &Array2<f32>, y: &Array2<f32>| x.iter().zip(y).all(|(x, y)| (x - y).abs() < 1e-4);
        assert!(near(&nt(a.view(), b.view()), &a.dot(&b.t())));
        assert!(near(&nn(c.view(), b.view()), &c.dot(&b)));
        let mut out = random(17, 23);
        let expected = &out + &(a.t().dot(&c) * 0.5);
        add_tn(&mut out, 0.5, a.view(), c.view());
        assert!(out.iter().zip(&expected).all(|(x, y)| (x - y).abs() < 1e-3));
        assert_eq!(nt(random(0, 3).view(), random(4, 3).view()).dim(), (0, 4));
    }
}
