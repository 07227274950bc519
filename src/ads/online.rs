//! Recall of live traffic, measured while it is served.
//!
//! A small share of the queries is handed over with their answers, and judged by one thread that takes its time (it sleeps
//! longer than it works, so that it never takes more than [`DUTY`] of a core, and stands back behind all others):
//! - by the sampled rows ([`super::SampledRows`]): an estimate of the share of ads as good as those served that was served, unbiased
//!   at any size of the corpus, also where a search with any effort would miss them;
//! - by a second search with far more effort: what share of its list's revenue the served list has.

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::collection::Pinned;
use super::exhaustive::quality;
use super::rank::Candidate;
use super::sampled::{SampledRecall, SampledRows};
use super::search::AdQuery;
use crate::error::{Error, Result};
use crate::search::{Scratch, SearchParams, Searcher};
use crate::types::Key;

/// Answers that wait to be judged; more are passed over.
const WAITING: usize = 64;
/// Queries that an estimate is made of: the last so many.
const WINDOW: usize = 1_000;
/// Share of a core, as one over this.
const DUTY: u32 = 25;
/// By how much the thread stands back behind those that serve: as far as it goes.
const NICENESS: i32 = 19;
/// How many times the lists and candidates of the query a second search takes.
const MORE: usize = 8;

/// A query that was answered.
pub struct Answered {
    /// What it saw.
    pub pinned: Pinned,
    /// What it asked for.
    pub query: AdQuery,
    /// What it got.
    pub hits: Vec<Candidate>,
}

/// A mean with its standard error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Its standard error.
    pub standard_error: f64,
    /// Queries it is made of.
    pub queries: u64,
}

/// Takes answered queries.
pub struct OnlineRecall {
    sender: Sender<Answered>,
    every: u64,
    seen: AtomicU64,
}

/// How one query did.
struct Judged {
    /// Hits served.
    served: usize,
    /// Sampled rows missed above the worst of them, and the share of the sample.
    missed: Vec<Key>,
    share: f64,
    /// Share of the revenue of a search with more effort.
    revenue: f64,
}

/// How the last queries did.
struct Window {
    queries: VecDeque<Judged>,
}

impl OnlineRecall {
    /// Starts judging one of `every` queries; `report` is told recall and recall of revenue after each.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn start(every: u64, report: impl Fn(Estimate, Estimate) + Send + 'static) -> Result<OnlineRecall> {
        let (sender, receiver) = bounded(WAITING);
        let thread = std::thread::Builder::new().name("recall".into());
        thread.spawn(move || judge_all(&receiver, &report)).map_err(Error::io("thread that judges recall"))?;
        Ok(OnlineRecall { sender, every: every.max(1), seen: AtomicU64::new(0) })
    }

    /// Whether the query that was just answered should be handed over.
    pub fn wants(&self) -> bool {
        (self.seen.fetch_add(1, Relaxed) + 1).is_multiple_of(self.every)
    }

    /// Hands a query over; passes it over where too many wait, or where no threshold says what its answer should have been
    /// ([`SampledRows::can_judge`]).
    pub fn offer(&self, answered: Answered) {
        if !SampledRows::can_judge(&answered.query) {
            return;
        }
        match self.sender.try_send(answered) {
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }
}

fn judge_all(receiver: &Receiver<Answered>, report: &dyn Fn(Estimate, Estimate)) {
    // Where it is not allowed nothing is lost.
    let _ = rustix::process::setpriority_process(None, NICENESS);
    let (mut scratch, mut window) = (Scratch::default(), Window { queries: VecDeque::new() });
    while let Ok(answered) = receiver.recv() {
        let begun = Instant::now();
        // A query that cannot be judged (a page cannot be read) is one less; serving has its own way to tell.
        if let Ok(judged) = judge(&answered, &mut scratch) {
            window.push(judged);
            report(window.recall(), window.revenue());
        }
        drop(answered);
        std::thread::sleep(begun.elapsed() * (DUTY - 1) + Duration::from_millis(1));
    }
}

fn judge(answered: &Answered, scratch: &mut Scratch) -> Result<Judged> {
    let Answered { pinned, query, hits } = answered;
    let view = pinned.view();
    let sample = &pinned.version.sample;
    let missed = sample.missed(&view, query, hits, scratch)?;
    let again = view.search(&harder(query, &pinned.version.searcher), scratch)?;
    let revenue = quality(hits, &again.hits).ecpm_recall;
    Ok(Judged { served: hits.len(), missed, share: sample.share(), revenue })
}

/// The same query with far more effort than its first round takes by itself, and without a deadline.
fn harder(query: &AdQuery, base: &Searcher) -> AdQuery {
    let mut query = AdQuery { effort: 1.0, most_candidates: usize::MAX, ..query.clone() };
    let manifest = base.index().manifest();
    let first = query.first_reach(base);
    let lists = if first.lists == 0 { manifest.default_nprobe } else { first.lists };
    query.params = SearchParams {
        candidates: first.pool.saturating_mul(MORE),
        nprobe: lists.saturating_mul(MORE).min(manifest.lists),
        recall_target: 0.0,
        deadline: None,
        ..query.params
    };
    query
}

impl Window {
    fn push(&mut self, judged: Judged) {
        if self.queries.len() == WINDOW {
            self.queries.pop_front();
        }
        self.queries.push_back(judged);
    }

    fn recall(&self) -> Estimate {
        let mut recall = SampledRecall::default();
        self.queries.iter().for_each(|judged| recall.add(judged.served, &judged.missed, judged.share));
        let (mean, standard_error) = recall.estimate().unwrap_or((1.0, 0.0));
        Estimate { mean, standard_error, queries: recall.queries() }
    }

    fn revenue(&self) -> Estimate {
        let n = self.queries.len().max(1) as f64;
        let mean = self.queries.iter().map(|query| query.revenue).sum::<f64>() / n;
        let variance =
            self.queries.iter().map(|query| (query.revenue - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
        Estimate { mean, standard_error: (variance / n).sqrt(), queries: self.queries.len() as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ads::{Block, RankBy, Ranking};
    use crate::attributes::Filter;
    use crate::eval::index_of_views;

    /// What an answer is compared with must have looked at more than the answer, whatever that takes by itself.
    #[test]
    fn the_second_search_goes_further_than_the_first_by_the_same_factor() {
        let base = index_of_views(400, 9);
        let query = |by, params| AdQuery {
            vectors: vec![(vec![1.0; 8], 1.0)],
            params,
            limit: 30,
            offset: 10,
            filter: Filter::default(),
            serving: true,
            block: Block::default(),
            ranking: Ranking { by, ..Ranking::by_relevance() },
            effort: 1.0,
            most_candidates: 1_000,
        };
        let named = SearchParams { nprobe: 2, candidates: 50, ..SearchParams::default() };
        for by in [RankBy::Relevance, RankBy::Ecpm { alpha: 1.0 }] {
            for params in [SearchParams::default(), named.clone()] {
                let first = query(by, params.clone()).first_reach(&base);
                let second = harder(&query(by, params.clone()), &base).first_reach(&base);
                assert_eq!(second.pool, MORE * first.pool, "{by:?} {params:?}");
                assert_eq!(second.lists, (MORE * first.lists).min(base.index().manifest().lists), "{by:?} {params:?}");
            }
        }
    }
}
