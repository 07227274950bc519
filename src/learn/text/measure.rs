//! What an encoder and its codes find for queries that were held out.

use serde::Serialize;
use std::time::Instant;

use super::TextSpec;
use crate::encoder::Encoder;
use crate::error::{Error, Result};
use crate::learn::{Loaded, Quality, TemporaryIndex, TestSet};
use crate::quantizer::Quantizer;
use crate::search::SearchParams;
use crate::train::{Example, StaticModel, TextExamples, Watch};

/// Rows verified: codes must rank a document among so many for it to be found.
const VERIFIED: usize = 100;
/// Texts that are encoded to see how fast that is.
const TIMED: usize = 5_000;

/// Shares of right documents found.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct TextQuality {
    /// Held-out queries.
    pub queries: usize,
    /// By exact search over the encoder's whole vectors.
    pub exact: Quality,
    /// By the index.
    pub index: Option<Quality>,
    /// Lists of the index.
    pub lists: usize,
}

pub(super) struct Measured<'a> {
    pub(super) model: &'a StaticModel,
    pub(super) examples: &'a TextExamples,
    pub(super) test: &'a [Example],
    pub(super) quantizer: Option<&'a Quantizer>,
}

pub(super) fn measure(measured: &Measured<'_>, spec: &TextSpec, watch: &dyn Watch) -> Result<TextQuality> {
    let examples = measured.examples.encoded(measured.model);
    let document_rows = (0..examples.documents.nrows() as u64).collect();
    let loaded = Loaded { examples, document_rows };
    let test = TestSet::new(&loaded, measured.test, watch)?;
    let exact = test.exact(&loaded, watch)?;
    let Some(quantizer) = measured.quantizer else {
        return Ok(TextQuality { queries: test.queries(), exact, index: None, lists: 0 });
    };
    let index = TemporaryIndex::over(&loaded.examples.documents, quantizer, &spec.output, spec.seed, watch)?;
    let params = SearchParams { k: VERIFIED, candidates: VERIFIED, nprobe: spec.nprobe, ..SearchParams::default() };
    let found = test.measure(&index, &loaded, &params, watch)?;
    Ok(TextQuality { queries: test.queries(), exact, index: Some(found), lists: quantizer.coarse().lists() })
}

/// Texts a second on one thread, tokenizer included.
pub(super) fn texts_a_second(encoder: &Encoder, texts: &[String]) -> Result<f64> {
    let texts = &texts[..texts.len().min(TIMED)];
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    let pool = pool.map_err(|e| Error::params("threads", e.to_string()))?;
    let began = Instant::now();
    pool.install(|| encoder.encode(texts))?;
    Ok(texts.len() as f64 / began.elapsed().as_secs_f64().max(1e-9))
}
