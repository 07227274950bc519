//! Rows that are views of documents: what is looked for are the best `k` *documents* (parents), each scored by its best view.
//!
//! ```text
//! round:   probe --> scan --> fetch + verify --> best view of each key --> rank --> k parents?  --> hits
//!            ^                                                                |
//!            '---------------- more candidates, or more lists <--------------- no
//! ```
//! The easy version searches for rows and drops all but the best of each key: with five views a document, a list of ten may hold
//! three. Departures:
//! 1. **More is verified from the start**: where a query does not say how many candidates it wants, it gets the default times the
//!    mean number of views.
//! 2. **Searches that leave the list short are repeated, wider** ([`Searcher::fill`]), until `k` different parents were verified or
//!    no row is left. First the candidates grow (while more were scanned than verified), then the lists, both as far as
//!    [`SearchParams::further`] lets them.
//! 3. **Bounds are those of parents.** A document has [`Views::most`] views at most, so that `(k - 1) * most + 1` rows hold `k`
//!    documents for certain: exact search keeps as many, and the int8 tier leaves out only what as many rows beat.
//!
//! A parent's score is the best *verified* score of its rows: as with every search, a row that was not scanned, or whose code
//! kept it from the candidates, is not seen; exact search sees all. Rows of a document have the same attributes (the build refuses
//! others), so a filter that passes one of them passes all.
//!
//! Where a row is a document, none of this costs more than a look at an `Option`.

use std::borrow::Cow;

use super::params::{Hit, Round, Scratch, SearchParams, SearchStats};
use super::{Searcher, Selection};
use crate::error::Result;
use crate::index::Views;

/// How many times the candidates, or lists, of the last round a wider one takes, at least.
const WIDER: usize = 2;

/// What is searched for, whichever round it is.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) params: &'a SearchParams,
    pub(super) selection: Option<&'a Selection<'a>>,
}

impl Searcher {
    /// The documents, where rows are views of them.
    pub fn views(&self) -> Option<Views> {
        self.index.manifest().views
    }

    /// Number of documents: of rows, where these are not views.
    pub fn documents(&self) -> u64 {
        self.views().map_or(self.rows(), |views| views.parents)
    }

    /// Rows that hold `k` documents if these have the mean number of views: `k` where a row is a document.
    pub(crate) fn rows_for(&self, k: usize) -> usize {
        let Some(views) = self.views() else { return k };
        let rows = (k as u128 * u128::from(self.rows())).div_ceil(u128::from(views.parents));
        rows.min(u128::from(self.rows()).max(k as u128)) as usize
    }

    /// Fewest rows that hold `k` different documents for certain, whichever they are: `k` where a row is a document.
    pub(crate) fn certain_rows(&self, k: usize) -> usize {
        let Some(views) = self.views() else { return k };
        let rows = (k.saturating_sub(1) as u64).saturating_mul(views.most).saturating_add(1);
        rows.min(self.rows()).max(k as u64) as usize
    }

    /// Candidates that are verified for `params`: as they say, or by default as many for each document as otherwise for a row.
    pub fn candidates_for(&self, params: &SearchParams) -> usize {
        let wanted = params.candidates_or_default();
        if params.candidates == 0 { self.rows_for(wanted) } else { wanted }
    }

