//! Building an index from files of vectors, in bounded memory, safe to kill at any moment.
//!
//! The easy version reads all vectors, trains, sorts them by list and writes. The input may be several times larger than
//! memory, so:
//! 0. **Survey** the records, if there are any ([`crate::attributes::Survey`]): types and dictionaries of the columns.
//! 1. **Train** on a sample ([`crate::train`]), or take a trained quantizer, perhaps with heads and a router.
//! 2. **Assign** (first pass): read the input in chunks, note the list of every row in a temporary file, count.
//! 3. **Encode** (second pass): now that the size of each list is known, cut the lists into buckets that fit memory; read
//!    the input again, encode every row, append its code and its finished dense record to the file of its bucket.
//! 4. **Write**: read one bucket at a time, put its rows in list order, append them to the files of the index.
//! 5. **Commit**: everything lies in a folder of its own and is synced; then the manifest is renamed into place.
//!
//! Document heads are applied here, once and for all: the code head to what is assigned and encoded, the dense head to
//! what is stored. A block of rows is mapped where it is needed; nothing mapped is kept beside the records.
//!
//! Until that rename the directory holds the old version (or none), after it the new one. Leftovers of a killed build
//! are removed by the next. The same input, seed and parameters make the same bytes at any number of threads up to 16; more threads
//! may leave a small memory limit less room for the sample.

mod attributes;
mod commit;
mod passes;
mod plan;
mod source;
mod spec;
mod spill;
#[cfg(feature = "text")]
mod texts;
mod write;

pub use attributes::AttributeReport;
pub(crate) use commit::Commit;
pub(crate) use passes::NewRow;
pub use plan::{Plan, auto_bytes, auto_lists};
pub(crate) use source::{MAX_NORM, prepare_row};
pub use spec::{BuildReport, BuildSpec, OnBad, Phase};
#[cfg(feature = "text")]
pub use texts::{EncodedTexts, TextInput, encode_texts};
pub(crate) use write::{Output, Written};

use ndarray::ArrayView2;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use crate::dataset::VectorFile;
#[cfg(feature = "text")]
use crate::dataset::{Scalar, TextFile};
use crate::dense::RecordLayout;
use crate::error::{Error, Result};
use crate::format::hex;
use crate::index::{EncoderNote, Files, Manifest, Provenance};
use crate::quantizer::Quantizer;
use crate::train::{QuantizerSpec, Watch, train_quantizer};
use crate::vfs::{RealVfs, Vfs};
use attributes::Surveyed;
use passes::{Assigned, Buckets, Passes, SpillFormat};

/// Plans the build of `spec` without doing it: reads only the header of the input.
pub fn plan(spec: &BuildSpec) -> Result<Plan> {
    plan_for(spec, &Shape::of_input(spec)?).map(|(plan, _)| plan)
}

/// Builds the index of `spec` on the real file system. Parallel work runs on the current rayon pool.
pub fn build(spec: &BuildSpec, watch: &dyn Watch) -> Result<BuildReport> {
    build_on(&RealVfs, spec, watch)
}

