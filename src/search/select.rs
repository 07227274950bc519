//! A search among some of the rows: those that pass a filter, and that the caller allows.
//!
//! The easy version searches as always and drops hits that do not pass: with a filter that one row in a thousand passes, none is
//! left. Departures:
//! 1. **The filter is part of the scan.** A [`Predicate`] becomes words of bits in row order, the kernels skip blocks without a
//!    passing row and keep survivors that pass, so all candidates do. Lists whose summary rules them out are not looked at.
//! 2. **Probes are extended.** Among fewer rows the best k lie further away. `nprobe` lists without a filter see some number of
//!    rows; with a filter that a share p passes, lists are taken until `p^.82` of that number of *passing* rows was seen
//!    ([`EXTENSION`]): `nprobe / p^.18` lists if the filter has nothing to do with where rows lie, fewer if the query's
//!    neighbourhood passes, more if it does not.
//! 3. **Few rows are verified at once**: where no more rows pass than a search verifies anyhow (or [`FEW_ROWS`], if vectors are in
//!    memory), their dense vectors are scored, and the answer is exact.
//! 4. **What costs more is asked of survivors only**: [`Selection::allow`] (whether an ad may be shown now) is called for rows whose
//!    score would make them candidates, some thousands a query, not for all that are scanned.
//! 5. **Bids take part in the scan.** Candidates ranked by relevance alone lose the ads that money lifts to the top. What ranks is
//!    `relevance^alpha * value`; its logarithm, linear in relevance near the scores that matter, is
//!    `alpha / r * (relevance + r / alpha * ln value)`: a row term of one byte a row, which the kernels add anyhow ([`Bonus`]).

use super::params::{Asked, Scoring, Work};
use super::views::Wanted;
use super::{Hit, LISTS_PER_LOOK, Scratch, SearchParams, SearchStats, Searcher, elapsed_ns, order_key};
use crate::attributes::Predicate;
use crate::codes::List;
use crate::dense::Store;
use crate::error::Result;
use crate::index::Goal;
use crate::quantizer::Probe;
use crate::topk::split_key;
use crate::types::{ListId, Metric, Row};
use std::time::Instant;

/// Passing rows that are verified without a scan, where reading a vector is reading memory: about what a scan of extended
/// probes costs.
const FEW_ROWS: usize = 2_048;
/// The power of the share of passing rows that says how many of them are seen: 1 would scan as many lists as without a filter, 0 as
/// many passing rows as there would be rows. Over a million ads, k = 100, recall .931 without a filter; with one that 1 % pass: .997 at four times
/// the time with .5, .948 at twice with .75, .935 at twice with .78, .920 at 1.6 times with .82.
const EXTENSION: f32 = 0.82;
/// How many times the expected number of lists is ranked at first.
const SPARE_LISTS: f32 = 2.0;
/// The least relevance around which bids are weighed: below it the logarithm is too steep for a straight line.
const LEAST_RELEVANCE: f32 = 0.05;

/// Which rows a search may find, and what lifts them beside their scores.
#[derive(Clone, Copy, Default)]
pub struct Selection<'a> {
    /// Rows must pass this filter.
    pub predicate: Option<&'a Predicate>,
    /// Asked about rows that would become candidates.
    pub allow: Option<&'a dyn Fn(Row) -> bool>,
    /// The share of rows that `allow` refuses, about: the search goes further for it.
    pub refused: f32,
    /// What lifts valuable rows among the candidates.
    pub bonus: Option<Bonus<'a>>,
    /// Hits to return, where that is more than the `k` that is searched for: for whoever puts them in another order.
    pub keep: usize,
}

/// The value of every row, as a logarithm on a scale of 256 levels.
#[derive(Clone, Copy, Debug)]
pub struct Bonus<'a> {
    /// One level a row.
    pub levels: &'a [u8],
    /// The logarithm of the value at level 0, and between two levels.
    pub least: f32,
    /// See `least`.
    pub step: f32,
    /// The power of relevance that values are weighed against; above 0.
    pub alpha: f32,
}

/// One list's row terms: `min + step * byte`.
#[derive(Clone, Copy)]
struct Terms<'a> {
    levels: &'a [u8],
    min: f32,
    step: f32,
}

