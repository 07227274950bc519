//! Quantizers with heads and a router, from a file of vectors to hits: heads and routers whose right answers are known.

use std::path::PathBuf;

use bigrain::build::BuildSpec;
use bigrain::eval::{self, Reference, Setting};
use bigrain::heads::{Head, Heads, Residual};
use bigrain::index::Manifest;
use bigrain::linalg::procrustes;
use bigrain::quantizer::Quantizer;
use bigrain::sample::Rng;
use bigrain::search::{Hit, SearchParams, Searcher};
use bigrain::train::Silent;
use bigrain::types::{Element, Metric, Row};
use bigrain::vfs::RealVfs;
use ndarray::Array2;

use crate::common::{Data, OnDisk, assert_batch_is_single, assert_best, everything, scores, search};

const DIM: usize = 20;
const METRICS: [Metric; 2] = [Metric::Ip, Metric::Cosine];

/// An orthogonal matrix.
fn rotation(dim: usize, seed: u64) -> Array2<f32> {
    let mut rng = Rng::new(seed);
    procrustes(Array2::from_shape_fn((dim, dim), |_| rng.normal()).view()).unwrap()
}

fn linear(matrix: Array2<f32>) -> Option<Head> {
    Some(Head { linear: matrix, residual: None, normalise: false })
}

/// Both sides of both grains rotated alike: every inner product stays what it was.
fn rotated() -> Heads {
    let (code, dense) = (linear(rotation(DIM, 1)), linear(rotation(DIM, 2)));
    Heads { code_query: code.clone(), code_document: code, dense_query: dense.clone(), dense_document: dense }
}

/// The first `to` values of a vector.
fn first(to: usize) -> Option<Head> {
    linear(Array2::from_shape_fn((to, DIM), |(i, j)| f32::from(u8::from(i == j))))
}

/// Builds `data`, and again with the quantizer of that build as `change` makes it: both on disk and open.
fn rebuilt(
    data: &Data,
    prepare: impl FnOnce(&mut BuildSpec),
    change: impl FnOnce(Quantizer) -> Quantizer,
) -> [(OnDisk, Searcher); 2] {
    let mut plain = OnDisk::new(data);
    prepare(&mut plain.spec);
    plain.build().unwrap();
    let searcher = plain.open().unwrap();
    let mut learned = OnDisk::new(data);
    learned.spec = BuildSpec {
        input: learned.spec.input.clone(),
        output: learned.spec.output.clone(),
        quantizer: Some(write(&learned, &change(searcher.index().quantizer().clone()))),
        ..plain.spec.clone()
    };
    learned.build().unwrap();
    let with_heads = learned.open().unwrap();
    with_heads.index().check(&Silent).unwrap();
    [(plain, searcher), (learned, with_heads)]
}

fn write(disk: &OnDisk, quantizer: &Quantizer) -> PathBuf {
    let path = disk.folder.path().join("learned.bg");
    quantizer.write(&RealVfs, &path, [9; 16]).unwrap();
    path
}

fn exact(k: usize) -> SearchParams {
    SearchParams { k, exact: true, ..SearchParams::default() }
}

fn keys(hits: &[Hit]) -> Vec<u64> {
    hits.iter().map(|hit| hit.key).collect()
}

#[test]
fn orthogonal_heads_change_no_answer() {
    let data = Data::clustered(500, DIM, 1);
    for metric in METRICS {
        let prepare = |spec: &mut BuildSpec| spec.metric = metric;
        let [(_, plain), (_, learned)] = rebuilt(&data, prepare, |q| q.with_heads(rotated()).unwrap());
        let manifest = learned.index().manifest();
        assert_eq!(manifest.heads, Heads::NAMES, "{metric}");
        assert_eq!((manifest.dim, manifest.dense_dim, manifest.router), (DIM, DIM, false));
        assert_ne!(learned.version(), plain.version());
        assert!(learned.memory_bytes() > plain.memory_bytes());
        for query in data.queries() {
            let truth = scores(metric, &data.rows, query);
            let bound = 1e-5 * (1.0 + truth.iter().fold(0f64, |m, s| m.max(s.abs())));
            let hits = search(&learned, query, &everything(&learned, 10)).unwrap();
            assert_best(&hits, &truth, 10, bound, "all rows verified");
            assert_eq!(search(&learned, query, &exact(10)).unwrap(), hits);
            assert_eq!(keys(&hits), keys(&search(&plain, query, &exact(10)).unwrap()));
        }
    }
}

