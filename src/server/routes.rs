//! The routes, and the layer around them that names, counts and finishes every request.

use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{MatchedPath, Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use std::sync::Arc;

use super::problem::{Problem, of_router};
use super::service::{Batch, Context, Service};
use super::{discover, parse, ui};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest `x-request-id` that is taken over from the client.
const LONGEST_ID: usize = 128;

type Shared = State<Arc<Service>>;
type Answer = Result<Response, Problem>;

/// All routes of `service`.
pub(super) fn router(service: Arc<Service>) -> Router {
    Router::new()
        .route("/search", post(search))
        .route("/v1/collections", get(discover::collections))
        .route("/v1/collections/{collection}", get(describe))
        .route("/v1/collections/{collection}/queries", get(discover::queries))
        .route("/v1/collections/{collection}/search", post(search_named))
        .route("/v1/collections/{collection}/search/batch", post(batch))
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/ui", get(ui::page))
        .route("/ui/{file}", get(ui::file))
        .fallback(|| async { StatusCode::NOT_FOUND })
        .layer(from_fn_with_state(service.clone(), observe))
        .with_state(service)
}

async fn search(State(service): Shared, Extension(context): Extension<Context>, request: Request) -> Answer {
    if let Some(query) = request.uri().query().filter(|query| !query.is_empty()) {
        let detail = format!("the query string {query:?} would be passed over");
        let remedy = "put all parameters into the JSON body";
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "unknown_parameter", detail, remedy));
    }
    if media(request.headers())? != Media::Json {
        return Err(unsupported("application/x-npy", "send application/json, or a .npy body to .../search/batch"));
    }
    let body = read_body(&service, request).await?;
    Ok(json_response(service.search(body, context).await?))
}

async fn search_named(
    shared: Shared,
    Path(name): Path<String>,
    context: Extension<Context>,
    request: Request,
) -> Answer {
    shared.check_collection(&name)?;
    search(shared, context, request).await
}

async fn batch(
    State(service): Shared,
    Path(name): Path<String>,
    Extension(context): Extension<Context>,
    request: Request,
) -> Answer {
    service.check_collection(&name)?;
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

async fn describe(State(service): Shared, Path(name): Path<String>) -> Answer {
    service.check_collection(&name)?;
    Ok(json_response(service.describe()?))
}

async fn ready(State(service): Shared) -> Answer {
    match service.draining() {
        false => Ok("ready\n".into_response()),
        true => {
            let remedy = "send new requests elsewhere";
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", "the server is shutting down", remedy))
        }
    }
}

async fn metrics(State(service): Shared) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], service.metrics_text()).into_response()
}

pub(super) fn json_response(body: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
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
async fn read_body(service: &Service, request: Request) -> Result<Bytes, Problem> {
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
    let body = Limited::new(request.into_body(), limits.body_bytes).collect();
    match tokio::time::timeout(Duration::from_millis(timeouts.body_ms), body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
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

/// Names the request, lets the routes answer, turns problems into bodies, counts.
async fn observe(State(service): Shared, mut request: Request, next: Next) -> Response {
    let arrived = Instant::now();
    let request_id = own_id(request.headers()).unwrap_or_else(|| service.next_request_id());
    request.extensions_mut().insert(Context { arrived, request_id: request_id.clone() });
    let route = request.extensions().get::<MatchedPath>().cloned();
    let (method, path) = (request.method().clone(), request.uri().path().to_string());
    let mut response = finish(next.run(request).await, &method, &path, &request_id);
    if let Ok(id) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    let (status, took) = (response.status(), arrived.elapsed());
    service.metrics.request(route.as_ref().map_or("other", MatchedPath::as_str), status.as_u16(), took);
    tracing::debug!(%method, path, status = status.as_u16(), took_us = took.as_micros() as u64, request_id = &*request_id);
    response
}

/// The client's own `x-request-id`, if it is short and of visible characters.
fn own_id(headers: &HeaderMap) -> Option<Arc<str>> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    let fits = (1..=LONGEST_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then(|| id.into())
}

/// Gives bare errors (the router's, too) their problem body, and OPTIONS its answer.
fn finish(mut response: Response, method: &Method, path: &str, request_id: &str) -> Response {
    let status = response.status();
    if status == StatusCode::METHOD_NOT_ALLOWED && method == Method::OPTIONS {
        *response.status_mut() = StatusCode::NO_CONTENT;
        return response;
    }
    if status.as_u16() < 400 {
        return response;
    }
    let problem = response.extensions_mut().remove::<Problem>();
    let problem = problem.unwrap_or_else(|| of_router(status, method.as_str(), path));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.remove(header::CONTENT_LENGTH);
    if let Some(seconds) = problem.retry_after {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    // The rest of a body that was not read would be taken for the next request.
    if matches!(status, StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    *response.body_mut() = Body::from(problem.body(request_id));
    response
}
