//! File systems that fail on purpose, for tests of this crate and of those built on it.

mod crash;
mod faulty;

pub use crash::{CrashVfs, Survival};
pub use faulty::{Fault, FaultyVfs};
