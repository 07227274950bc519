//! The layer around the routes: names every request, asks for its key, finishes its answer, counts it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::Instrument;

use super::auth::need;
use super::pace::Pace;
use super::problem::{OVERLOADED, Problem, of_router};
use super::service::{Context, Service};
use super::slow_log::SlowRequest;
use super::status::Outcome;
use super::telemetry::{Answered, TRACEPARENT, TraceContext};
use super::trail::Trail;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Routes whose latencies `/v1/status` tells.
const SEARCHES: [&str; 3] =
    ["/search", "/v1/collections/{collection}/search", "/v1/collections/{collection}/search/batch"];

/// Longest `x-request-id` that is taken over from the client.
const LONGEST_ID: usize = 128;

/// What is known of a request before anything is done with it.
struct Seen {
    at: SystemTime,
    arrived: Instant,
    context: TraceContext,
    request_id: Arc<str>,
    trail: Arc<Trail>,
    method: Method,
    path: String,
    route: Option<MatchedPath>,
    content_type: Option<String>,
}

/// Names the request, lets the routes answer, turns problems into bodies, counts.
pub(super) async fn observe(State(service): State<Arc<Service>>, mut request: Request, next: Next) -> Response {
    let seen = Seen::of(&service, &request);
    let (arrived, request_id, trail) = (seen.arrived, seen.request_id.clone(), seen.trail.clone());
    let pace = request.extensions().get::<Pace>().cloned();
    request.extensions_mut().insert(Context { arrived, request_id, trail });
    let needed = need(&seen.method, seen.route.as_ref().map(MatchedPath::as_str));
    let allowed = service.platform.keys.check(needed, request.headers());
    let span = tracing::info_span!(
        "request",
        trace_id = format_args!("{:032x}", seen.context.trace),
        request_id = &*seen.request_id
    );
    let answer = async {
        match allowed {
            Ok(()) => next.run(request).await,
            Err(problem) => problem.into_response(),
        }
    };
    let response = answer.instrument(span.clone()).await;
    if let Some(problem) = response.extensions().get::<Problem>() {
        service.metrics.failed(problem.code);
        if problem.code == OVERLOADED {
            slow_down(&service, seen.arrived, pace.as_ref());
        }
    }
    let mut response = finish(response, &seen.method, &seen.path, &seen.request_id);
    if let Ok(id) = HeaderValue::from_str(&seen.request_id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    if let Ok(trace) = HeaderValue::from_str(&seen.context.header()) {
        response.headers_mut().insert(TRACEPARENT, trace);
    }
    span.in_scope(|| seen.account(&service, response.status()));
    response
}

impl Seen {
    fn of(service: &Service, request: &Request) -> Seen {
        let (headers, arrived) = (request.headers(), Instant::now());
        let media = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        Seen {
            at: SystemTime::now(),
            arrived,
            context: service.platform.telemetry.context(headers),
            request_id: own_id(headers).unwrap_or_else(|| service.next_request_id()),
            trail: Arc::new(Trail::new(arrived)),
            method: request.method().clone(),
            path: request.uri().path_and_query().map_or("/", |path| path.as_str()).to_string(),
            route: request.extensions().get::<MatchedPath>().cloned(),
            content_type: media.map(String::from),
        }
    }

    /// Tells whoever wants to know how it ended.
    fn account(&self, service: &Service, status: StatusCode) {
        let (took, route) = (self.arrived.elapsed(), self.route.as_ref().map_or("other", MatchedPath::as_str));
        service.metrics.request(route, status.as_u16(), took);
        let platform = &service.platform;
        if route == "/search" || route.starts_with("/v1/collections") {
            let searched = status.is_success() && SEARCHES.contains(&route);
            platform.status.record(outcome(status), searched.then_some(took));
        }
        let slow = platform.slow.wants(took);
        platform.telemetry.answered(&Answered {
            #[cfg(feature = "otlp")]
            context: self.context,
            #[cfg(feature = "otlp")]
            at: self.at,
            request_id: &self.request_id,
            method: self.method.as_str(),
            route,
            status: status.as_u16(),
            took,
            trail: &self.trail,
            slow,
        });
        if slow {
            platform.slow.keep(self.slow(service, status, took));
        }
    }

    fn slow(&self, service: &Service, status: StatusCode, took: Duration) -> SlowRequest {
        let body = self.trail.body();
        SlowRequest {
            at_unix_ms: (self.at + took).duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64,
            took_ms: (took.as_secs_f64() * 1e6).round() / 1e3,
            status: status.as_u16(),
            request_id: self.request_id.to_string(),
            trace_id: format!("{:032x}", self.context.trace),
            method: self.method.to_string(),
            path: self.path.clone(),
            content_type: self.content_type.clone(),
            queries: self.trail.queries(),
            effort_lowered: self.trail.was_lowered(),
            steps: self.trail.times(),
            body_bytes: body.map_or(0, |body| body.len()),
            body: body.and_then(|body| service.platform.slow.text(body)),
        }
    }
}

/// Counts a refusal; its connection rests if there are too many.
fn slow_down(service: &Service, arrived: Instant, pace: Option<&Pace>) {
    if let (Some(until), Some(pace)) = (service.platform.refusals.refuse(arrived), pace) {
        service.metrics.rested.fetch_add(1, Relaxed);
        pace.rest(until);
    }
}

fn outcome(status: StatusCode) -> Outcome {
    match status {
        StatusCode::SERVICE_UNAVAILABLE => Outcome::Shed,
        status if status.is_server_error() => Outcome::Failed,
        _ => Outcome::Answered,
    }
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
    let problem =
        problem.unwrap_or_else(|| of_router(status, method.as_str(), path.split('?').next().unwrap_or_default()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.remove(header::CONTENT_LENGTH);
    if let Some(seconds) = problem.retry_after {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    if let Some(challenge) = problem.challenge {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    }
    // The rest of a body that was not read would be taken for the next request.
    if matches!(status, StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    *response.body_mut() = Body::from(problem.body(request_id));
    response
}
