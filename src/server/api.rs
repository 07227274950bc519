//! What travels in bodies: requests as they may be written, answers as they are sent. Meaning is checked in `plan`.
//!
//! Unknown fields are refused everywhere: a mistyped `nprob` that is silently passed over would be a wrong answer.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use crate::search::SearchStats;

/// Body of `POST /search`. Exactly one of `vector`, `vector_b64`, `text` and `key` is the query.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SearchRequest {
    /// The query vector, `dim` finite numbers.
    pub(super) vector: Option<Vec<f32>>,
    /// The query vector as base64 of little-endian elements of `dtype`.
    pub(super) vector_b64: Option<String>,
    /// Element type of `vector_b64`; f32 when left out.
    pub(super) dtype: Option<Dtype>,
    /// One of the known query texts.
    pub(super) text: Option<String>,
    /// "More like this": the key of a row, which itself is left out of the hits.
    pub(super) key: Option<u64>,
    /// Hits wanted; 10 when left out.
    pub(super) limit: Option<u64>,
    /// Best hits to skip; 0 when left out.
    pub(super) offset: Option<u64>,
    /// How hard to search.
    pub(super) params: Option<Effort>,
    /// Time for the search from the arrival of the request.
    pub(super) timeout_ms: Option<u64>,
    /// At the deadline answer with the best so far, flagged, instead of 504.
    pub(super) allow_partial: Option<bool>,
    /// Add the fields stored with each hit.
    pub(super) with_fields: Option<bool>,
    /// Add what each step did.
    pub(super) stats: Option<bool>,
}

/// `params` of a request; what is left out is the default of the index.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Effort {
    /// Lists to probe.
    pub(super) nprobe: Option<u64>,
    /// Candidates to verify.
    pub(super) candidates: Option<u64>,
    /// Mean recall to aim for, in place of both.
    pub(super) recall_target: Option<f32>,
    /// Score every row exactly; the other parameters do not apply then.
    pub(super) exact: Option<bool>,
    /// Weight of the code score beside the dense score; 0 when left out.
    pub(super) sparse_weight: Option<f32>,
}

/// Element type of `vector_b64`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Dtype {
    /// 32-bit float.
    #[default]
    F32,
    /// 16-bit IEEE float.
    F16,
}

/// Body of `POST /v1/collections/{c}/search/batch`: what a query leaves out is taken from here.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BatchRequest {
    pub(super) queries: Vec<SearchRequest>,
    limit: Option<u64>,
    offset: Option<u64>,
    params: Option<Effort>,
    timeout_ms: Option<u64>,
    allow_partial: Option<bool>,
    with_fields: Option<bool>,
    stats: Option<bool>,
}

/// Query string of a batch whose body is a `.npy` matrix.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct NpyParams {
    limit: Option<u64>,
    offset: Option<u64>,
    nprobe: Option<u64>,
    candidates: Option<u64>,
    recall_target: Option<f32>,
    exact: Option<bool>,
    sparse_weight: Option<f32>,
    timeout_ms: Option<u64>,
    allow_partial: Option<bool>,
    with_fields: Option<bool>,
    stats: Option<bool>,
}

impl BatchRequest {
    /// The queries, each with what it left out.
    pub(super) fn into_queries(self) -> Vec<SearchRequest> {
        let fill = |query: SearchRequest| SearchRequest {
            limit: query.limit.or(self.limit),
            offset: query.offset.or(self.offset),
            params: query.params.or(self.params),
            timeout_ms: query.timeout_ms.or(self.timeout_ms),
            allow_partial: query.allow_partial.or(self.allow_partial),
            with_fields: query.with_fields.or(self.with_fields),
            stats: query.stats.or(self.stats),
            ..query
        };
        self.queries.into_iter().map(fill).collect()
    }
}

impl NpyParams {
    /// The request for one row of the matrix.
    pub(super) fn request(&self, vector: Vec<f32>) -> SearchRequest {
        SearchRequest {
            vector: Some(vector),
            limit: self.limit,
            offset: self.offset,
            params: Some(Effort {
                nprobe: self.nprobe,
                candidates: self.candidates,
                recall_target: self.recall_target,
                exact: self.exact,
                sparse_weight: self.sparse_weight,
            }),
            timeout_ms: self.timeout_ms,
            allow_partial: self.allow_partial,
            with_fields: self.with_fields,
            stats: self.stats,
            ..SearchRequest::default()
        }
    }
}

/// The answer to one query; in a batch, one of `results`.
#[derive(Serialize, ToSchema)]
pub(super) struct Found<'a> {
    pub(super) coverage: Coverage,
    pub(super) hits: Vec<FoundHit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stats: Option<&'a SearchStats>,
}

/// How much of what was asked for the answer stands on.
#[derive(Serialize, ToSchema)]
pub(super) struct Coverage {
    pub(super) complete: bool,
    /// Share of the planned lists that were searched.
    pub(super) fraction: f32,
    /// Why it is not complete.
    pub(super) degraded: Vec<&'static str>,
}

/// One hit.
#[derive(Serialize, ToSchema)]
pub(super) struct FoundHit {
    pub(super) key: u64,
    pub(super) score: f32,
    /// The stored JSON, passed on as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub(super) fields: Option<Box<RawValue>>,
}

/// The answer to a single search.
#[derive(Serialize, ToSchema)]
pub(super) struct SearchAnswer<'a> {
    pub(super) request_id: &'a str,
    pub(super) took_ms: f64,
    pub(super) index_version: &'a str,
    #[serde(flatten)]
    pub(super) found: Found<'a>,
}

/// The answer to a batch; `results` are [`Found`] that the workers have written already.
#[derive(Serialize, ToSchema)]
pub(super) struct BatchAnswer<'a> {
    pub(super) request_id: &'a str,
    pub(super) took_ms: f64,
    pub(super) index_version: &'a str,
    #[schema(value_type = Vec<Found>)]
    pub(super) results: Vec<Box<RawValue>>,
}

/// What `GET /v1/collections/{c}` tells.
#[derive(Serialize, ToSchema)]
pub(super) struct CollectionAnswer<'a> {
    pub(super) name: &'a str,
    pub(super) index_version: &'a str,
    pub(super) rows: u64,
    pub(super) dim: usize,
    pub(super) metric: String,
    pub(super) memory_bytes: u64,
    pub(super) notes: &'a [String],
    pub(super) known_queries: usize,
    pub(super) limits: LimitsAnswer,
}

/// The limits that requests are held to.
#[derive(Serialize, ToSchema)]
pub(super) struct LimitsAnswer {
    /// Largest body.
    pub(super) body_bytes: usize,
    /// Most connections at once.
    pub(super) connections: usize,
    /// Largest offset + limit.
    pub(super) hits: usize,
    pub(super) nprobe: usize,
    pub(super) candidates: usize,
    /// Most queries in a batch.
    pub(super) batch: usize,
    /// Whether exact search may be asked for.
    pub(super) exact: bool,
    /// Largest `timeout_ms`.
    pub(super) timeout_ms: u64,
    /// `timeout_ms` of a request that names none.
    pub(super) default_timeout_ms: u64,
    /// Longest wait for a worker.
    pub(super) queue_ms: u64,
}
