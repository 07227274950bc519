//! bigrain: two-grain embedding retrieval.
pub mod error;
pub mod types;

pub mod simd;

pub mod dataset;
pub mod dense;
pub mod sample;
pub mod search;
#[cfg(feature = "server")]
pub mod server;
pub mod topk;
