//! Damage, failures, panics: an error that names the place, or the right answer; and the scratch is as good as new.

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::*;
use crate::vfs::MemoryVfs;
use crate::vfs::testing::{Fault, FaultyVfs};

/// The byte of a shard file where record `at` begins.
fn start(layout: &RecordLayout, at: u64) -> usize {
    (PAGE + layout.offset(at)) as usize
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

/// The error is `Corrupt`, of this file, and its text holds all of `words`.
fn assert_corrupt<T>(found: Result<T>, path: &Path, words: &[&str]) {
    let Err(error) = found else { panic!("damage of {} went unnoticed", path.display()) };
    let text = error.to_string();
    assert!(matches!(&error, Error::Corrupt { path: named, .. } if named == path), "{text}");
    assert!(words.iter().all(|word| text.contains(word)), "{text} does not say {words:?}");
}

#[test]
fn damage_names_the_file_and_the_row_and_spares_the_others() {
    for (element, dim) in [(Element::F32, 100), (Element::F16, 3000), (Element::I8, 3)] {
        let shards = Shards::write(element, dim);
        let (mut random, mut scratch) = (Random(2), FetchScratch::default());
        for row in [0, 1, shards.layout.rows_per_shard() as Row - 1, shards.rows as Row - 13, shards.rows as Row - 1] {
            let (shard, at) = shards.layout.place(row);
            let (path, stride) = (shards.path(shard), shards.layout.stride());
            // The first and last byte, the key, and one anywhere.
            for byte in [0, stride - 1, stride - 12, random.below(stride as u64) as usize] {
                flip(&path, start(&shards.layout, at) + byte);
                assert_corrupt(shards.open((Store::Memory, false)), &path, &["VECS", "checksum"]);
                let others: Vec<Row> = shards.all().into_iter().filter(|&other| other != row).collect();
                for way in WAYS.into_iter().filter(|way| way.0 != Store::Memory) {
                    let Some(set) = loud(way, shards.open(way).unwrap()) else { continue };
                    for _ in 0..2 {
                        let read = set.for_each(&shards.all(), &mut scratch, &mut |i, _| assert_ne!(i as Row, row));
                        assert_corrupt(read, &path, &[&format!("row {row},"), &format!("record {at} ")]);
                        shards.check(&set, &others, &mut scratch).unwrap();
                    }
                }
                flip(&path, start(&shards.layout, at) + byte);
            }
        }
        for set in shards.sets() {
            shards.check(&set, &shards.all(), &mut scratch).unwrap();
        }
    }
}

#[test]
fn damaged_padding_changes_no_answer_and_is_seen_by_a_check() {
    // Two records a page and zeros after them; the last page ends with zeros that belong to no section.
    let shards = Shards::write(Element::F16, 784);
    let layout = &shards.layout;
    assert!(layout.gap_after(1) > 0);
    let between = start(layout, 1) + layout.stride();
    let behind = fs::metadata(shards.path(2)).unwrap().len() as usize - 1;
    for (shard, byte, words) in [(0, between, ["VECS", "checksum"]), (2, behind, ["padding", "not zero"])] {
        let path = shards.path(shard);
        flip(&path, byte);
        let check = || FileReader::open(&RealVfs, &path, Kind::Dense, Some(&ID)).unwrap().check_all(&mut |_| Ok(()));
        assert_corrupt(check(), &path, &words);
        for way in WAYS {
            // What lies within the section is part of what loading it checks.
            match shards.open(way) {
                Err(error) if way.0 == Store::Memory => assert_corrupt(Err::<(), _>(error), &path, &words),
                set => {
                    shards.check(&set.unwrap(), &shards.all(), &mut FetchScratch::default()).unwrap();
                }
            }
        }
        flip(&path, byte);
        check().unwrap();
    }
}

#[test]
fn files_cut_short_or_grown_are_refused_when_opened() {
    let shards = Shards::write(Element::I8, 1025);
    let path = shards.path(1);
    let whole = fs::read(&path).unwrap();
    let cuts = (0..whole.len()).step_by(4096 - 512);
    let longer = [&whole[..], &[0; 4096]].concat();
    for bytes in cuts.map(|length| &whole[..length]).chain([&whole[..whole.len() - 1], &longer[..]]) {
        fs::write(&path, bytes).unwrap();
        WAYS.into_iter().for_each(|way| assert_corrupt(shards.open(way), &path, &["header"]));
    }
    fs::remove_file(&path).unwrap();
    for way in WAYS {
        let error = shards.open(way).unwrap_err();
        assert!(matches!(&error, Error::Io { path: named, .. } if *named == path), "{error}");
    }
}

#[test]
fn foreign_files_and_wrong_counts_are_refused_when_opened() {
    let shards = Shards::write(Element::F32, 3);
    let open = |entries: &[FileEntry], id: &[u8; 16], rows| {
        DenseSet::open(&RealVfs, shards.dir.path(), entries, id, shards.layout, rows, &OpenOptions::default())
    };
    let entries = &shards.entries;
    open(entries, &ID, shards.rows).unwrap();
    assert!(matches!(open(entries, &[7; 16], shards.rows), Err(Error::Mismatch { .. })));
    assert_corrupt(open(&entries[..2], &ID, shards.rows), shards.dir.path(), &["manifest", "2 dense shards", "need 3"]);
    assert_corrupt(open(entries, &ID, shards.rows + 1), &shards.path(2), &["14 rows"]);
    assert_corrupt(open(entries, &ID, shards.rows - 1), &shards.path(2), &["12 rows"]);
    let mut codes = crate::format::FileWriter::create(&RealVfs, &shards.path(0), Kind::Codes, ID).unwrap();
    codes.write_array(VECS, &[0u8; 9]).unwrap();
    codes.finish().unwrap();
    assert!(matches!(open(entries, &ID, shards.rows), Err(Error::Mismatch { .. })));
}

#[test]
fn a_file_cut_short_behind_an_open_set_is_an_error() {
    for way in WAYS.into_iter().filter(|way| matches!(way.0, Store::Pread | Store::Uring)) {
        let shards = Shards::write(Element::F32, 1025);
        let Some(set) = loud(way, shards.open(way).unwrap()) else { continue };
        let file = fs::OpenOptions::new().write(true).open(shards.path(1)).unwrap();
        file.set_len(PAGE * 3).unwrap();
        let mut scratch = FetchScratch::default();
        let error = set.for_each(&shards.all(), &mut scratch, &mut |_, _| {}).unwrap_err();
        assert!(matches!(&error, Error::Io { path, .. } if *path == shards.path(1)), "{error}");
        let whole: Vec<Row> = (0..40).chain(80..shards.rows as Row).collect();
        shards.check(&set, &whole, &mut scratch).unwrap();
    }
}

#[test]
fn a_panic_while_scoring_leaves_the_scratch_usable() {
    let shards = Shards::write(Element::F32, 3000);
    for set in shards.sets() {
        let mut scratch = FetchScratch::default();
        for stop in [0, 1, 50, shards.rows - 1] {
            let mut seen = 0;
            let scoring = || {
                set.for_each(&shards.all(), &mut scratch, &mut |_, _| {
                    assert!(seen < stop, "as a kernel would for a query of another length");
                    seen += 1;
                })
            };
            assert!(catch_unwind(AssertUnwindSafe(scoring)).is_err());
            shards.check(&set, &[3, 50, 92], &mut scratch).unwrap();
            shards.check(&set, &shards.all(), &mut scratch).unwrap();
        }
    }
}

#[test]
fn every_failing_operation_is_an_error_and_passes() {
    let dir = Path::new("/dense");
    let layout = RecordLayout::new(Element::F16, 100).with_rows_per_shard(40);
    let rows = layout.rows_per_shard() * 2 + 13;
    let memory = MemoryVfs::new();
    memory.create_dir_all(dir).unwrap();
    let entries = write(&memory, dir, Element::F16, &layout, rows);
    let all: Vec<Row> = (0..rows as Row).collect();
    let cached = OpenOptions { page_cache: PAGE_CACHE, ..options((Store::Pread, true)) };
    for options in WAYS.into_iter().map(options).chain([cached]) {
        let OpenOptions { store, direct, page_cache, .. } = options;
        let mut scratch = FetchScratch::default();
        let mut job = |vfs: &FaultyVfs| -> Result<()> {
            let set = DenseSet::open(vfs, dir, &entries, &ID, layout, rows, &options)?;
            let mut read =
                || set.for_each(&all, &mut scratch, &mut |i, record| assert_eq!(record.key(), key(i as Row)));
            let first = read();
            let second = read().unwrap();
            assert_eq!(second.vectors, all.len(), "the fault has passed");
            assert!(page_cache > 0 || second.cached == 0, "{second:?}");
            first.map(drop)
        };
        let mut fault_at = |n| {
            let vfs = FaultyVfs::once(Arc::new(memory.clone()), n, Fault::Error(ErrorKind::Other));
            (job(&vfs), vfs.operations())
        };
        let (whole, operations) = fault_at(u64::MAX);
        whole.unwrap();
        for n in 0..operations / 2 {
            match fault_at(n).0 {
                Err(error) => assert!(matches!(error, Error::Io { .. }), "{store} {n}: {error}"),
                // The first direct open or read decides whether reads are direct; without them the cache serves.
                Ok(()) => assert!(direct && n >= 6, "{store} {n}: the fault went unnoticed"),
            }
        }
    }
}

#[test]
fn what_cannot_be_had_is_told_once() {
    let dir = Path::new("/dense");
    let layout = RecordLayout::new(Element::F32, 784).with_rows_per_shard(40);
    let rows = layout.rows_per_shard() * 3;
    let memory = MemoryVfs::new();
    memory.create_dir_all(dir).unwrap();
    let entries = write(&memory, dir, Element::F32, &layout, rows);
    let open = |vfs: &dyn Vfs, store, direct| {
        DenseSet::open(vfs, dir, &entries, &ID, layout, rows, &options((store, direct))).unwrap()
    };
    let set = open(&memory, Store::Uring, false);
    assert_eq!((set.store(), set.notes().len()), (Store::Pread, 1), "{:?}", set.notes());
    assert!(open(&memory, Store::Pread, true).notes().is_empty(), "memory has no cache to pass");
    // Three opens and reads of headers, then the first direct open, which fails; the others are not tried.
    let vfs = FaultyVfs::once(Arc::new(memory), 6, Fault::Error(ErrorKind::InvalidInput));
    let set = open(&vfs, Store::Pread, true);
    assert_eq!((set.notes().len(), vfs.operations()), (1, 7));
    assert!(set.notes()[0].contains("direct reads are not available"), "{:?}", set.notes());
    let keys = &mut |i: usize, record: RecordRef<'_>| assert_eq!(record.key(), key(i as Row * 7));
    let some: Vec<Row> = (0..rows as Row).step_by(7).collect();
    set.for_each(&some, &mut FetchScratch::default(), keys).unwrap();
}
