//! Baselines: indexes of FAISS over the same documents, asked the same queries in the same process (`measure-recall
//! --baseline`), so that two frontiers can be read side by side.
//!
//! What makes them comparable:
//!
//! - The documents are those that the index has, the metric is the index's (cosine: documents and queries are normalised
//!   before the clock starts, and FAISS searches by inner product), and recall is computed by the same code: from the
//!   scores that the index's own dense vectors give to the rows that were found, so ties count for both.
//! - Queries come one at a time, and answers of a first run, which warms the caches, are judged before the timed run.
//! - Settings are measured in turn, some of the index and then as large a share of each baseline, so that a machine that
//!   is busy for a while slows all of them.
//!
//! What to know when reading them: more threads search different queries in the index, but share each query in FAISS, whose
//! threads are OpenMP's. Building uses as many as OpenMP would (`OMP_NUM_THREADS`). All documents are held in memory as f32
//! while indexes are built. Bytes a row are those of the index written to a file (in `TMPDIR`, removed at once), all of
//! which FAISS holds in memory.
//!
//! # Building with FAISS
//!
//! FAISS 1.12 is compiled from the sources that its crate brings: a quarter of an hour of processor time, the first time. On Debian, from
//! a fresh clone:
//!
//! ```text
//! apt-get install cmake g++ libopenblas-openmp-dev
//! CXXFLAGS=-march=native cargo build --release --package index-tools --features faiss
//! ```
//!
//! - **CXXFLAGS** must name the processor's vector instructions (`-march=native`, or `-march=x86-64-v4` for any with AVX-512):
//!   FAISS chooses its kernels when it is compiled, and without flags its fast-scan search is many times slower. Cargo does not see
//!   that they changed: `cargo clean --release --package faiss-sys` before compiling with others.
//! - **BLAS**: any that provides `libblas` and `liblapack` will do. With Debian's `libopenblas-dev`, whose threads are its own,
//!   set `OPENBLAS_NUM_THREADS=1`: else a rotation (`OPQ`) of a single query runs on all cores. The OpenMP variant keeps to
//!   `--threads`.
//! - **cmake** 3.24 or later (Debian 12 has it).
//! - **Profiles**: each compiles its own FAISS, so test with `cargo test --release --package index-tools --features faiss`.
//! - **Factory strings**: write `PQ16np`, not `PQ16`, which trains polysemous codes and takes 20 times as long (`PQ16x4fs` does
//!   not). `RFlat` keeps every vector in memory to refine with.

mod documents;
mod measure;
mod report;

#[cfg(feature = "faiss")]
mod faiss;
// The same functions, which say how to build with FAISS.
#[cfg(not(feature = "faiss"))]
#[path = "absent.rs"]
mod faiss;

pub use documents::Documents;
pub use measure::{Asked, Engine, Parameter, Point, Setting, grid, measure};
pub use report::{Frontier, describe, frontiers};

use bigrain::error::{Error, Result};
use bigrain::types::Row;
use serde::Serialize;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use crate::table::duration;

/// The flags that C++ sources were compiled with, as far as the build of this program was told.
const CXXFLAGS: Option<&str> = option_env!("CXXFLAGS");

/// What to compare with.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Baselines (in a build with the feature faiss)")]
#[group(id = "baselines")]
pub struct Arguments {
    /// Build this FAISS index of --documents too, ask it the same queries and print both frontiers. Repeatable.
    #[arg(long, value_name = "FACTORY_STRING", conflicts_with = "batch")]
    pub baseline: Vec<String>,
    /// The vectors that the index was built from, in any format that build-index reads.
    #[arg(long, value_name = "FILE")]
    pub documents: Option<PathBuf>,
    /// Lists that baselines scan, where they have lists.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8,16,32,64", value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(i32::MAX)))]
    pub baseline_nprobe: Vec<u32>,
    /// Candidates that baselines refine for each hit (k_factor), where they refine ("...,RFlat").
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8,16", value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(i32::MAX)))]
    pub baseline_refine: Vec<u32>,
}

impl Arguments {
    /// The documents to compare on, if there is anything to compare with.
    ///
    /// # Errors
    /// `Unsupported` in a build without FAISS; `InvalidParams` where documents are missing, or nothing uses them.
    pub fn check(&self) -> Result<Option<&Path>> {
        match (self.baseline.first(), &self.documents) {
            (None, None) => Ok(None),
            (None, Some(path)) => {
                let reason = format!("{} is of use to a --baseline only; add one, or leave it out", path.display());
                Err(Error::params("documents", reason))
            }
            (Some(first), documents) => {
                faiss::check(first)?;
                let missing =
                    format!("--baseline {first:?} indexes them; give the vectors that the index was built from");
                documents.as_deref().map(Some).ok_or_else(|| Error::params("documents", missing))
            }
        }
    }
}

