//! Heads: small trained maps laid over the vectors of a frozen encoder.
//!
//! ```text
//! head(x) = A x + W2 relu(W1 x + b)          A: out x in,  W1: hidden x in,  W2: out x hidden
//! ```
//! then scaled to unit length where scores are cosines. The second part is optional; `W2` starts at zero, so that training
//! starts from the linear map. Four heads may come with a quantizer ([`Heads`]): each grain has one for queries and one
//! for documents. Document heads are applied once, by the build; query heads at search, so that callers always send the
//! encoder's own vectors.

use ndarray::{Array2, ArrayView2, Axis};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::linalg::{normalise, product_nt};
use crate::simd::Kernels;

/// Rows of a unit of parallel work.
const BLOCK: usize = 256;

/// A trained map of vectors.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    /// `A`, out x in.
    pub linear: Array2<f32>,
    /// The part that is not linear, if there is one.
    pub residual: Option<Residual>,
    /// Whether outputs are scaled to unit length.
    pub normalise: bool,
}

/// The two-layer part of a [`Head`].
#[derive(Debug, Clone, PartialEq)]
pub struct Residual {
    /// `W1`, hidden x in.
    pub inner: Array2<f32>,
    /// `b`, one a hidden unit.
    pub bias: Vec<f32>,
    /// `W2`, out x hidden.
    pub outer: Array2<f32>,
}

/// Working memory of [`Head::apply`].
#[derive(Debug, Default)]
pub struct HeadScratch {
    hidden: Vec<f32>,
    added: Vec<f32>,
}

/// The heads of both grains. A grain without a head uses the vectors as they are.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Heads {
    /// Queries, before routing, probing and score tables.
    pub code_query: Option<Head>,
    /// Documents, before lists and codes.
    pub code_document: Option<Head>,
    /// Queries, before verification.
    pub dense_query: Option<Head>,
    /// Documents, before they are stored as dense vectors.
    pub dense_document: Option<Head>,
}

impl Head {
    /// The map that changes nothing but, perhaps, the length.
    pub fn identity(dim: usize, normalise: bool) -> Head {
        Head { linear: Array2::eye(dim), residual: None, normalise }
    }

    /// Values a vector goes in with.
    pub fn input_dim(&self) -> usize {
        self.linear.ncols()
    }

    /// Values a vector comes out with.
    pub fn output_dim(&self) -> usize {
        self.linear.nrows()
    }

    /// Whether the parts fit each other and hold finite values.
    ///
    /// # Errors
    /// `InvalidParams`, naming the part.
    pub fn check(&self) -> Result<()> {
        let (out, input) = self.linear.dim();
        if out == 0 || input == 0 {
            return Err(Error::params("head", "it has no dimensions"));
        }
        let mut finite = self.linear.iter().all(|v| v.is_finite());
        let mut ordered = self.linear.is_standard_layout();
        if let Some(Residual { inner, bias, outer }) = &self.residual {
            let hidden = bias.len();
            if hidden == 0 {
                return Err(Error::params("head", "its residual has no hidden units; leave the residual out"));
            }
            if inner.dim() != (hidden, input) || outer.dim() != (out, hidden) {
                let shapes = format!("layers {:?} and {:?} do not fit {out} x {input}", inner.dim(), outer.dim());
                return Err(Error::params("head", shapes));
            }
            finite &= inner.iter().chain(bias).chain(outer).all(|v| v.is_finite());
            ordered &= inner.is_standard_layout() && outer.is_standard_layout();
        }
        match (finite, ordered) {
            (true, true) => Ok(()),
            (false, _) => Err(Error::params("head", "a value in it is not finite")),
            (_, false) => Err(Error::params("head", "a matrix of it is not in C order; copy it row by row")),
        }
    }

    /// Maps one vector (input_dim values) into `out` (output_dim values afterwards).
    pub fn apply(&self, kernels: &Kernels, x: &[f32], scratch: &mut HeadScratch, out: &mut Vec<f32>) {
        let rows = |matrix: &Array2<f32>, x: &[f32], out: &mut Vec<f32>| {
            out.resize(matrix.nrows(), 0.0);
            (kernels.dot_rows_f32)(x, matrix.as_slice().expect("C order"), out);
        };
        rows(&self.linear, x, out);
        if let Some(Residual { inner, bias, outer }) = &self.residual {
            rows(inner, x, &mut scratch.hidden);
            scratch.hidden.iter_mut().zip(bias).for_each(|(h, b)| *h = (*h + b).max(0.0));
            rows(outer, &scratch.hidden, &mut scratch.added);
            out.iter_mut().zip(&scratch.added).for_each(|(out, added)| *out += added);
        }
        if self.normalise {
            normalise(out);
        }
    }

