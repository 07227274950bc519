//! From vectors and labelled pairs to a learned quantizer: the stages of training, one after the other.
//!
//! ```text
//!           pairs --> heads on random negatives --> stage 1: lists, codes (and their heads) --> routing
//!                                                       |
//!                                                       v
//!                        every query searched with the codes: its real candidates
//!                                                       |
//!                                                       v
//!                     stage 2: dense heads on those candidates --> stage 3: one query head for both grains
//! ```
//! The stages and why there are several: codes must tell a document from the whole corpus, dense vectors only from what the
//! codes return. The two aims conflict, which is why two representations beat one (BiDR, WWW 2022). BiDR searches a graph
//! over codes; the inverted lists and their training come from the same authors' next paper (Distill-VQ, SIGIR 2022).
//!
//! [`learn`] is one function of these stages; the training itself is in [`crate::train`].

mod candidates;
mod load;
mod measure;
mod report;
mod route;
#[cfg(feature = "text")]
mod text;
mod unify;

pub use candidates::{TemporaryIndex, candidates};
pub use load::{Loaded, load};
pub use measure::{DEPTHS, Quality, TestSet};
pub use report::{COLUMNS, Run, cell, group_title, groups, report_page};

#[cfg(feature = "text")]
pub use text::{QUANTIZER, TextQuality, TextReport, TextSpec, learn_text};

use ndarray::Axis;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Instant;

use crate::build::peak_memory;
use crate::error::{Error, Result};
use crate::heads::Heads;
use crate::quantizer::Quantizer;
use crate::sample::sample_rows;
use crate::train::{
    Candidates, CodeTraining, DenseTraining, Epoch, Example, HeadChoice, Method, QuantizerSpec, RouterTraining, Watch,
    nearest, train_codes, train_dense, train_quantizer, train_query_head,
};
use crate::types::Metric;
use crate::vfs::{RealVfs, Vfs, replace_file};
use route::route;
use unify::unify;

/// What to train, from what, into which file.
#[derive(Debug, Clone)]
pub struct LearnSpec {
    /// The documents.
    pub input: PathBuf,
    /// Column of a Parquet input.
    pub column: Option<String>,
    /// The queries.
    pub queries: Option<PathBuf>,
    /// Pairs to train on.
    pub pairs: Option<PathBuf>,
    /// Pairs to choose by; without it a share of the training pairs is held out.
    pub valid: Option<PathBuf>,
    /// Share of the training pairs' documents that is held out.
    pub valid_share: f64,
    /// The quantizer file.
    pub output: PathBuf,
    /// How queries and documents are compared.
    pub metric: Metric,
    /// Most documents in memory; those of pairs always are.
    pub max_documents: usize,
    /// Of every random choice.
    pub seed: u64,
    /// Lists and codes; None: OPQ alone, as `build-index` trains it.
    pub codes: Option<CodeTraining>,
    /// Lists and codes where they are not learned.
    pub opq: QuantizerSpec,
    /// Heads that stage 1 starts from, trained on random negatives.
    pub warm: Option<DenseTraining>,
    /// Learned routing.
    pub routing: Option<RouterTraining>,
    /// Right answers of a query that routing learns from, beside its labelled documents: so many exact nearest ones.
    pub routing_neighbours: usize,
    /// Stage 2.
    pub dense: Option<DenseTraining>,
    /// Candidates a query that stage 2 learns from.
    pub candidates: usize,
    /// Lists probed for them; 0: the index's default.
    pub nprobe: usize,
    /// Stage 3: one query head for both grains.
    pub unify: bool,
}

/// What training came to.
#[derive(Debug, Default, Serialize)]
pub struct LearnReport {
    /// Documents in memory, training and validation pairs.
    pub documents: usize,
    /// Pairs learned from.
    pub train_pairs: usize,
    /// Pairs chosen by.
    pub valid_pairs: usize,
    /// Each stage with its epochs.
    pub stages: Vec<StageReport>,
    /// Codewords that were moved because no document chose them.
    pub reseeded: usize,
    /// Seconds in all.
    pub seconds: f64,
    /// Most memory used, bytes.
    pub peak_memory: u64,
}

/// One stage of training.
#[derive(Debug, Serialize)]
pub struct StageReport {
    /// Which.
    pub stage: &'static str,
    /// Seconds.
    pub seconds: f64,
    /// Billions of floating-point operations a second while steps ran (0: not counted).
    pub gflops: f64,
    /// Its epochs; the first is the start.
    pub epochs: Vec<Epoch>,
}

