//! A search for ads: one version, the changes over it and the control table, as one request sees them.
//!
//! ```text
//! for each query vector:   version: scan with filter, eligibility, bids -> candidates -> exact scores
//!                          fresh ads: exact scores of all that pass
//! all candidates           relevance, value -> threshold -> order -> caps -> offset, limit
//! ```
//! The easy version searches for `k` hits and drops what may not be shown. Departures:
//! - What may not be shown is refused when it would become a candidate, so that candidates are hits-to-be ([`Selection`]).
//! - All verified candidates are ranked, not the best `k` of them; if caps, blocked keys or thresholds leave the list short although there
//!   were more rows to be had, the search is done again with [`WIDER`] times the candidates, at most [`ROUNDS`] times.
//! - A query of several vectors is several searches and one ranking: an ad's relevance is the best that any of the vectors that
//!   found it gives it (relevance x weight), and the hit says which one that was.

use std::cell::Cell;
use std::collections::HashSet;

use super::control::{Control, Epoch, Owner, Standing};
use super::owners::{Owners, as_group};
use super::rank::{Candidate, RankBy, Ranking, relevance, value_micros};
use super::values::Values;
use crate::attributes::{Columns, Filter, Predicate, Value};
use crate::error::{Error, Result};
use crate::live::{Place, Snapshot};
use crate::search::{Hit, Scratch, SearchParams, SearchStats, Selection};
use crate::simd::Kernels;
use crate::types::{Key, Row};

/// Where more rows than this share cannot be shown, probes are not extended any further for them.
const MOST_REFUSED: f32 = 0.99;
/// How many times the default effort is taken where bids decide: over a million ads, 100 of them, it lifts the share of the best list's
/// revenue from .91 to .97.
const WIDER_FOR_BIDS: usize = 2;
/// Rounds of a search that leaves the list short, and how many times the candidates each takes.
const ROUNDS: usize = 3;
const WIDER: usize = 4;

/// Settings of a collection that searches depend on.
#[derive(Clone, Debug, PartialEq)]
pub struct AdSettings {
    /// The attribute that names an ad's group.
    pub group_attribute: String,
    /// The click rate of ads for which the control table gives none.
    pub default_ctr: f32,
}

/// What one request sees. All parts are fixed while it lasts.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The version and the changes over it.
    pub snapshot: &'a Snapshot,
    /// Who answers for the rows of the version.
    pub owners: &'a Owners,
    /// What they are worth, for choosing candidates.
    pub values: &'a Values,
    /// Where owners of fresh ads are looked up.
    pub control: &'a Control,
    /// What the owners say.
    pub epoch: &'a Epoch,
    /// Seconds since 1970.
    pub now: i64,
    /// See there.
    pub settings: &'a AdSettings,
}

/// Ads that must not be found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// These ads.
    pub keys: HashSet<Key>,
    /// Ads of these advertisers.
    pub advertisers: HashSet<u64>,
    /// Ads of these campaigns.
    pub campaigns: HashSet<u64>,
}

impl Block {
    pub(super) fn stops(&self, standing: &Standing) -> bool {
        self.advertisers.contains(&standing.advertiser) || self.campaigns.contains(&standing.campaign)
    }

    fn is_empty(&self) -> bool {
        self.advertisers.is_empty() && self.campaigns.is_empty()
    }
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct AdQuery {
    /// Query vectors, each with the weight of its scores.
    pub vectors: Vec<(Vec<f32>, f32)>,
    /// How hard to search; `k` is set here.
    pub params: SearchParams,
    /// Hits wanted.
    pub limit: usize,
    /// Best hits to skip.
    pub offset: usize,
    /// What attributes must be.
    pub filter: Filter,
    /// Whether ads must be eligible now.
    pub serving: bool,
    /// What must not be found.
    pub block: Block,
    /// The order.
    pub ranking: Ranking,
}

impl AdQuery {
    /// Whether hits may be others than the best `limit` by score.
    fn is_reordered(&self) -> bool {
        let Ranking { by, diversity, .. } = &self.ranking;
        *by != RankBy::Relevance || diversity.is_some() || !self.block.keys.is_empty() || self.vectors.len() > 1
    }

    /// The engine's parameters for `k` hits.
    pub(super) fn params_for(&self, k: usize) -> SearchParams {
        SearchParams { k, ..self.params.clone() }
    }
}

/// Why rows that were good enough did not become candidates or hits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Dropped {
    /// Replaced or deleted since the version was built.
    pub dead: u64,
    /// Not to be shown now.
    pub ineligible: u64,
    /// On the request's list.
    pub blocked: u64,
    /// Below `min_relevance`.
    pub irrelevant: u64,
    /// Above a cap, or beyond the limit.
    pub ranked_out: u64,
}

