//! Slow clients, too many of them, deadlines, shutdown. Nothing here asserts how long something took: a server that
//! waits where it must not runs into the client's read timeout instead.

use std::io::{Read, Write};

use serde_json::json;

use crate::client::{connect, post, read_all, read_reply, send};
use crate::fixture::{Server, start, vector};

fn query() -> String {
    json!({"vector": vector(0)}).to_string()
}

/// A request on a connection that stays open, sent but not answered yet.
fn pending(server: &Server, body: &str) -> std::net::TcpStream {
    let mut stream = connect(server.address);
    let head = "POST /search HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-type: application/json\r\n";
    write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
    stream
}

/// Waits until `queued` tasks are waiting.
fn await_queue(server: &Server, queued: usize) {
    while server.service.pool().queued() < queued {
        std::thread::yield_now();
    }
}

#[test]
fn slow_headers_and_idle_connections_are_dropped() {
    let server = start(|config| config.timeouts.header_ms = 100);
    let mut slow = connect(server.address);
    slow.write_all(b"POST /search HT").unwrap();
    assert!(!String::from_utf8_lossy(&read_all(&mut slow)).contains(" 200 "));
    let mut idle = connect(server.address);
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: t\r\n\r\n").unwrap();
    let answer = read_all(&mut idle); // Ends only if the server closes.
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
}

#[test]
fn slow_bodies_are_408() {
    let server = start(|config| config.timeouts.body_ms = 100);
    let mut stream = connect(server.address);
    let head = "POST /search HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{";
    stream.write_all(head.as_bytes()).unwrap();
    let reply = read_reply(&mut stream);
    assert_eq!((reply.status, reply.json()["code"].as_str()), (408, Some("body_timeout")));
}

#[test]
fn a_full_queue_is_503_at_once_and_health_still_answers() {
    let server = start(|config| config.workers.queue = 2);
    let blockade = server.block(2);
    for path in ["/search", "/v1/collections/default/search/batch"] {
        let reply = post(server.address, path, &query()); // While no worker is free: it is not queued.
        assert_eq!((reply.status, reply.json()["code"].as_str()), (503, Some("overloaded")));
        assert_eq!(reply.header("retry-after"), Some("1"));
    }
    assert_eq!(send(server.address, "GET", "/livez", &[], b"").status, 200);
    let metrics = send(server.address, "GET", "/metrics", &[], b"");
    assert!(metrics.text().contains("\nbigrain_requests_shed_total 2\n"));
    assert!(metrics.text().contains("\nbigrain_queue_depth 2\n"));
    drop(blockade);
    while server.service.pool().queued() > 0 {
        std::thread::yield_now();
    }
    assert_eq!(post(server.address, "/search", &query()).status, 200);
}

#[test]
fn a_request_that_waited_past_its_deadline_is_504_and_is_not_searched() {
    let server = start(|_| ());
    let blockade = server.block(0);
    let body = json!({"vector": vector(0), "timeout_ms": 1, "allow_partial": true}).to_string();
    let mut stream = pending(&server, &body);
    await_queue(&server, 1);
    std::thread::sleep(std::time::Duration::from_millis(5));
    drop(blockade);
    let reply = read_reply(&mut stream);
    assert_eq!((reply.status, reply.json()["code"].as_str()), (504, Some("deadline_exceeded")));
    let metrics = send(server.address, "GET", "/metrics", &[], b"");
    assert!(metrics.text().contains("\nbigrain_search_queries_total 0\n"));
}

#[test]
fn when_no_worker_ever_comes_the_longest_deadline_answers() {
    let server = start(|config| (config.timeouts.search_ms, config.timeouts.search_max_ms) = (50, 50));
    let _blockade = server.block(0);
    assert_eq!(post(server.address, "/search", &query()).status, 504);
}

#[test]
fn connections_beyond_the_cap_are_told_503() {
    let server = start(|config| config.limits.connections = 2);
    let mut open: Vec<_> = (0..2).map(|_| connect(server.address)).collect();
    for stream in &mut open {
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: t\r\n\r\n").unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
    }
    let reply = read_reply(&mut connect(server.address));
    assert_eq!((reply.status, reply.json()["code"].as_str()), (503, Some("too_many_connections")));
    assert_eq!(reply.header("retry-after"), Some("1"));
}

#[test]
fn shutdown_answers_what_is_running_and_accepts_no_more() {
    let mut server = start(|_| ());
    let blockade = server.block(0);
    let mut running = pending(&server, &query());
    await_queue(&server, 1);
    server.shut_down();
    while std::net::TcpStream::connect(server.address).is_ok() {
        std::thread::yield_now();
    }
    drop(blockade);
    assert_eq!(read_reply(&mut running).status, 200);
    assert!(server.join(), "all requests were answered");
}

#[test]
fn shutdown_cuts_what_does_not_end() {
    let mut server = start(|config| config.timeouts.drain_ms = 50);
    let _blockade = server.block(0);
    let mut running = pending(&server, &query());
    await_queue(&server, 1);
    server.shut_down();
    assert!(!server.join(), "a request was cut");
    assert!(read_all(&mut running).is_empty());
}