/// Trains what `spec` asks for and writes the quantizer file (in one step, at the end).
///
/// # Errors
/// What reading the files gives, `InvalidParams` for settings, `Diverged`; nothing is written then. A checkpoint of stage 1
/// stays beside the output when it was stopped, and the same command continues from it.
pub fn learn(spec: &LearnSpec, watch: &dyn Watch) -> Result<LearnReport> {
    let started = Instant::now();
    check(spec)?;
    let mut loaded = load(spec, watch)?;
    if spec.codes.as_ref().is_some_and(|c| c.method == Method::Distill) {
        label_by_neighbour(&mut loaded, spec, watch)?;
    }
    let mut report = LearnReport {
        documents: loaded.examples.documents.nrows(),
        train_pairs: loaded.examples.train.len(),
        valid_pairs: loaded.examples.valid.len(),
        ..LearnReport::default()
    };
    let quantizer = stage1(spec, &loaded, &mut report, watch)?;
    let quantizer = route(spec, &loaded, quantizer, &mut report, watch)?;
    let quantizer = stage2(spec, &loaded, quantizer, &mut report, watch)?;
    write(&quantizer, spec)?;
    report.seconds = started.elapsed().as_secs_f64();
    report.peak_memory = peak_memory();
    Ok(report)
}

/// Refuses combinations that cannot train before anything is read.
fn check(spec: &LearnSpec) -> Result<()> {
    let needs = |what: &str| Err(Error::params("pairs", format!("none were given; {what} learns from labelled pairs")));
    if spec.pairs.is_none() && spec.codes.as_ref().is_some_and(|c| c.method == Method::Contrastive) {
        return needs("--method contrastive");
    }
    if spec.pairs.is_none() && (spec.dense.is_some() || spec.warm.is_some()) {
        return needs("training heads");
    }
    if spec.pairs.is_some() && spec.queries.is_none() {
        return Err(Error::params("queries", "none were given, but --pairs names their rows; give --queries"));
    }
    if spec.unify && (spec.dense.is_none() || !spec.codes.as_ref().is_some_and(|c| c.heads != HeadChoice::None)) {
        return Err(Error::params(
            "unify",
            "one head for both grains needs heads in both; give --heads and --sampling",
        ));
    }
    if spec.routing.is_some() && spec.queries.is_none() {
        return Err(Error::params("queries", "none were given; routing learns from queries"));
    }
    let labelled = spec.pairs.is_some() || spec.codes.as_ref().is_some_and(|c| c.method == Method::Distill);
    if spec.routing.is_some() && !labelled && spec.routing_neighbours == 0 {
        let reason = "0, and no pairs were given, so routing has no right answers to learn from; give --pairs or 10";
        return Err(Error::params("routing_neighbours", reason));
    }
    Ok(())
}

/// Without labels a query's document is its exact nearest one. Without queries documents serve as queries.
fn label_by_neighbour(loaded: &mut Loaded, spec: &LearnSpec, watch: &dyn Watch) -> Result<()> {
    let examples = &mut loaded.examples;
    if !examples.train.is_empty() {
        return Ok(());
    }
    let label = |(query, document)| Example { query, document };
    if examples.queries.nrows() == 0 {
        let rows = sample_rows(examples.documents.nrows() as u64, spec.max_documents.min(65_536), spec.seed);
        let rows: Vec<usize> = rows.into_iter().map(|row| row as usize).collect();
        examples.queries = examples.documents.select(Axis(0), &rows);
        examples.train = (0u32..).zip(rows.iter().map(|&row| row as u32)).map(label).collect();
    } else {
        let found = nearest(examples.queries.view(), examples.documents.view(), 1, watch)?;
        examples.train = (0u32..).zip(found.iter().map(|near| near[0])).map(label).collect();
    }
    examples.hold_out(spec.valid_share, spec.seed)
}

