//! A quantizer as a file.
//!
//! ```text
//! META   JSON          metric, dim (d, of centroids), lists (L), code_bits, code_bytes, rotation, heads, router, groups, encoder (its id)
//! CENT   f32 x L d     centroids
//! GRPS   u32 x (G+1)   first list of each group of lists, then L (only where there are groups)
//! ROTA   f32 x d d     rotation, row-major (only where there is one)
//! WORD   f32 x d K     codewords: subspace after subspace, each d_m x K
//! OFFS   f32 x M K     score offsets of codewords (only where there are any)
//! ROUT   f32 x L d     router, row-major (only where there is one)
//! ```
//! Every head has sections of its own. Its tag begins with `CQ`, `CD`, `DQ` or `DD` (code or dense, query or document):
//! ```text
//! ..LI   f32 x out in         the linear map
//! ..IN   f32 x hidden in      inner layer       (these three only where META states a hidden size)
//! ..BI   f32 x hidden         its bias
//! ..OU   f32 x out hidden     outer layer
//! ```
//! META leaves `heads`, `router`, `offsets`, `groups` and `encoder` out where there are none, as files did that were written before there were any.

use ndarray::Array2;
use serde::{Deserialize, Serialize};
use std::path::Path;

use super::{CodeShape, Product, Quantizer};
use crate::error::{Error, Result};
use crate::format::{FileEntry, FileReader, FileWriter, Kind};
use crate::heads::{Head, Heads, Residual};
use crate::simd::CodeBits;
use crate::types::Metric;
use crate::vfs::Vfs;

const META: [u8; 4] = *b"META";
const CENT: [u8; 4] = *b"CENT";
const GRPS: [u8; 4] = *b"GRPS";
const ROTA: [u8; 4] = *b"ROTA";
const WORD: [u8; 4] = *b"WORD";
const OFFS: [u8; 4] = *b"OFFS";
const ROUT: [u8; 4] = *b"ROUT";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Meta {
    metric: Metric,
    dim: usize,
    lists: usize,
    code_bits: u8,
    code_bytes: usize,
    rotation: bool,
    #[serde(default, skip_serializing_if = "HeadsMeta::is_empty")]
    heads: HeadsMeta,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    router: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    offsets: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    groups: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encoder: Option<String>,
}

/// The heads that are there.
#[derive(Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeadsMeta {
    #[serde(skip_serializing_if = "Option::is_none")]
    code_query: Option<HeadMeta>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code_document: Option<HeadMeta>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dense_query: Option<HeadMeta>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dense_document: Option<HeadMeta>,
}

/// Shape of a head.
#[derive(PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeadMeta {
    input: usize,
    output: usize,
    /// Units of the residual; left out: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hidden: Option<usize>,
    normalise: bool,
}

impl HeadsMeta {
    fn of(heads: &Heads) -> HeadsMeta {
        let shape = |head: &Head| HeadMeta {
            input: head.input_dim(),
            output: head.output_dim(),
            hidden: head.residual.as_ref().map(|residual| residual.bias.len()),
            normalise: head.normalise,
        };
        HeadsMeta {
            code_query: heads.code_query.as_ref().map(shape),
            code_document: heads.code_document.as_ref().map(shape),
            dense_query: heads.dense_query.as_ref().map(shape),
            dense_document: heads.dense_document.as_ref().map(shape),
        }
    }

    fn is_empty(&self) -> bool {
        *self == HeadsMeta::default()
    }

    fn read(&self, file: &FileReader, path: &Path) -> Result<Heads> {
        let read = |meta: &Option<HeadMeta>, name| meta.as_ref().map(|meta| meta.read(file, path, name)).transpose();
        Ok(Heads {
            code_query: read(&self.code_query, "code_query")?,
            code_document: read(&self.code_document, "code_document")?,
            dense_query: read(&self.dense_query, "dense_query")?,
            dense_document: read(&self.dense_document, "dense_document")?,
        })
    }
}

