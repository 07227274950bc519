//! What is acknowledged stays, through crashes, failing disks and damage; what cannot be kept is refused.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{FILE_BYTES, HEADER, Journal, file};
use crate::error::{Error, Result};
use crate::vfs::testing::{CrashVfs, Fault, FaultyVfs, Survival};
use crate::vfs::{MemoryVfs, RealVfs, Vfs};

const DIR: &str = "/data/log";

fn payload(seq: u64) -> Vec<u8> {
    // Some are longer than what survives a crash in one piece, some are empty.
    let length = [0, 3, 5_000, 40, 9_000][seq as usize % 5];
    (0..length).map(|i| (seq * 31 + i) as u8).collect()
}

fn payloads(seqs: std::ops::RangeInclusive<u64>) -> Vec<Vec<u8>> {
    seqs.map(payload).collect()
}

/// Opens the journal; the numbers replayed, each with the payload that belongs to it.
fn open(vfs: impl Vfs + 'static) -> Result<(Journal, Vec<u64>)> {
    let mut seqs = Vec::new();
    let journal = Journal::open(Arc::new(vfs), Path::new(DIR), &mut |seq, bytes| {
        assert!(seqs.last().is_none_or(|last| last + 1 == seq), "{seq} after {seqs:?}");
        assert_eq!(bytes, payload(seq), "payload of {seq}");
        seqs.push(seq);
        Ok(())
    })?;
    assert_eq!(journal.last_seq(), seqs.last().copied().unwrap_or(journal.first_seq() - 1));
    assert_eq!(journal.first_seq(), seqs.first().copied().unwrap_or(journal.last_seq() + 1));
    Ok((journal, seqs))
}

/// A log file by the number of its first record.
fn path(first: u64) -> PathBuf {
    Path::new(DIR).join(format!("log-{first:020}.bg"))
}

#[test]
fn records_come_back_in_order_and_trimming_keeps_the_rest() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("journal");
    let reopen = || {
        let mut seqs = Vec::new();
        let journal = Journal::open(Arc::new(RealVfs), &dir, &mut |seq, bytes| {
            assert!(bytes == payload(seq) || bytes == b"later");
            seqs.push(seq);
            Ok(())
        });
        journal.map(|journal| (journal, seqs))
    };
    let (mut journal, _) = reopen().unwrap();
    let id = journal.id();
    assert_eq!((journal.last_seq(), journal.first_seq(), journal.append(&[]).unwrap()), (0, 1, 0));
    assert_eq!(journal.append(&payloads(1..=3)).unwrap(), 3);
    journal.trim(2).unwrap();
    assert_eq!(journal.first_seq(), 1, "record 3 is in the file of 1 and 2");
    assert_eq!(journal.append(&payloads(4..=9)).unwrap(), 9);
    journal.trim(3).unwrap();
    let records = journal.records();
    journal.append(&[b"later".to_vec()]).unwrap();
    for from in 0..=records.last_seq() + 1 {
        let mut seqs = Vec::new();
        let each = &mut |seq, bytes: &[u8]| {
            assert_eq!(bytes, payload(seq));
            seqs.push(seq);
            Ok(())
        };
        records.replay(from, each).unwrap();
        assert_eq!(seqs, (from.max(4)..=9).collect::<Vec<_>>());
    }
    assert!(matches!(reopen().err(), Some(Error::InvalidParams { .. })), "it is open");
    drop(journal);
    let (mut journal, seqs) = reopen().unwrap();
    assert_eq!((seqs, journal.id()), ((4..=10).collect(), id));
    let files: u64 = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert_eq!(journal.bytes(), files);
    journal.trim(u64::MAX).unwrap();
    journal.trim(u64::MAX).unwrap();
    assert_eq!((journal.bytes(), journal.first_seq(), journal.last_seq()), (HEADER as u64, 11, 10));
    drop(journal);
    let (mut journal, seqs) = reopen().unwrap();
    assert!(seqs.is_empty());
    assert_eq!(journal.append(&payloads(11..=11)).unwrap(), 11);
}