#[test]
fn code_heads_decide_the_candidates_and_dense_heads_do_not() {
    let data = Data::clustered(600, DIM, 2);
    // Codes of the first half of the dimensions only; all of them are verified.
    let codes = |q: Quantizer| {
        let half = OnDisk::new(&Data {
            dim: DIM / 2,
            rows: data.rows.chunks(DIM).flat_map(|row| &row[..DIM / 2]).copied().collect(),
            queries: Vec::new(),
        });
        let spec = BuildSpec { metric: q.metric(), ..half.spec.clone() };
        bigrain::build::build(&spec, &Silent).unwrap();
        let trained = half.open().unwrap().index().quantizer().clone();
        let heads = Heads { code_query: first(DIM / 2), code_document: first(DIM / 2), ..Heads::default() };
        trained.with_heads(heads).unwrap()
    };
    let [_, (_, learned)] = rebuilt(&data, |spec| spec.metric = Metric::Ip, codes);
    assert_eq!(
        (learned.dim(), learned.index().quantizer().code_dim(), learned.index().manifest().dense_dim),
        (20, 10, 20)
    );
    let halved = |values: &[f32]| -> Vec<f32> { values.chunks(DIM).flat_map(|v| &v[..DIM / 2]).copied().collect() };
    let (mut of_half, mut of_whole) = (0.0, 0.0);
    for query in data.queries() {
        let params = SearchParams { candidates: 40, k: 10, ..everything(&learned, 10) };
        let mut rows = Vec::new();
        learned.candidates(query, &params, &mut learned.scratch(), &mut rows).unwrap();
        let mut ascending: Vec<Row> = rows.iter().map(|c| c.0).collect();
        ascending.sort_unstable();
        let mut found = Vec::new();
        learned.score_rows(query, &ascending, &mut learned.scratch(), &mut found).unwrap();
        let whole = scores(Metric::Ip, &data.rows, query);
        assert!(found.iter().all(|hit| (f64::from(hit.score) - whole[hit.key as usize]).abs() < 1e-4));
        of_half += crate::common::recall(&found, &scores(Metric::Ip, &halved(&data.rows), &halved(query)), 40);
        of_whole += crate::common::recall(&found, &whole, 40);
    }
    assert!(
        of_half > of_whole + 2.0 && of_half > 15.0,
        "of 20 queries: {of_half} by half, {of_whole} by whole vectors"
    );
}

#[test]
fn dense_heads_may_store_fewer_dimensions() {
    let data = Data::clustered(300, DIM, 3);
    for (metric, dense) in [(Metric::Ip, Element::F32), (Metric::Cosine, Element::F32), (Metric::Cosine, Element::I8)] {
        let normalised = |head: Option<Head>| head.map(|head| Head { normalise: metric == Metric::Cosine, ..head });
        let (query, document) = (normalised(first(7)), normalised(first(7)));
        let heads = Heads { dense_query: query, dense_document: document, ..Heads::default() };
        let prepare = |spec: &mut BuildSpec| (spec.metric, spec.dense) = (metric, dense);
        let [(plain_disk, _), (disk, learned)] = rebuilt(&data, prepare, |q| q.with_heads(heads).unwrap());
        let manifest = learned.index().manifest();
        assert_eq!((manifest.dim, manifest.dense_dim, learned.dim()), (DIM, 7, DIM));
        let bytes = |disk: &OnDisk| disk.open().unwrap().index().manifest().files.dense[0].bytes;
        assert!(bytes(&disk) < bytes(&plain_disk));
        let cut: Vec<f32> = data.rows.chunks(DIM).flat_map(|row| &row[..7]).copied().collect();
        for query in data.queries() {
            let truth = scores(metric, &cut, &query[..7]);
            let bound = if dense == Element::I8 { 0.03 } else { 1e-4 };
            let hits = search(&learned, query, &everything(&learned, 10)).unwrap();
            assert_best(&hits, &truth, 10, bound, &format!("{metric} {dense}"));
            assert_eq!(search(&learned, query, &exact(10)).unwrap(), hits);
        }
        let error = learned.vector(3).unwrap_err().to_string();
        assert!(error.contains("query by key") && error.contains("send the document's own vector"), "{error}");
        let error = search(&learned, &data.queries[..7], &exact(10)).unwrap_err().to_string();
        assert!(error.contains("expected 20, found 7"), "{error}");
    }
}

