//! The trained model: its answers, and its file.

use std::path::Path;

use ndarray::{Array2, ArrayView2};
use serde::{Deserialize, Serialize};

use super::measure::best;
use super::network::{Layer, Network};
use super::{Kind, Quality, Row, Target, features, write_features};
use crate::adapters::tensors::{Reader, Writer};
use crate::adapters::{Adapter, AdapterShape, TaskNames, other_encoder};
use crate::error::{Error, Result};
use crate::linalg::blocked;
use crate::train::loss::softmax_rows;
use crate::vfs::Vfs;

/// What such a file says it holds.
const KIND: &str = "relevance";
/// Rows that are answered at a time.
const CHUNK: usize = 1_024;

/// The frozen trunk, the adapters of its layers and an output for each task.
#[derive(Debug, Clone)]
pub struct RelevanceModel {
    pub(super) tasks: TaskNames,
    pub(super) kinds: Vec<Kind>,
    pub(super) network: Network,
    /// Id of the encoder whose vectors it compares, where it is known.
    pub(super) encoder: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    tasks: TaskNames,
    kinds: Vec<Kind>,
    /// Of the vectors.
    dim: usize,
    /// Outputs of each layer of the trunk.
    widths: Vec<usize>,
    /// None: no adapters.
    shape: Option<AdapterShape>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encoder: Option<String>,
}

/// The model of one task, its adapters merged.
#[derive(Debug, Clone)]
pub struct Ranker {
    task: String,
    kind: Kind,
    layers: Vec<Layer>,
    output: Layer,
}

impl RelevanceModel {
    /// Names of the tasks.
    pub fn tasks(&self) -> &TaskNames {
        &self.tasks
    }

    /// What each task asks.
    pub fn kinds(&self) -> &[Kind] {
        &self.kinds
    }

    /// Says whose vectors it compares: the id of an encoder, where it is known.
    pub fn with_encoder(self, encoder: Option<String>) -> RelevanceModel {
        RelevanceModel { encoder, ..self }
    }

    /// Whether it can compare vectors of `dim` elements, made by `encoder` (its id, if it is known). What comes back is to be shown.
    ///
    /// # Errors
    /// `Mismatch` for another dimension.
    pub fn check_index(&self, dim: usize, encoder: Option<&str>) -> Result<Option<String>> {
        if self.dim() != dim {
            return Err(Error::mismatch("dimension of the relevance model", dim, self.dim()));
        }
        Ok(other_encoder("relevance model", self.encoder.as_deref(), encoder))
    }

    /// Dimension of the vectors it compares.
    pub fn dim(&self) -> usize {
        self.network.trunk[0].weight.value.ncols() / 4
    }

    /// Trained values of the adapters; outputs are beside.
    pub fn trainable(&self) -> usize {
        self.network.adapters.iter().map(Adapter::trainable).sum()
    }

    /// The model of one task, its adapters merged into the trunk.
    ///
    /// # Errors
    /// `InvalidParams` that lists the known tasks.
    pub fn ranker(&self, task: &str) -> Result<Ranker> {
        let place = self.tasks.place(task)?;
        let mut layers = self.network.trunk.clone();
        for (layer, adapter) in layers.iter_mut().zip(&self.network.adapters) {
            layer.weight.value = adapter.merge(layer.weight.value.view(), place);
        }
        let (kind, output) = (self.kinds[place].clone(), self.network.outputs[place].clone());
        Ok(Ranker { task: task.to_string(), kind, layers, output })
    }

    /// Writes it as `.safetensors`, whole or not at all.
    ///
    /// # Errors
    /// `Io`.
    pub fn save(&self, vfs: &dyn Vfs, path: &Path) -> Result<()> {
        let mut writer = Writer::default();
        let Network { trunk, adapters, outputs, .. } = &self.network;
        for (kind, layers) in [("trunk", trunk), ("output", outputs)] {
            for (at, Layer { weight, bias }) in layers.iter().enumerate() {
                let (out, input) = weight.value.dim();
                writer.add(&format!("{kind}.{at}.weight"), &[out, input], [&weight.value]);
                writer.add(&format!("{kind}.{at}.bias"), &[1, out], [&bias.value]);
            }
        }
        adapters.iter().enumerate().for_each(|(at, adapter)| adapter.write(&format!("adapter.{at}"), &mut writer));
        let settings = Settings {
            tasks: self.tasks.clone(),
            kinds: self.kinds.clone(),
            dim: self.dim(),
            widths: trunk.iter().map(|layer| layer.weight.value.nrows()).collect(),
            shape: adapters.first().map(|adapter| *adapter.shape()),
            encoder: self.encoder.clone(),
        };
        writer.write(vfs, path, KIND, settings)
    }

