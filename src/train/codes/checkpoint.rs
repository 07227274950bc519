//! The state of a run between epochs, as a file.
//!
//! ```text
//! META   JSON      fingerprint of settings and examples, step, curve, list weight, shapes
//! ROTA   f32       rotation, d x d
//! DATA   f32       every parameter: value, mean, square; then every parameter's best value
//! ```
//! It is written beside and renamed, so a killed run leaves the last whole one.

use ndarray::Array2;
use serde::{Deserialize, Serialize};
use std::path::Path;

use super::super::examples::Examples;
use super::{CodeTraining, Epoch, Trainer};
use crate::error::{Error, Result};
use crate::format::{FileReader, FileWriter, Kind, as_bytes, hex};
use crate::heads::Head;
use crate::vfs::Vfs;

const META: [u8; 4] = *b"META";
const ROTA: [u8; 4] = *b"ROTA";
const DATA: [u8; 4] = *b"DATA";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Meta {
    run: String,
    dim: usize,
    step: u64,
    reseeded: usize,
    list_weight: Option<f32>,
    curve: Vec<Epoch>,
    shapes: Vec<(usize, usize)>,
}

/// What a checkpoint holds.
pub(super) struct Saved {
    pub(super) rotation: Array2<f32>,
    pub(super) step: u64,
    pub(super) reseeded: usize,
    pub(super) list_weight: Option<f32>,
    pub(super) curve: Vec<Epoch>,
    /// Value, mean and square of each parameter.
    pub(super) parameters: Vec<[Array2<f32>; 3]>,
    pub(super) best: Vec<Array2<f32>>,
}

/// A hash of all that a run follows from.
pub(super) fn fingerprint(examples: &Examples, settings: &CodeTraining, start: Option<(&Head, &Head)>) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(format!("{settings:?}").as_bytes());
    for x in [&examples.documents, &examples.queries] {
        hasher.update(as_bytes(x.as_slice().expect("C order")));
    }
    for pair in examples.train.iter().chain(&examples.valid) {
        hasher.update(as_bytes(&[pair.query, pair.document]));
    }
    if let Some((query, document)) = start {
        hasher.update(format!("{query:?}{document:?}").as_bytes());
    }
    let mut id = [0; 16];
    id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    id
}

/// Writes the state of `trainer`, replacing what was there.
pub(super) fn write(trainer: &mut Trainer<'_>, vfs: &dyn Vfs, path: &Path) -> Result<()> {
    let beside = path.with_extension("writing");
    let meta = Meta {
        run: hex(&trainer.fingerprint),
        dim: trainer.rotation.nrows(),
        step: trainer.step,
        reseeded: trainer.reseeded,
        list_weight: trainer.model.list_weight,
        curve: trainer.curve.clone(),
        shapes: trainer.model.parameters().iter().map(|p| p.value.dim()).collect(),
    };
    let mut file = FileWriter::create(vfs, &beside, Kind::Checkpoint, trainer.fingerprint)?;
    file.write_array(META, &serde_json::to_vec(&meta).expect("finite values"))?;
    file.write_array(ROTA, trainer.rotation.as_slice().expect("C order"))?;
    file.begin(DATA)?;
    for p in trainer.model.parameters() {
        for part in [&p.value, &p.mean, &p.square] {
            file.write(as_bytes(part.as_slice().expect("C order")))?;
        }
    }
    for best in &trainer.best {
        file.write(as_bytes(best.as_slice().expect("C order")))?;
    }
    file.end()?;
    file.finish()?;
    vfs.rename(&beside, path)?;
    vfs.sync_dir(path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}

impl Saved {
    /// Reads the checkpoint at `path`, if there is one.
    ///
    /// # Errors
    /// `Mismatch` if it belongs to a run of other settings or examples; `Corrupt` and `Io`.
    pub(super) fn read(vfs: &dyn Vfs, path: &Path, fingerprint: &[u8; 16]) -> Result<Option<Saved>> {
        if !vfs.exists(path)? {
            return Ok(None);
        }
        let file = FileReader::open(vfs, path, Kind::Checkpoint, None)?;
        let wrong = |reason: String| Error::corrupt(path, "META", reason);
        let meta: Meta = serde_json::from_slice(&file.read_section(META)?).map_err(|e| wrong(e.to_string()))?;
        if meta.run != hex(fingerprint) {
            let what = format!("the run of {} (remove it to start anew, or give its settings again)", path.display());
            return Err(Error::mismatch(what, hex(fingerprint), meta.run));
        }
        if meta.curve.is_empty() {
            return Err(wrong("it has no epochs".into()));
        }
        let rotation = Array2::from_shape_vec((meta.dim, meta.dim), file.read_array(ROTA)?)
            .map_err(|e| Error::corrupt(path, "ROTA", e.to_string()))?;
        let data: Vec<f32> = file.read_array(DATA)?;
        let needed: usize = meta.shapes.iter().map(|(r, c)| 4 * r * c).sum();
        if data.len() != needed {
            return Err(Error::corrupt(path, "DATA", format!("{} values, {needed} are needed", data.len())));
        }
        let mut rest = data.as_slice();
        let mut take = |(rows, cols): (usize, usize)| {
            let (first, tail) = rest.split_at(rows * cols);
            rest = tail;
            Array2::from_shape_vec((rows, cols), first.to_vec()).expect("as many as its shape says")
        };
        let parameters = meta.shapes.iter().map(|&s| [take(s), take(s), take(s)]).collect();
        let best = meta.shapes.iter().map(|&s| take(s)).collect();
        let Meta { step, reseeded, list_weight, curve, .. } = meta;
        Ok(Some(Saved { rotation, step, reseeded, list_weight, curve, parameters, best }))
    }
}
