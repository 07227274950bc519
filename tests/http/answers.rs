//! Good requests: every way to ask gives what the engine itself gives.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bigrain::search::{SearchParams, Searcher};
use half::f16;
use serde_json::{Value, json};

use crate::client::{post, send};
use crate::fixture::{FIRST_KEY, ROWS, npy, start, vector};

const BATCH: &str = "/v1/collections/default/search/batch";

/// Key and score of each hit, as the engine answers directly.
fn direct(searcher: &Searcher, query: &[f32], k: usize) -> Vec<(u64, f32)> {
    let mut hits = Vec::new();
    searcher.search(query, &SearchParams { k, ..Default::default() }, &mut searcher.scratch(), &mut hits).unwrap();
    hits.iter().map(|hit| (hit.key, hit.score)).collect()
}

fn hits(answer: &Value) -> Vec<(u64, f32)> {
    let pair = |hit: &Value| (hit["key"].as_u64().unwrap(), hit["score"].as_f64().unwrap() as f32);
    answer["hits"].as_array().unwrap_or_else(|| panic!("{answer}")).iter().map(pair).collect()
}

#[test]
fn each_kind_of_query_finds_the_same() {
    let server = start(|_| ());
    let query = vector(5);
    let expected = direct(&server.searcher, &query, 10);
    let bytes: Vec<u8> = query.iter().flat_map(|v| v.to_le_bytes()).collect();
    let text = BASE64_STANDARD.encode(&bytes);
    let bodies = [
        json!({"vector": query}),
        json!({"vector_b64": text}),
        json!({"vector_b64": text.trim_end_matches('='), "dtype": "f32"}),
        json!({"text": "  Red shoe "}),
    ];
    for body in bodies {
        for path in ["/search", "/v1/collections/default/search"] {
            let reply = post(server.address, path, &body.to_string());
            assert_eq!(reply.status, 200, "{body}: {}", reply.text());
            assert_eq!(hits(&reply.json()), expected, "{body}");
        }
    }
    let halves: Vec<u8> = query.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
    let body = json!({"vector_b64": BASE64_STANDARD.encode(halves), "dtype": "f16"});
    assert_eq!(hits(&post(server.address, "/search", &body.to_string()).json())[0].0, expected[0].0);
}

#[test]
fn the_sparse_weight_reaches_the_engine() {
    let server = start(|_| ());
    let query = vector(5);
    let of = |sparse_weight: f32| {
        let params = SearchParams { k: 10, sparse_weight, ..Default::default() };
        let mut found = Vec::new();
        server.searcher.search(&query, &params, &mut server.searcher.scratch(), &mut found).unwrap();
        found.iter().map(|hit| (hit.key, hit.score)).collect::<Vec<_>>()
    };
    let ask = |weight: f32| json!({"vector": query, "params": {"sparse_weight": weight}});
    for weight in [0.0, 0.3, 1e6] {
        let reply = post(server.address, "/search", &ask(weight).to_string());
        assert_eq!(hits(&reply.json()), of(weight), "{weight}: {}", reply.text());
        let path = format!("{BATCH}?sparse_weight={weight}");
        let reply = send(
            server.address,
            "POST",
            &path,
            &[("content-type", "application/x-npy")],
            &npy(std::slice::from_ref(&query)),
        );
        assert_eq!(hits(&reply.json()["results"][0]), of(weight), "{weight}: {}", reply.text());
    }
    assert_ne!(of(0.0), of(0.3));
    let path = format!("{BATCH}?sparse_weight=NaN");
    let reply = send(
        server.address,
        "POST",
        &path,
        &[("content-type", "application/x-npy")],
        &npy(std::slice::from_ref(&query)),
    );
    assert_eq!((reply.status, reply.json()["code"].as_str()), (422, Some("params_out_of_range")));
}

