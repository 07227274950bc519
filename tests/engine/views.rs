//! Rows that are views of documents: hits are documents, as brute force over all their views finds them.

use std::collections::BTreeMap;
use std::path::Path;

use bigrain::attributes::Filter;
use bigrain::build::{BuildSpec, OnBad, build};
use bigrain::calibrate::calibrate_index;
use bigrain::dense::{Store, Tier};
use bigrain::eval::{Reference, exact_scores};
use bigrain::index::{Index, MANIFEST, Manifest, OpenOptions, Views};
use bigrain::sample::Rng;
use bigrain::search::{Further, Hit, SearchParams, Searcher, Selection};
use bigrain::train::Silent;
use bigrain::types::{Element, Key, Metric, Row};
use bigrain::vfs::RealVfs;
use proptest::prelude::*;

use crate::common::{Data, OnDisk, assert_batch_is_single, everything, search, small, write_vectors};

/// Rows with the keys of their documents.
struct Parents {
    data: Data,
    keys: Vec<Key>,
}

impl Parents {
    /// `parents` documents of one to `most` views, in any order; `repeats` of ten views are copies of another row.
    fn new(parents: usize, most: u64, repeats: u64, seed: u64) -> Parents {
        let mut rng = Rng::new(seed);
        let key = |parent: usize| (parent as Key * 7_919) % 100_003;
        let mut keys: Vec<Key> = (0..parents).map(key).collect();
        (0..parents).for_each(|parent| keys.extend((0..rng.below(most)).map(|_| key(parent))));
        rng.shuffle(&mut keys);
        let mut data = Data::clustered(keys.len(), 12, seed);
        for row in 1..keys.len() {
            if rng.below(10) < repeats {
                let from = rng.below(row as u64) as usize * 12;
                data.rows.copy_within(from..from + 12, row * 12);
            }
        }
        Parents { data, keys }
    }

    /// Writes vectors, keys and records (of which documents have one each) to a folder; a spec of the index.
    fn write(&self, dir: &Path) -> BuildSpec {
        let (keys, records) = (dir.join("keys.txt"), dir.join("records.jsonl"));
        std::fs::write(&keys, self.keys.iter().map(|key| format!("{key}\n")).collect::<String>()).unwrap();
        let record = |key: &Key| format!("{{\"even\": {}, \"n\": {}}}\n", key.is_multiple_of(2), key % 100);
        std::fs::write(&records, self.keys.iter().map(record).collect::<String>()).unwrap();
        let spec = small(&self.data.write(dir), &dir.join("index"));
        BuildSpec { keys: Some(keys), attributes: Some(records), views: true, ..spec }
    }

    fn most(&self) -> usize {
        let mut count: BTreeMap<Key, usize> = BTreeMap::new();
        self.keys.iter().for_each(|&key| *count.entry(key).or_default() += 1);
        count.into_values().max().unwrap()
    }
}

/// Every document that `allow` lets through with the best score of its rows, as the searcher scores them: best first, ties by key.
fn truth(searcher: &Searcher, keys: &[Key], query: &[f32], allow: impl Fn(Key) -> bool) -> Vec<(Key, f32)> {
    let (rows, mut hits) = ((0..searcher.rows() as Row).collect::<Vec<_>>(), Vec::new());
    searcher.score_rows(query, &rows, &mut searcher.scratch(), &mut hits).unwrap();
    let mut best: BTreeMap<Key, f32> = BTreeMap::new();
    for hit in hits.iter().filter(|hit| allow(hit.key)) {
        let score = best.entry(hit.key).or_insert(f32::NEG_INFINITY);
        *score = score.max(hit.score);
    }
    assert!(keys.iter().filter(|key| allow(**key)).all(|key| best.contains_key(key)), "no document is lost");
    let mut all: Vec<(Key, f32)> = best.into_iter().collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all
}