impl Selection<'_> {
    /// Whether every row may be found.
    pub fn is_all(&self) -> bool {
        self.predicate.is_none() && self.allow.is_none() && self.bonus.is_none()
    }

    /// The share of rows that may be found, about.
    fn share(&self) -> f32 {
        let passing = self.predicate.map_or(1.0, Predicate::share);
        (passing * (1.0 - self.refused)).clamp(1e-9, 1.0)
    }

    fn allows(&self, row: Row) -> bool {
        self.allow.is_none_or(|allow| allow(row))
    }
}

/// How far one search goes.
struct Search<'a> {
    params: &'a SearchParams,
    selection: &'a Selection<'a>,
    /// Lists that a search without a selection scans.
    nprobe: usize,
    /// Rows to see that may be found.
    wanted: f32,
}

impl Searcher {
    /// [`Searcher::search`] among the rows of `selection`. Where it comes with a [`Bonus`], candidates are chosen with it, and hits
    /// are scored and ordered without it: whoever ranks by value asks for as many hits as candidates.
    ///
    /// # Errors
    /// As those of a search.
    pub fn search_selected(
        &self,
        query: &[f32],
        params: &SearchParams,
        selection: &Selection<'_>,
        scratch: &mut Scratch,
        hits: &mut Vec<Hit>,
    ) -> Result<SearchStats> {
        if selection.is_all() && selection.keep <= params.k {
            return self.search(query, params, scratch, hits);
        }
        params.check()?;
        let goal = if params.recall_target > 0.0 { Some(self.goal(params)?) } else { None };
        let least = goal.as_ref().map_or(self.candidates_for(params), |goal| goal.candidates.most);
        let wanted = params.k;
        let (k, reordered) = (params.k.max(selection.keep), selection.keep > params.k);
        let params = &SearchParams { k, candidates: least.max(k), ..params.clone() };
        hits.clear();
        let mut stats = SearchStats { fraction: 1.0, ..SearchStats::default() };
        let Scratch { asked, scoring, work } = &mut *scratch;
        self.prepare(query, asked)?;
        let mut all_seen = true;
        if params.exact {
            self.verify_all(params, Some(selection), asked, &mut scoring.best, work, hits, &mut stats)?;
        } else if self.few_rows(params, selection, asked, work) {
            self.verify_few(params, selection, asked, work, hits, &mut stats)?;
        } else {
            self.scan_selected(goal.as_ref(), params, selection, scratch, &mut stats)?;
            match goal {
                // Gaps between scores that bids have a part in say nothing about recall.
                Some(goal) if selection.bonus.is_none() && !reordered => {
                    self.read_for(&goal, params, scratch, hits, &mut stats)?;
                }
                _ => {
                    let Scratch { asked, scoring, work } = scratch;
                    self.fetch_and_verify(params, asked, &mut scoring.best, work, hits, &mut stats)?;
                }
            }
            all_seen = false;
        }
        self.rank(params.k, hits, &mut stats);
        if !all_seen {
            self.fill(wanted, Wanted { params, selection: Some(selection) }, scratch, hits, &mut stats)?;
        }
        Ok(stats)
    }

    /// The list of a row.
    pub fn list_of(&self, row: Row) -> ListId {
        self.index.codes().list_of(row)
    }

    /// How many lists are more promising than each list for a query, by list.
    ///
    /// # Errors
    /// As those of a search.
    pub fn list_ranks(&self, query: &[f32], scratch: &mut Scratch) -> Result<Vec<usize>> {
        let Scratch { asked, work, .. } = scratch;
        self.prepare(query, asked)?;
        let lists = self.index.manifest().lists;
        let all = SearchParams { nprobe: lists, ..SearchParams::default() };
        self.probe(&all, asked, work, &mut SearchStats::default())?;
        let mut ranks = vec![asked.probes.len(); lists];
        asked.probes.iter().enumerate().for_each(|(rank, probe)| ranks[probe.list as usize] = rank);
        Ok(ranks)
    }

    /// The list of a row, and how many lists are more promising for a query.
    ///
    /// # Errors
    /// As those of a search.
    pub fn list_rank(&self, query: &[f32], row: Row, scratch: &mut Scratch) -> Result<(ListId, usize)> {
        let list = self.list_of(row);
        Ok((list, self.list_ranks(query, scratch)?[list as usize]))
    }

