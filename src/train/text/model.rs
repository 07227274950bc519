//! The model, forward and backward.

use ndarray::{Array2, Axis};
use rayon::prelude::*;

use super::super::head::{normalise_rows, through_normalise};
use super::super::optimiser::Parameter;
use super::super::sparse::SparseParameter;
use crate::encoder::TokenTable;
use crate::error::{Error, Result};
use crate::linalg::{blocked, procrustes};
use crate::sample::Rng;

/// Texts of one task.
const BLOCK: usize = 128;
/// Texts that are encoded at once.
const CHUNK: usize = 8_192;

/// Tokens of texts, one text after the other.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Texts {
    /// Where each text ends in `tokens`.
    ends: Vec<usize>,
    tokens: Vec<u32>,
}

impl Texts {
    /// Texts with these tokens.
    pub fn new<T: AsRef<[u32]>>(texts: &[T]) -> Texts {
        let mut all = Texts::default();
        texts.iter().for_each(|text| all.push(text.as_ref().iter().copied()));
        all
    }

    fn push(&mut self, tokens: impl Iterator<Item = u32>) {
        self.tokens.extend(tokens);
        self.ends.push(self.tokens.len());
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The tokens of text `i`.
    pub fn tokens(&self, i: usize) -> &[u32] {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.tokens[start..self.ends[i]]
    }

    /// Some of the texts, in this order, without a share `dropout` of their tokens drawn by `rng`; a text keeps one at least.
    pub(in crate::train) fn select(&self, rows: impl Iterator<Item = u32>, dropout: f32, rng: &mut Rng) -> Texts {
        let mut some = Texts::default();
        for row in rows {
            let tokens = self.tokens(row as usize);
            if dropout == 0.0 || tokens.len() < 2 {
                some.push(tokens.iter().copied());
                continue;
            }
            let before = some.tokens.len();
            some.tokens.extend(tokens.iter().filter(|_| rng.unit_f32() >= dropout));
            if some.tokens.len() == before {
                some.tokens.push(tokens[rng.below(tokens.len() as u64) as usize]);
            }
            some.ends.push(some.tokens.len());
        }
        some
    }

    /// Refuses texts without tokens, and tokens that the table does not have.
    pub(super) fn check(&self, name: &'static str, vocabulary: usize) -> Result<()> {
        if let Some(at) = (0..self.len()).find(|&i| self.tokens(i).is_empty()) {
            return Err(Error::params(name, format!("text {at} has no tokens; leave it out")));
        }
        match self.tokens.iter().find(|&&t| t as usize >= vocabulary) {
            None => Ok(()),
            Some(token) => Err(Error::params(
                name,
                format!(
                    "token {token} is not below the {vocabulary} rows of the table; use the model's own vocabulary"
                ),
            )),
        }
    }
}

/// Weights of tokens, from the share of texts that hold them: `ln(1 + N / n_t) / ln(1 + N)`, between 0 and 1; the weight of a
/// token that none holds is 1.
pub fn inverse_frequencies(texts: &[&Texts], vocabulary: usize) -> Vec<f32> {
    let mut counts = vec![0u32; vocabulary];
    let mut seen = vec![usize::MAX; vocabulary];
    let mut number = 0;
    for texts in texts {
        for i in 0..texts.len() {
            for &token in texts.tokens(i).iter().filter(|t| (**t as usize) < vocabulary) {
                if std::mem::replace(&mut seen[token as usize], number) != number {
                    counts[token as usize] += 1;
                }
            }
            number += 1;
        }
    }
    let n = number.max(1) as f32;
    counts.iter().map(|&c| (1.0 + n / c.max(1) as f32).ln() / (1.0 + n).ln()).collect()
}

/// A static encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct StaticModel {
    /// `E`, tokens x e.
    pub table: Array2<f32>,
    /// `w`, tokens.
    pub weights: Vec<f32>,
    /// `P`, d x e.
    pub projection: Array2<f32>,
}

impl StaticModel {
    /// A random one to start from: vectors of tokens are normal, the projection keeps lengths as far as it can.
    ///
    /// # Errors
    /// `InvalidParams` for a dimension that is zero.
    pub fn random(weights: Vec<f32>, width: usize, dim: usize, seed: u64) -> Result<StaticModel> {
        for (name, value) in [("vocabulary", weights.len()), ("width", width), ("dim", dim)] {
            if value == 0 {
                return Err(Error::params(name, "0; give at least 1"));
            }
        }
        let mut rng = Rng::stream(seed, 0x7ab1e);
        let table = Array2::from_shape_fn((weights.len(), width), |_| rng.normal());
        let projection = if dim == width {
            Array2::eye(dim)
        } else {
            let most = dim.max(width);
            let square = Array2::from_shape_fn((most, most), |_| rng.normal());
            procrustes(square.view())?.slice(ndarray::s![..dim, ..width]).to_owned()
        };
        Ok(StaticModel { table, weights, projection })
    }

    /// One to go on from. Without a projection it has the identity.
    pub fn from_table(table: &TokenTable) -> StaticModel {
        let projection = table.projection().map_or_else(|| Array2::eye(table.dim()), |p| p.to_owned());
        StaticModel { table: table.rows().to_owned(), weights: vec![1.0; table.vocabulary()], projection }
    }

