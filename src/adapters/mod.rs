//! Low-rank adapters of frozen linear layers, shared by several tasks (MTL-LoRA, AAAI 2025, arXiv 2410.09437).
//!
//! ```text
//! h = W x + (alpha / r) [ sum_i softmax(w_t / tau)_i B_i ] Lambda_t A x          for a row x of task t
//!     W: d x k, frozen     A: r x k     Lambda_t: r x r, from the identity     B_i: d x r, from 0     w_t: n weights
//! ```
//! `A` and the `n` maps `B_i` are shared by the tasks; `Lambda_t` and `w_t` are the task's own, and small. A batch may hold rows
//! of any tasks: they are sorted by task ([`TaskRows`]), so that each step is a few matrix products and never one a row. For
//! one task everything is a single matrix ([`Adapter::merge`]), so it costs nothing once it serves.
//!
//! Two older methods are the same formula with parts left out ([`Method`]): plain LoRA has one `A` and one `B` for everybody,
//! LoRA a task has an own pair for each.
//!
//! | what | where |
//! |---|---|
//! | the layer: forward, backward, merge | [`Adapter`] |
//! | names of tasks, and their nearest where one is unknown | [`TaskNames`] |
//! | query encoders of several tasks over one index, and their training | [`QueryAdapters`], [`train_query_adapters`] |
//! | the course of a training: batches, epochs, the best one | [`Epoch`], `course` |
//! | settings and matrices in one checked `.safetensors` file | `tensors` |

pub(crate) mod course;
mod layer;
mod query;
mod retrieval;
mod rows;
pub(crate) mod tensors;

pub use course::Epoch;
pub use layer::{Adapter, Pass};
pub use query::{QueryAdapters, QueryMap};
pub use retrieval::{QueryTask, QueryTraining, recall_at_ten, train_query_adapters};
pub use rows::{TaskNames, TaskRows};

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Which matrices the tasks share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// One `A` and one `B` for all tasks; `Lambda` is the identity.
    Lora,
    /// An own `A` and `B` for each task; `Lambda` is the identity.
    LoraPerTask,
    /// `A` and several `B` for all tasks; `Lambda` and the weights of the `B` for each.
    #[default]
    MtlLora,
}

impl Method {
    /// All methods.
    pub const ALL: [Method; 3] = [Method::Lora, Method::LoraPerTask, Method::MtlLora];
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Method::Lora => "lora",
            Method::LoraPerTask => "lora-per-task",
            Method::MtlLora => "mtl-lora",
        })
    }
}

impl FromStr for Method {
    type Err = Error;
    fn from_str(text: &str) -> Result<Method> {
        Method::ALL
            .into_iter()
            .find(|method| method.to_string() == text)
            .ok_or_else(|| Error::params("method", format!("{text:?} is not one of lora, lora-per-task, mtl-lora")))
    }
}

/// Size and scale of an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterShape {
    /// What tasks share.
    pub method: Method,
    /// `r`.
    pub rank: usize,
    /// What the adapter adds is scaled by `alpha / r`.
    pub alpha: f32,
    /// `n`, the number of `B_i`; only [`Method::MtlLora`] has more than one.
    pub ups: usize,
    /// `tau`, by which the weights of the `B_i` are divided before their softmax.
    pub temperature: f32,
}

impl Default for AdapterShape {
    fn default() -> Self {
        AdapterShape { method: Method::MtlLora, rank: 8, alpha: 16.0, ups: 3, temperature: 0.1 }
    }
}

impl AdapterShape {
    /// Refuses a shape that nothing can be trained with.
    ///
    /// # Errors
    /// `InvalidParams`, naming the value and its range.
    pub fn check(&self) -> Result<()> {
        if self.rank == 0 || self.ups == 0 {
            let (name, value) = if self.rank == 0 { ("rank", self.rank) } else { ("ups", self.ups) };
            return Err(Error::params(name, format!("{value}; give at least 1")));
        }
        for (name, value) in [("alpha", self.alpha), ("temperature", self.temperature)] {
            if !(value.is_finite() && value > 0.0) {
                return Err(Error::params(name, format!("{value}; it must be a finite number above 0")));
            }
        }
        Ok(())
    }

    /// Trained values of one adapter of a layer from `input` to `output` values, for so many tasks.
    pub fn parameters(&self, input: usize, output: usize, tasks: usize) -> usize {
        let rank = self.rank;
        match self.method {
            Method::Lora => rank * (input + output),
            Method::LoraPerTask => tasks * rank * (input + output),
            Method::MtlLora => {
                let weights = if self.ups > 1 { tasks * self.ups } else { 0 };
                rank * input + tasks * rank * rank + self.ups * output * rank + weights
            }
        }
    }
}

/// What to know where vectors of one encoder meet what was trained on those of another; either may not be known.
pub(crate) fn other_encoder(what: &str, trained: Option<&str>, index: Option<&str>) -> Option<String> {
    let (trained, index) = (trained?, index?);
    (trained != index).then(|| {
        format!(
            "the {what} learned from vectors of another encoder ({trained}) than that of the index ({index}): scores mean something \
             only if the two were trained to agree"
        )
    })
}
