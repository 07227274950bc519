//! Query encoders of several tasks over one index: `q -> q + adapter_t(q)`, where document vectors stay as they are.

use std::path::Path;

use ndarray::{Array2, ArrayView2, Axis};
use serde::{Deserialize, Serialize};

use super::layer::Adapter;
use super::tensors::{Reader, Writer};
use super::{AdapterShape, Method, TaskNames, TaskRows, other_encoder};
use crate::error::{Error, Result};
use crate::heads::Head;
use crate::linalg::normalise;
use crate::sample::Rng;
use crate::simd::Kernels;
use crate::types::Metric;
use crate::vfs::Vfs;

/// What such a file says it holds.
const KIND: &str = "query-adapters";

/// An adapter over the identity, for the query vectors of a frozen encoder.
#[derive(Debug, Clone)]
pub struct QueryAdapters {
    pub(super) tasks: TaskNames,
    pub(super) adapter: Adapter,
    /// Whether mapped queries are scaled to unit length.
    pub(super) normalise: bool,
    /// Id of the encoder whose vectors they map, where it is known.
    pub(super) encoder: Option<String>,
}

/// The map of one task as it serves: `x + s B_t Lambda_t A x`. Two thin matrices are less memory and less work than a square one.
#[derive(Debug, Clone)]
pub struct QueryMap {
    /// `Lambda_t A`, rank x dim.
    down: Array2<f32>,
    /// The scaled `B_t`, dim x rank.
    up: Array2<f32>,
    normalise: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    tasks: TaskNames,
    dim: usize,
    normalise: bool,
    shape: AdapterShape,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encoder: Option<String>,
}

impl QueryAdapters {
    /// Adapters that change nothing yet, but for the length where `normalise` says so.
    ///
    /// # Errors
    /// As [`Adapter::new`].
    pub fn new(tasks: TaskNames, dim: usize, shape: AdapterShape, normalise: bool, seed: u64) -> Result<QueryAdapters> {
        let adapter = Adapter::new(dim, dim, tasks.len(), shape, &mut Rng::stream(seed, 0xada9))?;
        Ok(QueryAdapters { tasks, adapter, normalise, encoder: None })
    }

    /// Names of the tasks.
    pub fn tasks(&self) -> &TaskNames {
        &self.tasks
    }

    /// Dimension of queries, before and after.
    pub fn dim(&self) -> usize {
        self.adapter.input_dim()
    }

    /// The trained matrices.
    pub fn adapter(&self) -> &Adapter {
        &self.adapter
    }

    /// Says whose vectors they map: the id of an encoder, where it is known.
    pub fn with_encoder(self, encoder: Option<String>) -> QueryAdapters {
        QueryAdapters { encoder, ..self }
    }

    /// Whether they can serve an index of vectors of `dim` elements under `metric`, made by `encoder` (its id, if it is known). What
    /// comes back is to be shown.
    ///
    /// # Errors
    /// `Mismatch` for another dimension; `Unsupported` for distances: they were trained by inner products of unit vectors.
    pub fn check_index(&self, dim: usize, metric: Metric, encoder: Option<&str>) -> Result<Option<String>> {
        if self.dim() != dim {
            return Err(Error::mismatch("dimension of the adapters", dim, self.dim()));
        }
        if metric == Metric::L2 {
            return Err(Error::Unsupported {
                what: "query adapters over an index with the metric l2".into(),
                remedy: "build the index with --metric cosine or ip, or search without them".into(),
            });
        }
        Ok(other_encoder("adapters", self.encoder.as_deref(), encoder))
    }

    /// The map of one task, to serve.
    ///
    /// # Errors
    /// `InvalidParams` that lists the known tasks.
    pub fn map(&self, task: &str) -> Result<QueryMap> {
        let (down, up) = self.adapter.thin(self.tasks.place(task)?);
        Ok(QueryMap { down, up, normalise: self.normalise })
    }

    /// The map of one task, as a single matrix.
    ///
    /// # Errors
    /// `InvalidParams` that lists the known tasks.
    pub fn merge(&self, task: &str) -> Result<Head> {
        let linear = self.adapter.merge(Array2::eye(self.dim()).view(), self.tasks.place(task)?);
        Ok(Head { linear, residual: None, normalise: self.normalise })
    }

