//! Live changes against a model, a plain map: what is acknowledged is found, scored as brute force scores it, and nothing else.

mod behaviour;
mod crash;
mod heads;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::prepare::{entry, layout_of};
use super::{Change, Document, Live, Place, Snapshot};
use crate::attributes::Filter;
use crate::build::{BuildSpec, build_on};
use crate::dataset::{Scalar, VectorWriter};
use crate::error::Result;
use crate::index::{Index, OpenOptions};
use crate::sample::Rng;
use crate::search::{SearchParams, Searcher};
use crate::simd::Kernels;
use crate::train::Silent;
use crate::types::{Key, Metric};
use crate::vfs::{MemoryVfs, Vfs};

pub(super) const DIM: usize = 6;
pub(super) const LIVE: &str = "/data/live";

/// What should be found: every document by its key.
pub(super) type Model = BTreeMap<Key, Document>;

/// The directory of version `n`.
pub(super) fn version(n: usize) -> PathBuf {
    format!("/data/version-{n}").into()
}

pub(super) fn vector(rng: &mut Rng) -> Vec<f32> {
    (0..DIM).map(|_| rng.normal() + 0.1).collect()
}

pub(super) fn document(key: Key, rng: &mut Rng) -> Document {
    // Some numbers and most strings are in no column of an older version.
    let n = if rng.below(4) == 0 { -(rng.below(1_000_000) as i64) } else { rng.below(100) as i64 };
    Document { key, vector: vector(rng), record: format!("{{\"n\": {n}, \"t\": \"k{key}\", \"new\": [{n}]}}") }
}

/// Documents with keys 10, 20, ...
pub(super) fn documents(rows: u64, seed: u64) -> Model {
    let mut rng = Rng::new(seed);
    (1..=rows).map(|n| (n * 10, document(n * 10, &mut rng))).collect()
}

/// Builds version 0 of `model` on a simulated file system.
pub(super) fn build(vfs: &dyn Vfs, model: &Model, change: impl FnOnce(&mut BuildSpec)) {
    let inputs = tempfile::tempdir().unwrap();
    let path = |name: &str| inputs.path().join(name);
    let mut writer = VectorWriter::create(&path("input.fbin"), Scalar::F32, DIM).unwrap();
    model.values().for_each(|document| writer.write(&document.vector).unwrap());
    writer.finish().unwrap();
    std::fs::write(path("keys.txt"), model.keys().map(|key| format!("{key}\n")).collect::<String>()).unwrap();
    let records = model.values().map(|document| format!("{}\n", document.record)).collect::<String>();
    std::fs::write(path("records.jsonl"), records).unwrap();
    let mut spec = BuildSpec {
        keys: Some(path("keys.txt")),
        attributes: Some(path("records.jsonl")),
        lists: Some(4),
        code_bytes: Some(4),
        memory_limit: 512 << 20,
        ..BuildSpec::new(path("input.fbin"), version(0))
    };
    change(&mut spec);
    build_on(vfs, &spec, &Silent).unwrap();
}

pub(super) fn open_base(vfs: &dyn Vfs, dir: &Path) -> Result<Arc<Searcher>> {
    Ok(Arc::new(Searcher::new(Index::open_on(vfs, dir, &OpenOptions::default())?, Kernels::detect())))
}

pub(super) fn open(vfs: &(impl Vfs + Clone + 'static), base: usize) -> Result<Live> {
    Live::open(Arc::new(vfs.clone()), Path::new(LIVE), open_base(vfs, &version(base))?)
}

impl Live {
    /// What the next request over the first base sees.
    fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots()[0].clone()
    }

    /// Follows the changes over `base` alone, and keeps of the journal what this base or those before it need.
    fn switch(&self, base: Arc<Searcher>) -> Result<()> {
        let before = self.snapshots();
        let needed = before.iter().map(|snapshot| self.included_seq(snapshot.base())).min();
        let needed = needed.unwrap_or(0).min(self.included_seq(&base));
        self.attach(base)?;
        before.iter().for_each(|snapshot| self.detach(snapshot.base()));
        // A longer journal is no harm, and a disk that fails here fails the next change, which says so.
        let _ = self.trim(needed);
        Ok(())
    }
}

/// A small base in memory with its model, and an empty journal.
pub(super) fn fresh(rows: u64, change: impl FnOnce(&mut BuildSpec)) -> (MemoryVfs, Live, Model) {
    let (vfs, model) = (MemoryVfs::new(), documents(rows, 1));
    build(&vfs, &model, change);
    let live = open(&vfs, 0).unwrap();
    (vfs, live, model)
}

pub(super) fn apply_to(model: &mut Model, change: &Change) {
    match change {
        Change::Upsert(document) => model.insert(document.key, document.clone()),
        Change::Delete(key) => model.remove(key),
    };
}

/// Keys and scores of all documents, best first: base rows that are alive, and the delta.
pub(super) fn search(live: &Live, query: &[f32]) -> Vec<(Key, f32)> {
    let snapshot = live.snapshot();
    let base = snapshot.base();
    let params = SearchParams { k: base.rows() as usize, exact: true, ..SearchParams::default() };
    let (mut hits, mut found) = (Vec::new(), Vec::new());
    base.search(query, &params, &mut base.scratch(), &mut hits).unwrap();
    let alive = hits.iter().filter(|hit| !snapshot.is_dead(hit.row));
    let mut all: Vec<(Key, f32)> = alive.map(|hit| (hit.key, hit.score)).collect();
    snapshot.search_delta(base.kernels(), query, usize::MAX, None, &mut |_| true, &mut found).unwrap();
    all.extend(found.iter().map(|&(score, place)| (snapshot.delta_row(place).unwrap().key(), score)));
    sort(&mut all);
    all
}

