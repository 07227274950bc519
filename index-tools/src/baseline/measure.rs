//! Asking a baseline: one query at a time, against the clock, judged by the index's own scores.

use bigrain::error::Result;
use bigrain::eval::{Plan, Reference};
use bigrain::linalg::normalise;
use bigrain::search::Searcher;
use bigrain::types::{Metric, Row};
use serde::Serialize;
use std::time::{Duration, Instant};

/// What decides how much a search looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parameter {
    /// Lists scanned.
    Nprobe,
    /// Candidates refined for each hit.
    Refine,
}

/// An index of some other kind, over numbered vectors.
pub trait Engine {
    /// Sets a parameter of the searches to come. False: an index of this kind has no such parameter.
    ///
    /// # Errors
    /// What the engine says to the value.
    fn set(&mut self, parameter: Parameter, value: u32) -> Result<bool>;

    /// The numbers of the `k` nearest vectors to `query` (dim values), or of fewer if it finds no more.
    ///
    /// # Errors
    /// What the engine says.
    fn search(&mut self, query: &[f32], k: usize, numbers: &mut Vec<u64>) -> Result<()>;

    /// Bytes that the index takes in a file.
    ///
    /// # Errors
    /// Where it cannot be written.
    fn file_bytes(&self) -> Result<u64>;
}

/// One point of a baseline's grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Hits wanted.
    pub k: usize,
    /// Lists scanned; None where the index has none.
    pub nprobe: Option<u32>,
    /// Candidates refined for each hit; None where nothing is refined.
    pub refine: Option<u32>,
}

/// What a setting gives.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Point {
    /// The setting.
    #[serde(flatten)]
    pub setting: Setting,
    /// Mean recall in the first k, over queries for which something is known to be right.
    pub recall: f64,
    /// Queries a second.
    pub qps: f64,
    /// Median latency, microseconds.
    pub p50_us: f64,
    /// 99th percentile of latency, microseconds.
    pub p99_us: f64,
}

/// Every combination of hits, lists and candidates, of what `engine` knows.
///
/// # Errors
/// What the engine says to a value.
pub fn grid(engine: &mut dyn Engine, ks: &[usize], nprobe: &[u32], refine: &[u32]) -> Result<Vec<Setting>> {
    let mut known = |parameter, values: &[u32]| -> Result<Vec<Option<u32>>> {
        Ok(match values.first() {
            Some(&first) if engine.set(parameter, first)? => values.iter().copied().map(Some).collect(),
            _ => vec![None],
        })
    };
    let (nprobe, refine) = (known(Parameter::Nprobe, nprobe)?, known(Parameter::Refine, refine)?);
    let mut settings = Vec::new();
    for &k in ks {
        for &nprobe in &nprobe {
            settings.extend(refine.iter().map(|&refine| Setting { k, nprobe, refine }));
        }
    }
    Ok(settings)
}

/// The queries, and what is right for them.
pub struct Asked<'a> {
    searcher: &'a Searcher,
    /// n x dim, as the index is asked.
    queries: &'a [f32],
    /// The same as a baseline is asked: normalised where the metric is cosine.
    prepared: Vec<f32>,
    reference: &'a Reference,
    threads: usize,
    at_least: Duration,
}

impl<'a> Asked<'a> {
    /// `queries` (n x dim) to be asked as `plan` says.
    pub fn new(searcher: &'a Searcher, queries: &'a [f32], reference: &'a Reference, plan: &Plan) -> Asked<'a> {
        let mut prepared = queries.to_vec();
        if searcher.metric() == Metric::Cosine {
            prepared.chunks_exact_mut(searcher.dim()).for_each(|query| {
                normalise(query);
            });
        }
        Asked { searcher, queries, prepared, reference, threads: plan.threads, at_least: plan.at_least }
    }

    /// The metric of the index.
    pub fn metric(&self) -> Metric {
        self.searcher.metric()
    }

    /// Threads of a search.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Whether what is right was computed from vectors that a dense head made of the documents.
    pub fn judges_mapped_vectors(&self) -> bool {
        let heads = self.searcher.index().quantizer().heads();
        let mapped = heads.dense_query.is_some() || heads.dense_document.is_some();
        mapped && matches!(self.reference, Reference::Neighbours(_))
    }

    fn prepared(&self) -> impl Iterator<Item = &[f32]> + Clone {
        self.prepared.chunks_exact(self.searcher.dim())
    }

    /// Mean recall of the rows of the index that were found for each query.
    fn recall(&self, found: Vec<Vec<Row>>, k: usize) -> Result<f64> {
        let (mut scratch, mut hits) = (self.searcher.scratch(), Vec::new());
        let (mut sum, mut judged) = (0.0, 0);
        for (at, (query, mut rows)) in self.queries.chunks_exact(self.searcher.dim()).zip(found).enumerate() {
            rows.sort_unstable();
            self.searcher.score_rows(query, &rows, &mut scratch, &mut hits)?;
            if let Some(quality) = self.reference.quality(at, &hits, k) {
                sum += quality.recall;
                judged += 1;
            }
        }
        Ok(sum / f64::from(judged.max(1)))
    }
}

/// Measures one setting; `rows` are the index's rows of the engine's numbers.
///
/// # Errors
/// What the engine says; what reading dense vectors gives.
pub fn measure(engine: &mut dyn Engine, asked: &Asked<'_>, rows: &[Row], setting: Setting) -> Result<Point> {
    let wanted = [(Parameter::Nprobe, setting.nprobe), (Parameter::Refine, setting.refine)];
    for (parameter, value) in wanted {
        if let Some(value) = value {
            engine.set(parameter, value)?;
        }
    }
    let mut numbers = Vec::new();
    let mut found = Vec::new();
    for query in asked.prepared() {
        engine.search(query, setting.k, &mut numbers)?;
        let row = |&number: &u64| usize::try_from(number).ok().and_then(|number| rows.get(number)).copied();
        found.push(numbers.iter().filter_map(row).collect());
    }
    let recall = asked.recall(found, setting.k)?;
    let (wall, latencies) = time(engine, asked, setting.k)?;
    Ok(Point {
        setting,
        recall,
        qps: latencies.len() as f64 / wall.as_secs_f64(),
        p50_us: percentile(&latencies, 0.5),
        p99_us: percentile(&latencies, 0.99),
    })
}

/// Asks until all queries were asked and the time is over: wall time, and nanoseconds of each, ascending.
fn time(engine: &mut dyn Engine, asked: &Asked<'_>, k: usize) -> Result<(Duration, Vec<u64>)> {
    let count = asked.prepared.len() / asked.searcher.dim();
    let (mut numbers, mut latencies) = (Vec::new(), Vec::with_capacity(count));
    let started = Instant::now();
    for query in asked.prepared().cycle() {
        let begun = Instant::now();
        engine.search(query, k, &mut numbers)?;
        latencies.push(begun.elapsed().as_nanos() as u64);
        if latencies.len() >= count && started.elapsed() >= asked.at_least {
            break;
        }
    }
    let wall = started.elapsed();
    latencies.sort_unstable();
    Ok((wall, latencies))
}

/// Microseconds below which the given share of ascending nanoseconds lies.
fn percentile(latencies: &[u64], share: f64) -> f64 {
    let at = (latencies.len().saturating_sub(1) as f64 * share).round() as usize;
    latencies.get(at).map_or(0.0, |&nanoseconds| nanoseconds as f64 / 1e3)
}
