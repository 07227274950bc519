//! The routes of the service, and how bodies are read. Around them lies [`super::observe`].

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::api::{BatchAnswer, BatchRequest, CollectionAnswer, NpyParams, SearchAnswer, SearchRequest};
use super::observe::observe;
use super::problem::Problem;
use super::service::{Batch, Context, Service};
use super::{ads_routes, discover, openapi, parse, prompts, ui, watch};

pub(super) type Shared = State<Arc<Service>>;
pub(super) type Answer = Result<Response, Problem>;

/// All routes of `service`.
pub(super) fn router(service: Arc<Service>) -> Router {
    Router::new()
        .route("/search", post(search))
        .route("/v1/collections", get(discover::collections))
        .route("/v1/collections/{collection}", get(describe))
        .route("/v1/collections/{collection}/queries", get(discover::queries))
        .route("/v1/collections/{collection}/search", post(search_named))
        .route("/v1/collections/{collection}/search/batch", post(batch))
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/v1/status", get(watch::status))
        .route("/v1/slow", get(watch::slow))
        .route("/v1/limits", get(watch::limits))
        .route("/v1/prompts", post(prompts::prompts))
        .route("/openapi.json", get(openapi::document))
        .route("/docs", get(openapi::docs))
        .route("/docs/{file}", get(openapi::docs_file))
        .route("/ui", get(ui::page))
        .route("/ui/{file}", get(ui::file))
        .merge(ads_routes::routes())
        .fallback(|| async { StatusCode::NOT_FOUND })
        .layer(from_fn_with_state(service.clone(), observe))
        .with_state(service)
}

/// Answers one query in the default collection.
#[utoipa::path(post, path = "/search", tag = "search", request_body = SearchRequest,
    responses((status = 200, body = SearchAnswer)))]
pub(super) async fn search(State(service): Shared, Extension(context): Extension<Context>, request: Request) -> Answer {
    let body = json_body(&service, request).await?;
    Ok(json_response(service.search(body, context).await?))
}

/// Answers one query.
#[utoipa::path(post, path = "/v1/collections/{collection}/search", tag = "search", request_body = SearchRequest,
    params(("collection" = String, Path)),
    responses((status = 200, body = SearchAnswer)))]
pub(super) async fn search_named(
    shared: Shared,
    Path(name): Path<String>,
    context: Extension<Context>,
    request: Request,
) -> Answer {
    shared.check_collection(&name)?;
    search(shared, context, request).await
}

/// Answers many queries: all of them, or none.
#[utoipa::path(post, path = "/v1/collections/{collection}/search/batch", tag = "search",
    params(("collection" = String, Path), NpyParams),
    request_body(content((BatchRequest = "application/json"), (Vec<u8> = "application/x-npy"))),
    responses((status = 200, body = BatchAnswer)))]
pub(super) async fn batch(
    State(service): Shared,
    Path(name): Path<String>,
    Extension(context): Extension<Context>,
    request: Request,
) -> Answer {
    service.check_collection(&name)?;
    service.check_room()?;
    let params = parse::query_string(request.uri())?;
    let batch = match media(request.headers())? {
        Media::Npy => Batch::Npy(read_body(&service, request).await?, params),
        Media::Json if request.uri().query().is_none_or(str::is_empty) => {
            Batch::Json(read_body(&service, request).await?)
        }
        Media::Json => {
            let detail = "a JSON batch takes no query string";
            let remedy = "put all parameters into the JSON body";
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "unknown_parameter", detail, remedy));
        }
    };
    Ok(json_response(service.batch(batch, context).await?))
}

/// Describes the collection.
#[utoipa::path(get, path = "/v1/collections/{collection}", tag = "search",
    params(("collection" = String, Path)),
    responses((status = 200, body = CollectionAnswer)))]
pub(super) async fn describe(State(service): Shared, Path(name): Path<String>) -> Answer {
    service.check_collection(&name)?;
    Ok(json_response(service.describe()?))
}

