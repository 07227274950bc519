//! A small index, and a server of it on a port of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use bigrain::ads::Collection;
use bigrain::build::BuildSpec;
use bigrain::dense::Store;
use bigrain::heads::Heads;
use bigrain::index::{Calibration, Effort, Index, Manifest};
use bigrain::search::{OpenOptions, Searcher};
use bigrain::server::{Pending, ServerConfig, Service, serve};
use bigrain::train::Silent;
use bigrain::vfs::{RealVfs, Vfs};
use tokio::sync::oneshot;

pub(crate) const DIM: usize = 16;
pub(crate) const ROWS: usize = 300;
/// Keys are not row numbers, so that the one cannot be taken for the other.
pub(crate) const FIRST_KEY: u64 = 1000;

/// Row `row` of the test vectors: any deterministic directions do.
pub(crate) fn vector(row: usize) -> Vec<f32> {
    let mut state = row as u64 + 1;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32) / (1 << 23) as f32 - 1.0
    };
    let vector: Vec<f32> = (0..DIM).map(next).collect();
    let norm = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
    vector.iter().map(|v| v / norm).collect()
}

/// Builds the index; with heads, a second time over a quantizer that has them.
pub(crate) fn build(dir: &Path, rows: usize, heads: Heads) -> PathBuf {
    let (vectors, keys, fields) = (dir.join("vectors.npy"), dir.join("keys.txt"), dir.join("fields.jsonl"));
    let lines = |line: &dyn Fn(usize) -> String| (0..rows).map(|row| line(row) + "\n").collect::<String>();
    std::fs::write(&vectors, npy(&(0..rows).map(vector).collect::<Vec<_>>())).unwrap();
    std::fs::write(&keys, lines(&|row| (FIRST_KEY + row as u64).to_string())).unwrap();
    std::fs::write(&fields, lines(&|row| format!("{{\"title\": \"row {row}\"}}"))).unwrap();
    let mut spec = BuildSpec {
        keys: Some(keys),
        attributes: Some(fields),
        lists: Some(8),
        ..BuildSpec::new(vectors, dir.join("index"))
    };
    bigrain::build::build(&spec, &Silent).unwrap();
    if !heads.is_empty() {
        let trained = Index::open(&spec.output, &OpenOptions::default()).unwrap().quantizer().clone();
        let path = dir.join("learned.bg");
        trained.with_heads(heads).unwrap().write(&RealVfs, &path, [1; 16]).unwrap();
        spec.quantizer = Some(path);
        bigrain::build::build(&spec, &Silent).unwrap();
    }
    calibrate(&spec.output);
    spec.output
}

/// Gives the index a table of efforts, as sample queries would.
fn calibrate(index: &Path) {
    let effort = |recall: f32, list_effort: f32| Effort {
        recall,
        held_out: recall,
        list_effort,
        candidate_effort: 4.0,
        often_lists: 4,
        most_lists: 8,
        most_candidates: 60,
        lists: 4.0,
        rows: 100.0,
        vectors: 50.0,
    };
    let efforts = vec![effort(0.5, 0.1), effort(0.95, 2.0)];
    let table = Calibration { k: 10, queries: 100, list_weight: 1.0, candidate_weight: 0.0, efforts };
    let mut manifest = Manifest::read(&RealVfs, index).unwrap();
    manifest.calibration = vec![table];
    manifest.write(&RealVfs, index).unwrap();
}

/// A running server; dropping it shuts it down.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) service: Arc<Service>,
    pub(crate) searcher: Arc<Searcher>,
    shutdown: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<bool>>,
}

/// Starts a server with the defaults as changed by `change`.
pub(crate) fn start(change: impl FnOnce(&mut ServerConfig)) -> Server {
    start_with_heads(Heads::default(), change)
}

/// [`start`] over an index whose quantizer has `heads`.
pub(crate) fn start_with_heads(heads: Heads, change: impl FnOnce(&mut ServerConfig)) -> Server {
    start_over(ROWS, heads, change)
}