impl HeadMeta {
    fn read(&self, file: &FileReader, path: &Path, name: &str) -> Result<Head> {
        let read = |part, rows, cols| matrix(file, path, head_tag(name, part), rows, cols);
        let residual = |hidden| -> Result<Residual> {
            let bias = read(*b"BI", 1, hidden)?.into_raw_vec_and_offset().0;
            Ok(Residual { inner: read(*b"IN", hidden, self.input)?, bias, outer: read(*b"OU", self.output, hidden)? })
        };
        Ok(Head {
            linear: read(*b"LI", self.output, self.input)?,
            residual: self.hidden.map(residual).transpose()?,
            normalise: self.normalise,
        })
    }
}

/// The tag of a part of the head `name`: initials of the grain and the side, then the part.
fn head_tag(name: &str, part: [u8; 2]) -> [u8; 4] {
    let initials = match name {
        "code_query" => *b"CQ",
        "code_document" => *b"CD",
        "dense_query" => *b"DQ",
        _ => *b"DD",
    };
    [initials[0], initials[1], part[0], part[1]]
}

/// The parts of a head: tag and values, in the order of the file.
fn head_parts<'h>(name: &str, head: &'h Head) -> Vec<([u8; 4], &'h [f32])> {
    let mut parts = vec![(head_tag(name, *b"LI"), floats(&head.linear))];
    if let Some(Residual { inner, bias, outer }) = &head.residual {
        parts.push((head_tag(name, *b"IN"), floats(inner)));
        parts.push((head_tag(name, *b"BI"), bias));
        parts.push((head_tag(name, *b"OU"), floats(outer)));
    }
    parts
}

fn floats(matrix: &Array2<f32>) -> &[f32] {
    matrix.as_slice().expect("C order")
}

impl Quantizer {
    /// Writes the quantizer to `path`.
    pub fn write(&self, vfs: &dyn Vfs, path: &Path, index_id: [u8; 16]) -> Result<FileEntry> {
        let mut file = FileWriter::create(vfs, path, Kind::Quantizer, index_id)?;
        file.write_array(META, &serde_json::to_vec(&self.meta()).expect("plain values"))?;
        file.write_array(CENT, self.coarse.centroids().as_slice().expect("C order"))?;
        if !self.coarse.group_starts().is_empty() {
            file.write_array(GRPS, self.coarse.group_starts())?;
        }
        if let Some(rotation) = &self.rotation {
            file.write_array(ROTA, floats(rotation))?;
        }
        file.write_array(WORD, self.product.codewords())?;
        if !self.product.offsets().is_empty() {
            file.write_array(OFFS, self.product.offsets())?;
        }
        if let Some(router) = self.router() {
            file.write_array(ROUT, router.as_slice().expect("C order"))?;
        }
        for (tag, values) in self.heads.named().flat_map(|(name, head)| head_parts(name, head)) {
            file.write_array(tag, values)?;
        }
        file.finish()
    }

    fn meta(&self) -> Meta {
        let shape = self.product.shape();
        Meta {
            metric: self.metric,
            dim: self.code_dim(),
            lists: self.coarse.lists(),
            code_bits: shape.bits.bits() as u8,
            code_bytes: shape.bytes,
            rotation: self.rotation.is_some(),
            heads: HeadsMeta::of(&self.heads),
            router: self.router.is_some(),
            offsets: !self.product.offsets().is_empty(),
            groups: !self.coarse.group_starts().is_empty(),
            encoder: self.encoder.clone(),
        }
    }