#[test]
fn long_files_are_followed_by_new_ones() {
    let (vfs, dir) = (Arc::new(MemoryVfs::new()), Path::new(DIR));
    let mut journal = Journal::open(vfs.clone(), dir, &mut |_, _| Ok(())).unwrap();
    let long = vec![7u8; FILE_BYTES as usize / 2];
    for _ in 0..3 {
        journal.append(std::slice::from_ref(&long)).unwrap();
    }
    assert_eq!(vfs.list(dir).unwrap(), [path(1), path(3)]);
    drop(journal);
    let mut count = 0;
    let replay = &mut |_, bytes: &[u8]| {
        count += usize::from(bytes == long);
        Ok(())
    };
    assert_eq!(Journal::open(vfs, dir, replay).unwrap().bytes(), 2 * HEADER as u64 + 3 * (24 + FILE_BYTES / 2));
    assert_eq!(count, 3);
}

/// What was promised: records up to `acked` are there, but for those up to `trimmed`, which need not be; none beyond `tried` is.
#[derive(Clone, Copy, Debug, Default)]
struct Promise {
    acked: u64,
    tried: u64,
    trimmed: u64,
}

/// Appends, trims and opens again; notes the promise after each step by the number of operations done.
fn job(vfs: &CrashVfs, first: u64, promises: &mut Vec<(usize, Promise)>) {
    let mut promise =
        Promise { acked: first - 1, tried: first - 1, trimmed: promises.last().map_or(0, |p| p.1.trimmed) };
    let (mut journal, _) = open(vfs.clone()).unwrap();
    for (step, count) in [1u64, 4, 2, 7, 1, 3].into_iter().enumerate() {
        if step == 3 {
            drop(journal);
            journal = open(vfs.clone()).unwrap().0;
        }
        promise.tried += count;
        promises.push((vfs.operations(), promise));
        assert_eq!(journal.append(&payloads(promise.acked + 1..=promise.tried)).unwrap(), promise.tried);
        promise.acked = promise.tried;
        promises.push((vfs.operations(), promise));
        if step % 2 == 1 {
            promise.trimmed = promise.acked - 1;
            promises.push((vfs.operations(), promise));
            journal.trim(promise.trimmed).unwrap();
        }
    }
}

/// The promise that held when the crash came: acknowledged before it, tried at that moment.
fn promise_at(promises: &[(usize, Promise)], operation: usize) -> Promise {
    promises.iter().take_while(|(at, _)| *at <= operation).last().map_or(Promise::default(), |p| p.1)
}

fn check(seqs: &[u64], journal: &Journal, promise: Promise, what: &str) {
    let last = journal.last_seq();
    assert!((promise.acked..=promise.tried).contains(&last), "{what}: {last} is not within {promise:?}");
    assert!(journal.first_seq() <= promise.trimmed + 1, "{what}: {} lost, {promise:?}", promise.trimmed + 1);
    assert_eq!(seqs.len() as u64, last + 1 - journal.first_seq(), "{what}");
}

fn survivals(operation: usize) -> impl Iterator<Item = Survival> {
    let random = (0..8).map(move |i| Survival::Random(operation as u64 * 8 + i));
    [Survival::None, Survival::All].into_iter().chain(random)
}

