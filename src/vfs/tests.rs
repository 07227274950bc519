//! One suite over the implementations, then what only the testing ones do.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use super::testing::{CrashVfs, Fault, FaultyVfs, Survival};
use super::{DirLock, LOCK, MemoryVfs, RealVfs, Vfs, create_dir_durably, lock_dir, replace_file};
use crate::error::{Error, Result};

fn kind<T>(result: Result<T>) -> ErrorKind {
    match result.err() {
        Some(Error::Io { source, path }) => {
            assert!(path.is_absolute(), "the error names the path");
            source.kind()
        }
        other => panic!("expected an I/O error, found {other:?}"),
    }
}

/// Writes, reads, names: what every implementation does alike.
fn contract(vfs: &dyn Vfs, root: &Path) {
    let (dir, file, other) = (root.join("a/b"), root.join("a/b/file"), root.join("a/other"));
    assert_eq!(kind(vfs.create(&file)), ErrorKind::NotFound, "no parent directory");
    vfs.create_dir_all(&dir).unwrap();
    vfs.create_dir_all(&dir).unwrap();
    let mut writer = vfs.create(&file).unwrap();
    writer.write_all(b"0123").unwrap();
    writer.write_all_at(6, b"89").unwrap();
    writer.write_all_at(1, b"x").unwrap();
    writer.write_all(b"45").unwrap();
    writer.sync().unwrap();
    vfs.sync_dir(&dir).unwrap();

    let reader = vfs.open(&file).unwrap();
    let mut bytes = [0; 8];
    reader.read_exact_at(0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"0x234589");
    assert_eq!((reader.len(), vfs.len(&file).unwrap()), (8, 8));
    assert_eq!(kind(reader.read_exact_at(1, &mut bytes)), ErrorKind::UnexpectedEof);
    assert_eq!(kind(reader.read_exact_at(u64::from(u32::MAX), &mut bytes)), ErrorKind::UnexpectedEof);

    let mut writer = vfs.open_append(&file).unwrap();
    writer.write_all(b"AB").unwrap();
    writer.write_all(b"C").unwrap();
    writer.sync().unwrap();
    let mut bytes = [0; 5];
    vfs.open(&file).unwrap().read_exact_at(6, &mut bytes).unwrap();
    assert_eq!(&bytes, b"89ABC");

    assert_eq!(kind(vfs.open(&other)), ErrorKind::NotFound);
    assert_eq!(kind(vfs.open_append(&other)), ErrorKind::NotFound);
    vfs.rename(&file, &other).unwrap();
    assert_eq!(kind(vfs.rename(&file, &other)), ErrorKind::NotFound);
    assert!(vfs.exists(&other).unwrap() && !vfs.exists(&file).unwrap());
    assert_eq!(vfs.list(&root.join("a")).unwrap(), [dir.clone(), other.clone()]);
    drop(vfs.create(&other).unwrap());
    assert_eq!(vfs.len(&other).unwrap(), 0, "create empties the file");

    vfs.rename(&root.join("a"), &root.join("z")).unwrap();
    assert_eq!(vfs.list(&root.join("z")).unwrap(), [root.join("z/b"), root.join("z/other")]);
    vfs.remove_file(&root.join("z/other")).unwrap();
    assert_eq!(kind(vfs.remove_file(&root.join("z/other"))), ErrorKind::NotFound);
    vfs.remove_dir_all(&root.join("z")).unwrap();
    assert!(vfs.list(root).unwrap().is_empty());
}

