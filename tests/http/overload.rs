//! More is asked for than can be searched: what is refused, how fast, and what that leaves for the others.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bigrain::heads::Heads;
use bigrain::server::Job;
use serde_json::{Value, json};

use crate::client::{connect, post, send};
use crate::fixture::{Server, start, start_over, vector};

const BATCH: &str = "/v1/collections/default/search/batch";

/// Work that waits, as the server is told; its workers are busy.
fn waiting(server: &Server, ms: u64) -> bigrain::server::Pending<()> {
    let job = Job { cost: Duration::from_millis(ms), ..Job::default() };
    server.service.pool().submit_as(job, |_| ()).unwrap()
}

#[test]
fn what_would_wait_past_its_deadline_or_the_bound_is_refused_at_once() {
    let server = start(|config| config.admission.queue_ms = 300);
    let blockade = server.block(0);
    let _waiting = waiting(&server, 400); // 200 ms for two workers.
    let ask = |timeout: u64| {
        let body = json!({"vector": vector(0), "timeout_ms": timeout}).to_string();
        post(server.address, "/search", &body)
    };
    // Work of an unknown deadline stands as if that were in a second: this one is behind it, and has the time.
    let behind = std::thread::scope(|scope| {
        let patient = scope.spawn(|| ask(20_000));
        while server.service.pool().queued() < 2 {
            std::thread::yield_now();
        }
        drop(blockade);
        patient.join().unwrap()
    });
    assert_eq!(behind.status, 200);
    let _blockade = server.block(0);
    let _waiting = [waiting(&server, 400), waiting(&server, 400)];
    let refused = ask(20_000);
    assert_eq!((refused.status, refused.json()["code"].as_str()), (503, Some("overloaded")));
    assert!(refused.header("retry-after").is_some() && refused.json()["detail"].as_str().unwrap().contains("400 ms"));
    let text = send(server.address, "GET", "/metrics", &[], b"");
    assert!(text.text().contains("\nbigrain_requests_shed_total 1\n"));
    assert!(text.text().contains("\nbigrain_queue_work_seconds 0.4\n"));
}

#[test]
fn large_batches_are_refused_before_they_are_read() {
    let server = start(|config| config.admission.queue_ms = 10);
    let _blockade = server.block(0);
    let _waiting = waiting(&server, 400);
    let announced = [("content-type", "application/json"), ("content-length", "1000000")];
    // Nothing of the body is sent: an answer comes only if the server does not wait for it.
    assert_eq!(send(server.address, "POST", BATCH, &announced, b"").status, 503);
}

#[test]
fn under_pressure_effort_is_lowered_and_said_so_but_promises_are_kept() {
    let server = start(|config| {
        (config.admission.reduce_from_ms, config.admission.least_effort) = (0, 0.5);
        config.workers.threads = 1;
    });
    let params = |params: Value| json!({"vector": vector(0), "stats": true, "params": params}).to_string();
    let under_pressure = |body: String| {
        let blockade = server.block(0);
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| post(server.address, "/search", &body).json());
            while server.service.pool().queued() < 1 {
                std::thread::yield_now();
            }
            // Behind the request in the queue, so that it waits when the request is taken up.
            let job = Job {
                cost: Duration::from_secs(1),
                deadline: Some(Instant::now() + Duration::from_secs(60)),
                partial: true,
            };
            let _waiting = server.service.pool().submit_as(job, |_| std::thread::sleep(Duration::from_millis(1)));
            drop(blockade);
            let answer = asked.join().unwrap();
            // The task that was said to take a second takes a millisecond.
            while server.service.pool().submit(|_| ()).is_err() {
                std::thread::yield_now();
            }
            answer
        })
    };
    let plain = json!({"nprobe": 8, "candidates": 100});
    let calm = post(server.address, "/search", &params(plain.clone())).json();
    assert_eq!((&calm["coverage"]["degraded"], &calm["stats"]["lists_probed"]), (&json!([]), &json!(8)));
    let pressed = under_pressure(params(plain));
    assert_eq!(pressed["coverage"]["degraded"], json!(["load_reduced_effort"]), "{pressed}");
    assert_eq!((&pressed["stats"]["lists_probed"], &pressed["stats"]["candidates"]), (&json!(4), &json!(50)));
    for promise in [json!({"exact": true}), json!({"recall_target": 0.9})] {
        assert_eq!(under_pressure(params(promise))["coverage"]["degraded"], json!([]));
    }
    let metrics = send(server.address, "GET", "/metrics", &[], b"");
    assert!(metrics.text().contains("\nbigrain_search_effort_lowered_total 1\n"));
}

#[test]
fn a_client_that_leaves_is_not_searched_for() {
    let server = start(|_| ());
    let blockade = server.block(0);
    let body = json!({"vector": vector(0)}).to_string();
    let mut stream = connect(server.address);
    let head = "POST /search HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\n";
    write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
    while server.service.pool().queued() < 1 {
        std::thread::yield_now();
    }
    drop(stream);
    // Its place in the queue is of no use to anybody; a later one is searched all the same.
    std::thread::sleep(Duration::from_millis(200));
    drop(blockade);
    assert_eq!(post(server.address, "/search", &body).status, 200);
    let metrics = send(server.address, "GET", "/metrics", &[], b"");
    assert!(metrics.text().contains("\nbigrain_search_queries_total 1\n"));
}