/// [`start`] over an index of `rows` rows, whose quantizer has `heads`.
pub(crate) fn start_over(rows: usize, heads: Heads, change: impl FnOnce(&mut ServerConfig)) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let index = build(dir.path(), rows, heads);
    let searcher =
        Arc::new(Searcher::open(&index, &OpenOptions { store: Store::Memory, ..OpenOptions::default() }).unwrap());
    let mut config = patient_config();
    known_queries(dir.path(), &mut config);
    change(&mut config);
    run(Service::start(config, searcher.clone()).unwrap(), searcher)
}

/// A server of the collection whose first version is `index`, with the defaults as changed by `change`.
pub(crate) fn start_collection(index: &Path, change: impl FnOnce(&mut ServerConfig)) -> Server {
    start_collection_on(Arc::new(RealVfs), index, change)
}

/// The same with another way to the files of the state folder.
pub(crate) fn start_collection_on(vfs: Arc<dyn Vfs>, index: &Path, change: impl FnOnce(&mut ServerConfig)) -> Server {
    let mut config = patient_config();
    let queries = tempfile::tempdir().unwrap();
    known_queries(queries.path(), &mut config);
    change(&mut config);
    let collection = Collection::open_on(vfs, index, config.ads.options(config.index.options())).unwrap();
    let searcher = collection.active().searcher.clone();
    run(Service::over(config, collection).unwrap(), searcher)
}

/// The defaults, with two workers and deadlines that a machine busy with other tests keeps.
fn patient_config() -> ServerConfig {
    let mut config = ServerConfig::default();
    config.workers.threads = 2;
    config.timeouts.search_ms = config.timeouts.search_max_ms;
    config
}

/// Serves on a port of its own.
fn run(service: Arc<Service>, searcher: Arc<Searcher>) -> Server {
    let (shutdown, signal) = oneshot::channel();
    let (bound, address) = mpsc::channel();
    let served = service.clone();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            bound.send(listener.local_addr().unwrap()).unwrap();
            let signal = async { drop(signal.await) };
            serve(listener, signal, served).await
        })
    });
    let address = address.recv().unwrap();
    Server { address, service, searcher, shutdown: Some(shutdown), thread: Some(thread) }
}

fn known_queries(dir: &Path, config: &mut ServerConfig) {
    let (texts, vectors) = (dir.join("queries.tsv"), dir.join("queries.npy"));
    std::fs::write(&texts, "qid\tquery\n7\tred shoe\n8\tblue hat\n").unwrap();
    std::fs::write(&vectors, npy(&[vector(5), vector(6)])).unwrap();
    (config.known_queries.texts, config.known_queries.vectors) = (texts, vectors);
}

/// A `.npy` file of f32 rows.
pub(crate) fn npy(rows: &[Vec<f32>]) -> Vec<u8> {
    let shape = format!("({}, {})", rows.len(), rows.first().map_or(DIM, Vec::len));
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n");
    let length = (header.len() as u16).to_le_bytes();
    let data = rows.iter().flatten().flat_map(|v| v.to_le_bytes()).collect();
    [b"\x93NUMPY\x01\x00".to_vec(), length.to_vec(), header.into_bytes(), data].concat()
}

/// Keeps workers busy until it is dropped.
pub(crate) struct Blockade {
    _gates: Vec<mpsc::Sender<()>>,
    _pending: Vec<Pending<()>>,
}

impl Server {
    /// Begins the shutdown.
    pub(crate) fn shut_down(&mut self) {
        self.shutdown.take();
    }

    /// Waits for the end; whether all requests were answered.
    pub(crate) fn join(&mut self) -> bool {
        self.thread.take().unwrap().join().unwrap()
    }

    /// Occupies every worker, and `queued` places of the queue.
    pub(crate) fn block(&self, queued: usize) -> Blockade {
        let mut blockade = Blockade { _gates: Vec::new(), _pending: Vec::new() };
        let pool = self.service.pool();
        for _ in 0..pool.threads() {
            let (started, running) = mpsc::channel();
            let (gate, wait) = mpsc::channel::<()>();
            let task = pool.submit(move |_| {
                started.send(()).unwrap();
                let _ = wait.recv();
            });
            blockade._pending.push(task.unwrap());
            blockade._gates.push(gate);
            running.recv().unwrap();
        }
        blockade._pending.extend((0..queued).map(|_| pool.submit(|_| ()).unwrap()));
        blockade
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shut_down();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