/// Fails unless hits are the first `k` of the truth: equal scores, each key once with its own score, ties by key. (Which of several
/// documents that tie with the last one are in is open.)
fn assert_parents(hits: &[Hit], truth: &[(Key, f32)], k: usize, what: &str) {
    let scores = |hits: &[(Key, f32)]| hits.iter().map(|hit| hit.1).collect::<Vec<_>>();
    let found: Vec<(Key, f32)> = hits.iter().map(|hit| (hit.key, hit.score)).collect();
    let due = &truth[..k.min(truth.len())];
    assert_eq!(scores(&found), scores(due), "{what}");
    let last = due.last().map_or(0.0, |last| last.1);
    let above = |hits: &[(Key, f32)]| hits.iter().copied().filter(|hit| hit.1 > last).collect::<Vec<_>>();
    assert_eq!(above(&found), above(due), "{what}");
    assert!(found.iter().all(|hit| truth.contains(hit)), "{what}");
    assert!(found.is_sorted_by(|a, b| a.1 > b.1 || a.1 == b.1 && a.0 < b.0), "{what}: ties by key, each key once");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn hits_are_the_best_documents(
        parents in 1usize..220,
        most in 1u64..9,
        repeats in 0u64..8,
        seed in 0u64..1_000,
        metric in prop_oneof![Just(Metric::Ip), Just(Metric::Cosine), Just(Metric::L2)],
        dense in prop_oneof![Just(Element::F32), Just(Element::F16)],
        k in 0usize..250,
        (nprobe, candidates) in (0usize..9, 0usize..40),
    ) {
        let (dir, parents) = (tempfile::tempdir().unwrap(), Parents::new(parents, most, repeats, seed));
        let spec = BuildSpec { metric, dense, ..parents.write(dir.path()) };
        let spec = BuildSpec { lists: Some(8.min(parents.keys.len())), ..spec };
        let report = build(&spec, &Silent).unwrap();
        let options = [
            OpenOptions::default(),
            OpenOptions { store: Store::Pread, direct: true, page_cache: 1 << 20, tier: Tier::Int8 },
        ];
        for options in options {
            let searcher = Searcher::open(&spec.output, &options).unwrap();
            let views = searcher.views().unwrap();
            prop_assert_eq!(report.views, Some(views));
            prop_assert_eq!(views.most as usize, parents.most());
            let k = k.min(views.parents as usize + 5);
            let every_row = everything(&searcher, k);
            let exact = SearchParams { k, exact: true, ..SearchParams::default() };
            let some = SearchParams { k, nprobe, candidates, ..SearchParams::default() };
            for query in parents.data.queries().take(4) {
                let truth = truth(&searcher, &parents.keys, query, |_| true);
                prop_assert_eq!(truth.len() as u64, views.parents);
                for params in [&exact, &every_row] {
                    assert_parents(&search(&searcher, query, params).unwrap(), &truth, k, &format!("{params:?}"));
                }
                // What is found with less effort is full all the same, and scored as it is.
                let (mut hits, mut scratch) = (Vec::new(), searcher.scratch());
                let stats = searcher.search(query, &some, &mut scratch, &mut hits).unwrap();
                prop_assert_eq!(hits.len(), k.min(truth.len()), "{:?}", some);
                prop_assert_eq!(stats.fraction, 1.0);
                prop_assert!(stats.vectors_read as usize >= hits.len() && stats.candidates as usize >= hits.len());
                let best = |key: Key| truth.iter().find(|of| of.0 == key).unwrap().1;
                prop_assert!(hits.iter().all(|hit| hit.score <= best(hit.key)));
                prop_assert!(hits.is_sorted_by(|a, b| a.score > b.score || a.score == b.score && a.key < b.key));
            }
            // A page cache makes later searches cheaper than earlier ones, so their figures differ.
            if options.page_cache == 0 {
                assert_batch_is_single(&searcher, &parents.data.queries, &some);
                assert_batch_is_single(&searcher, &parents.data.queries, &exact);
            }
        }
    }

    #[test]
    fn selections_find_documents_too(
        parents in 30usize..300,
        most in 1u64..7,
        seed in 0u64..1_000,
        k in 1usize..60,
        (nprobe, candidates) in (0usize..9, 0usize..40),
        below in 1u64..100,
    ) {
        let (dir, parents) = (tempfile::tempdir().unwrap(), Parents::new(parents, most, 2, seed));
        let spec = parents.write(dir.path());
        build(&spec, &Silent).unwrap();
        let searcher = Searcher::open(&spec.output, &OpenOptions::default()).unwrap();
        let filter: Filter =
            serde_json::from_value(serde_json::json!({"must": [{"attribute": "n", "range": {"lt": below}}]})).unwrap();
        let predicate = searcher.index().attributes().unwrap().compile(&filter).unwrap();
        let key_of = searcher.index().keys_of_rows().unwrap();
        let allow = |row: Row| !key_of[row as usize].is_multiple_of(3);
        let (mut scratch, mut hits) = (searcher.scratch(), Vec::new());
        for (predicate, allow) in [(Some(&predicate), None), (None, Some(&allow as &dyn Fn(Row) -> bool)), (Some(&predicate), Some(&allow as &dyn Fn(Row) -> bool))] {
            let passes = |key: Key| (predicate.is_none() || key % 100 < below) && (allow.is_none() || !key.is_multiple_of(3));
            for query in parents.data.queries().take(3) {
                let truth = truth(&searcher, &parents.keys, query, passes);
                let all = everything(&searcher, k);
                let some = SearchParams { k, nprobe, candidates, ..SearchParams::default() };
                let exact = SearchParams { k, exact: true, ..SearchParams::default() };
                let selection = Selection { predicate, allow, ..Selection::default() };
                for params in [&exact, &all] {
                    searcher.search_selected(query, params, &selection, &mut scratch, &mut hits).unwrap();
                    assert_parents(&hits, &truth, k, &format!("{params:?}"));
                }
                searcher.search_selected(query, &some, &selection, &mut scratch, &mut hits).unwrap();
                prop_assert_eq!(hits.len(), k.min(truth.len()), "{:?}", some);
                prop_assert!(hits.iter().all(|hit| passes(hit.key)));
                // More hits than k are wanted for another order: they need not be as many as that, but k.
                let kept = Selection { keep: k + 40, ..selection };
                searcher.search_selected(query, &some, &kept, &mut scratch, &mut hits).unwrap();
                prop_assert!(hits.len() >= k.min(truth.len()) && hits.len() <= k + 40);
            }
        }
    }
}

