//! Measuring: exact answers, recall, and how fast they come.
//!
//! Two recalls are kept apart. **Neighbour recall** compares with the exact nearest rows ([`Reference::neighbours`]): a
//! hit counts if its true score reaches that of the k-th nearest row, so rows that tie with it count. **Relevance
//! recall** compares with labelled documents ([`Reference::relevance`]): the share of a query's relevant documents among
//! its hits.
//!
//! Both are told twice: for the hits, and for the candidates before verification ([`Outcome::candidate_recall`]), which
//! bound what verification can make of them. Nearest rows are those of the truth that was given, or, where
//! [`exact_scores`] computes them, those of the stored vectors (through dense heads if there are any); a weight of the
//! code score changes the order of hits, not what is right.

mod exact;
mod html;
mod machine;
mod measure;
mod quality;
mod reference;

pub use exact::exact_scores;
pub use html::frontier_page;
pub use machine::{Machine, Memory};
pub use measure::{Outcome, Plan, Setting, measure};
pub use reference::{Quality, Reference};