#[test]
fn heads_with_a_residual_are_applied_alike_to_one_and_to_many() {
    let data = Data::clustered(300, DIM, 4);
    let mut rng = Rng::new(5);
    let mut normal = |rows, cols| Array2::from_shape_fn((rows, cols), |_| rng.normal());
    let head = Some(Head {
        linear: normal(9, DIM),
        residual: Some(Residual {
            inner: normal(6, DIM),
            bias: normal(1, 6).into_raw_vec_and_offset().0,
            outer: normal(9, 6),
        }),
        normalise: true,
    });
    let heads = Heads { dense_query: head.clone(), dense_document: head, ..Heads::default() };
    let [_, (_, learned)] = rebuilt(&data, |_| (), |q| q.with_heads(heads).unwrap());
    // A document asked for by its own vector meets itself: the two sides were mapped to the same unit vector.
    for (row, query) in data.rows.chunks(DIM).enumerate().step_by(17) {
        let best = search(&learned, query, &exact(1)).unwrap()[0];
        assert!((best.score - 1.0).abs() < 1e-5 && best.key == row as u64, "{row}: {best:?}");
    }
}

#[test]
fn a_router_of_centroids_is_geometric_under_ip() {
    let data = Data::clustered(900, DIM, 6);
    let prepare = |spec: &mut BuildSpec| (spec.metric, spec.lists) = (Metric::Ip, Some(30));
    let routed = |q: Quantizer| {
        let centroids = q.coarse().centroids().to_owned();
        q.with_router(centroids).unwrap()
    };
    let [(_, plain), (_, learned)] = rebuilt(&data, prepare, routed);
    assert!(learned.index().manifest().router && learned.index().manifest().heads.is_empty());
    for query in data.queries() {
        let params = SearchParams { k: 10, nprobe: 4, candidates: 30, ..SearchParams::default() };
        assert_eq!(search(&learned, query, &params).unwrap(), search(&plain, query, &params).unwrap());
    }
}

#[test]
fn batches_answer_as_single_queries_do_with_heads_and_a_router() {
    let data = Data::clustered(900, DIM, 7);
    for metric in METRICS {
        let change = |q: Quantizer| {
            let opposite = q.coarse().centroids().mapv(|v| -v);
            q.with_heads(rotated()).unwrap().with_router(opposite).unwrap()
        };
        let [(_, plain), (_, learned)] = rebuilt(&data, |spec| (spec.metric, spec.lists) = (metric, Some(12)), change);
        for (searcher, geometric, sparse_weight) in
            [(&plain, false, 0.0), (&learned, false, 0.0), (&learned, true, 0.0), (&learned, false, 0.7)]
        {
            let base = SearchParams { k: 10, nprobe: 5, candidates: 30, ..SearchParams::default() };
            assert_batch_is_single(searcher, &data.queries, &SearchParams { geometric, sparse_weight, ..base });
        }
    }
}

