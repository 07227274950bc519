//! Stand-in for the dense module until it is merged.
use serde::{Deserialize, Serialize};
/// Where dense vectors are read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Store {
    /// Memory map.
    Mmap,
    /// Positioned reads.
    Pread,
    /// io_uring.
    Uring,
    /// All in memory.
    Memory,
}