    /// How many rows of the selection have better codes than `row`, among those that a search scans; None where the search does not come upon
    /// it among its best `most`, or verifies without a scan.
    ///
    /// # Errors
    /// As those of a search.
    pub fn code_rank(
        &self,
        query: &[f32],
        params: &SearchParams,
        selection: &Selection<'_>,
        row: Row,
        most: usize,
        scratch: &mut Scratch,
    ) -> Result<Option<usize>> {
        params.check()?;
        self.prepare(query, &mut scratch.asked)?;
        let goal = if params.recall_target > 0.0 { Some(self.goal(params)?) } else { None };
        // As in a search: bids are weighed by the kth of all hits that are kept.
        let params = SearchParams { k: params.k.max(selection.keep), candidates: most, ..params.clone() };
        self.scan_selected(goal.as_ref(), &params, selection, scratch, &mut SearchStats::default())?;
        Ok(scratch.scoring.best.finish().iter().position(|&key| split_key(key).1 == row))
    }

    /// Whether so few rows pass that they are verified at once; they are left in `work.rows` then.
    fn few_rows(&self, params: &SearchParams, selection: &Selection<'_>, asked: &Asked, work: &mut Work) -> bool {
        let Some(predicate) = selection.predicate else { return false };
        // A code score is part of the answer: rows have to be scanned for it.
        if params.sparse_weight > 0.0 || asked.query.is_empty() {
            return false;
        }
        let in_memory = matches!(self.index.dense().store(), Store::Mmap | Store::Memory);
        let most = params.candidates_or_default().max(if in_memory { FEW_ROWS } else { 0 });
        // Sampled, so with room for error; `rows` is sure.
        if predicate.share() * self.rows() as f32 > 2.0 * most as f32 {
            return false;
        }
        work.rows.clear();
        predicate.rows(self.kernels, most, &mut work.rows)
    }

    /// Verifies the rows in `work`.
    fn verify_few(
        &self,
        params: &SearchParams,
        selection: &Selection<'_>,
        asked: &Asked,
        work: &mut Work,
        hits: &mut Vec<Hit>,
        stats: &mut SearchStats,
    ) -> Result<()> {
        let start = Instant::now();
        self.map_dense(asked, work)?;
        let mut keys: Vec<u64> = std::mem::take(&mut work.keys);
        keys.clear();
        keys.extend(work.rows.iter().filter(|&&row| selection.allows(row)).map(|&row| order_key(0.0, row)));
        stats.rows_passing += keys.len() as u64;
        stats.candidates = keys.len() as u32;
        let outcome = self.read(&mut keys, params, work, hits, stats);
        work.keys = keys;
        stats.fetch_ns = elapsed_ns(start);
        outcome
    }

    /// Leaves the best rows of the selection in the reservoir.
    pub(super) fn scan_selected(
        &self,
        goal: Option<&Goal>,
        params: &SearchParams,
        selection: &Selection<'_>,
        scratch: &mut Scratch,
        stats: &mut SearchStats,
    ) -> Result<()> {
        let Scratch { asked, scoring, work } = scratch;
        let nprobe = self.lists_without_selection(goal, params, asked, work, stats)?;
        let lists = self.index.manifest().lists;
        let share = selection.share();
        let further = share.powf(EXTENSION);
        let seen = nprobe as f32 * self.rows() as f32 / lists as f32;
        let wanted = if share < 1.0 { seen * further } else { 0.0 };
        let search = Search { params, selection, nprobe, wanted };
        let expected = (nprobe as f32 * further / share * SPARE_LISTS).ceil() as usize;
        for most in [expected.min(lists), lists] {
            self.probe(&SearchParams { nprobe: most, ..params.clone() }, asked, work, stats)?;
            let before = stats.lists_probed;
            let enough = self.scan_probes(&search, asked, scoring, work, stats);
            if before > 0 {
                // Lists of a pass that was not enough were scanned again.
                stats.last_lists = Some(stats.lists_probed - before);
            }
            if enough || most == lists {
                break;
            }
        }
        Ok(())
    }

    /// How many lists a search scans that may find every row.
    fn lists_without_selection(
        &self,
        goal: Option<&Goal>,
        params: &SearchParams,
        asked: &mut Asked,
        work: &mut Work,
        stats: &mut SearchStats,
    ) -> Result<usize> {
        let nprobe = match goal {
            None => self.nprobe(params),
            Some(goal) => {
                self.probe_for(goal, params, asked, work, stats)?;
                asked.probes.len()
            }
        };
        Ok(nprobe.clamp(1, self.index.manifest().lists))
    }

