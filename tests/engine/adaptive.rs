//! A recall to aim for in place of lists and candidates: calibrated with some queries, met on others, at less cost.

use bigrain::build::BuildSpec;
use bigrain::calibrate::calibrate_index;
use bigrain::dataset::synthetic::{Clustered, Draw};
use bigrain::search::{SearchParams, SearchStats, Searcher};
use bigrain::simd::CodeBits;
use bigrain::train::Silent;
use bigrain::types::Metric;

use crate::common::{Data, OnDisk, recall, scores, search, write_vectors};

const DIM: usize = 24;
const ROWS: usize = 6_000;

/// An index of clustered rows, calibrated with 300 queries; and 200 other queries.
pub(crate) fn calibrated(metric: Metric, code_bits: CodeBits) -> (OnDisk, Searcher, Data) {
    let shape = Clustered { rows: ROWS as u64, dim: DIM, clusters: 60, spread: 0.7, seed: 5 };
    let generator = shape.generator().unwrap();
    let mut data = Data { dim: DIM, rows: vec![0.0; ROWS * DIM], queries: vec![0.0; 500 * DIM] };
    generator.fill(Draw::Rows, 0, &mut data.rows);
    generator.fill(Draw::Queries, 0, &mut data.queries);
    let others = data.queries.split_off(300 * DIM);
    let mut disk = OnDisk::new(&data);
    disk.spec = BuildSpec { metric, lists: Some(64), code_bits, code_bytes: Some(12), ..disk.spec };
    disk.build().unwrap();
    let path = write_vectors(disk.folder.path(), "queries.npy", DIM, &data.queries);
    let tables = calibrate_index(&disk.spec.output, &path, 1, &Silent).unwrap();
    assert_eq!(tables.iter().map(|t| t.k).collect::<Vec<_>>(), [10, 100]);
    let searcher = disk.open().unwrap();
    data.queries = others;
    (disk, searcher, data)
}

/// Mean recall at `params.k` over the queries, and the sums of what they cost.
fn measured(searcher: &Searcher, data: &Data, params: &SearchParams) -> (f64, SearchStats) {
    let (mut total, mut cost, mut hits) = (0.0, SearchStats::default(), Vec::new());
    let mut scratch = searcher.scratch();
    for query in data.queries() {
        let stats = searcher.search(query, params, &mut scratch, &mut hits).unwrap();
        total += recall(&hits, &scores(searcher.metric(), &data.rows, query), params.k);
        cost.rows_scanned += stats.rows_scanned;
        cost.vectors_read += stats.vectors_read;
        cost.rounds = cost.rounds.max(stats.rounds);
    }
    (total / data.queries().count() as f64, cost)
}

pub(crate) fn target(k: usize, recall_target: f32) -> SearchParams {
    SearchParams { k, recall_target, ..SearchParams::default() }
}

#[test]
fn targets_are_met_on_other_queries_and_more_recall_costs_more() {
    for (metric, bits) in
        [(Metric::Cosine, CodeBits::Eight), (Metric::L2, CodeBits::Four), (Metric::Ip, CodeBits::Eight)]
    {
        let (_disk, searcher, data) = calibrated(metric, bits);
        let mut before = (0, 0);
        for aim in [0.8, 0.9, 0.95] {
            let (found, cost) = measured(&searcher, &data, &target(10, aim));
            // 150 queries chose: a standard error of about .015, and as much for those that are measured.
            assert!((f64::from(aim) - 0.06..f64::from(aim) + 0.06).contains(&found), "{metric} {aim}: {found}");
            assert!(
                cost.rounds <= 2 && (cost.rows_scanned, u64::from(cost.vectors_read)) > before,
                "{metric}: {cost:?}"
            );
            before = (cost.rows_scanned, cost.vectors_read.into());
        }
        let (found, _) = measured(&searcher, &data, &target(100, 0.9));
        assert!(found > 0.84, "{metric}: {found}");
    }
}

#[test]
fn a_target_scans_and_reads_less_than_fixed_numbers_that_find_as_much() {
    let (_disk, searcher, data) = calibrated(Metric::L2, CodeBits::Eight);
    let (found, cost) = measured(&searcher, &data, &target(10, 0.95));
    let fixed = |nprobe, candidates| SearchParams { k: 10, nprobe, candidates, ..SearchParams::default() };
    let nprobe = (1..=64).find(|&n| measured(&searcher, &data, &fixed(n, 400)).0 >= found).unwrap();
    let candidates = (10..400).step_by(10).find(|&c| measured(&searcher, &data, &fixed(nprobe, c)).0 >= found);
    let (_, of_fixed) = measured(&searcher, &data, &fixed(nprobe, candidates.unwrap_or(400)));
    assert!(cost.rows_scanned < of_fixed.rows_scanned, "{cost:?} {of_fixed:?}");
    assert!(cost.vectors_read < of_fixed.vectors_read, "{cost:?} {of_fixed:?}");
}

#[test]
fn a_calibrated_index_is_whole_and_calibration_repeats() {
    let (disk, searcher, _) = calibrated(Metric::Cosine, CodeBits::Eight);
    searcher.index().check(&Silent).unwrap();
    let queries = disk.folder.path().join("queries.npy");
    let again = calibrate_index(&disk.spec.output, &queries, 1, &Silent).unwrap();
    assert_eq!(again, searcher.index().manifest().calibration);
    // A build over it forgets what was calibrated for the old one.
    disk.build().unwrap();
    assert!(disk.open().unwrap().index().manifest().calibration.is_empty());
}

#[test]
fn targets_that_cannot_be_met_are_refused() {
    let (disk, searcher, data) = calibrated(Metric::Cosine, CodeBits::Eight);
    let query = &data.queries[..DIM];
    let refused = |searcher: &Searcher, params: &SearchParams| search(searcher, query, params).unwrap_err().to_string();
    assert!(refused(&searcher, &target(10, 0.999_99)).contains("lower it"));
    assert!(refused(&searcher, &target(10, 1.0)).contains("exact"));
    assert!(refused(&searcher, &target(10, f32::NAN)).contains("NaN"));
    assert!(refused(&searcher, &SearchParams { nprobe: 3, ..target(10, 0.9) }).contains("nprobe"));
    let folder = disk.folder.path();
    let few = write_vectors(folder, "few.npy", DIM, &data.queries[..5 * DIM]);
    let message = calibrate_index(&disk.spec.output, &few, 1, &Silent).unwrap_err().to_string();
    assert!(message.contains("too few"), "{message}");
    let narrow = write_vectors(folder, "narrow.npy", 8, &data.queries[..80 * 8]);
    assert!(calibrate_index(&disk.spec.output, &narrow, 1, &Silent).unwrap_err().to_string().contains("dimension"));
    disk.build().unwrap();
    assert!(refused(&disk.open().unwrap(), &target(10, 0.9)).contains("--queries"));
}