#[test]
fn a_router_sends_queries_where_it_was_told_to() {
    let data = Data::clustered(900, DIM, 7);
    for metric in [Metric::Ip, Metric::Cosine, Metric::L2] {
        // The least promising lists first: a router that is all wrong.
        let prepare = |spec: &mut BuildSpec| (spec.metric, spec.lists) = (metric, Some(30));
        let wrong = |q: Quantizer| {
            let opposite = q.coarse().centroids().mapv(|v| -v);
            q.with_router(opposite).unwrap()
        };
        let [(_, plain), (_, learned)] = rebuilt(&data, prepare, wrong);
        let params = SearchParams { k: 10, nprobe: 3, candidates: 30, ..SearchParams::default() };
        let geometric = SearchParams { geometric: true, ..params.clone() };
        let mut lost = 0;
        for query in data.queries() {
            let expected = search(&plain, query, &params).unwrap();
            assert_eq!(search(&learned, query, &geometric).unwrap(), expected, "{metric}");
            lost += usize::from(keys(&search(&learned, query, &params).unwrap()) != keys(&expected));
            // With all lists probed, the router no longer matters: scores start from centroids.
            let all = everything(&learned, 10);
            let rows = |searcher: &Searcher| {
                let mut rows = Vec::new();
                let params = SearchParams { candidates: 50, ..all.clone() };
                searcher.candidates(query, &params, &mut searcher.scratch(), &mut rows).unwrap();
                rows
            };
            for (a, b) in rows(&learned).iter().zip(rows(&plain)) {
                assert!((a.1 - b.1).abs() <= 1e-3 * (1.0 + b.1.abs()), "{metric}: {a:?} {b:?}");
            }
        }
        assert!(lost > 15, "{metric}: {lost} of 20");
    }
}

#[test]
fn candidates_are_the_rows_that_search_verifies() {
    let data = Data::clustered(700, DIM, 8);
    for metric in [Metric::Ip, Metric::Cosine, Metric::L2] {
        let heads = |q: Quantizer| if metric == Metric::L2 { q } else { q.with_heads(rotated()).unwrap() };
        let [_, (_, searcher)] = rebuilt(&data, |spec| spec.metric = metric, heads);
        let mut scratch = searcher.scratch();
        let (mut rows, mut hits) = (vec![(7, 7.0)], Vec::new());
        for query in data.queries() {
            let params = SearchParams { k: 25, nprobe: 3, candidates: 25, ..SearchParams::default() };
            let stats = searcher.candidates(query, &params, &mut scratch, &mut rows).unwrap();
            assert_eq!((rows.len(), stats.candidates, stats.vectors_read), (25, 25, 0));
            assert!(rows.windows(2).all(|two| two[0].1 > two[1].1 || (two[0].1 == two[1].1 && two[0].0 < two[1].0)));
            searcher.search(query, &params, &mut scratch, &mut hits).unwrap();
            let sorted = |rows: &mut dyn Iterator<Item = Row>| {
                let mut rows: Vec<Row> = rows.collect();
                rows.sort_unstable();
                rows
            };
            assert_eq!(sorted(&mut rows.iter().map(|c| c.0)), sorted(&mut hits.iter().map(|hit| hit.row)), "{metric}");
            let fewer = SearchParams { k: 5, candidates: 9, ..params };
            let more = std::mem::take(&mut rows);
            searcher.candidates(query, &fewer, &mut scratch, &mut rows).unwrap();
            assert_eq!(rows, more[..9], "{metric}: the best of more candidates are the best");
        }
        let mut bad = |query: &[f32], params| searcher.candidates(query, &params, &mut scratch, &mut rows).is_err();
        assert!(bad(&[1.0; 3], exact(1)));
        assert!(searcher.score_rows(&data.queries[..DIM], &[3, 1], &mut searcher.scratch(), &mut hits).is_err());
        assert!(searcher.score_rows(&data.queries[..DIM], &[700], &mut searcher.scratch(), &mut hits).is_err());
    }
}

