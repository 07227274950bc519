//! What the routes ask for, without HTTP: bytes of a request in, bytes of an answer or a [`Problem`] out.
//!
//! A single search is one task of the pool: it parses, plans, searches and writes. So the asynchronous threads only
//! move bytes, and a server that sheds load has spent nothing on the requests it sheds. A batch is one task that plans
//! all its queries, then at most one task a worker for equal shares of them; each share writes its own results, and the
//! shares are joined. If a share finds the queue full, the batch is refused and its other shares are cancelled.
//!
//! The deadline of a request runs from its arrival. It is looked at when a worker takes the query up (an expired query
//! is not searched at all), and by the engine between lists.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::StatusCode;
use serde_json::value::{RawValue, to_raw_value};

use super::api::{
    BatchAnswer, BatchRequest, CollectionAnswer, Coverage, Found, FoundHit, LimitsAnswer, NpyParams, SearchAnswer,
};
use super::config::ServerConfig;
use super::known::KnownQueries;
use super::metrics::{Gauges, Metrics};
use super::parse;
use super::plan::{Plan, Query, Rules};
use super::pool::{Pending, Pool};
use super::problem::Problem;
use crate::error::{Error, Result};
use crate::search::{Hit, Scratch, SearchStats, Searcher};

/// What a worker keeps from query to query.
pub struct WorkerState {
    scratch: Scratch,
    hits: Vec<Hit>,
}

/// One index being served. Shared by all connections.
pub struct Service {
    config: ServerConfig,
    searcher: Arc<Searcher>,
    known: KnownQueries,
    pool: Pool<WorkerState>,
    pub(super) metrics: Metrics,
    draining: AtomicBool,
    /// Tells the request ids of this process from those of others.
    run: u32,
    requests: AtomicU64,
}

/// What is known of a request beside its body.
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub(super) arrived: Instant,
    pub(super) request_id: Arc<str>,
}

/// The body of a batch.
pub(super) enum Batch {
    Json(Bytes),
    Npy(Bytes, NpyParams),
}

impl Service {
    /// Starts the workers and reads the known queries of `config`.
    ///
    /// # Errors
    /// Known queries that cannot be read or do not fit the index; no threads to be had.
    pub fn start(config: ServerConfig, searcher: Arc<Searcher>) -> Result<Arc<Service>> {
        let files = &config.known_queries;
        let known = match files.texts.as_os_str().is_empty() {
            true => KnownQueries::default(),
            false => KnownQueries::load(&files.texts, &files.vectors, searcher.dim())?,
        };
        let threads = match config.workers.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let of_pool = searcher.clone();
        let worker = move || WorkerState { scratch: of_pool.scratch(), hits: Vec::new() };
        let pool = Pool::start(threads, config.workers.queue, worker)?;
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let run = since_epoch.as_nanos() as u32 ^ std::process::id();
        let (metrics, draining, requests) = Default::default();
        Ok(Arc::new(Service { config, searcher, known, pool, metrics, draining, run, requests }))
    }

    /// The settings in force.
    pub fn config(&self) -> &ServerConfig {
        &self.config
    }

    /// The workers; whatever else needs the processor beside searches goes through here.
    pub fn pool(&self) -> &Pool<WorkerState> {
        &self.pool
    }

    /// The query texts that can be searched by `text`.
    pub fn known_texts(&self) -> &[String] {
        self.known.texts()
    }

    pub(super) fn next_request_id(&self) -> Arc<str> {
        format!("{:08x}-{}", self.run, self.requests.fetch_add(1, Relaxed)).into()
    }

    pub(super) fn drain(&self) {
        self.draining.store(true, Relaxed);
    }

    pub(super) fn draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Refuses a collection that is not served here.
    pub(super) fn check_collection(&self, name: &str) -> std::result::Result<(), Problem> {
        let served = &self.config.server.collection;
        if name == served {
            return Ok(());
        }
        let detail = format!("there is no collection {name:?}");
        Err(Problem::new(StatusCode::NOT_FOUND, "unknown_collection", detail, format!("use {served:?}")))
    }

