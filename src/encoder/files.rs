//! The files of an encoder's folder: settings as JSON, weights as safetensors, each refused with its place where it is wrong.

use std::path::{Path, PathBuf};

use ndarray::Array2;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// Name of the file of weights.
pub(super) const WEIGHTS: &str = "model.safetensors";
/// Name of the file of the tokenizer.
pub(super) const TOKENIZER: &str = "tokenizer.json";

/// An encoder's folder, its weights and tokenizer read into memory.
pub(super) struct Folder {
    dir: PathBuf,
    weights: Vec<u8>,
    tokenizer: Vec<u8>,
}

/// Kinds of encoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Bert,
    Static,
    /// A static one that leaves unknown tokens out.
    Model2Vec,
}

/// The tensors of a file of weights.
pub(super) struct Weights<'a> {
    path: PathBuf,
    tensors: SafeTensors<'a>,
}

impl Folder {
    pub(super) fn open(dir: &Path) -> Result<Folder> {
        let read = |name: &str| std::fs::read(dir.join(name)).map_err(Error::io(dir.join(name)));
        Ok(Folder { dir: dir.to_path_buf(), weights: read(WEIGHTS)?, tokenizer: read(TOKENIZER)? })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(super) fn tokenizer(&self) -> &[u8] {
        &self.tokenizer
    }

    /// A folder that has no files but these weights.
    pub(super) fn of_weights(weights: Vec<u8>) -> Folder {
        Folder { dir: PathBuf::new(), weights, tokenizer: Vec::new() }
    }

    /// See [`super::Encoder::id`]; `settings` are those that the vectors depend on.
    pub(super) fn id(&self, settings: &str) -> String {
        let mut hasher = blake3::Hasher::new();
        for part in [&self.weights, &self.tokenizer, settings.as_bytes()] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        hasher.finalize().to_hex()[..32].to_string()
    }

    /// A file of settings, if there is one.
    pub(super) fn json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let path = self.path(name);
        let bytes = match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(Error::io(&path))?,
        };
        let place = |e: &serde_json::Error| format!("line {}, column {}", e.line(), e.column());
        serde_json::from_slice(&bytes).map(Some).map_err(|e| Error::input(&path, place(&e), e.to_string()))
    }

    /// What the folder says that it holds.
    pub(super) fn kind(&self) -> Result<Kind> {
        #[derive(serde::Deserialize)]
        struct Config {
            model_type: Option<String>,
        }
        match self.json::<Config>("config.json")?.and_then(|config| config.model_type).as_deref() {
            Some("bert") => Ok(Kind::Bert),
            None | Some("static") => Ok(Kind::Static),
            Some("model2vec") => Ok(Kind::Model2Vec),
            Some(other) => Err(Error::Unsupported {
                what: format!("model_type {other:?} in {}", self.path("config.json").display()),
                remedy: "use a model of type \"bert\", or a static encoder".into(),
            }),
        }
    }

    pub(super) fn weights(&self) -> Result<Weights<'_>> {
        let path = self.path(WEIGHTS);
        let tensors =
            SafeTensors::deserialize(&self.weights).map_err(|e| Error::input(&path, "its header", e.to_string()))?;
        Ok(Weights { path, tensors })
    }
}

impl Weights<'_> {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.tensors.tensor(name).is_ok()
    }

    fn view(&self, name: &str) -> Result<TensorView<'_>> {
        self.tensors.tensor(name).map_err(|_| {
            let mut names = self.tensors.names();
            names.sort_unstable();
            names.truncate(5);
            let reason = format!("there is no such tensor; it begins with {}", names.join(", "));
            Error::input(&self.path, format!("tensor {name}"), reason)
        })
    }

    /// A matrix of any height and width, neither zero.
    pub(super) fn matrix(&self, name: &str) -> Result<Array2<f32>> {
        let view = self.view(name)?;
        let &[rows, cols] = view.shape() else {
            return Err(self.wrong(name, "two dimensions", view.shape()));
        };
        if rows == 0 || cols == 0 {
            return Err(self.wrong(name, "at least one row and column", view.shape()));
        }
        Ok(Array2::from_shape_vec((rows, cols), self.floats(name, &view)?).expect("the shape fits its length"))
    }

    /// A matrix of this shape.
    pub(super) fn matrix_of(&self, name: &str, shape: (usize, usize)) -> Result<Array2<f32>> {
        let matrix = self.matrix(name)?;
        match matrix.dim() == shape {
            true => Ok(matrix),
            false => Err(self.wrong(name, &format!("{:?}", [shape.0, shape.1]), &[matrix.nrows(), matrix.ncols()])),
        }
    }

    /// A vector of this length.
    pub(super) fn vector(&self, name: &str, length: usize) -> Result<Vec<f32>> {
        let view = self.view(name)?;
        match view.shape() == [length] {
            true => self.floats(name, &view),
            false => Err(self.wrong(name, &format!("[{length}]"), view.shape())),
        }
    }

    fn wrong(&self, name: &str, expected: &str, shape: &[usize]) -> Error {
        Error::mismatch(format!("shape of tensor {name} in {}", self.path.display()), expected, format!("{shape:?}"))
    }

    /// The elements, which must be finite.
    fn floats(&self, name: &str, view: &TensorView<'_>) -> Result<Vec<f32>> {
        let bytes = view.data();
        let pairs = || bytes.as_chunks::<2>().0.iter();
        let floats: Vec<f32> = match view.dtype() {
            Dtype::F32 => bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
            Dtype::F16 => pairs().map(|&b| half::f16::from_le_bytes(b).to_f32()).collect(),
            Dtype::BF16 => pairs().map(|&b| half::bf16::from_le_bytes(b).to_f32()).collect(),
            Dtype::I8 => bytes.iter().map(|&b| f32::from(b.cast_signed())).collect(),
            other => {
                return Err(Error::Unsupported {
                    what: format!("elements {other:?} of tensor {name} in {}", self.path.display()),
                    remedy: "convert it to F32, F16, BF16 or I8".into(),
                });
            }
        };
        match floats.iter().position(|v| !v.is_finite()) {
            None => Ok(floats),
            Some(at) => {
                Err(Error::input(&self.path, format!("tensor {name}, element {at}"), "it is not a finite number"))
            }
        }
    }
}
