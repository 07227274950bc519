//! The slowest and the latest slow requests, with their bodies, so that they can be sent again.
//!
//! A request that was fast costs one comparison. Both lists hold the same entries where they overlap. A body is kept whole or
//! not at all: a part of a request cannot be sent again.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::trail::StepTimes;

/// `[slow_log]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct SlowLogSection {
    pub threshold_ms: u64,
    pub capacity: usize,
    pub body_bytes: usize,
}

/// One slow request.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct SlowRequest {
    /// When it had been answered, in milliseconds since 1970.
    pub(super) at_unix_ms: u64,
    pub(super) took_ms: f64,
    pub(super) status: u16,
    pub(super) request_id: String,
    pub(super) trace_id: String,
    pub(super) method: String,
    /// Path and query string.
    pub(super) path: String,
    pub(super) content_type: Option<String>,
    /// Queries searched for it; more than one in a batch.
    pub(super) queries: u64,
    /// Whether load had lowered its effort.
    pub(super) effort_lowered: bool,
    pub(super) steps: StepTimes,
    pub(super) body_bytes: usize,
    /// The body; left out where it is longer than `slow_log.body_bytes` or no text.
    pub(super) body: Option<String>,
}

/// `GET /v1/slow`.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SlowAnswer {
    threshold_ms: u64,
    capacity: usize,
    /// The slowest since the start, slowest first.
    slowest: Vec<Replayable>,
    /// The latest, latest first.
    latest: Vec<Replayable>,
}

/// A slow request and how to send it again.
#[derive(Debug, Serialize, ToSchema)]
struct Replayable {
    #[serde(flatten)]
    request: SlowRequest,
    /// A command for a shell; there is none where the body is not kept.
    curl: Option<String>,
}

/// Where requests can be sent again.
pub(super) struct Target {
    pub(super) address: SocketAddr,
    pub(super) encrypted: bool,
    pub(super) with_key: bool,
}

/// The slow requests of one server.
#[derive(Debug)]
pub(super) struct SlowLog {
    settings: SlowLogSection,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Slowest first.
    slowest: Vec<Arc<SlowRequest>>,
    /// Oldest first.
    latest: VecDeque<Arc<SlowRequest>>,
}

impl SlowLog {
    pub(super) fn new(settings: &SlowLogSection) -> SlowLog {
        SlowLog { settings: settings.clone(), kept: Mutex::default() }
    }

    /// Whether a request that took this long is to be kept.
    pub(super) fn wants(&self, took: Duration) -> bool {
        self.settings.capacity > 0 && took >= Duration::from_millis(self.settings.threshold_ms)
    }

    /// What is kept of a body: its text, if it is not too long.
    pub(super) fn text(&self, body: &[u8]) -> Option<String> {
        // A shell command cannot hold a zero byte.
        let fits = body.len() <= self.settings.body_bytes && !body.contains(&0);
        fits.then(|| std::str::from_utf8(body).ok().map(String::from)).flatten()
    }

    /// Keeps a slow request.
    pub(super) fn keep(&self, request: SlowRequest) {
        let (request, capacity) = (Arc::new(request), self.settings.capacity);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.latest.len() == capacity {
            kept.latest.pop_front();
        }
        kept.latest.push_back(request.clone());
        let place = kept.slowest.partition_point(|other| other.took_ms >= request.took_ms);
        kept.slowest.insert(place, request);
        kept.slowest.truncate(capacity);
    }

    /// What is kept, with commands that send it to `target` again.
    pub(super) fn answer(&self, target: &Target) -> SlowAnswer {
        let (slowest, latest) = {
            let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            (kept.slowest.clone(), kept.latest.iter().rev().cloned().collect::<Vec<_>>())
        };
        let replayable =
            |request: Arc<SlowRequest>| Replayable { curl: target.curl(&request), request: (*request).clone() };
        SlowAnswer {
            threshold_ms: self.settings.threshold_ms,
            capacity: self.settings.capacity,
            slowest: slowest.into_iter().map(replayable).collect(),
            latest: latest.into_iter().map(replayable).collect(),
        }
    }
}

impl Target {
    /// The command that sends `request` again. Nothing in it is taken for the address or for a file by `curl`, whatever the
    /// client had sent: it is the operator who runs this.
    fn curl(&self, request: &SlowRequest) -> Option<String> {
        let scheme = if self.encrypted { "https" } else { "http" };
        let mut command = format!("curl -sS --globoff -X {}", quoted(&request.method));
        if self.with_key {
            command += " -H \"authorization: Bearer $BIGRAIN_API_KEY\"";
        }
        if let Some(media) = &request.content_type {
            command += &format!(" -H {}", quoted(&format!("content-type: {media}")));
        }
        if request.body_bytes > 0 {
            command += &format!(" --data-raw {}", quoted(request.body.as_ref()?));
        }
        Some(command + " " + &quoted(&format!("{scheme}://{}{}", self.address, request.path)))
    }
}

/// A word of a shell command.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(took_ms: f64, body: &str) -> SlowRequest {
        SlowRequest {
            at_unix_ms: 1,
            took_ms,
            status: 200,
            request_id: "r".into(),
            trace_id: "t".into(),
            method: "POST".into(),
            path: "/search".into(),
            content_type: Some("application/json".into()),
            queries: 1,
            effort_lowered: false,
            steps: StepTimes::default(),
            body_bytes: body.len(),
            body: Some(body.into()),
        }
    }

    fn log(capacity: usize) -> SlowLog {
        SlowLog::new(&SlowLogSection { threshold_ms: 10, capacity, body_bytes: 8 })
    }

    const TARGET: fn(bool) -> Target =
        |with_key| Target { address: ([127, 0, 0, 1], 7700).into(), encrypted: false, with_key };

    #[test]
    fn the_slowest_and_the_latest_are_kept_apart() {
        let log = log(2);
        for took in [30.0, 50.0, 20.0, 40.0, 10.0] {
            log.keep(request(took, "{}"));
        }
        let took = |kept: &[Replayable]| kept.iter().map(|one| one.request.took_ms).collect::<Vec<_>>();
        let answer = log.answer(&TARGET(false));
        assert_eq!((took(&answer.slowest), took(&answer.latest)), (vec![50.0, 40.0], vec![10.0, 40.0]));
        assert!(log.wants(Duration::from_millis(10)) && !log.wants(Duration::from_millis(9)));
        assert!(!super::tests::log(0).wants(Duration::from_secs(9)));
    }

    #[test]
    fn bodies_are_kept_whole_or_not_at_all() {
        let log = log(1);
        assert_eq!(log.text(b"12345678").as_deref(), Some("12345678"));
        assert_eq!((log.text(b"123456789"), log.text(b"\xff"), log.text(b"a\0b")), (None, None, None));
        let unkept = SlowRequest { body: None, ..request(1.0, "{}") };
        assert_eq!(TARGET(false).curl(&unkept), None);
    }

    #[test]
    fn nothing_a_client_sent_leaves_its_quotes() {
        let command = TARGET(true).curl(&request(1.0, "{\"a\": \"'; reboot; '\"}")).unwrap();
        assert_eq!(
            command,
            "curl -sS --globoff -X 'POST' -H \"authorization: Bearer $BIGRAIN_API_KEY\" -H 'content-type: application/json' \
             --data-raw '{\"a\": \"'\\''; reboot; '\\''\"}' 'http://127.0.0.1:7700/search'"
        );
    }
}
