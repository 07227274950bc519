//! Spans for a collector of OpenTelemetry: OTLP over HTTP, protobuf.
//!
//! A request and its steps become spans when it has been answered, and are handed to a thread that sends them in batches.
//! Where that thread falls behind, spans are dropped: no request waits for a collector.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanData, SpanProcessor};

use super::telemetry::{Answered, TraceContext};
use crate::error::{Error, Result};

/// Longest time that one sending may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What sends spans.
pub(super) struct Exporter {
    processor: BatchSpanProcessor,
    scope: InstrumentationScope,
}

impl Exporter {
    /// The exporter to the collector at the base address `endpoint`; none where that is empty.
    ///
    /// # Errors
    /// An address that is none.
    pub(super) fn start(endpoint: &str) -> Result<Option<Exporter>> {
        if endpoint.is_empty() {
            return Ok(None);
        }
        let wrong =
            |reason: String| Error::params("configuration", format!("log.otlp_endpoint {endpoint:?}: {reason}"));
        if !endpoint.starts_with("http://") {
            return Err(wrong("give http://HOST:PORT; put a collector that encrypts beside the server".into()));
        }
        let traces = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
        let exporter = SpanExporter::builder().with_http().with_endpoint(traces).with_timeout(PATIENCE).build();
        let mut processor = BatchSpanProcessor::builder(exporter.map_err(|error| wrong(error.to_string()))?).build();
        processor.set_resource(&Resource::builder().with_service_name("bigrain").build());
        let scope = InstrumentationScope::builder("bigrain").with_version(env!("CARGO_PKG_VERSION")).build();
        Ok(Some(Exporter { processor, scope }))
    }

    /// Hands over the spans of a request.
    pub(super) fn send(&self, answered: &Answered<'_>) {
        let Answered { context, at, took, .. } = answered;
        let status = match answered.status {
            500.. => Status::Error { description: Cow::Owned(answered.status.to_string()) },
            _ => Status::Unset,
        };
        let request = SpanData {
            parent_span_id: SpanId::from(context.parent.unwrap_or(0)),
            parent_span_is_remote: context.parent.is_some(),
            span_kind: SpanKind::Server,
            name: Cow::Owned(format!("{} {}", answered.method, answered.route)),
            attributes: vec![
                KeyValue::new("http.request.method", answered.method.to_string()),
                KeyValue::new("http.route", answered.route.to_string()),
                KeyValue::new("http.response.status_code", i64::from(answered.status)),
                KeyValue::new("bigrain.request_id", answered.request_id.to_string()),
                KeyValue::new("bigrain.queries", answered.trail.queries() as i64),
            ],
            status,
            ..self.span(context, context.span, *at, *took)
        };
        self.processor.on_end(request);
        for (number, step) in (1u64..).zip(answered.trail.timings()) {
            // Distinct within the trace, as the span of the request is random.
            let own = context.span.wrapping_add(number).max(1);
            let span = SpanData {
                parent_span_id: SpanId::from(context.span),
                name: Cow::Borrowed(step.name),
                ..self.span(context, own, *at + step.start, step.took)
            };
            self.processor.on_end(span);
        }
    }

    fn span(&self, context: &TraceContext, id: u64, start: SystemTime, took: Duration) -> SpanData {
        let (trace, flags) = (TraceId::from(context.trace), TraceFlags::SAMPLED);
        SpanData {
            span_context: SpanContext::new(trace, SpanId::from(id), flags, false, TraceState::NONE),
            parent_span_id: SpanId::INVALID,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: Cow::Borrowed(""),
            start_time: start,
            end_time: start + took,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: Default::default(),
            links: Default::default(),
            status: Status::Unset,
            instrumentation_scope: self.scope.clone(),
        }
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        if let Err(error) = self.processor.shutdown_with_timeout(PATIENCE) {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::time::Instant;

    use super::super::trail::{Step, Trail};
    use super::*;

    #[test]
    fn a_collector_gets_the_request_and_its_steps() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let exporter = Exporter::start(&format!("http://{}/", listener.local_addr().unwrap())).unwrap().unwrap();
        let trail = Trail::new(Instant::now());
        trail.ran(Step::Queue, Instant::now());
        let context =
            TraceContext { trace: 0x1234_5678_9abc_def0_1122_3344_5566_7788, span: 7, parent: Some(5), sampled: true };
        exporter.send(&Answered {
            context,
            at: SystemTime::now(),
            request_id: "mine",
            method: "POST",
            route: "/search",
            status: 200,
            took: Duration::from_millis(3),
            trail: &trail,
            slow: false,
        });
        let collector = std::thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
            while !bytes.windows(12).any(|window| window == b"POST /search") || !bytes.windows(5).any(|w| w == b"queue")
            {
                let count = stream.read(&mut buffer).unwrap();
                assert!(count > 0, "{}", String::from_utf8_lossy(&bytes));
                bytes.extend_from_slice(&buffer[..count]);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
            bytes
        });
        drop(exporter);
        let sent = collector.join().unwrap();
        assert!(sent.starts_with(b"POST /v1/traces "), "{}", String::from_utf8_lossy(&sent));
        assert!(sent.windows(16).any(|window| window == context.trace.to_be_bytes()));
    }

    #[test]
    fn addresses_that_are_none_are_refused() {
        assert!(Exporter::start("").unwrap().is_none());
        for bad in ["localhost:4318", "https://localhost", "http://a b"] {
            assert!(Exporter::start(bad).is_err(), "{bad}");
        }
    }
}
