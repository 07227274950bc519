//! A pool on disk, indexed by the engine, and the prompts that are retrieved from it.
//!
//! ```text
//! prompts.json      what made it (written last: without it there is no pool)
//! pool.jsonl        the demonstrations; a key of the index is a line, from 0
//! vectors.npy       their vectors by the encoder
//! untuned/          the index over these vectors
//! scores.jsonl      what the language model answered     (score)
//! lessons.jsonl     candidates by worth                  (score)
//! NAME/             an index whose quantizer holds tuned heads for queries and demonstrations     (tune)
//! NAME.json         which pool and which index these heads belong to
//! ```
//! A tuned index takes the encoder's own vectors as any other: the heads are in it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::pool::{Demonstration, Origin, Pool, PoolSpec, write_whole};
use crate::build::{BuildSpec, build};
use crate::dataset::{Scalar, VectorWriter};
use crate::encoder::{Encoder, EncoderOptions};
use crate::error::{Error, Result};
use crate::search::{OpenOptions, SearchParams, Searcher};
use crate::train::Watch;
use crate::types::Metric;
use crate::vfs::{RealVfs, create_dir_durably};

/// Name of the index over the encoder's own vectors.
pub(super) const UNTUNED: &str = "untuned";
const VERSION: u32 = 2;
const NOTE: &str = "prompts.json";
const POOL: &str = "pool.jsonl";
pub(super) const VECTORS: &str = "vectors.npy";
/// Pools below this are searched exactly: all their vectors are read for an input.
const EXACT_BELOW: usize = 100_000;
/// Demonstrations that are encoded between two looks at the watch.
const CHUNK: usize = 64;

/// What made a pool on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptNote {
    /// Version of the layout.
    pub version: u32,
    /// Folder of the encoder.
    pub encoder: PathBuf,
    /// Its [`Encoder::id`].
    pub encoder_id: String,
    /// Tokens of a text that it read at most.
    pub max_tokens: usize,
    /// Clusters that were left out.
    pub left_out: BTreeSet<String>,
    /// Characters of a demonstration at most.
    pub most_chars: usize,
    /// Seed of the draws.
    pub seed: u64,
    /// blake3 of `pool.jsonl`, hexadecimal.
    pub pool: String,
    /// [`super::Clusters::id`] of the table by which clusters were left out.
    pub clusters: String,
}

/// What a tuned index belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TunedNote {
    /// [`PromptNote::pool`] of the pool that it was tuned on.
    pub(super) pool: String,
    /// Id of the index.
    pub(super) index: String,
}

/// What [`PromptIndex::create`] made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IndexReport {
    /// Demonstrations in the pool.
    pub demonstrations: usize,
    /// Tasks that they come from.
    pub tasks: usize,
    /// Clusters of these.
    pub clusters: BTreeSet<String>,
    /// Dimension of the vectors.
    pub dim: usize,
    /// What of the source is not in it.
    #[serde(flatten)]
    pub origin: Origin,
}

/// A demonstration that was retrieved.
#[derive(Debug, Clone, PartialEq)]
pub struct Retrieved<'p> {
    /// Its number in the pool.
    pub number: u32,
    /// Its score: larger is better.
    pub score: f32,
    /// Itself.
    pub demonstration: &'p Demonstration,
}

/// A pool on disk, open for retrieval.
#[derive(Debug)]
pub struct PromptIndex {
    dir: PathBuf,
    name: String,
    note: PromptNote,
    pool: Pool,
    encoder: Arc<Encoder>,
    searcher: Searcher,
}

/// The prompt for `input`: `demonstrations` come best first and are written worst first, so that the best stands next to the input.
pub fn assemble(demonstrations: &[&Demonstration], input: &str) -> String {
    let mut prompt = String::new();
    for demonstration in demonstrations.iter().rev() {
        prompt.push_str(&demonstration.text());
        prompt.push_str("\n\n");
    }
    prompt + input + "\n"
}

