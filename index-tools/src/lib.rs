//! What the offline commands share: how they end, how they show progress, how they print for people and for machines, the
//! settings of a build, what rows are called; and the parts of a command that would not fit its file. The commands themselves are in `src/bin`: each parses its input, calls one function of
//! the library and prints the answer.

pub mod ads;
pub mod baseline;
pub mod frontier;
#[cfg(feature = "text")]
pub mod labelled;
pub mod like;
pub mod lm;
pub mod load;
pub mod progress;
pub mod recipe;
pub mod rows;
pub mod shell;
pub mod size;
pub mod spread;
pub mod table;
pub mod training;
#[cfg(feature = "text")]
pub mod views;
