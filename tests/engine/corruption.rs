//! Every byte of every file of a small index is changed, and every file is cut short: the index then refuses with a
//! message that names the damage, or answers exactly as before. It never panics and never answers differently.

use rayon::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use bigrain::attributes::{Filter, Value};
use bigrain::build::build_on;
use bigrain::dense::Store;
use bigrain::error::{Error, Result};
use bigrain::index::{Index, OpenOptions};
use bigrain::search::{Hit, SearchParams, Searcher};
use bigrain::simd::Kernels;
use bigrain::train::Silent;
use bigrain::types::{Metric, Row};
use bigrain::vfs::{MemoryVfs, Vfs};

use crate::common::{Data, OnDisk, everything, search, small};

const ROWS: usize = 60;
/// Of the zeros between sections, one byte in this many is changed.
const PADDING_STEP: usize = 67;

/// All that a client can learn from an index.
#[derive(Debug, PartialEq)]
struct Answers {
    hits: Vec<Vec<Hit>>,
    fields: Vec<Option<String>>,
    rows: Vec<Option<Row>>,
    /// What attributes say of rows, and which rows pass filters.
    values: Vec<Option<Value>>,
    passing: Vec<Vec<Row>>,
}

fn ask(vfs: &dyn Vfs, dir: &Path, store: Store, data: &Data) -> Result<Answers> {
    let searcher =
        Searcher::new(Index::open_on(vfs, dir, &OpenOptions { store, ..OpenOptions::default() })?, Kernels::detect());
    let some = SearchParams { k: 5, nprobe: 2, candidates: 12, ..SearchParams::default() };
    let exact = SearchParams { k: 5, exact: true, ..SearchParams::default() };
    let mut hits = Vec::new();
    for query in data.queries().take(2) {
        for params in [&some, &everything(&searcher, 8), &exact] {
            hits.push(search(&searcher, query, params)?);
        }
    }
    let fields = (0..ROWS as Row).step_by(7).map(|row| searcher.fields(row)).collect::<Result<_>>()?;
    let rows = (0..ROWS as u64 + 3).step_by(3).map(|key| searcher.index().row(key)).collect::<Result<_>>()?;
    let columns = searcher.index().attributes().expect("records were given");
    let names = ["n", "kind", "tags"];
    let values = (0..ROWS as Row).flat_map(|row| names.map(|name| columns.value(name, row))).collect();
    let filters = [
        serde_json::json!({"must": [{"attribute": "n", "range": {"gte": 10, "lt": 40}}]}),
        serde_json::json!({"should": [{"attribute": "tags", "match": "t1"}, {"attribute": "kind", "match": "k2"}]}),
    ];
    let passing = filters.into_iter().map(|filter| {
        let filter: Filter = serde_json::from_value(filter).unwrap();
        let mut rows = Vec::new();
        columns.compile(&filter)?.rows(Kernels::detect(), ROWS, &mut rows);
        Ok(rows)
    });
    Ok(Answers { hits, fields, rows, values, passing: passing.collect::<Result<_>>()? })
}

/// A small index with everything in it, and what it answers.
struct Fixture {
    data: Data,
    dir: PathBuf,
    vfs: MemoryVfs,
    healthy: Answers,
}

fn record(row: usize) -> String {
    format!("{{\"n\":{row},\"kind\":\"k{}\",\"tags\":[\"t{}\",\"t{}\"]}}\n", row % 5, row % 3, row % 7)
}

impl Fixture {
    fn new() -> Fixture {
        let data = Data::clustered(ROWS, 6, 3);
        let (input, vfs, dir) = (tempfile::tempdir().unwrap(), MemoryVfs::new(), PathBuf::from("/index"));
        let mut spec = small(&data.write(input.path()), &dir);
        let records = input.path().join("records.jsonl");
        std::fs::write(&records, (0..ROWS).map(record).collect::<String>()).unwrap();
        (spec.metric, spec.lists, spec.code_bytes) = (Metric::L2, Some(3), Some(4));
        (spec.attributes, spec.code_bits) = (Some(records), bigrain::simd::CodeBits::Four);
        build_on(&vfs, &spec, &Silent).unwrap();
        let healthy = ask(&vfs, &dir, Store::Mmap, &data).unwrap();
        assert_eq!(ask(&vfs, &dir, Store::Pread, &data).unwrap(), healthy);
        Fixture { data, dir, vfs, healthy }
    }

