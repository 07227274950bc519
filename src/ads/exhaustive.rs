//! The truth, slowly: every ad that may be found, scored exactly and ranked.
//!
//! What approximate answers are measured against: recall of relevance, and recall of revenue (the share of the best list's
//! eCPM that the served list has). One query reads every dense vector of the version.

use super::rank::Candidate;
use super::search::{AdAnswer, AdQuery, View};
use crate::error::Result;
use crate::live::Place;
use crate::search::{Hit, Scratch};
use crate::types::{Key, Row};

/// Rows scored at once.
const ROWS: usize = 4_096;

/// How near an answer comes to the best there is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AnswerQuality {
    /// Share of the best ads, by what they are ordered by, that were served; ties count.
    pub recall: f64,
    /// What the served list earns over what the best list earns; 1 where nothing can be earned.
    pub ecpm_recall: f64,
}

impl View<'_> {
    /// Answers a query by looking at every ad.
    ///
    /// # Errors
    /// As those of [`View::search`].
    pub fn search_all(&self, query: &AdQuery, scratch: &mut Scratch) -> Result<AdAnswer> {
        let wanted = query.offset + query.limit;
        let mut best = Vec::new();
        for number in 0..query.vectors.len() {
            self.score_all(query, number, wanted, &mut best, scratch)?;
        }
        super::search::keep_best_of_each(&mut best);
        query.ranking.apply(&mut best, wanted, &mut |candidate, name| self.capped_value(candidate, name));
        best.drain(..query.offset.min(best.len()));
        Ok(AdAnswer { hits: best, ..AdAnswer::default() })
    }

    /// Adds all candidates of one query vector that may be among the best.
    fn score_all(
        &self,
        query: &AdQuery,
        number: usize,
        wanted: usize,
        best: &mut Vec<Candidate>,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let (prepared, counts) = (self.prepare(query)?, Default::default());
        let base = self.snapshot.base();
        let vector = &query.vectors[number].0;
        // A cap may need any of the candidates below the best; without one the best are enough.
        let keep = if query.ranking.diversity.is_some() { usize::MAX } else { wanted };
        let (mut rows, mut hits): (Vec<Row>, Vec<Hit>) = (Vec::with_capacity(ROWS), Vec::new());
        let count = base.rows() as Row;
        for first in (0..count).step_by(ROWS) {
            let end = count.min(first.saturating_add(ROWS as Row));
            rows.clear();
            rows.extend((first..end).filter(|&row| prepared.passes(row) && self.admits_row(query, row, &counts)));
            base.score_rows(vector, &rows, scratch, &mut hits)?;
            let scored = hits.iter().map(|hit| (hit.key, Place::Base(hit.row), hit.score));
            self.offer(query, number, scored, keep, best);
        }
        let mut fresh = Vec::new();
        self.fresh_candidates(&prepared, vector, self.snapshot.delta_places(), &counts, &mut fresh)?;
        self.offer(query, number, fresh.into_iter(), keep, best);
        Ok(())
    }

    /// Adds candidates and keeps the best `keep` of all.
    fn offer(
        &self,
        query: &AdQuery,
        number: usize,
        scored: impl Iterator<Item = (Key, Place, f32)>,
        keep: usize,
        best: &mut Vec<Candidate>,
    ) {
        let candidates = scored.map(|(key, place, score)| self.candidate(query, key, place, score, number));
        let wanted = |c: &Candidate| query.ranking.is_relevant(c.relevance) && !query.block.keys.contains(&c.key);
        best.extend(candidates.filter(wanted));
        if keep < best.len() && query.vectors.len() == 1 {
            if self.has_views() {
                super::search::keep_best_of_each(best);
            }
            // Which may have made them few enough.
            let keep = keep.min(best.len());
            best.select_nth_unstable_by(keep.max(1) - 1, super::rank::order);
            best.truncate(keep.max(1));
        }
    }
}

/// Compares an answer with the one that looked at every ad; both without an offset.
pub fn quality(served: &[Candidate], best: &[Candidate]) -> AnswerQuality {
    let Some(worst) = best.last().map(|candidate| candidate.rank_score) else {
        return AnswerQuality { recall: 1.0, ecpm_recall: 1.0 };
    };
    let reached = served.iter().filter(|candidate| candidate.rank_score >= worst).count().min(best.len());
    let earned =
        |list: &[Candidate]| list.iter().map(|c| super::rank::ecpm_micros(c.relevance, 1.0, c.value)).sum::<f64>();
    let (served, most) = (earned(served), earned(best));
    let ecpm_recall = if most > 0.0 { (served / most).min(1.0) } else { 1.0 };
    AnswerQuality { recall: reached as f64 / best.len() as f64, ecpm_recall }
}