/// Whether the process answers at all.
#[utoipa::path(get, path = "/livez", tag = "watching", responses((status = 200, body = String)))]
pub(super) async fn live() -> &'static str {
    "alive\n"
}

/// Whether new requests are wanted.
#[utoipa::path(get, path = "/readyz", tag = "watching",
    responses((status = 200, body = String)))]
pub(super) async fn ready(State(service): Shared) -> Answer {
    match service.draining() {
        false => Ok("ready\n".into_response()),
        true => {
            let remedy = "send new requests elsewhere";
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", "the server is shutting down", remedy))
        }
    }
}

/// Counters and histograms for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "watching", responses((status = 200, body = String)))]
pub(super) async fn metrics(State(service): Shared) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], service.metrics_text()).into_response()
}

pub(super) fn json_response(body: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// The body of a request that takes JSON and no query string.
pub(super) async fn json_body(service: &Service, request: Request) -> Result<Bytes, Problem> {
    refuse_query_string(&request)?;
    if media(request.headers())? != Media::Json {
        return Err(unsupported("application/x-npy", "send application/json, or a .npy body to .../search/batch"));
    }
    read_body(service, request).await
}

/// Refuses parameters that would be passed over.
pub(super) fn refuse_query_string(request: &Request) -> Result<(), Problem> {
    let Some(query) = request.uri().query().filter(|query| !query.is_empty()) else { return Ok(()) };
    let detail = format!("the query string {query:?} would be passed over");
    let remedy = "put all parameters into the JSON body";
    Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "unknown_parameter", detail, remedy))
}

#[derive(PartialEq, Eq)]
enum Media {
    Json,
    Npy,
}

fn media(headers: &HeaderMap) -> Result<Media, Problem> {
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
        return Err(unsupported(&format!("content encoding {encoding:?}"), "send the body uncompressed"));
    }
    let given = headers.get(header::CONTENT_TYPE).map_or(Ok(""), |value| value.to_str()).unwrap_or("?");
    let media = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match media.as_str() {
        "application/json" => Ok(Media::Json),
        "application/x-npy" | "application/octet-stream" => Ok(Media::Npy),
        "" => Err(unsupported("a body without Content-Type", "send Content-Type: application/json")),
        other => Err(unsupported(other, "send Content-Type: application/json (application/x-npy for a .npy batch)")),
    }
}

fn unsupported(what: &str, remedy: &str) -> Problem {
    let detail = format!("{what} is not understood here");
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail, remedy)
}

/// The whole body, within the limits of size and time.
pub(super) async fn read_body(service: &Service, request: Request) -> Result<Bytes, Problem> {
    let (limits, timeouts) = (&service.config().limits, &service.config().timeouts);
    let too_large = |size: String| {
        let remedy = format!("send at most {} bytes; split a batch", limits.body_bytes);
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", format!("the body has {size} bytes"), remedy)
    };
    // Whoever announces too much is refused before a byte of it is read.
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if let Some(bytes) = announced.filter(|bytes: &u64| *bytes > limits.body_bytes as u64) {
        return Err(too_large(bytes.to_string()));
    }
    let trail = request.extensions().get::<Context>().map(|context| context.trail.clone());
    let body = Limited::new(request.into_body(), limits.body_bytes).collect();
    match tokio::time::timeout(Duration::from_millis(timeouts.body_ms), body).await {
        Ok(Ok(body)) => {
            let body = body.to_bytes();
            trail.iter().for_each(|trail| trail.keep(&body));
            Ok(body)
        }
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large(format!("more than {}", limits.body_bytes))),
        Ok(Err(error)) => {
            let detail = format!("the body could not be read: {error}");
            Err(Problem::new(StatusCode::BAD_REQUEST, "unreadable_body", detail, "send the whole body"))
        }
        Err(_) => {
            let detail = format!("the body did not arrive within {} ms", timeouts.body_ms);
            Err(Problem::new(
                StatusCode::REQUEST_TIMEOUT,
                "body_timeout",
                detail,
                "send the body faster or make it smaller",
            ))
        }
    }
}
