//! The drawn bytes, and what damage, failures and crashes make of them.

use super::*;
use crate::vfs::MemoryVfs;
use crate::vfs::testing::{CrashVfs, Fault, FaultyVfs, Survival};
use std::io::ErrorKind;
use std::sync::Arc;

const ID: [u8; 16] = *b"0123456789abcdef";

fn write_on(vfs: &dyn Vfs, path: &Path) -> Result<FileEntry> {
    let mut file = FileWriter::create(vfs, path, Kind::Codes, ID)?;
    file.write_array(*b"ABCD", &[1u32, 2, 3])?;
    file.begin(*b"LONG")?;
    (0..3).try_for_each(|i| file.write(&vec![i; 5_000]))?;
    file.end()?;
    file.finish()
}

fn write(vfs: &MemoryVfs, path: &Path) -> FileEntry {
    write_on(vfs, path).unwrap()
}

fn open_and_check(vfs: &dyn Vfs, path: &Path) -> Result<()> {
    FileReader::open(vfs, path, Kind::Codes, Some(&ID))?.check_all(&mut |_| Ok(()))
}

fn bytes_of(vfs: &dyn Vfs, path: &Path) -> Vec<u8> {
    let file = vfs.open(path).unwrap();
    let mut bytes = vec![0; file.len() as usize];
    file.read_exact_at(0, &mut bytes).unwrap();
    bytes
}

fn put(vfs: &MemoryVfs, path: &Path, bytes: &[u8]) {
    vfs.create(path).unwrap().write_all(bytes).unwrap();
}

#[test]
fn the_drawn_bytes_are_the_written_bytes() {
    let (vfs, path) = (MemoryVfs::default(), Path::new("/x.bg"));
    let entry = write(&vfs, path);
    let bytes = bytes_of(&vfs, path);
    assert_eq!(bytes.len() as u64, 4096 * 6);
    assert_eq!((entry.name.as_str(), entry.bytes), ("x.bg", 4096 * 6));
    assert_eq!(&bytes[..24], b"\x93BIGRAIN\r\n\x1a\n\x01\0\0\0\x02\0\0\0\x02\0\0\0");
    assert_eq!(&bytes[24..40], &ID);
    assert_eq!(bytes[40..48], 24_576u64.to_le_bytes());
    assert_eq!(&bytes[48..52], b"ABCD");
    assert_eq!(bytes[56..72], [4096u64.to_le_bytes(), 12u64.to_le_bytes()].concat());
    assert_eq!(bytes[88..104], [8192u64.to_le_bytes(), 15_000u64.to_le_bytes()].concat());
    assert_eq!(&bytes[4096..4108], b"\x01\0\0\0\x02\0\0\0\x03\0\0\0");
}

#[test]
fn reads_back_what_was_written() {
    let (vfs, path) = (MemoryVfs::default(), Path::new("/x.bg"));
    write(&vfs, path);
    let file = FileReader::open(&vfs, path, Kind::Codes, Some(&ID)).unwrap();
    assert_eq!(file.read_array::<u32>(*b"ABCD").unwrap(), [1, 2, 3]);
    assert!(file.read_array::<u64>(*b"ABCD").is_err());
    let long = file.section(*b"LONG").unwrap();
    let mut part = [9; 3];
    file.read_at(&long, 4_999, &mut part).unwrap();
    assert_eq!(part, [0, 1, 1]);
    assert!(file.read_at(&long, 14_998, &mut part).is_err());
    assert!(file.section(*b"NONE").is_err());
    file.check_all(&mut |_| Ok(())).unwrap();
}

#[test]
fn every_flipped_byte_and_every_truncation_is_noticed() {
    let (vfs, path) = (MemoryVfs::default(), Path::new("/x.bg"));
    write(&vfs, path);
    let good = bytes_of(&vfs, path);
    let check = |bytes: &[u8]| {
        put(&vfs, path, bytes);
        open_and_check(&vfs, path)
    };
    check(&good).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x41;
        assert!(check(&bad).is_err(), "byte {at}");
    }
    for length in (0..good.len()).step_by(512) {
        assert!(check(&good[..length]).is_err(), "length {length}");
    }
    assert!(check(&[&good[..], &[0; 4096]].concat()).is_err());
}

