//! The routes of ads, control, versions and explanations: bodies in, tasks of [`super::ads`] out.

use axum::Extension;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Request, State};
use axum::http::header;
use axum::routing::{get, patch, post, put};
use std::sync::Arc;

use super::auth::{Need, Scope};
use super::problem::Problem;
use super::routes::{Answer, Shared, json_response, read_body, refuse_query_string};
use super::service::{Context, Service};

/// The routes below a collection.
pub(super) fn routes() -> Router<Arc<Service>> {
    Router::new()
        .route("/v1/collections/{collection}/explain", post(explain))
        .route("/v1/collections/{collection}/recall", post(recall))
        .route("/v1/collections/{collection}/ads", put(put_ads))
        .route("/v1/collections/{collection}/ads/delete", post(delete_ads))
        .route("/v1/collections/{collection}/ads/{key}", get(ad))
        .route("/v1/collections/{collection}/control", patch(patch_control))
        .route("/v1/collections/{collection}/control/{level}/{id}", get(entity))
        .route("/v1/collections/{collection}/versions", get(versions).post(stage))
        .route("/v1/collections/{collection}/activate", post(activate))
        .route("/v1/collections/{collection}/rollback", post(roll_back))
        .route("/v1/collections/{collection}/split", post(split))
        .route("/v1/collections/{collection}/compact", post(compact))
}

/// What every body goes through.
async fn body(service: &Service, collection: &str, request: Request, lines: bool) -> Result<Bytes, Problem> {
    service.check_collection(collection)?;
    refuse_query_string(&request)?;
    let given = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let fits = match lines {
        true => ["application/x-ndjson", "application/ndjson", "application/jsonl", "application/json"]
            .contains(&media.as_str()),
        false => media == "application/json",
    };
    if !fits {
        let wanted = if lines { "application/x-ndjson, one JSON object a line" } else { "application/json" };
        let detail = format!("Content-Type {media:?} is not understood here");
        let status = axum::http::StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Err(Problem::new(status, "unsupported_media_type", detail, format!("send Content-Type: {wanted}")));
    }
    read_body(service, request).await
}

/// Reads the body and lets `task` answer it, on a thread that may wait.
async fn waiting(
    service: Arc<Service>,
    collection: &str,
    request: Request,
    lines: bool,
    task: impl FnOnce(&Service, &Bytes) -> Result<Vec<u8>, Problem> + Send + 'static,
) -> Answer {
    let body = body(&service, collection, request, lines).await?;
    Ok(json_response(service.blocking(move |service| task(service, &body)).await?))
}

/// Says why an ad is in the answer to a query, or at which step it was lost and what would let it in.
#[utoipa::path(post, path = "/v1/collections/{collection}/explain", tag = "search", params(("collection" = String, Path)),
    request_body = super::api::ExplainRequest,
    responses((status = 200, body = serde_json::Value)))]
pub(super) async fn explain(
    State(service): Shared,
    Path(name): Path<String>,
    Extension(context): Extension<Context>,
    request: Request,
) -> Answer {
    let body = body(&service, &name, request, false).await?;
    let task = move |service: &Service, context: &Context, worker: &mut _| service.explain(&body, context, worker);
    Ok(json_response(service.on_worker(context, task).await?))
}

/// Measures recall now: known or canary queries against looking at every ad, as many as there is time for (`timeout_ms` of the limits).
#[utoipa::path(post, path = "/v1/collections/{collection}/recall", tag = "watching", params(("collection" = String, Path)),
    request_body = super::api::RecallRequest,
    responses((status = 200, body = super::api::RecallAnswer)))]
pub(super) async fn recall(
    State(service): Shared,
    Path(name): Path<String>,
    Extension(context): Extension<Context>,
    request: Request,
) -> Answer {
    waiting(service, &name, request, false, move |service, body| service.measure_recall(body, &context)).await
}

/// Puts ads in or in the place of those with their keys: one JSON object a line, each answered; durable and visible when answered.
#[utoipa::path(put, path = "/v1/collections/{collection}/ads", tag = "ads", params(("collection" = String, Path)),
    request_body(content = super::api::AdItem, content_type = "application/x-ndjson"),
    responses((status = 200, body = super::api::WriteAnswer)))]
pub(super) async fn put_ads(
    State(service): Shared,
    Path(name): Path<String>,
    Extension(context): Extension<Context>,
    request: Request,
) -> Answer {
    waiting(service, &name, request, true, move |service, body| service.put_ads(body, &context)).await
}

/// Takes ads out.
#[utoipa::path(post, path = "/v1/collections/{collection}/ads/delete", tag = "ads", params(("collection" = String, Path)),
    request_body = super::api::DeleteRequest,
    responses((status = 200, body = super::api::WriteAnswer)))]
pub(super) async fn delete_ads(
    State(service): Shared,
    Path(name): Path<String>,
    Extension(context): Extension<Context>,
    request: Request,
) -> Answer {
    waiting(service, &name, request, false, move |service, body| service.delete_ads(body, &context)).await
}