fn sort(found: &mut [(Key, f32)]) {
    found.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
}

/// What [`search`] should find, by brute force over the model; scores are equal to the bit.
pub(super) fn brute_force(live: &Live, model: &Model, query: &[f32]) -> Vec<(Key, f32)> {
    let base = live.snapshot().base().clone();
    let (layout, query) = (layout_of(&base), base.dense_query(query).unwrap());
    let score = |document: &Document| {
        let entry = entry(document, &base).unwrap();
        layout.record(&entry.record).score(base.kernels(), base.metric(), &query)
    };
    let mut all: Vec<(Key, f32)> = model.iter().map(|(key, document)| (*key, score(document))).collect();
    sort(&mut all);
    all
}

/// Fails unless what is served is the model: same keys, records, vectors and scores.
pub(super) fn check(live: &Live, model: &Model, what: &str) {
    check_within(live, model, 0.0, what);
}

/// The same, where vectors and scores may be off by `bound`: products of matrices of other shapes are rounded otherwise.
pub(super) fn check_within(live: &Live, model: &Model, bound: f32, what: &str) {
    let snapshot = live.snapshot();
    assert_eq!(snapshot.rows(), model.len() as u64, "{what}");
    let mut scratch = crate::dense::FetchScratch::default();
    for (key, document) in model {
        let entry = entry(document, snapshot.base()).unwrap();
        let layout = layout_of(snapshot.base());
        let mut due = vec![0.0; layout.dim()];
        layout.record(&entry.record).decode(&mut due);
        let (vector, record) = match snapshot.place(*key).unwrap() {
            Place::Base(row) => {
                let index = snapshot.base().index();
                (index.vector(row, &mut scratch).unwrap(), index.fields(row).unwrap().unwrap_or("{}".into()))
            }
            Place::Delta(place) => {
                let row = snapshot.delta_row(place).unwrap();
                assert_eq!(row.key(), *key, "{what}");
                (row.vector(), row.record().to_string())
            }
            Place::Nowhere => panic!("{what}: key {key} is lost"),
        };
        let off = vector.iter().zip(&due).fold(0f32, |off, (a, b)| off.max((a - b).abs()));
        assert!(off <= bound && vector.len() == due.len(), "{what}: key {key}: {vector:?} is not {due:?}");
        assert_eq!(record, document.record, "{what}: key {key}");
    }
    let query = vec![0.3, -0.2, 0.5, 0.9, -1.0, 0.1];
    let (found, due) = (search(live, &query), brute_force(live, model, &query));
    let same = |(a, b): (&(Key, f32), &(Key, f32))| a.0 == b.0 && (a.1 - b.1).abs() <= bound;
    assert!(found.len() == due.len() && found.iter().zip(&due).all(same), "{what}: {found:?} is not {due:?}");
    if snapshot.base().index().attributes().is_some_and(|columns| !columns.schema().attributes().is_empty()) {
        check_filters(&snapshot, model, what);
    }
}

/// Fails unless a filter finds, in base and delta, the keys of the model whose records pass it.
fn check_filters(snapshot: &Snapshot, model: &Model, what: &str) {
    let object = |document: &Document| serde_json::from_str::<serde_json::Value>(&document.record).unwrap();
    let number = |document: &Document| object(document)["n"].as_i64();
    type Holds<'a> = &'a dyn Fn(&Document) -> bool;
    let cases: [(serde_json::Value, Holds<'_>); 3] = [
        (serde_json::json!({"must": [{"attribute": "n", "range": {"gte": 20, "lt": 70}}]}), &|d| {
            number(d).is_some_and(|n| (20..70).contains(&n))
        }),
        (serde_json::json!({"must_not": [{"attribute": "n", "range": {"lte": 40}}]}), &|d| {
            number(d).is_none_or(|n| n > 40)
        }),
        (serde_json::json!({"should": [{"attribute": "t", "any": ["k10", "k50", "k7"]}]}), &|d| {
            [10, 50, 7].contains(&d.key) && object(d)["t"].is_string()
        }),
    ];
    for (filter, holds) in cases {
        let due: Vec<Key> = model.values().filter(|document| holds(document)).map(|document| document.key).collect();
        let filter: Filter = serde_json::from_value(filter).unwrap();
        assert_eq!(filtered(snapshot, &filter), due, "{what}: {filter:?}");
    }
}

/// The keys that pass a filter, ascending.
fn filtered(snapshot: &Snapshot, filter: &Filter) -> Vec<Key> {
    let (base, mut rows, mut found) = (snapshot.base(), Vec::new(), Vec::new());
    let predicate = base.index().attributes().unwrap().compile(filter).unwrap();
    assert!(predicate.rows(base.kernels(), usize::MAX, &mut rows));
    let keys_of_rows = base.index().keys_of_rows().unwrap();
    let alive = rows.iter().filter(|&&row| !snapshot.is_dead(row));
    let mut keys: Vec<Key> = alive.map(|&row| keys_of_rows[row as usize]).collect();
    let query = [1.0; DIM];
    snapshot.search_delta(base.kernels(), &query, usize::MAX, Some(filter), &mut |_| true, &mut found).unwrap();
    keys.extend(found.iter().map(|&(_, place)| snapshot.delta_row(place).unwrap().key()));
    keys.sort_unstable();
    keys
}

pub(super) const METRICS: [Metric; 3] = [Metric::Cosine, Metric::Ip, Metric::L2];
