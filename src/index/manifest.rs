//! The manifest: one small, readable JSON file that says which files make an index, and what they hold.
//!
//! It is the commit point: a version exists when its manifest has been renamed into place. Its first line holds the
//! checksum (CRC-32C, hexadecimal) of every byte after that line:
//! ```text
//! {"crc32c": "89abcdef",
//! "format": 1, ...
//! ```

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::format::{FileEntry, seal_json, unseal_json};
use crate::quantizer::CodeShape;
use crate::simd::CodeBits;
use crate::types::{Element, MAX_ROWS, Metric};
use crate::vfs::{Vfs, replace_file};

use super::calibration::Calibration;

/// Name of the manifest within an index directory.
pub const MANIFEST: &str = "manifest.json";
/// Version of the manifest's fields that this build reads and writes.
const FORMAT: u32 = 1;
/// A manifest larger than this is none.
const MAX_BYTES: u64 = 64 << 20;

/// What an index is made of. Everything in it follows from the input, the parameters and the seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of these fields.
    pub format: u32,
    /// The index id, 32 hexadecimal digits; every file carries it.
    pub id: String,
    /// Folder of the files, within the index directory.
    pub folder: String,
    /// Number of rows.
    pub rows: u64,
    /// Dimension of the vectors that were indexed, and of queries.
    pub dim: usize,
    /// Dimension of the stored dense vectors: another one where dense heads make it so. (Manifests that state none are
    /// from before there were heads.)
    #[serde(default)]
    pub dense_dim: usize,
    /// How queries and documents are compared.
    pub metric: Metric,
    /// Number of inverted lists.
    pub lists: usize,
    /// Bits of a code, 4 or 8.
    pub code_bits: u8,
    /// Code bytes a row.
    pub code_bytes: usize,
    /// Names of the quantizer's heads (see [`crate::heads::Heads`]).
    #[serde(default)]
    pub heads: Vec<String>,
    /// Whether lists are chosen by a learned router.
    #[serde(default)]
    pub router: bool,
    /// Element type of the dense vectors.
    pub dense: Element,
    /// Lists probed where a query does not say.
    pub default_nprobe: usize,
    /// What reaches which recall, for each number of hits that sample queries were given for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calibration: Vec<Calibration>,
    /// Where documents may have several rows: how many documents there are. None: a row is a document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub views: Option<Views>,
    /// The live changes that it includes; none where it was built from files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<Included>,
    /// What made its vectors, where it was built from texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder: Option<EncoderNote>,
    /// How it was built.
    pub build: Provenance,
    /// The files.
    pub files: Files,
}

/// The documents of an index in which rows are views of documents: the rows of one document (its *parent*) share its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Views {
    /// Different keys.
    pub parents: u64,
    /// Rows of the key that has most of them.
    pub most: u64,
}

impl Views {
    /// Refuses numbers that `rows` rows cannot have.
    fn check(self, rows: u64) -> std::result::Result<(), String> {
        let Views { parents, most } = self;
        let fits = parents >= 1
            && most >= 1
            && parents.checked_add(most - 1).is_some_and(|least| least <= rows)
            && parents.checked_mul(most).is_none_or(|all| all >= rows);
        match fits {
            true => Ok(()),
            false => Err(format!("{rows} rows cannot be those of {parents} documents with {most} rows at most")),
        }
    }
}

/// Which changes of which journal an index includes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Included {
    /// The journal's id ([`crate::journal::Journal::id`]).
    pub journal: String,
    /// All its records up to this number.
    pub seq: u64,
}

/// The text encoder that made the vectors of an index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderNote {
    /// Thirty-two hexadecimal digits over its files.
    pub id: String,
    /// `bert` or `static`.
    pub kind: String,
    /// Tokens of a text that were read at most.
    pub max_tokens: usize,
    /// Where it was then.
    pub path: PathBuf,
}

/// How an index was built, for people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Version of bigrain that built it.
    pub bigrain: String,
    /// Seed of every random choice.
    pub seed: u64,
    /// Rows that the lists were trained on (0: the quantizer was given).
    pub sample_rows: u64,
    /// Rows that the codes were trained on.
    pub code_rows: u64,
    /// Whether residuals are rotated (OPQ).
    pub opq: bool,
    /// Rows of the input that were left out as bad.
    pub skipped_rows: u64,
}

