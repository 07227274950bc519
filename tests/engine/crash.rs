//! The power fails, or an operation on the disk does, at every point of a build over an existing version: afterwards
//! the directory holds the old version or the new one, whole, and the next build works.

use rayon::prelude::*;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use bigrain::build::{BuildSpec, build_on};
use bigrain::search::Hit;
use bigrain::train::Silent;
use bigrain::vfs::testing::{CrashVfs, Fault, FaultyVfs, Survival};
use bigrain::vfs::{MemoryVfs, Vfs};
use tempfile::TempDir;

use crate::common::{Data, everything, open_on, search, small};

/// Two inputs for one directory, and what each answers.
struct Fixture {
    old: BuildSpec,
    new: BuildSpec,
    query: Vec<f32>,
    /// Holds the old version.
    base: MemoryVfs,
    answers: [(String, Vec<Hit>); 2],
    _inputs: [TempDir; 2],
}

impl Fixture {
    fn new() -> Fixture {
        let inputs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let data = [Data::clustered(120, 6, 1), Data::clustered(150, 6, 2)];
        let spec = |i: usize| {
            let mut spec = small(&data[i].write(inputs[i].path()), Path::new("/data/index"));
            // Little memory, so that there are several chunks; each build writes all kinds of files.
            (spec.lists, spec.attributes) = (Some(4), Some(records(inputs[i].path(), data[i].rows.len() / 6)));
            spec
        };
        let (old, new, query) = (spec(0), spec(1), data[1].queries[..6].to_vec());
        let answers = [&new, &old].map(|spec| {
            let vfs = MemoryVfs::new();
            build_on(&vfs, spec, &Silent).unwrap();
            version(&vfs, spec, &query).unwrap()
        });
        let base = MemoryVfs::new();
        build_on(&base, &old, &Silent).unwrap();
        Fixture { old, new, query, base, answers, _inputs: inputs }
    }

    /// Fails unless the directory holds the old version or the new one, whole; the number of the version.
    fn check(&self, vfs: &dyn Vfs, what: &str) -> usize {
        let found = version(vfs, &self.new, &self.query).unwrap_or_else(|error| panic!("{what}: {error}"));
        let at = self.answers.iter().position(|version| *version == found);
        at.unwrap_or_else(|| panic!("{what}: neither the old version nor the new one"))
    }

    /// The build after the crash makes the new version and clears up.
    fn check_next_build(&self, vfs: &MemoryVfs, what: &str) {
        build_on(vfs, &self.new, &Silent).unwrap_or_else(|error| panic!("{what}, next build: {error}"));
        assert_eq!(self.check(vfs, what), 0, "{what}: the next build did not make the new version");
        let names = vfs.list(&self.new.output).unwrap();
        assert_eq!(names.len(), 2, "{what}: one version and its manifest, but there are {names:?}");
    }
}

fn records(dir: &Path, rows: usize) -> std::path::PathBuf {
    let path = dir.join("records.jsonl");
    std::fs::write(&path, (0..rows).map(|row| format!("{{\"n\":{row}}}\n")).collect::<String>()).unwrap();
    path
}

/// Id and answers of the version in the directory, after a full check.
fn version(vfs: &dyn Vfs, spec: &BuildSpec, query: &[f32]) -> bigrain::error::Result<(String, Vec<Hit>)> {
    let searcher = open_on(vfs, &spec.output)?;
    searcher.index().check_on(vfs, &Silent)?;
    let hits = search(&searcher, query, &everything(&searcher, 9))?;
    Ok((searcher.version().to_string(), hits))
}

/// Ways in which what was not synced may survive a crash after `operation`.
fn survivals(operation: usize) -> [Survival; 5] {
    let seed = operation as u64 * 3;
    let [one, two, three] = [0, 1, 2].map(|i| Survival::Random(seed + i));
    [Survival::None, Survival::All, one, two, three]
}