    /// Reads what [`RelevanceModel::save`] wrote.
    ///
    /// # Errors
    /// `Io`; `InvalidInput` naming the part that is not as its settings say.
    pub fn load(vfs: &dyn Vfs, path: &Path) -> Result<RelevanceModel> {
        let mut reader = Reader::<Settings>::open(vfs, path, KIND)?;
        reader.settings.check().map_err(|error| reader.bad_settings(&error))?;
        let Settings { tasks, kinds, dim, widths, shape, encoder } = reader.settings.clone();
        let mut layer = |name: String, input: usize, out: usize| -> Result<Layer> {
            let weight = reader.take(&format!("{name}.weight"), &[out, input])?.remove(0);
            Ok(Layer::new(weight, reader.take(&format!("{name}.bias"), &[1, out])?.remove(0)))
        };
        let mut input = 4 * dim;
        let (mut trunk, mut adapters, mut outputs) = (Vec::new(), Vec::new(), Vec::new());
        for (at, &width) in widths.iter().enumerate() {
            trunk.push(layer(format!("trunk.{at}"), input, width)?);
            input = width;
        }
        for (at, kind) in kinds.iter().enumerate() {
            outputs.push(layer(format!("output.{at}"), input, kind.target.outputs())?);
        }
        if let Some(shape) = shape {
            for (at, Layer { weight, .. }) in trunk.iter().enumerate() {
                let (out, input) = weight.value.dim();
                adapters.push(Adapter::read(&format!("adapter.{at}"), &mut reader, input, out, tasks.len(), shape)?);
            }
        }
        reader.finish()?;
        let network = Network { trunk, adapters, outputs, trains_trunk: false };
        Ok(RelevanceModel { tasks, kinds, network, encoder })
    }
}

impl Settings {
    fn check(&self) -> Result<()> {
        self.tasks.check()?;
        self.kinds.iter().try_for_each(Kind::check)?;
        self.shape.iter().try_for_each(AdapterShape::check)?;
        if self.kinds.len() != self.tasks.len() {
            return Err(Error::mismatch("number of kinds", self.tasks.len(), self.kinds.len()));
        }
        // A number read from a file is multiplied by 4 below.
        let sizes = [&[self.dim], &self.widths[..]].concat();
        match self.widths.is_empty() || sizes.iter().any(|&size| size == 0 || size > 1 << 20) {
            true => Err(Error::params("widths", format!("{sizes:?}; give a dimension and widths of 1 to {}", 1 << 20))),
            false => Ok(()),
        }
    }
}

impl Ranker {
    /// Dimension of the vectors it compares.
    pub fn dim(&self) -> usize {
        self.layers[0].weight.value.ncols() / 4
    }

    /// Outputs for features (n x 4 d): n x classes, or n x 1.
    fn outputs(&self, features: Array2<f32>) -> Array2<f32> {
        let hidden = self.layers.iter().fold(features, |x, layer| {
            let mut out = layer.forward(x.view());
            out.mapv_inplace(|v| v.max(0.0));
            out
        });
        self.output.forward(hidden.view())
    }

    /// Outputs for rows, of which texts are rows of `vectors` (n x d).
    fn outputs_of(&self, vectors: ArrayView2<'_, f32>, rows: &[Row]) -> Result<Array2<f32>> {
        self.check_dim(vectors.ncols())?;
        let mut all = Vec::with_capacity(rows.len() * self.kind.target.outputs());
        for rows in rows.chunks(CHUNK) {
            all.extend(self.outputs(features(vectors, rows.iter().map(|row| (row.a, row.b)))));
        }
        Ok(Array2::from_shape_vec((rows.len(), self.kind.target.outputs()), all).expect("as many a row"))
    }

