//! `kill -9` of a real build at many moments, over an index that is there already.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bigrain::dataset::synthetic::{Clustered, Draw};
use bigrain::dataset::{Scalar, VectorWriter};
use bigrain::index::OpenOptions;
use bigrain::sample::Rng;
use bigrain::search::{Hit, SearchParams, Searcher};
use bigrain::train::Silent;

const DIM: usize = 32;
/// Builds that are killed.
const KILLS: u64 = 24;

fn vectors(path: &Path, rows: u64, seed: u64) {
    let generator = Clustered { rows, dim: DIM, clusters: 20, spread: 0.6, seed }.generator().unwrap();
    let mut values = vec![0.0; rows as usize * DIM];
    generator.fill(Draw::Rows, 0, &mut values);
    let mut writer = VectorWriter::create(path, Scalar::F32, DIM).unwrap();
    writer.write(&values).unwrap();
    writer.finish().unwrap();
}

fn build(input: &Path, output: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_build-index"));
    command.arg("--input").arg(input).arg("--output").arg(output);
    command.args(["--lists", "16", "--code-bytes", "8", "--threads", "2", "--memory-limit", "256MiB"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Id and answer of the version in a directory, every byte of it checked.
fn version(dir: &Path) -> (String, Vec<Hit>) {
    let searcher = Searcher::open(dir, &OpenOptions::default()).unwrap();
    searcher.index().check(&Silent).unwrap();
    let mut hits = Vec::new();
    let params = SearchParams { k: 10, nprobe: 16, ..SearchParams::default() };
    searcher.search(&[1.0; DIM], &params, &mut searcher.scratch(), &mut hits).unwrap();
    (searcher.version().to_string(), hits)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_killed_build_leaves_the_old_version_or_the_new_and_the_next_one_clears_up() {
    let folder = tempfile::tempdir().unwrap();
    let inputs: [PathBuf; 2] = [folder.path().join("a.fbin"), folder.path().join("b.fbin")];
    vectors(&inputs[0], 6_000, 1);
    vectors(&inputs[1], 6_500, 2);
    let output = folder.path().join("index");
    let mut expected = Vec::new();
    let mut whole = Duration::ZERO;
    for input in &inputs {
        let started = Instant::now();
        assert!(build(input, &output).status().unwrap().success());
        whole = started.elapsed();
        expected.push(version(&output));
    }
    let mut current = 1;
    let mut killed = 0;
    let mut rng = Rng::new(7);
    for _ in 0..KILLS {
        // The other input, so that old and new version differ.
        let next = 1 - current;
        let mut child = build(&inputs[next], &output).spawn().unwrap();
        std::thread::sleep(whole.mul_f64(1.1 * rng.unit_f64()));
        child.kill().unwrap();
        killed += u64::from(!child.wait().unwrap().success());
        let found = version(&output);
        assert!(found == expected[current] || found == expected[next], "neither the old version nor the new one");
        current = expected.iter().position(|version| *version == found).unwrap();
    }
    assert!(killed > 0, "some builds were killed before they were done");
    assert!(build(&inputs[1 - current], &output).status().unwrap().success());
    assert_eq!(version(&output), expected[1 - current]);
    let left = names(&output);
    assert_eq!(left.len(), 3, "the lock, the manifest, one version: {left:?}");
}