#[test]
fn a_search_for_a_recall_counts_documents() {
    let parents = Parents::new(1_500, 9, 1, 5);
    let dir = tempfile::tempdir().unwrap();
    let spec = BuildSpec { lists: Some(40), ..parents.write(dir.path()) };
    build(&spec, &Silent).unwrap();
    // Queries beside the rows, from another seed's noise.
    let mut rng = Rng::new(4);
    let near = |_| {
        let row = rng.below(parents.keys.len() as u64) as usize;
        parents.data.rows[row * 12..][..12].iter().map(|v| v + 0.1 * rng.normal()).collect::<Vec<f32>>()
    };
    let queries: Vec<f32> = (0..400).flat_map(near).collect();
    let path = write_vectors(dir.path(), "queries.fbin", 12, &queries);
    calibrate_index(&spec.output, &path, 1, &Silent).unwrap();
    let searcher = Searcher::open(&spec.output, &OpenOptions::default()).unwrap();
    let Reference::Neighbours(scores) = exact_scores(&searcher, &queries, 10).unwrap() else { panic!("scores") };
    for (query, scores) in queries.chunks(12).zip(&scores).take(20) {
        let truth = truth(&searcher, &parents.keys, query, |_| true);
        assert_eq!(scores, &truth[..10].iter().map(|of| of.1).collect::<Vec<_>>());
    }
    let aimed = SearchParams { k: 10, recall_target: 0.9, ..SearchParams::default() };
    assert_batch_is_single(&searcher, &queries[..20 * 12], &aimed);
    for target in [0.8, 0.95] {
        let params = SearchParams { k: 10, recall_target: target, ..SearchParams::default() };
        let mut recall = 0.0;
        for (query, scores) in queries.chunks(12).zip(&scores) {
            let hits = search(&searcher, query, &params).unwrap();
            assert_eq!(hits.len(), 10);
            recall += hits.iter().filter(|hit| hit.score >= scores[9]).count() as f32 / 10.0 / 400.0;
        }
        assert!(recall >= target - 0.02, "{recall} where {target} was asked for");
    }
    // As many documents as there are, and more than one round of candidates.
    let all = SearchParams { k: 1_500, recall_target: 0.8, ..SearchParams::default() };
    assert_eq!(search(&searcher, &queries[..12], &all).unwrap().len(), 1_500);
    assert!(searcher.index().canary().is_some_and(|canary| canary.scores[..10] == scores[1][..10]
        || scores.iter().any(|scores| scores[..10] == canary.scores[..10])));
    let index = Index::open(&spec.output, &OpenOptions::default()).unwrap();
    index.check(&Silent).unwrap();
}

