//! API keys: who gets in, who does not, and what they are told.

use std::net::SocketAddr;

use serde_json::json;

use crate::client::{Reply, send};
use crate::fixture::{Server, start, vector};

const READ: &str = "read-0123456789abcdef";
const ADMIN: &str = "admin-0123456789abcdef";

fn start_with_keys(open_metrics: bool, open_pages: bool) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys");
    std::fs::write(&file, format!("# keys of the tests\nread {READ}\nadmin {ADMIN} # ours\n")).unwrap();
    start(|config| {
        config.auth.keys_file = file;
        (config.auth.open_metrics, config.auth.open_pages) = (open_metrics, open_pages);
    })
}

fn ask(address: SocketAddr, method: &str, path: &str, authorization: Option<&str>) -> Reply {
    let body = if method == "POST" { json!({"vector": vector(0)}).to_string() } else { String::new() };
    let mut headers = vec![("content-type", "application/json")];
    headers.extend(authorization.map(|value| ("authorization", value)));
    send(address, method, path, &headers, body.as_bytes())
}

#[test]
fn without_a_file_nobody_is_asked() {
    let server = start(|_| ());
    assert_eq!(ask(server.address, "POST", "/search", None).status, 200);
    assert_eq!(ask(server.address, "GET", "/v1/slow", None).status, 200);
}

#[test]
fn a_key_opens_what_its_scope_names() {
    let server = start_with_keys(false, false);
    let status =
        |method: &str, path: &str, key: &str| ask(server.address, method, path, Some(&format!("Bearer {key}"))).status;
    for path in ["/search", "/v1/collections/default/search"] {
        assert_eq!((status("POST", path, READ), status("POST", path, ADMIN)), (200, 200));
    }
    for path in ["/v1/collections/default", "/v1/status", "/v1/limits", "/metrics", "/openapi.json", "/docs"] {
        assert_eq!((status("GET", path, READ), status("GET", path, ADMIN)), (200, 200), "{path}");
    }
    assert_eq!((status("GET", "/v1/slow", READ), status("GET", "/v1/slow", ADMIN)), (403, 200));
    assert_eq!(status("GET", "/nowhere", READ), 404);
    // Measuring recall is no search: its body is looked at only with a larger scope.
    let recall = "/v1/collections/default/recall";
    assert_eq!((status("POST", recall, READ), status("POST", recall, ADMIN)), (403, 422));
    // Where versions lie is for those who may stage some.
    let path_of = |key: &str| {
        let path = "/v1/collections/default/versions";
        let answer = ask(server.address, "GET", path, Some(&format!("Bearer {key}"))).json();
        answer["versions"][0]["path"].is_string()
    };
    assert_eq!((path_of(READ), path_of(ADMIN)), (false, true));
    let refused = ask(server.address, "GET", "/v1/slow", Some(&format!("bearer {READ}")));
    assert_eq!(refused.json()["code"], "forbidden");
    let challenge = refused.header("www-authenticate").unwrap();
    assert!(challenge.contains("insufficient_scope") && challenge.contains("scope=\"admin\""), "{challenge}");
}

#[test]
fn without_a_valid_key_there_is_401_and_a_challenge() {
    let server = start_with_keys(false, false);
    let almost = &READ[..READ.len() - 1];
    let cases = [
        None,
        Some(format!("Bearer {almost}")),
        Some(format!("Bearer {READ}x")),
        Some(format!("Basic {READ}")),
        Some("Bearer".to_string()),
        Some(format!("Bearer {}", "x".repeat(10_000))),
        Some(READ.to_string()),
        Some("Bearer \u{e9}\u{e9}".to_string()),
    ];
    for given in &cases {
        for (method, path) in
            [("POST", "/search"), ("GET", "/v1/collections/default"), ("GET", "/metrics"), ("GET", "/no")]
        {
            let reply = ask(server.address, method, path, given.as_deref());
            assert_eq!((reply.status, reply.json()["code"].as_str()), (401, Some("unauthorized")), "{given:?} {path}");
            let challenge = reply.header("www-authenticate").unwrap();
            assert_eq!(challenge.contains("invalid_token"), given.is_some(), "{challenge}");
            assert!(!reply.text().contains("0123456789abcde"), "{}", reply.text());
        }
    }
}

#[test]
fn health_is_open_always_and_metrics_and_pages_by_setting() {
    let status = |server: &Server, path: &str| ask(server.address, "GET", path, None).status;
    let closed = start_with_keys(false, false);
    assert_eq!(
        ["/livez", "/readyz", "/metrics", "/docs", "/openapi.json"].map(|p| status(&closed, p)),
        [200, 200, 401, 401, 401]
    );
    let open = start_with_keys(true, true);
    assert_eq!(["/metrics", "/docs", "/openapi.json", "/v1/status"].map(|p| status(&open, p)), [200, 200, 200, 401]);
}
