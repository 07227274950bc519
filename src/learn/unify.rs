//! Stage 3: one query head for both grains.

use ndarray::Array2;

use crate::error::{Error, Result};
use crate::heads::{Head, Heads, Residual};
use crate::linalg::{blocked, procrustes};
use crate::quantizer::Quantizer;
use crate::train::{Candidates, DenseTraining, Epoch, Examples, Watch, train_query_head};

/// Documents of both grains stay; one query head is trained on the sum of both losses and replaces the two. (Score offsets of
/// codewords know nothing of the query and take no part.)
///
/// # Errors
/// `InvalidParams` unless both grains have heads of both sides, `Mismatch` where their dimensions differ; what training gives.
pub(super) fn unify(
    examples: &Examples,
    quantizer: &Quantizer,
    heads: &mut Heads,
    settings: &DenseTraining,
    found: &Candidates,
    watch: &dyn Watch,
) -> Result<Vec<Epoch>> {
    let (Some(code), Some(dense), Some(dense_document)) =
        (&heads.code_query, &heads.dense_query, &heads.dense_document)
    else {
        return Err(Error::params("unify", "one head for both grains needs heads in both"));
    };
    // Codes and dense vectors live in spaces turned against each other; the codes are turned to where queries are.
    let turn = align(examples, code, dense)?;
    let codes = quantizer.reconstruct(quantizer.map_documents(&examples.documents).view()).vectors;
    let codes = blocked::nn(codes.view(), turn.view());
    let documents = dense_document.apply_rows(examples.documents.view());
    let (head, curve) =
        train_query_head(examples, &[documents.view(), codes.view()], Some(dense), found, settings, watch)?;
    let residual = head.residual.clone().map(|r| Residual { outer: blocked::nn(turn.view(), r.outer.view()), ..r });
    let linear = blocked::nn(turn.view(), head.linear.view());
    heads.code_query = Some(Head { linear, residual, normalise: head.normalise });
    heads.dense_query = Some(head);
    Ok(curve)
}

/// The orthogonal `T` with which `code(q) T` comes nearest to `dense(q)` over the queries.
fn align(examples: &Examples, code: &Head, dense: &Head) -> Result<Array2<f32>> {
    let [code, dense] = [code, dense].map(|head| head.apply_rows(examples.queries.view()));
    if code.ncols() != dense.ncols() {
        let what = "dimension of the dense grain, which one head must share,";
        return Err(Error::mismatch(what, code.ncols(), dense.ncols()));
    }
    let mut products = Array2::zeros((dense.ncols(), code.ncols()));
    blocked::add_tn(&mut products, 1.0, dense.view(), code.view());
    procrustes(products.view())
}
