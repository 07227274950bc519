//! `GET /v1/status`: how the server has done in the last seconds.
//!
//! The easy version is a window of recent latencies behind a lock. Here a request adds to counters and to a histogram that only
//! grow, which are atomics; once a second [`Status::tick`] takes what came since the last time into a ring of windows. So a
//! request pays for two additions, and a window is exact.
//!
//! Latencies are those of searches, single and in batches, that were answered with 2xx; the other figures count all requests to
//! collections. Buckets have 16 steps an octave, so a
//! quantile is right within 4 %.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use utoipa::ToSchema;

/// Windows that are kept, of a second each.
const KEPT: usize = 120;
/// Windows that rates and quantiles are taken over.
const WINDOW: usize = 10;
/// Steps of the histogram in which latencies double.
const PER_OCTAVE: usize = 16;
/// Octaves of microseconds: up to a minute and a bit.
const OCTAVES: usize = 26;
const BUCKETS: usize = PER_OCTAVE * OCTAVES;

/// How a request to a collection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Answered, with what was asked for or with what is wrong with it.
    Answered,
    /// Failed for a reason of the server's, or too late.
    Failed,
    /// Refused because of load.
    Shed,
}

/// An estimate of recall on live queries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct RecallEstimate {
    /// The estimate, 0 to 1.
    pub estimate: f64,
    /// Its standard error.
    pub standard_error: f64,
    /// Queries that it stands on.
    pub samples: u64,
}

/// What changes while a version is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveState {
    /// Epoch of the control table.
    pub control_epoch: u64,
    /// Rows of the delta.
    pub delta_rows: u64,
    /// Rows of the version that were replaced or deleted.
    pub tombstones: u64,
}

/// Counters of a server, and what they were second by second.
pub struct Status {
    started: Instant,
    counts: Counts,
    ring: Mutex<Ring>,
}

struct Counts {
    latencies: [AtomicU64; BUCKETS],
    answered: AtomicU64,
    failed: AtomicU64,
    shed: AtomicU64,
}

#[derive(Default)]
struct Ring {
    seen: Totals,
    ticked: Option<Instant>,
    windows: VecDeque<Window>,
    recall: Option<RecallEstimate>,
    ecpm_recall: Option<RecallEstimate>,
    live: Option<LiveState>,
}

/// The counters at one moment.
#[derive(Clone)]
struct Totals {
    latencies: Box<[u64; BUCKETS]>,
    answered: u64,
    failed: u64,
    shed: u64,
}

/// What came in one second, or a little more where the tick was late.
struct Window {
    at_unix_ms: u64,
    seconds: f64,
    totals: Totals,
    recall: Option<f64>,
}

/// The answer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StatusAnswer {
    uptime_s: f64,
    /// Seconds that the rates and quantiles are taken over.
    window_s: f64,
    /// Requests to collections that were answered, a second.
    qps: f64,
    /// Median latency of searches; none where none was answered.
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    errors_per_s: f64,
    shed_per_s: f64,
    queue_depth: usize,
    /// How long the waiting work will take, as estimated.
    queue_ms: f64,
    resident_bytes: Option<u64>,
    /// Threshold recall on live queries; none until it has been measured.
    recall: Option<RecallEstimate>,
    /// The same with expected revenue in place of the score.
    ecpm_recall: Option<RecallEstimate>,
    control_epoch: Option<u64>,
    index_version: String,
    delta_rows: Option<u64>,
    tombstones: Option<u64>,
    /// The last seconds, oldest first.
    series: Vec<Point>,
}

/// One second.
#[derive(Debug, Serialize, ToSchema)]
struct Point {
    /// When it ended, in milliseconds since 1970.
    at: u64,
    qps: f64,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    recall: Option<f64>,
}

/// What is known elsewhere at the moment of the question.
pub(super) struct Present {
    pub(super) queue_depth: usize,
    pub(super) backlog: Duration,
    pub(super) resident_bytes: Option<u64>,
    pub(super) index_version: String,
}

impl Default for Totals {
    fn default() -> Self {
        Totals { latencies: Box::new([0; BUCKETS]), answered: 0, failed: 0, shed: 0 }
    }
}

