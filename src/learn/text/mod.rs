//! From texts to a static encoder with its codes: the progressive optimisation, encoder included.
//!
//! ```text
//! texts --> vocabulary --> encoder alone: pairs, or a teacher's vectors
//!                               |
//!                               v
//!           stage 1: encoder and codes together (or OPQ over the encoder as it is) --> quantizer
//!                               |
//!                               v
//!           every query searched with the codes: its real candidates
//!                               |
//!                               v
//!           stage 2: an encoder of its own for the dense grain, trained on those candidates
//! ```
//! With stage 2 the folder holds both encoders as one: its vectors are those of the first, then those of the second, and the
//! heads of the quantizer ([`crate::heads`]) take for each grain the half that is its own. So build and search need nothing new:
//! texts go through one encoder, and the rest is in the quantizer file, which names the encoder that it belongs to.
//!
//! What is measured is the encoder as it is written, its table rounded.

mod data;
mod measure;

pub use measure::TextQuality;

use ndarray::{Array2, Axis};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::{Loaded, StageReport, TemporaryIndex, candidates, seconds};
use crate::build::{auto_lists, peak_memory};
use crate::dataset::{TextFile, VectorFile};
use crate::encoder::{Encoder, TableElement, Vocabulary, as_written, check_output, write_static};
use crate::error::{Error, Result};
use crate::heads::{Head, Heads};
use crate::linalg::{blocked, normalise};
use crate::quantizer::Quantizer;
use crate::train::{
    CODE_ROWS, CodeTraining, Example, QuantizerSpec, StaticModel, Teaching, TextExamples, TextLessons, TextTraining,
    Texts, Watch, check_codes_and_text, inverse_frequencies, train_codes_and_text, train_quantizer, train_text,
};
use crate::types::Metric;
use crate::vfs::{RealVfs, replace_file};
use data::TextData;
use measure::{Measured, measure, texts_a_second};

/// Name of the quantizer file in the encoder's folder.
pub const QUANTIZER: &str = "quantizer.bg";

/// What a static encoder learns from, and what is made of it.
#[derive(Debug, Clone)]
pub struct TextSpec {
    /// Pairs: query, tab, document, perhaps a tab and a group.
    pub pairs: Option<PathBuf>,
    /// Texts to be taught, one a line.
    pub texts: Option<PathBuf>,
    /// Their vectors, a row a line.
    pub vectors: Option<PathBuf>,
    /// An encoder that makes their vectors where there is no file of them.
    pub teacher: Option<PathBuf>,
    /// A static encoder to go on from, with its vocabulary.
    pub start: Option<PathBuf>,
    /// An encoder whose tokenizer is taken; without one a vocabulary is trained.
    pub tokenizer: Option<PathBuf>,
    /// Most tokens of a vocabulary that is trained.
    pub vocabulary: usize,
    /// Width of the table.
    pub width: usize,
    /// Dimension of the vectors (a teacher's decides).
    pub dim: usize,
    /// The encoder alone.
    pub text: TextTraining,
    /// Lists (0: by the number of documents) and codes; None: an encoder without.
    pub codes: Option<CodeTraining>,
    /// Whether codes and encoder are trained together; else codes are OPQ's.
    pub together: bool,
    /// Weight of the full-precision loss beside that of the codes.
    pub dense_weight: f32,
    /// Stage 2.
    pub dense: Option<TextTraining>,
    /// Candidates a query that stage 2 learns from.
    pub candidates: usize,
    /// Lists probed; 0: the index's default.
    pub nprobe: usize,
    /// Share of the groups of pairs to choose by.
    pub valid_share: f64,
    /// Share of the groups of pairs that is measured at the end.
    pub test_share: f64,
    /// The encoder's folder.
    pub output: PathBuf,
    /// How its table is written.
    pub element: TableElement,
    /// Of every random choice; which pairs are held out does not depend on it.
    pub seed: u64,
}

