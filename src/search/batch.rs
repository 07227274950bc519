//! Many queries at once: what they share.
//!
//! The easy version searches one query after the other on every thread. Each of them brings centroids, codebooks and the
//! codes of its lists into the caches again, where the query before it has just left its dense vectors. Departures:
//! 1. **All queries are probed first**, so that centroids stay in the caches.
//! 2. **Neighbours go together.** Queries whose most promising lists coincide form a group ([`neighbours_together`]); a group
//!    is the work of one thread, and its tables and reservoirs fit the second-level cache ([`GROUP_BYTES`]).
//! 3. **A group scans list by list**: while a run of codes is in the cache, it is scored for all queries of the group that
//!    probe the list. That loses the order in which thresholds rise fastest, so each query scans its [`LEAD`] best lists
//!    first.
//! 4. Every query verifies its own candidates, while the candidates of its neighbours, often the same rows, are still near.
//!    Reading the union of their rows at once was not tried.
//!
//! Answers are those of single queries, to the bit and at any number of threads: the best candidates are the best in a total
//! order ([`crate::topk`]), and no threshold ever excludes one of them ([`crate::quantizer::ListScale::threshold`]), in
//! whatever order lists come.
//!
//! # When a group scans together
//! If at least [`LEAST_SHARED`] of its queries probe a list, on average over the lists that it probes. Otherwise each query
//! scans its lists in its own order. Microseconds of scanning a query, 500,000 rows of 24 bytes, busy machine:
//! ```text
//! lists a query, queries a list   together   each on its own
//!        8            1.4           38.1         36.7          as the queries came, not as neighbours
//!        8            5             33.7         27.8          (the best of five: 27.1 both; 90 and 92 in another run)
//!       32            2.6           69.7         76.5          as they came
//!       32            5             46.9         63.2
//! ```
//! With few lists a query it hardly matters: groups of neighbours find the codes in the cache anyhow, and the sum of all
//! steps stays below that of single queries in either way.
//!
//! Exact search reads everything anyhow, a query with a deadline must take its most promising lists first, and one with a recall
//! target has its own way of choosing candidates: they are searched as single queries.

use crossbeam::queue::SegQueue;
use rayon::prelude::*;
use std::collections::HashSet;
use std::time::Instant;

use super::params::{Asked, Scoring, Work};
use super::views::Wanted;
use super::{Hit, Scratch, SearchParams, SearchStats, Searcher, elapsed_ns};
use crate::codes::ListScan;
use crate::error::{Error, Result};
use crate::quantizer::Probe;
use crate::types::ListId;

/// Most bytes of a group's tables and reservoirs: a second-level cache. A run of codes wants its part of it, but of a reservoir
/// little more than the end is touched, and of the tables only those of the queries that probe the list.
const GROUP_BYTES: usize = 1 << 20;
/// Fewest groups a thread.
const GROUPS_PER_THREAD: usize = 4;
/// Fewest queries of a group, where there are several threads and more queries than that.
const LEAST_MEMBERS: usize = 8;
/// Most promising lists that a query scans before the lists of its group.
const LEAD: usize = 1;
/// Queries a list, on average, from which on a group scans together.
const LEAST_SHARED: usize = 2;
/// Most promising lists by which neighbours are found.
const NEAR: usize = 4;
/// Probes kept at once (8 MiB), and the bounds of the number of queries that they are made of.
const PROBES_AT_ONCE: usize = 1 << 20;
const LEAST_AT_ONCE: usize = 256;
const MOST_AT_ONCE: usize = 4_096;

/// What a query gets.
type Answer = (Vec<Hit>, SearchStats);

/// Cuts `order` into groups of `size`; towards the end into smaller ones, so that no thread waits long for the last group of
/// another.
fn tapered(order: &[usize], size: usize, threads: usize) -> Vec<&[usize]> {
    let (mut groups, mut rest) = (Vec::new(), order);
    while !rest.is_empty() {
        let share = if threads > 1 { rest.len().div_ceil(2 * threads).max(LEAST_MEMBERS) } else { rest.len() };
        let (group, later) = rest.split_at(size.min(share).min(rest.len()));
        groups.push(group);
        rest = later;
    }
    groups
}

