//! From a plan to an answer: the search itself, and its hits as they are sent.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::ads::{place_name, record_at, vector_at};
use super::api::{Coverage, Found, FoundHit, HitExplained, StatsAnswer};
use super::plan::{Plan, Query, Rules};
use super::problem::Problem;
use super::service::{Service, WorkerState};
use super::trail::Trail;
use crate::ads::{AdAnswer, AdQuery, Answered, Candidate, Dropped, Pinned, RankBy, ecpm_micros};
use crate::error::{Error, Result};
use crate::live::Place;
use crate::search::SearchStats;

impl Service {
    /// What a plan asks of the engine, its query vectors read.
    pub(super) fn ad_query(&self, plan: &Plan, pinned: &Pinned) -> std::result::Result<AdQuery, Problem> {
        let mut query = plan.ad.clone();
        for (number, (asked, weight)) in plan.queries.iter().enumerate() {
            let vector = match asked {
                Query::Vector(vector) => vector.clone(),
                Query::Key(key) => {
                    // More like this, without this.
                    query.block.keys.insert(*key);
                    vector_at(pinned, *key)?.ok_or_else(|| unknown_key(plan, number, *key))?
                }
            };
            query.vectors.push((vector, *weight));
        }
        Ok(query)
    }

    /// Carries out a plan. With `allow_partial` a search cut short is flagged; one that has found nothing is 504
    /// anyway, because no hits at all would be read as "there are none".
    pub(super) fn find(
        &self,
        plan: &Plan,
        pinned: &Pinned,
        worker: &mut WorkerState,
        trail: &Trail,
    ) -> std::result::Result<FoundAds, Problem> {
        let begun = Instant::now();
        if begun >= plan.deadline {
            return Err(Problem::deadline(plan.timeout_ms));
        }
        let mut query = self.ad_query(plan, pinned)?;
        let (params, lowered) = self.platform.admission.lowered(&query.params, self.pool.backlog());
        query.params = params;
        let found = match pinned.view().search(&query, &mut worker.scratch) {
            Err(Error::DeadlineExceeded(_)) => return Err(Problem::deadline(plan.timeout_ms)),
            outcome => outcome?,
        };
        let AdAnswer { hits, stats, dropped } = found;
        self.metrics.searched(&stats, lowered);
        self.metrics.dropped(&dropped);
        trail.searched(begun, &stats);
        let complete = stats.fraction >= 1.0;
        if !complete && (!plan.allow_partial || hits.is_empty()) {
            return Err(Problem::deadline(plan.timeout_ms));
        }
        let mut degraded = Vec::new();
        degraded.extend((!complete).then_some("deadline"));
        degraded.extend(lowered.then_some("load_reduced_effort"));
        let coverage = Coverage { complete, fraction: stats.fraction, degraded };
        let written = hits.iter().map(|hit| self.write_hit(plan, pinned, hit, worker)).collect::<Result<_>>()?;
        if lowered {
            trail.lowered();
        }
        self.platform.admission.observe(&query.params, &stats, begun.elapsed());
        Ok(FoundAds { query, hits, written, stats, dropped, coverage })
    }

    fn write_hit(&self, plan: &Plan, pinned: &Pinned, hit: &Candidate, worker: &mut WorkerState) -> Result<FoundHit> {
        let known = |id: u64| Some(id).filter(|&id| id != 0);
        let alpha = match plan.ad.ranking.by {
            RankBy::Ecpm { alpha } => Some(alpha),
            RankBy::Relevance => None,
        };
        let has_bid = hit.standing.bid_micros > 0 || alpha.is_some();
        Ok(FoundHit {
            key: hit.key,
            score: hit.score,
            relevance: hit.relevance,
            bid_micros: has_bid.then_some(hit.standing.bid_micros),
            ecpm_micros: has_bid.then(|| ecpm_micros(hit.relevance, alpha.unwrap_or(1.0), hit.value).round() as u64),
            advertiser: known(hit.standing.advertiser),
            campaign: known(hit.standing.campaign),
            ad_group: known(hit.standing.ad_group),
            vector: plan.several.then_some(hit.vector),
            view: pinned.snapshot.view(hit.key, hit.place)?,
            explain: if plan.explain { Some(self.explain_hit(plan, pinned, hit, worker)?) } else { None },
            fields: if plan.with_fields { record_at(pinned, hit.place)? } else { None },
        })
    }

    fn explain_hit(
        &self,
        plan: &Plan,
        pinned: &Pinned,
        hit: &Candidate,
        worker: &mut WorkerState,
    ) -> Result<HitExplained> {
        let list = match (hit.place, &plan.queries[hit.vector].0) {
            (Place::Base(row), Query::Vector(vector)) => {
                Some(pinned.version.searcher.list_rank(vector, row, &mut worker.scratch)?)
            }
            _ => None,
        };
        Ok(HitExplained {
            place: place_name(hit.place),
            list: list.map(|(list, _)| list),
            list_rank: list.map(|(_, rank)| rank),
            ctr: hit.standing.ctr.unwrap_or(self.config.ads.default_ctr),
            ordered_by: hit.rank_score,
        })
    }

    /// Hands one of many answers over to be judged.
    pub(super) fn judge(&self, pinned: Pinned, found: FoundAds) {
        if let Some(recall) = self.recall.as_ref().filter(|recall| recall.wants())
            && found.stats.fraction >= 1.0
            && !found.query.params.exact
        {
            recall.offer(Answered { pinned, query: found.query, hits: found.hits });
        }
    }

    /// Spreads requests without a key while traffic is split.
    pub(super) fn chance(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    pub(super) fn rules<'a>(&'a self, pinned: &'a Pinned) -> Rules<'a> {
        let searcher = &pinned.version.searcher;
        let calibration = &searcher.index().manifest().calibration;
        Rules {
            config: &self.config,
            known: &self.known,
            encoder: self.encoder.as_ref(),
            dim: searcher.dim(),
            metric: searcher.metric(),
            calibration,
        }
    }
}

fn unknown_key(plan: &Plan, number: usize, key: u64) -> Problem {
    let pointer = if plan.several { format!("/vectors/{number}/key") } else { "/key".to_string() };
    Problem::meaning("unknown_key", pointer, format!("there is no ad with key {key}"), "use the key of a hit")
}

/// What a plan found, and how it was asked.
pub(super) struct FoundAds {
    query: AdQuery,
    hits: Vec<Candidate>,
    written: Vec<FoundHit>,
    stats: SearchStats,
    dropped: Dropped,
    coverage: Coverage,
}

impl FoundAds {
    pub(super) fn answer<'a>(&'a self, plan: &Plan) -> Found<'a> {
        let stats = plan.stats.then_some(StatsAnswer { steps: &self.stats, dropped: self.dropped });
        Found { coverage: &self.coverage, hits: &self.written, stats }
    }
}
