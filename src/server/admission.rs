//! What a request will cost, and what is done when more is asked for than can be searched.
//!
//! # Estimates
//! The cost of a query is, for each of its vectors, `fixed + lists * rows a list * ns a row + candidates * ns a candidate`; a ranking by
//! revenue that names no effort takes more of it than others ([`widening`]). All of it is learned from the queries before it: each search reports the rows it scanned, the candidates it fetched and the time of both, and the
//! factors follow as moving averages. So the estimate knows the machine, the index, whether vectors come from memory or from a
//! disk, and how busy the processor is. Searches for a `recall_target`, and exact ones, are averaged apart. Before the body of a
//! request is parsed by a worker, [`Admission::ask`] looks at the few fields that matter and passes over the rest, vectors
//! above all: a few microseconds, so that a request which is refused has cost next to nothing.
//!
//! # Under pressure
//! 1. From `admission.reduce_from_ms` of waiting work on, lists and candidates are lowered, in steps, down to
//!    `admission.least_effort` of what was asked for (or of what a search takes by itself) where `admission.queue_ms` are waiting. Such an
//!    answer carries `load_reduced_effort` in `coverage.degraded`. The step is taken when a worker takes the query up, by what
//!    waits then. `exact` and `recall_target` are promises about the answer and are never lowered: such a request is searched
//!    as asked, or refused.
//! 2. A request that would wait longer than `admission.queue_ms`, or past its own deadline, is refused at once ([`super::pool`]).
//! 3. Beyond `admission.refusals_per_second` a connection that was refused is not read from until its turn comes ([`super::pace`]).

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::api::{Effort, Rank};
use super::config::ServerConfig;
use super::plan::MAX_VECTORS;
use super::pool::Job;
use crate::ads::{AdQuery, RankBy, widening};
use crate::error::{Error, Result};
use crate::index::Manifest;
use crate::search::{SearchParams, SearchStats, Searcher};

/// Bodies beyond this are not looked into before they are parsed.
const LOOKED_INTO: usize = 64 << 10;
/// Share that a new observation has in an average.
const WEIGHT: f64 = 1.0 / 16.0;
/// An observation counts as at most this many times the average, so that one stalled read is no reason to refuse a second's
/// requests.
const OUTLIER: f64 = 8.0;
/// Steps in which effort is lowered.
const STEPS: f64 = 4.0;
/// Time of parsing a byte of a batch.
const NS_PER_BYTE: u64 = 5;

/// `[admission]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct AdmissionSection {
    pub queue_ms: u64,
    pub reduce_from_ms: u64,
    pub least_effort: f64,
    pub refusals_per_second: u64,
}

impl AdmissionSection {
    pub(super) fn check(&self) -> Result<()> {
        let wrong = |reason: String| Err(Error::params("configuration", reason));
        if !(self.least_effort > 0.0 && self.least_effort <= 1.0) {
            return wrong(format!("admission.least_effort is {}; give a share above 0 and up to 1", self.least_effort));
        }
        let (from, full) = (self.reduce_from_ms, self.queue_ms);
        if from > full {
            return wrong(format!("admission.reduce_from_ms ({from}) is larger than admission.queue_ms ({full})"));
        }
        Ok(())
    }
}

/// A moving average.
#[derive(Debug)]
pub(super) struct Average(AtomicU64);

impl Average {
    pub(super) fn new(start: f64) -> Average {
        Average(AtomicU64::new(start.to_bits()))
    }

    pub(super) fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Relaxed))
    }

    /// An observation that another thread makes at the same moment may be lost, which is no loss.
    pub(super) fn observe(&self, value: f64) {
        let old = self.get();
        if value.is_finite() && value > 0.0 {
            let value = value.min(old * OUTLIER);
            self.0.store((old + WEIGHT * (value - old)).to_bits(), Relaxed);
        }
    }
}

