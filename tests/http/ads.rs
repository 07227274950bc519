//! Ads over real connections: filters, ranking, fresh ads, control, versions, explanations; what is acknowledged outlives the server.

mod versions;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use bigrain::build::BuildSpec;
use bigrain::calibrate::write_canary;
use bigrain::index::{Canary, Manifest, OpenOptions};
use bigrain::search::Searcher;
use bigrain::train::Silent;
use bigrain::vfs::RealVfs;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::{Reply, post, send};
use crate::fixture::{ROWS, Server, npy, start_collection, vector};

const C: &str = "/v1/collections/default";
/// Ads of each ad group, and ad groups of each campaign.
const GROUP: usize = 10;
const CAMPAIGN: usize = 5;

/// Row `row`: colour by three, size by row, one ad group for ten rows.
fn record(row: usize) -> Value {
    let colour = ["red", "green", "blue"][row % 3];
    json!({"title": format!("thing {row}"), "colour": colour, "size": row, "ad_group": 1 + row / GROUP})
}

/// A folder with an index of [`ROWS`] ads, keys from 0, and beside it a state folder.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        build(dir.path(), "versions/base", 0..ROWS);
        Place { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn serve(&self) -> Server {
        self.serve_with(|_| ())
    }

    fn serve_with(&self, change: impl FnOnce(&mut bigrain::server::ServerConfig)) -> Server {
        start_collection(&self.path("versions/base"), |config| {
            (config.ads.state, config.ads.versions) = (self.path("state"), self.path("versions"));
            change(config);
        })
    }
}

/// Builds an index of some of the rows.
fn build(dir: &Path, name: &str, rows: std::ops::Range<usize>) {
    let (vectors, keys, records) = (dir.join("vectors.npy"), dir.join("keys.txt"), dir.join("records.jsonl"));
    let lines = |line: &dyn Fn(usize) -> String| rows.clone().map(|row| line(row) + "\n").collect::<String>();
    std::fs::write(&vectors, npy(&rows.clone().map(vector).collect::<Vec<_>>())).unwrap();
    std::fs::write(&keys, lines(&|row| row.to_string())).unwrap();
    std::fs::write(&records, lines(&|row| record(row).to_string())).unwrap();
    let spec = BuildSpec {
        keys: Some(keys),
        attributes: Some(records),
        lists: Some(8),
        ..BuildSpec::new(vectors, dir.join(name))
    };
    bigrain::build::build(&spec, &Silent).unwrap();
}

/// Advertiser 1 over campaigns of five ad groups each; bids rise with the ad group.
fn describe_all(address: SocketAddr) {
    let groups = ROWS / GROUP;
    let campaigns = (0..groups.div_ceil(CAMPAIGN)).map(|c| json!({"level": "campaign", "id": 1 + c, "parent": 1}));
    let of_group = |g: usize| {
        let (campaign, bid) = (1 + g / CAMPAIGN, 100_000 * (g as u64 + 1));
        json!({"level": "ad_group", "id": 1 + g, "parent": campaign, "bid_micros": bid, "ctr": 0.01})
    };
    let lines: Vec<Value> = [json!({"level": "advertiser", "id": 1, "status": "active"})]
        .into_iter()
        .chain(campaigns)
        .chain((0..groups).map(of_group))
        .collect();
    let answer = patch(address, &lines);
    assert_eq!(
        (answer["rejected"].as_u64(), answer["accepted"].as_u64()),
        (Some(0), Some(lines.len() as u64)),
        "{answer}"
    );
}

fn ndjson(lines: &[Value]) -> Vec<u8> {
    lines.iter().map(|line| format!("{line}\n")).collect::<String>().into_bytes()
}

fn patch(address: SocketAddr, lines: &[Value]) -> Value {
    let headers = [("content-type", "application/x-ndjson")];
    ok(&send(address, "PATCH", &format!("{C}/control"), &headers, &ndjson(lines)))
}

fn put(address: SocketAddr, lines: &[Value]) -> Value {
    let headers = [("content-type", "application/x-ndjson")];
    ok(&send(address, "PUT", &format!("{C}/ads"), &headers, &ndjson(lines)))
}

