//! Calibration: which effort reaches which recall on this index, learned from sample queries.
//!
//! What is looked for are the numbers of [`crate::index::Calibration`]: two weights, and two efforts for each recall. Half of the
//! queries choose them, the other half checks.
//! 1. **Exact answers** of all queries, by matrix products ([`crate::eval::exact_scores`]).
//! 2. **A wide search** of each choosing query (`wide.rs`): ranks and gaps of the lists and candidates that hold its true hits. The
//!    weights are those with which prefixes that hold most of the true hits are shortest.
//! 3. **Quantiles** of the efforts that true hits ask for are worth trying. Every pair is run as a real search, since lists that
//!    are left out change which candidates there are; for each recall the cheapest pair that reaches it is taken, and its
//!    effort for lists lowered as far as the recall allows.
//!
//! Cost is counted, not timed, so that the same input makes the same index: nanoseconds a list, a code byte, a vector, as they
//! were measured with warm data. Vectors count more than that, since where shards do not fit in memory they are what is slow.

mod canary;
mod wide;

pub use canary::{MOST_CANARIES, write_canary};

use rayon::prelude::*;
use std::ops::Range;
use std::path::Path;

use crate::dataset::VectorFile;
use crate::error::{Error, Result};
use crate::eval::{Reference, exact_scores};
use crate::index::{Calibration, Effort, Goal, OpenOptions, Prefix};
use crate::sample::sample_rows;
use crate::search::{Further, Hit, SearchParams, SearchStats, Searcher};
use crate::train::Watch;
use crate::vfs::RealVfs;
use wide::wide;

/// Recalls that efforts are looked for.
const RECALLS: [f32; 9] = [0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99];
/// Numbers of hits that an index is calibrated for.
const KS: [usize; 2] = [10, 100];
/// Most queries that are used, and fewest that say anything.
const MOST_QUERIES: usize = 2_000;
const FEWEST_QUERIES: usize = 20;
/// Shares of the true hits that an effort should reach, for lists and for candidates.
const SHARES: [f64; 8] = [0.75, 0.85, 0.92, 0.95, 0.97, 0.985, 0.993, 0.998];
/// Halvings of the range of efforts for lists.
const HALVINGS: usize = 5;
/// Share of the queries whose lists are ranked at once.
const OFTEN: f64 = 0.9;
/// Share of the queries that are given all the candidates that they want: keeping more for the others would cost all.
const CANDIDATES_KEPT: f64 = 0.99;
/// Candidates among which efforts are looked for, at least.
const MOST_CANDIDATES: usize = 500;
/// Nanoseconds: a list ranked and begun, a byte of codes scanned, a vector read.
const LIST_COST: f64 = 25.0;
const BYTE_COST: f64 = 0.06;
const VECTOR_COST: f64 = 300.0;

/// Opens a file of sample queries of `dim` values: to be asked before a long build, too.
///
/// # Errors
/// What opening gives; `Mismatch` for queries of another dimension, `InvalidParams` for too few of them.
pub fn open_queries(path: &Path, dim: usize) -> Result<VectorFile> {
    let file = VectorFile::open(path, None)?;
    if file.dim() != dim {
        return Err(Error::mismatch(format!("dimension of the queries in {}", path.display()), dim, file.dim()));
    }
    enough(file.rows() as usize)?;
    Ok(file)
}

fn enough(queries: usize) -> Result<()> {
    if queries >= FEWEST_QUERIES {
        return Ok(());
    }
    Err(Error::params("queries", format!("{queries} are too few to calibrate with; give {FEWEST_QUERIES} or more")))
}

/// Calibrates the index in `dir` with queries from a file and writes the result into its manifest, and canary queries beside it.
///
/// # Errors
/// What reading gives; `Mismatch` for queries of another dimension, `InvalidParams` for too few of them.
pub fn calibrate_index(dir: &Path, queries: &Path, seed: u64, watch: &dyn Watch) -> Result<Vec<Calibration>> {
    let searcher = Searcher::open(dir, &OpenOptions::default())?;
    let mut file = open_queries(queries, searcher.dim())?;
    let rows = sample_rows(file.rows(), MOST_QUERIES, seed);
    let mut sample = vec![0f32; rows.len() * file.dim()];
    // Every other one chooses, the rest checks: files may be sorted.
    let places = (0..rows.len()).step_by(2).chain((1..rows.len()).step_by(2));
    for (place, out) in places.zip(sample.chunks_mut(file.dim())) {
        file.read(rows[place], out)?;
    }
    let calibrations = calibrate(&searcher, &sample, watch)?;
    let mut manifest = searcher.index().manifest().clone();
    manifest.calibration = calibrations.clone();
    manifest.write(&RealVfs, dir)?;
    // The later half of the sample has checked; it has not chosen what is calibrated.
    let later = &sample[rows.len().div_ceil(2) * searcher.dim()..];
    write_canary(&RealVfs, dir, later)?;
    Ok(calibrations)
}