/// One index beside that of bigrain, and what was measured of it.
#[derive(Serialize)]
pub struct Baseline {
    /// What FAISS was asked to build.
    pub factory: String,
    /// Bytes of the index written to a file, over rows; None where it could not be written.
    pub bytes_per_row: Option<f64>,
    /// Seconds of training and adding.
    pub build_seconds: f64,
    /// `CXXFLAGS` of the build of this program, which FAISS's sources were compiled with unless they were compiled before.
    pub cxxflags: Option<&'static str>,
    /// One for every setting, in the order in which they were measured.
    pub results: Vec<Point>,
    #[serde(skip)]
    engine: Box<dyn Engine>,
}

impl Baseline {
    fn new(factory: &str, engine: Box<dyn Engine>, build_seconds: f64, rows: usize) -> Baseline {
        let bytes = engine.file_bytes().inspect_err(|error| eprintln!("note: bytes a row are not known: {error}"));
        let bytes_per_row = bytes.ok().map(|bytes| bytes as f64 / rows as f64);
        eprintln!("FAISS {factory}: {rows} rows in {}", duration(build_seconds));
        Baseline {
            factory: factory.into(),
            bytes_per_row,
            build_seconds,
            cxxflags: CXXFLAGS,
            results: Vec::new(),
            engine,
        }
    }
}

/// All of them, and the settings that are yet to be measured.
pub struct Baselines<'a> {
    asked: Asked<'a>,
    rows: Vec<Row>,
    all: Vec<Baseline>,
    ahead: VecDeque<(usize, Setting)>,
    settings: usize,
}

impl<'a> Baselines<'a> {
    /// Builds what `arguments` ask for from `documents`, telling of each on standard error; `ks` are the numbers of hits.
    ///
    /// # Errors
    /// `InvalidParams` with what FAISS says to a factory string, a dimension or too few rows.
    pub fn build(arguments: &Arguments, documents: Documents, asked: Asked<'a>, ks: &[usize]) -> Result<Baselines<'a>> {
        doubts(&asked).iter().for_each(|doubt| eprintln!("note: {doubt}"));
        let built = faiss::build(&arguments.baseline, &documents, asked.metric(), asked.threads())?;
        let rows = documents.into_rows();
        let mut all = Vec::new();
        let mut ahead = Vec::new();
        for (factory, (mut engine, seconds)) in arguments.baseline.iter().zip(built) {
            let settings = grid(&mut *engine, ks, &arguments.baseline_nprobe, &arguments.baseline_refine)?;
            ahead.extend(settings.into_iter().enumerate().map(|(turn, setting)| (turn, all.len(), setting)));
            all.push(Baseline::new(factory, engine, seconds, rows.len()));
        }
        // Baselines take turns, like the index and they; the sort is stable.
        ahead.sort_by_key(|&(turn, ..)| turn);
        let ahead: VecDeque<_> = ahead.into_iter().map(|(_, at, setting)| (at, setting)).collect();
        Ok(Baselines { asked, rows, all, settings: ahead.len(), ahead })
    }

    /// Measures until as large a share of settings is done as `done` is of `of`.
    ///
    /// # Errors
    /// What searching gives.
    pub fn keep_up(&mut self, done: usize, of: usize) -> Result<()> {
        while (self.settings - self.ahead.len()) * of < self.settings * done {
            let Some((at, setting)) = self.ahead.pop_front() else { break };
            let baseline = &mut self.all[at];
            baseline.results.push(measure(&mut *baseline.engine, &self.asked, &self.rows, setting)?);
        }
        Ok(())
    }

    /// What was measured.
    pub fn all(&self) -> &[Baseline] {
        &self.all
    }
}

/// What would make the comparison unfair, as far as it can be seen.
fn doubts(asked: &Asked<'_>) -> Vec<&'static str> {
    let mut doubts = Vec::new();
    if cfg!(target_arch = "x86_64") && !CXXFLAGS.is_some_and(|flags| flags.contains("-m")) {
        doubts.push(
            "FAISS was compiled without flags for vector instructions, and may be many times slower than it can be; \
             compile it again with CXXFLAGS=-march=native",
        );
    }
    if asked.judges_mapped_vectors() {
        doubts.push(
            "the index's dense vectors went through a trained head, and baselines, which have the documents as they are, \
             are judged by them; give --truth or --qrels",
        );
    }
    doubts
}
