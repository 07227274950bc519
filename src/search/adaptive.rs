//! A search for a mean recall, in place of fixed numbers of lists and candidates.
//!
//! Some queries have all their answers in the first list, others in thirty; a fixed `nprobe` serves the hard ones, and all pay for
//! it. Here the numbers follow from the query's own scores. Lists, and later candidates, come most promising first, and are
//! taken as long as
//! ```text
//! ln(1 + rank) + weight * gap <= effort
//! ```
//! where `gap` says how much less promising one is than the best list, or than the kth best candidate by codes. Both parts grow,
//! so what is taken is a prefix. Either part alone is no better than a fixed number; together they scan 10 % (recall .90) to
//! 22 % (.99) fewer rows on Fashion-MNIST, 20 % on GloVe, as few as boosted trees over ten features of list and query do.
//! Weights and efforts come from [`crate::calibrate`].
//!
//! Tried and left out: a threshold on the gap to the kth best *score so far* (worse than a fixed nprobe); reading in two rounds, the
//! second one with a bound from exact scores (2 to 7 % fewer vectors, for a second wait on the device).

use std::time::Instant;

use super::params::{Asked, Hit, Scratch, SearchParams, SearchStats, Work};
use super::{Searcher, elapsed_ns};
use crate::error::Result;
use crate::index::Goal;
use crate::linalg::norm2;
use crate::topk::split_key;
use crate::types::Metric;

/// How differences of code scores are compared across queries.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Unit {
    /// Inner products: in lengths of the query.
    Length(f32),
    /// Negative squared distances `s`: in distances `sqrt(-s)`, since an error `e` of a document moves `-|q - x|^2` by
    /// `2 <q - x, e>`.
    Distance,
}

impl Unit {
    /// How much less promising `score` is than `best`.
    pub(crate) fn gap(self, best: f32, score: f32) -> f32 {
        (best - score) / self.size(best)
    }

    /// A score that is less promising than `best` by `gap`, or by a little more.
    fn reach(self, best: f32, gap: f32) -> f32 {
        best - gap * self.size(best) - best.abs() * 2.0 * f32::EPSILON
    }

    fn size(self, best: f32) -> f32 {
        let size = match self {
            Unit::Length(length) => length,
            Unit::Distance => (-best).max(0.0).sqrt(),
        };
        size.max(f32::MIN_POSITIVE)
    }
}

impl Searcher {
    /// The unit of a query, of which the code head made `code_query`.
    pub(crate) fn unit(&self, code_query: &[f32]) -> Unit {
        match self.metric() {
            Metric::L2 => Unit::Distance,
            Metric::Ip | Metric::Cosine => Unit::Length(norm2(code_query).sqrt()),
        }
    }

    /// A search for `goal`, whatever `params` say of lists and candidates; the query is prepared.
    pub(super) fn search_for(
        &self,
        goal: &Goal,
        params: &SearchParams,
        scratch: &mut Scratch,
        hits: &mut Vec<Hit>,
        stats: &mut SearchStats,
    ) -> Result<()> {
        let candidates = goal.candidates.most.max(self.rows_for(params.k));
        let params = SearchParams { candidates, ..params.clone() };
        let Scratch { asked, scoring, work } = scratch;
        self.probe_for(goal, &params, asked, work, stats)?;
        self.scan(&params, asked, scoring, work, stats);
        self.read_for(goal, &params, scratch, hits, stats)
    }

    /// Leaves the lists to scan in `asked`. As many as most queries need are ranked at first, more only where all of those
    /// are wanted.
    pub(super) fn probe_for(
        &self,
        goal: &Goal,
        params: &SearchParams,
        asked: &mut Asked,
        work: &mut Work,
        stats: &mut SearchStats,
    ) -> Result<()> {
        let mut spent = 0;
        for nprobe in [goal.often_lists, goal.lists.most] {
            self.probe(&SearchParams { nprobe, ..params.clone() }, asked, work, stats)?;
            spent += stats.probe_ns;
            let wanted = goal.lists.length(asked.probes.iter().map(|probe| probe.gap));
            let all = wanted == asked.probes.len();
            asked.probes.truncate(wanted);
            if !all {
                break;
            }
        }
        stats.probe_ns = spent;
        Ok(())
    }

    /// Reads the vectors of the candidates that are worth it.
    pub(super) fn read_for(
        &self,
        goal: &Goal,
        params: &SearchParams,
        scratch: &mut Scratch,
        hits: &mut Vec<Hit>,
        stats: &mut SearchStats,
    ) -> Result<()> {
        let start = Instant::now();
        let Scratch { asked, scoring, work } = scratch;
        self.map_dense(asked, work)?;
        let unit = self.unit(&asked.code_query);
        // Most candidates are too far from the kth whatever their rank: only the others are put in order.
        // Where rows are views, the one stands for the kth document that would if all had equally many: keys are not known yet.
        let k = self.rows_for(params.k);
        let widest = goal.candidates.widest_gap(k);
        let keys = scoring.best.finish_near(k, |kth| unit.reach(kth, widest));
        let kth = keys.get(k.saturating_sub(1)).or(keys.last()).map_or(0.0, |&key| split_key(key).0);
        let wanted = goal.candidates.length(keys.iter().map(|&key| unit.gap(kth, split_key(key).0)));
        let wanted = wanted.max(k).min(keys.len());
        stats.candidates = wanted as u32;
        self.read(&mut keys[..wanted], params, work, hits, stats)?;
        stats.fetch_ns = elapsed_ns(start);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_told_in_units_of_the_query() {
        assert_eq!(Unit::Length(2.0).gap(1.0, 0.0), 0.5);
        // Distances 2 and 3: (9 - 4) / 2.
        assert_eq!(Unit::Distance.gap(-4.0, -9.0), 2.5);
        assert!(Unit::Distance.gap(0.0, -1.0).is_finite() && Unit::Length(0.0).gap(0.0, 0.0) == 0.0);
        for unit in [Unit::Length(2.0), Unit::Distance] {
            let score = unit.reach(-4.0, 1.5);
            assert!(unit.gap(-4.0, score) >= 1.5 && unit.gap(-4.0, score) < 1.501);
        }
    }
}
