//! Texts in place of vectors: they are encoded once into a temporary file, which is then built from as any other.
//!
//! A build reads its input twice; a text is worth milliseconds of a large encoder, its vector some hundred bytes of disk.

use std::path::{Path, PathBuf};

use crate::dataset::{RowText, Scalar, TextFile, VectorWriter};
use crate::encoder::{Encoder, EncoderOptions};
use crate::error::{Error, Result};
use crate::train::Watch;

use super::spec::OnBad;

/// Texts that are read before they are encoded together.
const CHUNK: usize = 2048;
/// Bytes of texts at which a chunk ends.
const CHUNK_BYTES: usize = 16 << 20;

/// Texts to build from, and what makes vectors of them.
#[derive(Clone, Debug)]
pub struct TextInput {
    /// A text a row ([`TextFile`]).
    pub texts: PathBuf,
    /// The columns that are joined to a text; none: `text`.
    pub columns: Vec<String>,
    /// Folder of the encoder.
    pub encoder: PathBuf,
    /// Tokens of a text that are read at most.
    pub max_tokens: Option<usize>,
}

impl TextInput {
    /// Opens the encoder.
    ///
    /// # Errors
    /// As [`Encoder::open_with`].
    pub fn open_encoder(&self) -> Result<Encoder> {
        Encoder::open_with(&self.encoder, EncoderOptions { max_tokens: self.max_tokens })
    }
}

/// What [`encode_texts`] made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct EncodedTexts {
    /// Rows of the file.
    pub rows: u64,
    /// Rows that could not be encoded; their vectors are not numbers.
    pub bad: u64,
}

/// Encodes the texts of a file into a file of vectors (`.npy`, or `.fbin` with f32), in bounded memory; row i is that of text i.
///
/// # Errors
/// `InvalidInput` naming the row of the first text that cannot be encoded, unless `on_bad` says to skip: then its vector is not a
/// number, which a build that skips bad rows leaves out. `Io`.
pub fn encode_texts(
    encoder: &Encoder,
    mut texts: TextFile,
    output: &Path,
    scalar: Scalar,
    on_bad: OnBad,
    watch: &dyn Watch,
) -> Result<EncodedTexts> {
    watch.begin("encode texts", texts.rows());
    let mut writer = VectorWriter::create(output, scalar, encoder.dim())?;
    let (mut done, mut bad) = (0u64, 0u64);
    loop {
        let chunk = read_chunk(&mut texts)?;
        if chunk.is_empty() {
            writer.finish()?;
            return Ok(EncodedTexts { rows: done, bad });
        }
        let texts_of_rows: Vec<&str> = chunk.iter().map(|text| text.as_deref().unwrap_or_default()).collect();
        let (vectors, mut wrong) = encoder.encode_each(&texts_of_rows);
        for (row, reason) in &mut wrong {
            // What made the row empty says more than that it is.
            if let Err(why) = &chunk[*row] {
                reason.clone_from(why);
            }
        }
        if let (Some((row, reason)), OnBad::Fail) = (wrong.first(), on_bad) {
            return Err(Error::input(texts.path(), format!("row {}", done + *row as u64), reason.as_str()));
        }
        bad += wrong.len() as u64;
        writer.write(vectors.as_slice().expect("C order"))?;
        done += chunk.len() as u64;
        watch.advance(chunk.len() as u64);
        watch.check()?;
    }
}