/// Files taken for directories, directories taken for files, and names that are taken: refused alike, and harmless.
fn refusals(vfs: &dyn Vfs, root: &Path) {
    let (file, full, empty) = (root.join("file"), root.join("full"), root.join("empty"));
    vfs.create(&file).unwrap().write_all(b"kept").unwrap();
    vfs.create_dir_all(&full.join("below")).unwrap();
    vfs.create_dir_all(&empty).unwrap();

    assert_eq!(kind(vfs.create(&full)), ErrorKind::IsADirectory);
    assert_eq!(kind(vfs.open(&full)), ErrorKind::IsADirectory);
    assert_eq!(kind(vfs.open_append(&full)), ErrorKind::IsADirectory);
    assert_eq!(kind(vfs.len(&full)), ErrorKind::IsADirectory);
    assert_eq!(kind(vfs.remove_file(&full)), ErrorKind::IsADirectory);
    assert_eq!(kind(vfs.list(&file)), ErrorKind::NotADirectory);
    assert_eq!(kind(vfs.remove_dir_all(&file)), ErrorKind::NotADirectory);
    assert_eq!(kind(vfs.create(&file.join("below"))), ErrorKind::NotADirectory);
    vfs.create_dir_all(&file.join("below")).unwrap_err();
    for missing in [vfs.list(&root.join("none")).err(), vfs.remove_dir_all(&root.join("none")).err()] {
        assert_eq!(kind(Err::<(), _>(missing.unwrap())), ErrorKind::NotFound);
    }
    assert_eq!(kind(vfs.sync_dir(&root.join("none"))), ErrorKind::NotFound);
    assert_eq!(kind(vfs.len(&root.join("none"))), ErrorKind::NotFound);

    assert_eq!(kind(vfs.rename(&file, &empty)), ErrorKind::IsADirectory);
    assert_eq!(kind(vfs.rename(&empty, &file)), ErrorKind::NotADirectory);
    assert_eq!(kind(vfs.rename(&empty, &full)), ErrorKind::DirectoryNotEmpty);
    assert_eq!(kind(vfs.rename(&full, &full.join("below/self"))), ErrorKind::InvalidInput);
    assert_eq!(kind(vfs.rename(&file, &root.join("none/file"))), ErrorKind::NotFound);
    vfs.rename(&full, &full).unwrap();
    vfs.rename(&full, &empty).unwrap();
    assert_eq!(vfs.list(root).unwrap(), [empty.clone(), file.clone()]);
    assert!(vfs.exists(&empty.join("below")).unwrap());
    assert_eq!(vfs.len(&file).unwrap(), 4);
    vfs.remove_dir_all(&empty).unwrap();
    vfs.remove_file(&file).unwrap();
}

/// A file that was opened stays what it was when its name goes to another, or to none.
fn handles_outlive_names(vfs: &dyn Vfs, root: &Path) {
    let (old, new) = (root.join("old"), root.join("new"));
    vfs.create(&old).unwrap().write_all(b"old").unwrap();
    let reader = vfs.open(&old).unwrap();
    vfs.create(&new).unwrap().write_all(b"new").unwrap();
    vfs.rename(&new, &old).unwrap();
    vfs.remove_file(&old).unwrap();
    let mut bytes = [0; 3];
    reader.read_exact_at(0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"old");
    reader.read_exact_at(3, &mut []).unwrap();
}

#[test]
fn implementations_keep_the_contract() {
    let temp = tempfile::tempdir().unwrap();
    let memory = MemoryVfs::new();
    let root = Path::new("/root");
    memory.create_dir_all(root).unwrap();
    let no_fault = FaultyVfs::once(Arc::new(memory.clone()), u64::MAX, Fault::Partial);
    let crash = CrashVfs::new(&memory);
    let all: [(&dyn Vfs, &Path); 4] = [(&RealVfs, temp.path()), (&memory, root), (&no_fault, root), (&crash, root)];
    for (vfs, root) in all {
        contract(vfs, root);
        refusals(vfs, root);
        handles_outlive_names(vfs, root);
    }
}

#[test]
fn only_real_files_are_lent() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("file");
    drop(RealVfs.create(&path).unwrap());
    assert!(RealVfs.open(&path).unwrap().as_file().is_some());
    let memory = MemoryVfs::new();
    memory.put(Path::new("/file"), b"").unwrap();
    assert!(memory.open(Path::new("/file")).unwrap().as_file().is_none());
    // A fault injected in front of a real file must not be walked around.
    let faulty = FaultyVfs::once(Arc::new(RealVfs), u64::MAX, Fault::Partial);
    assert!(faulty.open(&path).unwrap().as_file().is_none());
}

#[test]
fn every_operation_that_can_fail_counts_one() {
    let path = Path::new("/dir/file");
    let dir = Path::new("/dir");
    let steps: [fn(&dyn Vfs) -> Result<()>; 13] = [
        |vfs| vfs.create_dir_all(Path::new("/dir")),
        |vfs| vfs.create(Path::new("/dir/file")).map(drop),
        |vfs| vfs.open_append(Path::new("/dir/file")).map(drop),
        |vfs| vfs.open(Path::new("/dir/file")).map(drop),
        |vfs| vfs.open_direct(Path::new("/dir/file")).map(drop),
        |vfs| vfs.len(Path::new("/dir/file")).map(drop),
        |vfs| vfs.exists(Path::new("/dir/file")).map(drop),
        |vfs| vfs.list(Path::new("/dir")).map(drop),
        |vfs| vfs.sync_dir(Path::new("/dir")),
        |vfs| vfs.rename(Path::new("/dir/file"), Path::new("/dir/moved")),
        |vfs| vfs.rename(Path::new("/dir/moved"), Path::new("/dir/file")),
        |vfs| vfs.remove_file(Path::new("/dir/file")),
        |vfs| vfs.remove_dir_all(Path::new("/dir")),
    ];
    for n in 0..steps.len() {
        let memory = MemoryVfs::new();
        let vfs = FaultyVfs::once(Arc::new(memory.clone()), n as u64, Fault::Error(ErrorKind::StorageFull));
        for (i, step) in steps.iter().enumerate() {
            let before = memory.snapshot();
            let done = step(&vfs);
            assert_eq!(vfs.operations(), i as u64 + 1);
            if i == n {
                assert_eq!(kind(done), ErrorKind::StorageFull);
                assert_eq!(memory.snapshot(), before, "a failed step {i} changes nothing");
                step(&memory).unwrap();
            } else {
                done.unwrap();
            }
        }
        assert!(!memory.exists(path).unwrap() && !memory.exists(dir).unwrap());
    }
}

