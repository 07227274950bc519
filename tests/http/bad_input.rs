//! Bad requests: each has its status, its code, a pointer and a remedy; none harms the server.

use std::io::Write;

use bigrain::heads::{Head, Heads};
use bigrain::sample::Rng;
use ndarray::{Array2, s};
use serde_json::{Value, json};

use crate::client::{connect, post, read_all, send};
use crate::fixture::{DIM, FIRST_KEY, Server, npy, start, start_with_heads, vector};

const BATCH: &str = "/v1/collections/default/search/batch";

/// Posts `body` and checks the frame of the problem that comes back.
fn refused(server: &Server, path: &str, body: &str) -> (u64, String, String, Value) {
    let reply = post(server.address, path, body);
    assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{body}: {}", reply.text());
    let problem = reply.json();
    assert_eq!(problem["status"].as_u64(), Some(u64::from(reply.status)));
    assert!(!problem["detail"].as_str().unwrap().is_empty() && !problem["remedy"].as_str().unwrap().is_empty());
    assert_eq!(problem["request_id"].as_str(), reply.header("x-request-id"));
    let text = |name: &str| problem[name].as_str().unwrap_or_default().to_string();
    (u64::from(reply.status), text("code"), text("pointer"), problem)
}

#[test]
fn requests_without_meaning_are_422_with_a_pointer() {
    let server = start(|_| ());
    let with = |name: &str, value: Value| {
        let mut body = json!({"vector": vector(0)});
        body[name] = value;
        body.to_string()
    };
    let element = |text: &str| format!("{{\"vector\": [{}, {text}]}}", vec!["0.5"; DIM - 1].join(","));
    let last = format!("/vector/{}", DIM - 1);
    let cases: Vec<(String, &str, &str)> = vec![
        (json!({"vector": [1, 2, 3]}).to_string(), "wrong_dimension", "/vector"),
        (json!({"vector": []}).to_string(), "wrong_dimension", "/vector"),
        (json!({"vector": vec![0; DIM]}).to_string(), "zero_vector", "/vector"),
        (json!({"vector": vec![1e30; DIM]}).to_string(), "invalid_params", ""),
        (element("1e999"), "not_finite", &last),
        (element("1e39"), "not_finite", &last),
        (element("null"), "invalid_value", &last),
        (element("\"NaN\""), "invalid_value", &last),
        (json!({"vector_b64": "!!!"}).to_string(), "bad_base64", "/vector_b64"),
        (json!({"vector_b64": "AAAAAA=="}).to_string(), "wrong_dimension", "/vector_b64"),
        (json!({"vector_b64": "AAAAAAA="}).to_string(), "bad_base64", "/vector_b64"),
        (json!({"vector_b64": "AAAA", "dtype": "f64"}).to_string(), "invalid_value", "/dtype"),
        (with("dtype", json!("f32")), "invalid_value", "/dtype"),
        (with("limit", json!(0)), "limit_out_of_range", "/limit"),
        (with("limit", json!(10_001)), "limit_out_of_range", "/limit"),
        (with("limit", json!(u64::MAX)), "limit_out_of_range", "/limit"),
        (with("limit", json!(-1)), "invalid_value", "/limit"),
        (with("limit", json!(1.5)), "invalid_value", "/limit"),
        (with("offset", json!(9_991)), "offset_out_of_range", "/offset"),
        (with("offset", json!(u64::MAX)), "offset_out_of_range", "/offset"),
        (with("timeout_ms", json!(0)), "timeout_out_of_range", "/timeout_ms"),
        (with("timeout_ms", json!(30_001)), "timeout_out_of_range", "/timeout_ms"),
        (with("params", json!({"nprobe": 0})), "params_out_of_range", "/params/nprobe"),
        (with("params", json!({"candidates": 100_001})), "params_out_of_range", "/params/candidates"),
        (with("params", json!({"nprob": 3})), "unknown_field", "/params/nprob"),
        (with("params", json!({"sparse_weight": -0.5})), "params_out_of_range", "/params/sparse_weight"),
        (with("params", json!({"sparse_weight": 1e7})), "params_out_of_range", "/params/sparse_weight"),
        (with("params", json!({"sparse_weight": 1e39})), "params_out_of_range", "/params/sparse_weight"),
        (with("params", json!({"sparse_weight": "0.3"})), "invalid_value", "/params/sparse_weight"),
        (with("params", json!({"recall_target": 0.0})), "params_out_of_range", "/params/recall_target"),
        (with("params", json!({"recall_target": 1.0})), "params_out_of_range", "/params/recall_target"),
        (with("params", json!({"recall_target": 0.96})), "params_out_of_range", "/params/recall_target"),
        (with("params", json!({"recall_target": 0.9, "nprobe": 3})), "params_out_of_range", "/params/recall_target"),
        (with("params", json!({"recall_target": 0.9, "exact": true})), "params_out_of_range", "/params/recall_target"),
        (with("params", json!({"sparse_wieght": 0.3})), "unknown_field", "/params/sparse_wieght"),
        (with("diversity", json!({"key": "titel", "max": 2})), "unknown_attribute", "/diversity/key"),
        (with("diversity", json!({"key": "campaigns", "max": 2})), "unknown_attribute", "/diversity/key"),
        (
            json!({"vector": vector(0), "rank": "ecpm", "params": {"sparse_weight": 0.3}}).to_string(),
            "invalid_value",
            "/params/sparse_weight",
        ),
        (with("vectro", json!(1)), "unknown_field", "/vectro"),
        (with("text", json!("red shoe")), "query_ambiguous", ""),
        (json!({"text": "red shoes"}).to_string(), "unknown_text", "/text"),
        (json!({"key": 1}).to_string(), "unknown_key", "/key"),
        (json!({}).to_string(), "query_missing", ""),
        (json!([1, 2]).to_string(), "invalid_value", ""),
        (json!("vector").to_string(), "invalid_value", ""),
    ];
    for (body, code, pointer) in cases {
        let (status, found, place, problem) = refused(&server, "/search", &body);
        assert_eq!((status, found.as_str(), place.as_str()), (422, code, pointer), "{body}: {problem}");
    }
    assert_eq!(post(server.address, "/search", &with("stats", json!(true))).status, 200, "the server lives on");
}

