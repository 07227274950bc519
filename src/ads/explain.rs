//! Why an ad is in an answer, or at which step it was lost and what would let it in.
//!
//! The search is done once as it was asked, and the ad is followed through it. Each step is judged by what the search itself uses:
//! the same filter, the same epoch, the same order of lists, the same codes.

use serde::Serialize;

use super::rank::{Candidate, RankBy, Ranking};
use super::search::{AdAnswer, AdQuery, Scanned, View};
use crate::attributes::{Filter, RecordFilter};
use crate::error::Result;
use crate::live::Place;
use crate::search::Scratch;
use crate::types::{Key, Row};

/// Candidates among which an ad is looked for, to say how many would have been needed.
const DEEPEST: usize = 100_000;

/// The steps that an ad goes through, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// It is in the version, or among the fresh ads.
    Known,
    /// Its attributes pass the filter.
    Filter,
    /// It may be shown now.
    Eligibility,
    /// The request does not block it.
    Block,
    /// Its list was scanned.
    Probe,
    /// Its code made it a candidate.
    Scan,
    /// Its dense vector was scored.
    Verify,
    /// It is relevant enough.
    MinRelevance,
    /// It is among the best.
    Rank,
    /// No cap keeps it out.
    Diversity,
}

/// What became of the ad at one step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// Which one.
    pub step: Stage,
    /// Whether the ad got through.
    pub passed: bool,
    /// With figures.
    pub detail: String,
}

/// The way of one ad through one search.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// The ad.
    pub key: Key,
    /// Whether it is in the answer.
    pub found: bool,
    /// Its place in the answer, from 0 with the offset counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<usize>,
    /// The first step that it did not get through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost_at: Option<Stage>,
    /// What would let it through that step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// All steps up to that one.
    pub steps: Vec<Step>,
}

impl Explanation {
    fn new(key: Key) -> Explanation {
        Explanation { key, found: false, rank: None, lost_at: None, remedy: None, steps: Vec::new() }
    }

    fn pass(&mut self, step: Stage, detail: impl Into<String>) {
        self.steps.push(Step { step, passed: true, detail: detail.into() });
    }

    fn lose(mut self, step: Stage, detail: impl Into<String>, remedy: impl Into<String>) -> Explanation {
        self.steps.push(Step { step, passed: false, detail: detail.into() });
        self.lost_at = Some(step);
        self.remedy = Some(remedy.into());
        self
    }
}