/// Builds on any file system (the input is always read from the real one).
pub fn build_on(vfs: &dyn Vfs, spec: &BuildSpec, watch: &dyn Watch) -> Result<BuildReport> {
    let started = Instant::now();
    let timer = Timer::new(watch);
    if spec.views && spec.keys.is_none() {
        return Err(Error::params("views", "without keys every row is a document of its own; give --keys, too"));
    }
    let shape = Shape::of_input(spec)?;
    let (plan, given) = plan_for(spec, &shape)?;
    let commit = Commit::begin(vfs, &spec.output)?;
    let (spec, encoder) = &vectors_of_texts(spec, commit.temporary(), &timer)?;
    let file = VectorFile::open(&spec.input, spec.column.as_deref())?;
    let surveyed = attributes::survey(spec, file.rows(), &timer)?;
    // Dictionaries stay in memory until the columns are written.
    let dictionaries = surveyed.as_ref().map_or(0, |surveyed| surveyed.layout.memory_bytes() as u64);
    let spec = &BuildSpec { memory_limit: spec.memory_limit.saturating_sub(dictionaries), ..spec.clone() };
    let plan = if dictionaries == 0 { plan } else { plan_with(spec, &shape, given.as_ref())? };
    let (quantizer, provenance) = match given {
        Some(quantizer) => (quantizer, None),
        None => train(spec, &plan, file.reopen()?, &timer).map(|(quantizer, trained)| (quantizer, Some(trained)))?,
    };
    let cells = surveyed.as_ref().map(|surveyed| &surveyed.cells);
    let passes =
        Passes { spec, plan: &plan, cells, quantizer: &quantizer, vfs, dir: commit.temporary(), watch: &timer };
    let assigned = passes.assign(file.reopen()?)?;
    let format = SpillFormat::new(spec, &plan);
    // Lists differ in the text of their records, so this is their mean.
    let text_bytes = surveyed.as_ref().map_or(0, |surveyed| surveyed.text_bytes.div_ceil(plan.rows.max(1)));
    let buckets = Buckets::new(&assigned.counts, format.row_bytes() + text_bytes, plan.bucket_bytes);
    let (spill, companions) = passes.encode(file, &buckets)?;
    let index_id = index_id(spec, &quantizer, &assigned, &companions, surveyed.as_ref());
    let output = Output {
        vfs,
        folder: commit.folder(),
        temporary: commit.temporary(),
        index_id,
        shape: plan.shape(),
        terms: quantizer.has_terms(),
        layout: RecordLayout::new(spec.dense, plan.dense_dim),
        layout_of_attributes: surveyed.as_ref().map(|surveyed| &surveyed.layout),
        attributes_path: spec.attributes.as_deref().unwrap_or(&spec.input),
        watch: &timer,
        key_budget: plan.bucket_bytes,
        keys_path: spec.keys.as_deref().unwrap_or(&spec.input),
        views: spec.views,
    };
    let written = output.write(&spill, &format, &buckets, &assigned.counts)?;
    let quantizer_entry = quantizer.write(vfs, &commit.folder().join("quantizer.bg"), index_id)?;
    let manifest = Manifest {
        format: Manifest::format(),
        id: hex(&index_id),
        folder: commit.folder_name(&index_id)?,
        rows: assigned.rows(),
        dim: plan.dim,
        dense_dim: plan.dense_dim,
        metric: spec.metric,
        lists: plan.lists,
        code_bits: plan.code_bits,
        code_bytes: plan.code_bytes,
        heads: plan.heads.clone(),
        router: plan.router,
        dense: spec.dense,
        default_nprobe: plan.default_nprobe(),
        calibration: Vec::new(),
        views: written.views,
        live: None,
        encoder: encoder.clone(),
        build: Provenance {
            bigrain: env!("CARGO_PKG_VERSION").into(),
            seed: spec.seed,
            sample_rows: provenance.map_or(0, |p| p.0),
            code_rows: provenance.map_or(0, |p| p.1),
            opq: quantizer.rotation().is_some(),
            skipped_rows: assigned.skipped,
        },
        files: Files {
            quantizer: quantizer_entry,
            codes: written.codes,
            keys: written.keys,
            fields: written.fields,
            canary: None,
            attributes: written.attributes,
            dense: written.dense,
        },
    };
    commit.finish(&manifest)?;
    let attributes = surveyed.map_or(Vec::new(), |surveyed| surveyed.report());
    Ok(BuildReport { attributes, ..report(&manifest, &assigned, &quantizer, timer.phases(), started) })
}

/// What is built from.
struct Shape {
    rows: u64,
    dim: usize,
    /// The id of the encoder that makes vectors of texts.
    encoder: Option<String>,
}

