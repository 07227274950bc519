//! The commands that train for several tasks: what they write is read again, and what they cannot use is refused with its place.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Output};

use bigrain::adapters::QueryAdapters;
use bigrain::dataset::{Scalar, VectorWriter};
use bigrain::sample::Rng;
use bigrain::vfs::RealVfs;
use serde_json::Value;
use tempfile::TempDir;

const ROWS: usize = 120;
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

/// Vectors, and two tasks that want the next vector and the one after.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut rng = Rng::new(1);
    let mut writer = VectorWriter::create(&folder.path().join("docs.npy"), Scalar::F32, DIM).unwrap();
    writer.write(&(0..ROWS * DIM).map(|_| rng.normal()).collect::<Vec<_>>()).unwrap();
    writer.finish().unwrap();
    let mut tasks = "documents = [\"docs.npy\"]\n".to_string();
    for (name, step) in [("next", 1), ("after", 2)] {
        let pairs: String = (0..ROWS - 2).map(|row| format!("{row}\t{}\n", row + step)).collect();
        std::fs::write(folder.path().join(format!("{name}.tsv")), pairs).unwrap();
        let section =
            format!("name = \"{name}\"\nqueries = \"docs.npy\"\ntrain = \"{name}.tsv\"\nvalid = \"{name}.tsv\"");
        writeln!(tasks, "[[task]]\n{section}").unwrap();
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
    let files = ["--tasks", "tasks.toml", "--output", "a.safetensors"];
    let report = json(&run(ADAPTERS, folder.path(), &[&files[..], &settings].concat()));
    assert!(report["mean"]["mean"].as_f64().unwrap() > 100.0 * report["before"].as_f64().unwrap() + 5.0, "{report}");
    let adapters = QueryAdapters::load(&RealVfs, &folder.path().join("a.safetensors")).unwrap();
    assert_eq!((adapters.tasks().names(), adapters.dim()), (&["next".to_string(), "after".to_string()][..], DIM));
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
    let task =
        "name = \"a\"\nqueries = \"docs.npy\"\ndocuments = \"other.npy\"\ntrain = \"next.tsv\"\nvalid = \"next.tsv\"\n";
    let message = with(&format!("documents = [\"docs.npy\"]\n[[task]]\n{task}"));
    assert!(message.contains("task a: other.npy is not among the documents"), "{message}");
    let message = refusal(&run(ADAPTERS, folder.path(), &["--tasks", "tasks.toml", "--only", "nxt"]));
    assert!(message.contains("there is no task \"nxt\"; the tasks are next, after"), "{message}");
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
    let settings = ["--widths", "8,8", "--epochs", "2", "--method", "mtl-lora,none", "--values", "grade", "--json"];
    let files = ["--table", "table.tsv", "--output", "model.safetensors"];
    let report = json(&run(relevance, folder.path(), &[&vectors[..], &files, &settings].concat()));
    let methods = report["methods"].as_array().unwrap();
    assert_eq!((&methods[0]["method"], &methods[1]["trainable"]), (&Value::from("mtl-lora"), &Value::from(0)));
    let model = RelevanceModel::load(&RealVfs, &folder.path().join("model.safetensors")).unwrap();
    assert_eq!((model.tasks().names(), model.dim()), (&["grade".to_string(), "same".to_string()][..], DIM));
    assert_eq!(methods[0]["trainable"], model.trainable());
    let refused = run(relevance, folder.path(), &[&vectors[..], &["--table", "table.tsv", "--only", "sme"]].concat());
    assert!(refusal(&refused).contains("the tasks are grade, same"));
}
