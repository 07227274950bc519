//! From a request to a plan: every limit is checked here, so that what reaches the engine is known to be sound.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::api::{Dtype, Effort, SearchRequest};
use super::config::ServerConfig;
use super::known::KnownQueries;
use super::problem::Problem;
use crate::dataset::Scalar;
use crate::index::Calibration;
use crate::search::SearchParams;
use crate::types::{Key, Metric};

/// Hits of a request that names no `limit`.
const DEFAULT_LIMIT: u64 = 10;

/// Standard base64, with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a request is held to.
pub(super) struct Rules<'a> {
    pub(super) config: &'a ServerConfig,
    pub(super) known: &'a KnownQueries,
    pub(super) dim: usize,
    pub(super) metric: Metric,
    /// What recall targets are met by.
    pub(super) calibration: &'a [Calibration],
}

/// A request that can be carried out.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) query: Query,
    /// `k` is limit + offset, and one more when the row of the key is to be left out.
    pub(super) params: SearchParams,
    pub(super) limit: usize,
    pub(super) offset: usize,
    pub(super) deadline: Instant,
    pub(super) timeout_ms: u64,
    pub(super) allow_partial: bool,
    pub(super) with_fields: bool,
    pub(super) stats: bool,
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

impl Rules<'_> {
    /// The plan of `request`, whose time runs from `arrived`.
    pub(super) fn plan(&self, request: SearchRequest, arrived: Instant) -> Result<Plan, Problem> {
        let (limit, offset) = self.window(&request)?;
        let timeout_ms = self.timeout(request.timeout_ms)?;
        let deadline = arrived + Duration::from_millis(timeout_ms);
        let effort = request.params.unwrap_or_default();
        let (allow_partial, with_fields, stats) = (request.allow_partial, request.with_fields, request.stats);
        let query = self.query(request)?;
        let k = limit + offset + usize::from(matches!(query, Query::Key(_)));
        Ok(Plan {
            query,
            params: self.params(effort, k, deadline)?,
            limit,
            offset,
            deadline,
            timeout_ms,
            allow_partial: allow_partial.unwrap_or(false),
            with_fields: with_fields.unwrap_or(false),
            stats: stats.unwrap_or(false),
        })
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
                let remedy = "send standard base64 of little-endian elements of dtype";
                let bad = |detail: String| Problem::meaning("bad_base64", "/vector_b64", detail, remedy);
                let scalar = match dtype.unwrap_or_default() {
                    Dtype::F32 => Scalar::F32,
                    Dtype::F16 => Scalar::F16,
                };
                let bytes = BASE64.decode(&text).map_err(|error| bad(error.to_string()))?;
                let vector = scalar
                    .decode(&bytes)
                    .ok_or_else(|| bad(format!("{} bytes are not a whole number of elements", bytes.len())))?;
                self.vector(vector, "/vector_b64").map(Query::Vector)
            }
            (None, None, Some(text), None) => self.text(&text).map(Query::Vector),
            (None, None, None, Some(key)) => Ok(Query::Key(key)),
            (None, None, None, None) => {
                let remedy = "give one of vector, vector_b64, text, key";
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
        let shown: String = text.chars().take(80).collect();
        let detail = format!("{shown:?} is not one of the {} known query texts", self.known.texts().len());
        let remedy = match self.known.offer(text) {
            near if near.is_empty() => "this server knows no query texts; send vector instead".to_string(),
            near => format!(
                "try {}, or send vector instead",
                near.iter().map(|n| format!("{n:?}")).collect::<Vec<_>>().join(", ")
            ),
        };
        Err(Problem::meaning("unknown_text", "/text", detail, remedy))
    }
}