/// Calibrates with `queries` (n x dim) for 10 and 100 hits, as far as there are so many rows: the first half of the queries
/// chooses, the second half checks.
///
/// # Errors
/// As those of a search; `InvalidParams` for too few queries.
pub fn calibrate(searcher: &Searcher, queries: &[f32], watch: &dyn Watch) -> Result<Vec<Calibration>> {
    let count = queries.len() / searcher.dim();
    enough(count)?;
    let ks: Vec<usize> = KS.into_iter().filter(|&k| k as u64 <= searcher.documents()).collect();
    watch.begin("calibrate", (1 + ks.len() * (1 + SHARES.len() * SHARES.len())) as u64);
    let truth = exact_scores(searcher, queries, ks.iter().copied().max().unwrap_or(0))?;
    watch.advance(1);
    let half = count.div_ceil(2);
    let part = |range: Range<usize>, k| Queries {
        searcher,
        k,
        truth: truth.part(range.clone(), k),
        vectors: &queries[range.start * searcher.dim()..range.end * searcher.dim()],
    };
    ks.into_iter().map(|k| for_hits(&part(0..half, k), &part(half..count, k), watch)).collect()
}

/// Calibrates for the hits that both halves of the queries want.
fn for_hits(choosing: &Queries<'_>, checking: &Queries<'_>, watch: &dyn Watch) -> Result<Calibration> {
    let Queries { searcher, k, .. } = *choosing;
    let wide = wide(searcher, choosing.vectors, &choosing.truth, k)?;
    watch.advance(1);
    let prefix = |weight, most| Prefix { weight, effort: 0.0, most };
    let (lists, candidates) = (
        searcher.index().manifest().lists,
        (MOST_CANDIDATES.max(10 * searcher.rows_for(k))).min(searcher.rows() as usize),
    );
    let goal = Goal {
        lists: prefix(wide.lists.best_weight(), lists),
        often_lists: lists,
        candidates: prefix(wide.candidates.best_weight(), candidates),
    };
    let asked = Asked {
        lists: wide.lists.efforts(goal.lists.weight),
        candidates: wide.candidates.efforts(goal.candidates.weight),
    };
    let tried = grid(choosing, &asked, goal, watch)?;
    let mut efforts: Vec<Effort> = Vec::new();
    for recall in RECALLS {
        let Some(best) = cheapest(&tried, recall) else { break };
        let goal = lower(choosing, best.goal, recall, &asked)?;
        let effort = effort(choosing, checking, goal)?;
        if efforts.last().is_none_or(|last| last.recall < effort.recall) {
            efforts.push(effort);
        }
    }
    if efforts.is_empty() {
        let most = tried.iter().map(|t| t.outcome.recall).fold(0.0, f64::max);
        let reason = format!("this index reaches a recall of {most:.3} at most; give it more code bytes");
        return Err(Error::params("calibration", reason));
    }
    let queries = choosing.len();
    Ok(Calibration { k, queries, list_weight: goal.lists.weight, candidate_weight: goal.candidates.weight, efforts })
}

/// Efforts that the true hits of a wide search ask for, ascending.
struct Asked {
    lists: Vec<f32>,
    candidates: Vec<f32>,
}

/// Queries with their exact answers.
struct Queries<'a> {
    searcher: &'a Searcher,
    k: usize,
    vectors: &'a [f32],
    truth: Reference,
}

/// What a goal comes to, means over queries.
#[derive(Debug, Clone, Default)]
struct Outcome {
    recall: f64,
    lists: f64,
    rows: f64,
    vectors: f64,
    /// Lists that each query scanned, and vectors that it read, ascending.
    each_lists: Vec<u32>,
    each_vectors: Vec<u32>,
}

