//! What training adds to centroids and codebooks: heads over the vectors, and a router over the lists.

use ndarray::{Array2, ArrayView2};
use std::borrow::Cow;

use super::{Coarse, Probe, ProbeScratch, Quantizer};
use crate::error::{Error, Result};
use crate::heads::{Head, Heads};
use crate::linalg::norm2;
use crate::simd::Kernels;
use crate::types::Metric;

/// The largest norm a row of a router may have: beyond it, scores of lists would overflow.
const MAX_NORM: f32 = 1e15;

/// A matrix in place of the centroids, to choose lists with: list `l` is as promising as `<q, W_l>` is large. It is
/// scanned as centroids are under the inner product, first in int8.
#[derive(Debug, Clone)]
pub(super) struct Router {
    rows: Coarse,
}

impl Router {
    /// `W`, L x d.
    pub(super) fn matrix(&self) -> ArrayView2<'_, f32> {
        self.rows.centroids()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.rows.memory_bytes()
    }
}

impl Quantizer {
    /// The quantizer with `heads` in place of those it had.
    ///
    /// # Errors
    /// `Unsupported` under L2, whose row terms hold only where both sides are mapped alike; `Mismatch` for dimensions that
    /// do not fit each other or the centroids; `InvalidParams` for a head that is not sound.
    pub fn with_heads(self, heads: Heads) -> Result<Quantizer> {
        check_heads(&heads, self.metric, self.code_dim())?;
        Ok(Quantizer { heads, ..self })
    }

    /// The quantizer with lists chosen by `matrix` (L x code_dim).
    ///
    /// # Errors
    /// `Mismatch` for another shape, `InvalidParams` for values that are not finite or too large.
    pub fn with_router(self, matrix: Array2<f32>) -> Result<Quantizer> {
        let shape = (self.coarse.lists(), self.code_dim());
        if matrix.dim() != shape {
            return Err(Error::mismatch("shape of the router", format!("{shape:?}"), format!("{:?}", matrix.dim())));
        }
        let matrix = matrix.as_standard_layout().into_owned();
        let norm = |row: ArrayView2<'_, f32>| norm2(row.as_slice().expect("C order")).sqrt();
        let rows = matrix.axis_chunks_iter(ndarray::Axis(0), 1);
        if let Some((list, norm)) = rows.map(norm).enumerate().find(|(_, norm)| !(0.0..=MAX_NORM).contains(norm)) {
            let reason = format!("the norm of row {list} is {norm:e}, not between 0 and {MAX_NORM:e}; train it again");
            return Err(Error::params("router", reason));
        }
        Ok(Quantizer { router: Some(Router { rows: Coarse::new(matrix, Metric::Ip) }), ..self })
    }

    /// Documents (n x dim) as lists and codes meet them, n x code_dim: mapped by the code head, if there is one.
    pub fn map_documents<'x>(&self, documents: &'x Array2<f32>) -> Cow<'x, Array2<f32>> {
        match &self.heads.code_document {
            Some(head) => Cow::Owned(head.apply_rows(documents.view())),
            None => Cow::Borrowed(documents),
        }
    }

    /// The lists to scan for a query (code_dim values), most promising first, into `out`: those that the router ranks
    /// highest, or the nearest where there is no router or `geometric` asks for them. Base scores are those of the
    /// centroids either way, because the codes hold what is left of documents beyond their centroids.
    pub fn probe(
        &self,
        kernels: &Kernels,
        query: &[f32],
        nprobe: usize,
        geometric: bool,
        scratch: &mut ProbeScratch,
        out: &mut Vec<Probe>,
    ) {
        out.clear();
        match self.router.as_ref().filter(|_| !geometric) {
            None => out.extend(self.coarse.probe(kernels, query, nprobe, scratch)),
            Some(router) => out.extend(
                router
                    .rows
                    .probe(kernels, query, nprobe, scratch)
                    .map(|probe| Probe { base: self.coarse.base(kernels, query, probe.list), ..probe }),
            ),
        }
    }
}