#[test]
fn refusals_beyond_their_rate_let_their_connection_rest_and_no_other() {
    let server = start(|config| (config.admission.queue_ms, config.admission.refusals_per_second) = (300, 1));
    let body = json!({"vector": vector(0), "timeout_ms": 20_000}).to_string();
    let blockade = server.block(0);
    let _waiting = [waiting(&server, 400), waiting(&server, 400)];
    let mut stream = connect(server.address);
    assert_eq!(ask(&mut stream, &body), 503, "a refusal is told at once");
    drop(blockade);
    while server.service.pool().queued() > 0 {
        std::thread::yield_now();
    }
    assert_eq!(post(server.address, "/search", &body).status, 200);
    assert_eq!(ask(&mut stream, &body), 200, "and the connection that rested is heard, too");
    let metrics = send(server.address, "GET", "/metrics", &[], b"");
    assert!(metrics.text().contains("\nbigrain_connections_rested_total 1\n"));
}

/// What a load did.
#[derive(Debug, Default)]
struct Load {
    good_per_s: f64,
    refused_per_s: f64,
    other: u64,
    /// Middle and 99th percentile of the time to a refusal, in milliseconds.
    refused_ms: (f64, f64),
}

/// Sends `body` on kept connections: `rate` requests a second, at random times, as long as connections are free; as fast as they
/// are answered without a rate.
fn load(address: SocketAddr, body: &str, clients: usize, rate: Option<f64>, seconds: f64) -> Load {
    let (good, other, refusals) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::new(Vec::new()));
    let (begin, next) = (Instant::now(), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..clients {
            std::thread::Builder::new()
                .stack_size(128 << 10)
                .spawn_scoped(scope, || {
                    let mut stream = connect(address);
                    stream.set_nodelay(true).unwrap();
                    loop {
                        if let Some(rate) = rate {
                            let due = Duration::from_secs_f64(next.fetch_add(1, Relaxed) as f64 / rate);
                            std::thread::sleep(due.saturating_sub(begin.elapsed()));
                        }
                        if begin.elapsed().as_secs_f64() > seconds {
                            break;
                        }
                        let sent = Instant::now();
                        match ask(&mut stream, body) {
                            200 => drop(good.fetch_add(1, Relaxed)),
                            503 => refusals.lock().unwrap().push(sent.elapsed().as_secs_f64() * 1e3),
                            _ => drop(other.fetch_add(1, Relaxed)),
                        }
                    }
                })
                .unwrap();
        }
    });
    let mut refusals = refusals.into_inner().unwrap();
    refusals.sort_by(f64::total_cmp);
    let at = |share: f64| refusals.get((refusals.len() as f64 * share) as usize).copied().unwrap_or(0.0);
    Load {
        good_per_s: good.into_inner() as f64 / seconds,
        refused_per_s: refusals.len() as f64 / seconds,
        other: other.into_inner(),
        refused_ms: (at(0.5), at(0.99)),
    }
}

/// Sends a search on a kept connection and reads its answer; the status.
fn ask(stream: &mut TcpStream, body: &str) -> u16 {
    let head = "POST /search HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\n";
    stream.write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).unwrap();
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let count = stream.read(&mut buffer).unwrap();
        assert!(count > 0, "the server closed a kept connection");
        bytes.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, rest)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            if rest.len() >= length.parse().unwrap() {
                return head.split(' ').nth(1).unwrap().parse().unwrap();
            }
        }
    }
}

/// What is left over for the server beside its clients varies with the machine: rates and times are bounded where they are measured,
/// `BIGRAIN_LOAD_SECONDS=10 cargo test --release --test http overload -- --nocapture`, and printed elsewhere.
#[test]
fn twice_and_ten_times_saturation_are_answered_or_refused() {
    let measured: Option<f64> = std::env::var("BIGRAIN_LOAD_SECONDS").ok().and_then(|text| text.parse().ok());
    let seconds = measured.unwrap_or(1.0);
    let server = start_over(40_000, Heads::default(), |config| {
        (config.admission.queue_ms, config.admission.least_effort) = (20, 1.0);
    });
    let body = json!({"vector": vector(7), "params": {"exact": true}}).to_string();
    load(server.address, &body, 4, None, seconds / 2.0); // The server learns what a query costs.
    let peak = load(server.address, &body, 4, None, seconds);
    println!("peak: {peak:.1?}");
    for times in [2.0, 10.0] {
        let found = load(server.address, &body, 150, Some(times * peak.good_per_s), seconds);
        let share = found.good_per_s / peak.good_per_s;
        println!("{times} times: {share:.2} of peak, {found:.1?}");
        assert!(found.good_per_s > 0.0 && found.other == 0, "answers or refusals and nothing else: {found:?}");
        // 150 clients that ask as fast as they can are more than 20 ms of work.
        assert!(found.refused_per_s > 0.0 || times < 10.0, "{found:?}");
        if measured.is_some() {
            assert!(share > 0.4, "goodput collapsed at {times} times: {peak:?} {found:?}");
            assert!(found.refused_ms.0 < 50.0, "a refusal waits for nothing: {found:?}");
        }
    }
    assert_eq!(post(server.address, "/search", &body).status, 200, "and it recovers");
}
