//! What the routes ask for, without HTTP: bytes of a request in, bytes of an answer or a [`Problem`] out.
//!
//! A single search is one task of the pool: it parses, plans, searches and writes. So the asynchronous threads only
//! move bytes, and a server that sheds load has spent nothing on the requests it sheds. A batch is one task that plans
//! all its queries, then at most one task a worker for equal shares of them; each share writes its own results, and the
//! shares are joined. If a share finds the queue full, the batch is refused and its other shares are cancelled.
//!
//! The deadline of a request runs from its arrival. It is looked at when a worker takes the query up (an expired query
//! is not searched at all), and by the engine between lists.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::StatusCode;
use serde_json::value::{RawValue, to_raw_value};

use super::api::{
    AttributeAnswer, BatchAnswer, BatchRequest, CollectionAnswer, LimitsAnswer, NpyParams, SearchAnswer, SearchRequest,
    TextEncoderAnswer,
};
use super::config::ServerConfig;
use super::known::KnownQueries;
use super::metrics::{Gauges, Metrics};
use super::parse;
use super::plan::Plan;
use super::platform::Platform;
use super::pool::{Job, Lost, Pending, Pool};
use super::problem::Problem;
use super::prompts::Demonstrations;
use super::status::{LiveState, RecallEstimate, Status};
use super::tasks::TaskMaps;
use super::trail::{Step, Trail};
use crate::ads::{Collection, Estimate, OnlineRecall, Pinned};
use crate::attributes::Attribute;
use crate::encoder::Encoder;
use crate::error::{Error, Result};
use crate::search::{Scratch, Searcher};

/// What a task that is no search is taken to cost, until it is known.
const TASK_COST: Duration = Duration::from_millis(1);

/// What a worker keeps from query to query.
pub struct WorkerState {
    pub(super) scratch: Scratch,
}

/// One collection being served. Shared by all connections.
pub struct Service {
    pub(super) config: ServerConfig,
    pub(super) collection: Arc<Collection>,
    pub(super) known: KnownQueries,
    /// Query encoders by task.
    pub(super) tasks: TaskMaps,
    /// Makes vectors of texts that are not known.
    pub(super) encoder: Option<Arc<Encoder>>,
    /// For a language model.
    pub(super) prompts: Option<Demonstrations>,
    pub(super) recall: Option<OnlineRecall>,
    pub(super) pool: Pool<WorkerState>,
    pub(super) metrics: Metrics,
    pub(super) platform: Platform,
    draining: AtomicBool,
    /// Tells the request ids of this process from those of others.
    run: u32,
    pub(super) requests: AtomicU64,
    /// Requests without a key by which traffic could be split.
    pub(super) spread: AtomicU64,
    /// Held while recall is measured on request: once at a time.
    pub(super) measuring: Mutex<()>,
}

/// What is known of a request beside its body.
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub(super) arrived: Instant,
    pub(super) request_id: Arc<str>,
    pub(super) trail: Arc<Trail>,
}

/// What the shares of a batch will answer: their results, written.
type Shares = Vec<Pending<std::result::Result<Vec<Box<RawValue>>, Problem>>>;

/// The body of a batch.
pub(super) enum Batch {
    Json(Bytes),
    Npy(Bytes, NpyParams),
}

impl Service {
    /// Starts the workers over one open index, which is served read-only.
    ///
    /// # Errors
    /// As [`Service::over`].
    pub fn start(config: ServerConfig, searcher: Arc<Searcher>) -> Result<Arc<Service>> {
        let options = config.ads.options(config.index.options());
        Service::over(config, Collection::read_only(searcher, options)?)
    }

