//! bigrain: two-grain embedding retrieval.
pub mod error;
pub mod types;

pub mod simd;

pub mod dense;
pub mod search;
#[cfg(feature = "server")]
pub mod server;
