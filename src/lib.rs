//! bigrain: two-grain embedding retrieval.
pub mod build;
pub mod codes;
pub mod dataset;
pub mod dense;
pub mod error;
pub mod eval;
pub mod format;
pub mod index;
pub mod linalg;
pub mod quantizer;
pub mod sample;
pub mod search;
pub mod simd;
pub mod topk;
pub mod train;
pub mod types;
pub mod vfs;
