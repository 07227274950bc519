//! `bigrain search` for a task: its query vectors are mapped, and its model orders the hits in the end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bigrain::adapters::{AdapterShape, QueryAdapters, QueryTask, QueryTraining, train_query_adapters};
use bigrain::build::{BuildSpec, build};
use bigrain::dataset::{Scalar, VectorWriter};
use bigrain::linalg::normalise;
use bigrain::relevance::{RelevanceModel, RelevanceTask, RelevanceTraining, Row, Target, pretrain, train_relevance};
use bigrain::sample::Rng;
use bigrain::train::{Example, Silent};
use bigrain::types::Metric;
use bigrain::vfs::RealVfs;
use ndarray::{Array2, Axis, s};
use serde_json::Value;
use tempfile::TempDir;

const DIM: usize = 8;
/// Documents, each with two rows: row 2 i and row 2 i + 1 have the key 100 + i.
const DOCUMENTS: usize = 40;
const QUERIES: usize = 6;

fn random(rows: usize, seed: u64) -> Array2<f32> {
    let mut rng = Rng::new(seed);
    Array2::from_shape_fn((rows, DIM), |_| rng.normal())
}

fn unit(mut x: Array2<f32>) -> Array2<f32> {
    x.rows_mut().into_iter().for_each(|mut row| {
        normalise(row.as_slice_mut().unwrap());
    });
    x
}

/// Rows of very different lengths, of which an inner product makes much and a model of unit vectors nothing.
fn documents() -> Array2<f32> {
    let mut rows = unit(random(2 * DOCUMENTS, 1));
    rows.axis_iter_mut(Axis(0)).enumerate().for_each(|(at, mut row)| row *= 0.5 + (at % 5) as f32);
    rows
}

fn write(path: &Path, vectors: &Array2<f32>) {
    let mut writer = VectorWriter::create(path, Scalar::F32, DIM).unwrap();
    writer.write(vectors.as_slice().unwrap()).unwrap();
    writer.finish().unwrap();
}

/// An index of the documents in `dir`.
fn index(dir: &Path, metric: Metric) -> PathBuf {
    let (vectors, keys) = (dir.join("documents.npy"), dir.join("keys.txt"));
    write(&vectors, &documents());
    std::fs::write(&keys, (0..2 * DOCUMENTS).map(|row| format!("{}\n", 100 + row / 2)).collect::<String>()).unwrap();
    let output = dir.join(metric.to_string());
    let spec = BuildSpec { keys: Some(keys), views: true, metric, lists: Some(4), ..BuildSpec::new(vectors, output) };
    build(&spec, &Silent).unwrap();
    spec.output
}

/// Adapters of one task, whose queries have the sign of their first elements turned.
fn adapters() -> QueryAdapters {
    let documents = unit(random(200, 2));
    let mut queries = documents.clone();
    queries.slice_mut(s![.., ..2]).mapv_inplace(|value| -value);
    let pairs = |range: std::ops::Range<u32>| range.map(|i| Example { query: i, document: i }).collect();
    let task = QueryTask { name: "close".into(), queries, train: pairs(0..150), valid: pairs(150..200) };
    let shape = AdapterShape { rank: 4, alpha: 8.0, ..AdapterShape::default() };
    let settings = QueryTraining { shape, batch: 64, negatives: 32, rate: 2e-2, ..QueryTraining::default() };
    train_query_adapters(documents.view(), &[task], &settings, &Silent).unwrap().0
}

/// A model of how close two texts are, and of a thing that single ones are.
fn model() -> RelevanceModel {
    let x = unit(random(300, 3));
    let rows = |range: std::ops::Range<u32>, label: &dyn Fn(u32) -> Row| range.map(label).collect::<Vec<_>>();
    let pair = |a: u32| {
        let b = (a * 7 + 1) % 300;
        Row { a, b: Some(b), label: x.row(a as usize).dot(&x.row(b as usize)) }
    };
    let single = |a: u32| Row { a, b: None, label: f32::from(u8::from(x[[a as usize, 0]] > 0.0)) };
    let task = |name: &str, target, label: &dyn Fn(u32) -> Row| {
        let (train, valid) = (rows(0..250, label), rows(250..300, label));
        RelevanceTask { name: name.into(), target, train, valid }
    };
    let close = task("close", Target::Value { mean: 0.0, deviation: 0.35 }, &pair);
    let sign = task("sign", Target::Classes(vec!["0".into(), "1".into()]), &single);
    let tasks = [close, sign];
    let settings = RelevanceTraining { widths: vec![16, 16], epochs: 4, batch: 32, ..RelevanceTraining::default() };
    let trunk = pretrain(x.view(), &tasks, &settings, &Silent).unwrap().0;
    let shape = Some(AdapterShape::default());
    let model = train_relevance(&trunk, x.view(), &tasks, shape, &settings, &Silent).unwrap().0;
    model.with_encoder(Some("elsewhere".into()))
}