    /// Maps every row of `x` (n x input_dim, C order), in parallel: n x output_dim.
    pub fn apply_rows(&self, x: ArrayView2<'_, f32>) -> Array2<f32> {
        let mut out = Array2::zeros((x.nrows(), self.output_dim()));
        let blocks = out.axis_chunks_iter_mut(Axis(0), BLOCK).into_par_iter();
        blocks.zip(x.axis_chunks_iter(Axis(0), BLOCK).into_par_iter()).for_each(|(mut out, x)| {
            product_nt(x, self.linear.view(), out.view_mut());
            if let Some(Residual { inner, bias, outer }) = &self.residual {
                let mut hidden = Array2::zeros((x.nrows(), bias.len()));
                product_nt(x, inner.view(), hidden.view_mut());
                hidden.rows_mut().into_iter().for_each(|mut row| {
                    row.iter_mut().zip(bias).for_each(|(h, b)| *h = (*h + b).max(0.0));
                });
                let mut added = Array2::zeros(out.dim());
                product_nt(hidden.view(), outer.view(), added.view_mut());
                out += &added;
            }
            if self.normalise {
                out.rows_mut().into_iter().for_each(|mut row| {
                    normalise(row.as_slice_mut().expect("C order"));
                });
            }
        });
        out
    }

    /// Bytes in memory.
    pub fn memory_bytes(&self) -> usize {
        let residual = self.residual.as_ref().map_or(0, |r| r.inner.len() + r.bias.len() + r.outer.len());
        (self.linear.len() + residual) * 4
    }
}

impl Heads {
    /// Names of the heads, in the order of the fields.
    pub const NAMES: [&'static str; 4] = ["code_query", "code_document", "dense_query", "dense_document"];

    /// The heads that are there, in the order of the fields.
    pub fn all(&self) -> impl Iterator<Item = &Head> {
        self.named().map(|(_, head)| head)
    }

    /// The heads that are there, with the names of their fields.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &Head)> {
        let places = [&self.code_query, &self.code_document, &self.dense_query, &self.dense_document];
        Self::NAMES.into_iter().zip(places).filter_map(|(name, head)| Some((name, head.as_ref()?)))
    }

    /// Whether no grain has a head.
    pub fn is_empty(&self) -> bool {
        self.all().next().is_none()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::sample::Rng;

    /// A head of random values; with a residual, it normalises.
    pub(crate) fn random_head(input: usize, hidden: Option<usize>, output: usize, seed: u64) -> Head {
        let mut rng = Rng::new(seed);
        let mut normal = |rows, cols| Array2::from_shape_fn((rows, cols), |_| rng.normal());
        let linear = normal(output, input);
        let residual = hidden.map(|h| Residual {
            inner: normal(h, input),
            bias: normal(1, h).into_raw_vec_and_offset().0,
            outer: normal(output, h),
        });
        Head { linear, residual, normalise: hidden.is_some() }
    }

    #[test]
    fn one_vector_and_many_agree_with_the_formula() {
        for hidden in [None, Some(5)] {
            let head = random_head(7, hidden, 3, 1);
            head.check().unwrap();
            let mut rng = Rng::new(2);
            let x = Array2::from_shape_fn((300, 7), |_| rng.normal());
            let many = head.apply_rows(x.view());
            let (mut scratch, mut one) = (HeadScratch::default(), Vec::new());
            for (row, many) in x.rows().into_iter().zip(many.rows()) {
                head.apply(Kernels::detect(), row.as_slice().unwrap(), &mut scratch, &mut one);
                let mut plain = head.linear.dot(&row);
                if let Some(Residual { inner, bias, outer }) = &head.residual {
                    let hidden = (inner.dot(&row) + ndarray::aview1(bias)).mapv(|v| v.max(0.0));
                    plain += &outer.dot(&hidden);
                    plain /= plain.dot(&plain).sqrt();
                }
                for ((a, b), c) in one.iter().zip(many).zip(&plain) {
                    assert!((a - b).abs() < 1e-5 * (1.0 + c.abs()) && (a - c).abs() < 1e-5 * (1.0 + c.abs()));
                }
            }
        }
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        let mut head = random_head(7, Some(5), 3, 1);
        head.residual.as_mut().unwrap().bias.pop();
        assert!(head.check().unwrap_err().to_string().contains("do not fit"));
        let mut head = random_head(7, None, 3, 1);
        head.linear[[0, 0]] = f32::INFINITY;
        assert!(head.check().unwrap_err().to_string().contains("not finite"));
        let message = random_head(7, Some(0), 3, 1).check().unwrap_err().to_string();
        assert!(message.contains("no hidden units"), "{message}");
        let mut head = random_head(7, None, 7, 1);
        head.linear = head.linear.reversed_axes();
        assert!(head.check().unwrap_err().to_string().contains("C order"));
    }
}