    /// Reads the quantizer at `path`; `index_id` is that of the index it must belong to, if any.
    pub fn read(vfs: &dyn Vfs, path: &Path, index_id: Option<&[u8; 16]>) -> Result<Quantizer> {
        let file = FileReader::open(vfs, path, Kind::Quantizer, index_id)?;
        let meta: Meta = serde_json::from_slice(&file.read_section(META)?)
            .map_err(|e| Error::corrupt(path, "META", e.to_string()))?;
        let bits = CodeBits::from_count(meta.code_bits)?;
        let shape = CodeShape::new(bits, meta.code_bytes)?;
        if meta.dim == 0 || meta.lists == 0 {
            return Err(Error::corrupt(path, "META", "it has no dimensions or no lists"));
        }
        let centroids = matrix(&file, path, CENT, meta.lists, meta.dim)?;
        let rotation = if meta.rotation { Some(matrix(&file, path, ROTA, meta.dim, meta.dim)?) } else { None };
        let words = matrix(&file, path, WORD, meta.dim, shape.codewords())?;
        let mut product = Product::new(shape, meta.dim, words.into_raw_vec_and_offset().0);
        if meta.offsets && meta.metric == Metric::L2 {
            return Err(Error::corrupt(path, "OFFS", "offsets have no meaning under the metric l2"));
        }
        if meta.offsets {
            let offsets = matrix(&file, path, OFFS, shape.subspaces(), shape.codewords())?;
            product = product.with_offsets(offsets.into_raw_vec_and_offset().0);
        }
        let mut quantizer = Quantizer::new(meta.metric, centroids, rotation, product);
        let damaged = |section: &str| {
            let section = section.to_string();
            move |error: Error| Error::corrupt(path, section, error.to_string())
        };
        if meta.groups {
            quantizer = quantizer.with_groups(file.read_array(GRPS)?).map_err(damaged("GRPS"))?;
        }
        if meta.router {
            let router = matrix(&file, path, ROUT, meta.lists, meta.dim)?;
            quantizer = quantizer.with_router(router).map_err(damaged("ROUT"))?;
        }
        let heads = meta.heads.read(&file, path)?;
        if let Some(id) = &meta.encoder {
            quantizer = quantizer.with_encoder(id);
        }
        quantizer.with_heads(heads).map_err(damaged("META"))
    }

    /// A hash of all that is trained; equal for equal quantizers.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        let mut hash = |values: &[f32]| {
            hasher.update(bytemuck::cast_slice(values));
        };
        hash(self.coarse.centroids().as_slice().expect("C order"));
        if let Some(rotation) = &self.rotation {
            hash(floats(rotation));
        }
        hash(self.product.codewords());
        hash(self.product.offsets());
        if let Some(router) = self.router() {
            hash(router.as_slice().expect("C order"));
        }
        let groups = self.coarse.group_starts();
        let plain = self.heads.is_empty() && self.router.is_none() && self.product.offsets().is_empty();
        if !plain || !groups.is_empty() || self.encoder.is_some() {
            // What is there, and in which shape: the values alone do not tell.
            hasher.update(&serde_json::to_vec(&self.meta()).expect("plain values"));
        }
        hasher.update(bytemuck::cast_slice(groups));
        for (tag, values) in self.heads.named().flat_map(|(name, head)| head_parts(name, head)) {
            hasher.update(&tag).update(bytemuck::cast_slice(values));
        }
        hasher.finalize().into()
    }
}

/// Reads a matrix of finite values, rows x cols.
fn matrix(file: &FileReader, path: &Path, tag: [u8; 4], rows: usize, cols: usize) -> Result<Array2<f32>> {
    let section = String::from_utf8_lossy(&tag).into_owned();
    let values: Vec<f32> = file.read_array(tag)?;
    if let Some(at) = values.iter().position(|v| !v.is_finite()) {
        return Err(Error::corrupt(path, section, format!("value {at} is {}", values[at])));
    }
    let found = values.len();
    Array2::from_shape_vec((rows, cols), values)
        .map_err(|_| Error::corrupt(path, section, format!("it has {found} values, {rows} x {cols} are needed")))
}

#[cfg(test)]
mod tests {
    use super::super::tests::random_quantizer;
    use super::*;
    use crate::heads::tests::random_head;
    use crate::vfs::MemoryVfs;

    #[test]
    fn a_written_quantizer_reads_back_the_same() {
        let vfs = MemoryVfs::default();
        let path = Path::new("/q.bg");
        for (metric, bits, rotate) in [(Metric::L2, CodeBits::Four, true), (Metric::Cosine, CodeBits::Eight, false)] {
            let quantizer = random_quantizer(metric, bits, rotate, 2);
            quantizer.write(&vfs, path, [7; 16]).unwrap();
            let read = Quantizer::read(&vfs, path, Some(&[7; 16])).unwrap();
            assert_eq!(read.fingerprint(), quantizer.fingerprint());
            assert_eq!((read.metric(), read.rotation().is_some()), (metric, rotate));
            assert!(Quantizer::read(&vfs, path, Some(&[8; 16])).is_err());
        }
    }

