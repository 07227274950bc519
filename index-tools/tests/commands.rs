//! What scripts rely on: exit codes, one clear line on failure, JSON on standard output.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bigrain::dataset::{Scalar, VectorWriter};
use bigrain::heads::{Head, Heads};
use bigrain::quantizer::Quantizer;
use bigrain::sample::Rng;
use bigrain::vfs::RealVfs;
use tempfile::TempDir;

/// A folder with `vectors.npy` (200 x 8) in it.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = VectorWriter::create(&folder.path().join("vectors.npy"), Scalar::F32, 8).unwrap();
    writer.write(&(0..1600).map(|i| ((i * 37) % 101) as f32 - 50.0).collect::<Vec<_>>()).unwrap();
    writer.finish().unwrap();
    folder
}

fn build(dir: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_build-index"));
    command.current_dir(dir).args(["--input", "vectors.npy", "--output", "index", "--threads", "2"]).args(more);
    command
}

fn check(dir: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_check-index")).current_dir(dir).args(["index", "--json"]).output().unwrap()
}

/// Fails unless the command ended with this code and one line that says `text` (usage errors may have more lines).
fn assert_ends(output: &Output, code: i32, text: &str) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert!(message.contains(text), "{message:?} does not say {text:?}");
    assert!(code != 1 || message.trim_end().lines().count() == 1, "{message:?} is more than a line");
}

fn json(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_build_reports_for_people_and_for_machines() {
    let folder = folder();
    let report = json(&build(folder.path(), &["--json", "--lists", "4"]).output().unwrap());
    assert_eq!((&report["rows"], &report["lists"], &report["dim"]), (&200.into(), &4.into(), &8.into()));
    assert!(report["phases"].as_array().unwrap().len() >= 5 && report["peak_memory"].as_u64().unwrap() > 0);
    let text = build(folder.path(), &["--lists", "4"]).output().unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    for expected in ["rows", "200 of 8 dimensions", "in memory", "peak memory", "rows/s", "assign lists"] {
        assert!(text.contains(expected), "{text}");
    }
    let checked = json(&check(folder.path()));
    assert_eq!((&checked["ok"], &checked["id"]), (&true.into(), &report["id"]));
}

#[test]
fn attributes_are_inferred_or_declared_and_reported() {
    let folder = folder();
    let rows: String = (0..200).map(|row| format!("b{},{row},\"long, {}\"\n", row % 3, "l".repeat(70))).collect();
    std::fs::write(folder.path().join("r.csv"), format!("brand,price,title\n{rows}")).unwrap();
    let with = |more: &[&str]| build(folder.path(), &[&["--attributes", "r.csv"], more].concat()).output().unwrap();
    let report = json(&with(&["--json", "--attribute-types", "price:float"]));
    let attributes = report["attributes"].as_array().unwrap();
    let kinds: Vec<_> = attributes.iter().map(|a| (a["name"].as_str().unwrap(), a["type"].as_str())).collect();
    assert_eq!(kinds, [("brand", Some("keyword")), ("price", Some("float")), ("title", None)]);
    assert_eq!((&attributes[0]["distinct"], &attributes[0]["bytes_per_row"]), (&3.into(), &1.into()));
    let text = with(&[]);
    let text = String::from_utf8(text.stdout).unwrap();
    for expected in
        ["survey attributes", "brand", "keyword", "integer", "not filterable: row 0 has a string of 76 bytes"]
    {
        assert!(text.contains(expected), "{text}");
    }
    assert_eq!(json(&check(folder.path()))["ok"], true);
    assert_ends(
        &with(&["--attribute-types", "brand:integer"]),
        1,
        "row 0: attribute \"brand\": \"b0\" is not an integer",
    );
    assert_ends(&with(&["--attribute-types", "brand:word"]), 1, "\"word\" is none of keyword");
    let without = build(folder.path(), &["--attribute-types", "brand:keyword"]).output().unwrap();
    assert_ends(&without, 2, "--attributes");
}

#[test]
fn sample_queries_calibrate_a_build_and_a_wrong_file_stops_it_at_once() {
    let folder = folder();
    let dir = folder.path();
    let write = |name: &str, dim: usize, rows: usize| {
        let mut writer = VectorWriter::create(&dir.join(name), Scalar::F32, dim).unwrap();
        writer.write(&(0..dim * rows).map(|i| ((i * 29) % 97) as f32 - 48.0).collect::<Vec<_>>()).unwrap();
        writer.finish().unwrap();
    };
    write("queries.npy", 8, 60);
    write("narrow.npy", 5, 60);
    write("few.npy", 8, 3);
    for (queries, said) in [("narrow.npy", "dimension"), ("few.npy", "too few"), ("none.npy", "none.npy")] {
        assert_ends(&build(dir, &["--queries", queries]).output().unwrap(), 1, said);
        assert!(!dir.join("index").exists());
    }
    let report = json(&build(dir, &["--json", "--lists", "4", "--queries", "queries.npy"]).output().unwrap());
    assert_eq!(report["calibration"][0]["k"], 10);
    assert!(report["calibration"][0]["efforts"].as_array().unwrap().len() > 1);
    let text = build(dir, &["--lists", "4", "--queries", "queries.npy"]).output().unwrap();
    assert!(String::from_utf8(text.stdout).unwrap().contains("calibrated for k"));
    let arguments = "--index index --queries queries.npy --exact -k 10 --recall-target 0.75 --seconds 0 --json";
    let measured = Command::new(env!("CARGO_BIN_EXE_measure-recall"))
        .current_dir(dir)
        .args(arguments.split(' '))
        .output()
        .unwrap();
    let result = &json(&measured)["results"][0];
    assert_eq!(result["recall_target"], 0.75);
    assert!(result["recall"].as_f64().unwrap() > 0.6 && result["rounds"] == 1.0, "{result}");
}

/// The folder of the only version of the index.
fn version(dir: &Path) -> PathBuf {
    std::fs::read_dir(dir.join("index")).unwrap().map(|e| e.unwrap().path()).find(|path| path.is_dir()).unwrap()
}

#[test]
fn heads_of_a_given_quantizer_are_applied_and_reported() {
    let folder = folder();
    json(&build(folder.path(), &["--json", "--lists", "4"]).output().unwrap());
    let trained = Quantizer::read(&RealVfs, &version(folder.path()).join("quantizer.bg"), None).unwrap();
    let head = Head::identity(8, true);
    let heads = Heads { dense_query: Some(head.clone()), dense_document: Some(head), ..Heads::default() };
    let learned = trained.with_heads(heads).unwrap();
    learned.write(&RealVfs, &folder.path().join("learned.bg"), [1; 16]).unwrap();
    let given = ["--quantizer", "learned.bg"];
    let names = serde_json::json!(["dense_query", "dense_document"]);
    let plan = json(&build(folder.path(), &[&given[..], &["--json", "--dry-run"]].concat()).output().unwrap());
    assert_eq!((&plan["dim"], &plan["dense_dim"], &plan["heads"]), (&8.into(), &8.into(), &names));
    let report = json(&build(folder.path(), &[&given[..], &["--json"]].concat()).output().unwrap());
    assert_eq!((&report["dim"], &report["dense_dim"], &report["heads"]), (&8.into(), &8.into(), &names));
    assert_eq!(report["router"], false);
    let text = build(folder.path(), &given).output().unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("dense_query, dense_document") && text.contains("f32 of 8 dimensions"), "{text}");
    assert_ends(&build(folder.path(), &[&given[..], &["--metric", "l2"]].concat()).output().unwrap(), 1, "metric");
}

