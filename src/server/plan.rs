//! From a request to a plan: every limit is checked here, so that what reaches the engine is known to be sound.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::admission::Demand;
use super::api::{BlockRequest, DiversityRequest, Dtype, Effort, Eligibility, QueryPart, Rank, SearchRequest};
use super::config::ServerConfig;
use super::known::KnownQueries;
use super::nearest::nearest;
use super::problem::Problem;
use super::tasks::TaskMaps;
use crate::ads::{AdQuery, Block, CapBy, Diversity, RankBy, Ranking};
use crate::attributes::Attribute;
use crate::dataset::Scalar;
use crate::encoder::Encoder;
use crate::error::Error;
use crate::index::Calibration;
use crate::search::SearchParams;
use crate::types::{Key, Metric};

/// Hits of a request that names no `limit`.
const DEFAULT_LIMIT: u64 = 10;

/// Largest power of relevance in eCPM: beyond it every relevance below 1 is nothing.
const MAX_ALPHA: f32 = 100.0;
/// Largest weight of one of several queries.
const MAX_WEIGHT: f32 = 1e6;
/// Most of several queries, and most entries of a list of what must not be found.
pub(super) const MAX_VECTORS: usize = 32;
const MAX_BLOCKED: usize = 10_000;
/// What can be capped in every index.
const OWNERS: [&str; 3] = ["advertiser", "campaign", "ad_group"];
/// Longest key by which traffic is split, in bytes.
const MAX_SPLIT_KEY: usize = 256;

/// Standard base64, with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a request is held to.
pub(super) struct Rules<'a> {
    pub(super) config: &'a ServerConfig,
    pub(super) known: &'a KnownQueries,
    pub(super) tasks: &'a TaskMaps,
    pub(super) encoder: Option<&'a Encoder>,
    pub(super) dim: usize,
    pub(super) metric: Metric,
    /// What recall targets are met by.
    pub(super) calibration: &'a [Calibration],
    /// What can be filtered by, and capped.
    pub(super) attributes: &'a [Attribute],
}

/// A request that can be carried out.
#[derive(Debug)]
pub(super) struct Plan {
    /// What is searched for, each with the weight of its scores.
    pub(super) queries: Vec<(Query, f32)>,
    /// Whether there were several queries, so that hits say whose they are.
    pub(super) several: bool,
    /// All else that is asked of the engine; its vectors are those of `queries`, once they are read.
    pub(super) ad: AdQuery,
    pub(super) deadline: Instant,
    pub(super) timeout_ms: u64,
    pub(super) allow_partial: bool,
    pub(super) with_fields: bool,
    pub(super) explain: bool,
    pub(super) stats: bool,
}

impl Plan {
    /// What it asks of a worker.
    pub(super) fn demand(&self) -> Demand {
        Demand { params: self.ad.params.clone(), by: self.ad.ranking.by, vectors: self.queries.len() }
    }
}

/// What is searched for.
#[derive(Debug)]
pub(super) enum Query {
    /// A vector of the index's dimension, finite.
    Vector(Vec<f32>),
    /// The vector of this row, to be read by the worker.
    Key(Key),
}

/// The weight asked for, within its range; none is 0.
fn sparse_weight(asked: Option<f32>) -> Result<f32, Problem> {
    let (weight, max) = (asked.unwrap_or(0.0), SearchParams::MAX_SPARSE_WEIGHT);
    if (0.0..=max).contains(&weight) {
        return Ok(weight);
    }
    let detail = format!("sparse_weight is {weight}");
    let remedy = format!("give 0 to {max}, or leave it out for 0");
    Err(Problem::meaning("params_out_of_range", "/params/sparse_weight", detail, remedy))
}

/// The vector in base64.
pub(super) fn decode(text: &str, dtype: Option<Dtype>) -> Result<Vec<f32>, Problem> {
    let remedy = "send standard base64 of little-endian elements of dtype";
    let bad = |detail: String| Problem::meaning("bad_base64", "/vector_b64", detail, remedy);
    let scalar = match dtype.unwrap_or_default() {
        Dtype::F32 => Scalar::F32,
        Dtype::F16 => Scalar::F16,
    };
    let bytes = BASE64.decode(text).map_err(|error| bad(error.to_string()))?;
    scalar.decode(&bytes).ok_or_else(|| bad(format!("{} bytes are not a whole number of elements", bytes.len())))
}

