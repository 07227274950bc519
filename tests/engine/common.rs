//! Small data sets, the truth about them by brute force, and short ways to build and ask.

use std::path::{Path, PathBuf};

use bigrain::ads::{AdQuery, AdSettings, Block, CollectionOptions, Ranking};
use bigrain::attributes::Filter;
use bigrain::build::{BuildReport, BuildSpec, build, build_on};
use bigrain::dataset::synthetic::{Clustered, Draw};
use bigrain::dataset::{Scalar, VectorWriter};
use bigrain::error::Result;
use bigrain::index::{Index, OpenOptions};
use bigrain::linalg::normalise;
use bigrain::search::{Hit, SearchParams, SearchStats, Searcher};
use bigrain::simd::Kernels;
use bigrain::train::Silent;
use bigrain::types::{Key, Metric};
use bigrain::vfs::{MemoryVfs, Vfs};
use tempfile::TempDir;

/// Vectors and queries from the same clusters.
pub(crate) struct Data {
    pub(crate) dim: usize,
    /// n x dim.
    pub(crate) rows: Vec<f32>,
    pub(crate) queries: Vec<f32>,
}

impl Data {
    /// Seeded clustered data with 20 queries.
    pub(crate) fn clustered(rows: usize, dim: usize, seed: u64) -> Data {
        let shape = Clustered { rows: rows as u64, dim, clusters: 12, spread: 0.6, seed };
        let generator = shape.generator().unwrap();
        let mut data = Data { dim, rows: vec![0.0; rows * dim], queries: vec![0.0; 20 * dim] };
        generator.fill(Draw::Rows, 0, &mut data.rows);
        generator.fill(Draw::Queries, 0, &mut data.queries);
        data
    }

    pub(crate) fn queries(&self) -> impl Iterator<Item = &[f32]> {
        self.queries.chunks_exact(self.dim)
    }

    /// Writes the rows to `input.fbin` of a folder.
    pub(crate) fn write(&self, dir: &Path) -> PathBuf {
        write_vectors(dir, "input.fbin", self.dim, &self.rows)
    }
}

/// Writes f32 vectors; the name ends in .npy or .fbin.
pub(crate) fn write_vectors(dir: &Path, name: &str, dim: usize, values: &[f32]) -> PathBuf {
    let path = dir.join(name);
    let mut writer = VectorWriter::create(&path, Scalar::F32, dim).unwrap();
    writer.write(values).unwrap();
    writer.finish().unwrap();
    path
}

/// A collection of ads by `ad_group` that is never upkept by itself and is changed nowhere on disk.
pub(crate) fn ad_options() -> CollectionOptions {
    CollectionOptions {
        open: OpenOptions::default(),
        settings: AdSettings { group_attribute: "ad_group".into(), default_ctr: 0.01 },
        state: None,
        versions: None,
        canary_recall: 0.0,
        compact_changes: 0,
        least_free: 0,
    }
}

/// A spec of a small index.
pub(crate) fn small(input: &Path, output: &Path) -> BuildSpec {
    BuildSpec { lists: Some(8), code_bytes: Some(8), memory_limit: 512 << 20, ..BuildSpec::new(input, output) }
}

/// The index of `data` in memory, with the spec changed by `change`.
pub(crate) fn in_memory(data: &Data, change: impl FnOnce(&mut BuildSpec)) -> Searcher {
    let (input, vfs) = (tempfile::tempdir().unwrap(), MemoryVfs::new());
    let mut spec = small(&data.write(input.path()), Path::new("/index"));
    change(&mut spec);
    build_on(&vfs, &spec, &Silent).unwrap();
    open_on(&vfs, &spec.output).unwrap()
}

/// A searcher with the best kernels over an index on any file system.
pub(crate) fn open_on(vfs: &dyn Vfs, dir: &Path) -> Result<Searcher> {
    Ok(Searcher::new(Index::open_on(vfs, dir, &OpenOptions::default())?, Kernels::detect()))
}

/// Input and index in one temporary folder on the real file system.
pub(crate) struct OnDisk {
    pub(crate) folder: TempDir,
    pub(crate) spec: BuildSpec,
}

impl OnDisk {
    /// Writes the data; nothing is built yet.
    pub(crate) fn new(data: &Data) -> OnDisk {
        let folder = tempfile::tempdir().unwrap();
        let spec = small(&data.write(folder.path()), &folder.path().join("index"));
        OnDisk { folder, spec }
    }

    pub(crate) fn build(&self) -> Result<BuildReport> {
        build(&self.spec, &Silent)
    }

    pub(crate) fn open(&self) -> Result<Searcher> {
        Searcher::open(&self.spec.output, &OpenOptions::default())
    }
}

