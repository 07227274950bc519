//! Encrypted connections, with a certificate made here.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bigrain::server::ServerConfig;
use serde_json::json;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::client::{connect, exchange, read_all};
use crate::fixture::{start, vector};

/// A certificate for `localhost` and its key, in files below `dir`; the certificate itself for the client.
fn certificate(dir: &Path) -> (PathBuf, PathBuf, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_string()]).unwrap();
    let (certificate, key) = (dir.join("certificate.pem"), dir.join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    (certificate, key, made.cert.der().clone())
}

fn encrypted(
    address: SocketAddr,
    trusted: &CertificateDer<'static>,
) -> StreamOwned<ClientConnection, std::net::TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), connect(address))
}

#[test]
fn searches_are_answered_over_tls_and_plain_http_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key, der) = certificate(dir.path());
    let mut server = start(|config| (config.tls.certificate, config.tls.key) = (certificate, key));
    let body = json!({"vector": vector(3), "limit": 2}).to_string();
    let json = [("content-type", "application/json")];
    for _ in 0..3 {
        let reply = exchange(&mut encrypted(server.address, &der), "POST", "/search", &json, body.as_bytes());
        assert_eq!((reply.status, reply.json()["hits"].as_array().map(Vec::len)), (200, Some(2)));
    }
    let mut plain = connect(server.address);
    plain.write_all(b"GET /livez HTTP/1.1\r\nhost: t\r\n\r\n").unwrap();
    assert!(!String::from_utf8_lossy(&read_all(&mut plain)).contains("200"));
    server.shut_down();
    assert!(server.join(), "drained");
}

#[test]
fn a_client_that_never_shakes_hands_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key, _) = certificate(dir.path());
    let server = start(|config| {
        (config.tls.certificate, config.tls.key) = (certificate, key);
        config.tls.handshake_ms = 50;
    });
    assert!(read_all(&mut connect(server.address)).is_empty()); // Ends only if the server closes.
}

#[test]
fn files_that_are_no_certificate_or_key_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key, _) = certificate(dir.path());
    let other = dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let (_, foreign_key, _) = self::certificate(&other);
    let empty = dir.path().join("empty.pem");
    std::fs::write(&empty, "nothing here").unwrap();
    let index = start(|_| ());
    let failure = |certificate: &Path, key: &Path| {
        let mut config = ServerConfig::default();
        (config.tls.certificate, config.tls.key) = (certificate.into(), key.into());
        let started = bigrain::server::Service::start(config, index.searcher.clone());
        started.err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert_eq!(failure(&certificate, &key), "");
    assert!(failure(&empty, &key).contains("empty.pem") && failure(&certificate, &empty).contains("empty.pem"));
    assert!(failure(&dir.path().join("missing.pem"), &key).contains("missing.pem"));
    assert!(failure(&certificate, &foreign_key).contains("cannot be used"));
}