    /// Every file with its bytes.
    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        self.vfs.snapshot().into_iter().filter_map(|(path, bytes)| bytes.map(|bytes| (path, bytes))).collect()
    }

    /// A file system of its own that holds the healthy index.
    fn copy(&self) -> MemoryVfs {
        let copy = MemoryVfs::new();
        self.files().iter().for_each(|(path, bytes)| copy.put(path, bytes).unwrap());
        copy
    }

    /// Fails unless the index is refused or answers as the healthy one; true if it was refused.
    fn check(&self, vfs: &MemoryVfs, store: Store, what: &str) -> bool {
        let outcome = catch_unwind(AssertUnwindSafe(|| ask(vfs, &self.dir, store, &self.data)));
        match outcome {
            Err(_) => panic!("{what} ({store}): a panic"),
            Ok(Ok(answers)) => {
                assert_eq!(answers, self.healthy, "{what} ({store}): silently different");
                false
            }
            Ok(Err(Error::Corrupt { .. } | Error::Unsupported { .. } | Error::Mismatch { .. })) => true,
            Ok(Err(other)) => panic!("{what} ({store}): not named as damage: {other}"),
        }
    }
}

/// The bytes to change: all but most of those in long runs of zeros.
fn offsets(bytes: &[u8]) -> Vec<usize> {
    let near = |at: usize| &bytes[at.saturating_sub(16)..(at + 16).min(bytes.len())];
    (0..bytes.len()).filter(|&at| at % PADDING_STEP == 0 || near(at).iter().any(|&b| b != 0)).collect()
}

#[test]
fn every_changed_byte_is_refused_or_harmless() {
    let fixture = Fixture::new();
    for (path, bytes) in fixture.files() {
        let offsets = offsets(&bytes);
        let refused: usize = offsets
            .par_chunks(64)
            .map(|offsets| {
                let vfs = fixture.copy();
                let mut bad = bytes.clone();
                let mut refused = 0;
                for &at in offsets {
                    bad[at] ^= 1 << (at % 8);
                    vfs.put(&path, &bad).unwrap();
                    let what = format!("{} byte {at}", path.display());
                    let store = if at % 2 == 0 { Store::Pread } else { Store::Mmap };
                    refused += usize::from(fixture.check(&vfs, store, &what));
                    bad[at] = bytes[at];
                }
                refused
            })
            .sum();
        // What is harmless is padding and what no query asked for; a test of a healthy copy would refuse nothing.
        assert!(refused > 200 && refused <= offsets.len(), "{}: {refused} of {}", path.display(), offsets.len());
    }
}

#[test]
fn every_truncation_and_extension_is_refused() {
    let fixture = Fixture::new();
    for (path, bytes) in fixture.files() {
        let lengths: Vec<usize> = (0..bytes.len()).step_by(512).chain([bytes.len() - 1]).collect();
        lengths.par_chunks(8).for_each(|lengths| {
            let vfs = fixture.copy();
            for &length in lengths {
                vfs.put(&path, &bytes[..length]).unwrap();
                let what = format!("{} cut to {length}", path.display());
                assert!(fixture.check(&vfs, Store::Mmap, &what), "{what}: not refused");
            }
        });
        let vfs = fixture.copy();
        vfs.put(&path, &[&bytes[..], &[0; 512]].concat()).unwrap();
        let what = format!("{} with 512 zeros more", path.display());
        assert!(fixture.check(&vfs, Store::Mmap, &what), "{what}: not refused");
    }
}

#[test]
fn a_full_check_finds_every_changed_byte() {
    let fixture = Fixture::new();
    for (path, bytes) in fixture.files() {
        let offsets: Vec<usize> = (0..bytes.len()).step_by(101).collect();
        offsets.par_chunks(16).for_each(|offsets| {
            let vfs = fixture.copy();
            for &at in offsets {
                let mut bad = bytes.clone();
                bad[at] ^= 0x80;
                vfs.put(&path, &bad).unwrap();
                let options = OpenOptions { store: Store::Pread, ..OpenOptions::default() };
                let found = Index::open_on(&vfs, &fixture.dir, &options)
                    .and_then(|index| index.check_on(&vfs, &Silent))
                    .expect_err(&format!("{} byte {at}: not found", path.display()));
                let name = path.file_name().unwrap().to_string_lossy();
                assert!(found.to_string().contains(&*name), "{}: {found}", path.display());
            }
        });
    }
}

/// The same through a real memory map, whose records are verified when they are first touched.
#[test]
fn changed_records_in_a_real_map_are_refused() {
    let data = Data::clustered(ROWS, 6, 3);
    let disk = OnDisk::new(&data);
    disk.build().unwrap();
    let searcher = disk.open().unwrap();
    let query = data.queries().next().unwrap();
    let all = everything(&searcher, 5);
    let healthy = search(&searcher, query, &all).unwrap();
    let path = disk.spec.output.join(&searcher.index().manifest().folder).join("dense-000.bg");
    drop(searcher);
    let bytes = std::fs::read(&path).unwrap();
    let stride = 6 * 4 + 12;
    for row in 0..ROWS {
        let mut bad = bytes.clone();
        bad[4096 + row * stride + row % stride] ^= 4;
        std::fs::write(&path, &bad).unwrap();
        let error = search(&disk.open().unwrap(), query, &all).expect_err("every record is verified");
        assert!(error.to_string().contains(&format!("record {row} ")), "{error}");
    }
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(search(&disk.open().unwrap(), query, &all).unwrap(), healthy);
}
