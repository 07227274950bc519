//! Comparing with other engines: the documents they index, how their answers are judged, and FAISS where it is built in.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use bigrain::dataset::{Scalar, VectorWriter};
use bigrain::error::{Error, Result};
use bigrain::eval::{Plan, exact_scores};
use bigrain::search::{OpenOptions, Searcher};
use index_tools::baseline::{Asked, Documents, Engine, Parameter, Setting, grid, measure};
use index_tools::rows::Rows;
use tempfile::TempDir;

const ROWS: usize = 400;
const DIM: usize = 8;
const QUERIES: usize = 30;

/// Values without a pattern that would make scores tie, and where they are finite.
fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// A folder with documents, one of which is not a number, queries, and an index by `metric` that skipped that document and
/// knows the others by keys of their own.
fn folder(metric: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, values: &[f32]| {
        let mut writer = VectorWriter::create(&folder.path().join(name), Scalar::F32, DIM).unwrap();
        writer.write(values).unwrap();
        writer.finish().unwrap();
    };
    let mut documents = values(ROWS * DIM, 1);
    documents[17 * DIM + 3] = f32::NAN;
    write("docs.npy", &documents);
    write("short.npy", &documents[..DIM * 100]);
    write("queries.npy", &values(QUERIES * DIM, 2));
    let keys: String = (0..ROWS).map(|row| format!("{}\n", 9_000 - row)).collect();
    std::fs::write(folder.path().join("keys.txt"), keys).unwrap();
    let mut build = Command::new(env!("CARGO_BIN_EXE_build-index"));
    build.current_dir(folder.path()).args(["--input", "docs.npy", "--output", "index", "--metric", metric]);
    build.args(["--keys", "keys.txt", "--lists", "4", "--code-bytes", "4", "--on-bad", "skip"]);
    let output = build.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    folder
}

fn open(folder: &Path) -> Searcher {
    Searcher::open(&folder.join("index"), &OpenOptions::default()).unwrap()
}

/// Scores every vector by inner product; has lists, as far as a parameter of that name goes.
struct Exhaustive {
    vectors: Vec<f32>,
    /// How many of the nearest it leaves out.
    forgets: usize,
    nprobe: u32,
}

impl Engine for Exhaustive {
    fn set(&mut self, parameter: Parameter, value: u32) -> Result<bool> {
        let known = parameter == Parameter::Nprobe;
        if known {
            self.nprobe = value;
        }
        Ok(known)
    }

    fn search(&mut self, query: &[f32], k: usize, numbers: &mut Vec<u64>) -> Result<()> {
        let score = |vector: &[f32]| query.iter().zip(vector).map(|(q, v)| q * v).sum::<f32>();
        let mut scored: Vec<(f32, u64)> = self.vectors.chunks_exact(DIM).map(score).zip(0..).collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0));
        numbers.clear();
        numbers.extend(scored[self.forgets..][..k].iter().map(|&(_, number)| number));
        Ok(())
    }

    fn file_bytes(&self) -> Result<u64> {
        Ok(4 * self.vectors.len() as u64)
    }
}

fn plan() -> Plan {
    Plan { threads: 1, batch: false, at_least: Duration::ZERO, exact: false, geometric: false }
}

#[test]
fn answers_of_an_engine_are_judged_by_the_scores_of_the_index() {
    let folder = folder("cosine");
    let searcher = open(folder.path());
    let names = Rows::new(QUERIES as u64, ROWS as u64).with_keys(&folder.path().join("keys.txt")).unwrap();
    let documents = Documents::read(&folder.path().join("docs.npy"), &searcher, &names).unwrap();
    assert_eq!((documents.rows().len(), documents.dim()), (ROWS - 1, DIM));
    let norm = documents.vectors()[..DIM].iter().map(|v| v * v).sum::<f32>();
    assert!((norm - 1.0).abs() < 1e-5, "{norm}");

    let queries = values(QUERIES * DIM, 2);
    let reference = exact_scores(&searcher, &queries, 10).unwrap();
    let asked = Asked::new(&searcher, &queries, &reference, &plan());
    let mut engine = Exhaustive { vectors: documents.vectors().to_vec(), forgets: 0, nprobe: 0 };
    let rows = documents.into_rows();
    let settings = grid(&mut engine, &[10, 5], &[3, 7], &[1, 2, 4]).unwrap();
    let expected = [(10, 3), (10, 7), (5, 3), (5, 7)];
    assert_eq!(settings, expected.map(|(k, nprobe)| Setting { k, nprobe: Some(nprobe), refine: None }));
    let point = measure(&mut engine, &asked, &rows, settings[1]).unwrap();
    assert_eq!((engine.nprobe, point.recall), (7, 1.0));
    assert!(point.qps > 0.0 && point.p50_us > 0.0 && point.p99_us >= point.p50_us, "{point:?}");
    engine.forgets = 4;
    assert!((measure(&mut engine, &asked, &rows, settings[0]).unwrap().recall - 0.6).abs() < 1e-9);
}

#[test]
fn documents_must_be_those_of_the_index() {
    let folder = folder("l2");
    let searcher = open(folder.path());
    let read = |name: &str, names: &Rows| Documents::read(&folder.path().join(name), &searcher, names).err().unwrap();
    let names = Rows::new(QUERIES as u64, ROWS as u64);
    // Row numbers are no keys of this index.
    assert!(matches!(read("docs.npy", &names), Error::InvalidInput { reason, .. } if reason.contains("--keys")));
    let short = read("short.npy", &names).to_string();
    assert!(short.contains("short.npy") && short.contains("expected 400, found 100"), "{short}");
}