/// What the costs of one index have been.
#[derive(Debug)]
pub(super) struct Admission {
    settings: AdmissionSection,
    default_timeout: Duration,
    most_nprobe: usize,
    most_candidates: usize,
    /// Of the version that was searched last.
    default_nprobe: AtomicUsize,
    lists: AtomicUsize,
    /// Rows of an ad of that version, mean.
    rows_per_ad: AtomicU64,
    /// Parsing the body of a single search and checking it.
    plan_ns: Average,
    /// All of a search that is neither scan nor fetch: probing, ranking, making hits.
    fixed_ns: Average,
    rows_per_list: Average,
    ns_per_row: Average,
    ns_per_candidate: Average,
    recall_target_ns: Average,
    exact_ns: Average,
}

/// The fields of a request that its cost depends on.
#[derive(Debug, Default, Deserialize)]
struct Asked {
    limit: Option<u64>,
    offset: Option<u64>,
    params: Option<Effort>,
    timeout_ms: Option<u64>,
    allow_partial: Option<bool>,
    vectors: Option<Vec<IgnoredAny>>,
    rank: Option<Rank>,
}

/// What a query asks of a worker.
#[derive(Clone, Debug)]
pub(super) struct Demand {
    pub(super) params: SearchParams,
    pub(super) by: RankBy,
    /// Query vectors.
    pub(super) vectors: usize,
}

/// Rows of an ad, mean: 1 where a row is an ad.
fn rows_per_ad(manifest: &Manifest) -> f64 {
    manifest.views.map_or(1.0, |views| manifest.rows as f64 / views.parents.max(1) as f64)
}

impl Admission {
    /// Estimates for an index of which nothing is known yet: low, so that a fresh server turns nobody away.
    pub(super) fn new(config: &ServerConfig, searcher: &Searcher) -> Admission {
        let manifest = searcher.index().manifest();
        let lists = manifest.lists.max(1);
        let rows = searcher.rows() as f64;
        Admission {
            settings: config.admission.clone(),
            default_timeout: Duration::from_millis(config.timeouts.search_ms),
            most_nprobe: config.limits.nprobe,
            most_candidates: config.limits.candidates,
            default_nprobe: AtomicUsize::new(manifest.default_nprobe),
            lists: AtomicUsize::new(lists),
            rows_per_ad: AtomicU64::new(rows_per_ad(manifest).to_bits()),
            plan_ns: Average::new(20_000.0),
            fixed_ns: Average::new(50_000.0),
            rows_per_list: Average::new((rows / lists as f64).max(1.0)),
            ns_per_row: Average::new(1.0),
            ns_per_candidate: Average::new(200.0),
            recall_target_ns: Average::new(200_000.0),
            exact_ns: Average::new(50_000.0 + 20.0 * rows),
        }
    }

    /// A version with this manifest is being searched: defaults are its own from now on.
    pub(super) fn serves(&self, manifest: &Manifest) {
        self.default_nprobe.store(manifest.default_nprobe, Relaxed);
        self.lists.store(manifest.lists.max(1), Relaxed);
        self.rows_per_ad.store(rows_per_ad(manifest).to_bits(), Relaxed);
    }

    /// What the pool should know of the single search in `body`, which came at `arrived`. A body that makes no sense costs
    /// little: a worker will say what is wrong with it.
    pub(super) fn ask(&self, body: &[u8], arrived: Instant) -> Job {
        let asked = look(body);
        let hits = asked.limit.unwrap_or(0).saturating_add(asked.offset.unwrap_or(0));
        let k = usize::try_from(hits).unwrap_or(usize::MAX).min(self.most_candidates);
        let effort = asked.params.unwrap_or_default();
        let bounded =
            |value: Option<u64>, most: usize| value.map_or(0, |v| usize::try_from(v).unwrap_or(most).min(most));
        let params = SearchParams {
            k,
            nprobe: bounded(effort.nprobe, self.most_nprobe),
            candidates: bounded(effort.candidates, self.most_candidates),
            recall_target: effort.recall_target.unwrap_or(0.0),
            exact: effort.exact.unwrap_or(false),
            ..SearchParams::default()
        };
        let plan = Duration::from_nanos(self.plan_ns.get() as u64);
        let by = match asked.rank.unwrap_or_default() {
            Rank::Relevance => RankBy::Relevance,
            Rank::Ecpm => RankBy::Ecpm { alpha: 1.0 },
        };
        let vectors = asked.vectors.as_ref().map_or(1, |vectors| vectors.len().clamp(1, MAX_VECTORS));
        self.job(plan + self.cost(&Demand { params, by, vectors }), &asked, arrived)
    }

