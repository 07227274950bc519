//! What was learned about an index from sample queries: how much effort reaches which recall.
//!
//! A search for a recall takes lists, and candidates, most promising first, as long as
//! `ln(1 + rank) + weight * gap <= effort`. A calibration holds the weights, and for each recall the two efforts: the
//! **reliability table**, which also says what they reached on queries that did not choose them.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The reliability table of one index for one number of hits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Hits wanted.
    pub k: usize,
    /// Queries it was made with; as many again checked it.
    pub queries: usize,
    /// Weight of a list's gap.
    pub list_weight: f32,
    /// Weight of a candidate's gap.
    pub candidate_weight: f32,
    /// Efforts, recall ascending; never empty.
    pub efforts: Vec<Effort>,
}

/// What reaches a recall.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Effort {
    /// Mean recall of the queries it was chosen with.
    pub recall: f32,
    /// Mean recall of the other queries.
    pub held_out: f32,
    /// Which lists are scanned.
    pub list_effort: f32,
    /// Which candidates are read.
    pub candidate_effort: f32,
    /// Lists that are ranked at first: enough for most queries.
    pub often_lists: usize,
    /// Lists that are ranked where those were not enough.
    pub most_lists: usize,
    /// Candidates that are kept.
    pub most_candidates: usize,
    /// Mean lists scanned by the other queries.
    pub lists: f32,
    /// Mean rows scanned by them.
    pub rows: f32,
    /// Mean dense vectors read by them.
    pub vectors: f32,
}

/// How many of a sequence are taken, most promising first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prefix {
    /// Weight of the gap.
    pub weight: f32,
    /// See the module.
    pub effort: f32,
    /// Never more.
    pub most: usize,
}

/// What a search for a recall goes by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Goal {
    /// Which lists are scanned.
    pub lists: Prefix,
    /// As many lists suffice for most queries.
    pub often_lists: usize,
    /// Which candidates are read.
    pub candidates: Prefix,
}

impl Prefix {
    /// What decides about the one of this rank, from 0, and gap.
    pub fn value(&self, rank: usize, gap: f32) -> f32 {
        (rank as f32).ln_1p() + self.weight * gap
    }

    /// From this rank on, nothing with a wider gap is taken.
    pub fn widest_gap(&self, rank: usize) -> f32 {
        if self.weight > 0.0 { ((self.effort - (rank as f32).ln_1p()) / self.weight).max(0.0) } else { f32::INFINITY }
    }

    /// How many of those with these gaps, ascending, are taken: at least one.
    pub fn length(&self, gaps: impl Iterator<Item = f32>) -> usize {
        let taken = gaps.enumerate().take(self.most).take_while(|&(rank, gap)| self.value(rank, gap) <= self.effort);
        taken.count().max(1)
    }
}

impl Calibration {
    /// The calibration for `k` hits among `all`: that of the nearest number, by ratio.
    ///
    /// # Errors
    /// `Unsupported` if there is none.
    pub fn for_k(all: &[Calibration], k: usize) -> Result<&Calibration> {
        let far = |c: &&Calibration| ((c.k.max(1) as f64).ln() - (k.max(1) as f64).ln()).abs();
        all.iter().min_by(|a, b| far(a).total_cmp(&far(b))).ok_or_else(|| Error::Unsupported {
            what: "a recall target: this index was built without sample queries".into(),
            remedy: "build it with --queries, or give nprobe and candidates".into(),
        })
    }

    /// What to go by for a recall, between the efforts of the table.
    ///
    /// # Errors
    /// `InvalidParams` for more than the table reaches.
    pub fn goal(&self, recall: f32) -> Result<Goal> {
        let last = self.efforts[self.efforts.len() - 1];
        if recall > last.recall {
            let reason = format!(
                "{recall} is beyond the {:.4} that this index was calibrated to; lower it, or give nprobe and candidates",
                last.recall
            );
            return Err(Error::params("recall_target", reason));
        }
        let above = self.efforts.partition_point(|effort| effort.recall < recall);
        let (low, high) = (self.efforts[above.saturating_sub(1)], self.efforts[above]);
        // Each further nine costs about as much as the last one, so it is the logarithm of the loss that is linear.
        let loss = |recall: f32| (1.0 - recall).max(1e-4).ln();
        let step = loss(high.recall) - loss(low.recall);
        let share = if step < 0.0 { ((loss(recall) - loss(low.recall)) / step).clamp(0.0, 1.0) } else { 0.0 };
        let between = |a: f32, b: f32| a + (b - a) * share;
        Ok(Goal {
            lists: Prefix {
                weight: self.list_weight,
                effort: between(low.list_effort, high.list_effort),
                most: high.most_lists,
            },
            often_lists: high.often_lists,
            candidates: Prefix {
                weight: self.candidate_weight,
                effort: between(low.candidate_effort, high.candidate_effort),
                most: high.most_candidates,
            },
        })
    }

