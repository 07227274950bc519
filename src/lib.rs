//! bigrain: two-grain embedding retrieval.
pub mod error;
pub mod types;

pub mod simd;

pub mod dataset;
pub mod sample;
pub mod topk;
