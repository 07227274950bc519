//! Measuring against labelled documents: ids, qrels, runs. The oracle is the run file, scored here in the plain way.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::process::{Command, Output};

use bigrain::dataset::{Scalar, VectorWriter};
use tempfile::TempDir;

const ROWS: usize = 200;
const QUERIES: usize = 40;

/// A folder with an index of 200 documents under keys of their own, 40 queries, ids of both, and `a.qrels`.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, count: usize, step: usize| {
        let mut writer = VectorWriter::create(&folder.path().join(name), Scalar::F32, 8).unwrap();
        writer.write(&(0..8 * count).map(|i| ((i * step) % 1009) as f32 - 504.0).collect::<Vec<_>>()).unwrap();
        writer.finish().unwrap();
    };
    write("docs.npy", ROWS, 37);
    write("queries.npy", QUERIES, 53);
    let text = |name: &str, text: String| std::fs::write(folder.path().join(name), text).unwrap();
    text("keys.txt", (0..ROWS).map(|row| format!("{}\n", 9_000 - row)).collect());
    text("docs.txt", (0..ROWS).map(|row| format!("D{}\n", row * 3)).collect());
    text("queries.txt", (0..QUERIES).map(|row| format!("{}\n", 500 + row)).collect());
    text("a.qrels", qrels().iter().map(|(q, d, grade)| format!("{q}\t0\t{d}\t{grade}\n")).collect());
    let mut build = Command::new(env!("CARGO_BIN_EXE_build-index"));
    build.current_dir(folder.path()).args(["--input", "docs.npy", "--output", "index", "--keys", "keys.txt"]);
    let output = build.args(["--lists", "4", "--code-bytes", "4"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    folder
}

/// Three documents a query, one of which is judged not relevant; the last ten queries have none.
fn qrels() -> Vec<(String, String, u32)> {
    let document = |query: usize, i: usize| format!("D{}", (query * 31 + i * 67) % ROWS * 3);
    let of_query = |query: usize| (0..3).map(move |i| ((500 + query).to_string(), document(query, i), 2 - i as u32));
    (0..QUERIES - 10).flat_map(of_query).collect()
}

fn measure(dir: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_measure-recall"));
    command.current_dir(dir).args(["--index", "index", "--queries", "queries.npy", "--seconds", "0", "--json"]);
    command.args(["--keys", "keys.txt", "--nprobe", "4", "--qrels", "a.qrels"]).args(more).output().unwrap()
}

const IDS: [&str; 4] = ["--query-ids", "queries.txt", "--document-ids", "docs.txt"];

fn json(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn assert_refused(output: &Output, parts: &[&str]) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(parts.iter().all(|part| message.contains(part)), "{message:?} does not say {parts:?}");
}

/// Documents of each query in the order of a run, whose form is checked.
fn read_run(path: &Path) -> BTreeMap<String, Vec<String>> {
    let mut answers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut scores: HashMap<String, f32> = HashMap::new();
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [query, "Q0", document, rank, score, "bigrain"] = words[..] else { panic!("{line:?}") };
        let answer = answers.entry(query.into()).or_default();
        answer.push(document.into());
        assert_eq!(rank.parse::<usize>().unwrap(), answer.len());
        let score = score.parse().unwrap();
        assert!(scores.insert(query.into(), score).is_none_or(|before| before >= score), "{line:?}");
    }
    answers
}

