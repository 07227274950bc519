//! What makes a retrieved vector an ad: who pays for it, whether it may be shown now, and what a click is worth.

pub mod control;