#[test]
fn recall_is_not_measured_where_exact_search_is_switched_off() {
    let server = start(|config| config.limits.exact = false);
    let path = "/v1/collections/default/recall";
    let (status, code, _, problem) = refused(&server, path, "{}");
    assert_eq!((status, code.as_str()), (422, "exact_not_allowed"), "{problem}");
    let (status, code, pointer, problem) = refused(&server, path, "{\"queries\": 0}");
    assert_eq!((status, code.as_str(), pointer.as_str()), (422, "queries_out_of_range", "/queries"), "{problem}");
}

#[test]
fn a_query_by_key_needs_stored_vectors_that_are_queries() {
    let half = Some(Head { linear: Array2::eye(DIM).slice_move(s![..DIM / 2, ..]), residual: None, normalise: true });
    let heads = Heads { dense_query: half.clone(), dense_document: half, ..Heads::default() };
    let server = start_with_heads(heads, |_| ());
    let (status, code, _, problem) = refused(&server, "/search", &json!({"key": FIRST_KEY}).to_string());
    assert_eq!((status, code.as_str()), (422, "unsupported"), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("send the document's own vector"), "{problem}");
    let reply = post(server.address, "/search", &json!({"vector": vector(0)}).to_string());
    assert_eq!(reply.json()["hits"][0]["key"], json!(FIRST_KEY), "{}", reply.text());
    let short = json!({"vector": &vector(0)[..DIM / 2]}).to_string();
    assert_eq!(refused(&server, "/search", &short).1, "wrong_dimension");
}

