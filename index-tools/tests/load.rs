//! `load-test` against servers that behave in known ways: what it reports is what they did.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bigrain::dataset::{Scalar, VectorWriter};
use serde_json::Value;

/// What a server does with searches.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Answer,
    /// 503 for each second one.
    Shed,
    /// Once, nobody is answered for so long.
    Stall(Duration),
    /// Closes after each answer without having said so.
    HangUp,
    /// 422 for each.
    Refuse,
}

struct Server {
    manner: Manner,
    started: Instant,
    /// Whoever holds it is answered; a stall holds it.
    turn: Mutex<bool>,
    searches: AtomicU64,
    patches: AtomicU64,
}

impl Server {
    fn start(manner: Manner) -> (SocketAddr, Arc<Server>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (turn, searches, patches) = (Mutex::new(false), AtomicU64::new(0), AtomicU64::new(0));
        let server = Arc::new(Server { manner, started: Instant::now(), turn, searches, patches });
        let serving = server.clone();
        // Ends with the process of the tests.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let serving = serving.clone();
                std::thread::spawn(move || serving.serve(&stream));
            }
        });
        (address, server)
    }

    /// Answers until the client leaves, or is silent in the middle of a request or between two for half a second.
    fn serve(&self, stream: &TcpStream) -> Option<()> {
        stream.set_read_timeout(Some(Duration::from_millis(500))).ok()?;
        let mut reader = BufReader::new(stream);
        loop {
            let (mut start, mut length) = (String::new(), 0);
            reader.read_line(&mut start).ok().filter(|bytes| *bytes > 0)?;
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).ok()?;
                if let Some(value) = line.strip_prefix("content-length: ") {
                    length = value.trim().parse().ok()?;
                }
                if line == "\r\n" {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).ok()?;
            let (status, answer) = self.answer(&start, &body);
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n", answer.len());
            (&*stream).write_all([head.as_bytes(), answer.as_bytes()].concat().as_slice()).ok()?;
            if self.manner == Manner::HangUp {
                return None;
            }
        }
    }

    fn answer(&self, start: &str, body: &[u8]) -> (u16, &'static str) {
        if start.starts_with("PATCH ") {
            self.patches.fetch_add(body.iter().filter(|byte| **byte == b'\n').count() as u64, Relaxed);
            return (200, "{}");
        }
        let search: Value = serde_json::from_slice(body).unwrap();
        assert!(
            search["vector_b64"].is_string() && search["limit"] == 7 && search["params"]["nprobe"] == 3,
            "{search}"
        );
        let number = self.searches.fetch_add(1, Relaxed);
        let mut stalled = self.turn.lock().unwrap();
        match self.manner {
            Manner::Stall(pause) if !*stalled && self.started.elapsed() > Duration::from_millis(900) => {
                *stalled = true;
                std::thread::sleep(pause);
            }
            Manner::Shed if number % 2 == 1 => return (503, "{}"),
            Manner::Refuse => return (422, "{\"detail\": \"no such field\"}"),
            _ => {}
        }
        (200, "{\"coverage\":{\"complete\":true,\"degraded\":[\"load_reduced_effort\"]},\"hits\":[]}")
    }
}

fn queries(dir: &Path) -> String {
    let path = dir.join("queries.npy");
    let mut writer = VectorWriter::create(&path, Scalar::F32, 4).unwrap();
    writer.write(&[0.5; 40]).unwrap();
    writer.finish().unwrap();
    path.display().to_string()
}

/// The exit code, standard output and standard error of loads of a second and a half on `address`.
fn load_test(address: SocketAddr, more: &[&str]) -> (i32, String, String) {
    run(address, &[&["--warm-up", "0.2", "--duration", "1.5"], more].concat())
}