/// The order asked for, and what limits it.
fn ranking(request: &SearchRequest) -> Result<Ranking, Problem> {
    let alpha = request.alpha.unwrap_or(1.0);
    if !(alpha > 0.0 && alpha <= MAX_ALPHA) {
        let remedy = format!("give a power above 0 and at most {MAX_ALPHA}");
        return Err(Problem::meaning("alpha_out_of_range", "/alpha", format!("alpha is {alpha}"), remedy));
    }
    let by = match request.rank.unwrap_or_default() {
        Rank::Ecpm => RankBy::Ecpm { alpha },
        Rank::Relevance if request.alpha.is_some() => {
            let detail = "alpha stands beside rank relevance, which does not use it";
            return Err(Problem::meaning("invalid_value", "/alpha", detail, "give rank \"ecpm\", or leave alpha out"));
        }
        Rank::Relevance => RankBy::Relevance,
    };
    if let Some(least) = request.min_relevance.filter(|least| !least.is_finite()) {
        let detail = format!("min_relevance is {least}");
        return Err(Problem::meaning("not_finite", "/min_relevance", detail, "send a finite number"));
    }
    let diversity = request.diversity.as_ref().map(diversity).transpose()?;
    Ok(Ranking { by, min_relevance: request.min_relevance, diversity })
}

fn diversity(asked: &DiversityRequest) -> Result<Diversity, Problem> {
    if asked.max == 0 {
        let remedy = "allow at least 1 hit of a value, or leave diversity out";
        return Err(Problem::meaning("diversity_out_of_range", "/diversity/max", "max is 0", remedy));
    }
    let by = match asked.key.as_str() {
        // As in `OWNERS`.
        "advertiser" => CapBy::Advertiser,
        "campaign" => CapBy::Campaign,
        "ad_group" => CapBy::AdGroup,
        attribute => CapBy::Attribute(attribute.to_string()),
    };
    Ok(Diversity { by, max: usize::try_from(asked.max).unwrap_or(usize::MAX) })
}

fn block(asked: BlockRequest) -> Result<Block, Problem> {
    let BlockRequest { keys, advertisers, campaigns } = asked;
    for (name, ids) in [("keys", &keys), ("advertisers", &advertisers), ("campaigns", &campaigns)] {
        if ids.len() > MAX_BLOCKED {
            let (pointer, detail) = (format!("/block/{name}"), format!("{name} has {} entries", ids.len()));
            return Err(Problem::meaning("block_too_long", pointer, detail, format!("give at most {MAX_BLOCKED}")));
        }
    }
    Ok(Block {
        keys: keys.into_iter().collect(),
        advertisers: advertisers.into_iter().collect(),
        campaigns: campaigns.into_iter().collect(),
    })
}

fn check_split_key(asked: Option<&str>) -> Result<(), Problem> {
    let length = asked.map_or(0, str::len);
    if length <= MAX_SPLIT_KEY {
        return Ok(());
    }
    let detail = format!("split_key has {length} bytes");
    Err(Problem::meaning("split_key_too_long", "/split_key", detail, format!("give at most {MAX_SPLIT_KEY}")))
}