    /// `params` with the number of candidates that this index takes by default.
    pub(super) fn resolved<'p>(&self, params: &'p SearchParams) -> Cow<'p, SearchParams> {
        match self.views() {
            Some(_) if params.candidates == 0 => {
                Cow::Owned(SearchParams { candidates: self.candidates_for(params), ..params.clone() })
            }
            _ => Cow::Borrowed(params),
        }
    }

    /// Makes hits short of `wanted` different documents as many as there are, by wider searches than that of `asked`, which was
    /// done: its query is in `scratch`, its answer in `hits` and `stats`. A round that the deadline cuts short adds what it found, and is
    /// the last one.
    ///
    /// # Errors
    /// As those of a search.
    pub(super) fn fill(
        &self,
        wanted: usize,
        asked: Wanted<'_>,
        scratch: &mut Scratch,
        hits: &mut Vec<Hit>,
        stats: &mut SearchStats,
    ) -> Result<()> {
        let Some(views) = self.views() else { return Ok(()) };
        let wanted = wanted.min(views.parents as usize);
        let mut done = stats.last_round();
        let mut params = SearchParams {
            nprobe: (done.lists as usize).clamp(1, self.index.manifest().lists),
            candidates: asked.params.candidates_or_default().max(done.candidates as usize),
            ..asked.params.clone()
        };
        let mut found = Vec::new();
        while hits.len() < wanted {
            let share = hits.len() as f32 / wanted as f32;
            if stats.fraction < 1.0 || params.is_late() {
                stats.fraction = stats.fraction.min(share);
                break;
            }
            if !self.widen(&mut params, done, wanted, hits.len()) {
                break;
            }
            found.clear();
            let mut round = SearchStats { fraction: 1.0, ..SearchStats::default() };
            self.round(Wanted { params: &params, ..asked }, scratch, &mut found, &mut round)?;
            done = round.last_round();
            (stats.last_lists, stats.last_candidates) = (Some(done.lists), Some(done.candidates));
            let cut = round.fraction < 1.0;
            stats.add(&SearchStats { fraction: 1.0, ..round });
            if cut {
                hits.append(&mut found);
                self.rank(params.k, hits, stats);
                stats.fraction = share;
                break;
            }
            std::mem::swap(hits, &mut found);
        }
        Ok(())
    }

    /// Makes `params` those of a wider round than the last one (`done`), which left `found` of `wanted` documents; whether there is one.
    /// Candidates grow while there were more of them than were verified, then the lists.
    fn widen(&self, params: &mut SearchParams, done: Round, wanted: usize, found: usize) -> bool {
        let most = params.further.candidates.min(self.rows() as usize);
        let lists = params.further.lists.min(self.index.manifest().lists);
        if done.candidates as usize >= params.candidates && params.candidates < most {
            let needed = params.candidates.saturating_mul(wanted).div_ceil(found.max(1));
            params.candidates = needed.max(params.candidates.saturating_mul(WIDER)).min(most);
            return true;
        }
        let more = params.nprobe < lists;
        if more {
            params.nprobe = params.nprobe.saturating_mul(WIDER).min(lists);
        }
        more
    }

    /// One search of a query that is prepared, with fixed numbers of lists and candidates.
    fn round(
        &self,
        asked: Wanted<'_>,
        scratch: &mut Scratch,
        hits: &mut Vec<Hit>,
        stats: &mut SearchStats,
    ) -> Result<()> {
        let Wanted { params, selection } = asked;
        match selection {
            Some(selection) => self.scan_selected(None, params, selection, scratch, stats)?,
            None => {
                let Scratch { asked, scoring, work } = &mut *scratch;
                self.probe(params, asked, work, stats)?;
                self.scan(params, asked, scoring, work, stats);
            }
        }
        let Scratch { asked, scoring, work } = scratch;
        self.fetch_and_verify(params, asked, &mut scoring.best, work, hits, stats)?;
        self.rank(params.k, hits, stats);
        Ok(())
    }
}

/// Keeps the best hit of each key, ties by row; in no particular order.
pub(crate) fn keep_best_views(hits: &mut Vec<Hit>) {
    hits.sort_unstable_by(|a, b| a.key.cmp(&b.key).then(b.score.total_cmp(&a.score)).then(a.row.cmp(&b.row)));
    hits.dedup_by_key(|hit| hit.key);
}

/// Keeps the first hit of each key, with the best score of all of its hits; the order stays.
pub(crate) fn first_of_each(hits: &mut Vec<Hit>) {
    let mut place = std::collections::HashMap::new();
    let mut kept: Vec<Hit> = Vec::with_capacity(hits.len());
    for hit in hits.iter() {
        let at = *place.entry(hit.key).or_insert(kept.len());
        match kept.get_mut(at) {
            Some(first) => first.score = first.score.max(hit.score),
            None => kept.push(*hit),
        }
    }
    *hits = kept;
}