#[test]
fn the_recall_target_reaches_the_engine() {
    let server = start(|_| ());
    let query = vector(5);
    let lists_and_hits = |recall_target: f32| {
        let params = SearchParams { k: 10, recall_target, ..Default::default() };
        let mut found = Vec::new();
        let stats = server.searcher.search(&query, &params, &mut server.searcher.scratch(), &mut found).unwrap();
        (stats.lists_probed, found.iter().map(|hit| (hit.key, hit.score)).collect::<Vec<_>>())
    };
    assert!(lists_and_hits(0.95).0 > lists_and_hits(0.5).0);
    for target in [0.5, 0.8, 0.95] {
        let body = json!({"vector": query, "params": {"recall_target": target}, "stats": true});
        let reply = post(server.address, "/search", &body.to_string());
        let (lists, expected) = lists_and_hits(target as f32);
        assert_eq!(hits(&reply.json()), expected, "{target}: {}", reply.text());
        assert_eq!(reply.json()["stats"]["lists_probed"], lists, "{}", reply.text());
    }
}

#[test]
fn more_like_this_leaves_the_row_itself_out() {
    let server = start(|_| ());
    let expected = direct(&server.searcher, &vector(5), 11);
    assert_eq!(expected[0].0, FIRST_KEY + 5);
    let reply = post(server.address, "/search", &json!({"key": FIRST_KEY + 5}).to_string());
    assert_eq!(hits(&reply.json()), expected[1..]);
}

#[test]
fn the_answer_has_its_frame_and_only_the_extras_asked_for() {
    let server = start(|_| ());
    let plain = json!({"vector": vector(1)});
    let reply = send(
        server.address,
        "POST",
        "/search",
        &[("content-type", "application/json; charset=utf-8"), ("x-request-id", "mine-7")],
        plain.to_string().as_bytes(),
    );
    let answer = reply.json();
    assert_eq!((reply.header("x-request-id"), &answer["request_id"]), (Some("mine-7"), &json!("mine-7")));
    assert_eq!(answer["index_version"], json!(server.searcher.version()));
    assert_eq!(answer["coverage"], json!({"complete": true, "fraction": 1.0, "degraded": []}));
    assert!(answer["took_ms"].as_f64().unwrap() > 0.0);
    assert!(answer.get("stats").is_none() && answer["hits"][0].get("fields").is_none());
    let body =
        json!({"vector": vector(1), "with_fields": true, "stats": true, "params": {"nprobe": 4, "candidates": 50}});
    let answer = post(server.address, "/search", &body.to_string()).json();
    assert!(answer["hits"][0]["fields"]["title"].is_string(), "{answer}");
    assert!(answer["stats"]["rows_scanned"].as_u64().unwrap() > 0);
}

#[test]
fn pages_join_to_the_whole() {
    let server = start(|_| ());
    let page = |limit: usize, offset: usize| {
        let body = json!({"vector": vector(2), "limit": limit, "offset": offset, "params": {"exact": true}});
        hits(&post(server.address, "/search", &body.to_string()).json())
    };
    let whole = page(20, 0);
    assert_eq!(whole.len(), 20);
    assert_eq!([page(7, 0), page(7, 7), page(6, 14)].concat(), whole);
    assert_eq!(page(ROWS * 2, 0).len(), ROWS, "more than the index has is all of it");
    assert!(page(5, ROWS).is_empty());
}

#[test]
fn batches_answer_each_query_as_if_alone() {
    let server = start(|_| ());
    let queries: Vec<Vec<f32>> = (0..9).map(vector).collect();
    let expected: Vec<_> = queries.iter().map(|query| direct(&server.searcher, query, 3)).collect();
    let results = |answer: Value| answer["results"].as_array().unwrap().iter().map(hits).collect::<Vec<_>>();
    let vectors: Vec<Value> = queries.iter().map(|query| json!({"vector": query})).collect();
    let body = json!({"queries": vectors, "limit": 3});
    assert_eq!(results(post(server.address, BATCH, &body.to_string()).json()), expected);
    for media in ["application/x-npy", "application/octet-stream"] {
        let path = format!("{BATCH}?limit=3&stats=true");
        let reply = send(server.address, "POST", &path, &[("content-type", media)], &npy(&queries));
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(results(reply.json()), expected);
    }
    let mixed = json!({"queries": [{"text": "blue hat", "limit": 1}, {"key": FIRST_KEY}], "limit": 2});
    let answer = results(post(server.address, BATCH, &mixed.to_string()).json());
    assert_eq!((answer[0].len(), answer[1].len()), (1, 2), "a query's own parameters come first");
}