#[test]
fn no_crash_loses_an_acknowledged_record_also_in_recovery() {
    let vfs = CrashVfs::new(&MemoryVfs::new());
    let mut promises = Vec::new();
    job(&vfs, 1, &mut promises);
    let (mut cuts, mut crashes) = (0, 0);
    for operation in 0..=vfs.operations() {
        let promise = promise_at(&promises, operation);
        for survival in survivals(operation) {
            let what = format!("crash after {operation}, {survival:?}");
            let disk = vfs.after_crash(operation, survival);
            let again = CrashVfs::new(&disk);
            let (mut journal, seqs) = open(again.clone()).unwrap_or_else(|error| panic!("{what}: {error}"));
            check(&seqs, &journal, promise, &what);
            cuts += usize::from(journal.cut().is_some());
            let recovered = (again.operations(), journal.last_seq());
            let next = journal.append(&payloads(recovered.1 + 1..=recovered.1 + 3)).unwrap();
            drop(journal);
            for operation in 0..=again.operations() {
                let what = format!("{what}, then after {operation} of {}", again.operations());
                let found = open(again.after_crash(operation, Survival::Random(operation as u64)));
                let (journal, seqs) = found.unwrap_or_else(|error| panic!("{what}: {error}"));
                let acked = if operation >= recovered.0 { recovered.1 } else { promise.acked };
                let acked = if operation == again.operations() { next } else { acked };
                check(&seqs, &journal, Promise { acked, tried: next.max(promise.tried), ..promise }, &what);
                crashes += 1;
            }
        }
    }
    assert!(cuts > 15 && crashes > 2_000, "{cuts} torn ends in {crashes} crashes");
}

fn copy(vfs: &MemoryVfs) -> MemoryVfs {
    let copy = MemoryVfs::new();
    for (path, bytes) in vfs.snapshot() {
        bytes.map_or_else(|| copy.create_dir_all(&path), |bytes| copy.put(&path, &bytes)).unwrap();
    }
    copy
}

/// Opens, appends twice and trims on a disk that fails; the last number acknowledged and the last one tried.
fn faulty_job(vfs: &FaultyVfs) -> (u64, u64) {
    let Ok((mut journal, seqs)) = open(vfs.clone()) else { return (4, 4) };
    let mut acked = seqs.last().copied().unwrap();
    let tried = acked + 4;
    for end in [acked + 2, tried] {
        match journal.append(&payloads(acked + 1..=end)) {
            Ok(last) => acked = last,
            Err(error) => {
                assert!(matches!(error, Error::Io { .. }), "{error}");
                let message = journal.append(&payloads(acked + 1..=end)).unwrap_err().to_string();
                assert!(message.contains("restart to write again"), "{message}");
                assert_eq!(journal.last_seq(), acked);
                assert!(journal.trim(acked).is_err());
                return (acked, tried);
            }
        }
    }
    if journal.trim(2).is_err() && journal.append(&payloads(acked + 1..=acked + 1)).is_ok() {
        acked += 1;
    }
    (acked, tried.max(acked))
}

#[test]
fn a_failing_disk_stops_writes_and_loses_nothing() {
    let base = MemoryVfs::new();
    let (mut journal, _) = open(base.clone()).unwrap();
    journal.append(&payloads(1..=2)).unwrap();
    journal.trim(1).unwrap();
    journal.append(&payloads(3..=4)).unwrap();
    drop(journal);
    let healthy = FaultyVfs::once(Arc::new(copy(&base)), u64::MAX, Fault::Partial);
    assert_eq!(faulty_job(&healthy), (8, 8));
    for n in 0..healthy.operations() {
        for fault in [Fault::Partial, Fault::Error(ErrorKind::StorageFull)] {
            for lasting in [false, true] {
                let disk = copy(&base);
                let inner = Arc::new(disk.clone());
                let vfs =
                    if lasting { FaultyVfs::starting_at(inner, n, fault) } else { FaultyVfs::once(inner, n, fault) };
                let (acked, tried) = faulty_job(&vfs);
                let what = format!("{fault:?} at {n}, lasting: {lasting}");
                let (mut journal, seqs) = open(disk).unwrap_or_else(|error| panic!("{what}: {error}"));
                check(&seqs, &journal, Promise { acked, tried, trimmed: 2 }, &what);
                let next = journal.last_seq() + 1;
                assert_eq!(journal.append(&payloads(next..=next)).unwrap(), next, "{what}");
            }
        }
    }
}