/// A query that will scan a list.
#[derive(Debug, Clone, Copy)]
struct Visit {
    list: ListId,
    /// The query's place in its group.
    place: u32,
    /// What the scores of the list's rows start from.
    base: f32,
}

/// Working memory of one group; reused from group to group.
#[derive(Debug, Default)]
struct Group {
    /// One a query, and perhaps more.
    scorings: Vec<Scoring>,
    /// By list.
    visits: Vec<Visit>,
    work: Work,
}

impl Searcher {
    /// Searches every row of `queries` (n x dim) on rayon's threads: the answers of [`Searcher::search`], in query order.
    /// Of the stats, `rows_scanned` depends on the order of lists and so on the other queries; where queries scan together,
    /// each is charged an equal part in `scan_ns`.
    ///
    /// # Errors
    /// As those of a search, for any of the queries; `Mismatch` for values that do not make up whole queries.
    pub fn search_batch(&self, queries: &[f32], params: &SearchParams) -> Result<Vec<Answer>> {
        let dim = self.dim();
        if !queries.len().is_multiple_of(dim) {
            return Err(Error::mismatch("length of the queries", format!("a multiple of {dim}"), queries.len()));
        }
        params.check()?;
        if params.exact || params.deadline.is_some() || params.recall_target > 0.0 {
            return self.search_each(queries, params);
        }
        let params = &*self.resolved(params);
        let at_once = (PROBES_AT_ONCE / self.nprobe(params).max(1)).clamp(LEAST_AT_ONCE, MOST_AT_ONCE);
        let mut answers = Vec::with_capacity(queries.len() / dim);
        for queries in queries.chunks(at_once * dim) {
            answers.extend(self.search_in_groups(queries, params)?);
        }
        Ok(answers)
    }

    /// One query after the other on every thread.
    fn search_each(&self, queries: &[f32], params: &SearchParams) -> Result<Vec<Answer>> {
        let search = |scratch: &mut Scratch, query: &[f32]| {
            let mut hits = Vec::new();
            let stats = self.search(query, params, scratch, &mut hits)?;
            Ok((hits, stats))
        };
        queries.par_chunks(self.dim()).map_init(Scratch::default, search).collect()
    }

    fn search_in_groups(&self, queries: &[f32], params: &SearchParams) -> Result<Vec<Answer>> {
        let probed = self.probe_all(queries, params)?;
        let size = self.group_size(probed.len(), params);
        let probes: Vec<&[Probe]> = probed.iter().map(|(asked, _)| asked.probes.as_slice()).collect();
        let order = neighbours_together(&probes, size);
        let spare = SegQueue::new();
        let search = |members: &[usize]| {
            let mut group: Group = spare.pop().unwrap_or_default();
            let members: Vec<&(Asked, SearchStats)> = members.iter().map(|&at| &probed[at]).collect();
            let answers = self.search_group(&members, params, &mut group);
            spare.push(group);
            answers
        };
        // The bridge hands groups out in their order, each to the thread that is free: the small ones come last.
        let groups = tapered(&order, size, rayon::current_num_threads());
        let found = groups.into_iter().par_bridge().map(|members| Ok((members, search(members)?)));
        let mut answers = vec![Answer::default(); order.len()];
        for (members, found) in found.collect::<Result<Vec<_>>>()? {
            for (&at, answer) in members.iter().zip(found) {
                answers[at] = answer;
            }
        }
        Ok(answers)
    }

    fn probe_all(&self, queries: &[f32], params: &SearchParams) -> Result<Vec<(Asked, SearchStats)>> {
        let probe = |work: &mut Work, query: &[f32]| {
            let (mut asked, mut stats) = (Asked::default(), SearchStats { fraction: 1.0, ..SearchStats::default() });
            self.prepare(query, &mut asked)?;
            self.probe(params, &mut asked, work, &mut stats)?;
            Ok((asked, stats))
        };
        queries.par_chunks(self.dim()).map_init(Work::default, probe).collect()
    }

    /// Queries of a group, if there are `queries` in all.
    fn group_size(&self, queries: usize, params: &SearchParams) -> usize {
        let tables = self.index.quantizer().product().shape().table_len();
        let reservoir = params.candidates_or_default().saturating_mul(2 * size_of::<u64>());
        let fitting = GROUP_BYTES / tables.saturating_add(reservoir);
        fitting.min(queries.div_ceil(GROUPS_PER_THREAD * rayon::current_num_threads())).max(1)
    }