fn measure_recall(dir: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_measure-recall"));
    command.current_dir(dir).args(["--index", "index", "--queries", "queries.npy", "--keys", "keys.txt", "--exact"]);
    command.args(["-k", "10", "--nprobe", "2,4", "--candidates", "40", "--seconds", "0"]).args(more).output().unwrap()
}

/// Fails unless the command ended with this code and says all of `parts`, in one line where it is the program that says it.
#[track_caller]
fn assert_refused(output: &Output, code: i32, parts: &[&str]) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert!(parts.iter().all(|part| message.contains(part)), "{message:?} does not say {parts:?}");
    assert!(code == 2 || message.lines().any(|line| parts.iter().all(|part| line.contains(part))), "{message:?}");
}

#[test]
fn flags_that_make_no_sense_are_refused_in_any_build() {
    let folder = folder("l2");
    let run = |more: &[&str]| measure_recall(folder.path(), more);
    assert_refused(&run(&["--documents", "docs.npy"]), 1, &["documents", "docs.npy", "--baseline"]);
    assert_refused(&run(&["--baseline", "Flat", "--batch"]), 2, &["--baseline", "--batch"]);
    assert_refused(&run(&["--baseline-nprobe", "4,0"]), 2, &["--baseline-nprobe", "0 is not in 1.."]);
}

#[cfg(not(feature = "faiss"))]
#[test]
fn without_faiss_a_baseline_says_how_to_build_with_it() {
    let folder = folder("l2");
    let output = measure_recall(folder.path(), &["--baseline", "IVF4,Flat", "--documents", "docs.npy"]);
    let parts =
        ["\"IVF4,Flat\"", "built without FAISS", "cargo build", "--package index-tools --features faiss", "cmake"];
    assert_refused(&output, 1, &parts);
    assert!(output.stdout.is_empty());
}

#[cfg(feature = "faiss")]
mod with_faiss {
    use super::*;

    fn run(dir: &Path, more: &[&str]) -> Output {
        measure_recall(dir, &[&["--documents", "docs.npy"], more].concat())
    }

    fn report(dir: &Path, more: &[&str]) -> serde_json::Value {
        let output = run(dir, &[more, &["--json"]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    #[test]
    fn flat_finds_what_is_exact_by_every_metric() {
        for metric in ["l2", "ip", "cosine"] {
            let folder = folder(metric);
            let report = report(folder.path(), &["--baseline", "Flat"]);
            let baseline = &report["baselines"][0];
            assert_eq!(baseline["results"].as_array().unwrap().len(), 1, "{metric}");
            let result = &baseline["results"][0];
            assert_eq!((&result["recall"], &result["nprobe"]), (&1.0.into(), &serde_json::Value::Null), "{metric}");
            assert!(result["qps"].as_f64().unwrap() > 0.0);
            // The vectors, and a header.
            let bytes = baseline["bytes_per_row"].as_f64().unwrap();
            assert!((4.0 * DIM as f64..4.0 * DIM as f64 + 1.0).contains(&bytes), "{bytes}");
        }
    }

    #[test]
    fn the_grid_has_what_each_baseline_knows() {
        let folder = folder("l2");
        let flags = ["--baseline", "IVF8,PQ4x4fs,RFlat", "--baseline", "IVF8,PQ4x4np", "--baseline-nprobe", "1,8"];
        let more = [&flags[..], &["--baseline-refine", "1,40"]].concat();
        let report = report(folder.path(), &more);
        let results = |at: usize| report["baselines"][at]["results"].as_array().unwrap();
        let settings: Vec<_> =
            results(0).iter().map(|point| (point["nprobe"].as_u64(), point["refine"].as_u64())).collect();
        assert_eq!(settings, [(1, 1), (1, 40), (8, 1), (8, 40)].map(|(nprobe, refine)| (Some(nprobe), Some(refine))));
        // All lists, and all of their rows refined: the parameters reach the index.
        assert_eq!(results(0)[3]["recall"], 1.0);
        assert!(results(0)[0]["recall"].as_f64() < results(0)[3]["recall"].as_f64());
        assert!(results(1).len() == 2 && results(1).iter().all(|point| point["refine"].is_null()));
        let frontiers = report["frontiers"].as_array().unwrap();
        let engines: Vec<_> = frontiers.iter().map(|frontier| frontier["engine"].as_str().unwrap()).collect();
        assert_eq!(engines, ["bigrain", "FAISS IVF8,PQ4x4fs,RFlat", "FAISS IVF8,PQ4x4np"]);
        let text = run(folder.path(), &flags);
        let text = String::from_utf8(text.stdout).unwrap();
        assert!(text.contains("Frontiers at k = 10") && text.contains("FAISS IVF8,PQ4x4fs,RFlat"), "{text}");
    }

    #[test]
    fn what_faiss_cannot_do_is_an_error_in_a_line() {
        let folder = folder("l2");
        assert_refused(
            &run(folder.path(), &["--baseline", "IFV8"]),
            1,
            &["baseline", "\"IFV8\"", "FAISS cannot build"],
        );
        let too_many_lists = run(folder.path(), &["--baseline", "IVF4096,Flat"]);
        assert_refused(&too_many_lists, 1, &["IVF4096,Flat", "399"]);
        assert_refused(&measure_recall(folder.path(), &["--baseline", "Flat"]), 1, &["documents", "\"Flat\""]);
    }
}