    /// Scans the lists in `asked` from the first one on; whether enough rows were seen, or time was up.
    fn scan_probes(
        &self,
        search: &Search<'_>,
        asked: &Asked,
        scoring: &mut Scoring,
        work: &mut Work,
        stats: &mut SearchStats,
    ) -> bool {
        let start = Instant::now();
        let terms = self.terms(search, asked, scoring, work, stats);
        let range = terms.map_or(self.index.codes().widest_terms(), |terms| terms.step * 255.0);
        self.begin_scan(search.params, range, asked, scoring, work);
        let mut words = std::mem::take(&mut work.words);
        let (mut seen, mut lists) = (0.0, 0);
        let mut enough = false;
        for (done, probe) in asked.probes.iter().enumerate() {
            if done % LISTS_PER_LOOK == 0 && done > 0 && search.params.is_late() {
                stats.fraction = done as f32 / asked.probes.len() as f32;
                enough = true;
                break;
            }
            let passing = self.scan_passing(probe, terms, search, &mut words, scoring, work, stats);
            seen += passing as f32 * (1.0 - search.selection.refused);
            lists += usize::from(passing > 0);
            if lists >= search.nprobe && seen >= search.wanted {
                enough = true;
                break;
            }
        }
        work.words = words;
        stats.scan_ns += elapsed_ns(start);
        enough
    }

    /// Scans the rows of a list that pass and says how many they are.
    #[allow(clippy::too_many_arguments)]
    fn scan_passing(
        &self,
        probe: &Probe,
        terms: Option<Terms<'_>>,
        search: &Search<'_>,
        words: &mut Vec<u64>,
        scoring: &mut Scoring,
        work: &mut Work,
        stats: &mut SearchStats,
    ) -> usize {
        let codes = self.index.codes();
        let rows = codes.rows_of(probe.list);
        let mut passing = rows;
        words.clear();
        if let Some(predicate) = search.selection.predicate {
            if !predicate.may_pass(probe.list) {
                return 0;
            }
            predicate.words(self.kernels, codes.first_row(probe.list), rows, words, &mut work.predicate);
            passing = words.iter().map(|word| word.count_ones() as usize).sum();
        }
        stats.rows_passing += passing as u64;
        if passing > 0 {
            let list = with_terms(codes.list(probe.list), terms);
            let list = List { passing: words, ..list };
            self.scan_rows(&list, probe.base, scoring, work, stats, &mut |row| search.selection.allows(row));
        }
        passing
    }

    /// The row terms that stand for values, weighed by what relevance is worth near the kth best row of the best list.
    fn terms<'a>(
        &self,
        search: &Search<'a>,
        asked: &Asked,
        scoring: &mut Scoring,
        work: &mut Work,
        stats: &mut SearchStats,
    ) -> Option<Terms<'a>> {
        let bonus = search.selection.bonus?;
        // Under L2 rows have terms of their own.
        if self.metric() == Metric::L2 {
            return None;
        }
        let k = SearchParams { candidates: search.params.k, ..search.params.clone() };
        self.begin_scan(&k, 0.0, asked, scoring, work);
        if let Some(best) = asked.probes.first() {
            self.scan_probe(best, scoring, work, stats);
            // It is scanned again, for candidates.
            stats.lists_probed -= 1;
        }
        let kth = scoring.best.finish().last().map_or(0.0, |&key| split_key(key).0);
        let weight = kth.max(LEAST_RELEVANCE) / bonus.alpha;
        Some(Terms { levels: bonus.levels, min: weight * bonus.least, step: weight * bonus.step })
    }

    /// Fills `rows` with those of `first .. end` that may be found.
    pub(super) fn select(&self, selection: Option<&Selection<'_>>, first: Row, end: Row, work: &mut Work) {
        work.rows.clear();
        let Some(selection) = selection else {
            work.rows.extend(first..end);
            return;
        };
        work.words.clear();
        if let Some(predicate) = selection.predicate {
            predicate.words(self.kernels, first, (end - first) as usize, &mut work.words, &mut work.predicate);
        }
        let passes = |row: Row, words: &[u64]| {
            let at = (row - first) as usize;
            words.get(at / 64).is_none_or(|word| word >> (at % 64) & 1 == 1)
        };
        let words = &work.words;
        work.rows.extend((first..end).filter(|&row| passes(row, words) && selection.allows(row)));
    }
}

/// `list` with the row terms of a selection, if there are any.
fn with_terms<'a>(list: List<'a>, terms: Option<Terms<'a>>) -> List<'a> {
    let Some(terms) = terms else { return list };
    let first = list.first_row as usize;
    List { terms: &terms.levels[first..first + list.rows], term_min: terms.min, term_step: terms.step, ..list }
}
