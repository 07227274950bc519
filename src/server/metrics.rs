//! Counters and histograms, written in the text format of Prometheus.
//!
//! Departure from the `metrics` facade with an exporter: everything the server counts is known when it is compiled, so
//! the registry is a struct of atomics. That needs no global (several servers live in one test process), no lock or
//! hash per event, no upkeep task, and none of the exporter's twenty dependencies. Labels are bounded by
//! construction: routes are the router's own patterns, statuses are three digits.
//!
//! Units are base units (seconds, bytes), as the conventions of Prometheus ask.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::status::RecallEstimate;
use crate::ads::Dropped;
use crate::search::SearchStats;

/// Upper bounds of the histograms' buckets, in seconds: 1-2.5-5 from 10 us to 10 s.
const BOUNDS: [f64; 19] = [
    1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// The routes that are counted apart; all else is `other`.
pub(super) const ROUTES: [&str; 29] = [
    "/search",
    "/v1/collections/{collection}/search",
    "/v1/collections/{collection}/search/batch",
    "/v1/collections/{collection}",
    "/v1/collections",
    "/v1/collections/{collection}/queries",
    "/v1/collections/{collection}/explain",
    "/v1/collections/{collection}/recall",
    "/v1/collections/{collection}/ads",
    "/v1/collections/{collection}/ads/delete",
    "/v1/collections/{collection}/ads/{key}",
    "/v1/collections/{collection}/control",
    "/v1/collections/{collection}/control/{level}/{id}",
    "/v1/collections/{collection}/versions",
    "/v1/collections/{collection}/activate",
    "/v1/collections/{collection}/rollback",
    "/v1/collections/{collection}/split",
    "/v1/collections/{collection}/compact",
    "/livez",
    "/readyz",
    "/metrics",
    "/v1/status",
    "/v1/slow",
    "/v1/limits",
    "/v1/prompts",
    "/openapi.json",
    "/docs",
    "/docs/{file}",
    "other",
];

/// Why ads that were good enough were not answered.
const REASONS: [&str; 5] = ["dead", "ineligible", "blocked", "irrelevant", "ranked_out"];

const STEPS: [&str; 4] = ["probe", "scan", "fetch", "rank"];

/// Durations by bucket.
#[derive(Default)]
struct Histogram {
    /// One per bound, and one beyond the last. Not cumulative; [`Histogram::write`] adds up.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum_ns: AtomicU64,
}

impl Histogram {
    fn record(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        self.buckets[BOUNDS.partition_point(|bound| *bound < seconds)].fetch_add(1, Relaxed);
        self.sum_ns.fetch_add(duration.as_nanos() as u64, Relaxed);
    }

    fn write(&self, text: &mut String, name: &str, label: &str) {
        let mut count = 0;
        for (bucket, bound) in self.buckets.iter().zip(BOUNDS) {
            count += bucket.load(Relaxed);
            let _ = writeln!(text, "{name}_bucket{{{label},le=\"{bound}\"}} {count}");
        }
        count += self.buckets[BOUNDS.len()].load(Relaxed);
        let _ = writeln!(text, "{name}_bucket{{{label},le=\"+Inf\"}} {count}");
        let _ = writeln!(text, "{name}_sum{{{label}}} {}", self.sum_ns.load(Relaxed) as f64 / 1e9);
        let _ = writeln!(text, "{name}_count{{{label}}} {count}");
    }
}

/// Requests of one route.
struct Requests {
    durations: Histogram,
    /// By status, from 100 to 599.
    by_status: [AtomicU64; 500],
}

/// Everything that the server counts.
pub(super) struct Metrics {
    routes: [Requests; ROUTES.len()],
    steps: [Histogram; STEPS.len()],
    queries: AtomicU64,
    partial: AtomicU64,
    lowered: AtomicU64,
    rows_scanned: AtomicU64,
    candidates: AtomicU64,
    tier_scored: AtomicU64,
    vectors_read: AtomicU64,
    vectors_cached: AtomicU64,
    bytes_read: AtomicU64,
    dropped: [AtomicU64; REASONS.len()],
    ads_written: AtomicU64,
    control_written: AtomicU64,
    io_errors: AtomicU64,
    corrupt: AtomicU64,
    /// Requests refused because they would have waited too long.
    pub(super) shed: AtomicU64,
    /// Connections open now.
    pub(super) connections: AtomicU64,
    /// Connections closed at once because too many were open.
    pub(super) refused: AtomicU64,
    /// Refusals after which a connection was not read from for a while.
    pub(super) rested: AtomicU64,
}

/// What is read at the moment of a scrape, from elsewhere.
pub(super) struct Gauges<'a> {
    pub(super) collection: &'a str,
    pub(super) version: &'a str,
    pub(super) metric: String,
    pub(super) store: String,
    pub(super) ads: u64,
    pub(super) rows: u64,
    pub(super) index_bytes: u64,
    pub(super) delta_rows: u64,
    pub(super) tombstones: u64,
    pub(super) sequence: u64,
    pub(super) control_epoch: u64,
    pub(super) switches: u64,
    pub(super) compactions: u64,
    /// Of relevance and of revenue.
    pub(super) recall: [Option<RecallEstimate>; 2],
    pub(super) queued: usize,
    pub(super) queue_capacity: usize,
    pub(super) backlog: Duration,
    pub(super) threads: usize,
    pub(super) panics: u64,
}

