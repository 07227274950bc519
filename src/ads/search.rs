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
//!   were more rows to be had, the search is done again further out ([`Reach`]). A round that the deadline cuts short is left out: the
//!   answer before it stands.
//! - Exact searches of which hits are ranked by more than their score look at every ad ([`View::search_all`]).
//! - A query of several vectors is several searches and one ranking: an ad's relevance is the best that any of the vectors that
//!   found it gives it (relevance x weight), and the hit says which one that was.

use std::cell::Cell;
use std::collections::HashSet;
use std::sync::atomic::Ordering::Relaxed;

use super::control::{Control, Epoch, Owner, Standing};
use super::owners::{Owners, as_group};
use super::rank::{Candidate, RankBy, Ranking, relevance, value_micros};
use super::values::Values;
use crate::attributes::{Columns, Filter, Predicate, Value};
use crate::error::{Error, Result};
use crate::live::{DeltaRow, Place, Snapshot, UNTAGGED};
use crate::search::{Further, Hit, Round, Scratch, SearchParams, SearchStats, Searcher, Selection};
use crate::simd::Kernels;
use crate::types::{Key, Row};

/// Where more rows than this share cannot be shown, probes are not extended any further for them.
const MOST_REFUSED: f32 = 0.99;
/// How many times the default effort is taken where bids decide: over a million ads, 100 of them, it lifts the share of the best list's
/// revenue from .91 to .97.
const WIDER_FOR_BIDS: usize = 2;
/// Rounds of a search that leaves the list short, and how many times the candidates and lists each takes.
const ROUNDS: usize = 5;
const WIDER: usize = 4;
/// Most times the first round's candidates that a later one takes.
const WIDEST: usize = WIDER * WIDER;

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
    /// The share of lists and candidates to take of those asked for (or of the defaults): 1, or less under load. Exact searches and those
    /// for a recall target are not lowered.
    pub effort: f32,
    /// Rows that are verified at most where a list is short, if the request does not ask for more itself.
    pub most_candidates: usize,
}

/// How many times the default effort a query takes that does not say how much: where bids decide, good ads lie further away.
pub fn widening(params: &SearchParams, by: RankBy) -> usize {
    let says = params.nprobe > 0 || params.candidates > 0 || params.recall_target > 0.0 || params.exact;
    if by == RankBy::Relevance || says { 1 } else { WIDER_FOR_BIDS }
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

    /// How far the engine itself goes on where ads have several rows and a round finds too few ads: under load not at all.
    fn further(&self, reach: Reach) -> Further {
        if self.effort < 1.0 {
            return Further::NOT;
        }
        let lists = if self.leaves_lists_open() { usize::MAX } else { 0 };
        Further { candidates: self.most_candidates.max(reach.pool), lists }
    }

    /// Whether the search itself may decide how many lists it scans.
    fn leaves_lists_open(&self) -> bool {
        self.params.nprobe == 0 && self.params.recall_target == 0.0
    }

    /// How far the first round of a search of `base` goes.
    pub(super) fn first_reach(&self, base: &Searcher) -> Reach {
        let default_nprobe = base.index().manifest().default_nprobe;
        let (wanted, widening) = (self.offset + self.limit, widening(&self.params, self.ranking.by));
        let least = base.candidates_for(&self.params_for(wanted));
        let lowered = |full: usize| ((full as f64 * f64::from(self.effort)).ceil() as usize).max(1);
        let pool = lowered(least.saturating_mul(widening)).max(wanted) + self.block.keys.len().min(least);
        let lists = match self.params.nprobe {
            _ if self.params.recall_target > 0.0 => 0,
            0 => lowered(default_nprobe * widening),
            nprobe => lowered(nprobe),
        };
        Reach { lists, pool }
    }
}

/// How far one round of a search goes, for each query vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reach {
    /// Lists to scan; 0: as a recall target says.
    pub(super) lists: usize,
    /// Rows to verify.
    pub(super) pool: usize,
}

/// What a round did for one query vector.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scanned {
    pub(super) lists: usize,
    pub(super) candidates: usize,
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
    /// How far the last round went, and what it did for each vector.
    pub(super) reach: Reach,
    pub(super) scanned: Vec<Scanned>,
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

impl Counts {
    pub(super) fn dropped(&self) -> Dropped {
        let (dead, ineligible, blocked) = (self.dead.get(), self.ineligible.get(), self.blocked.get());
        Dropped { dead, ineligible, blocked, ..Dropped::default() }
    }
}

fn count(cell: &Cell<u64>) -> bool {
    cell.set(cell.get() + 1);
    false
}