impl View<'_> {
    /// Follows the ad `key` through `query`.
    ///
    /// # Errors
    /// As those of [`View::search`].
    pub fn explain(&self, query: &AdQuery, key: Key, scratch: &mut Scratch) -> Result<Explanation> {
        let mut way = Explanation::new(key);
        let place = self.best_place(query, key, scratch)?;
        match place {
            Place::Base(row) => way.pass(Stage::Known, format!("row {row} of the version")),
            Place::Delta(_) => way.pass(Stage::Known, "a fresh ad, searched exactly"),
            Place::Nowhere => {
                let detail = "neither the version nor the fresh ads have this key";
                return Ok(way.lose(Stage::Known, detail, "upsert the ad, or look the key up"));
            }
        }
        let way = match self.explain_refusals(query, place, way)? {
            Ok(way) => way,
            Err(lost) => return Ok(lost),
        };
        let answer =
            self.search(&AdQuery { offset: 0, limit: query.offset + query.limit, ..query.clone() }, scratch)?;
        // What was found is followed, be it by another view than the one that the query would like best.
        let served = answer.hits.iter().find(|hit| hit.key == key).map(|hit| hit.place);
        let place = served.unwrap_or(place);
        let way = match place {
            Place::Delta(_) | Place::Nowhere => way,
            Place::Base(row) => match self.explain_scan(query, row, &answer, scratch, way)? {
                Ok(way) => way,
                Err(lost) => return Ok(lost),
            },
        };
        self.explain_order(query, key, place, &answer, scratch, way)
    }

    /// Filter, eligibility, block.
    fn explain_refusals(
        &self,
        query: &AdQuery,
        place: Place,
        mut way: Explanation,
    ) -> Result<std::result::Result<Explanation, Explanation>> {
        match self.failed_condition(query, place)? {
            Some(condition) => {
                let remedy = "change the filter or the attributes of the ad";
                return Ok(Err(way.lose(Stage::Filter, format!("{condition} does not hold for it"), remedy)));
            }
            None if query.filter.is_empty() => way.pass(Stage::Filter, "there is no filter"),
            None => way.pass(Stage::Filter, "all conditions hold"),
        }
        let standing = self.standing(place);
        match standing.eligible(self.now) {
            Err(reason) if query.serving => {
                let remedy = "resume it in the control table, or search with eligibility all";
                return Ok(Err(way.lose(Stage::Eligibility, reason.to_string(), remedy)));
            }
            Err(reason) => way.pass(Stage::Eligibility, format!("not asked for ({reason})")),
            Ok(()) => way.pass(Stage::Eligibility, "it may be shown now"),
        }
        if query.block.keys.contains(&way.key) || query.block.stops(&standing) {
            let detail = "the request blocks it, its advertiser or its campaign";
            return Ok(Err(way.lose(Stage::Block, detail, "take it off the request's block list")));
        }
        way.pass(Stage::Block, "the request does not block it");
        Ok(Ok(way))
    }

    /// Probe and scan, for the query vector that likes the ad best.
    fn explain_scan(
        &self,
        query: &AdQuery,
        row: Row,
        answer: &AdAnswer,
        scratch: &mut Scratch,
        mut way: Explanation,
    ) -> Result<std::result::Result<Explanation, Explanation>> {
        let base = self.snapshot.base();
        if query.params.exact {
            way.pass(Stage::Probe, "exact search looks at every row");
            way.pass(Stage::Scan, "exact search needs no candidates");
            return Ok(Ok(way));
        }
        if answer.stats.lists_probed == 0 {
            way.pass(Stage::Probe, "so few rows pass the filter that all of them are verified");
            way.pass(Stage::Scan, "no candidates had to be chosen");
            return Ok(Ok(way));
        }
        let number = self.best_vector(query, row, scratch)?;
        let vector = &query.vectors[number].0;
        let (list, rank) = base.list_rank(vector, row, scratch)?;
        let Some(&Scanned { lists, candidates }) = answer.scanned.get(number) else { return Ok(Ok(way)) };
        let of = base.index().manifest().lists;
        let detail = format!("list {list} is number {} of {of}; {lists} were scanned", rank + 1);
        let position = self.code_rank(query, answer.reach, vector, row, scratch, DEEPEST)?;
        // What the answer has was found, if by another of the vectors.
        let found = answer.hits.iter().any(|hit| hit.key == way.key);
        if position.is_none() && rank >= lists && !found {
            let remedy = format!("raise params.nprobe to {} or more, or give a higher recall_target", rank + 1);
            return Ok(Err(way.lose(Stage::Probe, detail, remedy)));
        }
        way.pass(Stage::Probe, detail);
        let detail = match position {
            Some(position) => format!("{position} rows have better codes; {candidates} were verified"),
            None => format!("it is not among the best {DEEPEST} codes of these lists"),
        };
        if found || position.is_some_and(|position| position < candidates) {
            way.pass(Stage::Scan, detail);
            return Ok(Ok(way));
        }
        let remedy = match position {
            Some(position) => format!("raise params.candidates to {} or more", position + 1),
            None => "raise params.candidates, or search exactly".to_string(),
        };
        Ok(Err(way.lose(Stage::Scan, detail, remedy)))
    }

    /// Relevance, order and caps.
    fn explain_order(
        &self,
        query: &AdQuery,
        key: Key,
        place: Place,
        answer: &AdAnswer,
        scratch: &mut Scratch,
        mut way: Explanation,
    ) -> Result<Explanation> {
        let candidate = self.best_candidate(query, key, place, scratch)?;
        way.pass(Stage::Verify, format!("its score is {}, its relevance {}", candidate.score, candidate.relevance));
        if !query.ranking.is_relevant(candidate.relevance) {
            let least = query.ranking.min_relevance.unwrap_or_default();
            let detail = format!("min_relevance is {least}");
            return Ok(way.lose(Stage::MinRelevance, detail, format!("lower it to {} or less", candidate.relevance)));
        }
        way.pass(
            Stage::MinRelevance,
            match query.ranking.min_relevance {
                Some(least) => format!("at least {least} is asked for"),
                None => "no threshold is set".to_string(),
            },
        );
        if let Some(rank) = answer.hits.iter().position(|hit| hit.key == key) {
            way.pass(Stage::Rank, format!("{rank} ads rank above it"));
            way.pass(Stage::Diversity, "no cap keeps it out");
            way.rank = Some(rank);
            way.found = rank >= query.offset;
            if !way.found {
                let detail = format!("{rank} ads rank above it, and the first {} are skipped", query.offset);
                return Ok(way.lose(Stage::Rank, detail, "lower the offset"));
            }
            return Ok(way);
        }
        let above = self.rank_without_cap(query, key, answer, scratch)?;
        let wanted = query.offset + query.limit;
        match above {
            Some(above) if above < wanted && query.ranking.diversity.is_some() => {
                way.pass(Stage::Rank, format!("{above} ads rank above it"));
                Ok(way.lose(Stage::Diversity, "ads of the same value above it fill the cap", "raise diversity.max"))
            }
            Some(above) => {
                let bid = if query.ranking.by == RankBy::Relevance { "" } else { ", or its bid" };
                let remedy = format!("raise limit to {} or more{bid}", above + 1);
                Ok(way.lose(Stage::Rank, format!("{above} ads rank above it"), remedy))
            }
            None => Ok(way.lose(Stage::Rank, "too many ads rank above it", "raise limit and params.candidates")),
        }
    }
}