/// What training came to.
#[derive(Debug, Default, Serialize)]
pub struct TextReport {
    /// Rows of the table.
    pub vocabulary: usize,
    /// Documents, or texts that were taught.
    pub documents: usize,
    /// Pairs learned from.
    pub train_pairs: usize,
    /// Pairs chosen by.
    pub valid_pairs: usize,
    /// Pairs measured on.
    pub test_pairs: usize,
    /// Each stage with its epochs.
    pub stages: Vec<StageReport>,
    /// What is found for the held-out queries before stage 2.
    pub before: Option<TextQuality>,
    /// What is found for them at the end.
    pub quality: Option<TextQuality>,
    /// Queries and documents that the written encoder encodes a second, on one thread.
    pub texts_a_second: [f64; 2],
    /// Bytes of the encoder's table, projection and tokenizer on disk.
    pub bytes: u64,
    /// Seconds in all.
    pub seconds: f64,
    /// Most memory used, bytes.
    pub peak_memory: u64,
}

/// Trains what `spec` asks for; writes the encoder's folder and, with codes, its quantizer file.
///
/// # Errors
/// What reading the files gives, `InvalidParams` for settings and an output that cannot be written, before anything is trained;
/// `Diverged`. Nothing is written then.
pub fn learn_text(spec: &TextSpec, watch: &dyn Watch) -> Result<TextReport> {
    let began = Instant::now();
    check(spec)?;
    let data = spec.pairs.as_deref().map(|path| TextData::read(path, spec.valid_share, spec.test_share)).transpose()?;
    let taught = spec.texts.as_deref().map(read_texts).transpose()?;
    let (vocabulary, start) = vocabulary(spec, data.as_ref(), taught.as_deref())?;
    let mut report = TextReport { vocabulary: vocabulary.size(), ..TextReport::default() };
    let dim = start.as_ref().map(StaticModel::dim);
    let teaching = taught.as_ref().map(|texts| teach(spec, &vocabulary, dim, texts, watch)).transpose()?;
    let examples = data.as_ref().map(|data| data.examples(&vocabulary)).transpose()?;
    report.documents = taught.as_ref().map_or(0, Vec::len);
    if let (Some(examples), Some(data)) = (&examples, &data) {
        report.documents = examples.documents.len();
        (report.train_pairs, report.valid_pairs) = (examples.train.len(), examples.valid.len());
        report.test_pairs = data.test.len();
    }
    let test = data.as_ref().map_or(&[][..], |data| data.test.as_slice());
    let model = first_model(spec, &vocabulary, start, examples.as_ref(), teaching.as_ref())?;
    let lessons = TextLessons { pairs: examples.as_ref(), candidates: None, teaching: teaching.as_ref() };
    let (model, quantizer) = Stages { spec, report: &mut report, watch }.all(&model, lessons, test)?;
    let encoder = write(spec, &model, &vocabulary, quantizer.as_ref())?;
    if let Some(examples) = &examples {
        report.quality = found(&model, examples, test, quantizer.as_ref(), spec, watch)?;
    }
    let taught = taught.as_deref().unwrap_or_default();
    let samples = data.as_ref().map_or([taught, taught], |data| [data.queries.as_slice(), data.documents.as_slice()]);
    report.texts_a_second = [texts_a_second(&encoder, samples[0])?, texts_a_second(&encoder, samples[1])?];
    let size = |name: &str| std::fs::metadata(spec.output.join(name)).map_or(0, |found| found.len());
    report.bytes = size("model.safetensors") + size("tokenizer.json");
    (report.seconds, report.peak_memory) = (seconds(began), peak_memory());
    Ok(report)
}

/// Writes the encoder and, beside it in its folder, the quantizer; opens the encoder.
fn write(
    spec: &TextSpec,
    model: &StaticModel,
    vocabulary: &Vocabulary,
    quantizer: Option<&Quantizer>,
) -> Result<Encoder> {
    write_static(&RealVfs, &spec.output, &model.to_table()?, vocabulary, spec.element)?;
    let encoder = Encoder::open(&spec.output)?;
    if let Some(quantizer) = quantizer {
        let quantizer = quantizer.clone().with_encoder(encoder.id());
        replace_file(&RealVfs, &spec.output.join(QUANTIZER), |beside| {
            quantizer.write(&RealVfs, beside, [0; 16]).map(drop)
        })?;
    }
    Ok(encoder)
}

