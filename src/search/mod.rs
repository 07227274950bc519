//! Search: `probe -> scan -> fetch -> verify -> rank`.
//!
//! ```text
//! query --> probe ----> scan -----------> fetch + verify -----> rank --> hits
//!           which       code scores of    dense vectors of      best k,
//!           lists       all rows in them  the best candidates   ties by key
//! ```
//! [`Searcher::search`] is one function of these steps. The easy version of each is plain to see; its departures are
//! documented where they live: int8 centroids ([`crate::quantizer`]), one set of u8 tables a query, register-wide
//! scans with the threshold inside ([`crate::codes`], [`crate::simd`]), candidates as sortable integers
//! ([`crate::topk`]), dense vectors read in row order and scored as they arrive ([`crate::dense`]).
//!
//! Where the quantizer has heads, callers go on to send the encoder's own vectors: the code head maps a query before lists
//! are chosen and scanned, the dense head before verification and exact search. A router, if there is one, chooses the
//! lists; `sparse_weight` lets the code score have a say in the last order.
//!
//! [`Searcher::search_batch`] takes the same steps with many queries at once and gives the same answers; its module says
//! what they share.
//!
//! A thread keeps a [`Scratch`]; once it is warm, a query allocates nothing and starts no thread.
//!
//! Where a query names a `recall_target` in place of `nprobe` and `candidates`, its own scores decide how many lists it scans
//! and how many vectors it reads (`adaptive.rs`).
//!
//! Where vectors are kept in memory as int8, all candidates are scored there first, and only those are read that may be among the
//! best k (`narrow.rs`).
//!
//! Where rows are views of documents, hits are documents, each scored by its best row; a search that finds fewer of them than it
//! should is repeated with more candidates and lists (`views.rs`).
//!
//! # Deadlines
//! A query may carry a deadline. It is looked at between lists and between batches of vectors; what was found by then is
//! verified and returned, and [`SearchStats::fraction`] says how much of the planned work was done.

mod adaptive;
mod batch;
mod dense_query;
mod narrow;
mod params;
mod select;
mod views;

pub use params::{Further, Hit, Round, Scratch, SearchParams, SearchStats};
pub use select::{Bonus, Selection};
pub(crate) use views::first_of_each;

use std::path::Path;
use std::time::Instant;

use crate::codes::{List, ListScan};
use crate::error::{Error, Result};
use crate::heads::{Head, HeadScratch};
use crate::index::{Calibration, Goal, Index};
use crate::linalg::{norm2, normalise};
use crate::quantizer::Probe;
use crate::simd::Kernels;
use crate::topk::{Reservoir, order_key, split_key};
use crate::types::{Key, Metric, Row};
use params::{Asked, Scoring, Work};
use views::Wanted;

pub use crate::index::OpenOptions;

/// The largest norm a query may have: beyond it, scores would overflow.
const MAX_NORM: f32 = 1e15;
/// Lists scanned, and vectors fetched, between two looks at the clock.
const LISTS_PER_LOOK: usize = 16;
const VECTORS_PER_LOOK: usize = 4_096;
/// Rows handed to the fetch at once by an exact search.
const EXACT_BATCH: usize = 4_096;

/// Searches one open index with the kernels of one instruction set. Share it between threads.
#[derive(Debug)]
pub struct Searcher {
    index: Index,
    kernels: &'static Kernels,
    version: String,
}

impl Searcher {
    /// Opens the index in `dir` for search with the best kernels of this CPU.
    pub fn open(dir: &Path, options: &OpenOptions) -> Result<Searcher> {
        Ok(Searcher::new(Index::open(dir, options)?, Kernels::detect()))
    }

    /// A searcher over an open index.
    pub fn new(index: Index, kernels: &'static Kernels) -> Searcher {
        let version = index.manifest().id.clone();
        Searcher { index, kernels, version }
    }

    /// The index.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Dimension of queries.
    pub fn dim(&self) -> usize {
        self.index.manifest().dim
    }

