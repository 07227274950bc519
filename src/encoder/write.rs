//! Static encoders as folders.

use std::path::{Path, PathBuf};

use half::f16;
use ndarray::{ArrayView2, Axis};
use safetensors::tensor::{Dtype, TensorView};

use super::files::{Folder, TOKENIZER, WEIGHTS};
use super::{TokenTable, Vocabulary};
use crate::error::{Error, Result};
use crate::types::names;
use crate::vfs::{Vfs, create_dir_durably};

/// How the elements of a table are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableElement {
    /// Half precision.
    F16,
    /// A byte, with a scale a token.
    I8,
}

names!(TableElement, "table", TableElement::F16 => "f16", TableElement::I8 => "i8");

/// Writes a static encoder as the folder `dir`, which must be absent or empty: a folder beside it is filled and synced, and then
/// takes its place. Projections are written in half precision.
///
/// # Errors
/// `InvalidParams` for a folder that holds something, or values that are not finite or too large for their element; `Mismatch`
/// where the table has fewer rows than the vocabulary; `Io`.
pub fn write_static(
    vfs: &dyn Vfs,
    dir: &Path,
    table: &TokenTable,
    vocabulary: &Vocabulary,
    element: TableElement,
) -> Result<()> {
    if table.vocabulary() < vocabulary.size() {
        return Err(Error::mismatch("rows of the table", vocabulary.size(), table.vocabulary()));
    }
    let weights = weights(table, element)?;
    let (parent, beside) = prepare(vfs, dir)?;
    let config = br#"{"model_type": "static"}"#;
    for (name, bytes) in [(WEIGHTS, &*weights), (TOKENIZER, vocabulary.json()), ("config.json", config)] {
        let mut file = vfs.create(&beside.join(name))?;
        file.write_all(bytes)?;
        file.sync()?;
    }
    vfs.sync_dir(&beside)?;
    vfs.rename(&beside, dir)?;
    vfs.sync_dir(&parent)
}

/// Refuses an output that [`write_static`] would refuse after all the work: a folder that holds something, a file, a link, a mount
/// point, a place that nothing may be written to. An empty folder takes the place once, and goes again if there was none.
///
/// # Errors
/// `InvalidParams` naming the folder and what to do; `Io`.
pub fn check_output(vfs: &dyn Vfs, dir: &Path) -> Result<()> {
    let was_there = vfs.exists(dir)?;
    let (_, beside) = prepare(vfs, dir)?;
    if let Err(error) = vfs.rename(&beside, dir) {
        vfs.remove_dir_all(&beside)?;
        let reason = format!("{} cannot be replaced ({error}); name a folder that is not there yet", dir.display());
        return Err(Error::params("output", reason));
    }
    if was_there { Ok(()) } else { vfs.remove_dir_all(dir) }
}

/// The folder's parent, made if need be, and an empty folder beside the folder; refuses a folder that holds something.
fn prepare(vfs: &dyn Vfs, dir: &Path) -> Result<(PathBuf, PathBuf)> {
    let refuse = |reason: &str| Err(Error::params("output", format!("{} {reason}", dir.display())));
    let Some(name) = dir.file_name() else { return refuse("has no name of its own; name a new folder") };
    if vfs.exists(dir)? {
        match vfs.list(dir) {
            Ok(held) if held.is_empty() => {}
            Ok(_) => return refuse("holds something; remove it or name another folder"),
            Err(_) => return refuse("is not a folder; remove it or name another"),
        }
    }
    let parent = dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create_dir_durably(vfs, parent)?;
    let mut name = name.to_os_string();
    name.push(".writing");
    let beside = dir.with_file_name(name);
    if vfs.exists(&beside)? {
        vfs.remove_dir_all(&beside)?;
    }
    vfs.create_dir_all(&beside)?;
    Ok((parent.to_path_buf(), beside))
}

/// The table as it is read again once it was written: rounded to `element`, the projection to half precision.
///
/// # Errors
/// As [`write_static`] for values that cannot be written.
pub fn as_written(table: &TokenTable, element: TableElement) -> Result<TokenTable> {
    TokenTable::read(&Folder::of_weights(weights(table, element)?))
}

/// The file of weights.
fn weights(table: &TokenTable, element: TableElement) -> Result<Vec<u8>> {
    let mut tensors: Vec<(&str, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    let (rows, width) = table.rows().dim();
    match element {
        TableElement::F16 => {
            tensors.push(("embedding.weight", Dtype::F16, vec![rows, width], halves(table.rows(), "the table")?));
        }
        TableElement::I8 => {
            let (bytes, scales) = quantize(table.rows())?;
            tensors.push(("embedding.weight", Dtype::I8, vec![rows, width], bytes));
            tensors.push(("embedding.scale", Dtype::F32, vec![rows], scales));
        }
    }
    if let Some(projection) = table.projection() {
        let shape = vec![projection.nrows(), projection.ncols()];
        tensors.push(("projection.weight", Dtype::F16, shape, halves(projection, "the projection")?));
    }
    let broken = |e: safetensors::SafeTensorError| Error::params("encoder", format!("it cannot be written: {e}"));
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        TensorView::new(*dtype, shape.clone(), bytes).map(|view| (*name, view)).map_err(broken)
    });
    safetensors::serialize(views.collect::<Result<Vec<_>>>()?, None).map_err(broken)
}

