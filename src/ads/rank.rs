//! The last order of an answer: by relevance or by expected revenue, with caps that keep the list full.
//!
//! The easy version sorts the best `k` by relevance. Here all verified candidates are ranked, because a bid may lift the last of
//! them to the top, and because a cap that drops a hit has to have another one to put in its place.
//!
//! # Values
//! - *Relevance* is the score of the dense vector under inner product and cosine, and `1 / (1 + d^2)` under L2, so that it is never
//!   larger when the document is further away.
//! - *eCPM* is what a thousand impressions are expected to earn: `1000 x relevance^alpha x bid x click rate`, in millionths of the
//!   currency. Relevance below 0 counts as 0. `alpha` above 1 favours relevance, below 1 money.

use std::collections::HashMap;

use super::control::Standing;
use crate::live::Place;
use crate::types::{Key, Metric};

/// What hits are ordered by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RankBy {
    /// Score of the dense vector.
    Relevance,
    /// Expected revenue; `alpha` is the power of relevance in it.
    Ecpm {
        /// The power of relevance.
        alpha: f32,
    },
}

/// At most `max` hits of one value of an attribute, or of one advertiser, campaign or ad group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diversity {
    /// What is capped.
    pub by: CapBy,
    /// Most hits of one value.
    pub max: usize,
}

/// What a cap counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CapBy {
    /// Hits of one advertiser.
    Advertiser,
    /// Hits of one campaign.
    Campaign,
    /// Hits of one ad group.
    AdGroup,
    /// Hits with one value of this attribute; hits without a value are not capped.
    Attribute(String),
}

/// How candidates become hits.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranking {
    /// The order.
    pub by: RankBy,
    /// Candidates that are less relevant are no hits.
    pub min_relevance: Option<f32>,
    /// The cap, if there is one.
    pub diversity: Option<Diversity>,
}

/// A verified candidate.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The ad.
    pub key: Key,
    /// Where it lies.
    pub place: Place,
    /// Score of the dense vector under the metric.
    pub score: f32,
    /// See the module; times the weight of the query vector.
    pub relevance: f32,
    /// Which of the query vectors it owes its score to.
    pub vector: usize,
    /// What the control table says of it.
    pub standing: Standing,
    /// Bid x click rate, in millionths of the currency.
    pub value: f64,
    /// What it is ordered by.
    pub rank_score: f64,
}

/// The relevance of a score under `metric`.
pub fn relevance(metric: Metric, score: f32) -> f32 {
    match metric {
        Metric::Ip | Metric::Cosine => score,
        Metric::L2 => 1.0 / (1.0 - score.min(0.0)),
    }
}

/// Expected revenue of a thousand impressions of an ad of this [`value_micros`], in millionths of the currency.
pub fn ecpm_micros(relevance: f32, alpha: f32, value: f64) -> f64 {
    1000.0 * f64::from(relevance.max(0.0)).powf(f64::from(alpha)) * value
}

/// What an impression of the ad earns if it is as relevant as can be: bid x click rate, in millionths of the currency.
pub fn value_micros(standing: &Standing, default_ctr: f32) -> f64 {
    standing.bid_micros as f64 * f64::from(standing.ctr.unwrap_or(default_ctr))
}

impl Ranking {
    /// Orders by relevance, without a threshold or a cap.
    pub fn by_relevance() -> Ranking {
        Ranking { by: RankBy::Relevance, min_relevance: None, diversity: None }
    }

    /// What a candidate of this relevance is ordered by.
    pub fn rank_score(&self, relevance: f32, value: f64) -> f64 {
        match self.by {
            RankBy::Relevance => f64::from(relevance),
            RankBy::Ecpm { alpha } => ecpm_micros(relevance, alpha, value),
        }
    }

    /// Whether a candidate of this relevance may be a hit.
    pub fn is_relevant(&self, relevance: f32) -> bool {
        self.min_relevance.is_none_or(|least| relevance >= least)
    }

    /// Puts candidates in order, drops those that are not relevant enough or above the cap, and keeps the best `most`.
    /// `value` names the value of an attribute that a candidate has, for caps by attribute.
    pub fn apply(
        &self,
        candidates: &mut Vec<Candidate>,
        most: usize,
        value: &mut dyn FnMut(&Candidate, &str) -> Option<u64>,
    ) {
        candidates.retain(|candidate| self.is_relevant(candidate.relevance));
        candidates.sort_unstable_by(order);
        if let Some(diversity) = &self.diversity {
            let mut counts: HashMap<u64, usize> = HashMap::new();
            let mut kept = 0;
            candidates.retain(|candidate| {
                let fits = kept < most && diversity.admits(candidate, &mut counts, value);
                kept += usize::from(fits);
                fits
            });
        }
        candidates.truncate(most);
    }
}

impl Diversity {
    /// Whether there is room for another hit like `candidate`, which is counted then.
    fn admits(
        &self,
        candidate: &Candidate,
        counts: &mut HashMap<u64, usize>,
        value: &mut dyn FnMut(&Candidate, &str) -> Option<u64>,
    ) -> bool {
        let capped = match &self.by {
            CapBy::Advertiser => Some(candidate.standing.advertiser).filter(|&id| id != 0),
            CapBy::Campaign => Some(candidate.standing.campaign).filter(|&id| id != 0),
            CapBy::AdGroup => Some(candidate.standing.ad_group).filter(|&id| id != 0),
            CapBy::Attribute(name) => value(candidate, name),
        };
        let Some(capped) = capped else { return true };
        let count = counts.entry(capped).or_default();
        *count += 1;
        *count <= self.max
    }
}

/// Best first; ties by relevance, then by key.
pub(super) fn order(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.rank_score.total_cmp(&a.rank_score).then(b.score.total_cmp(&a.score)).then(a.key.cmp(&b.key))
}