/// Lists, codes and their heads.
fn stage1(spec: &LearnSpec, loaded: &Loaded, report: &mut LearnReport, watch: &dyn Watch) -> Result<Quantizer> {
    let began = Instant::now();
    let examples = &loaded.examples;
    let Some(settings) = &spec.codes else {
        let quantizer = train_quantizer(examples.documents.view(), &spec.opq, watch)?;
        report.stages.push(StageReport { stage: "opq", seconds: seconds(began), gflops: 0.0, epochs: Vec::new() });
        return Ok(quantizer);
    };
    let heads = warm_heads(spec, settings.heads, loaded, report, watch)?;
    let began = Instant::now();
    let checkpoint = checkpoint_path(spec);
    let trained = train_codes(examples, settings, &heads, Some((&RealVfs as &dyn Vfs, &checkpoint)), watch)?;
    report.reseeded = trained.reseeded;
    let (gflops, epochs) = (trained.gflops, trained.curve);
    report.stages.push(StageReport { stage: "codes", seconds: seconds(began), gflops, epochs });
    Ok(trained.quantizer)
}

/// Heads that stage 1 starts from: trained on full-precision scores and random negatives. A query head alone is trained
/// against the documents as they are, since that is how the codes will meet them.
fn warm_heads(
    spec: &LearnSpec,
    choice: HeadChoice,
    loaded: &Loaded,
    report: &mut LearnReport,
    watch: &dyn Watch,
) -> Result<Heads> {
    let began = Instant::now();
    let Some(settings) = &spec.warm else { return Ok(Heads::default()) };
    let examples = &loaded.examples;
    let (heads, gflops, epochs) = match choice {
        HeadChoice::None => return Ok(Heads::default()),
        HeadChoice::Query => {
            let documents = [examples.documents.view()];
            let (query, curve) = train_query_head(examples, &documents, None, &Candidates::default(), settings, watch)?;
            (Heads { code_query: Some(query), ..Heads::default() }, 0.0, curve)
        }
        HeadChoice::Both => {
            let trained = train_dense(examples, None, settings, watch)?;
            let (code_query, code_document) = (Some(trained.query), Some(trained.document));
            (Heads { code_query, code_document, ..Heads::default() }, trained.gflops, trained.curve)
        }
    };
    report.stages.push(StageReport { stage: "warm heads", seconds: seconds(began), gflops, epochs });
    Ok(heads)
}

/// Beside the output: where stage 1 keeps its state.
fn checkpoint_path(spec: &LearnSpec) -> PathBuf {
    let mut name = spec.output.file_name().unwrap_or_default().to_os_string();
    name.push(".checkpoint");
    spec.output.with_file_name(name)
}

/// Dense heads on the candidates that the codes return; then, if asked for, one query head for both grains.
fn stage2(
    spec: &LearnSpec,
    loaded: &Loaded,
    quantizer: Quantizer,
    report: &mut LearnReport,
    watch: &dyn Watch,
) -> Result<Quantizer> {
    let Some(settings) = &spec.dense else { return Ok(quantizer) };
    let began = Instant::now();
    let found = {
        let index = TemporaryIndex::build(spec, &quantizer, watch)?;
        candidates(&index, loaded, spec.candidates, spec.nprobe, watch)?
    };
    report.stages.push(StageReport { stage: "candidates", seconds: seconds(began), gflops: 0.0, epochs: Vec::new() });
    let began = Instant::now();
    let trained = train_dense(&loaded.examples, Some(&found), settings, watch)?;
    let (gflops, epochs) = (trained.gflops, trained.curve);
    report.stages.push(StageReport { stage: "dense heads", seconds: seconds(began), gflops, epochs });
    let mut heads =
        Heads { dense_query: Some(trained.query), dense_document: Some(trained.document), ..quantizer.heads().clone() };
    if spec.unify {
        let began = Instant::now();
        let epochs = unify(&loaded.examples, &quantizer, &mut heads, settings, &found, watch)?;
        report.stages.push(StageReport { stage: "one query head", seconds: seconds(began), gflops: 0.0, epochs });
    }
    quantizer.with_heads(heads)
}

/// Puts the file in its place in one step; the checkpoint is no longer needed then.
fn write(quantizer: &Quantizer, spec: &LearnSpec) -> Result<()> {
    let vfs = &RealVfs;
    if let Some(parent) = spec.output.parent().filter(|p| !p.as_os_str().is_empty()) {
        vfs.create_dir_all(parent)?;
    }
    replace_file(vfs, &spec.output, |beside| quantizer.write(vfs, beside, [0; 16]).map(drop))?;
    let checkpoint = checkpoint_path(spec);
    if vfs.exists(&checkpoint)? { vfs.remove_file(&checkpoint) } else { Ok(()) }
}

fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}