impl Default for Status {
    fn default() -> Self {
        let zero = |_| AtomicU64::new(0);
        let (answered, failed, shed) = Default::default();
        let counts = Counts { latencies: std::array::from_fn(zero), answered, failed, shed };
        Status { started: Instant::now(), counts, ring: Mutex::default() }
    }
}

impl Status {
    /// Counts a request; `latency`: how long it took, if it was a search that found something out.
    pub(super) fn record(&self, outcome: Outcome, latency: Option<Duration>) {
        let count = match outcome {
            Outcome::Answered => &self.counts.answered,
            Outcome::Failed => &self.counts.failed,
            Outcome::Shed => &self.counts.shed,
        };
        count.fetch_add(1, Relaxed);
        if let Some(took) = latency {
            self.counts.latencies[bucket(took)].fetch_add(1, Relaxed);
        }
    }

    /// Sets the estimate of recall on live queries.
    pub fn record_recall(&self, estimate: RecallEstimate) {
        self.ring().recall = Some(estimate);
    }

    /// Sets the estimate of the share of revenue that was not left on the table.
    pub fn record_ecpm_recall(&self, estimate: RecallEstimate) {
        self.ring().ecpm_recall = Some(estimate);
    }

    /// The estimates of recall and of recall of revenue, where there are any.
    pub(super) fn recalls(&self) -> [Option<RecallEstimate>; 2] {
        let ring = self.ring();
        [ring.recall, ring.ecpm_recall]
    }

    /// Sets what changes while a version is served.
    pub fn record_live(&self, live: LiveState) {
        self.ring().live = Some(live);
    }

    /// Ends a window. To be called once a second.
    pub(super) fn tick(&self) {
        let now = Instant::now();
        let totals = self.counts.totals();
        let mut ring = self.ring();
        let seconds = now.duration_since(ring.ticked.unwrap_or(self.started)).as_secs_f64();
        let at_unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let window = Window {
            at_unix_ms,
            seconds: seconds.max(1e-3),
            totals: totals.since(&ring.seen),
            recall: ring.recall.map(|recall| recall.estimate),
        };
        ring.windows.push_back(window);
        if ring.windows.len() > KEPT {
            ring.windows.pop_front();
        }
        (ring.seen, ring.ticked) = (totals, Some(now));
    }

    /// The answer of the moment.
    pub(super) fn answer(&self, present: Present) -> StatusAnswer {
        let ring = self.ring();
        let mut recent = Totals::default();
        let mut seconds = 0.0;
        for window in ring.windows.iter().rev().take(WINDOW) {
            recent.add(&window.totals);
            seconds += window.seconds;
        }
        let rate = |count: u64| if seconds > 0.0 { rounded(count as f64 / seconds) } else { 0.0 };
        let point = |window: &Window| Point {
            at: window.at_unix_ms,
            qps: rounded(window.totals.answered as f64 / window.seconds),
            p50_ms: window.totals.quantile(0.5),
            p99_ms: window.totals.quantile(0.99),
            recall: window.recall,
        };
        StatusAnswer {
            uptime_s: rounded(self.started.elapsed().as_secs_f64()),
            window_s: rounded(seconds),
            qps: rate(recent.answered),
            p50_ms: recent.quantile(0.5),
            p99_ms: recent.quantile(0.99),
            errors_per_s: rate(recent.failed),
            shed_per_s: rate(recent.shed),
            queue_depth: present.queue_depth,
            queue_ms: rounded(present.backlog.as_secs_f64() * 1e3),
            resident_bytes: present.resident_bytes,
            recall: ring.recall,
            ecpm_recall: ring.ecpm_recall,
            control_epoch: ring.live.map(|live| live.control_epoch),
            index_version: present.index_version,
            delta_rows: ring.live.map(|live| live.delta_rows),
            tombstones: ring.live.map(|live| live.tombstones),
            series: ring.windows.iter().map(point).collect(),
        }
    }

    fn ring(&self) -> std::sync::MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn totals(&self) -> Totals {
        Totals {
            latencies: Box::new(std::array::from_fn(|i| self.latencies[i].load(Relaxed))),
            answered: self.answered.load(Relaxed),
            failed: self.failed.load(Relaxed),
            shed: self.shed.load(Relaxed),
        }
    }
}