    /// Refuses what search could not rely on; `lists` is the number of lists.
    pub(super) fn check(&self, lists: usize) -> std::result::Result<(), String> {
        let wrong = |what: &str| Err(format!("{what} of the calibration for k = {} is not usable", self.k));
        let weight = |w: f32| w.is_finite() && w >= 0.0;
        if self.k == 0 || !weight(self.list_weight) || !weight(self.candidate_weight) {
            return wrong("a weight");
        }
        let sound = |e: &Effort| {
            [e.recall, e.list_effort, e.candidate_effort].iter().all(|v| v.is_finite())
                && e.most_candidates >= self.k
                && (1..=lists).contains(&e.often_lists)
                && (e.often_lists..=lists).contains(&e.most_lists)
        };
        let sorted = self.efforts.is_sorted_by(|a, b| a.recall < b.recall);
        match !self.efforts.is_empty() && sorted && self.efforts.iter().all(sound) {
            true => Ok(()),
            false => wrong("an effort"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(k: usize) -> Calibration {
        let effort = |recall: f32, list_effort: f32| Effort {
            recall,
            held_out: recall,
            list_effort,
            candidate_effort: 2.0 * list_effort,
            often_lists: 4,
            most_lists: 8,
            most_candidates: 100,
            lists: 3.0,
            rows: 100.0,
            vectors: 20.0,
        };
        let efforts = vec![effort(0.8, 1.0), effort(0.9, 2.0), effort(0.99, 3.0)];
        Calibration { k, queries: 500, list_weight: 1.0, candidate_weight: 0.5, efforts }
    }

    #[test]
    fn efforts_lie_between_those_of_the_table() {
        let table = table(10);
        assert_eq!(table.goal(0.1).unwrap().lists.effort, 1.0);
        assert_eq!(table.goal(0.9).unwrap().lists.effort, 2.0);
        // The loss of .0316 is halfway between .1 and .01 on the logarithmic scale.
        let middle = table.goal(1.0 - 0.031_623).unwrap();
        assert!((middle.lists.effort - 2.5).abs() < 1e-3 && (middle.candidates.effort - 5.0).abs() < 1e-3);
        let message = table.goal(0.995).unwrap_err().to_string();
        assert!(message.contains("0.9900") && message.contains("recall_target"), "{message}");
    }

    #[test]
    fn a_prefix_ends_where_rank_and_gap_together_pass_the_effort() {
        let prefix = Prefix { weight: 2.0, effort: 2.0, most: 6 };
        // ln 1, ln 2 + .2, ln 3 + .4, ln 4 + 1.0
        assert_eq!(prefix.length([0.0, 0.1, 0.2, 0.5, 0.6].into_iter()), 3);
        assert_eq!(prefix.length([9.0, 9.0].into_iter()), 1);
        // (2 - ln 3) / 2
        assert!((prefix.widest_gap(2) - 0.450_69).abs() < 1e-4 && prefix.widest_gap(100) == 0.0);
        assert_eq!(Prefix { weight: 0.0, ..prefix }.widest_gap(2), f32::INFINITY);
        assert_eq!(prefix.length([0.0; 20].into_iter()), 6);
    }

    #[test]
    fn the_nearest_number_of_hits_counts() {
        let all = [table(10), table(100)];
        for (k, nearest) in [(1, 10), (30, 10), (40, 100), (1_000, 100)] {
            assert_eq!(Calibration::for_k(&all, k).unwrap().k, nearest);
        }
        assert!(Calibration::for_k(&[], 10).unwrap_err().to_string().contains("--queries"));
    }

    #[test]
    fn tables_that_search_could_not_rely_on_are_refused() {
        assert!(table(10).check(8).is_ok());
        assert!(table(10).check(7).is_err() && table(0).check(8).is_err() && table(200).check(8).is_err());
        let mut unsorted = table(10);
        unsorted.efforts.swap(0, 1);
        assert!(unsorted.check(8).is_err());
        let mut infinite = table(10);
        infinite.efforts[1].list_effort = f32::INFINITY;
        assert!(infinite.check(8).is_err());
    }
}
