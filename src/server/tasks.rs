//! Query encoders of several tasks: the map of the task that a request names is laid over its query vectors.

use axum::http::StatusCode;

use super::config::EncoderSection;
use super::plan::Query;
use super::problem::Problem;
use crate::adapters::{QueryAdapters, TaskNames};
use crate::error::{Error, Result};
use crate::heads::{Head, HeadScratch};
use crate::simd::Kernels;
use crate::vfs::RealVfs;

/// The merged map of each task.
#[derive(Debug, Default)]
pub(super) struct TaskMaps {
    names: TaskNames,
    heads: Vec<Head>,
}

impl TaskMaps {
    /// Reads the adapters that are set, if any, for queries of `dim` elements.
    ///
    /// # Errors
    /// As [`QueryAdapters::load`]; `Mismatch` for another dimension.
    pub(super) fn load(section: &EncoderSection, dim: usize) -> Result<TaskMaps> {
        if section.adapters.as_os_str().is_empty() {
            return Ok(TaskMaps::default());
        }
        let adapters = QueryAdapters::load(&RealVfs, &section.adapters)?;
        if adapters.dim() != dim {
            let what = format!("dimension of the adapters in {}", section.adapters.display());
            return Err(Error::mismatch(what, dim, adapters.dim()));
        }
        let names = adapters.tasks().clone();
        let heads = names.names().iter().map(|name| adapters.merge(name)).collect::<Result<_>>()?;
        Ok(TaskMaps { names, heads })
    }

    /// Names of the tasks.
    pub(super) fn names(&self) -> &[String] {
        self.names.names()
    }

    /// Maps the query vectors of a request for `task`.
    pub(super) fn map(&self, task: &str, queries: &mut [(Query, f32)]) -> std::result::Result<(), Problem> {
        let head = &self.heads[self.place(task)?];
        let (mut scratch, mut mapped) = (HeadScratch::default(), Vec::new());
        for (query, _) in queries {
            let Query::Vector(vector) = query else {
                let detail = "task stands beside key, whose vector is a document's, not a query's";
                return Err(Problem::meaning("task_not_for_key", "/task", detail, "leave task out, or send a vector"));
            };
            head.apply(Kernels::detect(), vector, &mut scratch, &mut mapped);
            // A norm that no float can hold divides everything down to 0.
            let lost = mapped.iter().all(|value| *value == 0.0) && vector.iter().any(|value| *value != 0.0);
            if lost || mapped.iter().any(|value| !value.is_finite()) {
                let detail = format!("the query vector is beyond what a float can hold once it is mapped for {task:?}");
                return Err(Problem::meaning("not_finite", "/task", detail, "send a vector of about unit length"));
            }
            vector.clone_from(&mapped);
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