impl PromptIndex {
    /// Encodes and indexes a pool in the folder `dir`, which is made where it is absent.
    ///
    /// # Errors
    /// `InvalidParams` where `dir` holds anything already, or for a demonstration that cannot be encoded; those of the encoder and
    /// of the build; `Io`.
    pub fn create(
        dir: &Path,
        pool: &Pool,
        spec: &PoolSpec,
        encoder: (&Path, Option<usize>),
        watch: &dyn Watch,
    ) -> Result<IndexReport> {
        check_empty(dir)?;
        let (folder, max_tokens) = encoder;
        let encoder = Encoder::open_with(folder, EncoderOptions { max_tokens })?;
        create_dir_durably(&RealVfs, dir)?;
        pool.write(&dir.join(POOL))?;
        watch.begin("encode demonstrations", pool.demonstrations.len() as u64);
        let mut writer = VectorWriter::create(&dir.join(VECTORS), Scalar::F32, encoder.dim())?;
        for chunk in pool.demonstrations.chunks(CHUNK) {
            watch.check()?;
            let texts: Vec<String> = chunk.iter().map(Demonstration::text).collect();
            writer.write(encoder.encode(&texts)?.as_slice().expect("C order"))?;
            watch.advance(chunk.len() as u64);
        }
        writer.finish()?;
        let index = BuildSpec {
            seed: spec.seed,
            metric: Metric::Cosine,
            ..BuildSpec::new(dir.join(VECTORS), dir.join(UNTUNED))
        };
        build(&index, watch)?;
        let note = PromptNote {
            version: VERSION,
            encoder: std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf()),
            encoder_id: encoder.id().into(),
            max_tokens: encoder.max_tokens(),
            left_out: spec.leave_out.clone(),
            most_chars: spec.most_chars,
            seed: spec.seed,
            pool: fingerprint(&dir.join(POOL))?,
            clusters: pool.origin.clusters.clone(),
        };
        write_whole(&dir.join(NOTE), &serde_json::to_vec_pretty(&note).expect("plain values"))?;
        let all = &pool.demonstrations;
        Ok(IndexReport {
            demonstrations: all.len(),
            tasks: all.iter().map(|d| d.task.as_str()).collect::<BTreeSet<_>>().len(),
            clusters: all.iter().map(|d| d.cluster.clone()).collect(),
            dim: encoder.dim(),
            origin: pool.origin.clone(),
        })
    }

    /// Opens the pool in `dir` with one of its indexes: `untuned`, or the name of a tuned one. `encoder` stands in for the
    /// folder that the pool was encoded from, where that has moved.
    ///
    /// # Errors
    /// `Io`, `InvalidInput` and `Mismatch` where files are missing, damaged or do not belong together.
    pub fn open(dir: &Path, name: &str, encoder: Option<&Path>) -> Result<PromptIndex> {
        let note = PromptNote::read(dir)?;
        let options = EncoderOptions { max_tokens: Some(note.max_tokens) };
        let encoder = Encoder::open_with(encoder.unwrap_or(&note.encoder), options)?;
        PromptIndex::open_with(dir, name, Arc::new(encoder))
    }

    /// [`PromptIndex::open`] with an encoder that is open already.
    ///
    /// # Errors
    /// As there, and `Mismatch` for another encoder than the pool's.
    pub fn open_with(dir: &Path, name: &str, encoder: Arc<Encoder>) -> Result<PromptIndex> {
        check_name(name)?;
        let note = PromptNote::read(dir)?;
        let pool = Pool::read(&dir.join(POOL))?;
        let found = fingerprint(&dir.join(POOL))?;
        if found != note.pool {
            return Err(Error::mismatch(format!("hash of {}", dir.join(POOL).display()), &note.pool, found));
        }
        if !note.fits(&encoder) {
            let what = format!("encoder {}", encoder.path().display());
            let expected = format!("{} reading {} tokens", note.encoder_id, note.max_tokens);
            return Err(Error::mismatch(what, expected, format!("{} reading {}", encoder.id(), encoder.max_tokens())));
        }
        let searcher = Searcher::open(&dir.join(name), &OpenOptions::default())?;
        if searcher.rows() != pool.demonstrations.len() as u64 || searcher.dim() != encoder.dim() {
            let found = format!("{} of dimension {}", searcher.rows(), searcher.dim());
            let expected = format!("{} of dimension {}", pool.demonstrations.len(), encoder.dim());
            return Err(Error::mismatch(format!("rows of {}", dir.join(name).display()), expected, found));
        }
        if name != UNTUNED {
            let tuned = TunedNote::read(dir, name)?;
            let found = TunedNote { pool: note.pool.clone(), index: searcher.version().into() };
            if tuned != found {
                let what = format!("{}; tune it again. Pool and index", tuned_path(dir, name).display());
                return Err(Error::mismatch(what, format!("{tuned:?}"), format!("{found:?}")));
            }
        }
        Ok(PromptIndex { dir: dir.to_path_buf(), name: name.into(), note, pool, encoder, searcher })
    }

    /// Where it was opened.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The name of its index.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What made it.
    pub fn note(&self) -> &PromptNote {
        &self.note
    }

    /// Its demonstrations.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Its encoder.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// Another index of the same pool, with the encoder that is open here.
    ///
    /// # Errors
    /// As [`PromptIndex::open`].
    pub fn open_beside(&self, name: &str) -> Result<PromptIndex> {
        PromptIndex::open_with(&self.dir, name, self.encoder.clone())
    }

    /// The best `k` demonstrations for an input, best first. Pools of less than 100,000 are searched exactly.
    ///
    /// # Errors
    /// `InvalidParams` for an input that cannot be encoded or a `k` of 0; those of the search.
    pub fn retrieve(&self, input: &str, k: usize) -> Result<Vec<Retrieved<'_>>> {
        Ok(self.search(input, k, self.pool.demonstrations.len() < EXACT_BELOW, None)?.0)
    }

    /// As [`PromptIndex::retrieve`], but always exactly.
    ///
    /// # Errors
    /// As there.
    pub fn retrieve_exactly(&self, input: &str, k: usize) -> Result<Vec<Retrieved<'_>>> {
        Ok(self.search(input, k, true, None)?.0)
    }

    /// As [`PromptIndex::retrieve`]; none where the deadline passed before the search was over.
    ///
    /// # Errors
    /// As there.
    pub fn retrieve_until(&self, input: &str, k: usize, deadline: Instant) -> Result<Option<Vec<Retrieved<'_>>>> {
        let exact = self.pool.demonstrations.len() < EXACT_BELOW;
        let (found, whole) = self.search(input, k, exact, Some(deadline))?;
        Ok(whole.then_some(found))
    }

    /// Demonstrations, and whether the search was not cut short.
    fn search(
        &self,
        input: &str,
        k: usize,
        exact: bool,
        deadline: Option<Instant>,
    ) -> Result<(Vec<Retrieved<'_>>, bool)> {
        if k == 0 {
            return Err(Error::params("k", "0; give at least 1"));
        }
        let query = self.encoder.encode_one(input)?;
        let k = k.min(self.pool.demonstrations.len());
        let params = SearchParams { k, exact, deadline, ..SearchParams::default() };
        let mut hits = Vec::new();
        let stats = self.searcher.search(&query, &params, &mut self.searcher.scratch(), &mut hits)?;
        let found = |hit: &crate::search::Hit| {
            let demonstration = self.pool.demonstrations.get(hit.key as usize);
            let reason =
                || Error::corrupt(self.dir.join(&self.name), "keys", format!("key {} is beyond the pool", hit.key));
            Ok(Retrieved { number: hit.key as u32, score: hit.score, demonstration: demonstration.ok_or_else(reason)? })
        };
        Ok((hits.iter().map(found).collect::<Result<_>>()?, stats.fraction >= 1.0))
    }
}