/// The hits of one query.
pub(crate) fn search(searcher: &Searcher, query: &[f32], params: &SearchParams) -> Result<Vec<Hit>> {
    let mut hits = Vec::new();
    searcher.search(query, params, &mut searcher.scratch(), &mut hits)?;
    Ok(hits)
}

/// Fails unless a batch, on one thread and on three, gives every query the hits and the figures of a search of its own.
pub(crate) fn assert_batch_is_single(searcher: &Searcher, queries: &[f32], params: &SearchParams) {
    let (mut scratch, mut hits) = (searcher.scratch(), Vec::new());
    let single: Vec<(Vec<Hit>, SearchStats)> = queries
        .chunks(searcher.dim())
        .map(|query| {
            let stats = searcher.search(query, params, &mut scratch, &mut hits).unwrap();
            (hits.clone(), stats)
        })
        .collect();
    let figures = |s: &SearchStats| (s.lists_probed, s.candidates, s.vectors_read, s.bytes_read, s.reads, s.fraction);
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let batch = pool.install(|| searcher.search_batch(queries, params)).unwrap();
        assert_eq!(batch.len(), single.len());
        for (at, ((hits, stats), (due, due_stats))) in batch.iter().zip(&single).enumerate() {
            assert_eq!(hits, due, "query {at} on {threads} threads");
            assert_eq!(figures(stats), figures(due_stats), "query {at} on {threads} threads");
        }
    }
}

/// Parameters under which nothing is left out: all lists, all rows verified.
pub(crate) fn everything(searcher: &Searcher, k: usize) -> SearchParams {
    let (nprobe, candidates) = (searcher.index().manifest().lists, searcher.rows() as usize);
    SearchParams { k, nprobe, candidates, ..SearchParams::default() }
}

/// The score of every row (rows are keys), by the definition of the metric, in f64.
pub(crate) fn scores(metric: Metric, rows: &[f32], query: &[f32]) -> Vec<f64> {
    let mut query = query.to_vec();
    if metric == Metric::Cosine {
        normalise(&mut query);
    }
    let score = |row: &[f32]| -> f64 {
        let mut row = row.to_vec();
        if metric == Metric::Cosine {
            normalise(&mut row);
        }
        let pairs = row.iter().zip(&query).map(|(&a, &b)| (f64::from(a), f64::from(b)));
        match metric {
            Metric::L2 => -pairs.map(|(a, b)| (a - b) * (a - b)).sum::<f64>(),
            _ => pairs.map(|(a, b)| a * b).sum(),
        }
    };
    rows.chunks_exact(query.len()).map(score).collect()
}

/// The keys of the `k` best scores, best first, ties by key.
pub(crate) fn best(scores: &[f64], k: usize) -> Vec<Key> {
    let mut keys: Vec<Key> = (0..scores.len() as Key).collect();
    keys.sort_by(|&a, &b| scores[b as usize].total_cmp(&scores[a as usize]).then(a.cmp(&b)));
    keys.truncate(k);
    keys
}

/// Share of the true best `k` among the hits.
pub(crate) fn recall(hits: &[Hit], scores: &[f64], k: usize) -> f64 {
    let truth = best(scores, k);
    hits.iter().take(k).filter(|hit| truth.contains(&hit.key)).count() as f64 / k as f64
}

/// Fails unless `hits` are the best rows of `truth` in order: every score is the row's own, and the i-th score is the
/// i-th best, both within `bound` (rows that close to each other may stand in for one another).
pub(crate) fn assert_best(hits: &[Hit], truth: &[f64], k: usize, bound: f64, what: &str) {
    assert_eq!(hits.len(), k.min(truth.len()), "{what}");
    for (hit, best) in hits.iter().zip(best(truth, k)) {
        let (score, own, due) = (f64::from(hit.score), truth[hit.key as usize], truth[best as usize]);
        assert!((score - own).abs() <= bound, "{what}: key {} scores {own}, not {score}", hit.key);
        assert!((own - due).abs() <= bound, "{what}: key {} ({own}) where {best} ({due}) belongs", hit.key);
    }
    assert!(hits.iter().enumerate().all(|(i, a)| hits[..i].iter().all(|b| a.key != b.key)), "{what}: {hits:?}");
}

/// A query of one vector by relevance, of the ads that may be served.
pub(crate) fn ad_query(vector: &[f32], limit: usize, params: SearchParams) -> AdQuery {
    AdQuery {
        vectors: vec![(vector.to_vec(), 1.0)],
        params,
        limit,
        offset: 0,
        filter: Filter::default(),
        serving: true,
        block: Block::default(),
        ranking: Ranking::by_relevance(),
        effort: 1.0,
        most_candidates: usize::MAX,
    }
}
