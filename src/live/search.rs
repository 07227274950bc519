//! Exact search of the delta.

use std::cmp::Ordering;

use super::snapshot::Snapshot;
use crate::attributes::{Filter, RecordFilter, Schema};
use crate::error::Result;
use crate::simd::Kernels;
use crate::types::Key;

/// A document of the delta that was found.
struct Found {
    score: f32,
    key: Key,
    place: usize,
}

/// Best first, ties by key.
fn order(a: &Found, b: &Found) -> Ordering {
    b.score.total_cmp(&a.score).then(a.key.cmp(&b.key))
}

impl Snapshot {
    /// The score that a query (as given, dim values) gives the row at a place of the delta, as a search would; None if the place is empty.
    ///
    /// # Errors
    /// As those of a search, but for reading.
    pub fn delta_score(&self, kernels: &Kernels, query: &[f32], place: usize) -> Result<Option<f32>> {
        let query = self.base().dense_query(query)?;
        Ok(self.delta_row(place).map(|row| row.record.score(kernels, self.base().metric(), &query)))
    }

    /// The best `n` documents of the delta for `query` (as given, dim values) as pairs of score and place, best first, ties by
    /// key, into `out`. Every document is scored, and as it will be once it is part of an index; of its views the best counts, and
    /// its place is given.
    ///
    /// Only those that pass `filter` are found. `allow` is asked for the place of each document that would otherwise be among the best `n` so far.
    ///
    /// # Errors
    /// As those of a search, but for reading; those of [`crate::attributes::Columns::compile`] for the filter.
    pub fn search_delta(
        &self,
        kernels: &Kernels,
        query: &[f32],
        n: usize,
        filter: Option<&Filter>,
        allow: &mut dyn FnMut(usize) -> bool,
        out: &mut Vec<(f32, usize)>,
    ) -> Result<()> {
        out.clear();
        let query = self.base().dense_query(query)?;
        let metric = self.base().metric();
        let filter = filter.map(|filter| self.record_filter(filter)).transpose()?;
        if n == 0 {
            return Ok(());
        }
        let mut best: Vec<Found> = Vec::new();
        let views = self.base().views().is_some();
        let mut least = f32::NEG_INFINITY;
        for row in self.delta() {
            let score = row.record.score(kernels, metric, &query);
            let passes = || filter.as_ref().is_none_or(|filter| filter.passes(row.attributes()));
            if score < least || !passes() || !allow(row.place()) {
                continue;
            }
            best.push(Found { score, key: row.key(), place: row.place() });
            if best.len() >= n.saturating_mul(2).max(64) {
                keep_best(&mut best, n, views);
                least = best.get(n - 1).map_or(least, |nth| nth.score);
            }
        }
        keep_best(&mut best, n, views);
        best.sort_unstable_by(order);
        out.extend(best.iter().map(|found| (found.score, found.place)));
        Ok(())
    }

    /// A filter as documents of the delta are asked, by the schema of the base.
    fn record_filter(&self, filter: &Filter) -> Result<RecordFilter> {
        let none = Schema::default();
        RecordFilter::new(filter, self.base().index().attributes().map_or(&none, |columns| columns.schema()))
    }
}

/// The best `n` to the front, the rest out; the worst of the best is the last of them. Where rows are views, each key once.
fn keep_best(best: &mut Vec<Found>, n: usize, views: bool) {
    if views {
        best.sort_unstable_by(|a, b| a.key.cmp(&b.key).then(b.score.total_cmp(&a.score)).then(a.place.cmp(&b.place)));
        best.dedup_by_key(|found| found.key);
    }
    // Also where there are as many as that: the worst of them must be the last one, and they stand by key.
    if best.len() >= n {
        best.select_nth_unstable_by(n - 1, order);
        best.truncate(n);
    }
}