impl View<'_> {
    /// Answers a query.
    ///
    /// # Errors
    /// As those of a search; `InvalidParams` for a filter that does not fit the attributes, for no query vector, or for code scores
    /// in a ranking by revenue.
    pub fn search(&self, query: &AdQuery, scratch: &mut Scratch) -> Result<AdAnswer> {
        if query.params.exact && query.is_reordered() {
            return self.search_all(query, scratch);
        }
        let prepared = self.prepare(query)?;
        let first = query.first_reach(self.snapshot.base());
        let most = (first.pool.saturating_mul(WIDEST)).min(query.most_candidates).max(first.pool);
        let mut answer = self.round(&prepared, first, scratch)?;
        for _ in 1..ROUNDS {
            let Some(reach) = self.further(query, &answer, most) else { break };
            let mut next = match self.round(&prepared, reach, scratch) {
                Err(Error::DeadlineExceeded(_)) => break,
                outcome => outcome?,
            };
            if next.stats.fraction < 1.0 {
                answer.stats.add(&SearchStats { fraction: 1.0, ..next.stats });
                break;
            }
            next.stats.add(&answer.stats);
            answer = next;
        }
        answer.hits.drain(..query.offset.min(answer.hits.len()));
        Ok(answer)
    }

    /// How far another round goes, if one may make the list longer; `most`: candidates of a vector.
    fn further(&self, query: &AdQuery, answer: &AdAnswer, most: usize) -> Option<Reach> {
        let AdAnswer { reach, scanned, dropped, .. } = answer;
        let full = answer.hits.len() >= query.offset + query.limit;
        if full || answer.stats.fraction < 1.0 || !query.is_reordered() {
            return None;
        }
        let (mut further, lists) = (*reach, self.snapshot.base().index().manifest().lists);
        if scanned.iter().any(|vector| vector.candidates >= reach.pool) {
            further.pool = (reach.pool * WIDER).min(most);
        }
        // Where the threshold keeps most candidates out, what lies further away would not pass it either.
        let verified: usize = scanned.iter().map(|vector| vector.candidates).sum();
        let near = 2 * dropped.irrelevant <= verified as u64;
        let more_lists = scanned.iter().any(|vector| (1..lists).contains(&vector.lists));
        // Under load a short list is a part of less effort.
        if query.leaves_lists_open() && query.effort >= 1.0 && near && more_lists {
            further.lists = (reach.lists * WIDER).min(lists);
        }
        (further != *reach).then_some(further)
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
        if query.params.sparse_weight > 0.0 && query.ranking.by != RankBy::Relevance {
            let reason =
                format!("{} stands beside a ranking by revenue, where codes contain bids", query.params.sparse_weight);
            return Err(Error::params("sparse_weight", format!("{reason}; leave it out, or rank by relevance")));
        }
        if query.filter.is_empty() {
            return Ok(Prepared { query, predicate: None });
        }
        Ok(Prepared { query, predicate: Some(self.columns()?.compile(&query.filter)?) })
    }

    /// One search with every vector, ranked.
    fn round(&self, prepared: &Prepared<'_>, reach: Reach, scratch: &mut Scratch) -> Result<AdAnswer> {
        let query = prepared.query;
        let counts = Counts::default();
        let stats = SearchStats { fraction: 1.0, ..SearchStats::default() };
        let mut answer = AdAnswer { stats, reach, ..AdAnswer::default() };
        let mut candidates = Vec::new();
        for (number, (vector, _)) in query.vectors.iter().enumerate() {
            let found = self.candidates(prepared, vector, &counts, scratch, &mut answer)?;
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
        answer.dropped = counts.dropped();
        answer.dropped.blocked += listed as u64;
        answer.dropped.irrelevant = (candidates.len() - relevant) as u64;
        query.ranking.apply(&mut candidates, query.offset + query.limit, &mut |c, name| self.capped_value(c, name));
        answer.dropped.ranked_out = (relevant - candidates.len()) as u64;
        answer.hits = candidates;
        Ok(answer)
    }

    /// Rows and fresh ads that may be shown, the best of each for one vector, with exact scores; notes in `answer` what that cost.
    fn candidates(
        &self,
        prepared: &Prepared<'_>,
        vector: &[f32],
        counts: &Counts,
        scratch: &mut Scratch,
        answer: &mut AdAnswer,
    ) -> Result<Vec<(Key, Place, f32)>> {
        let (query, reach) = (prepared.query, answer.reach);
        let allow = |row: Row| self.admits_row(query, row, counts);
        let (params, selection) = (engine_params(query, reach), self.selection(prepared, reach, &allow));
        let mut hits: Vec<Hit> = Vec::new();
        let searched = self.snapshot.base().search_selected(vector, &params, &selection, scratch, &mut hits)?;
        answer.stats.add(&searched);
        // How far it went, not what all of its rounds did together.
        let Round { lists, candidates } = searched.last_round();
        answer.scanned.push(Scanned { lists: lists as usize, candidates: candidates as usize });
        let mut found: Vec<(Key, Place, f32)> =
            hits.iter().map(|hit| (hit.key, Place::Base(hit.row), hit.score)).collect();
        self.fresh_candidates(prepared, vector, reach.pool, counts, &mut found)?;
        Ok(found)
    }

    /// What a search of the version may find.
    fn selection<'s>(
        &'s self,
        prepared: &'s Prepared<'_>,
        reach: Reach,
        allow: &'s dyn Fn(Row) -> bool,
    ) -> Selection<'s> {
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
            keep: if query.is_reordered() { reach.pool } else { 0 },
        }
    }

    /// How many rows have better codes than `row` for a query vector in a round that goes so far; see
    /// [`crate::search::Searcher::code_rank`].
    pub(super) fn code_rank(
        &self,
        query: &AdQuery,
        reach: Reach,
        vector: &[f32],
        row: Row,
        scratch: &mut Scratch,
        most: usize,
    ) -> Result<Option<usize>> {
        let (prepared, counts) = (self.prepare(query)?, Counts::default());
        let allow = |row: Row| self.admits_row(query, row, &counts);
        let (params, selection) = (engine_params(query, reach), self.selection(&prepared, reach, &allow));
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

    /// Who answers for a fresh ad; looked up once, then kept with it until the ad gets a record of its own.
    fn owner_of_fresh(&self, place: usize) -> Owner {
        let Some(row) = self.snapshot.delta_row(place) else { return Owner::NONE };
        let noted = row.tag().load(Relaxed);
        if noted != UNTAGGED {
            return Owner::from_bits(noted);
        }
        let owner = self.look_up_owner(&row);
        // Whoever gave the ad its first record in the meantime has noted it, and knows better.
        match row.tag().compare_exchange(UNTAGGED, owner.to_bits(), Relaxed, Relaxed) {
            Ok(_) => owner,
            Err(noted) => Owner::from_bits(noted),
        }
    }

    fn look_up_owner(&self, row: &DeltaRow<'_>) -> Owner {
        let group = || row.attributes().get(&self.settings.group_attribute).and_then(as_group);
        let own = self.control.owner_of_ad(row.key());
        own.or_else(|| group().map(|id| self.control.owner_of_group(id))).unwrap_or(Owner::NONE)
    }

    /// What the control table says of a place.
    pub fn standing(&self, place: Place) -> Standing {
        self.epoch.standing(self.owner_at(place))
    }

    /// Id of the ad group of what lies at a place; 0: none. Also of one that became known after the request had begun, of which its epoch says
    /// nothing.
    pub fn ad_group(&self, place: Place) -> u64 {
        let owner = self.owner_at(place);
        self.control.epoch().standing(owner).ad_group
    }

    fn owner_at(&self, place: Place) -> Owner {
        match place {
            Place::Base(row) => self.owners.of(row),
            Place::Delta(place) => self.owner_of_fresh(place),
            Place::Nowhere => Owner::NONE,
        }
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
            Place::Delta(place) => {
                let score = self.snapshot.delta_score(Kernels::detect(), vector, place)?;
                Ok(score.unwrap_or(f32::NEG_INFINITY))
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

/// What a round asks of the engine.
fn engine_params(query: &AdQuery, reach: Reach) -> SearchParams {
    let params = SearchParams { further: query.further(reach), ..query.params_for(query.offset + query.limit) };
    match params.recall_target > 0.0 {
        true => params,
        false => SearchParams { nprobe: reach.lists, candidates: reach.pool, ..params },
    }
}

/// Keeps the best candidate of each key; ties by vector, score and place.
pub(super) fn keep_best_of_each(candidates: &mut Vec<Candidate>) {
    candidates.sort_unstable_by(|a, b| {
        let by_relevance = a.key.cmp(&b.key).then(b.relevance.total_cmp(&a.relevance));
        by_relevance.then(a.vector.cmp(&b.vector)).then(b.score.total_cmp(&a.score)).then(a.place.cmp(&b.place))
    });
    candidates.dedup_by_key(|candidate| candidate.key);
}