    /// Scans and verifies for all members of a group.
    fn search_group(
        &self,
        members: &[&(Asked, SearchStats)],
        params: &SearchParams,
        group: &mut Group,
    ) -> Result<Vec<Answer>> {
        let mut answers: Vec<Answer> = members.iter().map(|(_, stats)| (Vec::new(), stats.clone())).collect();
        let together = group.plan(members);
        let Group { scorings, visits, work } = group;
        for (((asked, _), (_, stats)), scoring) in members.iter().zip(&mut answers).zip(&mut *scorings) {
            match together {
                true => self.scan_lead(params, asked, scoring, work, stats),
                false => self.scan(params, asked, scoring, work, stats),
            }
        }
        if together {
            self.scan_together(visits, scorings, work, &mut answers);
        }
        for (((asked, _), (hits, stats)), scoring) in members.iter().zip(&mut answers).zip(&mut *scorings) {
            self.fetch_and_verify(params, asked, &mut scoring.best, work, hits, stats)?;
            self.rank(params.k, hits, stats);
            if self.views().is_some() && hits.len() < params.k {
                let mut scratch = Scratch { asked: asked.clone(), ..Scratch::default() };
                self.fill(params.k, Wanted { params, selection: None }, &mut scratch, hits, stats)?;
            }
        }
        Ok(answers)
    }

    /// Scans the lists that a query takes before those of its group.
    fn scan_lead(
        &self,
        params: &SearchParams,
        asked: &Asked,
        scoring: &mut Scoring,
        work: &mut Work,
        stats: &mut SearchStats,
    ) {
        let start = Instant::now();
        self.begin_scan(params, self.index.codes().widest_terms(), asked, scoring, work);
        asked.probes.iter().take(LEAD).for_each(|probe| self.scan_probe(probe, scoring, work, stats));
        stats.scan_ns = elapsed_ns(start);
    }

    /// Scans list by list, run by run, each for all of its visits.
    fn scan_together(&self, visits: &[Visit], scorings: &mut [Scoring], work: &mut Work, answers: &mut [Answer]) {
        let start = Instant::now();
        let codes = self.index.codes();
        let shape = codes.shape().code;
        for visits in visits.chunk_by(|a, b| a.list == b.list) {
            let list = codes.list(visits[0].list);
            for run in list.runs(shape) {
                for visit in visits {
                    let Scoring { tables, best } = &mut scorings[visit.place as usize];
                    let scale = tables.list_scale(visit.base, list.term_min, list.term_step);
                    let scan = ListScan { kernels: self.kernels, shape, tables: tables.scan_tables(), scale };
                    let rows = scan.run(&run, best, &mut work.scan, &mut |_| true);
                    answers[visit.place as usize].1.rows_scanned += rows as u64;
                }
            }
            visits.iter().for_each(|visit| answers[visit.place as usize].1.lists_probed += 1);
        }
        let each = elapsed_ns(start) / answers.len() as u64;
        answers.iter_mut().for_each(|(_, stats)| stats.scan_ns += each);
    }
}

impl Group {
    /// Makes room for the members, notes their visits by list, and says whether they should scan together.
    fn plan(&mut self, members: &[&(Asked, SearchStats)]) -> bool {
        let room = self.scorings.len().max(members.len());
        self.scorings.resize_with(room, Scoring::default);
        self.visits.clear();
        for ((asked, _), place) in members.iter().zip(0..) {
            let later = asked.probes.iter().skip(LEAD);
            self.visits.extend(later.map(|&Probe { list, base, .. }| Visit { list, place, base }));
        }
        self.visits.sort_unstable_by_key(|visit| (visit.list, visit.place));
        let lists = self.visits.chunk_by(|a, b| a.list == b.list).count();
        lists > 0 && self.visits.len() >= LEAST_SHARED * lists
    }
}

