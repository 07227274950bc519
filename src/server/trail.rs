//! What is noted of a request on its way: when which step ran, what came in, what was asked of the engine.
//!
//! The engine times its own steps ([`SearchStats`]), so a trail is written from those times when a search is over: no step
//! pays for being watched. The shares of a batch run at the same time and write into one trail; their times add up.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use serde::Serialize;

use crate::search::SearchStats;

/// The steps of a request, in their order.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// Waiting for a worker.
    Queue,
    /// Parsing the body and checking it.
    Plan,
    Probe,
    Scan,
    /// Reading dense vectors and scoring them; the two overlap.
    Fetch,
    Rank,
}

/// The names of the steps.
pub(super) const STEPS: [&str; 6] = ["queue", "plan", "probe", "scan", "fetch_verify", "rank"];

/// When a step ran, since the arrival of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timing {
    pub(super) name: &'static str,
    pub(super) start: Duration,
    pub(super) took: Duration,
}

#[derive(Debug)]
struct Noted {
    /// Nanoseconds since the arrival; `u64::MAX` is never.
    start: AtomicU64,
    took: AtomicU64,
}

/// The notes on one request.
#[derive(Debug)]
pub(super) struct Trail {
    arrived: Instant,
    steps: [Noted; STEPS.len()],
    queries: AtomicU64,
    lowered: AtomicBool,
    body: OnceLock<Bytes>,
}

/// Milliseconds of each step; a step that did not run is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, utoipa::ToSchema)]
pub(super) struct StepTimes {
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plan_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    probe_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scan_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fetch_verify_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rank_ms: Option<f64>,
}

impl Trail {
    /// The trail of a request that has just come.
    pub(super) fn new(arrived: Instant) -> Trail {
        let never = |_| Noted { start: AtomicU64::new(u64::MAX), took: AtomicU64::new(0) };
        let (queries, lowered, body) = Default::default();
        Trail { arrived, steps: std::array::from_fn(never), queries, lowered, body }
    }

    /// Notes that `step` ran from `start` to now.
    pub(super) fn ran(&self, step: Step, start: Instant) {
        self.note(step, start.saturating_duration_since(self.arrived), start.elapsed());
    }

    /// Notes the steps of a search that began at `start`.
    pub(super) fn searched(&self, start: Instant, stats: &SearchStats) {
        self.queries.fetch_add(1, Relaxed);
        let mut at = start.saturating_duration_since(self.arrived);
        let steps = [
            (Step::Probe, stats.probe_ns),
            (Step::Scan, stats.scan_ns),
            (Step::Fetch, stats.fetch_ns),
            (Step::Rank, stats.rank_ns),
        ];
        for (step, ns) in steps {
            let took = Duration::from_nanos(ns);
            self.note(step, at, took);
            at += took;
        }
    }

    /// Notes that a search was made with less effort than was asked for.
    pub(super) fn lowered(&self) {
        self.lowered.store(true, Relaxed);
    }

    /// Keeps the body for whoever wants to see it afterwards.
    pub(super) fn keep(&self, body: &Bytes) {
        let _ = self.body.set(body.clone());
    }

    fn note(&self, step: Step, start: Duration, took: Duration) {
        let noted = &self.steps[step as usize];
        noted.start.fetch_min(start.as_nanos() as u64, Relaxed);
        noted.took.fetch_add(took.as_nanos() as u64, Relaxed);
    }

    /// The steps that ran.
    pub(super) fn timings(&self) -> impl Iterator<Item = Timing> {
        self.steps.iter().zip(STEPS).filter_map(|(noted, name)| {
            let start = noted.start.load(Relaxed);
            let took = Duration::from_nanos(noted.took.load(Relaxed));
            (start != u64::MAX).then(|| Timing { name, start: Duration::from_nanos(start), took })
        })
    }

    /// The times of the steps that ran.
    pub(super) fn times(&self) -> StepTimes {
        let of = |step: Step| {
            let noted = &self.steps[step as usize];
            let micros = noted.took.load(Relaxed) / 1_000;
            (noted.start.load(Relaxed) != u64::MAX).then_some(micros as f64 / 1e3)
        };
        StepTimes {
            queue_ms: of(Step::Queue),
            plan_ms: of(Step::Plan),
            probe_ms: of(Step::Probe),
            scan_ms: of(Step::Scan),
            fetch_verify_ms: of(Step::Fetch),
            rank_ms: of(Step::Rank),
        }
    }

    /// Queries that were searched.
    pub(super) fn queries(&self) -> u64 {
        self.queries.load(Relaxed)
    }

    /// Whether one of them was searched with less effort than was asked for.
    pub(super) fn was_lowered(&self) -> bool {
        self.lowered.load(Relaxed)
    }

    /// The body, if one was read.
    pub(super) fn body(&self) -> Option<&Bytes> {
        self.body.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_follow_each_other_and_those_of_a_batch_add_up() {
        let arrived = Instant::now();
        let trail = Trail::new(arrived);
        assert_eq!((trail.timings().count(), trail.times()), (0, StepTimes::default()));
        let stats =
            SearchStats { probe_ns: 1_000, scan_ns: 2_000_000, fetch_ns: 3_000, rank_ns: 4, ..Default::default() };
        let micros = Duration::from_micros;
        trail.searched(arrived + micros(50), &stats);
        trail.searched(arrived + micros(20), &stats);
        let timings: Vec<Timing> = trail.timings().collect();
        assert_eq!(timings.iter().map(|t| t.name).collect::<Vec<_>>(), &STEPS[2..]);
        assert_eq!((timings[1].start, timings[1].took), (micros(21), micros(4_000)));
        assert_eq!((trail.queries(), trail.times().scan_ms, trail.times().queue_ms), (2, Some(4.0), None));
    }
}
