//! bigrain: two-grain embedding retrieval.
pub mod error;
pub mod types;

pub mod simd;
