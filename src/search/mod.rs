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
//! A thread keeps a [`Scratch`]; once it is warm, a query allocates nothing and starts no thread.
//!
//! # Deadlines
//! A query may carry a deadline. It is looked at between lists and between batches of vectors; what was found by then is
//! verified and returned, and [`SearchStats::fraction`] says how much of the planned work was done.

mod params;

pub use params::{Hit, Scratch, SearchParams, SearchStats};

use rayon::prelude::*;
use std::path::Path;
use std::time::Instant;

use crate::codes::scan_list;
use crate::error::{Error, Result};
use crate::index::Index;
use crate::linalg::{norm2, normalise};
use crate::quantizer::Probe;
use crate::simd::Kernels;
use crate::topk::{TopK, split_key};
use crate::types::{Key, Metric, Row};

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

    /// Bytes that searching keeps in memory, dense vectors not counted.
    pub fn memory_bytes(&self) -> u64 {
        self.index.memory_bytes()
    }

    /// Working memory for one thread.
    pub fn scratch(&self) -> Scratch {
        Scratch::default()
    }

    /// The best `params.k` rows for `query` (dim values, any norm under cosine), best first, into `hits`.
    ///
    /// # Errors
    /// `Mismatch` for another dimension, `InvalidParams` for values that are not finite or a zero query under cosine,
    /// `Io` and `Corrupt` where a dense vector cannot be read.
    pub fn search(
        &self,
        query: &[f32],
        params: &SearchParams,
        scratch: &mut Scratch,
        hits: &mut Vec<Hit>,
    ) -> Result<SearchStats> {
        hits.clear();
        let mut stats = SearchStats { fraction: 1.0, ..SearchStats::default() };
        self.prepare(query, scratch)?;
        if params.exact {
            self.verify_all(params, scratch, hits, &mut stats)?;
        } else {
            self.probe(params, scratch, &mut stats);
            self.scan(params, scratch, &mut stats);
            self.fetch_and_verify(params, scratch, hits, &mut stats)?;
        }
        rank(params.k, hits, &mut stats);
        Ok(stats)
    }

    /// Searches every row of `queries` (n x dim), in parallel on rayon's threads; answers in query order.
    pub fn search_batch(&self, queries: &[f32], params: &SearchParams) -> Result<Vec<(Vec<Hit>, SearchStats)>> {
        if !queries.len().is_multiple_of(self.dim()) {
            return Err(Error::mismatch(
                "length of the queries",
                format!("a multiple of {}", self.dim()),
                queries.len(),
            ));
        }
        queries
            .par_chunks(self.dim())
            .map_init(Scratch::default, |scratch, query| {
                let mut hits = Vec::new();
                let stats = self.search(query, params, scratch, &mut hits)?;
                Ok((hits, stats))
            })
            .collect()
    }

    /// The dense vector of the document with `key` (normalised under cosine), if there is one.
    pub fn vector(&self, key: Key) -> Result<Option<Vec<f32>>> {
        let mut scratch = crate::dense::FetchScratch::default();
        self.index.row(key)?.map(|row| self.index.vector(row, &mut scratch)).transpose()
    }

    /// The fields of `row` as a JSON object, if the index was given any.
    pub fn fields(&self, row: Row) -> Result<Option<String>> {
        self.index.fields(row)
    }

    /// Checks the query and leaves it, normalised under cosine, in the scratch.
    fn prepare(&self, query: &[f32], scratch: &mut Scratch) -> Result<()> {
        self.index.quantizer().check_dim(query.len())?;
        if let Some(at) = query.iter().position(|v| !v.is_finite()) {
            let reason = format!("value {at} is {}; every value must be finite", query[at]);
            return Err(Error::params("query", reason));
        }
        let norm = norm2(query).sqrt();
        if norm > MAX_NORM || norm.is_nan() {
            return Err(Error::params("query", format!("its norm {norm:e} is above {MAX_NORM:e}; scale it down")));
        }
        scratch.query.clear();
        scratch.query.extend_from_slice(query);
        if self.metric() == Metric::Cosine && normalise(&mut scratch.query) == 0.0 {
            return Err(Error::params("query", "it is zero, which has no direction to compare by cosine"));
        }
        Ok(())
    }

    /// Which lists to scan, most promising first.
    fn probe(&self, params: &SearchParams, scratch: &mut Scratch, stats: &mut SearchStats) {
        let start = Instant::now();
        let nprobe = if params.nprobe == 0 { self.index.manifest().default_nprobe } else { params.nprobe };
        let coarse = self.index.quantizer().coarse();
        scratch.probes.clear();
        scratch.probes.extend(coarse.probe(self.kernels, &scratch.query, nprobe, &mut scratch.probe));
        stats.probe_ns = elapsed_ns(start);
    }

    /// Scores all rows of the probed lists by their codes; the best candidates stay in the reservoir.
    fn scan(&self, params: &SearchParams, scratch: &mut Scratch, stats: &mut SearchStats) {
        let start = Instant::now();
        let codes = self.index.codes();
        scratch.tables.prepare(self.index.quantizer(), self.kernels, &scratch.query, codes.widest_terms());
        scratch.best.reset(params.candidates_or_default());
        let planned = scratch.probes.len();
        for (done, probe) in scratch.probes.iter().enumerate() {
            if done % LISTS_PER_LOOK == 0 && done > 0 && params.is_late() {
                stats.fraction = done as f32 / planned as f32;
                break;
            }
            let Probe { list, base } = *probe;
            let list = codes.list(list);
            let scale = scratch.tables.list_scale(base, list.term_min, list.term_step);
            let tables = scratch.tables.scan_tables();
            let shape = codes.shape().code;
            let rows = scan_list(self.kernels, shape, &list, tables, &scale, &mut scratch.best, &mut scratch.scan);
            stats.rows_scanned += rows as u64;
            stats.lists_probed += 1;
        }
        stats.scan_ns = elapsed_ns(start);
    }

    /// Reads the candidates' dense vectors in row order and scores them exactly.
    fn fetch_and_verify(
        &self,
        params: &SearchParams,
        scratch: &mut Scratch,
        hits: &mut Vec<Hit>,
        stats: &mut SearchStats,
    ) -> Result<()> {
        let start = Instant::now();
        scratch.rows.clear();
        scratch.best.tighten();
        scratch.rows.extend(scratch.best.keys().iter().map(|&key| split_key(key).1));
        scratch.rows.sort_unstable();
        stats.candidates = scratch.rows.len() as u32;
        let mut done = 0;
        for rows in scratch.rows.chunks(VECTORS_PER_LOOK) {
            if done > 0 && params.is_late() {
                stats.fraction *= done as f32 / scratch.rows.len() as f32;
                break;
            }
            let query = &scratch.query;
            let read = self.index.dense().for_each(rows, &mut scratch.fetch, &mut |i, record| {
                let score = record.score(self.kernels, self.index.manifest().metric, query);
                hits.push(Hit { key: record.key(), score, row: rows[i] });
            })?;
            stats.add_fetch(&read);
            done += rows.len();
        }
        stats.fetch_ns = elapsed_ns(start);
        Ok(())
    }

    /// Exact search: every dense vector is read and scored.
    fn verify_all(
        &self,
        params: &SearchParams,
        scratch: &mut Scratch,
        hits: &mut Vec<Hit>,
        stats: &mut SearchStats,
    ) -> Result<()> {
        let start = Instant::now();
        let rows = self.rows() as Row;
        let mut best = TopK::new(params.k);
        let mut first = 0;
        while first < rows {
            if first > 0 && params.is_late() {
                stats.fraction = first as f32 / rows as f32;
                break;
            }
            let end = rows.min(first.saturating_add(EXACT_BATCH as Row));
            scratch.rows.clear();
            scratch.rows.extend(first..end);
            let query = &scratch.query;
            let read = self.index.dense().for_each(&scratch.rows, &mut scratch.fetch, &mut |i, record| {
                best.push(record.score(self.kernels, self.index.manifest().metric, query), first + i as Row);
            })?;
            stats.add_fetch(&read);
            first = end;
        }
        // The best rows are read again for their keys: k reads, instead of keys held for every row.
        scratch.rows.clear();
        scratch.rows.extend(best.finish().map(|(_, row)| row));
        scratch.rows.sort_unstable();
        let (query, rows) = (&scratch.query, &scratch.rows);
        self.index.dense().for_each(rows, &mut scratch.fetch, &mut |i, record| {
            let score = record.score(self.kernels, self.index.manifest().metric, query);
            hits.push(Hit { key: record.key(), score, row: rows[i] });
        })?;
        stats.candidates = rows.len() as u32;
        stats.fetch_ns = elapsed_ns(start);
        Ok(())
    }
}

/// Best first, ties by key; the best `k` stay.
fn rank(k: usize, hits: &mut Vec<Hit>, stats: &mut SearchStats) {
    let start = Instant::now();
    let order = |a: &Hit, b: &Hit| b.score.total_cmp(&a.score).then(a.key.cmp(&b.key)).then(a.row.cmp(&b.row));
    if k < hits.len() {
        hits.select_nth_unstable_by(k, order);
        hits.truncate(k);
    }
    hits.sort_unstable_by(order);
    stats.rank_ns = elapsed_ns(start);
}

fn elapsed_ns(start: Instant) -> u64 {
    start.elapsed().as_nanos() as u64
}
