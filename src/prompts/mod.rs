//! Demonstrations for a language model, retrieved by what helped it before (UPRISE, 2303.08518; feature `text`).
//!
//! ```text
//! examples of tasks --> pool of demonstrations --> encoder --> index              (Pool, PromptIndex)
//! inputs of training --> score candidates by a language model                     (plan, Scorer, Ledger, score)
//!                    --> best: positive, worst: hard negatives --> heads           (tune)
//! a new input --> three best by inner product, worst first --> prompt              (PromptIndex::retrieve, assemble)
//! ```
//! A *demonstration* is an input with its answer. What one is worth for an input is measured on a frozen language model that sees
//! it before the input: see [`worth`]. The model is behind [`Scorer`]: a process ([`ProcessScorer`]) or an HTTP endpoint
//! ([`HttpScorer`]). What it answered is kept in a [`Ledger`] as it comes, so that nothing is asked twice, whatever ends a run.
//!
//! Tasks are grouped into clusters ([`Clusters`]). A cluster that is left out of a pool is in no training and no prompt: what is
//! measured on it is how well the retriever serves tasks that it never saw: prompts as they would be used ([`measure()`]), or one
//! demonstration at a time, where every method chooses among the same ([`Table`]), which tells methods apart at fewer answers.
//!
//! Heads are tuned in one of two ways: for inputs of tasks that the pool has demonstrations of ([`TuneSpec::new`], the paper's), or for those of
//! any other task ([`TuneSpec::unseen`]): from candidates of other tasks, a direction along which demonstrations serve nearly every input.
//!
//! Deliberately absent: the paper's filter that drops tasks on which the model is at chance; trained encoders (heads are trained
//! on a frozen one).

mod clusters;
mod http;
mod index;
mod ledger;
mod lexical;
mod measure;
mod plan;
mod pool;
mod process;
mod score;
mod scorer;
mod table;
mod tune;

pub use clusters::{Clusters, DEFAULT_CLUSTERS};
pub use http::HttpScorer;
pub use index::{IndexReport, PromptIndex, PromptNote, Retrieved, assemble};
pub use ledger::{KeptScorer, Ledger};
pub use lexical::Lexical;
pub use measure::{Method, MethodReport, check_unseen, measure};
pub use plan::{Plan, PlanSpec, Trial, plan};
pub use pool::{Demonstration, Origin, Pool, PoolSpec};
pub use process::ProcessScorer;
pub use score::{Lesson, ScoreReport, is_first, merge_lessons, read_lessons, score, worth, write_lessons};
pub use scorer::{Likelihood, Scorer};
pub use table::{Chooser, Table, TableReport, draw_candidates, draw_inputs};
pub use tune::{Compared, TuneReport, TuneSpec, tune};

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
