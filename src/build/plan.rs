//! The plan of a build: what `auto` means for this input, and how the memory limit is divided.
//!
//! Memory is spent in turns, so that each phase may use most of the limit:
//! - **train**: the sample (and a quarter of it again during k-means), then the residuals of a part of it, three times
//!   over (residuals, rotated, cut into subspaces);
//! - **assign, encode**: two chunks of input, and what is made of one of them;
//! - **write**: one bucket of the external shuffle at a time.
//!
//! The quantizer and the process itself are paid for first.

use ndarray::Array2;
use rayon::prelude::*;
use serde::Serialize;
use std::time::Instant;

use super::passes::BLOCK;
use super::spec::BuildSpec;
use crate::dense::RecordLayout;
use crate::error::{Error, Result};
use crate::heads::{Head, Heads};
use crate::linalg::product_nt;
use crate::quantizer::{Coarse, CodeShape, Quantizer};
use crate::simd::CodeBits;
use crate::train::{FLAT_LISTS, comparisons};
use crate::types::{MAX_ROWS, Metric};

/// The process itself: code, stacks, allocator, file buffers.
const PROCESS: u64 = 48 << 20;
/// Rows a list in the sample for k-means.
const SAMPLE_PER_LIST: u64 = 64;
/// Fewest rows of the sample, where the input has them: codebooks want more than few lists do.
const LEAST_SAMPLE: u64 = 65_536;
/// Most rows that codebooks and rotation are trained on: 256 a codeword.
const MOST_CODE_ROWS: u64 = 65_536;
/// Copies of the code sample that training holds at once.
const CODE_COPIES: f64 = 3.5;
/// Above this dimension a rotation costs a query more than it gains: d^2 against the 16 d or 256 d of its tables.
const MOST_OPQ_DIM: usize = 512;
/// What a thread of the passes takes: a tile of scores, and what a product packs. (Buffers are larger than what is used of them:
/// `build-index` does without huge pages, which would make them resident.)
const THREAD_BYTES: u64 = 2 << 20;
/// The same rows are trained on with any number of threads up to this.
const SAME_THREADS: u64 = 16;
/// Rows, and bytes beside them, that a build needs room for.
const LEAST_ROWS: u64 = 4096;
const LEAST_FREE: u64 = 8 << 20;
/// Most rows of a chunk of input.
const MOST_CHUNK_ROWS: u64 = 16_384;

/// Bytes a second that an estimate expects of reading and writing in sequence: a modest SSD.
const DISK_RATE: f64 = 500e6;

/// The plan. Sizes are bytes unless said.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// Rows of the input.
    pub rows: u64,
    /// Dimension of the input.
    pub dim: usize,
    /// Dimension of what is coded; another one than that of the input where a given quantizer has code heads.
    pub code_dim: usize,
    /// Dimension of the stored dense vectors; another one where it has dense heads.
    pub dense_dim: usize,
    /// Names of the given quantizer's heads.
    pub heads: Vec<String>,
    /// Whether the given quantizer has a router.
    pub router: bool,
    /// Number of lists.
    pub lists: usize,
    /// Bits of a code.
    pub code_bits: u8,
    /// Code bytes a row.
    pub code_bytes: usize,
    /// Whether a rotation is learned.
    pub opq: bool,
    /// Rows of the training sample.
    pub sample_rows: u64,
    /// Rows that codes are trained on.
    pub code_rows: u64,
    /// Rows of a chunk of input.
    pub chunk_rows: u64,
    /// Budget of one bucket of the shuffle.
    pub bucket_bytes: u64,
    /// Bytes of temporary files: the shuffle, without the text of records, and the vectors of texts.
    pub spill_bytes: u64,
    /// Bytes of the finished index.
    pub disk_bytes: u64,
    /// Bytes that searching the index will keep in memory.
    pub memory_bytes: u64,
    /// Estimated peak resident memory of the build.
    pub peak_memory: u64,
    /// Floating-point operations of training, assigning and encoding.
    pub operations: f64,
}

/// Dimensions of the vectors of a build.
#[derive(Clone, Copy)]
struct Dims {
    input: usize,
    code: usize,
    dense: usize,
}

impl Dims {
    fn widest(self) -> usize {
        self.input.max(self.code).max(self.dense)
    }
}

/// What heads and router of a given quantizer cost.
#[derive(Default)]
struct Learned {
    /// Their bytes in memory.
    bytes: u64,
    /// Bytes that the document heads take for a block of rows.
    block_bytes: u64,
    /// Floating-point operations a row.
    operations: f64,
}

