//! The fixed pool of threads that does all work of the processor: parsing, searching, writing answers.
//!
//! The easy version is `tokio::task::spawn_blocking`. The departures:
//! - *Bounded*: its queue has no end, so overload becomes latency for everyone. Here a task that finds the queue full
//!   is refused at once, which costs the caller microseconds.
//! - *Workers own state*: each thread keeps its scratch from query to query, so a warm query allocates nothing for it.
//! - *Panics stay inside*: a task that panics loses its answer (the caller is told) and the worker goes on with fresh
//!   state.
//! - *Nobody waits, nobody works*: a task whose caller has gone is skipped when its turn comes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use tokio::sync::oneshot;

use crate::error::{Error, Result};

type Task<W> = Box<dyn FnOnce(&mut W) + Send>;

/// Worker threads behind a bounded queue. Dropping the pool ends the threads once the queue is empty.
pub struct Pool<W> {
    sender: Sender<Task<W>>,
    panics: Arc<AtomicU64>,
    threads: usize,
}

/// Why a task has no answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Lost {
    /// The queue is full; this many tasks are waiting.
    Full(usize),
    /// The task panicked.
    Panicked,
}

/// The answer that a task will give.
#[derive(Debug)]
pub struct Pending<T>(oneshot::Receiver<T>);

impl<T> Pending<T> {
    /// Waits for the answer. Dropping the future instead cancels a task that has not begun.
    ///
    /// # Errors
    /// [`Lost::Panicked`].
    pub async fn answer(self) -> std::result::Result<T, Lost> {
        self.0.await.map_err(|_| Lost::Panicked)
    }
}

impl<W: 'static> Pool<W> {
    /// Starts `threads` workers, each with a state of its own from `state`, behind a queue of `queue` tasks.
    ///
    /// # Errors
    /// The operating system refuses a thread.
    pub fn start(threads: usize, queue: usize, state: impl Fn() -> W + Send + Sync + 'static) -> Result<Pool<W>> {
        let (sender, receiver) = bounded(queue);
        let panics = Arc::new(AtomicU64::new(0));
        let state = Arc::new(state);
        for number in 0..threads {
            let (receiver, state, panics) = (receiver.clone(), state.clone(), panics.clone());
            let thread = std::thread::Builder::new().name(format!("search-{number}"));
            thread.spawn(move || work(&receiver, &*state, &panics)).map_err(Error::io("thread of the search pool"))?;
        }
        Ok(Pool { sender, panics, threads })
    }

    /// Queues `task`, or refuses it at once.
    ///
    /// # Errors
    /// [`Lost::Full`].
    pub fn submit<T: Send + 'static>(
        &self,
        task: impl FnOnce(&mut W) -> T + Send + 'static,
    ) -> std::result::Result<Pending<T>, Lost> {
        let (reply, answer) = oneshot::channel();
        let task: Task<W> = Box::new(move |state| {
            if !reply.is_closed() {
                let _ = reply.send(task(state));
            }
        });
        match self.sender.try_send(task) {
            Ok(()) => Ok(Pending(answer)),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Err(Lost::Full(self.queued())),
        }
    }

    /// Tasks that wait for a worker.
    pub fn queued(&self) -> usize {
        self.sender.len()
    }

    /// The most tasks that may wait.
    pub fn capacity(&self) -> usize {
        self.sender.capacity().unwrap_or(usize::MAX)
    }

    /// Worker threads.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Tasks that panicked since the start.
    pub fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }
}

fn work<W>(receiver: &Receiver<Task<W>>, state: &impl Fn() -> W, panics: &AtomicU64) {
    let mut own = state();
    while let Ok(task) = receiver.recv() {
        // The state may be half changed after a panic, which is why it is replaced and not used again.
        if catch_unwind(AssertUnwindSafe(|| task(&mut own))).is_err() {
            panics.fetch_add(1, Ordering::Relaxed);
            own = state();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test]
    async fn a_panic_is_told_and_the_worker_lives_on_with_fresh_state() {
        let pool = Pool::start(1, 4, || 7).unwrap();
        let doomed = pool.submit(|state| {
            *state = 8;
            assert_eq!(*state, 7, "this panic is part of the test");
        });
        assert_eq!(doomed.unwrap().answer().await, Err(Lost::Panicked));
        assert_eq!(pool.submit(|state| *state).unwrap().answer().await, Ok(7));
        assert_eq!(pool.panics(), 1);
    }

    #[tokio::test]
    async fn a_full_queue_refuses_and_a_dropped_task_is_not_run() {
        let pool = Pool::start(1, 2, || ()).unwrap();
        let (release, gate) = mpsc::channel::<()>();
        let (started, running) = mpsc::channel();
        let busy = pool.submit(move |()| started.send(()).is_ok() && gate.recv().is_ok()).unwrap();
        running.recv().unwrap();
        let (ran, log) = mpsc::channel();
        let first = pool
            .submit({
                let ran = ran.clone();
                move |()| ran.send(1)
            })
            .unwrap();
        let second = pool.submit(move |()| ran.send(2)).unwrap();
        assert_eq!(pool.submit(|()| ()).unwrap_err(), Lost::Full(2));
        drop(first);
        release.send(()).unwrap();
        assert_eq!(busy.answer().await, Ok(true));
        second.answer().await.unwrap().unwrap();
        assert_eq!(log.iter().collect::<Vec<_>>(), [2]);
    }
}
