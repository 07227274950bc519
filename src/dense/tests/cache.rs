//! The page cache: what it saves, what it never holds, what it survives. That it changes no answer is part of every other suite.

use super::*;

/// Positioned reads past the system's cache (or through it, where a file system has no other), with a cache of `page_cache`.
fn cached(page_cache: u64) -> OpenOptions {
    OpenOptions { page_cache, ..options((Store::Pread, true)) }
}

/// Rows of `rows` that come from memory.
fn hits(shards: &Shards, set: &DenseSet, rows: &[Row]) -> usize {
    shards.check(set, rows, &mut FetchScratch::default()).unwrap().cached
}

fn flip(path: &Path, at: u64) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at as usize] ^= 4;
    fs::write(path, bytes).unwrap();
}

#[test]
fn what_was_read_once_is_not_read_again() {
    for (element, dim) in [(Element::F32, 100), (Element::I8, 3), (Element::F16, 3000)] {
        let shards = Shards::write(element, dim);
        let set = shards.open_with(&cached(4 << 20)).unwrap();
        let (all, mut scratch) = (shards.all(), FetchScratch::default());
        assert_eq!(set.memory_bytes(), 0);
        assert!(shards.check(&set, &all, &mut scratch).unwrap().reads > 0);
        let held = set.memory_bytes();
        let records = shards.rows * shards.layout.stride() as u64;
        assert!((records..4 << 20).contains(&held), "{held} of {records}");
        let again = shards.check(&set, &all, &mut scratch).unwrap();
        assert_eq!(again, FetchStats { vectors: all.len(), cached: all.len(), bytes: 0, reads: 0 });
        // A row brings the others of its page, and what lies between cached rows is read.
        let set = shards.open_with(&cached(4 << 20)).unwrap();
        assert_eq!(hits(&shards, &set, &[5]), 0);
        let some = shards.layout.block_rows();
        let of_block = all.iter().filter(|&&row| row as usize / some == 5 / some).count();
        assert_eq!(hits(&shards, &set, &all), of_block, "{element} {dim}");
    }
}

#[test]
fn hits_need_no_file_and_reads_past_the_cache_do() {
    let shards = Shards::write(Element::F32, 784);
    let set = shards.open_with(&cached(4 << 20)).unwrap();
    assert_eq!(hits(&shards, &set, &shards.all()), 0);
    let held = set.memory_bytes();
    flip(&shards.path(1), PAGE + 8);
    assert_eq!(hits(&shards, &set, &shards.all()), shards.rows as usize);
    let once = set.for_each_once(&shards.all(), &mut FetchScratch::default(), &mut |_, _| {});
    assert!(matches!(once, Err(Error::Corrupt { .. })), "{once:?}");
    flip(&shards.path(1), PAGE + 8);
    let once = set.for_each_once(&shards.all(), &mut FetchScratch::default(), &mut |_, _| {}).unwrap();
    assert_eq!((once.cached, set.memory_bytes()), (0, held));
}

#[test]
fn a_page_with_a_damaged_record_is_never_kept() {
    // Nine records a page; the second one is damaged.
    let shards = Shards::write(Element::F32, 100);
    let set = shards.open_with(&cached(4 << 20)).unwrap();
    let byte = PAGE + shards.layout.offset(1) + 77;
    flip(&shards.path(0), byte);
    for _ in 0..3 {
        assert_eq!(hits(&shards, &set, &[0, 2, 8]), 0, "its neighbours are handed out, and not kept");
        let read = set.for_each(&[1], &mut FetchScratch::default(), &mut |_, _| panic!("it is damaged"));
        assert!(matches!(read, Err(Error::Corrupt { .. })), "{read:?}");
    }
    assert_eq!(set.memory_bytes(), 0);
    assert_eq!((hits(&shards, &set, &[9]), hits(&shards, &set, &[9])), (0, 1), "the next page is whole");
    flip(&shards.path(0), byte);
    assert_eq!((hits(&shards, &set, &[0, 1]), hits(&shards, &set, &[0, 1])), (0, 2));
}

#[test]
fn memory_stays_within_the_bound_and_a_scan_does_not_wash_out_what_is_asked_for() {
    let layout = RecordLayout::new(Element::F32, 1025).with_rows_per_shard(400);
    let (dir, rows) = (tempfile::tempdir().unwrap(), 813);
    let entries = write(&RealVfs, dir.path(), Element::F32, &layout, rows);
    let shards = Shards { dir, layout, element: Element::F32, rows, entries };
    let bytes = 100 * (layout.stride() as u64 + 200);
    let set = shards.open_with(&cached(bytes)).unwrap();
    let hot: Vec<Row> = (0..50).map(|i| i * 16 + 3).collect();
    for _ in 0..4 {
        hits(&shards, &set, &hot);
    }
    assert_eq!(hits(&shards, &set, &hot), 50);
    for _ in 0..3 {
        hits(&shards, &set, &shards.all());
        assert!((bytes / 2..=bytes).contains(&set.memory_bytes()), "{} of {bytes}", set.memory_bytes());
        let left = hits(&shards, &set, &hot);
        assert!(left >= 40, "{left} of 50 outlived a scan of 813 through room for 100");
    }
}

#[test]
fn a_cache_of_no_use_is_refused() {
    let shards = Shards::write(Element::F32, 784);
    for (way, words) in [
        ((Store::Mmap, false), "mmap without direct"),
        ((Store::Memory, true), "not to memory;"),
        ((Store::Uring, false), "uring without direct"),
    ] {
        let refused = shards.open_with(&OpenOptions { page_cache: 1 << 20, ..options(way) }).unwrap_err().to_string();
        assert!(refused.contains("1048576") && refused.contains(words) && refused.contains("give 0"), "{refused}");
    }
    let refused = shards.open_with(&cached(9_999)).unwrap_err().to_string();
    assert!(refused.contains("9999 bytes") && refused.contains("give at least"), "{refused}");
    shards.open_with(&cached(u64::MAX)).unwrap();
}
