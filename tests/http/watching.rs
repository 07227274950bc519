//! What a server tells about itself: status, slow requests, traces, documents.

use serde_json::{Value, json};

use crate::client::{Reply, post, send};
use crate::fixture::{Server, start, vector};

fn get(server: &Server, path: &str) -> Reply {
    send(server.address, "GET", path, &[], b"")
}

fn body() -> String {
    json!({"vector": vector(1), "limit": 3}).to_string()
}

#[test]
fn status_tells_the_last_seconds() {
    let server = start(|_| ());
    for _ in 0..20 {
        assert_eq!(post(server.address, "/search", &body()).status, 200);
    }
    let mut status = Value::Null;
    for _ in 0..200 {
        status = get(&server, "/v1/status").json();
        if status["qps"].as_f64() > Some(0.0) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert!(status["qps"].as_f64().unwrap() > 0.0, "{status}");
    assert!(
        status["p99_ms"].as_f64() >= status["p50_ms"].as_f64() && status["p50_ms"].as_f64() > Some(0.0),
        "{status}"
    );
    assert_eq!((&status["errors_per_s"], &status["shed_per_s"]), (&json!(0.0), &json!(0.0)));
    assert_eq!((&status["recall"], &status["delta_rows"]), (&Value::Null, &json!(0)));
    assert_eq!(status["index_version"], json!(server.searcher.version()));
    assert!(!status["series"].as_array().unwrap().is_empty() && status["series"][0]["at"].as_u64() > Some(0));
    let estimate = bigrain::server::RecallEstimate { estimate: 0.97, standard_error: 0.01, samples: 40 };
    server.service.status().record_recall(estimate);
    let status = get(&server, "/v1/status").json();
    assert_eq!(status["recall"], json!({"estimate": 0.97, "standard_error": 0.01, "samples": 40}));
}

#[test]
fn slow_requests_can_be_sent_again_as_they_were() {
    let server = start(|config| (config.slow_log.threshold_ms, config.slow_log.capacity) = (0, 3));
    let sent = body();
    let answer = post(server.address, "/v1/collections/default/search", &sent).json();
    let slow = get(&server, "/v1/slow").json();
    let kept = &slow["latest"][0];
    assert_eq!((&kept["method"], &kept["status"], &kept["queries"]), (&json!("POST"), &json!(200), &json!(1)));
    assert_eq!(kept["body"].as_str(), Some(sent.as_str()));
    assert_eq!(kept["request_id"], answer["request_id"]);
    for step in ["queue_ms", "plan_ms", "probe_ms", "scan_ms", "fetch_verify_ms", "rank_ms"] {
        assert!(kept["steps"][step].is_number(), "{step}: {kept}");
    }
    // As a shell runs it, where there is curl to run.
    let command = kept["curl"].as_str().unwrap();
    assert!(command.contains(&format!("http://{}/v1/collections/default/search", server.address)), "{command}");
    if let Ok(output) = std::process::Command::new("sh").args(["-c", command]).output()
        && output.status.success()
    {
        let again: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(again["hits"], answer["hits"]);
    }
    for _ in 0..5 {
        get(&server, "/livez");
    }
    let slow = get(&server, "/v1/slow").json();
    assert_eq!((slow["latest"].as_array().unwrap().len(), slow["slowest"].as_array().unwrap().len()), (3, 3));
    let fast = start(|config| config.slow_log.threshold_ms = 60_000);
    post(fast.address, "/search", &body());
    assert_eq!(get(&fast, "/v1/slow").json()["latest"], json!([]));
}

#[test]
fn bodies_too_long_for_the_slow_log_are_left_out() {
    let server = start(|config| (config.slow_log.threshold_ms, config.slow_log.body_bytes) = (0, 10));
    post(server.address, "/search", &body());
    let kept = &get(&server, "/v1/slow").json()["latest"][0];
    assert_eq!((kept["body"].is_null(), kept["curl"].is_null()), (true, true), "{kept}");
    assert_eq!(kept["body_bytes"].as_u64(), Some(body().len() as u64));
}

#[test]
fn traces_are_taken_over_and_returned() {
    let server = start(|_| ());
    let given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let reply = send(server.address, "GET", "/livez", &[("traceparent", given)], b"");
    let returned = reply.header("traceparent").unwrap();
    assert!(returned.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && returned.ends_with("-01"), "{returned}");
    assert!(!returned.contains("b7ad6b7169203331"), "the span is the server's own");
    let (own, other) = (get(&server, "/livez"), get(&server, "/livez"));
    assert_ne!(own.header("traceparent").unwrap()[3..35], other.header("traceparent").unwrap()[3..35]);
}

#[test]
fn the_limits_are_told() {
    let server = start(|config| (config.limits.batch, config.timeouts.search_ms) = (7, 1234));
    let limits = get(&server, "/v1/limits").json();
    assert_eq!((&limits["batch"], &limits["default_timeout_ms"]), (&json!(7), &json!(1234)));
    assert_eq!(get(&server, "/v1/collections/default").json()["limits"], limits);
}

#[test]
fn the_document_describes_what_is_answered_and_its_page_needs_nothing_from_elsewhere() {
    let server = start(|_| ());
    let document = get(&server, "/openapi.json").json();
    let fields = |schema: &str| &document["components"]["schemas"][schema]["properties"];
    assert!(fields("SearchRequest")["vector_b64"].is_object() && fields("Effort")["recall_target"].is_object());
    let answer = post(server.address, "/search", &json!({"vector": vector(1), "stats": true}).to_string()).json();
    for (name, _) in answer["stats"].as_object().unwrap() {
        let described = if name == "dropped" { &fields("Dropped")["dead"] } else { &fields("SearchStats")[name] };
        assert!(described.is_object(), "{name}");
    }
    // Every route of the document is there: none is answered as unknown.
    for (path, methods) in document["paths"].as_object().unwrap() {
        let path = path.replace("{collection}", "default").replace("{file}", "index.css");
        for method in methods.as_object().unwrap().keys().filter(|name| ["get", "post"].contains(&name.as_str())) {
            let reply = send(server.address, &method.to_uppercase(), &path, &[], b"");
            assert!(!reply.text().contains("no_such_route"), "{method} {path}");
        }
    }
    let page = get(&server, "/docs");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html")));
    let named: Vec<&str> = page.text().split(['"', '\'']).filter(|word| word.starts_with("docs/")).collect();
    assert!(named.len() > 2, "{}", page.text());
    for file in &named {
        assert_eq!(get(&server, &format!("/{file}")).status, 200, "{file}");
    }
    assert!(!page.text().contains("src=\"http") && !page.text().contains("href=\"http"), "{}", page.text());
    assert!(get(&server, "/docs/swagger-initializer.js").text().contains("/openapi.json"));
    assert_eq!(get(&server, "/docs/none.js").status, 404);
}
