//! Many callers, one sync: what arrives while the disk is busy is written together by whoever comes next.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Journal, check_lengths};
use crate::error::{Error, Result};

/// A journal that any number of threads append to. Each call returns when its records are durable and published; the records of
/// calls that wait meanwhile share one write and one sync.
pub struct Grouped<T> {
    queue: Mutex<Vec<Waiting<T>>>,
    journal: Mutex<Journal>,
}

struct Waiting<T> {
    payloads: Vec<Vec<u8>>,
    item: T,
    outcome: Arc<Mutex<Option<Result<u64>>>>,
}

impl<T> Grouped<T> {
    /// Shares `journal`.
    pub fn new(journal: Journal) -> Grouped<T> {
        Grouped { queue: Mutex::new(Vec::new()), journal: Mutex::new(journal) }
    }

    /// The journal, while nothing is being written to it.
    pub fn journal(&self) -> MutexGuard<'_, Journal> {
        lock(&self.journal)
    }

    /// Appends `payloads`, then hands `item` to `publish` together with those of other callers that were made durable by the same
    /// sync, each with the number of its last record, in the order of the log. The number of the last record of this call.
    ///
    /// `publish` is called before any of those callers returns, by one thread at a time, with [`Grouped::journal`] locked; which
    /// caller's it is, is chance. If it fails, they all fail.
    ///
    /// # Errors
    /// Those of [`Journal::append`] and `publish`.
    pub fn commit(
        &self,
        payloads: Vec<Vec<u8>>,
        item: T,
        publish: impl FnOnce(Vec<(T, u64)>) -> Result<()>,
    ) -> Result<u64> {
        // Here, so that one caller's long record does not spoil a group.
        check_lengths(&payloads)?;
        let outcome = Arc::new(Mutex::new(None));
        lock(&self.queue).push(Waiting { payloads, item, outcome: outcome.clone() });
        let mut journal = self.journal();
        // Whoever held the journal may have written ours along with its own.
        if let Some(done) = lock(&outcome).take() {
            return done;
        }
        let group = std::mem::take(&mut *lock(&self.queue));
        write_group(&mut journal, group, publish);
        lock(&outcome).take().expect("the group held this call, and every call of it has an outcome")
    }
}

fn write_group<T>(
    journal: &mut Journal,
    mut group: Vec<Waiting<T>>,
    publish: impl FnOnce(Vec<(T, u64)>) -> Result<()>,
) {
    let counts: Vec<u64> = group.iter().map(|waiting| waiting.payloads.len() as u64).collect();
    let payloads: Vec<Vec<u8>> = group.iter_mut().flat_map(|waiting| std::mem::take(&mut waiting.payloads)).collect();
    let (outcomes, items): (Vec<_>, Vec<T>) = group.into_iter().map(|waiting| (waiting.outcome, waiting.item)).unzip();
    let mut last = journal.last_seq();
    let ends: Vec<u64> = counts
        .iter()
        .map(|count| {
            last += count;
            last
        })
        .collect();
    let done = journal.append(&payloads).and_then(|_| publish(items.into_iter().zip(ends.iter().copied()).collect()));
    for (outcome, end) in outcomes.iter().zip(ends) {
        *lock(outcome) = Some(done.as_ref().map(|()| end).map_err(share));
    }
}

/// The same failure for another caller.
fn share(error: &Error) -> Error {
    match error {
        Error::Io { path, source } => Error::io(path)(std::io::Error::new(source.kind(), source.to_string())),
        other => Error::Unsupported { what: format!("this change ({other})"), remedy: "restart to write again".into() },
    }
}

/// A thread that panicked held no half-made state: values are replaced whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::MemoryVfs;
    use crate::vfs::testing::{Fault, FaultyVfs};
    use std::path::Path;

    fn open(vfs: &FaultyVfs) -> Journal {
        Journal::open(Arc::new(vfs.clone()), Path::new("/log"), &mut |_, _| Ok(())).unwrap()
    }

    #[test]
    fn those_who_wait_share_a_write_and_a_sync() {
        const CALLERS: u64 = 12;
        let vfs = FaultyVfs::once(Arc::new(MemoryVfs::new()), u64::MAX, Fault::Partial);
        let grouped = Grouped::new(open(&vfs));
        let published = Mutex::new(Vec::new());
        let before = vfs.operations();
        std::thread::scope(|scope| {
            let busy = grouped.journal();
            let calls: Vec<_> = (0..CALLERS)
                .map(|n| {
                    let (grouped, published) = (&grouped, &published);
                    let publish = move |items: Vec<(u64, u64)>| {
                        lock(published).extend(items);
                        Ok(())
                    };
                    let payloads = vec![vec![n as u8]; 1 + n as usize % 3];
                    scope.spawn(move || (n, grouped.commit(payloads, n, publish).unwrap()))
                })
                .collect();
            while lock(&grouped.queue).len() < CALLERS as usize {
                std::thread::yield_now();
            }
            drop(busy);
            let mut returned: Vec<_> = calls.into_iter().map(|call| call.join().unwrap()).collect();
            returned.sort_by_key(|&(_, seq)| seq);
            assert_eq!(returned, *lock(&published));
        });
        assert_eq!(vfs.operations() - before, 2);
        assert_eq!(grouped.journal().last_seq(), (0..CALLERS).map(|n| 1 + n % 3).sum::<u64>());
    }

    #[test]
    fn a_failed_write_fails_the_whole_group_and_publishes_nothing() {
        let memory = MemoryVfs::new();
        open(&FaultyVfs::once(Arc::new(memory.clone()), u64::MAX, Fault::Partial));
        let healthy = FaultyVfs::once(Arc::new(memory.clone()), u64::MAX, Fault::Partial);
        drop(open(&healthy));
        let vfs = FaultyVfs::once(Arc::new(memory), healthy.operations() + 1, Fault::Partial);
        let grouped = Grouped::new(open(&vfs));
        for _ in 0..2 {
            let error = grouped.commit(vec![vec![1]], (), |_| panic!("published")).unwrap_err();
            assert!(matches!(error, Error::Io { .. }), "{error}");
        }
        let published = grouped.commit(vec![vec![0; super::super::MAX_PAYLOAD + 1]], (), |_| panic!("published"));
        assert!(matches!(published.unwrap_err(), Error::InvalidParams { .. }));
    }
}
