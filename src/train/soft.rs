//! Straight-through product quantization: codes that gradients can pass.
//!
//! In subspace `m` a residual `u` chooses among codewords `C_k` by the logits `l_k = -|u - C_k|^2 / t`. Forward, the choice is
//! hard (the nearest codeword); backward, it is `p = softmax(l)`. With `g` the gradient at the decoded vector,
//! `a_k = <g, C_k>` and `w_k = p_k (a_k - sum_j p_j a_j)`:
//! ```text
//! dC_k += [k chosen] g + (2/t) w_k (u - C_k)          du += (2/t) sum_k w_k C_k
//! ```
//! The first part moves the chosen codeword; the second is the gradient *through the choice*, without which codewords do
//! not learn to share the space for ranking. (BiDR, WWW 2022, section 4.1; the formulas are checked by finite differences.)
//!
//! A codeword also has an **offset** `b_k`, added to the score of every document that chooses it (part of the score tables, so
//! free at search). With `s` the gradient at a document's summed offset, `a_k` becomes `<g, C_k> + s b_k`, and `db_k += s` for
//! the chosen one. Offsets start at `-|C_k|^2 / 2`: scores then order documents as distances to the decoded vectors do,
//! which makes up for the length that coding takes from them.
//!
//! Codewords are a d x K matrix: subspace `m` owns the rows of its dimensions, exactly as [`crate::quantizer::Product`] holds
//! them.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;
use std::ops::Range;

use super::loss::softmax;
use crate::quantizer::CodeShape;

/// Rows of one task.
const BLOCK: usize = 256;

/// How residuals choose their codewords.
#[derive(Debug, Clone, Copy)]
pub(super) struct SoftCodes {
    pub(super) shape: CodeShape,
    /// Dimension of the residuals.
    pub(super) dim: usize,
    /// `t`, in units of a squared distance.
    pub(super) temperature: f32,
}

/// What the forward pass leaves for the backward pass.
#[derive(Debug, Default)]
pub(super) struct Choice {
    /// Subspace after subspace: n x K probabilities.
    soft: Vec<Array2<f32>>,
    /// Subspace after subspace: n chosen codewords.
    hard: Vec<Vec<u16>>,
}

/// What codes are made of: codewords (d x K) and their score offsets (M x K).
#[derive(Clone, Copy)]
pub(super) struct Codebook<'a> {
    pub(super) words: &'a Array2<f32>,
    pub(super) offsets: &'a Array2<f32>,
}

/// Gradients that come in: at the decoded vectors (n x d) and at each document's summed offset (n).
#[derive(Clone, Copy)]
pub(super) struct Upstream<'a> {
    pub(super) decoded: ArrayView2<'a, f32>,
    pub(super) offsets: &'a [f32],
}

/// Gradients that go out, added to what is there: of codewords (d x K), offsets (M x K) and, if asked for, residuals (n x d).
pub(super) struct Gradients<'a> {
    pub(super) words: &'a mut Array2<f32>,
    pub(super) offsets: &'a mut Array2<f32>,
    pub(super) residuals: Option<&'a mut Array2<f32>>,
}

impl Choice {
    /// The summed offsets of each row.
    pub(super) fn offsets(&self, values: &Array2<f32>) -> Vec<f32> {
        let rows = self.hard.first().map_or(0, Vec::len);
        let of_row = |i: usize| self.hard.iter().zip(values.rows()).map(|(hard, b)| b[hard[i] as usize]).sum();
        (0..rows).map(of_row).collect()
    }

    /// The chosen codewords of subspace `m`, one a row.
    pub(super) fn chosen(&self, m: usize) -> &[u16] {
        &self.hard[m]
    }
}

impl SoftCodes {
    fn dims(&self, m: usize) -> Range<usize> {
        self.shape.dims(self.dim, m)
    }