fn run(address: SocketAddr, more: &[&str]) -> (i32, String, String) {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_load-test"))
        .args(["--url", &format!("http://{address}"), "--queries", &queries(dir.path())])
        .args(["--limit", "7", "--body", r#"{"limit": 1, "params": {"nprobe": 3}}"#])
        .args(["--timeout", "5"])
        .args(more)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn loads(address: SocketAddr, more: &[&str]) -> Vec<Value> {
    let (code, stdout, stderr) = load_test(address, &[more, &["--json"]].concat());
    assert_eq!(code, 0, "{stderr}");
    let answer: Value = serde_json::from_str(&stdout).unwrap();
    answer["loads"].as_array().unwrap().clone()
}

#[test]
fn rates_are_kept_and_everything_is_counted() {
    let (address, server) = Server::start(Manner::Answer);
    let found = loads(address, &["--rates", "50,200"]);
    for (load, rate) in found.iter().zip([50.0, 200.0]) {
        let requests = load["requests"].as_u64().unwrap();
        // Five standard deviations of a Poisson count.
        let expected = rate * 1.5;
        assert!((requests as f64 - expected).abs() < 5.0 * expected.sqrt(), "{requests} for {expected}");
        assert_eq!(load["statuses"]["200"], requests, "{load}");
        assert_eq!(load["reduced_effort"], requests, "{load}");
        let busy = load["client"]["busy"].as_f64().unwrap();
        assert!(busy > 0.0 && busy < 1.0, "{busy} of a core");
        assert_eq!((load["failures"].as_object().unwrap().len(), &load["partial"]), (0, &Value::from(0)));
    }
    let counted: u64 = found.iter().map(|load| load["requests"].as_u64().unwrap()).sum();
    assert!(server.searches.load(Relaxed) > counted, "the warm-up is not counted");
}

#[test]
fn a_stall_is_charged_for_everyone_who_came_meanwhile() {
    let slow = |more: &[&str]| {
        let (address, _server) = Server::start(Manner::Stall(Duration::from_millis(500)));
        let load = loads(address, more).remove(0);
        assert!(load["latency_ms"]["max"].as_f64().unwrap() > 450.0, "{load}");
        load["latency_ms"]["p90"].as_f64().unwrap()
    };
    // A third of 1.5 s stands still: those who came then waited for 250 ms in the mean, and one in ten for over 200.
    let open = slow(&["--rates", "200", "--connections", "4"]);
    assert!(open > 150.0, "open loop: {open}");
    let closed = slow(&["--closed", "1"]);
    assert!(closed < 150.0, "a closed loop sends nothing meanwhile: {closed}");
}

#[test]
fn sheds_are_apart() {
    let (address, _server) = Server::start(Manner::Shed);
    let load = loads(address, &["--rates", "100"]).remove(0);
    let share = load["shed"]["share"].as_f64().unwrap();
    assert!((0.45..0.55).contains(&share), "{load}");
    assert!(load["shed"]["latency_ms"]["p50"].is_number());
    assert_eq!(load["statuses"]["503"], load["shed"]["count"]);
}

#[test]
fn a_closed_connection_is_opened_again() {
    let (address, _server) = Server::start(Manner::HangUp);
    let load = loads(address, &["--closed", "2"]).remove(0);
    assert_eq!(load["failures"], serde_json::json!({}), "{load}");
    assert!(load["reconnects"].as_u64().unwrap() > 10, "{load}");
}

#[test]
fn updates_and_slow_clients_go_on_beside() {
    let (address, server) = Server::start(Manner::Answer);
    let load = loads(address, &["--rates", "20", "--updates", "200", "--slow-clients", "3"]).remove(0);
    let patches = load["background"]["updates"]["patches"].as_u64().unwrap();
    assert!((200..500).contains(&patches), "{load}");
    assert!(server.patches.load(Relaxed) >= patches);
    let slow = &load["background"]["slow_clients"];
    assert!(slow["opened"].as_u64().unwrap() >= 6 && slow["ended"].as_u64().unwrap() >= 3, "{load}");
}

#[test]
fn what_the_server_refuses_is_said_before_a_load_of_it() {
    let (address, server) = Server::start(Manner::Refuse);
    let (code, _, stderr) = load_test(address, &["--rates", "100"]);
    assert_eq!(code, 1);
    assert!(stderr.contains("422") && stderr.contains("no such field"), "{stderr}");
    assert_eq!(server.searches.load(Relaxed), 1);
    for wrong in [&["--rates", "0"][..], &["--rates", "5", "--body", "[]"], &["--rates", "5", "--filter", "{"], &[]] {
        assert_eq!(load_test(address, wrong).0, 2, "{wrong:?}");
    }
}

#[test]
fn saturation_is_said() {
    let (address, _server) = Server::start(Manner::Answer);
    let more = ["--find-saturation", "--start-rate", "20", "--good-ms", "0", "--duration", "0.05", "--warm-up", "0"];
    let (code, stdout, stderr) = run(address, &more);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("no rate was held"), "{stdout}");
}
