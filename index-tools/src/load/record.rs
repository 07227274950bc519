//! What is written down of each request, and what all of them say together.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::background::Aside;
use super::histogram::Histogram;
use super::http::{Failure, Reply, find};
use super::run::Load;
use crate::table::{columns, grouped};

/// Above this share of a core the client may be what is measured.
const BUSY: f64 = 0.8;

/// What became of a request.
pub(super) struct Seen {
    status: u16,
    /// The server says that it did less than it was asked for, because of load.
    reduced: bool,
    /// The answer says that it is not complete.
    partial: bool,
}

impl Seen {
    pub(super) fn of(reply: &Reply<'_>) -> Seen {
        let has = |text: &str| find(&reply.body[..reply.body.len().min(LOOKED_AT)], text.as_bytes()).is_some();
        Seen { status: reply.status, reduced: has("load_reduced_effort"), partial: has("\"complete\":false") }
    }
}

/// Coverage stands before the hits: the rest of an answer need not be looked at.
const LOOKED_AT: usize = 512;

/// The moments between which requests count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) from: Instant,
    pub(super) until: Instant,
}

impl Window {
    fn holds(&self, moment: Instant) -> bool {
        (self.from..self.until).contains(&moment)
    }

    pub(super) fn seconds(&self) -> f64 {
        (self.until - self.from).as_secs_f64()
    }
}

/// The notes of one load.
#[derive(Debug)]
pub(super) struct Recorder {
    window: Window,
    /// Answers within it are good.
    good_within: Duration,
    offered: u64,
    /// Answers of 200 that arrived within the window, whenever they were asked for.
    answered: u64,
    good: u64,
    reduced: u64,
    partial: u64,
    latency: Histogram,
    sheds: Histogram,
    /// From the intended time to the first byte sent, where a connection was free.
    late: Histogram,
    statuses: BTreeMap<u16, u64>,
    failures: BTreeMap<&'static str, u64>,
    first_failure: Option<String>,
    pub(super) reconnects: u64,
    pub(super) aside: Aside,
}

impl Recorder {
    pub(super) fn new(window: Window, good_within: Duration) -> Recorder {
        Recorder {
            window,
            good_within,
            offered: 0,
            answered: 0,
            good: 0,
            reduced: 0,
            partial: 0,
            latency: Histogram::default(),
            sheds: Histogram::default(),
            late: Histogram::default(),
            statuses: BTreeMap::new(),
            failures: BTreeMap::new(),
            first_failure: None,
            reconnects: 0,
            aside: Aside::default(),
        }
    }

    /// A request started `late` after its time although a connection was free.
    pub(super) fn started(&mut self, intended: Instant, late: Duration) {
        if self.window.holds(intended) {
            self.late.record(late);
        }
    }

    /// The request intended for `intended` has ended now; `None`: it ran out of time.
    pub(super) fn ended(&mut self, intended: Instant, outcome: Option<Result<Seen, Failure>>) {
        let now = Instant::now();
        let latency = now.saturating_duration_since(intended);
        let counts = self.window.holds(intended);
        self.offered += u64::from(counts);
        let failure = match outcome {
            Some(Ok(seen)) => return self.answer(&seen, latency, counts, self.window.holds(now)),
            Some(Err(failure)) => failure,
            None => return self.fail(counts, "timeout", || "no answer in time".to_string()),
        };
        self.fail(counts, failure.name(), || failure.to_string());
    }

    fn answer(&mut self, seen: &Seen, latency: Duration, counts: bool, in_time: bool) {
        if seen.status == 200 && in_time {
            self.answered += 1;
            self.good += u64::from(latency <= self.good_within);
        }
        if !counts {
            return;
        }
        *self.statuses.entry(seen.status).or_default() += 1;
        match seen.status {
            200 => self.latency.record(latency),
            429 | 503 => self.sheds.record(latency),
            _ => {}
        }
        self.reduced += u64::from(seen.reduced);
        self.partial += u64::from(seen.partial);
    }

    fn fail(&mut self, counts: bool, name: &'static str, text: impl FnOnce() -> String) {
        if counts {
            *self.failures.entry(name).or_default() += 1;
            self.first_failure.get_or_insert_with(text);
        }
    }

    /// What one load led to; `busy`: the processor time of the client, as a share of one core.
    pub(super) fn outcome(self, load: Load, busy: f64) -> Outcome {
        let seconds = self.window.seconds();
        let rate = |count: u64| count as f64 / seconds;
        Outcome {
            load,
            offered_qps: rate(self.offered),
            achieved_qps: rate(self.answered),
            goodput_qps: rate(self.good),
            requests: self.offered,
            latency: self.latency,
            sheds: self.sheds,
            late: self.late,
            statuses: self.statuses,
            failures: self.failures,
            first_failure: self.first_failure,
            reduced: self.reduced,
            partial: self.partial,
            reconnects: self.reconnects,
            busy,
            aside: self.aside,
        }
    }
}