/// What is found for the queries of `test`, if there are any, by the model as it is written.
fn found(
    model: &StaticModel,
    examples: &TextExamples,
    test: &[Example],
    quantizer: Option<&Quantizer>,
    spec: &TextSpec,
    watch: &dyn Watch,
) -> Result<Option<TextQuality>> {
    if test.is_empty() {
        return Ok(None);
    }
    let model = &StaticModel::from_table(&as_written(&model.to_table()?, spec.element)?);
    measure(&Measured { model, examples, test, quantizer }, spec, watch).map(Some)
}

/// All texts of a file.
fn read_texts(path: &Path) -> Result<Vec<String>> {
    let mut file = TextFile::open(path, &[])?;
    let mut texts = Vec::new();
    while let Some(text) = file.next_text()? {
        texts.push(text.map_err(|reason| Error::input(path, format!("row {}", texts.len()), reason))?);
    }
    Ok(texts)
}

/// Refuses combinations that cannot train before anything is read.
fn check(spec: &TextSpec) -> Result<()> {
    if spec.pairs.is_none() && spec.texts.is_none() {
        return Err(Error::params(
            "pairs",
            "neither pairs nor texts were given; give --pairs, or --texts with --teacher",
        ));
    }
    if spec.texts.is_some() && spec.vectors.is_some() == spec.teacher.is_some() {
        return Err(Error::params("texts", "they need vectors to learn; give one of --vectors and --teacher"));
    }
    if spec.pairs.is_none() && (spec.codes.is_some() || spec.dense.is_some()) {
        return Err(Error::params("pairs", "none were given; codes and stage 2 learn from pairs"));
    }
    if spec.dense.is_some() && spec.codes.is_none() {
        return Err(Error::params("candidates", "stage 2 learns from what codes return; give --code-bytes"));
    }
    if spec.start.is_some() && spec.tokenizer.is_some() {
        return Err(Error::params("tokenizer", "an encoder to start from has its own; leave it out"));
    }
    for (name, share) in [("valid_share", spec.valid_share), ("test_share", spec.test_share)] {
        if !(0.0..0.5).contains(&share) {
            return Err(Error::params(name, format!("{share}; give 0 to below 0.5")));
        }
    }
    spec.text.check()?;
    if let Some(codes) = spec.codes.as_ref().filter(|_| spec.together) {
        // 0 lists: as many as the number of documents says.
        let codes = CodeTraining { lists: codes.lists.max(1), ..codes.clone() };
        check_codes_and_text(&codes, &spec.text, spec.dense_weight)?;
    }
    spec.dense.as_ref().map_or(Ok(()), TextTraining::check)?;
    check_output(&RealVfs, &spec.output)
}

/// The vocabulary, and the encoder to go on from. Held-out queries take no part in training one.
fn vocabulary(
    spec: &TextSpec,
    data: Option<&TextData>,
    taught: Option<&[String]>,
) -> Result<(Vocabulary, Option<StaticModel>)> {
    if let Some(dir) = &spec.start {
        let encoder = Encoder::open(dir)?;
        let table = encoder.table().ok_or_else(|| Error::Unsupported {
            what: format!("going on from the {} encoder in {}", encoder.kind(), dir.display()),
            remedy: "start from a static one".into(),
        })?;
        return Ok((Vocabulary::open(dir)?, Some(StaticModel::from_table(table))));
    }
    if let Some(dir) = &spec.tokenizer {
        return Ok((Vocabulary::open(dir)?, None));
    }
    let mut texts: Vec<&str> = taught.into_iter().flatten().map(String::as_str).collect();
    texts.extend(data.into_iter().flat_map(TextData::seen));
    Ok((Vocabulary::train(&texts, spec.vocabulary)?, None))
}

