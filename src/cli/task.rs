//! What the task of a query changes: the map of its vector, and who orders the hits in the end.

use std::path::PathBuf;

use bigrain::adapters::QueryAdapters;
use bigrain::error::{Error, Result};
use bigrain::heads::Head;
use bigrain::relevance::{Ranker, RelevanceModel};
use bigrain::search::{Hit, Searcher};
use bigrain::vfs::RealVfs;
use clap::Args;
use ndarray::ArrayView2;

#[derive(Args)]
pub(super) struct TaskOptions {
    /// Query encoders by task, as train-adapters wrote them
    #[arg(long, value_name = "FILE", requires = "task")]
    adapters: Option<PathBuf>,
    /// Model that gives the hits their scores and their order in the end, as train-relevance wrote it
    #[arg(long, value_name = "FILE", requires = "task")]
    relevance: Option<PathBuf>,
    /// Task that the queries are of, by the name it has in --adapters and --relevance
    #[arg(long, value_name = "NAME")]
    task: Option<String>,
}

/// What is done for a task.
pub(super) struct Task {
    map: Option<Head>,
    ranker: Option<Ranker>,
}

impl TaskOptions {
    /// Reads the files, for vectors of `dim` elements.
    pub(super) fn open(&self, dim: usize) -> Result<Task> {
        let Some(task) = &self.task else { return Ok(Task { map: None, ranker: None }) };
        if self.adapters.is_none() && self.relevance.is_none() {
            return Err(Error::params("task", format!("nothing knows {task:?}; give --adapters or --relevance")));
        }
        let fits = |what: &str, found: usize| match found == dim {
            true => Ok(()),
            false => Err(Error::mismatch(format!("dimension of the {what}"), dim, found)),
        };
        let mut opened = Task { map: None, ranker: None };
        if let Some(path) = &self.adapters {
            let adapters = QueryAdapters::load(&RealVfs, path)?;
            fits("adapters", adapters.dim())?;
            opened.map = Some(adapters.merge(task)?);
        }
        if let Some(path) = &self.relevance {
            let model = RelevanceModel::load(&RealVfs, path)?;
            fits("relevance model", model.dim())?;
            opened.ranker = Some(model.ranker(task)?);
        }
        Ok(opened)
    }
}

impl Task {
    /// The queries (n x dim) as they are searched.
    pub(super) fn mapped(&self, queries: &[f32], dim: usize) -> Result<Vec<f32>> {
        let Some(map) = &self.map else { return Ok(queries.to_vec()) };
        let rows = ArrayView2::from_shape((queries.len() / dim, dim), queries);
        let rows = rows.map_err(|_| Error::mismatch("dimension of the query", dim, queries.len()))?;
        Ok(map.apply_rows(rows).into_raw_vec_and_offset().0)
    }

    /// The hits of a query, which is the encoder's own vector, in the order they are shown: equal scores keep theirs.
    pub(super) fn ordered(&self, searcher: &Searcher, query: &[f32], hits: &[Hit]) -> Result<Vec<Hit>> {
        let Some(ranker) = &self.ranker else { return Ok(hits.to_vec()) };
        let mut vectors = Vec::with_capacity(hits.len() * query.len());
        for hit in hits {
            vectors.extend(searcher.vector(hit.key)?.unwrap_or_default());
        }
        let documents = ArrayView2::from_shape((hits.len(), query.len()), &vectors)
            .map_err(|_| Error::mismatch("values of the hits' vectors", hits.len() * query.len(), vectors.len()))?;
        // The model compares vectors of unit length, which those of the index are under the cosine.
        let mut query = query.to_vec();
        bigrain::linalg::normalise(&mut query);
        let scores = ranker.rescore(&query, documents)?;
        let mut ordered: Vec<Hit> = hits.iter().zip(scores).map(|(hit, score)| Hit { score, ..*hit }).collect();
        ordered.sort_by(|a, b| b.score.total_cmp(&a.score));
        Ok(ordered)
    }
}
