//! The truth, slowly: every ad that may be found, scored exactly and ranked.
//!
//! What approximate answers are measured against: recall of relevance, and recall of revenue (the share of the best list's
//! eCPM that the served list has). One query reads every dense vector of the version.
//!
//! Memory is bounded whatever is asked: after some blocks of rows the candidates so far are ranked as the answer would be, caps included, and
//! only those stay that would be in it. What falls out of a part of the rows would fall out of all of them: what kept it out is still
//! there.

use std::time::Instant;

use super::rank::Candidate;
use super::search::{AdAnswer, AdQuery, Counts, Dropped, View, keep_best_of_each};
use crate::error::Result;
use crate::live::Place;
use crate::search::{Hit, Scratch, SearchStats};
use crate::types::{Key, Row};

/// Rows scored at once.
const ROWS: usize = 4_096;
/// Candidates beyond those wanted that are kept until the next ranking.
const SPARE: usize = 4 * ROWS;

/// How near an answer comes to the best there is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AnswerQuality {
    /// Share of the best ads, by what they are ordered by, that were served; ties count.
    pub recall: f64,
    /// What the served list earns over what the best list earns; 1 where nothing can be earned.
    pub ecpm_recall: f64,
}

impl View<'_> {
    /// Answers a query by looking at every ad; at its deadline by those that were looked at, which the answer's fraction says.
    ///
    /// # Errors
    /// As those of [`View::search`].
    pub fn search_all(&self, query: &AdQuery, scratch: &mut Scratch) -> Result<AdAnswer> {
        let begun = Instant::now();
        let mut looked = Looked::default();
        for number in 0..query.vectors.len() {
            self.score_all(query, number, &mut looked, scratch)?;
        }
        let Looked { mut best, counts, mut stats, irrelevant, blocked } = looked;
        self.rank_best(query, &mut best);
        stats.candidates = best.len() as u32;
        stats.fetch_ns = begun.elapsed().as_nanos() as u64;
        let dropped = Dropped { irrelevant, blocked: counts.dropped().blocked + blocked, ..counts.dropped() };
        best.drain(..query.offset.min(best.len()));
        Ok(AdAnswer { hits: best, stats, dropped, ..AdAnswer::default() })
    }

    /// Leaves the candidates that would be answered if there were no others.
    fn rank_best(&self, query: &AdQuery, best: &mut Vec<Candidate>) {
        if query.vectors.len() > 1 {
            keep_best_of_each(best);
        }
        let wanted = query.offset + query.limit;
        query.ranking.apply(best, wanted, &mut |candidate, name| self.capped_value(candidate, name));
    }

    /// Adds all candidates of one query vector that may be among the best.
    fn score_all(&self, query: &AdQuery, number: usize, looked: &mut Looked, scratch: &mut Scratch) -> Result<()> {
        let prepared = self.prepare(query)?;
        let base = self.snapshot.base();
        let vector = &query.vectors[number].0;
        let (mut rows, mut hits): (Vec<Row>, Vec<Hit>) = (Vec::with_capacity(ROWS), Vec::new());
        let count = base.rows() as Row;
        for first in (0..count).step_by(ROWS) {
            let late = query.params.deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if late && first > 0 {
                looked.stats.fraction = looked.stats.fraction.min(first as f32 / count as f32);
                break;
            }
            let end = count.min(first.saturating_add(ROWS as Row));
            rows.clear();
            rows.extend(
                (first..end).filter(|&row| prepared.passes(row) && self.admits_row(query, row, &looked.counts)),
            );
            base.score_rows(vector, &rows, scratch, &mut hits)?;
            looked.stats.vectors_read = looked.stats.vectors_read.saturating_add(rows.len() as u32);
            self.offer(query, number, hits.iter().map(|hit| (hit.key, Place::Base(hit.row), hit.score)), looked);
        }
        let (mut fresh, most) = (Vec::new(), self.snapshot.delta_places());
        self.fresh_candidates(&prepared, vector, most, &looked.counts, &mut fresh)?;
        self.offer(query, number, fresh.into_iter(), looked);
        Ok(())
    }

    /// Adds candidates; where they have become many, only the best stay.
    fn offer(
        &self,
        query: &AdQuery,
        number: usize,
        scored: impl Iterator<Item = (Key, Place, f32)>,
        looked: &mut Looked,
    ) {
        for (key, place, score) in scored {
            let candidate = self.candidate(query, key, place, score, number);
            if query.block.keys.contains(&key) {
                looked.blocked += 1;
            } else if query.ranking.is_relevant(candidate.relevance) {
                looked.best.push(candidate);
            } else {
                looked.irrelevant += 1;
            }
        }
        if looked.best.len() > query.offset + query.limit + SPARE {
            self.rank_best(query, &mut looked.best);
        }
    }
}

/// What was seen so far by looking at every ad.
struct Looked {
    best: Vec<Candidate>,
    counts: Counts,
    stats: SearchStats,
    irrelevant: u64,
    blocked: u64,
}

impl Default for Looked {
    fn default() -> Self {
        let stats = SearchStats { fraction: 1.0, ..SearchStats::default() };
        let (best, counts, irrelevant, blocked) = Default::default();
        Looked { best, counts, stats, irrelevant, blocked }
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