impl Queries<'_> {
    fn len(&self) -> usize {
        self.vectors.len() / self.searcher.dim()
    }

    /// Runs every query with `goal`.
    fn run(&self, goal: &Goal) -> Result<Outcome> {
        // One round: what it scans and reads is what the goal says, not what made up for a list that it left short.
        let params = SearchParams { k: self.k, further: Further::NOT, ..SearchParams::default() };
        let one = |scratch: &mut (_, Vec<Hit>), (i, query): (usize, &[f32])| -> Result<(f64, SearchStats)> {
            let (scratch, hits) = scratch;
            let stats = self.searcher.search_with(Some(goal), query, &params, scratch, hits)?;
            let recall = self.truth.quality(i, hits, self.k).map_or(1.0, |quality| quality.recall);
            Ok((recall, stats))
        };
        let answers: Result<Vec<(f64, SearchStats)>> = self
            .vectors
            .par_chunks(self.searcher.dim())
            .enumerate()
            .map_init(|| (self.searcher.scratch(), Vec::new()), one)
            .collect();
        let answers = answers?;
        let mean = |of: &dyn Fn(&(f64, SearchStats)) -> f64| answers.iter().map(of).sum::<f64>() / answers.len() as f64;
        let each = |of: &dyn Fn(&SearchStats) -> u32| {
            let mut each: Vec<u32> = answers.iter().map(|(_, stats)| of(stats)).collect();
            each.sort_unstable();
            each
        };
        Ok(Outcome {
            recall: mean(&|a| a.0),
            lists: mean(&|a| f64::from(a.1.lists_probed)),
            rows: mean(&|a| a.1.rows_scanned as f64),
            vectors: mean(&|a| f64::from(a.1.vectors_read)),
            each_lists: each(&|stats| stats.lists_probed),
            each_vectors: each(&|stats| stats.vectors_read),
        })
    }

    fn cost(&self, outcome: &Outcome) -> f64 {
        let bytes = outcome.rows * self.searcher.index().manifest().code_bytes as f64;
        outcome.lists * LIST_COST + bytes * BYTE_COST + outcome.vectors * VECTOR_COST
    }
}

/// A goal that was run.
struct Tried {
    goal: Goal,
    outcome: Outcome,
    cost: f64,
}

/// Runs every pair of efforts that some share of the true hits asks for.
fn grid(choosing: &Queries<'_>, asked: &Asked, goal: Goal, watch: &dyn Watch) -> Result<Vec<Tried>> {
    let mut tried = Vec::new();
    for of_lists in SHARES {
        for of_candidates in SHARES {
            watch.check()?;
            let goal = Goal {
                lists: Prefix { effort: quantile(&asked.lists, of_lists), ..goal.lists },
                candidates: Prefix { effort: quantile(&asked.candidates, of_candidates), ..goal.candidates },
                ..goal
            };
            let outcome = choosing.run(&goal)?;
            tried.push(Tried { goal, cost: choosing.cost(&outcome), outcome });
            watch.advance(1);
        }
    }
    Ok(tried)
}

fn cheapest(tried: &[Tried], recall: f32) -> Option<&Tried> {
    let reaching = tried.iter().filter(|t| t.outcome.recall >= f64::from(recall));
    reaching.min_by(|a, b| a.cost.total_cmp(&b.cost))
}

/// `goal` with the least effort for lists that still reaches `recall`.
fn lower(choosing: &Queries<'_>, goal: Goal, recall: f32, asked: &Asked) -> Result<Goal> {
    let with = |effort: f32| Goal { lists: Prefix { effort, ..goal.lists }, ..goal };
    let (mut low, mut high) = (quantile(&asked.lists, 0.3).min(goal.lists.effort), goal.lists.effort);
    for _ in 0..HALVINGS {
        let effort = (low + high) / 2.0;
        if choosing.run(&with(effort))?.recall >= f64::from(recall) { high = effort } else { low = effort }
    }
    Ok(with(high))
}

/// Bounds what `goal` takes by what queries took, and measures it on both halves.
fn effort(choosing: &Queries<'_>, checking: &Queries<'_>, goal: Goal) -> Result<Effort> {
    let unbounded = choosing.run(&goal)?;
    let used = |each: &[u32], share: f64| each[((each.len() - 1) as f64 * share) as usize] as usize;
    // Others may want more than the most that these wanted.
    let more = |most: usize, prefix: &Prefix| (most * 5 / 4 + 4).min(prefix.most);
    let lists = Prefix { most: more(used(&unbounded.each_lists, 1.0), &goal.lists), ..goal.lists };
    let often_lists = more(used(&unbounded.each_lists, OFTEN), &goal.lists);
    let most = used(&unbounded.each_vectors, CANDIDATES_KEPT).max(choosing.k);
    let goal = Goal { lists, often_lists, candidates: Prefix { most, ..goal.candidates } };
    let (chosen, checked) = (choosing.run(&goal)?, checking.run(&goal)?);
    Ok(Effort {
        recall: chosen.recall as f32,
        held_out: checked.recall as f32,
        list_effort: lists.effort,
        candidate_effort: goal.candidates.effort,
        often_lists,
        most_lists: lists.most,
        most_candidates: most,
        lists: checked.lists as f32,
        rows: checked.rows as f32,
        vectors: checked.vectors as f32,
    })
}

/// The value below which `share` of the ascending `values` lie.
fn quantile(values: &[f32], share: f64) -> f32 {
    match values.len() {
        0 => 0.0,
        n => values[((n - 1) as f64 * share).ceil() as usize],
    }
}
