//! A query whose scratch is warm allocates nothing. In a binary of its own: counting takes an allocator of its own, which
//! other tests do without. What other threads allocate meanwhile does not count.

use std::path::Path;

use allocation_counter::measure;
use bigrain::build::{BuildSpec, build};
use bigrain::calibrate::calibrate_index;
use bigrain::dataset::synthetic::{Clustered, Draw};
use bigrain::dataset::{Scalar, VectorWriter};
use bigrain::dense::{Store, Tier};
use bigrain::heads::{Head, Heads, Residual};
use bigrain::index::{Index, OpenOptions};
use bigrain::search::{SearchParams, Searcher};
use bigrain::train::Silent;
use bigrain::types::{Element, Metric};
use bigrain::vfs::RealVfs;
use ndarray::Array2;

const DIM: usize = 24;
const QUERIES: usize = 40;

/// Writes 1,500 rows and the queries below `dir`; the queries.
fn vectors(dir: &Path) -> Vec<f32> {
    let shape = Clustered { rows: 1_500, dim: DIM, clusters: 12, spread: 0.6, seed: 1 };
    let generator = shape.generator().unwrap();
    let (mut rows, mut queries) = (vec![0.0; 1_500 * DIM], vec![0.0; QUERIES * DIM]);
    generator.fill(Draw::Rows, 0, &mut rows);
    generator.fill(Draw::Queries, 0, &mut queries);
    for (name, vectors) in [("input.fbin", &rows), ("queries.fbin", &queries)] {
        let mut writer = VectorWriter::create(&dir.join(name), Scalar::F32, DIM).unwrap();
        writer.write(vectors).unwrap();
        writer.finish().unwrap();
    }
    queries
}

/// All four heads, each of them almost the identity and with a residual, and a router of the centroids.
fn learned(index: &Index, path: &Path) {
    let small = |rows, cols| Array2::from_shape_fn((rows, cols), |(i, j)| ((i * 7 + j * 3) % 11) as f32 / 50.0 - 0.1);
    let head = |output| {
        let residual = Residual { inner: small(9, DIM), bias: vec![0.1; 9], outer: small(output, 9) };
        let linear = Array2::from_shape_fn((output, DIM), |(i, j)| f32::from(u8::from(i == j)));
        Some(Head { linear, residual: Some(residual), normalise: true })
    };
    let heads =
        Heads { code_query: head(DIM), code_document: head(DIM), dense_query: head(10), dense_document: head(10) };
    let centroids = index.quantizer().coarse().centroids().to_owned();
    let quantizer = index.quantizer().clone().with_heads(heads).unwrap().with_router(centroids).unwrap();
    quantizer.write(&RealVfs, path, [3; 16]).unwrap();
}

/// Fails if any query of any kind allocates after every query was answered once.
fn assert_nothing_is_allocated(searcher: &Searcher, queries: &[f32], what: &str) {
    let few = SearchParams { k: 10, nprobe: 12, candidates: 40, ..SearchParams::default() };
    let mut kinds = vec![
        few.clone(),
        SearchParams { sparse_weight: 0.3, ..few.clone() },
        SearchParams { geometric: true, ..few.clone() },
        SearchParams { k: 3, exact: true, ..few },
    ];
    if !searcher.index().manifest().calibration.is_empty() {
        kinds.push(SearchParams { recall_target: 0.7, ..SearchParams::default() });
    }
    let (mut scratch, mut hits, mut rows) = (searcher.scratch(), Vec::new(), Vec::new());
    let mut run = || {
        for params in &kinds {
            for query in queries.chunks(DIM) {
                searcher.search(query, params, &mut scratch, &mut hits).unwrap();
                assert!(!hits.is_empty());
                searcher.candidates(query, params, &mut scratch, &mut rows).unwrap();
            }
        }
    };
    assert!(measure(&mut run).count_total > 0, "{what}: counting works");
    assert_eq!(measure(&mut run).count_total, 0, "{what}");
}

#[test]
fn a_warm_query_allocates_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let queries = vectors(folder.path());
    for (metric, dense) in [(Metric::Cosine, Element::F32), (Metric::L2, Element::F16), (Metric::Ip, Element::I8)] {
        let output = folder.path().join(metric.to_string());
        let mut spec = BuildSpec { metric, dense, ..BuildSpec::new(folder.path().join("input.fbin"), &output) };
        build(&spec, &Silent).unwrap();
        let open = |store| Searcher::open(&output, &OpenOptions { store, ..OpenOptions::default() }).unwrap();
        calibrate_index(&output, &folder.path().join("queries.fbin"), 1, &Silent).unwrap();
        for store in [Store::Mmap, Store::Memory, Store::Uring, Store::Pread] {
            assert_nothing_is_allocated(&open(store), &queries, &format!("{metric} {dense} {store}"));
        }
        for store in [Store::Uring, Store::Pread] {
            let tier = if dense == Element::I8 { Tier::None } else { Tier::Int8 };
            let options = OpenOptions { store, direct: true, page_cache: 16 << 20, tier };
            let searcher = Searcher::open(&output, &options).unwrap();
            assert_nothing_is_allocated(
                &searcher,
                &queries,
                &format!("{metric} {dense} {store}, tier {tier}, page cache"),
            );
        }
        // Of 1,500 rows three each are views of a document.
        let keys = folder.path().join("keys.txt");
        std::fs::write(&keys, (0..1_500).map(|row| format!("{}\n", row / 3)).collect::<String>()).unwrap();
        let views = BuildSpec { keys: Some(keys), views: true, ..spec.clone() };
        build(&views, &Silent).unwrap();
        assert_nothing_is_allocated(&open(Store::Mmap), &queries, &format!("{metric} with views"));
        if metric != Metric::L2 {
            let path = folder.path().join("learned.bg");
            learned(open(Store::Mmap).index(), &path);
            spec.quantizer = Some(path);
            build(&spec, &Silent).unwrap();
            assert_nothing_is_allocated(&open(Store::Mmap), &queries, &format!("{metric} with heads"));
        }
    }
}
