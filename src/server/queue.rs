//! What waits for a worker: tasks by deadline, with what they will cost.
//!
//! One mutex guards it all. A task costs a worker a tenth of a millisecond or more, and the lock is held for less than a
//! microsecond, but for the rare walks over all that waits: for a task whose deadline is nearer than another's, and for one
//! that would be refused, to leave out those whose callers have gone (at most every 20 ms: under overload all of them would pay for it).
//! What is refused or left out is dropped, with the body that it holds, after the lock is.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::pool::{Job, Lost};

/// Where a task without a deadline stands in the queue.
const PATIENCE: Duration = Duration::from_secs(1);
/// Least time between two walks over the queue to leave out what nobody waits for.
const PURGE_EVERY: Duration = Duration::from_millis(20);

/// One task.
pub(super) trait Task<W>: Send {
    /// Whether anybody waits for its answer.
    fn wanted(&self) -> bool;
    /// Does it.
    fn run(self: Box<Self>, state: &mut W);
    /// Tells whoever waits why it is not done.
    fn refuse(self: Box<Self>, lost: Lost);
}

/// The queue of a [`super::pool::Pool`].
pub(super) struct Queue<W> {
    state: Mutex<State<W>>,
    ready: Condvar,
    threads: usize,
    capacity: usize,
    bound: Duration,
    /// Copies of what the state says, to be read without the lock.
    queued: AtomicUsize,
    waiting_ns: AtomicU64,
}

struct State<W> {
    heap: BinaryHeap<Waiting<W>>,
    /// Sum of the costs in the heap.
    waiting: Duration,
    /// No deadline in the heap is later.
    latest: Option<Instant>,
    /// What each worker is at: since when, and what it will cost.
    running: Vec<Option<(Instant, Duration)>>,
    order: u64,
    purged: Instant,
    open: bool,
}

struct Waiting<W> {
    deadline: Instant,
    order: u64,
    cost: Duration,
    /// The latest moment at which it is of use to begin.
    begin_by: Instant,
    task: Box<dyn Task<W>>,
}

impl<W> Queue<W> {
    /// An empty queue for `threads` workers.
    pub(super) fn new(threads: usize, capacity: usize, bound: Duration) -> Queue<W> {
        let state = State {
            heap: BinaryHeap::new(),
            waiting: Duration::ZERO,
            latest: None,
            running: vec![None; threads],
            order: 0,
            purged: Instant::now(),
            open: true,
        };
        let (ready, queued, waiting_ns) = Default::default();
        Queue { state: Mutex::new(state), ready, threads, capacity, bound, queued, waiting_ns }
    }

    /// Queues a task, unless it would wait too long.
    pub(super) fn push(&self, job: Job, task: Box<dyn Task<W>>) -> Result<(), Lost> {
        self.push_all(job, vec![(job.cost, task)])
    }

    /// Queues tasks that are of use only together; what one of them adds to the queue holds up no other one.
    pub(super) fn push_all(&self, job: Job, tasks: Vec<(Duration, Box<dyn Task<W>>)>) -> Result<(), Lost> {
        let now = Instant::now();
        let cost = tasks.iter().map(|(cost, _)| *cost).max().unwrap_or_default();
        let (mut left_out, mut refused) = (Vec::new(), Vec::new());
        let mut state = self.lock();
        let mut admitted = self.admit(&state, &Job { cost, ..job }, tasks.len(), now);
        if admitted.is_err() && now.duration_since(state.purged) >= PURGE_EVERY {
            left_out = state.purge(now);
            admitted = self.admit(&state, &Job { cost, ..job }, tasks.len(), now);
        }
        if admitted.is_ok() {
            for (cost, task) in tasks {
                state.push(&job, cost, task, now);
                self.ready.notify_one();
            }
        } else {
            refused = tasks;
        }
        self.publish(&state);
        drop(state);
        drop((left_out, refused));
        admitted
    }