impl View<'_> {
    /// The first condition of the filter that a place does not meet, as the client wrote it.
    fn failed_condition(&self, query: &AdQuery, place: Place) -> Result<Option<String>> {
        let filter = &query.filter;
        let alone = |filter: Filter| -> Result<bool> { self.passes(&filter, place) };
        for condition in &filter.must {
            if !alone(Filter { must: vec![condition.clone()], ..Filter::default() })? {
                return Ok(Some(format!("must {}", shown(condition))));
            }
        }
        for condition in &filter.must_not {
            if !alone(Filter { must_not: vec![condition.clone()], ..Filter::default() })? {
                return Ok(Some(format!("must_not {}", shown(condition))));
            }
        }
        if !alone(Filter { should: filter.should.clone(), ..Filter::default() })? {
            return Ok(Some("no condition of should".to_string()));
        }
        Ok(None)
    }

    /// Whether what lies at a place passes a filter.
    fn passes(&self, filter: &Filter, place: Place) -> Result<bool> {
        if filter.is_empty() {
            return Ok(true);
        }
        let columns = self.columns()?;
        match place {
            Place::Base(row) => Ok(columns.compile(filter)?.passes(row)),
            Place::Delta(place) => {
                let filter = RecordFilter::new(filter, columns.schema())?;
                Ok(self.snapshot.delta_row(place).is_some_and(|row| filter.passes(row.attributes())))
            }
            Place::Nowhere => Ok(false),
        }
    }

    /// Where the ad lies: of one with several views, where the one lies that the query vectors like best.
    fn best_place(&self, query: &AdQuery, key: Key, scratch: &mut Scratch) -> Result<Place> {
        let mut best: Option<(f32, Place)> = None;
        for place in self.snapshot.places(key)? {
            let relevance = self.best_candidate(query, key, place, scratch)?.relevance;
            if best.is_none_or(|best| relevance > best.0) {
                best = Some((relevance, place));
            }
        }
        Ok(best.map_or(Place::Nowhere, |best| best.1))
    }

    /// Which query vector gives a row the highest relevance.
    fn best_vector(&self, query: &AdQuery, row: Row, scratch: &mut Scratch) -> Result<usize> {
        let mut best = (f32::NEG_INFINITY, 0);
        for (number, (vector, weight)) in query.vectors.iter().enumerate() {
            let score = self.score(vector, Place::Base(row), scratch)?;
            let relevance = self.relevance(score) * weight;
            if relevance > best.0 {
                best = (relevance, number);
            }
        }
        Ok(best.1)
    }

    /// The ad as a candidate of the query vector that likes it best.
    fn best_candidate(&self, query: &AdQuery, key: Key, place: Place, scratch: &mut Scratch) -> Result<Candidate> {
        let mut best: Option<Candidate> = None;
        for (number, (vector, _)) in query.vectors.iter().enumerate() {
            let score = self.score(vector, place, scratch)?;
            let candidate = self.candidate(query, key, place, score, number);
            if best.as_ref().is_none_or(|best| candidate.relevance > best.relevance) {
                best = Some(candidate);
            }
        }
        Ok(best.expect("a query has vectors"))
    }

    /// How many candidates rank above the ad if there is no cap and no end of the list.
    fn rank_without_cap(
        &self,
        query: &AdQuery,
        key: Key,
        answer: &AdAnswer,
        scratch: &mut Scratch,
    ) -> Result<Option<usize>> {
        let ranking = Ranking { diversity: None, ..query.ranking.clone() };
        // More hits must not mean more candidates: these are the candidates of the search as it was asked.
        let limit = answer.reach.pool.max(query.offset + query.limit);
        let mut all = AdQuery { ranking, offset: 0, limit, most_candidates: limit, ..query.clone() };
        if !all.params.exact && all.params.recall_target == 0.0 {
            (all.params.nprobe, all.params.candidates) = (answer.reach.lists, limit);
        }
        let answer = self.search(&all, scratch)?;
        Ok(answer.hits.iter().position(|hit| hit.key == key))
    }
}

fn shown(condition: &crate::attributes::Condition) -> String {
    serde_json::to_string(condition).unwrap_or_default()
}