/// A folder with adapters, model and queries.
fn folder() -> (TempDir, QueryAdapters, RelevanceModel) {
    let folder = tempfile::tempdir().unwrap();
    let (adapters, model) = (adapters(), model());
    adapters.save(&RealVfs, &folder.path().join("adapters.safetensors")).unwrap();
    model.save(&RealVfs, &folder.path().join("model.safetensors")).unwrap();
    write(&folder.path().join("queries.npy"), &random(QUERIES, 4));
    (folder, adapters, model)
}

fn search(dir: &Path, index: &Path, more: &[&str]) -> Output {
    let fixed = ["search", "--queries", "queries.npy", "--nprobe", "4", "--candidates", "200", "-k", "5"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_bigrain"));
    command.current_dir(dir).args(fixed).args(more).arg("--index").arg(index).output().unwrap()
}

/// Key, row and score of the five best documents by inner product, each with its best row.
fn best(query: &[f32]) -> Vec<(u64, usize, f32)> {
    let mut of_key: BTreeMap<u64, (usize, f32)> = BTreeMap::new();
    for (row, document) in documents().rows().into_iter().enumerate() {
        let score = document.iter().zip(query).map(|(d, q)| d * q).sum::<f32>();
        let held = of_key.entry(100 + row as u64 / 2).or_insert((row, score));
        if score > held.1 {
            *held = (row, score);
        }
    }
    let mut all: Vec<_> = of_key.into_iter().map(|(key, (row, score))| (key, row, score)).collect();
    all.sort_by(|a, b| b.2.total_cmp(&a.2));
    all.truncate(5);
    all
}

#[test]
fn queries_are_mapped_and_hits_have_the_order_of_the_model() {
    let (folder, adapters, model) = folder();
    let index = index(folder.path(), Metric::Ip);
    let files = ["--adapters", "adapters.safetensors", "--relevance", "model.safetensors", "--task", "close"];
    let output = search(folder.path(), &index, &[&files[..], &["--explain", "--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), QUERIES);
    let (queries, documents, ranker) = (random(QUERIES, 4), unit(documents()), model.ranker("close").unwrap());
    let (mapped, mut second_rows) = (adapters.apply(queries.view(), &[0; QUERIES]).unwrap(), 0);
    for (line, (query, mapped)) in lines.iter().zip(unit(queries).rows().into_iter().zip(mapped.rows())) {
        let found = best(mapped.as_slice().unwrap());
        let rows: Vec<usize> = found.iter().map(|(_, row, _)| *row).collect();
        second_rows += rows.iter().filter(|row| **row % 2 == 1).count();
        let scores = ranker.rescore(query.as_slice().unwrap(), documents.select(Axis(0), &rows).view()).unwrap();
        let mut expected: Vec<(u64, f32, f32)> =
            found.iter().zip(&scores).map(|(&(key, _, dense), &score)| (key, score, dense)).collect();
        expected.sort_by(|a, b| b.1.total_cmp(&a.1));
        let hits = line["hits"].as_array().unwrap();
        assert_eq!(hits.len(), expected.len());
        for (hit, (key, score, dense)) in hits.iter().zip(expected) {
            let near = |value: &Value, wanted: f32| (value.as_f64().unwrap() - f64::from(wanted)).abs() < 1e-2;
            assert!(hit["key"] == key && near(&hit["score"], score), "{hit}: {key} {score}");
            assert!(near(&hit["explain"]["dense_score"], dense), "{hit}: the search scored it {dense}");
        }
    }
    assert!(second_rows > 0, "documents are found by either of their rows");
}

#[test]
fn tasks_and_indexes_that_do_not_fit_are_refused() {
    let (folder, ..) = folder();
    let refused = |index: &Path, more: &[&str]| {
        let output = search(folder.path(), index, more);
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let cosine = index(folder.path(), Metric::Cosine);
    let message = refused(&cosine, &["--relevance", "model.safetensors", "--task", "sign"]);
    assert!(message.contains("\"sign\", which is about single texts"), "{message}");
    let message = refused(&cosine, &["--relevance", "model.safetensors", "--task", "clse"]);
    assert!(message.contains("did you mean \"close\""), "{message}");
    let message = refused(&cosine, &["--task", "close"]);
    assert!(message.contains("give --adapters or --relevance"), "{message}");
    let far = index(folder.path(), Metric::L2);
    let message = refused(&far, &["--adapters", "adapters.safetensors", "--task", "close"]);
    assert!(message.contains("metric l2"), "{message}");
}
