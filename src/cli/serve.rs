//! `bigrain serve`: an index over HTTP.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use bigrain::ads::Collection;
use bigrain::error::{Error, Result};
use bigrain::server::{LogFormat, ServerConfig, Service, serve};
use clap::Args;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::StateOptions;

/// Threads that move bytes; searches have their own pool.
const NETWORK_THREADS: usize = 2;

/// Serve an index over HTTP until SIGTERM or SIGINT, then drain
///
/// POST /search answers {"vector": [...]}; GET /v1/collections/default describes the index; /metrics is for Prometheus.
/// BIGRAIN_LOG sets what is logged to stderr (error, warn, info, debug).
#[derive(Args)]
pub(super) struct Options {
    /// Index directory, as build-index made it
    #[arg(long, value_name = "DIR")]
    index: PathBuf,
    #[command(flatten)]
    settings: StateOptions,
}

pub(super) fn run(options: &Options) -> Result<ExitCode> {
    let config = options.settings.load()?.config()?;
    log_to_stderr(config.log.format);
    let service = open(&options.index, config)?;
    serve_until_signal(service, |_| Ok(()))
}

/// Logs to stderr from `BIGRAIN_LOG` on, or from `info`.
pub(super) fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::try_from_env("BIGRAIN_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.with_ansi(colours).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
}

/// Opens the index in `dir` and starts the workers over it.
pub(super) fn open(dir: &Path, config: ServerConfig) -> Result<Arc<Service>> {
    let collection = Collection::open(dir, config.ads.options(config.index.options()))?;
    let searcher = collection.active().searcher.clone();
    for note in searcher.notes() {
        tracing::warn!("{note}");
    }
    let (rows, dim, metric, version) = (searcher.rows(), searcher.dim(), searcher.metric(), searcher.version());
    let (store, memory_mib) = (searcher.index().dense().store(), searcher.memory_bytes() >> 20);
    tracing::info!(rows, dim, %metric, version, %store, memory_mib, "index is open");
    Service::over(config, collection)
}

/// Binds the configured address, tells it to `listening`, and serves until a signal comes. Exit code 1 if requests
/// had to be cut at the end.
pub(super) fn serve_until_signal(
    service: Arc<Service>,
    listening: impl FnOnce(&str) -> Result<()>,
) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(NETWORK_THREADS).enable_all().build();
    let runtime = runtime.map_err(Error::io("network threads"))?;
    let drained = runtime.block_on(async {
        let address = service.config().server.listen.clone();
        let listener = TcpListener::bind(&address).await.map_err(Error::io(format!("listen address {address}")))?;
        let shutdown = shutdown_signal()?;
        let address = listener.local_addr().map_err(Error::io("listen address"))?.to_string();
        let scheme = if service.config().tls.enabled() { "https" } else { "http" };
        tracing::info!("listening on {scheme}://{address}");
        listening(&address)?;
        Ok::<bool, Error>(serve(listener, shutdown, service).await)
    })?;
    // A worker may still be at a query whose client is gone; it must not hold up the end.
    runtime.shutdown_background();
    tracing::info!(drained, "stopped");
    Ok(if drained { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Resolves at the first SIGTERM or SIGINT.
fn shutdown_signal() -> Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::io("signal handler"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::io("signal handler"))?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("draining");
    })
}
