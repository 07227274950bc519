//! Versions: staging, activating, rolling back, splitting traffic.

use serde::Deserialize;
use utoipa::ToSchema;

/// Body of `POST .../versions`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::server) struct StageRequest {
    /// Folder of the index, within the folder of versions.
    pub(in crate::server) path: String,
}

/// Body of `POST .../activate`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::server) struct ActivateRequest {
    /// The version to serve.
    pub(in crate::server) version: String,
    /// Only if this one is active now.
    pub(in crate::server) if_current: Option<String>,
}

/// Body of `POST .../split`: both, or none to end it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::server) struct SplitRequest {
    /// The version that gets a share of the traffic.
    pub(in crate::server) version: Option<String>,
    /// Its share, above 0 and below 1.
    pub(in crate::server) share: Option<f32>,
}

/// Body of requests that say nothing.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::server) struct Nothing {}