impl Shape {
    fn of_input(spec: &BuildSpec) -> Result<Shape> {
        #[cfg(feature = "text")]
        if let Some(input) = &spec.texts {
            let (file, encoder) = (TextFile::open(&input.texts, &input.columns)?, input.open_encoder()?);
            return Ok(Shape { rows: file.rows(), dim: encoder.dim(), encoder: Some(encoder.id().into()) });
        }
        let file = VectorFile::open(&spec.input, spec.column.as_deref())?;
        Ok(Shape { rows: file.rows(), dim: file.dim(), encoder: None })
    }
}

/// Encodes texts into a file in `folder`: the spec of a build from that, and what the encoder was.
#[cfg(feature = "text")]
fn vectors_of_texts(spec: &BuildSpec, folder: &Path, watch: &dyn Watch) -> Result<(BuildSpec, Option<EncoderNote>)> {
    let Some(input) = &spec.texts else { return Ok((spec.clone(), None)) };
    let encoder = input.open_encoder()?;
    let vectors = folder.join("texts.fbin");
    let texts = TextFile::open(&input.texts, &input.columns)?;
    let made = encode_texts(&encoder, texts, &vectors, Scalar::F32, spec.on_bad, watch)?;
    if made.bad == made.rows {
        return Err(Error::input(&input.texts, "rows", "none could be encoded; look at one, and at the columns"));
    }
    let path = std::path::absolute(&input.encoder).unwrap_or_else(|_| input.encoder.clone());
    let note =
        EncoderNote { id: encoder.id().into(), kind: encoder.kind().into(), max_tokens: encoder.max_tokens(), path };
    Ok((BuildSpec { input: vectors, ..spec.clone() }, Some(note)))
}

#[cfg(not(feature = "text"))]
fn vectors_of_texts(spec: &BuildSpec, _: &Path, _: &dyn Watch) -> Result<(BuildSpec, Option<EncoderNote>)> {
    Ok((spec.clone(), None))
}

/// The plan, and the quantizer if one was given (its lists and codes decide then).
fn plan_for(spec: &BuildSpec, shape: &Shape) -> Result<(Plan, Option<Quantizer>)> {
    let Some(path) = &spec.quantizer else { return Ok((plan_with(spec, shape, None)?, None)) };
    let quantizer = Quantizer::read(&RealVfs, path, None)?;
    quantizer.check_dim(shape.dim)?;
    if let (Some(trained), Some(given)) = (quantizer.encoder(), shape.encoder.as_deref())
        && trained != given
    {
        let what = format!("encoder of the quantizer {}, which knows its vectors alone: id", path.display());
        return Err(Error::mismatch(what, trained, given));
    }
    if quantizer.metric() != spec.metric {
        let what = format!("metric of {}", path.display());
        return Err(Error::mismatch(what, spec.metric, quantizer.metric()));
    }
    Ok((plan_with(spec, shape, Some(&quantizer))?, Some(quantizer)))
}

fn plan_with(spec: &BuildSpec, shape: &Shape, given: Option<&Quantizer>) -> Result<Plan> {
    match given {
        None => Plan::new(spec, shape.rows, shape.dim),
        Some(quantizer) => Plan::for_quantizer(spec, shape.rows, quantizer),
    }
}

/// Trains on a sample; also returns how many rows lists and codes were trained on.
fn train(spec: &BuildSpec, plan: &Plan, mut file: VectorFile, watch: &dyn Watch) -> Result<(Quantizer, (u64, u64))> {
    watch.begin("sample", plan.sample_rows);
    let sample = source::sample(spec, &mut file, plan.sample_rows, spec.seed)?;
    let rows = sample.len() / plan.dim;
    if rows == 0 {
        return Err(Error::input(&spec.input, "rows", "every sampled row is bad; look at one and at the metric"));
    }
    let sample = ArrayView2::from_shape((rows, plan.dim), &sample).expect("whole rows");
    let wanted = QuantizerSpec {
        metric: spec.metric,
        lists: plan.lists,
        shape: plan.shape(),
        opq: plan.opq,
        code_rows: plan.code_rows as usize,
        seed: spec.seed,
    };
    let quantizer = train_quantizer(sample, &wanted, watch)?;
    Ok((quantizer, (rows as u64, plan.code_rows.min(rows as u64))))
}