#[test]
fn damaged_requests_are_answered_and_never_500() {
    let server = start(|_| ());
    let good =
        json!({"vector": vector(0), "limit": 3, "params": {"nprobe": 2}, "stats": true}).to_string().into_bytes();
    let mut rng = Rng::new(1);
    for round in 0..300 {
        let mut body = good.clone();
        for _ in 0..1 + rng.below(3) {
            let place = rng.below(body.len() as u64) as usize;
            match rng.below(3) {
                0 => body[place] = rng.below(256) as u8,
                1 => body.truncate(place.max(1)),
                _ => body.insert(place, body[rng.below(body.len() as u64) as usize]),
            }
        }
        let reply = send(server.address, "POST", "/search", &[("content-type", "application/json")], &body);
        let shown = String::from_utf8_lossy(&body);
        assert!([200, 400, 422].contains(&reply.status), "round {round}: {} for {shown}", reply.status);
    }
}

#[test]
fn mistypings_are_answered_with_the_nearest_name() {
    let server = start(|_| ());
    let remedy = |body: Value| refused(&server, "/search", &body.to_string()).3["remedy"].as_str().unwrap().to_string();
    assert!(remedy(json!({"vektor": [1]})).contains("\"vector\""));
    assert!(remedy(json!({"text": "red shoes"})).contains("\"red shoe\""));
    assert!(remedy(json!({"vector": [1]})).contains("send 16 elements"));
}

#[test]
fn text_that_is_not_json_is_400_with_its_position() {
    let server = start(|_| ());
    for body in ["{\"vector\": [1, NaN]}", "{\"vector\": [", "{\"limit\": 1}}", "nonsense", "{'limit': 1}", "\u{0}"] {
        let (status, code, _, problem) = refused(&server, "/search", body);
        assert_eq!((status, code.as_str()), (400, "malformed_json"), "{body}");
        assert!(problem["detail"].as_str().unwrap().contains("at line 1 column"), "{problem}");
    }
    let deep = "[".repeat(100_000);
    assert_eq!(refused(&server, "/search", &format!("{{\"vector\": {deep}")).0 / 100, 4);
    let latin =
        send(server.address, "POST", "/search", &[("content-type", "application/json")], b"{\"text\": \"\xff\"}");
    assert_eq!(latin.status, 400);
}

#[test]
fn batches_are_refused_as_a_whole_with_the_place() {
    let server = start(|config| config.limits.batch = 3);
    let good = json!({"vector": vector(0)});
    let cases = [
        (json!({"queries": []}), "batch_out_of_range", "/queries"),
        (json!({"queries": [good, good, good, good]}), "batch_out_of_range", "/queries"),
        (json!({"queries": [good, {"vector": [1]}]}), "wrong_dimension", "/queries/1/vector"),
        (json!({"queries": [good, {"key": 1}]}), "unknown_key", "/queries/1/key"),
        (json!({"queries": [good, {"lmit": 1}]}), "unknown_field", "/queries/1/lmit"),
        (json!({"queries": [good], "limt": 1}), "unknown_field", "/limt"),
        (json!({}), "invalid_value", ""),
    ];
    for (body, code, pointer) in cases {
        let (status, found, place, problem) = refused(&server, BATCH, &body.to_string());
        assert_eq!((status, found.as_str(), place.as_str()), (422, code, pointer), "{body}: {problem}");
    }
    let matrix = |path: &str, body: &[u8]| {
        let reply = send(server.address, "POST", path, &[("content-type", "application/x-npy")], body);
        (reply.status, reply.json()["code"].as_str().unwrap().to_string())
    };
    let body = npy(&[vector(0)]);
    assert_eq!(matrix(&format!("{BATCH}?limi=3"), &body), (422, "unknown_parameter".into()));
    assert_eq!(matrix(&format!("{BATCH}?limit=x"), &body), (422, "invalid_parameter".into()));
    assert_eq!(matrix(BATCH, b"not npy"), (400, "malformed_npy".into()));
    assert_eq!(matrix(BATCH, &body[..body.len() - 1]), (400, "malformed_npy".into()));
    assert_eq!(matrix(BATCH, &npy(&[vec![1.0; 3]])), (422, "wrong_dimension".into()));
    assert_eq!(matrix(BATCH, &npy(&[vec![f32::NAN; DIM]])), (422, "not_finite".into()));
    assert_eq!(matrix(BATCH, &npy(&[])), (422, "batch_out_of_range".into()));
}