#[test]
fn concurrent_clients_get_the_answers_of_the_engine() {
    let server = start(|_| ());
    std::thread::scope(|scope| {
        for client in 0..8 {
            let server = &server;
            scope.spawn(move || {
                for number in 0..25 {
                    let query = vector(client * 25 + number);
                    let reply = post(server.address, "/search", &json!({"vector": query}).to_string());
                    assert_eq!(hits(&reply.json()), direct(&server.searcher, &query, 10));
                }
            });
        }
    });
}

#[test]
fn the_collection_is_described() {
    let server = start(|_| ());
    let answer = send(server.address, "GET", "/v1/collections/default", &[], b"").json();
    assert_eq!(answer["rows"], json!(ROWS));
    assert_eq!((&answer["dim"], &answer["metric"]), (&json!(16), &json!("cosine")));
    assert_eq!((&answer["known_queries"], &answer["limits"]["hits"]), (&json!(2), &json!(10000)));
}

#[test]
fn health_and_metrics_are_told() {
    let server = start(|_| ());
    for path in ["/livez", "/readyz"] {
        assert_eq!(send(server.address, "GET", path, &[], b"").status, 200);
    }
    post(server.address, "/search", &json!({"vector": vector(1)}).to_string());
    post(server.address, "/search", "{");
    let reply = send(server.address, "GET", "/metrics", &[], b"");
    assert_eq!(reply.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = reply.text();
    for line in [
        "bigrain_http_requests_total{route=\"/search\",status=\"200\"} 1",
        "bigrain_http_requests_total{route=\"/search\",status=\"400\"} 1",
        "bigrain_http_request_duration_seconds_count{route=\"/search\"} 2",
        "bigrain_search_step_duration_seconds_count{step=\"scan\"} 1",
        "bigrain_search_queries_total 1",
        "bigrain_queue_depth 0",
        "bigrain_workers 2",
        "bigrain_index_rows 300",
    ] {
        assert!(text.lines().any(|known| known == line), "{line} is missing in\n{text}");
    }
    assert!(text.contains("bigrain_index_info{collection=\"default\",version="));
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    assert!(samples.clone().all(|line| line.rsplit_once(' ').is_some_and(|(_, v)| v.parse::<f64>().is_ok())));
    assert!(text.contains("process_resident_memory_bytes ") || !cfg!(target_os = "linux"));
}

#[test]
fn the_page_and_what_it_asks_first() {
    let server = start(|_| ());
    let get = |path: &str| send(server.address, "GET", path, &[], b"");
    let page = get("/ui");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.header("content-security-policy").is_some_and(|policy| policy.contains("script-src 'self'")));
    for (file, media_type) in [("app.js", "text/javascript"), ("style.css", "text/css"), ("icon.svg", "image/svg+xml")]
    {
        assert!(page.text().contains(&format!("ui/{file}")), "the page names {file}");
        let reply = get(&format!("/ui/{file}"));
        let expected = format!("{media_type}; charset=utf-8");
        assert_eq!((reply.status, reply.header("content-type")), (200, Some(&*expected)));
    }
    assert_eq!(get("/ui/..%2Fmod.rs").status, 404);
    assert_eq!(get("/v1/collections").json(), json!({"collections": ["default"]}));
    let queries = |query: &str| get(&format!("/v1/collections/default/queries{query}"));
    assert_eq!(queries("?prefix=red%20S").json(), json!({"queries": ["red shoe"]}));
    assert_eq!(queries("?prefx=red").json()["remedy"], "did you mean prefix?");
    assert_eq!(get("/v1/collections/other/queries").status, 404);
}