/// Texts with their vectors, from a file or from the teacher; of `dim` dimensions, where an encoder to go on from has them.
fn teach(
    spec: &TextSpec,
    vocabulary: &Vocabulary,
    dim: Option<usize>,
    texts: &[String],
    watch: &dyn Watch,
) -> Result<Teaching> {
    let check_dim = |found| match dim {
        Some(dim) if dim != found => Err(Error::mismatch("dimension of the teacher's vectors", dim, found)),
        _ => Ok(()),
    };
    let tokens = Texts::new(&vocabulary.tokens(texts)?);
    let mut vectors = match (&spec.vectors, &spec.teacher) {
        (Some(path), _) => {
            let mut file = VectorFile::open(path, None)?;
            if file.rows() != texts.len() as u64 {
                return Err(Error::mismatch(format!("rows of {}", path.display()), texts.len(), file.rows()));
            }
            check_dim(file.dim())?;
            let mut all = vec![0.0; texts.len() * file.dim()];
            file.read(0, &mut all)?;
            Array2::from_shape_vec((texts.len(), file.dim()), all).expect("whole rows")
        }
        (None, Some(dir)) => {
            let teacher = Encoder::open(dir)?;
            check_dim(teacher.dim())?;
            ask(&teacher, texts, watch)?
        }
        (None, None) => return Err(Error::params("texts", "they need vectors to learn; give --vectors or --teacher")),
    };
    for (i, mut row) in vectors.rows_mut().into_iter().enumerate() {
        let row = row.as_slice_mut().expect("C order");
        if row.iter().any(|v| !v.is_finite()) || normalise(row) == 0.0 {
            return Err(Error::params("vectors", format!("row {i} has no direction; mend it")));
        }
    }
    Ok(Teaching { texts: tokens, vectors })
}

/// The teacher's vectors.
fn ask(teacher: &Encoder, texts: &[String], watch: &dyn Watch) -> Result<Array2<f32>> {
    const AT_ONCE: usize = 512;
    watch.begin("encode by the teacher", texts.len() as u64);
    let mut vectors = Array2::zeros((texts.len(), teacher.dim()));
    for (texts, mut rows) in texts.chunks(AT_ONCE).zip(vectors.axis_chunks_iter_mut(Axis(0), AT_ONCE)) {
        watch.check()?;
        rows.assign(&teacher.encode(texts)?);
        watch.advance(texts.len() as u64);
    }
    Ok(vectors)
}

fn first_model(
    spec: &TextSpec,
    vocabulary: &Vocabulary,
    start: Option<StaticModel>,
    examples: Option<&TextExamples>,
    teaching: Option<&Teaching>,
) -> Result<StaticModel> {
    if let Some(start) = start {
        return Ok(start);
    }
    let texts: Vec<&Texts> = examples.map(|e| &e.documents).into_iter().chain(teaching.map(|t| &t.texts)).collect();
    let dim = teaching.map_or(spec.dim, |t| t.vectors.ncols());
    StaticModel::random(inverse_frequencies(&texts, vocabulary.size()), spec.width, dim, spec.seed)
}

struct Stages<'a> {
    spec: &'a TextSpec,
    report: &'a mut TextReport,
    watch: &'a dyn Watch,
}

