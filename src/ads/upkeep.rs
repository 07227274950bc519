//! What a collection does when nobody asks: values of rows, compaction, checkpoints of the control table.
//!
//! One thread, which ends with the collection. An error is logged by whoever is told of it, and tried again later; nothing
//! here may stop serving.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::collection::{Collection, lock};
use super::control::CHECKPOINT_BYTES;
use crate::error::{Error, Result};
use crate::train::Silent;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);
/// Between two refreshes of values although the table has not changed: flights begin and end.
const FLIGHTS: Duration = Duration::from_secs(30);
/// Least time between two refreshes.
const REFRESH: Duration = Duration::from_secs(1);
/// After something that failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// When what was last done.
struct Clock {
    refreshed: Instant,
    refreshed_all: Instant,
    checkpoint: Retry,
    tidying: Retry,
    compaction: Retry,
}

/// When something failed the last time, if it did.
#[derive(Default)]
struct Retry(Option<Instant>);

impl Retry {
    fn is_due(&self) -> bool {
        self.0.is_none_or(|failed| failed.elapsed() >= PATIENCE)
    }

    /// Reports a failure, and waits before the next attempt; whether it went well.
    fn note<T>(&mut self, what: &'static str, outcome: Result<T>, report: &dyn Fn(&'static str, &Error)) -> bool {
        self.0 = outcome.as_ref().err().map(|_| Instant::now());
        outcome.inspect_err(|error| report(what, error)).is_ok()
    }
}

impl Collection {
    /// Starts the upkeep of a collection; `report` is told of what fails.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn start_upkeep(self: &Arc<Self>, report: impl Fn(&'static str, &Error) + Send + 'static) -> Result<()> {
        let collection = Arc::downgrade(self);
        let thread = std::thread::Builder::new().name("upkeep".into());
        thread.spawn(move || keep_up(&collection, &report)).map_err(Error::io("thread of the upkeep"))?;
        Ok(())
    }

    /// One look at everything.
    fn look(&self, clock: &mut Clock, report: &dyn Fn(&'static str, &Error)) {
        if clock.refreshed.elapsed() >= REFRESH {
            let all = clock.refreshed_all.elapsed() >= FLIGHTS;
            self.refresh_values(all);
            clock.refreshed = Instant::now();
            if all {
                clock.refreshed_all = clock.refreshed;
            }
        }
        if self.options.state.is_none() {
            return;
        }
        if clock.checkpoint.is_due() {
            let done = self.control.checkpoint(CHECKPOINT_BYTES);
            clock.checkpoint.note("checkpoint of the control table", done, report);
        }
        if clock.tidying.is_due() && self.untidy.swap(false, Relaxed) {
            let tidy = clock.tidying.note("removing what no version needs", self.tidy(), report);
            self.untidy.fetch_or(!tidy, Relaxed);
        }
        if clock.compaction.is_due() && self.wants_compaction() {
            clock.compaction.note("compaction", self.compact(&Silent), report);
        }
    }

    fn refresh_values(&self, even_so: bool) {
        let versions: Vec<_> = lock(&self.shelf).iter().map(|shelved| shelved.version.clone()).collect();
        let epoch = self.control.epoch();
        versions.iter().for_each(|version| version.refresh(&epoch, self.options.settings.default_ctr, even_so));
    }

    fn wants_compaction(&self) -> bool {
        let most = self.options.compact_changes;
        // Ads, not their rows: one with many views is one change.
        let changes = |active| {
            self.live.over(active).map_or(0, |snapshot| snapshot.delta_documents() + snapshot.dead_documents())
        };
        // Compacting what somebody has just gone back to would take it from them again.
        let serving = self.serving.load();
        most > 0 && !serving.rolled_back && changes(&serving.active.searcher) >= most
    }
}

fn keep_up(collection: &Weak<Collection>, report: &dyn Fn(&'static str, &Error)) {
    let now = Instant::now();
    let mut clock = Clock {
        refreshed: now,
        refreshed_all: now,
        checkpoint: Retry::default(),
        tidying: Retry::default(),
        compaction: Retry::default(),
    };
    loop {
        std::thread::sleep(LOOK);
        match collection.upgrade() {
            Some(collection) => collection.look(&mut clock, report),
            None => return,
        }
    }
}