    /// Maps rows (n x dim) of any tasks (n numbers), unmerged.
    ///
    /// # Errors
    /// `Mismatch` for another dimension or number of tasks, `InvalidParams` for a task that there is not.
    pub fn apply(&self, x: ArrayView2<'_, f32>, tasks: &[usize]) -> Result<Array2<f32>> {
        if x.ncols() != self.dim() {
            return Err(Error::mismatch("dimension of the queries", self.dim(), x.ncols()));
        }
        if x.nrows() != tasks.len() {
            return Err(Error::mismatch("number of tasks", x.nrows(), tasks.len()));
        }
        let (rows, order) = TaskRows::sort(tasks, self.tasks.len())?;
        let sorted = x.select(Axis(0), &order);
        let output = self.adapter.forward(Array2::eye(self.dim()).view(), sorted.view(), &rows).output;
        let mut mapped = Array2::zeros(x.dim());
        for (row, place) in output.rows().into_iter().zip(order) {
            mapped.row_mut(place).assign(&row);
            if self.normalise {
                normalise(mapped.row_mut(place).as_slice_mut().expect("C order"));
            }
        }
        Ok(mapped)
    }

    /// Writes them as `.safetensors`, whole or not at all.
    ///
    /// # Errors
    /// `Io`.
    pub fn save(&self, vfs: &dyn Vfs, path: &Path) -> Result<()> {
        let mut writer = Writer::default();
        self.adapter.write("query", &mut writer);
        let (tasks, dim) = (self.tasks.clone(), self.dim());
        let (normalise, shape, encoder) = (self.normalise, *self.adapter.shape(), self.encoder.clone());
        let settings = Settings { tasks, dim, normalise, shape, encoder };
        writer.write(vfs, path, KIND, settings)
    }

    /// Reads what [`QueryAdapters::save`] wrote.
    ///
    /// # Errors
    /// `Io`; `InvalidInput` naming the part that is not as its settings say.
    pub fn load(vfs: &dyn Vfs, path: &Path) -> Result<QueryAdapters> {
        let mut reader = Reader::<Settings>::open(vfs, path, KIND)?;
        let Settings { ref tasks, dim, normalise, shape, ref encoder } = reader.settings;
        tasks.check().and_then(|()| shape.check()).map_err(|error| reader.bad_settings(&error))?;
        let (tasks, encoder) = (tasks.clone(), encoder.clone());
        let adapter = Adapter::read("query", &mut reader, dim, dim, tasks.len(), shape)?;
        reader.finish()?;
        Ok(QueryAdapters { tasks, adapter, normalise, encoder })
    }
}

impl QueryMap {
    /// Maps one query.
    ///
    /// # Errors
    /// `Mismatch` for another dimension.
    pub fn apply(&self, kernels: &Kernels, x: &[f32]) -> Result<Vec<f32>> {
        let (rank, dim) = self.down.dim();
        if x.len() != dim {
            return Err(Error::mismatch("dimension of the query", dim, x.len()));
        }
        let (mut inner, mut mapped) = (vec![0.0; rank], vec![0.0; dim]);
        (kernels.dot_rows_f32)(x, self.down.as_slice().expect("C order"), &mut inner);
        (kernels.dot_rows_f32)(&inner, self.up.as_slice().expect("C order"), &mut mapped);
        mapped.iter_mut().zip(x).for_each(|(mapped, x)| *mapped += x);
        if self.normalise {
            normalise(&mut mapped);
        }
        Ok(mapped)
    }
}

impl Adapter {
    /// Adds its matrices under names that begin with `name`.
    pub(crate) fn write(&self, name: &str, writer: &mut Writer) {
        let [down, transform, up, weights] = self.tensor_shapes();
        writer.add(&format!("{name}.down"), &down, self.downs.iter().map(|p| &p.value));
        if !self.transforms.is_empty() {
            writer.add(&format!("{name}.transform"), &transform, self.transforms.iter().map(|p| &p.value));
        }
        writer.add(&format!("{name}.up"), &up, self.ups.iter().map(|p| &p.value));
        if !self.weights.value.is_empty() {
            writer.add(&format!("{name}.weights"), &weights, [&self.weights.value]);
        }
    }

