//! `train-index` and `compare-codes`: from labelled pairs to an index that finds more, and what bad input meets.

use std::path::Path;
use std::process::{Command, Output};

use bigrain::dataset::{Scalar, VectorFile, VectorWriter};
use bigrain::linalg::normalise;
use bigrain::sample::Rng;
use tempfile::TempDir;

const DIM: usize = 16;
const ROWS: usize = 4_000;

fn write(path: &Path, rows: &[Vec<f32>]) {
    let mut writer = VectorWriter::create(path, Scalar::F32, rows[0].len()).unwrap();
    rows.iter().for_each(|row| writer.write(row).unwrap());
    writer.finish().unwrap();
}

/// Documents of 16 dimensions, of which queries know 4 small ones; query i belongs to document i.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut rng = Rng::new(5);
    let mut sphere = |n: usize, radius: f32| {
        let mut v: Vec<f32> = (0..n).map(|_| rng.normal()).collect();
        normalise(&mut v);
        v.iter_mut().for_each(|v| *v *= radius);
        v
    };
    let documents: Vec<Vec<f32>> = (0..ROWS).map(|_| [sphere(4, 0.4), sphere(DIM - 4, 1.0)].concat()).collect();
    let queries: Vec<Vec<f32>> = documents
        .iter()
        .map(|d| {
            let mut q = sphere(DIM, 0.1);
            q.iter_mut().zip(&d[..4]).for_each(|(q, d)| *q += 2.0 * d);
            q
        })
        .collect();
    write(&folder.path().join("docs.npy"), &documents);
    write(&folder.path().join("queries.npy"), &queries);
    let pairs = |range: std::ops::Range<usize>| range.map(|i| format!("{i}\t{i}\n")).collect::<String>();
    for (name, range) in [("train", 0..3_000), ("valid", 3_000..3_500), ("test", 3_500..ROWS)] {
        std::fs::write(folder.path().join(format!("{name}.tsv")), pairs(range)).unwrap();
    }
    folder
}

fn run(dir: &Path, program: &str, arguments: &str) -> Output {
    let program = match program {
        "train-index" => env!("CARGO_BIN_EXE_train-index"),
        "build-index" => env!("CARGO_BIN_EXE_build-index"),
        "compare-codes" => env!("CARGO_BIN_EXE_compare-codes"),
        _ => env!("CARGO_BIN_EXE_measure-recall"),
    };
    Command::new(program).current_dir(dir).args(arguments.split_whitespace()).output().unwrap()
}

fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

const TRAIN: &str = "--input docs.npy --queries queries.npy --pairs train.tsv --output q.bg --code-bits 4 --code-bytes 4 \
                     --lists 4 --set codes.batch=128 --set codes.score_temperature=0.02 --set dense.batch=128";

#[test]
fn a_learned_quantizer_finds_more_and_every_stage_reaches_the_index() {
    let folder = folder();
    let dir = folder.path();
    let measured = |train: &str| {
        let report = done(&run(dir, "train-index", &format!("{TRAIN} --valid valid.tsv --json {train}")));
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        done(&run(dir, "build-index", "--input docs.npy --quantizer q.bg --output index --json"));
        let of =
            "--index index --queries queries.npy --qrels test.tsv -k 10 --nprobe 4 --candidates 100 --seconds 0 --json";
        let answer = done(&run(dir, "measure-recall", of));
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        let found = answer["results"][0]["candidate_recall"]["100"].as_f64().unwrap();
        (found, report["stages"].as_array().unwrap().iter().map(|s| s["stage"].to_string()).collect::<String>())
    };
    std::fs::write(dir.join("test.tsv"), (3_500..ROWS).map(|i| format!("{i}\t{i}\t1\n")).collect::<String>()).unwrap();
    let (opq, _) = measured("--method opq");
    let (learned, stages) =
        measured("--method contrastive --epochs 40 --set codes.patience=40 --set codes.code_rate=0.2");
    assert!(learned > opq + 0.2, "{opq} to {learned}");
    assert!(stages.contains("codes") && stages.contains("routing"), "{stages}");
    let (_, stages) = measured("--heads both --sampling snowball --epochs 2 --set unify=true --set warm.epochs=2");
    for stage in ["warm heads", "candidates", "dense heads", "one query head"] {
        assert!(stages.contains(stage), "{stages}");
    }
    let (_, stages) = measured("--heads query --epochs 2 --set warm.epochs=2 --set routing=off");
    assert_eq!(stages, "\"warm heads\"\"codes\"");
    let arguments = "--input docs.npy --method distill --output d.bg --code-bytes 4 --lists 1 --epochs 1";
    let output = run(dir, "train-index", arguments);
    let text = done(&output);
    assert!(text.contains("written") && text.contains("d.bg"), "{text}");
    let progress = String::from_utf8_lossy(&output.stderr);
    assert!(progress.contains("train-index: epoch 1: loss ") && progress.contains("validation R@100"), "{progress}");
    let left: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(left.iter().all(|name| !name.contains("checkpoint") && !name.contains("writing")), "{left:?}");
}

