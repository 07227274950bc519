//! Files that are not what was written.

use super::*;

/// A folder with a snapshot of epoch 3, a journal from 4 to 5, and what the table says.
fn folder() -> (MemoryVfs, Model) {
    let vfs = MemoryVfs::new();
    let control = open(&vfs);
    let mut rng = Rng::new(21);
    let mut model = Model::default();
    for n in 0..5 {
        let mut call = random_call(&mut rng, &control, 20);
        call.push(pause(Level::Campaign, 1));
        control.apply(call.clone()).unwrap();
        call.iter().for_each(|patch| model.apply(patch));
        if n == 2 {
            assert!(control.checkpoint(0).unwrap());
        }
    }
    (vfs, model)
}

fn files(vfs: &MemoryVfs) -> Vec<(PathBuf, Vec<u8>)> {
    vfs.snapshot().into_iter().filter_map(|(path, bytes)| Some((path, bytes?))).collect()
}

fn with(vfs: &MemoryVfs, path: &Path, bytes: &[u8]) -> Result<Control> {
    let copy = MemoryVfs::new();
    files(vfs).iter().for_each(|(path, bytes)| copy.put(path, bytes).unwrap());
    copy.put(path, bytes).unwrap();
    Control::open(Arc::new(copy), Path::new(DIR))
}

#[test]
fn a_flipped_byte_of_the_snapshot_is_refused_or_changes_nothing() {
    let (vfs, model) = folder();
    let path = Path::new(DIR).join("control.bg");
    let bytes = vfs.bytes(&path).unwrap();
    let mut refused = 0;
    for at in 0..bytes.len() {
        // Most bytes are the zeros between sections, which are not read.
        if bytes[at] == 0 && at % 61 != 0 {
            continue;
        }
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        match with(&vfs, &path, &flipped) {
            Ok(control) => model.assert_equals(&control, &format!("byte {at}")),
            Err(error) => {
                assert!(error.to_string().contains("control.bg"), "byte {at}: {error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 300, "{refused}");
    for length in (0..bytes.len()).step_by(512) {
        assert!(with(&vfs, &path, &bytes[..length]).is_err(), "{length} bytes");
    }
}

#[test]
fn missing_and_foreign_files_are_refused() {
    let (vfs, _) = folder();
    let snapshot = Path::new(DIR).join("control.bg");
    for (path, _) in files(&vfs) {
        let copy = MemoryVfs::new();
        files(&vfs).iter().filter(|(other, _)| *other != path).for_each(|(path, bytes)| copy.put(path, bytes).unwrap());
        let error = Control::open(Arc::new(copy), Path::new(DIR)).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. } | Error::Mismatch { .. }), "without {}: {error}", path.display());
    }
    let (foreign, _) = folder();
    let error = with(&vfs, &snapshot, &foreign.bytes(&snapshot).unwrap()).unwrap_err();
    assert!(matches!(error, Error::Mismatch { .. }), "{error}");
}

#[test]
fn an_older_snapshot_than_the_journal_goes_on_from_is_refused() {
    let vfs = MemoryVfs::new();
    let control = open(&vfs);
    let path = Path::new(DIR).join("control.bg");
    let mut snapshots = Vec::new();
    for id in 1..5 {
        control.apply(vec![pause(Level::Campaign, id)]).unwrap();
        control.checkpoint(0).unwrap();
        snapshots.push(vfs.bytes(&path).unwrap());
    }
    drop(control);
    assert!(with(&vfs, &path, &snapshots[3]).is_ok());
    let error = with(&vfs, &path, &snapshots[1]).unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
}

#[test]
fn journal_records_of_another_kind_are_refused() {
    let dir = Path::new(DIR);
    let good = store::encode(&[pause(Level::Campaign, 1)]).unwrap();
    assert_eq!(store::decode(dir, 1, &good).unwrap(), [pause(Level::Campaign, 1)]);
    let long = [&good[..], &[0]].concat();
    // A count of patches that no memory would hold.
    let vast = [&[1, 253], &u64::MAX.to_le_bytes()[..]].concat();
    for record in [&[][..], &good[..good.len() - 1], &long, &vast, &[1]] {
        let error = store::decode(dir, 1, record).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{record:?}: {error}");
    }
    let newer = [&[2], &good[1..]].concat();
    assert!(matches!(store::decode(dir, 9, &newer).unwrap_err(), Error::Unsupported { .. }));
}

#[test]
fn a_flight_that_two_calls_emptied_together_is_read_again() {
    let vfs = MemoryVfs::new();
    let control = open(&vfs);
    // Each was checked before the other was applied, as calls at the same time are.
    for patch in [
        Patch { start: Field::Set(100), ..Patch::new(Level::AdGroup, 1) },
        Patch { end: Field::Set(50), ..Patch::new(Level::AdGroup, 1) },
    ] {
        let payload = store::encode(std::slice::from_ref(&patch)).unwrap();
        control
            .log
            .commit(vec![payload], vec![patch], |calls| {
                control.work_in(calls);
                Ok(())
            })
            .unwrap();
    }
    control.checkpoint(0).unwrap();
    drop(control);
    let control = open(&vfs);
    assert_eq!(control.epoch().standing(control.owner_of_group(1)).eligible(75), Err(Reason::NotStarted));
}
