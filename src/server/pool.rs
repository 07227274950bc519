//! The fixed pool of threads that does all work of the processor: parsing, searching, writing answers.
//!
//! The easy version is `tokio::task::spawn_blocking`. The departures:
//! - *Bounded by time*: its queue has no end, so overload becomes latency for everyone. Here a task says what it will cost
//!   ([`Job`]), and one that would have to wait longer than the bound, or past its deadline, is refused at once. That costs the
//!   caller microseconds.
//! - *Nearest deadline first*: what waits is taken up in the order of deadlines, so a search that has 20 ms is not held up by
//!   a batch that has 30 s. Equal time limits make it first come, first served. Taking the nearest deadline first is known to
//!   collapse under overload, where everything is served just too late; bounded waiting is what keeps that from happening,
//!   and a task that cannot be done in time any more while others wait is dropped when its turn comes.
//! - *Workers own state*: each thread keeps its scratch from query to query, so a warm query allocates nothing for it.
//! - *Panics stay inside*: a task that panics loses its answer (the caller is told) and the worker goes on with fresh
//!   state.
//! - *Nobody waits, nobody works*: a task whose caller has gone is skipped when its turn comes, and no longer counts as
//!   waiting work where that would make the difference.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::queue::{Queue, Task};
use crate::error::{Error, Result};

/// By how much workers stand back behind other threads. With 5 a thousand slow clients that send a byte in the same moment hold
/// searches up for twice as long at the 99th percentile; with 0 a refusal waits for searches.
const NICENESS: i32 = 2;

/// Worker threads behind a bounded queue. Dropping the pool ends the threads once the queue is empty.
pub struct Pool<W> {
    queue: Arc<Queue<W>>,
    panics: Arc<AtomicU64>,
    threads: usize,
}

/// What the pool should know of a task.
#[derive(Clone, Copy, Debug, Default)]
pub struct Job {
    /// Time that a worker will need for it, as far as can be told; zero for what need not be counted.
    pub cost: Duration,
    /// When its answer stops being of use; without one it stands in the queue as if that were in a second.
    pub deadline: Option<Instant>,
    /// Whether an incomplete answer is of use: such a task need only begin before its deadline.
    pub partial: bool,
}

/// Why a task has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// The queue is full; this many tasks are waiting.
    Full(usize),
    /// The task would have to wait this long, which is beyond the bound or past its deadline.
    Late(Duration),
    /// The task panicked.
    Panicked,
}

/// The answer that a task will give.
#[derive(Debug)]
pub struct Pending<T>(oneshot::Receiver<std::result::Result<T, Lost>>);

impl<T> Pending<T> {
    /// Waits for the answer. Dropping the future instead cancels a task that has not begun.
    ///
    /// # Errors
    /// [`Lost::Panicked`]; [`Lost::Late`] for a task that could not be done in time when its turn came.
    pub async fn answer(self) -> std::result::Result<T, Lost> {
        self.0.await.unwrap_or(Err(Lost::Panicked))
    }
}

/// A closure and where its answer goes.
struct Replying<F, T> {
    task: F,
    reply: oneshot::Sender<std::result::Result<T, Lost>>,
}

impl<W, T: Send, F: FnOnce(&mut W) -> T + Send> Task<W> for Replying<F, T> {
    fn wanted(&self) -> bool {
        !self.reply.is_closed()
    }

    fn run(self: Box<Self>, state: &mut W) {
        let Replying { task, reply } = *self;
        let _ = reply.send(Ok(task(state)));
    }

    fn refuse(self: Box<Self>, lost: Lost) {
        let _ = self.reply.send(Err(lost));
    }
}

