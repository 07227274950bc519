//! Batches answer as single queries do, whatever the index, the parameters and the number of threads.

use std::time::Instant;

use bigrain::search::{SearchParams, Searcher};
use bigrain::simd::CodeBits;
use bigrain::types::Metric;
use proptest::prelude::*;

use crate::common::{Data, assert_batch_is_single, in_memory};

/// An index with one list of several runs of codes, with small ones, or with empty ones.
#[derive(Clone, Debug)]
struct Shape {
    rows: usize,
    lists: usize,
    /// Rows are almost copies of this many: lists stay empty, scores tie, and the base score swallows the code's part.
    distinct: Option<usize>,
    metric: Metric,
    bits: CodeBits,
    seed: u64,
}

impl Shape {
    fn data(&self) -> Data {
        let mut data = Data::clustered(self.rows, 12, self.seed);
        if let Some(distinct) = self.distinct {
            for at in distinct * data.dim..data.rows.len() {
                let noise = 1e-7 * ((at * 31 + self.seed as usize) % 17) as f32;
                data.rows[at] = data.rows[at % (distinct * data.dim)] * (1.0 + noise);
            }
        }
        data
    }

    fn index(&self, data: &Data) -> Searcher {
        in_memory(data, |spec| {
            (spec.metric, spec.code_bits, spec.lists, spec.seed) =
                (self.metric, self.bits, Some(self.lists), self.seed);
            // Four subspaces of 8 bits, or eight of 4, which share 12 dimensions unevenly.
            spec.code_bytes = Some(4);
            spec.opq = Some(self.seed.is_multiple_of(2));
        })
    }
}

fn shapes() -> impl Strategy<Value = Shape> {
    let size = prop_oneof![(1usize..400, 1usize..40), (2_000usize..4_500, 1usize..3)];
    let distinct = prop_oneof![Just(None), (1usize..6).prop_map(Some)];
    let metric = prop_oneof![Just(Metric::Ip), Just(Metric::Cosine), Just(Metric::L2)];
    let bits = prop_oneof![Just(CodeBits::Four), Just(CodeBits::Eight)];
    (size, distinct, metric, bits, 0u64..1_000).prop_map(|((rows, lists), distinct, metric, bits, seed)| {
        let (lists, distinct) = (lists.min(rows), distinct.filter(|&distinct| distinct < rows));
        Shape { rows, lists, distinct, metric, bits, seed }
    })
}

fn params() -> impl Strategy<Value = SearchParams> {
    let weight = prop_oneof![Just(0.0f32), Just(0.5f32)];
    (0usize..20, 0usize..45, 0usize..60, weight).prop_map(|(k, nprobe, candidates, sparse_weight)| SearchParams {
        k,
        nprobe,
        candidates,
        sparse_weight,
        ..SearchParams::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn batches_answer_as_single_queries_do(
        shape in shapes(),
        params in params(),
        queries in prop::collection::vec(0usize..20, 1..200),
    ) {
        let data = shape.data();
        let searcher = shape.index(&data);
        // Any of 20 queries any number of times: neighbours that share all lists, and strangers.
        let queries: Vec<f32> = queries.iter().flat_map(|at| data.queries().nth(*at).unwrap()).copied().collect();
        assert_batch_is_single(&searcher, &queries, &params);
    }
}

#[test]
fn shapes_hold_what_the_property_is_about() {
    let shape = Shape { rows: 300, lists: 20, distinct: Some(3), metric: Metric::L2, bits: CodeBits::Eight, seed: 1 };
    let searcher = shape.index(&shape.data());
    let sizes: Vec<usize> = (0..20).map(|list| searcher.index().codes().rows_of(list)).collect();
    assert!(sizes.contains(&0) && sizes.iter().any(|rows| rows % 16 != 0), "empty and odd lists: {sizes:?}");
}

#[test]
fn exact_search_and_deadlines_keep_their_meaning_in_batches() {
    let data = Data::clustered(900, 16, 3);
    let searcher = in_memory(&data, |spec| spec.lists = Some(40));
    let wide = SearchParams { k: 7, nprobe: 40, candidates: 20, ..SearchParams::default() };
    assert_batch_is_single(&searcher, &data.queries, &SearchParams { exact: true, ..wide.clone() });
    // A deadline that is over: the most promising lists are scanned, and the fraction tells how many.
    let late = SearchParams { deadline: Some(Instant::now()), ..wide };
    assert_batch_is_single(&searcher, &data.queries, &late);
    let (hits, stats) = &searcher.search_batch(&data.queries, &late).unwrap()[0];
    assert!(stats.fraction < 1.0 && stats.lists_probed < 40 && hits.len() == 7, "{stats:?}");
}

#[test]
fn bad_queries_are_refused_and_no_queries_have_no_answers() {
    let data = Data::clustered(500, 16, 3);
    let searcher = in_memory(&data, |_| {});
    let params = SearchParams::default();
    assert!(searcher.search_batch(&[], &params).unwrap().is_empty());
    let refused =
        |queries: &[f32], params: &SearchParams| searcher.search_batch(queries, params).unwrap_err().to_string();
    assert!(refused(&data.queries[1..], &params).contains("a multiple of 16"));
    let mut queries = data.queries.clone();
    queries[40] = f32::NAN;
    assert!(refused(&queries, &params).contains("value 8 is NaN"));
    let weight = SearchParams { sparse_weight: -1.0, ..params };
    assert!(refused(&data.queries, &weight).contains("sparse_weight"));
}
