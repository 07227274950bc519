//! The HTTP search service.
//!
//! ```text
//! accept ---> routes ----------> service ---------> pool of workers
//! connection  request id,        what to do,        parse -> plan -> search -> write
//! cap, header body limit and     without HTTP       (bounded queue; full = 503 at once)
//! timeout,    timeout, problem
//! drain       bodies, counting
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
//! | `GET /v1/collections/{c}` | rows, dimension, metric, version, limits |
//! | `GET /v1/collections`, `GET /v1/collections/{c}/queries?prefix=` | names; known queries |
//! | `GET /ui` | a page to search, explain and watch |
//! | `GET /livez`, `/readyz`, `/metrics` | for the orchestrator and Prometheus |
//!
//! ```json
//! {"vector": [0.1, -0.2], "limit": 10, "offset": 0, "params": {"nprobe": 32, "candidates": 200},
//!  "timeout_ms": 100, "allow_partial": true, "with_fields": true, "stats": true}
//! {"request_id": "9f3b21c0-17", "took_ms": 0.412, "index_version": "4be1...",
//!  "coverage": {"complete": true, "fraction": 1.0, "degraded": []},
//!  "hits": [{"key": 81, "score": 0.93, "fields": {"title": "..."}}], "stats": {"lists_probed": 32}}
//! ```
//! `params` may name a `recall_target` in place of `nprobe` and `candidates`, where the index was built with sample queries.
//! Instead of `vector` the query may be `vector_b64` with `dtype` (f32, f16), `text` (one of the known query texts) or
//! `key` (more like this row, without the row itself). A batch is `{"queries": [...]}`; beside `queries` stand the
//! parameters of the queries that give none. All of a batch is answered, or none. Errors are problem documents, see
//! [`Problem`].
//!
//! # Limits
//! Each is a key of `config/server.toml`. Deliberately absent: authentication and a bound on the sum of all bodies
//! being received (it is connections x body size); a proxy or a network policy stands in front.

mod accept;
mod api;
mod config;
mod discover;
mod known;
mod metrics;
mod nearest;
mod parse;
mod plan;
mod pool;
mod problem;
mod routes;
mod service;
mod ui;

pub use accept::serve;
pub use config::{DEFAULTS, ServerConfig, Settings};
pub use known::KnownQueries;
pub use metrics::resident_bytes;
pub use pool::{Lost, Pending, Pool};
pub use problem::Problem;
pub use service::{Service, WorkerState};