/// A search says how far it may go on where it finds too few documents, and how far it went.
#[test]
fn rounds_are_bounded_and_the_last_one_is_told_from_all() {
    let parents = Parents::new(600, 9, 1, 6);
    let dir = tempfile::tempdir().unwrap();
    let spec = BuildSpec { lists: Some(30), ..parents.write(dir.path()) };
    build(&spec, &Silent).unwrap();
    let searcher = Searcher::open(&spec.output, &OpenOptions::default()).unwrap();
    let (mut scratch, mut hits) = (searcher.scratch(), Vec::new());
    // Two lists of thirty do not hold five documents of six.
    let asked = |further| SearchParams { k: 500, nprobe: 2, candidates: 500, further, ..SearchParams::default() };
    for query in parents.data.queries() {
        let mut round = |params: &SearchParams| {
            let stats = searcher.search(query, params, &mut scratch, &mut hits).unwrap();
            (stats, hits.clone())
        };
        let (one, short) = round(&asked(Further::NOT));
        assert_eq!((one.lists_probed, one.last_round().lists, one.fraction), (2, 2, 1.0));
        assert!(one.candidates <= 500 && short.len() < 500);
        let (all, full) = round(&asked(Further::TO_THE_END));
        let last = all.last_round();
        assert_eq!(full.len(), 500);
        assert!(last.lists > 2 && last.lists < all.lists_probed && last.candidates < all.candidates, "{all:?}");
        let (some, few) = round(&asked(Further { candidates: 600, lists: 5 }));
        let last = some.last_round();
        assert!((3..=5).contains(&last.lists) && last.candidates <= 600 && few.len() < 500, "{some:?}");
    }
}

#[test]
fn what_is_no_index_of_views_is_refused() {
    let parents = Parents::new(60, 4, 0, 1);
    let dir = tempfile::tempdir().unwrap();
    let spec = parents.write(dir.path());
    let message = |spec: &BuildSpec| build(spec, &Silent).unwrap_err().to_string();
    let keyless = BuildSpec { keys: None, ..spec.clone() };
    assert!(message(&keyless).contains("--keys"), "{}", message(&keyless));
    let plain = BuildSpec { views: false, ..spec.clone() };
    assert!(message(&plain).contains("more than once") && message(&plain).contains("--views"), "{}", message(&plain));
    // One row of a document says something else than the others.
    let records = std::fs::read_to_string(dir.path().join("records.jsonl")).unwrap();
    let at = (0..).find(|&at| parents.keys[at + 1..].contains(&parents.keys[at])).unwrap();
    let other: String = records
        .lines()
        .enumerate()
        .map(|(row, line)| if row == at { "{\"even\": null}\n".to_string() } else { format!("{line}\n") })
        .collect();
    std::fs::write(dir.path().join("other.jsonl"), other).unwrap();
    let differing = BuildSpec { attributes: Some(dir.path().join("other.jsonl")), ..spec.clone() };
    let said = message(&differing);
    assert!(said.contains(&format!("key {}", parents.keys[at])) && said.contains("different records"), "{said}");
    // A manifest that says something else than the keys.
    build(&spec, &Silent).unwrap();
    let manifest = Manifest::read(&RealVfs, &spec.output).unwrap();
    let views = manifest.views.unwrap();
    let lying = Views { parents: views.parents - 1, ..views };
    Manifest { views: Some(lying), ..manifest.clone() }.write(&RealVfs, &spec.output).unwrap();
    let index = Index::open(&spec.output, &OpenOptions::default()).unwrap();
    assert!(index.check(&Silent).unwrap_err().to_string().contains("Views"));
    Manifest { views: None, ..manifest.clone() }.write(&RealVfs, &spec.output).unwrap();
    let index = Index::open(&spec.output, &OpenOptions::default()).unwrap();
    assert!(index.check(&Silent).unwrap_err().to_string().contains("out of order"));
    let impossible = Views { parents: manifest.rows + 1, most: 1 };
    Manifest { views: Some(impossible), ..manifest.clone() }.write(&RealVfs, &spec.output).unwrap();
    let error = Index::open(&spec.output, &OpenOptions::default()).unwrap_err().to_string();
    assert!(error.contains(MANIFEST) && error.contains("documents"), "{error}");
}

