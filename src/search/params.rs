//! What a query may ask for, what it gets, and the working memory in between.

use serde::Serialize;
use std::time::Instant;

use crate::attributes::PredicateScratch;
use crate::codes::ScanScratch;
use crate::dense::{FetchScratch, FetchStats};
use crate::error::{Error, Result};
use crate::heads::HeadScratch;
use crate::quantizer::{Probe, ProbeScratch, QueryTables, TableScratch};
use crate::topk::{Reservoir, split_key};
use crate::types::{Key, Row};

/// Fewest candidates that are verified where a query does not say.
const LEAST_CANDIDATES: usize = 100;
/// Candidates verified for each hit asked for, where a query does not say.
const CANDIDATES_PER_HIT: usize = 4;

/// What a query asks for.
#[derive(Clone, Debug)]
pub struct SearchParams {
    /// Hits wanted.
    pub k: usize,
    /// Lists to scan; 0: the index's default.
    pub nprobe: usize,
    /// Rows whose dense vectors are read and scored; 0: four a hit, at least 100, times the mean number of views where rows are
    /// views of documents. Never fewer than `k`.
    pub candidates: usize,
    /// Mean recall to aim for, below 1, in place of `nprobe` and `candidates`: each query then scans and reads as much as it
    /// needs, by what the index was calibrated with ([`crate::index::Calibration`]). 0: none.
    pub recall_target: f32,
    /// Score every dense vector instead: the truth, slowly. Codes take no part in it, so `nprobe`, `candidates`,
    /// `geometric` and `sparse_weight` do not apply.
    pub exact: bool,
    /// Choose lists by centroids although there is a router: for comparing.
    pub geometric: bool,
    /// Weight of the code score in the score of a verified row, `dense + sparse_weight * code`: 0 to
    /// [`SearchParams::MAX_SPARSE_WEIGHT`]. [`Hit::score`] is then that sum.
    pub sparse_weight: f32,
    /// When to stop and return what was found.
    pub deadline: Option<Instant>,
    /// Where rows are views of documents: how far a search goes on that has found fewer than `k` of them.
    pub further: Further,
}

/// Bounds of the rounds after the first one, where rows are views of documents and the list is short of them. No round does less than
/// the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Further {
    /// Rows that are verified at most.
    pub candidates: usize,
    /// Lists that are scanned at most.
    pub lists: usize,
}

impl Further {
    /// As far as it takes, to the last row.
    pub const TO_THE_END: Further = Further { candidates: usize::MAX, lists: usize::MAX };
    /// There is one round, and a list that it leaves short stays short.
    pub const NOT: Further = Further { candidates: 0, lists: 0 };
}

impl Default for SearchParams {
    fn default() -> Self {
        SearchParams {
            k: 10,
            nprobe: 0,
            candidates: 0,
            recall_target: 0.0,
            exact: false,
            geometric: false,
            sparse_weight: 0.0,
            deadline: None,
            further: Further::TO_THE_END,
        }
    }
}

impl SearchParams {
    /// The largest `sparse_weight`: far beyond any use, and far below what would make sums overflow.
    pub const MAX_SPARSE_WEIGHT: f32 = 1e6;

    /// Refuses values that have no meaning; every search does.
    ///
    /// # Errors
    /// `InvalidParams` for a `sparse_weight` or `recall_target` out of range, or a target beside `nprobe` or `candidates`.
    pub fn check(&self) -> Result<()> {
        if !(0.0..1.0).contains(&self.recall_target) {
            let reason = format!("{} is not between 0 and 1; exact search finds everything", self.recall_target);
            return Err(Error::params("recall_target", reason));
        }
        if self.recall_target > 0.0 && (self.nprobe > 0 || self.candidates > 0) {
            let reason = "it decides how much is scanned and read; leave nprobe and candidates out, or leave it out";
            return Err(Error::params("recall_target", reason));
        }
        if (0.0..=Self::MAX_SPARSE_WEIGHT).contains(&self.sparse_weight) {
            return Ok(());
        }
        let reason = format!("{} is not between 0 and {}", self.sparse_weight, Self::MAX_SPARSE_WEIGHT);
        Err(Error::params("sparse_weight", reason))
    }

    /// Rows that will be verified.
    pub fn candidates_or_default(&self) -> usize {
        let wanted = match self.candidates {
            0 => (self.k.saturating_mul(CANDIDATES_PER_HIT)).max(LEAST_CANDIDATES),
            n => n,
        };
        wanted.max(self.k)
    }

    /// The score that orders hits, of a dense score and a candidate's key, which holds its code score. Never falls where the
    /// dense score rises.
    pub(super) fn mixed(&self, dense: f32, key: u64) -> f32 {
        if self.sparse_weight > 0.0 { dense + self.sparse_weight * split_key(key).0 } else { dense }
    }

    pub(super) fn is_late(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }
}

/// One row of an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// The caller's key of the document.
    pub key: Key,
    /// Score of the dense vector, to which `sparse_weight` may add that of the code: larger is better.
    pub score: f32,
    /// Row in the index.
    pub row: Row,
}