    /// What the pool should know of the parsing and planning of a batch.
    pub(super) fn ask_batch(&self, body: &[u8], arrived: Instant) -> Job {
        self.job(Duration::from_nanos(body.len() as u64 * NS_PER_BYTE), &look(body), arrived)
    }

    fn job(&self, cost: Duration, asked: &Asked, arrived: Instant) -> Job {
        let timeout = asked.timeout_ms.map_or(self.default_timeout, Duration::from_millis);
        Job { cost, deadline: arrived.checked_add(timeout), partial: asked.allow_partial.unwrap_or(false) }
    }

    /// Learns how long the body of a single search took to parse and check.
    pub(super) fn planned(&self, took: Duration) {
        self.plan_ns.observe(took.as_nanos() as f64);
    }

    /// The time that a worker will need for a query once it is planned.
    pub(super) fn cost(&self, demand: &Demand) -> Duration {
        let Demand { params, by, vectors } = demand;
        let ns = match params {
            SearchParams { exact: true, .. } => self.exact_ns.get(),
            SearchParams { recall_target, .. } if *recall_target > 0.0 => self.recall_target_ns.get(),
            _ => {
                let nprobe = if params.nprobe == 0 { self.default_nprobe.load(Relaxed) } else { params.nprobe };
                let widening = widening(params, *by);
                let lists = (nprobe * widening).min(self.lists.load(Relaxed)) as f64;
                // Where ads have several rows, as many times the candidates are verified by default.
                let views = if params.candidates == 0 { f64::from_bits(self.rows_per_ad.load(Relaxed)) } else { 1.0 };
                let candidates = params.candidates_or_default().saturating_mul(widening) as f64 * views;
                self.fixed_ns.get()
                    + lists * self.rows_per_list.get() * self.ns_per_row.get()
                    + candidates * self.ns_per_candidate.get()
            }
        };
        Duration::from_nanos((ns * *vectors as f64) as u64)
    }

    /// Learns from a query that took a worker `took` from beginning to end.
    pub(super) fn observe(&self, query: &AdQuery, stats: &SearchStats, took: Duration) {
        let (params, vectors) = (&query.params, query.vectors.len().max(1) as f64);
        let took = took.as_nanos() as f64;
        // A query that was cut short tells what part of the work takes, not what all of it would.
        if stats.fraction < 1.0 {
            return;
        }
        if params.exact {
            return self.exact_ns.observe(took / vectors);
        }
        if params.recall_target > 0.0 {
            return self.recall_target_ns.observe(took / vectors);
        }
        self.fixed_ns.observe((took - (stats.scan_ns + stats.fetch_ns) as f64) / vectors);
        self.rows_per_list.observe(stats.rows_scanned as f64 / f64::from(stats.lists_probed));
        self.ns_per_row.observe(stats.scan_ns as f64 / stats.rows_scanned as f64);
        self.ns_per_candidate.observe(stats.fetch_ns as f64 / f64::from(stats.candidates));
    }

    /// The share of lists and candidates that a query is searched with while `backlog` waits; 1 where what it asks for is a promise.
    pub(super) fn effort(&self, params: &SearchParams, backlog: Duration) -> f32 {
        let promised = params.exact || params.recall_target > 0.0;
        if promised { 1.0 } else { self.share(backlog) as f32 }
    }

    /// The share of effort that is left while `backlog` waits.
    fn share(&self, backlog: Duration) -> f64 {
        let AdmissionSection { queue_ms, reduce_from_ms, least_effort, .. } = self.settings;
        let (from, full) = (reduce_from_ms as f64, queue_ms as f64);
        let over = backlog.as_secs_f64() * 1e3 - from;
        if over <= 0.0 {
            return 1.0;
        }
        let step = (over / (full - from).max(f64::MIN_POSITIVE) * STEPS).ceil().min(STEPS) / STEPS;
        1.0 - step * (1.0 - least_effort)
    }
}

