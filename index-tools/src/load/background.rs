//! What goes on beside the searches: changes of the control table, and clients that are slow on purpose.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bigrain::sample::Rng;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};

use super::histogram::Histogram;
use super::http::Connection;
use super::run::Plan;
use crate::table::grouped;

/// Patches that fall due within it travel together, as a bidder would send them.
const TOGETHER: Duration = Duration::from_millis(10);
/// A slow client sends a byte and then nothing for so long.
const SLOWNESS: Duration = Duration::from_secs(1);
/// The largest bid that is set.
const MOST_MICROS: u64 = 5_000_000;

/// What goes on beside the searches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Background {
    /// Patches of the control table a second: bids of ad groups.
    pub updates: f64,
    /// Ad groups 1 to this one have their bids changed, in turn.
    pub update_ids: u64,
    /// Connections that send a byte a second.
    pub slow_clients: usize,
}

/// What became of it.
#[derive(Debug, Default)]
pub(super) struct Aside {
    /// Patches that were applied, and those of requests answered with 2xx that were not.
    patches: u64,
    rejected: u64,
    /// Of requests of one or more patches, answered with 2xx.
    latency: Histogram,
    failures: BTreeMap<String, u64>,
    slow_opened: u64,
    slow_ended: u64,
    slow_refused: u64,
}

pub(super) type Notes = Rc<RefCell<Aside>>;

/// Starts it on the runtime of the caller; it goes on until the result is dropped.
pub(super) fn start(plan: &Plan, notes: &Notes) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    if plan.background.updates > 0.0 {
        tasks.spawn_local(update(plan.clone(), notes.clone()));
    }
    let slow = plan.background.slow_clients;
    for client in 0..slow {
        // They have nothing to do with each other: their bytes come spread over the second, and not as a burst of the client's.
        let begins = SLOWNESS.mul_f64(client as f64 / slow as f64);
        tasks.spawn_local(slow_client(plan.clone(), notes.clone(), begins));
    }
    tasks
}

/// Sends patches at their rate. The next wait for the last to be durable, as those of one bidder would.
async fn update(plan: Plan, notes: Notes) {
    let Background { updates, update_ids, .. } = plan.background;
    let mut rng = Rng::stream(plan.seed, u64::MAX);
    let (start, mut sent, mut kept) = (Instant::now(), 0_u64, None);
    loop {
        let due = (start.elapsed().as_secs_f64() * updates) as u64;
        let lines: Vec<String> = (sent..due)
            .map(|at| {
                let (id, bid) = (at % update_ids.max(1) + 1, 1 + rng.below(MOST_MICROS));
                format!("{}\n", json!({"level": "ad_group", "id": id, "bid_micros": bid}))
            })
            .collect();
        if !lines.is_empty() {
            let asked = Instant::now();
            let outcome = patch(&plan, &mut kept, lines.concat().as_bytes()).await;
            let mut notes = notes.borrow_mut();
            match outcome {
                Ok((200..300, rejected)) => {
                    notes.patches += (due - sent).saturating_sub(rejected);
                    notes.rejected += rejected;
                    notes.latency.record(asked.elapsed());
                }
                Ok((status, _)) => *notes.failures.entry(status.to_string()).or_default() += 1,
                Err(name) => *notes.failures.entry(name.to_string()).or_default() += 1,
            }
            sent = due;
        }
        let next = start + Duration::from_secs_f64((sent + 1) as f64 / updates);
        sleep_until(next.max(Instant::now() + TOGETHER).into()).await;
    }
}

/// The status that the server gives these patches and how many of them it rejects, or why there is none. The connection is kept
/// where it can be.
async fn patch(plan: &Plan, kept: &mut Option<Connection>, lines: &[u8]) -> Result<(u16, u64), &'static str> {
    let request = plan.target.request("PATCH", "/control", "application/x-ndjson", lines);
    let exchange = async {
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => Connection::open(plan.target.address).await?,
        };
        let reply = connection.ask(&request).await?;
        let (answer, closes) = ((reply.status, rejected(reply.body)), reply.closes);
        *kept = (!closes).then_some(connection);
        Ok(answer)
    };
    let answered = timeout(plan.timeout, exchange).await;
    answered.map_err(|_| "timeout")?.map_err(|failure: super::http::Failure| failure.name())
}

/// How many patches an answer says were not taken.
fn rejected(body: &[u8]) -> u64 {
    let answer: Option<Value> = serde_json::from_slice(body).ok();
    answer.and_then(|answer| answer["rejected"].as_u64()).unwrap_or(0)
}

/// Sends a request a byte a second, again and again, for as long as the server lets it.
async fn slow_client(plan: Plan, notes: Notes, begins: Duration) {
    sleep(begins).await;
    let request = plan.target.request("POST", "/search", "application/json", &plan.bodies[0]);
    loop {
        let Ok(mut stream) = TcpStream::connect(plan.target.address).await else {
            notes.borrow_mut().slow_refused += 1;
            sleep(SLOWNESS).await;
            continue;
        };
        notes.borrow_mut().slow_opened += 1;
        for byte in &request {
            let sent = stream.write_all(&[*byte]).await;
            // Whatever comes before the request is complete, an answer or an end, is the server's goodbye.
            if sent.is_err() || timeout(SLOWNESS, stream.read(&mut [0; 512])).await.is_ok() {
                break;
            }
        }
        notes.borrow_mut().slow_ended += 1;
    }
}

impl Aside {
    pub(super) fn json(&self) -> Value {
        let slow = json!({"opened": self.slow_opened, "ended": self.slow_ended, "refused": self.slow_refused});
        let updates = json!({"patches": self.patches, "rejected": self.rejected, "latency_ms": self.latency.json(), "failures": self.failures});
        json!({"updates": updates, "slow_clients": slow})
    }

    /// A line for each thing that went on.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.latency.count() > 0 {
            let (p50, p99) = (self.latency.quantile_ms(0.5), self.latency.quantile_ms(0.99));
            lines.push(format!(
                "{} control patches, requests of them p50 {p50:.2} ms, p99 {p99:.2} ms",
                grouped(self.patches)
            ));
        }
        if self.rejected > 0 {
            lines.push(format!("{} control patches rejected", grouped(self.rejected)));
        }
        lines.extend(
            self.failures.iter().map(|(name, count)| format!("{} requests of patches failed: {name}", grouped(*count))),
        );
        if self.slow_opened + self.slow_refused > 0 {
            let [opened, ended, refused] = [self.slow_opened, self.slow_ended, self.slow_refused].map(grouped);
            lines.push(format!("slow clients: {opened} connections, {ended} ended by the server, {refused} refused"));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_that_were_not_taken_are_told_from_those_that_were() {
        assert_eq!(rejected(br#"{"accepted": 1, "rejected": 2, "items": []}"#), 2);
        assert_eq!(rejected(b"{}") + rejected(b"no json"), 0);
    }
}
