//! Searching: what may be asked, and what is answered.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use crate::ads::Dropped;
use crate::attributes::Filter;
use crate::search::SearchStats;

/// Body of `POST /search`. Exactly one of `vector`, `vector_b64`, `text`, `key` and `vectors` is the query.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::server) struct SearchRequest {
    /// The query vector, `dim` finite numbers.
    pub(in crate::server) vector: Option<Vec<f32>>,
    /// The query vector as base64 of little-endian elements of `dtype`.
    pub(in crate::server) vector_b64: Option<String>,
    /// Element type of `vector_b64`; f32 when left out.
    pub(in crate::server) dtype: Option<Dtype>,
    /// A query in words: one of the known query texts, or any where the server has an encoder.
    pub(in crate::server) text: Option<String>,
    /// Which of the tasks of the query encoder the query is of; its map is laid over every query vector. None: vectors as they are.
    pub(in crate::server) task: Option<String>,
    /// "More like this": the key of a row, which itself is left out of the hits.
    pub(in crate::server) key: Option<u64>,
    /// Several queries, each with a weight: one answer, in which an ad's relevance is the best that any of them gives it.
    pub(in crate::server) vectors: Option<Vec<QueryPart>>,
    /// What the attributes of hits must be.
    #[schema(value_type = Option<FilterSchema>)]
    pub(in crate::server) filter: Option<Filter>,
    /// Whether hits must be eligible now: `serving` when left out.
    pub(in crate::server) eligibility: Option<Eligibility>,
    /// Hits are at least this relevant.
    pub(in crate::server) min_relevance: Option<f32>,
    /// What hits are ordered by: `relevance` when left out.
    pub(in crate::server) rank: Option<Rank>,
    /// The power of relevance in eCPM; 1 when left out.
    pub(in crate::server) alpha: Option<f32>,
    /// At most so many hits of one advertiser, or of one value of an attribute.
    pub(in crate::server) diversity: Option<DiversityRequest>,
    /// Ads that must not be found.
    pub(in crate::server) block: Option<BlockRequest>,
    /// Say of each hit where it was found and what it is worth.
    pub(in crate::server) explain: Option<bool>,
    /// Requests with the same key are answered by the same version while traffic is split.
    pub(in crate::server) split_key: Option<String>,
    /// Hits wanted; 10 when left out.
    pub(in crate::server) limit: Option<u64>,
    /// Best hits to skip; 0 when left out.
    pub(in crate::server) offset: Option<u64>,
    /// How hard to search.
    pub(in crate::server) params: Option<Effort>,
    /// Time for the search from the arrival of the request.
    pub(in crate::server) timeout_ms: Option<u64>,
    /// At the deadline answer with the best so far, flagged, instead of 504.
    pub(in crate::server) allow_partial: Option<bool>,
    /// Add the fields stored with each hit.
    pub(in crate::server) with_fields: Option<bool>,
    /// Add what each step did.
    pub(in crate::server) stats: Option<bool>,
}

/// One of several queries: exactly one of `vector`, `vector_b64`, `text` and `key`.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::server) struct QueryPart {
    /// As in a search.
    pub(in crate::server) vector: Option<Vec<f32>>,
    /// As in a search.
    pub(in crate::server) vector_b64: Option<String>,
    /// As in a search.
    pub(in crate::server) dtype: Option<Dtype>,
    /// As in a search.
    pub(in crate::server) text: Option<String>,
    /// As in a search.
    pub(in crate::server) key: Option<u64>,
    /// Its scores are multiplied by this; 1 when left out.
    pub(in crate::server) weight: Option<f32>,
}

/// Which ads may be found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::server) enum Eligibility {
    /// Those that may be shown now.
    #[default]
    Serving,
    /// All.
    All,
}

/// What hits are ordered by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::server) enum Rank {
    /// Score of the dense vector.
    #[default]
    Relevance,
    /// Expected revenue.
    Ecpm,
}

/// A cap on hits that are alike.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::server) struct DiversityRequest {
    /// `advertiser`, `campaign`, `ad_group`, or the name of an attribute.
    pub(in crate::server) key: String,
    /// Most hits of one value.
    pub(in crate::server) max: u64,
}

/// Ads that must not be found.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::server) struct BlockRequest {
    /// These ads.
    pub(in crate::server) keys: Vec<u64>,
    /// All of these advertisers.
    pub(in crate::server) advertisers: Vec<u64>,
    /// All of these campaigns.
    pub(in crate::server) campaigns: Vec<u64>,
}