    /// A quantizer with groups, a router and all four heads, two of them with a residual; 30 values in, 24 coded, 10 stored.
    fn learned(seed: u64) -> Quantizer {
        let dense_query = random_head(30, Some(7), 10, seed);
        let heads = Heads {
            code_query: Some(random_head(30, None, 24, seed + 1)),
            code_document: Some(random_head(30, Some(5), 24, seed + 2)),
            dense_document: Some(Head { normalise: false, ..dense_query.clone() }),
            dense_query: Some(dense_query),
        };
        let plain = random_quantizer(Metric::Cosine, CodeBits::Four, true, 2);
        let router = random_head(24, None, 9, seed + 3).linear;
        plain.with_groups(vec![0, 4, 9]).unwrap().with_router(router).unwrap().with_heads(heads).unwrap()
    }

    #[test]
    fn heads_and_router_read_back_the_same() {
        let (vfs, path) = (MemoryVfs::default(), Path::new("/q.bg"));
        let quantizer = learned(1).with_encoder("0123abcd");
        quantizer.write(&vfs, path, [7; 16]).unwrap();
        let read = Quantizer::read(&vfs, path, None).unwrap();
        assert_eq!((read.encoder(), learned(1).encoder()), (Some("0123abcd"), None));
        assert_eq!((read.dim(), read.code_dim(), read.dense_dim()), (30, 24, 10));
        assert_eq!((read.heads(), read.router()), (quantizer.heads(), quantizer.router()));
        assert_eq!(read.coarse().group_starts(), [0, 4, 9]);
        assert_eq!((read.fingerprint(), read.memory_bytes()), (quantizer.fingerprint(), quantizer.memory_bytes()));
    }