impl TunedNote {
    fn read(dir: &Path, name: &str) -> Result<TunedNote> {
        let path = tuned_path(dir, name);
        let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
        serde_json::from_slice(&bytes).map_err(|e| Error::input(&path, "JSON", format!("{e}; tune it again")))
    }

    pub(super) fn write(&self, dir: &Path, name: &str) -> Result<()> {
        write_whole(&tuned_path(dir, name), &serde_json::to_vec_pretty(self).expect("plain values"))
    }
}

fn tuned_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.json"))
}

/// Refuses a folder that holds anything: what was scored or tuned for another pool would be taken for this one's.
fn check_empty(dir: &Path) -> Result<()> {
    let first = match std::fs::read_dir(dir) {
        Ok(mut entries) => entries.next().transpose().map_err(Error::io(dir))?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => return Err(Error::io(dir)(e)),
    };
    let Some(first) = first else { return Ok(()) };
    let held = first.file_name();
    let reason = format!("{} holds {held:?} already; empty it or choose another folder", dir.display());
    Err(Error::params("pool", reason))
}

impl PromptNote {
    /// Reads what made the pool in `dir`.
    ///
    /// # Errors
    /// `Io`, `InvalidInput`; `Unsupported` for another version.
    pub fn read(dir: &Path) -> Result<PromptNote> {
        let path = dir.join(NOTE);
        let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
        let wrong = |e: serde_json::Error| Error::input(&path, "JSON", format!("{e}; index the pool again"));
        let note: PromptNote = serde_json::from_slice(&bytes).map_err(wrong)?;
        if note.version != VERSION {
            let what = format!("{}: version {}", path.display(), note.version);
            let remedy = format!("this build reads version {VERSION}; index the pool again");
            return Err(Error::Unsupported { what, remedy });
        }
        Ok(note)
    }

    /// Whether `encoder` is the one that encoded the pool, and reads as many tokens.
    pub fn fits(&self, encoder: &Encoder) -> bool {
        (encoder.id(), encoder.max_tokens()) == (&self.encoder_id, self.max_tokens)
    }
}

/// Refuses a name that is no plain name of a folder.
pub(super) fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    // The note of an index of that name would be the pool's.
    match !name.is_empty() && name != "prompts" && name.chars().all(plain) {
        true => Ok(()),
        false => Err(Error::params("name", format!("{name:?}; give letters, digits, - and _, but not \"prompts\""))),
    }
}

fn fingerprint(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    Ok(blake3::hash(&bytes).to_hex()[..32].to_string())
}
