//! Running queries against the clock.
//!
//! One query at a time on each thread, as a service does it, or in batches on all threads. Every setting is run once
//! before it is timed: the answers of that run are the ones whose quality is reported, and the timed runs find caches
//! and scratch warm. Latencies are those of single queries; queries a second are queries over wall time.

use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::quality::{candidate_quality, hit_quality};
use super::reference::Reference;
use crate::error::Result;
use crate::search::{Further, SearchParams, SearchStats, Searcher};

/// What to measure with.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Threads that search at the same time.
    pub threads: usize,
    /// Hand all queries over at once.
    pub batch: bool,
    /// Least time of a timed run.
    pub at_least: Duration,
    /// Score every dense vector instead.
    pub exact: bool,
    /// Choose lists by centroids although there is a router.
    pub geometric: bool,
}

/// One point of the frontier.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setting {
    /// Hits wanted.
    pub k: usize,
    /// Lists scanned; 0: the index's default.
    pub nprobe: usize,
    /// Candidates verified; 0: the default for k.
    pub candidates: usize,
    /// Weight of the code score beside the dense score.
    pub sparse_weight: f32,
    /// Recall aimed for, in place of lists and candidates; 0: none.
    pub recall_target: f32,
}

impl Setting {
    /// What every query asks for.
    pub fn params(&self, plan: &Plan) -> SearchParams {
        SearchParams {
            k: self.k,
            nprobe: self.nprobe,
            candidates: self.candidates,
            recall_target: self.recall_target,
            exact: plan.exact,
            geometric: plan.geometric,
            sparse_weight: self.sparse_weight,
            deadline: None,
            further: Further::TO_THE_END,
        }
    }
}

/// What a setting gives. Means are over queries; qualities over those for which something is known to be right.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Lists scanned (a mean where a target decides).
    pub nprobe: usize,
    /// Candidates that left the scan (a mean where a target decides); those that were verified are `vectors_read`.
    pub candidates: usize,
    /// Hits wanted.
    pub k: usize,
    /// Weight of the code score beside the dense score.
    pub sparse_weight: f32,
    /// Recall aimed for; 0: none.
    pub recall_target: f32,
    /// Mean recall in the first k.
    pub recall: f64,
    /// Mean reciprocal rank in the first k.
    pub mrr: f64,
    /// Mean reciprocal rank in the first 10 hits (in all of them where k is smaller).
    pub mrr_at_10: f64,
    /// Mean recall by depth `d`: the share of the `d` nearest rows (or of the relevant documents) among the first `d` hits,
    /// for `d` of 10, 50, 100 and 1,000 as far as hits reach, and for all k of them.
    pub hit_recall: BTreeMap<usize, f64>,
    /// `mrr_at_10` of the candidates in the order of their code scores; None for exact search.
    pub candidate_mrr_at_10: Option<f64>,
    /// Mean recall of the candidates before verification, by depth `c`: the share of the `min(k, c)` nearest rows (or of
    /// the relevant documents) among the first `c` by code score, for `c` of 10, 50, 100 and 1,000 as far as candidates
    /// reach, and for all of them, which bounds `recall`. Empty for exact search.
    pub candidate_recall: BTreeMap<usize, f64>,
    /// Queries a second.
    pub qps: f64,
    /// Median latency, microseconds.
    pub p50_us: f64,
    /// 99th percentile of latency, microseconds.
    pub p99_us: f64,
    /// Rows whose codes were scored.
    pub rows_scanned: f64,
    /// Candidates scored by the int8 tier.
    pub tier_scored: f64,
    /// Dense vectors scored.
    pub vectors_read: f64,
    /// Those of them that came from the page cache; like `bytes_read` of the timed run, which finds it filled.
    pub vectors_cached: f64,
    /// Times that a query waited for dense vectors.
    pub rounds: f64,
    /// Bytes of dense shards read.
    pub bytes_read: f64,
    /// Microseconds choosing lists.
    pub probe_us: f64,
    /// Microseconds making tables and scanning codes.
    pub scan_us: f64,
    /// Microseconds reading and scoring dense vectors.
    pub fetch_us: f64,
    /// Threads.
    pub threads: usize,
    /// Whether queries came all at once.
    pub batch: bool,
    /// How dense vectors were read.
    pub store: String,
}