fn read_chunk(texts: &mut TextFile) -> Result<Vec<RowText>> {
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    while chunk.len() < CHUNK && bytes < CHUNK_BYTES {
        let Some(text) = texts.next_text()? else { break };
        bytes += text.as_ref().map_or(0, String::len);
        chunk.push(text);
    }
    Ok(chunk)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::{BuildSpec, Plan, build};
    use crate::dataset::VectorFile;
    use crate::encoder::testing::write_static;
    use crate::index::Manifest;
    use crate::quantizer::Quantizer;
    use crate::train::Silent;
    use crate::vfs::RealVfs;

    fn encoded(content: &str, on_bad: OnBad) -> Result<(EncodedTexts, Vec<f32>, Encoder)> {
        let dir = tempfile::tempdir().unwrap();
        write_static(dir.path());
        let encoder = Encoder::open(dir.path()).unwrap();
        let (texts, vectors) = (dir.path().join("t.txt"), dir.path().join("v.npy"));
        std::fs::write(&texts, content).unwrap();
        let made = encode_texts(&encoder, TextFile::open(&texts, &[])?, &vectors, Scalar::F32, on_bad, &Silent)?;
        let mut file = VectorFile::open(&vectors, None).unwrap();
        let mut values = vec![0.0; file.rows() as usize * file.dim()];
        file.read(0, &mut values).unwrap();
        Ok((made, values, encoder))
    }

    #[test]
    fn rows_are_those_of_the_texts() {
        let lines: Vec<String> = (0..CHUNK + 3).map(|i| format!("red shoe {}", "blue ".repeat(i % 5))).collect();
        let (made, values, encoder) = encoded(&lines.join("\n"), OnBad::Fail).unwrap();
        assert_eq!(made, EncodedTexts { rows: lines.len() as u64, bad: 0 });
        for row in [0, 1, CHUNK - 1, CHUNK, CHUNK + 2] {
            let expected = encoder.encode_one(&lines[row]).unwrap();
            // The products of another batch are rounded in another order.
            let found = &values[row * encoder.dim()..(row + 1) * encoder.dim()];
            assert!(found.iter().zip(&expected).all(|(f, e)| (f - e).abs() < 1e-6), "row {row}");
        }
    }

    /// The index of twenty texts, of which two tokens are read.
    fn built(dir: &Path, change: impl FnOnce(&mut BuildSpec)) -> Result<Manifest> {
        let (texts, encoder) = (dir.join("t.txt"), dir.join("encoder"));
        std::fs::create_dir_all(&encoder).unwrap();
        write_static(&encoder);
        std::fs::write(&texts, "red shoe blue\nblue shoe red\n".repeat(10)).unwrap();
        let input = TextInput { texts, columns: Vec::new(), encoder, max_tokens: Some(2) };
        let mut spec = BuildSpec { texts: Some(input), code_bytes: Some(4), ..BuildSpec::new("", dir.join("index")) };
        change(&mut spec);
        build(&spec, &Silent)?;
        Manifest::read(&RealVfs, &spec.output)
    }

    #[test]
    fn queries_are_read_as_the_documents_were() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = built(dir.path(), |_| {}).unwrap();
        let (encoder, notes) = manifest.open_encoder(None).unwrap();
        assert_eq!((encoder.unwrap().max_tokens(), notes), (2, Vec::new()));
        let changed = dir.path().join("encoder/config.json");
        std::fs::write(&changed, "{\"model_type\": \"model2vec\"}").unwrap();
        let (encoder, notes) = manifest.open_encoder(None).unwrap();
        assert_eq!((encoder.unwrap().max_tokens(), notes.len()), (512, 1));
        assert!(notes[0].contains("is not the one") && notes[0].contains("up to 512 tokens"), "{notes:?}");
        std::fs::remove_file(&changed).unwrap();
        let mut longer = manifest;
        longer.encoder.as_mut().unwrap().max_tokens = 700;
        let error = longer.open_encoder(None).unwrap_err().to_string();
        assert!(error.contains("700") && error.contains("512 at most"), "{error}");
    }

    #[test]
    fn a_quantizer_of_another_encoder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = built(dir.path(), |_| {}).unwrap();
        let made = dir.path().join("index").join(&manifest.folder).join(&manifest.files.quantizer.name);
        let quantizer = Quantizer::read(&RealVfs, &made, None).unwrap();
        let path = dir.path().join("quantizer.bg");
        let with = |id: &str| {
            quantizer.clone().with_encoder(id).write(&RealVfs, &path, [0; 16]).unwrap();
            built(dir.path(), |spec| spec.quantizer = Some(path.clone()))
        };
        let id = manifest.encoder.as_ref().unwrap().id.clone();
        with(&id).unwrap();
        let error = with("0123").unwrap_err().to_string();
        assert!(error.contains("quantizer.bg") && error.contains("0123") && error.contains(&id), "{error}");
    }

    #[test]
    fn texts_without_a_vector_name_their_own_file() {
        let dir = tempfile::tempdir().unwrap();
        let records = dir.path().join("t.jsonl");
        std::fs::write(&records, "{\"title\": \"red\"}\n".repeat(20)).unwrap();
        let given = |on_bad| {
            let change = |spec: &mut BuildSpec| {
                spec.on_bad = on_bad;
                spec.texts.as_mut().unwrap().texts = records.clone();
            };
            built(dir.path(), change).unwrap_err().to_string()
        };
        let (failed, skipped) = (given(OnBad::Fail), given(OnBad::Skip));
        assert!(failed.contains("t.jsonl") && failed.contains("it has no \"text\"; it has title"), "{failed}");
        assert!(skipped.contains("t.jsonl") && skipped.contains("none could be encoded"), "{skipped}");
        let plan = |texts: bool| {
            let mut spec = BuildSpec::new("", dir.path().join("index"));
            let encoder = dir.path().join("encoder");
            spec.texts =
                texts.then(|| TextInput { texts: records.clone(), columns: vec![], encoder, max_tokens: None });
            Plan::new(&spec, 1000, 6).unwrap().spill_bytes
        };
        assert_eq!(plan(true) - plan(false), 1000 * 6 * 4, "vectors lie on disk for a while");
    }

    #[test]
    fn an_empty_text_is_named_or_skipped() {
        let error = encoded("red\n\nblue\n", OnBad::Fail).unwrap_err().to_string();
        assert!(error.contains("row 1") && error.contains("empty"), "{error}");
        let (made, values, encoder) = encoded("red\n\nblue\n", OnBad::Skip).unwrap();
        assert_eq!(made, EncodedTexts { rows: 3, bad: 1 });
        let nan: Vec<bool> = values.chunks(encoder.dim()).map(|row| row.iter().all(|v| v.is_nan())).collect();
        assert_eq!(nan, [false, true, false]);
    }
}
