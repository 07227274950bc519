//! Codebooks and rotation: k-means in every subspace, and optimised product quantization (OPQ; Ge et al., CVPR 2013).
//!
//! OPQ alternates: with the rotation fixed, one Lloyd step of every codebook; with the codes fixed, the rotation that
//! brings the vectors closest to their decodings, which is the orthogonal Procrustes problem. It starts from the
//! principal axes, dealt to the subspaces so that all have about the same product of variances (the paper's parametric
//! solution), which is better than a random rotation and makes the result independent of one.

use ndarray::{Array2, ArrayView2, Axis, s};
use rayon::prelude::*;

use super::Watch;
use super::kmeans::{Iterations, gather};
use crate::error::Result;
use crate::linalg::{add_product_tn, eigen_symmetric, procrustes, product_nn, product_nt};
use crate::quantizer::{CodeShape, Product};
use crate::sample::{Rng, sample_rows};

/// Rows of one unit of parallel work.
const CHUNK: usize = 2_048;
/// OPQ iterations on a part of the rows, then on all of them: at few bytes the rotation is still turning when the squared
/// error hardly moves any more, and recall gains from it.
const OPQ_ITERATIONS: Iterations = Iterations { coarse: 30, fine: 6 };
/// Rows a codeword in that part.
const COARSE_ROWS: usize = 64;
/// Lloyd iterations of the final codebooks.
const CODEBOOK_ITERATIONS: usize = 10;

/// Codebooks for the rows of `x` (n x d residuals), from scratch.
pub fn train_codebooks(x: ArrayView2<'_, f32>, shape: CodeShape, seed: u64, watch: &dyn Watch) -> Result<Product> {
    let start = start(x, shape, seed);
    improve(x, start, CODEBOOK_ITERATIONS, watch)
}

/// A rotation (d x d, `y = R x`) and codebooks for the rows of `x` (n x d residuals).
pub fn train_opq(
    x: ArrayView2<'_, f32>,
    shape: CodeShape,
    seed: u64,
    watch: &dyn Watch,
) -> Result<(Array2<f32>, Product)> {
    let mut rotation = principal_rotation(x, shape)?;
    let mut product = start(rotate(x, &rotation).view(), shape, seed);
    let part = gather(x, &sample_rows(x.nrows() as u64, COARSE_ROWS * shape.codewords(), seed ^ 1));
    for i in 0..OPQ_ITERATIONS.coarse + OPQ_ITERATIONS.fine {
        let x = if i < OPQ_ITERATIONS.coarse { part.view() } else { x };
        let rotated = rotate(x, &rotation);
        product = improve(rotated.view(), product, 1, watch)?;
        rotation = procrustes(cross_of_decodings(x, rotated, &product).view())?;
    }
    let product = improve(rotate(x, &rotation).view(), product, CODEBOOK_ITERATIONS / 2, watch)?;
    Ok((rotation, product))
}

/// Rows that training passes over, for progress.
pub(super) fn work(rows: usize, shape: CodeShape, opq: bool) -> u64 {
    let part = rows.min(COARSE_ROWS * shape.codewords());
    let rows = match opq {
        true => part * OPQ_ITERATIONS.coarse + rows * (OPQ_ITERATIONS.fine + CODEBOOK_ITERATIONS / 2),
        false => rows * CODEBOOK_ITERATIONS,
    };
    rows as u64
}

/// `x R'`.
fn rotate(x: ArrayView2<'_, f32>, rotation: &Array2<f32>) -> Array2<f32> {
    let mut out = Array2::zeros(x.dim());
    out.axis_chunks_iter_mut(Axis(0), CHUNK)
        .into_par_iter()
        .zip(x.axis_chunks_iter(Axis(0), CHUNK).into_par_iter())
        .for_each(|(out, x)| product_nt(x, rotation.view(), out));
    out
}

/// `x' y^` (d x d), where row i of `y^` is the decoding of the code of `rotated` row i. Uses up `rotated`.
fn cross_of_decodings(x: ArrayView2<'_, f32>, mut rotated: Array2<f32>, product: &Product) -> Array2<f32> {
    let (shape, dim) = (product.shape(), x.ncols());
    rotated.axis_chunks_iter_mut(Axis(0), CHUNK).into_par_iter().for_each(|mut rows| {
        for m in 0..shape.subspaces() {
            let mut piece = rows.slice_mut(s![.., shape.dims(dim, m)]);
            let words = product.subspace(m);
            let chosen = nearest_words(&piece.to_owned(), words, shape.codewords());
            for (mut row, word) in piece.rows_mut().into_iter().zip(chosen) {
                row.iter_mut().zip(words.chunks(shape.codewords())).for_each(|(v, w)| *v = w[word]);
            }
        }
    });
    sum_of_products(x, rotated.view())
}