    /// The next task for worker `number`, which has finished its last one; none when the queue is closed and empty.
    pub(super) fn pop(&self, number: usize) -> Option<Box<dyn Task<W>>> {
        let mut passed = Vec::new();
        let mut state = self.lock();
        state.running[number] = None;
        let next = loop {
            let Some(next) = state.heap.pop() else {
                self.publish(&state);
                if !passed.is_empty() {
                    drop(state);
                    dismiss(std::mem::take(&mut passed));
                    state = self.lock();
                    continue;
                }
                if !state.open {
                    return None;
                }
                state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.waiting = state.waiting.saturating_sub(next.cost);
            let now = Instant::now();
            // Late, but not so late that its deadline has passed: that is for the task itself to say, which knows its limit.
            let late = now > next.begin_by && now < next.deadline && !state.heap.is_empty();
            if late || !next.task.wanted() {
                passed.push((next.task, Lost::Late(state.waiting / self.threads as u32)));
                continue;
            }
            state.running[number] = Some((now, next.cost));
            self.publish(&state);
            break next.task;
        };
        drop(state);
        dismiss(passed);
        Some(next)
    }

    /// Lets the workers go once nothing waits.
    pub(super) fn close(&self) {
        self.lock().open = false;
        self.ready.notify_all();
    }

    pub(super) fn queued(&self) -> usize {
        self.queued.load(Relaxed)
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// How long the waiting work will keep all workers busy.
    pub(super) fn backlog(&self) -> Duration {
        Duration::from_nanos(self.waiting_ns.load(Relaxed)) / self.threads as u32
    }

    /// Whether `tasks` tasks, of which the longest is `job`, may wait.
    fn admit(&self, state: &State<W>, job: &Job, tasks: usize, now: Instant) -> Result<(), Lost> {
        // A job of more tasks than may ever wait would never be admitted: alone it may.
        if state.heap.len() + tasks > self.capacity && !(state.heap.is_empty() && tasks > 1) {
            return Err(Lost::Full(state.heap.len()));
        }
        if state.heap.is_empty() && state.running.iter().any(Option::is_none) {
            return Ok(());
        }
        let wait = state.before(place(job, now), now) / self.threads as u32;
        let needed = if job.partial { wait } else { wait + job.cost };
        // A task that is longer than its own deadline is not late because of others.
        let late = job.deadline.is_some_and(|deadline| now + needed > deadline) && !wait.is_zero();
        if late || wait > self.bound { Err(Lost::Late(wait)) } else { Ok(()) }
    }

    fn publish(&self, state: &State<W>) {
        self.queued.store(state.heap.len(), Relaxed);
        self.waiting_ns.store(state.waiting.as_nanos() as u64, Relaxed);
    }

    /// No task runs under the lock, so that a panic elsewhere leaves the state whole.
    fn lock(&self) -> MutexGuard<'_, State<W>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W> State<W> {
    fn push(&mut self, job: &Job, cost: Duration, task: Box<dyn Task<W>>, now: Instant) {
        let deadline = place(job, now);
        let begin_by = match job.deadline {
            Some(deadline) if !job.partial => deadline.checked_sub(cost).unwrap_or(now).max(now),
            _ => deadline,
        };
        // Alone in the queue it decides what is the latest, whatever was there before.
        self.latest = if self.heap.is_empty() { Some(deadline) } else { self.latest.max(Some(deadline)) };
        self.order += 1;
        self.waiting += cost;
        self.heap.push(Waiting { deadline, order: self.order, cost, begin_by, task });
    }

    /// The work that comes before a task with this deadline, over all workers.
    fn before(&self, deadline: Instant, now: Instant) -> Duration {
        let left = |(since, cost): &(Instant, Duration)| cost.saturating_sub(now.duration_since(*since));
        let running: Duration = self.running.iter().flatten().map(left).sum();
        let waiting = match self.latest {
            Some(latest) if deadline < latest => {
                self.heap.iter().filter(|other| other.deadline <= deadline).map(|other| other.cost).sum()
            }
            _ => self.waiting,
        };
        running + waiting
    }

    /// Leaves out the tasks that nobody waits for, and returns them.
    fn purge(&mut self, now: Instant) -> Vec<Waiting<W>> {
        let (wanted, left_out): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.heap).into_iter().partition(|waiting| waiting.task.wanted());
        self.heap = wanted.into();
        self.waiting = self.heap.iter().map(|waiting| waiting.cost).sum();
        self.purged = now;
        left_out
    }
}

/// Tells those who wait for tasks, if any still do, that they are not done.
fn dismiss<W>(tasks: Vec<(Box<dyn Task<W>>, Lost)>) {
    tasks.into_iter().for_each(|(task, lost)| task.refuse(lost));
}

/// Where a job stands in the queue.
fn place(job: &Job, now: Instant) -> Instant {
    job.deadline.unwrap_or(now + PATIENCE)
}

impl<W> Ord for Waiting<W> {
    /// The greatest is the next one: of the nearest deadline, then the one that came first.
    fn cmp(&self, other: &Self) -> Ordering {
        other.deadline.cmp(&self.deadline).then(other.order.cmp(&self.order))
    }
}

impl<W> PartialOrd for Waiting<W> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<W> PartialEq for Waiting<W> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<W> Eq for Waiting<W> {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    /// A task that is wanted as long as its flag is up, and that notes why it was refused.
    struct Noted(Arc<AtomicBool>, Arc<Mutex<Option<Lost>>>);