    /// Starts the workers over a collection, its upkeep, and the judging of live queries; reads the known queries of `config`.
    ///
    /// # Errors
    /// Known queries that cannot be read or do not fit the index; no threads to be had.
    pub fn over(config: ServerConfig, collection: Arc<Collection>) -> Result<Arc<Service>> {
        let files = &config.known_queries;
        let active = collection.active();
        let known = match files.texts.as_os_str().is_empty() {
            true => KnownQueries::default(),
            false => KnownQueries::load(&files.texts, &files.vectors, active.searcher.dim())?,
        };
        let (tasks, note) = TaskMaps::load(&config.encoder, &active.searcher)?;
        let (encoder, notes) = config.encoder.open(active.searcher.index().manifest())?;
        notes.iter().chain(&note).for_each(|note| tracing::warn!("{note}"));
        let encoder = encoder.map(Arc::new);
        let prompts = config.prompts.open(encoder.as_ref())?;
        let threads = match config.workers.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let worker = || WorkerState { scratch: Scratch::default() };
        let bound = Duration::from_millis(config.admission.queue_ms);
        let pool = Pool::start(threads, config.workers.queue, bound, worker)?;
        let platform = Platform::start(&config, &active.searcher)?;
        for (what, cut) in collection.cuts() {
            let (path, offset, bytes) = (cut.path.display(), cut.offset, cut.bytes);
            tracing::warn!(
                %path, offset, bytes,
                "left out the torn end of the {what} journal: changes that were never acknowledged"
            );
        }
        collection.notes().iter().for_each(|note| tracing::warn!("{note}"));
        collection.start_upkeep(|what, error| tracing::error!(%error, "{what} failed"))?;
        let status = platform.status.clone();
        let recall = match config.ads.recall_every {
            0 => None,
            every => Some(OnlineRecall::start(every, move |recall, revenue| {
                status.record_recall(estimate_of(recall));
                status.record_ecpm_recall(estimate_of(revenue));
            })?),
        };
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let run = since_epoch.as_nanos() as u32 ^ std::process::id();
        let (metrics, draining, requests, spread, measuring) = Default::default();
        Ok(Arc::new(Service {
            config,
            collection,
            known,
            tasks,
            encoder,
            prompts,
            recall,
            pool,
            metrics,
            platform,
            draining,
            run,
            requests,
            spread,
            measuring,
        }))
    }

    /// The settings in force.
    pub fn config(&self) -> &ServerConfig {
        &self.config
    }

    /// The workers; whatever else needs the processor beside searches goes through here.
    pub fn pool(&self) -> &Pool<WorkerState> {
        &self.pool
    }

    /// How the server has done; whoever measures recall on live queries tells it here.
    pub fn status(&self) -> &Status {
        &self.platform.status
    }

    /// The query texts that can be searched by `text`.
    pub fn known_texts(&self) -> &[String] {
        self.known.texts()
    }

