//! The commands that train for several tasks: what they write is read again, and what they cannot use is refused with its place.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Output};

use bigrain::adapters::QueryAdapters;
use bigrain::dataset::{Scalar, VectorWriter};
use bigrain::sample::Rng;
use bigrain::types::Metric;
use bigrain::vfs::RealVfs;
use serde_json::Value;
use tempfile::TempDir;

const ROWS: usize = 400;
const DIM: usize = 8;

fn run(command: &str, dir: &Path, arguments: &[&str]) -> Output {
    Command::new(command).current_dir(dir).args(arguments).output().unwrap()
}

fn refusal(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn write(path: &Path, vectors: &[f32]) {
    let mut writer = VectorWriter::create(path, Scalar::F32, DIM).unwrap();
    writer.write(vectors).unwrap();
    writer.finish().unwrap();
}

/// Vectors, and two tasks whose queries are these with the sign of one element turned: what is learned from some rows holds for others.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut rng = Rng::new(1);
    let documents: Vec<f32> = (0..ROWS * DIM).map(|_| rng.normal()).collect();
    write(&folder.path().join("docs.npy"), &documents);
    let mut tasks = "documents = [\"docs.npy\"]\n".to_string();
    for (element, name) in ["first", "second"].into_iter().enumerate() {
        let mut queries = documents.clone();
        queries.chunks_mut(DIM).for_each(|row| row[element] *= -1.0);
        write(&folder.path().join(format!("{name}.npy")), &queries);
        for (part, rows) in [("train", 0..ROWS / 2), ("valid", ROWS / 2..3 * ROWS / 4), ("test", 3 * ROWS / 4..ROWS)] {
            let pairs: String = rows.map(|row| format!("{row}\t{row}\n")).collect();
            std::fs::write(folder.path().join(format!("{name}.{part}.tsv")), pairs).unwrap();
        }
        let parts = ["train", "valid", "test"].map(|part| format!("{part} = \"{name}.{part}.tsv\""));
        writeln!(tasks, "[[task]]\nname = \"{name}\"\nqueries = \"{name}.npy\"\n{}", parts.join("\n")).unwrap();
    }
    std::fs::write(folder.path().join("tasks.toml"), tasks).unwrap();
    folder
}

const ADAPTERS: &str = env!("CARGO_BIN_EXE_train-adapters");

#[test]
fn query_adapters_are_trained_reported_and_written() {
    let folder = folder();
    let settings = [
        "--rate",
        "0.03",
        "--epochs",
        "20",
        "--batch",
        "64",
        "--negatives",
        "0",
        "--score-temperature",
        "0.3",
        "--seeds",
        "1,2",
        "--json",
    ];
    let files = ["--tasks", "tasks.toml", "--output", "a.safetensors", "--encoder-id", "one"];
    let report = json(&run(ADAPTERS, folder.path(), &[&files[..], &settings].concat()));
    assert!(report["mean"]["mean"].as_f64().unwrap() > 100.0 * report["before"].as_f64().unwrap() + 5.0, "{report}");
    let adapters = QueryAdapters::load(&RealVfs, &folder.path().join("a.safetensors")).unwrap();
    assert_eq!((adapters.tasks().names(), adapters.dim()), (&["first".to_string(), "second".to_string()][..], DIM));
    assert!(
        adapters.check_index(DIM, Metric::Cosine, Some("two")).unwrap().is_some(),
        "it knows whose vectors it maps"
    );
    assert_eq!(report["tasks"][0]["queries"], ROWS / 4);
    assert_eq!(report["trainable"], adapters.adapter().trainable());
}

#[test]
fn files_of_tasks_that_cannot_be_are_refused() {
    let folder = folder();
    let with = |text: &str| {
        std::fs::write(folder.path().join("bad.toml"), text).unwrap();
        refusal(&run(ADAPTERS, folder.path(), &["--tasks", "bad.toml"]))
    };
    assert!(with("documents = []\ntask = []\n").contains("bad.toml: documents: there are none"));
    assert!(with("documents = [\"docs.npy\"]\n").contains("missing field `task`"));
    let task = "name = \"a\"\nqueries = \"docs.npy\"\ndocuments = \"other.npy\"\ntrain = \"first.train.tsv\"\nvalid = \"first.valid.tsv\"\n";
    let message = with(&format!("documents = [\"docs.npy\"]\n[[task]]\n{task}"));
    assert!(message.contains("task a: other.npy is not among the documents"), "{message}");
    let message = refusal(&run(ADAPTERS, folder.path(), &["--tasks", "tasks.toml", "--only", "frst"]));
    assert!(message.contains("there is no task \"frst\"; the tasks are first, second"), "{message}");
}

#[cfg(feature = "text")]
#[test]
fn a_relevance_model_is_trained_from_vectors_and_written() {
    use bigrain::relevance::RelevanceModel;
    let folder = folder();
    let mut table = "task\tsplit\ttext_a\ttext_b\tlabel\n".to_string();
    for row in 0..ROWS {
        let (task, label) = if row % 2 == 0 { ("same", row / 2 % 2) } else { ("grade", row % 5) };
        writeln!(table, "{task}\tall\tfirst {row}\tsecond {row}\t{label}").unwrap();
    }
    std::fs::write(folder.path().join("table.tsv"), table).unwrap();
    let relevance = env!("CARGO_BIN_EXE_train-relevance");
    let vectors = ["--vectors-a", "docs.npy", "--vectors-b", "docs.npy"];
    let settings = [
        "--widths", "8,8", "--epochs", "2", "--rank", "1", "--ups", "1", "--seeds", "1,2", "--values", "grade",
        "--json",
    ];
    let methods =
        ["--method", "mtl-lora,none,lora-per-task", "--equal-size", "--rate", "1e-3,1e-3,2e-3", "--encoder-id", "one"];
    let files = ["--table", "table.tsv", "--output", "model.safetensors"];
    let output = run(relevance, folder.path(), &[&vectors[..], &files, &settings, &methods].concat());
    let warning = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        warning.contains("warning: lora-per-task of rank 1"),
        "two pairs are larger than one with a Lambda a task: {warning}"
    );
    let report = json(&output);
    let methods = report["methods"].as_array().unwrap();
    assert_eq!((&methods[2]["rank"], methods[2]["rate"].as_f64().unwrap() > 1.5e-3), (&Value::from(1), true));
    assert_eq!(methods[0]["curves"].as_array().map(Vec::len), Some(2), "a course of training for each seed");
    assert_eq!(report["tasks"][1]["train"], 140);
    assert_eq!((&methods[0]["method"], &methods[1]["trainable"]), (&Value::from("mtl-lora"), &Value::from(0)));
    let model = RelevanceModel::load(&RealVfs, &folder.path().join("model.safetensors")).unwrap();
    assert_eq!((model.tasks().names(), model.dim()), (&["grade".to_string(), "same".to_string()][..], DIM));
    assert_eq!(methods[0]["trainable"], model.trainable());
    assert!(model.check_index(DIM, Some("two")).unwrap().is_some(), "it knows whose vectors it compares");
    let refused = run(relevance, folder.path(), &[&vectors[..], &["--table", "table.tsv", "--only", "sme"]].concat());
    assert!(refusal(&refused).contains("the tasks are grade, same"));
}