#[test]
fn a_run_has_the_quality_that_is_told() {
    let folder = folder();
    let more = [&IDS[..], &["-k", "120", "--candidates", "150", "--run", "a.run"]].concat();
    let report = json(&measure(folder.path(), &more));
    assert_eq!((&report["queries"], &report["judged_queries"]), (&40.into(), &30.into()));
    let answers = read_run(&folder.path().join("a.run"));
    assert!(answers.len() == QUERIES && answers.values().all(|answer| answer.len() == 120));
    let mut relevant: BTreeMap<String, HashSet<String>> = BTreeMap::new();
    for (query, document, _) in qrels().into_iter().filter(|judgement| judgement.2 > 0) {
        relevant.entry(query).or_default().insert(document);
    }
    let mean = |of: &dyn Fn(&[String], &HashSet<String>) -> f64| {
        relevant.iter().map(|(query, relevant)| of(&answers[query], relevant)).sum::<f64>() / relevant.len() as f64
    };
    let told = &report["results"][0];
    for depth in [10, 50, 100, 120] {
        let recall =
            mean(&|a, r| a[..depth].iter().filter(|document| r.contains(*document)).count() as f64 / r.len() as f64);
        let other = told["hit_recall"][depth.to_string()].as_f64().unwrap();
        assert!((recall - other).abs() < 1e-9, "recall at {depth}: {recall} is told as {other}");
        let candidates = told["candidate_recall"][depth.to_string()].as_f64();
        assert!((depth == 120) == candidates.is_none());
    }
    let mrr =
        mean(&|a, r| a[..10].iter().position(|document| r.contains(document)).map_or(0.0, |at| 1.0 / (at + 1) as f64));
    assert!(mrr > 0.0 && (mrr - told["mrr_at_10"].as_f64().unwrap()).abs() < 1e-9, "{mrr} {told}");
    assert!(told["candidate_recall"]["150"].as_f64() >= told["hit_recall"]["120"].as_f64());
    // All documents are hits: nothing is missed.
    assert_eq!(json(&measure(folder.path(), &[&IDS[..], &["-k", "200"]].concat()))["results"][0]["recall"], 1.0);
}

#[test]
fn rows_stand_for_ids_where_there_are_none() {
    let folder = folder();
    let by_row: String = qrels()
        .iter()
        .map(|(q, d, grade)| {
            let (query, document): (usize, usize) = (q.parse().unwrap(), d[1..].parse().unwrap());
            format!("{}\t{}\t{grade}\n", query - 500, document / 3)
        })
        .collect();
    let more = ["-k", "20", "--run", "a.run"];
    let by_id = json(&measure(folder.path(), &[&IDS[..], &more].concat()));
    let named = read_run(&folder.path().join("a.run"));
    std::fs::write(folder.path().join("a.qrels"), by_row).unwrap();
    let report = json(&measure(folder.path(), &more));
    assert_eq!(report["results"][0]["hit_recall"], by_id["results"][0]["hit_recall"]);
    for (query, answer) in read_run(&folder.path().join("a.run")) {
        let ids: Vec<String> = answer.iter().map(|row| format!("D{}", row.parse::<usize>().unwrap() * 3)).collect();
        assert_eq!(ids, named[&(query.parse::<usize>().unwrap() + 500).to_string()]);
    }
}

#[test]
fn fewer_queries_leave_out_the_judgements_of_the_others() {
    let folder = folder();
    let report = json(&measure(folder.path(), &[&IDS[..], &["--limit", "25"]].concat()));
    assert_eq!((&report["queries"], &report["judged_queries"]), (&25.into(), &25.into()));
}

#[test]
fn what_cannot_be_matched_is_refused_by_line() {
    let folder = folder();
    let text = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let run = |more: &[&str]| measure(folder.path(), &[&IDS[..], more].concat());
    assert_refused(&run(&["-k", "5,10", "--run", "a.run"]), &["invalid run", "there are 2"]);
    assert!(!folder.path().join("a.run").exists());
    text("a.qrels", "500 0 D0 1\n777 0 D0 1\n");
    assert_refused(&run(&[]), &["a.qrels: line 2", "query \"777\" is not in queries.txt"]);
    text("a.qrels", "500 0 D0 0\n");
    assert_refused(&run(&[]), &["invalid qrels", "graded above 0"]);
    text("a.qrels", "77 0 0 1\n");
    assert_refused(&measure(folder.path(), &[]), &["below 40", "77"]);
    text("docs.txt", "D0\nD3\n");
    assert_refused(&run(&[]), &["docs.txt: line 3", "2 lines for 200 vectors"]);
    text("queries.txt", &"500\n".repeat(QUERIES));
    assert_refused(&run(&[]), &["queries.txt: line 2", "\"500\" is on line 1 too"]);
}

#[test]
fn people_see_both_grains_by_depth() {
    let folder = folder();
    let mut command = Command::new(env!("CARGO_BIN_EXE_measure-recall"));
    command.current_dir(folder.path()).args(["--index", "index", "--queries", "queries.npy", "--seconds", "0"]);
    command.args(["--keys", "keys.txt", "--qrels", "a.qrels", "-k", "100"]).args(IDS);
    let text = String::from_utf8(command.output().unwrap().stdout).unwrap();
    for part in ["MRR@10", "R@10", "R@50", "R@100", "candidates  100", "hits        100"] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}
