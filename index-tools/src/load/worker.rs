//! The thread of the client that talks: sends requests on kept-alive connections and notes what becomes of them.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bigrain::error::Result;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{sleep, sleep_until, timeout_at};

use super::background;
use super::http::{Connection, Failure};
use super::pace::arrivals;
use super::record::{Recorder, Seen, Window};
use super::run::{Load, Plan, runtime};

/// A client of a closed loop whose request got no answer waits so long, so that a dead server is not asked in a spin.
const AFTER_FAILURE: Duration = Duration::from_millis(10);

pub(super) struct Worker {
    plan: Plan,
    /// Whole requests, heads included.
    requests: Vec<Vec<u8>>,
    idle: RefCell<Vec<Connection>>,
    /// One permit a connection that may be open.
    free: Semaphore,
    recorder: RefCell<Recorder>,
    until: Instant,
}

impl Worker {
    /// Does `load` from `start` to the end of `window`; returns when each request has ended.
    pub(super) fn work(plan: &Plan, load: Load, start: Instant, window: Window) -> Result<Recorder> {
        let connections = match load {
            Load::Open(_) => plan.connections,
            Load::Closed(connections) => connections,
        };
        let request = |body: &Vec<u8>| plan.target.request("POST", "/search", "application/json", body);
        let worker = Rc::new(Worker {
            plan: plan.clone(),
            requests: plan.bodies.iter().map(request).collect(),
            idle: RefCell::default(),
            free: Semaphore::new(connections),
            recorder: RefCell::new(Recorder::new(window, plan.good_within)),
            until: window.until,
        });
        LocalSet::new().block_on(&runtime()?, worker.clone().drive(load, start));
        Ok(worker.recorder.replace(Recorder::new(window, plan.good_within)))
    }

    async fn drive(self: Rc<Self>, load: Load, start: Instant) {
        let aside = Rc::default();
        // Ends when it is dropped.
        let _background = background::start(&self.plan, &aside);
        sleep_until(start.into()).await;
        match load {
            Load::Open(rate) => self.clone().open_loop(rate, start).await,
            Load::Closed(connections) => self.clone().closed_loop(connections).await,
        }
        self.recorder.borrow_mut().aside = aside.take();
    }

    async fn open_loop(self: Rc<Self>, rate: f64, start: Instant) {
        let mut arrivals = arrivals(rate, self.plan.seed, start, self.until);
        let mut sent = JoinSet::new();
        let mut turn = 0;
        while let Some(intended) = arrivals.recv().await {
            sent.spawn_local(self.clone().request(intended, turn));
            turn += 1;
            while sent.try_join_next().is_some() {}
        }
        while sent.join_next().await.is_some() {}
    }

    async fn closed_loop(self: Rc<Self>, connections: usize) {
        let mut clients = JoinSet::new();
        for client in 0..connections {
            let worker = self.clone();
            let mut turn = client;
            clients.spawn_local(async move {
                while Instant::now() < worker.until {
                    if !worker.clone().request(Instant::now(), turn).await {
                        sleep(AFTER_FAILURE).await;
                    }
                    turn += connections;
                }
            });
        }
        while clients.join_next().await.is_some() {}
    }

    /// One request that is to be sent at `intended`; whether it was answered.
    async fn request(self: Rc<Self>, intended: Instant, turn: usize) -> bool {
        let exchange = async {
            let waits = self.free.available_permits() == 0;
            let _permit = self.free.acquire().await;
            if !waits {
                self.recorder.borrow_mut().started(intended, intended.elapsed());
            }
            self.exchange(&self.requests[turn % self.requests.len()]).await
        };
        let outcome = timeout_at((intended + self.plan.timeout).into(), exchange).await.ok();
        let answered = matches!(outcome, Some(Ok(_)));
        self.recorder.borrow_mut().ended(intended, outcome);
        answered
    }

    /// Asks on a kept connection, or on a new one where there is none or the server has closed it meanwhile.
    async fn exchange(&self, request: &[u8]) -> std::result::Result<Seen, Failure> {
        loop {
            let kept = self.idle.borrow_mut().pop();
            let used_before = kept.is_some();
            let mut connection = match kept {
                Some(connection) => connection,
                None => Connection::open(self.plan.target.address).await?,
            };
            let (seen, closes) = match connection.ask(request).await {
                Ok(reply) => (Seen::of(&reply), reply.closes),
                Err(Failure::Unanswered) if used_before => {
                    self.recorder.borrow_mut().reconnects += 1;
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            if !closes {
                self.idle.borrow_mut().push(connection);
            }
            return Ok(seen);
        }
    }
}
