//! The few matrix helpers that training and building need, over `ndarray`, computed by `faer`.
//!
//! [`product_nt`], [`product_nn`] and [`add_product_tn`] are serial; callers cut their work into fixed blocks and hand the blocks to rayon,
//! so that results do not depend on the number of threads. The functions of [`blocked`] do so themselves, for training.
//! `faer` reaches about nine tenths of the fastest product we measured and needs no unsafe code of ours.

pub mod blocked;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use ndarray::{Array2, ArrayView2, ArrayViewMut2};

use crate::error::{Error, Result};

fn view<'a>(a: &'a ArrayView2<'_, f32>) -> MatRef<'a, f32> {
    let (rows, cols) = a.dim();
    let slice = a.as_slice().expect("matrices are in C order");
    MatRef::from_row_major_slice(slice, rows, cols)
}

fn view_mut<'a>(a: &'a mut ArrayViewMut2<'_, f32>) -> MatMut<'a, f32> {
    let (rows, cols) = a.dim();
    let slice = a.as_slice_mut().expect("matrices are in C order");
    MatMut::from_row_major_slice_mut(slice, rows, cols)
}

/// `c = a b'`, where `a` is m x k, `b` is n x k and `c` is m x n, all in C order.
pub fn product_nt(a: ArrayView2<'_, f32>, b: ArrayView2<'_, f32>, mut c: ArrayViewMut2<'_, f32>) {
    matmul(view_mut(&mut c), Accum::Replace, view(&a), view(&b).transpose(), 1.0, Par::Seq);
}

/// `c = a b`, where `a` is m x k, `b` is k x n and `c` is m x n, all in C order.
pub fn product_nn(a: ArrayView2<'_, f32>, b: ArrayView2<'_, f32>, mut c: ArrayViewMut2<'_, f32>) {
    matmul(view_mut(&mut c), Accum::Replace, view(&a), view(&b), 1.0, Par::Seq);
}

/// `c += a' b`, where `a` is n x p, `b` is n x q and `c` is p x q, all in C order.
pub fn add_product_tn(a: ArrayView2<'_, f32>, b: ArrayView2<'_, f32>, mut c: ArrayViewMut2<'_, f32>) {
    matmul(view_mut(&mut c), Accum::Add, view(&a).transpose(), view(&b), 1.0, Par::Seq);
}

/// The orthogonal matrix `R` that maximises `trace(R a)`: with `a = U S V'`, `R = V U'` (orthogonal Procrustes).
/// `a` is d x d.
pub fn procrustes(a: ArrayView2<'_, f32>) -> Result<Array2<f32>> {
    let svd = view(&a).svd().map_err(|_| not_converged("singular values"))?;
    let (u, v) = (svd.U(), svd.V());
    let mut out = Array2::zeros(a.dim());
    let mut target = out.view_mut();
    matmul(view_mut(&mut target), Accum::Replace, v, u.transpose(), 1.0, Par::Seq);
    Ok(out)
}

/// Eigenvalues (largest first) and eigenvectors (as rows) of a symmetric d x d matrix.
pub fn eigen_symmetric(a: ArrayView2<'_, f32>) -> Result<(Vec<f32>, Array2<f32>)> {
    let d = a.nrows();
    let eigen = view(&a).self_adjoint_eigen(faer::Side::Lower).map_err(|_| not_converged("eigenvalues"))?;
    let values = (0..d).rev().map(|i| eigen.S()[i]).collect();
    let vectors = Array2::from_shape_fn((d, d), |(i, j)| eigen.U()[(j, d - 1 - i)]);
    Ok((values, vectors))
}

fn not_converged(what: &str) -> Error {
    Error::params("input", format!("the {what} of its covariance did not converge; look for huge or constant values"))
}

/// Divides `x` by its Euclidean norm and returns the norm; a zero vector is left as it is.
pub fn normalise(x: &mut [f32]) -> f32 {
    let norm = norm(x) as f32;
    if norm > 0.0 {
        x.iter_mut().for_each(|v| *v /= norm);
    }
    norm
}

/// Euclidean norm, summed in f64: eight sums side by side, as in [`norm2`].
pub fn norm(x: &[f32]) -> f64 {
    let (chunks, rest) = x.as_chunks::<8>();
    let mut lanes = [0f64; 8];
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(v) * f64::from(v);
        }
    }
    let rest: f64 = rest.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
    (lanes.iter().sum::<f64>() + rest).sqrt()
}

/// Squared Euclidean norm. Sixteen sums side by side: one after the other, every addition would wait for the one before.
pub fn norm2(x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<16>();
    let mut lanes = [0f32; 16];
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane += v * v;
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|v| v * v).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn products_agree_with_ndarray() {
        let a = Array2::from_shape_fn((5, 7), |(i, j)| (i * 3 + j) as f32 * 0.25 - 2.0);
        let b = Array2::from_shape_fn((4, 7), |(i, j)| (i + j * 2) as f32 * 0.5 - 3.0);
        let mut c = Array2::zeros((5, 4));
        product_nt(a.view(), b.view(), c.view_mut());
        assert!((&c - &a.dot(&b.t())).iter().all(|e| e.abs() < 1e-4));
        let mut e = Array2::ones((7, 7));
        add_product_tn(b.view(), b.view(), e.view_mut());
        assert!((&e - &(b.t().dot(&b) + 1.0)).iter().all(|e| e.abs() < 1e-4));
    }

    #[test]
    fn procrustes_undoes_a_rotation() {
        let (s, c) = (0.6f32, 0.8f32);
        let rotation = array![[c, -s], [s, c]];
        let x = array![[1.0f32, 0.2], [0.3, -2.0], [0.5, 1.0]];
        // y = x R': the best map from x to y maximises trace(R x'y).
        let y = x.dot(&rotation.t());
        let found = procrustes(x.t().dot(&y).as_standard_layout().view()).unwrap();
        assert!((&found - &rotation).iter().all(|e| e.abs() < 1e-4), "{found}");
    }

    #[test]
    fn eigenvalues_come_largest_first() {
        let (values, vectors) = eigen_symmetric(array![[2.0f32, 0.0], [0.0, 5.0]].view()).unwrap();
        assert_eq!(values, vec![5.0, 2.0]);
        assert!(vectors[[0, 1]].abs() > 0.99 && vectors[[1, 0]].abs() > 0.99);
    }
}
