//! Searches among some of the rows, and estimates of recall, against looking at everything.

use std::sync::Arc;

use bigrain::ads::{
    AdQuery, AdSettings, Block, Collection, CollectionOptions, RankBy, Ranking, SampledRecall, SampledRows,
};
use bigrain::attributes::Filter;
use bigrain::build::BuildSpec;
use bigrain::dataset::{Scalar, VectorWriter};
use bigrain::index::OpenOptions;
use bigrain::sample::Rng;
use bigrain::search::{Scratch, SearchParams, Searcher};
use bigrain::train::Silent;
use serde_json::json;

const ROWS: usize = 6_000;
const DIM: usize = 24;

/// Clusters, so that lists mean something.
fn vectors(count: usize, seed: u64) -> Vec<f32> {
    let mut centres = Rng::new(7);
    let centres: Vec<f32> = (0..40 * DIM).map(|_| centres.normal()).collect();
    let mut random = Rng::new(seed);
    let one = |_| {
        let centre = random.below(40) as usize;
        let values: Vec<f32> = (0..DIM).map(|i| centres[centre * DIM + i] + 0.8 * random.normal()).collect();
        values
    };
    (0..count).flat_map(one).collect()
}

/// An index whose rows have a number, their group of a thousand, and one of fifty colours.
fn collection(dir: &std::path::Path) -> Arc<Collection> {
    let (path, records) = (dir.join("v.npy"), dir.join("r.jsonl"));
    let mut writer = VectorWriter::create(&path, Scalar::F32, DIM).unwrap();
    writer.write(&vectors(ROWS, 1)).unwrap();
    writer.finish().unwrap();
    let record =
        |row: usize| json!({"number": row, "colour": format!("c{}", row * 7 % 50), "even": row.is_multiple_of(2)});
    std::fs::write(&records, (0..ROWS).map(|row| format!("{}\n", record(row))).collect::<String>()).unwrap();
    let spec = BuildSpec { attributes: Some(records), lists: Some(64), ..BuildSpec::new(path, dir.join("index")) };
    bigrain::build::build(&spec, &Silent).unwrap();
    let searcher = Arc::new(Searcher::open(&spec.output, &OpenOptions::default()).unwrap());
    let settings = AdSettings { group_attribute: "ad_group".into(), default_ctr: 0.01 };
    let options = CollectionOptions {
        open: OpenOptions::default(),
        settings,
        state: None,
        versions: None,
        canary_recall: 0.0,
        compact_changes: 0,
        least_free: 0,
    };
    Collection::read_only(searcher, options).unwrap()
}

fn query(vector: &[f32], limit: usize, params: SearchParams) -> AdQuery {
    AdQuery {
        vectors: vec![(vector.to_vec(), 1.0)],
        params,
        limit,
        offset: 0,
        filter: Filter::default(),
        serving: true,
        block: Block::default(),
        ranking: Ranking { by: RankBy::Relevance, min_relevance: None, diversity: None },
    }
}

fn filter(value: serde_json::Value) -> Filter {
    serde_json::from_value(value).unwrap()
}

#[test]
fn filtered_searches_find_what_passes_and_as_much_of_it_as_others() {
    let dir = tempfile::tempdir().unwrap();
    let collection = collection(dir.path());
    let pinned = collection.pin(None, 0);
    let (view, mut scratch, queries) = (pinned.view(), Scratch::default(), vectors(60, 2));
    let mut mean_recall = |filter: &Filter| {
        let mut recall = 0.0;
        for vector in queries.chunks(DIM) {
            let params = SearchParams { nprobe: 6, candidates: 60, ..SearchParams::default() };
            let query = AdQuery { filter: filter.clone(), ..query(vector, 10, params) };
            let served = view.search(&query, &mut scratch).unwrap();
            let best = view.search_all(&query, &mut scratch).unwrap();
            let found = served.hits.iter().filter(|hit| best.hits.iter().any(|other| other.key == hit.key)).count();
            recall += found as f64 / best.hits.len().max(1) as f64;
            assert!(served.hits.len() == best.hits.len(), "the list is as long as it can be");
        }
        recall / 60.0
    };
    let unfiltered = mean_recall(&Filter::default());
    assert!(unfiltered > 0.8, "{unfiltered}");
    for (name, condition) in [
        ("half", json!({"must": [{"attribute": "even", "match": true}]})),
        ("a tenth", json!({"must": [{"attribute": "number", "range": {"gte": 1_000, "lt": 1_600}}]})),
        ("one in fifty", json!({"must": [{"attribute": "colour", "match": "c3"}]})),
        ("two rows", json!({"must": [{"attribute": "number", "any": [17, 4_000]}]})),
        ("none", json!({"must": [{"attribute": "colour", "match": "c99"}]})),
        ("all but a tenth", json!({"must_not": [{"attribute": "number", "range": {"lt": 600}}]})),
    ] {
        let recall = mean_recall(&filter(condition));
        let least = if name == "none" { 0.0 } else { unfiltered - 0.02 };
        assert!(recall >= least, "{name}: {recall}, without a filter {unfiltered}");
    }
}

#[test]
fn recall_is_estimated_from_a_sample_of_rows_within_two_standard_errors() {
    let dir = tempfile::tempdir().unwrap();
    let collection = collection(dir.path());
    let pinned = collection.pin(None, 0);
    let (view, mut scratch, queries) = (pinned.view(), Scratch::default(), vectors(400, 3));
    let even = filter(json!({"must": [{"attribute": "even", "match": true}]}));
    for (filter, nprobe) in [(Filter::default(), 1), (Filter::default(), 4), (even, 2)] {
        let sample = SampledRows::new(ROWS as u64, ROWS as u64 / 8, 5);
        let (mut estimated, mut served_rows, mut missed_rows) = (SampledRecall::default(), 0.0, 0.0);
        for vector in queries.chunks(DIM) {
            let params = SearchParams { nprobe, candidates: 40, ..SearchParams::default() };
            let query = AdQuery { filter: filter.clone(), ..query(vector, 10, params) };
            let served = view.search(&query, &mut scratch).unwrap().hits;
            let missed = sample.missed(&view, &query, &served, &mut scratch).unwrap();
            estimated.add(served.len(), &missed, sample.share());
            // The truth: every row that beats the worst hit and was not served.
            let all = view.search_all(&AdQuery { limit: ROWS, ..query }, &mut scratch).unwrap().hits;
            let worst = served.last().unwrap().rank_score;
            let beaten =
                all.iter().filter(|row| row.rank_score > worst && !served.iter().any(|hit| hit.key == row.key));
            missed_rows += beaten.count() as f64;
            served_rows += served.len() as f64;
        }
        let truth = served_rows / (served_rows + missed_rows);
        let (estimate, error) = estimated.estimate().unwrap();
        assert!((estimate - truth).abs() <= 2.0 * error, "{estimate} +- {error}, truly {truth}");
        assert!(error < 0.05 && truth < 1.0, "{error} {truth}");
    }
}