/// The fields that a cost depends on; the defaults where the body is long, or is not what it should be.
fn look(body: &[u8]) -> Asked {
    if body.len() > LOOKED_INTO {
        return Asked::default();
    }
    serde_json::from_slice(body).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission() -> Admission {
        Admission {
            settings: AdmissionSection { queue_ms: 200, reduce_from_ms: 40, least_effort: 0.4, refusals_per_second: 0 },
            default_timeout: Duration::from_secs(1),
            most_nprobe: 1_000,
            most_candidates: 10_000,
            default_nprobe: AtomicUsize::new(10),
            lists: AtomicUsize::new(100),
            rows_per_ad: AtomicU64::new(1f64.to_bits()),
            plan_ns: Average::new(1_000.0),
            fixed_ns: Average::new(9_000.0),
            rows_per_list: Average::new(100.0),
            ns_per_row: Average::new(1.0),
            ns_per_candidate: Average::new(100.0),
            recall_target_ns: Average::new(1e6),
            exact_ns: Average::new(1e9),
        }
    }

    fn query(params: SearchParams) -> AdQuery {
        AdQuery {
            vectors: vec![(vec![1.0], 1.0)],
            params,
            limit: 10,
            offset: 0,
            filter: Default::default(),
            serving: true,
            block: Default::default(),
            ranking: crate::ads::Ranking::by_relevance(),
            effort: 1.0,
            most_candidates: usize::MAX,
        }
    }

    fn cost(body: &str) -> u128 {
        admission().ask(body.as_bytes(), Instant::now()).cost.as_nanos()
    }

    #[test]
    fn the_fields_that_matter_are_found_without_parsing_the_rest() {
        let vector = vec!["0.25"; 300].join(",");
        let body = |rest: &str| format!("{{\"vector\": [{vector}], \"unheard\": {{}}, {rest}}}");
        assert_eq!(cost(&body("\"params\": {\"nprobe\": 20, \"candidates\": 50}")), 10_000 + 20 * 100 + 50 * 100);
        // No more lists than there are, no larger values than are let in.
        assert_eq!(cost(&body("\"params\": {\"nprobe\": 999999, \"candidates\": 1}")), 10_000 + 100 * 100 + 100);
        assert_eq!(cost(&body("\"params\": {\"exact\": true}")), 1_000_001_000);
        assert_eq!(cost(&body("\"params\": {\"recall_target\": 0.9}")), 1_001_000);
        let usual = cost("{}");
        assert!(cost(&body("\"limit\": 18446744073709551615, \"offset\": 1")) > usual);
        for nonsense in ["", "[", "{\"limit\": -1}", "\u{0}", "{\"params\": {\"nprob\": 1}}"] {
            assert_eq!(cost(nonsense), usual, "{nonsense}");
        }
        // Every vector is a search, and bids take a search further.
        let (two, ecpm) = ("\"vectors\": [{\"key\": 1}, {\"key\": 2}]", "\"rank\": \"ecpm\"");
        assert_eq!(cost(&body(two)) - 1_000, 2 * (usual - 1_000));
        assert_eq!(cost(&body(ecpm)), 10_000 + 20 * 100 + 200 * 100);
        assert_eq!(cost(&body(&format!("{ecpm}, \"params\": {{\"nprobe\": 20}}"))), 10_000 + 20 * 100 + 100 * 100);
        let now = Instant::now();
        let job = admission().ask(body("\"timeout_ms\": 30, \"allow_partial\": true").as_bytes(), now);
        assert_eq!((job.deadline, job.partial), (Some(now + Duration::from_millis(30)), true));
        assert!(!admission().ask(b"{\"timeout_ms\": 18446744073709551615}", now).partial);
    }

    #[test]
    fn estimates_come_to_what_queries_took_and_stalls_hardly_move_them() {
        let admission = admission();
        let params = SearchParams { k: 10, nprobe: 10, candidates: 100, ..SearchParams::default() };
        let query = query(params.clone());
        let cost = |params: &SearchParams| {
            admission.cost(&Demand { params: params.clone(), by: RankBy::Relevance, vectors: 1 })
        };
        let stats = SearchStats {
            lists_probed: 10,
            rows_scanned: 2_000,
            candidates: 100,
            scan_ns: 1_000_000,
            fetch_ns: 3_000_000,
            fraction: 1.0,
            ..SearchStats::default()
        };
        let took = Duration::from_millis(5);
        for _ in 0..200 {
            admission.observe(&query, &stats, took);
        }
        let learned = cost(&params).as_secs_f64();
        assert!((learned - 0.005).abs() < 0.0005, "{learned}");
        // Half the effort is half of what depends on it.
        let half = SearchParams { nprobe: 5, candidates: 50, ..params.clone() };
        assert!((cost(&half).as_secs_f64() - 0.003).abs() < 0.0005);
        let stalled = SearchStats { fetch_ns: 9_000_000_000, ..stats.clone() };
        admission.observe(&query, &stalled, Duration::from_secs(9));
        assert!(cost(&params) < 2 * took, "{:?}", cost(&params));
        let cut = SearchStats { fraction: 0.5, ..stats };
        let before = cost(&params);
        admission.observe(&query, &cut, Duration::from_millis(1));
        assert_eq!(cost(&params), before);
    }

    #[test]
    fn effort_falls_in_steps_to_its_floor_and_promises_are_kept() {
        let admission = admission();
        let params = SearchParams { k: 10, nprobe: 20, candidates: 200, ..SearchParams::default() };
        let at = |ms: u64| admission.effort(&params, Duration::from_millis(ms));
        assert_eq!((at(40), at(41), at(80), at(81)), (1.0, 0.85, 0.85, 0.7));
        assert_eq!((at(200), at(5_000)), (0.4, 0.4));
        let exact = SearchParams { exact: true, ..params.clone() };
        let target = SearchParams { nprobe: 0, candidates: 0, recall_target: 0.9, ..params.clone() };
        for promised in [exact, target] {
            assert_eq!(admission.effort(&promised, Duration::from_secs(5)), 1.0);
        }
    }

    #[test]
    fn defaults_are_those_of_the_version_that_is_searched() {
        let admission = admission();
        let demand =
            Demand { params: SearchParams { k: 10, ..SearchParams::default() }, by: RankBy::Relevance, vectors: 1 };
        let before = admission.cost(&demand);
        admission.default_nprobe.store(20, Relaxed);
        assert_eq!(admission.cost(&demand) - before, Duration::from_nanos(10 * 100));
        // Rows that are views of ads: more of them are verified, where the query does not say how many.
        admission.default_nprobe.store(10, Relaxed);
        admission.rows_per_ad.store(3f64.to_bits(), Relaxed);
        assert_eq!(admission.cost(&demand) - before, Duration::from_nanos(2 * 100 * 100));
        let says = Demand { params: SearchParams { candidates: 100, ..demand.params.clone() }, ..demand.clone() };
        assert_eq!(admission.cost(&says), before);
        admission.rows_per_ad.store(1f64.to_bits(), Relaxed);
        admission.default_nprobe.store(20, Relaxed);
        admission.lists.store(5, Relaxed);
        assert_eq!(before - admission.cost(&demand), Duration::from_nanos(5 * 100));
    }

    #[test]
    fn settings_without_meaning_are_refused() {
        let check = |queue_ms, reduce_from_ms, least_effort| {
            AdmissionSection { queue_ms, reduce_from_ms, least_effort, refusals_per_second: 0 }.check().is_ok()
        };
        assert!(check(200, 200, 1.0) && !check(200, 201, 1.0));
        assert!(!check(200, 0, 0.0) && !check(200, 0, 1.1) && !check(200, 0, f64::NAN));
    }
}