impl Default for Metrics {
    fn default() -> Self {
        let requests =
            |_| Requests { durations: Histogram::default(), by_status: std::array::from_fn(|_| AtomicU64::new(0)) };
        Metrics {
            routes: std::array::from_fn(requests),
            steps: Default::default(),
            queries: AtomicU64::default(),
            partial: AtomicU64::default(),
            lowered: AtomicU64::default(),
            rows_scanned: AtomicU64::default(),
            candidates: AtomicU64::default(),
            tier_scored: AtomicU64::default(),
            vectors_read: AtomicU64::default(),
            vectors_cached: AtomicU64::default(),
            bytes_read: AtomicU64::default(),
            dropped: Default::default(),
            ads_written: AtomicU64::default(),
            control_written: AtomicU64::default(),
            io_errors: AtomicU64::default(),
            corrupt: AtomicU64::default(),
            shed: AtomicU64::default(),
            connections: AtomicU64::default(),
            refused: AtomicU64::default(),
            rested: AtomicU64::default(),
        }
    }
}

impl Metrics {
    /// Counts a request answered on `route` (one of [`ROUTES`]).
    pub(super) fn request(&self, route: &str, status: u16, duration: Duration) {
        let route = ROUTES.iter().position(|known| *known == route).unwrap_or(ROUTES.len() - 1);
        self.routes[route].durations.record(duration);
        if let Some(count) = self.routes[route].by_status.get(usize::from(status).wrapping_sub(100)) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Counts what a query did not find for another reason than its score.
    pub(super) fn dropped(&self, dropped: &Dropped) {
        let Dropped { dead, ineligible, blocked, irrelevant, ranked_out } = *dropped;
        for (count, dropped) in self.dropped.iter().zip([dead, ineligible, blocked, irrelevant, ranked_out]) {
            count.fetch_add(dropped, Relaxed);
        }
    }

    /// Counts changes of ads that were acknowledged.
    pub(super) fn ads_written(&self, count: usize) {
        self.ads_written.fetch_add(count as u64, Relaxed);
    }

    /// Counts patches of the control table that were acknowledged.
    pub(super) fn control_written(&self, count: usize) {
        self.control_written.fetch_add(count as u64, Relaxed);
    }

    /// Counts a request that failed with a problem of this code, where that is one of the files'.
    pub(super) fn failed(&self, code: &str) {
        match code {
            "io_error" | "disk_full" => drop(self.io_errors.fetch_add(1, Relaxed)),
            "corrupt_index" => drop(self.corrupt.fetch_add(1, Relaxed)),
            _ => (),
        }
    }

    /// Counts a query that was searched, with less effort than was asked for if `lowered`.
    pub(super) fn searched(&self, stats: &SearchStats, lowered: bool) {
        self.queries.fetch_add(1, Relaxed);
        self.lowered.fetch_add(u64::from(lowered), Relaxed);
        self.partial.fetch_add(u64::from(stats.fraction < 1.0), Relaxed);
        self.rows_scanned.fetch_add(stats.rows_scanned, Relaxed);
        self.candidates.fetch_add(u64::from(stats.candidates), Relaxed);
        self.tier_scored.fetch_add(u64::from(stats.tier_scored), Relaxed);
        self.vectors_read.fetch_add(u64::from(stats.vectors_read), Relaxed);
        self.vectors_cached.fetch_add(u64::from(stats.vectors_cached), Relaxed);
        self.bytes_read.fetch_add(stats.bytes_read, Relaxed);
        let durations = [stats.probe_ns, stats.scan_ns, stats.fetch_ns, stats.rank_ns];
        for (step, ns) in self.steps.iter().zip(durations) {
            step.record(Duration::from_nanos(ns));
        }
    }

    /// The text of `/metrics`.
    pub(super) fn render(&self, gauges: &Gauges<'_>) -> String {
        let mut text = String::with_capacity(32 << 10);
        self.write_requests(&mut text);
        self.write_searches(&mut text);
        self.write_state(&mut text, gauges);
        text
    }

    fn write_requests(&self, text: &mut String) {
        head(text, "bigrain_http_requests_total", "counter", "Requests answered, by route and status.");
        for (route, requests) in ROUTES.iter().zip(&self.routes) {
            for (code, count) in requests.by_status.iter().enumerate().filter(|(_, count)| count.load(Relaxed) > 0) {
                let (status, count) = (code + 100, count.load(Relaxed));
                let _ = writeln!(text, "bigrain_http_requests_total{{route=\"{route}\",status=\"{status}\"}} {count}");
            }
        }
        let name = "bigrain_http_request_duration_seconds";
        head(text, name, "histogram", "Time from a request's headers to its answer.");
        for (route, requests) in ROUTES.iter().zip(&self.routes) {
            requests.durations.write(text, name, &format!("route=\"{route}\""));
        }
    }

    fn write_searches(&self, text: &mut String) {
        let name = "bigrain_search_step_duration_seconds";
        head(text, name, "histogram", "Time of a step of a search; fetch includes verify.");
        for (step, durations) in STEPS.iter().zip(&self.steps) {
            durations.write(text, name, &format!("step=\"{step}\""));
        }
        let counters = [
            ("bigrain_search_queries_total", "Queries searched.", &self.queries),
            ("bigrain_search_partial_total", "Queries cut short by their deadline.", &self.partial),
            (
                "bigrain_search_effort_lowered_total",
                "Queries searched with less effort because of load.",
                &self.lowered,
            ),
            ("bigrain_search_rows_scanned_total", "Codes scored.", &self.rows_scanned),
            ("bigrain_search_candidates_total", "Candidates that left the scan.", &self.candidates),
            ("bigrain_search_tier_scored_total", "Candidates scored by the int8 tier.", &self.tier_scored),
            ("bigrain_search_vectors_read_total", "Dense vectors fetched and verified.", &self.vectors_read),
            ("bigrain_search_vectors_cached_total", "Those of them from the page cache.", &self.vectors_cached),
            ("bigrain_search_read_bytes_total", "Bytes of dense vectors read.", &self.bytes_read),
            ("bigrain_requests_shed_total", "Requests refused because of load.", &self.shed),
            (
                "bigrain_io_errors_total",
                "Requests that failed because a file could not be read or written.",
                &self.io_errors,
            ),
            (
                "bigrain_checksum_failures_total",
                "Requests that failed because a file of the index is damaged.",
                &self.corrupt,
            ),
            ("bigrain_connections_rested_total", "Refusals beyond their rate: the connection rested.", &self.rested),
            ("bigrain_connections_refused_total", "Connections closed because too many were open.", &self.refused),
        ];
        for (name, help, value) in counters {
            head(text, name, "counter", help);
            let _ = writeln!(text, "{name} {}", value.load(Relaxed));
        }
    }

    fn write_state(&self, text: &mut String, gauges: &Gauges<'_>) {
        let counts = [
            ("bigrain_connections", "Connections open.", self.connections.load(Relaxed)),
            ("bigrain_queue_depth", "Requests that wait for a worker.", gauges.queued as u64),
            ("bigrain_queue_capacity", "The most requests that may wait.", gauges.queue_capacity as u64),
            ("bigrain_workers", "Worker threads.", gauges.threads as u64),
            ("bigrain_ads", "Ads that can be found.", gauges.ads),
            ("bigrain_index_rows", "Rows that can be found: ads, or views of them.", gauges.rows),
            ("bigrain_delta_rows", "Those of them that came after the version was built.", gauges.delta_rows),
            ("bigrain_tombstones", "Rows of the version that were replaced or deleted.", gauges.tombstones),
            ("bigrain_sequence", "Number of the last visible change of ads.", gauges.sequence),
            ("bigrain_control_epoch", "Epoch of the control table.", gauges.control_epoch),
            ("bigrain_index_memory_bytes", "Memory held by the index.", gauges.index_bytes),
        ];
        for (name, help, value) in counts {
            head(text, name, "gauge", help);
            let _ = writeln!(text, "{name} {value}");
        }
        let backlog = gauges.backlog.as_secs_f64();
        head(text, "bigrain_queue_work_seconds", "gauge", "How long the waiting work will take, as estimated.");
        let _ = writeln!(text, "bigrain_queue_work_seconds {backlog}");
        head(text, "bigrain_dropped_total", "counter", "Candidates not answered, by reason.");
        for (reason, count) in REASONS.iter().zip(&self.dropped) {
            let _ = writeln!(text, "bigrain_dropped_total{{reason=\"{reason}\"}} {}", count.load(Relaxed));
        }
        let totals = [
            ("bigrain_ads_written_total", "Changes of ads acknowledged.", self.ads_written.load(Relaxed)),
            (
                "bigrain_control_written_total",
                "Patches of the control table acknowledged.",
                self.control_written.load(Relaxed),
            ),
            ("bigrain_version_switches_total", "Versions activated.", gauges.switches),
            ("bigrain_compactions_total", "Versions made by compaction.", gauges.compactions),
        ];
        for (name, help, value) in totals {
            head(text, name, "counter", help);
            let _ = writeln!(text, "{name} {value}");
        }
        let names = ["bigrain_recall_estimate", "bigrain_ecpm_recall_estimate"];
        for (name, estimate) in names.into_iter().zip(gauges.recall) {
            if let Some(estimate) = estimate {
                head(text, name, "gauge", "Estimated on live queries; its standard error beside it.");
                let _ = writeln!(text, "{name} {}", estimate.estimate);
                head(text, &format!("{name}_error"), "gauge", "Standard error of the estimate.");
                let _ = writeln!(text, "{name}_error {}", estimate.standard_error);
            }
        }
        head(text, "bigrain_worker_panics_total", "counter", "Tasks that panicked.");
        let _ = writeln!(text, "bigrain_worker_panics_total {}", gauges.panics);
        head(text, "bigrain_index_info", "gauge", "The version that is served.");
        let Gauges { collection, version, metric, store, .. } = gauges;
        let collection = collection.replace('\\', "\\\\").replace('"', "\\\"");
        let labels = format!("collection=\"{collection}\",version=\"{version}\",metric=\"{metric}\",store=\"{store}\"");
        let _ = writeln!(text, "bigrain_index_info{{{labels}}} 1");
        if let Some(bytes) = crate::build::resident_memory() {
            head(text, "process_resident_memory_bytes", "gauge", "Resident memory of the process.");
            let _ = writeln!(text, "process_resident_memory_bytes {bytes}");
        }
    }
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_on_a_bound_is_in_its_bucket_and_buckets_add_up() {
        let histogram = Histogram::default();
        for micros in [10, 11, 30_000_000] {
            histogram.record(Duration::from_micros(micros));
        }
        let mut text = String::new();
        histogram.write(&mut text, "t", "a=\"b\"");
        assert!(text.contains("t_bucket{a=\"b\",le=\"0.00001\"} 1\n"), "{text}");
        assert!(text.contains("t_bucket{a=\"b\",le=\"0.000025\"} 2\n"), "{text}");
        assert!(text.contains("t_bucket{a=\"b\",le=\"10\"} 2\n") && text.contains("le=\"+Inf\"} 3\n"), "{text}");
        assert!(text.contains("t_sum{a=\"b\"} 30.000021\n") && text.contains("t_count{a=\"b\"} 3\n"), "{text}");
    }

    #[test]
    fn unknown_routes_and_statuses_make_no_new_series() {
        let metrics = Metrics::default();
        metrics.request("/surprise", 404, Duration::ZERO);
        metrics.request("/search", 42, Duration::ZERO);
        ["io_error", "disk_full", "corrupt_index", "wrong_dimension"].iter().for_each(|code| metrics.failed(code));
        let mut text = String::new();
        metrics.write_searches(&mut text);
        assert!(text.contains("io_errors_total 2") && text.contains("checksum_failures_total 1"), "{text}");
        text.clear();
        metrics.write_requests(&mut text);
        assert!(text.contains("requests_total{route=\"other\",status=\"404\"} 1"), "{text}");
        assert!(!text.contains("surprise") && !text.contains("status=\"42\""), "{text}");
    }
}