    /// Takes the matrices that [`Adapter::write`] wrote, for a layer from `input` to `output` values.
    pub(crate) fn read<S>(
        name: &str,
        reader: &mut Reader<S>,
        input: usize,
        output: usize,
        tasks: usize,
        shape: AdapterShape,
    ) -> Result<Adapter> {
        // Sizes come from a file: what it cannot hold must not be allocated, so its tensors are looked at first.
        let [down, transform, up] = ["down", "transform", "up"].map(|part| format!("{name}.{part}"));
        let per_task = if shape.method == Method::LoraPerTask { tasks } else { 1 };
        let mtl = shape.method == Method::MtlLora;
        let ups = if mtl { shape.ups } else { per_task };
        let mut expected = vec![(&down, vec![per_task, shape.rank, input]), (&up, vec![ups, output, shape.rank])];
        if mtl {
            expected.push((&transform, vec![tasks, shape.rank, shape.rank]));
        }
        for (name, expected) in expected {
            if reader.shape_of(name) != expected {
                reader.take(name, &expected)?;
            }
        }
        let mut adapter =
            Adapter::new(input, output, tasks, shape, &mut Rng::new(0)).map_err(|error| reader.bad_settings(&error))?;
        let [down_shape, transform_shape, up_shape, weights_shape] = adapter.tensor_shapes();
        let fill = |parameters: &mut [crate::train::optimiser::Parameter], values: Vec<Array2<f32>>| {
            parameters.iter_mut().zip(values).for_each(|(parameter, value)| parameter.value = value);
        };
        fill(&mut adapter.downs, reader.take(&down, &down_shape)?);
        if !adapter.transforms.is_empty() {
            fill(&mut adapter.transforms, reader.take(&transform, &transform_shape)?);
        }
        fill(&mut adapter.ups, reader.take(&up, &up_shape)?);
        if !adapter.weights.value.is_empty() {
            let weights = reader.take(&format!("{name}.weights"), &weights_shape)?;
            fill(std::slice::from_mut(&mut adapter.weights), weights);
        }
        Ok(adapter)
    }

    /// Shapes of the tensors in a file: down, transform, up, weights.
    fn tensor_shapes(&self) -> [Vec<usize>; 4] {
        let (rank, input, output) = (self.shape().rank, self.input_dim(), self.output_dim());
        let (downs, ups) = (self.downs.len(), self.ups.len());
        [vec![downs, rank, input], vec![self.tasks(), rank, rank], vec![ups, output, rank], vec![self.tasks(), ups]]
    }
}

#[cfg(test)]
mod tests {
    use super::super::layer::tests::{random_adapter, shapes};
    use super::*;
    use crate::vfs::{MemoryVfs, RealVfs};

    fn names() -> TaskNames {
        TaskNames::new(["a", "b", "c", "d"].map(String::from).to_vec()).unwrap()
    }

    #[test]
    fn what_is_saved_is_loaded_and_merged_is_unmerged() {
        let vfs = MemoryVfs::new();
        let path = Path::new("/a.safetensors");
        for shape in shapes() {
            let saved =
                QueryAdapters { tasks: names(), adapter: random_adapter(5, 5, shape), normalise: true, encoder: None };
            saved.save(&vfs, path).unwrap();
            let bytes = vfs.bytes(path).unwrap();
            let loaded = QueryAdapters::load(&vfs, path).unwrap();
            loaded.save(&vfs, path).unwrap();
            assert_eq!(vfs.bytes(path).unwrap(), bytes, "the same adapters have the same bytes");
            let mut rng = Rng::new(3);
            let x = Array2::from_shape_fn((7, 5), |_| rng.normal());
            let tasks = [3, 0, 1, 1, 0, 2, 3];
            let mapped = loaded.apply(x.view(), &tasks).unwrap();
            for (row, task) in tasks.into_iter().enumerate() {
                let head = saved.merge(&names().names()[task]).unwrap();
                let alone = head.apply_rows(x.view().slice(ndarray::s![row..row + 1, ..]));
                assert!(alone.iter().zip(mapped.row(row)).all(|(a, b)| (a - b).abs() < 1e-4), "{shape:?}");
                let map = saved.map(&names().names()[task]).unwrap();
                let served = map.apply(Kernels::detect(), x.row(row).as_slice().unwrap()).unwrap();
                assert!(served.iter().zip(mapped.row(row)).all(|(a, b)| (a - b).abs() < 1e-4), "{shape:?}");
                assert!(
                    map.apply(Kernels::detect(), &[0.0; 4]).unwrap_err().to_string().contains("expected 5, found 4")
                );
            }
            assert!(loaded.merge("e").unwrap_err().to_string().contains("a, b, c, d"));
            assert!(loaded.apply(x.view(), &[4; 7]).is_err() && loaded.apply(x.view(), &[0; 6]).is_err());
        }
    }

    fn adapters() -> QueryAdapters {
        let adapter = random_adapter(5, 5, shapes()[3]);
        QueryAdapters { tasks: names(), adapter, normalise: true, encoder: None }
    }