    /// The class of each row, or its value; texts are rows of `vectors` (n x d).
    ///
    /// # Errors
    /// `Mismatch` for vectors of another dimension.
    pub fn answers(&self, vectors: ArrayView2<'_, f32>, rows: &[Row]) -> Result<Vec<f32>> {
        let outputs = self.outputs_of(vectors, rows)?;
        let answer = |row: ndarray::ArrayView1<'_, f32>| match self.kind.target {
            Target::Value { mean, deviation } => row[0] * deviation + mean,
            Target::Classes(_) => best(row.iter().copied()) as f32,
        };
        Ok(outputs.rows().into_iter().map(answer).collect())
    }

    /// How well it answers rows with labels.
    ///
    /// # Errors
    /// As [`Ranker::answers`].
    pub fn quality(&self, vectors: ArrayView2<'_, f32>, rows: &[Row]) -> Result<Quality> {
        let labels: Vec<f32> = rows.iter().map(|row| row.label).collect();
        Ok(Quality::of(&self.kind, self.outputs_of(vectors, rows)?.view(), &labels))
    }

    /// Whether it can order documents for a query.
    ///
    /// # Errors
    /// `Unsupported` for a task of single texts, and where a class is no number.
    pub fn check_ranks(&self) -> Result<()> {
        if !self.kind.pairs {
            return Err(Error::Unsupported {
                what: format!("ranking by task {:?}, which is about single texts", self.task),
                remedy: "rank by a task of pairs of texts".into(),
            });
        }
        self.grades().map(drop)
    }

    /// The last step of a search: the relevance of documents (n x d) to a query (d), all of unit length. It is the label to be
    /// expected: the value, or the mean of the classes' numbers by their probabilities. Classes must be numbers, then.
    ///
    /// # Errors
    /// `Mismatch` for another dimension; as [`Ranker::check_ranks`].
    pub fn rescore(&self, query: &[f32], documents: ArrayView2<'_, f32>) -> Result<Vec<f32>> {
        self.check_dim(query.len())?;
        self.check_dim(documents.ncols())?;
        self.check_ranks()?;
        let grades = self.grades()?;
        let mut features = Array2::zeros((documents.nrows(), 4 * query.len()));
        for (mut row, document) in features.rows_mut().into_iter().zip(documents.rows()) {
            write_features(query.iter().zip(document), row.as_slice_mut().expect("C order"));
        }
        let mut outputs = self.outputs(features);
        if let Target::Value { mean, deviation } = self.kind.target {
            return Ok(outputs.column(0).iter().map(|value| value * deviation + mean).collect());
        }
        softmax_rows(&mut outputs);
        let grades = Array2::from_shape_vec((1, grades.len()), grades).expect("a row");
        Ok(blocked::nt(outputs.view(), grades.view()).into_raw_vec_and_offset().0)
    }

    /// The number that each class stands for.
    fn grades(&self) -> Result<Vec<f32>> {
        let Target::Classes(classes) = &self.kind.target else { return Ok(Vec::new()) };
        let number = |class: &String| class.parse::<f32>().ok().filter(|number| number.is_finite());
        classes.iter().map(number).collect::<Option<_>>().ok_or_else(|| Error::Unsupported {
            what: format!("ranking by task {:?}, whose classes are words", self.task),
            remedy: "rank by a task whose labels are numbers".into(),
        })
    }

    fn check_dim(&self, dim: usize) -> Result<()> {
        if dim == self.dim() {
            return Ok(());
        }
        Err(Error::mismatch("dimension of the vectors to be compared", self.dim(), dim))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Measure;
    use super::super::network::tests::random_network;
    use super::*;
    use crate::adapters::TaskRows;
    use crate::sample::Rng;
    use crate::vfs::MemoryVfs;

    fn model(adapted: bool) -> RelevanceModel {
        let tasks = TaskNames::new(["grade", "value", "words"].map(String::from).to_vec()).unwrap();
        let classes = |names: &[&str]| Target::Classes(names.iter().map(|name| (*name).to_string()).collect());
        let kind = |target, measure| Kind { target, measure, pairs: true };
        let kinds = vec![
            kind(classes(&["0", "1", "2"]), Measure::Accuracy),
            kind(Target::Value { mean: 3.0, deviation: 2.0 }, Measure::RankCorrelation),
            kind(classes(&["no", "yes"]), Measure::AveragePrecision { class: 1 }),
        ];
        let network = Network { trains_trunk: false, ..random_network(adapted) };
        RelevanceModel { tasks, kinds, network, encoder: Some("one".into()) }
    }

    fn vectors() -> Array2<f32> {
        let mut rng = Rng::new(4);
        Array2::from_shape_fn((6, 2), |_| rng.normal())
    }

    #[test]
    fn a_ranker_answers_as_the_unmerged_model_and_survives_its_file() {
        for adapted in [false, true] {
            let vfs = MemoryVfs::new();
            let path = Path::new("/model.safetensors");
            model(adapted).save(&vfs, path).unwrap();
            let loaded = RelevanceModel::load(&vfs, path).unwrap();
            assert_eq!((loaded.dim(), loaded.trainable()), (2, model(adapted).trainable()));
            assert_eq!(loaded.kinds(), model(adapted).kinds());
            let note = loaded.check_index(2, Some("two")).unwrap().unwrap();
            assert!(note.contains("(one)") && note.contains("(two)"), "{note}");
            assert_eq!(loaded.check_index(2, Some("one")).unwrap(), None);
            assert!(loaded.check_index(3, None).unwrap_err().to_string().contains("expected 3, found 2"));
            let x = vectors();
            let rows: Vec<Row> = (0..6).map(|a| Row { a, b: (a % 2 == 0).then_some(5 - a), label: 0.0 }).collect();
            let features = features(x.view(), rows.iter().map(|row| (row.a, row.b)));
            let unmerged = |task| {
                let rows = TaskRows::single(task, 6, 3);
                model(adapted).network.forward(features.clone(), &rows).outputs.remove(0).1
            };
            let values = loaded.ranker("value").unwrap().answers(x.view(), &rows).unwrap();
            for (value, out) in values.iter().zip(unmerged(1).column(0)) {
                assert!((value - (out * 2.0 + 3.0)).abs() < 1e-4);
            }
            let classes = loaded.ranker("grade").unwrap().answers(x.view(), &rows).unwrap();
            for (class, out) in classes.iter().zip(unmerged(0).rows()) {
                assert!(out.iter().all(|o| *o <= out[*class as usize] + 1e-5));
            }
        }
    }

    #[test]
    fn rescoring_gives_the_label_to_be_expected() {
        let (model, x) = (model(true), vectors());
        let query = x.row(5).to_vec();
        let rows: Vec<Row> = (0..5).map(|d| Row { a: 5, b: Some(d), label: 0.0 }).collect();
        let documents = x.slice(ndarray::s![..5, ..]).to_owned();
        let ranker = model.ranker("value").unwrap();
        let (scores, values) =
            (ranker.rescore(&query, documents.view()).unwrap(), ranker.answers(x.view(), &rows).unwrap());
        assert!(scores.iter().zip(&values).all(|(s, v)| (s - v).abs() < 1e-5));
        let grades = model.ranker("grade").unwrap();
        let outputs = grades.outputs(features(x.view(), rows.iter().map(|row| (row.a, row.b))));
        for (score, out) in grades.rescore(&query, documents.view()).unwrap().iter().zip(outputs.rows()) {
            let exps = out.mapv(f32::exp);
            let expected = (exps[1] + 2.0 * exps[2]) / exps.sum();
            assert!((score - expected).abs() < 1e-5, "{score} {expected}");
        }
        let message = model.ranker("words").unwrap().rescore(&query, documents.view()).unwrap_err().to_string();
        assert!(message.contains("classes are words"), "{message}");
        let mut single = model.clone();
        single.kinds[1].pairs = false;
        let message = single.ranker("value").unwrap().rescore(&query, documents.view()).unwrap_err().to_string();
        assert!(message.contains("single texts"), "{message}");
        assert!(grades.rescore(&query[..1], documents.view()).unwrap_err().to_string().contains("expected 2, found 1"));
        assert!(model.ranker("grades").unwrap_err().to_string().contains("did you mean \"grade\""));
    }

    #[test]
    fn files_that_disagree_with_themselves_are_refused() {
        let vfs = MemoryVfs::new();
        let path = Path::new("/model.safetensors");
        let refused = |change: fn(&mut RelevanceModel)| {
            let mut model = model(true);
            change(&mut model);
            model.save(&vfs, path).unwrap();
            RelevanceModel::load(&vfs, path).unwrap_err().to_string()
        };
        let message = refused(|model| model.kinds[1] = model.kinds[2].clone());
        assert!(message.contains("tensor output.1.weight: shape [1, 4] does not match: expected [2, 4]"), "{message}");
        let message = refused(|model| model.kinds[1].target = Target::Value { mean: 0.0, deviation: 0.0 });
        assert!(message.contains("metadata") && message.contains("deviation 0"), "{message}");
        let message = refused(|model| model.kinds[0].measure = Measure::AveragePrecision { class: 1 });
        assert!(message.contains("metadata") && message.contains("does not fit"), "{message}");
        let message = refused(|model| drop(model.kinds.pop()));
        assert!(message.contains("number of kinds does not match: expected 3, found 2"), "{message}");
        let message = refused(|model| drop(model.network.outputs.pop()));
        assert!(message.contains("tensor output.2.weight: it is missing"), "{message}");
    }
}