#[test]
fn any_flipped_bit_is_noticed_or_takes_only_the_last_write() {
    let base = MemoryVfs::new();
    let (mut journal, _) = open(base.clone()).unwrap();
    for seqs in [1..=1, 3..=3, 5..=5, 6..=6] {
        // Short payloads only: every bit of them is flipped.
        journal
            .append(&payloads(seqs.clone()).iter().map(|p| p[..p.len().min(9)].to_vec()).collect::<Vec<_>>())
            .unwrap();
    }
    drop(journal);
    let bytes = base.bytes(&path(1)).unwrap();
    let last_record = bytes.len() - (file::RECORD + payload(6).len().min(9));
    let numbers = |vfs: MemoryVfs| {
        let mut seqs = Vec::new();
        let opened = Journal::open(Arc::new(vfs), Path::new(DIR), &mut |seq, _| {
            seqs.push(seq);
            Ok(())
        });
        opened.map(|journal| (seqs, journal.cut().cloned()))
    };
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << bit;
            let vfs = MemoryVfs::new();
            vfs.put(&path(1), &bad).unwrap();
            match numbers(vfs) {
                Err(Error::Corrupt { path: found, section, .. }) => {
                    assert!(found == path(1) && section.contains("offset"), "{section}");
                }
                Err(Error::Unsupported { .. }) => panic!("a flipped bit makes no newer version"),
                Err(error) => panic!("byte {at}: {error}"),
                Ok((seqs, cut)) => {
                    assert!(at >= last_record, "byte {at} bit {bit}");
                    assert_eq!((seqs.len(), cut.unwrap().offset), (3, last_record as u64));
                }
            }
        }
    }
    for length in 0..bytes.len() {
        let vfs = MemoryVfs::new();
        vfs.put(&path(1), &bytes[..length]).unwrap();
        let (seqs, _) = numbers(vfs).unwrap();
        assert!(seqs.len() < 4);
    }
}

#[test]
fn missing_swapped_and_foreign_files_are_refused() {
    let base = MemoryVfs::new();
    let (mut journal, _) = open(base.clone()).unwrap();
    for seqs in [1..=2, 3..=5, 6..=6] {
        journal.append(&payloads(seqs)).unwrap();
        journal.trim(0).unwrap();
    }
    drop(journal);
    let refused = |what: &str, vfs: MemoryVfs| match open(vfs) {
        Err(Error::Corrupt { .. }) => {}
        Err(error) => panic!("{what}: {error}"),
        Ok((_, seqs)) => panic!("{what}: {seqs:?}"),
    };
    let missing = copy(&base);
    missing.remove_file(&path(3)).unwrap();
    refused("a file in the middle is missing", missing);
    let swapped = copy(&base);
    swapped.put(&path(1), &base.bytes(&path(3)).unwrap()).unwrap();
    refused("a file under another's name", swapped);
    let short = copy(&base);
    let bytes = base.bytes(&path(3)).unwrap();
    short.put(&path(3), &bytes[..bytes.len() - 1]).unwrap();
    refused("a file that is not the last is short", short);
    let foreign = copy(&base);
    let other = MemoryVfs::new();
    let (mut journal, _) = open(other.clone()).unwrap();
    journal.append(&payloads(1..=2)).unwrap();
    journal.trim(0).unwrap();
    journal.append(&payloads(3..=5)).unwrap();
    foreign.put(&path(3), &other.bytes(&path(3)).unwrap()).unwrap();
    refused("a file of another journal", foreign);
    let beheaded = copy(&base);
    (1..=6).filter(|first| [1, 3, 6].contains(first)).for_each(|first| beheaded.remove_file(&path(first)).unwrap());
    beheaded.put(&path(7), &[0; HEADER]).unwrap();
    refused("the only file of a trimmed journal has no header", beheaded);
    let mut newer = base.bytes(&path(1)).unwrap();
    newer[12] = 2;
    let checksum = crc32c::crc32c(&newer[..HEADER - 4]);
    newer[HEADER - 4..HEADER].copy_from_slice(&checksum.to_le_bytes());
    let vfs = copy(&base);
    vfs.put(&path(1), &newer).unwrap();
    assert!(matches!(open(vfs).err(), Some(Error::Unsupported { .. })));
    // What does not belong to the journal is left alone.
    base.put(&Path::new(DIR).join("snapshot-1.bg"), b"else").unwrap();
    assert_eq!(open(base).unwrap().1, (1..=6).collect::<Vec<_>>());
}