    #[test]
    fn every_learned_part_counts_in_the_fingerprint_and_in_memory() {
        let whole = learned(1);
        let mut seen = vec![whole.fingerprint(), learned(9).fingerprint()];
        let mut changed = |change: &dyn Fn(&mut Quantizer)| {
            let mut quantizer = whole.clone();
            change(&mut quantizer);
            assert!(quantizer.memory_bytes() <= whole.memory_bytes());
            seen.push(quantizer.fingerprint());
        };
        changed(&|q| q.encoder = Some("0123abcd".into()));
        changed(&|q| q.router = None);
        changed(&|q| q.coarse = crate::quantizer::Coarse::new(q.coarse.centroids().to_owned(), q.metric));
        changed(&|q| q.coarse = q.coarse.clone().with_groups(vec![0, 5, 9]).unwrap());
        changed(&|q| q.heads.code_query = None);
        changed(&|q| q.heads.code_document = None);
        changed(&|q| (q.heads.dense_query, q.heads.dense_document) = (None, None));
        changed(&|q| q.heads.dense_query.as_mut().unwrap().normalise = false);
        changed(&|q| q.heads.dense_query.as_mut().unwrap().residual = None);
        changed(&|q| std::mem::swap(&mut q.heads.dense_query, &mut q.heads.dense_document));
        let count = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), count);
        let plain = random_quantizer(Metric::Cosine, CodeBits::Four, true, 2).memory_bytes();
        let floats = 24 * 30 * 2 + 5 * 30 + 5 + 24 * 5 + 2 * (10 * 30 + 7 * 30 + 7 + 10 * 7);
        assert!(whole.memory_bytes() >= plain + 4 * floats + 9 * 24 * 4);
    }

    #[test]
    fn a_file_from_before_there_were_heads_is_read() {
        let (vfs, path) = (MemoryVfs::default(), Path::new("/q.bg"));
        let quantizer = random_quantizer(Metric::L2, CodeBits::Four, false, 2);
        let meta = br#"{"metric":"l2","dim":24,"lists":9,"code_bits":4,"code_bytes":8,"rotation":false}"#;
        let mut file = FileWriter::create(&vfs, path, Kind::Quantizer, [7; 16]).unwrap();
        file.write_array(META, meta).unwrap();
        file.write_array(CENT, quantizer.coarse().centroids().as_slice().unwrap()).unwrap();
        file.write_array(WORD, quantizer.product().codewords()).unwrap();
        let old = file.finish().unwrap();
        let read = Quantizer::read(&vfs, path, None).unwrap();
        assert_eq!(read.fingerprint(), quantizer.fingerprint());
        assert!(read.heads().is_empty() && read.router().is_none());
        // And what has neither heads nor router is still written so.
        assert_eq!(quantizer.write(&vfs, path, [7; 16]).unwrap().header_crc, old.header_crc);
    }

    #[test]
    fn groups_that_are_no_runs_of_lists_are_damage() {
        let (vfs, path) = (MemoryVfs::default(), Path::new("/q.bg"));
        let quantizer = random_quantizer(Metric::L2, CodeBits::Four, false, 2);
        let meta = br#"{"metric":"l2","dim":24,"lists":9,"code_bits":4,"code_bytes":8,"rotation":false,"groups":true}"#;
        for starts in [[0u32, 5, 5, 9], [0, 5, 7, 10], [1, 5, 7, 9]] {
            let mut file = FileWriter::create(&vfs, path, Kind::Quantizer, [7; 16]).unwrap();
            file.write_array(META, meta).unwrap();
            file.write_array(CENT, quantizer.coarse().centroids().as_slice().unwrap()).unwrap();
            file.write_array(GRPS, &starts).unwrap();
            file.write_array(WORD, quantizer.product().codewords()).unwrap();
            file.finish().unwrap();
            let error = Quantizer::read(&vfs, path, None).unwrap_err();
            assert!(matches!(&error, Error::Corrupt { section, .. } if section == "GRPS"), "{error}");
        }
    }

    #[test]
    fn heads_that_contradict_the_file_are_damage() {
        let (vfs, path) = (MemoryVfs::default(), Path::new("/q.bg"));
        let bad = |change: &dyn Fn(&mut Quantizer), section: &str, reason: &str| {
            let mut quantizer = learned(1);
            change(&mut quantizer);
            quantizer.write(&vfs, path, [7; 16]).unwrap();
            let error = Quantizer::read(&vfs, path, None).unwrap_err();
            assert!(matches!(&error, Error::Corrupt { section: found, .. } if found == section), "{error}");
            assert!(error.to_string().contains(reason), "{error}");
        };
        let linear = |quantizer: &mut Quantizer, rows, cols| {
            quantizer.heads.dense_query.as_mut().unwrap().linear = Array2::zeros((rows, cols));
        };
        bad(&|q| linear(q, 9, 30), "DQOU", "9 x 7 are needed");
        bad(&|q| linear(q, 0, 30), "DQOU", "0 x 7 are needed");
        bad(&|q| q.heads.code_query.as_mut().unwrap().linear[[1, 1]] = f32::NAN, "CQLI", "NaN");
        bad(
            &|q| q.heads.code_document.as_mut().unwrap().residual.as_mut().unwrap().bias[2] = f32::INFINITY,
            "CDBI",
            "inf",
        );
        let none = |q: &mut Quantizer| q.heads.code_document = Some(random_head(30, Some(0), 24, 5));
        bad(&none, "META", "no hidden units");
        bad(&|q| q.heads.code_query = None, "META", "code_query");
        bad(&|q| q.heads.dense_query = None, "META", "dense_query");
        bad(&|q| q.metric = Metric::L2, "META", "l2");
    }

    #[test]
    fn values_that_are_not_finite_are_refused() {
        let vfs = MemoryVfs::default();
        let path = Path::new("/q.bg");
        let mut quantizer = random_quantizer(Metric::Ip, CodeBits::Four, true, 2);
        quantizer.rotation.as_mut().unwrap()[[3, 4]] = f32::NAN;
        quantizer.write(&vfs, path, [7; 16]).unwrap();
        let message = Quantizer::read(&vfs, path, None).unwrap_err().to_string();
        assert!(message.contains("ROTA") && message.contains("NaN"), "{message}");
    }
}