/// What one load led to. Counts and latencies are of the requests that were to be sent within the measured time, rates of
/// what was answered within it.
#[derive(Debug)]
pub struct Outcome {
    /// The load.
    pub load: Load,
    /// Requests a second that were to be sent.
    pub offered_qps: f64,
    /// Answers of 200 a second.
    pub achieved_qps: f64,
    /// Those of them within the time that makes an answer good.
    pub goodput_qps: f64,
    /// Requests that were to be sent.
    pub requests: u64,
    /// Of answers of 200.
    pub latency: Histogram,
    /// Of answers of 429 and 503.
    pub sheds: Histogram,
    /// How late requests were started that had a free connection: the client's own share of the latency.
    pub late: Histogram,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests without an answer, by reason.
    pub failures: BTreeMap<&'static str, u64>,
    /// What the first of them said.
    pub first_failure: Option<String>,
    /// Answers for which the server lowered the effort.
    pub reduced: u64,
    /// Answers that were not complete.
    pub partial: u64,
    /// Kept connections that the server had closed meanwhile.
    pub reconnects: u64,
    /// Processor time of the client, as a share of one core.
    pub busy: f64,
    aside: Aside,
}

impl Outcome {
    /// Share of requests that were shed.
    pub fn shed_share(&self) -> f64 {
        self.sheds.count() as f64 / self.requests.max(1) as f64
    }

    /// For programs; latencies in milliseconds.
    pub fn json(&self) -> Value {
        json!({
            "load": self.load.json(), "requests": self.requests, "offered_qps": self.offered_qps,
            "achieved_qps": self.achieved_qps, "goodput_qps": self.goodput_qps, "latency_ms": self.latency.json(),
            "shed": {"count": self.sheds.count(), "share": self.shed_share(), "latency_ms": self.sheds.json()},
            "statuses": self.statuses, "failures": self.failures, "first_failure": self.first_failure,
            "reduced_effort": self.reduced, "partial": self.partial, "reconnects": self.reconnects,
            "client": {"busy": self.busy, "late_ms": self.late.json()}, "background": self.aside.json(),
        })
    }

    fn row(&self) -> Vec<String> {
        let ms = |histogram: &Histogram, q: f64| match histogram.count() {
            0 => "-".to_string(),
            _ => format!("{:.2}", histogram.quantile_ms(q)),
        };
        let others = self.requests - self.latency.count() - self.sheds.count();
        let quantiles = [0.5, 0.9, 0.99, 0.999, 1.0].map(|q| ms(&self.latency, q));
        let rates = [self.offered_qps, self.achieved_qps, self.goodput_qps].map(|qps| format!("{qps:.1}"));
        let rest = [
            format!("{:.1}%", 100.0 * self.shed_share()),
            ms(&self.sheds, 0.99),
            grouped(others),
            format!("{:.0}%", 100.0 * self.busy),
        ];
        [vec![self.load.to_string()], rates.to_vec(), quantiles.to_vec(), rest.to_vec()].concat()
    }
}

/// A table for people: a line a load; rates a second, latencies in milliseconds.
pub fn table(outcomes: &[Outcome]) -> String {
    let header = [
        "load", "offered", "achieved", "good", "p50", "p90", "p99", "p99.9", "max", "shed", "shed p99", "failed",
        "client",
    ];
    columns(&header, &outcomes.iter().map(Outcome::row).collect::<Vec<_>>())
}

/// What a person should know before believing the table.
pub fn warnings(outcomes: &[Outcome]) -> Vec<String> {
    let mut found = Vec::new();
    for outcome in outcomes {
        let load = &outcome.load;
        if outcome.busy > BUSY {
            let share = 100.0 * outcome.busy;
            found.push(format!(
                "{load}: the client took {share:.0} % of a core: figures may be its own, not the server's"
            ));
        }
        let others = outcome.statuses.iter().filter(|(status, _)| ![200, 429, 503].contains(*status));
        for (status, count) in others {
            found.push(format!("{load}: {} answers of {status}", grouped(*count)));
        }
        for (name, count) in &outcome.failures {
            let first = outcome.first_failure.as_deref().unwrap_or_default();
            found.push(format!("{load}: {} requests without an answer: {name}; the first: {first}", grouped(*count)));
        }
        for (what, count) in [("reduced effort", outcome.reduced), ("an incomplete answer", outcome.partial)] {
            if count > 0 {
                found.push(format!("{load}: {} answers with {what}", grouped(count)));
            }
        }
        found.extend(outcome.aside.lines().into_iter().map(|line| format!("{load}: {line}")));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_window_counts() {
        let from = Instant::now() - Duration::from_secs(2);
        let window = Window { from, until: from + Duration::from_secs(10) };
        let mut recorder = Recorder::new(window, Duration::from_millis(1500));
        let ok = |status, body: &[u8]| Some(Ok(Seen::of(&Reply { status, body, closes: false })));
        let at = |ms: u64| from + Duration::from_millis(ms);
        recorder.ended(at(0), ok(200, b"{\"coverage\":{\"complete\":false}}")); // Answered after 2 s: not good.
        recorder.ended(at(1900), ok(200, b"{\"degraded\":[\"load_reduced_effort\"]}"));
        recorder.ended(at(1900), ok(503, b""));
        recorder.ended(at(1900), None);
        recorder.ended(from - Duration::from_millis(1), ok(200, b"")); // Asked before, answered within.
        let outcome = recorder.outcome(Load::Open(0.4), 0.9);
        assert_eq!((outcome.requests, outcome.offered_qps), (4, 0.4));
        assert_eq!((outcome.achieved_qps, outcome.goodput_qps), (0.3, 0.1));
        assert_eq!((outcome.latency.count(), outcome.sheds.count(), outcome.failures["timeout"]), (2, 1, 1));
        assert_eq!((outcome.reduced, outcome.partial, outcome.statuses[&200]), (1, 1, 2));
        assert_eq!(outcome.json()["shed"]["share"], 0.25);
        assert_eq!(warnings(&[outcome]).len(), 4);
    }
}
