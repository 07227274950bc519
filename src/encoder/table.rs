//! Static encoders: a vector a token, summed.
//! ```text
//! vector(text) = P * sum over its tokens t of w_t E_t          E: tokens x e,  w: tokens,  P: d x e, or none
//! ```
//! scaled to unit length by the caller. The layouts of the common static models differ in names only.

use ndarray::{Array2, ArrayView2};

use super::files::Folder;
use crate::error::{Error, Result};
use crate::linalg::product_nt;

/// Tokens of a text that are read at most: the sum of more says ever less.
pub(super) const MAX_TOKENS: usize = 512;

/// The table of a static encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenTable {
    /// `E`, tokens x e, times the tokens' weights.
    rows: Array2<f32>,
    /// `P`, d x e.
    projection: Option<Array2<f32>>,
}

impl TokenTable {
    /// A table of token vectors (tokens x e) and perhaps a projection (d x e).
    ///
    /// # Errors
    /// `Mismatch` where the projection takes vectors of another dimension.
    pub fn new(rows: Array2<f32>, projection: Option<Array2<f32>>) -> Result<TokenTable> {
        match &projection {
            Some(p) if p.ncols() != rows.ncols() => {
                Err(Error::mismatch("columns of the projection", rows.ncols(), p.ncols()))
            }
            _ => Ok(TokenTable { rows, projection }),
        }
    }

    pub(super) fn read(folder: &Folder) -> Result<TokenTable> {
        let weights = folder.weights()?;
        let names = ["embedding.weight", "embeddings", "embedding"];
        let name = names.into_iter().find(|name| weights.has(name)).ok_or_else(|| {
            let reason = format!("a static encoder has one named {}", names.join(" or "));
            Error::input(weights.path(), "its tensors", reason)
        })?;
        let mut rows = weights.matrix(name)?;
        if weights.has("mapping") {
            return Err(Error::Unsupported {
                what: format!("tokens that share vectors (tensor mapping in {})", weights.path().display()),
                remedy: "use a static encoder with a vector a token".into(),
            });
        }
        for factor in ["embedding.scale", "token.weight", "weights"].into_iter().filter(|factor| weights.has(factor)) {
            let factors = weights.vector(factor, rows.nrows())?;
            rows.rows_mut().into_iter().zip(factors).for_each(|(mut row, factor)| row *= factor);
        }
        let projection = "projection.weight";
        let projection = weights.has(projection).then(|| weights.matrix(projection)).transpose()?;
        TokenTable::new(rows, projection)
    }

    /// Tokens it knows.
    pub fn vocabulary(&self) -> usize {
        self.rows.nrows()
    }

    /// Dimension of the vectors of texts.
    pub fn dim(&self) -> usize {
        self.projection.as_ref().map_or(self.rows.ncols(), Array2::nrows)
    }

    /// The vectors of tokens, with their weights: tokens x e.
    pub fn rows(&self) -> ArrayView2<'_, f32> {
        self.rows.view()
    }

    /// The projection, d x e.
    pub fn projection(&self) -> Option<ArrayView2<'_, f32>> {
        self.projection.as_ref().map(|p| p.view())
    }

    /// The sums of sequences of tokens, a row each.
    pub(super) fn pool(&self, sequences: &[&[u32]]) -> Array2<f32> {
        let mut sums = Array2::zeros((sequences.len(), self.rows.ncols()));
        for (mut sum, sequence) in sums.rows_mut().into_iter().zip(sequences) {
            for &token in *sequence {
                sum += &self.rows.row(token as usize);
            }
        }
        match &self.projection {
            None => sums,
            Some(projection) => {
                let mut out = Array2::zeros((sequences.len(), projection.nrows()));
                product_nt(sums.view(), projection.view(), out.view_mut());
                out
            }
        }
    }
}
