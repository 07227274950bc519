//! Ads with several views over real connections: each is one hit, found by its best view, and its views come and go together.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use bigrain::build::BuildSpec;
use bigrain::train::Silent;
use serde_json::{Value, json};

use crate::client::{post, send};
use crate::fixture::{Server, npy, start_collection, vector};

const C: &str = "/v1/collections/default";
/// Ads of the index, three rows each: ad `a` has the vectors `a`, `100 + a` and `200 + a`.
const ADS: usize = 60;
const VIEWS: usize = 3;

fn view(ad: usize, view: usize) -> Vec<f32> {
    vector(100 * view + ad)
}

fn build(dir: &Path) -> PathBuf {
    let rows: Vec<(usize, usize)> = (0..VIEWS).flat_map(|view| (0..ADS).map(move |ad| (ad, view))).collect();
    let lines = |line: &dyn Fn(usize) -> String| rows.iter().map(|row| line(row.0) + "\n").collect::<String>();
    let path = |name: &str| dir.join(name);
    std::fs::write(path("v.npy"), npy(&rows.iter().map(|&(ad, number)| view(ad, number)).collect::<Vec<_>>())).unwrap();
    std::fs::write(path("k.txt"), lines(&|ad| ad.to_string())).unwrap();
    std::fs::write(path("r.jsonl"), lines(&|ad| json!({"title": format!("ad {ad}"), "ad_group": 1 + ad}).to_string()))
        .unwrap();
    let spec = BuildSpec {
        keys: Some(path("k.txt")),
        attributes: Some(path("r.jsonl")),
        views: true,
        lists: Some(8),
        ..BuildSpec::new(path("v.npy"), path("index"))
    };
    bigrain::build::build(&spec, &Silent).unwrap();
    spec.output
}

fn serve(dir: &Path, index: &Path) -> Server {
    start_collection(index, |config| {
        (config.ads.state, config.ads.versions) = (dir.join("state"), dir.join("versions"));
    })
}

fn search(address: SocketAddr, body: &Value) -> Value {
    let reply = post(address, &format!("{C}/search"), &body.to_string());
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

fn put(address: SocketAddr, item: &Value) -> Value {
    let headers = [("content-type", "application/x-ndjson")];
    let reply = send(address, "PUT", &format!("{C}/ads"), &headers, item.to_string().as_bytes());
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

/// Key, view and score of the first hit; fails if a key comes twice or the list is not full.
fn first(answer: &Value, full: usize) -> (u64, u64, f64) {
    let hits = answer["hits"].as_array().unwrap();
    let mut keys: Vec<u64> = hits.iter().map(|hit| hit["key"].as_u64().unwrap()).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!((keys.len(), hits.len()), (full, full), "{answer}");
    let hit = &hits[0];
    (hit["key"].as_u64().unwrap(), hit["view"].as_u64().unwrap(), hit["score"].as_f64().unwrap())
}

#[test]
fn an_ad_is_one_hit_and_its_views_change_together() {
    let dir = tempfile::tempdir().unwrap();
    let index = build(dir.path());
    let server = serve(dir.path(), &index);
    let ask = |vector: Vec<f32>| search(server.address, &json!({"vector": vector, "limit": 30}));
    for ad in [0, 7, 59] {
        for number in 0..VIEWS {
            let (key, found, score) = first(&ask(view(ad, number)), 30);
            assert_eq!((key, found), (ad as u64, number as u64));
            assert!((score - 1.0).abs() < 1e-4);
        }
    }
    // Every ad at once, by relevance and by money.
    let every = json!({"vector": vector(3), "limit": ADS, "params": {"exact": true}});
    first(&search(server.address, &every), ADS);
    let by_money = json!({"vector": vector(3), "limit": 40, "rank": "ecpm"});
    first(&search(server.address, &by_money), 40);
    let counts = || {
        let told = send(server.address, "GET", C, &[], b"").json();
        ["ads", "delta_ads", "rows", "delta_rows", "tombstones"].map(|name| told[name].as_u64().unwrap())
    };
    assert_eq!(counts(), [60, 0, 180, 0, 0]);
    // Two views in place of three; then what it was is found no more.
    let item = json!({"key": 7, "vector": vector(1_000), "views": [vector(1_001)], "attributes": {"title": "new"}});
    assert_eq!(put(server.address, &item)["accepted"], 1);
    assert_eq!(counts(), [60, 1, 179, 2, 3]);
    for (number, row) in [(0, 1_000), (1, 1_001)] {
        let (key, found, score) = first(&ask(vector(row)), 30);
        assert_eq!((key, found), (7, number));
        assert!((score - 1.0).abs() < 1e-4);
    }
    assert_ne!(first(&ask(view(7, 2)), 30).0, 7);
    let reply = post(
        server.address,
        &format!("{C}/explain"),
        &json!({"query": {"vector": vector(1_001)}, "key": 7}).to_string(),
    );
    assert_eq!(reply.json()["found"], true, "{}", reply.text());
    // More like an ad: like its first view.
    let like = search(server.address, &json!({"key": 9, "limit": 5}));
    assert!(like["hits"].as_array().unwrap().iter().all(|hit| hit["key"] != 9), "{like}");
    let compacted = post(server.address, &format!("{C}/compact"), "{}");
    assert_eq!(compacted.json()["compacted"], true, "{}", compacted.text());
    let (key, found, _) = first(&ask(vector(1_001)), 30);
    assert_eq!((key, found), (7, 1), "its views keep their order");
    let gone = post(server.address, &format!("{C}/ads/delete"), &json!({"keys": [7, 8]}).to_string());
    assert_eq!(gone.json()["accepted"], 2, "{}", gone.text());
    for row in [1_000, 1_001, 8, 108, 208] {
        assert!(![7, 8].contains(&first(&ask(vector(row)), 30).0));
    }
    let recall = post(
        server.address,
        &format!("{C}/recall"),
        &json!({"queries": 2, "search": {"params": {"exact": true}}}).to_string(),
    );
    assert_eq!(recall.json()["recall"], 1.0, "{}", recall.text());
}

#[test]
fn views_that_cannot_be_are_refused_with_the_place() {
    let dir = tempfile::tempdir().unwrap();
    let index = build(dir.path());
    let server = serve(dir.path(), &index);
    let item = |views: Value| json!({"key": 7, "vector": vector(1), "views": views});
    let cases = [
        (item(json!([])), "views_missing", "give at least one view"),
        (item(json!([vector(2), [1.0, 2.0]])), "mismatch", "dimension"),
        (item(json!([vector(2), vec![0.0; 16]])), "invalid_params", "view 2"),
        (json!({"key": 7, "views": [vector(1)]}), "vector_missing", "vector"),
        (item(json!("many")), "invalid_type", "views"),
    ];
    for (item, code, named) in cases {
        let answer = put(server.address, &item);
        assert_eq!((answer["accepted"].as_u64(), answer["rejected"].as_u64()), (Some(0), Some(1)), "{answer}");
        let problem = &answer["items"][0]["problem"];
        assert!(problem.to_string().contains(named), "{problem}");
        if code != "invalid_type" {
            assert_eq!(problem["code"], code, "{problem}");
        }
    }
}