/// What a query cost, step by step.
#[derive(Clone, Debug, Default, Serialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct SearchStats {
    /// Lists scanned.
    pub lists_probed: u32,
    /// Rows whose codes were scored.
    pub rows_scanned: u64,
    /// Of the lists that a search among some of the rows went through, the rows that pass its filter; 0 for other searches.
    pub rows_passing: u64,
    /// Rows chosen for verification.
    pub candidates: u32,
    /// Candidates scored by the int8 tier in memory, to know which ones to read.
    pub tier_scored: u32,
    /// Dense vectors scored.
    pub vectors_read: u32,
    /// Those of them that came from the page cache.
    pub vectors_cached: u32,
    /// Bytes of dense shards touched.
    pub bytes_read: u64,
    /// Times that vectors were asked for and waited for.
    pub rounds: u32,
    /// Reads issued (0 where vectors are mapped or in memory).
    pub reads: u32,
    /// Nanoseconds choosing lists.
    pub probe_ns: u64,
    /// Nanoseconds making score tables and scanning codes.
    pub scan_ns: u64,
    /// Nanoseconds reading and scoring dense vectors.
    pub fetch_ns: u64,
    /// Nanoseconds ordering hits.
    pub rank_ns: u64,
    /// Share of the planned work that was done before the deadline; 1.0 is all of it.
    pub fraction: f32,
    /// Lists of the last round, where a search took several; the other figures are those of all rounds together.
    #[serde(skip)]
    pub last_lists: Option<u32>,
    /// Candidates of the last round, where a search took several.
    #[serde(skip)]
    pub last_candidates: Option<u32>,
}

/// One round of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    /// Lists scanned.
    pub lists: u32,
    /// Rows chosen for verification.
    pub candidates: u32,
}

impl SearchStats {
    /// What the last round did: how far the search went in the end, whatever it took to get there.
    pub fn last_round(&self) -> Round {
        Round {
            lists: self.last_lists.unwrap_or(self.lists_probed),
            candidates: self.last_candidates.unwrap_or(self.candidates),
        }
    }

    /// Adds what another search did to this; the share of the planned work is that of the one that did less, the last round stays.
    pub(crate) fn add(&mut self, other: &SearchStats) {
        self.lists_probed += other.lists_probed;
        self.rows_scanned += other.rows_scanned;
        self.rows_passing += other.rows_passing;
        self.candidates += other.candidates;
        self.tier_scored += other.tier_scored;
        self.vectors_read += other.vectors_read;
        self.vectors_cached += other.vectors_cached;
        self.bytes_read += other.bytes_read;
        self.rounds += other.rounds;
        self.reads += other.reads;
        self.probe_ns += other.probe_ns;
        self.scan_ns += other.scan_ns;
        self.fetch_ns += other.fetch_ns;
        self.rank_ns += other.rank_ns;
        self.fraction = self.fraction.min(other.fraction);
    }

    pub(super) fn add_fetch(&mut self, fetch: &FetchStats) {
        self.vectors_read += fetch.vectors as u32;
        self.vectors_cached += fetch.cached as u32;
        self.bytes_read += fetch.bytes as u64;
        self.reads += fetch.reads as u32;
        self.rounds += 1;
    }
}

/// Working memory of one thread; reused from query to query, it stops growing after the first few.
#[derive(Debug, Default)]
pub struct Scratch {
    pub(super) asked: Asked,
    pub(super) scoring: Scoring,
    pub(super) work: Work,
}

impl Scratch {
    /// The last query as codes were scored with it: what the code head made of it.
    pub(crate) fn code_query(&self) -> &[f32] {
        &self.asked.code_query
    }

    /// The lists that the last search went through, most promising first.
    pub(crate) fn probes(&self) -> &[Probe] {
        &self.asked.probes
    }
}

/// One query after probing.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked {
    /// The query as it was given; normalised under cosine.
    pub(super) query: Vec<f32>,
    /// What the code head makes of it.
    pub(super) code_query: Vec<f32>,
    /// The lists to scan, most promising first.
    pub(super) probes: Vec<Probe>,
}

/// One query while it is scanned.
#[derive(Debug, Default)]
pub(super) struct Scoring {
    pub(super) tables: QueryTables,
    pub(super) best: Reservoir,
}

/// What no step leaves to the next one.
#[derive(Debug, Default)]
pub(super) struct Work {
    pub(super) head: HeadScratch,
    pub(super) probe: ProbeScratch,
    pub(super) tables: TableScratch,
    pub(super) scan: ScanScratch,
    /// What the dense head makes of the query.
    pub(super) dense_query: Vec<f32>,
    /// Bounds of the candidates' scores.
    pub(super) lows: Vec<f32>,
    pub(super) highs: Vec<f32>,
    pub(super) rows: Vec<Row>,
    pub(super) keys: Vec<u64>,
    /// Which rows of a list pass.
    pub(super) words: Vec<u64>,
    pub(super) predicate: PredicateScratch,
    pub(super) fetch: FetchScratch,
}
