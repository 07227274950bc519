//! What stage 1 starts from: heads, rotation, lists and codebooks of OPQ, and the vectors in the space they make.

use ndarray::Array2;
use std::borrow::Cow;

use super::super::examples::{Examples, select};
use super::super::head::{self, TrainedHead};
use super::super::optimiser::Parameter;
use super::super::soft::SoftCodes;
use super::super::{CODE_ROWS, QuantizerSpec, Watch, train_quantizer};
use super::model::{LossSettings, Model, mean_square};
use super::{CodeTraining, HeadChoice, Method};
use crate::error::Result;
use crate::heads::{Head, Heads};
use crate::linalg::blocked;
use crate::quantizer::{CodeShape, Quantizer};
use crate::sample::Rng;
use crate::types::Metric;

/// Offsets learn so much more slowly than codewords: they know nothing of the query, and soon learn by heart which documents
/// are asked for in training.
const OFFSET_RATE: f32 = 0.1;

/// The start of a run.
pub(super) struct Start<'a> {
    /// Lists and codes of OPQ over the mapped documents.
    pub(super) quantizer: Quantizer,
    /// Its rotation, d x d.
    pub(super) rotation: Array2<f32>,
    /// Queries and documents as steps take them: rotated, unless a head does that.
    pub(super) queries: Cow<'a, Array2<f32>>,
    pub(super) documents: Cow<'a, Array2<f32>>,
    /// Queries and documents as the heads of the start map them, rotated, where they teach and a head maps them.
    mapped: [Option<Array2<f32>>; 2],
    /// The heads, with the rotation folded in.
    heads: [Option<Head>; 2],
}

impl<'a> Start<'a> {
    /// Maps the documents and trains OPQ on them.
    pub(super) fn new(
        examples: &'a Examples,
        settings: &CodeTraining,
        given: &Heads,
        watch: &dyn Watch,
    ) -> Result<Start<'a>> {
        let heads = start_heads(examples.dim(), settings, given);
        let [query_head, document_head] = &heads;
        let documents = document_head.as_ref().map(|head| head.apply_rows(examples.documents.view()));
        let documents = documents.as_ref().unwrap_or(&examples.documents);
        let quantizer = train_quantizer(documents.view(), &spec(settings, documents.nrows()), watch)?;
        let rotation = quantizer.rotation().expect("asked for").to_owned();
        let rotate = |x: &Array2<f32>| blocked::nt(x.view(), rotation.view());
        let teaches = teacher_weight(settings) > 0.0;
        let (documents, mapped_documents) = match document_head {
            None => (Cow::Owned(rotate(documents)), None),
            Some(_) => (Cow::Borrowed(&examples.documents), teaches.then(|| rotate(documents))),
        };
        let (queries, mapped_queries) = match query_head {
            None => (Cow::Owned(rotate(&examples.queries)), None),
            Some(head) => {
                let mapped = || rotate(&head.apply_rows(examples.queries.view()));
                (Cow::Borrowed(&examples.queries), teaches.then(mapped))
            }
        };
        let heads = heads.map(|head| head.map(|head| head::rotated(&head, rotation.view())));
        Ok(Start { quantizer, rotation, queries, documents, mapped: [mapped_queries, mapped_documents], heads })
    }

    /// Queries and documents whose inner products teach (where the settings ask for a teacher).
    pub(super) fn teacher(&self) -> (&Array2<f32>, &Array2<f32>) {
        let [queries, documents] = &self.mapped;
        (queries.as_ref().unwrap_or(&self.queries), documents.as_ref().unwrap_or(&self.documents))
    }

    /// The model before the first step.
    pub(super) fn model(&self, settings: &CodeTraining) -> Model {
        let d = self.quantizer.code_dim();
        let centroids = blocked::nt(self.quantizer.coarse().centroids(), self.rotation.view());
        let shape = settings.shape;
        let words = Array2::from_shape_vec((d, shape.codewords()), self.quantizer.product().codewords().to_vec());
        let words = words.expect("d x K codewords");
        let offsets = start_offsets(&words, shape);
        let error = self.mean_square_error() * d as f32 / shape.subspaces() as f32;
        let temperature = (settings.choice_temperature * error).max(1e-9);
        let rate = |x: &Array2<f32>, units: f32| mean_square(x).sqrt() * units;
        let several = self.quantizer.coarse().lists() > 1;
        let list_rate = if several { rate(&centroids, settings.list_rate) } else { 0.0 };
        let trained =
            |head: &Option<Head>| head.as_ref().map(|h| TrainedHead::new(h, settings.head_rate, settings.head_decay));
        Model {
            soft: SoftCodes { shape, dim: d, temperature },
            offsets: Parameter::new(offsets.clone(), rate(&offsets, settings.code_rate * OFFSET_RATE)),
            words: Parameter::new(words.clone(), rate(&words, settings.code_rate)),
            centroids: Parameter::new(centroids, list_rate),
            query_head: trained(&self.heads[0]),
            document_head: trained(&self.heads[1]),
            loss: LossSettings {
                score_temperature: settings.score_temperature,
                teacher_temperature: settings.teacher_temperature,
                teacher_weight: teacher_weight(settings),
                lists: several && settings.list_rate > 0.0,
                translation: settings.translation,
            },
            list_weight: None,
        }
    }

    /// Of an element of a document's reconstruction, over some of the documents.
    fn mean_square_error(&self) -> f32 {
        let n = self.documents.nrows();
        let sampled = select(self.documents.view(), (0..n as u32).step_by(n.div_ceil(4_096)));
        // Rotation keeps lengths, so errors may be taken on either side of it.
        let sampled = match &self.heads[1] {
            Some(head) => head.apply_rows(sampled.view()),
            None => sampled,
        };
        let plain = blocked::nn(sampled.view(), self.rotation.view());
        mean_square(&(&self.quantizer.reconstruct(plain.view()).vectors - &plain))
    }
}

/// Heads of queries and documents where they are trained: the given ones, or the identity.
fn start_heads(dim: usize, settings: &CodeTraining, given: &Heads) -> [Option<Head>; 2] {
    let mut rng = Rng::stream(settings.seed, 0x4ead);
    let normalise = settings.metric == Metric::Cosine;
    let mut head = |wanted: bool, given: &Option<Head>| {
        let identity = head::start(Array2::eye(dim), settings.hidden, normalise, &mut rng);
        wanted.then(|| given.clone().unwrap_or(identity))
    };
    let wanted = settings.heads;
    [head(wanted != HeadChoice::None, &given.code_query), head(wanted == HeadChoice::Both, &given.code_document)]
}

fn teacher_weight(settings: &CodeTraining) -> f32 {
    if settings.method == Method::Distill { 1.0 } else { settings.teacher_weight }
}

/// OPQ over `rows` documents, as the settings want it.
pub(super) fn spec(settings: &CodeTraining, rows: usize) -> QuantizerSpec {
    QuantizerSpec {
        metric: settings.metric,
        lists: settings.lists.min(rows),
        shape: settings.shape,
        opq: true,
        code_rows: CODE_ROWS,
        seed: settings.seed,
    }
}

/// `-|c|^2 / 2` of every codeword, M x K.
fn start_offsets(words: &Array2<f32>, shape: CodeShape) -> Array2<f32> {
    let mut offsets = Array2::zeros((shape.subspaces(), shape.codewords()));
    for m in 0..shape.subspaces() {
        for j in shape.dims(words.nrows(), m) {
            let row = words.row(j);
            offsets.row_mut(m).zip_mut_with(&row, |offset, w| *offset -= 0.5 * w * w);
        }
    }
    offsets
}