impl Learned {
    fn of(quantizer: &Quantizer) -> Learned {
        let Heads { code_document, dense_document, .. } = quantizer.heads();
        // An output, what the residual adds to it, and its hidden units.
        let values = |head: &Head| 2 * head.output_dim() + head.residual.as_ref().map_or(0, |r| r.bias.len());
        let block: usize = [code_document, dense_document].into_iter().flatten().map(values).sum();
        // Code heads are applied by both passes; a value of a head is a multiplication and an addition.
        let applied = [code_document, code_document, dense_document].into_iter().flatten();
        Learned {
            bytes: quantizer.learned_bytes() as u64,
            block_bytes: (block * BLOCK * 4) as u64,
            operations: applied.map(|head| head.memory_bytes() as f64 / 2.0).sum(),
        }
    }
}

/// About twice the square root of the rows, in steps that people recognise: powers of two.
pub fn auto_lists(rows: u64) -> usize {
    let target = 2.0 * (rows as f64).sqrt();
    let power = target.log2().round().clamp(0.0, 20.0) as u32;
    (1usize << power).min((rows / 32).max(1) as usize)
}

/// One byte for eight dimensions (a multiple of 4, 4 to 128).
pub fn auto_bytes(dim: usize) -> usize {
    (dim / 8).next_multiple_of(4).clamp(4, 128)
}

impl Plan {
    /// Plans the build of `rows` x `dim` vectors, or says how much memory it would need.
    pub fn new(spec: &BuildSpec, rows: u64, dim: usize) -> Result<Plan> {
        let lists = checked_lists(spec, rows)?;
        Plan::with_lists(spec, rows, Dims { input: dim, code: dim, dense: dim }, lists, &Learned::default())
    }

    /// Plans a build whose lists and codes are given by a trained quantizer: there may be more lists than rows.
    pub fn for_quantizer(spec: &BuildSpec, rows: u64, quantizer: &Quantizer) -> Result<Plan> {
        let shape = quantizer.product().shape();
        let spec = BuildSpec {
            code_bits: shape.bits,
            code_bytes: Some(shape.bytes),
            opq: Some(quantizer.rotation().is_some()),
            ..spec.clone()
        };
        let dims = Dims { input: quantizer.dim(), code: quantizer.code_dim(), dense: quantizer.dense_dim() };
        let plan = Plan::with_lists(&spec, rows, dims, quantizer.coarse().lists(), &Learned::of(quantizer))?;
        let heads = quantizer.heads().named().map(|(name, _)| name.to_string()).collect();
        Ok(Plan { sample_rows: 0, code_rows: 0, heads, router: quantizer.router().is_some(), ..plan })
    }

    fn with_lists(spec: &BuildSpec, rows: u64, dims: Dims, lists: usize, learned: &Learned) -> Result<Plan> {
        let dim = dims.code;
        if rows > MAX_ROWS {
            let reason = format!("{rows} rows are more than the {MAX_ROWS} one index holds; split the input");
            return Err(Error::params("input", reason));
        }
        let shape = CodeShape::new(spec.code_bits, spec.code_bytes.unwrap_or_else(|| auto_bytes(dim)))?;
        let opq = spec.opq.unwrap_or(dim <= MOST_OPQ_DIM);
        let row = dims.widest() as u64 * 4;
        let quantizer = quantizer_bytes(lists, dim, shape, opq) + learned.bytes;
        let fixed = PROCESS + quantizer;
        let threads = rayon::current_num_threads() as u64;
        // k-means has old and new centroids beside the quantizer's; every thread that assigns has a tile of scores, and
        // what heads make of a block of rows.
        let moving_with =
            |threads: u64| 2 * lists as u64 * dim as u64 * 4 + threads * (THREAD_BYTES + learned.block_bytes);
        let moving = moving_with(threads);
        let least = fixed + moving + LEAST_ROWS * row + LEAST_FREE;
        if spec.memory_limit < least {
            return Err(Error::params(
                "memory_limit",
                format!(
                    "{} MiB are too few for {lists} lists of {dim} dimensions; give at least {} MiB, or fewer lists",
                    spec.memory_limit >> 20,
                    (least >> 20) + 1
                ),
            ));
        }
        let free = spec.memory_limit - fixed - moving;
        // What is trained on decides every byte of the index, so it must not depend on the threads.
        let for_training = (spec.memory_limit - fixed).saturating_sub(moving_with(threads.max(SAME_THREADS)));
        let for_training = for_training.max(LEAST_ROWS * row + LEAST_FREE).min(free);
        let sample_rows =
            (lists as u64 * SAMPLE_PER_LIST).max(LEAST_SAMPLE).min(rows).min(for_training * 2 / 5 / (row * 5 / 4));
        let code_budget = (for_training * 2 / 5) as f64 / (row as f64 * CODE_COPIES);
        let code_rows = MOST_CODE_ROWS.min(sample_rows).min(code_budget as u64).max(1);
        // Whole blocks: where a chunk ends must not change what is assigned together.
        let block = Coarse::rows_for(lists > FLAT_LISTS).next_multiple_of(BLOCK) as u64;
        let chunk_rows = (free / 12 / row).clamp(block, MOST_CHUNK_ROWS) / block * block;
        let record = RecordLayout::new(spec.dense, dims.dense);
        let spill_row = 8 + shape.bytes as u64 + record.stride() as u64;
        let terms = u64::from(spec.metric == Metric::L2);
        let memory_bytes =
            rows * (shape.bytes as u64 + terms) + lists as u64 * (8 * shape.bytes as u64 + 32 + 20) + quantizer;
        let bucket_bytes = free / 3;
        let training = sample_rows * row * 5 / 4 + (code_rows as f64 * row as f64 * CODE_COPIES) as u64;
        let passes = chunk_rows * row * 6 + bucket_bytes.min(rows * spill_row) / 4;
        let writing = bucket_bytes.min(rows * spill_row) * 5 / 4;
        Ok(Plan {
            rows,
            dim: dims.input,
            code_dim: dim,
            dense_dim: dims.dense,
            heads: Vec::new(),
            router: false,
            lists,
            code_bits: shape.bits.bits() as u8,
            code_bytes: shape.bytes,
            opq,
            sample_rows,
            code_rows,
            chunk_rows,
            bucket_bytes,
            spill_bytes: rows * (spill_row + 12) + encoded_bytes(spec, rows, dims.input),
            disk_bytes: record.file_bytes(rows) + memory_bytes + rows * 12,
            memory_bytes,
            peak_memory: fixed + moving + training.max(passes).max(writing),
            operations: operations(rows, sample_rows, code_rows, lists, dim, shape, opq)
                + rows as f64 * learned.operations,
        })
    }