/// The nearest of the codewords (d_m x K) for every row of `piece` (n x d_m), by a matrix product for a block of rows.
fn nearest_words(piece: &Array2<f32>, words: &[f32], k: usize) -> Vec<usize> {
    const BLOCK: usize = 256;
    if piece.ncols() == 0 {
        return vec![0; piece.nrows()];
    }
    let mut half_norms = vec![0f32; k];
    for row in words.chunks(k) {
        half_norms.iter_mut().zip(row).for_each(|(n, v)| *n += v * v / 2.0);
    }
    let words = ArrayView2::from_shape((piece.ncols(), k), words).expect("d_m x K codewords");
    let mut scores = Array2::zeros((BLOCK, k));
    let mut chosen = Vec::with_capacity(piece.nrows());
    for rows in piece.axis_chunks_iter(Axis(0), BLOCK) {
        let mut scores = scores.slice_mut(s![..rows.nrows(), ..]);
        product_nn(rows, words, scores.view_mut());
        chosen.extend(scores.rows_mut().into_iter().map(|mut row| {
            let row = row.as_slice_mut().expect("C order");
            row.iter_mut().zip(&half_norms).for_each(|(s, h)| *s -= h);
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            row.iter().position(|&s| s == largest).unwrap_or(0)
        }));
    }
    chosen
}

/// `a' b`, in spans of rows whose sums are added in order.
fn sum_of_products(a: ArrayView2<'_, f32>, b: ArrayView2<'_, f32>) -> Array2<f32> {
    let span = a.nrows().div_ceil(8).max(CHUNK);
    a.axis_chunks_iter(Axis(0), span)
        .into_par_iter()
        .zip(b.axis_chunks_iter(Axis(0), span).into_par_iter())
        .map(|(a, b)| {
            let mut sum = Array2::zeros((a.ncols(), b.ncols()));
            add_product_tn(a, b, sum.view_mut());
            sum
        })
        .collect::<Vec<_>>()
        .into_iter()
        .reduce(|a, b| a + b)
        .expect("at least one row")
}

/// Principal axes as rows, dealt to subspaces: each axis, largest variance first, goes to the subspace with room whose
/// variances have the smallest product so far.
fn principal_rotation(x: ArrayView2<'_, f32>, shape: CodeShape) -> Result<Array2<f32>> {
    let dim = x.ncols();
    let (values, axes) = eigen_symmetric(sum_of_products(x, x).view())?;
    let floor = values[0].max(f32::MIN_POSITIVE) * 1e-9;
    let mut logs = vec![0f64; shape.subspaces()];
    let mut taken = vec![0; shape.subspaces()];
    let mut rotation = Array2::zeros((dim, dim));
    for (value, axis) in values.iter().zip(axes.rows()) {
        let m = (0..shape.subspaces())
            .filter(|&m| taken[m] < shape.dims(dim, m).len())
            .min_by(|&a, &b| logs[a].total_cmp(&logs[b]).then(a.cmp(&b)))
            .expect("as many places as axes");
        rotation.row_mut(shape.dims(dim, m).start + taken[m]).assign(&axis);
        taken[m] += 1;
        // Relative to the smallest variance that counts, so that every axis adds something.
        logs[m] += f64::from(value.max(floor) / floor).ln() + 1e-9;
    }
    Ok(rotation)
}

/// Codebooks of distinct sampled rows, or of all rows and perturbed copies where there are too few.
fn start(x: ArrayView2<'_, f32>, shape: CodeShape, seed: u64) -> Product {
    let (k, dim) = (shape.codewords(), x.ncols());
    let mut codewords = vec![0f32; dim * k];
    for m in 0..shape.subspaces() {
        let mut rng = Rng::stream(seed, m as u64);
        let mut rows = sample_rows(x.nrows() as u64, k, rng.next_u64());
        rng.shuffle(&mut rows);
        for j in shape.dims(dim, m) {
            for (i, word) in codewords[j * k..][..k].iter_mut().enumerate() {
                let copy = (i / rows.len()) as f32;
                *word = x[[rows[i % rows.len()] as usize, j]] * (1.0 + copy / 1024.0) + copy * 1e-6;
            }
        }
    }
    Product::new(shape, dim, codewords)
}

