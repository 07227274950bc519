//! The routes for whoever watches the server: status, slow requests, limits.

use axum::extract::State;

use super::routes::{Answer, Shared, json_response};
use super::service::json;
use super::status::Present;
use crate::build::resident_memory;

/// How the server has done in the last two minutes.
#[utoipa::path(get, path = "/v1/status", tag = "watching",
    responses((status = 200, body = super::status::StatusAnswer)))]
pub(super) async fn status(State(service): Shared) -> Answer {
    let present = Present {
        queue_depth: service.pool().queued(),
        backlog: service.pool().backlog(),
        resident_bytes: resident_memory(),
        index_version: service.present().version.at.id.clone(),
    };
    Ok(json_response(json(&service.status().answer(present))?))
}

/// The slowest and the latest slow requests, with commands that send them again.
#[utoipa::path(get, path = "/v1/slow", tag = "watching",
    responses((status = 200, body = super::slow_log::SlowAnswer)))]
pub(super) async fn slow(State(service): Shared) -> Answer {
    Ok(json_response(json(&service.platform.slow.answer(&service.platform.target()))?))
}

/// The limits that requests are held to.
#[utoipa::path(get, path = "/v1/limits", tag = "watching",
    responses((status = 200, body = super::api::LimitsAnswer)))]
pub(super) async fn limits(State(service): Shared) -> Answer {
    Ok(json_response(json(&service.limits())?))
}