    pub(super) fn known_vector(&self, text: &str) -> Option<&[f32]> {
        self.known.vector(text)
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

    /// What is served at this moment.
    pub(super) fn present(&self) -> Pinned {
        let pinned = self.collection.pin(None, 0);
        self.platform.status.record_live(LiveState {
            control_epoch: pinned.epoch.number(),
            delta_rows: pinned.snapshot.delta_rows() as u64,
            tombstones: pinned.snapshot.tombstones() as u64,
        });
        pinned
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

    /// Refuses what would be long to read while more waits than may, before a byte of it is read.
    pub(super) fn check_room(&self) -> std::result::Result<(), Problem> {
        let backlog = self.pool.backlog();
        if backlog <= Duration::from_millis(self.config.admission.queue_ms) {
            return Ok(());
        }
        self.metrics.shed.fetch_add(1, Relaxed);
        Err(Lost::Late(backlog).into())
    }

    pub(super) fn limits(&self) -> LimitsAnswer {
        let (limits, timeouts) = (&self.config.limits, &self.config.timeouts);
        LimitsAnswer {
            body_bytes: limits.body_bytes,
            connections: limits.connections,
            hits: limits.hits,
            nprobe: limits.nprobe,
            candidates: limits.candidates,
            batch: limits.batch,
            exact: limits.exact,
            timeout_ms: timeouts.search_max_ms,
            default_timeout_ms: timeouts.search_ms,
            queue_ms: self.config.admission.queue_ms,
        }
    }

    pub(super) fn describe(&self) -> std::result::Result<Vec<u8>, Problem> {
        let pinned = self.present();
        let searcher = &pinned.version.searcher;
        let schema = searcher.index().attributes().map(|columns| columns.schema().attributes());
        let named = |attribute: &Attribute| AttributeAnswer {
            name: attribute.name.clone(),
            r#type: attribute.kind.to_string(),
        };
        json(&CollectionAnswer {
            name: &self.config.server.collection,
            index_version: searcher.version(),
            control_epoch: pinned.epoch.number(),
            ads: pinned.snapshot.documents(),
            delta_ads: pinned.snapshot.delta_documents(),
            rows: pinned.snapshot.rows(),
            delta_rows: pinned.snapshot.delta_rows(),
            tombstones: pinned.snapshot.tombstones(),
            writable: self.collection.check_writable().is_ok(),
            attributes: schema.unwrap_or_default().iter().map(named).collect(),
            dim: searcher.dim(),
            metric: searcher.metric().to_string(),
            memory_bytes: pinned.version.memory_bytes(),
            notes: searcher.notes(),
            known_queries: self.known.texts().len(),
            tasks: self.tasks.names(),
            text_encoder: self.encoder.as_ref().map(|encoder| TextEncoderAnswer {
                id: encoder.id(),
                kind: encoder.kind(),
                max_tokens: encoder.max_tokens(),
            }),
            limits: self.limits(),
        })
    }

    pub(super) fn metrics_text(&self) -> String {
        let pinned = self.present();
        let searcher = &pinned.version.searcher;
        let (switches, compactions) = self.collection.counts();
        self.metrics.render(&Gauges {
            collection: &self.config.server.collection,
            version: searcher.version(),
            metric: searcher.metric().to_string(),
            store: searcher.index().dense().store().to_string(),
            ads: pinned.snapshot.documents(),
            rows: pinned.snapshot.rows(),
            index_bytes: pinned.version.memory_bytes(),
            delta_rows: pinned.snapshot.delta_rows() as u64,
            tombstones: pinned.snapshot.tombstones() as u64,
            sequence: pinned.snapshot.seq(),
            control_epoch: pinned.epoch.number(),
            switches,
            compactions,
            recall: self.platform.status.recalls(),
            queued: self.pool.queued(),
            queue_capacity: self.pool.capacity(),
            backlog: self.pool.backlog(),
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
        let job = self.platform.admission.ask(&body, context.arrived);
        let trail = context.trail.clone();
        let pending = self.submit(job, &context.trail, move |worker| {
            let begun = Instant::now();
            let request: SearchRequest = parse::json(&body)?;
            let pinned = service.collection.pin(request.split_key.as_deref(), service.chance());
            let plan = service.rules(&pinned).plan(request, context.arrived)?;
            trail.ran(Step::Plan, begun);
            service.platform.admission.planned(begun.elapsed());
            let found = service.find(&plan, &pinned, worker, &trail)?;
            let answer = json(&SearchAnswer {
                request_id: &context.request_id,
                took_ms: took_ms(context.arrived),
                index_version: &pinned.version.at.id,
                control_epoch: pinned.epoch.number(),
                found: found.answer(&plan),
            })?;
            service.judge(pinned, found);
            Ok(answer)
        })?;
        self.answer(pending).await
    }

    /// Answers `POST /v1/collections/{c}/search/batch`.
    pub(super) async fn batch(
        self: &Arc<Self>,
        batch: Batch,
        context: Context,
    ) -> std::result::Result<Vec<u8>, Problem> {
        let (service, arrived, trail) = (self.clone(), context.arrived, context.trail.clone());
        let job = match &batch {
            Batch::Json(body) | Batch::Npy(body, _) => self.platform.admission.ask_batch(body, arrived),
        };
        let plan = move |_: &mut WorkerState| {
            let begun = Instant::now();
            let plans = service.plan_batch(&batch, arrived);
            trail.ran(Step::Plan, begun);
            plans
        };
        let (pinned, plans) = self.answer(self.submit(job, &context.trail, plan)?).await?;
        let shares = self.submit_shares(plans, &pinned, &context.trail)?;
        let mut results = Vec::new();
        for share in shares {
            results.append(&mut self.answer(share).await?);
        }
        json(&BatchAnswer {
            request_id: &context.request_id,
            took_ms: took_ms(arrived),
            index_version: &pinned.version.at.id,
            control_epoch: pinned.epoch.number(),
            results,
        })
    }

    /// The plans of a batch, and what all of its queries see.
    fn plan_batch(&self, batch: &Batch, arrived: Instant) -> std::result::Result<(Arc<Pinned>, Vec<Plan>), Problem> {
        let requests = match batch {
            Batch::Json(body) => parse::json::<BatchRequest>(body)?.into_queries(),
            Batch::Npy(body, params) => {
                let rows = parse::npy(body, self.collection.active().searcher.dim())?;
                rows.into_iter().map(|vector| params.request(vector)).collect()
            }
        };
        let max = self.config.limits.batch;
        if requests.is_empty() || requests.len() > max {
            let detail = format!("the batch has {} queries", requests.len());
            return Err(Problem::meaning("batch_out_of_range", "/queries", detail, format!("send 1 to {max} queries")));
        }
        let key = requests[0].split_key.clone();
        if let Some(other) = requests.iter().position(|request| request.split_key != key) {
            let (detail, remedy) = ("queries of one batch have different split_keys", "give all the same, or none");
            return Err(Problem::meaning("split_keys_differ", "/split_key", detail, remedy).within(&place(other)));
        }
        let pinned = Arc::new(self.collection.pin(key.as_deref(), self.chance()));
        let rules = self.rules(&pinned);
        let plan = |(number, request)| rules.plan(request, arrived).map_err(|p: Problem| p.within(&place(number)));
        let plans = requests.into_iter().enumerate().map(plan).collect::<std::result::Result<_, _>>()?;
        Ok((pinned, plans))
    }

    /// Queues a batch in at most one share a worker.
    fn submit_shares(
        self: &Arc<Self>,
        plans: Vec<Plan>,
        pinned: &Arc<Pinned>,
        trail: &Arc<Trail>,
    ) -> std::result::Result<Shares, Problem> {
        let job = Job {
            cost: Duration::ZERO,
            deadline: plans.iter().map(|plan| plan.deadline).min(),
            partial: plans.iter().all(|plan| plan.allow_partial),
        };
        let share = plans.len().div_ceil(self.pool.threads());
        let mut plans = plans.into_iter().enumerate();
        let mut tasks = Vec::new();
        while plans.len() > 0 {
            let (service, trail, pinned) = (self.clone(), trail.clone(), pinned.clone());
            let plans: Vec<_> = plans.by_ref().take(share).collect();
            let cost = plans.iter().map(|(_, plan)| self.platform.admission.cost(&plan.demand())).sum();
            tasks.push((cost, move |worker: &mut WorkerState| service.search_share(&plans, &pinned, worker, &trail)));
        }
        self.pool.submit_all(job, tasks).map_err(|lost| self.shed(lost))
    }

    fn search_share(
        &self,
        plans: &[(usize, Plan)],
        pinned: &Pinned,
        worker: &mut WorkerState,
        trail: &Trail,
    ) -> std::result::Result<Vec<Box<RawValue>>, Problem> {
        let search = |(number, plan): &(usize, Plan)| {
            let found = self.find(plan, pinned, worker, trail).map_err(|problem| problem.within(&place(*number)))?;
            raw(&found.answer(plan))
        };
        plans.iter().map(search).collect()
    }

    /// Runs a task of looking up or explaining on the workers.
    pub(super) async fn on_worker(
        self: &Arc<Self>,
        context: Context,
        task: impl FnOnce(&Service, &Context, &mut WorkerState) -> std::result::Result<Vec<u8>, Problem> + Send + 'static,
    ) -> std::result::Result<Vec<u8>, Problem> {
        self.on_worker_for(TASK_COST, context, task).await
    }

    /// When a task of [`Service::on_worker_for`] has to be done.
    pub(super) fn deadline(&self, context: &Context) -> Instant {
        context.arrived + Duration::from_millis(self.config.timeouts.search_ms)
    }

    /// Runs a task that is no search and may take `cost` on the workers. It stands in the queue as a search without a `timeout_ms` would: with a later
    /// deadline every search would go first.
    pub(super) async fn on_worker_for(
        self: &Arc<Self>,
        cost: Duration,
        context: Context,
        task: impl FnOnce(&Service, &Context, &mut WorkerState) -> std::result::Result<Vec<u8>, Problem> + Send + 'static,
    ) -> std::result::Result<Vec<u8>, Problem> {
        let (service, trail) = (self.clone(), context.trail.clone());
        let job = Job { cost, deadline: Some(self.deadline(&context)), partial: false };
        let pending = self.submit(job, &trail, move |worker| task(&service, &context, worker))?;
        self.answer(pending).await
    }

    /// Hands a task to the workers, within the span of its request.
    fn submit<T: Send + 'static>(
        &self,
        job: Job,
        trail: &Arc<Trail>,
        task: impl FnOnce(&mut WorkerState) -> T + Send + 'static,
    ) -> std::result::Result<Pending<T>, Problem> {
        let (span, trail, queued) = (tracing::Span::current(), trail.clone(), Instant::now());
        let task = move |worker: &mut WorkerState| {
            trail.ran(Step::Queue, queued);
            span.in_scope(|| task(worker))
        };
        self.pool.submit_as(job, task).map_err(|lost| self.shed(lost))
    }

    fn shed(&self, lost: Lost) -> Problem {
        self.metrics.shed.fetch_add(1, Relaxed);
        lost.into()
    }

    /// Waits no longer than the longest deadline that a request may have: the request's own is not known before a
    /// worker has parsed it.
    async fn answer<T>(&self, pending: Pending<std::result::Result<T, Problem>>) -> std::result::Result<T, Problem> {
        let ms = self.config.timeouts.search_max_ms;
        match tokio::time::timeout(Duration::from_millis(ms), pending.answer()).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(lost @ Lost::Late(_))) => Err(self.shed(lost)),
            Ok(Err(lost)) => Err(lost.into()),
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

pub(super) fn unwritable(error: &serde_json::Error) -> Problem {
    Error::params("answer", error.to_string()).into()
}

fn estimate_of(estimate: Estimate) -> RecallEstimate {
    RecallEstimate { estimate: estimate.mean, standard_error: estimate.standard_error, samples: estimate.queries }
}