fn halves(x: ArrayView2<'_, f32>, what: &str) -> Result<Vec<u8>> {
    let halves: Vec<f16> = x.iter().map(|&v| f16::from_f32(v)).collect();
    match halves.iter().position(|v| !v.is_finite()) {
        None => Ok(halves.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Some(at) => {
            let value = x.iter().nth(at).copied().unwrap_or_default();
            Err(Error::params("encoder", format!("{what} holds {value}, which half precision cannot; train anew")))
        }
    }
}

/// Each row in units of its largest magnitude / 127, and these units.
fn quantize(x: ArrayView2<'_, f32>) -> Result<(Vec<u8>, Vec<u8>)> {
    let (mut bytes, mut scales) = (Vec::with_capacity(x.len()), Vec::with_capacity(4 * x.nrows()));
    for (token, row) in x.axis_iter(Axis(0)).enumerate() {
        if let Some(value) = row.iter().find(|v| !v.is_finite()) {
            return Err(Error::params("encoder", format!("the vector of token {token} holds {value}; train anew")));
        }
        let scale = row.iter().fold(0f32, |most, v| most.max(v.abs())) / 127.0;
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        bytes.extend(row.iter().map(|v| (v * inverse).round() as i8 as u8));
        scales.extend(scale.to_le_bytes());
    }
    Ok((bytes, scales))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::Encoder;
    use crate::sample::Rng;
    use crate::vfs::RealVfs;
    use crate::vfs::testing::{Fault, FaultyVfs};
    use ndarray::Array2;

    fn trained() -> (TokenTable, Vocabulary) {
        let vocabulary = Vocabulary::train(&["red shoe", "red car", "blue shoe, red"], 128).unwrap();
        let mut rng = Rng::new(1);
        let mut random = |r, c| Array2::from_shape_fn((r, c), |_| rng.normal());
        let table = TokenTable::new(random(vocabulary.size(), 16), Some(random(24, 16))).unwrap();
        (table, vocabulary)
    }

    #[test]
    fn what_is_written_is_read() {
        let (table, vocabulary) = trained();
        for (element, near) in [(TableElement::F16, 1e-3), (TableElement::I8, 0.02)] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("new/encoder");
            write_static(&RealVfs, &path, &table, &vocabulary, element).unwrap();
            let encoder = Encoder::open(&path).unwrap();
            assert_eq!((encoder.dim(), encoder.kind()), (24, "static"));
            let read = encoder.table().unwrap();
            assert_eq!(*read, as_written(&table, element).unwrap());
            let rows = read.rows().to_owned() - table.rows();
            assert!(rows.iter().all(|e| e.abs() < near), "{element:?}");
            assert!(
                (read.projection().unwrap().to_owned() - table.projection().unwrap()).iter().all(|e| e.abs() < 2e-3)
            );
            assert_eq!(encoder.tokens("red shoe").unwrap(), vocabulary.tokens(&["red shoe"]).unwrap()[0]);
            let again = write_static(&RealVfs, &path, &table, &vocabulary, element).unwrap_err();
            assert!(again.to_string().contains("name another folder"), "{again}");
        }
    }

    #[test]
    fn an_output_that_cannot_be_written_is_refused_before_the_work() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let refused = |path: &Path| check_output(&RealVfs, path).unwrap_err().to_string();
        std::fs::write(at("file"), "x").unwrap();
        std::fs::create_dir_all(at("full/inner")).unwrap();
        std::fs::create_dir(at("empty")).unwrap();
        std::os::unix::fs::symlink(at("empty"), at("link")).unwrap();
        for (path, expected) in [
            (at("file"), "is not a folder"),
            (at("file/below"), "file"),
            (at("full"), "holds something"),
            (at("link"), "cannot be replaced"),
            (Path::new(".").into(), "no name of its own"),
            (at("empty/.."), "no name of its own"),
        ] {
            assert!(refused(&path).contains(expected), "{expected}: {}", refused(&path));
        }
        for good in [at("empty"), at("new"), at("deep/new")] {
            let was_there = good.exists();
            check_output(&RealVfs, &good).unwrap();
            assert_eq!(good.exists(), was_there);
        }
        let mut left: Vec<_> = dir.path().read_dir().unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["deep", "empty", "file", "full", "link"]);
    }

    #[test]
    fn a_write_that_fails_leaves_no_encoder() {
        let (table, vocabulary) = trained();
        let dir = tempfile::tempdir().unwrap();
        let mut failed = 0;
        for n in 0..100 {
            let path = dir.path().join(format!("encoder{n}"));
            let vfs =
                FaultyVfs::starting_at(std::sync::Arc::new(RealVfs), n, Fault::Error(std::io::ErrorKind::StorageFull));
            match write_static(&vfs, &path, &table, &vocabulary, TableElement::I8) {
                Ok(()) => break,
                Err(_) => failed += 1,
            }
            assert!(!path.exists() || Encoder::open(&path).is_ok(), "a part of an encoder after operation {n}");
        }
        assert!(failed > 5 && failed < 100, "{failed}");
    }

    #[test]
    fn values_that_cannot_be_written_are_refused() {
        let (table, vocabulary) = trained();
        let dir = tempfile::tempdir().unwrap();
        let write = |table: &TokenTable, element| {
            write_static(&RealVfs, &dir.path().join("x"), table, &vocabulary, element).unwrap_err().to_string()
        };
        let mut rows = table.rows().to_owned();
        rows[[3, 2]] = 1e9;
        assert!(write(&TokenTable::new(rows.clone(), None).unwrap(), TableElement::F16).contains("half precision"));
        rows[[3, 2]] = f32::NAN;
        assert!(write(&TokenTable::new(rows, None).unwrap(), TableElement::I8).contains("token 3"));
        let short = TokenTable::new(Array2::zeros((2, 3)), None).unwrap();
        assert!(write(&short, TableElement::I8).contains("rows of the table"));
    }
}
