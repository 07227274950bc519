//! One suite over every way of reading: the same rows, whatever the store, the element type, the size of the records and
//! the number of shards. Records and plans by themselves are tested in `records`, damage and failures in `faults`.

mod cache;
mod faults;
mod records;
mod tier;

use std::fs;
use std::path::PathBuf;

use half::f16;
use tempfile::TempDir;

use super::*;
use crate::simd::Kernels;
use crate::types::{Element, Key, Metric};
use crate::vfs::RealVfs;

const ID: [u8; 16] = *b"dense shard test";
const ELEMENTS: [Element; 3] = [Element::F32, Element::F16, Element::I8];

/// Every way of reading: the store, and whether past the page cache.
const WAYS: [(Store, bool); 6] = [
    (Store::Mmap, false),
    (Store::Memory, false),
    (Store::Pread, false),
    (Store::Pread, true),
    (Store::Uring, false),
    (Store::Uring, true),
];

/// A cache that holds all pages of most sets here, and some of those of the largest.
const PAGE_CACHE: u64 = 256 << 10;

fn options((store, direct): (Store, bool)) -> OpenOptions {
    OpenOptions { store, direct, ..OpenOptions::default() }
}

/// A small seeded generator (splitmix64), so that a failure repeats.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// The vector of a row, before it is stored.
fn vector(dim: usize, row: Row) -> Vec<f32> {
    let mut random = Random(u64::from(row) << 20 | dim as u64);
    (0..dim).map(|_| (random.next() as i32 as f32) / 2f32.powi(28)).collect()
}

fn key(row: Row) -> Key {
    u64::from(row) * 0x1_0000_0001 + 17
}

/// What a stored vector is read as, by the plainest formula.
fn stored(element: Element, vector: &[f32]) -> Vec<f32> {
    let scale = vector.iter().fold(0f32, |m, v| m.max(v.abs())) / 127.0;
    let round = |&v: &f32| match element {
        Element::F32 => v,
        Element::F16 => f16::from_f32(v).to_f32(),
        Element::I8 => (v / scale).round_ties_even() * scale,
    };
    vector.iter().map(round).collect()
}

/// Shards in a temporary directory.
struct Shards {
    dir: TempDir,
    layout: RecordLayout,
    element: Element,
    rows: u64,
    entries: Vec<FileEntry>,
}

impl Shards {
    /// Three shards, the last with a few rows only.
    fn write(element: Element, dim: usize) -> Shards {
        let layout = RecordLayout::new(element, dim).with_rows_per_shard(40);
        let dir = tempfile::tempdir().unwrap();
        let rows = layout.rows_per_shard() * 2 + 13;
        let entries = write(&RealVfs, dir.path(), element, &layout, rows);
        Shards { dir, layout, element, rows, entries }
    }

    fn all(&self) -> Vec<Row> {
        (0..self.rows as Row).collect()
    }

    fn path(&self, shard: usize) -> PathBuf {
        self.dir.path().join(&self.entries[shard].name)
    }

    fn open(&self, way: (Store, bool)) -> Result<DenseSet> {
        self.open_with(&options(way))
    }

    fn open_with(&self, options: &OpenOptions) -> Result<DenseSet> {
        DenseSet::open(&RealVfs, self.dir.path(), &self.entries, &ID, self.layout, self.rows, options)
    }

    /// The set read in every way that this machine has, direct reads with and without a page cache.
    fn sets(&self) -> Vec<DenseSet> {
        let plain = WAYS.map(|way| (way, 0));
        let cached = WAYS.into_iter().filter(|way| way.1).map(|way| (way, PAGE_CACHE));
        let open = |(way, page_cache)| loud(way, self.open_with(&OpenOptions { page_cache, ..options(way) }).unwrap());
        plain.into_iter().chain(cached).filter_map(open).collect()
    }

    /// Whether `set` hands out exactly `rows`, with what was written; what is wrong if not.
    fn check(&self, set: &DenseSet, rows: &[Row], scratch: &mut FetchScratch) -> Result<FetchStats> {
        let mut found = vec![None; rows.len()];
        let stats = set.for_each(rows, scratch, &mut |i, record| {
            let mut decoded = vec![f32::NAN; self.layout.dim()];
            record.decode(&mut decoded);
            assert!(found[i].replace((record.key(), decoded)).is_none(), "{} hands out row {i} twice", set.store());
        })?;
        for (&row, found) in rows.iter().zip(found) {
            let (found_key, decoded) = found.unwrap_or_else(|| panic!("{} leaves out row {row}", set.store()));
            assert_eq!(found_key, key(row), "{} row {row}", set.store());
            assert!(decoded == stored(self.element, &vector(self.layout.dim(), row)), "{} row {row}", set.store());
        }
        assert_eq!(stats.vectors, rows.len());
        Ok(stats)
    }
}

/// Writes `rows` rows in as many shards as they need.
fn write(vfs: &dyn Vfs, dir: &Path, element: Element, layout: &RecordLayout, rows: u64) -> Vec<FileEntry> {
    assert_eq!(layout.stride(), RecordLayout::new(element, layout.dim()).stride());
    let mut writer = DenseWriter::new(vfs, dir, ID, *layout);
    let mut record = vec![0xee; layout.stride()];
    for row in 0..rows as Row {
        layout.encode(&vector(layout.dim(), row), key(row), &mut record).unwrap();
        writer.push_record(&record).unwrap();
    }
    writer.finish().unwrap()
}