impl Stages<'_> {
    fn done(&mut self, stage: &'static str, began: Instant, epochs: Vec<crate::train::Epoch>) {
        self.report.stages.push(StageReport { stage, seconds: seconds(began), gflops: 0.0, epochs });
    }

    /// All that are asked for. `test` is measured before stage 2, too.
    fn all(
        &mut self,
        start: &StaticModel,
        lessons: TextLessons<'_>,
        test: &[Example],
    ) -> Result<(StaticModel, Option<Quantizer>)> {
        let (spec, watch) = (self.spec, self.watch);
        let model = self.alone(start, lessons)?;
        let (Some(codes), Some(examples)) = (&spec.codes, lessons.pairs) else { return Ok((model, None)) };
        let lists = if codes.lists == 0 { auto_lists(examples.documents.len() as u64) } else { codes.lists };
        let (model, quantizer) = self.codes(model, examples, &CodeTraining { lists, ..codes.clone() })?;
        let Some(settings) = &spec.dense else { return Ok((model, Some(quantizer))) };
        self.report.before = found(&model, examples, test, Some(&quantizer), spec, watch)?;
        let (model, quantizer) = self.dense(model, quantizer, examples, settings)?;
        Ok((model, Some(quantizer)))
    }

    /// The encoder alone.
    fn alone(&mut self, model: &StaticModel, lessons: TextLessons<'_>) -> Result<StaticModel> {
        let began = Instant::now();
        if self.spec.text.epochs == 0 {
            return Ok(model.clone());
        }
        let (model, epochs) = train_text(model, lessons, &self.spec.text, self.watch)?;
        self.done("encoder", began, epochs);
        Ok(model)
    }

    /// Codes: together with the encoder, or OPQ's over its vectors. Either way the rotation becomes part of the projection.
    fn codes(
        &mut self,
        model: StaticModel,
        examples: &TextExamples,
        codes: &CodeTraining,
    ) -> Result<(StaticModel, Quantizer)> {
        let began = Instant::now();
        if self.spec.together {
            let (text, weight) = (&self.spec.text, self.spec.dense_weight);
            let made = train_codes_and_text(&model, examples, codes, text, weight, self.watch)?;
            self.done("codes and encoder", began, made.curve);
            return Ok((made.model, made.quantizer));
        }
        let documents = model.encode(&examples.documents);
        let (metric, shape, seed) = (Metric::Cosine, codes.shape, codes.seed);
        let lists = codes.lists.min(documents.nrows());
        let spec = QuantizerSpec { metric, lists, shape, opq: true, code_rows: CODE_ROWS, seed };
        let plain = train_quantizer(documents.view(), &spec, self.watch)?;
        let made = unrotated(&plain, model);
        self.done("opq", began, Vec::new());
        made
    }

    /// An encoder for the dense grain, trained on the real candidates, beside the one of the codes.
    fn dense(
        &mut self,
        model: StaticModel,
        quantizer: Quantizer,
        examples: &TextExamples,
        settings: &TextTraining,
    ) -> Result<(StaticModel, Quantizer)> {
        let (spec, watch) = (self.spec, self.watch);
        let began = Instant::now();
        let found = {
            let encoded = examples.encoded(&model);
            let index = TemporaryIndex::over(&encoded.documents, &quantizer, &spec.output, spec.seed, watch)?;
            let document_rows = (0..encoded.documents.nrows() as u64).collect();
            candidates(&index, &Loaded { examples: encoded, document_rows }, spec.candidates, spec.nprobe, watch)?
        };
        self.done("candidates", began, Vec::new());
        let began = Instant::now();
        let lessons = TextLessons { pairs: Some(examples), candidates: Some(&found), teaching: None };
        let (dense, epochs) = train_text(&model, lessons, settings, watch)?;
        self.done("dense encoder", began, epochs);
        let (first, second) = (model.dim(), dense.dim());
        let half = |from: usize, count: usize| Head {
            linear: Array2::from_shape_fn((count, first + second), |(i, j)| f32::from(j == from + i)),
            residual: None,
            normalise: true,
        };
        let (code, dense_half) = (half(0, first), half(first, second));
        let heads = Heads {
            code_query: Some(code.clone()),
            code_document: Some(code),
            dense_query: Some(dense_half.clone()),
            dense_document: Some(dense_half),
        };
        Ok((model.beside(&dense)?, quantizer.with_heads(heads)?))
    }
}

/// The same lists and codes without a rotation, which becomes part of the encoder's projection.
fn unrotated(quantizer: &Quantizer, model: StaticModel) -> Result<(StaticModel, Quantizer)> {
    let Some(rotation) = quantizer.rotation() else { return Ok((model, quantizer.clone())) };
    let centroids = blocked::nt(quantizer.coarse().centroids(), rotation);
    let projection = blocked::nn(rotation, model.projection.view());
    let turned = Quantizer::new(quantizer.metric(), centroids, None, quantizer.product().clone())
        .with_groups(quantizer.coarse().group_starts().to_vec())?;
    Ok((StaticModel { projection, ..model }, turned))
}

#[cfg(test)]
mod tests;