/// The queries (by their lists to scan, most promising first) in an order in which each run of `size` of them shares many
/// lists. A run grows like a snowball: from a query to those that share one of its [`NEAR`] best lists, from these to the
/// next ones.
fn neighbours_together(probes: &[&[Probe]], size: usize) -> Vec<usize> {
    let near = |query: usize| probes[query].iter().take(NEAR).map(|probe| probe.list);
    let mut by_list: Vec<(ListId, usize)> =
        (0..probes.len()).flat_map(|query| near(query).map(move |list| (list, query))).collect();
    by_list.sort_unstable();
    let (mut order, mut placed) = (Vec::with_capacity(probes.len()), vec![false; probes.len()]);
    let (mut opened, mut seeds) = (HashSet::new(), 0..probes.len());
    while order.len() < probes.len() {
        let mut next = order.len();
        let end = probes.len().min(next + size);
        opened.clear();
        while order.len() < end {
            if next == order.len() {
                // Nothing left is near to this run.
                let seed = seeds.find(|&query| !placed[query]).expect("fewer are placed than there are");
                placed[seed] = true;
                order.push(seed);
            }
            for list in near(order[next]).filter(|&list| opened.insert(list)) {
                let first = by_list.partition_point(|&(other, _)| other < list);
                let sharing = by_list[first..].iter().take_while(|&&(other, _)| other == list);
                for &(_, query) in sharing {
                    if order.len() < end && !std::mem::replace(&mut placed[query], true) {
                        order.push(query);
                    }
                }
            }
            next += 1;
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn order(lists: &[Vec<ListId>], size: usize) -> Vec<usize> {
        let probes: Vec<Vec<Probe>> =
            lists.iter().map(|lists| lists.iter().map(|&list| Probe { list, base: 0.0, gap: 0.0 }).collect()).collect();
        neighbours_together(&probes.iter().map(Vec::as_slice).collect::<Vec<_>>(), size)
    }

    #[test]
    fn groups_get_smaller_towards_the_end_for_several_threads() {
        let order: Vec<usize> = (0..1_000).collect();
        let sizes = |size, threads| tapered(&order, size, threads).iter().map(|g| g.len()).collect::<Vec<_>>();
        assert_eq!(sizes(300, 1), [300, 300, 300, 100]);
        let two = sizes(125, 2);
        assert_eq!(two.iter().sum::<usize>(), 1_000);
        assert!(two.is_sorted_by(|a, b| a >= b) && two[0] == 125 && two[two.len() - 1] <= LEAST_MEMBERS, "{two:?}");
        assert_eq!(tapered(&order, 7, 4).concat(), order);
        assert!(tapered(&[], 5, 2).is_empty());
    }

    proptest! {
        #[test]
        fn every_query_has_one_place(
            lists in prop::collection::vec(prop::collection::vec(0u32..30, 0..8), 0..120),
            size in 1usize..50,
        ) {
            let mut order = order(&lists, size);
            order.sort_unstable();
            prop_assert_eq!(order, (0..lists.len()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn neighbours_stand_together() {
        // Two neighbourhoods of 10 queries that come in turn; query i shares a list with i + 2.
        let lists: Vec<Vec<ListId>> = (0..20).map(|i| vec![i, i + 2]).collect();
        for size in [5, 10] {
            let order = order(&lists, size);
            let apart = order.chunks(size).filter(|run| run.iter().any(|query| query % 2 != run[0] % 2)).count();
            assert_eq!(apart, 0, "{order:?}");
        }
        // What is left over when a run is full begins the next ones.
        assert_eq!(order(&[vec![7], vec![7], vec![7], vec![8]], 2), [0, 1, 2, 3]);
    }

    #[test]
    fn a_group_scans_together_where_lists_are_shared() {
        let member = |lists: &[ListId]| {
            let probes = lists.iter().map(|&list| Probe { list, base: list as f32, gap: 0.0 }).collect();
            (Asked { probes, ..Asked::default() }, SearchStats::default())
        };
        let mut group = Group::default();
        let (a, b, c) = (member(&[9, 1, 2]), member(&[8, 2, 1]), member(&[7, 3, 4]));
        assert!(group.plan(&[&a, &b]), "each list but the leading ones is probed twice");
        let visits: Vec<_> = group.visits.iter().map(|v| (v.list, v.place, v.base)).collect();
        assert_eq!(visits, [(1, 0, 1.0), (1, 1, 1.0), (2, 0, 2.0), (2, 1, 2.0)]);
        assert!(!group.plan(&[&a, &b, &c]), "six visits to four lists");
        assert!(!group.plan(&[&member(&[1]), &member(&[])]), "nothing is left to share");
        assert_eq!(group.scorings.len(), 3, "the most there ever were");
    }
}