#[test]
fn faults_strike_their_operation_only() {
    let memory = MemoryVfs::new();
    let path = Path::new("/file");
    let job = |vfs: &FaultyVfs| -> Result<()> {
        let mut file = vfs.create(path)?;
        file.write_all(b"abcd")?;
        file.sync()
    };
    let never = FaultyVfs::once(Arc::new(memory.clone()), u64::MAX, Fault::Partial);
    job(&never).unwrap();
    assert_eq!(never.operations(), 3);
    for n in 0..3 {
        let vfs = FaultyVfs::once(Arc::new(memory.clone()), n, Fault::Error(ErrorKind::StorageFull));
        assert_eq!(kind(job(&vfs)), ErrorKind::StorageFull);
        job(&vfs).unwrap();
        let gone = FaultyVfs::starting_at(Arc::new(memory.clone()), n, Fault::Error(ErrorKind::Other));
        assert_eq!((kind(job(&gone)), kind(job(&gone))), (ErrorKind::Other, ErrorKind::Other));
    }
    assert_eq!(kind(job(&FaultyVfs::once(Arc::new(memory.clone()), 1, Fault::Partial))), ErrorKind::WriteZero);
    assert_eq!(memory.bytes(path).unwrap(), b"ab");
    let reader = FaultyVfs::once(Arc::new(memory), 1, Fault::Partial).open(path).unwrap();
    let mut bytes = [0; 2];
    assert_eq!(kind(reader.read_exact_at(0, &mut bytes)), ErrorKind::UnexpectedEof);
    assert_eq!(&bytes, b"a\0");
}

/// Replaces `/index/now` in the safe way, or without one of the two syncs that make it safe.
fn replace(vfs: &dyn Vfs, bytes: &[u8], sync_file: bool, sync_dir: bool) {
    let (beside, now) = (Path::new("/index/now.tmp"), Path::new("/index/now"));
    let mut file = vfs.create(beside).unwrap();
    file.write_all(bytes).unwrap();
    if sync_file {
        file.sync().unwrap();
    }
    vfs.rename(beside, now).unwrap();
    if sync_dir {
        vfs.sync_dir(Path::new("/index")).unwrap();
    }
}

/// What `/index/now` may hold after a crash at any moment of [`replace`].
fn outcomes(sync_file: bool, sync_dir: bool) -> Vec<Vec<u8>> {
    let base = MemoryVfs::new();
    base.put(Path::new("/index/now"), b"old").unwrap();
    let vfs = CrashVfs::new(&base);
    let new = vec![7; 10_000];
    replace(&vfs, &new, sync_file, sync_dir);
    let mut found = Vec::new();
    for n in 0..=vfs.operations() {
        let random = (0..20).map(Survival::Random);
        for survival in [Survival::None, Survival::All].into_iter().chain(random) {
            found.push(vfs.after_crash(n, survival).bytes(Path::new("/index/now")).unwrap());
        }
    }
    found.sort();
    found.dedup();
    found
}

#[test]
fn a_safe_replacement_leaves_the_old_file_or_the_new() {
    assert_eq!(outcomes(true, true), [vec![7; 10_000], b"old".to_vec()]);
    assert!(outcomes(false, true).len() > 2, "without syncing the file its bytes may be torn");
}

#[test]
fn appended_bytes_are_durable_only_after_their_sync() {
    let base = MemoryVfs::new();
    let path = Path::new("/log");
    base.put(path, b"old").unwrap();
    let vfs = CrashVfs::new(&base);
    let mut file = vfs.open_append(path).unwrap();
    file.write_all(b" new").unwrap();
    let after = |survival| vfs.after_crash(vfs.operations(), survival).bytes(path).unwrap();
    assert_eq!((after(Survival::None), after(Survival::All)), (b"old".to_vec(), b"old new".to_vec()));
    file.sync().unwrap();
    assert_eq!(after(Survival::None), b"old new");
}