#[test]
fn the_sparse_weight_mixes_in_the_code_score() {
    let data = Data::clustered(700, DIM, 9);
    let [(_, plain), (_, learned)] = rebuilt(&data, |_| (), |q| q.with_heads(rotated()).unwrap());
    for searcher in [&plain, &learned] {
        let (mut scratch, mut rows) = (searcher.scratch(), Vec::new());
        for query in data.queries() {
            let params = SearchParams { k: 20, nprobe: 4, candidates: 60, ..SearchParams::default() };
            let dense = search(searcher, query, &params).unwrap();
            searcher.candidates(query, &params, &mut scratch, &mut rows).unwrap();
            let with = |sparse_weight| {
                search(searcher, query, &SearchParams { k: 60, sparse_weight, ..params.clone() }).unwrap()
            };
            assert_eq!(with(0.0)[..20], dense[..]);
            let dense_of = |row| with(0.0).iter().find(|hit| hit.row == row).unwrap().score;
            let code_of = |row| rows.iter().find(|candidate| candidate.0 == row).unwrap().1;
            let mixed = with(0.3);
            assert!(mixed.windows(2).all(|two| two[0].score >= two[1].score));
            for hit in &mixed {
                let expected = dense_of(hit.row) + 0.3 * code_of(hit.row);
                assert!((hit.score - expected).abs() < 1e-6, "{} {expected}", hit.score);
            }
            // So heavy that dense scores no longer count.
            let by_code: Vec<f32> = with(1e6).iter().map(|hit| code_of(hit.row)).collect();
            assert!(by_code.is_sorted_by(|a, b| a >= b), "{by_code:?}");
            let ignored = SearchParams { sparse_weight: 5.0, ..exact(10) };
            assert_eq!(search(searcher, query, &ignored).unwrap(), search(searcher, query, &exact(10)).unwrap());
        }
    }
    for weight in [f32::NAN, f32::INFINITY, -0.1, 1e7] {
        let params = SearchParams { sparse_weight: weight, ..SearchParams::default() };
        let error = search(&plain, &data.queries[..DIM], &params).unwrap_err().to_string();
        assert!(error.contains("sparse_weight") && error.contains("between 0 and 1000000"), "{error}");
    }
}

#[test]
fn recall_is_measured_through_heads_and_before_verification() {
    let data = Data::clustered(800, DIM, 10);
    let [(_, plain), (_, learned)] = rebuilt(&data, |_| (), |q| q.with_heads(rotated()).unwrap());
    let plan = |geometric| eval::Plan {
        threads: 1,
        batch: true,
        at_least: std::time::Duration::ZERO,
        exact: false,
        geometric,
    };
    let setting =
        |nprobe, candidates, sparse_weight| Setting { k: 20, nprobe, candidates, sparse_weight, recall_target: 0.0 };
    let measure = |searcher: &Searcher, reference: &Reference, setting| {
        eval::measure(searcher, &data.queries, reference, setting, &plan(false)).unwrap()
    };
    let truth = bigrain::dataset::Truth {
        k: 20,
        rows: data
            .queries()
            .flat_map(|query| crate::common::best(&scores(Metric::Cosine, &data.rows, query), 20))
            .collect(),
    };
    for searcher in [&plain, &learned] {
        let computed = eval::exact_scores(searcher, &data.queries, 20).unwrap();
        let given = Reference::neighbours(searcher, &data.queries, &truth, &[20], &|row| row).unwrap();
        for reference in [&computed, &given] {
            let all = measure(searcher, reference, setting(8, 800, 0.0));
            assert_eq!((all.recall, all.candidate_recall[&800]), (1.0, 1.0));
            let some = measure(searcher, reference, setting(3, 120, 0.0));
            assert_eq!(some.candidate_recall.keys().copied().collect::<Vec<_>>(), [10, 50, 100, 120]);
            assert_eq!(some.hit_recall.keys().copied().collect::<Vec<_>>(), [10, 20]);
            assert_eq!((some.hit_recall[&20], all.hit_recall[&10], all.mrr_at_10), (some.recall, 1.0, 1.0));
            let (at_10, at_100, at_all) =
                (some.candidate_recall[&10], some.candidate_recall[&100], some.candidate_recall[&120]);
            assert!(at_10 > 0.2 && at_10 < 1.0 && at_100 > at_10, "{some:?}");
            assert!(at_all >= at_100 && (some.recall - at_all).abs() < 1e-9, "{some:?}");
            // By code alone the first 20 hits are the first 20 candidates.
            let by_code = measure(searcher, reference, setting(3, 120, 1e6));
            let first_20 = measure(searcher, reference, setting(3, 20, 0.0));
            assert!((by_code.recall - first_20.recall).abs() < 0.02, "{} {}", by_code.recall, first_20.recall);
            assert!(by_code.recall < some.recall);
        }
    }
    let relevance = Reference::Relevance(vec![vec![u64::MAX]; 20]);
    let nothing = measure(&learned, &relevance, setting(8, 50, 0.0));
    assert_eq!((nothing.candidate_recall[&50], nothing.candidate_mrr_at_10), (0.0, Some(0.0)));
}