#[test]
fn recall_is_measured_before_and_after_verification() {
    let folder = folder();
    json(&build(folder.path(), &["--json", "--lists", "4", "--code-bytes", "4"]).output().unwrap());
    let measure = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_measure-recall"));
        command.current_dir(folder.path()).args(["--index", "index", "--queries", "vectors.npy", "--exact"]);
        command.args(["--seconds", "0", "-k", "10", "--nprobe", "4", "--candidates", "20,200"]).args(more);
        command.output().unwrap()
    };
    let report = json(&measure(&["--json", "--sparse-weight", "0,0.5"]));
    let results = report["results"].as_array().unwrap();
    assert_eq!(results.len(), 4);
    assert_eq!(results.iter().map(|r| r["sparse_weight"].as_f64().unwrap()).collect::<Vec<_>>(), [0.0, 0.5, 0.0, 0.5]);
    let depths = |at: usize| results[at]["candidate_recall"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        (depths(0), depths(2)),
        (vec!["10".to_string(), "20".into()], vec!["10".into(), "100".into(), "200".into(), "50".into()])
    );
    assert_eq!((&results[2]["recall"], &results[2]["candidate_recall"]["200"]), (&1.0.into(), &1.0.into()));
    assert!(results[0]["candidate_recall"]["10"].as_f64() < results[0]["candidate_recall"]["20"].as_f64());
    assert!(String::from_utf8(measure(&[]).stdout).unwrap().contains("of cand."));
    assert_ends(&measure(&["--sparse-weight", "NaN"]), 1, "sparse_weight");
    // What is kept in memory saves reads and changes no answer.
    let in_memory = ["--store", "uring", "--direct", "--page-cache", "1MiB", "--dense-tier", "int8"];
    let with = json(&measure(&[&in_memory[..], &["--json"]].concat()));
    let (with, without) = (&with["results"][1], &results[2]);
    assert_eq!((&with["recall"], &with["tier_scored"]), (&1.0.into(), &200.0.into()));
    assert!(with["vectors_read"].as_f64() < without["vectors_read"].as_f64(), "{with}");
    assert_eq!((&with["vectors_cached"], &with["bytes_read"]), (&with["vectors_read"], &0.0.into()));
    assert!(String::from_utf8(measure(&in_memory).stdout).unwrap().contains("by tier"));
    assert_ends(&measure(&["--page-cache", "1MiB"]), 1, "page_cache");
    // More hits than rows: all of them are found.
    assert_eq!(json(&measure(&["--json", "-k", "500"]))["results"][0]["recall"], 1.0);
}