    pub(super) fn describe(&self) -> std::result::Result<Vec<u8>, Problem> {
        let (limits, searcher) = (&self.config.limits, &self.searcher);
        json(&CollectionAnswer {
            name: &self.config.server.collection,
            index_version: searcher.version(),
            rows: searcher.rows(),
            dim: searcher.dim(),
            metric: searcher.metric().to_string(),
            memory_bytes: searcher.memory_bytes(),
            notes: searcher.notes(),
            known_queries: self.known.texts().len(),
            limits: LimitsAnswer {
                body_bytes: limits.body_bytes,
                hits: limits.hits,
                nprobe: limits.nprobe,
                candidates: limits.candidates,
                batch: limits.batch,
                timeout_ms: self.config.timeouts.search_max_ms,
            },
        })
    }

    pub(super) fn metrics_text(&self) -> String {
        self.metrics.render(&Gauges {
            collection: &self.config.server.collection,
            version: self.searcher.version(),
            metric: self.searcher.metric().to_string(),
            store: self.searcher.index().dense().store().to_string(),
            rows: self.searcher.rows(),
            index_bytes: self.searcher.memory_bytes(),
            queued: self.pool.queued(),
            queue_capacity: self.pool.capacity(),
            threads: self.pool.threads(),
            panics: self.pool.panics(),
        })
    }

    /// Answers `POST /search`.
    pub(super) async fn search(
        self: &Arc<Self>,
        body: Bytes,
        context: Context,
    ) -> std::result::Result<Vec<u8>, Problem> {
        let service = self.clone();
        let pending = self.submit(move |worker| {
            let plan = service.rules().plan(parse::json(&body)?, context.arrived)?;
            let (stats, coverage, hits) = service.find(&plan, worker)?;
            let answer = SearchAnswer {
                request_id: &context.request_id,
                took_ms: took_ms(context.arrived),
                index_version: service.searcher.version(),
                found: Found { coverage, hits, stats: plan.stats.then_some(&stats) },
            };
            json(&answer)
        })?;
        self.answer(pending).await
    }

    /// Answers `POST /v1/collections/{c}/search/batch`.
    pub(super) async fn batch(
        self: &Arc<Self>,
        batch: Batch,
        context: Context,
    ) -> std::result::Result<Vec<u8>, Problem> {
        let (service, arrived) = (self.clone(), context.arrived);
        let plans = self.answer(self.submit(move |_| service.plan_batch(&batch, arrived))?).await?;
        let share = plans.len().div_ceil(self.pool.threads());
        let mut plans = plans.into_iter().enumerate();
        let mut shares = Vec::new();
        while plans.len() > 0 {
            let (service, plans) = (self.clone(), plans.by_ref().take(share).collect::<Vec<_>>());
            shares.push(self.submit(move |worker| service.search_share(&plans, worker))?);
        }
        let mut results = Vec::new();
        for share in shares {
            results.append(&mut self.answer(share).await?);
        }
        json(&BatchAnswer {
            request_id: &context.request_id,
            took_ms: took_ms(arrived),
            index_version: self.searcher.version(),
            results,
        })
    }

    fn plan_batch(&self, batch: &Batch, arrived: Instant) -> std::result::Result<Vec<Plan>, Problem> {
        let requests = match batch {
            Batch::Json(body) => parse::json::<BatchRequest>(body)?.into_queries(),
            Batch::Npy(body, params) => {
                let rows = parse::npy(body, self.searcher.dim())?;
                rows.into_iter().map(|vector| params.request(vector)).collect()
            }
        };
        let max = self.config.limits.batch;
        if requests.is_empty() || requests.len() > max {
            let detail = format!("the batch has {} queries", requests.len());
            return Err(Problem::meaning("batch_out_of_range", "/queries", detail, format!("send 1 to {max} queries")));
        }
        let rules = self.rules();
        let plan = |(number, request)| rules.plan(request, arrived).map_err(|p: Problem| p.within(&place(number)));
        requests.into_iter().enumerate().map(plan).collect()
    }

    fn search_share(
        &self,
        plans: &[(usize, Plan)],
        worker: &mut WorkerState,
    ) -> std::result::Result<Vec<Box<RawValue>>, Problem> {
        let search = |(number, plan): &(usize, Plan)| {
            let (stats, coverage, hits) = self.find(plan, worker).map_err(|problem| problem.within(&place(*number)))?;
            raw(&Found { coverage, hits, stats: plan.stats.then_some(&stats) })
        };
        plans.iter().map(search).collect()
    }