    /// How queries and documents are compared.
    pub fn metric(&self) -> Metric {
        self.index.manifest().metric
    }

    /// Number of rows.
    pub fn rows(&self) -> u64 {
        self.index.manifest().rows
    }

    /// The index id, hexadecimal.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// What an operator should know, such as a way of reading that was asked for and could not be had.
    pub fn notes(&self) -> &[String] {
        self.index.dense().notes()
    }

    /// Bytes that searching keeps in memory: [`Index::memory_bytes`].
    pub fn memory_bytes(&self) -> u64 {
        self.index.memory_bytes()
    }

    /// Working memory for one thread.
    pub fn scratch(&self) -> Scratch {
        Scratch::default()
    }

    /// The best `params.k` rows for `query` (dim values, any norm under cosine), best first, into `hits`. Where rows are views of
    /// documents, the best `params.k` documents, each with its best row.
    ///
    /// # Errors
    /// `Mismatch` for another dimension, `InvalidParams` for values that are not finite, a zero query under cosine or a
    /// `sparse_weight` out of range, `Io` and `Corrupt` where a dense vector cannot be read.
    pub fn search(
        &self,
        query: &[f32],
        params: &SearchParams,
        scratch: &mut Scratch,
        hits: &mut Vec<Hit>,
    ) -> Result<SearchStats> {
        params.check()?;
        let aims = params.recall_target > 0.0 && !params.exact;
        let goal = if aims { Some(self.goal(params)?) } else { None };
        self.search_with(goal.as_ref(), query, params, scratch, hits)
    }

    /// What the index was calibrated to for the target of `params`.
    fn goal(&self, params: &SearchParams) -> Result<Goal> {
        Calibration::for_k(&self.index.manifest().calibration, params.k)?.goal(params.recall_target)
    }

    /// [`Searcher::search`], for a goal in place of numbers of lists and candidates where there is one.
    pub(crate) fn search_with(
        &self,
        goal: Option<&Goal>,
        query: &[f32],
        params: &SearchParams,
        scratch: &mut Scratch,
        hits: &mut Vec<Hit>,
    ) -> Result<SearchStats> {
        hits.clear();
        let mut stats = SearchStats { fraction: 1.0, ..SearchStats::default() };
        let params = &*self.resolved(params);
        let Scratch { asked, scoring, work } = &mut *scratch;
        self.prepare(query, asked)?;
        if let Some(goal) = goal {
            self.search_for(goal, params, scratch, hits, &mut stats)?;
        } else if params.exact {
            self.verify_all(params, None, asked, &mut scoring.best, work, hits, &mut stats)?;
        } else {
            self.probe(params, asked, work, &mut stats)?;
            self.scan(params, asked, scoring, work, &mut stats);
            self.fetch_and_verify(params, asked, &mut scoring.best, work, hits, &mut stats)?;
        }
        self.rank(params.k, hits, &mut stats);
        if !params.exact {
            self.fill(params.k, Wanted { params, selection: None }, scratch, hits, &mut stats)?;
        }
        Ok(stats)
    }

    /// The rows that [`Searcher::search`] would verify, with their code scores: best first, ties by row. No dense vector
    /// is read, so there are no keys. `params.exact`, `params.sparse_weight` and `params.recall_target` do not apply.
    ///
    /// # Errors
    /// As those of a search, but for reading.
    pub fn candidates(
        &self,
        query: &[f32],
        params: &SearchParams,
        scratch: &mut Scratch,
        out: &mut Vec<(Row, f32)>,
    ) -> Result<SearchStats> {
        out.clear();
        let mut stats = SearchStats { fraction: 1.0, ..SearchStats::default() };
        params.check()?;
        let params = &*self.resolved(params);
        let Scratch { asked, scoring, work } = scratch;
        self.prepare(query, asked)?;
        self.probe(params, asked, work, &mut stats)?;
        self.scan(params, asked, scoring, work, &mut stats);
        out.extend(scoring.best.finish().iter().map(|&key| split_key(key)).map(|(score, row)| (row, score)));
        stats.candidates = out.len() as u32;
        Ok(stats)
    }

