//! The engine from files of vectors to hits: what it answers, what it refuses, and what it survives.

mod ad_views;
mod adaptive;
mod ads;
mod bad_input;
mod batch;
mod common;
mod corruption;
mod crash;
mod end_to_end;
mod learned;
mod reads;
mod versions;
mod views;