    /// Shape of the codes.
    pub fn shape(&self) -> CodeShape {
        let bits = if self.code_bits == 4 { CodeBits::Four } else { CodeBits::Eight };
        CodeShape { bits, bytes: self.code_bytes }
    }

    /// Seconds that the build may take on this machine, with the threads of the current rayon pool: its operations at the
    /// rate of a small matrix product that is timed now, and its reading and writing at an assumed rate of the disk.
    pub fn seconds(&self) -> f64 {
        let input = self.rows as f64 * self.dim as f64 * 4.0;
        let moved = 2.0 * input + 2.0 * self.spill_bytes as f64 + self.disk_bytes as f64;
        self.operations / product_rate(self.dim) + moved / DISK_RATE
    }

    /// Lists probed where a query does not say: a thirty-second of them, at least 8.
    pub fn default_nprobe(&self) -> usize {
        (self.lists / 32).max(8).min(self.lists)
    }
}

/// Bytes of the vectors that texts become before the build proper.
#[cfg(feature = "text")]
fn encoded_bytes(spec: &BuildSpec, rows: u64, dim: usize) -> u64 {
    if spec.texts.is_some() { rows * dim as u64 * 4 } else { 0 }
}

#[cfg(not(feature = "text"))]
fn encoded_bytes(_: &BuildSpec, _: u64, _: usize) -> u64 {
    0
}

fn checked_lists(spec: &BuildSpec, rows: u64) -> Result<usize> {
    match spec.lists {
        None => Ok(auto_lists(rows)),
        Some(0) => Err(Error::params("lists", "0 lists hold no rows; use 1 or more, or auto")),
        Some(lists) if lists as u64 > rows => {
            Err(Error::params("lists", format!("{lists} lists are more than the {rows} rows; use fewer, or auto")))
        }
        Some(lists) => Ok(lists),
    }
}

/// Centroids in f32 and int8, rotation, codebooks.
fn quantizer_bytes(lists: usize, dim: usize, shape: CodeShape, opq: bool) -> u64 {
    let rotation = if opq { dim * dim * 4 } else { 0 };
    (lists * (dim * 5 + 64) + rotation + dim * shape.codewords() * 4) as u64
}

fn operations(rows: u64, sample: u64, codes: u64, lists: usize, dim: usize, shape: CodeShape, opq: bool) -> f64 {
    let (rows, sample, codes) = (rows as f64, sample as f64, codes as f64);
    let (in_training, in_assigning) = comparisons(lists);
    let dim = dim as f64;
    let encode = 2.0 * dim * shape.codewords() as f64 + if opq { 2.0 * dim * dim } else { 0.0 };
    let training_passes = if opq { 18.0 } else { 10.0 };
    2.0 * dim * (rows * in_assigning + sample * in_training) + encode * (rows + codes * training_passes)
}