    /// Scores the dense vectors of `rows` (ascending, below the number of rows) for `query`, as verification does: a hit
    /// for each, in the order of `rows`.
    ///
    /// # Errors
    /// As those of a search; `InvalidParams` for rows out of order or range.
    pub fn score_rows(&self, query: &[f32], rows: &[Row], scratch: &mut Scratch, hits: &mut Vec<Hit>) -> Result<()> {
        if !rows.is_sorted() || rows.last().is_some_and(|&row| u64::from(row) >= self.rows()) {
            return Err(Error::params("rows", format!("they must ascend and be below {}", self.rows())));
        }
        let Scratch { asked, work, .. } = scratch;
        self.prepare(query, asked)?;
        self.map_dense(asked, work)?;
        hits.clear();
        hits.resize(rows.len(), Hit { key: 0, score: 0.0, row: 0 });
        let Work { dense_query, fetch, .. } = work;
        self.index.dense().for_each_once(rows, fetch, &mut |i, record| {
            hits[i] =
                Hit { key: record.key(), score: record.score(self.kernels, self.metric(), dense_query), row: rows[i] };
        })?;
        Ok(())
    }

    /// The dense vector of the document with `key` (normalised under cosine), if there is one: a query for what is like
    /// that document. Of one with several views, that of the first.
    ///
    /// # Errors
    /// `Unsupported` where documents were stored through a dense head: what is stored is no query then.
    pub fn vector(&self, key: Key) -> Result<Option<Vec<f32>>> {
        if self.index.quantizer().heads().dense_document.is_some() {
            return Err(Error::Unsupported {
                what: "a query by key, in an index that stores what a dense head made of its documents".into(),
                remedy: "send the document's own vector".into(),
            });
        }
        let mut scratch = crate::dense::FetchScratch::default();
        self.index.row(key)?.map(|row| self.index.vector(row, &mut scratch)).transpose()
    }

    /// The fields of `row` as a JSON object, if the index was given any.
    pub fn fields(&self, row: Row) -> Result<Option<String>> {
        self.index.fields(row)
    }

    /// Checks the query and takes it in, normalised under cosine.
    fn prepare(&self, query: &[f32], asked: &mut Asked) -> Result<()> {
        self.index.quantizer().check_dim(query.len())?;
        check_norm(query)?;
        asked.query.clear();
        asked.query.extend_from_slice(query);
        if self.metric() == Metric::Cosine && normalise(&mut asked.query) == 0.0 {
            return Err(Error::params("query", "it is zero, which has no direction to compare by cosine"));
        }
        Ok(())
    }

    /// Lists that a query scans.
    fn nprobe(&self, params: &SearchParams) -> usize {
        if params.nprobe == 0 { self.index.manifest().default_nprobe } else { params.nprobe }
    }

    /// The query as codes are scored with it, and which lists to scan, most promising first.
    fn probe(&self, params: &SearchParams, asked: &mut Asked, work: &mut Work, stats: &mut SearchStats) -> Result<()> {
        let start = Instant::now();
        let quantizer = self.index.quantizer();
        let Asked { query, code_query, probes } = asked;
        map_query(self.kernels, quantizer.heads().code_query.as_ref(), query, &mut work.head, code_query)?;
        quantizer.probe(self.kernels, code_query, self.nprobe(params), params.geometric, &mut work.probe, probes);
        stats.probe_ns = elapsed_ns(start);
        Ok(())
    }

    /// The query as dense vectors are scored with it.
    fn map_dense(&self, asked: &Asked, work: &mut Work) -> Result<()> {
        let head = self.index.quantizer().heads().dense_query.as_ref();
        map_query(self.kernels, head, &asked.query, &mut work.head, &mut work.dense_query)
    }

