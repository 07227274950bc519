//! Errors as `application/problem+json` (RFC 9457).
//!
//! ```json
//! {"type": "about:blank", "title": "Unprocessable Content", "status": 422, "code": "wrong_dimension",
//!  "detail": "the vector has 3 elements; the index has 384", "pointer": "/vector", "remedy": "send 384 elements",
//!  "request_id": "5f0c9e2a71d84b36-1"}
//! ```
//! `code` is stable: programs branch on it. `pointer` (RFC 6901) leads to the offending value of the request, and the
//! value itself is in `detail`. A [`Problem`] travels as a response extension and is written by the outermost layer,
//! which knows the request id and sees every response, those of the router included.

use std::time::Duration;

use std::io::ErrorKind;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::pool::Lost;
use crate::ads::LowSpace;
use crate::error::Error;

/// One error, as the client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// HTTP status.
    pub status: StatusCode,
    /// Stable name of the kind of error.
    pub code: &'static str,
    /// What is wrong, with the bad value.
    pub detail: String,
    /// JSON pointer to the bad value, if there is one.
    pub pointer: Option<String>,
    /// What to do about it.
    pub remedy: String,
    /// Seconds after which to try again.
    pub retry_after: Option<u32>,
    /// How to say who asks (`WWW-Authenticate`).
    pub challenge: Option<&'static str>,
}

/// An error as it is sent.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct ProblemDocument<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    code: &'static str,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pointer: Option<&'a str>,
    remedy: &'a str,
    request_id: &'a str,
}

impl Problem {
    /// A problem without a place in the request.
    pub(super) fn new(
        status: StatusCode,
        code: &'static str,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Problem {
        let (detail, remedy) = (detail.into(), remedy.into());
        Problem { status, code, detail, pointer: None, remedy, retry_after: None, challenge: None }
    }

    /// The request is well formed but cannot be answered (422), because of the value at `pointer`.
    pub(super) fn meaning(
        code: &'static str,
        pointer: impl Into<String>,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Problem {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail, remedy).at(pointer)
    }