/// Measures one setting over all queries (n x dim, n at least 1).
pub fn measure(
    searcher: &Searcher,
    queries: &[f32],
    reference: &Reference,
    setting: Setting,
    plan: &Plan,
) -> Result<Outcome> {
    let params = setting.params(plan);
    let pool = pool(plan.threads)?;
    let answers = pool.install(|| searcher.search_batch(queries, &params))?;
    let hits = pool.install(|| hit_quality(searcher, queries, reference, &answers, &params))?;
    // A search with a target chooses its candidates as it goes.
    let candidates = match plan.exact || setting.recall_target > 0.0 {
        true => None,
        false => Some(pool.install(|| candidate_quality(searcher, queries, reference, &params))?),
    };
    let timed = if plan.batch {
        pool.install(|| time_batches(searcher, queries, &params, plan.at_least))?
    } else {
        time_single(searcher, queries, &params, plan)?
    };
    let mean = |f: &dyn Fn(&SearchStats) -> f64| answers.iter().map(|a| f(&a.1)).sum::<f64>() / answers.len() as f64;
    let per_query = |ns: u64| ns as f64 / timed.queries as f64 / 1e3;
    Ok(Outcome {
        nprobe: mean(&|s| f64::from(s.lists_probed)).round() as usize,
        candidates: mean(&|s| f64::from(s.candidates)).round() as usize,
        k: setting.k,
        sparse_weight: setting.sparse_weight,
        recall_target: setting.recall_target,
        recall: hits.recall[&params.k],
        mrr: hits.mrr,
        mrr_at_10: hits.mrr_at_10,
        hit_recall: hits.recall,
        candidate_mrr_at_10: candidates.as_ref().map(|candidates| candidates.mrr_at_10),
        candidate_recall: candidates.map(|candidates| candidates.recall).unwrap_or_default(),
        qps: timed.queries as f64 / timed.wall.as_secs_f64(),
        p50_us: percentile(&timed.latencies, 0.5),
        p99_us: percentile(&timed.latencies, 0.99),
        rows_scanned: mean(&|s| s.rows_scanned as f64),
        tier_scored: mean(&|s| f64::from(s.tier_scored)),
        vectors_read: mean(&|s| f64::from(s.vectors_read)),
        vectors_cached: timed.vectors_cached as f64 / timed.queries as f64,
        rounds: mean(&|s| f64::from(s.rounds)),
        bytes_read: timed.steps.bytes_read as f64 / timed.queries as f64,
        probe_us: per_query(timed.steps.probe_ns),
        scan_us: per_query(timed.steps.scan_ns),
        fetch_us: per_query(timed.steps.fetch_ns),
        threads: plan.threads,
        batch: plan.batch,
        store: searcher.index().dense().store().to_string(),
    })
}

fn pool(threads: usize) -> Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|e| crate::error::Error::params("threads", format!("{threads} could not be started: {e}")))
}

/// What a timed run saw.
#[derive(Default)]
struct Timed {
    queries: usize,
    wall: Duration,
    /// Nanoseconds, ascending.
    latencies: Vec<u64>,
    /// Sums over queries.
    steps: SearchStats,
    vectors_cached: u64,
}

impl Timed {
    fn add(&mut self, nanoseconds: u64, stats: &SearchStats) {
        self.queries += 1;
        self.latencies.push(nanoseconds);
        self.steps.probe_ns += stats.probe_ns;
        self.steps.scan_ns += stats.scan_ns;
        self.steps.fetch_ns += stats.fetch_ns;
        self.steps.bytes_read += stats.bytes_read;
        self.vectors_cached += u64::from(stats.vectors_cached);
    }

    fn merge(mut self, other: Timed) -> Timed {
        self.queries += other.queries;
        self.wall = self.wall.max(other.wall);
        self.latencies.extend(other.latencies);
        self.steps.probe_ns += other.steps.probe_ns;
        self.steps.scan_ns += other.steps.scan_ns;
        self.steps.fetch_ns += other.steps.fetch_ns;
        self.steps.bytes_read += other.steps.bytes_read;
        self.vectors_cached += other.vectors_cached;
        self
    }
}

/// Every thread takes the next query until all are done and the time is over.
fn time_single(searcher: &Searcher, queries: &[f32], params: &SearchParams, plan: &Plan) -> Result<Timed> {
    let count = queries.len() / searcher.dim();
    let next = AtomicUsize::new(0);
    let started = Instant::now();
    let work = || -> Result<Timed> {
        let (mut scratch, mut hits, mut timed) = (searcher.scratch(), Vec::new(), Timed::default());
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= count && started.elapsed() >= plan.at_least {
                timed.wall = started.elapsed();
                return Ok(timed);
            }
            let query = &queries[at % count * searcher.dim()..][..searcher.dim()];
            let begun = Instant::now();
            let stats = searcher.search(query, params, &mut scratch, &mut hits)?;
            timed.add(begun.elapsed().as_nanos() as u64, &stats);
        }
    };
    let parts: Vec<Result<Timed>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..plan.threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    let mut total = parts.into_iter().try_fold(Timed::default(), |total, part| Ok(total.merge(part?)))?;
    total.latencies.sort_unstable();
    Ok(total)
}

/// Whole batches until the time is over; the latency of a query is that of its batch.
fn time_batches(searcher: &Searcher, queries: &[f32], params: &SearchParams, at_least: Duration) -> Result<Timed> {
    let started = Instant::now();
    let mut timed = Timed::default();
    while timed.queries == 0 || started.elapsed() < at_least {
        let begun = Instant::now();
        let answers = searcher.search_batch(queries, params)?;
        let nanoseconds = begun.elapsed().as_nanos() as u64;
        answers.iter().for_each(|(_, stats)| timed.add(nanoseconds, stats));
    }
    timed.wall = started.elapsed();
    Ok(timed)
}

/// Microseconds below which the given share of ascending nanoseconds lies.
fn percentile(latencies: &[u64], share: f64) -> f64 {
    let at = ((latencies.len() - 1) as f64 * share).round() as usize;
    latencies[at] as f64 / 1e3
}