#[test]
fn documents_lose_bad_views_and_go_with_the_last_one() {
    let mut parents = Parents::new(40, 3, 0, 2);
    let first = parents.keys[0];
    for row in (0..parents.keys.len()).filter(|&row| parents.keys[row] == first) {
        parents.data.rows[row * 12] = f32::NAN;
    }
    let dir = tempfile::tempdir().unwrap();
    let spec = BuildSpec { on_bad: OnBad::Skip, ..parents.write(dir.path()) };
    let report = build(&spec, &Silent).unwrap();
    assert_eq!(report.views.unwrap().parents, 39);
    let index = Index::open(&spec.output, &OpenOptions::default()).unwrap();
    assert!(index.rows(first).unwrap().is_empty() && index.row(first).unwrap().is_none());
}

/// Rows of a key come in the order of the input, and the same input makes the same bytes whatever memory there is.
#[test]
fn views_keep_their_order() {
    let parents = Parents::new(300, 6, 0, 3);
    let dir = tempfile::tempdir().unwrap();
    let spec = parents.write(dir.path());
    let id = build(&spec, &Silent).unwrap().id;
    let index = Index::open(&spec.output, &OpenOptions::default()).unwrap();
    let mut scratch = Default::default();
    for key in parents.keys.iter().take(50) {
        let due = parents.keys.iter().enumerate().filter(|of| of.1 == key).map(|of| of.0).collect::<Vec<_>>();
        let rows = index.rows(*key).unwrap();
        assert_eq!(rows.len(), due.len());
        for (row, input) in rows.iter().zip(due) {
            let mut unit = parents.data.rows[input * 12..][..12].to_vec();
            bigrain::linalg::normalise(&mut unit);
            let stored = index.vector(*row, &mut scratch).unwrap();
            assert!(stored.iter().zip(&unit).all(|(a, b)| (a - b).abs() < 1e-5), "key {key}");
        }
    }
    let other = BuildSpec { output: dir.path().join("other"), ..spec };
    assert_eq!(build(&other, &Silent).unwrap().id, id);
}

/// Where a row is a document nothing is different: not the manifest, not an answer.
#[test]
fn one_view_each_is_an_index_without_views() {
    let data = Data::clustered(400, 12, 9);
    let disk = OnDisk::new(&data);
    disk.build().unwrap();
    let plain = disk.open().unwrap();
    let manifest = std::fs::read_to_string(disk.spec.output.join(MANIFEST)).unwrap();
    assert!(plain.views().is_none() && !manifest.contains("views"));
    let keys = disk.folder.path().join("keys.txt");
    std::fs::write(&keys, (0..400).map(|key| format!("{key}\n")).collect::<String>()).unwrap();
    let spec =
        BuildSpec { keys: Some(keys), views: true, output: disk.folder.path().join("views"), ..disk.spec.clone() };
    build(&spec, &Silent).unwrap();
    let views = Searcher::open(&spec.output, &OpenOptions::default()).unwrap();
    assert_eq!(views.views(), Some(Views { parents: 400, most: 1 }));
    for query in data.queries() {
        for params in [SearchParams::default(), SearchParams { nprobe: 2, candidates: 20, ..SearchParams::default() }] {
            assert_eq!(search(&plain, query, &params).unwrap(), search(&views, query, &params).unwrap());
        }
    }
}
