//! From vectors to codes, and from a query to the numbers that score codes.
//!
//! A document `x` is the centroid `o` of its list plus a residual; the residual is rotated and product quantized:
//! `x ~ o + R' c`, with `c` the concatenated codewords. So for a query `q`
//! ```text
//! <q, x>  ~  <q, o> + sum_m <(R q)_m, c_m>                      one base a list, one set of tables a query
//! -|q-x|^2 ~ -|q-o|^2 + sum_m 2 <(R q)_m, c_m> + t              t = |e|^2 - |c|^2 - 2 <R o, c>
//! ```
//! Under L2 the last part does not depend on the query: it is the **row term**, one byte a row, scaled list by list
//! ([`crate::codes`]). Tables are never rebuilt for a list.
//!
//! Under the other metrics learned codewords may have **offsets** ([`Product::with_offsets`]), which are part of the tables.
//!
//! The term carries one correction that costs nothing: with `e` the error of the code, `|q-x|^2` is
//! `|q-x^|^2 + |e|^2 - 2 <e, q-x^>`, and for a query whose offset from `x` is independent of the code's error the mean
//! of the last part is `2 |e|^2`. The plain estimate is therefore too far by `|e|^2` on average, and much more for badly
//! coded rows than for well coded ones; the builder knows `|e|^2` of each row and adds it back.
//!
//! [`Quantizer`] holds all that training makes: the coarse quantizer, the rotation, the codebooks, and where they were
//! learned, heads ([`crate::heads`]) and a router. [`QueryTables`] is the query's side: u8 score tables with one step for
//! all subspaces.
//!
//! # Three dimensions
//! ```text
//! what callers send, dim --code heads---> code_dim:  lists and codes; everything above happens here
//!                        --dense heads--> dense_dim: what is stored on SSD and verified
//! ```
//! Without heads all three are the same.

mod coarse;
mod file;
mod learned;
mod product;
mod tables;

pub use coarse::{Coarse, Probe, ProbeScratch};
pub use product::{CODE_BYTES, CodeShape, Product};
pub use tables::{ListScale, QueryTables, TableScratch};

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, Zip};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::heads::{Head, Heads};
use crate::linalg::{norm2, product_nt};
use crate::simd::Kernels;
use crate::types::{ListId, Metric};
use learned::Router;

/// All that turns vectors into lists and codes.
#[derive(Debug, Clone)]
pub struct Quantizer {
    metric: Metric,
    coarse: Coarse,
    /// `d x d`, orthogonal; residuals `r` are coded as `R r`. None: the identity.
    rotation: Option<Array2<f32>>,
    product: Product,
    heads: Heads,
    router: Option<Router>,
    encoder: Option<String>,
}

/// The codes of a block of documents.
#[derive(Debug, Default)]
pub struct Encoded {
    /// `n x bytes`.
    pub codes: Vec<u8>,
    /// The row term of each document; empty unless the metric needs one.
    pub terms: Vec<f32>,
}

/// Documents as their lists and codes say they are.
#[derive(Debug)]
pub struct Reconstruction {
    /// The list of each.
    pub lists: Vec<ListId>,
    /// n x code_dim, in the space of the centroids.
    pub vectors: Array2<f32>,
    /// What is added to the score of each whatever the query; empty where codewords have no offsets.
    pub offsets: Vec<f32>,
}

/// Rows of one task of [`Quantizer::reconstruct`].
const RECONSTRUCT_ROWS: usize = 512;

impl Quantizer {
    /// Puts the trained parts together; `centroids` are L x d, `rotation` d x d. No heads, no router.
    pub fn new(metric: Metric, centroids: Array2<f32>, rotation: Option<Array2<f32>>, product: Product) -> Quantizer {
        let coarse = Coarse::new(centroids, metric);
        Quantizer { metric, coarse, rotation, product, heads: Heads::default(), router: None, encoder: None }
    }

    /// The same with groups of neighbouring lists ([`Coarse::with_groups`]); none where `starts` is empty.
    ///
    /// # Errors
    /// `InvalidParams` for starts that are not those of such groups.
    pub fn with_groups(self, starts: Vec<ListId>) -> Result<Quantizer> {
        if starts.is_empty() {
            return Ok(self);
        }
        Ok(Quantizer { coarse: self.coarse.with_groups(starts)?, ..self })
    }

    /// The same for the vectors of one text encoder alone, by its id.
    pub fn with_encoder(self, id: &str) -> Quantizer {
        Quantizer { encoder: Some(id.to_string()), ..self }
    }

    /// The id of the text encoder for whose vectors it was trained, where that is known.
    pub fn encoder(&self) -> Option<&str> {
        self.encoder.as_deref()
    }