#[test]
fn a_dry_run_plans_and_writes_nothing() {
    let folder = folder();
    let plan = json(&build(folder.path(), &["--dry-run", "--json", "--memory-limit", "300MiB"]).output().unwrap());
    assert_eq!(plan["rows"], 200);
    assert!(plan["peak_memory"].as_u64().unwrap() <= 300 << 20);
    let text = build(folder.path(), &["--dry-run"]).output().unwrap();
    assert!(String::from_utf8(text.stdout).unwrap().contains("memory to build"));
    assert!(!folder.path().join("index").exists());
}

#[test]
fn flags_pass_the_environment_and_that_passes_the_file() {
    let folder = folder();
    std::fs::write(folder.path().join("b.toml"), "lists = 3\nseed = 3\ncode_bytes = 8\nthreads = 1").unwrap();
    let mut command = build(folder.path(), &["--config", "b.toml", "--lists", "5", "--dry-run", "--json"]);
    let plan = json(&command.env("BIGRAIN_BUILD_LISTS", "4").env("BIGRAIN_BUILD_CODE_BYTES", "4").output().unwrap());
    assert_eq!((&plan["lists"], &plan["code_bytes"]), (&5.into(), &4.into()));
    let mut command = build(folder.path(), &["--config", "b.toml", "--dry-run", "--json"]);
    assert_eq!(json(&command.output().unwrap())["lists"], 3);
}

#[test]
fn wrong_usage_ends_with_2() {
    let folder = folder();
    let run = |more: &[&str]| build(folder.path(), more).output().unwrap();
    assert_ends(&run(&["--metric", "hamming"]), 2, "ip, cosine, l2");
    assert_ends(&run(&["--lists", "many"]), 2, "auto");
    assert_ends(&run(&["--memory-limit", "4 bananas"]), 2, "512MiB");
    assert_ends(&run(&["--threads", "0"]), 2, "threads");
    assert_ends(&run(&["--colour"]), 2, "--colour");
    std::fs::write(folder.path().join("b.toml"), "metrik = 'l2'").unwrap();
    assert_ends(&run(&["--config", "b.toml"]), 2, "did you mean \"metric\"");
    assert_ends(&run(&["--config", "absent.toml"]), 2, "absent.toml");
    let bare = Command::new(env!("CARGO_BIN_EXE_build-index")).output().unwrap();
    assert_ends(&bare, 2, "--input");
}

#[test]
fn failed_work_ends_with_1_and_one_line() {
    let folder = folder();
    let run = |more: &[&str]| build(folder.path(), more).output().unwrap();
    assert_ends(&run(&["--lists", "201"]), 1, "201 lists are more than the 200 rows");
    assert_ends(&run(&["--memory-limit", "1MiB"]), 1, "give at least");
    std::fs::write(folder.path().join("keys.txt"), "1\n2\n").unwrap();
    assert_ends(&run(&["--keys", "keys.txt"]), 1, "keys.txt");
    std::fs::write(folder.path().join("vectors.npy"), "no vectors").unwrap();
    assert_ends(&run(&[]), 1, "vectors.npy");
    assert_ends(&check(folder.path()), 1, "manifest.json");
}

