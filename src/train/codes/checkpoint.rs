//! The state of a run between epochs, as a file.
//!
//! ```text
//! META   JSON      fingerprints of settings and examples and of the start, step, curve, list weight, shapes
//! DATA   f32       every parameter: value, mean, square; then every parameter's best value
//! ```
//! It is written beside and renamed, so a killed run leaves the last whole one.

use ndarray::Array2;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

use super::super::examples::Examples;
use super::model::Model;
use super::start::Start;
use super::{CodeTraining, Epoch, Trainer};
use crate::error::{Error, Result};
use crate::format::{FileReader, FileWriter, Kind, as_bytes, hex};
use crate::heads::Heads;
use crate::vfs::{Vfs, replace_file};

const META: [u8; 4] = *b"META";
const DATA: [u8; 4] = *b"DATA";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Meta {
    run: String,
    start: String,
    step: u64,
    reseeded: usize,
    list_weight: Option<f32>,
    curve: Vec<Epoch>,
    shapes: Vec<(usize, usize)>,
}

/// What a checkpoint holds.
pub(super) struct Saved {
    path: PathBuf,
    start: String,
    pub(super) step: u64,
    pub(super) reseeded: usize,
    pub(super) list_weight: Option<f32>,
    pub(super) curve: Vec<Epoch>,
    /// Value, mean and square of each parameter.
    pub(super) parameters: Vec<[Array2<f32>; 3]>,
    pub(super) best: Vec<Array2<f32>>,
}

/// A hash of all that a run follows from.
pub(super) fn fingerprint(examples: &Examples, settings: &CodeTraining, heads: &Heads) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(format!("{settings:?}").as_bytes());
    for x in [&examples.documents, &examples.queries] {
        hasher.update(as_bytes(x.as_slice().expect("C order")));
    }
    for pair in examples.train.iter().chain(&examples.valid) {
        hasher.update(as_bytes(&[pair.query, pair.document]));
    }
    for (name, head) in heads.named() {
        hasher.update(name.as_bytes());
        hasher.update(as_bytes(&[usize::from(head.normalise), head.output_dim(), head.input_dim()]));
        let residual = head.residual.iter().flat_map(|r| r.inner.iter().chain(&r.bias).chain(&r.outer));
        head.linear.iter().chain(residual).for_each(|v| {
            hasher.update(&v.to_le_bytes());
        });
    }
    let mut id = [0; 16];
    id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    id
}

/// Writes the state of `trainer`, replacing what was there.
pub(super) fn write(trainer: &mut Trainer<'_>, vfs: &dyn Vfs, path: &Path) -> Result<()> {
    let meta = Meta {
        run: hex(&trainer.fingerprint),
        start: hex(&trainer.start.quantizer.fingerprint()),
        step: trainer.step,
        reseeded: trainer.reseeded,
        list_weight: trainer.model.list_weight,
        curve: trainer.curve.clone(),
        shapes: trainer.model.parameters().iter().map(|p| p.value.dim()).collect(),
    };
    replace_file(vfs, path, |beside| {
        let mut file = FileWriter::create(vfs, beside, Kind::Checkpoint, trainer.fingerprint)?;
        file.write_array(META, &serde_json::to_vec(&meta).expect("finite values"))?;
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
        file.finish().map(drop)
    })
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
        let Meta { start, step, reseeded, list_weight, curve, .. } = meta;
        Ok(Some(Saved { path: path.to_path_buf(), start, step, reseeded, list_weight, curve, parameters, best }))
    }

    /// Whether it goes on from this start, with parameters of these shapes.
    ///
    /// # Errors
    /// `Mismatch` for a start that came out differently, as it may on another kind of processor; `Corrupt`.
    pub(super) fn check(&self, start: &Start<'_>, model: &mut Model) -> Result<()> {
        let now = hex(&start.quantizer.fingerprint());
        if now != self.start {
            let what = format!(
                "the start of the run of {} (it began on another processor; go on there, or remove it to start anew)",
                self.path.display()
            );
            return Err(Error::mismatch(what, now, &self.start));
        }
        let expected: Vec<(usize, usize)> = model.parameters().iter().map(|p| p.value.dim()).collect();
        let found: Vec<(usize, usize)> = self.best.iter().map(Array2::dim).collect();
        match expected == found {
            true => Ok(()),
            false => Err(Error::corrupt(&self.path, "META", format!("shapes {found:?}, not {expected:?}"))),
        }
    }
}