#[test]
fn a_crash_at_any_operation_leaves_the_old_version_or_the_new() {
    let fixture = Fixture::new();
    let crash = CrashVfs::new(&fixture.base);
    build_on(&crash, &fixture.new, &Silent).unwrap();
    let cases: Vec<(usize, Survival)> =
        (0..=crash.operations()).flat_map(|n| survivals(n).map(|survival| (n, survival))).collect();
    let found: Vec<usize> = cases
        .par_iter()
        .enumerate()
        .map(|(i, &(operation, survival))| {
            let what = format!("crash after operation {operation} of {}, {survival:?}", crash.operations());
            let vfs = crash.after_crash(operation, survival);
            let version = fixture.check(&vfs, &what);
            if i % 7 == 0 {
                fixture.check_next_build(&vfs, &what);
            }
            version
        })
        .collect();
    // Both versions were seen: the commit lies within what was tried.
    assert!(found.contains(&0) && found.contains(&1));
    assert_eq!((found[0], found.last()), (1, Some(&0)));
}

#[test]
fn a_crash_during_the_first_build_leaves_nothing_or_the_version() {
    let fixture = Fixture::new();
    let crash = CrashVfs::new(&MemoryVfs::new());
    build_on(&crash, &fixture.new, &Silent).unwrap();
    let committed = crash.operations();
    (0..=committed).into_par_iter().for_each(|operation| {
        for survival in survivals(operation) {
            let what = format!("crash after operation {operation}, {survival:?}");
            let vfs = crash.after_crash(operation, survival);
            match version(&vfs, &fixture.new, &fixture.query) {
                Ok(found) => assert_eq!(found, fixture.answers[0], "{what}"),
                Err(error) => {
                    assert!(error.to_string().contains("there is no manifest.json"), "{what}: {error}");
                    assert!(operation < committed, "{what}: a finished build did not last");
                }
            }
        }
        fixture.check_next_build(&crash.after_crash(operation, Survival::Random(operation as u64)), "first build");
    });
}

#[test]
fn a_failing_disk_stops_the_build_and_costs_nothing() {
    let fixture = Fixture::new();
    let healthy = FaultyVfs::once(Arc::new(copy(&fixture.base)), u64::MAX, Fault::Partial);
    build_on(&healthy, &fixture.new, &Silent).unwrap();
    let faults = [Fault::Partial, Fault::Error(ErrorKind::StorageFull)];
    let cases: Vec<(u64, Fault)> = (0..healthy.operations()).flat_map(|n| faults.map(|fault| (n, fault))).collect();
    let failed: usize = cases
        .par_iter()
        .map(|&(n, fault)| {
            let what = format!("{fault:?} at operation {n} of {}", healthy.operations());
            let disk = copy(&fixture.base);
            let outcome = match n % 2 {
                0 => build_on(&FaultyVfs::once(Arc::new(disk.clone()), n, fault), &fixture.new, &Silent),
                _ => build_on(&FaultyVfs::starting_at(Arc::new(disk.clone()), n, fault), &fixture.new, &Silent),
            };
            let version = fixture.check(&disk, &what);
            assert!(outcome.is_err() || version == 0, "{what}: success was reported, but the old version is there");
            if n % 5 == 0 {
                fixture.check_next_build(&disk, &what);
            }
            usize::from(outcome.is_err())
        })
        .sum();
    // Only what is removed after the commit may fail without an error.
    assert!(failed > cases.len() * 3 / 4, "{failed} of {}", cases.len());
    assert_ne!(fixture.old.input, fixture.new.input);
}

fn copy(vfs: &MemoryVfs) -> MemoryVfs {
    let copy = MemoryVfs::new();
    for (path, bytes) in vfs.snapshot() {
        match bytes {
            Some(bytes) => copy.put(&path, &bytes),
            None => copy.create_dir_all(&path),
        }
        .unwrap();
    }
    copy
}
