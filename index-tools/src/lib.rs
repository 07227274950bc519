//! What the offline commands share: how they end, how they show progress, how they print for people and for machines,
//! and the settings of a build. The commands themselves are in `src/bin`: each parses its input, calls one function of
//! the library and prints the answer.

pub mod progress;
pub mod recipe;
pub mod shell;
pub mod size;
pub mod table;
pub mod training;