    /// Scores all rows of the probed lists by their codes; the best candidates stay in the reservoir.
    fn scan(
        &self,
        params: &SearchParams,
        asked: &Asked,
        scoring: &mut Scoring,
        work: &mut Work,
        stats: &mut SearchStats,
    ) {
        let start = Instant::now();
        let codes = self.index.codes();
        asked.probes.iter().take(1).for_each(|first| codes.announce(first.list));
        self.begin_scan(params, codes.widest_terms(), asked, scoring, work);
        let planned = asked.probes.len();
        for (done, probe) in asked.probes.iter().enumerate() {
            if let Some(next) = asked.probes.get(done + 1) {
                codes.announce(next.list);
            }
            if done % LISTS_PER_LOOK == 0 && done > 0 && params.is_late() {
                stats.fraction = done as f32 / planned as f32;
                break;
            }
            self.scan_probe(probe, scoring, work, stats);
        }
        stats.scan_ns = elapsed_ns(start);
    }

    /// The score tables of the query, for lists whose row terms differ by `term_range` at most, and an empty reservoir.
    fn begin_scan(
        &self,
        params: &SearchParams,
        term_range: f32,
        asked: &Asked,
        scoring: &mut Scoring,
        work: &mut Work,
    ) {
        let quantizer = self.index.quantizer();
        scoring.tables.prepare(quantizer, self.kernels, &asked.code_query, term_range, &mut work.tables);
        scoring.best.reset(params.candidates_or_default());
    }

    /// Scans one list.
    fn scan_probe(&self, probe: &Probe, scoring: &mut Scoring, work: &mut Work, stats: &mut SearchStats) {
        let list = self.index.codes().list(probe.list);
        self.scan_rows(&list, probe.base, scoring, work, stats, &mut |_| true);
    }

    /// Scans the rows of a list that may be found, asking `allow` about those that are good enough.
    fn scan_rows(
        &self,
        list: &List<'_>,
        base: f32,
        scoring: &mut Scoring,
        work: &mut Work,
        stats: &mut SearchStats,
        allow: &mut impl FnMut(Row) -> bool,
    ) {
        let Scoring { tables, best } = scoring;
        let shape = self.index.codes().shape().code;
        let scale = tables.list_scale(base, list.term_min, list.term_step);
        let scan = ListScan { kernels: self.kernels, shape, tables: tables.scan_tables(), scale };
        stats.rows_scanned += scan.list(list, best, &mut work.scan, allow) as u64;
        stats.lists_probed += 1;
    }

    /// Reads the candidates' dense vectors in row order and scores them exactly.
    fn fetch_and_verify(
        &self,
        params: &SearchParams,
        asked: &Asked,
        best: &mut Reservoir,
        work: &mut Work,
        hits: &mut Vec<Hit>,
        stats: &mut SearchStats,
    ) -> Result<()> {
        let start = Instant::now();
        self.map_dense(asked, work)?;
        let keys = best.by_id();
        stats.candidates = keys.len() as u32;
        self.read(keys, params, work, hits, stats)?;
        stats.fetch_ns = elapsed_ns(start);
        Ok(())
    }

    /// Reads the dense vectors of some candidates in row order (`keys` are reordered) and adds a hit for each that may be among
    /// the best k; the dense query is in `work`.
    fn read(
        &self,
        keys: &mut [u64],
        params: &SearchParams,
        work: &mut Work,
        hits: &mut Vec<Hit>,
        stats: &mut SearchStats,
    ) -> Result<()> {
        let wanted = self.narrow(keys, params, work, stats);
        let keys = &mut keys[..wanted];
        let Work { dense_query, rows, fetch, .. } = work;
        keys.sort_unstable_by_key(|&key| split_key(key).1);
        rows.clear();
        rows.extend(keys.iter().map(|&key| split_key(key).1));
        let metric = self.metric();
        let mut done = 0;
        for (some, keys) in rows.chunks(VECTORS_PER_LOOK).zip(keys.chunks(VECTORS_PER_LOOK)) {
            if done > 0 && params.is_late() {
                stats.fraction *= done as f32 / rows.len() as f32;
                break;
            }
            let read = self.index.dense().for_each(some, fetch, &mut |i, record| {
                let score = params.mixed(record.score(self.kernels, metric, dense_query), keys[i]);
                hits.push(Hit { key: record.key(), score, row: some[i] });
            })?;
            stats.add_fetch(&read);
            done += some.len();
        }
        Ok(())
    }