#[test]
fn wrong_routes_methods_and_media() {
    let server = start(|_| ());
    let status = |method: &str, path: &str, media: &str| {
        let reply = send(server.address, method, path, &[("content-type", media)], b"{}");
        (reply.status, reply.json()["code"].as_str().unwrap().to_string())
    };
    let json = "application/json";
    assert_eq!(status("POST", "/serch", json), (404, "no_such_route".into()));
    assert_eq!(status("POST", "/v1/collections/other/search", json), (404, "unknown_collection".into()));
    assert_eq!(status("POST", "/v1/collections/other/search/batch", json), (404, "unknown_collection".into()));
    assert_eq!(status("GET", "/v1/collections/other", json), (404, "unknown_collection".into()));
    assert_eq!(status("DELETE", "/search", json), (405, "method_not_allowed".into()));
    assert_eq!(status("POST", "/search", "text/plain"), (415, "unsupported_media_type".into()));
    assert_eq!(status("POST", "/search", "application/x-npy"), (415, "unsupported_media_type".into()));
    assert_eq!(status("POST", "/search?limit=3", json), (422, "unknown_parameter".into()));
    let zipped = [("content-type", json), ("content-encoding", "gzip")];
    assert_eq!(send(server.address, "POST", "/search", &zipped, b"{}").status, 415);
    assert_eq!(send(server.address, "POST", "/search", &[], b"{}").status, 415);
}

#[test]
fn head_and_options_are_sane() {
    let server = start(|_| ());
    let head = send(server.address, "HEAD", "/livez", &[], b"");
    assert_eq!((head.status, head.body.len()), (200, 0));
    let head = send(server.address, "HEAD", "/search", &[], b"");
    assert_eq!((head.status, head.body.len()), (405, 0));
    assert_eq!(head.header("allow"), Some("POST"));
    let options = send(server.address, "OPTIONS", "/search", &[], b"");
    assert_eq!((options.status, options.header("allow")), (204, Some("POST")));
    assert_eq!(send(server.address, "OPTIONS", "/livez", &[], b"").header("allow"), Some("GET,HEAD"));
}

#[test]
fn huge_bodies_are_413() {
    let server = start(|config| config.limits.body_bytes = 10_000);
    let json = ("content-type", "application/json");
    // Announced: refused before any of it is sent.
    let announced = send(server.address, "POST", "/search", &[json, ("content-length", "99999999999")], b"");
    assert_eq!((announced.status, announced.json()["code"].as_str()), (413, Some("body_too_large")));
    // Not announced: refused when the limit is passed.
    let mut body = b"2ee0\r\n".to_vec(); // 12,000 bytes in one chunk
    body.resize(body.len() + 12_000, b' ');
    let mut stream = connect(server.address);
    let head =
        "POST /search HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let _ = stream.write_all(&body);
    let text = String::from_utf8_lossy(&read_all(&mut stream)).into_owned();
    assert!(text.starts_with("HTTP/1.1 413 "), "{text}");
}

#[test]
fn what_is_not_http_is_400_or_dropped() {
    let server = start(|_| ());
    let long = format!("GET /livez HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    let cases = [
        "hello\r\n\r\n",
        "GET /livez HTTP/9.9\r\n\r\n",
        "GET /livez HTTP/1.1\r\nbad header\r\n\r\n",
        "POST /search HTTP/1.1\r\nhost: t\r\ncontent-length: -1\r\n\r\n",
        "POST /search HTTP/1.1\r\nhost: t\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        "\u{16}\u{3}\u{1}\u{2}", // the beginning of a TLS handshake
        &long,
    ];
    for case in cases {
        let mut stream = connect(server.address);
        let _ = stream.write_all(case.as_bytes());
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let answer = String::from_utf8_lossy(&read_all(&mut stream)).into_owned();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{case:.60}: {answer}");
    }
    assert_eq!(send(server.address, "GET", "/livez", &[], b"").status, 200);
}