#[test]
fn a_torn_journal_on_a_full_disk_is_read_and_not_written() {
    let base = MemoryVfs::new();
    let (mut journal, _) = open(base.clone()).unwrap();
    (1..=3).for_each(|seq| assert_eq!(journal.append(&payloads(seq..=seq)).unwrap(), seq));
    drop(journal);
    let whole = base.bytes(&path(1)).unwrap();
    let torn = copy(&base);
    torn.put(&path(1), &whole[..whole.len() - 1]).unwrap();
    let unused = copy(&base);
    unused.put(&path(4), &[0; HEADER / 2]).unwrap();
    for (disk, last, is_cut) in [(torn, 2, true), (unused, 3, false)] {
        let full = |disk: &MemoryVfs, n| FaultyVfs::once(Arc::new(copy(disk)), n, Fault::Error(ErrorKind::StorageFull));
        let operations = {
            let healthy = full(&disk, u64::MAX);
            open(healthy.clone()).unwrap();
            healthy.operations()
        };
        let mut refused = 0;
        for n in 0..operations {
            let Ok((mut journal, seqs)) = open(full(&disk, n)) else { continue };
            assert_eq!((seqs, journal.cut().is_some()), ((1..=last).collect(), is_cut));
            for _ in 0..2 {
                let Err(Error::Io { source, .. }) = journal.append(&payloads(last + 1..=last + 1)) else {
                    panic!("it was written, {n}")
                };
                assert_eq!(source.kind(), ErrorKind::StorageFull, "{source}");
            }
            let mut read = 0;
            let count = &mut |_, _: &[u8]| {
                read += 1;
                Ok(())
            };
            journal.records().replay(1, count).unwrap();
            assert_eq!(read, last);
            refused += 1;
        }
        assert!(refused >= 3, "creating, writing and syncing a file can fail: {refused}");
    }
}

#[test]
fn trimming_goes_on_after_it_failed_half_way() {
    let base = MemoryVfs::new();
    let (mut journal, _) = open(base.clone()).unwrap();
    for seqs in [1..=2, 3..=5, 6..=6] {
        journal.append(&payloads(seqs)).unwrap();
        journal.trim(0).unwrap();
    }
    drop(journal);
    let healthy = FaultyVfs::once(Arc::new(copy(&base)), u64::MAX, Fault::Partial);
    let (mut journal, _) = open(healthy.clone()).unwrap();
    let opened = healthy.operations();
    journal.trim(6).unwrap();
    for n in opened..healthy.operations() {
        let vfs = FaultyVfs::once(Arc::new(copy(&base)), n, Fault::Error(ErrorKind::Other));
        let (mut journal, _) = open(vfs).unwrap();
        journal.trim(6).unwrap_err();
        journal.trim(6).unwrap();
        assert_eq!((journal.first_seq(), journal.append(&payloads(7..=7)).unwrap()), (7, 7));
    }
}

#[test]
fn files_with_numbers_that_no_journal_reaches_belong_to_others() {
    let vfs = MemoryVfs::new();
    for first in [0, u64::MAX / 2 + 1, u64::MAX] {
        vfs.put(&path(first), &[0; HEADER]).unwrap();
    }
    let (mut journal, seqs) = open(vfs.clone()).unwrap();
    assert_eq!((seqs.len(), journal.append(&payloads(1..=2)).unwrap()), (0, 2));
    drop(journal);
    assert_eq!(open(vfs).unwrap().1, [1, 2]);
}