/// One ad: where it lies, its attributes, and whether it may be shown now.
#[utoipa::path(get, path = "/v1/collections/{collection}/ads/{key}", tag = "ads",
    params(("collection" = String, Path), ("key" = u64, Path)),
    responses((status = 200, body = super::api::AdAnswer)))]
pub(super) async fn ad(
    State(service): Shared,
    Path((name, key)): Path<(String, String)>,
    Extension(context): Extension<Context>,
    request: Request,
) -> Answer {
    service.check_collection(&name)?;
    refuse_query_string(&request)?;
    Ok(json_response(service.on_worker(context, move |service, _, _| service.ad(&key)).await?))
}

/// Changes what advertisers, campaigns, ad groups and ads say of themselves: one JSON object a line, each answered; seen by the next
/// request when answered.
#[utoipa::path(patch, path = "/v1/collections/{collection}/control", tag = "control", params(("collection" = String, Path)),
    request_body(content = serde_json::Value, content_type = "application/x-ndjson"),
    responses((status = 200, body = super::api::WriteAnswer)))]
pub(super) async fn patch_control(
    State(service): Shared,
    Path(name): Path<String>,
    Extension(context): Extension<Context>,
    request: Request,
) -> Answer {
    waiting(service, &name, request, true, move |service, body| service.patch_control(body, &context)).await
}

/// What an entity of the control table says of itself.
#[utoipa::path(get, path = "/v1/collections/{collection}/control/{level}/{id}", tag = "control",
    params(("collection" = String, Path), ("level" = String, Path), ("id" = u64, Path)),
    responses((status = 200, body = serde_json::Value)))]
pub(super) async fn entity(
    State(service): Shared,
    Path((name, level, id)): Path<(String, String, String)>,
    request: Request,
) -> Answer {
    service.check_collection(&name)?;
    refuse_query_string(&request)?;
    Ok(json_response(service.blocking(move |service| service.entity(&level, &id)).await?))
}

/// The versions that are open: which is active, which was, which are ready, how traffic is split; with the scope admin also where they lie.
#[utoipa::path(get, path = "/v1/collections/{collection}/versions", tag = "versions", params(("collection" = String, Path)),
    responses((status = 200, body = serde_json::Value)))]
pub(super) async fn versions(State(service): Shared, Path(name): Path<String>, request: Request) -> Answer {
    service.check_collection(&name)?;
    refuse_query_string(&request)?;
    let with_paths = service.platform.keys.check(Need::Key(Scope::Admin), request.headers()).is_ok();
    Ok(json_response(service.blocking(move |service| service.versions(with_paths)).await?))
}

/// Opens a version, reads every byte of it, measures it with its canary queries, and lets it follow all changes.
#[utoipa::path(post, path = "/v1/collections/{collection}/versions", tag = "versions", params(("collection" = String, Path)),
    request_body = super::api::StageRequest,
    responses((status = 200, body = serde_json::Value)))]
pub(super) async fn stage(State(service): Shared, Path(name): Path<String>, request: Request) -> Answer {
    waiting(service, &name, request, false, Service::stage).await
}

/// Serves a staged version from now on.
#[utoipa::path(post, path = "/v1/collections/{collection}/activate", tag = "versions", params(("collection" = String, Path)),
    request_body = super::api::ActivateRequest,
    responses((status = 200, body = serde_json::Value)))]
pub(super) async fn activate(State(service): Shared, Path(name): Path<String>, request: Request) -> Answer {
    waiting(service, &name, request, false, Service::activate).await
}

/// Serves the version again that was active before.
#[utoipa::path(post, path = "/v1/collections/{collection}/rollback", tag = "versions", params(("collection" = String, Path)),
    request_body = super::api::Nothing,
    responses((status = 200, body = serde_json::Value)))]
pub(super) async fn roll_back(State(service): Shared, Path(name): Path<String>, request: Request) -> Answer {
    waiting(service, &name, request, false, Service::roll_back).await
}

/// Gives another version a share of the traffic, or ends that.
#[utoipa::path(post, path = "/v1/collections/{collection}/split", tag = "versions", params(("collection" = String, Path)),
    request_body = super::api::SplitRequest,
    responses((status = 200, body = serde_json::Value)))]
pub(super) async fn split(State(service): Shared, Path(name): Path<String>, request: Request) -> Answer {
    waiting(service, &name, request, false, Service::split).await
}

/// Makes a new version of the active one and all changes over it, and serves that.
#[utoipa::path(post, path = "/v1/collections/{collection}/compact", tag = "versions", params(("collection" = String, Path)),
    request_body = super::api::Nothing,
    responses((status = 200, body = serde_json::Value)))]
pub(super) async fn compact(State(service): Shared, Path(name): Path<String>, request: Request) -> Answer {
    waiting(service, &name, request, false, Service::compact).await
}
