//! `bigrain`: serve an index, search it, see the settings in force.
fn main() {}
