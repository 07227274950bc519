//! Traces: which request belongs to which trace, and what is told about it.
//!
//! A client that traces sends `traceparent` (W3C Trace Context); its trace is taken over, and the answer carries `traceparent`
//! with the span that the server made of it. Other requests begin a trace of their own. All that is logged while a request is
//! worked on lies in a span `request` with its trace id.
//!
//! The steps within a request (queue, plan, probe, scan, fetch_verify, rank) are timed by what does them ([`super::trail`]) and
//! become spans afterwards, with their true times: a collector of OpenTelemetry gets them as children of the request, the log
//! as fields of its line. The easy version, a `tracing` span around each step, would cost every step of every query, watched
//! or not.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName};
use serde::Deserialize;

use super::trail::Trail;
use crate::error::Result;

pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// `[log]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct LogSection {
    pub format: LogFormat,
    pub otlp_endpoint: String,
    pub trace_share: f64,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// An object a line.
    Json,
}

/// The place of one request in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TraceContext {
    pub(super) trace: u128,
    /// The span that the request is here.
    pub(super) span: u64,
    /// The span of the client, where it sent one.
    pub(super) parent: Option<u64>,
    /// Whether a collector is to get it.
    pub(super) sampled: bool,
}

/// A request that has been answered.
pub(super) struct Answered<'a> {
    #[cfg(feature = "otlp")]
    pub(super) context: TraceContext,
    #[cfg(feature = "otlp")]
    pub(super) at: std::time::SystemTime,
    pub(super) request_id: &'a str,
    pub(super) method: &'a str,
    pub(super) route: &'a str,
    pub(super) status: u16,
    pub(super) took: Duration,
    pub(super) trail: &'a Trail,
    pub(super) slow: bool,
}

/// What tells about requests.
pub(super) struct Telemetry {
    random: RandomState,
    spans: AtomicU64,
    /// Traces whose lowest 64 bits are below this are sampled.
    sampled_below: u64,
    #[cfg(feature = "otlp")]
    exporter: Option<super::otlp::Exporter>,
}

impl LogSection {
    pub(super) fn check(&self) -> Result<()> {
        let wrong = |reason: String| Err(crate::error::Error::params("configuration", reason));
        if !(0.0..=1.0).contains(&self.trace_share) {
            return wrong(format!("log.trace_share is {}; give a share from 0 to 1", self.trace_share));
        }
        if !self.otlp_endpoint.is_empty() && !cfg!(feature = "otlp") {
            return wrong("log.otlp_endpoint is set, but this build has no OTLP; build with --features otlp".into());
        }
        Ok(())
    }
}

impl Telemetry {
    /// Begins to tell what the settings ask for.
    ///
    /// # Errors
    /// A collector's address that is none.
    pub(super) fn start(settings: &LogSection) -> Result<Telemetry> {
        Ok(Telemetry {
            random: RandomState::new(),
            spans: AtomicU64::new(0),
            sampled_below: (settings.trace_share * u64::MAX as f64) as u64,
            #[cfg(feature = "otlp")]
            exporter: super::otlp::Exporter::start(&settings.otlp_endpoint)?,
        })
    }

    /// The trace of a request with these headers.
    pub(super) fn context(&self, headers: &HeaderMap) -> TraceContext {
        let number = self.spans.fetch_add(1, Relaxed);
        let random = |salt: u8| self.random.hash_one((number, salt)).max(1);
        let span = random(0);
        let given = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok()).and_then(parse);
        match given {
            Some((trace, parent, sampled)) => TraceContext { trace, span, parent: Some(parent), sampled },
            None => {
                let low = random(1);
                let trace = (u128::from(random(2)) << 64) | u128::from(low);
                TraceContext { trace, span, parent: None, sampled: low <= self.sampled_below && self.sampled_below > 0 }
            }
        }
    }

    /// Tells about a request that has been answered.
    pub(super) fn answered(&self, answered: &Answered<'_>) {
        let Answered { request_id, method, route, status, took, trail, .. } = answered;
        let (took_us, queries) = (took.as_micros() as u64, trail.queries());
        let steps =
            || trail.timings().map(|step| format!("{}={}us", step.name, step.took.as_micros())).collect::<Vec<_>>();
        if answered.slow {
            let steps = steps().join(" ");
            tracing::info!(request_id, method, route, status, took_us, queries, steps, "slow request");
        } else if tracing::enabled!(tracing::Level::DEBUG) {
            let steps = steps().join(" ");
            tracing::debug!(request_id, method, route, status, took_us, queries, steps, "request");
        }
        #[cfg(feature = "otlp")]
        if let Some(exporter) = self.exporter.as_ref().filter(|_| answered.context.sampled) {
            exporter.send(answered);
        }
    }
}

impl TraceContext {
    /// The header by which others take the trace over.
    pub(super) fn header(&self) -> String {
        format!("00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

/// Trace, parent span and whether it is sampled, of a `traceparent`; none where it is not one.
fn parse(header: &str) -> Option<(u128, u64, bool)> {
    let mut parts = header.split('-');
    let mut hex = |digits: usize| {
        let part = parts.next()?;
        let lower = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        (part.len() == digits && part.bytes().all(lower)).then(|| u128::from_str_radix(part, 16).ok()).flatten()
    };
    let (version, trace, parent, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
    // Later versions may say more; the first may not, and the last number is no version.
    let whole = version != 0 || parts.next().is_none();
    let valid = version != 0xff && whole && trace != 0 && parent != 0;
    valid.then_some((trace, parent as u64, flags & 1 == 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn telemetry(trace_share: f64) -> Telemetry {
        let settings = LogSection { format: LogFormat::Text, otlp_endpoint: String::new(), trace_share };
        Telemetry::start(&settings).unwrap()
    }

    #[test]
    fn a_trace_is_taken_over_and_handed_on() {
        let headers = HeaderMap::from_iter([(TRACEPARENT, GIVEN.parse().unwrap())]);
        let telemetry = telemetry(0.0);
        let context = telemetry.context(&headers);
        assert_eq!((context.trace, context.parent), (0x0af7651916cd43dd8448eb211c80319c, Some(0xb7ad6b7169203331)));
        let again = parse(&context.header()).unwrap();
        assert_eq!(again, (context.trace, context.span, true));
        assert_ne!(telemetry.context(&headers).span, context.span);
    }

    #[test]
    fn what_is_no_trace_begins_one() {
        let bad = [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ];
        assert!(bad.iter().all(|header| parse(header).is_none()));
        assert!(parse("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-more").is_some_and(|(_, _, s)| !s));
        let own = |share: f64| (0..2_000).filter(|_| telemetry(share).context(&HeaderMap::new()).sampled).count();
        assert_eq!((own(0.0), own(1.0)), (0, 2_000));
        assert!((100..400).contains(&own(0.1)), "each new server draws anew");
    }

    #[test]
    fn settings_that_cannot_be_are_refused() {
        let check = |otlp_endpoint: &str, trace_share: f64| {
            LogSection { format: LogFormat::Json, otlp_endpoint: otlp_endpoint.into(), trace_share }.check().is_ok()
        };
        assert!(check("", 0.5) && !check("", 1.5) && !check("", f64::NAN));
        assert_eq!(check("http://localhost:4318", 0.5), cfg!(feature = "otlp"));
    }
}
