//! Power failures at every change to the disk, and operations that fail.

use std::io::ErrorKind;

use super::*;
use crate::vfs::testing::{CrashVfs, Fault, FaultyVfs, Survival};

const CALLS: usize = 10;

/// A table's life: calls, a snapshot or two, a restart. What was asked of it in order, and for each call that returned how many
/// changes the disk had seen by then.
fn live(vfs: Arc<dyn Vfs>, seed: u64, operations: &dyn Fn() -> usize) -> (Vec<Vec<Patch>>, Vec<usize>, Result<()>) {
    let (mut asked, mut done) = (Vec::new(), Vec::new());
    let result = (|| {
        let mut rng = Rng::new(seed);
        let mut control = Control::open(vfs.clone(), Path::new(DIR))?;
        for n in 0..CALLS {
            let call = random_call(&mut rng, &control, 12);
            let call = if call.is_empty() { vec![pause(Level::Campaign, 1)] } else { call };
            asked.push(call.clone());
            assert_eq!(control.apply(call)?, n as u64 + 1);
            done.push(operations());
            match n {
                3 | 7 => assert!(control.checkpoint(0)?),
                5 => {
                    drop(control);
                    control = Control::open(vfs.clone(), Path::new(DIR))?;
                }
                _ => {}
            }
        }
        Ok(())
    })();
    (asked, done, result)
}

/// Asserts that what is on disk is the table after some number of calls, at least `acknowledged`; and that it works. That number.
fn assert_recovers(disk: &MemoryVfs, asked: &[Vec<Patch>], acknowledged: usize, context: &str) -> u64 {
    let control = Control::open(Arc::new(disk.clone()), Path::new(DIR));
    let control = control.unwrap_or_else(|error| panic!("{context}: {error}"));
    let number = control.epoch().number();
    assert!((acknowledged as u64..=asked.len() as u64).contains(&number), "{context}: epoch {number}");
    let mut model = Model::default();
    asked[..number as usize].iter().flatten().for_each(|patch| model.apply(patch));
    model.assert_equals(&control, context);
    assert_eq!(control.apply(vec![pause(Level::Campaign, 3)]).unwrap(), number + 1, "{context}");
    drop(control);
    model.apply(&pause(Level::Campaign, 3));
    let control = open(disk);
    assert_eq!(control.epoch().number(), number + 1, "{context}");
    model.assert_equals(&control, context);
    number
}

#[test]
fn a_crash_at_any_change_loses_no_acknowledged_patch_and_keeps_no_half_call() {
    let survivals = [Survival::None, Survival::All, Survival::Random(1), Survival::Random(2), Survival::Random(3)];
    for seed in 0..3 {
        let vfs = CrashVfs::new(&MemoryVfs::new());
        let (asked, done, result) = live(Arc::new(vfs.clone()), seed, &|| vfs.operations());
        result.unwrap();
        assert_eq!(done.len(), CALLS);
        for operations in 0..=vfs.operations() {
            let acknowledged = done.iter().filter(|at| **at <= operations).count();
            for survival in survivals {
                let context = format!("seed {seed}, {operations} operations, {survival:?}");
                assert_recovers(&vfs.after_crash(operations, survival), &asked, acknowledged, &context);
            }
        }
    }
}

#[test]
fn a_crash_while_recovering_from_a_crash_changes_nothing() {
    let vfs = CrashVfs::new(&MemoryVfs::new());
    let (asked, done, result) = live(Arc::new(vfs.clone()), 11, &|| vfs.operations());
    result.unwrap();
    for operations in 0..=vfs.operations() {
        let acknowledged = done.iter().filter(|at| **at <= operations).count();
        let disk = vfs.after_crash(operations, Survival::Random(operations as u64));
        let second = CrashVfs::new(&disk);
        let found = Control::open(Arc::new(second.clone()), Path::new(DIR)).unwrap().epoch().number();
        for again in 0..=second.operations() {
            let context = format!("{operations} operations, then {again}");
            let disk = second.after_crash(again, Survival::Random(again as u64));
            assert_eq!(assert_recovers(&disk, &asked, acknowledged, &context), found, "{context}");
        }
    }
}

#[test]
fn an_operation_that_fails_is_an_error_and_costs_no_acknowledged_patch() {
    let count = FaultyVfs::once(Arc::new(MemoryVfs::new()), u64::MAX, Fault::Partial);
    live(Arc::new(count.clone()), 5, &|| 0).2.unwrap();
    for fault in [Fault::Partial, Fault::Error(ErrorKind::StorageFull)] {
        for n in 0..count.operations() {
            let memory = MemoryVfs::new();
            let faulty = FaultyVfs::once(Arc::new(memory.clone()), n, fault);
            let (asked, done, result) = live(Arc::new(faulty), 5, &|| 0);
            let context = format!("{fault:?} at operation {n}");
            assert!(matches!(result, Err(Error::Io { .. })), "{context}: {result:?}");
            assert_recovers(&memory, &asked, done.len(), &context);
        }
    }
}

#[test]
fn after_a_failed_write_the_table_is_read_but_not_written() {
    let count = FaultyVfs::once(Arc::new(MemoryVfs::new()), u64::MAX, Fault::Partial);
    let control = Control::open(Arc::new(count.clone()), Path::new(DIR)).unwrap();
    control.apply(vec![pause(Level::AdGroup, 1)]).unwrap();
    let next = count.operations();
    let faulty = FaultyVfs::once(Arc::new(MemoryVfs::new()), next, Fault::Error(ErrorKind::StorageFull));
    let control = Control::open(Arc::new(faulty), Path::new(DIR)).unwrap();
    control.apply(vec![pause(Level::AdGroup, 1)]).unwrap();
    for _ in 0..2 {
        let error = control.apply(vec![pause(Level::AdGroup, 2)]).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
    }
    let epoch = control.epoch();
    assert_eq!((epoch.number(), control.entity(Level::AdGroup, 2)), (1, None));
    assert!(epoch.standing(control.owner_of_group(1)).eligible(0).is_err());
    assert_eq!(epoch.standing(control.owner_of_group(2)).eligible(0), Ok(()));
}
