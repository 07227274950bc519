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
        let admission = &self.platform.admission;
        admission.serves(pinned.version.searcher.index().manifest());
        query.effort = admission.effort(&query.params, self.pool.backlog());
        let lowered = query.effort < 1.0;
        let found = match pinned.view().search(&query, &mut worker.scratch) {
            Err(Error::DeadlineExceeded(_)) => return Err(Problem::deadline(plan.timeout_ms)),
            outcome => outcome?,
        };
        let AdAnswer { hits, stats, dropped, .. } = found;
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
        let lists = if plan.explain { lists_of(&query, &hits, pinned, worker)? } else { Vec::new() };
        let written = hits.iter().map(|hit| self.write_hit(plan, pinned, hit, &lists)).collect::<Result<_>>()?;
        if lowered {
            trail.lowered();
        }
        admission.observe(&query, &stats, begun.elapsed());
        Ok(FoundAds { query, hits, written, stats, dropped, coverage })
    }

    /// A hit as it is sent; `lists`: the ranks of lists for each query vector, where they are asked for.
    fn write_hit(&self, plan: &Plan, pinned: &Pinned, hit: &Candidate, lists: &[Vec<usize>]) -> Result<FoundHit> {
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
            explain: plan.explain.then(|| self.explain_hit(pinned, hit, &lists[hit.vector])),
            fields: if plan.with_fields { record_at(pinned, hit.place)? } else { None },
        })
    }

    fn explain_hit(&self, pinned: &Pinned, hit: &Candidate, ranks: &[usize]) -> HitExplained {
        let list = match hit.place {
            Place::Base(row) => Some(pinned.version.searcher.list_of(row)),
            Place::Delta(_) | Place::Nowhere => None,
        };
        HitExplained {
            place: place_name(hit.place),
            list,
            list_rank: list.and_then(|list| ranks.get(list as usize).copied()),
            ctr: hit.standing.ctr.unwrap_or(self.config.ads.default_ctr),
            ordered_by: hit.rank_score,
        }
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

    /// Spreads requests without a key while traffic is split: another number for each.
    pub(super) fn chance(&self) -> u64 {
        self.spread.fetch_add(1, Relaxed)
    }

    pub(super) fn rules<'a>(&'a self, pinned: &'a Pinned) -> Rules<'a> {
        let searcher = &pinned.version.searcher;
        let (config, known, index) = (&self.config, &self.known, searcher.index());
        let calibration = &index.manifest().calibration;
        let attributes = index.attributes().map_or(&[][..], |columns| columns.schema().attributes());
        Rules {
            config,
            known,
            tasks: &self.tasks,
            encoder: self.encoder.as_deref(),
            dim: searcher.dim(),
            metric: searcher.metric(),
            calibration,
            attributes,
        }
    }
}

/// For each query vector that a hit of the version owes its score to: how many lists are more promising than each list.
fn lists_of(query: &AdQuery, hits: &[Candidate], pinned: &Pinned, worker: &mut WorkerState) -> Result<Vec<Vec<usize>>> {
    let asks = |number: usize| hits.iter().any(|hit| hit.vector == number && matches!(hit.place, Place::Base(_)));
    let ranks = |(number, (vector, _)): (usize, &(Vec<f32>, f32))| match asks(number) {
        true => pinned.version.searcher.list_ranks(vector, &mut worker.scratch),
        false => Ok(Vec::new()),
    };
    query.vectors.iter().enumerate().map(ranks).collect()
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