/// Floating-point operations a second of matrix products of this dimension on all threads; takes a few milliseconds.
fn product_rate(dim: usize) -> f64 {
    const ROWS: usize = 128;
    const COLUMNS: usize = 1024;
    const TIMES: usize = 8;
    let (a, b) = (Array2::<f32>::ones((ROWS, dim)), Array2::<f32>::ones((COLUMNS, dim)));
    let round = || {
        let started = Instant::now();
        (0..rayon::current_num_threads()).into_par_iter().for_each(|_| {
            let mut c = Array2::zeros((ROWS, COLUMNS));
            (0..TIMES).for_each(|_| product_nt(a.view(), b.view(), c.view_mut()));
        });
        started.elapsed().as_secs_f64()
    };
    // The first round also wakes the threads.
    let seconds = (0..3).map(|_| round()).fold(f64::INFINITY, f64::min).max(1e-9);
    (2 * ROWS * COLUMNS * dim * TIMES * rayon::current_num_threads()) as f64 / seconds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heads::tests::random_head;
    use crate::quantizer::tests::random_quantizer;

    fn spec() -> BuildSpec {
        BuildSpec::new("in.npy", "out")
    }

    #[test]
    fn auto_choices_grow_with_the_input() {
        assert_eq!([1u64, 40, 60_000, 2_000_000, 1_000_000_000].map(auto_lists), [1, 1, 512, 2048, 65_536]);
        assert_eq!([2, 100, 384, 784, 4096].map(auto_bytes), [4, 12, 48, 100, 128]);
    }

    #[test]
    fn the_peak_stays_within_the_limit() {
        for limit in [256u64 << 20, 512 << 20, 4 << 30] {
            for (rows, dim) in [(2_000_000, 128), (8_800_000, 384), (60_000, 784)] {
                let plan = Plan::new(&BuildSpec { memory_limit: limit, ..spec() }, rows, dim).unwrap();
                assert!(plan.peak_memory <= limit, "{} of {limit} for {rows} x {dim}", plan.peak_memory);
                assert!(plan.chunk_rows > 0 && plan.chunk_rows.is_multiple_of(BLOCK as u64), "chunks are whole blocks");
            }
        }
    }

    #[test]
    fn what_is_trained_on_does_not_depend_on_the_threads() {
        let spec = BuildSpec { memory_limit: 128 << 20, ..spec() };
        let samples = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let plan = pool.install(|| Plan::new(&spec, 2_000_000, 128)).unwrap();
            (plan.sample_rows, plan.code_rows)
        };
        assert_eq!([1, 5, 16].map(samples), [samples(2); 3]);
        assert!(samples(2).0 < LEAST_SAMPLE.max(2048 * SAMPLE_PER_LIST), "the memory limit cuts it short");
    }

    #[test]
    fn too_little_memory_names_what_would_do() {
        let spec = BuildSpec { memory_limit: 50 << 20, ..spec() };
        let message = Plan::new(&spec, 1_000_000, 768).unwrap_err().to_string();
        let needed: u64 = message.split("at least ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        let enough = BuildSpec { memory_limit: needed << 20, ..spec };
        assert!(Plan::new(&enough, 1_000_000, 768).is_ok(), "{message}");
    }

    #[test]
    fn heads_and_router_are_paid_for() {
        let spec = BuildSpec { metric: Metric::Cosine, ..spec() };
        let plain = random_quantizer(Metric::Cosine, CodeBits::Eight, false, 1);
        let head = |output| Some(random_head(24, Some(4_000), output, 1));
        let heads =
            Heads { code_query: head(24), code_document: head(24), dense_query: head(8), dense_document: head(8) };
        let learned = plain.clone().with_heads(heads).unwrap().with_router(Array2::zeros((9, 24))).unwrap();
        let (before, after) = [plain, learned].map(|q| Plan::for_quantizer(&spec, 1_000_000, &q).unwrap()).into();
        assert_eq!((after.dim, after.code_dim, after.dense_dim), (24, 24, 8));
        assert_eq!((after.heads.len(), after.router, before.heads.len()), (4, true, 0));
        assert!(after.spill_bytes < before.spill_bytes && after.disk_bytes < before.disk_bytes);
        let values = 4_000 * (24 + 1) * 4 + 4_000 * (24 + 24 + 8 + 8);
        assert!(after.memory_bytes >= before.memory_bytes + 4 * values);
        assert!(after.operations > 1.5 * before.operations);
    }

    #[test]
    fn impossible_list_counts_are_refused() {
        assert!(Plan::new(&BuildSpec { lists: Some(0), ..spec() }, 10, 4).is_err());
        assert!(Plan::new(&BuildSpec { lists: Some(11), ..spec() }, 10, 4).is_err());
    }
}