#[test]
fn long_sections_pass_the_buffer_whole() {
    let (vfs, path) = (MemoryVfs::default(), Path::new("/x.bg"));
    for lengths in [[BUFFER - PAGE as usize, 1], [BUFFER, BUFFER + 1], [7, BUFFER * 2 + 3], [0, 0]] {
        let bytes: Vec<u8> = (0..lengths[0] + lengths[1]).map(|i| (i % 251) as u8).collect();
        let mut file = FileWriter::create(&vfs, path, Kind::Codes, ID).unwrap();
        file.begin(*b"LONG").unwrap();
        file.write(&bytes[..lengths[0]]).unwrap();
        file.write(&bytes[lengths[0]..]).unwrap();
        file.end().unwrap();
        file.finish().unwrap();
        let file = FileReader::open(&vfs, path, Kind::Codes, Some(&ID)).unwrap();
        assert!(file.read_section(*b"LONG").unwrap() == bytes, "{lengths:?}");
        file.check_all(&mut |_| Ok(())).unwrap();
    }
}

#[test]
fn a_failed_write_is_told_and_leaves_no_file_that_opens() {
    let path = Path::new("/x.bg");
    let run = |n, fault| {
        let memory = MemoryVfs::new();
        let vfs = FaultyVfs::once(Arc::new(memory.clone()), n, fault);
        (write_on(&vfs, path), vfs.operations(), memory)
    };
    let (whole, operations, memory) = run(u64::MAX, Fault::Partial);
    whole.unwrap();
    open_and_check(&memory, path).unwrap();
    for n in 0..operations {
        for fault in [Fault::Partial, Fault::Error(ErrorKind::StorageFull)] {
            let (done, _, memory) = run(n, fault);
            assert!(matches!(done, Err(Error::Io { .. })), "operation {n}");
            // The last operation is the sync: by then every byte is there.
            assert!(n == operations - 1 || open_and_check(&memory, path).is_err(), "operation {n}");
        }
    }
}

#[test]
fn after_a_crash_a_file_is_whole_or_refused_and_whole_once_finished() {
    let (path, vfs) = (Path::new("/x.bg"), CrashVfs::new(&MemoryVfs::new()));
    write_on(&vfs, path).unwrap();
    vfs.sync_dir(Path::new("/")).unwrap();
    let last = vfs.operations();
    let mut refused = 0;
    for n in 0..=last {
        for survival in (0..50).map(Survival::Random).chain([Survival::None, Survival::All]) {
            let after = vfs.after_crash(n, survival);
            match open_and_check(&after, path) {
                Ok(()) => assert_eq!(bytes_of(&after, path), bytes_of(&vfs, path), "crash at {n}"),
                Err(_) => refused += 1,
            }
            assert!(n < last || open_and_check(&after, path).is_ok(), "finished and synced, yet lost");
        }
    }
    assert!(refused > 0);
}

#[test]
fn foreign_newer_and_unknown_files_are_told_apart() {
    let (vfs, path) = (MemoryVfs::default(), Path::new("/x.bg"));
    write(&vfs, path);
    let open = |kind, id| FileReader::open(&vfs, path, kind, Some(id)).unwrap_err();
    assert!(matches!(open(Kind::Dense, &ID), Error::Mismatch { .. }));
    assert!(matches!(open(Kind::Codes, &[0; 16]), Error::Mismatch { .. }));
    let mut bytes = bytes_of(&vfs, path);
    bytes[12] = 2;
    put(&vfs, path, &bytes);
    assert!(matches!(open(Kind::Codes, &ID), Error::Unsupported { .. }));
    bytes[12] = 1;
    bytes[16] = 99;
    let crc = crc32c::crc32c(&bytes[..HEADER_CRC]).to_le_bytes();
    bytes[HEADER_CRC..HEADER_CRC + 4].copy_from_slice(&crc);
    put(&vfs, path, &bytes);
    assert!(matches!(open(Kind::Codes, &ID), Error::Unsupported { .. }));
}