/// Says aloud what this machine cannot test.
fn loud((store, direct): (Store, bool), set: DenseSet) -> Option<DenseSet> {
    if set.notes().is_empty() {
        assert_eq!(set.store(), store);
        return Some(set);
    }
    eprintln!("SKIPPED: {store}, direct {direct}: {}", set.notes().join("; "));
    None
}

/// Rows to ask for: none, all, the ends of shards, some, few, twice the same.
fn requests(shards: &Shards, random: &mut Random) -> Vec<Vec<Row>> {
    let (last, edge) = (shards.rows as Row - 1, shards.layout.rows_per_shard() as Row);
    let mut some = |one_in: u64| shards.all().into_iter().filter(|_| random.below(one_in) == 0).collect();
    let edges = vec![0, edge - 1, edge, 2 * edge - 1, 2 * edge, last];
    vec![vec![], shards.all(), edges, vec![last], vec![5, 5, 5, edge, edge], some(2), some(5), some(30)]
}

#[test]
fn every_store_hands_out_what_was_written() {
    let mut random = Random(1);
    for dim in [1, 3, 100, 784, 1025, 3000] {
        for element in ELEMENTS {
            let shards = Shards::write(element, dim);
            assert_eq!(shards.entries.len(), 3);
            let requests = requests(&shards, &mut random);
            // One scratch for all sets: what one leaves in it is no concern of the next.
            let mut scratch = FetchScratch::default();
            for set in shards.sets() {
                for rows in &requests {
                    let stats = shards.check(&set, rows, &mut scratch).unwrap();
                    let reads = matches!(set.store(), Store::Pread | Store::Uring) && stats.cached < rows.len();
                    assert_eq!(stats.reads > 0, reads);
                    assert!(stats.reads <= rows.len());
                }
            }
        }
    }
}

#[test]
fn an_index_without_rows_has_no_shards_and_no_answers() {
    for (store, direct) in WAYS {
        let layout = RecordLayout::new(Element::F32, 8);
        let dir = tempfile::tempdir().unwrap();
        assert!(write(&RealVfs, dir.path(), Element::F32, &layout, 0).is_empty());
        let set = DenseSet::open(&RealVfs, dir.path(), &[], &ID, layout, 0, &options((store, direct))).unwrap();
        let stats = set.for_each(&[], &mut FetchScratch::default(), &mut |_, _| panic!("no rows")).unwrap();
        assert_eq!(stats, FetchStats::default());
    }
}

#[test]
fn sizes_are_foretold() {
    for element in ELEMENTS {
        for dim in [1, 784, 1025] {
            let shards = Shards::write(element, dim);
            let bytes: u64 = (0..3).map(|shard| fs::metadata(shards.path(shard)).unwrap().len()).sum();
            assert_eq!(shards.layout.file_bytes(shards.rows), bytes);
            assert_eq!(shards.entries.iter().map(|entry| entry.bytes).sum::<u64>(), bytes);
            for shard in 0..3 {
                FileReader::open(&RealVfs, &shards.path(shard), Kind::Dense, Some(&ID))
                    .unwrap()
                    .check_all(&mut |_| Ok(()))
                    .unwrap();
            }
        }
    }
}

#[test]
fn scores_are_those_of_the_stored_vectors() {
    for dim in [1, 3, 100, 784, 1025] {
        for element in ELEMENTS {
            let shards = Shards::write(element, dim);
            let query = vector(dim, 9_999);
            for set in shards.sets() {
                let check = &mut |i: usize, record: RecordRef<'_>| {
                    let x = stored(element, &vector(dim, i as Row));
                    let terms = || query.iter().zip(&x).map(|(&q, &x)| (f64::from(q), f64::from(x)));
                    let dot: f64 = terms().map(|(q, x)| q * x).sum();
                    let l2: f64 = terms().map(|(q, x)| (q - x) * (q - x)).sum();
                    let size: f64 = terms().map(|(q, x)| q.abs() * x.abs() + x * x + q * q).sum();
                    for kernels in Kernels::all() {
                        for (metric, exact) in [(Metric::Ip, dot), (Metric::Cosine, dot), (Metric::L2, -l2)] {
                            let score = f64::from(record.score(kernels, metric, &query));
                            assert!((score - exact).abs() <= 4e-6 * size, "{element} {dim} {metric} {score} {exact}");
                        }
                    }
                };
                set.for_each(&shards.all(), &mut FetchScratch::default(), check).unwrap();
            }
        }
    }
}

#[test]
fn many_threads_share_a_set() {
    let shards = Shards::write(Element::F16, 784);
    for set in shards.sets() {
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (set, shards) = (&set, &shards);
                scope.spawn(move || {
                    let (mut random, mut scratch) = (Random(thread), FetchScratch::default());
                    for _ in 0..4 {
                        for rows in requests(shards, &mut random) {
                            shards.check(set, &rows, &mut scratch).unwrap();
                        }
                    }
                });
            }
        });
    }
}

#[test]
fn names_of_stores_are_read_back_and_others_refused() {
    for (store, _) in WAYS {
        assert_eq!(store.to_string().parse::<Store>().unwrap(), store);
    }
    let refused = "disk".parse::<Store>().unwrap_err().to_string();
    assert!(refused.contains("\"disk\"") && refused.contains("mmap, pread, uring, memory"), "{refused}");
}
