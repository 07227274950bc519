//! Queries in words that nobody knew before, by an encoder.

use bigrain::encoder::{TableElement, TokenTable, Vocabulary, write_static};
use bigrain::vfs::RealVfs;
use ndarray::Array2;
use serde_json::json;

use crate::client::{post, send};
use crate::fixture::{DIM, Server, start, vector};

/// A server whose encoder gives each token one of the test vectors.
fn start_with_encoder() -> (Server, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("encoder");
    let vocabulary =
        Vocabulary::train(&["red shoes", "blue shoes", "a red hat", "red shoes", "a blue hat"], 200).unwrap();
    let rows =
        Array2::from_shape_vec((vocabulary.size(), DIM), (0..vocabulary.size()).flat_map(vector).collect()).unwrap();
    write_static(&RealVfs, &folder, &TokenTable::new(rows, None).unwrap(), &vocabulary, TableElement::F16).unwrap();
    (start(|config| config.encoder.path = folder), dir)
}

#[test]
fn any_words_are_searched_by_their_vector() {
    let (server, dir) = start_with_encoder();
    let encoder = bigrain::encoder::Encoder::open(&dir.path().join("encoder")).unwrap();
    let found = |body: serde_json::Value| post(server.address, "/search", &body.to_string()).json()["hits"].clone();
    let by_text = found(json!({"text": "red hat", "limit": 5}));
    assert_eq!(by_text.as_array().unwrap().len(), 5);
    assert_eq!(by_text, found(json!({"vector": encoder.encode_one("red hat").unwrap(), "limit": 5})));
    assert_ne!(by_text, found(json!({"text": "red shoes", "limit": 5})));
    let batch = json!({"queries": [{"text": "red hat"}, {"vector": vector(3)}], "limit": 5}).to_string();
    let answers = post(server.address, "/v1/collections/default/search/batch", &batch).json();
    assert_eq!(answers["results"][0]["hits"], by_text);
    let about = send(server.address, "GET", "/v1/collections/default", &[], b"").json();
    assert_eq!(
        (&about["text_encoder"]["kind"], &about["text_encoder"]["id"]),
        (&json!("static"), &json!(encoder.id()))
    );
}

#[test]
fn texts_without_a_word_are_refused() {
    let (server, _dir) = start_with_encoder();
    for (text, expected) in [("", "empty"), (" \t", "empty")] {
        let reply = post(server.address, "/search", &json!({"text": text}).to_string());
        let problem = reply.json();
        assert_eq!(
            (reply.status, &problem["code"], &problem["pointer"]),
            (422, &json!("text_not_encodable"), &json!("/text"))
        );
        assert!(problem["detail"].as_str().unwrap().contains(expected), "{problem}");
    }
}