#[test]
fn damage_is_named_by_file_and_record() {
    let folder = folder();
    json(&build(folder.path(), &["--json"]).output().unwrap());
    let path = version(folder.path()).join("dense-000.bg");
    let mut bytes = std::fs::read(&path).unwrap();
    // The second record: 8 floats, key and checksum are 44 bytes.
    bytes[4096 + 44 + 3] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let output = check(folder.path());
    assert_ends(&output, 1, "dense-000.bg");
    assert_ends(&output, 1, "record 1");
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&found["ok"], &found["section"]), (&false.into(), &"VECS".into()));
}

#[test]
fn a_signal_stops_a_build_cleanly() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = VectorWriter::create(&folder.path().join("vectors.npy"), Scalar::F32, 64).unwrap();
    writer.write(&(0..64 * 60_000u64).map(|i| ((i * 7919) % 10_007) as f32 - 5_000.0).collect::<Vec<_>>()).unwrap();
    writer.finish().unwrap();
    let mut child = build(folder.path(), &["--lists", "1024"]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    // Once its work folder is there, the handlers are too.
    while !folder.path().join("index/.build/spill").exists() {
        assert!(child.try_wait().unwrap().is_none(), "the build ended before it was stopped");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
    let output = child.wait_with_output().unwrap();
    assert_ends(&output, 1, "stopped by a signal");
    assert!(!folder.path().join("index/.build").exists() && !folder.path().join("index/manifest.json").exists());
}

fn split(dir: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_split-pairs"));
    command.current_dir(dir).args(["--pairs", "pairs.tsv", "--output", "split"]).args(more).output().unwrap()
}

#[test]
fn pairs_are_split_along_their_groups() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| std::fs::write(folder.path().join(name), text).unwrap();
    file("pairs.tsv", (0..400).map(|row| format!("{row}\t{row}\n")).collect());
    file("groups.txt", (0..400).map(|row| format!("{}\n", row / 2)).collect());
    let groups = ["--document-groups", "groups.txt"];
    let result = json(&split(folder.path(), &[&groups[..], &["--json", "--seed", "4"]].concat()));
    assert_eq!((&result["components"], &result["largest_component"]), (&200.into(), &2.into()));
    assert_eq!([&result["train"], &result["valid"], &result["test"]], [320, 20, 60]);
    let test = std::fs::read_to_string(folder.path().join("split/test.pairs.tsv")).unwrap();
    let rows: Vec<u64> = test.lines().map(|line| line.split('\t').next().unwrap().parse().unwrap()).collect();
    assert!(rows.len() == 60 && rows.iter().all(|row| rows.contains(&(row ^ 1))), "{rows:?}");
    let text = String::from_utf8(split(folder.path(), &groups).stdout).unwrap();
    assert!(text.contains("200 components") && text.contains("320   80.00 %"), "{text}");

    file("large.txt", (0..400).map(|row| if row < 50 { "a\n" } else { "\n" }).collect());
    let output = split(folder.path(), &["--query-groups", "large.txt"]);
    assert_ends(&output, 0, "one component has 50 of 400 pairs");
    assert_ends(&split(folder.path(), &["--test", "1.5"]), 2, "1.5");
    assert_ends(&split(folder.path(), &["--valid", "0.9", "--test", "0.2"]), 2, "nothing to train on");
    file("short.txt", "a\nb\n".into());
    assert_ends(&split(folder.path(), &["--query-groups", "short.txt"]), 1, "query row 399");
    file("pairs.tsv", "0\t1\n0 1 2 3\n".into());
    assert_ends(&split(folder.path(), &[]), 1, "pairs.tsv: line 2");
    file("pairs.tsv", "0\t1\n0\t2\n".into());
    assert_ends(&split(folder.path(), &[]), 1, "--test");
}

/// Buffers of threads are larger than what is used of them; were they resident, sixteen threads would break the limit.
#[test]
fn many_threads_stay_within_the_memory_limit() {
    let folder = tempfile::tempdir().unwrap();
    let (rows, dim) = (6_000, 128);
    let mut rng = Rng::new(3);
    let values: Vec<f32> = (0..rows * dim).map(|_| rng.normal()).collect();
    let mut writer = VectorWriter::create(&folder.path().join("vectors.npy"), Scalar::F32, dim).unwrap();
    writer.write(&values).unwrap();
    writer.finish().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_build-index"));
    command.current_dir(folder.path()).args(["--input", "vectors.npy", "--output", "index", "--json"]);
    command.args(["--threads", "16", "--code-bits", "4", "--memory-limit", "120MiB"]);
    let peak = json(&command.output().unwrap())["peak_memory"].as_u64().unwrap();
    assert!(peak <= 120 << 20, "{} MiB", peak >> 20);
}
