//! One load on a server, for a while.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bigrain::error::{Error, Result};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use super::background::Background;
use super::http::{Connection, Target};
use super::record::{Outcome, Window};
use super::worker::Worker;

/// From the start of the thread to the first request.
const READY: Duration = Duration::from_millis(50);

/// How requests follow each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// Poisson arrivals, so many a second, whatever becomes of earlier ones.
    Open(f64),
    /// So many connections, each with its next request when the last one is answered.
    Closed(usize),
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Load::Open(rate) => write!(f, "{rate:.0}/s"),
            Load::Closed(connections) => write!(f, "closed, {connections}"),
        }
    }
}

impl Load {
    pub(super) fn json(self) -> Value {
        match self {
            Load::Open(rate) => json!({"open_qps": rate}),
            Load::Closed(connections) => json!({"closed_connections": connections}),
        }
    }
}

/// All that loads have in common.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Who is asked.
    pub target: Target,
    /// Bodies of requests, sent in turn.
    pub bodies: Arc<Vec<Vec<u8>>>,
    /// Load before the measurement.
    pub warm_up: Duration,
    /// The measurement.
    pub duration: Duration,
    /// After so long from its intended time, a request is given up.
    pub timeout: Duration,
    /// Answers within it are good.
    pub good_within: Duration,
    /// Connections that an open loop has at most.
    pub connections: usize,
    /// Other seeds give other arrivals.
    pub seed: u64,
    /// What else goes on meanwhile.
    pub background: Background,
}

/// Asks once, so that what the server refuses is said before a load of it.
///
/// # Errors
/// No answer; one that is neither 200 nor a shed, with what it says.
pub fn probe(plan: &Plan) -> Result<()> {
    let request = plan.target.request("POST", "/search", "application/json", &plan.bodies[0]);
    let asked = async {
        let mut connection = Connection::open(plan.target.address).await?;
        connection.ask(&request).await.map(|reply| (reply.status, String::from_utf8_lossy(reply.body).into_owned()))
    };
    let answered = runtime()?.block_on(async { tokio::time::timeout(plan.timeout, asked).await });
    match answered {
        Err(_) => Err(Error::params("url", format!("no answer within {:?}", plan.timeout))),
        Ok(Err(failure)) => Err(Error::params("url", format!("the server cannot be asked: {failure}"))),
        Ok(Ok((200 | 429 | 503, _))) => Ok(()),
        Ok(Ok((status, text))) => Err(Error::params("body", format!("the server answers {status}: {text}"))),
    }
}

/// Puts `load` on the server for the time of the plan.
///
/// # Errors
/// A thread or a timer that the system does not give.
pub fn run(plan: &Plan, load: Load) -> Result<Outcome> {
    let start = Instant::now() + READY;
    let from = start + plan.warm_up;
    let window = Window { from, until: from + plan.duration };
    let (recorder, busy) = std::thread::scope(|scope| {
        let worker = scope.spawn(|| Worker::work(plan, load, start, window));
        std::thread::sleep(window.from.saturating_duration_since(Instant::now()));
        let before = processor_seconds();
        std::thread::sleep(window.until.saturating_duration_since(Instant::now()));
        let busy = (processor_seconds() - before) / window.seconds();
        let panicked = |_| Err(Error::params("load", "the thread of the client panicked"));
        (worker.join().unwrap_or_else(panicked), busy)
    });
    Ok(recorder?.outcome(load, busy))
}

pub(super) fn runtime() -> Result<Runtime> {
    Builder::new_current_thread().enable_all().build().map_err(Error::io("the runtime of the client"))
}

/// Processor time of this process so far, of threads that have ended too.
fn processor_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