    /// The codewords of subspace `m`, d_m x K.
    fn words<'a>(&self, words: &'a Array2<f32>, m: usize) -> MatRef<'a, f32> {
        let dims = self.dims(m);
        whole(words).subrows(dims.start, dims.len())
    }

    /// Chooses codewords for the rows of `u` (n x d) and adds the decoded vectors to `out` (n x d).
    pub(super) fn forward(&self, words: &Array2<f32>, u: ArrayView2<'_, f32>, out: &mut Array2<f32>) -> Choice {
        let n = u.nrows();
        let per_subspace = |m: usize| {
            let half_norms = self.half_norms(words, m);
            let mut soft = Array2::zeros((n, self.shape.codewords()));
            let mut hard = vec![0u16; n];
            let k = self.shape.codewords();
            let blocks = soft.as_slice_mut().expect("C order").par_chunks_mut(BLOCK * k);
            blocks.zip(hard.par_chunks_mut(BLOCK)).enumerate().for_each(|(block, (soft, hard))| {
                self.choose(words, u, m, block * BLOCK, &half_norms, (soft, hard));
            });
            (soft, hard)
        };
        let (soft, hard) = (0..self.shape.subspaces()).into_par_iter().map(per_subspace).unzip();
        let choice = Choice { soft, hard };
        self.add_decoded(words, &choice, out);
        choice
    }

    fn half_norms(&self, words: &Array2<f32>, m: usize) -> Vec<f32> {
        let mut half = vec![0f32; self.shape.codewords()];
        for j in self.dims(m) {
            half.iter_mut().zip(words.row(j)).for_each(|(h, w)| *h += 0.5 * w * w);
        }
        half
    }

    /// Probabilities and choices of a block of rows in one subspace.
    fn choose(
        &self,
        words: &Array2<f32>,
        u: ArrayView2<'_, f32>,
        m: usize,
        first: usize,
        half_norms: &[f32],
        (soft, hard): (&mut [f32], &mut [u16]),
    ) {
        let (dims, k) = (self.dims(m), self.shape.codewords());
        let rows = view(&u).subrows(first, hard.len()).subcols(dims.start, dims.len());
        let scores = MatMut::from_row_major_slice_mut(soft, hard.len(), k);
        matmul(scores, Accum::Replace, rows, self.words(words, m), 1.0, Par::Seq);
        // The norm of u is the same for every codeword and drops out of both softmax and argmax.
        let scale = 2.0 / self.temperature;
        for (row, hard) in soft.chunks_exact_mut(k).zip(hard) {
            row.iter_mut().zip(half_norms).for_each(|(s, h)| *s = (*s - h) * scale);
            *hard = argmax(row) as u16;
            softmax(row, 1.0);
        }
    }

    fn add_decoded(&self, words: &Array2<f32>, choice: &Choice, out: &mut Array2<f32>) {
        let d = self.dim;
        out.as_slice_mut().expect("C order").par_chunks_mut(d * BLOCK).enumerate().for_each(|(block, rows)| {
            for (row, i) in rows.chunks_exact_mut(d).zip(block * BLOCK..) {
                for m in 0..self.shape.subspaces() {
                    let k = choice.hard[m][i] as usize;
                    self.dims(m).for_each(|j| row[j] += words[[j, k]]);
                }
            }
        });
    }

    /// Takes the gradients at what the forward pass made back to codewords, offsets and residuals.
    pub(super) fn backward(
        &self,
        book: Codebook<'_>,
        u: ArrayView2<'_, f32>,
        choice: Choice,
        upstream: Upstream<'_>,
        gradients: Gradients<'_>,
    ) {
        let (words, gradient) = (book.words, upstream.decoded);
        let Choice { soft, hard } = choice;
        for (mut out, hard) in gradients.offsets.rows_mut().into_iter().zip(&hard) {
            hard.iter().zip(upstream.offsets).for_each(|(&k, s)| out[k as usize] += s);
        }
        // p becomes w, in place.
        let weights: Vec<Array2<f32>> =
            soft.into_par_iter().enumerate().map(|(m, p)| self.choice_weights(book, upstream, m, p)).collect();
        let k = self.shape.codewords();
        let mut pieces: Vec<(usize, &mut [f32])> = Vec::new();
        let mut rest = gradients.words.as_slice_mut().expect("C order");
        for m in 0..self.shape.subspaces() {
            let (piece, tail) = rest.split_at_mut(self.dims(m).len() * k);
            pieces.push((m, piece));
            rest = tail;
        }
        pieces.into_par_iter().for_each(|(m, piece)| {
            self.add_words_gradient(words, u, gradient, m, (&weights[m], &hard[m]), piece);
        });
        if let Some(out) = gradients.residuals {
            self.add_u_gradient(words, &weights, out);
        }
    }

    /// `w_k = p_k (a_k - sum_j p_j a_j)` with `a = g C + s b`.
    fn choice_weights(&self, book: Codebook<'_>, upstream: Upstream<'_>, m: usize, mut p: Array2<f32>) -> Array2<f32> {
        let (dims, k) = (self.dims(m), self.shape.codewords());
        let blocks = p.as_slice_mut().expect("C order").par_chunks_mut(BLOCK * k).enumerate();
        blocks.for_each(|(block, p)| {
            let count = p.len() / k;
            let rows = view(&upstream.decoded).subrows(block * BLOCK, count).subcols(dims.start, dims.len());
            let mut a = vec![0f32; p.len()];
            let target = MatMut::from_row_major_slice_mut(&mut a, count, k);
            matmul(target, Accum::Replace, rows, self.words(book.words, m), 1.0, Par::Seq);
            let rows = p.chunks_exact_mut(k).zip(a.chunks_exact_mut(k)).zip(&upstream.offsets[block * BLOCK..]);
            for ((p, a), s) in rows {
                a.iter_mut().zip(book.offsets.row(m)).for_each(|(a, b)| *a += s * b);
                let mean = dot(p, a);
                p.iter_mut().zip(&*a).for_each(|(p, a)| *p *= *a - mean);
            }
        });
        p
    }

    fn add_words_gradient(
        &self,
        words: &Array2<f32>,
        u: ArrayView2<'_, f32>,
        gradient: ArrayView2<'_, f32>,
        m: usize,
        (weights, hard): (&Array2<f32>, &[u16]),
        out: &mut [f32],
    ) {
        let (dims, k) = (self.dims(m), self.shape.codewords());
        let scale = 2.0 / self.temperature;
        let target = MatMut::from_row_major_slice_mut(out, dims.len(), k);
        let columns = view(&u).subcols(dims.start, dims.len());
        matmul(target, Accum::Add, columns.transpose(), whole(weights), scale, Par::Seq);
        let mut sums = vec![0f32; k];
        weights.rows().into_iter().for_each(|row| sums.iter_mut().zip(row).for_each(|(s, w)| *s += w));
        for (j, out) in dims.clone().zip(out.chunks_exact_mut(k)) {
            out.iter_mut().zip(words.row(j)).zip(&sums).for_each(|((out, c), s)| *out -= scale * s * c);
        }
        for (row, &chosen) in gradient.rows().into_iter().zip(hard) {
            for (j, out) in dims.clone().zip(out.chunks_exact_mut(k)) {
                out[chosen as usize] += row[j];
            }
        }
    }

    fn add_u_gradient(&self, words: &Array2<f32>, weights: &[Array2<f32>], out: &mut Array2<f32>) {
        let scale = 2.0 / self.temperature;
        let d = self.dim;
        out.as_slice_mut().expect("C order").par_chunks_mut(d * BLOCK).enumerate().for_each(|(block, rows)| {
            let count = rows.len() / d;
            for (m, weights) in weights.iter().enumerate() {
                let dims = self.dims(m);
                let target = MatMut::from_row_major_slice_mut(rows, count, d).subcols_mut(dims.start, dims.len());
                let weights = whole(weights).subrows(block * BLOCK, count);
                matmul(target, Accum::Add, weights, self.words(words, m).transpose(), scale, Par::Seq);
            }
        });
    }

    /// Floating-point operations of a forward and a backward pass over `n` rows.
    pub(super) fn flops(&self, n: usize, with_u: bool) -> u64 {
        let one = 2 * n as u64 * self.dim as u64 * self.shape.codewords() as u64;
        one * if with_u { 4 } else { 3 }
    }
}

