//! Settings and matrices in one `.safetensors` file, which other programs can read.
//!
//! ```text
//! __metadata__  {"bigrain": "{\"kind\": ..., \"crc32c\": ..., \"settings\": {...}}"}     one key: its order is that of no hash map
//! tensors       f32, little-endian, by name
//! ```
//! The checksum covers the names, shapes and values of all tensors, in the order of their names. A reader asks for each tensor by name and
//! shape, and then that nothing is left over.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use ndarray::Array2;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::vfs::{Vfs, replace_file};

/// Key of our own part of the metadata.
const KEY: &str = "bigrain";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<S> {
    kind: String,
    crc32c: u32,
    settings: S,
}

/// Tensors to be written.
#[derive(Default)]
pub(crate) struct Writer {
    tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)>,
}

impl Writer {
    /// Adds matrices of one shape under a name: one is rows x columns, several are number x rows x columns.
    pub(crate) fn add<'a>(&mut self, name: &str, shape: &[usize], parts: impl IntoIterator<Item = &'a Array2<f32>>) {
        let values = parts.into_iter().flat_map(|part| part.iter()).flat_map(|value| value.to_le_bytes()).collect();
        self.tensors.insert(name.to_string(), (shape.to_vec(), values));
    }

    /// Writes the file anew, whole or not at all.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn write(&self, vfs: &dyn Vfs, path: &Path, kind: &str, settings: impl Serialize) -> Result<()> {
        let unwritable = |reason: String| Error::params("settings", reason);
        let crc32c =
            checksum(self.tensors.iter().map(|(name, (shape, bytes))| (name.as_str(), &shape[..], &bytes[..])));
        let envelope = Envelope { kind: kind.to_string(), crc32c, settings };
        let json = serde_json::to_string(&envelope).map_err(|error| unwritable(error.to_string()))?;
        let views: Vec<(&str, TensorView<'_>)> = self
            .tensors
            .iter()
            .map(|(name, (shape, bytes))| Ok((name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
            .collect::<Result<_, safetensors::SafeTensorError>>()
            .map_err(|error| unwritable(error.to_string()))?;
        let metadata = Some(HashMap::from([(KEY.to_string(), json)]));
        let bytes = safetensors::serialize(views, metadata).map_err(|error| unwritable(error.to_string()))?;
        replace_file(vfs, path, |beside| {
            let mut file = vfs.create(beside)?;
            file.write_all(&bytes)?;
            file.sync()
        })
    }
}

/// Tensors of a file that was read; each is taken once.
#[derive(Debug)]
pub(crate) struct Reader<S> {
    path: PathBuf,
    /// What was written beside the tensors.
    pub(crate) settings: S,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl<S: DeserializeOwned> Reader<S> {
    /// Reads a file of this `kind`.
    ///
    /// # Errors
    /// `Io`; `InvalidInput` naming the place for a file that is none, is of another kind, is damaged, or holds values that are not finite.
    pub(crate) fn open(vfs: &dyn Vfs, path: &Path, kind: &str) -> Result<Reader<S>> {
        let file = vfs.open(path)?;
        let mut bytes = vec![0; usize::try_from(file.len()).unwrap_or(usize::MAX)];
        file.read_exact_at(0, &mut bytes)?;
        let header = |reason: String| Error::input(path, "header", reason);
        let found = SafeTensors::deserialize(&bytes).map_err(|e| header(format!("not a safetensors file: {e}")))?;
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| header(e.to_string()))?;
        let json = metadata.metadata().as_ref().and_then(|all| all.get(KEY));
        let json =
            json.ok_or_else(|| header(format!("its metadata has no {KEY:?}; give a file that bigrain wrote")))?;
        let settings = |e: serde_json::Error| Error::input(path, "metadata", e.to_string());
        let stated: Envelope<serde_json::Value> = serde_json::from_str(json).map_err(settings)?;
        if stated.kind != kind {
            return Err(header(format!("it holds {}, not {kind}", stated.kind)));
        }
        let mut all: Vec<(&str, TensorView<'_>)> = found.iter().collect();
        all.sort_unstable_by_key(|(name, _)| *name);
        let crc = checksum(all.iter().map(|(name, view)| (*name, view.shape(), view.data())));
        if crc != stated.crc32c {
            let reason =
                format!("the checksum of the tensors is {crc:08x}, not the {:08x} that it states", stated.crc32c);
            return Err(Error::input(path, "tensors", format!("{reason}; restore the file or train again")));
        }
        let tensors = all
            .into_iter()
            .map(|(name, view)| Ok((name.to_string(), (view.shape().to_vec(), floats(path, name, &view)?))));
        let settings = serde_json::from_value(stated.settings).map_err(settings)?;
        Ok(Reader { path: path.to_path_buf(), settings, tensors: tensors.collect::<Result<_>>()? })
    }
}

impl<S> Reader<S> {
    /// Takes the tensor of that name as matrices of `rows x columns`. `shape` is all of its dimensions, the last two being these.
    ///
    /// # Errors
    /// `InvalidInput` naming the tensor, the shape found and the one expected.
    pub(crate) fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<Array2<f32>>> {
        let place = || format!("tensor {name}");
        let Some((found, values)) = self.tensors.remove(name) else {
            return Err(Error::input(&self.path, place(), format!("it is missing; expected shape {shape:?}")));
        };
        if found != shape {
            let reason = format!("shape {found:?} does not match: expected {shape:?}");
            return Err(Error::input(&self.path, place(), reason));
        }
        let dim = [shape[shape.len() - 2], shape[shape.len() - 1]];
        let size = (dim[0] * dim[1]).max(1);
        let part = |part: &[f32]| Array2::from_shape_vec(dim, part.to_vec()).expect("the shape was compared");
        Ok(values.chunks_exact(size).map(part).collect())
    }

    /// The last dimensions of a tensor, to learn how wide a layer is; empty where it is missing.
    pub(crate) fn shape_of(&self, name: &str) -> &[usize] {
        self.tensors.get(name).map_or(&[], |(shape, _)| shape)
    }

    /// Says that all was taken.
    ///
    /// # Errors
    /// `InvalidInput` naming a tensor that nobody asked for.
    pub(crate) fn finish(self) -> Result<()> {
        match self.tensors.first_key_value() {
            None => Ok(()),
            Some((name, (shape, _))) => {
                let reason = format!("of shape {shape:?}, it has no place in these settings; train again");
                Err(Error::input(&self.path, format!("tensor {name}"), reason))
            }
        }
    }

    /// An [`Error::InvalidInput`] about the settings.
    pub(crate) fn bad_settings(&self, error: &Error) -> Error {
        Error::input(&self.path, "metadata", error.to_string())
    }
}

fn floats(path: &Path, name: &str, view: &TensorView<'_>) -> Result<Vec<f32>> {
    let place = format!("tensor {name}");
    if view.dtype() != Dtype::F32 || view.shape().len() < 2 {
        let reason = format!("{:?} of shape {:?}; expected F32 of two dimensions or more", view.dtype(), view.shape());
        return Err(Error::input(path, place, reason));
    }
    let (words, _) = view.data().as_chunks::<4>();
    let values: Vec<f32> = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
    match values.iter().position(|value| !value.is_finite()) {
        Some(at) => Err(Error::input(path, place, format!("value {at} is {}; all must be finite", values[at]))),
        None => Ok(values),
    }
}

fn checksum<'a>(tensors: impl Iterator<Item = (&'a str, &'a [usize], &'a [u8])>) -> u32 {
    tensors.fold(0, |crc, (name, shape, bytes)| {
        let crc = crc32c::crc32c_append(crc, format!("{name} {shape:?}").as_bytes());
        crc32c::crc32c_append(crc, bytes)
    })
}