    /// Exact search: every dense vector (of the selection) is read and scored.
    #[allow(clippy::too_many_arguments)]
    fn verify_all(
        &self,
        params: &SearchParams,
        selection: Option<&Selection<'_>>,
        asked: &Asked,
        best: &mut Reservoir,
        work: &mut Work,
        hits: &mut Vec<Hit>,
        stats: &mut SearchStats,
    ) -> Result<()> {
        let start = Instant::now();
        self.map_dense(asked, work)?;
        let (count, metric) = (self.rows() as Row, self.metric());
        best.reset(self.certain_rows(params.k));
        let mut first = 0;
        while first < count {
            if first > 0 && params.is_late() {
                stats.fraction = first as f32 / count as f32;
                break;
            }
            let end = count.min(first.saturating_add(EXACT_BATCH as Row));
            self.select(selection, first, end, work);
            let Work { dense_query, rows, fetch, .. } = &mut *work;
            let read = self.index.dense().for_each_once(rows, fetch, &mut |i, record| {
                best.push(order_key(record.score(self.kernels, metric, dense_query), rows[i]));
            })?;
            stats.add_fetch(&read);
            first = end;
        }
        // The best rows are read again for their keys, instead of keys held for every row: k reads, more where rows are views.
        let Work { dense_query, rows, fetch, .. } = work;
        rows.clear();
        rows.extend(best.by_id().iter().map(|&key| split_key(key).1));
        let mut done = 0;
        for some in rows.chunks(VECTORS_PER_LOOK) {
            if done > 0 && params.is_late() {
                stats.fraction *= done as f32 / rows.len() as f32;
                break;
            }
            self.index.dense().for_each_once(some, fetch, &mut |i, record| {
                let score = record.score(self.kernels, metric, dense_query);
                hits.push(Hit { key: record.key(), score, row: some[i] });
            })?;
            done += some.len();
        }
        stats.candidates = done as u32;
        stats.fetch_ns = elapsed_ns(start);
        Ok(())
    }

    /// Best first, ties by key; the best `k` stay, of each document the best view.
    fn rank(&self, k: usize, hits: &mut Vec<Hit>, stats: &mut SearchStats) {
        let start = Instant::now();
        if self.views().is_some() {
            views::keep_best_views(hits);
        }
        let order = |a: &Hit, b: &Hit| b.score.total_cmp(&a.score).then(a.key.cmp(&b.key)).then(a.row.cmp(&b.row));
        if k < hits.len() {
            hits.select_nth_unstable_by(k, order);
            hits.truncate(k);
        }
        hits.sort_unstable_by(order);
        stats.rank_ns = elapsed_ns(start);
    }
}

/// What `head` makes of a query (the query itself without one).
fn map_query(
    kernels: &Kernels,
    head: Option<&Head>,
    query: &[f32],
    scratch: &mut HeadScratch,
    out: &mut Vec<f32>,
) -> Result<()> {
    let Some(head) = head else {
        out.clear();
        out.extend_from_slice(query);
        return Ok(());
    };
    head.apply(kernels, query, scratch, out);
    check_norm(out)
}

/// Refuses a vector that has a value that is not finite, or whose scores would overflow.
fn check_norm(vector: &[f32]) -> Result<()> {
    let norm = norm2(vector).sqrt();
    if norm <= MAX_NORM {
        return Ok(()); // and so is every value
    }
    if let Some(at) = vector.iter().position(|v| !v.is_finite()) {
        let reason = format!("value {at} is {}; every value must be finite", vector[at]);
        return Err(Error::params("query", reason));
    }
    Err(Error::params("query", format!("its norm {norm:e} is above {MAX_NORM:e}; scale it down")))
}

fn elapsed_ns(start: Instant) -> u64 {
    start.elapsed().as_nanos() as u64
}