fn whole(a: &Array2<f32>) -> MatRef<'_, f32> {
    MatRef::from_row_major_slice(a.as_slice().expect("C order"), a.nrows(), a.ncols())
}

fn view<'a>(a: &'a ArrayView2<'_, f32>) -> MatRef<'a, f32> {
    MatRef::from_row_major_slice(a.as_slice().expect("C order"), a.nrows(), a.ncols())
}

/// A dot product in eight lanes, which vectorises.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; 8];
    for (a, b) in a.chunks_exact(8).zip(b.chunks_exact(8)) {
        lanes.iter_mut().zip(a.iter().zip(b)).for_each(|(l, (a, b))| *l += a * b);
    }
    lanes.iter().sum()
}

/// The first of the largest values. K is a multiple of 16.
fn argmax(row: &[f32]) -> usize {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter().position(|&v| v == largest).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Rng;
    use crate::simd::CodeBits;

    /// The surrogate whose derivative the straight-through estimate is, in f64: codewords enter the decoded vector through
    /// the frozen hard choice; codewords and residual enter the choice, which weighs frozen codewords.
    fn surrogate(
        codes: &SoftCodes,
        live: &Array2<f32>,
        frozen: &Array2<f32>,
        (u, u0): (&Array2<f32>, &Array2<f32>),
        g: &Array2<f32>,
        (b, b0, s): (&Array2<f32>, &Array2<f32>, &[f32]),
    ) -> f64 {
        let mut total = 0.0;
        for i in 0..u.nrows() {
            for m in 0..codes.shape.subspaces() {
                let dims = codes.dims(m);
                let logits = |words: &Array2<f32>, u: &Array2<f32>| -> Vec<f64> {
                    let k = 0..codes.shape.codewords();
                    k.map(|k| {
                        let far: f64 = dims.clone().map(|j| f64::from(u[[i, j]] - words[[j, k]]).powi(2)).sum::<f64>();
                        -far / f64::from(codes.temperature)
                    })
                    .collect()
                };
                let softmax = |l: Vec<f64>| {
                    let sum: f64 = l.iter().map(|l| l.exp()).sum();
                    l.into_iter().map(|l| l.exp() / sum).collect::<Vec<f64>>()
                };
                let p = softmax(logits(live, u));
                let chosen = {
                    let l = logits(frozen, u0);
                    (0..l.len()).max_by(|&a, &b| l[a].total_cmp(&l[b])).unwrap()
                };
                let soft: f64 = p.iter().enumerate().map(|(k, p)| p * f64::from(b0[[m, k]])).sum();
                total += f64::from(s[i]) * (f64::from(b[[m, chosen]]) + soft);
                for j in dims.clone() {
                    let soft: f64 = p.iter().enumerate().map(|(k, p)| p * f64::from(frozen[[j, k]])).sum();
                    total += f64::from(g[[i, j]]) * (f64::from(live[[j, chosen]]) + soft);
                }
            }
        }
        total
    }

    #[test]
    fn gradients_are_those_of_finite_differences_of_the_straight_through_surrogate() {
        for (bits, bytes, dim) in [(CodeBits::Four, 4, 19), (CodeBits::Eight, 4, 10)] {
            let shape = CodeShape::new(bits, bytes).unwrap();
            let codes = SoftCodes { shape, dim, temperature: 0.7 };
            let mut rng = Rng::new(3);
            let mut random = |r, c| Array2::from_shape_fn((r, c), |_| rng.normal() * 0.5);
            let (words, u, g) = (random(dim, shape.codewords()), random(6, dim), random(6, dim));
            let mut decoded = Array2::zeros(u.dim());
            let choice = codes.forward(&words, u.view(), &mut decoded);
            let (mut dw, mut du) = (Array2::zeros(words.dim()), Array2::zeros(u.dim()));
            let (b, s) = (random(shape.subspaces(), shape.codewords()), random(1, 6).into_raw_vec_and_offset().0);
            let mut db = Array2::zeros(b.dim());
            let book = Codebook { words: &words, offsets: &b };
            let upstream = Upstream { decoded: g.view(), offsets: &s };
            let gradients = Gradients { words: &mut dw, offsets: &mut db, residuals: Some(&mut du) };
            codes.backward(book, u.view(), choice, upstream, gradients);
            let h = 1e-2f32;
            for j in 0..dim {
                for k in [0, 1, shape.codewords() - 1] {
                    let moved = |by: f32| {
                        let mut w = words.clone();
                        w[[j, k]] += by;
                        surrogate(&codes, &w, &words, (&u, &u), &g, (&b, &b, &s))
                    };
                    let numeric = (moved(h) - moved(-h)) / f64::from(2.0 * h);
                    assert!((numeric - f64::from(dw[[j, k]])).abs() < 2e-3, "{j} {k}: {numeric} {}", dw[[j, k]]);
                }
                let moved = |by: f32| {
                    let mut v = u.clone();
                    v[[2, j]] += by;
                    surrogate(&codes, &words, &words, (&v, &u), &g, (&b, &b, &s))
                };
                let numeric = (moved(h) - moved(-h)) / f64::from(2.0 * h);
                assert!((numeric - f64::from(du[[2, j]])).abs() < 2e-3, "{j}: {numeric} {}", du[[2, j]]);
            }
            for at in [[0, 0], [1, 3], [shape.subspaces() - 1, shape.codewords() - 1]] {
                let moved = |by: f32| {
                    let mut b1 = b.clone();
                    b1[at] += by;
                    surrogate(&codes, &words, &words, (&u, &u), &g, (&b1, &b, &s))
                };
                let numeric = (moved(h) - moved(-h)) / f64::from(2.0 * h);
                assert!((numeric - f64::from(db[at])).abs() < 2e-3, "{at:?}: {numeric} {}", db[at]);
            }
        }
    }

    #[test]
    fn decodes_to_the_nearest_codeword() {
        let shape = CodeShape::new(CodeBits::Four, 4).unwrap();
        let codes = SoftCodes { shape, dim: 16, temperature: 0.1 };
        let mut rng = Rng::new(8);
        let words = Array2::from_shape_fn((16, 16), |_| rng.normal());
        // Codeword (3 m) mod 16 of subspace m, slightly moved.
        let mut u = Array2::zeros((1, 16));
        (0..16).for_each(|j| u[[0, j]] = words[[j, 3 * (j / 2) % 16]] + 1e-4);
        let mut out = Array2::zeros((1, 16));
        let choice = codes.forward(&words, u.view(), &mut out);
        assert!((0..8).all(|m| choice.chosen(m)[0] as usize == 3 * m % 16));
        assert!(out.iter().zip(&u).all(|(a, b)| (a - b).abs() < 1e-3));
    }
}