#[test]
fn learned_quantizers_for_other_vectors_are_refused() {
    let data = Data::clustered(200, DIM, 11);
    let narrow = Heads { dense_query: first(6), dense_document: first(6), ..Heads::default() };
    let [(_, plain), (disk, _)] = rebuilt(&data, |_| (), |q| q.with_heads(narrow).unwrap());
    let mut other = OnDisk::new(&Data::clustered(200, DIM + 1, 11));
    other.spec.quantizer = disk.spec.quantizer.clone();
    let error = other.build().unwrap_err().to_string();
    assert!(error.contains("expected 20, found 21"), "{error}");
    let mut metric = OnDisk::new(&data);
    (metric.spec.quantizer, metric.spec.metric) = (disk.spec.quantizer.clone(), Metric::Ip);
    let error = metric.build().unwrap_err().to_string();
    assert!(error.contains("expected ip, found cosine"), "{error}");
    // A head that blows rows up is named with the row, not met by a panic.
    let huge = Heads { code_document: linear(Array2::from_elem((DIM, DIM), 1e30)), ..Heads::default() };
    let mut blown = OnDisk::new(&data);
    blown.spec.quantizer = Some(write(&blown, &plain.index().quantizer().clone().with_heads(huge).unwrap()));
    let error = blown.build().unwrap_err().to_string();
    assert!(error.contains("row ") && error.contains("head"), "{error}");
    let huge = Heads { code_query: linear(Array2::from_elem((DIM, DIM), 1e38)), ..Heads::default() };
    let [_, (_, blown)] = rebuilt(&data, |_| (), |q| q.with_heads(huge).unwrap());
    let error = search(&blown, &data.queries[..DIM], &SearchParams::default()).unwrap_err().to_string();
    assert!(error.contains("norm"), "{error}");
}

#[test]
fn a_manifest_that_tells_of_other_heads_is_damage() {
    let data = Data::clustered(100, DIM, 13);
    let [_, (disk, learned)] = rebuilt(&data, |_| (), |q| q.with_heads(rotated()).unwrap());
    let path = disk.spec.output.join("manifest.json");
    let manifest = learned.index().manifest();
    for change in [
        &(|m: &mut Manifest| m.dense_dim = 7) as &dyn Fn(&mut Manifest),
        &|m| m.heads.truncate(2),
        &|m| m.heads.clear(),
        &|m| m.router = true,
    ] {
        let mut other = manifest.clone();
        change(&mut other);
        std::fs::write(&path, other.to_bytes()).unwrap();
        let error = disk.open().unwrap_err().to_string();
        assert!(error.contains("does not agree with the manifest"), "{error}");
    }
    std::fs::write(&path, manifest.to_bytes()).unwrap();
    disk.open().unwrap();
}

#[test]
fn threads_and_memory_change_no_byte_of_a_build_with_heads() {
    let data = Data::clustered(3_000, DIM, 12);
    let [(_, plain), _] = rebuilt(&data, |_| (), |q| q);
    let quantizer = plain.index().quantizer().clone().with_heads(rotated()).unwrap();
    let build_with = |threads, memory_limit| {
        let mut disk = OnDisk::new(&data);
        (disk.spec.quantizer, disk.spec.memory_limit) = (Some(write(&disk, &quantizer)), memory_limit);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| disk.build()).unwrap();
        let searcher = disk.open().unwrap();
        let manifest = searcher.index().manifest().clone();
        // Names, lengths, and checksums of headers that hold the checksums of all sections.
        manifest.files.all().cloned().collect::<Vec<_>>()
    };
    let one = build_with(1, 1 << 30);
    assert_eq!(build_with(3, 1 << 30), one);
    assert_eq!(build_with(2, 64 << 20), one);
}
