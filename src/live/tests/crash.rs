//! Random changes, compactions, switches and restarts, and a crash after every operation of the file system: no acknowledged
//! change is lost, none appears that was never asked for, and the next changes work.

use rayon::prelude::*;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::vfs::testing::{CrashVfs, Survival};

/// What is promised from some operation on: changes up to `acked` are there, none after `tried` is, on top of these versions.
#[derive(Clone, Copy, Debug)]
struct Promise {
    operation: usize,
    acked: u64,
    tried: u64,
    current: usize,
    previous: usize,
}

/// A run: the model after every change, and the promises in order.
struct Run {
    vfs: CrashVfs,
    models: Vec<Model>,
    promises: Vec<Promise>,
}

struct Driver {
    run: Run,
    live: Option<Live>,
    rng: Rng,
    newest: usize,
    now: Promise,
    /// Whether documents have several views.
    views: bool,
}

impl Driver {
    fn live(&self) -> &Live {
        self.live.as_ref().unwrap()
    }

    fn note(&mut self) {
        self.now.operation = self.run.vfs.operations();
        self.run.promises.push(self.now);
    }

    fn random_change(&mut self) -> Change {
        let model = self.run.models.last().unwrap();
        let known = model.keys().nth(self.rng.below(model.len() as u64) as usize).copied();
        let key = if self.rng.below(2) == 0 { known.unwrap() } else { self.rng.below(500) };
        if self.rng.below(3) == 0 && model.len() > 5 {
            return Change::Delete(key);
        }
        // Some are longer than what survives in one piece.
        let mut document = document(key, &mut self.rng);
        if self.rng.below(5) == 0 {
            document.record = format!("{{\"long\": \"{}\"}}", "x".repeat(6_000));
        }
        if self.views {
            add_views(&mut document, &mut self.rng);
        }
        Change::Upsert(document)
    }

    fn apply(&mut self) {
        let mut changes = Vec::new();
        for _ in 0..1 + self.rng.below(4) {
            let change = self.random_change();
            let mut model = self.run.models.last().unwrap().clone();
            apply_to(&mut model, &change);
            self.run.models.push(model);
            changes.push(change);
        }
        self.now.tried += changes.len() as u64;
        self.note();
        assert_eq!(self.live().apply(changes).unwrap(), self.now.tried);
        self.now.acked = self.now.tried;
        self.note();
    }

    fn switch(&mut self, to: usize) {
        // Trimming keeps what the old and the new version need, not what the one before did.
        let old = self.now.current;
        self.now.previous = old;
        self.note();
        let base = open_base(&self.run.vfs, &version(to)).unwrap();
        self.live().switch(base).unwrap();
        (self.now.previous, self.now.current) = (old, to);
        self.note();
    }

    fn step(&mut self) {
        match self.rng.below(12) {
            0 | 1 => {
                self.newest += 1;
                let report =
                    self.live().compact(self.live().snapshot().base(), &version(self.newest), &Silent).unwrap();
                assert_eq!(report.seq, self.now.acked);
                if self.rng.below(4) > 0 {
                    self.apply();
                    self.switch(self.newest);
                }
            }
            2 => self.switch(self.now.previous),
            3 => {
                self.live = None;
                self.live = Some(open(&self.run.vfs, self.now.current).unwrap());
            }
            _ => self.apply(),
        }
        let what = format!("at {:?}", self.now);
        check(self.live(), self.run.models.last().unwrap(), &what);
    }
}

fn run(seed: u64, steps: usize, views: bool) -> Run {
    let (memory, mut model) = (MemoryVfs::new(), documents(24, seed));
    if views {
        let mut rng = Rng::new(seed + 100);
        model.values_mut().for_each(|document| add_views(document, &mut rng));
    }
    build(&memory, &model, |spec| (spec.metric, spec.views) = (METRICS[seed as usize % 3], views));
    let vfs = CrashVfs::new(&memory);
    let live = Some(open(&vfs, 0).unwrap());
    let now = Promise { operation: 0, acked: 0, tried: 0, current: 0, previous: 0 };
    let run = Run { vfs, models: vec![model], promises: vec![now] };
    let mut driver = Driver { run, live, rng: Rng::new(seed), newest: 0, now, views };
    (0..steps).for_each(|_| driver.step());
    driver.run
}

/// Opens what the crash left on top of one version, and fails unless the promise was kept; then goes on.
fn check_crash(run: &Run, operation: usize, survival: Survival, go_on: bool) {
    let promise = *run.promises.iter().rfind(|promise| promise.operation <= operation).unwrap();
    let disk = run.vfs.after_crash(operation, survival);
    for base in [promise.current, promise.previous] {
        let what = format!("crash after {operation}, {survival:?}, on version {base}, {promise:?}");
        let live = open(&disk, base).unwrap_or_else(|error| panic!("{what}: {error}"));
        let seq = live.snapshot().seq();
        assert!((promise.acked..=promise.tried).contains(&seq), "{what}: {seq}");
        check(&live, &run.models[seq as usize], &what);
    }
    if go_on {
        let what = format!("after a crash after {operation}, {survival:?}");
        let live = open(&disk, promise.current).unwrap();
        let mut model = run.models[live.snapshot().seq() as usize].clone();
        let change = Change::Upsert(document(3, &mut Rng::new(operation as u64)));
        apply_to(&mut model, &change);
        live.apply(vec![change]).unwrap();
        // What a crashed compaction left in a folder is no hindrance to the next one there.
        let next = (0..).find(|&n| open_base(&disk, &version(n)).is_err()).unwrap();
        live.compact(live.snapshot().base(), &version(next), &Silent).unwrap_or_else(|error| panic!("{what}: {error}"));
        live.switch(open_base(&disk, &version(next)).unwrap()).unwrap();
        assert_eq!(live.snapshot().delta_rows(), 0, "{what}");
        check(&live, &model, &what);
        drop(live);
        check(&open(&disk, next).unwrap(), &model, &what);
    }
}

#[test]
fn no_crash_loses_or_invents_a_change() {
    let crashes: usize = [(1, false), (2, false), (3, false), (4, true), (5, true)]
        .into_iter()
        .map(|(seed, views)| {
            let run = run(seed, 22, views);
            assert!(run.promises.last().unwrap().acked > 20 && run.promises.last().unwrap().current > 0, "seed {seed}");
            let operations: Vec<usize> = (run.promises[1].operation..=run.vfs.operations()).collect();
            operations.par_iter().for_each(|&operation| {
                let seed = operation as u64 * 2;
                let survivals = [Survival::None, Survival::All, Survival::Random(seed), Survival::Random(seed + 1)];
                for (at, survival) in survivals.into_iter().enumerate() {
                    check_crash(&run, operation, survival, (operation + at) % 9 == 0);
                }
            });
            operations.len() * 4
        })
        .sum();
    assert!(crashes > 1_500, "{crashes} crashes");
}

#[test]
fn long_random_runs_end_as_the_model_does() {
    for seed in 10..18 {
        let run = run(seed, 120, seed % 2 == 1);
        let last = *run.promises.last().unwrap();
        let disk = run.vfs.after_crash(run.vfs.operations(), Survival::None);
        let base = open_base(&disk, &version(last.current)).unwrap();
        let live = Live::open(Arc::new(disk), Path::new(LIVE), base).unwrap();
        check(&live, run.models.last().unwrap(), &format!("seed {seed}"));
    }
}