    impl Task<()> for Noted {
        fn wanted(&self) -> bool {
            self.0.load(Relaxed)
        }
        fn run(self: Box<Self>, (): &mut ()) {}
        fn refuse(self: Box<Self>, lost: Lost) {
            *self.1.lock().unwrap() = Some(lost);
        }
    }

    /// A task, whether it is wanted, and why it was refused.
    type Handle = (Box<dyn Task<()>>, Arc<AtomicBool>, Arc<Mutex<Option<Lost>>>);

    fn task() -> Handle {
        let (wanted, refused) = (Arc::new(AtomicBool::new(true)), Arc::default());
        (Box::new(Noted(wanted.clone(), Arc::clone(&refused))), wanted, refused)
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn job(cost: u64, deadline: u64) -> Job {
        Job { cost: ms(cost), deadline: Some(Instant::now() + ms(deadline)), partial: false }
    }

    /// A queue whose one worker has begun a task of no cost.
    fn working() -> Queue<()> {
        let queue = Queue::new(1, 100, ms(1_000));
        queue.push(Job::default(), task().0).unwrap();
        queue.pop(0).unwrap();
        queue
    }

    #[test]
    fn what_waits_before_a_task_decides_whether_it_is_admitted() {
        let queue = working();
        let late = |job: Job| matches!(queue.push(job, task().0), Err(Lost::Late(_)));
        queue.push(job(500, 60_000), task().0).unwrap();
        assert_eq!(queue.backlog(), ms(500));
        // Behind all that waits, and before it.
        assert!(!late(job(1, 70_000)) && !late(job(300, 20_000)));
        // The 300 ms are before these: one has the time to wait for them, one has not, one need only begin in time.
        assert!(!late(job(100, 20_001)) && late(job(19_700, 20_001)));
        assert!(!late(Job { partial: true, ..job(19_700, 20_001) }));
        // Nothing is before this one: that it is longer than its own deadline is no matter of the queue.
        assert!(!late(job(100, 10)));
    }

    #[test]
    fn the_bound_holds_whatever_the_deadline_and_an_idle_worker_takes_anything() {
        let queue = Queue::new(2, 100, ms(100));
        queue.push(job(5_000, 10), task().0).unwrap();
        queue.pop(0).unwrap();
        queue.push(job(5_000, 10), task().0).unwrap();
        queue.pop(1).unwrap();
        let lost = queue.push(job(1, 60_000), task().0).unwrap_err();
        assert!(matches!(lost, Lost::Late(wait) if wait > ms(4_000)), "{lost:?}");
    }

    #[test]
    fn tasks_that_nobody_waits_for_hold_up_no_other() {
        let queue = working();
        let (gone, wanted, _) = task();
        queue.push(job(900, 60_000), gone).unwrap();
        queue.push(job(300, 60_000), task().0).unwrap();
        assert!(queue.push(job(1, 60_001), task().0).is_err());
        wanted.store(false, Relaxed);
        std::thread::sleep(PURGE_EVERY);
        queue.push(job(1, 60_001), task().0).unwrap();
        assert_eq!((queue.queued(), queue.backlog()), (2, ms(301)));
    }

    #[test]
    fn a_task_too_late_to_be_done_is_dropped_for_one_that_is_not() {
        let queue = working();
        let (late, _, refused) = task();
        queue.push(job(10, 15), late).unwrap();
        queue.push(job(1, 5_000), task().0).unwrap();
        std::thread::sleep(ms(8));
        queue.pop(0).unwrap();
        // On a machine that slept past the deadline as well, the task says so itself.
        let refused = refused.lock().unwrap();
        assert!(
            refused.is_none_or(|lost| matches!(lost, Lost::Late(_)))
                && queue.queued() == usize::from(refused.is_none())
        );
    }

    #[test]
    fn shares_of_a_batch_are_queued_all_or_none() {
        let queue = Queue::new(1, 3, ms(1_000));
        let shares = |count: usize| (0..count).map(|_| (ms(1), task().0)).collect();
        queue.push(Job::default(), task().0).unwrap();
        assert_eq!(queue.push_all(job(0, 5_000), shares(3)), Err(Lost::Full(1)));
        queue.push_all(job(0, 5_000), shares(2)).unwrap();
        assert_eq!(queue.queued(), 3);
        queue.close();
        assert!((0..3).all(|_| queue.pop(0).is_some()) && queue.pop(0).is_none());
    }
}