fn ad(key: u64, row: usize) -> Value {
    json!({"key": key, "vector": vector(row), "attributes": record(row % ROWS)})
}

fn ok(reply: &Reply) -> Value {
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

fn search(address: SocketAddr, body: Value) -> Value {
    ok(&post(address, &format!("{C}/search"), &body.to_string()))
}

fn keys(answer: &Value) -> Vec<u64> {
    answer["hits"].as_array().unwrap().iter().map(|hit| hit["key"].as_u64().unwrap()).collect()
}

fn admin(address: SocketAddr, action: &str, body: Value) -> Reply {
    post(address, &format!("{C}/{action}"), &body.to_string())
}

#[test]
fn filters_choose_among_all_ads() {
    let place = Place::new();
    let server = place.serve();
    let query = json!({"vector": vector(5), "limit": ROWS, "params": {"nprobe": 8, "candidates": ROWS}});
    let with = |filter: Value| {
        let mut body = query.clone();
        body["filter"] = filter;
        keys(&search(server.address, body)).into_iter().collect::<HashSet<u64>>()
    };
    let expected =
        |passes: &dyn Fn(usize) -> bool| (0..ROWS).filter(|&row| passes(row)).map(|row| row as u64).collect();
    let of = |attribute: &str, test: Value| {
        let mut condition = test;
        condition["attribute"] = json!(attribute);
        condition
    };
    let red = of("colour", json!({"match": "red"}));
    let small = of("size", json!({"range": {"lt": 40}}));
    assert_eq!(with(json!({"must": [red]})), expected(&|row| row % 3 == 0));
    assert_eq!(with(json!({"must": [red, small]})), expected(&|row| row % 3 == 0 && row < 40));
    assert_eq!(with(json!({"should": [red, small]})), expected(&|row| row % 3 == 0 || row < 40));
    assert_eq!(with(json!({"must_not": [red], "must": [small]})), expected(&|row| row % 3 != 0 && row < 40));
    assert_eq!(with(json!({"must": [of("colour", json!({"any": ["blue", "pink"]}))]})), expected(&|row| row % 3 == 2));
    assert!(with(json!({"must": [of("colour", json!({"match": "pink"}))]})).is_empty());
    let described = ok(&send(server.address, "GET", C, &[], b""));
    let names: Vec<&str> =
        described["attributes"].as_array().unwrap().iter().map(|a| a["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["ad_group", "colour", "size", "title"]);
    let mut body = query.clone();
    body["filter"] = json!({"must": [{"attribute": "color", "match": "red"}]});
    let refused = post(server.address, "/search", &body.to_string());
    assert_eq!(refused.status, 422);
    let problem = refused.json();
    assert_eq!(problem["pointer"], "/filter/must/0", "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("\"colour\""), "{problem}");
}

#[test]
fn a_paused_campaign_is_gone_with_the_next_request_and_its_return_too() {
    let place = Place::new();
    let server = place.serve();
    describe_all(server.address);
    let query = json!({"vector": vector(5), "limit": 50, "params": {"nprobe": 8, "candidates": ROWS}});
    let campaign_of = |answer: &Value| -> HashSet<u64> {
        answer["hits"].as_array().unwrap().iter().map(|hit| hit["campaign"].as_u64().unwrap()).collect()
    };
    let before = search(server.address, query.clone());
    assert!(campaign_of(&before).contains(&1));
    let answer = patch(server.address, &[json!({"level": "campaign", "id": 1, "status": "paused"})]);
    let paused = search(server.address, query.clone());
    assert_eq!(paused["control_epoch"], answer["control_epoch"]);
    assert!(!campaign_of(&paused).contains(&1));
    assert_eq!(keys(&paused).len(), 50, "the list stays full");
    let mut all = query.clone();
    all["eligibility"] = json!("all");
    assert_eq!(keys(&search(server.address, all)), keys(&before));
    let lost = ok(&admin(server.address, "explain", json!({"query": query, "key": 5})));
    assert_eq!((lost["found"].as_bool(), lost["lost_at"].as_str()), (Some(false), Some("eligibility")), "{lost}");
    assert!(lost["steps"].to_string().contains("campaign 1 is paused"), "{lost}");
    patch(server.address, &[json!({"level": "campaign", "id": 1, "status": "active"})]);
    assert_eq!(keys(&search(server.address, query)), keys(&before));
}

#[test]
fn a_bad_line_spoils_only_itself() {
    let place = Place::new();
    let server = place.serve();
    let headers = [("content-type", "application/x-ndjson")];
    let body = [
        json!({"level": "campaign", "id": 7, "status": "paused"}).to_string(),
        json!({"level": "campaign", "id": 8, "status": "resting"}).to_string(),
        json!({"level": "campaign", "id": 9, "stats": "paused"}).to_string(),
        "{".to_string(),
        json!({"level": "campaign", "id": 10, "ctr": 2.0}).to_string(),
    ];
    let answer = ok(&send(server.address, "PATCH", &format!("{C}/control"), &headers, body.join("\n").as_bytes()));
    assert_eq!((answer["accepted"].as_u64(), answer["rejected"].as_u64()), (Some(1), Some(4)), "{answer}");
    let pointers: Vec<&Value> =
        answer["items"].as_array().unwrap().iter().map(|item| &item["problem"]["pointer"]).collect();
    assert_eq!((pointers[1], pointers[2]), (&json!("/status"), &json!("/stats")), "{answer}");
    assert!(answer["items"][2]["problem"]["remedy"].as_str().unwrap().contains("status"), "{answer}");
    let entity = ok(&send(server.address, "GET", &format!("{C}/control/campaign/7"), &[], b""));
    assert_eq!(entity["status"], "paused");
    // A flight that an earlier line began cannot end before.
    let flight = [
        json!({"level": "campaign", "id": 7, "start": 100}),
        json!({"level": "campaign", "id": 7, "end": 50}),
        json!({"level": "campaign", "id": 7, "end": 150}),
    ];
    let answer = patch(server.address, &flight);
    assert_eq!((answer["accepted"].as_u64(), answer["rejected"].as_u64()), (Some(2), Some(1)), "{answer}");
    assert_eq!(answer["items"][1]["problem"]["pointer"], "/end", "{answer}");
    // An ad that nobody knows belongs to the ad group that its first patch names.
    let unknown = patch(server.address, &[json!({"level": "ad", "id": 77_777, "status": "paused"})]);
    assert_eq!(unknown["items"][0]["problem"]["pointer"], "/parent", "{unknown}");
    assert_eq!(send(server.address, "GET", &format!("{C}/control/campaign/8"), &[], b"").status, 404);
    let items = [ad(9_000, 1), json!({"key": 9_001, "vector": [1.0]}), json!({"key": 9_002}), ad(9_003, 2)];
    let answer = put(server.address, &items);
    assert_eq!((answer["accepted"].as_u64(), answer["rejected"].as_u64()), (Some(2), Some(2)), "{answer}");
    for (key, status) in [(9_000, 200), (9_001, 404), (9_002, 404), (9_003, 200)] {
        assert_eq!(send(server.address, "GET", &format!("{C}/ads/{key}"), &[], b"").status, status);
    }
}

#[test]
fn fresh_ads_are_found_at_once_and_outlive_the_server() {
    let place = Place::new();
    {
        let server = place.serve();
        describe_all(server.address);
        put(server.address, &[ad(5_000, 1_000), ad(3, 1_001)]);
        let answer = search(server.address, json!({"vector": vector(1_000), "limit": 1, "with_fields": true}));
        assert_eq!(keys(&answer), [5_000]);
        assert_eq!(answer["hits"][0]["fields"]["title"], record(1_000 % ROWS)["title"]);
        assert_eq!(keys(&search(server.address, json!({"vector": vector(1_001), "limit": 1}))), [3]);
        let of_old =
            keys(&search(server.address, json!({"vector": vector(3), "limit": 300, "params": {"exact": true}})));
        assert_eq!(of_old.iter().filter(|&&key| key == 3).count(), 1, "replaced, not doubled");
        ok(&admin(server.address, "ads/delete", json!({"keys": [4, 4_444]})));
        assert!(!keys(&search(server.address, json!({"vector": vector(4), "limit": 20}))).contains(&4));
        patch(server.address, &[json!({"level": "campaign", "id": 2, "status": "paused"})]);
    }
    let server = place.serve();
    assert_eq!(keys(&search(server.address, json!({"vector": vector(1_000), "limit": 1}))), [5_000]);
    assert_eq!(keys(&search(server.address, json!({"vector": vector(1_001), "limit": 1}))), [3]);
    assert!(!keys(&search(server.address, json!({"vector": vector(4), "limit": 20}))).contains(&4));
    let hits =
        search(server.address, json!({"vector": vector(60), "limit": 100, "params": {"nprobe": 8, "candidates": 300}}));
    assert!(hits["hits"].as_array().unwrap().iter().all(|hit| hit["campaign"] != 2), "{hits}");
    // Filters, caps and control hold for fresh ads as for others.
    let body = json!({"vector": vector(1_000), "limit": 1,
        "filter": {"must_not": [{"attribute": "colour", "match": record(1_000 % ROWS)["colour"]}]}});
    assert_ne!(keys(&search(server.address, body)), [5_000]);
}

#[test]
fn compaction_makes_a_version_that_answers_the_same() {
    let place = Place::new();
    let server = place.serve();
    describe_all(server.address);
    put(server.address, &(0..40).map(|i| ad(6_000 + i, 2_000 + i as usize)).collect::<Vec<_>>());
    ok(&admin(server.address, "ads/delete", json!({"keys": (0..30).collect::<Vec<u64>>()})));
    let queries: Vec<Value> = (0..20)
        .map(|i| json!({"vector": vector(2_010 + 7 * i), "limit": 20, "params": {"exact": true}, "with_fields": true}))
        .collect();
    let ask = || -> Vec<Value> {
        queries.iter().map(|query| search(server.address, query.clone())["hits"].clone()).collect()
    };
    let before = ask();
    let made = ok(&admin(server.address, "compact", json!({})));
    assert_eq!(made["compacted"], true);
    assert!(ask() == before, "compaction changes no answer");
    let described = ok(&send(server.address, "GET", C, &[], b""));
    assert_eq!((described["delta_rows"].as_u64(), described["rows"].as_u64()), (Some(0), Some(ROWS as u64 + 10)));
    assert_eq!(ok(&admin(server.address, "compact", json!({})))["compacted"], false);
    // What comes afterwards is there after rolling back to the version before, and nothing of what was acknowledged is lost.
    put(server.address, &[ad(7_000, 3_000)]);
    let with_new = ask();
    ok(&admin(server.address, "rollback", json!({})));
    assert!(ask() == with_new, "the version before follows the changes, too");
    assert_eq!(keys(&search(server.address, json!({"vector": vector(3_000), "limit": 1}))), [7_000]);
    drop(server);
    let server = place.serve();
    assert_eq!(keys(&search(server.address, json!({"vector": vector(3_000), "limit": 1}))), [7_000]);
}

#[test]
fn ecpm_ranks_by_money_and_caps_keep_the_list_full() {
    let place = Place::new();
    let server = place.serve();
    describe_all(server.address);
    let base =
        json!({"vector": vector(5), "limit": 12, "rank": "ecpm", "min_relevance": 0.05, "params": {"exact": true}});
    let answer = search(server.address, base.clone());
    let hits = answer["hits"].as_array().unwrap();
    let ecpm = |hit: &Value| 1e3 * hit["relevance"].as_f64().unwrap() * hit["bid_micros"].as_f64().unwrap() * 0.01;
    for pair in hits.windows(2) {
        assert!(ecpm(&pair[0]) >= ecpm(&pair[1]) && pair[1]["relevance"].as_f64() >= Some(0.05), "{answer}");
    }
    assert!((hits[0]["ecpm_micros"].as_f64().unwrap() - ecpm(&hits[0])).abs() < 1.0);
    // Exact is exact by what ranks, not by relevance.
    let mut all = base.clone();
    (all["rank"], all["limit"]) = (json!("relevance"), json!(ROWS));
    let all = search(server.address, all);
    let mut earns: Vec<&Value> = all["hits"].as_array().unwrap().iter().collect();
    earns.sort_by(|a, b| ecpm(b).total_cmp(&ecpm(a)));
    assert!(hits.iter().zip(earns).all(|(hit, due)| hit["key"] == due["key"]), "{answer}");
    let mut capped = base.clone();
    capped["diversity"] = json!({"key": "campaign", "max": 2});
    let answer = search(server.address, capped.clone());
    let campaigns: Vec<u64> =
        answer["hits"].as_array().unwrap().iter().map(|hit| hit["campaign"].as_u64().unwrap()).collect();
    assert!(campaigns.iter().all(|c| campaigns.iter().filter(|other| *other == c).count() <= 2), "{campaigns:?}");
    assert_eq!(campaigns.len(), 12, "six campaigns, two each");
    // Without exact search the candidates are chosen with bids in mind.
    let mut fast = base.clone();
    fast["params"] = json!({"nprobe": 8, "candidates": 60});
    let found = keys(&search(server.address, fast));
    let best = keys(&search(server.address, base));
    assert!(found.iter().filter(|key| best.contains(key)).count() >= 10, "{found:?} of {best:?}");
    let mut blocked = capped.clone();
    blocked["block"] = json!({"campaigns": [campaigns[0]]});
    assert!(
        search(server.address, blocked)["hits"].as_array().unwrap().iter().all(|hit| hit["campaign"] != campaigns[0])
    );
}

#[test]
fn several_vectors_are_one_ranking() {
    let place = Place::new();
    let server = place.serve();
    let body = json!({"vectors": [{"vector": vector(5)}, {"vector": vector(80), "weight": 0.5}, {"key": 90, "weight": 0.9}],
        "limit": 300, "params": {"exact": true}});
    let answer = search(server.address, body);
    let hits = answer["hits"].as_array().unwrap();
    assert_eq!((hits[0]["key"].as_u64(), hits[0]["vector"].as_u64()), (Some(5), Some(0)));
    let distinct: HashSet<u64> = keys(&answer).into_iter().collect();
    assert_eq!(distinct.len(), hits.len());
    assert!(!distinct.contains(&90), "more like this, without this");
    let relevance = |hit: &Value| hit["relevance"].as_f64().unwrap();
    assert!(hits.windows(2).all(|pair| relevance(&pair[0]) >= relevance(&pair[1])));
    let eighty = hits.iter().find(|hit| hit["key"] == 80).unwrap();
    assert!((relevance(eighty) - 0.5).abs() < 1e-5 && eighty["vector"] == 1, "{eighty}");
}

#[test]
fn explanations_name_the_step_and_what_would_let_the_ad_in() {
    let place = Place::new();
    let server = place.serve();
    describe_all(server.address);
    let explain = |query: Value, key: u64| {
        let answer = ok(&admin(server.address, "explain", json!({"query": query, "key": key})));
        let remedy = answer["remedy"].as_str().unwrap_or_default().to_string();
        (answer["found"].as_bool().unwrap(), answer["lost_at"].as_str().unwrap_or_default().to_string(), remedy, answer)
    };
    let query = json!({"vector": vector(5), "limit": 5});
    assert!(explain(query.clone(), 5).0);
    assert_eq!(explain(query.clone(), 123_456).1, "known");
    let mut filtered = query.clone();
    filtered["filter"] = json!({"must_not": [{"attribute": "size", "match": 5}]});
    assert_eq!(explain(filtered, 5).1, "filter");
    let mut blocked = query.clone();
    blocked["block"] = json!({"keys": [5]});
    assert_eq!(explain(blocked, 5).1, "block");
    let mut strict = query.clone();
    strict["min_relevance"] = json!(0.9999);
    let exact = keys(&search(server.address, json!({"vector": vector(5), "limit": ROWS, "params": {"exact": true}})));
    let second = exact[1];
    assert_eq!(explain(strict, second).1, "min_relevance");
    // What is in an answer was lost nowhere, also where bids chose the candidates.
    let money = json!({"vector": vector(5), "limit": 20, "rank": "ecpm", "explain": true, "stats": true});
    let answer = search(server.address, money.clone());
    assert!(answer["stats"]["lists_probed"].as_u64() <= Some(8), "{answer}");
    for hit in answer["hits"].as_array().unwrap() {
        let (found, lost_at, _, way) = explain(money.clone(), hit["key"].as_u64().unwrap());
        assert!(found && lost_at.is_empty() && hit["explain"]["list_rank"].as_u64() < Some(8), "{hit} {way}");
    }
    // Each remedy, applied, leads at least one step further, until the ad is found.
    let worst = exact[ROWS - 1];
    let mut query = json!({"vector": vector(5), "limit": 5, "params": {"nprobe": 1, "candidates": 5}});
    for _ in 0..6 {
        let (found, lost_at, remedy, answer) = explain(query.clone(), worst);
        if found {
            return;
        }
        let number: u64 =
            remedy.split_whitespace().find_map(|word| word.parse().ok()).unwrap_or_else(|| panic!("{answer}"));
        match lost_at.as_str() {
            "probe" => query["params"]["nprobe"] = json!(number),
            "scan" => query["params"]["candidates"] = json!(number),
            "rank" => query["limit"] = json!(number),
            _ => panic!("{answer}"),
        }
    }
    panic!("not found after its remedies: {query}");
}

#[test]
fn without_a_state_folder_writing_is_refused() {
    let place = Place::new();
    let server = start_collection(&place.path("versions/base"), |_| ());
    let headers = [("content-type", "application/x-ndjson")];
    for (method, path, body) in [
        ("PUT", "ads", ndjson(&[ad(1, 1)])),
        ("PATCH", "control", ndjson(&[json!({"level": "campaign", "id": 1, "status": "paused"})])),
    ] {
        let reply = send(server.address, method, &format!("{C}/{path}"), &headers, &body);
        assert_eq!(reply.status, 422, "{}", reply.text());
        assert!(reply.json()["detail"].as_str().unwrap().contains("--state"), "{}", reply.text());
    }
    assert_eq!(admin(server.address, "compact", json!({})).status, 422);
    let standing = ok(&send(server.address, "GET", &format!("{C}/ads/5"), &[], b""));
    assert_eq!((standing["place"].as_str(), standing["standing"]["eligible"].as_bool()), (Some("version"), Some(true)));
}

#[test]
fn recall_is_measured_on_request_and_on_live_queries() {
    let place = Place::new();
    let server = place.serve_with(|config| config.ads.recall_every = 1);
    let measured = ok(&admin(
        server.address,
        "recall",
        json!({"search": {"limit": 10, "params": {"nprobe": 8, "candidates": 300}}}),
    ));
    assert_eq!(measured["recall"], 1.0, "{measured}");
    let few = ok(&admin(
        server.address,
        "recall",
        json!({"search": {"limit": 10, "params": {"nprobe": 1, "candidates": 10}}}),
    ));
    assert!(few["recall"].as_f64().unwrap() < 1.0, "{few}");
    for row in 0..20 {
        search(server.address, json!({"vector": vector(5_000 + row), "limit": 10, "params": {"nprobe": 1}}));
    }
    let begun = Instant::now();
    loop {
        let status = ok(&send(server.address, "GET", "/v1/status", &[], b""));
        if status["recall"]["samples"].as_u64().is_some_and(|samples| samples >= 15) {
            assert!(status["recall"]["estimate"].as_f64().unwrap() < 0.95, "{status}");
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{status}");
        sleep(Duration::from_millis(50));
    }
    let metrics = send(server.address, "GET", "/metrics", &[], b"");
    assert!(metrics.text().contains("bigrain_recall_estimate 0."), "{}", metrics.text());
}