impl Totals {
    fn since(&self, earlier: &Totals) -> Totals {
        Totals {
            latencies: Box::new(std::array::from_fn(|i| self.latencies[i] - earlier.latencies[i])),
            answered: self.answered - earlier.answered,
            failed: self.failed - earlier.failed,
            shed: self.shed - earlier.shed,
        }
    }

    fn add(&mut self, other: &Totals) {
        self.latencies.iter_mut().zip(other.latencies.iter()).for_each(|(sum, count)| *sum += count);
        self.answered += other.answered;
        self.failed += other.failed;
        self.shed += other.shed;
    }

    /// The latency in milliseconds below which this share of requests was answered.
    fn quantile(&self, share: f64) -> Option<f64> {
        let all: u64 = self.latencies.iter().sum();
        let wanted = (share * all as f64).ceil() as u64;
        let mut sum = 0;
        let place = self.latencies.iter().position(|count| {
            sum += count;
            sum >= wanted && sum > 0
        })?;
        Some(rounded(middle(place) / 1e3))
    }
}

/// The bucket of a latency: 16 to each doubling of microseconds; the first 16 are a microsecond each.
fn bucket(took: Duration) -> usize {
    let micros = took.as_micros().min(u128::from(u64::MAX >> 1)) as u64;
    if micros < PER_OCTAVE as u64 {
        return micros as usize;
    }
    let octave = micros.ilog2() - PER_OCTAVE.ilog2();
    let within = (micros >> octave) as usize - PER_OCTAVE;
    ((octave as usize + 1) * PER_OCTAVE + within).min(BUCKETS - 1)
}

/// The middle of a bucket in microseconds.
fn middle(bucket: usize) -> f64 {
    if bucket < PER_OCTAVE {
        return bucket as f64 + 0.5;
    }
    let width = (1u64 << (bucket / PER_OCTAVE - 1)) as f64;
    ((PER_OCTAVE + bucket % PER_OCTAVE) as f64 + 0.5) * width
}

fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_their_latencies_within_their_width() {
        let mut last = 0;
        for micros in (0..40_000_000u64).step_by(997) {
            let place = bucket(Duration::from_micros(micros));
            assert!(
                place >= last && (middle(place) / (micros as f64 + 0.5) - 1.0).abs() < 0.04 || micros < 16,
                "{micros}"
            );
            last = place;
        }
        assert_eq!(bucket(Duration::from_secs(1 << 40)), BUCKETS - 1);
    }

    fn present() -> Present {
        Present { queue_depth: 3, backlog: Duration::from_millis(7), resident_bytes: None, index_version: "v".into() }
    }

    #[test]
    fn windows_hold_what_came_in_them() {
        let status = Status::default();
        assert_eq!((status.answer(present()).qps, status.answer(present()).p50_ms), (0.0, None));
        for ms in [1, 1, 1, 100] {
            status.record(Outcome::Answered, Some(Duration::from_millis(ms)));
        }
        // What is no search counts, but tells nothing about how long searches take.
        status.record(Outcome::Answered, None);
        status.record(Outcome::Shed, None);
        status.tick();
        status.record_recall(RecallEstimate { estimate: 0.9, standard_error: 0.01, samples: 50 });
        status.record(Outcome::Failed, None);
        status.tick();
        let answer = status.answer(present());
        let near = |found: Option<f64>, wanted: f64| (found.unwrap() / wanted - 1.0).abs() < 0.04;
        assert!(near(answer.p50_ms, 1.0) && near(answer.p99_ms, 100.0), "{answer:?}");
        assert!(answer.qps > 0.0 && answer.shed_per_s > 0.0 && answer.errors_per_s > 0.0);
        let recalls: Vec<_> = answer.series.iter().map(|point| (point.p50_ms.is_some(), point.recall)).collect();
        assert_eq!(recalls, [(true, None), (false, Some(0.9))]);
        assert_eq!((answer.queue_ms, answer.delta_rows, answer.ecpm_recall), (7.0, None, None));
        (0..2 * KEPT).for_each(|_| status.tick());
        let answer = status.answer(present());
        assert_eq!((answer.series.len(), answer.qps), (KEPT, 0.0));
    }
}