/// The files of an index.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// Centroids, rotation, codebooks, heads, router.
    pub quantizer: FileEntry,
    /// Inverted lists.
    pub codes: FileEntry,
    /// From keys to rows.
    pub keys: FileEntry,
    /// What is returned with a hit beside its key, if anything was given.
    pub fields: Option<FileEntry>,
    /// The columns that are filtered by, if anything was given. (Manifests that name none may be older.)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attributes: Option<FileEntry>,
    /// Canary queries, if sample queries were given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<FileEntry>,
    /// Dense shards in row order.
    pub dense: Vec<FileEntry>,
}

impl Files {
    /// All files.
    pub fn all(&self) -> impl Iterator<Item = &FileEntry> {
        let few = [&self.quantizer, &self.codes, &self.keys].into_iter();
        few.chain(&self.fields).chain(&self.attributes).chain(&self.canary).chain(&self.dense)
    }
}

impl Manifest {
    /// Version of the fields that this build writes.
    pub fn format() -> u32 {
        FORMAT
    }

    /// The index id as bytes.
    pub fn id_bytes(&self) -> Option<[u8; 16]> {
        if self.id.len() != 32 || !self.id.is_ascii() {
            return None;
        }
        let mut id = [0; 16];
        for (i, byte) in id.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&self.id[2 * i..2 * i + 2], 16).ok()?;
        }
        Some(id)
    }

    /// Shape of the codes.
    pub fn code_shape(&self) -> Result<CodeShape> {
        CodeShape::new(CodeBits::from_count(self.code_bits)?, self.code_bytes)
    }

    /// Reads and checks the manifest of the index in `dir`.
    pub fn read(vfs: &dyn Vfs, dir: &Path) -> Result<Manifest> {
        let path = dir.join(MANIFEST);
        if !vfs.exists(&path)? {
            return Err(Error::input(
                dir,
                "index",
                format!("there is no {MANIFEST} in it; build one with build-index"),
            ));
        }
        let file = vfs.open(&path)?;
        if file.len() > MAX_BYTES {
            return Err(Error::corrupt(&path, "header", format!("{} bytes are too many", file.len())));
        }
        let mut bytes = vec![0; file.len() as usize];
        file.read_exact_at(0, &mut bytes)?;
        Manifest::parse(&path, &bytes)
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Manifest> {
        let wrong = |reason: String| Error::corrupt(path, "header", reason);
        let json = unseal_json(path, bytes)?;
        let format = serde_json::from_slice::<FormatOnly>(&json).map_err(|e| wrong(e.to_string()))?.format;
        if format != FORMAT {
            return Err(Error::Unsupported {
                what: format!("{}: manifest format {format}", path.display()),
                remedy: format!(
                    "this bigrain reads format {FORMAT}; use the one that wrote it, or build the index again"
                ),
            });
        }
        let mut manifest: Manifest = serde_json::from_slice(&json).map_err(|e| wrong(e.to_string()))?;
        if manifest.dense_dim == 0 {
            manifest.dense_dim = manifest.dim;
        }
        manifest.check().map_err(wrong)?;
        Ok(manifest)
    }

    /// The first thing that later code could not live with, if any.
    fn check(&self) -> std::result::Result<(), String> {
        if self.id_bytes().is_none() {
            return Err(format!("its id {:?} is not 32 hexadecimal digits", self.id));
        }
        if self.rows == 0 || self.rows > MAX_ROWS || self.dim == 0 || self.lists == 0 || self.default_nprobe == 0 {
            return Err("rows, dim, lists or default_nprobe are out of range".into());
        }
        self.code_shape().map_err(|e| e.to_string())?;
        self.calibration.iter().try_for_each(|c| c.check(self.lists))?;
        self.views.map_or(Ok(()), |views| views.check(self.rows))?;
        let plain = |name: &str| !name.is_empty() && !name.contains(['/', '\\']) && name != "." && name != "..";
        match self.files.all().map(|f| &f.name).chain([&self.folder]).find(|name| !plain(name)) {
            Some(name) => Err(format!("{name:?} is not a plain file name")),
            None => Ok(()),
        }
    }

    /// Puts this manifest in the place of the one in `dir`, in one step.
    ///
    /// # Errors
    /// `Io`.
    pub fn write(&self, vfs: &dyn Vfs, dir: &Path) -> Result<()> {
        replace_file(vfs, &dir.join(MANIFEST), |beside| {
            let mut file = vfs.create(beside)?;
            file.write_all(&self.to_bytes())?;
            file.sync()
        })
    }

    /// The bytes of the manifest file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let json = serde_json::to_string_pretty(self).expect("plain values");
        seal_json(&json)
    }
}

