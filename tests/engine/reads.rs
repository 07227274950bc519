//! Fewer vectors read: the int8 tier and the page cache change no hit, whatever is asked for.

use bigrain::dense::{OpenOptions, Store, Tier};
use bigrain::search::{Hit, SearchParams, SearchStats, Searcher};
use bigrain::simd::CodeBits;
use bigrain::train::Silent;
use bigrain::types::{Element, Metric};

use crate::adaptive::{calibrated, target};
use crate::common::{Data, OnDisk, assert_batch_is_single};

const TIER: OpenOptions = OpenOptions { store: Store::Mmap, direct: false, page_cache: 0, tier: Tier::Int8 };
const METRICS: [Metric; 3] = [Metric::Ip, Metric::Cosine, Metric::L2];

fn open(disk: &OnDisk, options: &OpenOptions) -> Searcher {
    Searcher::open(&disk.spec.output, options).unwrap()
}

/// What every query finds, one after the other on one thread.
fn answers(searcher: &Searcher, data: &Data, params: &SearchParams) -> Vec<(Vec<Hit>, SearchStats)> {
    let mut scratch = searcher.scratch();
    let one = |query: &[f32]| {
        let mut hits = Vec::new();
        let stats = searcher.search(query, params, &mut scratch, &mut hits).unwrap();
        (hits, stats)
    };
    data.queries().map(one).collect()
}

/// Fails unless both find the same; the vectors that each read.
fn read_by_both(plain: &Searcher, tiered: &Searcher, data: &Data, params: &SearchParams) -> (u32, u32) {
    let (mut without, mut with) = (0, 0);
    for ((hits, stats), (due, due_stats)) in answers(tiered, data, params).iter().zip(answers(plain, data, params)) {
        assert_eq!(*hits, due, "{params:?}");
        let chosen = due_stats.vectors_read;
        let scored = if chosen as usize > params.k { chosen } else { 0 };
        assert_eq!((stats.candidates, stats.tier_scored), (due_stats.candidates, scored), "{params:?}");
        assert!(stats.vectors_read <= chosen && stats.vectors_read >= chosen.min(params.k as u32), "{stats:?}");
        without += chosen;
        with += stats.vectors_read;
    }
    (without, with)
}

#[test]
fn a_tier_changes_no_hit_and_reads_fewer_vectors() {
    for (seed, metric) in (1..).zip(METRICS) {
        for (dense, bits) in [(Element::F32, CodeBits::Four), (Element::F16, CodeBits::Eight)] {
            let data = Data::clustered(1_500, 24, seed);
            let mut disk = OnDisk::new(&data);
            (disk.spec.metric, disk.spec.dense, disk.spec.code_bits) = (metric, dense, bits);
            disk.build().unwrap();
            let (plain, tiered) = (disk.open().unwrap(), open(&disk, &TIER));
            assert_eq!(tiered.memory_bytes() - plain.memory_bytes(), 1_500 * (24 + 8));
            let (mut without, mut with) = (0, 0);
            for sparse_weight in [0.0, 0.5, 20.0] {
                for (k, candidates) in [(1, 40), (10, 100), (10, 1_500), (50, 60), (70, 70)] {
                    let params = SearchParams { k, nprobe: 5, candidates, sparse_weight, ..SearchParams::default() };
                    let read = read_by_both(&plain, &tiered, &data, &params);
                    (without, with) = (without + read.0, with + read.1);
                    assert_batch_is_single(&tiered, &data.queries, &params);
                }
            }
            assert!(with * 3 < without * 2, "{metric} {dense}: {with} read of {without}");
        }
    }
}

#[test]
fn equal_vectors_stand_in_the_order_of_their_keys_with_a_tier_too() {
    let mut data = Data::clustered(900, 12, 7);
    for at in 5 * 12..data.rows.len() {
        data.rows[at] = data.rows[at % (5 * 12)];
    }
    for metric in METRICS {
        let mut disk = OnDisk::new(&data);
        disk.spec.metric = metric;
        disk.build().unwrap();
        let (plain, tiered) = (disk.open().unwrap(), open(&disk, &TIER));
        for k in [1, 20, 300] {
            let params = SearchParams { k, nprobe: 8, candidates: 900, ..SearchParams::default() };
            read_by_both(&plain, &tiered, &data, &params);
        }
    }
}

#[test]
fn a_tier_serves_recall_targets_too() {
    for metric in [Metric::Cosine, Metric::L2] {
        let (disk, plain, data) = calibrated(metric, CodeBits::Eight);
        let tiered = open(&disk, &TIER);
        let (without, with) = read_by_both(&plain, &tiered, &data, &target(10, 0.95));
        assert!(with < without, "{metric}: {with} of {without}");
    }
}

#[test]
fn a_tier_of_int8_vectors_is_refused() {
    let data = Data::clustered(200, 8, 1);
    let mut disk = OnDisk::new(&data);
    disk.spec.dense = Element::I8;
    disk.build().unwrap();
    let refused = Searcher::open(&disk.spec.output, &TIER).unwrap_err().to_string();
    assert!(refused.contains("dense_tier") && refused.contains("i8 already"), "{refused}");
}

#[test]
fn a_page_cache_changes_no_hit_and_saves_reads() {
    let data = Data::clustered(1_500, 24, 5);
    let disk = OnDisk::new(&data);
    disk.build().unwrap();
    let params = SearchParams { k: 10, nprobe: 4, candidates: 60, ..SearchParams::default() };
    let expected = answers(&disk.open().unwrap(), &data, &params);
    for (store, tier) in [(Store::Pread, Tier::None), (Store::Uring, Tier::None), (Store::Uring, Tier::Int8)] {
        let searcher = open(&disk, &OpenOptions { store, direct: true, page_cache: 8 << 20, tier });
        let before = searcher.memory_bytes();
        for pass in 0..2 {
            for ((hits, stats), (due, _)) in answers(&searcher, &data, &params).iter().zip(&expected) {
                assert_eq!(hits, due, "{store} {tier}");
                let cached = pass == 1;
                assert!(!cached || (stats.vectors_cached, stats.bytes_read) == (stats.vectors_read, 0), "{stats:?}");
            }
        }
        let held = searcher.memory_bytes();
        assert!(held > before);
        // What reads everything leaves the cache as it was, and sees the files.
        let exact = SearchParams { k: 3, exact: true, ..SearchParams::default() };
        assert!(answers(&searcher, &data, &exact).iter().all(|(_, stats)| stats.vectors_cached == 0));
        searcher.index().check(&Silent).unwrap();
        assert_eq!(searcher.memory_bytes(), held);
    }
}