/// The index id: a hash of all that decides the content of the files.
fn index_id(
    spec: &BuildSpec,
    quantizer: &Quantizer,
    assigned: &Assigned,
    companions: &[u8; 32],
    surveyed: Option<&Surveyed>,
) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(format!("{} {} {:?}", spec.metric, spec.dense, spec.on_bad).as_bytes());
    hasher.update(&quantizer.fingerprint());
    hasher.update(&assigned.hash);
    hasher.update(companions);
    if spec.views {
        hasher.update(b"views");
    }
    if let Some(surveyed) = surveyed {
        hasher.update(&serde_json::to_vec(surveyed.layout.schema()).expect("plain values"));
    }
    let mut id = [0; 16];
    id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    id
}

fn report(
    manifest: &Manifest,
    assigned: &Assigned,
    quantizer: &Quantizer,
    phases: Vec<Phase>,
    started: Instant,
) -> BuildReport {
    let rows = manifest.rows as f64;
    let disk: u64 = manifest.files.all().map(|f| f.bytes).sum();
    let memory = manifest.files.codes.bytes + quantizer.memory_bytes() as u64 + manifest.lists as u64 * 20;
    BuildReport {
        id: manifest.id.clone(),
        rows: manifest.rows,
        views: manifest.views,
        skipped_rows: assigned.skipped,
        dim: manifest.dim,
        dense_dim: manifest.dense_dim,
        heads: manifest.heads.clone(),
        router: manifest.router,
        lists: manifest.lists,
        largest_list: assigned.counts.iter().copied().max().unwrap_or(0),
        code_bits: manifest.code_bits,
        code_bytes: manifest.code_bytes,
        opq: manifest.build.opq,
        memory_bytes_per_row: memory as f64 / rows,
        disk_bytes_per_row: disk as f64 / rows,
        disk_bytes: disk,
        attributes: Vec::new(),
        phases,
        seconds: started.elapsed().as_secs_f64(),
        peak_memory: peak_memory(),
    }
}

/// Peak resident memory of this process, or 0 where the system does not tell.
pub fn peak_memory() -> u64 {
    memory_of_process("VmHWM:").unwrap_or(0)
}

/// Resident memory of this process, where the system tells.
pub fn resident_memory() -> Option<u64> {
    memory_of_process("VmRSS:")
}

/// The bytes that a line of `/proc/self/status` says.
fn memory_of_process(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

/// Passes everything on to another watch, and times the phases.
struct Timer<'a> {
    inner: &'a dyn Watch,
    phases: Mutex<Vec<(Phase, Instant)>>,
}

impl<'a> Timer<'a> {
    fn new(inner: &'a dyn Watch) -> Timer<'a> {
        Timer { inner, phases: Mutex::new(Vec::new()) }
    }

    fn phases(&self) -> Vec<Phase> {
        let mut phases = self.phases.lock().expect("no panic while it is held");
        if let Some((last, begun)) = phases.last_mut() {
            last.seconds = begun.elapsed().as_secs_f64();
        }
        phases.iter().map(|(phase, _)| phase.clone()).collect()
    }
}

impl Watch for Timer<'_> {
    fn begin(&self, phase: &'static str, total: u64) {
        let mut phases = self.phases.lock().expect("no panic while it is held");
        if let Some((last, begun)) = phases.last_mut() {
            last.seconds = begun.elapsed().as_secs_f64();
        }
        phases.push((Phase { name: phase, rows: total, seconds: 0.0 }, Instant::now()));
        self.inner.begin(phase, total);
    }

    fn advance(&self, units: u64) {
        self.inner.advance(units);
    }

    fn note(&self, line: &str) {
        self.inner.note(line);
    }

    fn check(&self) -> Result<()> {
        self.inner.check()
    }
}