#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let entry = |name: &str| -> FileEntry {
            serde_json::from_value(serde_json::json!({"name": name, "kind": "codes", "bytes": 8192, "header_crc": 7}))
                .unwrap()
        };
        Manifest {
            format: FORMAT,
            id: "00112233445566778899aabbccddeeff".into(),
            folder: "v-0".into(),
            rows: 10,
            dim: 4,
            dense_dim: 3,
            metric: Metric::Cosine,
            lists: 2,
            code_bits: 8,
            code_bytes: 4,
            heads: vec!["dense_query".into(), "dense_document".into()],
            router: true,
            dense: Element::F32,
            default_nprobe: 1,
            calibration: Vec::new(),
            views: Some(Views { parents: 4, most: 3 }),
            live: Some(Included { journal: "ff".into(), seq: 9 }),
            encoder: Some(EncoderNote {
                id: "ee".into(),
                kind: "static".into(),
                max_tokens: 512,
                path: "models/small".into(),
            }),
            build: Provenance {
                bigrain: "0".into(),
                seed: 1,
                sample_rows: 10,
                code_rows: 10,
                opq: true,
                skipped_rows: 0,
            },
            files: Files {
                quantizer: entry("q"),
                codes: entry("c"),
                keys: entry("k"),
                fields: None,
                attributes: None,
                canary: None,
                dense: vec![entry("d")],
            },
        }
    }

    #[test]
    fn reads_back_what_it_writes_and_is_valid_json() {
        let bytes = manifest().to_bytes();
        assert_eq!(Manifest::parse(Path::new("m"), &bytes).unwrap(), manifest());
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(json["rows"], 10);
    }

    #[test]
    fn a_manifest_from_before_there_were_heads_and_changes_is_read() {
        let new = Manifest {
            dense_dim: 4,
            heads: Vec::new(),
            router: false,
            views: None,
            live: None,
            encoder: None,
            ..manifest()
        };
        let mut fields: serde_json::Map<String, serde_json::Value> =
            serde_json::from_value(serde_json::to_value(&new).unwrap()).unwrap();
        for name in ["dense_dim", "heads", "router"] {
            assert!(fields.remove(name).is_some());
        }
        let rest = format!("{}\n", serde_json::to_string_pretty(&fields).unwrap().strip_prefix("{\n").unwrap());
        let old = format!("{{\"crc32c\": \"{:08x}\",\n{rest}", crc32c::crc32c(rest.as_bytes()));
        assert_eq!(Manifest::parse(Path::new("m"), old.as_bytes()).unwrap(), new);
    }

    #[test]
    fn views_that_the_rows_cannot_be_are_refused() {
        // 10 rows.
        let parse = |parents, most| {
            let manifest = Manifest { views: Some(Views { parents, most }), ..manifest() };
            Manifest::parse(Path::new("m"), &manifest.to_bytes())
        };
        for (parents, most) in [(10, 1), (1, 10), (4, 3), (2, 9), (5, 2)] {
            assert_eq!(parse(parents, most).unwrap().views, Some(Views { parents, most }));
        }
        for (parents, most) in [(0, 1), (1, 0), (11, 1), (3, 3), (1, 9), (2, 10), (9, 1), (u64::MAX, u64::MAX)] {
            let message = parse(parents, most).unwrap_err().to_string();
            assert!(message.contains(&format!("{parents} documents")), "{message}");
        }
    }

    #[test]
    fn any_flipped_bit_and_any_truncation_is_noticed() {
        let bytes = manifest().to_bytes();
        for i in 0..bytes.len() {
            for bit in 0..8 {
                let mut bad = bytes.clone();
                bad[i] ^= 1 << bit;
                assert!(Manifest::parse(Path::new("m"), &bad).is_err(), "byte {i} bit {bit}");
            }
            assert!(Manifest::parse(Path::new("m"), &bytes[..i]).is_err());
        }
    }

    #[test]
    fn newer_formats_and_paths_that_lead_outside_are_refused() {
        let mut newer = manifest();
        newer.format = 2;
        let error = Manifest::parse(Path::new("m"), &newer.to_bytes()).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        let mut outside = manifest();
        outside.files.codes.name = "../codes.bg".into();
        assert!(Manifest::parse(Path::new("m"), &outside.to_bytes()).is_err());
    }
}
