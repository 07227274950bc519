//! Measuring: exact answers, recall, and how fast they come.
//!
//! Two recalls are kept apart. **Neighbour recall** compares with the exact nearest rows ([`Reference::neighbours`]): a
//! hit counts if its true score reaches that of the k-th nearest row, so rows that tie with it count. **Relevance
//! recall** compares with labelled documents ([`Reference::relevance`]): the share of a query's relevant documents among
//! its hits.
//!
//! Queries without a relevant document have no recall; they are left out of means, which [`Reference::judged`] counts. MRR@10
//! is the mean of `1 / rank` of a query's first relevant document among its first ten, 0 where there is none. On the
//! development queries of MS MARCO, each of which has a relevant document, that is the official figure, provided that all of
//! them are asked. Against nearest rows the first of ten hits that is among the ten nearest counts, which is 1 almost always
//! and says little.
//!
//! Both are told by depth, and twice: for the hits ([`Outcome::hit_recall`]), and for the candidates before verification in
//! the order of their codes ([`Outcome::candidate_recall`]), which bound what verification can make of them. Nearest rows are
//! those of the truth that was given, or, where [`exact_scores`] computes them, those of the stored vectors (through dense
//! heads if there are any); a weight of the code score changes the order of hits, not what is right.
//!
//! [`likeness`] compares two sets of vectors: made ones with the real ones they should be like.

mod exact;
mod html;
pub mod likeness;
mod machine;
mod measure;
mod quality;
mod reference;

pub use exact::exact_scores;
#[cfg(test)]
pub(crate) use exact::tests::index_of_views;
pub use html::frontier_page;
pub use machine::{Machine, Memory};
pub use measure::{Outcome, Plan, Setting, measure};
pub use reference::{Quality, Reference};