/// `params` of a request; what is left out is the default of the index.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::server) struct Effort {
    /// Lists to probe.
    pub(in crate::server) nprobe: Option<u64>,
    /// Candidates to verify.
    pub(in crate::server) candidates: Option<u64>,
    /// Mean recall to aim for, in place of both.
    pub(in crate::server) recall_target: Option<f32>,
    /// Score every row exactly; the other parameters do not apply then.
    pub(in crate::server) exact: Option<bool>,
    /// Weight of the code score beside the dense score; 0 when left out. Not beside rank `ecpm`. Ads that came after the version was built
    /// have no code: their order is by the dense score alone.
    pub(in crate::server) sparse_weight: Option<f32>,
}

/// Element type of `vector_b64`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::server) enum Dtype {
    /// 32-bit float.
    #[default]
    F32,
    /// 16-bit IEEE float.
    F16,
}

/// Body of `POST /v1/collections/{c}/search/batch`: what a query leaves out is taken from here.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::server) struct BatchRequest {
    pub(in crate::server) queries: Vec<SearchRequest>,
    task: Option<String>,
    #[schema(value_type = Option<FilterSchema>)]
    filter: Option<Filter>,
    eligibility: Option<Eligibility>,
    min_relevance: Option<f32>,
    rank: Option<Rank>,
    alpha: Option<f32>,
    diversity: Option<DiversityRequest>,
    block: Option<BlockRequest>,
    split_key: Option<String>,
    explain: Option<bool>,
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
pub(in crate::server) struct NpyParams {
    /// As in a search.
    task: Option<String>,
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
    pub(in crate::server) fn into_queries(self) -> Vec<SearchRequest> {
        let fill = |query: SearchRequest| SearchRequest {
            task: query.task.or_else(|| self.task.clone()),
            filter: query.filter.or_else(|| self.filter.clone()),
            eligibility: query.eligibility.or(self.eligibility),
            min_relevance: query.min_relevance.or(self.min_relevance),
            rank: query.rank.or(self.rank),
            alpha: query.alpha.or(self.alpha),
            diversity: query.diversity.or_else(|| self.diversity.clone()),
            block: query.block.or_else(|| self.block.clone()),
            split_key: query.split_key.or_else(|| self.split_key.clone()),
            explain: query.explain.or(self.explain),
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
    pub(in crate::server) fn request(&self, vector: Vec<f32>) -> SearchRequest {
        SearchRequest {
            vector: Some(vector),
            task: self.task.clone(),
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
pub(in crate::server) struct Found<'a> {
    pub(in crate::server) coverage: &'a Coverage,
    pub(in crate::server) hits: &'a [FoundHit],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::server) stats: Option<StatsAnswer<'a>>,
}

/// What each step did, and what was dropped.
#[derive(Serialize, ToSchema)]
pub(in crate::server) struct StatsAnswer<'a> {
    #[serde(flatten)]
    pub(in crate::server) steps: &'a SearchStats,
    pub(in crate::server) dropped: Dropped,
}

/// How much of what was asked for the answer stands on.
#[derive(Serialize, ToSchema)]
pub(in crate::server) struct Coverage {
    pub(in crate::server) complete: bool,
    /// Share of the planned lists that were searched.
    pub(in crate::server) fraction: f32,
    /// Why it is not complete.
    pub(in crate::server) degraded: Vec<&'static str>,
}

/// One hit.
#[derive(Serialize, ToSchema)]
pub(in crate::server) struct FoundHit {
    pub(in crate::server) key: u64,
    /// Score of the dense vector under the metric.
    pub(in crate::server) score: f32,
    /// The score as a number that grows with likeness whatever the metric, times the weight of the query vector.
    pub(in crate::server) relevance: f32,
    /// The bid that holds for the ad; left out where nobody has said one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::server) bid_micros: Option<u64>,
    /// Expected revenue of a thousand impressions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::server) ecpm_micros: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::server) advertiser: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::server) campaign: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::server) ad_group: Option<u64>,
    /// Which of `vectors` it owes its relevance to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::server) vector: Option<usize>,
    /// Which of its views it owes its score to, where ads have views: 0 is its first vector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::server) view: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::server) explain: Option<HitExplained>,
    /// The stored JSON, passed on as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub(in crate::server) fields: Option<Box<RawValue>>,
}

/// Where a hit was found and what it is worth.
#[derive(Serialize, ToSchema)]
pub(in crate::server) struct HitExplained {
    /// `version` or `delta`.
    pub(in crate::server) place: &'static str,
    /// Its list, and how many lists were more promising.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::server) list: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::server) list_rank: Option<usize>,
    /// Click rate that counts in eCPM.
    pub(in crate::server) ctr: f32,
    /// What it was ordered by.
    pub(in crate::server) ordered_by: f64,
}

/// The answer to a single search.
#[derive(Serialize, ToSchema)]
pub(in crate::server) struct SearchAnswer<'a> {
    pub(in crate::server) request_id: &'a str,
    pub(in crate::server) took_ms: f64,
    pub(in crate::server) index_version: &'a str,
    pub(in crate::server) control_epoch: u64,
    #[serde(flatten)]
    pub(in crate::server) found: Found<'a>,
}

/// The answer to a batch; `results` are [`Found`] that the workers have written already.
#[derive(Serialize, ToSchema)]
pub(in crate::server) struct BatchAnswer<'a> {
    pub(in crate::server) request_id: &'a str,
    pub(in crate::server) took_ms: f64,
    pub(in crate::server) index_version: &'a str,
    pub(in crate::server) control_epoch: u64,
    #[schema(value_type = Vec<Found>)]
    pub(in crate::server) results: Vec<Box<RawValue>>,
}

/// What `GET /v1/collections/{c}` tells.
#[derive(Serialize, ToSchema)]
pub(in crate::server) struct CollectionAnswer<'a> {
    pub(in crate::server) name: &'a str,
    pub(in crate::server) index_version: &'a str,
    pub(in crate::server) control_epoch: u64,
    /// Ads that can be found.
    pub(in crate::server) ads: u64,
    /// Those of them that came, or were replaced, after the version was built.
    pub(in crate::server) delta_ads: usize,
    /// Rows that can be found: ads, or views of them.
    pub(in crate::server) rows: u64,
    /// Those of them that came after the version was built.
    pub(in crate::server) delta_rows: usize,
    /// Rows of the version that were replaced or deleted.
    pub(in crate::server) tombstones: usize,
    /// Whether ads and control may be changed.
    pub(in crate::server) writable: bool,
    /// What can be filtered by.
    pub(in crate::server) attributes: Vec<AttributeAnswer>,
    pub(in crate::server) dim: usize,
    pub(in crate::server) metric: String,
    pub(in crate::server) memory_bytes: u64,
    pub(in crate::server) notes: &'a [String],
    pub(in crate::server) known_queries: usize,
    /// What makes vectors of texts that are not known; null where texts must be known ones.
    pub(in crate::server) text_encoder: Option<TextEncoderAnswer<'a>>,
    /// Tasks that a search may name.
    pub(in crate::server) tasks: &'a [String],
    pub(in crate::server) limits: LimitsAnswer,
}