/// Every head maps vectors of one dimension, and the two sides of a grain meet in one.
fn check_heads(heads: &Heads, metric: Metric, code_dim: usize) -> Result<()> {
    let Some(first) = heads.all().next() else { return Ok(()) };
    if metric == Metric::L2 {
        return Err(Error::Unsupported {
            what: "a head under the metric l2".into(),
            remedy: "train heads under ip or cosine, or leave them out".into(),
        });
    }
    let dim = first.input_dim();
    for (name, head) in heads.named() {
        head.check()?;
        if head.input_dim() != dim {
            return Err(Error::mismatch(format!("input dimension of head {name}"), dim, head.input_dim()));
        }
    }
    let output = |head: &Option<Head>| head.as_ref().map_or(dim, Head::output_dim);
    for (side, head) in [("code_query", &heads.code_query), ("code_document", &heads.code_document)] {
        if output(head) != code_dim {
            return Err(Error::mismatch(format!("output dimension of {side}"), code_dim, output(head)));
        }
    }
    let (query, document) = (output(&heads.dense_query), output(&heads.dense_document));
    if query != document {
        return Err(Error::mismatch("output dimension of dense_query (that of dense_document)", document, query));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::random_quantizer;
    use super::*;
    use crate::heads::tests::random_head;
    use crate::sample::Rng;
    use crate::simd::CodeBits;

    fn plain(metric: Metric) -> Quantizer {
        random_quantizer(metric, CodeBits::Eight, false, 2)
    }

    /// Fails unless these heads are refused with this text. The quantizer codes 24 dimensions.
    fn assert_refused(heads: Heads, text: &str) {
        let error = plain(Metric::Ip).with_heads(heads).unwrap_err().to_string();
        assert!(error.contains(text), "{error:?} does not say {text:?}");
    }

    #[test]
    fn dimensions_follow_the_heads() {
        let dims =
            |heads| plain(Metric::Cosine).with_heads(heads).map(|q| (q.dim(), q.code_dim(), q.dense_dim())).unwrap();
        let head = |input, output| Some(random_head(input, None, output, 1));
        assert_eq!(dims(Heads::default()), (24, 24, 24));
        let both = Heads { code_query: head(40, 24), code_document: head(40, 24), ..Heads::default() };
        assert_eq!(dims(both.clone()), (40, 24, 40));
        assert_eq!(dims(Heads { dense_query: head(40, 8), dense_document: head(40, 8), ..both }), (40, 24, 8));
        assert_eq!(dims(Heads { code_query: head(24, 24), ..Heads::default() }), (24, 24, 24));
        assert_eq!(dims(Heads { dense_query: head(24, 24), ..Heads::default() }), (24, 24, 24));
        let dense = Heads { dense_query: head(24, 8), dense_document: head(24, 8), ..Heads::default() };
        assert_eq!(dims(dense), (24, 24, 8));
    }

    #[test]
    fn heads_that_do_not_fit_are_refused() {
        let head = |input, output| Some(random_head(input, None, output, 1));
        assert_refused(Heads { code_query: head(40, 24), ..Heads::default() }, "output dimension of code_document");
        let other = Heads { code_query: head(40, 24), code_document: head(40, 23), ..Heads::default() };
        assert_refused(other, "expected 24, found 23");
        let inputs = Heads { code_query: head(24, 24), dense_query: head(25, 24), ..Heads::default() };
        assert_refused(inputs, "input dimension of head dense_query does not match: expected 24, found 25");
        let dense = Heads { dense_query: head(24, 8), dense_document: head(24, 9), ..Heads::default() };
        assert_refused(dense, "expected 9, found 8");
        assert_refused(Heads { dense_document: head(24, 9), ..Heads::default() }, "expected 9, found 24");
        let mut broken = head(24, 24);
        broken.as_mut().unwrap().linear[[0, 0]] = f32::NAN;
        assert_refused(Heads { code_query: broken, ..Heads::default() }, "not finite");
        let heads = Heads { code_query: head(24, 24), ..Heads::default() };
        let error = plain(Metric::L2).with_heads(heads).unwrap_err();
        assert!(matches!(&error, Error::Unsupported { .. }) && error.to_string().contains("l2"), "{error}");
    }

    #[test]
    fn routers_of_another_shape_or_value_are_refused() {
        let refused = |matrix: Array2<f32>| plain(Metric::Ip).with_router(matrix).unwrap_err().to_string();
        assert!(refused(Array2::zeros((9, 23))).contains("expected (9, 24), found (9, 23)"));
        assert!(refused(Array2::zeros((8, 24))).contains("found (8, 24)"));
        for value in [f32::NAN, f32::INFINITY, 1e30] {
            let mut matrix = Array2::zeros((9, 24));
            matrix[[3, 5]] = value;
            assert!(refused(matrix).contains("row 3"), "{value}");
        }
    }

    #[test]
    fn a_router_chooses_lists_but_scores_start_from_centroids() {
        for metric in [Metric::Ip, Metric::Cosine, Metric::L2] {
            let quantizer = plain(metric).with_router(random_head(24, None, 9, 3).linear).unwrap();
            let (kernels, mut scratch) = (Kernels::detect(), ProbeScratch::default());
            let (mut routed, mut nearest, mut all) = (Vec::new(), Vec::new(), Vec::new());
            let mut rng = Rng::new(4);
            let mut differ = 0;
            for _ in 0..20 {
                let query: Vec<f32> = (0..24).map(|_| rng.normal()).collect();
                quantizer.probe(kernels, &query, 3, false, &mut scratch, &mut routed);
                let scores = quantizer.router().unwrap().dot(&ndarray::aview1(&query[..]));
                let mut order: Vec<u32> = (0..9).collect();
                order.sort_by(|&a, &b| scores[b as usize].total_cmp(&scores[a as usize]));
                assert_eq!(routed.iter().map(|p| p.list).collect::<Vec<_>>(), order[..3]);
                quantizer.probe(kernels, &query, 3, true, &mut scratch, &mut nearest);
                let plain = quantizer.coarse().probe(kernels, &query, 9, &mut scratch).collect::<Vec<_>>();
                assert_eq!(nearest, plain[..3]);
                differ += usize::from(nearest != routed);
                quantizer.probe(kernels, &query, 9, false, &mut scratch, &mut all);
                for probe in &all {
                    let base = plain.iter().find(|p| p.list == probe.list).unwrap().base;
                    assert!((probe.base - base).abs() < 1e-4 * (1.0 + base.abs()), "{metric}");
                }
            }
            assert!(differ > 10, "{metric}: routing changed {differ} of 20");
        }
    }
}