/// Lloyd iterations in every subspace, subspaces in parallel.
fn improve(x: ArrayView2<'_, f32>, product: Product, iterations: usize, watch: &dyn Watch) -> Result<Product> {
    watch.check()?;
    let (shape, dim) = (product.shape(), x.ncols());
    let k = shape.codewords();
    let pieces: Vec<Vec<f32>> = (0..shape.subspaces())
        .into_par_iter()
        .map(|m| {
            let dims = shape.dims(dim, m);
            let piece = x.slice(s![.., dims]).as_standard_layout().into_owned();
            let mut words = product.subspace(m).to_vec();
            for _ in 0..iterations {
                lloyd_piece(&piece, &mut words, k);
            }
            watch.advance((x.nrows() * iterations / shape.subspaces()) as u64);
            words
        })
        .collect();
    Ok(Product::new(shape, dim, pieces.concat()))
}

/// One Lloyd iteration of one subspace: `piece` is n x d_m, `words` d_m x K. A codeword that no row chose takes a row
/// of the most chosen one.
fn lloyd_piece(piece: &Array2<f32>, words: &mut [f32], k: usize) {
    if piece.ncols() == 0 {
        return;
    }
    let mut counts = vec![0u32; k];
    let mut last_row = vec![0usize; k];
    let mut sums = vec![0f32; words.len()];
    let chosen = nearest_words(piece, words, k);
    for ((i, row), word) in piece.rows().into_iter().enumerate().zip(chosen) {
        counts[word] += 1;
        last_row[word] = i;
        row.iter().zip(sums.chunks_mut(k)).for_each(|(v, sum)| sum[word] += v);
    }
    for word in 0..k {
        if counts[word] > 0 {
            words.chunks_mut(k).zip(sums.chunks(k)).for_each(|(w, s)| w[word] = s[word] / counts[word] as f32);
        } else {
            let largest = (0..k).max_by_key(|&w| (counts[w], k - w)).expect("K is positive");
            if counts[largest] < 2 {
                continue;
            }
            let row = piece.row(last_row[largest]);
            words.chunks_mut(k).zip(row).for_each(|(w, &v)| w[word] = v);
            counts[word] = counts[largest] / 2;
            counts[largest] -= counts[word];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{CodeBits, Kernels};
    use crate::train::Silent;

    /// Rows whose variance decays fast along axes that are mixed by a fixed rotation: OPQ has much to gain.
    fn mixed(rows: usize, dim: usize) -> Array2<f32> {
        let mut rng = Rng::new(8);
        let any = Array2::from_shape_fn((dim, dim), |_| rng.normal());
        let mix = procrustes(any.view()).unwrap();
        let x = Array2::from_shape_fn((rows, dim), |(_, j)| rng.normal() * 0.7f32.powi(j as i32));
        x.dot(&mix)
    }

    fn error(x: ArrayView2<'_, f32>, product: &Product) -> f32 {
        let mut code = vec![0; product.shape().bytes];
        let mut decoded = vec![0f32; x.ncols()];
        let mut total = 0f32;
        for row in x.rows() {
            product.encode(Kernels::detect(), row.as_slice().unwrap(), &mut code);
            product.decode(&code, &mut decoded);
            total += row.iter().zip(&decoded).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
        }
        total / x.nrows() as f32
    }

    #[test]
    fn opq_beats_plain_codebooks_where_directions_are_mixed() {
        let x = mixed(1_500, 16);
        let shape = CodeShape::new(CodeBits::Four, 4).unwrap();
        let plain = train_codebooks(x.view(), shape, 1, &Silent).unwrap();
        let (rotation, product) = train_opq(x.view(), shape, 1, &Silent).unwrap();
        let identity = rotation.dot(&rotation.t());
        assert!((&identity - &Array2::<f32>::eye(16)).iter().all(|e| e.abs() < 1e-3));
        let (plain, opq) = (error(x.view(), &plain), error(rotate(x.view(), &rotation).view(), &product));
        assert!(opq < plain * 0.9, "opq {opq} plain {plain}");
    }

    #[test]
    fn training_moves_codebooks_below_their_start() {
        let x = mixed(900, 10);
        let shape = CodeShape::new(CodeBits::Eight, 4).unwrap();
        let before = error(x.view(), &start(x.view(), shape, 2));
        assert!(error(x.view(), &train_codebooks(x.view(), shape, 2, &Silent).unwrap()) < before * 0.95);
    }

    #[test]
    fn constant_few_and_narrow_rows_train_without_trouble() {
        let shape = CodeShape::new(CodeBits::Eight, 8).unwrap();
        for x in [Array2::from_elem((5, 16), 1.5f32), Array2::zeros((1, 3)), mixed(3, 5)] {
            let (rotation, product) = train_opq(x.view(), shape, 3, &Silent).unwrap();
            assert!(rotation.iter().chain(product.codewords()).all(|v| v.is_finite()));
            assert!(error(rotate(x.view(), &rotation).view(), &product) < 1e-3);
        }
    }
}