/// An encoder of texts.
#[derive(Serialize, ToSchema)]
pub(in crate::server) struct TextEncoderAnswer<'a> {
    pub(in crate::server) id: &'a str,
    /// `bert` or `static`.
    pub(in crate::server) kind: &'static str,
    /// Tokens of a text that are read at most.
    pub(in crate::server) max_tokens: usize,
}

/// An attribute that can be filtered by.
#[derive(Serialize, ToSchema)]
pub(in crate::server) struct AttributeAnswer {
    pub(in crate::server) name: String,
    /// `keyword`, `integer`, `float`, `boolean` or `keywords`.
    pub(in crate::server) r#type: String,
}

/// The limits that requests are held to.
#[derive(Serialize, ToSchema)]
pub(in crate::server) struct LimitsAnswer {
    /// Largest body.
    pub(in crate::server) body_bytes: usize,
    /// Most connections at once.
    pub(in crate::server) connections: usize,
    /// Largest offset + limit.
    pub(in crate::server) hits: usize,
    pub(in crate::server) nprobe: usize,
    pub(in crate::server) candidates: usize,
    /// Most queries in a batch.
    pub(in crate::server) batch: usize,
    /// Whether exact search may be asked for.
    pub(in crate::server) exact: bool,
    /// Largest `timeout_ms`.
    pub(in crate::server) timeout_ms: u64,
    /// `timeout_ms` of a request that names none.
    pub(in crate::server) default_timeout_ms: u64,
    /// Longest wait for a worker.
    pub(in crate::server) queue_ms: u64,
}

/// A filter, as documents describe it; [`Filter`] is what is read.
#[derive(ToSchema)]
#[allow(dead_code)]
pub(in crate::server) struct FilterSchema {
    /// All of these hold.
    must: Option<Vec<ConditionSchema>>,
    /// At least one of these holds, if there is any.
    should: Option<Vec<ConditionSchema>>,
    /// None of these holds.
    must_not: Option<Vec<ConditionSchema>>,
}

/// A condition: exactly one of `match`, `any` and `range`.
#[derive(ToSchema)]
#[allow(dead_code)]
pub(in crate::server) struct ConditionSchema {
    /// Name of an attribute.
    attribute: String,
    /// A string, a number, true or false.
    #[schema(value_type = Option<Value>)]
    r#match: Option<()>,
    /// One of these.
    #[schema(value_type = Option<Vec<Value>>)]
    any: Option<()>,
    /// `gt`, `gte`, `lt`, `lte`.
    #[schema(value_type = Option<Object>)]
    range: Option<()>,
}
