//! Ads and the control table: what may be written, and what is answered item by item.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::search::{Dtype, SearchRequest};
use crate::ads::control::{Entity, Reason};

/// One line of `PUT .../ads`: exactly one of `vector` and `vector_b64`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::server) struct AdItem {
    /// The ad's key.
    pub(in crate::server) key: u64,
    /// Its vector, as the encoder gives it.
    pub(in crate::server) vector: Option<Vec<f32>>,
    /// The vector as base64 of little-endian elements of `dtype`.
    pub(in crate::server) vector_b64: Option<String>,
    /// Element type of `vector_b64`; f32 when left out.
    pub(in crate::server) dtype: Option<Dtype>,
    /// What is filtered by and returned with hits.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub(in crate::server) attributes: Map<String, Value>,
}

/// Body of `POST .../ads/delete`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::server) struct DeleteRequest {
    pub(in crate::server) keys: Vec<u64>,
}

/// The answer to a write: one item a line.
#[derive(Serialize, ToSchema)]
pub(in crate::server) struct WriteAnswer<'a> {
    pub(in crate::server) request_id: &'a str,
    /// Number of the last change that is durable now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::server) sequence: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::server) control_epoch: Option<u64>,
    pub(in crate::server) accepted: usize,
    pub(in crate::server) rejected: usize,
    pub(in crate::server) items: Vec<ItemAnswer>,
}

/// What became of one line.
#[derive(Serialize, ToSchema)]
pub(in crate::server) struct ItemAnswer {
    /// Number of the line, from 1.
    pub(in crate::server) line: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::server) key: Option<u64>,
    pub(in crate::server) status: ItemStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::server) problem: Option<ItemProblem>,
}

/// Whether a line was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::server) enum ItemStatus {
    /// It is durable and visible.
    Ok,
    /// It was not taken; nothing of it was kept.
    Error,
}

/// Why a line was not taken.
#[derive(Serialize, ToSchema)]
pub(in crate::server) struct ItemProblem {
    pub(in crate::server) code: &'static str,
    pub(in crate::server) detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::server) pointer: Option<String>,
    pub(in crate::server) remedy: String,
}

/// The answer to `GET .../ads/{key}`.
#[derive(Serialize, ToSchema)]
pub(in crate::server) struct AdAnswer {
    pub(in crate::server) key: u64,
    /// `version` or `delta`.
    pub(in crate::server) place: &'static str,
    pub(in crate::server) index_version: String,
    pub(in crate::server) control_epoch: u64,
    /// What was stored with it, as it was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub(in crate::server) attributes: Option<Box<RawValue>>,
    pub(in crate::server) standing: StandingAnswer,
}

/// What the control table says of an ad now.
#[derive(Serialize, ToSchema)]
pub(in crate::server) struct StandingAnswer {
    pub(in crate::server) eligible: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub(in crate::server) reason: Option<Reason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::server) detail: Option<String>,
    pub(in crate::server) bid_micros: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::server) ctr: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::server) advertiser: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::server) campaign: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::server) ad_group: Option<u64>,
}

/// The answer to `GET .../control/{level}/{id}`.
#[derive(Serialize)]
pub(in crate::server) struct EntityAnswer {
    pub(in crate::server) control_epoch: u64,
    #[serde(flatten)]
    pub(in crate::server) entity: Entity,
}

/// Body of `POST .../explain`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::server) struct ExplainRequest {
    /// The search, as it would be sent.
    pub(in crate::server) query: SearchRequest,
    /// The ad in question.
    pub(in crate::server) key: u64,
}

/// Body of `POST .../recall`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::server) struct RecallRequest {
    /// Queries to measure with; 100 when left out. Fewer where time does not suffice: the answer says how many.
    pub(in crate::server) queries: Option<u64>,
    /// What to ask beside the query itself, as in a search: limit, params, filter, rank and so on.
    pub(in crate::server) search: Option<SearchRequest>,
}

/// The answer to `POST .../recall`.
#[derive(Serialize, ToSchema)]
pub(in crate::server) struct RecallAnswer<'a> {
    pub(in crate::server) request_id: &'a str,
    pub(in crate::server) index_version: &'a str,
    /// Queries measured with.
    pub(in crate::server) queries: usize,
    /// Mean share of the best ads that were found.
    pub(in crate::server) recall: f64,
    pub(in crate::server) standard_error: f64,
    /// Mean share of the best list's revenue that the found one has.
    pub(in crate::server) ecpm_recall: f64,
    /// Median time of a search, in milliseconds.
    pub(in crate::server) median_ms: f64,
}
