//! A disk that fills up: what is written is refused, what is asked is answered.

use std::io::ErrorKind;
use std::sync::Arc;

use bigrain::heads::Heads;
use bigrain::vfs::RealVfs;
use bigrain::vfs::testing::{Fault, FaultyVfs};
use serde_json::{Value, json};

use crate::client::{Reply, post, send};
use crate::fixture::{FIRST_KEY, ROWS, Server, build, start_collection_on, vector};

fn put(server: &Server, key: u64, row: usize) -> Reply {
    let line = json!({"key": key, "vector": vector(row), "attributes": {}}).to_string();
    let headers = [("content-type", "application/x-ndjson")];
    send(server.address, "PUT", "/v1/collections/default/ads", &headers, line.as_bytes())
}

fn best(server: &Server, row: usize) -> u64 {
    let reply = post(server.address, "/search", &json!({"vector": vector(row), "limit": 1}).to_string());
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["hits"][0]["key"].as_u64().unwrap()
}

#[test]
fn a_full_disk_is_507_and_searches_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let index = build(dir.path(), ROWS, Heads::default());
    let disk = FaultyVfs::starting_at(Arc::new(RealVfs), u64::MAX, Fault::Error(ErrorKind::StorageFull));
    let state = dir.path().join("state");
    let server = start_collection_on(Arc::new(disk.clone()), &index, |config| config.ads.state = state);
    assert_eq!(put(&server, 5_000, 1_000).status, 200);
    let refused = || -> Value {
        let reply = put(&server, 5_001, 1_001);
        assert_eq!((reply.status, &reply.json()["code"]), (507, &json!("disk_full")), "{}", reply.text());
        reply.json()
    };
    disk.set_free(1 << 20);
    let low = refused();
    assert!(low["remedy"].as_str().unwrap().contains("by themselves"), "{low}");
    disk.set_free(u64::MAX);
    assert_eq!(put(&server, 5_002, 1_002).status, 200);
    disk.fail_now();
    for _ in 0..2 {
        let stopped = refused();
        assert!(stopped["remedy"].as_str().unwrap().contains("restart"), "{stopped}");
        assert!(stopped["detail"].as_str().unwrap().contains("not acknowledged"), "{stopped}");
        assert_eq!((best(&server, 1_000), best(&server, 7)), (5_000, FIRST_KEY + 7));
    }
}