impl<W: 'static> Pool<W> {
    /// Starts `threads` workers, each with a state of its own from `state`, behind a queue of at most `queue` tasks, none of
    /// which waits longer than `bound`.
    ///
    /// # Errors
    /// The operating system refuses a thread.
    pub fn start(
        threads: usize,
        queue: usize,
        bound: Duration,
        state: impl Fn() -> W + Send + Sync + 'static,
    ) -> Result<Pool<W>> {
        let pool = Pool { queue: Arc::new(Queue::new(threads, queue, bound)), panics: Arc::default(), threads };
        let state = Arc::new(state);
        for number in 0..threads {
            let (queue, state, panics) = (pool.queue.clone(), state.clone(), pool.panics.clone());
            let thread = std::thread::Builder::new().name(format!("search-{number}"));
            let work = move || work(number, &queue, &*state, &panics);
            thread.spawn(work).map_err(Error::io("thread of the search pool"))?;
        }
        Ok(pool)
    }

    /// Queues `task`, which costs little, or refuses it at once.
    ///
    /// # Errors
    /// [`Lost::Full`], [`Lost::Late`].
    pub fn submit<T: Send + 'static>(
        &self,
        task: impl FnOnce(&mut W) -> T + Send + 'static,
    ) -> std::result::Result<Pending<T>, Lost> {
        self.submit_as(Job::default(), task)
    }

    /// Queues `task`, or refuses it at once.
    ///
    /// # Errors
    /// [`Lost::Full`], [`Lost::Late`].
    pub fn submit_as<T: Send + 'static>(
        &self,
        job: Job,
        task: impl FnOnce(&mut W) -> T + Send + 'static,
    ) -> std::result::Result<Pending<T>, Lost> {
        let (reply, answer) = oneshot::channel();
        self.queue.push(job, Box::new(Replying { task, reply }))?;
        Ok(Pending(answer))
    }

    /// Queues the tasks of one job as a whole, each with its cost: all of them or none. `job` says the rest; its cost does
    /// not count.
    ///
    /// # Errors
    /// [`Lost::Full`], [`Lost::Late`].
    pub fn submit_all<T: Send + 'static, F: FnOnce(&mut W) -> T + Send + 'static>(
        &self,
        job: Job,
        tasks: Vec<(Duration, F)>,
    ) -> std::result::Result<Vec<Pending<T>>, Lost> {
        let mut pending = Vec::with_capacity(tasks.len());
        let boxed = |(cost, task): (Duration, F)| {
            let (reply, answer) = oneshot::channel();
            pending.push(Pending(answer));
            (cost, Box::new(Replying { task, reply }) as Box<dyn Task<W>>)
        };
        let tasks = tasks.into_iter().map(boxed).collect();
        self.queue.push_all(job, tasks)?;
        Ok(pending)
    }

    /// Tasks that wait for a worker.
    pub fn queued(&self) -> usize {
        self.queue.queued()
    }

    /// How long the work that waits will keep all workers busy, as estimated.
    pub fn backlog(&self) -> Duration {
        self.queue.backlog()
    }

    /// The most tasks that may wait.
    pub fn capacity(&self) -> usize {
        self.queue.capacity()
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

impl<W> Drop for Pool<W> {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// Lets the threads that only move bytes go first where both want the same core: under overload a refusal takes microseconds, but waits
/// for a whole search otherwise. On Linux this is a matter of the calling thread alone. Where it is not allowed nothing is lost.
fn give_way() {
    let _ = rustix::process::setpriority_process(None, NICENESS);
}

fn work<W>(number: usize, queue: &Queue<W>, state: &impl Fn() -> W, panics: &AtomicU64) {
    give_way();
    let mut own = state();
    while let Some(task) = queue.pop(number) {
        // The state may be half changed after a panic, which is why it is replaced and not used again.
        if catch_unwind(AssertUnwindSafe(|| task.run(&mut own))).is_err() {
            panics.fetch_add(1, Ordering::Relaxed);
            own = state();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const BOUND: Duration = Duration::from_millis(100);

    #[tokio::test]
    async fn a_panic_is_told_and_the_worker_lives_on_with_fresh_state() {
        let pool = Pool::start(1, 4, BOUND, || 7).unwrap();
        let doomed = pool.submit(|state| {
            *state = 8;
            assert_eq!(*state, 7, "this panic is part of the test");
        });
        assert_eq!(doomed.unwrap().answer().await, Err(Lost::Panicked));
        assert_eq!(pool.submit(|state| *state).unwrap().answer().await, Ok(7));
        assert_eq!(pool.panics(), 1);
    }

    /// A pool of one worker, which is busy until the sender is used or dropped.
    fn busy(capacity: usize) -> (Pool<()>, mpsc::Sender<()>, Pending<bool>) {
        let pool = Pool::start(1, capacity, BOUND, || ()).unwrap();
        let (release, gate) = mpsc::channel::<()>();
        let (started, running) = mpsc::channel();
        let busy = pool.submit(move |()| started.send(()).is_ok() && gate.recv().is_ok()).unwrap();
        running.recv().unwrap();
        (pool, release, busy)
    }

    #[tokio::test]
    async fn a_full_queue_refuses_and_a_dropped_task_is_not_run() {
        let (pool, release, busy) = busy(2);
        let (ran, log) = mpsc::channel();
        let of = |number: i32| {
            let ran = ran.clone();
            move |(): &mut ()| ran.send(number)
        };
        let first = pool.submit(of(1)).unwrap();
        let second = pool.submit(of(2)).unwrap();
        assert_eq!(pool.submit(of(3)).unwrap_err(), Lost::Full(2));
        drop(first);
        release.send(()).unwrap();
        assert_eq!(busy.answer().await, Ok(true));
        second.answer().await.unwrap().unwrap();
        drop(ran);
        drop(pool);
        assert_eq!(log.iter().collect::<Vec<_>>(), [2]);
    }

    #[tokio::test]
    async fn the_nearest_deadline_comes_first_and_equals_in_their_order() {
        let (pool, release, _busy) = busy(9);
        let (ran, log) = mpsc::channel();
        let now = Instant::now();
        let submit = |name: &'static str, ms: u64| {
            let ran = ran.clone();
            let job = Job { deadline: Some(now + Duration::from_millis(ms)), ..Job::default() };
            pool.submit_as(job, move |()| ran.send(name).unwrap()).unwrap()
        };
        let pending = [submit("batch", 30_000), submit("a", 900), submit("b", 900), submit("bid", 500)];
        release.send(()).unwrap();
        for task in pending {
            task.answer().await.unwrap();
        }
        drop(ran);
        assert_eq!(log.iter().collect::<Vec<_>>(), ["bid", "a", "b", "batch"]);
    }
}