    /// The deadline has passed (504) after `ms` milliseconds.
    pub(super) fn deadline(ms: u64) -> Problem {
        let detail = format!("the deadline of {ms} ms passed before the answer was complete");
        let remedy = "raise timeout_ms, set allow_partial, or lower params.nprobe or params.candidates";
        Problem::new(StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded", detail, remedy)
    }

    pub(super) fn at(mut self, pointer: impl Into<String>) -> Problem {
        self.pointer = Some(pointer.into());
        self
    }

    /// Puts `prefix` before the pointer: the place of a query within a batch.
    pub(super) fn within(mut self, prefix: &str) -> Problem {
        self.pointer = Some(format!("{prefix}{}", self.pointer.unwrap_or_default()));
        self
    }

    /// The body, for a request named `request_id`.
    pub(super) fn body(&self, request_id: &str) -> Vec<u8> {
        let body = ProblemDocument {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            code: self.code,
            detail: &self.detail,
            pointer: self.pointer.as_deref(),
            remedy: &self.remedy,
            request_id,
        };
        serde_json::to_vec(&body).unwrap_or_default()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Lost> for Problem {
    fn from(lost: Lost) -> Problem {
        match lost {
            Lost::Full(waiting) => overloaded(format!("{waiting} requests are waiting already"), Duration::ZERO),
            Lost::Late(wait) => {
                let ms = wait.as_millis();
                overloaded(format!("the request would wait about {ms} ms for a worker, which is too long"), wait)
            }
            Lost::Panicked => internal("internal_error", "the request failed inside the server"),
        }
    }
}

/// The one place where the engine's errors become statuses. Messages about files of the server are kept from clients
/// and logged instead.
impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        let text = error.to_string();
        let unprocessable = StatusCode::UNPROCESSABLE_ENTITY;
        match error {
            Error::Io { source, .. } if source.kind() == ErrorKind::StorageFull => {
                tracing::error!(error = text, "the disk is full");
                disk_full(&source)
            }
            Error::Io { .. } => {
                tracing::error!(error = text, "input or output failed");
                internal("io_error", "a file of the server could not be read or written")
            }
            Error::Corrupt { .. } => {
                tracing::error!(error = text, "the index is damaged");
                internal("corrupt_index", "a file of the index is damaged")
            }
            Error::InvalidInput { .. } => {
                tracing::error!(error = text, "a file of the server cannot be used");
                internal("internal_error", "a file of the server cannot be used")
            }
            Error::Diverged { .. } => {
                tracing::error!(error = text, "training inside the server");
                internal("internal_error", "the request failed inside the server")
            }
            Error::Unsupported { .. } => Problem::new(unprocessable, "unsupported", text, "see the detail"),
            Error::Mismatch { .. } => Problem::new(unprocessable, "mismatch", text, "send what is expected"),
            Error::InvalidParams { name, reason } => {
                let problem = Problem::new(unprocessable, "invalid_params", text, "see the detail");
                Problem { pointer: pointer_of(name, &reason), ..problem }
            }
            Error::Overloaded(waiting) => Lost::Full(waiting).into(),
            Error::DeadlineExceeded(ms) => Problem::deadline(ms),
        }
    }
}

/// There is no room for a write (507): none left, or less than is to be left.
fn disk_full(source: &std::io::Error) -> Problem {
    let low = source.get_ref().and_then(|inner| inner.downcast_ref::<LowSpace>());
    let (detail, remedy) = match low {
        Some(low) => (
            format!("the disk of the state folder is nearly full ({low}); nothing was written"),
            "make room on the server, and send it again: writes resume by themselves; searches go on",
        ),
        None => (
            "the disk is full; what was sent is not acknowledged".to_string(),
            "make room, then restart the server; searches go on",
        ),
    };
    Problem::new(StatusCode::INSUFFICIENT_STORAGE, "disk_full", detail, remedy)
}

/// Code of a request that was refused because of load.
pub(super) const OVERLOADED: &str = "overloaded";

/// The server has more to do than it can (503); it will be through with that after `wait`.
fn overloaded(detail: String, wait: Duration) -> Problem {
    let remedy = "retry after the time in Retry-After, or send less";
    let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, OVERLOADED, detail, remedy);
    Problem { retry_after: Some(wait.as_secs().clamp(1, 60) as u32), ..problem }
}

/// Where a request says what the engine has named so, if it does. Reasons against a filter begin with the place within it.
fn pointer_of(name: &str, reason: &str) -> Option<String> {
    let fields = [
        "attributes",
        "bid_micros",
        "budget",
        "ctr",
        "end",
        "id",
        "level",
        "parent",
        "path",
        "share",
        "start",
        "status",
        "vector",
        "version",
        "views",
    ];
    match name {
        "filter" => {
            let place = reason.split_once(": ").map(|(place, _)| place).filter(|place| place.starts_with(['m', 's']));
            Some(place.map_or("/filter".to_string(), |place| format!("/filter/{place}")))
        }
        name => fields.contains(&name).then(|| format!("/{name}")),
    }
}

fn internal(code: &'static str, detail: &str) -> Problem {
    let remedy = "retry; if it persists, look up the request_id in the server's log";
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, code, detail, remedy)
}

/// The problem behind a bare status that the router made: no such route, no such method.
pub(super) fn of_router(status: StatusCode, method: &str, path: &str) -> Problem {
    match status {
        StatusCode::NOT_FOUND => {
            let remedy = "POST /search, or see /openapi.json for all routes";
            Problem::new(status, "no_such_route", format!("there is nothing at {path:?}"), remedy)
        }
        StatusCode::METHOD_NOT_ALLOWED => {
            let detail = format!("{path} does not answer {method}");
            Problem::new(status, "method_not_allowed", detail, "use a method of the Allow header")
        }
        _ => Problem::new(status, "bad_request", format!("{method} {path} cannot be answered"), "see the status"),
    }
}
