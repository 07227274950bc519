//! The HTTP search service.
//!
//! ```text
//! accept ---> observe ---------> routes ---> service ---------> pool of workers
//! connection  request id, key,   body limit  what to do,        parse -> plan -> search -> write
//! cap, TLS,   trace, problem     and timeout without HTTP       (by deadline; what would wait too
//! header      bodies, counting,              (estimated cost)    long = 503 at once)
//! timeout,    slow log
//! drain
//! ```
//!
//! The asynchronous threads move bytes; everything that costs processor time happens on the fixed pool (see [`Pool`]).
//! The server is a function, [`serve`], of a listener, a shutdown future and a [`Service`], so that a test runs a whole
//! server in its own process.
//!
//! # What it answers
//! | route | |
//! |---|---|
//! | `POST /search`, `POST /v1/collections/{c}/search` | one query |
//! | `POST /v1/collections/{c}/search/batch` | many: JSON, or a `.npy` matrix with the parameters in the query string |
//! | `POST .../explain`, `POST .../recall` | why an ad was found or lost; recall measured now |
//! | `PUT .../ads`, `POST .../ads/delete`, `GET .../ads/{key}` | ads: one JSON object a line, each answered; durable and visible when answered |
//! | `PATCH .../control`, `GET .../control/{level}/{id}` | who may be shown, bids, click rates: seen by the next request |
//! | `GET, POST .../versions`, `POST .../activate`, `.../rollback`, `.../split`, `.../compact` | versions: staged, served, gone back to, given a share, made of all changes |
//! | `GET /v1/collections/{c}` | rows, dimension, metric, version, attributes, limits |
//! | `GET /v1/collections`, `GET /v1/collections/{c}/queries?prefix=` | names; known queries |
//! | `POST /v1/prompts` | demonstrations for an input, and the prompt they make |
//! | `GET /ui` | a page to search, explain and watch |
//! | `GET /livez`, `/readyz`, `/metrics` | for the orchestrator and Prometheus |
//! | `GET /v1/status`, `/v1/slow`, `/v1/limits` | the last two minutes; slow requests, to be sent again; limits |
//! | `GET /openapi.json`, `/docs` | all of this for machines, and for people |
//!
//! ```json
//! {"vector": [0.1, -0.2], "limit": 10, "offset": 0, "params": {"nprobe": 32, "candidates": 200},
//!  "timeout_ms": 100, "allow_partial": true, "with_fields": true, "stats": true}
//! {"request_id": "9f3b21c0-17", "took_ms": 0.412, "index_version": "4be1...",
//!  "coverage": {"complete": true, "fraction": 1.0, "degraded": []},
//!  "hits": [{"key": 81, "score": 0.93, "fields": {"title": "..."}}], "stats": {"lists_probed": 32}}
//! ```
//! ```json
//! {"text": "laptop", "rank": "ecpm", "min_relevance": 0.4, "limit": 100, "split_key": "user 7",
//!  "filter": {"must": [{"attribute": "country", "any": ["DE", "AT"]}], "must_not": [{"attribute": "adult", "match": true}]},
//!  "diversity": {"key": "advertiser", "max": 2}, "block": {"campaigns": [17]}, "explain": true}
//! ```
//! Ads are ranked by `relevance`, or by `ecpm` (1000 x relevance^alpha x bid x click rate); `eligibility` is `serving` unless `all` is
//! asked for. `vectors` are several queries with weights and one ranking. What it all means stands in [`crate::ads`]; every
//! answer names the version and the control epoch that made it.
//!
//! `params` may name a `recall_target` in place of `nprobe` and `candidates`, where the index was built with sample queries.
//! Instead of `vector` the query may be `vector_b64` with `dtype` (f32, f16), `text` (one of the known query texts) or
//! `key` (more like this ad, without the ad itself). A batch is `{"queries": [...]}`; beside `queries` stand the
//! parameters of the queries that give none. All of a batch is answered, or none. Errors are problem documents, see
//! [`Problem`].
//!
//! # Limits
//! Each is a key of `config/server.toml`. Deliberately absent: a bound on the sum of all bodies being received (it is
//! connections x body size); a proxy or a network policy stands in front.

mod accept;
mod admission;
mod ads;
mod ads_routes;
mod api;
mod auth;
mod config;
mod discover;
mod find;
mod known;
mod metrics;
mod nearest;
mod observe;
mod openapi;
#[cfg(feature = "otlp")]
mod otlp;
mod pace;
mod parse;
mod plan;
mod platform;
mod pool;
mod problem;
mod prompts;
mod queue;
mod routes;
mod service;
mod slow_log;
mod status;
mod tasks;
mod telemetry;
mod tls;
mod trail;
mod ui;
mod watch;

pub use accept::serve;
pub use admission::AdmissionSection;
pub use auth::AuthSection;
pub use config::{DEFAULTS, ServerConfig, Settings};
pub use known::KnownQueries;
pub use pool::{Job, Lost, Pending, Pool};
pub use problem::Problem;
pub use prompts::PromptsSection;
pub use service::{Service, WorkerState};
pub use slow_log::SlowLogSection;
pub use status::{LiveState, RecallEstimate, Status};
pub use telemetry::{LogFormat, LogSection};
pub use tls::TlsSection;