impl Rules<'_> {
    /// The plan of `request`, whose time runs from `arrived`.
    pub(super) fn plan(&self, mut request: SearchRequest, arrived: Instant) -> Result<Plan, Problem> {
        let (limit, offset) = self.window(&request)?;
        let timeout_ms = self.timeout(request.timeout_ms)?;
        let deadline = arrived + Duration::from_millis(timeout_ms);
        let effort = request.params.unwrap_or_default();
        let ranking = ranking(&request)?;
        let block = block(request.block.take().unwrap_or_default())?;
        let filter = request.filter.take().unwrap_or_default();
        let serving = request.eligibility.unwrap_or_default() == Eligibility::Serving;
        check_split_key(request.split_key.as_deref())?;
        let flag = |asked: Option<bool>| asked.unwrap_or(false);
        let (allow_partial, with_fields) = (flag(request.allow_partial), flag(request.with_fields));
        let (explain, stats) = (flag(request.explain), flag(request.stats));
        let several = request.vectors.is_some();
        let task = request.task.take();
        let mut queries = self.queries(request)?;
        if let Some(task) = task {
            self.tasks.map(&task, &mut queries)?;
        }
        let params = self.params(effort, limit + offset, deadline)?;
        self.check_ranking(&ranking, &params)?;
        let (vectors, effort, most_candidates) = (Vec::new(), 1.0, self.config.limits.candidates);
        let ad = AdQuery { vectors, params, limit, offset, filter, serving, block, ranking, effort, most_candidates };
        Ok(Plan { queries, several, ad, deadline, timeout_ms, allow_partial, with_fields, explain, stats })
    }

    /// Refuses orders that this index cannot give.
    fn check_ranking(&self, ranking: &Ranking, params: &SearchParams) -> Result<(), Problem> {
        if params.sparse_weight > 0.0 && ranking.by != RankBy::Relevance {
            let detail =
                format!("sparse_weight is {} beside rank ecpm, where codes contain bids", params.sparse_weight);
            let remedy = "leave sparse_weight out, or give rank \"relevance\"";
            return Err(Problem::meaning("invalid_value", "/params/sparse_weight", detail, remedy));
        }
        let Some(CapBy::Attribute(name)) = ranking.diversity.as_ref().map(|diversity| &diversity.by) else {
            return Ok(());
        };
        let known = self.attributes.iter().map(|attribute| attribute.name.as_str());
        if known.clone().any(|known| known == name) {
            return Ok(());
        }
        let near = nearest(name, known.chain(OWNERS)).map_or(String::new(), |near| format!("did you mean {near:?}? "));
        let remedy = format!("{near}give advertiser, campaign, ad_group or an attribute of the index");
        let detail = format!("there is no attribute {name:?}");
        Err(Problem::meaning("unknown_attribute", "/diversity/key", detail, remedy))
    }

    /// What is searched for: one query, or several with their weights.
    fn queries(&self, mut request: SearchRequest) -> Result<Vec<(Query, f32)>, Problem> {
        let Some(parts) = request.vectors.take() else { return Ok(vec![(self.query(request)?, 1.0)]) };
        if request.vector.is_some() || request.vector_b64.is_some() || request.text.is_some() || request.key.is_some() {
            let remedy = "put all queries into vectors, or give only one of vector, vector_b64, text, key";
            return Err(Problem::meaning("query_ambiguous", "/vectors", "there is a query beside vectors", remedy));
        }
        if parts.is_empty() || parts.len() > MAX_VECTORS {
            let detail = format!("vectors has {} entries", parts.len());
            return Err(Problem::meaning(
                "vectors_out_of_range",
                "/vectors",
                detail,
                format!("give 1 to {MAX_VECTORS} queries"),
            ));
        }
        let part = |(number, part): (usize, QueryPart)| {
            let weight = part.weight.unwrap_or(1.0);
            let place = format!("/vectors/{number}");
            if !(weight > 0.0 && weight <= MAX_WEIGHT) {
                let remedy = format!("give a weight above 0 and at most {MAX_WEIGHT}");
                let detail = format!("weight is {weight}");
                return Err(Problem::meaning("weight_out_of_range", format!("{place}/weight"), detail, remedy));
            }
            let QueryPart { vector, vector_b64, dtype, text, key, .. } = part;
            let request = SearchRequest { vector, vector_b64, dtype, text, key, ..SearchRequest::default() };
            Ok((self.query(request).map_err(|problem| problem.within(&place))?, weight))
        };
        parts.into_iter().enumerate().map(part).collect()
    }

    fn window(&self, request: &SearchRequest) -> Result<(usize, usize), Problem> {
        let (limit, offset) = (request.limit.unwrap_or(DEFAULT_LIMIT), request.offset.unwrap_or(0));
        let max = self.config.limits.hits as u64;
        let remedy = format!("keep limit at least 1 and limit + offset at most {max}");
        if limit == 0 || limit > max {
            return Err(Problem::meaning("limit_out_of_range", "/limit", format!("limit is {limit}"), remedy));
        }
        if offset > max - limit {
            let detail = format!("offset is {offset}, limit {limit}");
            return Err(Problem::meaning("offset_out_of_range", "/offset", detail, remedy));
        }
        Ok((limit as usize, offset as usize))
    }

    fn timeout(&self, asked: Option<u64>) -> Result<u64, Problem> {
        let timeouts = &self.config.timeouts;
        let ms = asked.unwrap_or(timeouts.search_ms);
        if ms == 0 || ms > timeouts.search_max_ms {
            let remedy = format!("give 1 to {} milliseconds", timeouts.search_max_ms);
            return Err(Problem::meaning("timeout_out_of_range", "/timeout_ms", format!("timeout_ms is {ms}"), remedy));
        }
        Ok(ms)
    }

    fn params(&self, effort: Effort, k: usize, deadline: Instant) -> Result<SearchParams, Problem> {
        let limits = &self.config.limits;
        let exact = effort.exact.unwrap_or(false);
        if exact && !limits.exact {
            let detail = "exact search is switched off on this server";
            return Err(Problem::meaning("exact_not_allowed", "/params/exact", detail, "raise nprobe and candidates"));
        }
        let bounded = |name: &str, value: Option<u64>, max: usize| match value {
            None => Ok(0), // The default of the index.
            Some(value) if (1..=max as u64).contains(&value) => Ok(value as usize),
            Some(value) => {
                let remedy = format!("give 1 to {max}, or leave it out for the default");
                let (pointer, detail) = (format!("/params/{name}"), format!("{name} is {value}"));
                Err(Problem::meaning("params_out_of_range", pointer, detail, remedy))
            }
        };
        Ok(SearchParams {
            k,
            nprobe: bounded("nprobe", effort.nprobe, limits.nprobe)?,
            candidates: bounded("candidates", effort.candidates, limits.candidates)?,
            recall_target: self.recall_target(effort, k)?,
            exact,
            geometric: false,
            sparse_weight: sparse_weight(effort.sparse_weight)?,
            deadline: Some(deadline),
            // What an ad query may do beyond its first round is up to it.
            ..SearchParams::default()
        })
    }

    /// The recall asked for, if the index can meet it; none is 0.
    fn recall_target(&self, effort: Effort, k: usize) -> Result<f32, Problem> {
        let Some(target) = effort.recall_target else { return Ok(0.0) };
        let wrong = |detail: String, remedy: &str| {
            Err(Problem::meaning("params_out_of_range", "/params/recall_target", detail, remedy))
        };
        if !(target > 0.0 && target < 1.0) {
            return wrong(format!("recall_target is {target}"), "give a share above 0 and below 1");
        }
        if effort.nprobe.is_some() || effort.candidates.is_some() || effort.exact == Some(true) {
            let detail = "recall_target stands beside nprobe, candidates or exact, in whose place it is";
            return wrong(detail.into(), "give one or the other");
        }
        match Calibration::for_k(self.calibration, k).and_then(|calibration| calibration.goal(target)) {
            Ok(_) => Ok(target),
            Err(error) => wrong(error.to_string(), "lower it, or give nprobe and candidates"),
        }
    }

    fn query(&self, request: SearchRequest) -> Result<Query, Problem> {
        let SearchRequest { vector, vector_b64, dtype, text, key, .. } = request;
        if let (Some(_), None) = (dtype, &vector_b64) {
            let detail = "dtype is the element type of vector_b64, which is not given";
            return Err(Problem::meaning("invalid_value", "/dtype", detail, "leave dtype out, or give vector_b64"));
        }
        match (vector, vector_b64, text, key) {
            (Some(vector), None, None, None) => self.vector(vector, "/vector").map(Query::Vector),
            (None, Some(text), None, None) => {
                let vector = decode(&text, dtype)?;
                self.vector(vector, "/vector_b64").map(Query::Vector)
            }
            (None, None, Some(text), None) => self.text(&text).map(Query::Vector),
            (None, None, None, Some(key)) => Ok(Query::Key(key)),
            (None, None, None, None) => {
                let remedy = "give one of vector, vector_b64, text, key, vectors";
                Err(Problem::meaning("query_missing", "", "the request has no query", remedy))
            }
            _ => {
                let remedy = "give only one of vector, vector_b64, text, key";
                Err(Problem::meaning("query_ambiguous", "", "the request has more than one query", remedy))
            }
        }
    }

    fn vector(&self, vector: Vec<f32>, pointer: &str) -> Result<Vec<f32>, Problem> {
        if vector.len() != self.dim {
            let detail = format!("the vector has {} elements; the index has {}", vector.len(), self.dim);
            return Err(Problem::meaning("wrong_dimension", pointer, detail, format!("send {} elements", self.dim)));
        }
        if let Some(place) = vector.iter().position(|element| !element.is_finite()) {
            let detail = format!("element {place} of the vector is {}", vector[place]);
            let pointer = if pointer == "/vector" { format!("{pointer}/{place}") } else { pointer.to_string() };
            return Err(Problem::meaning("not_finite", pointer, detail, "send finite 32-bit floats"));
        }
        if self.metric == Metric::Cosine && vector.iter().all(|element| *element == 0.0) {
            let detail = "all elements are zero, which has no direction for the cosine";
            return Err(Problem::meaning("zero_vector", pointer, detail, "send a vector that is not zero"));
        }
        Ok(vector)
    }

    fn text(&self, text: &str) -> Result<Vec<f32>, Problem> {
        if let Some(vector) = self.known.vector(text) {
            return Ok(vector.to_vec());
        }
        if let Some(encoder) = self.encoder {
            return encoder.encode_one(text).map_err(|error| match error {
                Error::InvalidParams { reason, .. } => {
                    Problem::meaning("text_not_encodable", "/text", reason, "send a few words, or a vector")
                }
                other => other.into(),
            });
        }
        let shown: String = text.chars().take(80).collect();
        let detail = format!("{shown:?} is not one of the {} known query texts", self.known.texts().len());
        let remedy = match self.known.offer(text) {
            near if near.is_empty() => "this server has no text encoder; send vector instead".to_string(),
            near => format!(
                "try {}, or send vector instead",
                near.iter().map(|n| format!("{n:?}")).collect::<Vec<_>>().join(", ")
            ),
        };
        Err(Problem::meaning("unknown_text", "/text", detail, remedy))
    }
}
