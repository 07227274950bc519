//! The last look at a version before it is served: its canary queries, asked as anyone would ask them.

use serde::Serialize;

use crate::error::Result;
use crate::index::Canary;
use crate::search::{SearchParams, Searcher};

/// How a version did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CanaryReport {
    /// Queries asked.
    pub queries: usize,
    /// Hits of each.
    pub k: usize,
    /// Mean share of the exact answers that were found; ties count.
    pub recall: f64,
    /// Median time of a query, in milliseconds.
    pub median_ms: f64,
}

/// Asks the canary queries that are stored with an index, with its default effort; None where there are none. Warms what searches
/// read, too.
///
/// # Errors
/// Those of searching.
pub(super) fn run_canary(searcher: &Searcher) -> Result<Option<CanaryReport>> {
    let Some(Canary { k, queries, scores }) = searcher.index().canary() else { return Ok(None) };
    let k = *k;
    let params = SearchParams { k, ..SearchParams::default() };
    let (mut scratch, mut hits) = (searcher.scratch(), Vec::new());
    let (mut found, mut times) = (0usize, Vec::new());
    for (query, exact) in queries.chunks(searcher.dim()).zip(scores.chunks(k)) {
        let start = std::time::Instant::now();
        searcher.search(query, &params, &mut scratch, &mut hits)?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
        found += hits.iter().filter(|hit| hit.score >= exact[k - 1]).count().min(k);
    }
    times.sort_unstable_by(f64::total_cmp);
    let recall = found as f64 / scores.len() as f64;
    Ok(Some(CanaryReport { queries: times.len(), k, recall, median_ms: times[times.len() / 2] }))
}
