//! Stand-in for the engine until it is merged: brute force over `vectors.raw` (`dim` as u32, then f32 rows).
use crate::dense::Store;
use crate::error::{Error, Result};
use crate::types::{Metric, Row};
use serde::Serialize;
use std::path::Path;
use std::time::Instant;

/// Parameters of a search.
#[derive(Clone, Debug)]
pub struct SearchParams {
    /// Hits wanted.
    pub k: usize,
    /// Lists probed; 0 = default.
    pub nprobe: usize,
    /// Candidates; 0 = default.
    pub candidates: usize,
    /// Exact search.
    pub exact: bool,
    /// Deadline.
    pub deadline: Option<Instant>,
}
impl Default for SearchParams {
    fn default() -> Self {
        SearchParams { k: 10, nprobe: 0, candidates: 0, exact: false, deadline: None }
    }
}
/// A hit.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// Key.
    pub key: u64,
    /// Score.
    pub score: f32,
    /// Row.
    pub row: Row,
}
/// Statistics.
#[derive(Default, Clone, Serialize)]
#[allow(missing_docs)]
pub struct SearchStats {
    pub lists_probed: u32,
    pub rows_scanned: u64,
    pub candidates: u32,
    pub vectors_read: u32,
    pub bytes_read: u64,
    pub reads: u32,
    pub probe_ns: u64,
    pub scan_ns: u64,
    pub fetch_ns: u64,
    pub rank_ns: u64,
    pub fraction: f32,
}
/// How to open.
pub struct OpenOptions {
    /// Store.
    pub store: Store,
    /// Direct.
    pub direct: bool,
}
/// Scratch.
pub struct Scratch;
/// The searcher.
pub struct Searcher {
    dim: usize,
    data: Vec<f32>,
}
#[allow(missing_docs, clippy::needless_pass_by_value)]
impl Searcher {
    pub fn open(dir: &Path, _options: &OpenOptions) -> Result<Searcher> {
        let path = dir.join("vectors.raw");
        let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
        let dim = u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
        let data = bytes[4..].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        Ok(Searcher { dim, data })
    }
    pub fn dim(&self) -> usize {
        self.dim
    }
    pub fn metric(&self) -> Metric {
        Metric::Cosine
    }
    pub fn rows(&self) -> u64 {
        (self.data.len() / self.dim) as u64
    }
    pub fn version(&self) -> &str {
        "00ff"
    }
    pub fn notes(&self) -> &[String] {
        &[]
    }
    pub fn memory_bytes(&self) -> u64 {
        self.data.len() as u64 * 4
    }
    pub fn scratch(&self) -> Scratch {
        Scratch
    }
    pub fn search(
        &self,
        query: &[f32],
        params: &SearchParams,
        _: &mut Scratch,
        hits: &mut Vec<Hit>,
    ) -> Result<SearchStats> {
        hits.clear();
        for (row, v) in self.data.chunks_exact(self.dim).enumerate() {
            let score = v.iter().zip(query).map(|(a, b)| a * b).sum();
            hits.push(Hit { key: row as u64 + 1000, score, row: row as Row });
        }
        hits.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.key.cmp(&b.key)));
        hits.truncate(params.k);
        Ok(SearchStats { rows_scanned: self.rows(), fraction: 1.0, ..Default::default() })
    }
    pub fn search_batch(&self, queries: &[f32], params: &SearchParams) -> Result<Vec<(Vec<Hit>, SearchStats)>> {
        queries
            .chunks_exact(self.dim)
            .map(|q| {
                let mut hits = Vec::new();
                let stats = self.search(q, params, &mut Scratch, &mut hits)?;
                Ok((hits, stats))
            })
            .collect()
    }
    pub fn vector(&self, key: u64) -> Result<Option<Vec<f32>>> {
        Ok(key.checked_sub(1000).and_then(|r| self.data.chunks_exact(self.dim).nth(r as usize)).map(|v| v.to_vec()))
    }
    pub fn fields(&self, row: Row) -> Result<Option<String>> {
        Ok(Some(format!("{{\"title\":\"row {row}\"}}")))
    }
}
