//! Query encoders by task: a request that names one is answered as its mapped vector would be.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bigrain::adapters::{QueryAdapters, QueryTask, QueryTraining, train_query_adapters};
use bigrain::heads::Heads;
use bigrain::search::{OpenOptions, Searcher};
use bigrain::server::{ServerConfig, Service};
use bigrain::train::{Example, Silent};
use bigrain::vfs::RealVfs;
use ndarray::{Array2, ArrayView2};
use serde_json::{Value, json};

use crate::client::{post, send};
use crate::fixture::{DIM, build, npy, start, vector};

const BATCH: &str = "/v1/collections/default/search/batch";

/// Adapters of two tasks that were trained to want different things.
fn adapters(dim: usize) -> QueryAdapters {
    let rows: Vec<f32> = (0..64).flat_map(|row| vector(row)[..dim].to_vec()).collect();
    let documents = Array2::from_shape_vec((64, dim), rows).unwrap();
    let task = |name: &str, shift: u32| {
        let pairs: Vec<Example> = (0..64).map(|i| Example { query: i, document: (i + shift) % 64 }).collect();
        QueryTask { name: name.into(), queries: documents.clone(), train: pairs.clone(), valid: pairs }
    };
    let settings = QueryTraining { epochs: 20, batch: 64, negatives: 0, rate: 3e-2, ..QueryTraining::default() };
    train_query_adapters(documents.view(), &[task("next", 1), task("after-next", 2)], &settings, &Silent).unwrap().0
}

fn saved(dir: &Path, adapters: &QueryAdapters) -> PathBuf {
    let path = dir.join("adapters.safetensors");
    adapters.save(&RealVfs, &path).unwrap();
    path
}

/// Keys and scores, these to what a product of another shape rounds to.
fn hits(answer: &Value) -> Vec<(u64, i64)> {
    let hits = answer["hits"].as_array().unwrap_or_else(|| panic!("{answer}"));
    hits.iter()
        .map(|hit| (hit["key"].as_u64().unwrap(), (hit["score"].as_f64().unwrap() * 1e4).round() as i64))
        .collect()
}

#[test]
fn a_named_task_maps_every_query_vector() {
    let dir = tempfile::tempdir().unwrap();
    let adapters = adapters(DIM);
    let path = saved(dir.path(), &adapters);
    let server = start(|config| config.encoder.adapters = path);
    let query = vector(5);
    let ask = |body: Value| post(server.address, "/search", &body.to_string()).json();
    let plain = ask(json!({"vector": query}));
    for task in ["next", "after-next"] {
        let head = adapters.merge(task).unwrap();
        let mapped = head.apply_rows(ArrayView2::from_shape((1, DIM), &query).unwrap()).into_raw_vec_and_offset().0;
        let expected = ask(json!({"vector": mapped}));
        assert_ne!(hits(&expected), hits(&plain), "the task was learned");
        assert_eq!(hits(&ask(json!({"vector": query, "task": task}))), hits(&expected));
        // "red shoe" has the vector of row 5.
        assert_eq!(hits(&ask(json!({"text": "red shoe", "task": task}))), hits(&expected));
        let batch = json!({"queries": [{"vector": query}, {"vector": query, "task": "next"}], "task": task});
        let results = post(server.address, BATCH, &batch.to_string()).json()["results"].clone();
        assert_eq!(hits(&results[0]), hits(&expected), "what the query leaves out is the batch's");
        assert_eq!(hits(&results[1]), hits(&ask(json!({"vector": query, "task": "next"}))));
        let headers = [("content-type", "application/x-npy")];
        let path = format!("{BATCH}?task={task}");
        let reply = send(server.address, "POST", &path, &headers, &npy(std::slice::from_ref(&query))).json();
        assert_eq!(hits(&reply["results"][0]), hits(&expected), "{reply}");
    }
    let described = send(server.address, "GET", "/v1/collections/default", &[], b"").json();
    assert_eq!(described["tasks"], json!(["next", "after-next"]));
}

#[test]
fn tasks_that_cannot_be_are_refused_with_those_that_can() {
    let dir = tempfile::tempdir().unwrap();
    let path = saved(dir.path(), &adapters(DIM));
    let server = start(|config| config.encoder.adapters = path);
    let refused = |body: Value| {
        let reply = post(server.address, "/search", &body.to_string());
        let problem = reply.json();
        (reply.status, problem["code"].clone(), problem["pointer"].clone(), problem["remedy"].to_string())
    };
    let (status, code, pointer, remedy) = refused(json!({"vector": vector(5), "task": "nxt"}));
    assert_eq!((status, code, pointer), (400, json!("unknown_task"), json!("/task")));
    assert!(remedy.contains("did you mean") && remedy.contains("next, after-next"), "{remedy}");
    let (status, code, ..) = refused(json!({"key": 1, "task": "next"}));
    assert_eq!((status, code), (422, json!("task_not_for_key")));
    let (status, code, ..) = refused(json!({"vector": vec![3e38; DIM], "task": "next"}));
    assert_eq!((status, code), (422, json!("not_finite")));
    let plain = start(|_| ());
    let reply = post(plain.address, "/search", &json!({"vector": vector(5), "task": "next"}).to_string());
    assert_eq!(reply.status, 400);
    assert!(reply.json()["remedy"].to_string().contains("has no tasks"));
}

#[test]
fn adapters_of_another_dimension_stop_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let index = build(dir.path(), 40, Heads::default());
    let searcher = Arc::new(Searcher::open(&index, &OpenOptions::default()).unwrap());
    let start = |dim: usize| {
        let mut config = ServerConfig::default();
        config.encoder.adapters = saved(dir.path(), &adapters(dim));
        Service::start(config, searcher.clone()).map(drop)
    };
    let message = start(DIM / 2).unwrap_err().to_string();
    assert_eq!(message, format!("dimension of the adapters does not match: expected {DIM}, found {}", DIM / 2));
    start(DIM).unwrap();
}