/// An answer.
#[derive(Clone, Debug, Default)]
pub struct AdAnswer {
    /// Hits, best first.
    pub hits: Vec<Candidate>,
    /// What it cost.
    pub stats: SearchStats,
    /// What was dropped.
    pub dropped: Dropped,
}

/// A query made ready for one version.
pub(super) struct Prepared<'a> {
    query: &'a AdQuery,
    predicate: Option<Predicate>,
}

impl Prepared<'_> {
    /// Whether a row passes the filter.
    pub(super) fn passes(&self, row: Row) -> bool {
        self.predicate.as_ref().is_none_or(|predicate| predicate.passes(row))
    }
}

/// Counts while a search runs; closures that are shared count too.
#[derive(Default)]
pub(super) struct Counts {
    dead: Cell<u64>,
    ineligible: Cell<u64>,
    blocked: Cell<u64>,
}

fn count(cell: &Cell<u64>) -> bool {
    cell.set(cell.get() + 1);
    false
}

impl View<'_> {
    /// Answers a query.
    ///
    /// # Errors
    /// As those of a search; `InvalidParams` for a filter that does not fit the attributes, or for no query vector.
    pub fn search(&self, query: &AdQuery, scratch: &mut Scratch) -> Result<AdAnswer> {
        let prepared = self.prepare(query)?;
        let wanted = query.offset + query.limit;
        let least = self.snapshot.base().candidates_for(&query.params_for(wanted));
        let mut pool = least * self.wider_for(query) + query.block.keys.len();
        for round in 1.. {
            let mut answer = self.round(&prepared, pool, scratch)?;
            let full = answer.hits.len() >= wanted;
            let exhausted = u64::from(answer.stats.candidates) < pool as u64 || answer.stats.fraction < 1.0;
            if full || exhausted || round == ROUNDS || !query.is_reordered() {
                answer.hits.drain(..query.offset.min(answer.hits.len()));
                return Ok(answer);
            }
            pool *= WIDER;
        }
        unreachable!("the last round returns")
    }

    /// How many times the default effort a query takes that does not say how much: where bids decide, good ads lie further away.
    fn wider_for(&self, query: &AdQuery) -> usize {
        let AdQuery { params, ranking, .. } = query;
        let says = params.nprobe > 0 || params.candidates > 0 || params.recall_target > 0.0 || params.exact;
        if ranking.by == RankBy::Relevance || says { 1 } else { WIDER_FOR_BIDS }
    }

    /// Whether an ad may have several rows.
    pub(super) fn has_views(&self) -> bool {
        self.snapshot.base().views().is_some()
    }

    /// Makes a query ready for this version.
    pub(super) fn prepare<'q>(&self, query: &'q AdQuery) -> Result<Prepared<'q>> {
        if query.vectors.is_empty() {
            return Err(Error::params("vectors", "there is none; give at least one query vector"));
        }
        if query.filter.is_empty() {
            return Ok(Prepared { query, predicate: None });
        }
        Ok(Prepared { query, predicate: Some(self.columns()?.compile(&query.filter)?) })
    }

    /// One search with every vector among `pool` candidates, ranked.
    fn round(&self, prepared: &Prepared<'_>, pool: usize, scratch: &mut Scratch) -> Result<AdAnswer> {
        let query = prepared.query;
        let counts = Counts::default();
        let mut answer =
            AdAnswer { stats: SearchStats { fraction: 1.0, ..SearchStats::default() }, ..AdAnswer::default() };
        let mut candidates = Vec::new();
        for (number, (vector, _)) in query.vectors.iter().enumerate() {
            let found = self.candidates(prepared, vector, pool, &counts, scratch, &mut answer.stats)?;
            candidates
                .extend(found.into_iter().map(|(key, place, score)| self.candidate(query, key, place, score, number)));
        }
        if query.vectors.len() > 1 || self.has_views() {
            keep_best_of_each(&mut candidates);
        }
        let before = candidates.len();
        candidates.retain(|candidate| !query.block.keys.contains(&candidate.key));
        let listed = before - candidates.len();
        let relevant = candidates.iter().filter(|c| query.ranking.is_relevant(c.relevance)).count();
        answer.dropped = Dropped {
            dead: counts.dead.get(),
            ineligible: counts.ineligible.get(),
            blocked: counts.blocked.get() + listed as u64,
            irrelevant: (candidates.len() - relevant) as u64,
            ranked_out: 0,
        };
        query.ranking.apply(&mut candidates, query.offset + query.limit, &mut |c, name| self.capped_value(c, name));
        answer.dropped.ranked_out = (relevant - candidates.len()) as u64;
        answer.hits = candidates;
        Ok(answer)
    }

    /// Rows and fresh ads that may be shown, the best `pool` of each for one vector, with exact scores.
    fn candidates(
        &self,
        prepared: &Prepared<'_>,
        vector: &[f32],
        pool: usize,
        counts: &Counts,
        scratch: &mut Scratch,
        stats: &mut SearchStats,
    ) -> Result<Vec<(Key, Place, f32)>> {
        let query = prepared.query;
        let allow = |row: Row| self.admits_row(query, row, counts);
        let mut params = query.params_for(query.offset + query.limit);
        if self.wider_for(query) > 1 {
            params.nprobe = self.snapshot.base().index().manifest().default_nprobe * self.wider_for(query);
        }
        let mut selection = self.selection(prepared, &allow);
        if query.is_reordered() {
            selection.keep = pool;
        }
        if params.recall_target == 0.0 {
            params.candidates = pool;
        }
        let mut hits: Vec<Hit> = Vec::new();
        let base = self.snapshot.base();
        let searched = base.search_selected(vector, &params, &selection, scratch, &mut hits)?;
        stats.add(&searched);
        let mut found: Vec<(Key, Place, f32)> =
            hits.iter().map(|hit| (hit.key, Place::Base(hit.row), hit.score)).collect();
        self.fresh_candidates(prepared, vector, pool, counts, &mut found)?;
        Ok(found)
    }

    /// What a search of the version may find.
    fn selection<'s>(&'s self, prepared: &'s Prepared<'_>, allow: &'s dyn Fn(Row) -> bool) -> Selection<'s> {
        let query = prepared.query;
        // Where nothing can be refused nobody has to be asked.
        let asks =
            self.snapshot.tombstones() > 0 || query.serving && self.epoch.counts() != [0; 4] || !query.block.is_empty();
        Selection {
            predicate: prepared.predicate.as_ref(),
            allow: asks.then_some(allow),
            refused: if query.serving { self.values.refused().min(MOST_REFUSED) } else { 0.0 },
            bonus: match query.ranking.by {
                RankBy::Ecpm { alpha } => Some(self.values.bonus(alpha)),
                RankBy::Relevance => None,
            },
            keep: 0,
        }
    }

    /// How many rows have better codes than `row` for a query vector; see [`crate::search::Searcher::code_rank`].
    pub(super) fn code_rank(
        &self,
        query: &AdQuery,
        vector: &[f32],
        row: Row,
        scratch: &mut Scratch,
        most: usize,
    ) -> Result<Option<usize>> {
        let (prepared, counts) = (self.prepare(query)?, Counts::default());
        let allow = |row: Row| self.admits_row(query, row, &counts);
        let params = query.params_for(query.offset + query.limit);
        let selection = self.selection(&prepared, &allow);
        self.snapshot.base().code_rank(vector, &params, &selection, row, most, scratch)
    }

    /// Whether a row may be found now.
    pub(super) fn admits_row(&self, query: &AdQuery, row: Row, counts: &Counts) -> bool {
        if self.snapshot.is_dead(row) {
            return count(&counts.dead);
        }
        self.admits(query, self.owners.of(row), counts)
    }

    /// Adds the best fresh ads.
    pub(super) fn fresh_candidates(
        &self,
        prepared: &Prepared<'_>,
        vector: &[f32],
        pool: usize,
        counts: &Counts,
        found: &mut Vec<(Key, Place, f32)>,
    ) -> Result<()> {
        let mut fresh = Vec::new();
        let mut allow = |place: usize| self.admits(prepared.query, self.owner_of_fresh(place), counts);
        let kernels = Kernels::detect();
        let filter = Some(&prepared.query.filter).filter(|filter| !filter.is_empty());
        self.snapshot.search_delta(kernels, vector, pool, filter, &mut allow, &mut fresh)?;
        let keyed = |(score, place)| Some((self.snapshot.delta_row(place)?.key(), Place::Delta(place), score));
        found.extend(fresh.into_iter().filter_map(keyed));
        Ok(())
    }

    /// Whether what `owner` answers for may be found.
    fn admits(&self, query: &AdQuery, owner: Owner, counts: &Counts) -> bool {
        if !query.serving && query.block.is_empty() {
            return true;
        }
        let standing = self.epoch.standing(owner);
        if query.serving && standing.eligible(self.now).is_err() {
            return count(&counts.ineligible);
        }
        if query.block.stops(&standing) {
            return count(&counts.blocked);
        }
        true
    }

    /// Who answers for a fresh ad.
    fn owner_of_fresh(&self, place: usize) -> Owner {
        let Some(row) = self.snapshot.delta_row(place) else { return Owner::NONE };
        let group = || row.attributes().get(&self.settings.group_attribute).and_then(as_group);
        let own = self.control.owner_of_ad(row.key());
        own.or_else(|| group().map(|id| self.control.owner_of_group(id))).unwrap_or(Owner::NONE)
    }

    /// What the control table says of a place.
    pub fn standing(&self, place: Place) -> Standing {
        self.epoch.standing(match place {
            Place::Base(row) => self.owners.of(row),
            Place::Delta(place) => self.owner_of_fresh(place),
            Place::Nowhere => Owner::NONE,
        })
    }

    /// Attributes of the version.
    ///
    /// # Errors
    /// `InvalidParams` where it has none.
    pub(super) fn columns(&self) -> Result<&Columns> {
        self.snapshot.base().index().attributes().map(|columns| &**columns).ok_or_else(|| {
            Error::params("filter", "the index has no attributes; build it with --attributes, or leave the filter out")
        })
    }

    /// The relevance of a score here.
    pub(super) fn relevance(&self, score: f32) -> f32 {
        relevance(self.snapshot.base().metric(), score)
    }

    /// The score that a query vector gives what lies at a place.
    ///
    /// # Errors
    /// As those of a search.
    pub(super) fn score(&self, vector: &[f32], place: Place, scratch: &mut Scratch) -> Result<f32> {
        match place {
            Place::Base(row) => {
                let mut hits = Vec::new();
                self.snapshot.base().score_rows(vector, &[row], scratch, &mut hits)?;
                Ok(hits[0].score)
            }
            Place::Delta(wanted) => {
                let (mut found, n) = (Vec::new(), self.snapshot.delta_places());
                let mut allow = |place| place == wanted;
                self.snapshot.search_delta(Kernels::detect(), vector, n, None, &mut allow, &mut found)?;
                Ok(found.first().map_or(f32::NEG_INFINITY, |found| found.0))
            }
            Place::Nowhere => Ok(f32::NEG_INFINITY),
        }
    }

    pub(super) fn candidate(&self, query: &AdQuery, key: Key, place: Place, score: f32, vector: usize) -> Candidate {
        let standing = self.standing(place);
        let value = value_micros(&standing, self.settings.default_ctr);
        let relevance = self.relevance(score) * query.vectors[vector].1;
        let rank_score = query.ranking.rank_score(relevance, value);
        Candidate { key, place, score, relevance, vector, standing, value, rank_score }
    }

    /// A number for the value of an attribute: equal for equal values, wherever the ad lies.
    pub(super) fn capped_value(&self, candidate: &Candidate, name: &str) -> Option<u64> {
        let value = match candidate.place {
            Place::Base(row) => self.snapshot.base().index().attributes()?.value(name, row)?,
            Place::Delta(place) => self.snapshot.delta_row(place)?.attributes().get(name)?.clone(),
            Place::Nowhere => return None,
        };
        let hash = |bytes: &[u8]| {
            let digest = blake3::hash(bytes);
            Some(u64::from_le_bytes(digest.as_bytes()[..8].try_into().expect("eight bytes")))
        };
        match value {
            Value::Null => None,
            Value::Keyword(text) => hash(text.as_bytes()),
            Value::Integer(number) => Some(number.cast_unsigned()),
            Value::Float(number) => Some(number.to_bits()),
            Value::Boolean(truth) => Some(u64::from(truth)),
            Value::Keywords(texts) => hash(texts.join("\0").as_bytes()),
        }
    }
}

/// Keeps the best candidate of each key.
pub(super) fn keep_best_of_each(candidates: &mut Vec<Candidate>) {
    candidates.sort_unstable_by(|a, b| {
        a.key.cmp(&b.key).then(b.relevance.total_cmp(&a.relevance)).then(a.vector.cmp(&b.vector))
    });
    candidates.dedup_by_key(|candidate| candidate.key);
}
