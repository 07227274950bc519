//! `make-vectors`: the same bytes at any number of threads, files that read back, refusals.

use std::path::Path;
use std::process::{Command, Output};

use bigrain::dataset::VectorFile;
use tempfile::TempDir;

fn make(dir: &Path, threads: &str, arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_make-vectors"));
    command.current_dir(dir).env("RAYON_NUM_THREADS", threads).args(arguments.split_whitespace()).output().unwrap()
}

fn made(dir: &Path, arguments: &str) -> Output {
    let output = make(dir, "2", arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// A folder with `source.npy`, 400 x 16.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    made(folder.path(), "--rows 400 --dim 16 --clusters 20 --output source.npy");
    folder
}

/// All values of a file, and its dimension.
fn read(path: &Path) -> (Vec<f32>, usize) {
    let mut file = VectorFile::open(path, None).unwrap();
    let mut values = vec![0.0; file.rows() as usize * file.dim()];
    file.read(0, &mut values).unwrap();
    (values, file.dim())
}

#[test]
fn vectors_like_others_are_the_same_on_any_number_of_threads() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    // More rows than are made at a time.
    let arguments = "--like source.npy --rows 70000 --queries 30 --seed 4";
    for (threads, name) in [("1", "a"), ("3", "b")] {
        let output =
            make(folder.path(), threads, &format!("{arguments} --output {name}.npy --queries-output {name}.q.npy"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let bytes = |name: &str| std::fs::read(path(name)).unwrap();
    assert!(bytes("a.npy") == bytes("b.npy") && bytes("a.q.npy") == bytes("b.q.npy"));
    let ((rows, dim), (queries, _)) = (read(&path("a.npy")), read(&path("a.q.npy")));
    assert_eq!((dim, rows.len(), queries.len()), (16, 70_000 * 16, 30 * 16));
    assert!(rows.iter().chain(&queries).all(|value| value.is_finite()));
    made(folder.path(), "--like source.npy --rows 50 --seed 5 --output c.npy");
    assert_ne!(read(&path("c.npy")).0, rows[..50 * 16]);
}

#[test]
fn every_element_type_holds_the_same_vectors() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    for (element, name) in [("f32", "a.fbin"), ("f16", "a.npy"), ("i8", "a.i8bin")] {
        made(folder.path(), &format!("--like source.npy --rows 300 --element {element} --output {name}"));
    }
    let [full, half, bytes] = ["a.fbin", "a.npy", "a.i8bin"].map(|name| read(&path(name)).0);
    let largest = read(&path("source.npy")).0.iter().fold(0f32, |largest, value| value.abs().max(largest));
    for ((full, half), byte) in full.iter().zip(half).zip(bytes) {
        assert!((full - half).abs() <= 1e-3 * full.abs().max(1e-3));
        assert!((full.clamp(-largest, largest) * 127.0 / largest - byte).abs() <= 0.51 && byte.abs() <= 127.0);
    }
}

#[test]
fn likeness_is_told() {
    let folder = folder();
    let output = made(folder.path(), "--like source.npy --rows 10 --output a.npy --compare --json");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&report["rows"], &report["dim"], &report["like"]["source_rows"]),
        (&10.into(), &16.into(), &400.into())
    );
    for side in ["source", "made"] {
        let compared = &report["like"]["compared"][side];
        assert_eq!(compared["cosines"].as_array().unwrap().len(), 3);
        assert!(compared["spectrum"][0]["share"].as_f64().unwrap() > 0.0);
    }
    let output = made(folder.path(), "--like source.npy --rows 10 --output a.npy --compare");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("cosine to neighbour 100") && text.contains("variance in 10 directions"), "{text}");
}

#[test]
fn what_cannot_be_made_is_refused() {
    let folder = folder();
    let refused = |code: i32, arguments: &str, part: &str| {
        let output = make(folder.path(), "2", arguments);
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(code) && message.contains(part), "{message:?} does not say {part:?}");
    };
    refused(2, "--like source.npy --dim 8 --rows 10 --output a.npy", "--dim");
    refused(2, "--element f16 --rows 10 --output a.npy", "--like");
    refused(2, "--compare --rows 10 --output a.npy", "--like");
    refused(2, "--rows 0 --output a.npy", "rows");
    refused(1, "--like absent.npy --rows 10 --output a.npy", "absent.npy");
    refused(1, "--like source.npy --element f16 --rows 10 --output a.fbin", ".fbin");
    made(folder.path(), "--rows 40 --dim 16 --clusters 1 --spread 0 --output same.npy");
    refused(1, "--like same.npy --rows 10 --output a.npy", "none of 40 rows has 32 neighbours");
    refused(1, "--rows 10 --dim 16 --output a.txt", "a.txt");
}