    /// Dimension of the vectors that callers have: queries as they are sent, documents as they are indexed.
    pub fn dim(&self) -> usize {
        self.heads.all().next().map_or(self.code_dim(), Head::input_dim)
    }

    /// Dimension of centroids and of what is coded: that of the vectors after the code heads.
    pub fn code_dim(&self) -> usize {
        self.coarse.centroids().ncols()
    }

    /// Dimension of the stored dense vectors: that of the vectors after the dense heads.
    pub fn dense_dim(&self) -> usize {
        self.heads.dense_document.as_ref().map_or(self.dim(), Head::output_dim)
    }

    /// The trained maps of queries and documents.
    pub fn heads(&self) -> &Heads {
        &self.heads
    }

    /// The matrix that chooses lists in place of the centroids, L x code_dim, if there is one.
    pub fn router(&self) -> Option<ArrayView2<'_, f32>> {
        self.router.as_ref().map(Router::matrix)
    }

    /// How queries and documents are compared.
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// The coarse quantizer.
    pub fn coarse(&self) -> &Coarse {
        &self.coarse
    }

    /// The codebooks.
    pub fn product(&self) -> &Product {
        &self.product
    }

    /// The rotation of residuals, d x d, if there is one.
    pub fn rotation(&self) -> Option<ArrayView2<'_, f32>> {
        self.rotation.as_ref().map(|rotation| rotation.view())
    }

    /// Whether rows carry a term beside their code.
    pub fn has_terms(&self) -> bool {
        self.metric == Metric::L2
    }

    /// Bytes in memory.
    pub fn memory_bytes(&self) -> usize {
        self.coarse.memory_bytes()
            + self.learned_bytes()
            + (self.rotation.as_ref().map_or(0, Array2::len)
                + self.product.codewords().len()
                + self.product.offsets().len())
                * 4
    }

    /// Bytes in memory of heads and router.
    pub fn learned_bytes(&self) -> usize {
        self.heads.all().map(Head::memory_bytes).sum::<usize>() + self.router.as_ref().map_or(0, Router::memory_bytes)
    }

    /// Refuses vectors of another dimension than callers should have, naming both.
    pub fn check_dim(&self, found: usize) -> Result<()> {
        if found == self.dim() { Ok(()) } else { Err(Error::mismatch("vector dimension", self.dim(), found)) }
    }

    /// Encodes documents (n x code_dim: what the code head made of them, or normalised under cosine) that belong to
    /// `lists`.
    pub fn encode(&self, kernels: &Kernels, x: ArrayView2<'_, f32>, lists: &[ListId]) -> Encoded {
        let bytes = self.product.shape().bytes;
        let mut residuals = x.to_owned();
        for (mut row, &list) in residuals.rows_mut().into_iter().zip(lists) {
            row -= &ndarray::aview1(self.coarse.centroid(list));
        }
        let residuals = self.rotate(residuals);
        let mut codes = vec![0; lists.len() * bytes];
        for (row, code) in residuals.rows().into_iter().zip(codes.chunks_mut(bytes)) {
            self.product.encode(kernels, row.as_slice().expect("C order"), code);
        }
        let terms = if self.has_terms() { self.terms(x, residuals.view(), &codes) } else { Vec::new() };
        Encoded { codes, terms }
    }

    /// `x R'`: every row rotated.
    pub(crate) fn rotate(&self, x: Array2<f32>) -> Array2<f32> {
        match &self.rotation {
            None => x,
            Some(rotation) => {
                let mut out = Array2::zeros(x.dim());
                product_nt(x.view(), rotation.view(), out.view_mut());
                out
            }
        }
    }

    /// The row terms `|e|^2 - |c|^2 - 2 <R o, c>`; `R o` is the rotated vector minus the rotated residual.
    fn terms(&self, x: ArrayView2<'_, f32>, residuals: ArrayView2<'_, f32>, codes: &[u8]) -> Vec<f32> {
        let rotated = self.rotate(x.to_owned());
        let mut decoded = vec![0f32; self.code_dim()];
        let rows = rotated.axis_iter(Axis(0)).zip(residuals.axis_iter(Axis(0)));
        rows.zip(codes.chunks(self.product.shape().bytes))
            .map(|((x, residual), code)| {
                self.product.decode(code, &mut decoded);
                let mut error2 = 0f32;
                let mut cross = 0f32;
                Zip::from(x).and(residual).and(&decoded[..]).for_each(|&x, &r, &c| {
                    error2 += (r - c) * (r - c);
                    cross += (x - r) * c;
                });
                error2 - norm2(&decoded) - 2.0 * cross
            })
            .collect()
    }

    /// Codes documents (n x code_dim) and decodes them again, in parallel: what search sees of them.
    pub fn reconstruct(&self, x: ArrayView2<'_, f32>) -> Reconstruction {
        let kernels = Kernels::detect();
        let lists = self.coarse.assign_rows(x);
        let mut vectors = Array2::zeros(x.dim());
        let blocks = vectors.axis_chunks_iter_mut(Axis(0), RECONSTRUCT_ROWS).into_par_iter();
        let rows = x.axis_chunks_iter(Axis(0), RECONSTRUCT_ROWS).into_par_iter();
        let offsets: Vec<Vec<f32>> = blocks
            .zip(rows)
            .zip(lists.par_chunks(RECONSTRUCT_ROWS))
            .map(|((out, rows), lists)| {
                let codes = self.encode(kernels, rows, lists).codes;
                self.decode(&codes, lists, out);
                match self.product.offsets() {
                    [] => Vec::new(),
                    _ => codes.chunks(self.product.shape().bytes).map(|code| self.product.offset(code)).collect(),
                }
            })
            .collect();
        Reconstruction { lists, vectors, offsets: offsets.concat() }
    }

    /// Reconstructs rows (n x code_dim) from their codes, in the space of the centroids: `o + R' c`. For measuring errors.
    pub fn decode(&self, codes: &[u8], lists: &[ListId], mut out: ArrayViewMut2<'_, f32>) {
        let bytes = self.product.shape().bytes;
        let mut decoded = Array2::zeros(out.dim());
        for (mut row, code) in decoded.rows_mut().into_iter().zip(codes.chunks(bytes)) {
            self.product.decode(code, row.as_slice_mut().expect("C order"));
        }
        match &self.rotation {
            None => out.assign(&decoded),
            Some(rotation) => out.assign(&decoded.dot(rotation)),
        }
        for (mut row, &list) in out.rows_mut().into_iter().zip(lists) {
            row += &ndarray::aview1(self.coarse.centroid(list));
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::sample::Rng;
    use crate::simd::CodeBits;

    /// A quantizer of random parts: no training, but every formula applies.
    pub(crate) fn random_quantizer(metric: Metric, bits: CodeBits, rotate: bool, seed: u64) -> Quantizer {
        let (lists, dim) = (9, 24);
        let mut rng = Rng::new(seed);
        let mut normal = |n: usize| (0..n).map(|_| rng.normal()).collect::<Vec<f32>>();
        let centroids = Array2::from_shape_vec((lists, dim), normal(lists * dim)).unwrap();
        let shape = CodeShape::new(bits, 8).unwrap();
        let product = Product::new(shape, dim, normal(dim * shape.codewords()));
        let any = Array2::from_shape_vec((dim, dim), normal(dim * dim)).unwrap();
        let rotation = rotate.then(|| crate::linalg::procrustes(any.view()).unwrap());
        Quantizer::new(metric, centroids, rotation, product)
    }

    #[test]
    fn integer_scores_follow_the_scores_of_decoded_rows() {
        for metric in [Metric::Ip, Metric::L2] {
            for (bits, rotate) in [(CodeBits::Four, true), (CodeBits::Eight, true), (CodeBits::Eight, false)] {
                let quantizer = random_quantizer(metric, bits, rotate, 3);
                let mut rng = Rng::new(5);
                let x = Array2::from_shape_fn((40, 24), |_| rng.normal() * 2.0);
                let mut lists = vec![0; 40];
                quantizer.coarse().assign(x.view(), &mut lists);
                let kernels = Kernels::detect();
                let encoded = quantizer.encode(kernels, x.view(), &lists);
                let mut decoded = Array2::zeros(x.dim());
                quantizer.decode(&encoded.codes, &lists, decoded.view_mut());
                let query: Vec<f32> = (0..24).map(|_| rng.normal()).collect();
                let mut tables = QueryTables::default();
                tables.prepare(&quantizer, kernels, &query, 0.0, &mut TableScratch::default());
                for (i, &list) in lists.iter().enumerate() {
                    let centroid = ndarray::aview1(quantizer.coarse().centroid(list));
                    let (q, d) = (ndarray::aview1(&query[..]), decoded.row(i));
                    let error = &x.row(i) - &d;
                    let (base, term, expected) = match metric {
                        Metric::L2 => {
                            let far = |v: ndarray::ArrayView1<'_, f32>| (&q - &v).mapv(|e| e * e).sum();
                            (-far(centroid), encoded.terms[i], -far(d) + error.dot(&error))
                        }
                        _ => (q.dot(&centroid), 0.0, q.dot(&d)),
                    };
                    let code = &encoded.codes[i * 8..][..8];
                    let score = base + term + tables.score_of(quantizer.product().shape(), code);
                    let bound = tables.step() * quantizer.product().shape().subspaces() as f32 * 0.5 + 1e-3;
                    assert!((score - expected).abs() < bound, "{metric} {score} {expected} {bound}");
                }
            }
        }
    }
}