    #[test]
    fn indexes_that_they_were_not_trained_for_are_refused_or_noted() {
        let vfs = MemoryVfs::new();
        let path = Path::new("/a.safetensors");
        adapters().with_encoder(Some("one".into())).save(&vfs, path).unwrap();
        let known = QueryAdapters::load(&vfs, path).unwrap();
        let note = known.check_index(5, Metric::Cosine, Some("two")).unwrap().unwrap();
        assert!(note.contains("(one)") && note.contains("(two)"), "{note}");
        assert_eq!(known.check_index(5, Metric::Ip, Some("one")).unwrap(), None);
        assert_eq!(known.check_index(5, Metric::Ip, None).unwrap(), None);
        assert_eq!(adapters().check_index(5, Metric::Cosine, Some("two")).unwrap(), None);
        let message = known.check_index(6, Metric::Cosine, None).unwrap_err().to_string();
        assert!(message.contains("expected 6, found 5"), "{message}");
        let message = known.check_index(5, Metric::L2, None).unwrap_err().to_string();
        assert!(message.contains("metric l2"), "{message}");
    }

    /// Writes a file with one thing changed, and says why it is refused.
    fn refused(change: impl FnOnce(&mut Settings, &mut Writer)) -> String {
        let vfs = MemoryVfs::new();
        let path = Path::new("/a.safetensors");
        let adapter = random_adapter(5, 5, shapes()[3]);
        let mut writer = Writer::default();
        adapter.write("query", &mut writer);
        let shape = *adapter.shape();
        let mut settings = Settings { tasks: names(), dim: 5, normalise: false, shape, encoder: None };
        change(&mut settings, &mut writer);
        writer.write(&vfs, path, KIND, settings).unwrap();
        QueryAdapters::load(&vfs, path).unwrap_err().to_string()
    }

    #[test]
    fn files_that_disagree_with_themselves_are_refused_with_the_place() {
        let message = refused(|settings, _| settings.dim = 6);
        assert!(message.contains("tensor query.down: shape [1, 3, 5] does not match: expected [1, 3, 6]"), "{message}");
        let message = refused(|settings, _| settings.shape.rank = usize::MAX);
        assert!(message.contains("tensor query.down"), "{message}");
        let message = refused(|settings, _| settings.shape.method = Method::Lora);
        assert!(message.contains("tensor query.up: shape [3, 5, 3]"), "{message}");
        let message = refused(|settings, _| settings.tasks = TaskNames::new(vec!["a".into()]).unwrap());
        assert!(message.contains("tensor query.transform: shape [4, 3, 3]"), "{message}");
        // Thin matrices down and up fit a file whose Lambda would fill a large machine.
        let message = refused(|settings, writer| {
            const WIDE: usize = 1 << 16;
            (settings.dim, settings.shape.rank) = (1, WIDE);
            writer.add("query.down", &[1, WIDE, 1], [&Array2::zeros((WIDE, 1))]);
            writer.add("query.up", &[3, 1, WIDE], [&Array2::zeros((3, WIDE))]);
        });
        assert!(message.contains("tensor query.transform: shape [4, 3, 3] does not match"), "{message}");
        let message = refused(|settings, _| settings.tasks = TaskNames::default());
        assert!(message.contains("metadata") && message.contains("tasks"), "{message}");
        let message = refused(|settings, _| settings.shape.temperature = 0.0);
        assert!(message.contains("temperature"), "{message}");
        let message = refused(|_, writer| writer.add("more", &[1, 1], [&Array2::zeros((1, 1))]));
        assert!(message.contains("tensor more") && message.contains("no place"), "{message}");
        let message = refused(|_, writer| writer.add("query.up", &[1, 1], [&Array2::from_elem((1, 1), f32::NAN)]));
        assert!(message.contains("tensor query.up: value 0 is NaN"), "{message}");
    }

    #[test]
    fn damaged_and_foreign_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let adapters = adapters();
        adapters.save(&RealVfs, &path).unwrap();
        let good = std::fs::read(&path).unwrap();
        let load = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            QueryAdapters::load(&RealVfs, &path)
        };
        assert!(load(&good).is_ok());
        let mut damaged = good.clone();
        let last = damaged.len() - 2;
        damaged[last] ^= 1;
        assert!(load(&damaged).unwrap_err().to_string().contains("checksum"));
        for cut in (0..good.len()).step_by(7) {
            assert!(load(&good[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..good.len() {
            let mut damaged = good.clone();
            damaged[at] ^= 0x10;
            // Blanks between the parts of the header may change without harm; nothing may panic.
            let _ = load(&damaged);
        }
        let mut writer = Writer::default();
        writer.add("x", &[1, 1], [&Array2::zeros((1, 1))]);
        writer.write(&RealVfs, &path, "relevance", 1).unwrap();
        let message = QueryAdapters::load(&RealVfs, &path).unwrap_err().to_string();
        assert!(message.contains("it holds relevance, not query-adapters"), "{message}");
        assert!(QueryAdapters::load(&RealVfs, &dir.path().join("none")).is_err());
    }
}
