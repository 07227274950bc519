//! bigrain: two-grain embedding retrieval. This page is the guide to the code.
//!
//! # The idea
//! Every document has two grains. A small **code** lives in memory, in inverted lists scanned with SIMD; the **dense
//! vector** (the truth) lies on SSD, in the order of the lists, and is read only for the few candidates that deserve it.
//! ```text
//! query --> probe ----> scan -----------> fetch -------------> verify -----> rank --> hits
//!           which       code scores of    dense vectors of     exact         best k,
//!           lists       all rows in them  the few that count   scores        ties by key
//!           (RAM)       (RAM, SIMD)       (SSD)                (SIMD)
//! ```
//! [`search::Searcher::search`] is one function of these steps. Who has read it has read the engine.
//!
//! # Where do I find ...?
//! A module may use only those above it in this table; `tests/tidy.rs` holds the table and fails on an edge that breaks it.
//!
//! | module | what it knows |
//! |---|---|
//! | [`error`], [`types`] | errors by remedy; rows, lists, keys, metrics |
//! | [`simd`] | the kernels: a scalar oracle, AVX2, AVX-512; pictures of the packed layouts |
//! | [`vfs`] | the one seam to files, with implementations that fail and crash on purpose |
//! | [`mod@format`] | the one envelope of every index file |
//! | [`journal`] | a durable log of numbered records |
//! | [`sample`] | seeded randomness, on which index bytes depend |
//! | [`dataset`] | other people's files: npy, fbin, fvecs, parquet, raw, IDX, keys, ids, qrels, runs, pairs and their split; made vectors |
//! | [`topk`], [`linalg`] | best-k as sortable integers; matrix helpers |
//! | [`attributes`] | typed columns and the filters on them |
//! | `encoder` | text to vectors: BERT and static encoders from a folder (feature `text`) |
//! | [`heads`] | small trained maps over the vectors of a frozen encoder |
//! | [`quantizer`] | centroids, rotation, codebooks, learned heads and router; a query's score tables |
//! | [`codes`] | inverted lists in memory and their scan |
//! | [`dense`] | dense vectors on SSD: records, shards, four ways to read them, page cache, int8 tier |
//! | [`train`] | k-means, product quantization, OPQ |
//! | [`adapters`] | low-rank adapters of linear layers for several tasks; query encoders of several tasks over one index |
//! | [`relevance`] | a multi-task model of pairs of texts over a frozen encoder's vectors, for the last re-scoring |
//! | [`index`] | the manifest and the files it names, opened for search |
//! | [`build`] | from files of vectors to an index, in bounded memory |
//! | [`search`] | the query path |
//! | [`eval`] | exact answers, recall, speed, likeness of made vectors |
//! | [`calibrate`] | which effort reaches which recall, from sample queries |
//! | [`learn`] | the stages of training, from labelled pairs to a learned quantizer |
//! | [`live`] | upserts and deletes over an index: journal, delta, tombstones, compaction |
//! | `prompts` | demonstrations for a language model, retrieved by what helped it (feature `text`) |
//! | [`ads`] | control table, filters and bids in the search, ranking, explanations, versions under load |
//! | `server` | HTTP, and what surrounds a request: keys, admission, TLS, traces, status (feature `server`) |
//!
//! # What stays true
//! - Files of an index are immutable. A version exists when its manifest is renamed into place, and not before.
//! - Row order is list order: a row's number says where its code and its dense vector lie, so ids cost no memory. The
//!   caller's key lies beside the dense vector.
//! - Where an index is built with views, rows that share a key are one document: hits are documents, each with its best row, and its
//!   rows come and go together.
//! - A score is larger when better, everywhere. L2 is negated once, at the edge.
//! - Callers send the encoder's own vectors, whatever was learned: document heads are applied by the build, query heads by
//!   search. Base scores of lists are those of centroids, also where a router chooses the lists.
//! - Answers do not depend on the number of threads, on how vectors are read, or on the instruction set: integer scans
//!   are equal to the bit, float kernels share one order of summation, ties are broken by key.
//! - A build from the same input, seed and parameters gives the same bytes at any number of threads.
//! - `unsafe` lives in [`simd`] and [`dense`] only, every block with its reason (and where `index-tools` declares a function of
//!   OpenMP, in a build with FAISS).
//! - No panic on anything that a user, a file or a network can send: bad input is an [`error::Error`] that names the value
//!   and the remedy.
//!
//! # Where the plan was left
//! - Matrix products run on `faer`, not on `gemm`: about a tenth slower, but without unsafe code of ours.
//! - Dense records larger than a page follow each other without gaps instead of starting on a page: 1,024 floats and a
//!   key are 4,112 bytes, and two pages for each would double the file.
//! - Learned codes have a score offset a codeword ([`train`]), which the plan did not: part of the score tables, so free. Plain
//!   codes rank by inner product although they shorten vectors; an offset that starts at minus half the squared length of the
//!   codeword makes up for it.
//! - Heads start from a pair trained on full-precision scores, and the rotation is folded into them, so that a query pays for one
//!   matrix.
//! - Thousands of lists are ranked in groups ([`quantizer::Coarse`]), not by a graph over their centroids: a group is one run of
//!   memory, and k-means makes groups anyhow. Documents are in one list only: at equal bytes more lists scan fewer rows than
//!   spilling does, and codes of 8 bits find more than those of 6 (`benches/record/2026-11-23-zen4-2core/alternatives.md`).
//! - Bids take part in the scan as row terms, a byte a row ([`ads`]): candidates ranked by relevance alone lose what money lifts.
//! - A filter is evaluated list by list, as it is scanned, and not for all rows at once; attributes of one value are ordinals, so that a
//!   condition is a comparison of 64 rows an instruction ([`attributes`]).
//! - Under L2 the term of a row carries the squared error of its code ([`quantizer`]), which the plain estimate ignores.

pub mod adapters;
pub mod ads;
pub mod attributes;
pub mod build;
pub mod calibrate;
pub mod codes;
pub mod dataset;
pub mod dense;
#[cfg(feature = "text")]
pub mod encoder;
pub mod error;
pub mod eval;
pub mod format;
pub mod heads;
pub mod index;
pub mod journal;
pub mod learn;
pub mod linalg;
pub mod live;
#[cfg(feature = "text")]
pub mod prompts;
pub mod quantizer;
pub mod relevance;
pub mod sample;
pub mod search;
#[cfg(feature = "server")]
pub mod server;
pub mod simd;
pub mod topk;
pub mod train;
pub mod types;
pub mod vfs;
