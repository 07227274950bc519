//! The int8 tier: its bounds hold for every kernel, metric and size of number, and are narrow enough to be of use.

use proptest::prelude::*;
use std::io::ErrorKind;
use std::sync::Arc;

use super::*;
use crate::vfs::MemoryVfs;
use crate::vfs::testing::{Fault, FaultyVfs};

const TIER: OpenOptions = OpenOptions { store: Store::Mmap, direct: false, page_cache: 0, tier: Tier::Int8 };

/// A set with a tier of these vectors.
fn set_of(element: Element, dim: usize, vectors: &[f32]) -> Result<DenseSet> {
    let (memory, dir, layout) = (MemoryVfs::new(), Path::new("/dense"), RecordLayout::new(element, dim));
    memory.create_dir_all(dir).unwrap();
    let mut writer = DenseWriter::new(&memory, dir, ID, layout);
    let mut record = vec![0; layout.stride()];
    for vector in vectors.chunks(dim) {
        layout.encode(vector, 7, &mut record).unwrap();
        writer.push_record(&record).unwrap();
    }
    let entries = writer.finish().unwrap();
    DenseSet::open(&memory, dir, &entries, &ID, layout, (vectors.len() / dim) as u64, &TIER)
}

/// Calls `check` with the bounds and the score of every row, for all kernels and metrics.
fn each_bound(set: &DenseSet, query: &[f32], mut check: impl FnMut(Metric, (f32, f32), f32)) {
    let rows: Vec<Row> = (0..set.rows() as Row).collect();
    let tier = set.tier().expect("it was asked for");
    for kernels in Kernels::all() {
        for metric in [Metric::Ip, Metric::Cosine, Metric::L2] {
            let each = &mut |i: usize, record: RecordRef<'_>| {
                let bounds = tier.bounds(kernels, metric, TierQuery::new(query), rows[i]);
                check(metric, bounds, record.score(kernels, metric, query));
            };
            set.for_each(&rows, &mut FetchScratch::default(), each).unwrap();
        }
    }
}

/// Values of one magnitude with outliers, zeros and repetitions.
fn values(length: usize, magnitude: i32, seed: u64) -> Vec<f32> {
    let mut random = Random(seed);
    let mut value = || match random.below(12) {
        0 => 0.0,
        1 => 1.0,
        2 => 30.0 * (random.next() as i32 as f32) / 2f32.powi(31),
        _ => (random.next() as i32 as f32) / 2f32.powi(31),
    };
    (0..length).map(|_| value() * 10f32.powi(magnitude)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
    #[test]
    fn scores_lie_within_their_bounds(
        dim in 1usize..300,
        f16 in any::<bool>(),
        sizes in (-44i32..13, -44i32..13),
        near in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let size = if f16 { sizes.0.clamp(-8, 3) } else { sizes.0 };
        let vectors = values(dim * 20, size, seed);
        // Distances to a copy of a vector are where the sums cancel.
        let query = if near { vectors[..dim].to_vec() } else { values(dim, sizes.1, seed ^ 1) };
        let set = set_of(if f16 { Element::F16 } else { Element::F32 }, dim, &vectors).unwrap();
        let mut outside = Vec::new();
        each_bound(&set, &query, |metric, (low, high), score| {
            if !(low <= score && score <= high) {
                outside.push((metric, low, score, high));
            }
        });
        prop_assert!(outside.is_empty(), "{:?}", outside);
    }
}

#[test]
fn bounds_are_narrow() {
    for dim in [24, 128, 768] {
        let set = set_of(Element::F32, dim, &values(dim * 50, 0, 3)).unwrap();
        let query = values(dim, 0, 4);
        let product = f64::from(query.iter().map(|v| v * v).sum::<f32>());
        each_bound(&set, &query, |metric, (low, high), score| {
            // An element is off by a 441th of the largest one on average; the largest here is a few times the mean.
            let width = f64::from(high) - f64::from(low);
            let size = if metric == Metric::L2 { f64::from(-score) } else { product };
            assert!(width <= 0.2 * size, "{metric} {dim}: {width} of {size}");
        });
        assert_eq!(set.memory_bytes(), 50 * (dim as u64 + 8));
    }
}

#[test]
fn every_store_makes_the_same_tier() {
    let shards = Shards::write(Element::F16, 101);
    let tiers: Vec<DenseSet> =
        WAYS.iter().map(|&way| shards.open_with(&OpenOptions { tier: Tier::Int8, ..options(way) }).unwrap()).collect();
    let query = vector(101, 12_345);
    for row in shards.all() {
        let bounds =
            |set: &DenseSet| set.tier().unwrap().bounds(Kernels::detect(), Metric::Ip, TierQuery::new(&query), row);
        assert!(tiers.iter().all(|set| bounds(set) == bounds(&tiers[0])), "row {row}");
    }
    assert!(tiers.iter().all(|set| set.memory_bytes() == shards.rows * (104 + 8)));
}

#[test]
fn int8_vectors_are_refused_and_damage_and_failures_are_told() {
    let refused = set_of(Element::I8, 8, &[0.5; 80]).unwrap_err().to_string();
    assert!(refused.contains("dense_tier") && refused.contains("i8 already"), "{refused}");
    assert!("int4".parse::<Tier>().unwrap_err().to_string().contains("none, int8"));

    let shards = Shards::write(Element::F32, 100);
    let mut bytes = fs::read(shards.path(1)).unwrap();
    bytes[PAGE as usize + 1] ^= 1;
    fs::write(shards.path(1), bytes).unwrap();
    let damaged = shards.open_with(&TIER).unwrap_err();
    assert!(matches!(&damaged, Error::Corrupt { path, .. } if *path == shards.path(1)), "{damaged}");

    let (memory, dir) = (MemoryVfs::new(), Path::new("/dense"));
    memory.create_dir_all(dir).unwrap();
    let layout = RecordLayout::new(Element::F32, 20);
    let entries = write(&memory, dir, Element::F32, &layout, 300);
    let positioned = OpenOptions { store: Store::Pread, ..TIER };
    // An open and a read of the header, then the reads of records.
    let vfs = FaultyVfs::once(Arc::new(memory), 2, Fault::Error(ErrorKind::Other));
    let failed = DenseSet::open(&vfs, dir, &entries, &ID, layout, 300, &positioned).unwrap_err();
    assert!(matches!(failed, Error::Io { .. }), "{failed}");
}

#[test]
fn a_set_without_rows_has_an_empty_tier() {
    let layout = RecordLayout::new(Element::F32, 8);
    let set = DenseSet::open(&MemoryVfs::new(), Path::new("/"), &[], &ID, layout, 0, &TIER).unwrap();
    assert!(set.tier().is_some() && set.rows() == 0);
}