    /// As an encoder reads it.
    ///
    /// # Errors
    /// `Mismatch` where table and projection do not fit.
    pub fn to_table(&self) -> Result<TokenTable> {
        let mut rows = self.table.clone();
        rows.rows_mut().into_iter().zip(&self.weights).for_each(|(mut row, &w)| row *= w);
        TokenTable::new(rows, Some(self.projection.clone()))
    }

    /// Two encoders in one: its vectors are those of `self`, then those of `other`, of the same vocabulary, scaled together.
    ///
    /// # Errors
    /// `Mismatch` for another vocabulary.
    pub fn beside(&self, other: &StaticModel) -> Result<StaticModel> {
        if self.table.nrows() != other.table.nrows() {
            return Err(Error::mismatch("vocabulary of the second encoder", self.table.nrows(), other.table.nrows()));
        }
        let mut parts = [self.table.clone(), other.table.clone()];
        for (part, weights) in parts.iter_mut().zip([&self.weights, &other.weights]) {
            part.rows_mut().into_iter().zip(weights).for_each(|(mut row, &w)| row *= w);
        }
        let table = ndarray::concatenate(Axis(1), &[parts[0].view(), parts[1].view()]).expect("equal heights");
        let ((d1, e1), (d2, e2)) = (self.projection.dim(), other.projection.dim());
        let mut projection = Array2::zeros((d1 + d2, e1 + e2));
        projection.slice_mut(ndarray::s![..d1, ..e1]).assign(&self.projection);
        projection.slice_mut(ndarray::s![d1.., e1..]).assign(&other.projection);
        Ok(StaticModel { weights: vec![1.0; table.nrows()], table, projection })
    }

    /// Dimension of its vectors.
    pub fn dim(&self) -> usize {
        self.projection.nrows()
    }

    /// The vectors of texts, of unit length, a row each.
    pub fn encode(&self, texts: &Texts) -> Array2<f32> {
        let mut out = Array2::zeros((texts.len(), self.dim()));
        for (chunk, mut rows) in out.axis_chunks_iter_mut(Axis(0), CHUNK).enumerate() {
            let first = chunk * CHUNK;
            let sums = sums(&self.table, &self.weights, texts, first, rows.nrows());
            rows.assign(&blocked::nt(sums.view(), self.projection.view()));
        }
        normalise_rows(&mut out);
        out
    }
}

/// `sum of w_t E_t` of `count` texts from `first` on.
fn sums(table: &Array2<f32>, weights: &[f32], texts: &Texts, first: usize, count: usize) -> Array2<f32> {
    let mut sums = Array2::zeros((count, table.ncols()));
    let blocks = sums.axis_chunks_iter_mut(Axis(0), BLOCK).into_par_iter().enumerate();
    blocks.for_each(|(block, mut rows)| {
        for (mut sum, text) in rows.rows_mut().into_iter().zip(first + block * BLOCK..) {
            let sum = sum.as_slice_mut().expect("C order");
            for &token in texts.tokens(text) {
                let (weight, row) = (weights[token as usize], table.row(token as usize));
                sum.iter_mut().zip(row).for_each(|(s, v)| *s += weight * v);
            }
        }
    });
    sums
}

/// A [`StaticModel`] while it is trained.
#[derive(Debug, Clone)]
pub(in crate::train) struct TextParameters {
    pub(in crate::train) table: SparseParameter,
    weights: Vec<f32>,
    pub(in crate::train) projection: Parameter,
}

/// What the forward pass leaves for the backward pass.
pub(in crate::train) struct TextPass {
    /// n x e.
    sums: Array2<f32>,
    /// n x d, of unit length.
    pub(in crate::train) output: Array2<f32>,
    norms: Vec<f32>,
}

impl TextParameters {
    /// Starts from `model`. Learning rates are in units of the root mean square of what they move.
    pub(in crate::train) fn new(model: &StaticModel, table_rate: f32, projection_rate: f32) -> TextParameters {
        let unit = |x: &Array2<f32>| {
            (x.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>() / x.len().max(1) as f64).sqrt() as f32
        };
        let (table, projection) = (&model.table, &model.projection);
        TextParameters {
            table: SparseParameter::new(table.clone(), table_rate * unit(table)),
            weights: model.weights.clone(),
            projection: Parameter::new(projection.clone(), projection_rate * unit(projection)),
        }
    }

    /// The model as it is now.
    pub(in crate::train) fn model(&self) -> StaticModel {
        StaticModel {
            table: self.table.value.clone(),
            weights: self.weights.clone(),
            projection: self.projection.value.clone(),
        }
    }

    /// Encodes texts.
    pub(in crate::train) fn forward(&self, texts: &Texts) -> TextPass {
        let sums = sums(&self.table.value, &self.weights, texts, 0, texts.len());
        let mut output = blocked::nt(sums.view(), self.projection.value.view());
        let norms = normalise_rows(&mut output);
        TextPass { sums, output, norms }
    }

    /// Adds to the gradients, from the gradient at the output (n x d) of these texts.
    pub(in crate::train) fn backward(&mut self, texts: &Texts, pass: &TextPass, mut gradient: Array2<f32>) {
        through_normalise(&pass.output, &pass.norms, &mut gradient);
        blocked::add_tn(&mut self.projection.gradient, 1.0, gradient.view(), pass.sums.view());
        let at_sums = blocked::nn(gradient.view(), self.projection.value.view());
        for (i, row) in at_sums.rows().into_iter().enumerate() {
            let row = row.to_slice().expect("C order");
            for &token in texts.tokens(i) {
                self.table.add(token, self.weights[token as usize], row);
            }
        }
    }
}
