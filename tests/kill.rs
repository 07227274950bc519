//! The real server, killed while it writes: what it acknowledged is there when it comes back, and nothing else.
//!
//! Each round starts the server, sends upserts and deletes from several threads while compactions run, kills the process without a warning
//! (SIGKILL) after a random time, starts it again and compares what it has with a model: acknowledged changes, and for each key perhaps
//! the one change that was on its way. `BIGRAIN_KILLS=200` asks for more rounds than the few that always run.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const DIM: usize = 8;
const ROWS: u64 = 200;
/// Threads that write, each its own keys.
const WRITERS: u64 = 4;
/// Keys of each writer: few, so that they are written again and again.
const KEYS: u64 = 60;

/// A number that looks random, from a seed.
fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (z ^ (z >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb) ^ (z >> 29)
}

fn vector(seed: u64) -> Vec<f32> {
    (0..DIM as u64).map(|i| (mix(seed * 31 + i) >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
}

/// A running server.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start(dir: &Path) -> Server {
        let mut process = Command::new(env!("CARGO_BIN_EXE_bigrain"))
            .args(["serve", "--listen", "127.0.0.1:0", "--set", "ads.compact_changes=40", "--index"])
            .arg(dir.join("index"))
            .arg("--state")
            .arg(dir.join("state"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let (mut line, mut all) = (String::new(), String::new());
        let address = loop {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "the server ended:\n{all}");
            all.push_str(&line);
            if let Some((_, rest)) = line.split_once("listening on http://") {
                break rest.split_whitespace().next().unwrap().to_string();
            }
        };
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Server { process, address }
    }

    /// The body of the answer; None where the server is gone.
    fn ask(&self, method: &str, path: &str, media: &str, body: &str) -> Option<(u16, Value)> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let head = format!(
            "{method} /v1/collections/default{path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: {media}\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let text = String::from_utf8(answer).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, serde_json::from_str(body).ok()?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a key may be: the number of its last upsert; None: deleted or never there.
type State = Option<u64>;

/// What is known of every key that was written.
#[derive(Default)]
struct Model {
    sure: HashMap<u64, State>,
    /// Changes that were sent and not acknowledged.
    perhaps: HashMap<u64, State>,
}

fn build(dir: &Path) {
    let rows: Vec<u8> = (0..ROWS).flat_map(vector).flat_map(f32::to_le_bytes).collect();
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({ROWS}, {DIM}), }}\n");
    let length = (header.len() as u16).to_le_bytes();
    let vectors: PathBuf = dir.join("vectors.npy");
    std::fs::write(&vectors, [b"\x93NUMPY\x01\x00".as_slice(), &length, header.as_bytes(), &rows].concat()).unwrap();
    let spec =
        bigrain::build::BuildSpec { lists: Some(4), ..bigrain::build::BuildSpec::new(vectors, dir.join("index")) };
    bigrain::build::build(&spec, &bigrain::train::Silent).unwrap();
}

/// Writes until the server is gone.
fn write(server: &Server, writer: u64, round: u64, next: &AtomicU64, stop: &AtomicBool, model: &Mutex<Model>) {
    let mut step = 0;
    while !stop.load(Relaxed) {
        step += 1;
        let draw = mix(round << 32 | writer << 24 | step);
        let key = ROWS + writer * KEYS + draw % KEYS;
        let state = (draw >> 32 & 3 != 0).then(|| next.fetch_add(1, Relaxed));
        model.lock().unwrap().perhaps.insert(key, state);
        let answer = match state {
            Some(number) => {
                let line = json!({"key": key, "vector": vector(number), "attributes": {"number": number}});
                server.ask("PUT", "/ads", "application/x-ndjson", &line.to_string())
            }
            None => server.ask("POST", "/ads/delete", "application/json", &json!({"keys": [key]}).to_string()),
        };
        let Some((status, answer)) = answer else { return };
        assert_eq!((status, answer["accepted"].as_u64()), (200, Some(1)), "{answer}");
        let mut model = model.lock().unwrap();
        model.perhaps.remove(&key);
        model.sure.insert(key, state);
    }
}

/// Compares the server with the model, and settles what was open.
fn check(server: &Server, model: &mut Model, round: u64) {
    for writer in 0..WRITERS {
        for key in (ROWS + writer * KEYS)..(ROWS + (writer + 1) * KEYS) {
            let (status, answer) = server.ask("GET", &format!("/ads/{key}"), "", "").expect("it is up");
            let found: State =
                (status == 200).then(|| answer["attributes"]["number"].as_u64().expect("as it was written"));
            let sure = model.sure.get(&key).copied().flatten();
            let perhaps = model.perhaps.get(&key);
            assert!(
                found == sure || perhaps == Some(&found),
                "round {round}, key {key}: {found:?}, not {sure:?} or {perhaps:?}"
            );
            model.sure.insert(key, found);
        }
    }
    model.perhaps.clear();
    // All there is, each once.
    let body = json!({"vector": vector(1), "limit": 1_000, "params": {"exact": true}, "timeout_ms": 30_000});
    let (status, answer) = server.ask("POST", "/search", "application/json", &body.to_string()).unwrap();
    assert_eq!(status, 200, "{answer}");
    let mut keys: Vec<u64> =
        answer["hits"].as_array().unwrap().iter().map(|hit| hit["key"].as_u64().unwrap()).collect();
    keys.sort_unstable();
    let mut expected: Vec<u64> =
        (0..ROWS).chain(model.sure.iter().filter(|(_, s)| s.is_some()).map(|(&key, _)| key)).collect();
    expected.sort_unstable();
    assert_eq!(keys, expected, "round {round}");
}

#[test]
fn what_was_acknowledged_survives_a_kill_at_any_moment() {
    let rounds: u64 = std::env::var("BIGRAIN_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    let dir = tempfile::tempdir().unwrap();
    build(dir.path());
    let (mut model, next) = (Model::default(), AtomicU64::new(1));
    let (mut acknowledged, begun) = (0, Instant::now());
    for round in 0..rounds {
        let server = Server::start(dir.path());
        check(&server, &mut model, round);
        let (stop, shared) = (AtomicBool::new(false), Mutex::new(std::mem::take(&mut model)));
        let before = next.load(Relaxed);
        let mut process = server;
        std::thread::scope(|scope| {
            let (server, stop, shared, next) = (&process, &stop, &shared, &next);
            let writers: Vec<_> =
                (0..WRITERS).map(|w| scope.spawn(move || write(server, w, round, next, stop, shared))).collect();
            let wait = 20 + mix(round) % 600;
            std::thread::sleep(Duration::from_millis(wait));
            let id = server.process.id();
            assert!(Command::new("kill").args(["-9", &id.to_string()]).status().unwrap().success());
            writers.into_iter().for_each(|writer| writer.join().unwrap());
            stop.store(true, Relaxed);
        });
        process.process.wait().unwrap();
        model = shared.into_inner().unwrap();
        acknowledged += next.load(Relaxed) - before;
    }
    let server = Server::start(dir.path());
    check(&server, &mut model, rounds);
    println!("{rounds} kills, about {acknowledged} upserts in {:.0} s", begun.elapsed().as_secs_f64());
}
