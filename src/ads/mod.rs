//! Ads: which may be found now, what they are worth, and in which order they are answered; a collection of versions, changes and
//! control state that serves them.
//!
//! | file | |
//! |---|---|
//! | `control/` | the control table: who may be shown, bids, click rates |
//! | `owners`, `values` | the table's word on every row of a version: who answers for it, what it is worth |
//! | `search` | one search over version and fresh ads, as one request sees them |
//! | `rank` | relevance, eCPM, thresholds, caps |
//! | `explain` | why an ad was found, or where it was lost |
//! | `exhaustive`, `sampled`, `online` | the truth, an estimate of recall without it, and both while serving |
//! | `version`, `canary`, `registry`, `collection` | versions: open, measured, listed, served |
//! | `stage`, `switch`, `compaction`, `upkeep` | versions under load: made ready, served instead of others, made, kept up |
//! | `space` | writes are refused before the disk is full |
//!
//! Everything here is without HTTP and JSON bodies; `server` translates.

mod canary;
mod collection;
mod compaction;
pub mod control;
mod exhaustive;
mod explain;
mod online;
mod owners;
mod rank;
mod registry;
mod sampled;
mod search;
mod space;
mod stage;
mod switch;
mod upkeep;
mod values;
mod version;

pub use canary::CanaryReport;
pub use collection::{Collection, CollectionOptions, Pinned, VersionInfo, VersionState};
pub use exhaustive::{AnswerQuality, quality};
pub use explain::{Explanation, Stage, Step};
pub use online::{Answered, Estimate, OnlineRecall};
pub use owners::Owners;
pub use rank::{Candidate, CapBy, Diversity, RankBy, Ranking, ecpm_micros, relevance, value_micros};
pub use registry::{Registry, SplitRef, VersionRef};
pub use sampled::{SampledRecall, SampledRows};
pub use search::{AdAnswer, AdQuery, AdSettings, Block, Dropped, View, widening};
pub use space::LowSpace;
pub use values::Values;
pub use version::{Version, now};
