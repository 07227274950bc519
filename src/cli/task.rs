//! What the task of a query changes: the map of its vector, and who orders the hits in the end.

use std::path::PathBuf;

use bigrain::adapters::{QueryAdapters, QueryMap};
use bigrain::dense::FetchScratch;
use bigrain::error::{Error, Result};
use bigrain::linalg::normalise;
use bigrain::relevance::{Ranker, RelevanceModel};
use bigrain::search::{Hit, Searcher};
use bigrain::simd::Kernels;
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
#[derive(Default)]
pub(super) struct Task {
    map: Option<QueryMap>,
    ranker: Option<Ranker>,
}

impl TaskOptions {
    /// Reads the files, for the index of `searcher`; says where another encoder made its vectors.
    pub(super) fn open(&self, searcher: &Searcher) -> Result<Task> {
        let Some(task) = &self.task else { return Ok(Task::default()) };
        if self.adapters.is_none() && self.relevance.is_none() {
            return Err(Error::params("task", format!("nothing knows {task:?}; give --adapters or --relevance")));
        }
        let encoder = searcher.index().manifest().encoder.as_ref().map(|made| made.id.as_str());
        let (mut opened, mut notes) = (Task::default(), Vec::new());
        if let Some(path) = &self.adapters {
            let adapters = QueryAdapters::load(&RealVfs, path)?;
            notes.extend(adapters.check_index(searcher.dim(), searcher.metric(), encoder)?);
            opened.map = Some(adapters.map(task)?);
        }
        if let Some(path) = &self.relevance {
            let model = RelevanceModel::load(&RealVfs, path)?;
            notes.extend(model.check_index(searcher.dim(), encoder)?);
            if searcher.index().quantizer().heads().dense_document.is_some() {
                return Err(Error::Unsupported {
                    what: "--relevance over an index that stores what a dense head made of its documents".into(),
                    remedy: "leave it out, or build the index without dense heads: the model compares an encoder's own vectors"
                        .into(),
                });
            }
            let ranker = model.ranker(task)?;
            ranker.check_ranks()?;
            opened.ranker = Some(ranker);
        }
        notes.iter().for_each(|note| eprintln!("note: {note}"));
        Ok(opened)
    }
}

impl Task {
    /// The queries (n x dim) as they are searched.
    pub(super) fn mapped(&self, queries: &[f32], dim: usize) -> Result<Vec<f32>> {
        let Some(map) = &self.map else { return Ok(queries.to_vec()) };
        let rows = queries.chunks(dim).map(|query| map.apply(Kernels::detect(), query));
        Ok(rows.collect::<Result<Vec<_>>>()?.concat())
    }

    /// The scores of the hits of a query, which is the encoder's own vector, where a model gives them.
    pub(super) fn scores(&self, searcher: &Searcher, query: &[f32], hits: &[Hit]) -> Result<Option<Vec<f32>>> {
        let Some(ranker) = &self.ranker else { return Ok(None) };
        let mut scratch = FetchScratch::default();
        let mut vectors = Vec::with_capacity(hits.len() * query.len());
        for hit in hits {
            // The row, not the key: of a document with several views, the one that was found.
            vectors.extend(searcher.index().vector(hit.row, &mut scratch)?);
        }
        // The model compares vectors of unit length; those of an index are as long as they were, but under the cosine.
        vectors.chunks_mut(query.len()).for_each(|vector| {
            normalise(vector);
        });
        let mut query = query.to_vec();
        normalise(&mut query);
        let documents = ArrayView2::from_shape((hits.len(), query.len()), &vectors)
            .map_err(|_| Error::mismatch("values of the hits' vectors", hits.len() * query.len(), vectors.len()))?;
        ranker.rescore(&query, documents).map(Some)
    }
}
