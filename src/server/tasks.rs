//! Query encoders of several tasks: the map of the task that a request names is laid over its query vectors.

use axum::http::StatusCode;

use super::config::EncoderSection;
use super::plan::Query;
use super::problem::Problem;
use crate::adapters::{QueryAdapters, QueryMap, TaskNames};
use crate::error::Result;
use crate::search::Searcher;
use crate::simd::Kernels;
use crate::vfs::RealVfs;

/// The map of each task, made once: requests only apply them.
#[derive(Debug, Default)]
pub(super) struct TaskMaps {
    names: TaskNames,
    maps: Vec<QueryMap>,
}

impl TaskMaps {
    /// Reads the adapters that are set, if any, for queries of `searcher`; a note where another encoder made its vectors.
    ///
    /// # Errors
    /// As [`QueryAdapters::load`] and [`QueryAdapters::check_index`].
    pub(super) fn load(section: &EncoderSection, searcher: &Searcher) -> Result<(TaskMaps, Option<String>)> {
        if section.adapters.as_os_str().is_empty() {
            return Ok((TaskMaps::default(), None));
        }
        let adapters = QueryAdapters::load(&RealVfs, &section.adapters)?;
        let encoder = searcher.index().manifest().encoder.as_ref().map(|made| made.id.as_str());
        let note = adapters.check_index(searcher.dim(), searcher.metric(), encoder)?;
        let names = adapters.tasks().clone();
        let maps = names.names().iter().map(|name| adapters.map(name)).collect::<Result<_>>()?;
        Ok((TaskMaps { names, maps }, note))
    }

    /// Names of the tasks.
    pub(super) fn names(&self) -> &[String] {
        self.names.names()
    }

    /// Maps the query vectors of a request for `task`.
    pub(super) fn map(&self, task: &str, queries: &mut [(Query, f32)]) -> std::result::Result<(), Problem> {
        let map = &self.maps[self.place(task)?];
        for (query, _) in queries {
            let Query::Vector(vector) = query else {
                let detail = "task stands beside key, whose vector is a document's, not a query's";
                return Err(Problem::meaning("task_not_for_key", "/task", detail, "leave task out, or send a vector"));
            };
            let mapped = map.apply(Kernels::detect(), vector)?;
            // A norm that no float can hold divides everything down to 0.
            let lost = mapped.iter().all(|value| *value == 0.0) && vector.iter().any(|value| *value != 0.0);
            if lost || mapped.iter().any(|value| !value.is_finite()) {
                let detail = format!("the query vector is beyond what a float can hold once it is mapped for {task:?}");
                return Err(Problem::meaning("not_finite", "/task", detail, "send a vector of about unit length"));
            }
            *vector = mapped;
        }
        Ok(())
    }

    fn place(&self, task: &str) -> std::result::Result<usize, Problem> {
        if let Some(place) = self.names().iter().position(|name| name == task) {
            return Ok(place);
        }
        let shown: String = task.chars().take(80).collect();
        let remedy = match self.names.is_empty() {
            true => "this server has no tasks; leave task out".to_string(),
            false => self.names.remedy(task),
        };
        let detail = format!("there is no task {shown:?}");
        Err(Problem::new(StatusCode::BAD_REQUEST, "unknown_task", detail, remedy).at("/task"))
    }
}