#[test]
fn a_directory_made_durably_outlives_a_crash() {
    let vfs = CrashVfs::new(&MemoryVfs::new());
    create_dir_durably(&vfs, Path::new("/a/b/c")).unwrap();
    assert!(vfs.after_crash(vfs.operations(), Survival::None).exists(Path::new("/a/b/c")).unwrap());
}

#[test]
fn a_rename_is_durable_only_after_its_directory() {
    let base = MemoryVfs::new();
    base.put(Path::new("/index/now"), b"old").unwrap();
    let now = |sync_dir| {
        let vfs = CrashVfs::new(&base);
        replace(&vfs, b"new", true, sync_dir);
        vfs.after_crash(vfs.operations(), Survival::None).bytes(Path::new("/index/now")).unwrap()
    };
    assert_eq!((now(false), now(true)), (b"old".to_vec(), b"new".to_vec()));
}

#[test]
fn a_crash_keeps_what_was_synced_in_a_renamed_directory() {
    let vfs = CrashVfs::new(&MemoryVfs::new());
    let path = Path::new;
    vfs.create_dir_all(path("/index/1.tmp")).unwrap();
    let mut file = vfs.create(path("/index/1.tmp/codes")).unwrap();
    file.write_all(b"codes").unwrap();
    file.sync().unwrap();
    vfs.sync_dir(path("/index/1.tmp")).unwrap();
    vfs.rename(path("/index/1.tmp"), path("/index/1")).unwrap();
    vfs.sync_dir(path("/index")).unwrap();
    assert!(!vfs.after_crash(vfs.operations(), Survival::None).exists(path("/index")).unwrap());
    vfs.sync_dir(path("/")).unwrap();
    let after = vfs.after_crash(vfs.operations(), Survival::None);
    assert_eq!(after.bytes(path("/index/1/codes")).unwrap(), b"codes");
    assert!(!after.exists(path("/index/1.tmp")).unwrap());

    vfs.remove_dir_all(path("/index/1")).unwrap();
    assert_eq!(vfs.after_crash(vfs.operations(), Survival::All).list(path("/index")).unwrap().len(), 0);
    assert!(vfs.after_crash(vfs.operations(), Survival::None).exists(path("/index/1/codes")).unwrap());
}

#[test]
fn what_was_written_to_replace_a_file_is_removed_when_that_fails() {
    let vfs = MemoryVfs::new();
    vfs.put(Path::new("/index/now"), b"old").unwrap();
    for n in 0..4 {
        let faulty = FaultyVfs::once(Arc::new(vfs.clone()), n, Fault::Error(ErrorKind::StorageFull));
        let replaced = replace_file(&faulty, Path::new("/index/now"), |beside| {
            let mut file = faulty.create(beside)?;
            file.write_all(b"new")?;
            file.sync()
        });
        assert_eq!(kind(replaced), ErrorKind::StorageFull);
        assert_eq!(vfs.list(Path::new("/index")).unwrap(), [Path::new("/index/now")], "fault {n}");
        assert_eq!(vfs.bytes(Path::new("/index/now")).unwrap(), b"old");
    }
}

#[test]
fn only_the_real_file_system_locks_and_counts_its_room() {
    let dir = tempfile::tempdir().unwrap();
    // A simulated directory of the same name is another one.
    let memory = MemoryVfs::new();
    memory.create_dir_all(dir.path()).unwrap();
    assert!(lock_dir(&memory, dir.path(), "journal", "taken").unwrap().is_none());
    assert!(!dir.path().join(LOCK).exists());
    assert_eq!(memory.free_bytes(dir.path()).unwrap(), u64::MAX);
    let faulty = FaultyVfs::once(Arc::new(RealVfs), u64::MAX, Fault::Partial);
    let held = faulty.lock(dir.path()).unwrap();
    assert!(matches!(held, DirLock::Held(_)));
    let taken = lock_dir(&RealVfs, dir.path(), "journal", "another process has opened").unwrap_err().to_string();
    assert!(taken.contains("another process has opened") && taken.contains(&*dir.path().to_string_lossy()), "{taken}");
    let free = RealVfs.free_bytes(dir.path()).unwrap();
    assert!(free > 0 && free < u64::MAX);
    faulty.set_free(17);
    assert_eq!(faulty.free_bytes(dir.path()).unwrap(), 17);
    assert_eq!(kind(RealVfs.free_bytes(&dir.path().join("nothing"))), ErrorKind::NotFound);
}