    /// Carries out a plan. With `allow_partial` a search cut short is flagged; one that has found nothing is 504
    /// anyway, because no hits at all would be read as "there are none".
    fn find(
        &self,
        plan: &Plan,
        worker: &mut WorkerState,
    ) -> std::result::Result<(SearchStats, Coverage, Vec<FoundHit>), Problem> {
        if Instant::now() >= plan.deadline {
            return Err(Problem::deadline(plan.timeout_ms));
        }
        let vector = match &plan.query {
            Query::Vector(vector) => Cow::Borrowed(vector),
            Query::Key(key) => Cow::Owned(self.searcher.vector(*key)?.ok_or_else(|| {
                Problem::meaning("unknown_key", "/key", format!("the index has no key {key}"), "use the key of a hit")
            })?),
        };
        let stats = match self.searcher.search(&vector, &plan.params, &mut worker.scratch, &mut worker.hits) {
            Err(Error::DeadlineExceeded(_)) => return Err(Problem::deadline(plan.timeout_ms)),
            outcome => outcome?,
        };
        self.metrics.searched(&stats);
        let complete = stats.fraction >= 1.0;
        if !complete && (!plan.allow_partial || worker.hits.is_empty()) {
            return Err(Problem::deadline(plan.timeout_ms));
        }
        let degraded: &[&str] = if complete { &[] } else { &["deadline"] };
        let coverage = Coverage { complete, fraction: stats.fraction, degraded };
        let hits = self.write_hits(plan, &worker.hits)?;
        Ok((stats, coverage, hits))
    }

    fn write_hits(&self, plan: &Plan, hits: &[Hit]) -> Result<Vec<FoundHit>> {
        let asked = match plan.query {
            Query::Key(key) => Some(key),
            Query::Vector(_) => None,
        };
        let others = hits.iter().filter(|hit| Some(hit.key) != asked);
        let write = |hit: &Hit| {
            let fields = if plan.with_fields { self.fields(hit)? } else { None };
            Ok(FoundHit { key: hit.key, score: hit.score, fields })
        };
        others.skip(plan.offset).take(plan.limit).map(write).collect()
    }

    fn fields(&self, hit: &Hit) -> Result<Option<Box<RawValue>>> {
        let parse = |text| {
            RawValue::from_string(text).map_err(|e| Error::corrupt("fields", format!("row {}", hit.row), e.to_string()))
        };
        self.searcher.fields(hit.row)?.map(parse).transpose()
    }

    fn rules(&self) -> Rules<'_> {
        let (dim, metric) = (self.searcher.dim(), self.searcher.metric());
        let calibration = &self.searcher.index().manifest().calibration;
        Rules { config: &self.config, known: &self.known, dim, metric, calibration }
    }

    fn submit<T: Send + 'static>(
        &self,
        task: impl FnOnce(&mut WorkerState) -> T + Send + 'static,
    ) -> std::result::Result<Pending<T>, Problem> {
        self.pool.submit(task).map_err(|lost| {
            self.metrics.shed.fetch_add(1, Relaxed);
            lost.into()
        })
    }

    /// Waits no longer than the longest deadline that a request may have: the request's own is not known before a
    /// worker has parsed it.
    async fn answer<T>(&self, pending: Pending<std::result::Result<T, Problem>>) -> std::result::Result<T, Problem> {
        let ms = self.config.timeouts.search_max_ms;
        match tokio::time::timeout(Duration::from_millis(ms), pending.answer()).await {
            Ok(answer) => answer?,
            Err(_) => Err(Problem::deadline(ms)),
        }
    }
}

fn place(number: usize) -> String {
    format!("/queries/{number}")
}

fn took_ms(arrived: Instant) -> f64 {
    (arrived.elapsed().as_secs_f64() * 1e6).round() / 1e3
}

pub(super) fn json(answer: &impl serde::Serialize) -> std::result::Result<Vec<u8>, Problem> {
    serde_json::to_vec(answer).map_err(|error| unwritable(&error))
}

fn raw(answer: &impl serde::Serialize) -> std::result::Result<Box<RawValue>, Problem> {
    to_raw_value(answer).map_err(|error| unwritable(&error))
}

fn unwritable(error: &serde_json::Error) -> Problem {
    Error::params("answer", error.to_string()).into()
}