#[test]
fn bad_input_is_named_with_its_place_and_remedy() {
    let folder = folder();
    let dir = folder.path();
    std::fs::write(dir.join("outside.tsv"), "0\t0\n7\t4000\n").unwrap();
    std::fs::write(dir.join("none.tsv"), "0\t0\t0\n").unwrap();
    std::fs::write(dir.join("words.tsv"), "0\t0\nseven\t7\n").unwrap();
    write(&dir.join("narrow.npy"), &[vec![1.0; 8]]);
    write(&dir.join("nan.npy"), &[vec![1.0; DIM], vec![f32::NAN; DIM]]);
    write(&dir.join("zero.npy"), &[vec![1.0; DIM], vec![0.0; DIM]]);
    for (arguments, code, said) in [
        ("--queries queries.npy --pairs outside.tsv", 1, "line 2"),
        ("--queries queries.npy --pairs none.tsv", 1, "no pairs"),
        ("--queries queries.npy --pairs words.tsv", 1, "line 2"),
        ("--queries narrow.npy --pairs train.tsv", 1, "dimension"),
        ("--queries queries.npy", 1, "learns from labelled pairs"),
        ("--pairs train.tsv", 1, "give --queries"),
        ("--queries queries.npy --pairs train.tsv --valid train.tsv", 1, "split-pairs"),
        ("--queries queries.npy --pairs train.tsv --set valid_share=1.0", 1, "left for training"),
        ("--queries queries.npy --pairs train.tsv --method magic", 2, "contrastive"),
        ("--queries queries.npy --pairs train.tsv --metric l2", 1, "l2"),
        ("--queries queries.npy --pairs train.tsv --set codes.epoch=3", 2, "epochs"),
        ("--queries queries.npy --method opq --set routing=on", 1, "give --pairs or 10"),
        (
            "--queries queries.npy --pairs train.tsv --set codes.batch=32 --set codes.code_rate=1e30 --set codes.clip=1e30",
            1,
            "lower the learning rate",
        ),
    ] {
        let output =
            run(dir, "train-index", &format!("--input docs.npy --output q.bg --code-bytes 4 --lists 2 {arguments}"));
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments}: {message}");
        assert!(message.contains(said), "{arguments}: {message}");
        assert!(!dir.join("q.bg").exists());
    }
    for (input, said) in [("nan.npy", "row 1"), ("zero.npy", "row 1")] {
        let output =
            run(dir, "train-index", &format!("--input {input} --output q.bg --method opq --lists 1 --code-bytes 4"));
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && message.contains(said), "{message}");
    }
    done(&run(dir, "train-index", "--input docs.npy --output ip.bg --method opq --metric ip --lists 1 --code-bytes 4"));
    for (arguments, said) in [
        ("--input docs.npy --quantizer ip.bg --output index", "metric"),
        ("--input narrow.npy --quantizer ip.bg --metric ip --output index", "dimension"),
    ] {
        let output = run(dir, "build-index", arguments);
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && message.contains(said), "{message}");
    }
}

/// Share of the test queries whose document is among the ten with the largest cosine, by sorting.
fn exact_recall(dir: &Path) -> f64 {
    let read = |name: &str| {
        let mut file = VectorFile::open(&dir.join(name), None).unwrap();
        let mut rows = vec![0f32; ROWS * DIM];
        file.read(0, &mut rows).unwrap();
        rows.chunks_mut(DIM).for_each(|row| {
            normalise(row);
        });
        rows
    };
    let (documents, queries) = (read("docs.npy"), read("queries.npy"));
    let found = (3_500..ROWS).filter(|&i| {
        let query = &queries[i * DIM..][..DIM];
        let score = |row: usize| -> f32 { query.iter().zip(&documents[row * DIM..]).map(|(a, b)| a * b).sum() };
        let own = score(i);
        (0..ROWS).filter(|&row| score(row) > own).count() < 10
    });
    found.count() as f64 / 500.0
}

#[test]
fn methods_are_compared_on_a_page_and_finished_runs_are_kept() {
    let folder = folder();
    let dir = folder.path();
    let compare = |method: &str, seeds: &str| {
        Command::new(env!("CARGO_BIN_EXE_compare-codes"))
            .current_dir(dir)
            .args(
                "--input docs.npy --queries queries.npy --pairs train.tsv --valid valid.tsv --test test.tsv".split(' '),
            )
            .args([
                "--out",
                "runs.json",
                "--html",
                "page.html",
                "--code-bytes",
                "4",
                "--lists",
                "1,4",
                "--nprobe",
                "2,4",
            ])
            .args(["--exact", "--seeds", seeds, "--method", "opq: method=opq", "--method", method])
            .output()
            .unwrap()
    };
    let text = done(&compare("few epochs: method=contrastive codes.epochs=2 codes.batch=256", "1,2"));
    for said in ["4 bytes a row, no lists", "4 bytes a row, 4 lists, nprobe 2", "few epochs", "±"] {
        assert!(text.contains(said), "{text}");
    }
    assert!(text.contains("dense, exact"), "{text}");
    let runs = std::fs::read_to_string(dir.join("runs.json")).unwrap();
    let runs: serde_json::Value = serde_json::from_str(&runs).unwrap();
    let exact = runs.as_array().unwrap().iter().find(|run| run["method"] == "dense, exact").unwrap();
    let found = exact["quality"]["verified"][0].as_f64().unwrap();
    let expected = exact_recall(dir);
    assert!((found - expected).abs() < 1e-6 && (0.1..1.0).contains(&expected), "{found} {expected}");
    let page = std::fs::read_to_string(dir.join("page.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("few epochs"));
    let before = std::fs::read(dir.join("runs.json")).unwrap();
    done(&compare("few epochs: method=contrastive codes.epochs=2 codes.batch=256", "1,2"));
    assert_eq!(std::fs::read(dir.join("runs.json")).unwrap(), before);
    let output = compare("no settings", "1");
    assert_eq!(output.status.code(), Some(2));
    std::fs::write(dir.join("test.tsv"), "3\t3\n").unwrap();
    let output = compare("few epochs: method=contrastive codes.epochs=2 codes.batch=256", "1");
    assert!(String::from_utf8_lossy(&output.stderr).contains("document 3 is among the training pairs"));
}
